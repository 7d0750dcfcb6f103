# SPDX-License-Identifier: Apache-2.0
"""A CRI server in the test's own process, for tests of clients: pods and containers that only exist on
paper, logs that are real files. Each container's arguments are its program, one step each:

  out:TEXT  err:TEXT  part:TEXT   a line to stdout, to stderr, a partial record
  raw:TEXT                        any bytes into the log file
  rotate                          the log file is renamed and begun anew
  wait                            until the container is stopped or the test calls go(container)
  exit:N                          the end, with that code (without it: 0)
  oom                             the end, killed for memory

Stopping one that waits ends it with 143, or 137 with grace 0. The requests that came are in .requests.
.fail[rpc] = (status, text) makes an RPC fail; .missing is a set of RPCs that are not offered."""
import concurrent.futures
import os
import pathlib
import sys
import threading
import time
import uuid

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import cri  # noqa: E402
from cri import pb  # noqa: E402


def admin_messages():
    """nexus-admin.proto's generated module; its file name is no Python name."""
    import importlib.util
    import subprocess
    out = cri.ROOT / "build/pyproto"
    subprocess.run(["protoc", f"--proto_path={cri.ROOT / 'proto'}", f"--python_out={out}",
                    cri.ROOT / "proto/nexus-admin.proto"], check=True)
    spec = importlib.util.spec_from_file_location("nexus_admin_pb2", next(out.glob("nexus?admin_pb2.py")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Container:
    def __init__(self, cid, pod, config):
        self.id, self.pod, self.config = cid, pod, config
        self.state, self.code, self.reason = pb.CONTAINER_CREATED, 0, ""
        self.created = time.time_ns()
        self.started = self.finished = 0
        self.wake = threading.Event()
        self.stop_code = None
        self.log = pathlib.Path(pod.config.log_directory) / config.log_path if pod.config.log_directory else None


class Pod:
    def __init__(self, pid, config, handler):
        self.id, self.config, self.handler = pid, config, handler
        self.state, self.created = pb.SANDBOX_READY, time.time_ns()


class FakeCri:
    def __init__(self, path, name="fake"):
        self.path, self.name = path, name
        self.pods, self.containers = {}, {}
        self.images = {}
        self.registry = {}  # reference → size; what can be pulled
        self.requests = []
        self.fail = {}
        self.missing = {"GetContainerEvents"}
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.events = []
        self.verbose_info = {}
        self.pull_steps = [(0, 0, 0), (1, 100, 1000), (1, 550, 1000), (2, 1000, 1000)]
        self.admin = admin_messages()
        self.server = None
        self.start()

    def start(self):
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        for service in ("RuntimeService", "ImageService"):
            d = pb.DESCRIPTOR.services_by_name[service]
            self._serve(d, pb)
        self._serve(self.admin.DESCRIPTOR.services_by_name["Images"], self.admin)
        self.server.add_insecure_port(f"unix:{self.path}")
        self.server.start()

    def stop(self):
        with self.changed:
            for c in self.containers.values():
                c.wake.set()
            self.changed.notify_all()
        self.server.stop(0).wait()

    def _serve(self, service, module):
        handlers = {}
        for m in service.methods:
            if not hasattr(self, m.name):
                continue
            make = grpc.unary_stream_rpc_method_handler if m.server_streaming else grpc.unary_unary_rpc_method_handler
            handlers[m.name] = make(self._guarded(m.name, m.server_streaming),
                                    request_deserializer=getattr(module, m.input_type.name).FromString,
                                    response_serializer=getattr(module, m.output_type.name).SerializeToString)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))

    def _guarded(self, name, stream):
        fn = getattr(self, name)

        def before(request, context):
            with self.lock:
                self.requests.append((name, request))
            if name in self.missing:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not offered")
            if name in self.fail:
                context.abort(*self.fail[name])

        def unary(request, context):
            before(request, context)
            return fn(request, context)

        def streaming(request, context):
            before(request, context)
            yield from fn(request, context)
        return streaming if stream else unary

    def asked(self, name):
        return [r for n, r in self.requests if n == name]

    # ---- runtime

    def Version(self, request, context):
        return pb.VersionResponse(version="0.1.0", runtime_name=self.name, runtime_version="7.8.9",
                                  runtime_api_version="v1")

    def Status(self, request, context):
        r = pb.StatusResponse()
        r.status.conditions.add(type="RuntimeReady", status=True)
        r.status.conditions.add(type="NetworkReady", status="NetworkReady" not in self.fail,
                                reason="CNIMissing" if "NetworkReady" in self.fail else "",
                                message=self.fail.get("NetworkReady", ""))
        return r

    def RunPodSandbox(self, request, context):
        p = Pod(uuid.uuid4().hex * 2, request.config, request.runtime_handler)
        self.pods[p.id] = p
        return pb.RunPodSandboxResponse(pod_sandbox_id=p.id)

    def StopPodSandbox(self, request, context):
        p = self.pods.get(request.pod_sandbox_id)
        if p:
            p.state = pb.SANDBOX_NOTREADY
            for c in list(self.containers.values()):
                if c.pod is p:
                    self._end(c, 137)
        return pb.StopPodSandboxResponse()

    def RemovePodSandbox(self, request, context):
        self.StopPodSandbox(request, context)
        for c in [c for c in self.containers.values() if c.pod.id == request.pod_sandbox_id]:
            del self.containers[c.id]
        self.pods.pop(request.pod_sandbox_id, None)
        return pb.RemovePodSandboxResponse()

    def PodSandboxStatus(self, request, context):
        p = self.pods.get(request.pod_sandbox_id)
        if not p:
            context.abort(grpc.StatusCode.NOT_FOUND, f"sandbox {request.pod_sandbox_id} is unknown")
        return pb.PodSandboxStatusResponse(status=pb.PodSandboxStatus(
            id=p.id, metadata=p.config.metadata, state=p.state, created_at=p.created, labels=p.config.labels,
            annotations=p.config.annotations, runtime_handler=p.handler,
            network=pb.PodSandboxNetworkStatus(ip="10.0.0.2")), info=self.verbose_info if request.verbose else {})

    def ListPodSandbox(self, request, context):
        f = request.filter
        return pb.ListPodSandboxResponse(items=[
            pb.PodSandbox(id=p.id, metadata=p.config.metadata, state=p.state, created_at=p.created,
                          labels=p.config.labels, runtime_handler=p.handler) for p in self.pods.values()
            if not f.HasField("state") or f.state.state == p.state])

    def CreateContainer(self, request, context):
        p = self.pods.get(request.pod_sandbox_id)
        if not p:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such sandbox")
        c = Container(uuid.uuid4().hex * 2, p, request.config)
        self.containers[c.id] = c
        return pb.CreateContainerResponse(container_id=c.id)

    def StartContainer(self, request, context):
        c = self.containers[request.container_id]
        if c.log:
            c.log.parent.mkdir(parents=True, exist_ok=True)
            c.log.write_bytes(b"")
        c.state, c.started = pb.CONTAINER_RUNNING, time.time_ns()
        threading.Thread(target=self._run, args=(c,), daemon=True).start()
        return pb.StartContainerResponse()

    def _write(self, c, stream, tag, text):
        stamp = "2026-01-31T12:00:00.%09dZ" % (time.time_ns() % 10**9)
        self._raw(c, f"{stamp} {stream} {tag} {text}\n".encode())

    def _raw(self, c, data):
        if c.log:
            with open(c.log, "ab") as f:
                f.write(data)

    def _run(self, c):
        code, reason = 0, ""
        for step in list(c.config.command) + list(c.config.args):
            verb, _, text = step.partition(":")
            if verb in ("out", "err"):
                self._write(c, "std" + verb, "F", text)
            elif verb == "part":
                self._write(c, "stdout", "P", text)
            elif verb == "raw":
                self._raw(c, text.encode())
            elif verb == "rotate":
                os.rename(c.log, f"{c.log}.1")
                c.log.write_bytes(b"")
            elif verb == "wait":
                c.wake.wait()
                c.wake.clear()
                if c.stop_code is not None:
                    code = c.stop_code
                    break
            elif verb == "exit":
                code = int(text)
                break
            elif verb == "oom":
                code, reason = 137, "OOMKilled"
                break
        self._finish(c, code, reason or ("Completed" if code == 0 else "Error"))

    def _finish(self, c, code, reason):
        with self.changed:
            if c.state == pb.CONTAINER_EXITED:
                return
            c.code, c.reason, c.finished = code, reason, time.time_ns()
            c.state = pb.CONTAINER_EXITED
            self.events.append((c.id, pb.CONTAINER_STOPPED_EVENT))
            self.changed.notify_all()

    def _end(self, c, code):
        c.stop_code = code
        c.wake.set()
        if c.state == pb.CONTAINER_CREATED:
            self._finish(c, code, "Error")

    def go(self, c):
        c.wake.set()

    def StopContainer(self, request, context):
        c = self.containers.get(request.container_id)
        if c and c.state == pb.CONTAINER_RUNNING:
            if request.timeout == 0 or "deaf" not in c.config.labels:
                self._end(c, 137 if request.timeout == 0 else 143)
            with self.changed:
                self.changed.wait_for(lambda: c.state == pb.CONTAINER_EXITED or not context.is_active(), 30)
        return pb.StopContainerResponse()

    def RemoveContainer(self, request, context):
        c = self.containers.pop(request.container_id, None)
        if c:
            self._end(c, 137)
        return pb.RemoveContainerResponse()

    def ListContainers(self, request, context):
        f = request.filter
        return pb.ListContainersResponse(containers=[
            pb.Container(id=c.id, pod_sandbox_id=c.pod.id, metadata=c.config.metadata, image=c.config.image,
                         image_ref="sha256:" + "1" * 64, state=c.state, created_at=c.created)
            for c in self.containers.values()
            if (not f.HasField("state") or f.state.state == c.state) and f.pod_sandbox_id in ("", c.pod.id)])

    def ContainerStatus(self, request, context):
        c = self.containers.get(request.container_id)
        if not c:
            context.abort(grpc.StatusCode.NOT_FOUND, f"container {request.container_id} is unknown")
        with self.lock:
            return pb.ContainerStatusResponse(status=pb.ContainerStatus(
                id=c.id, metadata=c.config.metadata, state=c.state, created_at=c.created, started_at=c.started,
                finished_at=c.finished, exit_code=c.code, reason=c.reason, image=c.config.image,
                image_ref="sha256:" + "1" * 64, log_path=str(c.log) if c.log else ""),
                info=self.verbose_info if request.verbose else {})

    def ExecSync(self, request, context):
        cmd = list(request.cmd)
        if cmd[0] == "say":
            return pb.ExecSyncResponse(stdout=cmd[1].encode(), stderr=cmd[2].encode(), exit_code=int(cmd[3]))
        return pb.ExecSyncResponse(exit_code=127, stderr=f"{cmd[0]}: not found\n".encode())

    def GetContainerEvents(self, request, context):
        at = len(self.events)
        while context.is_active():
            with self.changed:
                self.changed.wait_for(lambda: len(self.events) > at or not context.is_active(), 0.5)
                new, at = self.events[at:], len(self.events)
            for cid, kind in new:
                yield pb.ContainerEventResponse(container_id=cid, container_event_type=kind)

    # ---- images

    def _image(self, name):
        for i in self.images.values():
            if name in (i.id, i.id.removeprefix("sha256:")) or name in i.repo_tags:
                return i
        return None

    def add_image(self, name, size=1234567):
        i = pb.Image(id="sha256:" + uuid.uuid4().hex * 2, repo_tags=[name], size=size)
        i.uid.value = 0
        self.images[i.id] = i
        return i

    def ListImages(self, request, context):
        name = request.filter.image.image
        return pb.ListImagesResponse(images=[i for i in self.images.values() if not name or self._image(name) is i])

    def ImageStatus(self, request, context):
        i = self._image(request.image.image)
        return pb.ImageStatusResponse(image=i, info=self.verbose_info if request.verbose and i else {})

    def _pull(self, name, context):
        if name not in self.registry:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name}: the registry has no such image")
        return self._image(name) or self.add_image(name, self.registry[name])

    def PullImage(self, request, context):
        return pb.PullImageResponse(image_ref=self._pull(request.image.image, context).id)

    def RemoveImage(self, request, context):
        i = self._image(request.image.image)
        if i:
            del self.images[i.id]
        return pb.RemoveImageResponse()

    def ImageFsInfo(self, request, context):
        return pb.ImageFsInfoResponse()

    def Pull(self, request, context):
        if request.image in self.registry:
            for phase, done, total in self.pull_steps:
                yield self.admin.PullProgress(phase=phase, bytes_done=done, bytes_total=total)
        image = self._pull(request.image, context)
        yield self.admin.PullProgress(phase=3, bytes_done=1000, bytes_total=1000, image_ref=image.id)
