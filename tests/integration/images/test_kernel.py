# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 20
"""The kernel as the reader: GNU tar unpacks a tar into a directory, nexus-pull converts the same tar, the
kernel mounts what it made, and every name, stat field, xattr and byte must agree."""
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

sys.path[:0] = [str(pathlib.Path(__file__).parent)]
import imagelib  # noqa: E402
from test_torture import CAPABILITY, DIR, FIFO, LNK, SYM, CHR, BLK, xattr  # noqa: E402


def describe(root):
    """{path: everything lstat, xattrs and content say}; hard links by the first name of their inode."""
    out, first = {}, {}
    for top, dirs, files in os.walk(os.fsencode(root)):
        for name in dirs + files:
            path = os.path.join(top, name)
            st = os.lstat(path)
            rel = os.path.relpath(path, os.fsencode(root))
            kind = stat.S_IFMT(st.st_mode)
            content = b""
            if kind == stat.S_IFREG:
                with open(path, "rb") as f:
                    content = f.read()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
            first.setdefault(st.st_ino, []).append(rel)
            out[rel] = [oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, st.st_size if kind != stat.S_IFDIR else 0,
                        st.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0, xattrs, content,
                        st.st_nlink if kind != stat.S_IFDIR else 0, st.st_ino]
    for d in out.values():
        d[-1] = min(first[d[-1]])
    return out


class Kernel(unittest.TestCase):
    def setUp(self):
        for module in ("loop", "erofs"):
            subprocess.run(["modprobe", "-q", module], check=False)
        self.assertIn("erofs", pathlib.Path("/proc/filesystems").read_text(), "the kernel has EROFS")
        self.store = imagelib.Store()
        self.addCleanup(self.store.close)
        self.tmp = tempfile.mkdtemp(prefix="nexus-kernel-")
        self.addCleanup(subprocess.run, ["rm", "-rf", self.tmp], check=False)

    def compare(self, raw):
        ours, theirs = f"{self.tmp}/mnt", f"{self.tmp}/tar"
        os.mkdir(ours)
        os.mkdir(theirs)
        subprocess.run(["tar", "-xpf", "-", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-C", theirs],
                       input=raw, check=True)
        o = self.store.pull("x", layout=imagelib.layout(f"{self.tmp}/layout", [(raw, None)]))
        self.assertIsNone(o.error, o.error)
        composed = self.store.compose(o.image, f"{self.tmp}/composed")
        subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", composed, ours], check=True)
        try:
            mine, want = describe(ours), describe(theirs)
            self.assertEqual(sorted(mine), sorted(want))
            for path, d in want.items():
                self.assertEqual(mine[path], d, path)
        finally:
            subprocess.run(["umount", ours], check=True)

    def test_everything_a_tar_can_say(self):
        t = imagelib.Tar()
        t.add("d", DIR, mode=0o2775, uid=70000, gid=80000)
        for n in (0, 1, 4095, 4096, 4097, 100_000):
            t.add(f"d/{n}", data=os.urandom(n), mode=0o640, uid=n, gid=n + 1, pax={"mtime": f"{1_600_000_000 + n}.{n:09d}"})
        t.add("suid", data=b"x", mode=0o4755).add("none", data=b"x", mode=0).add("sticky", DIR, mode=0o1777)
        t.add("hard", LNK, link="d/4096").add("sym", SYM, link="d/1").add("longsym", SYM, link="x/" * 1000)
        t.add("sym-hard", LNK, link="sym")
        t.add("fifo", FIFO, mode=0o600)
        if os.geteuid() == 0:
            t.add("chr", CHR, devmajor=1, devminor=3, mode=0o666).add("blk", BLK, devmajor=259, devminor=70000, mode=0o600)
        t.add("cap", data=b"x", mode=0o755, pax=xattr("security.capability", CAPABILITY.decode("latin-1")))
        t.add("trusted", DIR, pax=xattr("trusted.x", b"y"))
        t.add("old", data=b"x", pax={"mtime": "-1000"})
        t.add("name with \n and ü", data=b"x").add("n" * 255, data=b"x")
        t.add("many", DIR, mtime=1_500_000_000)
        for n in range(1000):
            t.add(f"many/{n:05d}-{'x' * (n % 50)}", data=b"%d" % n)
        self.compare(t.bytes())

    def test_a_tree_of_the_system(self):
        src = pathlib.Path("/usr/lib/python3.11")
        raw = subprocess.run(["tar", "-cf", "-", "--format=posix", "--exclude=__pycache__", "-C", src, "email", "json",
                              "encodings", "os.py"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        self.compare(raw)


if __name__ == "__main__":
    unittest.main()
