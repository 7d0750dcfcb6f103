# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""The memory mapper: reading a mapped Secret by path, as an application does, beside virtio-fs; quiet, and while the
host changes the volume every 100 ms.

The reference is QEMU -M q35 with KVM, the same guest kernel, memory and vCPUs, and the virtiofsd of Debian's
qemu-system-common; both guests run the same program (guest/volume-reader.c) on the same directory. virtiofsd with
cache=auto (its default) lets the guest trust names and attributes for one second, so a read may be stale that long;
cache=none asks the host each time. In turns, within one run.

While the volume changes there are two ratios. To the readers' quiet figure: that has the writer's own work in it, where
readers and host share processors (the lab has one for all). To the same readers beside the same writer that changes a
volume of the same shape which no pod has: the difference between those two is what the mapper does. The host has been
changing the volume for SETTLE_S when a window begins, so nexusd's burst of updates at once (mapper.update_burst) is over."""
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import qemu_guest  # noqa: E402
from exits import lab_only  # noqa: E402
from mapper_node import Changing, open_bench, payload_of, pod_of  # noqa: E402
from table import Report, median, print_table, spread  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
WINDOW_MS, FILES, PROCESSES = 2000, 100, (1, 8, 64)
MEMORY_MB = 256
SETTLE_S = 4


# ---- reading

def one_read(where, processes):
    """where: a function that runs volume-reader. One window's figures."""
    r = json.loads(where("read", "/creds", str(FILES), str(processes), str(WINDOW_MS)))
    if r["failed"]:
        raise RuntimeError(f"reads failed: {r}")
    return {**r, "per_s": r["reads"] / (r["ns"] / 1e9)}


def generation_of(b, cid):
    return json.loads(b.cri.ContainerStatus(container_id=cid, verbose=True).info["info"])["volumes"][0]["generation"]


def while_changing(b, cid, writer, where, processes):
    """One window, and what was made and what reached the container in it."""
    with Changing(writer, FILES) as c:
        time.sleep(SETTLE_S)
        made, reached = c.made, generation_of(b, cid)
        got = one_read(where, processes)
        return got, c.made - made, generation_of(b, cid) - reached


def read_rounds(b, cid, watched, other, guests):
    """{(what, processes): [window per round]}, generations (made, reached)"""
    out, generations = {}, []

    def ours(*arguments):
        return b.out(cid, "/bin/volume-reader", *arguments)
    for n in range(ROUNDS):
        for p in PROCESSES:
            got = {"ours": one_read(ours, p)}
            for name, g in guests.items():
                got[name] = one_read(g.run, p)
            got["other changes"], other_made, _ = while_changing(b, cid, other, ours, p)
            got["changing"], made, reached = while_changing(b, cid, watched, ours, p)
            generations.append({"processes": p, "made": made, "made of the other": other_made, "reached": reached})
            time.sleep(2)  # the last generation arrives
            if p == PROCESSES[-1]:
                for name, g in guests.items():
                    with Changing(watched, FILES):
                        got[f"{name}, changing"] = one_read(g.run, p)
            for name, r in got.items():
                out.setdefault((name, p), []).append(r)
            print(f"round {n}, {p} readers: " + "; ".join(f"{name} {r['per_s']:.0f}/s p99 {r['p99'] / 1e3:.0f} us"
                                                       for name, r in got.items()), flush=True)
    return out, generations


def ratios_of(out, what, against, p, key="per_s"):
    return [a[key] / b[key] for a, b in zip(out[what, p], out[against, p])]


def measure(b, pod, report):
    """{(what, processes): [window per round]}"""
    watched, other = b.volume(payload_of(FILES)), b.volume(payload_of(FILES))
    memory = json.loads(b.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"]).get("memoryBytes", MEMORY_MB << 20)
    cid = b.container(pod, "reader", [(watched, "/creds")])
    with tempfile.TemporaryDirectory() as tmp, contextlib.ExitStack() as stack:
        image = qemu_guest.build_initramfs(pathlib.Path(tmp) / "initramfs")
        guests = {}
        for cache in ("auto", "none"):
            g = stack.enter_context(qemu_guest.Guest(image, memory=memory >> 20, share=watched.dir, cache=cache))
            g.mount("virtiofs", "share", "/creds")
            guests[f"virtiofs cache={cache}"] = g
        out, generations = read_rounds(b, cid, watched, other, guests)
    b.remove(cid)
    report.raw["reading"] = {f"{name}, {p} readers": r for (name, p), r in out.items()}
    report.raw["generations in a window"] = generations
    for p in PROCESSES:
        made, other_made, reached = (median(g[k] for g in generations if g["processes"] == p)
                                     for k in ("made", "made of the other", "reached"))
        report.row(f"{p} readers, new generations in a window of 2 s: made by the host / in the container", f"{made:.0f} / {reached:.0f}",
                   f"{other_made:.0f} of a volume that no pod has", "-", "", None)
    return out, list(guests)


def rows_quiet(report, out, guests):
    for p in PROCESSES:
        for name in guests:
            for key, text, unit in (("per_s", "reads/s", 1), ("p99", "p99, us", 1e3)):
                a, r = (median(x[key] / unit for x in out[w, p]) for w in ("ours", name))
                ratios = ratios_of(out, "ours", name, p, key)
                aimed = p == 64 and key == "per_s"
                report.row(f"{p} readers of {FILES} files, {text}", f"{a:.0f}", f"{r:.0f} ({name})",
                           spread(ratios, 1 if key == "per_s" else 3), ">= 10" if aimed else "",
                           median(ratios) >= 10 if aimed else None)


def rows_changing(report, out, guests):
    for p in PROCESSES:
        for against, text, reference in (("ours", "against no writer: the writer's own work is in it", "quiet"),
                                         ("other changes", "against a volume that no pod has: what the mapper costs", "same writer")):
            ratios = ratios_of(out, "changing", against, p)
            report.row(f"{p} readers, the host changes their volume every 100 ms, reads/s, {text}",
                       f"{median(x['per_s'] for x in out['changing', p]):.0f}",
                       f"{reference} {median(x['per_s'] for x in out[against, p]):.0f}", spread(ratios),
                       ">= 0.9", median(ratios) >= 0.9)
            report.row("  p99, us", f"{median(x['p99'] for x in out['changing', p]) / 1e3:.0f}",
                       f"{reference} {median(x['p99'] for x in out[against, p]) / 1e3:.0f}",
                       spread(ratios_of(out, "changing", against, p, "p99")), "", None)
    p = PROCESSES[-1]
    for name in guests:
        report.row(f"  {p} readers of {name}, reads/s", f"{median(x['per_s'] for x in out[f'{name}, changing', p]):.0f}",
                   f"quiet {median(x['per_s'] for x in out[name, p]):.0f}", spread(ratios_of(out, f"{name}, changing", name, p)),
                   "", None)


def main():
    lab_only()
    report = Report("mapper")
    with contextlib.ExitStack() as stack:
        b = open_bench(stack)
        with pod_of(b, "mapper") as pod:
            out, guests = measure(b, pod, report)
    rows_quiet(report, out, guests)
    rows_changing(report, out, guests)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
