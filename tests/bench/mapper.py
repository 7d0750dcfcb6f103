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
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import node as nodelib  # noqa: E402
import ocimage  # noqa: E402
import qemu_guest  # noqa: E402
from atomic_writer import AtomicWriter, kubelet_volume  # noqa: E402
from cri import pb  # noqa: E402
from exits import lab_only  # noqa: E402
from table import Report, median, print_table  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
WINDOW_MS, FILES, PROCESSES = 2000, 100, (1, 8, 64)
PACE_S = 0.1
READER = qemu_guest.PROGRAMS / "volume-reader"
MEMORY_MB = 256


class Bench:
    """A node with one pod and kubelet's directory on a tmpfs, as kubelet has it for secrets."""

    def __init__(self, stack, registry):
        self.kubelet = pathlib.Path(tempfile.mkdtemp(prefix="nexus-kubelet-"))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.kubelet], check=True)
        stack.callback(os.rmdir, self.kubelet)
        stack.callback(subprocess.run, ["umount", "-R", self.kubelet], check=True)
        self.node = stack.enter_context(nodelib.Node(insecure=[registry.address],
                                                     config=f"mapper:\n  kubelet_root: {self.kubelet}\n"))
        self.cri, self.writers = self.node.cri, 0
        reader = ocimage.Layer().file("/bin/volume-reader", READER.read_bytes(), 0o755)
        self.image = registry.push("bench/mapper", "latest", ocimage.busybox_image([reader]))
        self.cri.PullImage(image=pb.ImageSpec(image=self.image), timeout=300)
        self.pod = self.cri.run_pod("mapper", timeout=300)
        self.memory_mb = json.loads(self.status()["info"]).get("memoryBytes", MEMORY_MB << 20) >> 20

    def status(self):
        return self.cri.PodSandboxStatus(pod_sandbox_id=self.pod[0], verbose=True).info

    def volume(self, payload):
        self.writers += 1
        w = AtomicWriter(kubelet_volume(self.kubelet, "uid", "secret", f"s{self.writers}"))
        w.write(payload)
        return w

    def container(self, name, mounts=(), **more):
        return self.cri.run(self.pod, name, self.image, ["/bin/sleep", "1000000"],
                            mounts=[(w.dir, where, True) for w, where in mounts], **more)

    def remove(self, cid):
        self.cri.StopContainer(container_id=cid, timeout=60)
        self.cri.RemoveContainer(container_id=cid, timeout=60)

    def out(self, cid, *command):
        code, out, err = self.cri.exec(cid, *command, timeout=120)
        if code:
            raise RuntimeError(f"{command}: {code}: {err.decode(errors='replace')}")
        return out.decode()


def payload_of(generation=0):
    return {f"f{i}": (f"{generation:08d}-{i:03d}-".encode() * 5, 0o400) for i in range(FILES)}


class Changing:
    """with Changing(writer): its volume has a new generation every 100 ms; .made counts them."""

    def __init__(self, writer):
        self.writer, self.over, self.made = writer, threading.Event(), 0
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        due = time.monotonic()
        while not self.over.is_set():
            self.made += 1
            self.writer.write(payload_of(self.made + int(due * 1000)))
            due = max(due + PACE_S, time.monotonic())
            self.over.wait(due - time.monotonic())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


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
            with Changing(other):
                got["other changes"] = one_read(ours, p)
            with Changing(watched) as c:
                got["changing"] = one_read(ours, p)
                made.append(c.made)
            time.sleep(1)  # the last generation arrives
            if p == PROCESSES[-1]:
                for name, g in guests.items():
                    with Changing(watched):
                        got[f"{name}, changing"] = one_read(g.run, p)
            for name, r in got.items():
                out.setdefault((name, p), []).append(r)
            print(f"round {n}, {p} readers: " + "; ".join(f"{name} {r['per_s']:.0f}/s p99 {r['p99'] / 1e3:.0f} us"
                                                       for name, r in got.items()), flush=True)
    return out, made


def ratio_of(out, what, against, p, key="per_s"):
    return median(a[key] / b[key] for a, b in zip(out[what, p], out[against, p]))


def part_read(b, report):
    watched, other = b.volume(payload_of()), b.volume(payload_of())
    cid = b.container("reader", [(watched, "/creds")])
    with tempfile.TemporaryDirectory() as tmp, contextlib.ExitStack() as stack:
        image = qemu_guest.build_initramfs(pathlib.Path(tmp) / "initramfs")
        guests = {}
        for cache in ("auto", "none"):
            g = stack.enter_context(qemu_guest.Guest(image, memory=b.memory_mb, share=watched.dir, cache=cache))
            g.mount("virtiofs", "share", "/creds")
            guests[f"virtiofs cache={cache}"] = g
        out, made = read_rounds(b, cid, watched, other, guests)
    b.remove(cid)
    report.raw["reading"] = {f"{name}, {p} readers": r for (name, p), r in out.items()}
    report.raw["generations made in a window"] = made
    for p in PROCESSES:
        for name in guests:
            for key, text, unit in (("per_s", "reads/s", 1), ("p99", "p99, us", 1e3)):
                a, r = (median(x[key] / unit for x in out[w, p]) for w in ("ours", name))
                ratio = ratio_of(out, "ours", name, p, key)
                aimed = p == 64 and key == "per_s"
                report.row(f"{p} readers of {FILES} files, {text}", f"{a:.0f}", f"{r:.0f} ({name})",
                           f"{ratio:.1f}" if key == "per_s" else f"{ratio:.3f}", ">= 10" if aimed else "",
                           ratio >= 10 if aimed else None)
    for p in PROCESSES:
        for against, text, aimed in (("ours", "quiet", True), ("other changes", "another volume changes", False)):
            ratio = ratio_of(out, "changing", against, p)
            report.row(f"{p} readers, volume changes every 100 ms, reads/s",
                       f"{median(x['per_s'] for x in out['changing', p]):.0f}",
                       f"{text} {median(x['per_s'] for x in out[against, p]):.0f}", f"{ratio:.2f}",
                       ">= 0.9" if aimed else "", ratio >= 0.9 if aimed else None)
    for name in guests:
        ratio = ratio_of(out, f"{name}, changing", name, PROCESSES[-1])
        report.row(f"  the same with {name}", f"{median(x['per_s'] for x in out[f'{name}, changing', PROCESSES[-1]]):.0f}",
                   f"quiet {median(x['per_s'] for x in out[name, PROCESSES[-1]]):.0f}", f"{ratio:.2f}", "", None)
    report.row("  generations made by the host in a window", f"{median(made):.0f}", "-", "-", "", None)


def main():
    lab_only()
    report = Report("mapper")
    with ocimage.Registry() as registry, contextlib.ExitStack() as stack:
        b = Bench(stack, registry)
        part_read(b, report)
        b.cri.remove_pod(b.pod[0])
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
