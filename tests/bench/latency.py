# SPDX-License-Identifier: Apache-2.0
"""Version and ListPodSandbox while a CNI plugin hangs in an ADD and an image of 100 MB is pulled from a
registry on this machine, again and again, against the same node idle; and while 20 more pods start at once,
again and again (records are written, children work in namespaces, fake VMs boot). One call every 2 ms, from another
process; 20 sandboxes are listed. In turns within one run, in network and mount namespaces of its own.
The registry competes for the processors too, as none does on a node: it is given the lowest priority,
so that what is measured is the pull. Two bare processes that send 200 bytes there and back at the same pace show
how much of it is the machine's: with two processors, and a kernel that does not preempt its own work, whoever
wakes up waits for a pull that is just writing."""
import json
import os
import pathlib
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import cri  # noqa: E402
import fakenode  # noqa: E402
import pull as pullbench  # noqa: E402
from ocimage import Image, Registry  # noqa: E402
from table import Report, median, p99, print_table  # noqa: E402

ROUNDS, CALLS, PACE_US, PODS = int(os.environ.get("BENCH_ROUNDS", "5")), 1500, 2000, 20
LOAD = ROOT / "build/host/tests/fakes/grpc-load"
FLOOR = "two bare processes"
METHODS = ("Version", "ListPodSandbox", FLOOR)


def calls(node, method):
    command = ["--pace", str(PACE_US), node.root / "run/nexusd.sock", str(CALLS), method]
    if method == FLOOR:
        command = ["--floor", str(CALLS), str(PACE_US)]
    out = subprocess.run([LOAD, *command], check=True, capture_output=True)
    return json.loads(out.stdout)["latency_ns"]


class Pulling:
    """with Pulling(node, ref): pulls and removes the image over and over; .pulls counts."""

    def __init__(self, node, ref):
        self.node, self.image, self.pulls, self.error = node, cri.pb.ImageSpec(image=ref), 0, None
        self.over, self.begun = threading.Event(), threading.Event()
        self.cri = cri.Cri(f"unix://{node.root}/run/nexusd.sock")
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self.over.is_set():
                call = self.cri.PullImage(image=self.image, timeout=200, future=True)
                self.begun.set()
                call.result()
                self.pulls += 1
                self.cri.RemoveImage(image=self.image, timeout=200)
        except Exception as e:  # pylint: disable=broad-except
            self.error = e
            self.begun.set()

    def __enter__(self):
        self.thread.start()
        self.begun.wait()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.cri.close()
        if self.error:
            raise self.error


class Starting:
    """with Starting(node): PODS pods are started at once and removed, over and over; .pods counts. What they
    compete for is the processors, too: the ratio has no target."""

    def __init__(self, node, number):
        self.node, self.number, self.pods, self.error = node, number, 0, None
        self.over, self.begun = threading.Event(), threading.Event()
        self.cri = cri.Cri(f"unix://{node.root}/run/nexusd.sock")
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self.over.is_set():
                calls_ = [self.cri.RunPodSandbox(config=self.cri.pod_config(f"start-{self.number}-{self.pods}-{n}"),
                                                 future=True, timeout=200) for n in range(PODS)]
                self.begun.set()
                for pod in [c.result().pod_sandbox_id for c in calls_]:
                    self.cri.remove_pod(pod)
                self.pods += PODS
        except Exception as e:  # pylint: disable=broad-except
            self.error = e
            self.begun.set()

    __enter__ = Pulling.__enter__
    __exit__ = Pulling.__exit__


class Hanging:
    """with Hanging(node): one RunPodSandbox is in a CNI plugin that does not end."""

    def __init__(self, node, number):
        self.node, self.name = node, f"hanging-{number}"

    def __enter__(self):
        (self.node.root / "evil/hanging").unlink(missing_ok=True)
        self.node.set_cni([{"type": "cni-evil", "evil": {"ADD": "hang", "state": str(self.node.root / "evil")}}])
        self.call = self.node.cri.RunPodSandbox(config=self.node.cri.pod_config(self.name), future=True, timeout=600)
        fakenode.wait_for(lambda: (self.node.root / "evil/hanging").exists(), why="the plugin hangs")
        return self

    def __exit__(self, *_):
        assert not self.call.done(), f"the plugin did not hang all the time: {self.call.exception()}"
        self.call.cancel()


def rounds(node, ref):
    """{(method, "idle"|"busy"|"starting"): [[ns]...] per round}, pulls, pods"""
    out = {(m, k): [] for m in METHODS for k in ("idle", "busy", "starting")}
    pulls = pods = 0
    for m in METHODS:
        calls(node, m)  # warm
    for n in range(ROUNDS):
        for m in METHODS:
            out[m, "idle"].append(calls(node, m))
        with Hanging(node, n), Pulling(node, ref) as p:
            for m in METHODS:
                out[m, "busy"].append(calls(node, m))
            pulls += p.pulls
        node.set_cni(node.ptp())
        with Starting(node, n) as p:
            for m in METHODS:
                out[m, "starting"].append(calls(node, m))
            pods += p.pods
        print(f"round {n}: " + ", ".join(f"{m} p99 {p99(out[m, 'idle'][-1]) / 1e3:.0f} → {p99(out[m, 'busy'][-1]) / 1e3:.0f} us"
                                         for m in METHODS) + f", {pulls} pulls, {pods} pods", flush=True)
    return out, pulls, pods


def main():
    report = Report("latency")
    registry = Registry()
    with registry:
        for task in os.listdir(f"/proc/{registry.proc.pid}/task"):
            os.sched_setscheduler(int(task), os.SCHED_IDLE, os.sched_param(0))
        ref = registry.push("bench/pull", "latest", Image(pullbench.system_layers()))
        config = {"log": {"level": "info"}, "network": {"timeout": "600s"}}
        with fakenode.Node(own_network=False, scratch="16M", config=config,
                           registries=[(registry.address, f"http://{registry.address}")]) as node:
            for n in range(PODS):
                node.cri.run_pod(f"pod-{n}", timeout=100)
            out, pulls, pods = rounds(node, ref)
    report.note(f"{pulls} pulls, {pods} pods started")
    for m in METHODS:
        idle, busy = out[m, "idle"], out[m, "busy"]
        starting = out[m, "starting"]
        for kind in ("idle", "busy", "starting"):
            report.samples(f"{m} {kind}", [x for r in out[m, kind] for x in r], "ns")
        ratio = median(p99(b) / p99(i) for i, b in zip(idle, busy))
        report.row(f"{m} p99, CNI hanging and a pull running", f"{median(map(p99, busy)) / 1e3:.0f} us",
                   f"idle {median(map(p99, idle)) / 1e3:.0f} us", f"{ratio:.2f}", "<= 2", ratio <= 2)
        report.row("  p50", f"{median(map(median, busy)) / 1e3:.0f} us", f"idle {median(map(median, idle)) / 1e3:.0f} us",
                   f"{median(median(b) / median(i) for i, b in zip(idle, busy)):.2f}", "", None)
        report.row(f"{m} p99, {PODS} pods starting", f"{median(map(p99, starting)) / 1e3:.0f} us",
                   f"idle {median(map(p99, idle)) / 1e3:.0f} us",
                   f"{median(p99(b) / p99(i) for i, b in zip(idle, starting)):.2f}", "", None)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    if "BENCH_INSIDE" not in os.environ:
        os.environ["BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c",
                              'ip link set lo up; exec "$@"', "sh", sys.executable, *sys.argv])
    main()
