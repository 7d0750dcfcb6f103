#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""What CRI callers may ask and what they get: state, filters, exit codes, and requests that are wrong.
nexusd with real CNI plugins and fake-vmm; no request here may end nexusd or leave anything behind."""
import pathlib
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
from cri import parse_log, pb, unique  # noqa: E402

Code = grpc.StatusCode
FOREVER = ["sleep", "infinity"]


class Requests(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.node = nodes.Node()
        cls.node.start()
        cls.cri = cls.node.cri

    @classmethod
    def tearDownClass(cls):
        try:
            rc = cls.node.stop()
            assert rc == 0, f"nexusd ended with {rc}"
        finally:
            cls.node.close()

    def setUp(self):
        self.before = self.node.fds()

    def tearDown(self):
        for pod in list(self.node.pods()):
            self.cri.remove_pod(pod)
        self.assertEqual(self.node.census(), self.node.empty)
        nodes.wait_for(lambda: self.node.fds() <= self.before, why="descriptors of nexusd as before")

    def pod(self, name=None, **more):
        name = name or unique("pod")
        return self.cri.run_pod(name, log_directory=str(self.node.logs / name), **more)

    def fails(self, code, call, *args, text="", **kw):
        with self.assertRaises(grpc.RpcError) as e:
            call(*args, **kw)
        self.assertEqual(e.exception.code(), code, e.exception.details())
        self.assertIn(text, e.exception.details())
        return e.exception.details()

    # ---- runtime

    def test_version_and_status(self):
        v = self.cri.Version(version="0.1.0")
        self.assertEqual((v.version, v.runtime_name, v.runtime_api_version), ("0.1.0", "nexus-vmm", "v1"))
        self.assertTrue(v.runtime_version)
        s = self.cri.Status(verbose=True)
        self.assertEqual({c.type: c.status for c in s.status.conditions}, {"RuntimeReady": True, "NetworkReady": True})
        self.assertEqual(sorted(h.name for h in s.runtime_handlers), ["", "nexus-vmm"])
        self.assertIn("stateDir", s.info["config"])
        self.assertEqual(self.cri.RuntimeConfig().linux.cgroup_driver, pb.CGROUPFS)
        self.cri.UpdateRuntimeConfig(runtime_config=pb.RuntimeConfig(
            network_config=pb.NetworkConfig(pod_cidr="10.0.0.0/24")))
        fs = self.cri.ImageFsInfo().image_filesystems[0]
        self.assertTrue(pathlib.Path(fs.fs_id.mountpoint).is_dir())
        self.assertGreater(fs.used_bytes.value, 0)

    def test_what_is_not_offered_is_unimplemented(self):
        for call in (self.cri.CheckpointContainer, self.cri.CheckpointPod, self.cri.RestorePod):
            self.fails(Code.UNIMPLEMENTED, call, text="checkpoints are not offered")

    def test_network_not_ready_without_configuration(self):
        saved = (self.node.root / "cni/10-test.conflist").read_text()
        try:
            self.node.set_cni(None)
            c = {c.type: c for c in self.cri.Status().status.conditions}
            self.assertFalse(c["NetworkReady"].status)
            self.assertIn(str(self.node.root / "cni"), c["NetworkReady"].message)
            self.assertTrue(c["RuntimeReady"].status)
            self.fails(Code.UNAVAILABLE, self.pod, text="no network for pods")
        finally:
            (self.node.root / "cni/10-test.conflist").write_text(saved)

    # ---- sandboxes

    def test_sandbox_is_told_as_it_was_asked_for(self):
        labels, notes = {"a": "1", "io.kubernetes.pod.uid": "u"}, {"n": "über\n\t=", "empty": ""}
        name = unique("pod")
        pod = self.pod(name, labels=labels, annotations=notes, attempt=3)
        s = self.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True)
        self.assertEqual((s.status.metadata.name, s.status.metadata.uid, s.status.metadata.namespace,
                          s.status.metadata.attempt), (name, f"uid-{name}", "default", 3))
        self.assertEqual((dict(s.status.labels), dict(s.status.annotations)), (labels, notes))
        self.assertEqual(s.status.runtime_handler, "nexus-vmm")
        self.assertGreater(s.status.created_at, 0)
        self.assertRegex(s.status.network.ip, r"^10\.201\.0\.\d+$")
        self.assertTrue(s.status.network.additional_ips[0].ip.startswith("fd00:201::"))
        self.assertIn("guestKernel", s.info["info"])
        listed = self.cri.ListPodSandbox(filter=pb.PodSandboxFilter(id=pod[0][:8])).items
        self.assertEqual([(p.id, dict(p.labels), dict(p.annotations)) for p in listed], [(pod[0], labels, notes)])

    def test_filters(self):
        a, b = self.pod(labels={"app": "a", "x": "1"}), self.pod(labels={"app": "b", "x": "1"}, handler="")

        def ids(**f):
            return {p.id for p in self.cri.ListPodSandbox(filter=pb.PodSandboxFilter(**f)).items}
        ready, not_ready = (pb.PodSandboxStateValue(state=s) for s in (pb.SANDBOX_READY, pb.SANDBOX_NOTREADY))
        self.assertEqual(ids(), {a[0], b[0]})
        self.assertEqual(ids(label_selector={"x": "1"}), {a[0], b[0]})
        self.assertEqual(ids(label_selector={"x": "1", "app": "b"}), {b[0]})
        self.assertEqual(ids(label_selector={"app": "c"}), set())
        self.assertEqual(ids(state=ready, id=a[0]), {a[0]})
        self.cri.StopPodSandbox(pod_sandbox_id=b[0])
        self.assertEqual(ids(state=not_ready), {b[0]})
        self.assertEqual(ids(state=not_ready, id=a[0]), set())
        c = self.cri.run(a, "c", nodes.IMAGE, FOREVER, labels={"l": "1"})

        def ctrs(**f):
            return {p.id for p in self.cri.ListContainers(filter=pb.ContainerFilter(**f)).containers}
        self.assertEqual(ctrs(pod_sandbox_id=a[0]), {c})
        self.assertEqual(ctrs(pod_sandbox_id=b[0]), set())
        self.assertEqual(ctrs(label_selector={"l": "1"}, state=pb.ContainerStateValue(state=pb.CONTAINER_RUNNING)), {c})
        self.assertEqual(ctrs(state=pb.ContainerStateValue(state=pb.CONTAINER_EXITED)), set())

    def test_same_name_again(self):
        pod = self.pod("twin")
        self.assertEqual(self.cri.RunPodSandbox(config=pod[1], runtime_handler="nexus-vmm").pod_sandbox_id, pod[0])
        self.fails(Code.ALREADY_EXISTS, self.pod, "twin", labels={"other": "one"}, text="another configuration")
        self.cri.StopPodSandbox(pod_sandbox_id=pod[0])
        self.fails(Code.ALREADY_EXISTS, self.cri.RunPodSandbox, config=pod[1], runtime_handler="nexus-vmm",
                   text="not ready any more")
        self.cri.RemovePodSandbox(pod_sandbox_id=pod[0])
        again = self.cri.RunPodSandbox(config=pod[1], runtime_handler="nexus-vmm").pod_sandbox_id
        self.assertNotEqual(again, pod[0])

    def test_sixteen_identical_requests_at_once_have_one_effect(self):
        config = self.cri.pod_config("sixteen")
        calls = [self.cri.RunPodSandbox(config=config, runtime_handler="", future=True) for _ in range(16)]
        self.assertEqual(len({c.result().pod_sandbox_id for c in calls}), 1)
        self.assertEqual(len(self.node.vmm_pids()), 1)

    def test_caller_that_leaves_finds_its_pod_later(self):
        config = self.cri.pod_config("left")
        self.node.guest_script("delay@hello=700")
        try:
            self.fails(Code.DEADLINE_EXCEEDED, self.cri.RunPodSandbox, config=config, timeout=0.3)
            self.fails(Code.ALREADY_EXISTS, self.cri.RunPodSandbox,
                       config=self.cri.pod_config("left", labels={"a": "b"}), text="another configuration")
            pod = self.cri.RunPodSandbox(config=config).pod_sandbox_id  # joins the one that is starting
        finally:
            self.node.guest_script("")
        self.assertEqual(list(self.node.pods()), [pod])

    def test_unknown_ids(self):
        nobody = "0" * 64
        self.cri.StopPodSandbox(pod_sandbox_id=nobody)
        self.cri.RemovePodSandbox(pod_sandbox_id=nobody)
        self.cri.StopContainer(container_id=nobody)
        self.cri.RemoveContainer(container_id=nobody)
        for call, field in ((self.cri.PodSandboxStatus, "pod_sandbox_id"), (self.cri.ContainerStatus, "container_id"),
                            (self.cri.StartContainer, "container_id"), (self.cri.ReopenContainerLog, "container_id")):
            self.fails(Code.NOT_FOUND, call, **{field: nobody})
        self.fails(Code.NOT_FOUND, self.cri.ExecSync, container_id=nobody, cmd=["true"])
        for bad in ("", "..", "a/b", "%2f", "A" * 64, "0" * 65, "x" * 5000, "\n"):
            for call, field in ((self.cri.PodSandboxStatus, "pod_sandbox_id"),
                                (self.cri.StopPodSandbox, "pod_sandbox_id"),
                                (self.cri.RemoveContainer, "container_id")):
                self.fails(Code.INVALID_ARGUMENT, call, **{field: bad})

    def test_ids_may_be_shortened(self):
        a = self.pod()
        self.assertEqual(self.cri.PodSandboxStatus(pod_sandbox_id=a[0][:12]).status.id, a[0])

    def test_wrong_sandbox_requests(self):
        def meta(**m):
            base = {"name": "n", "namespace": "d", "uid": "u"}
            return pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(**{**base, **m}))

        def with_(**fields):
            c = self.cri.pod_config("wrong")
            for key, value in fields.items():
                if isinstance(value, (str, int)):
                    setattr(c, key, value)
                elif isinstance(value, dict):
                    getattr(c, key).update(value)
                else:
                    getattr(c, key).MergeFrom(value)
            return c

        def options(**o):
            return with_(linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(
                namespace_options=pb.NamespaceOption(**o))))

        def resources(**r):
            return with_(linux=pb.LinuxPodSandboxConfig(resources=pb.LinuxContainerResources(**r)))

        def dns(**d):
            return with_(dns_config=pb.DNSConfig(**d))

        def port(**p):
            return with_(port_mappings=[pb.PortMapping(**p)])
        invalid = [
            ("no metadata", pb.PodSandboxConfig(), "metadata"), ("no name", meta(name=""), "sandbox name is missing"),
            ("slash", meta(name="a/b"), "'/'"), ("5,000", meta(name="x" * 5000), "longer than"),
            ("newline", meta(namespace="a\nb"), "control"), ("dots", meta(uid=".."), "dot name"),
            ("hostname", with_(hostname="a/b"), "hostname"), ("long hostname", with_(hostname="h" * 65), "hostname"),
            ("relative logs", with_(log_directory="var/log"), "log_directory"),
            ("logs with dots", with_(log_directory="/var/../etc"), "log_directory"),
            ("dns name", dns(servers=["ns.example"]), "DNS server"),
            ("dns option", dns(options=["a\nnameserver 6.6.6.6"]), "DNS options"),
            ("dns many", dns(servers=["1.1.1.1"] * 1000), "DNS servers"),
            ("port", port(container_port=70000), "container_port"), ("port 2", port(container_port=1, host_port=-1), "host_port"),
            ("port ip", port(container_port=1, host_port=1, host_ip="x"), "host_ip"),
            ("twice", with_(port_mappings=[pb.PortMapping(container_port=1, host_port=9)] * 2), "mapped twice"),
            ("sysctl", with_(linux=pb.LinuxPodSandboxConfig(sysctls={"kernel.x+y": "1"})), "sysctl"),
            ("sysctl of the kernel", with_(linux=pb.LinuxPodSandboxConfig(sysctls={"vm.swappiness": "1"})), "not namespaced"),
            ("target", options(pid=pb.TARGET, target_id="x"), "PID namespace of a container"),
            ("seccomp", with_(linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(
                seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="x")))), "seccomp"),
            ("sysctl value", with_(linux=pb.LinuxPodSandboxConfig(sysctls={"kernel.x": "1\n2"})), "sysctl"),
            ("cgroup", with_(linux=pb.LinuxPodSandboxConfig(cgroup_parent="/a/../b")), ""),
            ("memory", resources(memory_limit_in_bytes=-1), "memory_limit"), ("period", resources(cpu_quota=1), "cpu_period"),
            ("cpuset", resources(cpuset_cpus="all"), "cpuset"), ("mode", options(network=9), "unknown"),
            ("labels", with_(labels={"k": "v" * (600 << 10)}), "labels")]
        refused = [
            ("host network", options(network=pb.NODE), "hostNetwork"), ("host ipc", options(ipc=pb.NODE), "hostIPC"),
            ("network of a container", options(network=pb.CONTAINER), "the pod's"),
            ("user namespace", options(userns_options=pb.UserNamespace(mode=pb.POD)), "user namespaces"),
            ("selinux", with_(linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(
                selinux_options=pb.SELinuxOption(level="s0")))), "SELinux"),
            ("apparmor", with_(linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(
                apparmor=pb.SecurityProfile()))), "AppArmor"),
            ("huge pages", resources(hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=1)]), "huge pages"),
            ("unified", resources(unified={"memory.high": "1"}), "memory.high")]
        for code, rows in ((Code.INVALID_ARGUMENT, invalid), (Code.UNIMPLEMENTED, refused)):
            for what, config, text in rows:
                with self.subTest(what):
                    self.fails(code, self.cri.RunPodSandbox, config=config, text=text)
        self.fails(Code.INVALID_ARGUMENT, self.cri.RunPodSandbox, text="no sandbox configuration")
        self.fails(Code.INVALID_ARGUMENT, self.cri.RunPodSandbox, config=self.cri.pod_config("x"), runtime_handler="runc",
                   text='handler "runc"')

    # ---- containers

    def test_life_of_a_container(self):
        pod = self.pod()
        ctr = self.cri.create(pod, "c", nodes.IMAGE, ["sh", "-c", "echo out; err bad; exit 3"], labels={"l": "1"},
                              annotations={"a": "2"})
        s = self.cri.ContainerStatus(container_id=ctr, verbose=True)
        self.assertEqual((s.status.state, s.status.started_at, s.status.finished_at), (pb.CONTAINER_CREATED, 0, 0))
        self.assertIn("sandboxID", s.info["info"])
        self.assertFalse(s.status.HasField("user"))  # the guest resolves it as it starts
        self.cri.StartContainer(container_id=ctr)
        s = self.cri.wait_exited(ctr)
        user = s.user.linux  # what the fake guest says
        self.assertEqual((user.uid, user.gid, list(user.supplemental_groups)), (1000, 100, [100, 9, 10]))
        self.assertEqual((s.exit_code, s.reason, dict(s.labels), dict(s.annotations)), (3, "Error", {"l": "1"}, {"a": "2"}))
        self.assertTrue(s.created_at < s.started_at < s.finished_at)
        self.assertEqual(sorted(parse_log(s.log_path)), [("stderr", "F", b"bad"), ("stdout", "F", b"out")])
        image = self.cri.ImageStatus(image=pb.ImageSpec(image=nodes.IMAGE)).image
        self.assertEqual((s.image_ref, s.image_id), (image.id, image.id))
        self.fails(Code.FAILED_PRECONDITION, self.cri.StartContainer, container_id=ctr, text="it is exited")
        self.cri.StopContainer(container_id=ctr)
        self.cri.RemoveContainer(container_id=ctr)
        self.cri.RemoveContainer(container_id=ctr)
        self.assertEqual(self.node.containers(), {})
        self.assertTrue(pathlib.Path(s.log_path).exists())  # kubelet's to remove

    def test_exit_codes_and_reasons(self):
        pod = self.pod()
        rows = [(["true"], 0, "Completed"), (["exit", "42"], 42, "Error"), (["crash", "9"], 137, "Error"),
                (["oom"], 137, "OOMKilled")]
        for n, (cmd, code, reason) in enumerate(rows):
            with self.subTest(cmd):
                ctr = self.cri.run(pod, f"c{n}", nodes.IMAGE, cmd)
                s = self.cri.wait_exited(ctr)
                self.assertEqual((s.exit_code, s.reason), (code, reason))

    def test_missing_command_is_a_start_error(self):
        pod = self.pod()
        ctr = self.cri.create(pod, "c", nodes.IMAGE, ["/no/such/program"])
        with self.assertRaises(grpc.RpcError):
            self.cri.StartContainer(container_id=ctr)
        s = self.cri.ContainerStatus(container_id=ctr).status
        self.assertEqual((s.state, s.exit_code, s.reason), (pb.CONTAINER_EXITED, 128, "StartError"))
        self.assertTrue(s.message)
        self.cri.RemoveContainer(container_id=ctr)

    def test_stop_signal_grace_and_kill(self):
        pod = self.pod()
        term = self.cri.run(pod, "term", nodes.IMAGE, FOREVER)
        self.cri.StopContainer(pb.StopContainerRequest(container_id=term, timeout=60))
        self.assertEqual(self.cri.ContainerStatus(container_id=term).status.exit_code, 143)
        deaf = self.cri.run(pod, "deaf", nodes.IMAGE, ["sh", "-c", "ignore-term; sleep infinity"])
        long = self.cri.StopContainer(pb.StopContainerRequest(container_id=deaf, timeout=600), future=True)
        self.cri.StopContainer(pb.StopContainerRequest(container_id=deaf, timeout=0))  # the shorter one wins
        long.result(timeout=10)
        self.assertEqual(self.cri.ContainerStatus(container_id=deaf).status.exit_code, 137)
        own = self.cri.run(pod, "own", nodes.IMAGE, FOREVER, stop_signal=pb.SIGNAL_SIGQUIT)
        self.assertEqual(self.cri.ContainerStatus(container_id=own).status.stop_signal, pb.SIGNAL_SIGQUIT)
        self.cri.StopContainer(pb.StopContainerRequest(container_id=own, timeout=60))
        self.assertEqual(self.cri.ContainerStatus(container_id=own).status.exit_code, 131)

    def test_removal_at_any_time(self):
        pod = self.pod()
        created = self.cri.create(pod, "created", nodes.IMAGE, FOREVER)
        running = self.cri.run(pod, "running", nodes.IMAGE, FOREVER)
        for c in (created, running):
            self.cri.RemoveContainer(container_id=c)
        self.assertEqual(self.node.containers(), {})

    def test_same_container_name_again(self):
        pod = self.pod()
        a = self.cri.create(pod, "c", nodes.IMAGE, FOREVER)
        self.assertEqual(self.cri.create(pod, "c", nodes.IMAGE, FOREVER), a)
        self.fails(Code.ALREADY_EXISTS, self.cri.create, pod, "c", nodes.IMAGE, ["true"], text="another configuration")
        self.assertNotEqual(self.cri.create(pod, "c", nodes.IMAGE, FOREVER, attempt=1), a)

    def test_reopened_log(self):
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, ["sh", "-c", "echo one; sleep infinity"])
        log = pathlib.Path(self.cri.ContainerStatus(container_id=ctr).status.log_path)
        nodes.wait_for(log.read_bytes, why="a line in the log")
        log.rename(log.with_suffix(".old"))
        self.cri.ReopenContainerLog(container_id=ctr)
        self.assertEqual(log.read_bytes(), b"")
        self.cri.StopContainer(container_id=ctr)
        self.fails(Code.FAILED_PRECONDITION, self.cri.ReopenContainerLog, container_id=ctr, text="exited")

    def test_log_that_leads_elsewhere_is_refused(self):
        pod = self.pod()
        logs = pathlib.Path(pod[1].log_directory)
        logs.mkdir(exist_ok=True)
        target = self.node.root / "target"
        target.write_text("mine")
        (logs / "link.log").symlink_to(target)
        (logs / "dir").symlink_to(self.node.root)
        (logs / "hard.log").hardlink_to(target)
        (logs / "folder").mkdir()
        for path in ("link.log", "dir/x.log", "hard.log", "folder"):
            with self.subTest(path):
                self.fails(Code.PERMISSION_DENIED, self.cri.create, pod, unique("c"), nodes.IMAGE, FOREVER, log_path=path)
        import os
        os.mkfifo(logs / "fifo.log")
        self.fails(Code.PERMISSION_DENIED, self.cri.create, pod, "f", nodes.IMAGE, FOREVER, log_path="fifo.log")
        self.assertEqual(target.read_text(), "mine")
        self.assertEqual(self.node.containers(), {})

    def test_wrong_container_requests(self):
        pod = self.pod()

        def create(**fields):
            c = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=unique("w")), image=pb.ImageSpec(image=nodes.IMAGE),
                                   command=FOREVER)
            for key, value in fields.items():
                if isinstance(value, (str, int)):
                    setattr(c, key, value)
                elif isinstance(value, list):
                    del getattr(c, key)[:]
                    getattr(c, key).extend(value)
                else:
                    getattr(c, key).CopyFrom(value)
            return self.cri.CreateContainer(pod_sandbox_id=pod[0], config=c)

        def security(**s):
            return {"linux": pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**s))}

        def mount(**m):
            return {"mounts": [pb.Mount(**m)]}
        number, image = pb.Int64Value, pb.ImageSpec(image=nodes.IMAGE)
        big = self.node.root / "big"
        big.write_bytes(b"x" * (65 << 10))
        hosts = self.node.root / "hosts"
        hosts.write_text("127.0.0.1 localhost\n")
        def profile(name, text):
            (self.node.root / name).write_text(text)
            return str(self.node.root / name)

        def local(path):
            return security(seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=path))
        with open(profile("sparse", ""), "wb") as f:
            f.truncate(10 << 20)
        forbids = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["%s"], "action": "SCMP_ACT_ERRNO"}]}'
        invalid = [
            (local("x"), "seccomp profile's path"), (security(seccomp_profile_path="localhost/x"), "seccomp profile's path"),
            (local("/no/such/profile"), "No such file"), (local("/"), "no regular file"), (local("/dev/zero"), "no regular file"),
            (local(str(self.node.root / "sparse")), "larger than 1048576"), (local(profile("text", "hello")), "no valid JSON"),
            (local(profile("unknown", forbids % "no_such_call")), "no_such_call"),
            (security(supplemental_groups_policy=7), "supplemental_groups_policy"),
            (security(namespace_options=pb.NamespaceOption(pid=pb.TARGET)), "target_id"),
            (security(namespace_options=pb.NamespaceOption(pid=pb.TARGET, target_id="x")), "none of the sandbox"),
            ({"devices": [pb.Device(container_path="/dev/x", host_path="/dev/no-such")]}, "No such file"),
            ({"devices": [pb.Device(container_path="/dev/x", host_path="dev/null")]}, "host_path"),
            ({"devices": [pb.Device(container_path="/proc/x", host_path="/dev/null")]}, "no device can be"),
            ({"devices": [pb.Device(container_path="/dev/x", host_path="/dev/null", permissions="rx")]}, "permissions"),
            ({"devices": [pb.Device(container_path="/dev/x", host_path="/dev/null")] * 65}, "devices"),
            ({"metadata": pb.ContainerMetadata(name="")}, "container name"), ({"metadata": pb.ContainerMetadata(name="a/b")}, "'/'"),
            ({"metadata": pb.ContainerMetadata(name="n" * 5000)}, "longer"), ({"image": pb.ImageSpec()}, "names no image"),
            ({"log_path": "../x"}, ".."), ({"log_path": "/abs"}, "relative"), ({"log_path": "dir/"}, "relative"),
            ({"working_dir": "rel"}, "working_dir"), ({"envs": [pb.KeyValue(key="A=B", value=b"1")]}, "'='"),
            ({"envs": [pb.KeyValue(key="A", value=b"1\0")]}, "NUL"), ({"args": ["x"] * 20000}, "args"),
            ({"args": ["x" * (1 << 20)]}, "args"), (security(run_as_user=number(value=-1)), "run_as_user"),
            (security(run_as_user=number(value=1 << 31)), "run_as_user"),
            (security(run_as_group=number(value=1)), "run_as_group without"),
            (security(run_as_username="a:b"), "run_as_username"), (security(supplemental_groups=[-1]), "supplemental"),
            (security(capabilities=pb.Capability(add_capabilities=["CAP_WINGS"])), "CAP_WINGS"),
            (security(privileged=True), "privileged sandbox"), (security(masked_paths=["proc"]), "masked_paths"),
            (mount(container_path="x", host_path="/etc/hosts"), "container_path"),
            (mount(container_path="/proc/x", host_path="/etc/hosts"), "nothing can be mounted"),
            (mount(container_path="/", host_path="/etc/hosts"), "nothing can be mounted"),
            (mount(container_path="/a/../b", host_path="/etc/hosts"), "container_path"),
            (mount(container_path="/a", host_path="/no/such/file"), "No such file"),
            (mount(container_path="/a", host_path=str(hosts), propagation=7), "propagation"),
            (mount(container_path="/a", host_path=str(hosts), recursive_read_only=True), "recursive_read_only"),
            (mount(container_path="/a", host_path=str(hosts), image_sub_path="x"), "without an image"),
            ({"mounts": [pb.Mount(container_path="/a", host_path=str(hosts))] * 2}, "two mounts"),
            (mount(container_path="/a", image=image, readonly=False), "read-only"),
            (mount(container_path="/a", image=image, readonly=True, host_path="/etc"), "a host path and an image"),
            (mount(container_path="/a", image=image, readonly=True, propagation=1), "private"),
            (mount(container_path="/a", image=image, readonly=True, image_sub_path="a/../../b"), "no path below"),
            (mount(container_path="/a", image=image, readonly=True, image_sub_path="/a"), "no path below"),
            (mount(container_path="/a", image=pb.ImageSpec(), readonly=True), "image of a mount"), ({"stop_signal": 99}, "signal")]
        refused = [
            (mount(container_path="/a", host_path="/etc"), "directory of the host"),
            (mount(container_path="/a", host_path=str(big)), "larger"), (mount(container_path="/a", host_path="/dev/null"), "regular"),
            (mount(container_path="/a", host_path=str(hosts), propagation=pb.PROPAGATION_BIDIRECTIONAL), "bidirectional"),
            (mount(container_path="/a", host_path=str(hosts), mount_options=["noexec"]), "mount options"),
            (security(namespace_options=pb.NamespaceOption(ipc=pb.CONTAINER)), "the pod's"),
            ({"linux": pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(unified={"memory.oom.group": "0"}))},
             "memory.oom.group=0"),
            ({"devices": [pb.Device(container_path="/dev/x", host_path="/dev/ptmx")]}, "cannot be given to a VM"),
            ({"CDI_devices": [pb.CDIDevice(name="v/c=d")]}, "CDI"),
            (security(apparmor=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="p")), "AppArmor"),
            (local(profile("notify", '{"defaultAction": "SCMP_ACT_NOTIFY"}')), "listener")]
        for code, rows in ((Code.INVALID_ARGUMENT, invalid), (Code.UNIMPLEMENTED, refused)):
            for fields, text in rows:
                with self.subTest(text):
                    self.fails(code, create, text=text, **fields)
        self.fails(Code.NOT_FOUND, create, image=pb.ImageSpec(image="no.such/image:1"), text="pull it first")
        self.fails(Code.NOT_FOUND, create, text="ImageVolumeMountFailed: image no.such/image:1 for /a is not there",
                   **mount(container_path="/a", image=pb.ImageSpec(image="no.such/image:1"), readonly=True))
        self.fails(Code.NOT_FOUND, self.cri.CreateContainer, pod_sandbox_id="0" * 64, config=pb.ContainerConfig())
        self.assertEqual(self.node.containers(), {})
        ok = create(**mount(container_path="/etc/hosts", host_path=str(hosts), readonly=True)).container_id
        m = self.cri.ContainerStatus(container_id=ok).status.mounts
        self.assertEqual([(x.container_path, x.host_path, x.readonly) for x in m], [("/etc/hosts", str(hosts), True)])
        self.cri.StopPodSandbox(pod_sandbox_id=pod[0])
        self.fails(Code.FAILED_PRECONDITION, create, text="not ready")

    def test_an_image_is_mounted_and_told(self):
        """Twice, and beside the container's own, which is the same image; it survives nexusd and goes with the last."""
        pod = self.pod()
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image=nodes.IMAGE),
                                    command=FOREVER)
        spec = pb.ImageSpec(image=nodes.IMAGE, user_specified_image="as/asked:1")
        config.mounts.add(container_path="/all", image=spec, readonly=True)
        config.mounts.add(container_path="/part", image=spec, image_sub_path="etc", readonly=True)
        ctr = self.cri.CreateContainer(pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1]).container_id
        image = self.cri.ImageStatus(image=spec).image.id
        for _ in range(2):
            m = self.cri.ContainerStatus(container_id=ctr).status.mounts
            self.assertEqual([(x.container_path, x.host_path, x.readonly, x.image.image, x.image.user_specified_image,
                               x.image.image_ref, x.image_sub_path) for x in m],
                             [("/all", "", True, nodes.IMAGE, "as/asked:1", image, ""),
                              ("/part", "", True, nodes.IMAGE, "as/asked:1", image, "etc")])
            self.node.restart()
            type(self).cri = self.node.cri
        self.cri.RemoveContainer(container_id=ctr)
        self.assertEqual(self.node.containers(), {})

    # ---- exec

    def test_exec_is_exact(self):
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.assertEqual(self.cri.exec(ctr, "sh", "-c", "echo out; err bad; exit 7"), (7, b"out\n", b"bad\n"))
        self.assertEqual(self.cri.exec(ctr, "args", "a b", "", "'c'", "d\ne"), (0, b"a b\n\n'c'\nd\ne\n", b""))
        code, out, err = self.cri.exec(ctr, "/no/such/program")
        self.assertEqual((code, out), (127, b""))
        self.assertTrue(err)
        code, out, err = self.cri.exec(ctr, "noexec")
        self.assertEqual(code, 126)
        self.assertEqual(self.cri.exec(ctr, "crash", "9")[0], 137)
        self.fails(Code.INVALID_ARGUMENT, self.cri.ExecSync, container_id=ctr, text="empty")
        self.fails(Code.INVALID_ARGUMENT, self.cri.ExecSync, pb.ExecSyncRequest(container_id=ctr, cmd=["true"], timeout=-1))

    def test_exec_output_is_capped_and_the_answer_fits(self):
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        code, out, err = self.cri.exec(ctr, "bytes", str(20 << 20))
        self.assertEqual((code, len(out), err), (0, 15 << 20, b""))

    def test_exec_times_out(self):
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.fails(Code.DEADLINE_EXCEEDED, self.cri.ExecSync,
                   pb.ExecSyncRequest(container_id=ctr, cmd=["sleep", "infinity"], timeout=1), text="was killed")
        self.fails(Code.DEADLINE_EXCEEDED, self.cri.ExecSync,
                   pb.ExecSyncRequest(container_id=ctr, cmd=["sleep", "infinity"]), timeout=0.3)

    def test_exec_of_a_container_that_does_not_run(self):
        pod = self.pod()
        ctr = self.cri.create(pod, "c", nodes.IMAGE, FOREVER)
        self.fails(Code.FAILED_PRECONDITION, self.cri.ExecSync, container_id=ctr, cmd=["true"], text="not running")

    # ---- images

    def test_images(self):
        listed = self.cri.ListImages().images
        self.assertEqual([list(i.repo_tags) for i in listed], [[nodes.IMAGE]])
        image = listed[0]
        self.assertTrue(image.id.startswith("sha256:") and image.size and image.repo_digests)
        self.assertTrue(image.HasField("uid"))
        for name in (image.id, nodes.IMAGE, image.repo_digests[0]):
            self.assertEqual(self.cri.ImageStatus(image=pb.ImageSpec(image=name)).image.id, image.id)
        self.assertFalse(self.cri.ImageStatus(image=pb.ImageSpec(image="no.such/thing")).HasField("image"))
        self.cri.RemoveImage(image=pb.ImageSpec(image="no.such/thing"))
        self.fails(Code.INVALID_ARGUMENT, self.cri.PullImage, image=pb.ImageSpec(image="no.such/UPPER"))
        self.fails(Code.INVALID_ARGUMENT, self.cri.PullImage, image=pb.ImageSpec(image=""))
        self.fails(Code.INVALID_ARGUMENT, self.cri.ImageStatus)

    # ---- everybody else meanwhile

    def test_lists_answer_while_a_start_hangs(self):
        self.node.guest_script("no-hello")
        config = self.cri.pod_config("hanging")
        call = self.cri.RunPodSandbox(config=config, future=True)
        try:
            nodes.wait_for(self.node.vmm_pids, why="the VM of the pod that hangs")
            self.cri.Version(version="0.1.0", timeout=2)
            self.assertEqual(self.node.pods(), {})
        finally:
            self.node.guest_script("")
            call.cancel()
        for pid in self.node.vmm_pids():
            import os
            os.kill(pid, 9)
        nodes.wait_for(lambda: self.node.census() == self.node.empty, why="the start undone")

    def test_twelve_clients_at_once(self):
        errors = []

        def work(n):
            try:
                pod = self.pod(unique(f"par{n}"))
                ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
                assert self.cri.exec(ctr, "echo", str(n)) == (0, f"{n}\n".encode(), b"")
                self.cri.remove_pod(pod[0])
            except BaseException as e:  # told by the main thread
                errors.append(e)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(errors, [])


if __name__ == "__main__":
    unittest.main()
