# SPDX-License-Identifier: Apache-2.0
"""Memory of nexusd: idle, with 50 sandboxes on fake VMMs that were started one after another, and with 50
that were started at once. Real CNI plugins, netns, cgroups; only the VM is a fake. A figure is the resident
set when nexusd has nothing left to do.

Idle is measured twice: just started, and when one pod has come and gone. The first pod makes nexusd touch
the pages of its programs' and libraries' code that run a pod, once and for all pods; they are file pages,
and they are no part of what a sandbox costs. What each costs is counted from the second figure."""
import concurrent.futures
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import fakenode  # noqa: E402
from table import Report, median, print_table  # noqa: E402

PODS, ROUNDS = 50, int(os.environ.get("BENCH_ROUNDS", "3"))


def smaps(pid):
    """{Rss, Pss, Private, Anonymous} in KB."""
    out = {"Private": 0}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        out[name] = int(value.split()[0])
        if name.startswith("Private_"):
            out["Private"] += out[name]
    return out


def cpu_ticks(pid):
    return sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def when_idle(pid):
    """Its memory once it has used no processor time for a second."""
    before = cpu_ticks(pid)
    while True:
        time.sleep(1)
        now = cpu_ticks(pid)
        if now == before:
            return smaps(pid)
        before = now


def one_round(report, at_once):
    """(fresh, idle, with pods, with them gone) in KB."""
    with fakenode.Node(scratch="16M", config={"log": {"level": "info"}}) as node:
        pid = node.proc.pid
        fresh = when_idle(pid)
        node.cri.remove_pod(node.cri.run_pod("first", timeout=100)[0])
        idle = when_idle(pid)
        names = [f"pod-{n}" for n in range(PODS)]
        if at_once:
            with concurrent.futures.ThreadPoolExecutor(PODS) as pool:
                ids = list(pool.map(lambda n: node.cri.run_pod(n, timeout=300)[0], names))
        else:
            ids = [node.cri.run_pod(n, timeout=100)[0] for n in names]
        assert len(node.pods()) == PODS
        full = when_idle(pid)
        for p in ids:
            node.cri.remove_pod(p)
        empty = when_idle(pid)
    kind = "at once" if at_once else "in turn"
    report.raw.setdefault("rounds", []).append({"kind": kind, "fresh": fresh, "idle": idle, "with pods": full, "pods gone": empty})
    print(f"{kind}: fresh {fresh['Rss']} KB, idle {idle['Rss']} KB, {PODS} pods {full['Rss']} KB, gone {empty['Rss']} KB", flush=True)
    return fresh["Rss"], idle["Rss"], full["Rss"], empty["Rss"]


def main():
    report = Report("memory")
    turn = [one_round(report, at_once=False) for _ in range(ROUNDS)]
    once = [one_round(report, at_once=True) for _ in range(ROUNDS)]
    fresh = report.samples("fresh", [r[0] for r in turn + once], "KB")
    report.row("nexusd just started, RSS", f"{median(fresh):.0f} KB", "-", "-", "<= 4096 KB", median(fresh) <= 4096)
    idle = report.samples("idle", [r[1] for r in turn + once], "KB")
    report.row("  idle when a pod has come and gone", f"{median(idle):.0f} KB", "-", "-", "<= 4096 KB", median(idle) <= 4096)
    for name, key, rounds in (("in turn", "in_turn", turn), ("at once", "at_once", once)):
        each = report.samples(key, [(r[2] - r[1]) / PODS for r in rounds], "KB per sandbox")
        report.row(f"  + each of {PODS} sandboxes, started {name}", f"{median(each):.1f} KB", "-", "-", "<= 20 KB", median(each) <= 20)
        report.row("  when they are gone", f"{median(r[3] for r in rounds):.0f} KB", f"idle {median(r[1] for r in rounds):.0f} KB",
                   f"{median(r[3] / r[1] for r in rounds):.2f}", "", None)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
