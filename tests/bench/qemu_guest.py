# SPDX-License-Identifier: Apache-2.0
"""The reference: a guest in QEMU -M q35 with our kernel, and an init that does what its console tells it.

    image = build_initramfs(path)
    with Guest(image, memory=256, share="/dir", cache="auto") as g:
        g.mount("virtiofs", "share", "/mnt"); text = g.run("read", "/mnt", "100", "64", "1000")
    with Guest(image, memory=256, disk="/file") as g: g.mount("erofs", "/dev/vda", "/mnt")"""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "guest"))
import initramfs  # noqa: E402

KERNEL, KERNEL_DIR = ROOT / "build/guest/vmlinux", ROOT / "build/kernels/cloud"
PROGRAMS = ROOT / "build/host/tests/bench"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
MODULES = ["virtio_pci", "virtio_console", "virtio_blk", "erofs", "fuse", "virtiofs"]
COMMAND_LINE = "quiet loglevel=1 panic=-1 random.trust_cpu=on no_timer_check"
WAIT_S = 240  # a failure, not a measure


def build_initramfs(out):
    cpio = initramfs.Cpio()
    for d in ("proc", "sys", "dev", "mnt"):
        cpio.dir(d)
    cpio.node("dev/console", 5, 1)
    cpio.file("init", (PROGRAMS / "reference-init").read_bytes(), 0o755)
    cpio.file("bin/volume-reader", (PROGRAMS / "volume-reader").read_bytes(), 0o755)
    initramfs.add_modules(cpio, initramfs.module_order(KERNEL_DIR, MODULES)[1])
    pathlib.Path(out).write_bytes(cpio.bytes())
    return out


class Guest:
    def __init__(self, image, memory=256, cpus=1, share=None, cache="auto", disk=None):
        """share: a directory for virtiofsd, tag "share"; disk: a file, read-only, by virtio-blk."""
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-qemu-"))
        self.daemon = None
        machine, devices = "q35", []
        if share:
            self.start_virtiofsd(share, cache)
            machine += ",memory-backend=ram"
            devices += ["-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on", "-chardev",
                        f"socket,id=fs,path={self.dir}/fs.sock", "-device", "vhost-user-fs-pci,chardev=fs,tag=share"]
        if disk:
            devices += ["-drive", f"id=d,file={disk},format=raw,if=none,readonly=on", "-device", "virtio-blk-pci,drive=d"]
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-M", machine, "-enable-kvm", "-cpu", "host", "-m", str(memory), "-smp", str(cpus),
             "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", KERNEL, "-initrd", image,
             "-nic", "none", "-append", COMMAND_LINE, "-chardev", "stdio,id=c,signal=off", "-device", "virtio-serial-pci", "-device",
             "virtconsole,chardev=c", *devices],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(self.dir / "stderr", "wb"), text=True, bufsize=1)
        try:
            self.answer()
        except BaseException:
            self.close()
            raise

    def start_virtiofsd(self, share, cache):
        with open(self.dir / "virtiofsd.log", "wb") as log:
            self.daemon = subprocess.Popen([VIRTIOFSD, f"--socket-path={self.dir}/fs.sock", "-o", f"source={share}", "-o",
                                            f"cache={cache}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not (self.dir / "fs.sock").exists():
            if self.daemon.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"virtiofsd: {(self.dir / 'virtiofsd.log').read_text()}")
            time.sleep(0.05)

    def answer(self):
        out = ""
        while True:
            # QEMU that hangs is ended, which ends the reading
            timer = threading.Timer(WAIT_S, self.qemu.kill)
            timer.start()
            line = self.qemu.stdout.readline()
            timer.cancel()
            if not line:
                raise RuntimeError(f"QEMU ended: {out}{(self.dir / 'stderr').read_text(errors='replace')}")
            word, _, code = line.strip().partition(" ")
            if word == "done":
                if code != "0":
                    raise RuntimeError(f"guest: {code}: {out}")
                return out
            out += line

    def tell(self, *words):
        self.qemu.stdin.write(" ".join(words) + "\n")

    def do(self, *words):
        self.tell(*words)
        return self.answer()

    def mount(self, kind, source, where):
        self.do("mount", kind, source, where)

    def run(self, *arguments):
        return self.do("run", *arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for p in (self.qemu, self.daemon):
            if p:
                p.kill()
                p.wait()
        self.qemu.stdin.close()
        self.qemu.stdout.close()
        shutil.rmtree(self.dir, ignore_errors=True)
