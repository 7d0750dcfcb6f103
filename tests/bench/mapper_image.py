# SPDX-License-Identifier: Apache-2.0
# needs: lab
# lab memory: 8192
"""Host memory that N pods add by reading all of one 100 MB image, page cache included, in copies of the image; beside
QEMU -M q35 with the same kernel and memory, and the same files in an EROFS by virtio-blk (cache=writeback, QEMU's default).

"Used" is all memory of the machine that is not free. All pods are there, and their containers; the page cache is
dropped; then one pod after another reads every file. What the containers themselves took before is told apart."""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import host_memory  # noqa: E402
import ocimage  # noqa: E402
import qemu_guest  # noqa: E402
from exits import lab_only  # noqa: E402
from mapper_node import layer_of_programs, open_bench  # noqa: E402
from table import Report, median, print_table, spread  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
FILES, FILE_BYTES = 100, 1 << 20
IMAGE_KIB = FILES * FILE_BYTES >> 10
PODS = tuple(int(n) for n in os.environ.get("BENCH_PODS", "1,4,16").split(","))
GUEST_MB = 256


def layer_of_data():
    layer, block = ocimage.Layer("none"), os.urandom(FILE_BYTES)
    for i in range(FILES):
        layer.file(f"/data/f{i}", block[i:] + block[:i])
    return layer


def curve(first, count, read):
    """[KiB used by the time n guests have read, less what was used before]; read(n): one more."""
    used = []
    for n in range(count):
        read(n)
        if n + 1 in PODS:
            now = host_memory.settled()
            used.append({"pods": n + 1, **{k: now[k] - first[k] for k in now}})
            print(f"  {n + 1}: {used[-1]['used'] / IMAGE_KIB:.3f} copies; " +
                  ", ".join(f"{k} {v} KiB" for k, v in used[-1].items() if k not in ("used", "pods") and abs(v) > 64), flush=True)
    return used


def check(text):
    got = json.loads(text)["bytes"]
    assert got == FILES * FILE_BYTES, got


def ours(b, image):
    pods = [b.cri.run_pod(f"p{n}", timeout=300) for n in range(PODS[-1])]
    before = host_memory.settled()
    cids = [b.container(pod, "reader", image=image) for pod in pods]
    for cid in cids:
        b.out(cid, "/bin/volume-reader", "cat", "/etc")  # the program's own memory
    host_memory.drop_caches()
    first = host_memory.settled()
    out = curve(first, len(pods), lambda n: check(b.out(cids[n], "/bin/volume-reader", "cat", "/data")))
    for pod in pods:
        b.cri.remove_pod(pod[0])
    return {"containers": first["used"] - before["used"] + (before["Cached"] - first["Cached"]), "curve": out}


def reference_disk(where):
    """The same files in an EROFS for virtio-blk."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=where))
    (folder / "data").mkdir()
    block = os.urandom(FILE_BYTES)
    for i in range(FILES):
        (folder / f"data/f{i}").write_bytes(block[i:] + block[:i])
    out = folder / "image"
    subprocess.run(["mkfs.erofs", "-Enoinline_data", "-x-1", "--quiet", out, folder / "data"], check=True, stdout=subprocess.DEVNULL)
    return out


def reference(image, initramfs):
    with contextlib.ExitStack() as stack:
        guests = []
        for _ in range(PODS[-1]):
            guests.append(stack.enter_context(qemu_guest.Guest(initramfs, memory=GUEST_MB, disk=image)))
        for g in guests:
            g.mount("erofs", "/dev/vda", "/mnt")
            g.run("cat", "/bin")
        host_memory.drop_caches()
        return {"curve": curve(host_memory.settled(), len(guests), lambda n: check(guests[n].run("cat", "/mnt")))}


def rows(report, mine, theirs):
    for i, n in enumerate(PODS):
        copies = [r["curve"][i]["used"] / IMAGE_KIB for r in mine]
        beside = [r["curve"][i]["used"] / IMAGE_KIB for r in theirs]
        report.row(f"memory added by {n} pods reading a 100 MiB image, copies", spread(copies, 3), f"QEMU + virtio-blk {spread(beside, 2)}",
                   f"{median(copies) / median(beside):.3f}", "<= 1.05", median(copies) <= 1.05)
    last = [r["curve"][-1] for r in mine]
    report.row(f"  of that page tables, host's and guest's, a pod ({PODS[-1]} pods)",
               f"{median(c['PageTables'] + c['SecPageTables'] for c in last) / PODS[-1]:.0f} KiB", "-", "-", "", None)
    report.row("  a container before it reads (its guest's memory, too)",
               f"{median(r['containers'] for r in mine) / PODS[-1] / 1024:.1f} MiB", "-", "-", "", None)


def main():
    lab_only()
    report = Report("mapper_image")
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(host_memory.disk(2 << 30))
        b = open_bench(stack, root=where / "node")
        image = b.pull("bench/data", [layer_of_programs(), layer_of_data()])
        initramfs = qemu_guest.build_initramfs(where / "initramfs")
        disk = reference_disk(where)
        mine, theirs = [], []
        for n in range(ROUNDS):
            print(f"round {n}, ours", flush=True)
            mine.append(ours(b, image))
            print(f"round {n}, QEMU", flush=True)
            theirs.append(reference(disk, initramfs))
    report.raw.update(ours=mine, qemu=theirs)
    rows(report, mine, theirs)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
