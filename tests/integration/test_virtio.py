# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 115
"""The monitor's devices with the drivers of a stock kernel: vsock, network, block, entropy. virtio-driver
is the host's end of vsock, this file that of the network; the guest's init is guest/virtio-init.c."""
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "guest"))
import initramfs  # noqa: E402

KERNEL = ROOT / "build/guest/vmlinux"
KERNEL_DIR = ROOT / "build/kernels/cloud"
BUILD = ROOT / "build/host/tests/integration"
TAP = "nvtest0"
MIB = 1 << 20


PERIOD = 256 * 4093  # of the guest's and the driver's pattern: byte i is i * 31 + i / 4093


class Peer(threading.Thread):
    """The host's end of the network: counts (7001), produces (7002), echoes datagrams (7003)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.sockets = []
        for port in (7001, 7002):
            s = socket.create_server(("10.99.7.1", port))
            self.sockets.append(s)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("10.99.7.1", 7003))
        self.data = bytes((i * 31 + i // 4093) & 255 for i in range(PERIOD))

    def count(self):
        with self.sockets[0].accept()[0] as c:
            n = 0
            while True:
                b = c.recv(MIB)
                if not b:
                    break
                n += len(b)
            c.sendall(f"host counted {n}".encode())

    def produce(self):
        with self.sockets[1].accept()[0] as c:
            c.sendall(self.data * 8)

    def echo(self):
        while True:
            b, a = self.udp.recvfrom(2000)
            self.udp.sendto(b, a)

    def run(self):
        for f in (self.count, self.produce, self.echo):
            threading.Thread(target=f, daemon=True).start()


class Virtio(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="nexus-virtio-")
        cls.tmp = pathlib.Path(cls.dir.name)
        cpio = initramfs.Cpio()
        for d in ("proc", "sys", "dev"):
            cpio.dir(d)
        cpio.node("dev/console", 5, 1)
        cpio.file("init", (BUILD / "virtio-init").read_bytes(), 0o755)
        _, paths = initramfs.module_order(KERNEL_DIR, initramfs.read_names(ROOT / "guest/modules"))
        initramfs.add_modules(cpio, paths)
        cls.initramfs = cls.tmp / "initramfs.cpio"
        cls.initramfs.write_bytes(cpio.bytes())

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def run_guest(self, tests, tap="-", disk="-", cpus=1, timeout=400):
        cmd = [BUILD / "virtio-driver", KERNEL, self.initramfs, str(cpus), "256M",
               f"printk.devkmsg=on loglevel=1 nexus.test={tests}", tap, disk]
        r = subprocess.run(cmd, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
        self.log = r.stdout + r.stderr
        self.assertEqual(r.returncode, 0, self.log[-3000:])
        self.assertIn("driver: end power-off", self.log)
        self.assertNotIn("is wrong", self.log)
        counters = {k: int(v) for k, v in re.findall(r"^counter: (\S+) (\d+)$", r.stdout, re.M)}
        self.assertEqual([k for k in counters if k.endswith((".failures", ".rejected"))], [])
        return re.findall(r"test: (.*)$", r.stdout, re.M), counters

    def said(self, lines, start):
        got = [s for s in lines if s.startswith(start)]
        self.assertEqual(len(got), 1, f"{start}: {self.log[-4000:]}")
        return got[0]

    def test_vsock(self):
        for cpus in (1, 2):
            lines, _ = self.run_guest("vsock", cpus=cpus)
            self.assertIn("nobody: -1, reset 1, quick 1", self.said(lines, "vsock nobody"))
            self.assertIn(f"{4 * MIB} of {4 * MIB} bytes right", self.said(lines, "vsock echo"))
            self.assertIn("500 rounds", self.said(lines, "vsock ping-pong"))
            self.assertIn(f"host counted {8 * MIB}, then 0", self.said(lines, "vsock sink"))
            self.assertIn(f"host counted {2 * MIB}, then 0", self.said(lines, "vsock slow sink"))
            self.assertIn(f"{8 * MIB} bytes right, end 0", self.said(lines, "vsock source"))
            self.assertIn(f"{8 * MIB} bytes right, end 0", self.said(lines, "vsock late reader"))
            self.assertIn("3000 bytes right, end 0", self.said(lines, "vsock dribble"))
            self.assertIn("300 of 300 echoed", self.said(lines, "vsock many"))
            self.assertIn('got 5 "ping" from cid 2, then 0', self.said(lines, "vsock host"))
            self.assertIn("driver: guest says pong", self.log)
            self.assertIn("driver: service 5 closed: 0\n", self.log)
            self.assertIn("driver: service 5 closed: -111\n", self.log)

    def test_block(self):
        disk = self.tmp / "disk"
        with open(disk, "wb") as f:
            f.truncate(64 * MIB)
        lines, _ = self.run_guest("blk", disk=disk)
        self.assertIn("blk: 64 MiB, wrote 16 MiB, sync 0", self.said(lines, "blk: "))
        self.assertIn("16 of 16 MiB right", self.said(lines, "blk direct"))
        self.assertIn("16 of 16 MiB right", self.said(lines, "blk buffered"))
        self.assertIn(f"0 errno 0, zero-out 0, {2 * MIB} zeros", self.said(lines, "blk discard"))
        self.assertIn("-1 errno 28", self.said(lines, "blk past the end"))
        self.assertEqual(disk.stat().st_size, 64 * MIB)
        self.assertLess(disk.stat().st_blocks * 512, 15 * MIB, "holes were punched")

    def test_network(self):
        subprocess.run(["ip", "tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"], check=True)
        try:
            subprocess.run(["ip", "addr", "add", "10.99.7.1/24", "dev", TAP], check=True)
            subprocess.run(["ip", "link", "set", TAP, "up"], check=True)
            Peer().start()
            lines, _ = self.run_guest("net", tap=TAP, cpus=2)
        finally:
            subprocess.run(["ip", "link", "del", TAP], check=True)
        self.assertIn("mac 02:4e:58:00:00:02 mtu 1500", self.said(lines, "net: mac"))
        self.assertIn("300 of 300 came back", self.said(lines, "net udp"))
        self.assertIn(f"host counted {8 * MIB}", self.said(lines, "net to host"))
        self.assertIn(f"{8 * PERIOD} bytes right, end 0", self.said(lines, "net from host"))

    def test_entropy_and_every_driver_bound_again(self):
        disk = self.tmp / "disk2"
        with open(disk, "wb") as f:
            f.truncate(64 * MIB)
        lines, _ = self.run_guest("rng,rebind,rng,blk,vsock", disk=disk)
        rng = [s for s in lines if s.startswith("rng")]
        self.assertEqual(len(rng), 2)
        for s in rng:
            self.assertIn("8192 bytes, plausible 1", s)
        self.assertIn("rebind: 4 devices, 0 failures", lines)
        self.assertIn("16 of 16 MiB right", self.said(lines, "blk direct"))
        self.assertIn("500 rounds", self.said(lines, "vsock ping-pong"))


if __name__ == "__main__":
    unittest.main()
