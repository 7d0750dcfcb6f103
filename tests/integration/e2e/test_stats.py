#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 60
"""Stats of real pods against what the guest's own cgroup files, the host's TAP and the disk say; and new limits
where the guest's kernel keeps them."""
import os
import signal
import socket
import sys
import time
import unittest
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
from cri import pb, unique  # noqa: E402
from podcase import PodCase  # noqa: E402

MIB = 1 << 20
FOREVER = ["sleep", "1000000"]


class Stats(PodCase):
    @classmethod
    def setUpClass(cls):
        cls.start_all()
        cls.pod = cls.new_pod("main", memory=128 * MIB)

    def run_(self, *command, **more):
        ctr = self.cri.run(self.pod, unique("c"), self.image, command or FOREVER, **more)
        self.addCleanup(self.cri.RemoveContainer, container_id=ctr)
        return ctr

    def sh(self, ctr, script):
        code, out, err = super().sh(ctr, script)
        self.assertEqual(code, 0, (script, err))
        return out.decode()

    def stats(self, ctr):
        return self.cri.ContainerStats(container_id=ctr).stats

    def in_guest(self, ctr, file, key=None):
        text = self.sh(ctr, f"cat /sys/fs/cgroup/{file}")
        if key is None:
            return int(text)
        return int(next(line.split()[1] for line in text.splitlines() if line.split()[0] == key))

    def test_cpu(self):
        ctr = self.run_("sh", "-c", "while :; do :; done")
        time.sleep(1)
        first = self.stats(ctr).cpu
        time.sleep(2)
        before = self.in_guest(ctr, "cpu.stat", "usage_usec") * 1000
        cpu = self.stats(ctr).cpu
        after = self.in_guest(ctr, "cpu.stat", "usage_usec") * 1000
        self.assertTrue(before <= cpu.usage_core_nano_seconds.value <= after, (before, cpu, after))
        rate = ((cpu.usage_core_nano_seconds.value - first.usage_core_nano_seconds.value) * 1e9 /
                (cpu.timestamp - first.timestamp))
        self.assertAlmostEqual(cpu.usage_nano_cores.value / rate, 1, delta=0.01)
        idle = self.run_()
        self.stats(idle)
        time.sleep(1)
        self.assertLess(self.stats(idle).cpu.usage_nano_cores.value, rate / 2)
        pod = self.cri.PodSandboxStats(pod_sandbox_id=self.pod[0]).stats.linux
        self.assertGreater(pod.cpu.usage_core_nano_seconds.value, 0)
        self.assertGreater(pod.memory.usage_bytes.value, 16 * MIB)
        self.assertGreaterEqual(pod.process.process_count.value, 2)
        self.assertEqual({c.attributes.id for c in pod.containers}, {ctr, idle})

    def test_memory(self):
        ctr = self.run_("sh", "-c", "x=$(yes 0123456789abcde | head -c 20000000); while :; do sleep 1; done")
        end = time.monotonic() + 120
        while self.in_guest(ctr, "memory.stat", "anon") < 19000000:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.5)
        anon = self.in_guest(ctr, "memory.stat", "anon")
        m = self.stats(ctr).memory
        current = self.in_guest(ctr, "memory.current")
        self.assertAlmostEqual(m.rss_bytes.value / anon, 1, delta=0.1)
        self.assertAlmostEqual(m.usage_bytes.value / current, 1, delta=0.3)  # the exec that reads is in it, too
        self.assertTrue(m.rss_bytes.value <= m.working_set_bytes.value <= m.usage_bytes.value, m)
        self.assertGreaterEqual(self.in_guest(ctr, "memory.stat", "pgfault"), m.page_faults.value)
        self.assertGreater(m.page_faults.value, 19000000 // 4096)

    def test_writable_layer(self):
        ctr, other = self.run_(), self.run_()
        start = self.stats(ctr).writable_layer
        self.sh(ctr, "dd if=/dev/zero of=/big bs=1M count=8; sync")
        big = self.stats(ctr).writable_layer
        self.assertAlmostEqual((big.used_bytes.value - start.used_bytes.value) / (8 * MIB), 1, delta=0.05)
        self.sh(ctr, "mkdir /many; for i in $(seq 100); do : > /many/$i; done; sync")
        many = self.stats(ctr).writable_layer
        self.assertEqual(many.inodes_used.value - big.inodes_used.value, 101)
        self.sh(ctr, "rm -rf /big /many; sync")
        self.assertLess(self.stats(ctr).writable_layer.used_bytes.value, MIB)
        self.assertLess(self.stats(other).writable_layer.used_bytes.value, MIB)  # it was not its own
        self.assertTrue(pathlib.Path(start.fs_id.mountpoint).is_dir())
        # what is moved from the image's layer to the container's is counted, too, and may be renamed
        self.sh(ctr, "mv /etc/passwd /etc/other; cp /bin/busybox /copy; mv /copy /bin/moved; sync")
        self.assertGreater(self.stats(ctr).writable_layer.used_bytes.value, 500000)

    def test_network(self):
        def usage():
            return self.cri.PodSandboxStats(pod_sandbox_id=self.pod[0]).stats.linux.network.default_interface
        ip = self.cri.PodSandboxStatus(pod_sandbox_id=self.pod[0]).status.network.ip
        ctr = self.run_()
        ping = f"ping -c 3 -s 1200 {ip.rsplit('.', 1)[0]}.1 >/dev/null"
        self.sh(ctr, ping)  # both sides know each other's address now, and nothing has to wait for it
        first = usage()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for _ in range(100):
                s.sendto(b"x" * 1000, (ip, 9))
        self.sh(ctr, ping)
        second = usage()
        self.assertGreater(second.rx_bytes.value - first.rx_bytes.value, 90000)  # UDP may lose some
        self.assertLess(second.rx_bytes.value - first.rx_bytes.value, 150000)
        self.assertGreater(second.tx_bytes.value - first.tx_bytes.value, 3600)
        self.assertEqual((second.rx_errors.value, second.tx_errors.value), (0, 0))

    def test_metrics(self):
        ctr = self.run_("sh", "-c", "exec 5</etc/passwd 6</etc/passwd; while :; do sleep 1000; done")
        end = time.monotonic() + 60
        values = {}
        while values.get("container_processes") != 2:  # the shell and what it runs
            self.assertLess(time.monotonic(), end, values)
            (pod,) = self.cri.ListPodSandboxMetrics().pod_metrics
            (mine,) = (c for c in pod.container_metrics if c.container_id == ctr)
            values = {m.name: m.value.value for m in list(mine.metrics) + list(pod.metrics)}
        known = {d.name for d in self.cri.ListMetricDescriptors().descriptors}
        io = {n for n in known if n.startswith(("container_blkio", "container_fs_reads", "container_fs_writes"))}
        self.assertLessEqual(known - io - {"container_spec_cpu_quota", "container_memory_swap"}, set(values))
        self.assertGreaterEqual(values["container_file_descriptors"], 2 * 5)  # three, and two more
        self.assertEqual(values["container_sockets"], 0)
        self.assertGreater(values["container_fs_limit_bytes"], 500 * MIB)
        self.assertAlmostEqual(values["container_start_time_seconds"], time.time(), delta=100)

    def test_new_limits_are_the_guests(self):
        ctr = self.run_()
        self.cri.UpdateContainerResources(container_id=ctr, linux=pb.LinuxContainerResources(
            memory_limit_in_bytes=32 * MIB, cpu_quota=20000, cpu_period=100000, cpu_shares=2))
        self.assertEqual(self.in_guest(ctr, "memory.max"), 32 * MIB)
        self.assertEqual(self.sh(ctr, "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.weight").split(), ["20000", "100000", "1"])
        self.cri.UpdateContainerResources(container_id=ctr, linux=pb.LinuxContainerResources(cpu_quota=-1))
        self.assertEqual(self.sh(ctr, "cat /sys/fs/cgroup/cpu.max").split()[0], "max")
        self.assertEqual(self.stats(ctr).memory.available_bytes.value + self.stats(ctr).memory.working_set_bytes.value,
                         32 * MIB)
        hog = self.run_("sh", "-c", "sleep 2; x=$(yes | head -c 30000000); sleep 1000")
        self.cri.UpdateContainerResources(container_id=hog, linux=pb.LinuxContainerResources(memory_limit_in_bytes=8 * MIB))
        s = self.cri.wait_exited(hog)
        self.assertEqual((s.exit_code, s.reason), (137, "OOMKilled"))

    def test_guest_that_stands_still_delays_nobody_for_long(self):
        ctr = self.run_()
        first = self.stats(ctr)
        pid = self.node.vmm_pids()[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            again = self.stats(ctr)
            self.assertLess(time.monotonic() - start, 10)
            self.assertEqual(again.memory, first.memory)
            start = time.monotonic()
            self.stats(ctr)
            self.assertLess(time.monotonic() - start, 1)
        finally:
            os.kill(pid, signal.SIGCONT)
        end = time.monotonic() + 60
        while self.stats(ctr).memory.timestamp == first.memory.timestamp:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.2)


if __name__ == "__main__":
    unittest.main()
