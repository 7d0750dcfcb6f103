# SPDX-License-Identifier: Apache-2.0
"""Images from Debian packages, and a local registry to serve them: for the demo, tests and benchmarks.

    with Registry(port) as reg:
        reg.push("demo/web", "latest", busybox_image([Layer().file("/www/index.html", b"hello")], cmd=[...]))

Nothing is installed: packages are downloaded once into build/debs and unpacked there. Layers are
deterministic, so an image keeps its digests from run to run."""
import fcntl
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEBS = ROOT / "build/debs"
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def unpacked(package):
    """The folder with the content of a Debian package, downloaded on first use."""
    DEBS.mkdir(parents=True, exist_ok=True)
    out = DEBS / package
    with open(DEBS / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if out.exists():
            return out
        with tempfile.TemporaryDirectory(dir=DEBS, prefix=".get-") as tmp:
            os.chmod(tmp, 0o777)  # apt drops to its own user
            subprocess.run(["apt-get", "download", "-q", package], cwd=tmp, check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            deb = next(pathlib.Path(tmp).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", deb, pathlib.Path(tmp) / "x"], check=True)
            (pathlib.Path(tmp) / "x").rename(out)
    return out


class Layer:
    """A tar being made, entry by entry; order is kept. compression: gzip, zstd or none."""

    def __init__(self, compression="gzip"):
        self.compression = compression
        self.raw = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.raw, mode="w", format=tarfile.PAX_FORMAT)
        self.dirs, self.modes = set(), {}

    def add(self, path, type_=tarfile.REGTYPE, data=b"", mode=0o644, uid=0, gid=0, link="", dev=(0, 0), mtime=1700000000,
            pax=None):
        info = tarfile.TarInfo(path.strip("/"))
        self.modes[info.name] = mode
        info.type, info.mode, info.uid, info.gid, info.linkname = type_, mode, uid, gid, link
        info.devmajor, info.devminor = dev
        info.mtime, info.size, info.pax_headers = mtime, len(data), pax or {}
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def dir(self, path, mode=0o755, **kw):
        if path.strip("/") not in self.dirs:
            self.dirs.add(path.strip("/"))
            self.add(path, tarfile.DIRTYPE, mode=mode, **kw)
        return self

    def file(self, path, data, mode=0o644, **kw):
        for parent in reversed(pathlib.PurePosixPath("/" + path.strip("/")).parents):
            if str(parent) != "/":
                self.dir(str(parent))
        return self.add(path, data=data, mode=mode, **kw)

    def symlink(self, path, target):
        return self.add(path, tarfile.SYMTYPE, mode=0o777, link=target)

    def hardlink(self, path, target):
        target = target.strip("/")
        return self.add(path, tarfile.LNKTYPE, mode=self.modes.get(target, 0o644), link=target)  # containerd sets it anew

    def bytes(self):
        """(plain tar, bytes as stored, media type)"""
        self.tar.close()
        plain = self.raw.getvalue()
        if self.compression == "gzip":
            return plain, gzip.compress(plain, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"
        if self.compression == "zstd":
            packed = subprocess.run(["zstd", "-qc"], input=plain, stdout=subprocess.PIPE, check=True).stdout
            return plain, packed, "application/vnd.oci.image.layer.v1.tar+zstd"
        return plain, plain, "application/vnd.oci.image.layer.v1.tar"


def busybox_layer(compression="gzip"):
    """A small root: Debian's dynamic busybox with hard-linked applets, and the libraries it needs."""
    bb, libc = unpacked("busybox") / "bin/busybox", unpacked("libc6") / "lib/x86_64-linux-gnu"
    layer = Layer(compression)
    for d, mode in (("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("lib", 0o755),
                    ("lib/x86_64-linux-gnu", 0o755), ("lib64", 0o755), ("proc", 0o555), ("root", 0o700), ("run", 0o755),
                    ("sbin", 0o755), ("sys", 0o555), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755),
                    ("var", 0o755), ("var/www", 0o755)):
        layer.dir(d, mode)
    layer.file("bin/busybox", bb.read_bytes(), 0o755)
    applets = subprocess.run([bb, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in applets:
        if name != "busybox":
            layer.hardlink(f"bin/{name}", "bin/busybox")
    layer.file("bin/pgrep", b"#!/bin/sh\npidof \"$1\" | tr ' ' '\\n' | grep . \n", 0o755)
    for name in ("libc.so.6", "libresolv.so.2", "libm.so.6"):
        layer.file(f"lib/x86_64-linux-gnu/{name}", (libc / name).read_bytes(), 0o755)
    layer.file("lib64/ld-linux-x86-64.so.2", (libc / "ld-linux-x86-64.so.2").read_bytes(), 0o755)
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/sh\n"
                             b"default-user:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    layer.file("etc/group", b"root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"
                            b"nogroup:x:65534:\n")
    layer.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    return layer


class Image:
    """Layers and a config, ready to be pushed. schema: "oci" or "docker" media types."""

    def __init__(self, layers, cmd=None, entrypoint=None, env=None, user="", workdir="", stop_signal=None, schema="oci",
                 arch="amd64"):
        self.blobs, descriptors, diff_ids = {}, [], []
        for layer in layers:
            plain, stored, media = layer.bytes()
            if schema == "docker":
                media = "application/vnd.docker.image.rootfs.diff.tar" + (".gzip" if media.endswith("gzip") else "")
            diff_ids.append(digest(plain))
            descriptors.append(self.blob(stored, media))
        config = {"architecture": arch, "os": "linux", "config": {"Env": [PATH_ENV, *(env or [])]},
                  "rootfs": {"type": "layers", "diff_ids": diff_ids},
                  "history": [{"created_by": f"layer {n}"} for n in range(len(layers))]}
        for key, value in (("Cmd", cmd), ("Entrypoint", entrypoint), ("User", user), ("WorkingDir", workdir),
                           ("StopSignal", stop_signal)):
            if value:
                config["config"][key] = value
        oci = schema == "oci"
        conf_type = "application/vnd.oci.image.config.v1+json" if oci else "application/vnd.docker.container.image.v1+json"
        self.media_type = ("application/vnd.oci.image.manifest.v1+json" if oci
                           else "application/vnd.docker.distribution.manifest.v2+json")
        self.config_bytes = json.dumps(config).encode()
        self.id = digest(self.config_bytes)
        manifest = {"schemaVersion": 2, "mediaType": self.media_type, "config": self.blob(self.config_bytes, conf_type),
                    "layers": descriptors}
        self.manifest = json.dumps(manifest).encode()
        self.digest = digest(self.manifest)

    def blob(self, data, media):
        self.blobs[digest(data)] = data
        return {"mediaType": media, "digest": digest(data), "size": len(data)}


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def busybox_image(extra_layers=(), **config):
    config.setdefault("cmd", ["/bin/sh"])
    return Image([busybox_layer(), *extra_layers], **config)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Registry:
    """Debian's docker-registry on loopback, its store in a folder of its own. users: name → password, when nobody else
    is to come in."""

    def __init__(self, port=0, root=None, host="127.0.0.1"):
        self.users = {}
        self.port, self.host = port or free_port(), host
        self.root = pathlib.Path(root or tempfile.mkdtemp(prefix="nexus-registry-"))
        self.own_root, self.proc = root is None, None

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def start(self):
        self.root.mkdir(parents=True, exist_ok=True)
        conf = self.root / "config.yml"
        conf.write_text(f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {self.root}/data\n"
                        f"  delete:\n    enabled: true\nhttp:\n  addr: {self.address}\n")
        if self.users:
            import crypt  # Python says at once that it will go
            lines = [f"{u}:{crypt.crypt(p, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n" for u, p in self.users.items()]
            (self.root / "htpasswd").write_text("".join(lines))
            conf.write_text(conf.read_text() + f"auth:\n  htpasswd:\n    realm: test\n    path: {self.root}/htpasswd\n")
        program = shutil.which("docker-registry") or "/usr/bin/docker-registry"
        with open(self.root / "log", "ab") as log:
            self.proc = subprocess.Popen([program, "serve", conf], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for _ in range(600):
            if self.proc.poll() is not None:
                raise RuntimeError(f"docker-registry ended: {(self.root / 'log').read_text()[-500:]}")
            try:
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2).close()
                return self
            except urllib.error.HTTPError:  # it wants a password
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("docker-registry does not answer")

    def stop(self):
        if self.proc:
            self.proc.send_signal(signal.SIGTERM)
            self.proc.wait()
            self.proc = None
        if self.own_root:
            shutil.rmtree(self.root, ignore_errors=True)

    __enter__ = start

    def __exit__(self, *_):
        self.stop()

    def request(self, method, path, data=None, headers=None):
        url = path if path.startswith("http") else f"http://{self.address}{path}"
        req = urllib.request.Request(url, data=data, method=method, headers=headers or {})
        return urllib.request.urlopen(req, timeout=60)

    def push_blob(self, repo, name, data):
        try:
            self.request("HEAD", f"/v2/{repo}/blobs/{name}").close()
            return
        except urllib.error.HTTPError as e:
            if e.code != 404:
                raise
        with self.request("POST", f"/v2/{repo}/blobs/uploads/", b"") as r:
            where = r.headers["Location"]
        sep = "&" if "?" in where else "?"
        self.request("PUT", f"{where}{sep}digest={name}", data,
                     {"Content-Type": "application/octet-stream"}).close()

    def push(self, repo, tag, image):
        """Pushes and returns the reference host:port/repo:tag."""
        for name, data in image.blobs.items():
            self.push_blob(repo, name, data)
        self.request("PUT", f"/v2/{repo}/manifests/{tag}", image.manifest, {"Content-Type": image.media_type}).close()
        return f"{self.address}/{repo}:{tag}"

    def push_index(self, repo, tag, images):
        """An image index of (image, architecture) pairs."""
        entries = []
        for image, arch in images:
            for name, data in image.blobs.items():
                self.push_blob(repo, name, data)
            self.request("PUT", f"/v2/{repo}/manifests/{image.digest}", image.manifest,
                         {"Content-Type": image.media_type}).close()
            entries.append({"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest),
                            "platform": {"architecture": arch, "os": "linux"}})
        media = "application/vnd.oci.image.index.v1+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": entries}).encode()
        self.request("PUT", f"/v2/{repo}/manifests/{tag}", body, {"Content-Type": media}).close()
        return f"{self.address}/{repo}:{tag}"


if __name__ == "__main__":  # downloads the packages images are made of: the lab has no network
    busybox_image()
