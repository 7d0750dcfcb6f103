# SPDX-License-Identifier: Apache-2.0
# needs: root
"""CNI plugins that are missing, refuse, lie, flood, hang or die, seen through nexusd: the caller gets a
clear error, the pod beside it never notices, DEL is run, and nothing is left."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import grpc  # noqa: E402
import fakenode as nodes  # noqa: E402
from cri import pb, unique  # noqa: E402

Code = grpc.StatusCode
TIMEOUT_MS = 1500  # network.timeout in these tests
RSS_GROWTH_KIB = 2048


def rss_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


class CniTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.node = nodes.Node(config={"network": {"timeout": f"{TIMEOUT_MS}ms"}})
        cls.addClassCleanup(cls.node.close)
        cls.node.start()
        cls.bystander = cls.node.cri.run_pod("bystander", log_directory=str(cls.node.logs / "bystander"))
        cls.container = cls.node.cri.run(cls.bystander, "b", nodes.IMAGE, ["sleep", "infinity"])
        cls.bystander_pid = cls.node.vmm_pid(cls.bystander[0])
        cls.quiet = cls.node.census()
        # once before fds and memory are counted: both pools are filled
        cls.node.cri.remove_pod(cls.node.cri.run_pod("warm-up")[0])

    def setUp(self):
        self.addCleanup(self.nothing_happened_elsewhere)
        self.addCleanup(self.node.set_cni, self.node.ptp())
        self.fds = self.node.fds()

    def nothing_happened_elsewhere(self):
        nodes.wait_for(lambda: self.node.census() == self.quiet, why=f"{self.node.census()} becoming {self.quiet}")
        self.assertEqual(self.node.pods()[self.bystander[0]].state, pb.SANDBOX_READY)
        self.assertEqual(self.node.containers()[self.container].state, pb.CONTAINER_RUNNING)
        self.assertEqual(self.node.vmm_pid(self.bystander[0]), self.bystander_pid)
        self.assertEqual(list(self.node.pods()), [self.bystander[0]])
        self.assertEqual(self.node.fds(), self.fds)

    def calls(self):
        """What the evil plugin was asked for: [(command, container, netns)]."""
        path = self.node.root / "evil/calls"
        return [tuple(line.split(" ")) for line in path.read_text().splitlines()] if path.exists() else []

    def forget_calls(self):
        for f in (self.node.root / "evil").iterdir():
            f.unlink()

    def evil_processes(self):
        out = []
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if b"/cni-evil" in (p / "cmdline").read_bytes() and \
                        str(self.node.root).encode() in (p / "environ").read_bytes() and nodes.alive(p.name):
                    out.append(p.name)
            except OSError:
                pass
        return out

    def run_pod(self, name=None, timeout=60):
        return self.node.cri.RunPodSandbox(config=self.node.cri.pod_config(name or unique("cni")), timeout=timeout)

    def refused(self, code, *words, call=None):
        with self.assertRaises(grpc.RpcError) as caught:
            (call or self.run_pod)()
        e = caught.exception
        self.assertEqual(e.code(), code, e.details())
        for w in words:
            self.assertIn(w, e.details())
        self.assertLessEqual(len(e.details()), 4096)
        self.assertTrue(e.details().isprintable(), e.details())
        return e


class Add(CniTest):
    """RunPodSandbox while the plugin behind the real ones misbehaves."""

    CASES = [  # mode, code, words of the message
        ("exit-json", Code.INTERNAL, ["evil refuses; told so by its configuration (code 7)"]),
        ("exit-silent", Code.INTERNAL, ["exited with code 1 without an error object"]),
        ("exit-text", Code.INTERNAL, ["panic: out of ideas", "goroutine 1"]),
        ("try-again", Code.UNAVAILABLE, ["evil is busy", "try again later"]),
        ("error-exit-0", Code.INTERNAL, ["reported an error but exited with 0"]),
        ("garbage", Code.INTERNAL, ["exited with 0, but the result is no acceptable JSON"]),
        ("partial", Code.INTERNAL, ["no acceptable JSON"]),
        ("empty", Code.INTERNAL, ["the result is empty"]),
        ("deep", Code.INTERNAL, ["nested deeper"]),
        ("bad-utf8", Code.INTERNAL, ["unable to decode byte"]),
        ("wrong-version", Code.INTERNAL, ["cniVersion is \"9.9.9\", asked was 1.0.0"]),
        ("wrong-ifname", Code.INTERNAL, ["do not contain eth0"]),
        ("wrong-netns", Code.INTERNAL, ["/run/netns/of-another-pod"]),
        ("no-ips", Code.INTERNAL, ["gave the pod no IP address"]),
        ("flood", Code.INTERNAL, ["printed more than 1048576 bytes and was killed"]),
        ("kill", Code.INTERNAL, ["was killed by signal 9"]),
        ("segv", Code.INTERNAL, ["was killed by signal 11"]),
        ("hang", Code.DEADLINE_EXCEEDED, [f"did not end within {TIMEOUT_MS} ms and was killed", "waiting for a lock"]),
        ("hang-ignore-term", Code.DEADLINE_EXCEEDED, ["did not end within", "waiting for a lock"]),
    ]

    def test_each_misbehaviour_is_an_error_and_leaves_nothing(self):
        before = rss_kib(self.node.proc.pid)
        for mode, code, words in self.CASES:
            with self.subTest(mode):
                self.forget_calls()
                self.node.set_cni(self.node.evil(ADD=mode))
                name = unique("cni")
                self.refused(code, *words, "network test", call=lambda n=name: self.run_pod(n))
                calls = self.calls()
                self.assertEqual([c[0] for c in calls][:2], ["ADD", "DEL"], "a failed ADD is followed by DEL")
                self.assertEqual(len({c[1] for c in calls}), 1)
                self.assertEqual(self.evil_processes(), [])
                self.nothing_happened_elsewhere()
                # the name is free as soon as the answer is there
                self.node.set_cni(self.node.ptp())
                pod = self.run_pod(name).pod_sandbox_id
                self.assertEqual(self.node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state, pb.SANDBOX_READY)
                self.node.cri.remove_pod(pod)
        self.assertLess(rss_kib(self.node.proc.pid) - before, RSS_GROWTH_KIB)

    def test_plugin_that_is_missing_is_named_with_the_places_and_what_to_do(self):
        self.node.set_cni([*self.node.ptp(), {"type": "cni-that-nobody-has"}])
        self.refused(Code.UNAVAILABLE, "cni-that-nobody-has", "/usr/lib/cni", "install it")

    def test_stderr_flood_and_a_daemon_on_stdout_do_no_harm(self):
        for mode in "flood-stderr", "daemonize":
            with self.subTest(mode):
                self.node.set_cni(self.node.evil(ADD=mode))
                self.node.cri.remove_pod(self.run_pod().pod_sandbox_id)
        for pid in self.evil_processes():  # the daemon left on purpose
            os.kill(int(pid), signal.SIGKILL)
        nodes.wait_for(lambda: not self.evil_processes())

    def test_others_start_and_lists_answer_while_one_hangs(self):
        name = unique("hang")
        self.forget_calls()
        self.node.set_cni(self.node.evil(ADD="hang"))
        stuck = self.node.cri.RunPodSandbox(config=self.node.cri.pod_config(name), future=True)
        nodes.wait_for((self.node.root / "evil/hanging").exists)
        self.node.set_cni(self.node.ptp())
        for _ in range(3):
            other = self.run_pod().pod_sandbox_id
            self.assertEqual(self.node.pods()[other].state, pb.SANDBOX_READY)
            self.node.cri.remove_pod(other)
        self.assertTrue(self.node.cri.Version().runtime_name)
        self.assertEqual(stuck.exception(timeout=60).code(), Code.DEADLINE_EXCEEDED)

    def test_caller_that_leaves_and_comes_back(self):
        name = unique("again")
        self.forget_calls()
        self.node.set_cni(self.node.evil(ADD="slow:800"))
        config = self.node.cri.pod_config(name)
        with self.assertRaises(grpc.RpcError) as caught:
            self.node.cri.RunPodSandbox(config=config, timeout=0.3)
        self.assertEqual(caught.exception.code(), Code.DEADLINE_EXCEEDED)
        pod = self.node.cri.RunPodSandbox(config=config).pod_sandbox_id  # joins what still runs
        self.assertEqual([c[0] for c in self.calls()], ["ADD"])
        self.node.cri.remove_pod(pod)

    def test_crash_of_nexusd_while_a_plugin_hangs(self):
        self.forget_calls()
        self.node.set_cni(self.node.evil(ADD="hang-ignore-term"))
        call = self.node.cri.RunPodSandbox(config=self.node.cri.pod_config(unique("crash")), future=True)
        nodes.wait_for((self.node.root / "evil/hanging").exists)
        self.assertEqual(len(self.evil_processes()), 1)
        self.node.restart()
        self.assertIsNotNone(call.exception(timeout=30))
        # the plugin was ended before its DEL began, so that they cannot race
        nodes.wait_for(lambda: [c[0] for c in self.calls()] == ["ADD", "DEL"], why=f"{self.calls()}")
        self.assertEqual(self.evil_processes(), [])
        self.fds = self.node.fds()


class Delete(CniTest):
    """StopPodSandbox and RemovePodSandbox while DEL misbehaves."""

    def pod(self, **modes):
        self.forget_calls()
        self.node.set_cni(self.node.evil(**modes))
        return self.run_pod().pod_sandbox_id

    def stop(self, pod, timeout=60):
        return self.node.cri.StopPodSandbox(pod_sandbox_id=pod, timeout=timeout)

    def test_del_that_fails_is_told_and_repeated(self):
        pod = self.pod(DEL="fail:6")  # nexusd calls a failing DEL twice at once
        self.refused(Code.UNAVAILABLE, "evil refuses", call=lambda: self.stop(pod))
        self.assertEqual(self.node.pods()[pod].state, pb.SANDBOX_NOTREADY)
        self.assertEqual(self.node.census()["netns"], sorted(self.quiet["netns"] + [f"nexus-{pod[:12]}"]))

        def gone():
            try:
                self.node.cri.remove_pod(pod)
                return True
            except grpc.RpcError as e:
                self.assertIn("evil refuses", e.details())
                return False
        nodes.wait_for(gone, why="a DEL that succeeds at last")

    def test_del_that_hangs_ends_at_the_deadline_and_is_repeated(self):
        pod = self.pod(DEL="hang")
        with self.assertRaises(grpc.RpcError) as caught:
            self.stop(pod)
        self.assertIn(caught.exception.code(), (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED))
        self.assertIn("did not end within", caught.exception.details())
        # the configuration of ADD time is what counts: the plugin itself has to get well
        bad = nodes.ROOT / "tests/fakes/cni-evil"
        well = self.node.root / "bin"
        well.mkdir()
        (well / "cni-evil").write_text(bad.read_text(encoding="utf-8").replace("time.sleep(3600)", "return"))
        (well / "cni-evil").chmod(0o755)
        self.node.extra["network"]["bin_dirs"] = [str(well), "/usr/lib/cni"]
        self.node.restart()
        self.addCleanup(self.node.extra["network"].pop, "bin_dirs")
        self.fds = self.node.fds()
        nodes.wait_for(lambda: self.removed(pod), why="a DEL that succeeds at last")

    def removed(self, pod):
        try:
            self.node.cri.remove_pod(pod)
            return True
        except grpc.RpcError:
            return False

    def test_configuration_gone_or_changed_since_add(self):
        for conf in None, [{"type": "cni-that-nobody-has"}]:
            pod = self.pod()
            self.node.set_cni(conf)
            self.stop(pod)
            self.assertEqual([c[0] for c in self.calls()], ["ADD", "DEL"])
            self.node.cri.remove_pod(pod)

    def test_namespace_gone(self):
        pod = self.pod()
        path = self.node.root / f"netns/nexus-{pod[:12]}"
        self.node.inside("umount", "-l", path, check=True)
        path.unlink()
        self.stop(pod)
        self.stop(pod)
        self.assertEqual([(c[0], c[2]) for c in self.calls()], [("ADD", str(path)), ("DEL", "")])
        self.node.cri.remove_pod(pod)

    def test_plugin_gone_is_told_and_paid_later(self):
        pod = self.pod()
        self.node.extra["network"]["bin_dirs"] = ["/usr/lib/cni"]
        self.node.restart()
        self.refused(Code.UNAVAILABLE, "cni-evil", "install it", call=lambda: self.stop(pod))
        del self.node.extra["network"]["bin_dirs"]
        self.node.restart()
        self.fds = self.node.fds()
        nodes.wait_for(lambda: self.removed(pod))
        self.assertEqual([c[0] for c in self.calls()], ["ADD", "DEL"])


class Status(CniTest):
    """NetworkReady and its reason; sandboxes are refused while it is false."""

    def network(self):
        return next(c for c in self.node.cri.Status().status.conditions if c.type == "NetworkReady")

    def test_reason_is_told_and_sandboxes_are_refused(self):
        path = self.node.root / "cni/10-test.conflist"
        self.assertTrue(self.network().status)
        for what, prepare, words in [
                ("no file", path.unlink, ["no CNI configuration", str(path.parent)]),
                ("half a file", lambda: path.write_text('{"cniVersion":'), [str(path), "line 1"]),
                ("no type", lambda: path.write_text('{"cniVersion":"1.0.0","name":"x","plugins":[{}]}'),
                 ["plugins[0].type is missing"]),
                ("a way out", lambda: path.write_text(
                    '{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../../../bin/sh"}]}'), ["bare file name"]),
                ("no plugin", lambda: self.node.set_cni([{"type": "cni-that-nobody-has"}]),
                 ["cni-that-nobody-has", "install it"]),
                ("no IPAM plugin", lambda: self.node.set_cni([{"type": "ptp", "ipam": {"type": "ipam-that-nobody-has"}}]),
                 ["ipam-that-nobody-has"])]:
            with self.subTest(what):
                prepare()
                c = self.network()
                self.assertFalse(c.status)
                for w in words:
                    self.assertIn(w, c.message)
                self.refused(Code.UNAVAILABLE, *words)
                self.assertEqual(self.node.pods()[self.bystander[0]].state, pb.SANDBOX_READY)
        self.node.set_cni(self.node.ptp())
        self.assertTrue(self.network().status)
        self.node.cri.remove_pod(self.run_pod().pod_sandbox_id)


if __name__ == "__main__":
    unittest.main()
