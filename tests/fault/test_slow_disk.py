#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""A disk that takes seconds for a record: everything that is answered from memory is answered meanwhile, and
what is told is on the disk, in its order."""
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
