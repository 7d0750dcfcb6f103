#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""Stats, metrics and new limits through nexusd with fake VMs: filters, guests that are slow, hung or lie,
containers that end meanwhile. What real guests tell is in tests/integration/e2e/test_stats.py."""
import os
import pathlib
import signal
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
from cri import pb, unique  # noqa: E402

Code = grpc.StatusCode
FOREVER = ["sleep", "infinity"]
MIB = 1 << 20


class Stats(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.node = nodes.Node()
        cls.node.start()

    @classmethod
    def tearDownClass(cls):
        try:
            rc = cls.node.stop()
            assert rc == 0, f"nexusd ended with {rc}"
        finally:
            cls.node.close()

    @property
    def cri(self):
        return self.node.cri

    def setUp(self):
        self.node.guest_script("")

    def tearDown(self):
        for pod in list(self.node.pods()):
            self.cri.remove_pod(pod)
        self.assertEqual(self.node.census(), self.node.empty)

    def pod(self, script="", **more):
        name = unique("pod")
        self.node.guest_script(script)
        pod = self.cri.run_pod(name, log_directory=str(self.node.logs / name), **more)
        self.node.guest_script("")
        return pod

    def run_(self, pod, **more):
        return self.cri.run(pod, unique("c"), nodes.IMAGE, FOREVER, **more)

    def listed(self, **f):
        return {s.attributes.id: s for s in self.cri.ListContainerStats(filter=pb.ContainerStatsFilter(**f)).stats}

    def fails(self, code, call, *args, text="", **kw):
        with self.assertRaises(grpc.RpcError) as e:
            call(*args, **kw)
        self.assertEqual(e.exception.code(), code, e.exception.details())
        self.assertIn(text, e.exception.details())

    # ---- containers

    def test_numbers_of_a_container(self):
        pod = self.pod()
        limits = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=20 * MIB))
        ctr = self.run_(pod, labels={"l": "1"}, annotations={"a": "2"}, linux=limits)
        before = time.time_ns()
        s = self.cri.ContainerStats(container_id=ctr).stats
        self.assertEqual((s.attributes.id, dict(s.attributes.labels), dict(s.attributes.annotations)),
                         (ctr, {"l": "1"}, {"a": "2"}))
        self.assertTrue(s.attributes.metadata.name)
        self.assertGreaterEqual(s.cpu.timestamp, before)
        self.assertGreater(s.cpu.usage_core_nano_seconds.value, 0)
        self.assertFalse(s.cpu.HasField("usage_nano_cores"))  # one reading makes no rate
        m = s.memory
        self.assertEqual((m.usage_bytes.value, m.working_set_bytes.value, m.rss_bytes.value, m.available_bytes.value,
                          m.page_faults.value, m.major_page_faults.value),
                         (10 * MIB, 8 * MIB, 7 * MIB, 12 * MIB, 100, 5))
        w = s.writable_layer
        self.assertEqual((w.used_bytes.value, w.inodes_used.value), (40960, 5))
        self.assertEqual(w.fs_id.mountpoint, self.cri.ImageFsInfo().container_filesystems[0].fs_id.mountpoint)
        self.assertFalse(s.HasField("swap"))
        time.sleep(0.3)
        again = self.cri.ContainerStats(container_id=ctr[:12]).stats.cpu
        self.assertGreater(again.timestamp, s.cpu.timestamp)
        self.assertAlmostEqual(again.usage_nano_cores.value / 1e9, 0.5, delta=0.2)  # what the fake guest uses
        at_once = self.cri.ContainerStats(container_id=ctr).stats.cpu
        self.assertEqual(at_once.usage_nano_cores.value, again.usage_nano_cores.value)  # too short a time for another

    def test_filters(self):
        a, b = self.pod(), self.pod()
        one, two, three = self.run_(a, labels={"x": "1", "y": "1"}), self.run_(a, labels={"x": "1"}), self.run_(b)
        created = self.cri.create(a, "created", nodes.IMAGE, FOREVER)
        self.assertEqual(set(self.listed()), {one, two, three})
        self.assertEqual(set(self.listed(id=one)), {one})
        self.assertEqual(set(self.listed(id=one[:10])), {one})
        self.assertEqual(set(self.listed(pod_sandbox_id=a[0])), {one, two})
        self.assertEqual(set(self.listed(pod_sandbox_id=a[0], label_selector={"x": "1", "y": "1"})), {one})
        self.assertEqual(set(self.listed(pod_sandbox_id=b[0], label_selector={"x": "1"})), set())
        self.assertEqual(set(self.listed(id=created)), set())  # it does not run
        self.assertEqual(len(self.cri.ListContainerStats().stats), 3)
        streamed = [s.attributes.id for m in self.cri.StreamContainerStats() for s in m.container_stats]
        self.assertEqual(set(streamed), {one, two, three})
        self.assertEqual(self.cri.ContainerStats(container_id=created).stats.attributes.id, created)
        self.fails(Code.NOT_FOUND, self.cri.ContainerStats, container_id="0" * 64)
        self.fails(Code.INVALID_ARGUMENT, self.cri.ContainerStats, container_id="")

    def test_container_that_has_ended(self):
        pod = self.pod()
        ctr = self.run_(pod)
        running = self.cri.ContainerStats(container_id=ctr).stats
        self.cri.StopContainer(container_id=ctr)
        ended = self.cri.ContainerStats(container_id=ctr).stats
        self.assertEqual(ended.memory, running.memory)  # what was last heard
        self.assertEqual(ended.cpu.timestamp, running.cpu.timestamp)
        self.assertEqual(self.listed(), {})
        self.cri.RemoveContainer(container_id=ctr)
        self.fails(Code.NOT_FOUND, self.cri.ContainerStats, container_id=ctr)

    def test_containers_and_pods_that_end_while_they_are_asked_about(self):
        pod = self.pod("delay@stats=30")
        made = [self.run_(pod) for _ in range(4)]
        asked = self.cri.ContainerStats(container_id=made[0], future=True)
        listed = self.cri.ListContainerStats(future=True)
        for ctr in made:
            self.cri.RemoveContainer(container_id=ctr)
        self.assertIn(asked.code(), (Code.OK, Code.NOT_FOUND))
        listed.result()
        self.run_(pod)
        calls = [self.cri.ListPodSandboxStats(future=True), self.cri.PodSandboxStats(pod_sandbox_id=pod[0], future=True)]
        os.kill(self.node.vmm_pid(pod[0]), signal.SIGKILL)
        self.cri.remove_pod(pod[0])
        calls[0].result()
        self.assertIn(calls[1].code(), (Code.OK, Code.NOT_FOUND))

    def test_many_callers_at_once(self):
        pods = [self.pod() for _ in range(3)]
        made = [self.run_(pods[n % 3]) for n in range(9)]
        calls = [self.cri.ListContainerStats(future=True) for _ in range(50)]
        gone = [self.cri.ListPodSandboxStats(future=True) for _ in range(10)]
        for c in gone:
            c.cancel()
        for c in calls:
            self.assertEqual({s.attributes.id for s in c.result().stats}, set(made))

    # ---- guests that do not answer, or lie

    def test_hung_guest_delays_its_own_numbers_only(self):
        """The second request of the guest and every later one is not answered."""
        good = self.pod()
        bad = self.pod("times=1000 mute@stats#3 mute@stats#4")  # its pod and its container, the second time
        a, b = self.run_(good), self.run_(bad)
        first = self.listed()
        self.assertEqual(set(first), {a, b})
        start = time.monotonic()
        second = self.listed()
        slow = time.monotonic() - start
        self.assertLess(slow, 4)
        self.assertEqual(second[b].cpu, first[b].cpu)  # the last known, with their time
        self.assertGreater(second[a].cpu.timestamp, first[a].cpu.timestamp)
        start = time.monotonic()
        third = self.listed()
        self.assertLess(time.monotonic() - start, slow / 2)  # it is known to be late
        self.assertEqual(set(third), {a, b})
        self.assertGreater(third[a].cpu.timestamp, second[a].cpu.timestamp)
        self.assertEqual(third[b].cpu, first[b].cpu)
        self.cri.Version(version="0.1.0")

    def test_guest_that_never_told_anything(self):
        pod = self.pod("mute@stats")
        ctr = self.run_(pod)
        self.assertEqual(self.listed(), {})
        s = self.cri.ContainerStats(container_id=ctr).stats
        self.assertEqual(s.attributes.id, ctr)
        self.assertFalse(s.HasField("cpu") or s.HasField("memory") or s.HasField("writable_layer"))
        p = self.cri.PodSandboxStats(pod_sandbox_id=pod[0]).stats.linux
        self.assertFalse(p.HasField("process"))
        nodes.wait_for(lambda: self.cri.PodSandboxStats(pod_sandbox_id=pod[0]).stats.linux.memory.usage_bytes.value)

    def test_guest_without_such_a_request(self):
        """An older agent refuses; nothing else suffers."""
        pod = self.pod("fail@stats=95")
        ctr = self.run_(pod)
        self.assertEqual(self.listed(), {})
        self.assertEqual(self.cri.exec(ctr, "true")[0], 0)

    def test_hostile_numbers(self):
        kinds = ("overflow", "garbage", "backwards", "noise")
        pods = {k: self.pod(f"stats={k}") for k in kinds}
        made = {k: self.run_(p) for k, p in pods.items()}
        for _ in range(2):
            found = self.listed()
            self.assertEqual(set(found), set(made.values()))
            time.sleep(0.2)
        o = found[made["overflow"]]
        self.assertFalse(o.HasField("cpu"))  # no such time in nanoseconds
        self.assertEqual((o.memory.working_set_bytes.value, o.memory.usage_bytes.value), (0, (1 << 64) - 1))
        self.assertEqual(o.writable_layer.used_bytes.value, (1 << 64) - 1)
        for kind in ("garbage", "noise"):
            self.assertFalse(found[made[kind]].HasField("cpu") or found[made[kind]].HasField("memory"))
        b = found[made["backwards"]]
        self.assertTrue(b.HasField("cpu"))
        self.assertFalse(b.cpu.HasField("usage_nano_cores"))
        for call in (self.cri.ListPodSandboxStats, self.cri.ListPodSandboxMetrics):
            call()
        self.assertEqual(set(self.node.pods()), {p[0] for p in pods.values()})

    # ---- pods

    def test_numbers_of_a_pod(self):
        pod = self.pod(labels={"l": "1"})
        ctr = self.run_(pod)
        self.assertEqual(self.cri.exec(ctr, "true")[0], 0)
        self.cri.PodSandboxStats(pod_sandbox_id=pod[0])
        time.sleep(0.2)
        s = self.cri.PodSandboxStats(pod_sandbox_id=pod[0]).stats
        self.assertEqual((s.attributes.id, s.attributes.metadata.uid, dict(s.attributes.labels)),
                         (pod[0], pod[1].metadata.uid, {"l": "1"}))
        linux = s.linux
        self.assertTrue(linux.cpu.timestamp and linux.cpu.HasField("usage_nano_cores"))
        self.assertGreater(linux.memory.usage_bytes.value, 0)
        self.assertGreater(linux.memory.working_set_bytes.value, 0)
        self.assertEqual(linux.process.process_count.value, 3)
        self.assertEqual([c.attributes.id for c in linux.containers], [ctr])
        self.assertEqual(linux.network.default_interface.name, "eth0")
        other = self.pod(labels={"l": "2"})

        def ids(**f):
            return {p.attributes.id for p in self.cri.ListPodSandboxStats(filter=pb.PodSandboxStatsFilter(**f)).stats}
        self.assertEqual(ids(), {pod[0], other[0]})
        self.assertEqual(ids(id=pod[0]), {pod[0]})
        self.assertEqual(ids(label_selector={"l": "2"}), {other[0]})
        streamed = {p.attributes.id for m in self.cri.StreamPodSandboxStats() for p in m.pod_sandbox_stats}
        self.assertEqual(streamed, {pod[0], other[0]})
        self.cri.StopPodSandbox(pod_sandbox_id=other[0])
        self.assertEqual(ids(), {pod[0]})
        self.assertEqual(self.cri.PodSandboxStats(pod_sandbox_id=other[0]).stats.attributes.id, other[0])
        self.fails(Code.NOT_FOUND, self.cri.PodSandboxStats, pod_sandbox_id="0" * 64)

    def test_network_of_a_pod_is_what_its_tap_counts(self):
        pod = self.pod()
        netns = self.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"]
        import json
        path = json.loads(netns)["netns"]

        def counters():
            out = self.node.inside("nsenter", f"--net={path}", "cat", "/proc/net/dev", capture_output=True, text=True,
                                   check=True).stdout
            words = next(line for line in out.splitlines() if "tap0:" in line).split(":")[1].split()
            return int(words[8]), int(words[0])  # sent to the guest, taken from it
        before = counters()
        n = self.cri.PodSandboxStats(pod_sandbox_id=pod[0]).stats.linux.network.default_interface
        after = counters()
        self.assertTrue(before[0] <= n.rx_bytes.value <= after[0], (before, n, after))
        self.assertTrue(before[1] <= n.tx_bytes.value <= after[1], (before, n, after))

    # ---- metrics

    def test_metrics_have_the_labels_of_their_descriptors(self):
        pod = self.pod()
        ctr = self.run_(pod)
        known = {d.name: d for d in self.cri.ListMetricDescriptors().descriptors}
        self.assertTrue(all(d.help and d.label_keys and d.name.startswith("container_") for d in known.values()))
        (m,) = self.cri.ListPodSandboxMetrics().pod_metrics
        self.assertEqual((m.pod_sandbox_id, [c.container_id for c in m.container_metrics]), (pod[0], [ctr]))
        seen = list(m.metrics) + list(m.container_metrics[0].metrics)
        for metric in seen:
            self.assertEqual(len(metric.label_values), len(known[metric.name].label_keys), metric.name)
            self.assertTrue(metric.timestamp)
        unset = {"container_memory_swap", "container_spec_cpu_quota"}
        self.assertEqual({x.name for x in seen}, set(known) - unset)
        values = {(x.name, *x.label_values[6:]): x.value.value for x in seen}
        self.assertEqual(values["container_memory_working_set_bytes", ], 8 * MIB)
        self.assertEqual(values["container_cpu_user_seconds_total", ], 3)
        self.assertEqual(values["container_memory_failures_total", "pgmajfault", "container"], 5)
        self.assertEqual(values["container_blkio_device_usage_total", "scratch", "Write"], 8192)
        self.assertEqual(values["container_sockets", ], 1)
        self.assertEqual(values["container_threads_max", ], 0)
        labels = dict(zip(known["container_memory_rss"].label_keys, m.container_metrics[0].metrics[-1].label_values))
        self.assertEqual((labels["id"], labels["pod"], labels["namespace"]), (ctr, pod[1].metadata.name, "default"))
        streamed = [p for s in self.cri.StreamPodSandboxMetrics() for p in s.pod_sandbox_metrics]
        self.assertEqual([p.pod_sandbox_id for p in streamed], [pod[0]])

    # ---- limits

    def limits(self, ctr, **r):
        self.cri.UpdateContainerResources(container_id=ctr, linux=pb.LinuxContainerResources(**r))

    def told_limits(self, pod):
        return [x for x in self.node.told(pod[0]) if x["what"] == "limits"]

    def test_new_limits_of_a_container(self):
        pod = self.pod(memory=64 * MIB)
        ctr = self.run_(pod, linux=pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(
            memory_limit_in_bytes=32 * MIB, cpu_shares=100, oom_score_adj=5)))
        self.limits(ctr, memory_limit_in_bytes=48 * MIB, cpu_quota=50000, cpu_period=100000)
        told = self.told_limits(pod)[-1]
        self.assertEqual((told["container"], told["memory"], told["quota"], told["period"], told["shares"]),
                         (ctr, 48 * MIB, 50000, 100000, 100))
        r = self.cri.ContainerStatus(container_id=ctr).status.resources.linux
        self.assertEqual((r.memory_limit_in_bytes, r.cpu_quota, r.cpu_shares, r.oom_score_adj), (48 * MIB, 50000, 100, 5))
        self.limits(ctr, cpu_quota=-1)
        self.assertEqual(self.told_limits(pod)[-1]["quota"], -1)
        self.node.restart()  # it is on record
        r = self.cri.ContainerStatus(container_id=ctr).status.resources.linux
        self.assertEqual((r.memory_limit_in_bytes, r.cpu_quota), (48 * MIB, -1))
        created = self.cri.create(pod, "created", nodes.IMAGE, FOREVER)
        self.limits(created, cpu_shares=7)
        self.assertEqual(self.cri.ContainerStatus(container_id=created).status.resources.linux.cpu_shares, 7)

    def test_limits_beyond_the_vm_or_of_nothing_are_refused(self):
        pod = self.pod(memory=64 * MIB)
        ctr = self.run_(pod)
        for r in ({"memory_limit_in_bytes": 1 << 40}, {"cpu_quota": 10000000, "cpu_period": 100000}, {"cpuset_cpus": "0-90"}):
            self.fails(Code.RESOURCE_EXHAUSTED, self.limits, ctr, text="than the pod's VM has", **r)
            sandbox = pb.LinuxContainerResources(**r)
            self.fails(Code.RESOURCE_EXHAUSTED, self.cri.UpdatePodSandboxResources, pod_sandbox_id=pod[0],
                       resources=sandbox, text="than the pod's VM has")
        self.assertEqual(self.told_limits(pod), [])
        self.fails(Code.INVALID_ARGUMENT, self.limits, ctr, memory_limit_in_bytes=-1, text="memory_limit")
        self.fails(Code.UNIMPLEMENTED, self.limits, ctr, unified={"memory.oom.group": "1"}, text="unified")
        self.fails(Code.UNIMPLEMENTED, self.cri.UpdateContainerResources, container_id=ctr,
                   windows=pb.WindowsContainerResources(), text="Windows")
        self.fails(Code.NOT_FOUND, self.limits, "0" * 64, cpu_shares=1)
        self.cri.StopContainer(container_id=ctr)
        self.fails(Code.FAILED_PRECONDITION, self.limits, ctr, cpu_shares=1, text="exited")
        self.cri.UpdatePodSandboxResources(pod_sandbox_id=pod[0], overhead=pb.LinuxContainerResources(),
                                           resources=pb.LinuxContainerResources(cpu_quota=-1, cpu_shares=200))
        self.fails(Code.NOT_FOUND, self.cri.UpdatePodSandboxResources, pod_sandbox_id="0" * 64)
        self.cri.StopPodSandbox(pod_sandbox_id=pod[0])
        self.fails(Code.FAILED_PRECONDITION, self.cri.UpdatePodSandboxResources, pod_sandbox_id=pod[0], text="not ready")

    def test_guest_that_refuses_limits_changes_nothing(self):
        pod = self.pod("fail@limits=16", memory=64 * MIB)
        ctr = self.run_(pod)
        with self.assertRaises(grpc.RpcError) as e:
            self.limits(ctr, cpu_shares=9)
        self.assertIn("told to fail", e.exception.details())
        self.assertEqual(self.cri.ContainerStatus(container_id=ctr).status.resources.linux.cpu_shares, 0)

    def test_caller_that_leaves_and_container_that_goes(self):
        pod = self.pod("delay@limits=300", memory=64 * MIB)
        ctr, gone = self.run_(pod), self.run_(pod)
        self.fails(Code.DEADLINE_EXCEEDED, self.cri.UpdateContainerResources, container_id=ctr,
                   linux=pb.LinuxContainerResources(cpu_shares=11), timeout=0.1)
        nodes.wait_for(lambda: self.cri.ContainerStatus(container_id=ctr).status.resources.linux.cpu_shares == 11)
        t = threading.Thread(target=lambda: self.cri.RemoveContainer(container_id=gone))
        call = self.cri.UpdateContainerResources(container_id=gone, linux=pb.LinuxContainerResources(cpu_shares=12),
                                                 future=True)
        t.start()
        call.exception()
        t.join()
        self.assertEqual(list(self.node.containers()), [ctr])


if __name__ == "__main__":
    unittest.main()
