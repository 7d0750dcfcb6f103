# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""The memory mapper: reading a mapped Secret by path, as an application does, beside virtio-fs; quiet, and while the
host changes the volume every 100 ms.

The reference is QEMU -M q35 with KVM, the same guest kernel, memory and vCPUs, and the virtiofsd of Debian's
qemu-system-common; both guests run the same program (guest/volume-reader.c) on the same directory. virtiofsd with
cache=auto (its default) lets the guest trust names and attributes for one second, so a read may be stale that long;
cache=none asks the host each time. In turns, within one run. Where readers and the host share processors, as in
the lab with its one, the writer's own work takes from the readers: so a volume that no pod has is changed at the
same pace for comparison."""
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


# ---- reading

def one_read(where, processes):
    """where: a function that runs volume-reader. One window's figures."""
    r = json.loads(where("read", "/creds", str(FILES), str(processes), str(WINDOW_MS)))
    if r["failed"]:
        raise RuntimeError(f"reads failed: {r}")
    return {**r, "per_s": r["reads"] / (r["ns"] / 1e9)}


def read_rounds(b, cid, watched, other, guests):
    """{(what, processes): [window per round]}, generations made"""
    out, made = {}, []

    def ours(*arguments):
        return b.out(cid, "/bin/volume-reader", *arguments)
    for n in range(ROUNDS):
        for p in PROCESSES:
            got = {"ours": one_read(ours, p)}
            for name, g in guests.items():
                got[name] = one_read(g.run, p)
            with Changing(other, FILES):
                got["other changes"] = one_read(ours, p)
            with Changing(watched, FILES) as c:
                got["changing"] = one_read(ours, p)
                made.append(c.made)
            time.sleep(1)  # the last generation arrives
            if p == PROCESSES[-1]:
                for name, g in guests.items():
                    with Changing(watched, FILES):
                        got[f"{name}, changing"] = one_read(g.run, p)
            for name, r in got.items():
                out.setdefault((name, p), []).append(r)
            print(f"round {n}, {p} readers: " + "; ".join(f"{name} {r['per_s']:.0f}/s p99 {r['p99'] / 1e3:.0f} us"
                                                       for name, r in got.items()), flush=True)
    return out, made


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
        out, made = read_rounds(b, cid, watched, other, guests)
    b.remove(cid)
    report.raw["reading"] = {f"{name}, {p} readers": r for (name, p), r in out.items()}
    report.raw["generations made in a window"] = made
    report.row("generations made by the host in a window of 2 s", f"{median(made):.0f}", "-", "-", "", None)
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
        for against, text, aimed in (("ours", "quiet", True), ("other changes", "another volume changes", False)):
            ratios = ratios_of(out, "changing", against, p)
            report.row(f"{p} readers, volume changes every 100 ms, reads/s",
                       f"{median(x['per_s'] for x in out['changing', p]):.0f}",
                       f"{text} {median(x['per_s'] for x in out[against, p]):.0f}", spread(ratios),
                       ">= 0.9" if aimed else "", median(ratios) >= 0.9 if aimed else None)
        report.row("  p99, us", *(f"{median(x['p99'] for x in out[w, p]) / 1e3:.0f}" for w in ("changing", "ours")),
                   spread(ratios_of(out, "changing", "ours", p, "p99")), "", None)
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
