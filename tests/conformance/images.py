# SPDX-License-Identifier: Apache-2.0
"""Every image that critest asks for, built from Debian packages, under its canonical name.

    with registry() as reg: Node(mirrors=mirrors(reg.address), insecure=[reg.address])

What an image must do was read in critest's source. Its own test-image-digest cannot be had: the name is the
digest of bytes that are published elsewhere."""
import hashlib
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/lib"))
from ocimage import Image, Layer, Registry, busybox_layer, unpacked  # noqa: E402

OUT = ROOT / "build/conformance"
STORE = OUT / "registry"
HOSTS = ("registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws")
STAGING = "k8s-staging-cri-tools"
LIB = "lib/x86_64-linux-gnu"
PAGE = b"<html><body>Nexus-VMM conformance</body></html>\n"
NGINX_CONF = """daemon off;
user root;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  server {{ listen {port}; root /var/www; }}
}}
"""


def packaged(package, name):
    """A file of a package, found by the end of its path; links are followed."""
    found = sorted(p for p in unpacked(package).rglob(name) if p.is_file())
    if not found:
        raise SystemExit(f"conformance: package {package} has no {name}")
    return found[0].resolve().read_bytes()


def tools_layer():
    """What specs call and busybox lacks."""
    return Layer().file("usr/bin/ipcs", packaged("util-linux", "ipcs"), 0o755)


def nginx_layer(port):
    layer = Layer()
    layer.file("usr/sbin/nginx", packaged("nginx", "sbin/nginx"), 0o755)
    for package, name in (("libcrypt1", "libcrypt.so.1"), ("libpcre2-8-0", "libpcre2-8.so.0"), ("libssl3", "libssl.so.3"),
                          ("libssl3", "libcrypto.so.3"), ("zlib1g", "libz.so.1")):
        layer.file(f"{LIB}/{name}", packaged(package, name), 0o755)
    layer.file("etc/nginx/nginx.conf", NGINX_CONF.format(port=port).encode())
    layer.file("var/www/index.html", PAGE)
    for d in ("var/log/nginx", "var/lib/nginx", "var/run"):
        for parent in reversed(pathlib.PurePosixPath(d).parents):
            if str(parent) != ".":
                layer.dir(str(parent))
        layer.dir(d)
    return layer


def httpd_layer():
    """busybox's web server; it says no word when it starts, and a spec looks for one in the log."""
    script = b"#!/bin/sh\necho httpd serves /var/www\nexec httpd -f -p 80 -h /var/www\n"
    return Layer().file("usr/bin/httpd-foreground", script, 0o755).file("var/www/index.html", PAGE)


def program(name):
    """A static program made of images.c."""
    out = OUT / name
    subprocess.run(["musl-gcc", "-static", "-Os", "-s", "-o", out, HERE / "images.c"], check=True)
    return out.read_bytes()


def marker(text):
    return Layer().file("marker", text.encode() + b"\n")


def images():
    """(repository, [tags], image) of all; the host is whatever name it is asked by."""
    base, shell = [busybox_layer(), tools_layer()], {"cmd": ["sh"]}
    pause = Image([Layer().file("pause", program("pause"), 0o755)], entrypoint=["/pause"], user="65535:65535")
    tagged = Image([*base, marker("tags")], **shell)
    all_ = [
        ("e2e-test-images/busybox", ["1.29-2"], Image(base, **shell)),
        ("e2e-test-images/nginx", ["1.14-2"], Image([*base, nginx_layer(80)], cmd=["/usr/sbin/nginx"])),
        ("e2e-test-images/httpd", ["2.4.39-4"], Image([*base, httpd_layer()], cmd=["httpd-foreground"])),
        ("e2e-test-images/nonewprivs", ["1.3"],
         Image([*base, Layer().file("nonewprivs", program("nonewprivs"), 0o4755)], entrypoint=["/nonewprivs"])),
        ("pause", ["3.9"], pause),
        (f"{STAGING}/test-image-latest", ["latest"], Image([*base, marker("latest")], **shell)),
        (f"{STAGING}/test-image-tag", ["test"], Image([*base, marker("test")], **shell)),
        (f"{STAGING}/test-image-tag", ["all"], Image([*base, marker("all")], **shell)),
        (f"{STAGING}/test-image-tags", ["1", "2", "3"], tagged),
        (f"{STAGING}/hostnet-nginx-amd64", ["latest"], Image([*base, nginx_layer(12003)], cmd=["/usr/sbin/nginx"])),
    ]
    for n in "123":
        all_.append((f"{STAGING}/test-image-{n}", ["latest"], Image([*base, marker(n)], **shell)))
    for name, user in (("user-uid", "1002"), ("user-username", "www-data"), ("user-uid-group", "1003:1004"),
                       ("user-username-group", "www-data:1004"), ("predefined-group", "1000")):
        all_.append((f"{STAGING}/test-image-{name}", ["latest"], Image([*base, marker(name)], user=user, **shell)))
    return all_


def stamp():
    h = hashlib.sha256()
    for f in (HERE / "images.py", HERE / "images.c", ROOT / "tests/lib/ocimage.py"):
        h.update(f.read_bytes())
    return h.hexdigest()


def prepare():
    """Fills the registry's store, where the lab, which has no network, finds it."""
    done = OUT / "registry.stamp"
    if done.exists() and done.read_text() == stamp() and STORE.exists():
        return
    print("building critest's images", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(STORE, ignore_errors=True)
    with registry() as reg:
        for repository, tags, image in images():
            for tag in tags:
                reg.push(repository, tag, image)
    done.write_text(stamp())


def registry():
    return Registry(root=STORE)


def mirrors(address):
    return {host: [f"http://{address}"] for host in HOSTS}


if __name__ == "__main__":
    prepare()
