# SPDX-License-Identifier: Apache-2.0
"""The nexus command against a CRI server nobody here wrote (gRPC's C core) whose pods are made up: what it
asks for, what it prints, how it ends."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/lib"), str(ROOT / "tests/fakes")]
import grpc  # noqa: E402
from cri import pb  # noqa: E402
from cri_fake import FakeCri  # noqa: E402

NEXUS = pathlib.Path(os.environ.get("NEXUS_BUILD", ROOT / "build/host")) / "src/cli/nexus"


class Case(unittest.TestCase):
    def setUp(self):
        d = tempfile.TemporaryDirectory(prefix="nexus-cli-")
        self.addCleanup(d.cleanup)
        self.dir = pathlib.Path(d.name)
        self.server = FakeCri(f"{d.name}/s.sock")
        self.addCleanup(lambda: self.server.stop())
        self.server.add_image("busybox:latest")
        self.env = {**os.environ, "NEXUS_ADDRESS": f"unix://{d.name}/s.sock"}

    def nexus(self, *args, code=0, **kw):
        r = subprocess.run([NEXUS, *args], capture_output=True, text=True, timeout=60, env=self.env, check=False, **kw)
        self.assertEqual(r.returncode, code, f"{args}: {r.stdout}{r.stderr}")
        return r

    def start(self, *args):
        p = subprocess.Popen([NEXUS, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)
        self.addCleanup(lambda: (p.poll() is None and p.kill(), p.wait(), p.stdout.close(), p.stderr.close()))
        return p

    def run_args(self, *steps, options=()):
        return ["run", "--log-dir", str(self.dir / "logs"), *options, "busybox:latest", "--", *steps]

    def container(self, *steps, log=True, name="c"):
        """A running container of the fake, without the command."""
        config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name=f"pod-{name}", uid=name, namespace="default"),
                                     log_directory=str(self.dir / "podlogs") if log else "")
        pod = self.server.RunPodSandbox(pb.RunPodSandboxRequest(config=config, runtime_handler="nexus-vmm"), None)
        cid = self.server.CreateContainer(pb.CreateContainerRequest(
            pod_sandbox_id=pod.pod_sandbox_id,
            config=pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image="busybox:latest"),
                                      args=steps, log_path=f"{name}.log")), None).container_id
        self.server.StartContainer(pb.StartContainerRequest(container_id=cid), None)
        return self.server.containers[cid]

    def wait(self, wanted, what="it"):
        end = time.monotonic() + 20
        while not wanted():
            self.assertLess(time.monotonic(), end, f"{what} did not happen")
            time.sleep(0.01)

    def wait_exited(self, c):
        self.wait(lambda: c.state == pb.CONTAINER_EXITED, "the exit")


class Run(Case):
    def test_output_and_exit_code_are_the_containers(self):
        r = self.nexus(*self.run_args("out:hello", "err:oops", "part:one ", "out:line", "exit:42"), code=42)
        self.assertEqual((r.stdout, r.stderr), ("hello\none line\n", "oops\n"))

    def test_everything_is_removed_afterwards(self):
        self.nexus(*self.run_args("out:x"))
        self.assertEqual((self.server.pods, self.server.containers), ({}, {}))
        self.assertEqual(list((self.dir / "logs").iterdir()), [])

    def test_what_is_asked_for(self):
        self.env["HANDED_ON"] = "value"
        self.nexus(*self.run_args("out:x", options=[
            "--name", "web", "--env", "A=1", "--env", "B=x=y", "--env", "HANDED_ON", "--memory", "256M", "--cpus", "1.5",
            "--publish", "127.0.0.1:8080:80", "--publish", "53:53/udp", "--workdir", "/srv", "--user", "1000:100"]))
        pod = self.server.asked("RunPodSandbox")[0]
        self.assertEqual(pod.runtime_handler, "nexus-vmm")
        self.assertEqual((pod.config.metadata.name, pod.config.hostname), ("web", "web"))
        self.assertRegex(pod.config.metadata.uid, "^[0-9a-f]{32}$")
        self.assertEqual([(p.protocol, p.host_ip, p.host_port, p.container_port) for p in pod.config.port_mappings],
                         [(0, "127.0.0.1", 8080, 80), (1, "", 53, 53)])
        c = self.server.asked("CreateContainer")[0]
        self.assertEqual(c.sandbox_config, pod.config)
        for resources in (pod.config.linux.resources, c.config.linux.resources):
            self.assertEqual((resources.memory_limit_in_bytes, resources.cpu_quota, resources.cpu_period),
                             (256 << 20, 150000, 100000))
        self.assertEqual({e.key: e.value for e in c.config.envs}, {"A": b"1", "B": b"x=y", "HANDED_ON": b"value"})
        self.assertEqual((list(c.config.command), list(c.config.args)), ([], ["out:x"]))
        self.assertEqual(c.config.working_dir, "/srv")
        sc = c.config.linux.security_context
        self.assertEqual((sc.run_as_user.value, sc.run_as_group.value), (1000, 100))

    def test_options_after_the_image_are_the_containers(self):
        self.nexus("run", "--log-dir", str(self.dir / "l"), "busybox:latest", "out:a", "--name", "-x")
        self.assertEqual(list(self.server.asked("CreateContainer")[0].config.args), ["out:a", "--name", "-x"])

    def test_names_come_from_the_image(self):
        self.server.add_image("localhost:5000/team/My_App.v2:1.0")
        self.nexus("run", "--log-dir", str(self.dir / "l"), "localhost:5000/team/My_App.v2:1.0")
        self.assertRegex(self.server.asked("RunPodSandbox")[0].config.metadata.name, "^my-app-v2-[0-9a-f]{6}$")

    def test_a_missing_image_is_pulled_and_a_present_one_is_not(self):
        self.server.registry["other:1"] = 1000
        r = self.nexus("run", "--log-dir", str(self.dir / "l"), "other:1", "out:x")
        self.assertIn("other:1: downloading", r.stderr)
        self.nexus("run", "--log-dir", str(self.dir / "l"), "other:1", "out:x")
        self.assertEqual(len(self.server.asked("Pull")), 1)
        self.nexus("run", "--pull", "--log-dir", str(self.dir / "l"), "other:1", "out:x")
        self.assertEqual(len(self.server.asked("Pull")), 2)

    def test_output_comes_while_it_runs(self):
        for events in (False, True):
            with self.subTest(events=events):
                self.server.missing = set() if events else {"GetContainerEvents"}
                p = self.start(*self.run_args("out:first", "wait", "out:second", "exit:3"))
                self.assertEqual(p.stdout.readline(), "first\n")
                self.server.go(next(iter(self.server.containers.values())))
                self.assertEqual(p.stdout.read(), "second\n")
                self.assertEqual(p.wait(20), 3)

    def test_rotation_loses_nothing(self):
        steps = [s for n in range(200) for s in ([f"out:{n}"] + (["rotate"] if n % 20 == 19 else []))]
        # the fake keeps one old file: each rotation waits until the command has read so far
        steps = [s for n in range(5) for s in (f"out:{n}a", f"out:{n}b", "wait", "rotate")] + ["out:end"]
        p = self.start(*self.run_args(*steps))
        for n in range(5):
            self.assertEqual((p.stdout.readline(), p.stdout.readline()), (f"{n}a\n", f"{n}b\n"))
            self.server.go(next(iter(self.server.containers.values())))
        self.assertEqual(p.stdout.read(), "end\n")
        self.assertEqual(p.wait(20), 0)

    def test_ctrl_c_stops_the_container_and_cleans_up(self):
        p = self.start(*self.run_args("out:up", "wait"))
        p.stdout.readline()
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(20), 143)
        self.assertEqual(self.server.asked("StopContainer")[0].timeout, 10)
        self.assertEqual(self.server.pods, {})

    def test_a_second_signal_kills(self):
        p = self.start(*self.run_args("out:up", "wait", options=["--grace", "77"]))
        p.stdout.readline()
        next(iter(self.server.containers.values())).config.labels["deaf"] = ""
        p.send_signal(signal.SIGTERM)
        self.wait(lambda: self.server.asked("StopContainer"), "the first stop")
        self.assertIsNone(p.poll())
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(20), 137)
        self.assertEqual([r.timeout for r in self.server.asked("StopContainer")], [77, 0])

    def test_failures_of_ours_are_125_and_leave_nothing(self):
        for rpc in ("RunPodSandbox", "CreateContainer", "StartContainer"):
            with self.subTest(rpc=rpc):
                self.server.fail = {rpc: (grpc.StatusCode.INTERNAL, f"{rpc} went wrong\x1b[31m")}
                r = self.nexus(*self.run_args("out:x"), code=125)
                self.assertIn(f"cannot run busybox:latest: {rpc} went wrong", r.stderr)
                self.assertNotIn("\x1b", r.stderr)
                self.assertEqual((self.server.pods, self.server.containers), ({}, {}))

    def test_an_image_nobody_has(self):
        r = self.nexus("run", "nosuch:1", code=125)
        self.assertIn("the registry has no such image", r.stderr)
        self.assertEqual(self.server.asked("RunPodSandbox"), [])

    def test_what_cannot_be_removed_is_told(self):
        self.server.fail = {"StopPodSandbox": (grpc.StatusCode.INTERNAL, "stuck")}
        r = self.nexus(*self.run_args("out:x"))
        pod = next(iter(self.server.pods))
        self.assertIn(f"the pod stays, \"nexus rm --force {pod[:12]}\" removes it: stuck", r.stderr)

    def test_out_of_memory_is_told(self):
        r = self.nexus(*self.run_args("oom"), code=137)
        self.assertIn("used more memory", r.stderr)

    def test_keep_and_detach(self):
        r = self.nexus(*self.run_args("out:x", options=["--keep"]))
        self.assertIn("kept: pod", r.stderr)
        self.assertEqual(len(self.server.pods), 1)
        r = self.nexus(*self.run_args("out:x", "wait", options=["--detach"]))
        self.assertEqual(self.server.containers[r.stdout.strip()].state, pb.CONTAINER_RUNNING)

    def test_in_a_pod_that_exists(self):
        c = self.container("wait")
        r = self.nexus(*self.run_args("out:inside", options=["--pod", c.pod.id[:10], "--name", "second"]))
        self.assertEqual(r.stdout, "inside\n")
        rq = self.server.asked("CreateContainer")[-1]
        self.assertEqual((rq.pod_sandbox_id, rq.config.metadata.name), (c.pod.id, "second"))
        self.assertEqual(rq.sandbox_config.metadata, c.pod.config.metadata)
        self.assertEqual(self.server.asked("RunPodSandbox"), [])
        self.assertEqual(list(self.server.containers), [c.id])  # its own is removed, the other stays

    def test_a_restart_of_the_server_is_survived(self):
        p = self.start(*self.run_args("out:before", "wait", "out:after", "exit:5"))
        self.assertEqual(p.stdout.readline(), "before\n")
        self.server.server.stop(0).wait()
        time.sleep(0.5)  # it asks meanwhile, and is not answered
        self.assertIsNone(p.poll())
        self.server.start()
        self.server.go(next(iter(self.server.containers.values())))
        self.assertEqual(p.stdout.read(), "after\n")
        self.assertEqual(p.wait(30), 5)
        self.assertEqual(self.server.pods, {})

    def test_nobody_reads_the_output(self):
        p = self.start(*self.run_args("out:x", "wait"))
        p.stdout.readline()
        p.stdout.close()
        c = next(iter(self.server.containers.values()))
        for _ in range(3):
            self.server._write(c, "stdout", "F", "more")
        self.assertEqual(p.wait(20), 125)
        self.assertEqual(self.server.pods, {})

    BAD = [(["--memory", "lots"], "--memory"), (["--memory", "0"], "--memory"), (["--cpus", "-1"], "--cpus"),
           (["--cpus", "0"], "--cpus"), (["--cpus", "1.2345"], "--cpus"), (["--name", "a/b"], "--name"),
           (["--name", "-x"], "--name"), (["--name", "x" * 64], "--name"), (["--env", "=x"], "--env"),
           (["--env", "NOT_SET_ANYWHERE"], "--env"), (["--publish", "80"], "--publish"),
           (["--publish", "0:80"], "--publish"), (["--publish", "80:65536"], "--publish"),
           (["--publish", "80:80/icmp"], "--publish"), (["--user", ":5"], "--user"), (["--user", "a:b"], "--user"),
           (["--grace", "x"], "--grace"), (["--nosuch"], "--nosuch"), (["--memory"], "--memory")]

    def test_wrong_command_lines_are_2_and_ask_nothing(self):
        for options, word in self.BAD:
            with self.subTest(options=options):
                r = self.nexus(*self.run_args(options=options), code=2) if options != ["--memory"] else \
                    self.nexus("run", "--memory", code=2)
                self.assertIn(word, r.stderr)
                self.assertIn("Try: nexus run --help", r.stderr)
        self.nexus("run", code=2)
        self.assertEqual(self.server.requests, [])


class Lists(Case):
    def test_ps(self):
        running, done = self.container("wait", name="up"), self.container(name="done")
        self.wait_exited(done)
        lines = self.nexus("ps").stdout.splitlines()
        self.assertEqual(lines[0].split(), ["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD"])
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[1], f"^{running.id[:12]} +busybox:latest +[0-9]+ seconds? ago +running +up +0 +{running.pod.id[:12]}$")
        self.assertEqual(len(self.nexus("ps", "-a").stdout.splitlines()), 3)
        self.assertEqual(self.nexus("ps", "--all", "--quiet").stdout.split(), [running.id, done.id])
        self.assertEqual(self.nexus("ps", "-aq", "--pod", "pod-done").stdout.split(), [done.id])

    def test_ps_as_json(self):
        c = self.container("wait")
        for args in (["ps", "-o", "json"], ["--output", "json", "ps"], ["--output=json", "ps"]):
            d = json.loads(self.nexus(*args).stdout)
            self.assertEqual(d["containers"][0]["id"], c.id)
            self.assertEqual(d["containers"][0]["podSandboxId"], c.pod.id)
            self.assertEqual(d["containers"][0]["state"], "CONTAINER_RUNNING")
            self.assertEqual(d["containers"][0]["createdAt"], str(c.created))
            self.assertEqual(d["containers"][0]["metadata"], {"name": "c", "attempt": 0})

    def test_pods(self):
        c = self.container("wait")
        lines = self.nexus("pods").stdout.splitlines()
        self.assertRegex(lines[1], f"^{c.pod.id[:12]} +[0-9]+ seconds? ago +ready +pod-c +default +0 +nexus-vmm$")
        self.assertEqual(json.loads(self.nexus("pods", "-o", "json").stdout)["items"][0]["id"], c.pod.id)
        self.nexus("stop", c.pod.id)
        self.assertEqual(self.nexus("pods", "-q").stdout.split(), [c.pod.id])
        self.assertEqual(self.nexus("pods", "-q", "--ready").stdout, "")

    def test_images(self):
        self.server.add_image("localhost:5000/web", 999)
        digest = self.server.add_image("x", 5 * 10**9)
        digest.repo_tags[:] = []
        digest.repo_digests.append("reg.example/y@sha256:" + "a" * 64)
        lines = [re.split("  +", l) for l in self.nexus("images").stdout.splitlines()]
        self.assertEqual(lines[0], ["IMAGE", "TAG", "ID", "SIZE"])
        self.assertEqual([(l[0], l[1], l[3]) for l in lines[1:]],
                         [("busybox", "latest", "1.2 MB"), ("localhost:5000/web", "<none>", "999 B"),
                          ("reg.example/y", "<none>", "5.0 GB")])
        self.assertEqual(len(self.nexus("images", "-q").stdout.split()), 3)
        self.assertEqual(len(self.nexus("images", "busybox:latest").stdout.splitlines()), 2)
        self.assertEqual(len(json.loads(self.nexus("images", "-o", "json").stdout)["images"]), 3)

    def test_empty_lists_have_a_heading(self):
        for c in ("ps", "pods"):
            self.assertEqual(len(self.nexus(c).stdout.splitlines()), 1)

    def test_hostile_text_does_not_reach_the_terminal(self):
        c = self.container("wait")
        c.config.metadata.name = "a\x1b[2Jb\r\nc"
        out = self.nexus("ps").stdout
        self.assertNotIn("\x1b", out)
        self.assertEqual(len(out.splitlines()), 2)


class Images(Case):
    def test_pull_prints_the_id_and_tells_progress_in_lines(self):
        self.server.registry["web:1"] = 1000
        r = self.nexus("pull", "web:1")
        self.assertEqual(r.stdout.strip(), self.server._image("web:1").id)
        self.assertEqual(r.stderr.splitlines(), ["web:1: resolving", "web:1: downloading, 100 B of 1.0 kB",
                                                 "web:1: downloading, 550 B of 1.0 kB",
                                                 "web:1: finishing, 1.0 kB of 1.0 kB", "web:1: done, 1.0 kB of 1.0 kB"])
        self.assertEqual(self.nexus("pull", "-q", "web:1").stderr, "")

    def test_pull_without_the_servers_own_method(self):
        self.server.missing.add("Pull")
        self.server.registry["web:1"] = 1000
        r = self.nexus("pull", "web:1")
        self.assertEqual(r.stdout.strip(), self.server._image("web:1").id)
        self.assertEqual(len(self.server.asked("PullImage")), 1)

    def test_credentials(self):
        self.server.registry["web:1"] = 1000
        self.nexus("pull", "--creds", "me:secret:x", "web:1")
        self.nexus("pull", "--creds", "me", "web:1", input="from stdin\n")
        self.assertEqual([(r.username, r.password) for r in self.server.asked("Pull")],
                         [("me", "secret:x"), ("me", "from stdin")])
        self.nexus("pull", "--creds", "me", "web:1", code=2, stdin=subprocess.DEVNULL)

    def test_a_pull_that_fails(self):
        r = self.nexus("pull", "web:1", code=1)
        self.assertIn("cannot pull web:1: web:1: the registry has no such image", r.stderr)

    def test_progress_on_a_terminal_is_one_line(self):
        self.server.registry["web:1"] = 1000
        master, slave = os.openpty()
        p = subprocess.Popen([NEXUS, "pull", "web:1"], stdout=subprocess.PIPE, stderr=slave, env=self.env, text=True)
        os.close(slave)
        self.assertEqual(p.stdout.read().strip(), self.server._image("web:1").id)
        self.assertEqual(p.wait(20), 0)
        p.stdout.close()
        shown = b""
        try:
            while data := os.read(master, 4096):
                shown += data
        except OSError:  # the other end is closed
            pass
        os.close(master)
        self.assertNotIn(b"\n", shown)
        self.assertIn(b"web:1: downloading [=============           ] 550 B of 1.0 kB", shown)
        self.assertTrue(shown.endswith(b"\r\x1b[K"))

    def test_rmi(self):
        self.nexus("rmi", "busybox:latest")
        self.assertEqual(self.server.images, {})
        r = self.nexus("rmi", "busybox:latest", code=1)
        self.assertIn("there is no image busybox:latest", r.stderr)


class Objects(Case):
    def test_exec(self):
        c = self.container("wait")
        r = self.nexus("exec", c.id[:8], "--", "say", "out\n", "err\n", "7", code=7)
        self.assertEqual((r.stdout, r.stderr), ("out\n", "err\n"))
        self.nexus("exec", "--timeout", "5", "c", "say", "", "", "0")
        rq = self.server.asked("ExecSync")
        self.assertEqual([list(r.cmd) for r in rq], [["say", "out\n", "err\n", "7"], ["say", "", "", "0"]])
        self.assertEqual([r.timeout for r in rq], [0, 5])
        self.assertIn("not found", self.nexus("exec", "c", "nosuch", code=127).stderr)

    def test_exec_that_cannot_be_done(self):
        c = self.container("wait")
        self.server.fail["ExecSync"] = (grpc.StatusCode.DEADLINE_EXCEEDED, "too slow")
        self.assertIn("cannot run x in c: too slow", self.nexus("exec", "c", "x", code=125).stderr)
        self.assertIn("streaming", self.nexus("exec", "-i", "c", "x", code=2).stderr)
        self.assertIn("streaming", self.nexus("exec", "-t", c.id, "x", code=2).stderr)
        self.nexus("exec", "nosuch", "x", code=125)
        self.nexus("exec", "c", code=2)

    def test_logs(self):
        c = self.container("out:one", "err:two", "part:thr", "out:ee", "out:four")
        self.wait_exited(c)
        r = self.nexus("logs", "c")
        self.assertEqual((r.stdout, r.stderr), ("one\nthree\nfour\n", "two\n"))
        self.assertEqual(self.nexus("logs", "--tail", "2", "c").stdout, "three\nfour\n")
        self.assertEqual(self.nexus("logs", "-n", "0", "c").stdout, "")
        self.assertEqual(self.nexus("logs", "-n", "99", "c").stdout, "one\nthree\nfour\n")
        for line in self.nexus("logs", "-t", "c").stdout.splitlines():
            self.assertRegex(line, r"^2026-01-31T12:00:00\.[0-9]{9}Z (one|three|four)$")
        self.nexus("logs", "--tail", "x", "c", code=2)

    def test_logs_follow_until_the_exit(self):
        c = self.container("out:one", "wait", "out:two")
        p = self.start("logs", "-f", "c")
        self.assertEqual(p.stdout.readline(), "one\n")
        self.server.go(c)
        self.assertEqual(p.stdout.read(), "two\n")
        self.assertEqual(p.wait(20), 0)
        self.assertEqual(self.nexus("logs", "-f", "c").stdout, "one\ntwo\n")  # at once when it has ended

    def test_logs_of_odd_files(self):
        c = self.container("raw:no format at all\n", "raw:2026-01-31T12:00:00Z stdout X y\n", "out:good", "raw:cut")
        self.wait_exited(c)
        self.assertEqual(self.nexus("logs", "c").stdout, "no format at all\n2026-01-31T12:00:00Z stdout X y\ngood\n")
        c.log.unlink()
        self.assertIn("cannot open the log", self.nexus("logs", "c", code=1).stderr)
        os.mkfifo(c.log)
        self.assertIn("not a file", self.nexus("logs", "c", code=1).stderr)
        self.container("wait", log=False, name="silent")
        self.assertIn("has no log", self.nexus("logs", "silent", code=1).stderr)

    def test_inspect(self):
        c = self.container("wait")
        self.server.verbose_info = {"config": '{"a": [1]}', "text": "no json"}
        d = json.loads(self.nexus("inspect", "c").stdout)
        self.assertEqual((d["status"]["id"], d["info"]), (c.id, {"config": {"a": [1]}, "text": "no json"}))
        self.assertEqual(json.loads(self.nexus("inspect", "pod-c").stdout)["status"]["network"]["ip"], "10.0.0.2")
        image = json.loads(self.nexus("inspect", "busybox:latest").stdout)["image"]
        self.assertEqual((image["repoTags"], image["uid"]), (["busybox:latest"], {"value": "0"}))
        self.assertEqual(len(json.loads(self.nexus("inspect", "c", "pod-c").stdout)), 2)
        self.assertIn("there is no container, pod or image x", self.nexus("inspect", "x", code=1).stderr)
        self.assertIn("there is no image c", self.nexus("inspect", "--type", "image", "c", code=1).stderr)
        self.nexus("inspect", "--type", "disk", "c", code=2)

    def test_stop(self):
        c = self.container("wait")
        self.assertEqual(self.nexus("stop", "--grace", "3", "c").stdout, "c\n")
        self.assertEqual((c.code, self.server.asked("StopContainer")[0].timeout), (143, 3))
        d = self.container("wait", name="d")
        self.nexus("stop", "pod-d")
        self.assertEqual(d.pod.state, pb.SANDBOX_NOTREADY)

    def test_several_are_done_as_far_as_they_go(self):
        c = self.container("wait")
        r = self.nexus("stop", "nosuch", "c", code=1)
        self.assertEqual(r.stdout, "c\n")
        self.assertIn("there is no container or pod nosuch", r.stderr)
        self.wait_exited(c)

    def test_rm(self):
        c = self.container("wait")
        self.assertIn("stop it first, or use --force", self.nexus("rm", "c", code=1).stderr)
        self.assertIn("stop it first, or use --force", self.nexus("rm", "pod-c", code=1).stderr)
        self.nexus("rm", "--force", "c")
        self.assertEqual(self.server.containers, {})
        self.nexus("rm", "-f", c.pod.id)
        self.assertEqual(self.server.pods, {})

    def test_ids_names_and_prefixes(self):
        a, b = self.container("wait", name="a"), self.container("wait", name="b")
        self.server.containers = {k: v for k, v in (("aaaa1", a), ("aaaa2", b))}
        a.id, b.id = "aaaa1", "aaaa2"
        self.assertIn("aaa means 2 of them: aaaa1 (a), aaaa2 (b)", self.nexus("stop", "aaa", code=1).stderr)
        b.config.metadata.name = "aaaa1"  # an id wins over a name
        self.nexus("stop", "aaaa1")
        self.assertEqual((a.state, b.state), (pb.CONTAINER_EXITED, pb.CONTAINER_RUNNING))
        self.assertIn("an empty name", self.nexus("stop", "", code=1).stderr)


class Common(Case):
    def test_version(self):
        self.assertEqual([l.split() for l in self.nexus("version").stdout.splitlines()][1:],
                         [["fake", "7.8.9"], ["CRI", "v1"]])
        self.assertEqual(json.loads(self.nexus("version", "-o", "json").stdout)["runtimeVersion"], "7.8.9")
        self.assertRegex(self.nexus("--version").stdout, r"^nexus [0-9.]+\n$")

    def test_a_server_that_is_not_there(self):
        self.env["NEXUS_ADDRESS"] = f"unix://{self.dir}/none.sock"
        for args, code in ((["ps"], 3), (["pods"], 3), (["images"], 3), (["pull", "x"], 3), (["logs", "x"], 3),
                           (["inspect", "x"], 3), (["stop", "x"], 3), (["rm", "x"], 3), (["rmi", "x"], 3), (["version"], 3),
                           (["run", "x"], 125), (["exec", "x", "y"], 125)):
            with self.subTest(args=args):
                r = self.nexus(*args, code=code)
                self.assertIn(f"nexusd is not running at {self.dir}/none.sock: start it with", r.stderr)

    def test_addresses(self):
        path = f"{self.dir}/s.sock"
        for a in (f"unix://{path}", f"unix:{path}", path):
            self.nexus("--address", a, "version")
            self.nexus("version", "--address", a)
            self.nexus("version", f"--address={a}")
        for a in ("tcp://1.2.3.4:5", "unix:relative", ""):
            self.assertIn("is not unix:///PATH", self.nexus("--address", a, "version", code=2).stderr)

    def test_a_server_that_fails(self):
        self.server.fail = {n: (grpc.StatusCode.UNAVAILABLE, "recovering, wait") for n in ("ListContainers", "Version")}
        self.assertIn("cannot list containers: recovering, wait", self.nexus("ps", code=3).stderr)
        self.server.fail = {"ListContainers": (grpc.StatusCode.INTERNAL, "für ☃ 100%")}
        self.assertIn("cannot list containers: für ☃ 100%", self.nexus("ps", code=1).stderr)

    def test_wrong_command_lines(self):
        for args in ([], ["nosuch"], ["--nosuch"], ["ps", "--nosuch"], ["ps", "extra"], ["stop"], ["pods", "-o", "xml"],
                     ["--output", "xml", "ps"], ["logs", "a", "b"]):
            with self.subTest(args=args):
                self.nexus(*args, code=2)

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            r = subprocess.run([NEXUS, "ps"], stdout=full, stderr=subprocess.PIPE, env=self.env, check=False)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"cannot write the output", r.stderr)


class Doctor(Case):
    """Each check that can be made wrong here, in a table: what is changed, which check notices, what it says."""

    def setUp(self):
        super().setUp()
        for d in ("cni", "bin", "cgroup"):
            (self.dir / d).mkdir()
        for name in ("bridge", "vmm", "pull", "stream", "mkfs"):
            f = self.dir / "bin" / name
            f.write_text("#!/bin/sh\n")
            f.chmod(0o755)
        (self.dir / "cni/10-x.conflist").write_text('{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}')
        (self.dir / "vmlinux").write_bytes(b"\x7fELF" + b"x" * 100)
        (self.dir / "initramfs").write_bytes(b"070701")
        (self.dir / "modules").write_bytes(b"m")
        self.config = f"""
state_dir: {self.dir}/state/deep/down
vm: {{program: {self.dir}/bin/vmm, kernel: {self.dir}/vmlinux, initramfs: {self.dir}/initramfs, modules: {self.dir}/modules, kvm: /dev/kvm}}
scratch: {{mkfs: {self.dir}/bin/mkfs}}
network: {{conf_dir: {self.dir}/cni, bin_dirs: [{self.dir}/bin]}}
stream: {{program: {self.dir}/bin/stream}}
images: {{dir: {self.dir}/images, pull_program: {self.dir}/bin/pull}}
"""

    def doctor(self, *args):
        (self.dir / "nexusd.yaml").write_text(self.config)
        r = subprocess.run([NEXUS, "doctor", "--config", self.dir / "nexusd.yaml", "-o", "json", *args], capture_output=True,
                           text=True, env=self.env, check=False, timeout=60)
        found = {f["check"]: f for f in json.loads(r.stdout)}
        for f in found.values():
            self.assertEqual(bool(f["advice"]), f["result"] != "ok", f)  # every finding says what to do
        self.assertEqual(r.returncode, 1 if any(f["result"] == "problem" for f in found.values()) else 0)
        return found

    def test_what_is_good_is_good(self):
        found = self.doctor()
        self.assertEqual(list(found), ["user", "config", "kvm", "tun", "cgroup", "network", "guest", "programs", "disk",
                                       "server"])
        for check in ("config", "network", "guest", "programs", "server"):
            self.assertEqual(found[check]["result"], "ok", found[check])
        self.assertIn("network net from", found["network"]["text"])
        self.assertIn("fake 7.8.9", found["server"]["text"])

    def test_what_is_wrong_is_told(self):
        def swap(old, new):
            self.config = self.config.replace(old, new)

        def gone(name):
            (self.dir / name).unlink()
        rows = [
            ("config", r"nexusd\.yaml:3: ", lambda: swap("vm: {", "vm: {nosuch: 1, ")),
            ("kvm", "is not there", lambda: swap("/dev/kvm", "/nonexistent")),
            ("kvm", "cannot be opened|speaks API", lambda: swap("/dev/kvm", "/dev/null")),
            ("cgroup", "no cgroup v2", lambda: swap("scratch:", f"cgroup: {{root: {self.dir}/cgroup}}\nscratch:")),
            ("network", "no CNI configuration", lambda: gone("cni/10-x.conflist")),
            ("network", "bridge", lambda: gone("bin/bridge")),
            ("network", "10-x.conflist", lambda: (self.dir / "cni/10-x.conflist").write_text("{")),
            ("guest", "vmlinux: No such file", lambda: gone("vmlinux")),
            ("guest", "no ELF file", lambda: (self.dir / "vmlinux").write_bytes(b"MZ" + b"x" * 100)),
            ("guest", "empty", lambda: (self.dir / "initramfs").write_bytes(b"")),
            ("programs", "pull helper", lambda: gone("bin/pull")),
            ("programs", "mkfs", lambda: gone("bin/mkfs")),
            ("server", "NetworkReady is false: CNIMissing no network", lambda: self.server.fail.update(NetworkReady="no network")),
            ("server", "does not answer", lambda: self.env.update(NEXUS_ADDRESS=f"unix://{self.dir}/none")),
        ]
        for check, text, change in rows:
            with self.subTest(check=check, text=text):
                self.doCleanups()
                self.setUp()
                change()
                f = self.doctor()[check]
                self.assertEqual(f["result"], "problem", f)
                self.assertRegex(f["text"], text)

    def test_boot_tells_how_the_monitor_ended(self):
        self.assertEqual(self.doctor("--boot")["boot"]["result"], "ok")
        (self.dir / "bin/vmm").write_text("#!/bin/sh\nexit 14\n")
        f = self.doctor("--boot")["boot"]
        self.assertEqual(f["result"], "problem")
        self.assertIn("code 14", f["text"])

    def test_the_socket_is_the_configurations_unless_one_is_named(self):
        self.config += f"listen: {self.dir}/s.sock\n"
        del self.env["NEXUS_ADDRESS"]
        self.assertEqual(self.doctor()["server"]["result"], "ok")
        self.assertEqual(self.doctor("--address", "unix:///nonexistent")["server"]["result"], "problem")

    def test_as_a_table(self):
        self.config = "nosuch: 1\n"
        (self.dir / "nexusd.yaml").write_text(self.config)
        r = self.nexus("doctor", "--config", str(self.dir / "nexusd.yaml"), code=1)
        self.assertRegex(r.stdout, r"(?m)^problem  config +.*nosuch.*\n +→ mend the file")
        self.assertRegex(r.stdout, r"\n[0-9]+ problems?: pods will not run until (it is|they are) gone\.\n$")


class Texts(unittest.TestCase):
    """--help, the man page and bash completion tell the same."""

    def help(self, *args):
        return subprocess.run([NEXUS, *args, "--help"], capture_output=True, text=True, check=True).stdout

    def commands(self):
        return re.findall(r"^  ([a-z]+) +[A-Z]", self.help().split("Commands:")[1].split("Options:")[0], re.M)

    def options(self, command):
        return set(re.findall(r"--([a-z-]+)", self.help(command).split("\nOptions:\n")[1]))

    def test_there_are_commands(self):
        self.assertEqual(self.commands(), ["run", "ps", "pods", "images", "pull", "exec", "logs", "inspect", "stop", "rm",
                                           "rmi", "doctor", "version"])

    def test_the_man_page_has_every_command_and_option_and_no_other(self):
        page = (ROOT / "docs/man/nexus.1").read_text()
        sections = re.split(r"^\.SS ", page, flags=re.M)[1:]
        told = {s.split("\n")[0].split()[0]: s for s in sections}
        self.assertEqual(list(told), self.commands())
        common = {"help", "address", "output"}
        for command, text in told.items():
            with self.subTest(command=command):
                there = {o.replace("\\", "") for o in re.findall(r"\\-\\-([a-z][a-z\\-]*[a-z])", text)}
                self.assertEqual(there - common, self.options(command) - common)

    def test_completion_has_every_command_and_option_and_no_other(self):
        script = f"""
            source {ROOT}/packaging/nexus.bash
            complete_line() {{ COMP_WORDS=("$@" ""); COMP_CWORD=$#; COMPREPLY=(); _nexus; echo "${{COMPREPLY[*]}}"; }}
            complete_word() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _nexus; echo "${{COMPREPLY[*]}}"; }}
            complete_line nexus
            for c in {' '.join(self.commands())}; do complete_word nexus $c --; done
        """
        lines = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                               env={**os.environ, "PATH": f"{NEXUS.parent}:{os.environ['PATH']}"}).stdout.splitlines()
        self.assertEqual(lines[0].split(), self.commands())
        for command, line in zip(self.commands(), lines[1:]):
            with self.subTest(command=command):
                self.assertEqual({o.removeprefix("--") for o in line.split()}, self.options(command) | {"help"})

    def test_the_configurations_man_page_has_every_key_with_its_default(self):
        page = (ROOT / "docs/man/nexusd.yaml.5").read_text()
        told = dict(re.findall(r'^\.BR ([a-z_.]+) " \([^;]+; (.*)\)"$', page, re.M))
        section, keys = "", {}
        for line in (ROOT / "packaging/nexusd.yaml").read_text().splitlines():
            m = re.match(r"( *)([a-z_]+):(?: (.*))?$", line)
            if m and not m[1] and m[3] is None:
                section = m[2] + "."
            elif m and len(m[1]) in (0, 2):
                keys[("" if not m[1] else section) + m[2]] = m[3]
            elif line.startswith("    - "):
                last = next(reversed(keys))
                keys[last] = f"{keys[last]}, {line[6:]}" if keys[last] else line[6:]
        self.assertGreater(len(keys), 20)
        self.assertEqual(told, {k: "empty" if v in ("[]", '""') else v for k, v in keys.items()})

    def test_man_pages_are_well_formed(self):
        for page in sorted((ROOT / "docs/man").glob("*.[0-9]")):
            with self.subTest(page=page.name):
                r = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-K", "utf8", "-rLL=100n", "-z", page],
                                   capture_output=True, text=True, check=False)
                self.assertEqual((r.returncode, r.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
