#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""Faulty neighbours: CNI plugins that fail, hang and babble, guests that say nothing, panic and lie,
nexus-vmm killed and frozen, callers that leave. One pod beside them never notices; each error says what
happened; nothing is left after removal."""
import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
from cri import pb, unique  # noqa: E402

Code = grpc.StatusCode
FOREVER = ["sleep", "infinity"]


class Faults(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.node = nodes.Node(config={"network": {"timeout": "2s"}, "vm": {"boot_timeout": "2s"}})
        cls.node.start()
        cls.cri = cls.node.cri
        cls.beside = cls.cri.run_pod("beside")
        cls.beside_ctr = cls.cri.run(cls.beside, "b", nodes.IMAGE, FOREVER)
        cls.beside_pid = cls.node.vmm_pid(cls.beside[0])
        cls.quiet = cls.node.census()

    @classmethod
    def tearDownClass(cls):
        cls.node.close()

    def tearDown(self):
        self.node.guest_script("")
        self.node.set_cni(self.node.ptp())
        for pod in list(self.node.pods()):
            if pod != self.beside[0]:
                self.cri.remove_pod(pod)
        nodes.wait_for(lambda: self.node.census() == self.quiet, why="nothing left")
        self.assertEqual(self.node.vmm_pid(self.beside[0]), self.beside_pid)
        self.assertEqual(self.cri.exec(self.beside_ctr, "echo", "well")[1], b"well\n")

    def pod(self, **more):
        name = unique("pod")
        return self.cri.run_pod(name, log_directory=str(self.node.logs / name), **more)

    def fails(self, code, call, *args, text="", **kw):
        with self.assertRaises(grpc.RpcError) as e:
            call(*args, **kw)
        self.assertEqual(e.exception.code(), code, e.exception.details())
        self.assertIn(text, e.exception.details())
        self.assertLessEqual(len(e.exception.details()), 4096)

    def others(self):
        return {i: p for i, p in self.node.pods().items() if i != self.beside[0]}

    def adds_and_dels(self):
        calls = (self.node.root / "evil/calls").read_text().split()[0::3]
        return calls.count("ADD"), calls.count("DEL")

    # ---- CNI

    def test_plugins_that_fail(self):
        rows = [("exit-json", "told so by its configuration"), ("exit-silent", ""), ("exit-text", ""), ("garbage", ""),
                ("partial", ""), ("empty", ""), ("deep", ""), ("bad-utf8", ""), ("error-exit-0", ""), ("wrong-ifname", ""),
                ("flood", ""), ("kill", ""), ("segv", ""), ("hang", "2000 ms"), ("hang-ignore-term", "2000 ms")]
        for mode, text in rows:
            with self.subTest(mode):
                self.node.set_cni(self.node.evil(ADD=mode))
                with self.assertRaises(grpc.RpcError) as e:
                    self.pod()
                self.assertIn("CNI ADD", e.exception.details())
                self.assertIn(text, e.exception.details())
                self.assertLessEqual(len(e.exception.details()), 4096)
                self.assertEqual(self.others(), {})
                self.assertEqual(self.node.census(), self.quiet)
        adds, dels = self.adds_and_dels()
        self.assertLessEqual(adds, dels)  # DEL also after a failed ADD

    def test_missing_plugin(self):
        self.node.set_cni([{"type": "no-such-plugin"}])
        self.fails(Code.UNAVAILABLE, self.pod, text="no-such-plugin")
        c = {c.type: c for c in self.cri.Status().status.conditions}
        self.assertFalse(c["NetworkReady"].status)
        self.assertIn("no-such-plugin", c["NetworkReady"].message)

    def test_others_answer_while_a_plugin_hangs(self):
        self.node.set_cni(self.node.evil(ADD="slow:1500"))
        call = self.cri.RunPodSandbox(config=self.cri.pod_config(unique("slow")), future=True)
        self.cri.Version(version="0.1.0", timeout=1)
        self.cri.ListPodSandbox(timeout=1)
        self.assertEqual(self.cri.exec(self.beside_ctr, "true")[0], 0)
        self.assertEqual(self.cri.PodSandboxStatus(pod_sandbox_id=call.result().pod_sandbox_id).status.state,
                         pb.SANDBOX_READY)

    def test_failing_del_is_owed_until_it_succeeds(self):
        (self.node.root / "evil/calls").unlink(missing_ok=True)
        self.node.set_cni(self.node.evil(DEL="fail:6"))
        pod = self.pod()
        self.node.set_cni(self.node.ptp())  # DEL runs from the saved configuration all the same
        self.fails(Code.UNAVAILABLE, self.cri.StopPodSandbox, pod_sandbox_id=pod[0], text="CNI DEL")
        self.fails(Code.UNAVAILABLE, self.cri.RemovePodSandbox, pod_sandbox_id=pod[0], text="told so by its configuration")
        self.assertEqual(self.others()[pod[0]].state, pb.SANDBOX_NOTREADY)
        self.node.restart()
        type(self).cri = self.node.cri
        nodes.wait_for(lambda: not self.others(), why="removed once DEL succeeded: asked for, and owed")
        adds, dels = self.adds_and_dels()
        self.assertEqual(adds, 1)
        self.assertGreaterEqual(dels, 7)

    def test_start_that_cannot_be_undone_stays_until_it_can(self):
        (self.node.root / "evil/calls").unlink(missing_ok=True)
        self.node.set_cni(self.node.evil(ADD="exit-json", DEL="fail:2"))
        self.fails(Code.INTERNAL, self.pod, text="undoing it failed too")
        self.assertEqual([p.state for p in self.others().values()], [pb.SANDBOX_NOTREADY])
        # by itself, by and by

        def leases_gone():
            return self.node.census()["leases"] == self.quiet["leases"]
        nodes.wait_for(leases_gone, why="DEL tried again")

    def test_caller_that_leaves_during_add(self):
        self.node.set_cni(self.node.evil(ADD="hang"))
        self.fails(Code.DEADLINE_EXCEEDED, self.cri.RunPodSandbox, config=self.cri.pod_config(unique("left")), timeout=0.3)
        nodes.wait_for(lambda: self.node.census() == self.quiet, why="ADD given up and undone without anybody waiting")

    def test_network_namespace_that_is_gone(self):
        pod = self.pod()
        netns = self.node.root / f"netns/nexus-{pod[0][:12]}"
        self.node.inside("umount", str(netns), check=True)
        netns.unlink()
        self.cri.remove_pod(pod[0])

    # ---- guests

    def test_guest_that_never_says_hello(self):
        self.node.guest_script("no-hello")
        self.fails(Code.DEADLINE_EXCEEDED, self.pod, text="did not say hello within 2000 ms")

    def test_guests_that_end_while_starting(self):
        for what, text in (("panic@hello", "GuestPanic"), ("poweroff@hello", "GuestPoweredOff"), ("reset@hello", "GuestReset"),
                           ("kill@hello", "VMMCrashed"), ("panic@configure", "GuestPanic"), ("kill@configure", "VMMCrashed")):
            with self.subTest(what):
                self.node.guest_script(what)
                self.fails(Code.UNAVAILABLE, self.pod, text=text)
                self.assertEqual(self.node.census(), self.quiet)

    def test_guest_that_refuses_its_settings(self):
        self.node.guest_script("fail@configure=22")
        with self.assertRaises(grpc.RpcError) as e:
            self.pod()
        self.assertIn("sandbox settings", e.exception.details())

    def test_nexus_vmm_that_cannot_be_executed(self):
        program = self.node.root / "vmm"
        good = program.read_text()
        try:
            program.write_text("#!/no/such/interpreter\n")
            self.fails(Code.UNAVAILABLE, self.pod, text="could not be executed")
        finally:
            program.write_text(good)

    def lost(self, pod, ctr, reason, code=255, why="Unknown"):
        nodes.wait_for(lambda: self.others()[pod[0]].state == pb.SANDBOX_NOTREADY, why="NOTREADY")
        s = self.cri.ContainerStatus(container_id=ctr).status
        self.assertEqual((s.state, s.exit_code, s.reason), (pb.CONTAINER_EXITED, code, why))
        self.assertIn(reason, self.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])
        self.fails(Code.FAILED_PRECONDITION, self.cri.create, pod, "more", nodes.IMAGE, FOREVER, text="not ready")

    def test_nexus_vmm_killed(self):
        for sig in (signal.SIGKILL, signal.SIGSEGV, signal.SIGSYS):
            with self.subTest(sig.name):
                pod = self.pod()
                ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
                created = self.cri.create(pod, "created", nodes.IMAGE, FOREVER)
                os.kill(self.node.vmm_pid(pod[0]), sig)
                self.lost(pod, ctr, "VMMCrashed")
                self.assertEqual(self.cri.ContainerStatus(container_id=created).status.exit_code, 255)
                self.cri.remove_pod(pod[0])

    def test_guest_panics_while_it_runs(self):
        self.node.guest_script("panic@exec#1")
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        with self.assertRaises(grpc.RpcError):
            self.cri.exec(ctr, "true")
        nodes.wait_for(lambda: self.others()[pod[0]].state == pb.SANDBOX_NOTREADY, why="NOTREADY")
        s = self.cri.ContainerStatus(container_id=ctr).status
        self.assertEqual((s.state, s.exit_code), (pb.CONTAINER_EXITED, 255))
        self.assertIn("GuestPanic", self.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])

    def test_an_image_that_is_just_leaving_the_vm_is_waited_for(self):
        """nexus-vmm answers EAGAIN while the guest lets go of the image's region: the image's last container was removed."""
        self.node.guest_script("fail@region#1=11,fail@region#2=11")
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.assertEqual(self.cri.exec(ctr, "echo", "a")[0], 0)
        self.cri.remove_pod(pod[0])

    def test_container_that_does_not_end_costs_its_vm(self):
        self.node.guest_script("mute@signal")
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, ["sh", "-c", "ignore-term; sleep infinity"])
        # the answer to SIGKILL never comes, the exit does
        self.cri.StopContainer(pb.StopContainerRequest(container_id=ctr, timeout=0))
        self.assertEqual(self.cri.ContainerStatus(container_id=ctr).status.state, pb.CONTAINER_EXITED)

    def test_frozen_nexus_vmm(self):
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        os.kill(self.node.vmm_pid(pod[0]), signal.SIGSTOP)
        self.cri.ListContainers(timeout=2)
        self.fails(Code.DEADLINE_EXCEEDED, self.cri.ExecSync, pb.ExecSyncRequest(container_id=ctr, cmd=["true"], timeout=1))
        self.cri.StopPodSandbox(pod_sandbox_id=pod[0])  # by its own deadlines
        self.assertEqual(self.cri.ContainerStatus(container_id=ctr).status.exit_code, 255)

    def test_frozen_nexus_vmm_while_nexusd_starts(self):
        pod = self.pod()
        pid = self.node.vmm_pid(pod[0])
        os.kill(pid, signal.SIGSTOP)
        self.node.restart()
        type(self).cri = self.node.cri
        self.assertEqual(self.others()[pod[0]].state, pb.SANDBOX_READY)
        os.kill(pid, signal.SIGCONT)

        def works():
            try:
                return self.cri.run(pod, unique("c"), nodes.IMAGE, FOREVER)
            except grpc.RpcError as e:
                self.assertEqual(e.code(), Code.UNAVAILABLE)
                return None
        nodes.wait_for(works, why="connected again")

    def test_hostile_guests(self):
        for lie in ("lie@create=wrong-id", "lie@create=garbage", "lie@create=huge-frame", "lie@create=host-message",
                    "flood@create=100000", "lie@start=twice", "lie@hello=foreign-oom", "lie@started=hello-again"):
            with self.subTest(lie):
                self.node.guest_script(lie)
                try:
                    pod = self.pod()
                    self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
                except grpc.RpcError as e:
                    self.assertNotEqual(e.code(), Code.UNKNOWN)
                self.assertIsNone(self.node.proc.poll())

    # ---- exec

    def test_caller_that_leaves_ends_its_exec(self):
        call = self.cri.ExecSync(pb.ExecSyncRequest(container_id=self.beside_ctr, cmd=FOREVER), future=True)
        before = self.node.fds()
        nodes.wait_for(lambda: self.node.fds() > before or True)
        call.cancel()
        nodes.wait_for(lambda: self.node.fds() <= before, why="the exec's connection closed")

    def test_exec_faster_than_its_reader(self):
        code, out, _ = self.cri.exec(self.beside_ctr, "bytes", str(14 << 20), timeout=60)
        self.assertEqual((code, len(out)), (0, 14 << 20))


if __name__ == "__main__":
    unittest.main()
