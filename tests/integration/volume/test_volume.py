# SPDX-License-Identifier: Apache-2.0
"""Volumes of kubelet's writer become regions: composed into a file as a virtual machine would see them, read by
fsck.erofs, dump.erofs and a reader of our own, and compared with what lstat and read say of the source."""
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
import erofs_reader  # noqa: E402
from atomic_writer import STEPS, AtomicWriter, kubelet_volume  # noqa: E402

DRIVER = ROOT / os.environ.get("NEXUS_BUILD", "build/host") / "tests/integration/volume-driver"


def driver(*args, check=True):
    r = subprocess.run([DRIVER, *map(os.fspath, args)], capture_output=True, check=False, timeout=60)
    if check:
        assert r.returncode == 0, r.stderr.decode(errors="replace")
    return r


def visible(path):
    """{path: lstat} of a volume as a container sees it, without generations that are not in force."""
    out, top = {b"": os.lstat(path)}, os.fsencode(path)
    link = os.path.join(path, "..data")
    current = os.fsencode(os.readlink(link)) if os.path.islink(link) else b""
    for base, dirs, files in os.walk(top):
        if base == top and current:
            dirs[:] = [d for d in dirs if not d.startswith(b"..") or d in (current, b"..data")]
        for name in dirs + files:
            full = os.path.join(base, name)
            out[os.path.relpath(full, top)] = os.lstat(full)
    return out


class Volume(unittest.TestCase):
    def setUp(self):
        self.tmp = pathlib.Path(tempfile.mkdtemp(prefix="nexus-volume-", dir=self.where()))
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)
        self.out = self.tmp / "region"

    def where(self):
        return None

    def volume(self, name="s", plugin="secret"):
        return kubelet_volume(self.tmp / "kubelet", "uid", plugin, name)

    def compose(self, *parts, data="map"):
        """(tree by our reader, image bytes); the other readers agree that it is sound."""
        lines = driver("compose", data, self.out, *parts).stdout.split(b"\0")[:-1]
        pages, inodes, pieces = map(int, lines[0].split())
        image = self.out.read_bytes()
        self.assertEqual(len(image), pages * 4096)
        self.assertEqual(len(lines), 1 + pieces)
        fsck = subprocess.run(["fsck.erofs", self.out], capture_output=True, text=True, check=False)
        self.assertEqual(fsck.returncode, 0, fsck.stdout + fsck.stderr)
        dump = subprocess.run(["dump.erofs", "-s", self.out], capture_output=True, text=True, check=True).stdout
        self.assertRegex(dump, rf"inode count:\s+{inodes}\b")
        tree = erofs_reader.Image(image).tree()
        self.extract()
        self.check_tails(image, lines[1:])
        return tree, image

    def extract(self):
        """What erofs-utils unpacks, in self.unpacked."""
        self.unpacked = self.tmp / "unpacked"
        shutil.rmtree(self.unpacked, ignore_errors=True)
        r = subprocess.run(["fsck.erofs", f"--extract={self.unpacked}", "--preserve-perms", self.out], capture_output=True,
                           text=True, check=False)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)

    def check_tails(self, image, pieces):
        at = 0
        for line in pieces:
            size, pages, _ = line.split(b" ", 2)
            at += int(pages) * 4096
            tail = image[at - int(pages) * 4096 + int(size):at]
            self.assertEqual(tail.count(0), len(tail), "zeros behind the end of a file")
        self.assertEqual(at, len(image))

    def compare(self, tree, image, name, source):
        want = visible(source)
        name = name.encode()
        have = {p: i for p, i in tree.items() if p == name or p.startswith(name + b"/")}
        self.assertEqual(sorted(have), sorted(name + (b"/" + p if p else b"") for p in want))
        for path, st in want.items():
            inode = have[name + (b"/" + path if path else b"")]
            full = os.path.join(os.fsencode(source), path) if path else os.fsencode(source)
            self.assertEqual((oct(inode.mode), inode.uid, inode.gid, inode.mtime_ns),
                             (oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns), path)
            if stat.S_ISLNK(st.st_mode):
                self.assertEqual(inode.data(image), os.readlink(full))
            elif stat.S_ISREG(st.st_mode):
                with open(full, "rb") as f:
                    self.assertEqual(inode.data(image), f.read(), path)
            self.compare_unpacked(os.path.join(os.fsencode(self.unpacked), name, path).rstrip(b"/"), full, st)

    def compare_unpacked(self, path, full, st):
        found = os.lstat(path)
        self.assertEqual(oct(found.st_mode), oct(st.st_mode), path)
        if stat.S_ISLNK(st.st_mode):
            self.assertEqual(os.readlink(path), os.readlink(full))
        elif stat.S_ISREG(st.st_mode):
            with open(path, "rb") as a, open(full, "rb") as b:
                self.assertEqual(a.read(), b.read(), path)

    def both(self, *parts):
        """Mapped and copied; compared with the sources of all parts."""
        for data in ("map", "copy"):
            tree, image = self.compose(*parts, data=data)
            for part in parts:
                name, _, source = part.partition("=" if "=" in part else ":")
                self.compare(tree, image, name, source)
        return tree, image


class Contents(Volume):
    def test_sizes_modes_and_bytes(self):
        v = self.volume()
        w = AtomicWriter(v)
        binary = bytes(range(256)) * 4096
        w.write({"one": (b"x", 0o400), "empty": (b"", 0o644), "page": (b"p" * 4096, 0o640), "page1": (b"q" * 4097, 0o604),
                 "page-1": (b"r" * 4095, 0o777), "mib": (binary, 0o644), "nul": (b"a\0b\xff\n", 0o600)})
        self.both(f"s={v}")

    def test_nested_names_and_odd_ones(self):
        v = self.volume(plugin="projected")
        AtomicWriter(v).write({"a/b/c/d": (b"deep", 0o444), "a/b2": (b"x", 0o444), "n" * 253: (b"long", 0o444),
                               ".wh.not-a-whiteout": (b"x", 0o444), ".wh..wh..opq": (b"y", 0o444), "dir/.wh.b": (b"z", 0o444),
                               "dir/...": (b"dots", 0o444), "sp ace\n": (b"x", 0o444)})
        tree, _ = self.both(f"p={v}")
        self.assertTrue(any(p.endswith(b"/.wh.not-a-whiteout") for p in tree))

    def test_owners(self):
        if os.getuid() != 0:
            self.skipTest("chown needs root")
        v = self.volume()

        def fs_group(path):
            for base, dirs, files in os.walk(path):
                for name in dirs + files + ["."]:
                    os.chown(os.path.join(base, name), 1000 if name == "k" else 0, 4294967294, follow_symlinks=False)

        AtomicWriter(v, chown=fs_group).write({"k": (b"1", 0o440), "d/e": (b"2", 0o440)})
        tree, _ = self.both(f"s={v}")
        self.assertIn(4294967294, {i.gid for i in tree.values()})

    def test_twenty_volumes_in_one_region(self):
        parts = []
        for i in range(20):
            v = self.volume(f"v{i}", ("secret", "configmap", "projected", "downward-api")[i % 4])
            AtomicWriter(v).write({f"key{k}": (b"%d %d" % (i, k), 0o644) for k in range(i)})
            parts.append(f"vol{i:02}={v}")
        tree, _ = self.both(*parts)
        self.assertEqual(sorted(p for p in tree if p and b"/" not in p), [b"vol%02d" % i for i in range(20)])

    def test_single_file_and_directory_of_a_volume(self):
        v = self.volume()
        w = AtomicWriter(v)
        w.write({"d/e": (b"in a directory", 0o644), "k": (b"alone", 0o600)})
        self.both(f"file:{w.data_dir()}/k", f"dir:{w.data_dir()}/d")

    def test_symlinks_stay_as_they_are(self):
        v = self.volume()
        w = AtomicWriter(v)
        w.write({"k": (b"x", 0o644)})
        for name, target in (("out", "/etc/shadow"), ("up", "../../../.."), ("loop", "loop"), ("long", "x/" * 500 + "y")):
            os.symlink(target, os.path.join(v, name))
        tree, image = self.both(f"s={v}")
        self.assertEqual(tree[b"s/out"].data(image), b"/etc/shadow")
        self.assertNotIn(b"root:", image)

    def test_hard_links_share_their_pages(self):
        (self.tmp / "v").mkdir()
        (self.tmp / "v/a").write_bytes(b"shared" * 1000)
        os.link(self.tmp / "v/a", self.tmp / "v/b")
        tree, _ = self.both(f"v:{self.tmp}/v")
        self.assertEqual(tree[b"v/a"].nid, tree[b"v/b"].nid)
        self.assertEqual(tree[b"v/a"].nlink, 2)

    def test_xattrs(self):
        (self.tmp / "v").mkdir()
        (self.tmp / "v/a").write_bytes(b"x")
        try:
            os.setxattr(self.tmp / "v/a", "user.note", b"\0\xffvalue")
        except OSError:
            self.skipTest("no xattrs here")
        tree, _ = self.both(f"v:{self.tmp}/v")
        self.assertEqual(tree[b"v/a"].xattrs, {"user.note": b"\0\xffvalue"})

    def test_every_death_of_the_writer(self):
        """Whatever step kubelet dies before: what is read is one generation, and the next write heals."""
        for step in STEPS[:-1]:
            with self.subTest(step):
                v = self.volume(f"dies-{step}")
                AtomicWriter(v).write({"a": (b"old", 0o644), "b": (b"old", 0o644)})

                def die(now, step=step):
                    if now == step:
                        raise InterruptedError

                with self.assertRaises(InterruptedError):
                    AtomicWriter(v, hook=die).write({"a": (b"new", 0o644), "c": (b"new", 0o644)})
                tree, image = self.compose(f"s={v}")
                self.compare(tree, image, "s", v)
                texts = {i.data(image) for i in tree.values() if stat.S_ISREG(i.mode)}
                self.assertEqual(texts, {b"new" if STEPS.index(step) > STEPS.index("rename") else b"old"})


class OnTmpfs(Contents):
    def where(self):
        return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

    def test_four_thousand_files(self):
        v = self.volume()
        AtomicWriter(v).write({f"{'k' * 249}{i:04}": (b"%d" % i, 0o644) for i in range(4000)})
        tree, image = self.compose(f"s={v}")
        self.compare(tree, image, "s", v)
        self.assertEqual(len(tree), 2 + 4000 * 2 + 2)


class Refused(Volume):
    def refuse(self, words, *parts):
        r = driver("compose", "map", self.out, *parts, check=False)
        self.assertEqual(r.returncode, 1)
        self.assertIn(words, r.stderr)
        self.assertFalse(self.out.exists())

    def test_what_a_volume_may_not_have(self):
        v = self.volume()
        w = AtomicWriter(v)
        w.write({"k": (b"x", 0o644)})
        os.mkfifo(os.path.join(w.data_dir(), "pipe"))
        self.refuse(b"pipe: it is a FIFO", f"s={v}")

    def test_too_many_files(self):
        v = self.volume()
        AtomicWriter(v).write({f"k{i}": (b"", 0o644) for i in range(4095)})
        self.refuse(b"exhausted: ", f"s={v}")

    def test_too_deep_and_too_large(self):
        v = self.volume()
        w = AtomicWriter(v)
        w.write({"/".join("d" * 17): (b"x", 0o644)})
        self.refuse(b"nested", f"s={v}")
        w.write({"big": (b"", 0o644)})
        os.truncate(os.path.join(w.data_dir(), "big"), (64 << 20) + 1)
        self.refuse(b"more bytes in files", f"s={v}")


class Find(Volume):
    def find(self, path, *listed):
        return driver("find", self.tmp / "kubelet", path, *listed).stdout.decode().split(" ")[:4]

    def test_kinds(self):
        for plugin in ("secret", "configmap", "projected", "downward-api"):
            v = self.volume("v-" + plugin, plugin)
            AtomicWriter(v).write({"k": (b"x", 0o644)})
            self.assertEqual(self.find(v), ["1", plugin, "1", "0"])
            self.assertEqual(self.find(v + "/k"), ["1", plugin, "0", "1"])
        self.assertEqual(self.find(self.volume("e", "empty-dir")), ["0", "other", "0", "0"])
        self.assertEqual(self.find("/etc"), ["0", "other", "0", "0"])
        own = self.tmp / "own"
        own.mkdir()
        AtomicWriter(own).write({"k": (b"x", 0o644)})
        self.assertEqual(self.find(own), ["0", "other", "0", "0"])
        self.assertEqual(self.find(own, self.tmp), ["1", "content", "1", "0"])

    def test_kubelets_root_may_be_a_symlink(self):
        v = self.volume()
        AtomicWriter(v).write({"k": (b"x", 0o644)})
        os.rename(self.tmp / "kubelet", self.tmp / "real")
        os.symlink("real", self.tmp / "kubelet")
        self.assertEqual(self.find(v), ["1", "secret", "1", "0"])


class Watched:
    """volume-driver watch, talked to line by line."""

    def __init__(self, root, path):
        self.p = subprocess.Popen([DRIVER, "watch", root, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def line(self):
        return self.p.stdout.readline().decode().rstrip("\n")

    def rearm(self):
        self.p.stdin.write(b"rearm\n")
        return self.line()

    def close(self):
        self.p.stdin.close()
        self.p.wait(timeout=20)
        self.p.stdout.close()


class Live(Volume):
    def setUp(self):
        super().setUp()
        self.v = self.volume()
        self.w = AtomicWriter(self.v)
        self.w.write({"k": (b"0", 0o644)})
        self.watched = Watched(self.tmp / "kubelet", self.v)
        self.addCleanup(self.watched.close)
        self.assertEqual(self.watched.line(), f"have {os.path.basename(self.w.data_dir())} settled 1")

    def generation(self):
        return os.path.basename(self.w.data_dir())

    def test_every_generation_is_reached(self):
        for i in range(1, 200):
            self.w.write({"k": (b"%d" % i, 0o644), f"n{i}": (b"", 0o644)})
            self.assertEqual(self.watched.line(), "changed ")
            self.assertEqual(self.watched.rearm(), f"have {self.generation()} settled 1")

    def test_a_process_that_slept_learns_the_last_one(self):
        os.kill(self.watched.p.pid, signal.SIGSTOP)
        for i in range(1, 50):
            self.w.write({"k": (b"%d" % i, 0o644)})
        os.kill(self.watched.p.pid, signal.SIGCONT)
        self.assertEqual(self.watched.line(), "changed ")
        self.assertEqual(self.watched.rearm(), f"have {self.generation()} settled 1")
        self.assertEqual(self.watched.rearm(), f"have {self.generation()} settled 1")  # no notice in between

    def test_identity_is_the_same_in_another_process(self):
        before = driver("identity", self.v).stdout
        self.assertEqual(driver("identity", self.v).stdout, before)
        self.w.write({"k": (b"0", 0o644)})  # nothing new
        self.assertEqual(driver("identity", self.v).stdout, before)
        self.w.write({"k": (b"1", 0o644)})
        self.assertNotEqual(driver("identity", self.v).stdout, before)

    def test_a_write_in_place_and_the_end(self):
        with open(os.path.join(self.w.data_dir(), "k"), "r+b") as f:
            f.write(b"!")
        self.assertRegex(self.watched.line(), r"^(changed )?written " + self.generation() + "/k$")
        shutil.rmtree(self.v)
        self.assertEqual(self.watched.line(), "gone ")


if __name__ == "__main__":
    unittest.main()
