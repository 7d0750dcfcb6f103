#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""nexusd is killed with SIGKILL before and after every step of every plan, and while undoing. After the
next start each operation is finished or undone, a retry works, the pod beside it never noticed, and
nothing is left after removal. The points are those that nexusd itself declares: one that no case here
reaches fails the suite."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import grpc  # noqa: E402
import fakenode as nodes  # noqa: E402
from atomic_writer import AtomicWriter, kubelet_volume  # noqa: E402
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
    one_pod_for_updates = False
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
        cls.node.extra = {**cls.node.extra, "mapper": {"kubelet_root": str(cls.node.root / "kubelet")}}
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

    # ---- volumes

    def secret(self, name):
        writer = AtomicWriter(kubelet_volume(self.node.root / "kubelet", "uid", "secret", name))
        writer.write({"k": (b"first", 0o644)})
        return writer

    def create(self, pod, name, writers):
        """A container that mounts secrets."""
        c = pb.ContainerConfig()
        for n, w in enumerate(writers):
            c.mounts.add(host_path=w.dir, container_path=f"/v{n}", readonly=True)
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=nodes.IMAGE),
                                    command=["sleep", "infinity"], log_path=f"{name}.log", mounts=c.mounts)
        config.linux.security_context.namespace_options.pid = pb.CONTAINER
        return self.node.cri.CreateContainer(pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1]).container_id

    def generations(self, pod):
        """What the VM has: the generations of each region's volumes."""
        info = json.loads(self.node.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])
        return sorted(sorted((v["volume"], v["generation"]) for v in r["volumes"])
                      for r in info["regions"] if r["key"].startswith("vol-"))

    def regions_are(self, pod, want):
        nodes.wait_for(lambda: self.generations(pod) == want, why=f"{self.generations(pod)} is not {want}")

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
                shared, own = self.secret("shared"), self.secret("own")
                first = self.create(pod, "first", [shared])
                self.killed_at(point, lambda p=pod: self.create(p, "c", [shared, own]))
                self.assertEqual(self.node.vmm_pid(pod[0]), pid)
                before = set(self.others(self.node.containers())) - {first}
                self.assertLessEqual(len(before), 1)
                self.regions_are(pod, [[("own", 1)]] * len(before) + [[("shared", 1)]])
                ctr = self.create(pod, "c", [shared, own])
                if before:
                    self.assertEqual(list(before), [ctr])
                self.node.cri.StartContainer(container_id=ctr)
                self.assertEqual(len(self.others(self.node.containers())), 2)
                self.regions_are(pod, [[("own", 1)], [("shared", 1)]])
                self.node.cri.RemoveContainer(container_id=ctr)
                self.regions_are(pod, [[("shared", 1)]])
                self.nothing_left(pod[0])

    def test_update_volume(self):
        pod = None
        for point in self.points("pod.update"):
            with self.at(point):
                try:
                    pod = pod or self.running_pod(unique("update"))
                    self.killed_in_an_update(point, *pod)
                    if not self.one_pod_for_updates:
                        self.nothing_left(pod[0][0])
                        pod = None
                except BaseException:
                    pod = None
                    raise
        if pod:
            self.nothing_left(pod[0][0])

    def killed_in_an_update(self, point, pod, pid):
        a, b = self.secret(unique("a")), self.secret(unique("b"))
        ctr = self.create(pod, unique("c"), [a, b])
        self.node.cri.StartContainer(container_id=ctr)
        name_a, name_b = os.path.basename(a.dir), os.path.basename(b.dir)
        self.node.restart(failpoints(point))
        a.write({"k": (b"second", 0o644)})
        b.write({"k": (b"second", 0o644)})  # the bundle of both is nobody's then
        self.assertEqual(self.node.died(), -signal.SIGKILL, f"{point}: nexusd did not die of it")
        self.reached.add(point)
        self.node.start()
        self.bystander_lives()
        self.newest(pod, {name_a, name_b})
        self.reads(ctr, {b"second"}, {b"second"})
        a.write({"k": (b"third", 0o644)})  # and it goes on from there
        self.newest(pod, {name_a, name_b})
        self.reads(ctr, {b"third"}, {b"second"})
        self.assertEqual(self.node.vmm_pid(pod[0]), pid)
        self.assertEqual(self.node.containers()[ctr].state, pb.CONTAINER_RUNNING)
        self.node.cri.RemoveContainer(container_id=ctr)
        self.regions_are(pod, [])

    def reads(self, ctr, *wanted):
        """What a container reads in each of its volumes; a guest on paper has no files."""

    def newest(self, pod, names):
        """Each volume's content in force is that of the host, and there is no other region."""
        def is_so():
            record = self.node.record("sandboxes", pod[0])
            if any("next_region" in v for v in record["volumes"]) or {v["title"] for v in record["volumes"]} != names:
                return False
            wanted = {v["region"] for v in record["volumes"]}
            info = json.loads(self.node.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])
            there = {r["key"] for r in info["regions"] if r["key"].startswith("vol-")}
            data = {v["title"]: os.readlink(pathlib.Path(v["base"]) / v["rel"] / "..data") for v in record["volumes"]}
            return there == wanted and all(data[v["title"]] in v["identity"] for v in record["volumes"])
        nodes.wait_for(is_so, why="the newest generations and nothing else are in force")

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

    # ---- an error instead of a kill, once at each point; nexusd lives on

    def fails_once_at(self, point, call):
        """The call fails, or succeeds although something tolerable failed in it. True: it failed."""
        self.node.restart(failpoints(point).replace("=kill", "=1*error(EIO)"))
        try:
            call()
            return False
        except grpc.RpcError as e:
            self.assertIn(e.code(), (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE), e.details())
            return True

    def test_errors_in_run_pod_sandbox(self):
        for point in self.points("pod.run"):
            with self.at(point):
                name = unique("error")
                self.assertTrue(self.fails_once_at(point, lambda n=name: self.node.cri.RunPodSandbox(config=self.config(n))))
                if "_undo_" in point:  # what could not be undone stays, not ready, and is released by itself
                    self.node.restart()
                    for pod in self.others(self.node.pods()).values():
                        self.assertEqual(pod.state, pb.SANDBOX_NOTREADY)
                        self.node.cri.remove_pod(pod.id)
                nodes.wait_for(lambda: self.node.census() == self.quiet, why="nothing left")
                self.nothing_left(self.node.cri.RunPodSandbox(config=self.config(name)).pod_sandbox_id)

    def test_errors_in_stop_and_remove_pod_sandbox(self):
        for point in self.points("pod.stop") + self.points("pod.remove"):
            with self.at(point):
                pod, _ = self.running_pod(unique("error"))
                self.node.cri.run(pod, "c", nodes.IMAGE, ["sleep", "infinity"])
                self.fails_once_at(point, lambda p=pod: self.node.cri.remove_pod(p[0]))
                self.nothing_left(pod[0])

    def test_errors_in_containers(self):
        for point in (self.points("container.create") + self.points("container.start") + self.points("container.stop") +
                      self.points("container.remove")):
            with self.at(point):
                pod, pid = self.running_pod(unique("error"))
                secret = self.secret("s")

                def life(p=pod):
                    self.node.cri.RemoveContainer(container_id=self.create(p, "v", [secret]))
                    ctr = self.node.cri.run(p, "c", nodes.IMAGE, self.ignores_term)
                    self.node.cri.StopContainer(pb.StopContainerRequest(container_id=ctr, timeout=1))
                    self.node.cri.RemoveContainer(container_id=ctr)
                self.fails_once_at(point, life)
                self.node.restart()
                for ctr in self.others(self.node.containers()):
                    self.node.cri.RemoveContainer(container_id=ctr)
                life()
                self.assertEqual(self.others(self.node.containers()), {})
                self.assertEqual(self.node.vmm_pid(pod[0]), pid)
                self.nothing_left(pod[0])

    def test_errors_in_updates(self):
        for point in self.points("pod.update"):
            with self.at(point):
                pod, _ = self.running_pod(unique("error"))
                a = self.secret(unique("a"))
                self.create(pod, "c", [a])
                self.node.restart(failpoints(point).replace("=kill", "=1*error(EIO)"))
                a.write({"k": (b"second", 0o644)})
                self.newest(pod, {os.path.basename(a.dir)})
                self.nothing_left(pod[0])

    # ---- every declared point was one of them

    def test_zz_every_declared_point_was_reached(self):
        self.assertEqual(sorted(set(self.all_points()) - self.reached), [])


if __name__ == "__main__":
    unittest.main()
