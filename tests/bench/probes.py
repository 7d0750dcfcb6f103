# SPDX-License-Identifier: Apache-2.0
# needs: lab
# lab memory: 8192
# packages: containerd runc
"""Exec probes of many pods: each pod has a client that runs /bin/true by ExecSync, one after the other without a
pause, so that the sum is what the machine carries; nexusd first, then containerd and runc (Debian's packages), one
run, each alone on the machine; its pods end with it. What nexusd and its nexus-vmm hold is looked at before, at half and at the end.

BENCH_PODS (20), BENCH_EXECS (400; 10000 is the full figure) and BENCH_REFERENCE_EXECS (80) are the numbers. The reason why a
guest is dear in the lab is in exec_containerd.py."""
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import cri  # noqa: E402
import node as nodelib  # noqa: E402
import ocimage  # noqa: E402
from containerd_node import Containerd, forks  # noqa: E402
from exits import lab_only  # noqa: E402
from mapper_node import cpu_split  # noqa: E402
from table import Report, median, p99, print_table  # noqa: E402

PODS = int(os.environ.get("BENCH_PODS", "20"))
EXECS = int(os.environ.get("BENCH_EXECS", "400"))
REFERENCE_EXECS = int(os.environ.get("BENCH_REFERENCE_EXECS", "80"))
LOAD = ROOT / "build/host/tests/fakes/grpc-load"
GROWTH_KIB = 64  # of the second half: a page here and there is the allocator's


def probe(socket, cids, execs):
    """All clients at once. Times, and how many a second."""
    each = str(max(1, execs // len(cids)))
    start = time.monotonic()
    clients = [subprocess.Popen([LOAD, "--exec", socket, each, cid, "/bin/true"], stdout=subprocess.PIPE) for cid in cids]
    out = [c.communicate()[0] for c in clients]
    took = time.monotonic() - start
    if any(c.returncode for c in clients):
        raise RuntimeError("a probe failed")
    ns = [x for o in out for x in json.loads(o)["latency_ns"]]
    return ns, len(ns) / took


def start_pods(side, run_pod, image):
    side.cri.PullImage(image=cri.pb.ImageSpec(image=image), timeout=300)
    begin, cids = time.monotonic(), []
    for n in range(PODS):
        cids.append(side.cri.run(run_pod(f"probed-{n}"), "main", image, ["/bin/sleep", "1000000"]))
    print(f"{PODS} pods after {time.monotonic() - begin:.0f} s", flush=True)
    return cids


def held(pids):
    """Descriptors and private memory of processes, in sum."""
    fds = kib = 0
    for pid in pids:
        fds += len(os.listdir(f"/proc/{pid}/fd"))
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        kib += int(next(l for l in status.splitlines() if l.startswith("RssAnon:")).split()[1])
    return {"fds": fds, "kib": kib}


def held_by_us(node):
    time.sleep(2)  # the clients' connections are closed by then
    return {"nexusd": held([node.pid]), "nexus-vmm": held(node.vmm_pids())}


def ours(registry, image):
    with nodelib.Node(insecure=[registry.address]) as node:
        cids = start_pods(node, lambda name: node.cri.run_pod(name, timeout=300), image)
        probe(node.socket, cids, 2 * PODS)  # warm
        halves, looks, cpu, forked = [], [held_by_us(node)], cpu_split(node), forks()
        for _ in range(2):
            halves.append(probe(node.socket, cids, EXECS // 2))
            looks.append(held_by_us(node))
        after, forked = cpu_split(node), forks() - forked - 2 * PODS
    n = sum(len(h[0]) for h in halves)
    return {"ns": halves[0][0] + halves[1][0], "per_s": median(h[1] for h in halves), "held": looks, "forks": forked / n,
            "cpu_ns": {k: (after[k] - cpu[k]) / n for k in cpu}}


def theirs(registry, image):
    with Containerd(registry) as side:
        cids = start_pods(side, side.run_pod, image)
        probe(side.socket, cids, PODS)
        cpu, forked = side.cpu_ns(), forks()
        ns, per_s = probe(side.socket, cids, REFERENCE_EXECS)
        after, forked = side.cpu_ns(), forks() - forked - PODS
    return {"ns": ns, "per_s": per_s, "forks": forked / len(ns), "cpu_ns": {k: (after[k] - cpu[k]) / len(ns) for k in cpu}}


def rows(report, a, b):
    n = len(a["ns"])
    report.row(f"exec probes a second, {PODS} pods", f"{a['per_s']:.1f}", f"containerd + runc {b['per_s']:.1f}",
               f"{a['per_s'] / b['per_s']:.2f}", "> 1", a["per_s"] > b["per_s"])
    report.row("  p50 / p99 of one", *(f"{median(s['ns']) / 1e6:.0f} / {p99(s['ns']) / 1e6:.0f} ms" for s in (a, b)),
               f"{p99(a['ns']) / p99(b['ns']):.2f}", "", None)
    cpu = a["cpu_ns"]
    host = cpu["nexusd"] + cpu["nexus-vmm"]
    report.row("  nexusd's CPU per exec", f"{cpu['nexusd'] / 1e6:.2f} ms", f"containerd, shims, runc {b['cpu_ns']['host'] / 1e6:.2f} ms",
               f"{cpu['nexusd'] / b['cpu_ns']['host']:.4f}", "", None)
    report.row("  with nexus-vmm, without vCPUs", f"{host / 1e6:.2f} ms", "the same", f"{host / b['cpu_ns']['host']:.4f}", "", None)
    report.row("  processes and threads started per exec", f"{a['forks']:.2f}", f"{b['forks']:.1f}", "-", "0", a["forks"] < 0.1)
    first, half, last = a["held"]
    for who in first:
        report.row(f"  {who}: descriptors before and after {n} execs", f"{first[who]['fds']} → {last[who]['fds']}", "-", "-",
                   "no growth", last[who]["fds"] <= first[who]["fds"])
        grown = last[who]["kib"] - half[who]["kib"]
        report.row(f"  {who}: private memory", f"{first[who]['kib']} → {half[who]['kib']} → {last[who]['kib']} KiB", "-", "-",
                   "no growth", grown <= GROWTH_KIB)


def main():
    lab_only()
    report = Report("probes")
    with ocimage.Registry() as registry:
        image = registry.push("bench/probes", "latest", ocimage.busybox_image())
        a = ours(registry, image)
        print(f"nexusd: {a['per_s']:.1f} a second", flush=True)
        b = theirs(registry, image)
        print(f"containerd: {b['per_s']:.1f} a second", flush=True)
    report.raw.update(nexusd=a, containerd=b)
    rows(report, a, b)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
