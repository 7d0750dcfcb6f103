#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 210
"""The whole chain with nothing fake in it: a real registry, nexusd, real CNI plugins, real microVMs with
the stock kernel, containers of a real image. One pod serves most cases, since a boot is dear here."""
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import grpc  # noqa: E402
from cri import parse_log, pb, unique  # noqa: E402
from node import Node  # noqa: E402
from ocimage import Layer, Registry, busybox_image  # noqa: E402

SLEEP = ["sleep", "100000"]


class Chain(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.left, cls.told = "", False
        cls.registry = Registry().start()
        cls.image = cls.registry.push("test/busybox", "1", busybox_image(
            [Layer("zstd").dir("data").file("data/file", b"from the image\n", 0o640, uid=1000, gid=33)
             .symlink("data/link", "file"),
             Layer("none").file("data/.wh.gone", b"").file("opt/setuid", b"#!/bin/sh\n", 0o4755)],
            env=["FROM_IMAGE=yes"], workdir="/data", cmd=["sh", "-c", "echo default command"]))
        cls.node = Node(insecure=[cls.registry.address])
        cls.node.start()
        cls.cri = cls.node.cri
        cls.cri.PullImage(image=pb.ImageSpec(image=cls.image), timeout=300)
        cls.pod = cls.run_pod("main", ports=[(18080, 80)])
        cls.main = cls.cri.run(cls.pod, "main", cls.image, SLEEP)

    @classmethod
    def tearDownClass(cls):
        try:
            if cls.node.proc:
                for p in cls.cri.ListPodSandbox().items:
                    cls.cri.remove_pod(p.id)
                cls.left = cls.node.census()
            cls.node.close()
        finally:
            cls.registry.stop()
        if cls.left:
            raise AssertionError(f"left behind after removing every pod:\n{cls.left}")

    def tearDown(self):
        if self._outcome.result.failures or self._outcome.result.errors:
            if not type(self).told:  # what went wrong first is what counts
                type(self).told = True
                print(f"---- nexusd and nexus-vmm said\n{self.node.log_tail(60)}\n----", file=sys.stderr, flush=True)

    @classmethod
    def run_pod(cls, name, **more):
        logs = cls.node.logs / name
        logs.mkdir(exist_ok=True)
        return cls.cri.run_pod(name, str(logs), timeout=240, **more)

    def sh(self, script, container=None, timeout=30):
        return self.cri.exec(container or self.main, "sh", "-c", script, timeout=timeout)

    def output_of(self, *command, **more):
        """Log lines of a container that ran to its end, and its status."""
        name = unique("c")
        cid = self.cri.run(self.pod, name, self.image, command, **more)
        status = self.cri.wait_exited(cid)
        self.cri.RemoveContainer(container_id=cid)
        return parse_log(status.log_path), status

    # ---- the machine

    def test_the_guest_has_a_kernel_of_its_own(self):
        code, out, _ = self.sh("uname -r; cat /proc/1/comm; hostname")
        self.assertEqual(code, 0)
        lines = out.decode().split()
        self.assertIn("cloud", lines[0])
        self.assertNotEqual(lines[0], os.uname().release)
        self.assertEqual(lines[1:], ["sleep", "main"])

    def test_image_files_are_what_the_layers_say(self):
        _, out, _ = self.sh("stat -c '%a %u %g' /data/file; cat /data/link; stat -c %a /opt/setuid; ls /data")
        self.assertEqual(out.decode().split("\n"), ["640 1000 33", "from the image", "4755", "file", "link", ""])

    def test_the_root_file_system_is_writable_and_the_image_is_not_touched(self):
        code, _, err = self.sh("echo changed > /data/file && rm /bin/vi && touch /new && cat /data/file")
        self.assertEqual((code, err), (0, b""))
        logs, _ = self.output_of("cat", "/data/file")
        self.assertEqual(logs, [("stdout", "F", b"from the image")])

    # ---- exec

    def test_exec_keeps_streams_and_exit_code_apart(self):
        self.assertEqual(self.sh("echo out; echo err >&2; exit 42"), (42, b"out\n", b"err\n"))

    def test_exec_arguments_are_never_split_again(self):
        args = ["a b", "", "$HOME", "*", "'\"", "ä\n", "-n"]
        code, out, _ = self.cri.exec(self.main, "sh", "-c", 'for a; do printf "[%s]" "$a"; done', "x", *args)
        self.assertEqual((code, out.decode()), (0, "".join(f"[{a}]" for a in args)))

    def test_exec_of_a_missing_binary_is_127_with_a_message(self):
        code, out, err = self.cri.exec(self.main, "no-such-program", "x")
        self.assertEqual((code, out), (127, b""))
        self.assertIn(b"no-such-program", err)

    def test_exec_killed_by_a_signal_is_128_and_the_signal(self):
        self.assertEqual(self.sh("kill -9 $$")[0], 137)

    def test_exec_timeout_is_deadline_exceeded_and_kills_all_of_it(self):
        with self.assertRaises(grpc.RpcError) as e:
            self.cri.exec(self.main, "sh", "-c", "sleep 4321 & sleep 4322", timeout=1)
        self.assertEqual(e.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertFalse({"sleep 4321", "sleep 4322"} & self.processes())

    def test_exec_dies_with_its_caller(self):
        call = self.cri.ExecSync(container_id=self.main, cmd=["sh", "-c", "sleep 5432; true"], future=True)
        self.wait(lambda: "sleep 5432" in self.processes())
        call.cancel()
        self.wait(lambda: "sleep 5432" not in self.processes())

    def test_exec_returns_although_a_child_keeps_its_output_open(self):
        code, out, _ = self.sh("sleep 6543 & echo done")
        self.assertEqual((code, out), (0, b"done\n"))
        self.assertNotIn("sleep 6543", self.processes())

    def test_exec_moves_megabytes_exactly(self):
        code, out, _ = self.sh("i=0; while [ $i -lt 30000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done",
                               timeout=300)
        self.assertEqual((code, len(out)), (0, 30000 * 41))
        self.assertEqual(set(out.split(b"\n")), {b"0123456789" * 4, b""})

    def test_exec_output_over_the_cap_is_cut_and_the_command_goes_on(self):
        code, out, _ = self.sh("head -c 17000000 /dev/zero; exit 5", timeout=240)
        self.assertEqual(code, 5)
        self.assertLessEqual(len(out), 15 << 20)
        self.assertGreater(len(out), 14 << 20)

    def test_exec_of_unknown_and_of_exited_containers(self):
        with self.assertRaises(grpc.RpcError) as e:
            self.cri.exec("0" * 64, "true")
        self.assertEqual(e.exception.code(), grpc.StatusCode.NOT_FOUND)
        cid = self.cri.run(self.pod, unique("gone"), self.image, ["true"])
        self.cri.wait_exited(cid)
        with self.assertRaises(grpc.RpcError) as e:
            self.cri.exec(cid, "true")
        self.assertEqual(e.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.cri.RemoveContainer(container_id=cid)

    # ---- containers

    def test_image_defaults_hold_and_can_be_overridden(self):
        logs, status = self.output_of()
        self.assertEqual(logs, [("stdout", "F", b"default command")])
        self.assertEqual((status.exit_code, status.reason), (0, "Completed"))
        logs, _ = self.output_of("sh", "-c", "pwd; echo $FROM_IMAGE $OWN; id -u", env={"OWN": "mine"})
        self.assertEqual([t for _, _, t in logs], [b"/data", b"yes mine", b"0"])

    def test_exit_codes_and_reasons(self):
        for script, code, reason in (("exit 0", 0, "Completed"), ("exit 7", 7, "Error"),
                                     ("sh -c 'kill -9 $$'; exit $?", 137, "Error")):
            with self.subTest(script):
                _, status = self.output_of("sh", "-c", script)
                self.assertEqual((status.exit_code, status.reason), (code, reason))
                self.assertGreaterEqual(status.finished_at, status.started_at)

    def test_a_command_that_is_missing_fails_the_start(self):
        cid = self.cri.create(self.pod, unique("bad"), self.image, ["no-such-program"])
        with self.assertRaises(grpc.RpcError) as e:
            self.cri.StartContainer(container_id=cid)
        self.assertIn("no-such-program", e.exception.details())
        status = self.cri.ContainerStatus(container_id=cid).status
        self.assertEqual((status.state, status.exit_code, status.reason), (pb.CONTAINER_EXITED, 128, "StartError"))
        self.cri.RemoveContainer(container_id=cid)

    def test_over_its_memory_limit_a_container_is_oom_killed_and_the_pod_lives(self):
        linux = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=15 << 20,
                                                                             memory_swap_limit_in_bytes=15 << 20))
        _, status = self.output_of("dd", "if=/dev/zero", "of=/dev/null", "bs=40M", "count=1", linux=linux)
        self.assertEqual((status.exit_code, status.reason), (137, "OOMKilled"))
        self.assertEqual(self.sh("echo alive")[1], b"alive\n")

    def test_stop_sends_the_signal_and_kills_after_the_grace(self):
        polite = self.cri.run(self.pod, unique("polite"), self.image, ["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 1; done"])
        self.wait_ready(polite)
        self.stop(polite, 20)
        self.assertEqual(self.cri.ContainerStatus(container_id=polite).status.exit_code, 9)
        stubborn = self.cri.run(self.pod, unique("stubborn"), self.image, ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
        self.wait_ready(stubborn)
        self.stop(stubborn, 1)
        self.assertEqual(self.cri.ContainerStatus(container_id=stubborn).status.exit_code, 137)
        for c in (polite, stubborn):
            self.stop(c, 0)
            for _ in range(2):  # both are idempotent
                self.cri.RemoveContainer(container_id=c)

    def test_user_by_number_and_by_name_of_the_image(self):
        for context, expect in ((pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value(value=1000)), b"1000:1000"),
                                (pb.LinuxContainerSecurityContext(run_as_username="www-data"), b"33:33")):
            with self.subTest(expect):
                context.supplemental_groups.append(4242)
                logs, status = self.output_of("sh", "-c", "echo $(id -u):$(id -g):$(id -G)",
                                              linux=pb.LinuxContainerConfig(security_context=context))
                user = status.user.linux
                self.assertIn(4242, user.supplemental_groups)
                self.assertEqual(f"{user.uid}:{user.gid}".encode(), expect)
                (stream, tag, line), = logs
                ids, _, groups = line.rpartition(b":")
                self.assertEqual((stream, tag, ids), ("stdout", "F", expect))
                self.assertEqual(sorted(map(int, groups.split())), sorted(user.supplemental_groups))

    def test_a_terminal_is_a_terminal(self):
        logs, _ = self.output_of("sh", "-c", "test -t 0 && test -t 1 && echo tty", tty=True)
        self.assertEqual(logs, [("stdout", "F", b"tty")])

    def test_pid_namespaces_are_apart_and_network_and_hostname_are_shared(self):
        other = self.cri.run(self.pod, unique("other"), self.image, SLEEP)
        for script in ("hostname", "ip -4 addr show eth0", "readlink /proc/self/ns/net", "readlink /proc/self/ns/ipc"):
            self.assertEqual(self.sh(script), self.sh(script, other), script)
        self.assertNotEqual(self.sh("readlink /proc/self/ns/pid"), self.sh("readlink /proc/self/ns/pid", other))
        self.cri.RemoveContainer(container_id=other)

    # ---- logs

    def test_a_log_is_whole_with_partial_and_last_lines(self):
        logs, _ = self.output_of("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no newline'")
        self.assertEqual([(t, len(text)) for _, t, text in logs], [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("F", 10)])

    def test_a_log_rotates_without_losing_a_line(self):
        cid = self.cri.run(self.pod, unique("rotate"), self.image,
                           ["sh", "-c", "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); usleep 5000; done"])
        path = pathlib.Path(self.cri.ContainerStatus(container_id=cid).status.log_path)
        self.wait(lambda: path.stat().st_size > 0)
        old = path.with_suffix(".old")
        path.rename(old)
        self.cri.ReopenContainerLog(container_id=cid)
        self.assertTrue(path.exists())
        self.cri.wait_exited(cid, 300)
        numbers = [int(t) for _, _, t in parse_log(old) + parse_log(path)]
        self.assertEqual(numbers, list(range(400)))
        with self.assertRaises(grpc.RpcError):
            self.cri.ReopenContainerLog(container_id=cid)
        self.cri.RemoveContainer(container_id=cid)

    # ---- network

    def test_addresses_of_both_families_and_a_host_port(self):
        status = self.cri.PodSandboxStatus(pod_sandbox_id=self.pod[0]).status.network
        addresses = [status.ip, *(a.ip for a in status.additional_ips)]
        self.assertEqual([":" in a for a in addresses], [False, True])
        web = self.cri.run(self.pod, unique("web"), self.image, ["httpd", "-f", "-p", "80", "-h", "/data"])
        for url in (f"http://{addresses[0]}/link", f"http://[{addresses[1]}]/link", "http://127.0.0.1:18080/link"):
            with self.subTest(url):
                self.assertTrue(self.wait(lambda u=url: fetch(u)))
        self.cri.RemoveContainer(container_id=web)

    def test_the_guest_reaches_the_node(self):
        gateway = self.sh("ip route")[1].decode().split()[2]
        def serve(server):
            with server.accept()[0] as conn:
                conn.sendall(b"hi\n")

        with socket.create_server((gateway, 0)) as server:
            threading.Thread(target=serve, args=(server,), daemon=True).start()
            self.assertEqual(self.sh(f"nc {gateway} {server.getsockname()[1]} </dev/null")[1], b"hi\n")

    # ---- nexusd dies, VMs die

    def test_nexusd_killed_loses_no_exit_code_and_no_log_line(self):
        cid = self.cri.run(self.pod, unique("survivor"), self.image, ["sh", "-c", "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); "
                                                                      "usleep 20000; done; exit 17"])
        before = self.cri.PodSandboxStatus(pod_sandbox_id=self.pod[0]).status
        self.node.kill9()
        time.sleep(1)  # the container goes on meanwhile: what is tested is that nobody needs nexusd
        self.node.start()
        type(self).cri = self.node.cri
        after = self.cri.PodSandboxStatus(pod_sandbox_id=self.pod[0]).status
        self.assertEqual((after.state, after.network, after.created_at), (pb.SANDBOX_READY, before.network, before.created_at))
        status = self.cri.wait_exited(cid)
        self.assertEqual(status.exit_code, 17)
        self.assertEqual([int(t) for _, _, t in parse_log(status.log_path)], list(range(100)))
        self.assertEqual(self.sh("echo still here")[1], b"still here\n")
        self.cri.RemoveContainer(container_id=cid)

    def test_z_a_vm_that_ends_by_itself_is_told_apart_and_can_be_removed(self):
        sysrq = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(privileged=True))
        cases = (("panic", "echo c > /proc/sysrq-trigger", "anic"), ("poweroff", "echo o > /proc/sysrq-trigger", "off"))
        for name, script, word in cases:
            with self.subTest(name):
                pod = self.run_pod(name, linux=pb.LinuxPodSandboxConfig(
                    security_context=pb.LinuxSandboxSecurityContext(privileged=True)))
                cid = self.cri.run(pod, "c", self.image, SLEEP, linux=sysrq)
                exec_ = self.cri.ExecSync(container_id=cid, cmd=["sh", "-c", script], future=True)
                self.wait(lambda p=pod: self.cri.PodSandboxStatus(pod_sandbox_id=p[0]).status.state == pb.SANDBOX_NOTREADY, 60)
                exec_.exception()
                status = self.cri.ContainerStatus(container_id=cid).status
                self.assertEqual((status.state, status.exit_code), (pb.CONTAINER_EXITED, 255), status)
                self.assertIn(word, status.message + status.reason)
                self.cri.remove_pod(pod[0])
        self.assertEqual(self.sh("echo others untouched")[1], b"others untouched\n")

    def test_z_a_killed_nexus_vmm_costs_its_own_pod_only(self):
        pod = self.run_pod("killed")
        cid = self.cri.run(pod, "c", self.image, SLEEP)
        mine = [p for p in self.node.vmm_pids() if pod[0].encode() in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
        self.assertEqual(len(mine), 1)
        os.kill(mine[0], signal.SIGKILL)
        self.wait(lambda: self.cri.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == pb.SANDBOX_NOTREADY, 30)
        status = self.cri.ContainerStatus(container_id=cid).status
        self.assertEqual(status.state, pb.CONTAINER_EXITED)
        self.assertNotEqual(status.exit_code, 0)
        self.assertEqual(self.sh("echo alive")[1], b"alive\n")
        self.cri.remove_pod(pod[0])

    def test_z_a_stopped_vmm_does_not_stop_the_node(self):
        """SIGSTOP: the guest hangs as far as anybody can see. Lists answer, removal works."""
        pod = self.run_pod("hung")
        self.cri.run(pod, "c", self.image, SLEEP)
        mine = [p for p in self.node.vmm_pids() if pod[0].encode() in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
        os.kill(mine[0], signal.SIGSTOP)
        self.assertIn(pod[0], [p.id for p in self.cri.ListPodSandbox(timeout=5).items])
        self.assertEqual(self.sh("echo alive")[1], b"alive\n")
        self.cri.StopPodSandbox(pod_sandbox_id=pod[0], timeout=120)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod[0], timeout=120)
        self.assertFalse(os.path.exists(f"/proc/{mine[0]}"))

    def processes(self):
        """Command lines of the main container."""
        return set(self.sh("ps -o args")[1].decode().split("\n"))

    def stop(self, container, grace):
        self.cri.StopContainer(pb.StopContainerRequest(container_id=container, timeout=grace), timeout=grace + 60)

    def wait_ready(self, container):
        path = self.cri.ContainerStatus(container_id=container).status.log_path
        self.wait(lambda: ("stdout", "F", b"ready") in parse_log(path))

    def wait(self, condition, seconds=180):
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                self.fail(f"did not happen within {seconds} s")
            time.sleep(0.1)


def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=5).read() == b"from the image\n"
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main(verbosity=2)
