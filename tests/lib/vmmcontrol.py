# SPDX-License-Identifier: Apache-2.0
"""nexus-vmm from nexusd's side: spawns the real program with a guest and speaks its control protocol.

    vm = Vm(memory="256M", scratch=path)
    vm.wait_ready(); vm.call(configure=nexus.SandboxConfig(hostname="pod"))
    gpa = vm.add_region("image", path)
    vm.exec("container", ["sh", "-c", "echo hi"]).out"""
import array
import os
import pathlib
import socket
import struct
import subprocess
import tempfile

import cri

ROOT = pathlib.Path(__file__).resolve().parents[2]
nexus = cri._messages("nexus")  # pylint: disable=protected-access
STDIN, STDOUT, STDERR, EXIT, SIGNAL, RESIZE, ERROR, MESSAGE = range(1, 9)
WAIT_S = 120  # under emulation; a failure, not a measure


class Closed(Exception):
    pass


class Frames:
    """TLV frames over a unix socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(path)
        self.data = b""

    def send(self, kind, value=b"", fds=()):
        head = struct.pack(">BI", kind, len(value))
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        whole = head + value
        n = self.sock.sendmsg([whole], extra)
        self.sock.sendall(whole[n:])

    def recv(self):
        while len(self.data) < 5 or len(self.data) < 5 + struct.unpack(">I", self.data[1:5])[0]:
            more = self.sock.recv(65536)
            if not more:
                raise Closed()
            self.data += more
        n = struct.unpack(">I", self.data[1:5])[0]
        kind, value, self.data = self.data[0], self.data[5:5 + n], self.data[5 + n:]
        return kind, value

    def close(self):
        self.sock.close()


class Stream:
    """An exec: what came of it once run() or until() returned."""

    def __init__(self, path, spec):
        self.frames = Frames(path)
        hello = nexus.ControlHello(version=1, role=nexus.ControlHello.EXEC, exec=spec)
        self.frames.send(MESSAGE, nexus.ControlMessage(id=1, hello=hello).SerializeToString())
        self.out, self.err, self.exit, self.error, self.started = b"", b"", None, None, None

    def step(self):
        kind, value = self.frames.recv()
        if kind == MESSAGE and self.started is None:
            self.started = nexus.StreamStarted.FromString(value)
        elif kind == STDOUT:
            self.out += value
        elif kind == STDERR:
            self.err += value
        elif kind == EXIT:
            self.exit = nexus.ExitInfo.FromString(value)
        elif kind == ERROR:
            self.error = nexus.StreamError.FromString(value)
        else:
            raise AssertionError(f"frame {kind}")

    def run(self):
        while self.exit is None and self.error is None:
            self.step()
        self.frames.close()
        return self

    def until(self, text):
        while text not in self.out:
            self.step()
        return self


class Vm:
    def __init__(self, memory="256M", cpus=1, scratch=None, net_fd=None, mac=None, name="test"):
        self.dir = tempfile.mkdtemp(prefix="nexus-vm-")
        self.path = os.path.join(self.dir, "control.sock")
        self.console = os.path.join(self.dir, "console")
        listen = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listen.bind(self.path)
        listen.listen(16)
        cmd = [ROOT / "build/host/src/vmm/nexus-vmm", "--id", name, "--cpus", str(cpus), "--memory", memory,
               "--kvm", "/dev/kvm", "--kernel", ROOT / "build/guest/vmlinux", "--initramfs",
               ROOT / "build/guest/initramfs.cpio", "--control", f"fd:{listen.fileno()}", "--console", self.console]
        fds = [listen.fileno()]
        if scratch:
            cmd += ["--scratch", scratch]
        if net_fd is not None:
            cmd += ["--net", f"fd:{net_fd}", "--mac", mac]
            fds.append(net_fd)
        self.proc = subprocess.Popen(cmd, pass_fds=fds)
        listen.close()
        self.events = []
        self.next_id = 1
        self.control = Frames(self.path)
        self.state = self._request(nexus.ControlMessage(hello=nexus.ControlHello(version=1))).state

    def _request(self, message, fds=()):
        message.id = self.next_id
        message.n_fds = len(fds)
        self.next_id += 1
        self.control.send(MESSAGE, message.SerializeToString(), fds)
        while True:
            got = self._message()
            if got.WhichOneof("body") == "event":
                self.events.append(got.event)
            elif got.id == message.id:
                return got

    def _message(self):
        kind, value = self.control.recv()
        assert kind == MESSAGE, kind
        return nexus.ControlMessage.FromString(value)

    def try_call(self, fds=(), **body):
        """The Reply (or state) to one request, named by its field of ControlMessage."""
        got = self._request(nexus.ControlMessage(**body), fds)
        return got.state if got.WhichOneof("body") == "state" else got.reply

    def call(self, fds=(), **body):
        reply = self.try_call(fds, **body)
        if isinstance(reply, nexus.Reply) and reply.error_class:
            raise AssertionError(f"{list(body)}: {reply.error_class}: {reply.message}\n{self.console_text()}")
        return reply

    def wait_event(self, kind, match=lambda e: True):
        """The first event of that kind, also one that came before; it is taken."""
        while True:
            for e in self.events:
                if e.WhichOneof("body") == kind and match(getattr(e, kind)):
                    self.events.remove(e)
                    return getattr(e, kind)
            got = self._message()
            if got.WhichOneof("body") == "event":
                self.events.append(got.event)

    def wait_ready(self):
        if self.state.phase == nexus.VmmState.BOOTING:
            self.wait_event("guest_ready")
        self.state = self.call(get_state=nexus.GetState())
        return self.state

    def add_region(self, key, path):
        size = os.path.getsize(path)
        fd = os.open(path, os.O_RDONLY)
        try:
            self.call([fd], add_region=nexus.AddRegion(key=key, segment_bytes=[(size + 4095) & ~4095]))
        finally:
            os.close(fd)

    def create(self, spec, region, log=None):
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if log else None
        try:
            return self.call([fd] if log else [],
                             create_container=nexus.CreateContainer(spec=spec, rootfs_region=region))
        finally:
            if log:
                os.close(fd)

    def start(self, cid):
        return self.call(start_container=nexus.StartContainer(container_id=cid))

    def wait_exit(self, cid):
        return self.wait_event("container_exited", lambda c: c.id == cid)

    def remove(self, cid):
        self.call(remove_container=nexus.RemoveContainer(container_id=cid))

    def stream(self, cid, args, **spec):
        stdin = spec.pop("open_stdin", False)
        return Stream(self.path, nexus.ExecSpec(container_id=cid, open_stdin=stdin,
                                                process=nexus.ProcessSpec(args=args, **spec)))

    def exec(self, cid, args, **spec):
        return self.stream(cid, args, **spec).run()

    def sh(self, cid, script):
        return self.exec(cid, ["sh", "-c", script])

    def console_text(self):
        try:
            return pathlib.Path(self.console).read_text(errors="replace")[-8000:]
        except OSError:
            return ""

    def shutdown(self, grace_ms=1000):
        """Ends guest and process; the process's exit code."""
        try:
            self.call(shutdown=nexus.Shutdown(grace_ms=grace_ms))
        except (Closed, OSError):
            pass
        return self.proc.wait(timeout=WAIT_S)

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.control.close()
        subprocess.run(["rm", "-rf", self.dir], check=False)
