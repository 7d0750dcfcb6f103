#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""A disk that takes seconds for a record, a log directory that hangs, a scratch disk that takes its time:
everything that is answered from memory is answered meanwhile, and what is told is on the disk, in its order."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
from cri import pb  # noqa: E402

FOREVER = ["sleep", "infinity"]


class SlowDisk(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.node = nodes.Node()
        self.addCleanup(self.node.close)

    def begin(self, name):
        config = self.node.cri.pod_config(name, log_directory=str(self.node.logs / name))
        return config, self.node.cri.RunPodSandbox(config=config, runtime_handler="nexus-vmm", future=True, timeout=200)

    def records(self, kind):
        return sorted(p.stem for p in (self.node.root / f"state/{kind}").glob("*.json"))

    def test_lists_are_answered_while_a_record_is_written(self):
        self.node.start("store.put=1*delay(15000)")
        cri = self.node.cri
        runs = [self.begin("first"), self.begin("second")]
        for _ in range(1000):
            cri.Version()
        for _ in range(100):
            self.assertEqual(list(cri.ListPodSandbox().items), [])  # not before READY is durable
        self.assertFalse(any(r.done() for _, r in runs))
        self.assertEqual(self.records("sandboxes"), [])  # all that was before the end of the first write
        pods = [r.result().pod_sandbox_id for _, r in runs]
        for pod in pods:
            self.assertEqual(self.node.record("sandboxes", pod)["state"], "ready")
        self.node.restart()
        self.assertEqual(sorted(self.node.pods()), sorted(pods))

    def test_what_is_told_survives_kill(self):
        """Two pods at once, each write slow; nexusd is killed right after each answer."""
        slow = "store.put=delay(150);store.delete=delay(150)"
        self.node.start(slow)
        runs = [self.begin("one"), self.begin("two")]
        pods = [(r.result().pod_sandbox_id, c) for c, r in runs]
        self.node.restart(slow)
        self.assertEqual({p.state for p in self.node.pods().values()}, {pb.SANDBOX_READY})
        self.assertEqual(len(self.node.pods()), 2)
        ctrs = [self.node.cri.create(pod, "c", nodes.IMAGE, FOREVER) for pod in pods]
        self.node.restart(slow)
        self.assertEqual({c: x.state for c, x in self.node.containers().items()},
                         dict.fromkeys(ctrs, pb.CONTAINER_CREATED))
        for c in ctrs:
            self.node.cri.StartContainer(container_id=c)
        self.node.restart(slow)
        self.assertEqual({x.state for x in self.node.containers().values()}, {pb.CONTAINER_RUNNING})
        for c in ctrs:
            self.assertEqual(self.node.cri.ContainerStatus(container_id=c).status.user.linux.uid, 1000)
            self.assertEqual(self.node.record("containers", c)["status"]["groups"], [9, 10])
        stops = [self.node.cri.StopContainer(container_id=c, future=True) for c in ctrs[:1]]
        for s in stops:
            s.result()
        record = self.node.record("containers", ctrs[0])
        self.assertEqual(record["state"], "exited")
        self.node.restart(slow)
        status = self.node.cri.ContainerStatus(container_id=ctrs[0]).status
        self.assertEqual((status.state, status.exit_code), (pb.CONTAINER_EXITED, record["status"]["exit_code"]))
        self.node.cri.RemoveContainer(container_id=ctrs[0])
        self.assertIsNone(self.node.record("containers", ctrs[0]))
        gone = [self.node.cri.StopPodSandbox(pod_sandbox_id=p, future=True, timeout=200) for p, _ in pods]
        for g in gone:
            g.result()
        for p, _ in pods:
            self.assertEqual(self.node.record("sandboxes", p)["state"], "stopped")
        for p, _ in pods:
            self.node.cri.RemovePodSandbox(pod_sandbox_id=p, timeout=200)
        self.assertEqual((self.records("sandboxes"), self.records("containers")), ([], []))
        self.node.restart()
        self.assertEqual(self.node.pods(), {})
        nodes.wait_for(lambda: self.node.census() == self.node.empty, why="nothing left")

    def answers(self, *waiting):
        """From memory, while those wait."""
        for _ in range(1000):
            self.node.cri.Version()
        for _ in range(100):
            self.node.cri.ListPodSandbox()
            self.node.cri.ListContainers()
        for w in waiting:
            self.assertFalse(w.done())

    def create(self, pod, name, **kw):
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=nodes.IMAGE),
                                    command=FOREVER, log_path=f"{name}.log")
        config.linux.security_context.namespace_options.pid = pb.CONTAINER
        return self.node.cri.CreateContainer(pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1], **kw)

    def test_a_log_directory_that_hangs_stops_nobody_else(self):
        self.node.start("pod.log.open=1*delay(15000)")
        cri = self.node.cri
        pods = [cri.run_pod(n, log_directory=str(self.node.logs / n)) for n in ("one", "two")]
        stuck = self.create(pods[0], "slow", future=True, timeout=200)
        self.answers(stuck)
        cri.run_pod("three", log_directory=str(self.node.logs / "three"))  # a scratch disk, a cgroup, a record
        cri.remove_pod(pods[1][0])
        self.assertFalse(stuck.done())
        ctr = stuck.result().container_id
        self.assertTrue((self.node.logs / "one/slow.log").exists())
        cri.StartContainer(container_id=ctr)
        self.node.restart("pod.log.open=1*delay(8000)")
        cri = self.node.cri
        cri.exec(ctr, "true")  # connected again
        reopen = cri.ReopenContainerLog(container_id=ctr, future=True, timeout=200)
        self.answers(reopen)
        cri.exec(ctr, "true")
        self.assertFalse(reopen.done())
        reopen.result()

    def test_a_log_directory_that_hangs_is_named_and_nothing_is_left(self):
        self.node.start("pod.log.open=1*delay(33000)")
        pod = self.node.cri.run_pod("one", log_directory=str(self.node.logs / "one"))
        with self.assertRaises(grpc.RpcError) as caught:
            self.create(pod, "slow", timeout=200)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertIn(str(self.node.logs / "one/slow.log"), caught.exception.details())
        self.assertEqual(self.records("containers"), [])
        ctr = self.create(pod, "slow", timeout=200).container_id  # waits for the rest of the hang
        self.node.cri.StartContainer(container_id=ctr)

    def test_a_slow_disk_of_ours_stops_nobody_else(self):
        self.node.start("pod.scratch.copy=2*delay(10000);pod.scratch.remove=1*delay(10000);"
                        "image.region.open=1*delay(10000)")
        cri = self.node.cri
        pod = cri.run_pod("one", log_directory=str(self.node.logs / "one"))
        create = self.create(pod, "c", future=True, timeout=200)
        self.answers(create)
        ctr = create.result().container_id
        cri.StartContainer(container_id=ctr)
        _, run = self.begin("two")
        self.answers(run)
        cri.exec(ctr, "true")
        cri.StopContainer(container_id=ctr)
        self.assertFalse(run.done())
        run.result()
        stop = cri.StopPodSandbox(pod_sandbox_id=pod[0], future=True, timeout=200)
        self.answers(stop)
        stop.result()
        self.assertFalse((self.node.root / f"state/scratch/{pod[0]}.img").exists())

    def test_killed_while_a_scratch_disk_is_made(self):
        self.node.start("pod.scratch.copy=delay(60000)")
        _, run = self.begin("one")
        nodes.wait_for(lambda: list((self.node.root / "state/scratch").glob("[0-9a-f]*.img")), why="it is begun")
        self.node.restart()  # by SIGKILL
        with self.assertRaises(grpc.RpcError):
            run.result()
        self.assertEqual(self.node.pods(), {})
        nodes.wait_for(lambda: self.node.census() == self.node.empty, why="nothing left")

    def test_sigterm_waits_for_what_is_queued(self):
        self.node.start()
        pod = self.node.cri.run_pod("p", log_directory=str(self.node.logs / "p"))
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.node.restart("store.put=delay(1500)")
        self.assertEqual(self.node.record("containers", ctr)["state"], "running")
        self.node.cri.exec(ctr, "true")  # connected again
        stop = self.node.cri.StopContainer(container_id=ctr, future=True)
        nodes.wait_for(lambda: self.node.containers()[ctr].state == pb.CONTAINER_EXITED, why="it ends")
        self.assertEqual(self.node.record("containers", ctr)["state"], "running")
        self.assertEqual(self.node.stop(), 0)
        self.assertEqual(self.node.record("containers", ctr)["state"], "exited")
        stop.cancel()
        self.node.start()
        self.assertEqual(self.node.containers()[ctr].state, pb.CONTAINER_EXITED)

    def test_killed_before_the_disk_has_it(self):
        """Killed as the nth record of a RunPodSandbox is about to be written: it was never told, and is undone."""
        self.node.start()
        self.node.cri.run_pod("beside", log_directory=str(self.node.logs / "beside"))
        quiet, killed = self.node.census(), 0
        while True:
            self.node.restart(f"store.put={killed + 1}*kill")
            _, run = self.begin(f"p{killed}")
            if self.node.died(10) is None:
                break
            killed += 1
            with self.assertRaises(grpc.RpcError):
                run.result()
            self.node.restart()
            self.assertEqual([p.metadata.name for p in self.node.pods().values()], ["beside"])
            nodes.wait_for(lambda: self.node.census() == quiet, why="nothing left")
        run.result()
        self.assertGreaterEqual(killed, 4)  # three intents, and READY


if __name__ == "__main__":
    unittest.main(verbosity=2)
