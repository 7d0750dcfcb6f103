# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""The memory mapper: an update. kubelet's rename of ..data until inotify tells of it in the container, against one
round trip on the same way (a byte to the watcher's input, its answer back) plus the mount of the new generation, which
the guest's agent times itself; and the processor time that one update takes in the guest, in nexus-vmm and in nexusd."""
import contextlib
import os
import pathlib
import re
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import vmmcontrol  # noqa: E402
from exits import ExitCounter, lab_only  # noqa: E402
from mapper_node import cpu_split, open_bench, payload_of, pod_of  # noqa: E402
from table import Report, median, p99, print_table, spread  # noqa: E402

ROUNDS, UPDATES = int(os.environ.get("BENCH_ROUNDS", "5")), 12
SETTLE_S = 0.5  # the old generation goes
MOUNTED = re.compile(r"volume \S+: now (\S+), (\d+) us to mount it")


class Watcher:
    """The program in the container, on a stream of its own to nexus-vmm."""

    def __init__(self, b, pod, cid):
        nexus = vmmcontrol.nexus
        self.stream = vmmcontrol.Stream(str(b.node.run / f"vmm/{pod[0]}.sock"), nexus.ExecSpec(
            container_id=cid, open_stdin=True, process=nexus.ProcessSpec(args=["/bin/volume-watcher", "/creds"])))
        self.line()

    def line(self):
        while b"\n" not in self.stream.out:
            self.stream.step()
            if self.stream.exit or self.stream.error:
                raise RuntimeError(f"the watcher ended: {self.stream.err.decode()} {self.stream.error}")
        line, _, self.stream.out = self.stream.out.partition(b"\n")
        return line.decode()

    def echo_ns(self):
        start = time.monotonic_ns()
        self.stream.frames.send(vmmcontrol.STDIN, b".")
        assert self.line() == "echo"
        return time.monotonic_ns() - start

    def close(self):
        self.stream.frames.close()


def one_update(writer, watcher, files, number):
    """(generation's name, ns from the rename to the event's arrival here)"""
    renamed = []
    writer.hook = lambda step: renamed.append(time.monotonic_ns()) if step == "rename" else None
    writer.write(payload_of(files, number))
    name = os.readlink(pathlib.Path(writer.dir) / "..data")
    while True:
        if watcher.line() == name:
            return name, time.monotonic_ns() - renamed[0]


def mounts_of(node):
    """{generation: ns that the guest needed to mount it and to make its directory}"""
    return {m.group(1): int(m.group(2)) * 1000 for m in MOUNTED.finditer(node.log_path.read_text(errors="replace"))}


def one_round(b, writer, watcher, files, first):
    echoes = [watcher.echo_ns() for _ in range(UPDATES * 2)]
    updates, before = [], None
    with ExitCounter() as exits:
        before = cpu_split(b.node)
        for n in range(UPDATES):
            updates.append(one_update(writer, watcher, files, first + n))
            time.sleep(SETTLE_S)
        after = cpu_split(b.node)
    with ExitCounter() as idle:  # as long, and nothing happens
        time.sleep(UPDATES * SETTLE_S)
    rest = cpu_split(b.node)
    used = {k: (after[k] - before[k] - (rest[k] - after[k])) / UPDATES for k in after}
    return {"echo": echoes, "update": updates, "cpu": used,
            "exits": {k: (v - idle.counts.get(k, 0)) / UPDATES for k, v in exits.counts.items()}}


def measure(b, pod, files):
    writer = b.volume(payload_of(files))
    cid = b.container(pod, f"watcher-{files}", [(writer, "/creds")])
    watcher = Watcher(b, pod, cid)
    for n in range(3):  # warm
        one_update(writer, watcher, files, 1 + n)
        time.sleep(SETTLE_S)
    rounds = []
    for n in range(ROUNDS):
        r = one_round(b, writer, watcher, files, 10 + n * UPDATES)
        rounds.append(r)
        print(f"{files} files, round {n}: echo {median(r['echo']) / 1e6:.2f} ms, update {median(ns for _, ns in r['update']) / 1e6:.2f} ms, "
              "processors: " + ", ".join(f"{k} {v / 1e6:.2f} ms" for k, v in r["cpu"].items()) + ", exits: " +
              ", ".join(f"{k} {v:.0f}" for k, v in sorted(r["exits"].items(), key=lambda e: -e[1]) if v >= 1), flush=True)
    watcher.close()
    b.remove(cid)
    return rounds


def rows(report, files, rounds, mounts):
    ratios, whole = [], []
    for r in rounds:
        echo, took = median(r["echo"]), median(ns for _, ns in r["update"])
        r["mount"] = [mounts[name] for name, _ in r["update"] if name in mounts]  # lines of a guest are limited
        mount = median(r["mount"])
        ratios.append((took - mount) / echo)
        whole.append(took)
    every = [ns for r in rounds for _, ns in r["update"]]
    echo, mount = median(e for r in rounds for e in r["echo"]), median(m for r in rounds for m in r["mount"])
    report.row(f"swap of {files} files → inotify event, p50 / p99", f"{median(whole) / 1e6:.2f} / {p99(every) / 1e6:.2f} ms",
               f"round trip {echo / 1e6:.2f} ms, mount {mount / 1e6:.2f} ms", "-", "", None)
    report.row("  beyond the mount, in round trips", spread(ratios, 1), "1", "-", "<= 10", median(ratios) <= 10)
    for key, text in (("vcpu", "guest"), ("nexus-vmm", "nexus-vmm's other threads"), ("nexusd", "nexusd")):
        report.row(f"  processor time of an update, {text}", spread([r["cpu"][key] / 1e6 for r in rounds]) + " ms", "-", "-", "", None)
    report.row("  KVM exits of an update", f"{median(sum(r['exits'].values()) for r in rounds):.0f}", "-", "-", "", None)


def main():
    lab_only()
    report = Report("mapper_update")
    with contextlib.ExitStack() as stack:
        b = open_bench(stack, mapper="update_burst: 0")  # one after the other, none waits
        with pod_of(b, "update") as pod:
            for files in (3, 100):
                rounds = measure(b, pod, files)
                rows(report, files, rounds, mounts_of(b.node))
                report.raw[f"{files} files"] = rounds
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
