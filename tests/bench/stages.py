# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""Where the time of RunPodSandbox goes: a real pod through nexusd, the real CNI bridge, our VM, the stock
kernel. Stages overlap (CNI beside the boot), so what counts is the critical path: from the answer
backwards, each stage's predecessor is what ended last of those it had to wait for, which are its needs
in the plan and whatever kept nexusd's one thread busy. Time between two stages is not explained.

All times are the machine's monotonic clock: the caller's (here), nexusd's ("sandbox is ready"),
nexus-vmm's ("guest booted"). The guest's clock begins somewhere in its kernel's start; it is laid on
ours by the arrival of hello, so the way of hello itself (one vsock round trip) counts as kernel."""
import os
import pathlib
import re
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import node as nodelib  # noqa: E402
from exits import lab_only  # noqa: E402
from table import Report, median, p99, print_table  # noqa: E402

PODS = int(os.environ.get("BENCH_PODS", "10"))
# the plan (src/pod/sandbox-run.c): what each step needs, and which ones wait without keeping the thread busy
NEEDS = {"netns": [], "network": ["netns"], "tap": ["netns"], "cgroup": ["netns"], "scratch": ["netns"],
         "vmm": ["tap", "cgroup", "scratch"], "hello": ["vmm"], "guest": ["hello"], "redirect": ["network", "tap"],
         "configure": ["guest", "redirect"], "commit": ["configure"]}
WAITS = {"network", "hello", "guest", "configure"}
TEXT = {"call": "caller → nexusd (gRPC)", "prepare": "checks, name", "journal": "records written to disk",
        "netns": "netns", "network": "CNI ADD (bridge, host-local, portmap)", "tap": "tap", "cgroup": "cgroup",
        "scratch": "scratch disk", "vmm": "spawn: fork, pid file", "exec": "nexus-vmm: exec, dynamic linker",
        "vm": "nexus-vmm: options, KVM VM", "devices": "nexus-vmm: devices", "loaded": "nexus-vmm: kernel, initramfs, ACPI",
        "vcpus": "nexus-vmm: vCPUs", "entry": "nexus-vmm: threads → first KVM_RUN", "kernel": "kernel entry → init",
        "early": "init: mounts, modules", "agent": "agent → hello → nexusd", "hello": "control hello", "guest": "boot",
        "redirect": "tc redirect", "configure": "sandbox settings in the guest", "commit": "READY written",
        "answer": "nexusd → caller (gRPC)"}


def spans(line):
    """[(name, begin us, end us)] of a "sandbox is ready" line, since it was asked for."""
    return [(n, int(b), int(b) + int(t)) for n, b, t in re.findall(r"(\w+)=(\d+)\+(\d+)us", line)]


def values(line):
    return {n: int(v) for n, v in re.findall(r"(\w+)=(\d+)us", line)}


def critical(stages, end):
    """The chain of stages (name, begin, end) that led to the end, in order."""
    chain, at, name = [], end, None
    while True:
        needs = NEEDS.get(name, ["commit"])
        if name == "journal":  # written before what begins next, or with what just became known: whatever ended last
            needs = WAITS
        before = [s for s in stages if s[2] <= at and s not in chain and (s[0] in needs or s[0] not in WAITS)]
        if not before:
            return chain[::-1]
        s = max(before, key=lambda x: (x[2], x[1]))
        chain.append(s)
        name, at = s[0], s[1]


def boot_parts(begin, end, vmm, asked):
    """nexus-vmm's and the guest's own stages between its spawn and nexusd's knowing of hello (us since asked)."""
    start, v = vmm["spawned"] - asked, vmm
    init = min(start + v["hello"], end) - (v["guest_ready"] - v["guest_init"])  # it is told before it is logged
    marks = [("exec", start), ("vm", start + v["vm"]), ("devices", start + v["devices"]), ("loaded", start + v["loaded"]),
             ("vcpus", start + v["vcpus"]), ("entry", start + v["kvm_run"]), ("kernel", init),
             ("early", init + v["guest_early"] - v["guest_init"]), ("agent", end)]
    parts, at = [], begin
    for name, mark in marks:
        parts.append((name, at, mark))
        at = mark
    return parts


def one_pod(node, n):
    """(stages of the critical path, all stages, the call's own time in us, what nothing explains)."""
    before = node.log_path.stat().st_size
    start = time.monotonic_ns() // 1000
    pod, _ = node.cri.run_pod(f"stage-{n}", timeout=200)
    end = time.monotonic_ns() // 1000
    log = node.log_path.read_bytes()[before:].decode(errors="replace")
    ready = next(l for l in log.splitlines() if "sandbox is ready:" in l)
    booted = values(next(l for l in log.splitlines() if "guest booted:" in l))
    node.cri.remove_pod(pod)
    head = values(ready)
    asked, total = head["asked"], head["total"]
    stages = spans(ready)
    chain = critical(stages, total)
    by_name = {s[0]: s for s in stages}
    path = [("call", start - asked, 0)]
    boot_from = by_name["vmm"][2]
    for name, a, b in chain:
        if name == "guest":  # hello waits for nexus-vmm's main, guest for the guest: one stretch since the spawn
            path = [p for p in path if p[1] < boot_from]
            path += boot_parts(boot_from, b, booted, asked)
        else:
            path.append((name, a, b))
    path.append(("answer", total, end - asked))
    gaps = sum(max(0, nxt[1] - prev[2]) for prev, nxt in zip(path, path[1:]))
    return path, by_name, end - start, gaps


def main():
    lab_only()
    report = Report("stages")
    rows, totals, gaps, network, boot = {}, [], [], [], []
    with nodelib.Node() as node:
        for n in range(PODS + 1):
            path, every, took, gap = one_pod(node, n)
            print(f"pod {n}: {took / 1000:.0f} ms, unexplained {gap / 1000:.1f} ms", flush=True)
            if n == 0:  # fills the page cache
                continue
            totals.append(took), gaps.append(gap)
            network.append(every["network"][2] - every["network"][1])
            boot.append(every["guest"][2] - every["vmm"][1])
            mine = {}
            for name, a, b in path:
                mine[name] = mine.get(name, 0) + b - a
            for name in TEXT:
                rows.setdefault(name, []).append(mine.get(name, 0))
    report.samples("RunPodSandbox", totals, "us"), report.samples("unexplained", gaps, "us")
    report.samples("network", network, "us"), report.samples("vmm..guest", boot, "us")
    for name, values_ in rows.items():
        report.samples(name, values_, "us")
    explained = median(1 - g / t for g, t in zip(gaps, totals))
    report.row("RunPodSandbox, p50 / p99", f"{median(totals) / 1e3:.0f} / {p99(totals) / 1e3:.0f} ms", "-", "-", "-", None)
    report.row("  explained by stages of its critical path", f"{median(t - g for g, t in zip(gaps, totals)) / 1e3:.1f} ms",
               f"the call {median(totals) / 1e3:.1f} ms", f"{explained:.3f}", ">= 0.95", explained >= 0.95)
    for name, text in TEXT.items():
        if any(rows[name]):
            report.row(f"    {text}", f"{median(rows[name]) / 1e3:.1f} ms (p99 {p99(rows[name]) / 1e3:.1f})", "-",
                       f"{median(a / t for a, t in zip(rows[name], totals)):.3f}", "", None)
    report.row("  beside the path: CNI ADD", f"{median(network) / 1e3:.1f} ms", f"spawn..hello {median(boot) / 1e3:.1f} ms",
               f"{median(a / b for a, b in zip(network, boot)):.2f}", "", None)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
