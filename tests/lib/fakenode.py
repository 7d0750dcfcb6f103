# SPDX-License-Identifier: Apache-2.0
"""A whole node for tests: nexusd with roots of its own in namespaces of its own, real CNI plugins (ptp,
host-local), and fake-vmm in nexus-vmm's place, or (real=True, in the lab) nexus-vmm itself. Needs
root; touches nothing outside its folder.

    with Node() as node:
        pod = node.cri.run_pod("web")
        ...
        assert node.census() == node.empty

An image is pulled once from a registry that serves it from memory, and kept under build/ for all tests."""
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import cri as cri_client  # noqa: E402
import grpc  # noqa: E402
import ocimage  # noqa: E402

BUILD = ROOT / os.environ.get("NEXUS_BUILD", "build/host")
NEXUSD = BUILD / "src/daemon/nexusd"
FAKE_VMM = BUILD / "tests/fakes/fake-vmm"
PULL = BUILD / "src/pull/nexus-pull"
REAL_VMM = BUILD / "src/vmm/nexus-vmm"
IMAGE = "registry.test/demo/fake:1"


class TinyRegistry:
    """The distribution API from a dictionary; enough for one image."""

    def __init__(self, image, repo, tag):
        blobs, manifest = image.blobs, image.manifest

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, body, content_type):
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_GET(self):
                if self.path in (f"/v2/{repo}/manifests/{tag}", f"/v2/{repo}/manifests/{image.digest}"):
                    self.answer(manifest, image.media_type)
                elif self.path.startswith(f"/v2/{repo}/blobs/") and self.path.split("/")[-1] in blobs:
                    self.answer(blobs[self.path.split("/")[-1]], "application/octet-stream")
                elif self.path == "/v2/":
                    self.answer(b"{}", "application/json")
                else:
                    self.send_error(404)

            do_HEAD = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def fake_image():
    """A few bytes: fake-vmm never looks into them."""
    layer = ocimage.Layer().file("/etc/passwd", b"root:x:0:0:root:/:/bin/sh\n").file("/bin/true", b"x", 0o755)
    return ocimage.Image([layer], cmd=["sleep", "infinity"])


def prepared_images(real=False):
    """The folder of an image store that has IMAGE: a few bytes, or (real) busybox."""
    stamp = hashlib.sha256(PULL.read_bytes() + NEXUSD.read_bytes()).hexdigest()[:16] + ("-real" if real else "")
    out = ROOT / f"build/test-images-{stamp}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(ROOT / "build/.test-images.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if out.exists():
            return out
        for old in ROOT.glob("build/test-images-*"):
            if old.name.endswith("-real") == real:
                shutil.rmtree(old, ignore_errors=True)
        reg = TinyRegistry(ocimage.busybox_image() if real else fake_image(), "demo/fake", "1")
        node = Node(images=None, registries=[("registry.test", f"http://{reg.address}")], own_network=False)
        try:
            node.start()
            node.cri.PullImage(image=cri_client.pb.ImageSpec(image=IMAGE))
            node.stop()
            shutil.copytree(node.root / "state/images", str(out) + ".tmp")
            os.rename(str(out) + ".tmp", out)
        finally:
            node.close()
            reg.close()
    return out


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Node:
    def __init__(self, images="prepared", registries=(), own_network=True, config=None, cni=None, scratch="64M",
                 real=False):
        self.real, self.vmm = real, REAL_VMM if real else FAKE_VMM
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="nexus-node-"))
        os.chmod(self.root, 0o755)
        self.images, self.registries, self.own_network = images, registries, own_network
        self.extra, self.scratch = config or {}, scratch
        self.proc = self.holder = self.cri = None
        self.starts = 0
        self.logs = self.root / "pods"
        self.fake_dir = self.root / "fake"
        for d in ("state", "run", "netns", "cni", "leases", "pods", "fake", "evil", "told"):
            (self.root / d).mkdir()
        self.set_cni(cni if cni is not None else self.ptp())
        self.boot_id = self.root / "boot_id"
        self.boot_id.write_text("00000000-0000-4000-8000-000000000001\n")
        self._wrapper()

    # ---- set-up

    def ptp(self):
        """The real plugins; an address is leased in a file, a veth pair made."""
        return [{"type": "ptp", "mtu": 1500,
                 "ipam": {"type": "host-local", "dataDir": str(self.root / "leases"),
                          "ranges": [[{"subnet": "10.201.0.0/24"}], [{"subnet": "fd00:201::/64"}]],
                          "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}]

    def evil(self, **modes):
        """cni-evil behind the real ones: what it does to ADD, DEL."""
        return [*self.ptp(), {"type": "cni-evil", "evil": {**modes, "state": str(self.root / "evil")}}]

    def set_cni(self, plugins):
        path = self.root / "cni/10-test.conflist"
        if plugins is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "test", "plugins": plugins}))

    def _wrapper(self):
        """fake-vmm with the environment that tells it what to do wrong."""
        if self.real:
            return
        w = self.root / "vmm"
        w.write_text(f"#!/bin/sh\nNEXUS_FAKE_AGENT_DIR={self.fake_dir} NEXUS_FAKE_AGENT_FILE={self.root}/fake-all "
                     f"NEXUS_FAKE_RECORD_DIR={self.root}/told "
                     f"exec {FAKE_VMM} \"$@\"\n")
        w.chmod(0o755)
        (self.root / "fake-all").write_text("")

    def guest_script(self, text):
        """What every guest started from now on does wrong (tests/fakes/fake-script.h)."""
        (self.root / "fake-all").write_text(text)

    def write_config(self):
        c = {"listen": str(self.root / "run/nexusd.sock"), "state_dir": str(self.root / "state"),
             "run_dir": str(self.root / "run"), "boot_id_file": str(self.boot_id),
             "log": {"level": "debug", "target": "stderr"},
             "vm": {"program": str(self.root / "vmm"), "kernel": "/dev/null", "initramfs": "/dev/null",
                    "kvm": "/dev/null", "memory": "64M", "boot_timeout": "20s"} if not self.real else
             {"program": str(self.vmm), "kernel": str(ROOT / "build/guest/vmlinux"), "memory": "160M",
              "initramfs": str(ROOT / "build/guest/initramfs.cpio"), "boot_timeout": "180s",
              "modules": str(ROOT / "build/guest/modules.erofs")},
             "scratch": {"size": self.scratch},
             # no guest of a fake VM could mount anything
             **({} if self.real else {"share": {"program": "/nonexistent/virtiofsd"}}),
             "network": {"conf_dir": str(self.root / "cni"), "netns_dir": str(self.root / "netns"),
                         "bin_dirs": [str(ROOT / "tests/fakes"), "/opt/cni/bin", "/usr/lib/cni"]},
             "cgroup": {"driver": "cgroupfs"},
             "stream": {"program": str(BUILD / "src/stream/nexus-stream")},
             "images": {"dir": str(self.root / "state/images"), "pull_program": str(PULL),
                        "registries": [{"host": h, "endpoints": [e]} for h, e in self.registries]}}
        for key, value in self.extra.items():
            if isinstance(value, dict):
                c.setdefault(key, {}).update(value)
            else:
                c[key] = value
        path = self.root / "nexusd.yaml"
        path.write_text(json.dumps(c))  # YAML is a superset
        return path

    def _namespaces(self):
        """A process that keeps a network and a mount namespace for every start of nexusd."""
        if self.holder or not self.own_network:
            return
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c",
                                        "ip link set lo up; echo; exec sleep infinity"], stdout=subprocess.PIPE)
        self.holder.stdout.readline()

    def end_namespaces(self):
        if self.holder:
            self.holder.kill()
            self.holder.wait()
            self.holder.stdout.close()
            self.holder = None

    def inside(self, *cmd, **more):
        if not self.own_network:
            return subprocess.run(cmd, **more)
        return subprocess.run(["nsenter", "-t", str(self.holder.pid), "-n", "-m", *cmd], **more)

    def start(self, failpoints="", wait=True, env=None):
        if self.images == "prepared" and not (self.root / "state/images").exists():
            shutil.copytree(prepared_images(self.real), self.root / "state/images")
        self._namespaces()
        self.starts += 1
        cmd = [str(NEXUSD), "--config", str(self.write_config())]
        if self.own_network:
            cmd = ["nsenter", "-t", str(self.holder.pid), "-n", "-m", *cmd]
        with open(self.root / "nexusd.log", "ab") as log:
            log.write(f"--- start {self.starts} {failpoints}\n".encode())
            self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         env={**os.environ, "NEXUS_FAILPOINTS": failpoints, **(env or {})})
        if self.cri:
            self.cri.close()
            self.cri = None
        if wait:
            self.wait_ready()
        return self

    def connect(self):
        """A new client: an old one would sit out its back-off."""
        if self.cri is None:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(self.root / "run/nexusd.sock"))
            self.cri = cri_client.Cri(f"unix://{self.root}/run/nexusd.sock")

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while True:
            if self.proc.poll() is not None:
                raise AssertionError(f"nexusd ended with {self.proc.returncode}:\n{self.log()[-3000:]}")
            try:
                self.connect()
                self.cri.ListPodSandbox(timeout=5)
                return
            except (OSError, grpc.RpcError) as e:
                if time.monotonic() > end or (isinstance(e, grpc.RpcError) and
                                              e.code() != grpc.StatusCode.UNAVAILABLE):
                    raise AssertionError(f"{e}\n{self.log()[-3000:]}") from e
            time.sleep(0.01)

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def stop(self):
        """SIGTERM; its exit code."""
        self.proc.terminate()
        return self.proc.wait(30)

    def died(self, seconds=30):
        """Waits for its own end (a failpoint's kill)."""
        try:
            return self.proc.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def restart(self, failpoints=""):
        if self.proc.poll() is None:
            self.kill()
        return self.start(failpoints)

    def log(self):
        return (self.root / "nexusd.log").read_text(errors="replace")

    def close(self):
        if self.cri:
            self.cri.close()
        if self.proc and self.proc.poll() is None:
            self.kill()
        for pid in self.vmm_pids() + self.stream_pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.end_namespaces()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind, *_):
        if kind and os.environ.get("NEXUS_KEEP"):
            print(f"kept: {self.root}", file=sys.stderr)
            return
        self.close()

    # ---- what there is

    def vmm_pids(self):
        """Processes of this node's VMs, whatever the records say."""
        out = []
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                cmd = (p / "cmdline").read_bytes().split(b"\0")
                if b"--id" not in cmd or os.readlink(p / "exe") != str(self.vmm) or not alive(int(p.name)):
                    continue
                if self.real or f"{self.root}/".encode() in (p / "environ").read_bytes():
                    out.append(int(p.name))
            except OSError:
                pass
        return sorted(out)

    def stream_pids(self):
        """nexus-stream of this node: it outlives nexusd."""
        out = []
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.path.basename(os.readlink(p / "exe")) == "nexus-stream" and alive(int(p.name)) and any(
                        os.readlink(f).startswith(f"{self.root}/") for f in (p / "fd").iterdir()):
                    out.append(int(p.name))
            except OSError:
                pass
        return sorted(out)

    def vmm_pid(self, pod_id):
        with open(self.root / f"run/vmm/{pod_id}.pid", encoding="utf-8") as f:
            return json.load(f)["pid"]

    def record(self, kind, name):
        path = self.root / f"state/{kind}/{name}.json"
        return json.loads(path.read_text())["record"] if path.exists() else None

    def told(self, pod_id):
        """What a fake VM was told about regions and volumes (tests/fakes/fake-record.h); each region's key is
        put beside its place."""
        path = self.root / "told" / pod_id
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        keys = {x["gpa"]: x["key"] for x in lines if x["what"] == "add" and not x["more"]}
        for x in lines:
            x.setdefault("key", keys.get(x["gpa"], "image"))
        return lines

    def region(self, pod_id, key):
        """The bytes of a region that a fake VM got."""
        return (self.root / "told" / f"{pod_id}.{key}").read_bytes()

    def census(self):
        """Everything a pod could leave behind."""
        def names(path, pattern="*"):
            return sorted(p.name for p in (self.root / path).glob(pattern))
        links = self.inside("ip", "-o", "link", capture_output=True, text=True, check=True).stdout
        mounts = self.inside("cat", "/proc/self/mountinfo", capture_output=True, text=True, check=True).stdout
        cgroups = [str(p) for p in pathlib.Path("/sys/fs/cgroup").glob("**/vmm-*")]
        return {"processes": self.vmm_pids(), "links": sorted(set(re.findall(r"^\d+: ([^:@]+)", links, re.M)) - {"lo"}),
                "netns": names("netns", "nexus-*"), "leases": names("leases/test", "[0-9a-f]*"),
                "mounts": sorted(re.findall(re.escape(str(self.root)) + r"\S*", mounts)),
                "sandboxes": names("state/sandboxes", "*.json"), "containers": names("state/containers", "*.json"),
                "scratch": [n for n in names("state/scratch") if not n.startswith("template-")],
                "vmm": names("run/vmm"), "cgroups": cgroups}

    @property
    def empty(self):
        return {k: [] for k in ("processes", "links", "netns", "leases", "mounts", "sandboxes", "containers", "scratch",
                                "vmm", "cgroups")}

    def fds(self):
        return len(os.listdir(f"/proc/{self.proc.pid}/fd"))

    def pods(self):
        return {p.id: p for p in self.cri.ListPodSandbox().items}

    def containers(self):
        return {c.id: c for c in self.cri.ListContainers().containers}


def wait_for(what, seconds=30, why=""):
    """The first true value of what()."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {why or what}")
        time.sleep(0.02)
