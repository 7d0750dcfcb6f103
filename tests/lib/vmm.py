# SPDX-License-Identifier: Apache-2.0
"""One nexus-vmm (or fake-vmm) without nexusd: spawned as nexusd does it, driven over its control socket.

    with Vmm() as vmm:
        c = vmm.connect(); c.wait_ready(); c.configure(hostname="pod")
        c.add_region("img", [path]); c.create("c1", ["sh", "-c", "echo hi"], log="/tmp/log"); c.start("c1")
        code, out, err = vmm.exec("c1", ["true"])"""
import functools
import importlib
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("NEXUS_BUILD", "build/host")
STDIN, STDOUT, STDERR, EXIT, SIGNAL, RESIZE, ERROR, MESSAGE = range(1, 9)
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"


@functools.cache
def messages():
    """The message contract as a module, made from proto/nexus.proto."""
    out = pathlib.Path(tempfile.mkdtemp(prefix="nexus-proto-"))
    try:
        subprocess.run(["protoc", f"--proto_path={ROOT}/proto", f"--python_out={out}", "nexus.proto"], check=True)
        sys.path.insert(0, str(out))
        return importlib.import_module("nexus_pb2")
    finally:
        sys.path.remove(str(out))
        shutil.rmtree(out)


class Refused(Exception):
    """The answer to a request was an error."""

    def __init__(self, reply):
        super().__init__(f"{reply.error_class}: {reply.message}")
        self.cls, self.code, self.text = reply.error_class, reply.code, reply.message


class Gone(Exception):
    """nexus-vmm closed the connection."""


class Connection:
    """Frames over the control socket, in order."""

    def __init__(self, path, timeout):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.buf = b""

    def send(self, type_, value, fds=()):
        data = struct.pack(">BI", type_, len(value)) + value
        try:
            sent = socket.send_fds(self.sock, [data], fds) if fds else 0
            self.sock.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            raise Gone() from None

    def frame(self):
        while len(self.buf) < 5 or len(self.buf) < 5 + struct.unpack(">I", self.buf[1:5])[0]:
            data = self.sock.recv(1 << 16)
            if not data:
                raise Gone()
            self.buf += data
        n = 5 + struct.unpack(">I", self.buf[1:5])[0]
        type_, value, self.buf = self.buf[0], self.buf[5:n], self.buf[n:]
        return type_, value

    def close(self):
        self.sock.close()


class Control(Connection):
    """The CONTROL connection: calls that wait for their answer; events are kept in the order they came."""

    def __init__(self, path, timeout):
        self.pb = messages()  # first: nexus-vmm gives a connection five seconds for its hello
        super().__init__(path, timeout)
        self.next_id = 0
        self.events = []
        self.state = self.call(hello=self.pb.ControlHello(version=1, role=self.pb.ControlHello.CONTROL)).state

    def message(self):
        type_, value = self.frame()
        assert type_ == MESSAGE, f"frame {type_} on the control connection"
        return self.pb.ControlMessage.FromString(value)

    def begin(self, fds=(), **body):
        self.next_id += 1
        m = self.pb.ControlMessage(id=self.next_id, n_fds=len(fds), **body)
        self.send(MESSAGE, m.SerializeToString(), fds)
        return self.next_id

    def answer(self, id_):
        while True:
            m = self.message()
            if m.WhichOneof("body") == "event":
                self.events.append(m.event)
            elif m.id == id_:
                if m.WhichOneof("body") == "reply" and m.reply.error_class:
                    raise Refused(m.reply)
                return m

    def call(self, fds=(), **body):
        return self.answer(self.begin(fds, **body))

    def event(self, kind, match=lambda e: True):
        """The next event of that kind, also one that came before; others are dropped."""
        while True:
            e = self.events.pop(0) if self.events else None
            if e is None:
                m = self.message()
                if m.WhichOneof("body") != "event":
                    continue
                e = m.event
            if e.WhichOneof("body") == kind and match(getattr(e, kind)):
                return getattr(e, kind)

    def get_state(self):
        return self.call(get_state=self.pb.GetState()).state

    def container(self, id_):
        return next((c for c in self.get_state().containers if c.id == id_), None)

    def counters(self):
        return {c.name: c.value for c in self.get_state().counters}

    def wait_ready(self):
        if self.get_state().phase == self.pb.VmmState.BOOTING:
            self.event("guest_ready")

    def configure(self, hostname="pod", **more):
        self.call(configure=self.pb.SandboxConfig(hostname=hostname, **more))

    def add_region(self, key, paths):
        fds = [os.open(p, os.O_RDONLY) for p in paths]
        try:
            sizes = [os.fstat(fd).st_size for fd in fds]
            self.call(fds, add_region=self.pb.AddRegion(key=key, segment_bytes=sizes))
        finally:
            for fd in fds:
                os.close(fd)

    def add_region_of(self, key, pieces, batch=100):
        """pieces: [(path, bytes of whole pages)], in as many messages as they need."""
        for at in range(0, len(pieces), batch):
            part = pieces[at:at + batch]
            fds = []
            try:
                for path, _ in part:
                    fds.append(os.open(path, os.O_RDONLY))
                self.call(fds, add_region=self.pb.AddRegion(key=key, segment_bytes=[n for _, n in part],
                                                            more=at + batch < len(pieces)))
            finally:
                for fd in fds:
                    os.close(fd)

    def region(self, key):
        return next((r for r in self.get_state().regions if r.key == key), None)

    def volume(self, name, region, destination, part=None, live=True, sub_path=""):
        return self.pb.VolumeMount(volume=name, region=region, part=part or name, live=live, destination=destination,
                                   sub_path=sub_path)

    def update_volume(self, name, region, part=None, same_links=False):
        self.call(update_volume=self.pb.UpdateVolume(volume=name, region=region, part=part or name, same_links=same_links))

    def remove_region(self, key):
        self.call(remove_region=self.pb.RemoveRegion(key=key))

    def create(self, id_, args, log=None, region="img", env=(PATH,), tty=False, **spec):
        process = self.pb.ProcessSpec(args=args, env=env, tty=tty)
        s = self.pb.ContainerSpec(id=id_, name=id_, process=process, **spec)
        fds = [os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)] if log else []
        try:
            self.call(fds, create_container=self.pb.CreateContainer(spec=s, rootfs_region=region))
        finally:
            for fd in fds:
                os.close(fd)

    def start(self, id_):
        self.call(start_container=self.pb.StartContainer(container_id=id_))

    def signal(self, id_, sig, all_=False):
        self.call(signal=self.pb.SignalContainer(container_id=id_, signal=sig, all=all_))

    def remove(self, id_):
        self.call(remove_container=self.pb.RemoveContainer(container_id=id_))

    def reopen(self, id_, log):
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            self.call([fd], reopen_log=self.pb.ReopenLog(container_id=id_))
        finally:
            os.close(fd)

    def wait_exit(self, id_):
        """The ExitInfo of a container, from an event or from the state."""
        c = self.container(id_)
        if c.state == self.pb.ContainerState.EXITED:
            return c.exit
        return self.event("container_exited", lambda e: e.id == id_).exit

    def run(self, id_, args, **more):
        self.create(id_, args, **more)
        self.start(id_)


class Exec(Connection):
    """One exec: its connection is the stream. started: the pid, or None; then error tells why."""

    def __init__(self, path, timeout, id_, args, stdin=False, tty=False, env=(PATH,), cwd=""):
        self.pb = messages()
        super().__init__(path, timeout)
        self.code = self.error = self.started = None
        self.out, self.err = bytearray(), bytearray()
        spec = self.pb.ExecSpec(container_id=id_, open_stdin=stdin,
                                process=self.pb.ProcessSpec(args=args, env=env, tty=tty, cwd=cwd))
        hello = self.pb.ControlHello(version=1, role=self.pb.ControlHello.EXEC, exec=spec)
        self.send(MESSAGE, self.pb.ControlMessage(id=1, hello=hello).SerializeToString())

    def step(self):
        """Takes one frame; False: it was the last."""
        type_, value = self.frame()
        if type_ == MESSAGE:
            self.started = self.pb.StreamStarted.FromString(value).pid
        elif type_ == STDOUT:
            self.out += value
        elif type_ == STDERR:
            self.err += value
        elif type_ == EXIT:
            self.code = self.pb.ExitInfo.FromString(value).code
        elif type_ == ERROR:
            self.error = self.pb.StreamError.FromString(value)
        else:
            raise AssertionError(f"frame {type_} on an exec stream")
        return type_ not in (EXIT, ERROR)

    def wait_started(self):
        while self.started is None and self.error is None:
            self.step()
        return self

    def write(self, data):
        for at in range(0, len(data), 4096):
            self.send(STDIN, data[at:at + 4096])

    def close_stdin(self):
        self.send(STDIN, b"")

    def finish(self):
        """Reads to the end: (code or None, stdout, stderr)."""
        while self.step():
            pass
        self.close()
        return self.code, bytes(self.out), bytes(self.err)


class Vmm:
    def __init__(self, program=None, id_="testpod", memory="256M", cpus=1, arguments=(), env=None, timeout=120,
                 initramfs=ROOT / "build/guest/initramfs.cpio"):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-vmm-"))
        self.path = self.dir / "control.sock"
        self.timeout = timeout
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(64)
        self.stderr_path = self.dir / "stderr"
        argv = [program or BUILD / "src/vmm/nexus-vmm", "--id", id_, "--memory", memory, "--cpus", str(cpus), "--kvm",
                "/dev/kvm", "--kernel", ROOT / "build/guest/vmlinux", "--initramfs", initramfs,
                "--control", f"fd:{listener.fileno()}", *arguments]
        with open(self.stderr_path, "wb") as err:
            self.proc = subprocess.Popen(argv, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=err, env={**os.environ, **(env or {})})
        listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def connect(self):
        return Control(self.path, self.timeout)

    def begin_exec(self, id_, args, **more):
        return Exec(self.path, self.timeout, id_, args, **more)

    def exec(self, id_, args, **more):
        return self.begin_exec(id_, args, **more).finish()

    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def close(self):
        """Once is enough, twice does no harm."""
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        if self.dir.exists():
            shutil.rmtree(self.dir)


def erofs_of(folder, out):
    """An EROFS image of a folder, of whole pages, as a region wants it."""
    subprocess.run(["mkfs.erofs", "-Enoinline_data", "-x-1", "-T1700000000", "--quiet", out, folder], check=True,
                   stdout=subprocess.DEVNULL)
    size = os.stat(out).st_size
    os.truncate(out, (size + 4095) & ~4095)
    return out
