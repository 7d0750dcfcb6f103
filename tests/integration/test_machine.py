# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 120
"""The monitor with a stock kernel and a test guest: how guests end, hot-added regions, and what a guest
may do to them. vmm-driver plays the host's part; the guest's init is guest/init.c."""
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "guest"))
import initramfs  # noqa: E402

KERNEL = ROOT / "build/guest/vmlinux"
KERNEL_DIR = ROOT / "build/kernels/cloud"
BUILD = ROOT / "build/host/tests/integration"
VMM = ROOT / "build/host/src/vmm/nexus-vmm"
LAST_PAGE = (1 << 20) - 4096


class Machine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="nexus-machine-")
        cls.tmp = pathlib.Path(cls.dir.name)
        cpio = initramfs.Cpio()
        for d in ("proc", "sys", "dev"):
            cpio.dir(d)
        cpio.node("dev/console", 5, 1)
        cpio.file("init", (BUILD / "test-init").read_bytes(), 0o755)
        _, paths = initramfs.module_order(KERNEL_DIR, initramfs.read_names(ROOT / "guest/modules"))
        initramfs.add_modules(cpio, paths)
        cls.initramfs = cls.tmp / "initramfs.cpio"
        cls.initramfs.write_bytes(cpio.bytes())

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def region_file(self, n):
        """1 MiB and n pages, begins with its number, last page of the first MiB not empty."""
        path = self.tmp / f"region-{n}"
        with open(path, "wb") as f:
            f.write(b"region-%02d------" % n)
            f.seek(LAST_PAGE)
            f.write(b"x")
            f.truncate((1 << 20) + 4096 * n)
        return path

    def run_guest(self, test, files=(), cpus=1, memory="256M", args="", timeout=120):
        cmd = [BUILD / "vmm-driver", KERNEL, self.initramfs, str(cpus), memory,
               f"printk.devkmsg=on loglevel=1 nexus.test={test} {args}", *files]
        r = subprocess.run(cmd, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
        self.log = r.stdout + r.stderr
        self.assertEqual(r.returncode, 0, self.log[-3000:])
        counters = {k: int(v) for k, v in re.findall(r"^counter: (\S+) (\d+)$", r.stdout, re.M)}
        end = re.search(r"^driver: end (.*?) \((.*)\)$", r.stdout, re.M)
        self.assertIsNotNone(end, self.log[-3000:])
        return end.group(1), end.group(2), re.findall(r"test: (.*)$", r.stdout, re.M), counters

    def assert_clean(self, counters, unclaimed_ports):
        self.assertEqual(counters.get("kvm.exit.unclaimed_mmio", 0), 0)
        self.assertLessEqual(counters.get("kvm.exit.unclaimed_port", 0), unclaimed_ports)

    def test_stock_kernel_reaches_user_space_and_powers_off(self):
        end, _, said, counters = self.run_guest("nothing")
        self.assertEqual(end, "power-off", self.log)
        self.assertIn("end nothing, 1 CPUs", said)
        self.assert_clean(counters, 8)
        self.assertGreater(counters["boot.kernel_skipped_bytes"], 10 << 20)

    def test_four_cpus_and_memory_above_four_gib(self):
        end, _, said, _ = self.run_guest("nothing", cpus=4, memory="3200M")
        self.assertEqual(end, "power-off", self.log)
        self.assertIn("end nothing, 4 CPUs", said)

    def test_ends_are_told_apart(self):
        self.assertEqual(self.run_guest("reset")[0], "reset", "the reset register")
        end, detail, _, _ = self.run_guest("panic")
        self.assertEqual(end, "panic")
        self.assertIn("Attempted to kill init", detail)
        end, detail, _, _ = self.run_guest("reset", args="reboot=t")
        self.assertEqual(end, "triple fault")
        self.assertRegex(detail, r"^triple fault on vCPU 0, (rip 0x|registers already reset).*; last exit: \S.* at 0x")

    def test_regions_share_interrupt_lines(self):
        """20 hot-added devices on 8 edge lines, two CPUs, 400 flushes at once: none is lost."""
        n = 20
        end, _, said, counters = self.run_guest("regions", [self.region_file(i) for i in range(n)], cpus=2,
                                                args=f"nexus.n={n}")
        self.assertEqual(end, "power-off", self.log)
        for i in range(n):
            self.assertIn(f"pmem{i}: region-{i:02d}------ flush 0", said)
        self.assertIn(f"flushed {n} at once, 0 failed", said)
        self.assertEqual(counters["regions"], n)

    def test_guest_root_cannot_change_a_region(self):
        f = self.region_file(0)
        before = f.read_bytes()
        end, _, said, counters = self.run_guest("readonly", [f])
        self.assertEqual(end, "power-off", self.log)
        self.assertIn("before region-00------ after region-00------", said)
        self.assertGreater(counters["kvm.exit.readonly_writes"], 0)
        self.assertEqual(f.read_bytes(), before)

    def test_truncated_file_costs_its_reader_zeros_only(self):
        end, _, said, counters = self.run_guest("truncate", [self.region_file(0)])
        self.assertEqual(end, "power-off", self.log)
        self.assertIn("last page had 120, has 0", said)
        self.assertIn("first page region-00", said)
        self.assertGreaterEqual(counters["kvm.exit.repaired_faults"], 1)

    def test_slots_are_used_again(self):
        """One slot, emptied and filled 16 times: the guest binds its device each time, unasked by firmware."""
        end, _, said, _ = self.run_guest("reuse", [self.region_file(i) for i in range(17)], args="nexus.n=16")
        self.assertEqual(end, "power-off", self.log)
        self.assertEqual([s for s in said if s.startswith("unbind")], ["unbind gives 0"] * 16)
        self.assertEqual(self.log.count("driver: removal gives 0"), 16)
        self.assertEqual([s for s in said if s.startswith("before")], ["before bind: -1"] * 16)
        self.assertIn("pmem0: region-16------ flush 0", said)

    def test_erofs_image_mounts_with_dax(self):
        tree = self.tmp / "tree"
        tree.mkdir()
        (tree / "hello").write_text("from the host\n")
        (tree / "big").write_bytes(b"\1" * 3000000 + b"\x2a")
        image = self.tmp / "image.erofs"
        subprocess.run(["mkfs.erofs", "-E", "noinline_data", image, tree], check=True, stdout=subprocess.DEVNULL)
        end, _, said, _ = self.run_guest("mount", [image])
        self.assertEqual(end, "power-off", self.log)
        self.assertIn("mount gives 0", said)
        self.assertIn("hello from the host big 3000001 bytes, last 42, dax 1", said)

    def test_console_output_takes_few_exits(self):
        """2000 lines on hvc0 arrive, in order; a byte on the serial line would be two exits."""
        end, _, said, counters = self.run_guest("console")
        self.assertEqual(end, "power-off", self.log)
        self.assertIn("consoles: hvc0", said)
        lines = re.findall(r"hvc0 line (\d{4})$", self.log, re.M)
        self.assertEqual(lines, [f"{i:04d}" for i in range(2000)])
        self.assertGreater(counters["virtio.console.kicks"], 0)
        self.assertLess(counters["kvm.exit.io"], 2000)
        self.assertEqual(counters.get("console.dropped_bytes", 0), 0)
        self.assertEqual(counters.get("virtio.console.failures", 0), 0)

    def program(self, *args, timeout=120):
        cmd = [VMM, "--id", "t", "--kernel", KERNEL, "--initramfs", self.initramfs, *args]
        return subprocess.run(cmd, capture_output=True, text=True, timeout=timeout, check=False)

    def test_exit_codes_of_the_program(self):
        for test, code in (("nothing", 0), ("reset", 10), ("panic", 11), ("reset reboot=t", 12)):
            r = self.program("--cmdline-append", f"nexus.test={test}")
            self.assertEqual(r.returncode, code, f"{test}: {r.stderr}")

    def test_silent_console_still_tells_why_it_panicked(self):
        r = self.program("--cmdline-append", "nexus.test=panic")
        self.assertIn("Attempted to kill init", r.stderr)

    def test_term_ends_a_guest_that_spins(self):
        p = subprocess.Popen([VMM, "--id", "t", "--kernel", KERNEL, "--initramfs", self.initramfs, "--console",
                              self.tmp / "console", "--cmdline-append", "nexus.test=spin"], stderr=subprocess.PIPE)
        console = self.tmp / "console"
        while "begin spin" not in (console.read_text(errors="replace") if console.exists() else ""):
            self.assertIsNone(p.poll())
            time.sleep(0.05)
        p.terminate()
        self.assertEqual(p.wait(60), 15)
        p.stderr.close()


if __name__ == "__main__":
    unittest.main()
