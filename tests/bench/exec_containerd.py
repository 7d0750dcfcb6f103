# SPDX-License-Identifier: Apache-2.0
# needs: lab
# packages: containerd runc
"""ExecSync of /bin/true through nexusd beside containerd and runc (Debian's packages): the same image, the same client
(tests/fakes/grpc-load), in turns within one run, and what each exec costs the host's processors.

Host CPU of ours: nexusd and nexus-vmm without its vCPU threads; of the reference: the cgroup that containerd, its shims and
their runc are in, without the container's own. The rows below have both. In the lab the outer VM is emulated, and the guest
of a guest pays for every exit and every page of its own in emulated SVM, while runc runs as any other program of
the outer VM: what the guest does is dearer there than on a machine with KVM of its own."""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import cri  # noqa: E402
import node as nodelib  # noqa: E402
import ocimage  # noqa: E402
from containerd_node import Containerd, forks  # noqa: E402
from exits import lab_only  # noqa: E402
from mapper_node import cpu_split  # noqa: E402
from table import Report, median, p99, print_table, spread  # noqa: E402

ROUNDS, CALLS = int(os.environ.get("BENCH_ROUNDS", "8")), 15
LOAD = ROOT / "build/host/tests/fakes/grpc-load"


def load(socket, calls, cid):
    out = subprocess.run([LOAD, "--exec", socket, str(calls), cid, "/bin/true"], check=True, capture_output=True).stdout
    return json.loads(out)["latency_ns"]


def our_cpu(node):
    used = cpu_split(node)
    return {"host": used["nexusd"] + used["nexus-vmm"], "container": used["vcpu"]}


def turn(socket, cid, cpu_now):
    """One turn of one runtime: times, and per exec: CPU of the host's part and of the container's, forks."""
    before, forked = cpu_now(), forks()
    ns = load(socket, CALLS, cid)
    after, forked = cpu_now(), forks() - forked - 1  # the client itself
    return {"ns": ns, "forks": forked / CALLS, **{k: (after[k] - before[k]) / CALLS for k in after}}


def measure(sides):
    """sides: {name: (socket, container, cpu_now)}. {name: [turn]}"""
    out = {name: [] for name in sides}
    for socket, cid, _ in sides.values():
        load(socket, 3, cid)  # warm
    for n in range(ROUNDS):
        for name, side in sides.items():
            out[name].append(turn(*side))
        print(f"round {n}: " + "; ".join(f"{name} p50 {median(t[-1]['ns']) / 1e6:.1f} ms, host CPU {t[-1]['host'] / 1e6:.2f} ms, "
                                         f"container or guest {t[-1]['container'] / 1e6:.2f} ms, {t[-1]['forks']:.1f} forks"
                                         for name, t in out.items()), flush=True)
    return out


def rows(report, out):
    a, b = out["nexusd"], out["containerd"]
    ms = {name: [x / 1e6 for t in turns for x in t["ns"]] for name, turns in out.items()}
    ratios = [median(x["ns"]) / median(y["ns"]) for x, y in zip(a, b)]
    report.row("ExecSync /bin/true, p50 / p99", f"{median(ms['nexusd']):.1f} / {p99(ms['nexusd']):.1f} ms",
               f"containerd + runc {median(ms['containerd']):.1f} / {p99(ms['containerd']):.1f} ms", spread(ratios, 3), "<= 0.5",
               median(ratios) <= 0.5)
    whole = [[t["host"] + t["container"] for t in turns] for turns in (a, b)]
    for text, (x, y), aim in (("host CPU per exec", [[t["host"] for t in turns] for turns in (a, b)], 0.2),
                              ("  with the guest's and the container's own", whole, None)):
        ratios = [i / j for i, j in zip(x, y)]
        report.row(text, f"{median(x) / 1e6:.2f} ms", f"{median(y) / 1e6:.2f} ms", spread(ratios, 3), f"<= {aim}" if aim else "",
                   median(ratios) <= aim if aim else None)
    x, y = ([t["forks"] for t in turns] for turns in (a, b))
    report.row("  processes and threads started on the host per exec", f"{median(x):.1f}", f"{median(y):.1f}", "-", "0",
               median(x) < 0.1)


def main():
    lab_only()
    report = Report("exec_containerd")
    with ocimage.Registry() as registry:
        ref = registry.push("bench/exec", "latest", ocimage.busybox_image())
        image = cri.pb.ImageSpec(image=ref)
        with nodelib.Node(insecure=[registry.address]) as node, Containerd(registry) as containerd:
            sides = {}
            for name, side, run_pod, cpu_now in (("nexusd", node, node.cri.run_pod, lambda: our_cpu(node)),
                                                 ("containerd", containerd, containerd.run_pod, containerd.cpu_ns)):
                side.cri.PullImage(image=image, timeout=300)
                cid = side.cri.run(run_pod("exec"), "main", ref, ["/bin/sleep", "1000000"])
                sides[name] = (side.socket, cid, cpu_now)
            out = measure(sides)
            for side in (node, containerd):
                for pod in side.cri.ListPodSandbox().items:
                    side.cri.remove_pod(pod.id)
    report.raw["turns"] = out
    rows(report, out)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
