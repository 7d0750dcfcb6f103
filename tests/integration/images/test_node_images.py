# SPDX-License-Identifier: Apache-2.0
# needs: root
# cost: 20
"""The images of a running nexusd, over CRI: names, removal, crashes in every write of a pull, cancellation, a full
disk, damaged records. No pod is run."""
import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

import grpc

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2] / "lib")]
import imagelib  # noqa: E402
from node import Node  # noqa: E402
from ocimage import Image, Layer, Registry  # noqa: E402


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError("it never came")
        time.sleep(0.02)


class NodeImages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.registry = Registry().start()
        cls.evil = subprocess.Popen(["/usr/bin/python3", imagelib.ROOT / "tests/fakes/registry-evil.py"],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        cls.evil_address = cls.evil.stdout.readline().split()[0]
        cls.image = Image([Layer("none").file("/a", b"a" * 50_000), Layer().file("/b", b"b")], user="33:33")
        cls.ref = cls.registry.push("k8s/app", "1", cls.image)
        cls.registry.push("k8s/app", "2", cls.image)
        cls.other = cls.registry.push("k8s/other", "latest", Image([Layer("none").file("/a", b"a" * 50_000)], user="www-data"))

    @classmethod
    def tearDownClass(cls):
        cls.registry.stop()
        cls.evil.stdin.close()
        cls.evil.wait()
        cls.evil.stdout.close()

    def node(self, **kw):
        n = Node(mirrors={"registry.k8s.io": [f"http://{self.registry.address}"]},
                 insecure=[self.registry.address, self.evil_address], conflist=None, fake_vmm=True, **kw)
        self.addCleanup(n.close)
        return n

    def started(self, **kw):
        return self.node(**kw).start()

    @staticmethod
    def pull(node, ref, timeout=60, **kw):
        return node.cri.PullImage(image={"image": ref}, timeout=timeout, **kw).image_ref

    @staticmethod
    def status(node, ref):
        r = node.cri.ImageStatus(image={"image": ref})
        return r.image if r.HasField("image") else None

    @staticmethod
    def remove(node, ref):
        node.cri.RemoveImage(image={"image": ref})

    def files(self, node):
        return sorted(p.name for d in ("layers", "meta") for p in (node.state / "images" / d).iterdir())

    def test_names_of_an_image(self):
        node = self.started()
        self.assertEqual(self.pull(node, "registry.k8s.io/k8s/app:1"), self.image.id)
        self.assertEqual(self.pull(node, "registry.k8s.io/k8s/app:2"), self.image.id)
        self.assertEqual(self.pull(node, f"registry.k8s.io/k8s/app@{self.image.digest}"), self.image.id)
        (image,) = node.cri.ListImages().images
        self.assertEqual(sorted(image.repo_tags), ["registry.k8s.io/k8s/app:1", "registry.k8s.io/k8s/app:2"])
        self.assertEqual(list(image.repo_digests), [f"registry.k8s.io/k8s/app@{self.image.digest}"])
        self.assertEqual((image.uid.value, image.username), (33, ""))
        for form in ("registry.k8s.io/k8s/app:1", self.image.id, self.image.id[7:],
                     f"registry.k8s.io/k8s/app@{self.image.digest}", f"registry.k8s.io/k8s/app:9@{self.image.digest}"):
            self.assertEqual(self.status(node, form).id, self.image.id, form)
        for form in ("registry.k8s.io/k8s/app", "k8s/app:1", "sha256:" + "0" * 64):
            self.assertIsNone(self.status(node, form), form)
        self.pull(node, self.other)
        self.assertEqual(self.status(node, self.other).username, "www-data")
        self.assertEqual(len(node.cri.ListImages().images), 2)
        self.assertEqual(len(node.cri.ListImages(filter={"image": {"image": self.other}}).images), 1)

    @unittest.skipUnless(imagelib.SANITIZED.exists(), "make asan builds it")
    def test_a_build_with_sanitizers_pulls_like_any_other(self):
        """nexusd and its nexus-pull, which must end clean: a leak is an exit code."""
        node = self.started(build=imagelib.SANITIZED.parents[2])
        self.assertEqual(self.pull(node, "registry.k8s.io/k8s/app:1"), self.image.id)
        self.pull(node, self.other)
        self.assertEqual(len(node.cri.ListImages().images), 2)
        with self.assertRaises(grpc.RpcError):
            self.pull(node, f"{self.evil_address}/wrong-bytes:1")
        node.proc.send_signal(signal.SIGTERM)
        self.assertEqual(node.proc.wait(60), 0)

    def test_removal(self):
        node = self.started()
        self.pull(node, "registry.k8s.io/k8s/app:1")
        self.pull(node, "registry.k8s.io/k8s/app:2")
        self.pull(node, self.other)
        before = node.cri.ImageFsInfo().image_filesystems[0]
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda _: self.remove(node, "registry.k8s.io/k8s/app:2"), range(5)))
        self.assertIsNone(self.status(node, "registry.k8s.io/k8s/app:1"))
        self.assertIsNone(self.status(node, self.image.id))
        after = node.cri.ImageFsInfo().image_filesystems[0]
        self.assertLess(after.used_bytes.value, before.used_bytes.value)
        self.assertLess(after.inodes_used.value, before.inodes_used.value)
        self.assertTrue(os.path.isdir(after.fs_id.mountpoint))
        self.assertEqual(len(self.files(node)), 3, "the other image has its layer still")
        self.remove(node, self.other)
        self.assertEqual(self.files(node), [])

    def test_errors_have_the_right_status(self):
        node = self.started()
        for ref, code, word in ((f"{self.registry.address}/k8s/app:none", grpc.StatusCode.NOT_FOUND, ""),
                                ("Bad/Name", grpc.StatusCode.INVALID_ARGUMENT, ""),
                                ("127.0.0.1:1/x", grpc.StatusCode.UNAVAILABLE, "RegistryUnavailable"),
                                (f"{self.evil_address}/auth-basic", grpc.StatusCode.PERMISSION_DENIED, ""),
                                (f"{self.evil_address}/wrong-bytes", grpc.StatusCode.INVALID_ARGUMENT, "digest"),
                                (f"{self.evil_address}/bomb", grpc.StatusCode.RESOURCE_EXHAUSTED, "")):
            with self.subTest(ref=ref):
                with self.assertRaises(grpc.RpcError) as e:
                    self.pull(node, ref)
                self.assertEqual(e.exception.code(), code, e.exception.details())
                self.assertTrue(e.exception.details().startswith(word) or word in e.exception.details(),
                                e.exception.details())
        self.assertEqual(len(node.cri.ListImages().images), 0)

    def test_killed_in_every_write_of_a_pull(self):
        node = self.node()
        points = [f"{n}*kill" for n in range(1, 4)]
        died = 0
        names = ("image.add", "store.put", "file.write.open", "file.write.data", "file.write.rename")
        for name in names:
            for action in ("kill", *points):
                spec = f"{name}={action}"
                with self.subTest(point=spec):
                    node.start(env={"NEXUS_FAILPOINTS": spec}, wait=False)
                    try:
                        node.wait_ready()
                        self.pull(node, "registry.k8s.io/k8s/app:1")
                    except (grpc.RpcError, RuntimeError):
                        self.assertEqual(node.wait_dead(10), -signal.SIGKILL)
                        died += 1
                    else:
                        node.kill9()
                    node.start()
                    image = self.status(node, "registry.k8s.io/k8s/app:1")
                    self.assertEqual(self.pull(node, "registry.k8s.io/k8s/app:1"), self.image.id)
                    if image:
                        self.assertEqual(image.id, self.image.id)
                    self.assertEqual(len(self.files(node)), 5)
                    self.assertEqual([p.name for p in (node.state / "images/records").iterdir() if ".tmp" in p.name], [])
                    self.remove(node, self.image.id)
                    self.assertEqual(self.files(node), [])
                    node.stop()
        self.assertGreater(died, 5, "the failpoints are still where they were")

    def slow_pull(self, node):
        call = node.cri.PullImage(image={"image": f"{self.evil_address}/slow"}, timeout=100, future=True)
        wait_for(lambda: [n for n in self.files(node) if n.startswith(".tmp")])
        return call

    def test_a_cancelled_pull_leaves_nothing(self):
        node = self.started()
        call = self.slow_pull(node)
        self.assertEqual(len(node.processes()), 4, "nexus-pull and its three converters")
        node.cri.Version(version="", timeout=5)  # nothing waits for a pull
        call.cancel()
        wait_for(lambda: not node.processes() and not self.files(node))

    def test_a_pull_does_not_outlive_nexusd(self):
        node = self.started()
        self.slow_pull(node)
        node.kill9()
        wait_for(lambda: not node.processes())
        self.assertNotEqual(self.files(node), [])
        node.start()
        self.assertEqual(self.files(node), [])

    def test_a_pull_process_that_dies_is_an_error_of_that_call_only(self):
        node = self.started()
        call = self.slow_pull(node)
        other = node.cri.PullImage(image={"image": self.other}, timeout=60, future=True)
        self.assertTrue(other.result().image_ref)
        for pid in node.processes():
            os.kill(pid, signal.SIGKILL)
        with self.assertRaises(grpc.RpcError) as e:
            call.result()
        self.assertEqual(e.exception.code(), grpc.StatusCode.INTERNAL)
        self.assertEqual(len(node.cri.ListImages().images), 1)

    def test_damaged_records_are_set_aside(self):
        node = self.started()
        self.pull(node, "registry.k8s.io/k8s/app:1")
        self.pull(node, self.other)
        node.stop()
        record = node.state / "images/records" / (self.image.id[7:] + ".json")
        record.write_text(record.read_text().replace("app:1", "app:7"))
        node.start()
        self.assertIn("set aside", node.log_tail())
        self.assertEqual([list(i.repo_tags) for i in node.cri.ListImages().images], [[self.other]])
        self.assertEqual(self.pull(node, "registry.k8s.io/k8s/app:1"), self.image.id)

    def test_a_full_disk(self):
        big = self.registry.push("k8s/big", "latest", Image([Layer("none").file("/x", os.urandom(40_000_000))]))
        node = self.node()
        images = node.state / "images"
        images.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", images], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", images], check=False)
        node.start()
        self.pull(node, self.other)
        with self.assertRaises(grpc.RpcError) as e:
            self.pull(node, big)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, e.exception.details())
        wait_for(lambda: len(self.files(node)) == 3)
        self.assertEqual(len(node.cri.ListImages().images), 1)
        subprocess.run(["fallocate", "-l", str(os.statvfs(images).f_bavail * 4096), images / "filler"], check=True)
        self.assertEqual(os.statvfs(images).f_bavail, 0)
        with self.assertRaises(grpc.RpcError) as e:
            self.pull(node, self.ref)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, e.exception.details())
        self.remove(node, self.other)
        self.assertEqual(len(node.cri.ListImages().images), 0)
        (images / "filler").unlink()
        self.pull(node, self.ref)


if __name__ == "__main__":
    unittest.main()
