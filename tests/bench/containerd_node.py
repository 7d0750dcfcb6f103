# SPDX-License-Identifier: Apache-2.0
"""The reference for what a CRI runtime does: Debian's containerd with runc, roots of its own, the same CNI plugins.

    with Containerd(registry) as c: pod = c.cri.run_pod("x", handler="", linux=c.linux()); c.cpu_ns()

The packages are unpacked, not installed: a machine may have a containerd of its own. It runs in a cgroup of its own and
its pods below another, so that the kernel counts what all of its processes use, those that have ended too. Unified
cgroups; root."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import grpc

import node as nodelib
import ocimage
from cri import Cri, pb

CGROUPS = pathlib.Path("/sys/fs/cgroup")
DAEMON, PODS = CGROUPS / "bench-containerd", CGROUPS / "bench-pods"
PAUSE = nodelib.ROOT / "build/host/tests/bench/pause"
CONFIG = """
version = 2
root = "{root}/state"
state = "{root}/run"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{root}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  Root = "{root}/runc"
"""


def conflist(leases):
    """The network of our package, with a bridge and addresses of its own: both runtimes run side by side."""
    doc = json.loads(nodelib.CONFLIST.read_text())
    for plugin in doc["plugins"]:
        if plugin["type"] == "bridge":
            plugin["bridge"] = "reference0"
            plugin["ipam"].update(dataDir=str(leases), ranges=[[{"subnet": "10.89.0.0/16"}], [{"subnet": "fd88:6e65:7876::/64"}]])
    return doc


def usage_ns(cgroup):
    """CPU time of a cgroup and all below it, since it was made."""
    lines = (cgroup / "cpu.stat").read_text().splitlines()
    return 1000 * int(dict(line.split() for line in lines)["usage_usec"])


class Containerd:
    def __init__(self, registry, mirrors=None):
        """mirrors: host → [endpoint URL]"""
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="nexus-reference-"))
        self.socket, self.log = self.root / "containerd.sock", self.root / "log"
        pause = registry.push("bench/pause", "latest", ocimage.Image([ocimage.Layer().file("/pause", PAUSE.read_bytes(), 0o755)],
                                                                     entrypoint=["/pause"]))
        (self.root / "cni").mkdir()
        (self.root / "cni/10-reference.conflist").write_text(json.dumps(conflist(self.root / "leases")))
        runc = ocimage.unpacked("runc") / "usr/sbin/runc"
        text = CONFIG.format(root=self.root, socket=self.socket, pause=pause, runc=runc)
        for host, endpoints in (mirrors or {}).items():
            text += f'[plugins."io.containerd.grpc.v1.cri".registry.mirrors."{host}"]\n  endpoint = {json.dumps(endpoints)}\n'
        (self.root / "config.toml").write_text(text)
        self.proc = self.cri = None

    @staticmethod
    def join():
        (DAEMON / "cgroup.procs").write_text("0")

    @property
    def pid(self):
        return self.proc.pid

    def start(self):
        for c in (DAEMON, PODS):
            c.mkdir(exist_ok=True)
        programs = ocimage.unpacked("containerd") / "usr/bin"
        env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}  # the shim
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([programs / "containerd", "--config", self.root / "config.toml"], stdout=log, stderr=log,
                                         stdin=subprocess.DEVNULL, preexec_fn=self.join, env=env)
        end = time.monotonic() + 120
        while not self.socket.exists():
            self.check(end)
        self.cri = Cri(f"unix://{self.socket}", timeout=300)
        while True:
            try:
                status = self.cri.Status(timeout=30).status
                if all(c.status for c in status.conditions):
                    return self
            except grpc.RpcError:
                pass
            self.check(end)

    __enter__ = start

    def check(self, end):
        if self.proc.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"containerd does not come up:\n{self.log_tail()}")
        time.sleep(0.1)

    def log_tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __exit__(self, *exc):
        if exc[0] is not None:
            print(f"---- last lines of containerd's log\n{self.log_tail()}\n----", flush=True)
        self.stop()

    def stop(self):
        """Its shims outlive it: all that is in its two cgroups ends with it."""
        if self.cri:
            self.cri.close()
        self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            pass
        for c in (DAEMON, PODS):
            (c / "cgroup.kill").write_text("1")
        self.proc.wait()
        subprocess.run(f"grep -F {self.root} /proc/self/mounts | cut -d' ' -f2 | sort -r | xargs -r umount -l", shell=True, check=False)
        shutil.rmtree(self.root, ignore_errors=True)

    def run_pod(self, name, **more):
        linux = pb.LinuxPodSandboxConfig(cgroup_parent=f"/{PODS.name}")
        return self.cri.run_pod(name, handler="", linux=linux, timeout=300, **more)

    def cpu_ns(self):
        """containerd, its shims and their runc; what is in the containers' cgroups."""
        return {"host": usage_ns(DAEMON), "container": usage_ns(PODS)}

    def daemons(self):
        """Process ids of containerd and its shims."""
        return [int(p) for p in (DAEMON / "cgroup.procs").read_text().split()]


def forks():
    """Processes and threads that this machine has ever started."""
    lines = pathlib.Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("processes "))
