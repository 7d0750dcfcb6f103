#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 55
"""The termination log through the whole chain, as kubelet has it: an empty host file is mounted writable into
the container, and after its end, whatever that was, kubelet reads what the container wrote from the host."""
import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import grpc  # noqa: E402
from cri import pb, unique  # noqa: E402
from podcase import PodCase  # noqa: E402

LOG = "/dev/termination-log"
PATH_ANNOTATION = "io.kubernetes.container.terminationMessagePath"
PRIVILEGED = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(privileged=True))


class Termination(PodCase):
    @classmethod
    def setUpClass(cls):
        cls.start_all()
        cls.pod = cls.new_pod("main")

    def host_file(self, content=b""):
        """As kubelet makes it for each container: containers/<name>/<8 hex>, 0666, empty."""
        path = self.kubelet / "pods/uid/containers/c" / unique("0")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o666)
        return path

    def start(self, script, pod=None, host=None, path=LOG, **more):
        """A container that runs the script, and the host's file."""
        host = host or self.host_file()
        more.setdefault("annotations", {PATH_ANNOTATION: path})
        cid = self.cri.run(pod or self.pod, unique("c"), self.image, ["sh", "-c", script],
                           mounts=[(host, path, False)], **more)
        return cid, host

    def kill(self, cid):
        self.cri.StopContainer(pb.StopContainerRequest(container_id=cid, timeout=0), timeout=60)

    def ended(self, script, **more):
        """The status of a container that ran to its end, and what kubelet finds then."""
        cid, host = self.start(script, **more)
        status = self.cri.wait_exited(cid)
        self.assertEqual([m.host_path for m in status.mounts if m.container_path == more.get("path", LOG)], [str(host)])
        content = host.read_bytes()
        self.cri.RemoveContainer(container_id=cid)
        self.assertEqual(host.read_bytes(), content)
        return status, content

    def test_exit(self):
        status, content = self.ended(f"echo it is over > {LOG}; exit 3")
        self.assertEqual((status.exit_code, content), (3, b"it is over\n"))

    def test_nothing_was_said(self):
        self.assertEqual(self.ended("true")[1], b"")

    def test_at_a_place_of_its_own_and_not_by_root(self):
        user = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value(value=1000)))
        self.assertEqual(self.ended("echo mine > /var/end", path="/var/end", linux=user)[1], b"mine\n")

    def test_without_kubelets_annotation(self):
        self.assertEqual(self.ended(f"echo plain > {LOG}", annotations={})[1], b"plain\n")

    def test_what_is_longer_than_kubelet_reads_comes_with_its_end(self):
        _, content = self.ended(f"i=100000; while [ $i -lt 104000 ]; do echo $i; i=$((i+1)); done > {LOG}")
        self.assertEqual(content, "".join(f"{i}\n" for i in range(100000, 104000)).encode()[-4096:])

    def test_signal(self):
        cid, host = self.start(f"echo dying > {LOG}; while :; do sleep 100; done")
        self.until(lambda: host.read_bytes() == b"dying\n")  # while it runs
        self.kill(cid)
        status = self.cri.wait_exited(cid)
        self.assertEqual((status.exit_code, host.read_bytes()), (137, b"dying\n"))
        self.cri.RemoveContainer(container_id=cid)

    def test_oom_kill(self):
        linux = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=15 << 20,
                                                                             memory_swap_limit_in_bytes=15 << 20))
        status, content = self.ended(f"echo too much > {LOG}; exec dd if=/dev/zero of=/dev/null bs=40M count=1", linux=linux)
        self.assertEqual((status.reason, content), ("OOMKilled", b"too much\n"))

    def test_two_containers_of_a_pod(self):
        one, first = self.start(f"echo one > {LOG}; sleep 1000")
        two, second = self.start(f"echo two > {LOG}; sleep 1000")
        self.until(lambda: (first.read_bytes(), second.read_bytes()) == (b"one\n", b"two\n"))
        self.cri.exec(two, "sh", "-c", f"echo more >> {LOG}")
        self.until(lambda: second.read_bytes() == b"two\nmore\n")
        for cid in (one, two):
            self.kill(cid)
            self.cri.RemoveContainer(container_id=cid)
        self.assertEqual((first.read_bytes(), second.read_bytes()), (b"one\n", b"two\nmore\n"))

    def test_other_files_do_not_come_back(self):
        hosts, log = self.host_file(b"127.0.0.1 localhost\n"), self.host_file(b"as it was")
        cid = self.cri.run(self.pod, unique("c"), self.image,
                           ["sh", "-c", f"echo 1.2.3.4 me >> /etc/hosts && cat /etc/hosts; echo x > {LOG}"],
                           mounts=[(hosts, "/etc/hosts", False), (log, LOG, True)])
        self.assertEqual(self.cri.wait_exited(cid).exit_code, 1)  # of the one that is mounted read-only
        self.assertEqual((hosts.read_bytes(), log.read_bytes()), (b"127.0.0.1 localhost\n", b"as it was"))
        self.cri.RemoveContainer(container_id=cid)

    def test_nexusd_is_dead_when_it_ends(self):
        cid, host = self.start(f"while [ ! -e /tmp/go ]; do sleep 0.1; done; sleep 2; echo alone > {LOG}; exit 5")
        self.cri.exec(cid, "touch", "/tmp/go")
        self.node.kill9()
        self.until(lambda: host.read_bytes() == b"alone\n")
        self.node.start()
        status = self.cri.wait_exited(cid)
        self.assertEqual((status.exit_code, host.read_bytes()), (5, b"alone\n"))
        self.cri.RemoveContainer(container_id=cid)

    def test_a_file_that_is_not_the_containers_own_is_refused(self):
        other, link, hard = self.host_file(b"precious"), self.host_file(), self.host_file()
        link.unlink()
        link.symlink_to(other)
        hard.unlink()
        os.link(other, hard)
        for host in (link, hard):
            with self.subTest(host), self.assertRaises(grpc.RpcError) as e:
                self.start(f"echo x > {LOG}", host=host)
            self.assertIn("no regular file of its own", e.exception.details())
        self.assertEqual(other.read_bytes(), b"precious")

    def vm_dies(self, name, how, **more):
        """The content after the VM's death."""
        pod = self.new_pod(name, **more)
        cid, host = self.start(f"echo last words of {name} > {LOG}; sleep 1000", pod,
                               linux=PRIVILEGED if more else pb.LinuxContainerConfig())
        how(pod, cid, host)
        self.until(lambda: self.cri.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == pb.SANDBOX_NOTREADY)
        self.assertEqual(self.cri.ContainerStatus(container_id=cid).status.state, pb.CONTAINER_EXITED)
        content = host.read_bytes()
        self.cri.remove_pod(pod[0])
        return content

    def test_z_the_guest_panics(self):
        def panic(_, cid, host):
            """Its exit is never told: what the host has by then is all there will be."""
            self.until(lambda: host.read_bytes() == b"last words of panics\n")  # else they may come later
            self.cri.exec(cid, "sh", "-c", f"echo the very last > {LOG}")
            self.until(lambda: host.read_bytes() == b"the very last\n")
            self.cri.ExecSync(container_id=cid, cmd=["sh", "-c", "echo c > /proc/sysrq-trigger"], future=True).exception()

        content = self.vm_dies("panics", panic, linux=pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(privileged=True)))
        self.assertEqual(content, b"the very last\n")

    def test_z_nexus_vmm_is_killed(self):
        def end(pod, _, host):
            self.until(lambda: host.read_bytes())
            mine = [p for p in self.node.vmm_pids() if pod[0].encode() in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
            os.kill(mine[0], signal.SIGKILL)

        self.assertEqual(self.vm_dies("killed", end), b"last words of killed\n")


if __name__ == "__main__":
    unittest.main()
