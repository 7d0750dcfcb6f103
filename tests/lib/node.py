# SPDX-License-Identifier: Apache-2.0
"""One node under test: nexusd with roots of its own, the real CNI plugins, real or fake nexus-vmm.

    with Node(insecure=["127.0.0.1:5000"]) as node:
        node.cri.Version(version="0.1.0"); node.kill9(); node.start(); assert not node.census()

Everything lives below one temporary folder, but for what the kernel keeps elsewhere: links and addresses
of the node's network namespace, iptables rules, cgroups. Needs root; tests run it in the lab."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import grpc

from cri import Cri

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("NEXUS_BUILD", "build/host")
BRIDGE = "nexus0"
CONFLIST = ROOT / "packaging/cni/10-nexus.conflist"


class Node:
    def __init__(self, mirrors=None, insecure=(), fake_vmm=False, conflist=CONFLIST, bin_dirs=("/usr/lib/cni",), env=None,
                 config="", root=None, vm_arguments=(), build=BUILD, modules=ROOT / "build/guest/modules.erofs"):
        """mirrors: host → [endpoint URL]; insecure: hosts that speak plain HTTP; config: more YAML text.
        conflist: a file, a dict, or None for a node without a network."""
        self.own_root = root is None
        self.root = pathlib.Path(root or tempfile.mkdtemp(prefix="nexus-node-"))
        self.state, self.run, self.logs = self.root / "state", self.root / "run", self.root / "logs"
        self.cni, self.netns, self.leases = self.root / "cni", self.root / "netns", self.root / "leases"
        self.socket = self.run / "nexusd.sock"
        self.address = f"unix://{self.socket}"
        self.log_path = self.root / "nexusd.log"
        self.build, self.modules = build, modules
        self.env = {**os.environ, **(env or {})}
        self.proc = self.cri = None
        for d in (self.state, self.run, self.logs, self.cni, self.netns):
            d.mkdir(parents=True, exist_ok=True)
        self.write_conflist(conflist)
        vmm = self.build / ("tests/fakes/fake-vmm" if fake_vmm else "src/vmm/nexus-vmm")
        self.config_path = self.root / "nexusd.yaml"
        self.config_path.write_text(self.config_text(mirrors or {}, insecure, vmm, bin_dirs, vm_arguments) + config)
        self.before = self.kernel_objects()

    def write_conflist(self, conflist):
        for old in self.cni.iterdir():
            old.unlink()
        if conflist is None:
            return
        doc = conflist if isinstance(conflist, dict) else json.loads(pathlib.Path(conflist).read_text())
        for plugin in doc["plugins"]:
            if "ipam" in plugin and plugin["ipam"].get("type") == "host-local":
                plugin["ipam"]["dataDir"] = str(self.leases)
        (self.cni / "10-test.conflist").write_text(json.dumps(doc))

    def config_text(self, mirrors, insecure, vmm, bin_dirs, vm_arguments):
        text = f"""
listen: {self.socket}
state_dir: {self.state}
run_dir: {self.run}
log:
  level: {self.env.get("TEST_LOG_LEVEL", "info")}
  target: stderr
vm:
  program: {vmm}
  kernel: {ROOT}/build/guest/vmlinux
  initramfs: {ROOT}/build/guest/initramfs.cpio
  modules: {self.modules}
  arguments: {json.dumps(list(vm_arguments))}
  boot_timeout: 120s
scratch:
  size: 1G
network:
  conf_dir: {self.cni}
  bin_dirs: {json.dumps(list(map(str, bin_dirs)))}
  netns_dir: {self.netns}
  timeout: 240s
stream:
  program: {BUILD}/src/stream/nexus-stream
images:
  dir: {self.state}/images
  pull_program: {self.build}/src/pull/nexus-pull
"""
        entries = [{"host": h, "endpoints": e, "only_endpoints": True} for h, e in mirrors.items()]
        entries += [{"host": h, "plain_http": True} for h in insecure]
        return text + f"  registries: {json.dumps(entries)}\n"

    # ---- nexusd's life

    @property
    def pid(self):
        return self.proc.pid if self.proc else None

    def start(self, env=None, wait=True):
        """Starts nexusd and, with wait, returns when it answers."""
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen([self.build / "src/daemon/nexusd", "--config", self.config_path], stdout=log, stderr=log,
                                         stdin=subprocess.DEVNULL, env={**self.env, **(env or {})})
        if self.cri:
            self.cri.close()
        self.cri = Cri(self.address)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while True:
            if self.proc.poll() is not None:
                raise RuntimeError(f"nexusd ended with {self.proc.returncode}:\n{self.log_tail()}")
            if not self.listens() and time.monotonic() < end:
                time.sleep(0.01)  # a channel that fails to connect sulks for five seconds
                continue
            try:
                self.cri.ListPodSandbox(timeout=5)
                return
            except grpc.RpcError as e:
                if e.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    raise RuntimeError(f"nexusd does not answer: {e.details()}\n{self.log_tail()}") from e
            time.sleep(0.05)

    def listens(self):
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(str(self.socket))
                return True
            except OSError:
                return False

    def kill9(self):
        self.proc.send_signal(signal.SIGKILL)
        self.wait_dead()

    def wait_dead(self, seconds=60):
        """Waits until nexusd has ended by itself (a failpoint); its exit code (-9: killed)."""
        code = self.proc.wait(seconds)
        self.proc = None
        return code

    def stop(self):
        if self.cri:
            self.cri.close()  # it would be waited for
        if self.proc:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
            self.proc = None

    def log_tail(self, lines=40):
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        if exc[0] is not None:
            print(f"---- last lines of nexusd's log\n{self.log_tail()}\n----", flush=True)
        self.close()

    def close(self):
        """Ends everything of this node, also what a failed test left running."""
        self.stop()
        if self.cri:
            self.cri.close()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for ns in self.netns.iterdir():
            subprocess.run(["umount", "-l", ns], check=False, stderr=subprocess.DEVNULL)
        if self.own_root:
            shutil.rmtree(self.root, ignore_errors=True)

    # ---- what is left

    def processes(self):
        """Processes started for this node, by what their command line or environment names."""
        found, mark = [], str(self.root).encode()
        for p in pathlib.Path("/proc").iterdir():
            if not p.name.isdigit() or int(p.name) in (os.getpid(), self.pid or 0):
                continue
            try:
                exe = os.readlink(p / "exe")
                if os.path.basename(exe).startswith("python"):
                    continue
                cwd = os.readlink(p / "cwd").encode()
                text = (p / "cmdline").read_bytes() + b"\0" + cwd
                fds = b"\0".join(os.readlink(f).encode() for f in (p / "fd").iterdir())
            except OSError:
                continue
            if mark in text or mark in fds:
                found.append(int(p.name))
        return found

    @staticmethod
    def is_stream_server(pid):
        """nexus-stream belongs to the node and outlives nexusd."""
        try:
            return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "nexus-stream"
        except OSError:
            return False

    def vmm_pids(self):
        out = []
        for pid in self.processes():
            try:
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) in ("nexus-vmm", "fake-vmm"):
                    out.append(pid)
            except OSError:
                pass
        return sorted(out)

    @staticmethod
    def kernel_objects():
        links = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout
        names = {l["ifname"] for l in json.loads(links or "[]")} - {BRIDGE}
        rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
        pods = {r for r in rules.splitlines() if r.startswith("-A") and ("--dport" in r or "CNI-DN" in r)
                and "CNI-HOSTPORT-SETMARK" not in r and "CNI-HOSTPORT-MASQ" not in r}
        cgroups = set()
        base = pathlib.Path("/sys/fs/cgroup")
        if base.is_dir():
            cgroups = {str(p) for p in base.rglob("vmm-*") if p.is_dir()}
        return {"link": names, "iptables rule": pods, "cgroup": cgroups}

    def nexus(self, *args):
        """What the person's command prints."""
        return subprocess.run([self.build / "src/cli/nexus", *args, "--address", self.address], capture_output=True, text=True,
                              check=True, timeout=60).stdout

    def census(self):
        """What this node still holds though it should hold no pod: "" or one line a thing."""
        left = [f"process {p}: {pathlib.Path(f'/proc/{p}/cmdline').read_bytes().replace(bytes(1), b' ').decode()[:80]}"
                for p in self.processes() if os.path.exists(f"/proc/{p}/exe") and not self.is_stream_server(p)]
        left += [f"netns {n.name}" for n in self.netns.iterdir()]
        for kind, now in self.kernel_objects().items():
            left += [f"{kind} {x}" for x in sorted(now - self.before[kind])]
        mounts = pathlib.Path("/proc/self/mounts").read_text()
        left += [f"mount {m.split()[1]}" for m in mounts.splitlines() if str(self.root) in m.split()[1]]
        if self.leases.is_dir():
            left += [f"lease {f.name}" for f in self.leases.rglob("*")
                     if f.is_file() and f.name != "lock" and not f.name.startswith("last_reserved")]
        for d in ("sandboxes", "containers"):
            left += [f"record {d}/{f.name}" for f in (self.state / d).glob("*.json")]
        left += [f"file {f.relative_to(self.root)}" for f in (self.run / "vmm").glob("*")]
        left += [f"file {f.relative_to(self.root)}" for f in (self.state / "scratch").glob("*") if "template" not in f.name]
        return "\n".join(left)
