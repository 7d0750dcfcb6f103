# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 140
"""A guest that is all attacker (attack-init.c, attack-module.c) on a stock kernel, against the regions of its VM: an
image and a mapped volume whose files lie on ext4. After each phase the host's files are looked at, byte for byte and
page for page, and another VM that maps the same files is asked what it reads."""
import collections
import mmap
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
sys.path.insert(0, str(ROOT / "guest"))
import initramfs  # noqa: E402
import vmm as vmm_lib  # noqa: E402
from atomic_writer import AtomicWriter, kubelet_volume  # noqa: E402
from vmm import Vmm  # noqa: E402
from volumes import pieces_of  # noqa: E402
from witness import Witness  # noqa: E402

BUSYBOX = ROOT / "build/kernels/busybox-static"
INIT = ROOT / "build/host/tests/integration/attack/attack-init"
MODULE = ROOT / "build/guest/attack-module.ko"
TAP = "nvattack0"
GO = b"NEXUS-ATTACK-GO\0"
REFUSED = re.compile(r"dma: (\w+) queue (\d) ([\w ]+): (\w+)")
# what the devices have, and what they never look at: hvc0's input, vsock's events
KINDS = 10  # of stores that KVM decodes: attack.h
QUEUES = {"net": 2, "vsock": 3, "blk": 1, "rng": 1, "console": 2, "pmem": 1}
UNUSED = {("console", "0"), ("vsock", "2")}


def run(*cmd):
    subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL)


class Frames(threading.Thread):
    """Something for a network device to receive, all the time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended = threading.Event()

    def run(self):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        s.bind((TAP, 0))
        while not self.ended.wait(0.01):
            try:
                s.send(b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + b"frame" * 10)
            except OSError:
                pass  # nobody at the other end at the moment
        s.close()


class Attacker:
    """The hostile VM, phase by phase."""

    def __init__(self, test, phases, cpus):
        self.dir, self.steps, self.heard = test.dir, 0, collections.Counter()
        self.console = test.dir / f"console-{'-'.join(phases)}"
        self.go = test.dir / "go"
        self.go.write_bytes(GO + bytes(4096 - len(GO)))
        append = f"loglevel=1 nexus.n=3 nexus.test={','.join(phases)}"
        self.vmm = Vmm(id_="attacker", cpus=cpus, initramfs=test.initramfs, timeout=400,
                       arguments=["--console", self.console, "--net", f"tap:{TAP}", "--scratch", test.dir / "scratch",
                                  "--cmdline-append", append])
        self.c = self.vmm.connect()
        test.addCleanup(self.vmm.close)
        test.addCleanup(self.c.close)

    def text(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def lines(self):
        return re.findall(r"test: (.*)\r?\n", self.text())

    def wait(self, line, seconds=300):
        """Until the guest has said it once more; False: the VM is over."""
        end = time.monotonic() + seconds
        times = self.heard[line] = self.heard[line] + 1
        while self.lines().count(line) < times:
            if self.c.get_state().phase == self.c.pb.VmmState.ENDED:
                return self.lines().count(line) >= times
            if time.monotonic() > end:
                raise AssertionError(f"no {line!r}:\n{self.text()[-3000:]}\n{self.vmm.stderr()[-2000:]}")
            time.sleep(0.05)
        return True

    def proceed(self):
        """Through a page that the guest has mapped: it sees the file change."""
        self.steps += 1
        with open(self.go, "r+b") as f:
            f.seek(len(GO))
            f.write(self.steps.to_bytes(4, "little"))

    def denied(self):
        return {r.key: r.denied_writes for r in self.c.get_state().regions if r.key != "go"}


class AllAttacker(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        assert MODULE.exists(), f"{MODULE} is missing: make attack"
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-attack-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.make_files()
        cls.make_initramfs()
        with open(cls.dir / "scratch", "wb") as f:
            f.write(b"Z" * (1 << 20))
        run("ip", "tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr")
        cls.addClassCleanup(run, "ip", "link", "del", TAP)
        run("ip", "link", "set", TAP, "up")
        frames = Frames()
        frames.start()
        cls.addClassCleanup(frames.ended.set)
        cls.bystander = Vmm(id_="bystander")
        cls.addClassCleanup(cls.bystander.close)
        c = cls.bystander.connect()
        cls.addClassCleanup(c.close)
        c.wait_ready()
        c.configure(hostname="bystander")
        c.add_region("img", [cls.image])
        c.add_region_of("vol", cls.pieces)
        c.create("c", ["sleep", "100000"], volumes=[c.volume("s", "vol", "/s")])
        c.start("c")
        cls.right = cls.read_bystander()
        assert cls.right.count("\n") >= 5, cls.right

    @classmethod
    def make_files(cls):
        cls.disk = cls.dir / "disk"
        cls.disk.mkdir()
        with open(cls.dir / "disk.img", "wb") as f:
            f.truncate(64 << 20)
        run("mkfs.ext4", "-q", "-F", cls.dir / "disk.img")
        subprocess.run(["modprobe", "loop"], check=False)
        run("mount", "-o", "loop", cls.dir / "disk.img", cls.disk)
        cls.addClassCleanup(run, "umount", cls.disk)
        root = cls.dir / "root"
        for d in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
            (root / d).mkdir(parents=True)
        shutil.copy(BUSYBOX, root / "bin/busybox")
        for a in ("sh", "sleep", "sha256sum", "cat", "find", "sort", "xargs"):
            (root / "bin" / a).symlink_to("busybox")
        (root / "random").write_bytes(os.urandom(1 << 20))
        (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
        cls.image = vmm_lib.erofs_of(root, cls.disk / "image.erofs")
        writer = AtomicWriter(kubelet_volume(cls.disk / "kubelet", "uid", "secret", "s"))
        writer.write({"one": (b"1", 0o400), "key": (b"do not change" * 400, 0o400), "empty": (b"", 0o644),
                      "big": (os.urandom(200000), 0o644), "page": (b"p" * 4096, 0o644)})
        cls.pieces = pieces_of(cls.disk / "metadata", {"s": writer.dir})

    @classmethod
    def make_initramfs(cls):
        cpio = initramfs.Cpio()
        for d in ("proc", "sys", "dev"):
            cpio.dir(d)
        cpio.node("dev/console", 5, 1)
        cpio.file("init", INIT.read_bytes(), 0o755)
        names = [n for n in initramfs.read_names(ROOT / "guest/modules") if n not in ("erofs", "overlay", "af_packet")]
        _, paths = initramfs.module_order(ROOT / "build/kernels/cloud", names)
        initramfs.add_modules(cpio, [*paths, MODULE])
        cls.initramfs = cls.dir / "attack.cpio"
        cls.initramfs.write_bytes(cpio.bytes())

    @classmethod
    def read_bystander(cls):
        """Hashes of all files of the image and the volume, as the other VM reads them."""
        code, out, err = cls.bystander.exec("c", ["sh", "-c", "sha256sum /bin/busybox /random /etc/passwd /s/*"])
        assert code == 0, (out, err)
        return out.decode()

    def attack(self, *phases, cpus=1, may_end=False):
        """Runs a guest through the phases with a look at everything after each; what it said, and the attacker.
        may_end: the guest may be over before its time."""
        a = Attacker(self, phases, cpus)
        for add in (lambda: a.c.add_region("go", [a.go]), lambda: a.c.add_region("img", [self.image]),
                    lambda: a.c.add_region_of("vol", self.pieces)):
            add()
        witness = Witness(self.disk, [a.vmm.proc.pid, self.bystander.proc.pid])
        denied = collections.Counter()
        for phase in ("begin", *phases):
            alive = a.wait(f"done {phase}")
            self.look(witness, a, phase)
            now = a.denied()
            print(f"{phase}: {'alive' if alive else 'over'}; denied " +
                  ", ".join(f"{k} {v - denied[k]}" for k, v in now.items()) +
                  f"; {len(witness.files)} files, {witness.shared} mapped pages of the page cache looked at", flush=True)
            denied.update({k: v - denied[k] for k, v in now.items()})
            if not alive:
                self.assertTrue(may_end, f"{a.c.get_state().end_detail}\n{a.text()[-3000:]}")
                return a.lines(), a
            a.proceed()
        self.assertTrue(a.wait("end"))
        while a.c.get_state().phase != a.c.pb.VmmState.ENDED:
            time.sleep(0.05)
        self.assertEqual(a.c.get_state().end, a.c.pb.VmmState.POWEROFF)
        self.look(witness, a, "end")
        self.assertNotIn("AddressSanitizer", a.vmm.stderr())
        return a.lines(), a

    def look(self, witness, a, phase):
        with self.subTest(phase):
            self.assertIsNone(a.vmm.proc.poll(), a.vmm.stderr()[-2000:])
            self.assertIsNone(self.bystander.proc.poll())
            witness.check(self)
            self.assertEqual(self.read_bystander(), self.right)

    def test_a_single_changed_byte_is_seen(self):
        """By the witness that all others rely on: in the page cache before it reaches the disk, and afterwards."""
        canary = self.dir / "disk/canary"
        canary.mkdir()
        (canary / "file").write_bytes(bytes(20000))
        with open(canary / "file", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
            witness = Witness(canary)
            witness.check(self)
            m[4096] = 0  # the same as before: dirty is all that it is
            with self.assertRaisesRegex(AssertionError, "dirty pages"):
                witness.check(self)
            m[8192] = 1
            m.flush()
        with self.assertRaises(AssertionError):
            witness.check(self)
        shutil.rmtree(canary)

    def test_kernel_code_cannot_store(self):
        """Through the direct map and through mappings of every memory type, with every store KVM decodes."""
        said, a = self.attack("direct", "remap", "devmem", "msr", "flush", "unbind", "remap", "devmem", "bind")
        print("\n".join(x for x in said if not re.search(r"kind \d+: 6 stored, 0 faulted, errno 0$", x)))
        stores = [re.search(r"map (\w+) kind (\d+): (\d+) stored, (\d+) faulted, errno (\d+)", x) for x in said]
        stored = collections.Counter()
        for m in stores:
            if m:
                stored[m[1], int(m[2])] += int(m[3])
        for kind in range(KINDS):
            self.assertGreaterEqual(stored["direct", kind], 6, kind)
            self.assertGreaterEqual(stored["wb", kind], 6, kind)
        self.assertGreater(stored["direct", 1], 500)  # every page
        denied = a.denied()
        self.assertGreater(min(denied.values()), 500)
        self.assertIn("flush: 16 writers of 50 flushes, 0 failed", said)
        self.assertIn("bind: 2 of 2 regions read as before", said)
        for key in ("img", "vol"):
            self.assertIn(f"region {key}: the guest wrote at offset", a.vmm.stderr())

    def test_devices_cannot_be_made_to_store(self):
        """Every queue of every device with a region as its buffer, driven by hand; then everything works again."""
        said, a = self.attack("unbind", "dma", "flood", "bind", "flush")
        print("\n".join(x for x in said if not x.startswith(("dma:", "ring:"))))
        self.assertEqual([x for x in said if "cannot be set up" in x], [])
        honest = collections.Counter(x for x in said if x.startswith("honest:"))
        self.assertEqual(set(honest), {f"honest: {d} used" for d in QUEUES})
        results = collections.Counter()
        for m in filter(None, map(REFUSED.match, said)):
            want = "ignored" if (m[1], m[2]) in UNUSED else "refused"
            self.assertEqual(m[4], want, m[0])
            results[m[1]] += 1
        # 5 variants for each of the 2 regions; both regions' own devices
        self.assertEqual(dict(results), {d: n * 10 * (2 if d == "pmem" else 1) for d, n in QUEUES.items()})
        rings = [x for x in said if x.startswith("ring:")]
        self.assertEqual(len(rings), 3 * 2 * sum(n * (2 if d == "pmem" else 1) for d, n in QUEUES.items()))
        self.assertEqual([x for x in rings if not x.endswith("refused")], [])
        self.assertTrue(any(x.startswith("flood:") and x.endswith(", 0 failed") for x in said))
        self.assertIn("bind: 2 of 2 regions read as before", said)
        self.assertIn("writable descriptor in a read-only region", a.vmm.stderr())
        counters = a.c.counters()
        for d in ("net", "vsock", "scratch", "rng", "console", "pmem"):
            self.assertGreater(counters[f"virtio.{d}.failures"], 0, d)

    def test_a_descriptor_that_changes_while_it_is_read(self):
        said, _ = self.attack("unbind", "flip", "bind", cpus=2)
        m = re.search(r"flip: (\d+) used, (\d+) refused", "\n".join(said))
        print(m[0])
        self.assertGreater(int(m[1]), 0)
        self.assertGreater(int(m[2]), 0)
        self.assertIn("bind: 2 of 2 regions read as before", said)

    def test_stores_that_kvm_cannot_decode(self):
        """They end the VM or go by; nothing else happens."""
        for phase in ("cmpxchg16b", "avx", "fxsave"):
            with self.subTest(phase):
                said, a = self.attack(phase, may_end=True)
                state = a.c.get_state()
                a.vmm.close()  # the next one wants its TAP
                print(f"{phase}: {state.end_detail}", *said[-2:], sep="\n")
                if f"done {phase}" not in said:
                    self.assertEqual(state.end, a.c.pb.VmmState.INTERNAL_ERROR)
                    self.assertIn("emulation", state.end_detail)


if __name__ == "__main__":
    unittest.main(verbosity=2)
