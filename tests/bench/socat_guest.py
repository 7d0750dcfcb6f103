# SPDX-License-Identifier: Apache-2.0
"""The reference for streams: socat (Debian's) in a guest of ours with the same kernel and the same vsock device, and
nothing of ours above them: its init is a shell script, its host's end is vsock-relay.c, which copies bytes between a
unix socket and a vsock connection. A guest of Kubernetes gives its programs no vsock, so it needs a guest of its own.

    with Guest(files={"big": b"…"}, megabytes=8) as g: s = g.connect(STDOUT)"""
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import ocimage

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "guest"))
import initramfs  # noqa: E402

KERNEL, KERNEL_DIR = ROOT / "build/guest/vmlinux", ROOT / "build/kernels/cloud"
RELAY, BUSYBOX = ROOT / "build/host/tests/bench/vsock-relay", ROOT / "build/kernels/busybox-static"
STDOUT, STDIN, FORWARD = 7001, 7002, 7003
HTTP = 8080
LIBRARIES = ("libwrap0", "libnsl2", "libtirpc3")  # of socat, beside what curl and OpenSSL brought
INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/null >/dev/null 2>/tmp/said
say() {{ echo "<0>$*" >/dev/kmsg; }}
while read -r m; do insmod "$m" || say "no $m"; done </modules.list
ifconfig lo up
httpd -p 127.0.0.1:{HTTP} -h /data
socat VSOCK-LISTEN:{STDOUT},fork,reuseaddr EXEC:"head -c $BYTES /dev/zero",pipes &
socat -t 60 VSOCK-LISTEN:{STDIN},fork,reuseaddr EXEC:"wc -c",pipes &
socat VSOCK-LISTEN:{FORWARD},fork,reuseaddr TCP:127.0.0.1:{HTTP} &
sleep 1
while read -r line; do say "$line"; done </tmp/said
say socat is ready
while :; do sleep 1000; done
"""


def libraries(program):
    """[(path in the guest, file)] of what a dynamic program loads."""
    path = ":".join(str(d) for p in LIBRARIES for d in ocimage.unpacked(p).glob("**/x86_64-linux-gnu"))
    text = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": path}).stdout
    found = [(f"lib/x86_64-linux-gnu/{name}", file) for name, file in re.findall(r"(\S+) => (/\S+)", text)]
    if "not found" in text:
        raise RuntimeError(f"socat lacks a library:\n{text}")
    return [*found, ("lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2")]


def build_initramfs(out, files):
    cpio = initramfs.Cpio()
    for d in ("proc", "sys", "dev", "bin", "tmp"):
        cpio.dir(d)
    cpio.node("dev/console", 5, 1)
    cpio.file("init", INIT.encode(), 0o755)
    cpio.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    socat = ocimage.unpacked("socat") / "usr/bin/socat"
    cpio.file("bin/socat", pathlib.Path(os.path.realpath(socat)).read_bytes(), 0o755)
    for where, file in libraries(socat):
        cpio.file(where, pathlib.Path(file).read_bytes(), 0o755)
    for name, data in files.items():
        cpio.file(f"data/{name}", data)
    wanted = ["virtio_mmio", "virtio_console", "vmw_vsock_virtio_transport"]
    initramfs.add_modules(cpio, initramfs.module_order(KERNEL_DIR, wanted)[1])
    out.write_bytes(cpio.bytes())


class Guest:
    def __init__(self, files, stream_bytes, memory="256M"):
        """files: what its web server has; stream_bytes: how much STDOUT gives."""
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-socat-"))
        image, self.log = self.dir / "initramfs", self.dir / "log"
        build_initramfs(image, files)
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen([RELAY, KERNEL, image, memory, f"printk.devkmsg=on loglevel=1 BYTES={stream_bytes}", self.dir,
                                          *map(str, (STDOUT, STDIN, FORWARD))], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise

    def wait_ready(self):
        end = time.monotonic() + 120
        while b"socat is ready" not in self.log.read_bytes():
            if self.proc.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the guest with socat: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def connect(self, port):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(120)
        s.connect(str(self.dir / str(port)))
        return s

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.proc.kill()
        self.proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
