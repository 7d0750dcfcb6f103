# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""The memory mapper: CreateContainer with 20 mapped volumes that the pod does not have yet, against none; with one,
and with 20 that another container of the pod has already, in a pod whose VM has the image and has had volumes; and the
first container of a new pod, whose VM gets the image, too. In turns, within one run."""
import contextlib
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
from exits import lab_only  # noqa: E402
from mapper_node import cpu_split, open_bench, payload_of, pod_of  # noqa: E402
from table import Report, median, print_table, spread  # noqa: E402

ROUNDS, CALLS = int(os.environ.get("BENCH_ROUNDS", "5")), 4
VOLUMES, FILES = 20, 3
SETTLE_S = 0.3  # the regions of the one before go


class Creating:
    def __init__(self, b, pod):
        self.b, self.pod, self.n = b, pod, 0
        self.shared = self.volumes(VOLUMES)
        b.create(pod, "first", self.shared)

    def volumes(self, n):
        return [(self.b.volume(payload_of(FILES)), f"/v/{i}") for i in range(n)]

    def first(self, volumes):
        """The same in a pod of its own, which has nothing yet."""
        self.n += 1
        mounts, pod = self.volumes(volumes), self.b.cri.run_pod(f"fresh{self.n}", timeout=300)
        time.sleep(SETTLE_S)
        start = time.monotonic_ns()
        self.b.create(pod, "first", mounts)
        took = time.monotonic_ns() - start
        self.b.cri.remove_pod(pod[0])
        return {"ns": took, "cpu": {"vcpu": 0, "nexus-vmm": 0, "nexusd": 0}}

    def once(self, mounts):
        """{ns, processor time} of one CreateContainer."""
        self.n += 1
        before, start = cpu_split(self.b.node), time.monotonic_ns()
        cid = self.b.create(self.pod, f"c{self.n}", mounts)
        took, after = time.monotonic_ns() - start, cpu_split(self.b.node)
        self.b.cri.RemoveContainer(container_id=cid, timeout=60)
        time.sleep(SETTLE_S)
        return {"ns": took, "cpu": {k: after[k] - before[k] for k in after}}

    def one_round(self):
        out = {"none": [], "1": [], str(VOLUMES): [], "shared": []}
        for _ in range(CALLS):
            out["none"].append(self.once([]))
            out[str(VOLUMES)].append(self.once(self.volumes(VOLUMES)))
            out["1"].append(self.once(self.volumes(1)))
            out["shared"].append(self.once(self.shared))
        out["fresh none"] = [self.first(0)]
        out["fresh"] = [self.first(VOLUMES)]
        return out


def ms(samples):
    return median(s["ns"] for s in samples) / 1e6


def cpu_text(samples):
    return "/".join(f"{median(s['cpu'][k] for s in samples) / 1e6:.1f}" for k in ("vcpu", "nexus-vmm", "nexusd"))


def main():
    lab_only()
    report = Report("mapper_create")
    with contextlib.ExitStack() as stack:
        b = open_bench(stack)
        with pod_of(b, "create") as pod:
            c = Creating(b, pod)
            c.one_round()  # warm
            rounds = []
            for n in range(ROUNDS):
                rounds.append(c.one_round())
                print(f"round {n}: " + ", ".join(f"{k} {ms(v):.1f} ms (guest/nexus-vmm/nexusd {cpu_text(v)})"
                                                 for k, v in rounds[-1].items()), flush=True)
    report.raw["rounds"] = rounds
    for key, text, aim in ((str(VOLUMES), f"{VOLUMES} mapped volumes, new in a running pod", 1.5),
                           ("1", "1 mapped volume, new in a running pod", None),
                           ("shared", f"{VOLUMES} mapped volumes that the pod has already", None)):
        ratios = [ms(r[key]) / ms(r["none"]) for r in rounds]
        report.row(f"CreateContainer with {text}", f"{median(ms(r[key]) for r in rounds):.1f} ms",
                   f"none {median(ms(r['none']) for r in rounds):.1f} ms", spread(ratios), f"<= {aim}" if aim else "",
                   median(ratios) <= aim if aim else None)
    ratios = [ms(r["fresh"]) / ms(r["fresh none"]) for r in rounds]
    report.row(f"CreateContainer with {VOLUMES} mapped volumes, first container of a pod", f"{median(ms(r['fresh']) for r in rounds):.1f} ms",
               f"none {median(ms(r['fresh none']) for r in rounds):.1f} ms", spread(ratios), "<= 1.5", median(ratios) <= 1.5)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
