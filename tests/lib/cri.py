# SPDX-License-Identifier: Apache-2.0
"""A CRI client nobody here wrote: Debian's python3-grpcio, with messages that protoc makes of
proto/cri.proto. Run with Debian's own interpreter (/usr/bin/python3).

    c = Cri("unix:///run/nexus/nexusd.sock")
    c.Version().runtime_name
    pod = c.run_pod("web", image handlers …)

Every RPC of both services is a method that takes the request's fields as keywords (or a ready request
message) and `timeout=` in seconds, which is always the call's own limit, never the request's field of
that name; an error raises grpc.RpcError."""
import fcntl
import importlib
import pathlib
import subprocess
import sys
import time
import uuid

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
MESSAGE_BYTES = 16 << 20


def _messages(proto="cri"):
    """The generated module; regenerated when the .proto is newer."""
    out = ROOT / "build/pyproto"
    src, gen = ROOT / f"proto/{proto}.proto", out / f"{proto}_pb2.py"
    if not gen.exists() or gen.stat().st_mtime < src.stat().st_mtime:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={out}", src], check=True)
    sys.path.insert(0, str(out))
    try:
        return importlib.import_module(f"{proto}_pb2")
    finally:
        sys.path.remove(str(out))


pb = _messages()


class Cri:
    def __init__(self, address, timeout=60):
        self.address, self.timeout = address, timeout
        self.channel = grpc.insecure_channel(address, options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)])
        for name in ("RuntimeService", "ImageService"):
            service = pb.DESCRIPTOR.services_by_name[name]
            for method in service.methods:
                self._add(service, method)

    def _add(self, service, method):
        request = getattr(pb, method.input_type.name)
        response = getattr(pb, method.output_type.name)
        path = f"/{service.full_name}/{method.name}"
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        stub = kind(path, request_serializer=request.SerializeToString, response_deserializer=response.FromString)

        def call(message=None, timeout=None, future=False, **fields):
            m = message if message is not None else request(**fields)
            limit = self.timeout if timeout is None else timeout
            return stub.future(m, timeout=limit) if future else stub(m, timeout=limit)

        setattr(self, method.name, call)

    def close(self):
        self.channel.close()

    def wait_ready(self, seconds=30):
        """Waits until the server answers something else than UNAVAILABLE."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.Version(version="0.1.0", timeout=5)
            except grpc.RpcError as e:
                if e.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    raise
            time.sleep(0.05)

    # ---- what nearly every test says

    def pod_config(self, name, log_directory="", namespace="default", attempt=0, **more):
        c = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace=namespace,
                                                               attempt=attempt),
                                hostname=more.pop("hostname", name), log_directory=log_directory)
        c.labels.update(more.pop("labels", {}))
        c.annotations.update(more.pop("annotations", {}))
        for host, container in more.pop("ports", []):
            c.port_mappings.add(host_port=host, container_port=container)
        memory = more.pop("memory", 0)
        if memory:
            c.linux.resources.memory_limit_in_bytes = memory
        for key, value in more.items():
            getattr(c, key).CopyFrom(value)
        return c

    def run_pod(self, name, log_directory="", handler="nexus-vmm", timeout=None, **more):
        """Returns (id, config)."""
        config = self.pod_config(name, log_directory, **more)
        return self.RunPodSandbox(config=config, runtime_handler=handler, timeout=timeout).pod_sandbox_id, config

    def create(self, pod, name, image, command=(), args=(), **more):
        """Creates (not starts) a container in pod = (id, config); returns its id."""
        c = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name, attempt=more.pop("attempt", 0)),
                               image=pb.ImageSpec(image=image), command=list(command), args=list(args),
                               log_path=more.pop("log_path", f"{name}.log"))
        for key, value in more.pop("env", {}).items():
            e = c.envs.add(key=key)
            e.value = value.encode() if isinstance(e.value, bytes) else value
        c.labels.update(more.pop("labels", {}))
        c.annotations.update(more.pop("annotations", {}))
        for host, path, readonly in more.pop("mounts", []):
            c.mounts.add(host_path=str(host), container_path=path, readonly=readonly)
        for key in ("working_dir", "tty", "stdin", "stdin_once", "stop_signal"):
            if key in more:
                setattr(c, key, more.pop(key))
        for key, value in more.items():
            getattr(c, key).CopyFrom(value)
        if not c.linux.security_context.HasField("namespace_options"):  # what kubelet says by default
            c.linux.security_context.namespace_options.pid = pb.CONTAINER
        return self.CreateContainer(pod_sandbox_id=pod[0], config=c, sandbox_config=pod[1]).container_id

    def run(self, pod, name, image, command=(), args=(), **more):
        """Creates and starts; returns the id."""
        cid = self.create(pod, name, image, command, args, **more)
        self.StartContainer(container_id=cid)
        return cid

    def wait_exited(self, container_id, seconds=300):
        end = time.monotonic() + seconds
        while True:
            s = self.ContainerStatus(container_id=container_id).status
            if s.state == pb.CONTAINER_EXITED:
                return s
            if time.monotonic() > end:
                raise AssertionError(f"container {container_id[:12]} did not exit in {seconds} s")
            time.sleep(0.05)

    def exec(self, container_id, *cmd, timeout=30):
        """(exit code, stdout, stderr) of an ExecSync."""
        r = self.ExecSync(pb.ExecSyncRequest(container_id=container_id, cmd=cmd, timeout=timeout),
                          timeout=timeout + self.timeout)
        return r.exit_code, r.stdout, r.stderr

    def remove_pod(self, pod_id):
        self.StopPodSandbox(pod_sandbox_id=pod_id)
        self.RemovePodSandbox(pod_sandbox_id=pod_id)


def unique(prefix):
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def parse_log(path):
    """[(stream, tag, text)] of a CRI log file; a malformed line raises."""
    out = []
    for line in pathlib.Path(path).read_bytes().splitlines():
        stamp, stream, tag, text = line.split(b" ", 3) if line.count(b" ") >= 3 else (*line.split(b" "), b"")
        assert len(stamp) == 30 and stream in (b"stdout", b"stderr") and tag in (b"F", b"P"), line
        out.append((stream.decode(), tag.decode(), text))
    return out
