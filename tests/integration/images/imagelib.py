# SPDX-License-Identifier: Apache-2.0
"""Runs nexus-pull as nexusd would, and puts what it made together as a virtual machine would see it."""
import fcntl
import hashlib
import io
import json
import mmap
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
import erofs_reader  # noqa: E402

PULL = ROOT / os.environ.get("NEXUS_BUILD", "build/host") / "src/pull/nexus-pull"
SANITIZED = ROOT / "build/asan/src/pull/nexus-pull"


def is_sanitized(program):
    """Such a build keeps a part of what nexus-pull gives up (src/pull/sandbox.h)."""
    return b"__asan_init" in program.read_bytes()


class Outcome:
    def __init__(self, code, lines, peak_bytes=0):
        self.code, self.lines, self.peak_bytes = code, lines, peak_bytes
        self.error = next((x for x in lines if x["event"] == "error"), None)
        self.image = next((x["image"] for x in lines if x["event"] == "done"), None)

    def layers(self, state):
        return [x["diff_id"] for x in self.lines if x["event"] == "layer" and x["state"] == state]


class Store:
    """An image directory of its own; gone at the end."""

    def __init__(self, path=None, program=PULL):
        self.program = program
        self.own = path is None
        self.root = pathlib.Path(path or tempfile.mkdtemp(prefix="nexus-images-"))

    def close(self):
        if self.own:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, reference, endpoint=None, layout=None, env=None, **request):
        """The process, its request on 3 and the directory on 4."""
        req = {"reference": reference, "tag": "test", "retry_base_ms": 1, **request}
        if endpoint:
            req["endpoints"] = [{"url": endpoint, "credentials": True}]
        if layout:
            req["layout"] = 5
        dirfd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        memfd = os.memfd_create("request")
        os.write(memfd, json.dumps(req).encode())
        os.lseek(memfd, 0, os.SEEK_SET)
        low = [memfd, dirfd] + ([os.open(layout, os.O_RDONLY | os.O_DIRECTORY)] if layout else [])
        fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in low]
        # the shell moves the descriptors to their numbers: Python's own children cannot
        script = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(fds))
        closes = " ".join(f"{fd}<&-" for fd in fds)
        subprocess._USE_VFORK = False  # a child's peak of memory begins with what it shares with us; not our own peak
        p = subprocess.Popen(["/bin/bash", "-c", f"exec {self.program} {script} {closes}"], pass_fds=fds,
                             stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", **(env or {})})
        subprocess._USE_VFORK = True
        for fd in low + fds:
            os.close(fd)
        return p

    def pull(self, reference, endpoint=None, timeout=120, **kw):
        p = self.start(reference, endpoint, **kw)
        timer = threading.Timer(timeout, p.kill)
        timer.start()
        out = p.stdout.read()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        p.stdout.close()
        timer.cancel()
        return Outcome(p.returncode, [json.loads(x) for x in out.decode().splitlines()], usage.ru_maxrss * 1024)

    def files(self):
        return sorted(p.name for d in ("layers", "meta") for p in (self.root / d).glob("*"))

    def leftovers(self):
        return [n for n in self.files() if n.startswith(".tmp")]

    def segments(self, image):
        """Paths in the order of the region."""
        paths = [self.root / "meta" / (image["id"][7:] + ".2.erofs")]
        for layer in image["layers"]:
            paths.append(self.root / "layers" / (layer["diff_id"][7:] + ".2.data"))
        return paths

    def compose(self, image, out):
        """[metadata][layer]… as one file, holes kept."""
        with open(out, "wb") as f:
            for p in self.segments(image):
                size = p.stat().st_size
                assert size % 4096 == 0
                with open(p, "rb") as src:
                    while chunk := src.read(1 << 20):
                        if chunk.count(0) == len(chunk):
                            f.seek(len(chunk), 1)
                        else:
                            f.write(chunk)
            f.truncate()
        return out

    def read(self, image):
        """{path: Inode} by the independent reader; .content(path) has the bytes."""
        composed = self.compose(image, self.root / "composed")
        with open(composed, "rb") as f:
            m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        reader = erofs_reader.Image(m)
        tree = reader.tree()
        return tree, lambda path: tree[path].data(m)


def fsck(path):
    """What fsck.erofs says: (exit code, output)."""
    r = subprocess.run(["fsck.erofs", str(path)], capture_output=True, text=True, check=False)
    return r.returncode, r.stdout + r.stderr


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layout(path, layers, config=None, tag="latest"):
    """An OCI image layout of raw layer blobs: [(stored bytes, plain bytes or None)]. Returns its path."""
    path = pathlib.Path(path)
    (path / "blobs/sha256").mkdir(parents=True, exist_ok=True)

    def blob(data, media):
        (path / "blobs/sha256" / digest(data)[7:]).write_bytes(data)
        return {"mediaType": media, "digest": digest(data), "size": len(data)}

    descriptors = [blob(stored, "application/vnd.oci.image.layer.v1.tar") for stored, _ in layers]
    conf = {"architecture": "amd64", "os": "linux", "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest(plain if plain is not None else stored)
                                                      for stored, plain in layers]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": blob(json.dumps(conf).encode(), "application/vnd.oci.image.config.v1+json"),
                "layers": descriptors}
    desc = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    desc["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [desc]}))
    return path


class Tar:
    """A tar made member by member, in any of tarfile's formats, or with raw blocks."""

    def __init__(self, fmt=None):
        import tarfile
        self.tarfile, self.raw = tarfile, io.BytesIO()
        self.tar = tarfile.open(fileobj=self.raw, mode="w", format=tarfile.PAX_FORMAT if fmt is None else fmt,
                                errors="surrogateescape")

    def add(self, name, kind=b"0", data=b"", link="", pax=None, **fields):
        info = self.tarfile.TarInfo(name)
        info.type, info.size, info.linkname, info.pax_headers = kind, len(data), link, pax or {}
        for k, v in fields.items():
            setattr(info, k, v)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def bytes(self):
        self.tar.close()
        return self.raw.getvalue()
