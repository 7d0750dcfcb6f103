# SPDX-License-Identifier: Apache-2.0
"""A disk that can go bad under a file: null_blk with memory behind it, ext4 on it, and a list of bad blocks.

    with BadDisk() as d:
        (d.path / "key").write_bytes(b"x" * 8192)
        d.spoil(d.path / "key", 1)   # page 1 of it is an I/O error from now on

The lab's kernel has the module; the kernel's own documentation is Documentation/block/null_blk.rst."""
import fcntl
import os
import pathlib
import struct
import subprocess
import tempfile

CONFIG = pathlib.Path("/sys/kernel/config/nullb")
FIBMAP = 1
BLKFLSBUF = 0x1261
BLOCK = 4096


class BadDisk:
    count = 0

    def __init__(self, mib=128):
        BadDisk.count += 1
        self.config = CONFIG / f"nexus{BadDisk.count}"
        subprocess.run(["modprobe", "-a", "configfs", "null_blk", "ext4"], check=True)
        if not os.path.ismount("/sys/kernel/config"):
            subprocess.run(["mount", "-t", "configfs", "configfs", "/sys/kernel/config"], check=True)
        self.spoiled = []
        self.config.mkdir()
        for name, value in (("size", mib), ("memory_backed", 1), ("blocksize", 512), ("power", 1)):
            (self.config / name).write_text(str(value))
        self.device = f"/dev/{self.config.name}"  # older kernels number them
        if not os.path.exists(self.device):
            self.device = f"/dev/nullb{(self.config / 'index').read_text().strip()}"
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="nexus-bad-"))
        # no journal: nothing is written behind the back of a test
        subprocess.run(["mkfs.ext4", "-q", "-b", str(BLOCK), "-O", "^has_journal", "-E", "lazy_itable_init=0", self.device],
                       check=True)
        subprocess.run(["mount", "-o", "noatime", self.device, self.path], check=True)

    @staticmethod
    def forget():
        """All that is in page caches and not mapped is read anew."""
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")

    def _directory_block(self, path, page):
        name = pathlib.Path(path).relative_to(self.path)
        out = subprocess.run(["debugfs", "-R", f'blocks "/{name}"', self.device], capture_output=True, text=True,
                             check=True).stdout.split()
        return int(out[page])

    def _sectors(self, path, page):
        if os.path.isdir(path):
            block = self._directory_block(path, page)
        else:
            with open(path, "rb") as f:
                block = struct.unpack("i", fcntl.ioctl(f, FIBMAP, struct.pack("i", page)))[0]
        assert block, f"{path} has no block for page {page}"
        return f"{block * BLOCK // 512}-{(block + 1) * BLOCK // 512 - 1}"

    def spoil(self, path, *pages):
        """The pages cannot be read from now on, nor are they cached."""
        os.sync()
        found = [self._sectors(path, page) for page in pages]
        for sectors in found:
            (self.config / "badblocks").write_text("+" + sectors)
        self.spoiled += found
        with open(self.device, "rb") as f:  # the last few blocks of directories are held beside the page cache
            fcntl.ioctl(f, BLKFLSBUF)
        self.forget()

    def heal(self):
        """All of it can be read again."""
        for sectors in self.spoiled:
            (self.config / "badblocks").write_text("-" + sectors)
        self.spoiled.clear()

    def close(self):
        subprocess.run(["umount", "-l", self.path], check=True)
        self.path.rmdir()
        (self.config / "power").write_text("0")
        self.config.rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
