# SPDX-License-Identifier: Apache-2.0
"""What a guest must not change: files of the host, byte for byte and page for page.

    w = Witness(folder, [vmm.proc.pid, other.proc.pid])   # on a disk's file system: tmpfs knows no clean page
    ...an attack...
    w.check(test)                                         # assertions of the unittest.TestCase

Checked: each file's hash, through the page cache and past it from the disk; its size, mtime and ctime; that no page of
its page cache is dirty or on its way to the disk (/proc/kpageflags); that each process maps it read-only and shared,
with nothing dirty and no page of its own (/proc/PID/smaps); that what it maps are the very frames of the page cache
(/proc/PID/pagemap)."""
import hashlib
import mmap
import os
import pathlib
import re
import struct

PAGE = 4096
DIRTY, WRITEBACK = 1 << 4, 1 << 8
PRESENT, FRAME = 1 << 63, (1 << 55) - 1


def identity(path):
    """(device, inode): a process may know the file by another path, or by one that leads nowhere here."""
    st = os.stat(path)
    return f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}", st.st_ino


def mappings(pid):
    """[(identity, start, bytes, file offset, permissions, {field: kB})] of a process, of files alone."""
    out = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) +/", line)
        if m:
            start, end = int(m[1], 16), int(m[2], 16)
            out.append(((m[5], int(m[6])), start, end - start, int(m[4], 16), m[3], {}))
        elif re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            out.append((None, 0, 0, 0, "", {}))
        else:
            field, _, value = line.partition(":")
            if out and value.endswith("kB"):
                out[-1][5][field] = int(value.split()[0])
    return [m for m in out if m[0]]


def frames(pid, start, pages):
    """Frame numbers behind an address range of a process; None: not mapped at the moment."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as f:
        data = os.pread(f.fileno(), pages * 8, start // PAGE * 8)
    return [e & FRAME if e & PRESENT else None for (e,) in struct.iter_unpack("<Q", data)]


def page_cache(path):
    """Frame numbers of all pages of a file, which are there afterwards."""
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as m:
        for at in range(0, len(m), PAGE):
            m[at]  # pylint: disable=pointless-statement
        _, start, size, *_ = next(x for x in mappings("self") if x[0] == identity(path))
        return frames("self", start, size // PAGE)


def flags(numbers):
    with open("/proc/kpageflags", "rb", buffering=0) as f:
        return [struct.unpack("<Q", os.pread(f.fileno(), 8, n * 8))[0] for n in numbers]


def from_disk(path):
    """The hash of what the disk has, not of what the page cache has."""
    h, size = hashlib.sha256(), os.path.getsize(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 1 << 20) as buffer:
            while size:
                n = os.readv(fd, [buffer])
                h.update(buffer[:n])
                size -= n
    finally:
        os.close(fd)
    return h.hexdigest()


class Witness:
    def __init__(self, folder, pids=(), files=None):
        """files: of these alone, not of all below the folder."""
        self.folder, self.pids = pathlib.Path(folder).resolve(), list(pids)
        os.sync()
        files = self.folder.rglob("*") if files is None else map(pathlib.Path, files)
        self.files = sorted(p for p in files if p.is_file() and not p.is_symlink() and p.stat().st_size)
        self.before = self.facts()
        self.shared = 0

    def facts(self):
        out = {}
        for p in self.files:
            st = p.stat()
            out[p] = (hashlib.sha256(p.read_bytes()).hexdigest(), from_disk(p), st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        return out

    def check(self, test):
        self.check_pages(test)
        test.assertEqual(self.facts(), self.before)  # last: reading past the page cache cleans it first

    def check_pages(self, test):
        pages = {}
        for path in self.files:
            numbers = pages[identity(path)] = page_cache(path)
            bad = [n for n, f in enumerate(flags(numbers)) if f & (DIRTY | WRITEBACK)]
            test.assertEqual(bad, [], f"dirty pages of {path}")
        self.shared = 0
        for pid in self.pids:
            mapped = [m for m in mappings(pid) if m[0] in pages]
            test.assertNotEqual(mapped, [], f"process {pid} maps nothing of {self.folder}")
            for who, start, size, offset, mode, kb in mapped:
                test.assertEqual(mode, "r--s", (pid, who))
                dirty = [kb[f] for f in ("Shared_Dirty", "Private_Dirty", "Anonymous", "Swap")]
                test.assertEqual(dirty, [0, 0, 0, 0], (pid, who))
                self.check_frames(test, pages[who][offset // PAGE:], frames(pid, start, size // PAGE))

    def check_frames(self, test, cache, own):
        there = [(n, frame) for n, frame in enumerate(own) if frame is not None]
        test.assertEqual([n for n, frame in there if cache[n] != frame], [])
        self.shared += len(there)
