# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of the memory mapper share: a node with kubelet's directory on a tmpfs, as kubelet has it for
secrets, an image with the programs of tests/bench/guest, and what nexusd's and nexus-vmm's threads have used."""
import contextlib
import os
import pathlib
import subprocess
import tempfile
import threading
import time

import node as nodelib
import ocimage
import qemu_guest
from atomic_writer import AtomicWriter, kubelet_volume
from cri import pb

PACE_S = 0.1
PROGRAMS = ("volume-reader", "volume-watcher")


def layer_of_programs():
    layer = ocimage.Layer()
    for name in PROGRAMS:
        layer.file(f"/bin/{name}", (qemu_guest.PROGRAMS / name).read_bytes(), 0o755)
    return layer


class Bench:
    def __init__(self, stack, registry, layers=(), root=None, mapper=""):
        """layers: more of the image; root: where the node keeps its state; mapper: a line of that section of the configuration."""
        self.kubelet = pathlib.Path(tempfile.mkdtemp(prefix="nexus-kubelet-"))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.kubelet], check=True)
        stack.callback(os.rmdir, self.kubelet)
        stack.callback(subprocess.run, ["umount", "-R", self.kubelet], check=True)
        self.node = stack.enter_context(nodelib.Node(insecure=[registry.address], root=root,
                                                     config=f"mapper:\n  kubelet_root: {self.kubelet}\n  {mapper}\n"))
        self.cri, self.writers, self.registry = self.node.cri, 0, registry
        self.image = self.pull("bench/mapper", [layer_of_programs(), *layers])

    def pull(self, name, layers):
        ref = self.registry.push(name, "latest", ocimage.busybox_image(layers))
        self.cri.PullImage(image=pb.ImageSpec(image=ref), timeout=600)
        return ref

    def volume(self, payload):
        self.writers += 1
        w = AtomicWriter(kubelet_volume(self.kubelet, "uid", "secret", f"s{self.writers}"))
        w.write(payload)
        return w

    def create(self, pod, name, mounts=(), image=None, **more):
        """mounts: (writer, place). Its id."""
        return self.cri.create(pod, name, image or self.image, ["/bin/sleep", "1000000"],
                               mounts=[(w.dir, where, True) for w, where in mounts], **more)

    def container(self, pod, name, mounts=(), image=None, **more):
        cid = self.create(pod, name, mounts, image, **more)
        self.cri.StartContainer(container_id=cid, timeout=60)
        return cid

    def remove(self, cid):
        self.cri.StopContainer(container_id=cid, timeout=60)
        self.cri.RemoveContainer(container_id=cid, timeout=60)

    def out(self, cid, *command):
        code, out, err = self.cri.exec(cid, *command, timeout=120)
        if code:
            raise RuntimeError(f"{command}: {code}: {err.decode(errors='replace')}")
        return out.decode()


def open_bench(stack, layers=(), root=None, mapper=""):
    registry = stack.enter_context(ocimage.Registry())
    return Bench(stack, registry, layers, root, mapper)


@contextlib.contextmanager
def pod_of(bench, name, **more):
    """A pod with a container, so that the image stays in its VM while others come and go."""
    pod = bench.cri.run_pod(name, timeout=300, **more)
    bench.container(pod, "keeper")
    yield pod
    bench.cri.remove_pod(pod[0])


def payload_of(files, generation=0):
    return {f"f{i}": (f"{generation:08d}-{i:03d}-".encode() * 5, 0o400) for i in range(files)}


class Changing:
    """with Changing(writer, files): its volume has a new generation every 100 ms; .made counts them."""

    def __init__(self, writer, files):
        self.writer, self.files, self.over, self.made = writer, files, threading.Event(), 0
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        due = time.monotonic()
        while not self.over.is_set():
            self.made += 1
            self.writer.write(payload_of(self.files, self.made + int(due * 1000)))
            due = max(due + PACE_S, time.monotonic())
            self.over.wait(due - time.monotonic())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def cpu_ns(pid):
    """{thread's name: ns on a processor} of a process."""
    used = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            used[name] = used.get(name, 0) + int((task / "schedstat").read_text().split()[0])
        except OSError:
            pass  # it has ended
    return used


def cpu_split(node):
    """ns so far: the guest's processors, the rest of nexus-vmm, nexusd."""
    out = {"vcpu": 0, "nexus-vmm": 0, "nexusd": sum(cpu_ns(node.pid).values())}
    for pid in node.vmm_pids():
        for name, ns in cpu_ns(pid).items():
            out["vcpu" if "vcpu" in name else "nexus-vmm"] += ns
    return out
