# SPDX-License-Identifier: Apache-2.0
"""The machine's memory, page cache and kernel structures included, by /proc/meminfo, /proc/slabinfo and smaps."""
import contextlib
import pathlib
import subprocess
import tempfile
import time

PARTS = ("Cached", "Buffers", "AnonPages", "Slab", "PageTables", "SecPageTables", "KernelStack", "Percpu")


def meminfo():
    """{field: KiB}; "used": all that is not free."""
    m = {k: int(v.split()[0]) for k, v in (line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())}
    m["used"] = m["MemTotal"] - m["MemFree"]
    return {k: m.get(k, 0) for k in ("used", *PARTS)}


def settled(seconds=2):
    """When the figure has stopped moving by more than 1 MiB in a turn."""
    last = meminfo()
    for _ in range(30):
        time.sleep(seconds)
        now = meminfo()
        if abs(now["used"] - last["used"]) < 1024:
            return now
        last = now
    return last


def drop_caches(what=1):
    """1: page cache that nobody maps; 2: dentries and inodes that nobody uses."""
    subprocess.run(["sync"], check=True)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text(str(what))


def slabs():
    """{cache: bytes of objects in use}; what the allocator keeps aside is given back first."""
    for cache in pathlib.Path("/sys/kernel/slab").iterdir():
        with contextlib.suppress(OSError):
            (cache / "shrink").write_text("1")
    out = {}
    for line in pathlib.Path("/proc/slabinfo").read_text().splitlines()[2:]:
        name, active, _, size = line.split()[:4]
        out[name] = int(active) * int(size)
    return out


def smaps(pid):
    """{field: KiB} of a process."""
    out = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        out[name] = int(value.split()[0])
    out["Private"] = out["Private_Clean"] + out["Private_Dirty"]
    return out


def page_tables(pid):
    """KiB"""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmPTE:"):
            return int(line.split()[1])
    raise KeyError("VmPTE")


@contextlib.contextmanager
def disk(size):
    """An ext4 file system of its own, as a node has it; its page cache can be dropped."""
    subprocess.run(["modprobe", "loop"], check=True)
    with tempfile.TemporaryDirectory(prefix="nexus-disk-") as tmp:
        image, where = pathlib.Path(tmp) / "disk", pathlib.Path(tmp) / "root"
        where.mkdir()
        with open(image, "wb") as f:
            f.truncate(size)
        subprocess.run(["mkfs.ext4", "-qF", "-O", "^has_journal", "-E", "lazy_itable_init=0", image], check=True)
        subprocess.run(["mount", "-o", "loop,noatime", image, where], check=True)
        try:
            yield where
        finally:
            subprocess.run(["umount", "-l", where], check=True)
