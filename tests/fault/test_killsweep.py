#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""nexusd is killed with SIGKILL before and after every step of every plan, and while undoing. After the
next start each operation is finished or undone, a retry works, the pod beside it never noticed, and
nothing is left after removal. The points are those that nexusd itself declares: one that no case here
reaches fails the suite."""
import contextlib
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import grpc  # noqa: E402
import fakenode as nodes  # noqa: E402
from cri import parse_log, pb, unique  # noqa: E402

# errors at these points turn a plan back, with everything begun
TURN_BACK = {"pod.run": "pod.run.after_commit=error(EIO)", "container.create": "container.create.after_commit=error(EIO)"}


def declared():
    return subprocess.run([nodes.NEXUSD, "--failpoints"], capture_output=True, text=True, check=True).stdout.split()


def failpoints(point):
    plan = point.rsplit(".", 1)[0]
    undo = "_undo_" in point
    return f"{point}=kill" + (f";{TURN_BACK[plan]}" if undo else "")


class KillSweep(unittest.TestCase):
    reached = set()  # by this class's cases

    maxDiff = None
    options = {}
    ignores_term = ["sh", "-c", "ignore-term; sleep infinity"]

    def points(self, plan):
        return [p for p in self.all_points() if p.startswith(plan + ".")]

    def all_points(self):
        return declared()

    @classmethod
    def setUpClass(cls):
        cls.set_up()

    @classmethod
    def set_up(cls):
        cls.node = nodes.Node(**cls.options)
        try:
            cls.start_bystander()
        except BaseException:
            print(cls.node.log()[-4000:], file=sys.stderr)
            cls.node.close()
            raise

    @classmethod
    def start_bystander(cls):
        cls.node.start()
        cls.bystander = cls.node.cri.run_pod("bystander", log_directory=str(cls.node.logs / "bystander"))
        cls.bystander_ctr = cls.node.cri.run(cls.bystander, "b", nodes.IMAGE, ["sleep", "infinity"])
        cls.bystander_pid = cls.node.vmm_pid(cls.bystander[0])
        cls.quiet = cls.node.census()

    @classmethod
    def tearDownClass(cls):
        cls.node.close()

    @contextlib.contextmanager
    def at(self, point):
        """One case. A failed one tells what nexusd said and does not spoil the next."""
        with self.subTest(point):
            try:
                yield
            except BaseException:
                print(f"---- {point}: nexusd said\n" + "\n".join(self.node.log().splitlines()[-40:]), file=sys.stderr)
                self.node.close()
                self.set_up()
                raise

    def config(self, name):
        return self.node.cri.pod_config(name, str(self.node.logs / name))

    def killed_at(self, point, call):
        """Restarts with the point armed, makes the call, and restarts after the kill."""
        self.node.restart(failpoints(point))
        with self.assertRaises(grpc.RpcError, msg=f"{point} was not reached"):
            call()
        self.assertEqual(self.node.died(), -signal.SIGKILL, f"{point}: nexusd did not die of it\n{self.node.log()[-2000:]}")
        self.reached.add(point)
        self.node.start()
        self.bystander_lives()

    def bystander_lives(self):
        self.assertEqual(self.node.pods()[self.bystander[0]].state, pb.SANDBOX_READY)
        self.assertEqual(self.node.containers()[self.bystander_ctr].state, pb.CONTAINER_RUNNING)
        self.assertEqual(self.node.vmm_pid(self.bystander[0]), self.bystander_pid)

    def nothing_left(self, pod_id):
        self.node.cri.remove_pod(pod_id)
        self.assertEqual(self.node.census(), self.quiet)

    def running_pod(self, name):
        pod = self.node.cri.run_pod(name, log_directory=str(self.node.logs / name))
        return pod, self.node.vmm_pid(pod[0])

    def others(self, listed):
        return {i: o for i, o in listed.items() if i not in (self.bystander[0], self.bystander_ctr)}

    # ---- RunPodSandbox

    def test_run_pod_sandbox(self):
        for point in self.points("pod.run"):
            with self.at(point):
                name = unique("run")
                self.killed_at(point, lambda n=name: self.node.cri.RunPodSandbox(config=self.config(n), timeout=30))
                before = self.others(self.node.pods())
                self.assertLessEqual(len(before), 1)
                if not before:  # rolled back: nothing of it may be there
                    self.assertEqual(self.node.census(), self.quiet)
                again = self.node.cri.RunPodSandbox(config=self.config(name)).pod_sandbox_id
                if before:
                    self.assertEqual(list(before), [again])
                status = self.node.cri.PodSandboxStatus(pod_sandbox_id=again).status
                self.assertEqual(status.state, pb.SANDBOX_READY)
                self.assertTrue(status.network.ip)
                self.nothing_left(again)

    # ---- StopPodSandbox, RemovePodSandbox

    def test_stop_pod_sandbox(self):
        for point in self.points("pod.stop"):
            with self.at(point):
                pod, _ = self.running_pod(unique("stop"))
                ctr = self.node.cri.run(pod, "c", nodes.IMAGE, ["sleep", "infinity"])
                self.killed_at(point, lambda p=pod: self.node.cri.StopPodSandbox(pod_sandbox_id=p[0], timeout=30))
                self.assertEqual(self.node.pods()[pod[0]].state, pb.SANDBOX_NOTREADY)
                status = self.node.cri.ContainerStatus(container_id=ctr).status
                self.node.cri.StopPodSandbox(pod_sandbox_id=pod[0])
                status = self.node.cri.ContainerStatus(container_id=ctr).status
                self.assertEqual(status.state, pb.CONTAINER_EXITED)
                self.assertIn((status.exit_code, status.reason), [(137, "Error"), (255, "Unknown")])
                self.nothing_left(pod[0])

    def test_remove_pod_sandbox(self):
        for point in self.points("pod.remove"):
            with self.at(point):
                pod, _ = self.running_pod(unique("remove"))
                self.node.cri.run(pod, "c", nodes.IMAGE, ["sleep", "infinity"])
                self.killed_at(point, lambda p=pod: self.node.cri.RemovePodSandbox(pod_sandbox_id=p[0], timeout=30))
                self.node.cri.RemovePodSandbox(pod_sandbox_id=pod[0])
                self.assertEqual(self.node.census(), self.quiet)

    # ---- containers

    def test_create_container(self):
        for point in self.points("container.create"):
            with self.at(point):
                pod, pid = self.running_pod(unique("create"))
                self.killed_at(point, lambda p=pod: self.node.cri.create(p, "c", nodes.IMAGE, ["sleep", "infinity"]))
                self.assertEqual(self.node.vmm_pid(pod[0]), pid)
                before = self.others(self.node.containers())
                self.assertLessEqual(len(before), 1)
                ctr = self.node.cri.create(pod, "c", nodes.IMAGE, ["sleep", "infinity"])
                if before:
                    self.assertEqual(list(before), [ctr])
                self.node.cri.StartContainer(container_id=ctr)
                self.assertEqual(len(self.others(self.node.containers())), 1)
                self.nothing_left(pod[0])

    def test_start_container(self):
        for point in self.points("container.start"):
            with self.at(point):
                pod, pid = self.running_pod(unique("start"))
                ctr = self.node.cri.create(pod, "c", nodes.IMAGE, ["sh", "-c", "echo once; sleep infinity"])
                self.killed_at(point, lambda c=ctr: self.node.cri.StartContainer(container_id=c))
                self.assertEqual(self.node.vmm_pid(pod[0]), pid)
                state = self.node.containers()[ctr].state
                self.assertIn(state, (pb.CONTAINER_CREATED, pb.CONTAINER_RUNNING))
                if state == pb.CONTAINER_CREATED:
                    self.node.cri.StartContainer(container_id=ctr)
                self.assertEqual(self.node.containers()[ctr].state, pb.CONTAINER_RUNNING)
                log = pathlib.Path(self.node.cri.ContainerStatus(container_id=ctr).status.log_path)
                nodes.wait_for(log.read_bytes, why="a line in the log")
                self.assertEqual(parse_log(log), [("stdout", "F", b"once")])
                self.nothing_left(pod[0])

    def test_stop_container(self):
        for point in self.points("container.stop"):
            with self.at(point):
                pod, _ = self.running_pod(unique("halt"))
                # one that ignores SIGTERM goes through grace and kill
                ctr = self.node.cri.run(pod, "c", nodes.IMAGE, self.ignores_term)
                request = pb.StopContainerRequest(container_id=ctr, timeout=1)
                self.killed_at(point, lambda r=request: self.node.cri.StopContainer(r))
                self.node.cri.StopContainer(request)
                status = self.node.cri.ContainerStatus(container_id=ctr).status
                self.assertEqual((status.state, status.exit_code, status.reason), (pb.CONTAINER_EXITED, 137, "Error"))
                self.assertGreater(status.finished_at, status.started_at)
                self.nothing_left(pod[0])

    def test_remove_container(self):
        for point in self.points("container.remove"):
            with self.at(point):
                pod, pid = self.running_pod(unique("drop"))
                ctr = self.node.cri.run(pod, "c", nodes.IMAGE, ["sleep", "infinity"])
                self.killed_at(point, lambda c=ctr: self.node.cri.RemoveContainer(container_id=c))
                self.node.cri.RemoveContainer(container_id=ctr)
                self.assertEqual(self.others(self.node.containers()), {})
                self.assertEqual(self.node.vmm_pid(pod[0]), pid)
                self.node.cri.run(pod, "c", nodes.IMAGE, ["sleep", "infinity"])  # the name is free
                self.nothing_left(pod[0])

    # ---- every declared point was one of them

    def test_zz_every_declared_point_was_reached(self):
        self.assertEqual(sorted(set(self.all_points()) - self.reached), [])


if __name__ == "__main__":
    unittest.main()
