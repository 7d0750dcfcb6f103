# SPDX-License-Identifier: Apache-2.0
# needs: root
"""The same volumes on other file systems, and mounts that come and go under a reader."""
import os
import pathlib
import subprocess
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent)]
import test_volume  # noqa: E402


def run(*args):
    subprocess.run(list(map(os.fspath, args)), check=True, capture_output=True)


class Mounted:
    """self.tmp becomes the mount point of another file system, whose bytes are in memory where they can be."""

    def where(self):
        return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

    def setUp(self):
        super().setUp()
        self.outside = self.tmp.with_name(self.tmp.name + "-outside")
        self.outside.mkdir()
        self.addCleanup(subprocess.run, ["rm", "-rf", self.outside], check=False)
        try:
            self.mount()
        except subprocess.CalledProcessError as e:
            self.skipTest(f"cannot mount here: {e.stderr.decode().strip()}")
        self.addCleanup(run, "umount", self.tmp)


class OnExt4(Mounted, test_volume.Contents):
    def mount(self):
        disk = self.outside / "disk"
        with open(disk, "wb") as f:
            f.truncate(24 << 20)
        run("mkfs.ext4", "-q", "-F", disk)
        run("mount", "-o", "loop", disk, self.tmp)


class OnOverlay(Mounted, test_volume.Contents):
    def mount(self):
        for name in ("lower", "upper", "work"):
            (self.outside / name).mkdir()
        o = self.outside
        run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={o}/lower,upperdir={o}/upper,workdir={o}/work", self.tmp)

    def test_a_volume_of_the_lower_layer(self):
        lower = self.outside / "lower" / "v"
        lower.mkdir()
        test_volume.AtomicWriter(lower).write({"k": (b"below", 0o640), "big": (b"b" * 10000, 0o644)})
        run("mount", "-o", "remount", self.tmp)
        self.both(f"s={self.tmp}/v")


class TheKernelReads(test_volume.Contents):
    """What is composed is mounted by the kernel instead of unpacked by erofs-utils."""

    def where(self):
        return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

    def setUp(self):
        super().setUp()
        for module in ("loop", "erofs"):
            subprocess.run(["modprobe", "-q", module], check=False)
        if "erofs" not in pathlib.Path("/proc/filesystems").read_text():
            self.skipTest("this kernel has no EROFS")
        self.unpacked = self.tmp / "mounted"
        self.unpacked.mkdir()
        self.addCleanup(subprocess.run, ["umount", "-q", self.unpacked], check=False)

    def extract(self):
        subprocess.run(["umount", "-q", self.unpacked], check=False)
        run("mount", "-t", "erofs", "-o", "loop,ro", self.out, self.unpacked)

    def compare_unpacked(self, path, full, st):
        super().compare_unpacked(path, full, st)
        found = os.lstat(path)
        self.assertEqual((found.st_uid, found.st_gid, found.st_mtime_ns), (st.st_uid, st.st_gid, st.st_mtime_ns), path)


class Subpath(test_volume.Find):
    """kubelet's bind mounts, as kubelet makes them."""

    def bind(self, source, container, index, directory=False):
        target = self.tmp / "kubelet/pods/uid/volume-subpaths/s" / container / str(index)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if directory else target.touch()
        try:
            run("mount", "--bind", source, target)
        except subprocess.CalledProcessError as e:
            self.skipTest(f"cannot mount here: {e.stderr.decode().strip()}")
        self.addCleanup(subprocess.run, ["umount", target], check=False)
        return target

    def test_file_and_directory(self):
        v = self.volume()
        w = test_volume.AtomicWriter(v)
        w.write({"k": (b"first", 0o640), "d/e": (b"deep", 0o644)})
        f = self.bind(os.path.join(w.data_dir(), "k"), "main", 0)
        d = self.bind(os.path.join(w.data_dir(), "d"), "main", 1, directory=True)
        self.assertEqual(self.find(f), ["1", "secret", "0", "1"])
        self.assertEqual(self.find(d), ["1", "secret", "0", "0"])
        self.both(f"file:{f}", f"dir:{d}")
        w.write({"k": (b"second", 0o640), "d/e": (b"deep", 0o644)})  # the bind mount stays what it was
        tree, image = self.compose(f"file:{f}")
        self.assertEqual(tree[b"file"].data(image), b"first")


if __name__ == "__main__":
    test_volume.unittest.main()
