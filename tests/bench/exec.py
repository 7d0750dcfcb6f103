# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""ExecSync of /bin/true through nexusd, against its two parts that nobody can avoid: one echo round trip
over vsock (nexus-vmm's ping of the agent, measured in nexus-vmm: without any hop of the host), and fork,
exec and wait of the same program by a small static program in the same container. In turns, within
one run, on one pod. The client is C (tests/fakes/grpc-load)."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import cri  # noqa: E402
import grpc  # noqa: E402
import node as nodelib  # noqa: E402
import ocimage  # noqa: E402
import vmmcontrol  # noqa: E402
from exits import lab_only  # noqa: E402
from table import Report, median, p99, print_table  # noqa: E402

# short turns: what else runs on the machine meanwhile meets all of them alike
ROUNDS, CALLS = int(os.environ.get("BENCH_ROUNDS", "16")), 12
LOAD = ROOT / "build/host/tests/fakes/grpc-load"
FORK_EXEC = ROOT / "build/host/tests/bench/fork-exec"
nexus = vmmcontrol.nexus


class Echo:
    """Pings through a control connection. It takes the place of nexusd's, which is stopped meanwhile and
    connects again when it finds its own closed."""

    def __init__(self, node, pod):
        self.pid = node.pid
        os.kill(self.pid, signal.SIGSTOP)
        self.frames = vmmcontrol.Frames(str(node.run / f"vmm/{pod}.sock"))
        self.next_id = 0
        self.ask(hello=nexus.ControlHello(version=1))

    def ask(self, **body):
        self.next_id += 1
        self.frames.send(vmmcontrol.MESSAGE, nexus.ControlMessage(id=self.next_id, **body).SerializeToString())
        while True:
            _, value = self.frames.recv()
            got = nexus.ControlMessage.FromString(value)
            if got.id == self.next_id:
                return got

    def ping_ns(self):
        reply = self.ask(ping=nexus.Ping()).reply
        assert not reply.error_class, reply.message
        return {c.name: c.value for c in self.ask(get_state=nexus.GetState()).state.counters}["agent.ping_ns"]

    def close(self):
        self.frames.close()
        os.kill(self.pid, signal.SIGCONT)


def wait_connected(node, cid):
    """Until nexusd has its own connection back."""
    end = time.monotonic() + 60
    while True:
        try:
            return node.cri.exec(cid, "/bin/true")
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise
        time.sleep(0.1)


def pings(node, pod, cid, n):
    echo = Echo(node, pod)
    try:
        return [echo.ping_ns() for _ in range(n)]
    finally:
        echo.close()
        wait_connected(node, cid)


def load(*args):
    return json.loads(subprocess.run([LOAD, *map(str, args)], check=True, capture_output=True).stdout)["latency_ns"]


def measure(node, pod, cid):
    """{what: [ns]}"""
    out = {"exec": [], "echo": [], "fork_exec": [], "fork_exec_idle": [], "version": []}
    load("--exec", node.socket, 5, cid, "/bin/true")  # warm
    for n in range(ROUNDS):
        out["exec"] += load("--exec", node.socket, CALLS, cid, "/bin/true")
        out["echo"] += pings(node, pod, cid, CALLS)
        for key, pause_us in (("fork_exec", 0), ("fork_exec_idle", 10000)):
            code, text, err = node.cri.exec(cid, "/bin/fork-exec", str(CALLS), str(pause_us), "/bin/true", timeout=60)
            assert code == 0, err
            out[key] += json.loads(text)
        out["version"] += load(node.socket, CALLS, 1)
        print(f"round {n}: " + ", ".join(f"{k} {median(v[-CALLS:]) / 1e6:.2f} ms" for k, v in out.items()), flush=True)
    return out


def main():
    lab_only()
    report = Report("exec")
    with ocimage.Registry() as registry:
        extra = ocimage.Layer().file("/bin/fork-exec", FORK_EXEC.read_bytes(), 0o755)
        ref = registry.push("bench/exec", "latest", ocimage.busybox_image([extra]))
        with nodelib.Node(insecure=[registry.address]) as node:
            node.cri.PullImage(image=cri.pb.ImageSpec(image=ref), timeout=200)
            pod = node.cri.run_pod("exec", timeout=200)
            cid = node.cri.run(pod, "main", ref, ["/bin/sleep", "1000000"])
            out = measure(node, pod[0], cid)
            node.cri.remove_pod(pod[0])
    for key, values in out.items():
        report.samples(key, values, "ns")
    ms = {k: median(v) / 1e6 for k, v in out.items()}
    floor = ms["fork_exec"] + 3 * ms["echo"]
    report.row("ExecSync /bin/true, p50 / p99", f"{ms['exec']:.2f} / {p99(out['exec']) / 1e6:.2f} ms",
               f"3 echoes + fork/exec {floor:.2f} ms", f"{ms['exec'] / floor:.2f}", "<= 1", ms["exec"] <= floor)
    report.row("  over fork/exec, in vsock round trips", f"{(ms['exec'] - ms['fork_exec']) / ms['echo']:.1f}", "-", "-", "<= 3",
               ms["exec"] <= floor)
    report.row("  vsock echo, nexus-vmm ↔ agent", f"{ms['echo']:.2f} ms (p99 {p99(out['echo']) / 1e6:.2f})", "-", "-", "", None)
    report.row("  fork + exec + wait in the guest", f"{ms['fork_exec']:.2f} ms (p99 {p99(out['fork_exec']) / 1e6:.2f})", "-", "-", "",
               None)
    report.row("  the same after 10 ms of idleness", f"{ms['fork_exec_idle']:.2f} ms", "-", "-", "", None)
    report.row("  Version, the same client", f"{ms['version']:.2f} ms", "-", "-", "", None)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
