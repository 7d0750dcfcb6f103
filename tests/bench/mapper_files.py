# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""What a mapped small file costs the host beyond its page in the page cache: a container with 1,000 mapped files that
have all been read, against one with a single file; in the kernel (objects in use by /proc/slabinfo: inodes, dentries,
open files, mappings, watches), in page tables of nexus-vmm and of its guest, and in private memory of nexus-vmm and
nexusd, and in the region's sealed metadata."""
import contextlib
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import host_memory  # noqa: E402
from exits import lab_only  # noqa: E402
from mapper_node import open_bench, payload_of, pod_of  # noqa: E402
from table import Report, median, print_table, spread  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
FILES = 1000
AIM = 600


def not_guest_ram(pid):
    """Private KiB of nexus-vmm without its guest's RAM and the regions' metadata, which is counted by itself."""
    private, skip = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            skip = "memfd:" in line
        elif line.startswith("Private_") and not skip:
            private += int(line.split()[1])
    return private


def sealed(pid):
    """KiB of the regions' metadata: sealed memory files that nexus-vmm maps."""
    rss, is_it = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            is_it = "memfd:" in line and "nexus-ram" not in line
        elif line.startswith("Rss:") and is_it:
            rss += int(line.split()[1])
    return rss


def measure(b):
    """Bytes by kind; what may go at any time is let go first."""
    vmm = b.node.vmm_pids()[0]
    host_memory.drop_caches(2)
    host_memory.drop_caches(2)
    out = {f"slab {k}": v for k, v in host_memory.slabs().items()}
    out["page tables of nexus-vmm"] = host_memory.page_tables(vmm) << 10
    out["page tables of the guest"] = host_memory.meminfo()["SecPageTables"] << 10
    out["private memory of nexus-vmm"] = not_guest_ram(vmm) << 10
    out["private memory of nexusd"] = host_memory.smaps(b.node.pid)["Private"] << 10
    out["metadata"] = sealed(vmm) << 10
    return out


def with_files(b, pod, writer, files, name):
    cid = b.container(pod, name, [(writer, "/creds")])
    # each file, and what an exec itself leaves behind
    b.out(cid, "/bin/volume-reader", "cat", "/creds/..data/")
    b.out(cid, "/bin/volume-reader", "cat", "/creds/..data/")
    out = measure(b)
    b.remove(cid)
    return out


def one_round(b, pod, few, many, n):
    least = with_files(b, pod, few, 1, f"few{n}")
    most = with_files(b, pod, many, FILES, f"many{n}")
    again = with_files(b, pod, few, 1, f"again{n}")
    return {k: (most.get(k, 0) - (least.get(k, 0) + again.get(k, 0)) / 2) / (FILES - 1) for k in {*least, *most}}


def main():
    lab_only()
    report = Report("mapper_files")
    rounds = []
    with contextlib.ExitStack() as stack:
        b = open_bench(stack)
        with pod_of(b, "files") as pod:
            few, many = b.volume(payload_of(1)), b.volume(payload_of(FILES))
            one_round(b, pod, few, many, "warm")
            for n in range(ROUNDS):
                rounds.append(one_round(b, pod, few, many, n))
                print(f"round {n}: {sum(rounds[-1].values()):.0f} bytes a file; " +
                      ", ".join(f"{k} {v:.1f}" for k, v in sorted(rounds[-1].items(), key=lambda e: -abs(e[1])) if abs(v) >= 2), flush=True)
    report.raw["bytes a file"] = rounds
    every = [sum(r.values()) for r in rounds]
    report.row(f"host memory of each of {FILES} mapped files beyond its page cache", spread(every, 0) + " bytes", "-", "-", f"<= {AIM} bytes",
               median(every) <= AIM)
    for k in sorted(rounds[0], key=lambda k: -abs(median(r[k] for r in rounds))):
        if abs(median(r[k] for r in rounds)) >= 8:
            report.row(f"  {k}", spread([r[k] for r in rounds], 0) + " bytes", "-", "-", "", None)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
