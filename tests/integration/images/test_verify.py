#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
# cost: 30
"""Images whose files rot, and images that are removed while pods use them: nexus doctor --images finds every
changed byte and says what to do, which helps; what is removed goes when its last user has gone, whoever died
in between."""
import ctypes
import hashlib
import json
import os
import pathlib
import pty
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "lib"))
import fakenode  # noqa: E402
from cri import pb, unique  # noqa: E402
from ocimage import Image, Layer, Registry  # noqa: E402

NEXUS = fakenode.BUILD / "src/cli/nexus"
SHARED = Layer("none").file("/a", bytes(range(256)) * 1200).file("/etc/passwd", b"root:x:0:0::/:/bin/sh\n")


def own_namespaces():
    """Network and mounts of this process alone, with nexusd, its plugins and the registry in them."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000 | 0x00020000) < 0:  # CLONE_NEWNET, CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Verify(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        own_namespaces()
        cls.registry = Registry().start()
        cls.addClassCleanup(cls.registry.stop)
        cls.one = Image([SHARED, Layer().file("/b", b"b" * 9000)], cmd=["sleep", "infinity"])
        cls.two = Image([SHARED], cmd=["sleep", "infinity"], user="33")
        cls.registry.push("app/one", "1", cls.one)
        cls.registry.push("app/two", "1", cls.two)
        cls.refs = ("registry.test/app/one:1", "registry.test/app/two:1")

    def setUp(self):
        self.node = fakenode.Node(images=None, registries=[("registry.test", f"http://{self.registry.address}")],
                                  own_network=False)
        self.addCleanup(self.node.close)
        self.node.start()
        for ref in self.refs:
            self.pull(ref)
        self.dir = self.node.root / "state/images"

    @property
    def cri(self):
        return self.node.cri

    def pull(self, ref):
        return self.cri.PullImage(image=pb.ImageSpec(image=ref)).image_ref

    def remove(self, *refs):
        for ref in refs:
            self.cri.RemoveImage(image=pb.ImageSpec(image=ref))

    def listed(self):
        return sorted(t for i in self.cri.ListImages().images for t in i.repo_tags)

    def files(self):
        return sorted(str(p.relative_to(self.dir)) for d in ("layers", "meta") for p in (self.dir / d).iterdir())

    def doctor(self, *more, **kw):
        """(exit code of the images alone, their findings)"""
        r = self.node.inside(NEXUS, "doctor", "--config", self.node.root / "nexusd.yaml", "--images", "--output", "json",
                             *more, capture_output=True, text=True, check=False, timeout=120, **kw)
        found = [f for f in json.loads(r.stdout) if f["check"] == "images"]
        if any(f["result"] == "problem" for f in found):
            self.assertEqual(r.returncode, 1)
        return found

    def assert_sound(self):
        (f,) = self.doctor()
        self.assertEqual((f["result"], f["advice"]), ("ok", ""), f)
        return f["text"]

    @staticmethod
    def flip(path, at):
        os.chmod(path, 0o600)
        with open(path, "r+b") as f:
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 0x20]))
        os.chmod(path, 0o400)

    def data_file(self, layer):
        return self.dir / f"layers/{layer}.2.data"

    def pod(self):
        return self.cri.run_pod(unique("pod"), str(self.node.logs))

    def shared_layer(self):
        return hashlib.sha256(SHARED.bytes()[0]).hexdigest()

    def test_sound_images_are_counted_once_each(self):
        text = self.assert_sound()
        self.assertIn("2 images, 2 layers", text)
        total = sum((self.dir / f).stat().st_size for f in self.files())
        self.assertGreater(total, 300_000)

    def test_each_changed_byte_is_found_wherever_it_is(self):
        for name in self.files():
            path = self.dir / name
            size = path.stat().st_size
            for at in sorted({0, size // 2, size - 1} if size else ()):
                with self.subTest(name, at=at):
                    self.flip(path, at)
                    (f,) = self.doctor()
                    self.assertEqual(f["result"], "problem")
                    self.assertIn(name, f["text"])
                    self.assertIn("not what was written", f["text"])
                    self.flip(path, at)
        self.assert_sound()

    def test_a_file_that_is_shorter_or_gone(self):
        path = self.data_file(self.shared_layer())
        content = path.read_bytes()
        os.truncate(path, len(content) - 4096)
        (f,) = self.doctor()
        self.assertIn("another size", f["text"])
        path.unlink()
        (f,) = self.doctor()
        self.assertIn("not there", f["text"])
        path.write_bytes(content)
        self.assert_sound()

    def test_a_damaged_record_is_told_and_left_alone(self):
        record = next((self.dir / "records").glob("*.json"))
        self.flip(record, record.stat().st_size // 2)
        before = record.read_bytes()
        self.assertEqual([f["result"] for f in self.doctor()], ["problem"])
        self.assertEqual(record.read_bytes(), before)
        self.assertFalse((self.dir / "records/damaged").exists())

    def test_all_images_of_a_damaged_layer_are_named_and_the_advice_helps(self):
        path = self.data_file(self.shared_layer())
        good = path.read_bytes()
        self.flip(path, 5000)
        (f,) = self.doctor()
        for ref in self.refs:
            self.assertIn(ref, f["text"])
            self.assertIn(f"nexus pull {ref}", f["advice"])
        self.assertIn(f"nexus rmi {' '.join(self.refs)}", f["advice"].replace(" ".join(reversed(self.refs)), " ".join(self.refs)))
        self.remove(*self.refs)
        self.assertEqual(self.files(), [])
        for ref in self.refs:
            self.pull(ref)
        self.assert_sound()
        self.assertEqual(path.read_bytes(), good)

    def test_the_advice_helps_while_a_pod_uses_the_image(self):
        ctr = self.cri.create(self.pod(), "c", self.refs[0])
        path = self.data_file(self.shared_layer())
        good = path.read_bytes()
        self.flip(path, 5000)
        self.remove(*self.refs)
        self.assertTrue(path.exists(), "the container has it")
        for ref in self.refs:
            self.pull(ref)
        self.assert_sound()
        self.assertEqual(path.read_bytes(), good)
        self.assertEqual(self.listed(), sorted(self.refs))
        self.cri.RemoveContainer(container_id=ctr)
        self.assert_sound()

    def test_without_nexusd_and_without_images(self):
        self.node.stop()
        found = {f["check"]: f["result"] for f in json.loads(self.node.inside(
            NEXUS, "doctor", "--config", self.node.root / "nexusd.yaml", "--images", "--output", "json",
            capture_output=True, text=True, check=False).stdout)}
        self.assertEqual((found["images"], found["server"]), ("ok", "problem"))
        os.rename(self.dir, str(self.dir) + ".away")
        self.assertIn("no image", self.assert_sound())

    def test_a_terminal_shows_how_far_it_is(self):
        main, sub = pty.openpty()
        shown = b""
        r = self.node.inside(NEXUS, "doctor", "--config", self.node.root / "nexusd.yaml", "--images", stdout=subprocess.PIPE,
                             stderr=sub, text=True, check=False)
        os.close(sub)
        while not shown.endswith(b"\r\x1b[K"):  # at the end the line is gone
            shown += os.read(main, 65536)
        os.close(main)
        self.assertIn(b"images: verifying [", shown)
        self.assertIn("as they were written", r.stdout)

    # ---- removed while used

    def wait_for(self, what):
        end = time.monotonic() + 30
        while not what():
            self.assertLess(time.monotonic(), end, self.files())
            time.sleep(0.02)

    def used_bytes(self):
        return self.cri.ImageFsInfo().image_filesystems[0].used_bytes.value

    def test_removal_waits_for_the_last_user_and_nobody_sees_it_meanwhile(self):
        pod = self.pod()
        first = self.cri.create(pod, "c1", self.refs[0])
        second = self.cri.create(pod, "c2", self.refs[0])
        before, used = self.files(), self.used_bytes()
        for _ in range(2):
            self.remove(self.refs[0])
        self.remove(self.one.id)
        self.assertEqual(self.listed(), [self.refs[1]])
        self.assertFalse(self.cri.ImageStatus(image=pb.ImageSpec(image=self.refs[0])).HasField("image"))
        self.assertEqual(self.files(), before)
        self.cri.StartContainer(container_id=second)
        self.assertEqual(self.cri.ContainerStatus(container_id=second).status.image_ref, self.one.id)
        self.node.restart()  # kill -9
        self.assertEqual((self.listed(), self.files()), ([self.refs[1]], before))
        self.cri.RemoveContainer(container_id=first)
        self.assertEqual(self.files(), before)
        self.cri.RemoveContainer(container_id=second)
        self.wait_for(lambda: len(self.files()) == 3)  # the other image's
        self.assertLess(self.used_bytes(), used)
        self.assert_sound()

    def test_a_kill_at_any_step_of_the_removal_leaks_nothing(self):
        for point, while_removing_the_image in (("store.put", True), ("store.delete", False), ("image.purged", False)):
            with self.subTest(point):
                for ref in self.refs:
                    self.pull(ref)
                pod = self.pod()
                ctr = self.cri.create(pod, "c", self.refs[0])
                if not while_removing_the_image:
                    self.remove(self.refs[0])
                self.node.restart(f"{point}=kill")
                try:
                    if while_removing_the_image:
                        self.remove(self.refs[0])
                    self.cri.RemoveContainer(container_id=ctr)
                    self.assertEqual(point, "image.purged")  # nobody waits for the files to go
                except fakenode.grpc.RpcError:
                    pass
                self.assertEqual(self.node.died(), -9)
                self.node.restart()
                self.remove(self.refs[0])  # success in any case
                self.assertEqual(self.listed(), [self.refs[1]])
                self.cri.RemoveContainer(container_id=ctr)
                self.cri.remove_pod(pod[0])
                self.wait_for(lambda: len(self.files()) == 3)  # the other image's
                self.assert_sound()


if __name__ == "__main__":
    unittest.main()
