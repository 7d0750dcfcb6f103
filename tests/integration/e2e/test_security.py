#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 150
"""The security context, looked at from inside real containers of real microVMs: who a process is, what it may do,
what it sees, and what is refused with which words. Two pods: one usual, one privileged."""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import grpc  # noqa: E402
from cri import pb, unique  # noqa: E402
from node import BUILD, Node  # noqa: E402
from ocimage import Layer, Registry, busybox_image  # noqa: E402

SLEEP = ["sleep", "100000"]
DEFAULT_CAPS = 0xA80425FB
NET_ADMIN, SYS_ADMIN, NET_BIND, CHOWN = 1 << 12, 1 << 21, 1 << 10, 1
Code = grpc.StatusCode
number = pb.Int64Value
Profile = pb.SecurityProfile


def security(**fields):
    return {"linux": pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(
        **{"namespace_options": pb.NamespaceOption(pid=pb.CONTAINER), **fields}))}


def deny(*names, **more):
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", **more}]})


class Security(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.told = False
        cls.registry = Registry().start()
        cls.addClassCleanup(cls.registry.stop)
        probe = (BUILD / "tests/integration/agent/security-probe").read_bytes()
        files = Layer("none").file("probe", probe, 0o755).file("suid-probe", probe, 0o4755)
        files.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
        files.file("etc/group", b"root:x:0:\nnogroup:x:65534:\nuser:x:1000:\nimagegroup:x:50000:user\n")
        files.file("data/file", b"x").dir("data/dir")
        cls.image = cls.registry.push("test/security", "1", busybox_image([files]))
        cls.node = Node(insecure=[cls.registry.address])
        cls.addClassCleanup(cls.node.close)
        cls.node.start()
        cls.cri = cls.node.cri
        cls.cri.PullImage(image=pb.ImageSpec(image=cls.image), timeout=300)
        cls.profiles = cls.node.root / "profiles"
        cls.profiles.mkdir()
        cls.pod = cls.run_pod("usual", linux=pb.LinuxPodSandboxConfig(
            sysctls={"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100", "net.ipv4.ip_unprivileged_port_start": "99"},
            security_context=pb.LinuxSandboxSecurityContext(seccomp=Profile(profile_type=Profile.RuntimeDefault))))
        cls.privileged = cls.run_pod("privileged", linux=pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(privileged=True,
                                                            namespace_options=pb.NamespaceOption(pid=pb.CONTAINER))))
        cls.plain = cls.cri.run(cls.pod, "plain", cls.image, SLEEP)

    @classmethod
    def run_pod(cls, name, **more):
        (cls.node.logs / name).mkdir()
        return cls.cri.run_pod(name, str(cls.node.logs / name), timeout=240, **more)

    def tearDown(self):
        if self._outcome.result.failures or self._outcome.result.errors:
            if not type(self).told:
                type(self).told = True
                print(f"---- nexusd and nexus-vmm said\n{self.node.log_tail(60)}\n----", file=sys.stderr, flush=True)

    def start(self, pod=None, command=SLEEP, **fields):
        """A container that runs until the end of the test."""
        ctr = self.cri.run(pod or self.pod, unique("c"), self.image, command, **security(**fields))
        self.addCleanup(self.cri.RemoveContainer, container_id=ctr)
        return ctr

    def sh(self, ctr, script):
        code, out, err = self.cri.exec(ctr, "sh", "-c", script, timeout=60)
        return code, out.decode(), err.decode()

    def says(self, ctr, script, want):
        code, out, err = self.sh(ctr, script)
        self.assertEqual((code, out.strip(), err), (0, want, ""), script)

    def fails(self, code, call, *args, text="", **kw):
        with self.assertRaises(grpc.RpcError) as c:
            call(*args, **kw)
        self.assertIn(text, c.exception.details())
        self.assertEqual(c.exception.code(), code, c.exception.details())

    def refused(self, code, text, pod=None, **config):
        self.fails(code, self.cri.create, pod or self.pod, unique("c"), self.image, SLEEP, text=text, **config)

    def status(self, ctr, field, pid="self"):
        """A line of /proc/PID/status: of an exec, or of the first process."""
        code, out, err = self.sh(ctr, f"grep ^{field}: /proc/{pid}/status")
        self.assertEqual((code, err), (0, ""))
        return out.split(":")[1].strip()

    def profile(self, text, name=None):
        path = self.profiles / (name or unique("p"))
        path.write_text(text)
        path.chmod(0o600)
        return Profile(profile_type=Profile.Localhost, localhost_ref=str(path))

    # ---- who

    def test_users_and_groups(self):
        rows = [({}, "0:0", "0"),
                ({"run_as_user": number(value=1001)}, "1001:0", "0"),
                ({"run_as_user": number(value=1001), "run_as_group": number(value=1002)}, "1001:1002", "1002"),
                ({"run_as_username": "nobody"}, "65534:65534", "65534"),
                ({"supplemental_groups": [1234, 5678]}, "0:0", "0 1234 5678"),
                ({"run_as_user": number(value=1000), "supplemental_groups": [1234]}, "1000:1000", "1000 1234 50000"),
                ({"run_as_user": number(value=1000), "supplemental_groups": [1234], "supplemental_groups_policy": pb.Strict},
                 "1000:1000", "1000 1234"),
                ({"run_as_username": "user", "supplemental_groups_policy": pb.Strict}, "1000:1000", "1000")]
        for fields, who, groups in rows:
            with self.subTest(str(fields)):
                ctr = self.start(**fields)
                self.says(ctr, "echo $(id -u):$(id -g)", who)
                self.says(ctr, "id -G", groups)
                user = self.cri.ContainerStatus(container_id=ctr).status.user.linux
                self.assertEqual((f"{user.uid}:{user.gid}", sorted(user.supplemental_groups)),
                                 (who, sorted(map(int, groups.split()))))
                self.assertEqual(self.status(ctr, "Groups", 1), self.status(ctr, "Groups"))
        self.assertTrue(self.cri.Status().features.supplemental_groups_policy)
        ctr = self.cri.create(self.pod, unique("c"), self.image, SLEEP, **security(run_as_username="stranger"))
        self.fails(Code.INVALID_ARGUMENT, self.cri.StartContainer, container_id=ctr, text="unable to find user stranger")

    # ---- what it may do

    def test_capabilities(self):
        cap = pb.Capability
        rows = [(None, DEFAULT_CAPS), (cap(add_capabilities=["NET_ADMIN"]), DEFAULT_CAPS | NET_ADMIN),
                (cap(add_capabilities=["cap_net_admin"], drop_capabilities=["CHOWN"]), (DEFAULT_CAPS | NET_ADMIN) & ~CHOWN),
                (cap(drop_capabilities=["ALL"]), 0), (cap(drop_capabilities=["ALL"], add_capabilities=["NET_ADMIN"]), NET_ADMIN)]
        for capability, want in rows:
            with self.subTest(str(capability)):
                ctr = self.start(**({"capabilities": capability} if capability else {}))
                for field in ("CapBnd", "CapPrm", "CapEff"):
                    self.assertEqual(int(self.status(ctr, field), 16), want, field)
                    self.assertEqual(int(self.status(ctr, field, 1), 16), want, field)
        everything = int(self.status(self.start(capabilities=cap(add_capabilities=["ALL"])), "CapEff"), 16)
        self.assertEqual(everything & (everything + 1), 0)
        self.assertGreaterEqual(everything, (1 << 40) - 1)
        ctr = self.start(run_as_user=number(value=1000), capabilities=cap(add_capabilities=["NET_ADMIN", "NET_BIND_SERVICE"],
                                                                          add_ambient_capabilities=["NET_BIND_SERVICE"]))
        for pid in ("self", 1):
            self.assertEqual([int(self.status(ctr, f, pid), 16) for f in ("CapAmb", "CapInh", "CapEff", "CapBnd")],
                             [NET_BIND] * 3 + [DEFAULT_CAPS | NET_ADMIN])
        for name in ("add_capabilities", "drop_capabilities", "add_ambient_capabilities"):
            self.refused(Code.INVALID_ARGUMENT, "WINGS", **security(capabilities=cap(**{name: ["CAP_WINGS"]})))

    def test_no_new_privileges(self):
        for flag, uid in ((True, 1000), (False, 0)):
            for more in ({}, {"seccomp": Profile()}):
                ctr = self.start(run_as_user=number(value=1000), no_new_privs=flag, **more)
                self.says(ctr, "/suid-probe euid", f"euid {uid}")
                self.assertEqual(self.status(ctr, "NoNewPrivs", 1), str(int(flag)))
                if flag:
                    self.assertEqual(int(self.status(ctr, "CapEff", 1), 16), 0)

    def test_seccomp_modes(self):
        rows = [({}, "0"), ({"seccomp": Profile(profile_type=Profile.Unconfined)}, "0"), ({"seccomp": Profile()}, "2"),
                ({"seccomp_profile_path": "runtime/default"}, "2"), ({"seccomp_profile_path": "unconfined"}, "0"),
                ({"seccomp": Profile(), "run_as_user": number(value=1000)}, "2"),
                ({"seccomp": Profile(), "no_new_privs": True, "capabilities": pb.Capability(drop_capabilities=["ALL"])}, "2")]
        for fields, want in rows:
            with self.subTest(str(fields)):
                ctr = self.start(**fields)
                self.assertEqual((self.status(ctr, "Seccomp"), self.status(ctr, "Seccomp", 1)), (want, want))
                bounding = int(self.status(ctr, "CapBnd", 1), 16)  # what loading it took is gone again
                self.assertEqual(bounding & SYS_ADMIN, 0)
                self.assertEqual(int(self.status(ctr, "CapPrm", 1), 16) & ~bounding, 0)

    def test_the_default_profile_goes_with_capabilities(self):
        ctr = self.start(seccomp=Profile(), capabilities=pb.Capability(add_capabilities=["SYS_ADMIN"]))
        self.says(ctr, "mount -t tmpfs x /mnt 2>/dev/null || mkdir -p /mnt && mount -t tmpfs x /mnt && echo mounted", "mounted")
        ctr = self.start(seccomp=Profile())
        code, _, err = self.sh(ctr, "unshare -U true")
        self.assertNotEqual(code, 0)
        self.assertIn("Operation not permitted", err)
        self.says(ctr, "ls / | grep -c data; sleep 0.1 & wait; date +%Y | grep -c 20", "1\n1")

    def test_seccomp_profiles_of_the_node(self):
        cap = pb.Capability(add_capabilities=["SYS_ADMIN"])
        ctr = self.start(seccomp=self.profile(deny("chmod", "fchmodat")))
        code, _, err = self.sh(ctr, "chmod 400 /data/file")
        self.assertNotEqual(code, 0)
        self.assertIn("Operation not permitted", err)
        ctr = self.start(seccomp=self.profile(deny("chmod", "fchmodat", errnoRet=38)))
        self.assertIn("Function not implemented", self.sh(ctr, "chmod 400 /data/file")[2])
        hostname = deny("sethostname")
        ctr = self.start(seccomp=Profile(profile_type=Profile.Unconfined), capabilities=cap)
        self.says(ctr, "hostname changed && hostname && hostname usual", "changed")
        ctr = self.start(seccomp=self.profile(hostname), capabilities=cap)
        self.assertNotEqual(self.sh(ctr, "hostname changed")[0], 0)
        ctr = self.start(pod=self.privileged, seccomp=self.profile(hostname), privileged=True)
        self.says(ctr, "hostname changed && hostname && hostname privileged", "changed")
        # the deprecated field, arguments, every call of a shell named
        path = self.profile(deny("socket", args=[{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}])).localhost_ref
        ctr = self.start(seccomp_profile_path=f"localhost/{path}")
        self.says(ctr, "/probe inet vsock", "inet 1\nvsock 97")

    def test_profiles_that_are_none(self):
        big = self.profiles / "big"
        with open(big, "wb") as f:
            f.truncate(10 << 20)
        (self.profiles / "directory").mkdir()

        def ref(path):
            return Profile(profile_type=Profile.Localhost, localhost_ref=str(path))
        rows = [(self.profile("hello"), "no valid JSON"), (self.profile("{}"), "defaultAction"),
                (self.profile(deny("no_such_call")), "no_such_call"), (ref(big), "larger than 1048576 bytes"),
                (ref(self.profiles / "missing"), "No such file"), (ref(self.profiles / "directory"), "no regular file"),
                (ref("relative"), "seccomp profile's path"), (ref(""), "seccomp profile's path"),
                (self.profile(deny("read").replace("ALLOW", "EAT")), "SCMP_ACT_EAT")]
        for profile, text in rows:
            with self.subTest(text):
                self.refused(Code.INVALID_ARGUMENT, text, **security(seccomp=profile))
        self.refused(Code.UNIMPLEMENTED, "listener", **security(seccomp=self.profile(deny("read").replace("ERRNO", "NOTIFY"))))
        self.refused(Code.INVALID_ARGUMENT, "unknown", **security(seccomp_profile_path="other/x"))
        # one that lets nothing be started says so, and is the container's end only
        nothing = json.dumps({"defaultAction": "SCMP_ACT_ERRNO"})
        ctr = self.cri.create(self.pod, unique("c"), self.image, SLEEP, **security(seccomp=self.profile(nothing)))
        with self.assertRaises(grpc.RpcError):
            self.cri.StartContainer(container_id=ctr)
        self.assertEqual(self.cri.ContainerStatus(container_id=ctr).status.reason, "StartError")
        self.says(self.plain, "echo still there", "still there")

    def test_vsock_is_the_agents(self):
        for ctr in (self.plain, self.start(pod=self.privileged, privileged=True)):
            self.says(ctr, "/probe vsock ring-vsock inet ring-inet", "vsock 97\nring-vsock 97\ninet 0\nring-inet 0")
        ctr = self.start(seccomp=Profile())
        self.says(ctr, "/probe vsock ring-vsock inet", "vsock 1\nring-vsock -1\ninet 0")

    # ---- what it sees

    def test_file_systems(self):
        ctr = self.start(readonly_rootfs=True)
        self.assertIn("Read-only file system", self.sh(ctr, "touch /x")[2])
        self.says(ctr, "echo x > /dev/shm/x && cat /dev/shm/x && rm /dev/shm/x", "x")
        self.says(self.plain, "touch /x && echo written", "written")
        self.says(self.plain, "/probe umask", "umask 18")
        hidden = {"masked_paths": ["/bin/ls", "/data/dir", "/proc/kcore", "/no/such"],
                  "readonly_paths": ["/proc/sys", "/data/file", "/no/such"]}
        ctr = self.start(**hidden)
        self.says(ctr, "touch /data/dir/x 2>/dev/null; busybox ls /data/dir | wc -l", "0")
        self.assertIn("Permission denied", self.sh(ctr, "/bin/ls")[2])
        self.assertIn("Read-only file system", self.sh(ctr, "echo 1 > /data/file")[2])
        self.assertIn("Read-only file system", self.sh(ctr, "echo 1 > /proc/sys/net/ipv4/ip_forward")[2])
        ctr = self.start(pod=self.privileged, privileged=True, **hidden)  # hides and protects nothing
        self.says(ctr, "/bin/ls /data && echo 1 > /data/file && echo 1 > /proc/sys/net/ipv4/ip_forward && echo ok", "dir\nfile\nok")
        for name in ("masked_paths", "readonly_paths"):
            self.refused(Code.INVALID_ARGUMENT, name, **security(**{name: ["relative"]}))

    def test_bridges(self):
        """The kernel's driver comes with the first container that may make one."""
        admin = pb.Capability(add_capabilities=["NET_ADMIN"])
        self.assertNotEqual(self.sh(self.plain, "brctl addbr br7")[0], 0)
        for ctr in (self.start(capabilities=admin), self.start(pod=self.privileged, privileged=True)):
            self.says(ctr, "brctl addbr br7 && cut -c1-4 /sys/class/net/br7/bridge/bridge_id; brctl delbr br7", "8000")

    def test_privileged(self):
        ctr = self.start(pod=self.privileged, privileged=True, seccomp=Profile())
        self.assertEqual(self.status(ctr, "Seccomp", 1), "0")
        caps = int(self.status(ctr, "CapEff", 1), 16)
        self.assertGreaterEqual(caps, (1 << 40) - 1)
        self.says(ctr, "test -b /dev/pmem0 && dd if=/dev/pmem0 bs=4096 count=1 2>/dev/null | wc -c", "4096")
        self.says(ctr, "mkdir /sys/fs/cgroup/sub && rmdir /sys/fs/cgroup/sub && echo ok", "ok")
        self.says(ctr, "mkdir -p /m && mount -t tmpfs x /m && ip link set lo up && echo ok", "ok")
        code, _, err = self.sh(self.plain, "mknod /pmem b $(cat /sys/block/pmem0/dev | tr : ' ') && cat /pmem")
        self.assertIn("Permission denied", err)
        self.assertNotEqual(code, 0)
        self.assertNotEqual(self.sh(self.plain, "mkdir /sys/fs/cgroup/sub")[0], 0)
        self.refused(Code.INVALID_ARGUMENT, "privileged sandbox", **security(privileged=True))

    def test_devices(self):
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=unique("c")), image=pb.ImageSpec(image=self.image),
                                    command=SLEEP, linux=security()["linux"])

        def create(host, path, permissions="rwm"):
            c = pb.ContainerConfig()
            c.CopyFrom(config)
            c.metadata.name = unique("c")
            c.devices.add(host_path=host, container_path=path, permissions=permissions)
            return self.cri.CreateContainer(pod_sandbox_id=self.pod[0], config=c, sandbox_config=self.pod[1]).container_id
        ctr = create("/dev/zero", "/dev/my/zero")
        self.cri.StartContainer(container_id=ctr)
        self.says(ctr, "head -c 5 /dev/my/zero | wc -c", "5")
        self.fails(Code.INVALID_ARGUMENT, create, "/dev/no-such-device", "/dev/x", text="/dev/no-such-device: No such file")
        self.fails(Code.UNIMPLEMENTED, create, "/dev/kvm", "/dev/kvm", text="cannot be given to a VM")
        self.fails(Code.INVALID_ARGUMENT, create, "/dev/null", "/dev/x", "rwx", text="permissions")
        self.fails(Code.INVALID_ARGUMENT, create, "dev/null", "/dev/x", text="host_path")
        self.fails(Code.INVALID_ARGUMENT, create, "/dev/null", "/", text="no device can be at")

    # ---- namespaces, settings of the kernel, limits

    def test_pid_namespaces(self):
        def options(**o):
            return {"namespace_options": pb.NamespaceOption(**o)}
        own = self.start()
        self.says(own, "cat /proc/1/comm", "sleep")
        pod = self.start(**options(pid=pb.POD))
        self.says(pod, "cat /proc/1/comm", "init")  # of the guest: the agent
        node = self.start(command=["sh", "-c", "exec sleep 54321"], **options(pid=pb.NODE))
        self.says(pod, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 54321'", "1")
        debug = self.start(command=["sh", "-c", "exec sleep 777"], **options(pid=pb.TARGET, target_id=own))
        self.says(debug, "cat /proc/1/cmdline | tr '\\0' ' '", " ".join(SLEEP))
        self.says(own, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 777'", "1")
        self.assertNotIn("54321", self.sh(debug, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")[1])
        self.says(node, "cat /proc/1/comm", "init")
        self.cri.StopContainer(pb.StopContainerRequest(container_id=own, timeout=0))  # the namespace ends with its first process
        s = self.cri.wait_exited(debug, 30)
        self.assertEqual(s.exit_code, 137)
        self.refused(Code.FAILED_PRECONDITION, "not running", **security(**options(pid=pb.TARGET, target_id=own)))
        self.refused(Code.INVALID_ARGUMENT, "none of the sandbox", **security(**options(pid=pb.TARGET, target_id="0" * 64)))
        self.refused(Code.INVALID_ARGUMENT, "target_id", **security(**options(pid=pb.TARGET)))
        self.refused(Code.UNIMPLEMENTED, "hostNetwork", **security(**options(network=pb.NODE)))
        self.refused(Code.UNIMPLEMENTED, "hostIPC", **security(**options(ipc=pb.NODE)))
        self.refused(Code.UNIMPLEMENTED, "user namespaces", **security(**options(userns_options=pb.UserNamespace(mode=pb.POD))))

    def test_sysctls(self):
        self.says(self.plain, "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max "
                  "/proc/sys/net/ipv4/ip_unprivileged_port_start", "1\n100\n99")
        for name, value, text in (("vm.overcommit_memory", "1", "not namespaced"), ("kernel.panic", "0", "not namespaced"),
                                  ("kernel/../vm/x", "1", "sysctl"), ("kernel.shmmax", "1\n2", "sysctl value")):
            self.fails(Code.INVALID_ARGUMENT, self.cri.run_pod, unique("p"), text=text,
                       linux=pb.LinuxPodSandboxConfig(sysctls={name: value}))

    def test_limits(self):
        ctr = self.cri.run(self.pod, unique("c"), self.image, SLEEP, linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(oom_score_adj=567),
            security_context=security()["linux"].security_context))
        for pid in ("self", 1):
            self.says(ctr, f"cat /proc/{pid}/oom_score_adj", "567")
        self.says(ctr, "ulimit -n; ulimit -c; ulimit -Hn", "1024\n0\n524288")

    def test_profiles_of_the_nodes_kernel(self):
        for fields in ({"apparmor": Profile()}, {"apparmor_profile": "runtime/default"},
                       {"apparmor": Profile(profile_type=Profile.Localhost, localhost_ref="p")}):
            self.refused(Code.UNIMPLEMENTED, "AppArmor is not supported", **security(**fields))
        self.start(apparmor=Profile(profile_type=Profile.Unconfined))
        self.refused(Code.UNIMPLEMENTED, "SELinux", **security(selinux_options=pb.SELinuxOption(level="s0")))
        config = json.loads(self.cri.Status(verbose=True).info["config"])
        self.assertIn("not supported", config["apparmor"])
        self.assertIn("not supported", config["selinux"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
