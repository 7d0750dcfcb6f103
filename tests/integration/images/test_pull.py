# SPDX-License-Identifier: Apache-2.0
# cost: 10
"""nexus-pull against a real registry on loopback: forms of images, what is downloaded twice, restarts."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2] / "lib")]
import imagelib  # noqa: E402
from ocimage import Image, Layer, Registry, busybox_image  # noqa: E402


class Pull(unittest.TestCase):
    program = imagelib.PULL

    @classmethod
    def setUpClass(cls):
        cls.registry = Registry().start()
        cls.url = f"http://{cls.registry.address}"

    @classmethod
    def tearDownClass(cls):
        cls.registry.stop()

    def setUp(self):
        self.store = imagelib.Store(program=self.program)
        self.addCleanup(self.store.close)

    def pull(self, ref, **kw):
        o = self.store.pull(ref, self.url, **kw)
        self.assertEqual(o.code, 0 if o.image else 1)
        self.assertEqual(self.store.leftovers(), [])
        return o

    def good(self, ref, **kw):
        o = self.pull(ref, **kw)
        self.assertIsNone(o.error)
        return o

    def test_every_media_type_and_compression_gives_the_same_tree(self):
        trees = []
        for schema in ("oci", "docker"):
            for compression in ("gzip", "zstd", "none"):
                with self.subTest(schema=schema, compression=compression):
                    image = Image([Layer(compression).file("/etc/a", b"hello" * 3000).symlink("/b", "etc/a")], schema=schema)
                    ref = self.registry.push(f"forms/{schema}", compression, image)
                    o = self.good(ref)
                    self.assertEqual(o.image["id"], image.id)
                    self.assertEqual(o.image["digest"], image.digest)
                    tree, content = self.store.read(o.image)
                    self.assertEqual(content(b"etc/a"), b"hello" * 3000)
                    trees.append(sorted((p, i.mode, i.size, i.mtime_ns) for p, i in tree.items()))
        self.assertEqual(len({str(t) for t in trees}), 1)

    def test_a_whole_image_is_what_fsck_and_our_reader_read(self):
        image = busybox_image([Layer("zstd").file("/www/index.html", b"hi")], cmd=["/bin/sh"], env=["A=b"], user="1:2",
                              workdir="/w", stop_signal="SIGINT", entrypoint=["/e"])
        o = self.good(self.registry.push("demo/web", "latest", image))
        self.assertEqual(o.image["process"]["cmd"], ["/bin/sh"])
        self.assertEqual(o.image["process"]["entrypoint"], ["/e"])
        self.assertIn("A=b", o.image["process"]["env"])
        self.assertEqual((o.image["process"]["user"], o.image["process"]["working_dir"],
                          o.image["process"]["stop_signal"]), ("1:2", "/w", "SIGINT"))
        tree, content = self.store.read(o.image)
        self.assertEqual(content(b"www/index.html"), b"hi")
        self.assertEqual(tree[b"bin/sh"].nid, tree[b"bin/ls"].nid)
        code, text = imagelib.fsck(self.store.root / "composed")
        self.assertEqual(code, 0, text)
        for f in self.store.files():
            self.assertTrue(f.endswith((".2.data", ".2.index", ".2.erofs")), f)
        for p in [*(self.store.root / "layers").iterdir(), *(self.store.root / "meta").iterdir()]:
            self.assertEqual(p.stat().st_mode & 0o777, 0o400, "immutable")

    def test_the_index_entry_of_our_platform_is_taken(self):
        ours = Image([Layer().file("/arch", b"amd64")])
        other = Image([Layer().file("/arch", b"arm64")], arch="arm64")
        ref = self.registry.push_index("multi", "latest", [(other, "arm64"), (ours, "amd64")])
        o = self.good(ref)
        self.assertEqual(o.image["id"], ours.id)
        self.assertNotEqual(o.image["digest"], ours.digest, "the digest is the index's")
        self.assertEqual(self.good(ref, architecture="arm64").image["id"], other.id)
        self.assertEqual(self.pull(ref, architecture="riscv64").error["class"], "unsupported")
        self.registry.push("wrong-arch", "latest", other)
        self.assertEqual(self.pull(f"{self.registry.address}/wrong-arch").error["class"], "unsupported")

    def test_a_digest_names_exactly_one_image(self):
        image = Image([Layer().file("/x", b"1")])
        self.registry.push("by-digest", "latest", image)
        o = self.good(f"{self.registry.address}/by-digest@{image.digest}")
        self.assertEqual(o.image["id"], image.id)
        o = self.pull(f"{self.registry.address}/by-digest@sha256:" + "0" * 64)
        self.assertEqual(o.error["class"], "not-found")

    def test_what_is_there_is_not_fetched_again_but_the_registry_is_asked(self):
        base, top = Layer().file("/base", b"b" * 100000), Layer().file("/top", b"1")
        image = Image([base, top])
        ref = self.registry.push("again", "1", image)
        self.assertEqual(len(self.good(ref).layers("done")), 2)
        o = self.good(ref)
        self.assertEqual((len(o.layers("exists")), o.layers("start")), (2, []))
        second = Image([Layer().file("/base", b"b" * 100000), Layer().file("/top", b"2")])
        o = self.good(self.registry.push("again", "2", second))
        self.assertEqual((len(o.layers("exists")), len(o.layers("done"))), (1, 1))
        self.assertEqual(self.pull(f"{self.registry.address}/again:3").error["class"], "not-found")
        self.assertEqual(self.pull(f"{self.registry.address}/never").error["class"], "not-found")

    def test_a_damaged_layer_is_fetched_again(self):
        image = Image([Layer().file("/a", b"a" * 10000)])
        ref = self.registry.push("damaged", "latest", image)
        o = self.good(ref)
        data = self.store.segments(o.image)[1]
        index = data.with_name(data.name.replace(".data", ".index"))
        for damage in (lambda: os.truncate(data, 4096), lambda: os.truncate(index, 100), lambda: index.unlink(),
                       lambda: data.unlink(), lambda: flip(index, 140)):
            for p in (data, index):
                os.chmod(p, 0o600)
            damage()
            self.assertEqual(len(self.good(ref).layers("done")), 1)
            _, content = self.store.read(o.image)
            self.assertEqual(content(b"a"), b"a" * 10000)

    def test_the_same_layer_twice_and_layers_without_data(self):
        def empty():
            return Layer().dir("/d")

        image = Image([empty(), Layer().file("/a", b"x"), empty(), Layer().file("/a", b"x")])
        o = self.good(self.registry.push("twice", "latest", image))
        self.assertEqual(len(o.layers("done")), 2)
        tree, content = self.store.read(o.image)
        self.assertEqual(sorted(tree), [b"", b"a", b"d"])
        self.assertEqual(content(b"a"), b"x")

    def test_an_image_without_layers_is_an_empty_tree(self):
        o = self.good(self.registry.push("scratch", "latest", Image([], cmd=["/x"])))
        tree, _ = self.store.read(o.image)
        self.assertEqual(list(tree), [b""])
        self.assertEqual(tree[b""].mode, 0o40755)

    def test_many_layers(self):
        layers = [Layer().file(f"/f{n}", b"%d" % n) for n in range(127)]
        o = self.good(self.registry.push("many", "127", Image(layers)))
        tree, content = self.store.read(o.image)
        self.assertEqual(len(tree), 128)
        self.assertEqual(content(b"f126"), b"126")
        layers = [Layer().file(f"/f{n}", b"%d" % n) for n in range(128)]
        o = self.pull(self.registry.push("many", "128", Image(layers)))
        self.assertEqual(o.error["class"], "exhausted")

    def test_plain_http_only_where_configured(self):
        o = self.store.pull(f"{self.registry.address}/x", f"https://{self.registry.address}")
        self.assertEqual(o.error["class"], "unavailable")
        self.assertTrue(o.error["message"].startswith("RegistryUnavailable"), o.error)

    def test_mirrors_are_asked_in_order_and_the_name_stays(self):
        image = Image([Layer().file("/m", b"1")])
        self.registry.push("k8s/x", "latest", image)
        dead = "http://127.0.0.1:1"
        o = self.store.pull("registry.k8s.io/k8s/x", endpoints=[{"url": dead}, {"url": self.url}])
        self.assertEqual(o.image["id"], image.id)
        o = self.store.pull("registry.k8s.io/k8s/none", endpoints=[{"url": self.url}, {"url": dead}])
        self.assertEqual(o.error["class"], "unavailable", "the mirror lacks it, and the last word is not heard")
        o = self.store.pull("registry.k8s.io/k8s/none", endpoints=[{"url": self.url}])
        self.assertEqual(o.error["class"], "not-found")

    def test_killed_at_any_point_the_next_pull_succeeds(self):
        image = Image([Layer("none").file(f"/f{n}", bytes([n]) * 3_000_000) for n in range(4)])
        ref = self.registry.push("killed", "latest", image)
        for point in ("pull.publish=kill", "pull.publish=2*kill", "pull.publish=4*kill", "pull.publish=8*kill",
                      "pull.publish=9*kill", "pull.layers=kill"):
            with self.subTest(point=point):
                shutil.rmtree(self.store.root / "layers", ignore_errors=True)
                p = self.store.start(ref, self.url, env={"NEXUS_FAILPOINTS": point})
                p.communicate(timeout=60)
                self.assertEqual(p.returncode, -signal.SIGKILL)
                for t in self.store.root.glob("*/.tmp*"):
                    t.unlink()  # nexusd sweeps them
                o = self.good(ref)
                _, content = self.store.read(o.image)
                for n in range(4):
                    self.assertEqual(content(b"f%d" % n), bytes([n]) * 3_000_000)

    def test_a_converter_that_dies_is_an_error(self):
        image = Image([Layer("none").file(f"/f{n}", bytes([n]) * 3_000_000) for n in range(4)])
        ref = self.registry.push("dies", "latest", image)
        for point in ("pull.data.write=kill", "pull.data.write=3*kill"):
            with self.subTest(point=point):
                shutil.rmtree(self.store.root / "layers", ignore_errors=True)
                o = self.pull(ref, env={"NEXUS_FAILPOINTS": point})
                self.assertEqual(o.error["class"], "internal")
                self.assertIn("converter died", o.error["message"])
        self.good(ref)

    def test_a_full_disk_is_told_as_such_and_leaves_nothing(self):
        image = Image([Layer("none").file("/f", b"x" * 100_000)])
        ref = self.registry.push("full", "latest", image)
        for point in ("pull.data.write=error(ENOSPC)", "pull.publish=error(ENOSPC)", "pull.publish=3*error(ENOSPC)"):
            with self.subTest(point=point):
                shutil.rmtree(self.store.root / "layers", ignore_errors=True)
                o = self.pull(ref, env={"NEXUS_FAILPOINTS": point})
                self.assertEqual(o.error["class"], "exhausted")
        self.good(ref)

    def test_skopeo_agrees_on_digests(self):
        image = busybox_image()
        self.registry.push("agree", "latest", image)
        with tempfile.TemporaryDirectory() as tmp:
            subprocess.run(["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "-q",
                            f"docker://{self.registry.address}/agree", f"oci:{tmp}/layout:latest"], check=True)
            o = self.store.pull("agree", layout=f"{tmp}/layout")
        self.assertIsNone(o.error)
        self.assertEqual(o.image["id"], image.id)
        self.assertEqual(o.image["digest"], image.digest)

    def test_sixty_thousand_files_in_one_directory(self):
        t = imagelib.Tar()
        for n in range(65536):
            t.add(f"d/{n:05d}", mode=0o600)
        raw = t.bytes()
        with tempfile.TemporaryDirectory() as tmp:
            o = self.store.pull("x", layout=imagelib.layout(tmp, [(raw, None)]))
        self.assertIsNone(o.error)
        tree, _ = self.store.read(o.image)
        self.assertEqual(len(tree), 65536 + 2)
        code, text = imagelib.fsck(self.store.root / "composed")
        self.assertEqual(code, 0, text)


if imagelib.SANITIZED.exists():  # tests/run builds it
    class PullWithSanitizers(Pull):
        """The same of the build with ASan and UBSan, which finds what a good result hides."""
        program = imagelib.SANITIZED


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


if __name__ == "__main__":
    unittest.main()
