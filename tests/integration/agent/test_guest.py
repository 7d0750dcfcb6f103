# SPDX-License-Identifier: Apache-2.0
"""nexus-agent where it belongs: PID 1 of a guest under nexus-vmm, with the real devices. What depends on
the kernel, on vsock, on hot-added images and on the scratch disk; the rest is test_agent.py's."""
# needs: lab
# cost: 60
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
from vmmcontrol import ROOT, STDIN, Vm, nexus  # noqa: E402

BUSYBOX = next(p for p in (ROOT / "build/kernels/busybox-static", pathlib.Path("/usr/bin/busybox"),
                           pathlib.Path("/bin/busybox")) if p.exists())
APPLETS = ("sh cat echo sleep id ls env mount head dd seq kill ps true wc grep ip ping md5sum cut tail df nc stat touch "
           "mknod date tr nproc rm mkdir sync").split()
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def make_image(path, marker):
    """An uncompressed EROFS of a busybox tree, as nexus-pull lays one out: files map directly."""
    tree = tempfile.mkdtemp(prefix="nexus-tree-")
    for d in ("bin", "etc", "data"):
        os.makedirs(f"{tree}/{d}")
    shutil.copy(BUSYBOX, f"{tree}/bin/busybox")
    os.chmod(f"{tree}/bin/busybox", 0o755)
    for a in APPLETS:
        os.symlink("busybox", f"{tree}/bin/{a}")
    pathlib.Path(f"{tree}/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    pathlib.Path(f"{tree}/etc/group").write_text("root:x:0:\napp:x:1000:\n")
    pathlib.Path(f"{tree}/data/marker").write_text(marker + "\n")
    subprocess.run(["mkfs.erofs", "-E", "noinline_data", path, tree], check=True, stdout=subprocess.DEVNULL)
    size = os.path.getsize(path)
    os.truncate(path, (size + 4095) & ~4095)
    subprocess.run(["rm", "-rf", tree], check=True)


def make_tap(name, address):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    for args in (["addr", "add", address, "dev", name], ["link", "set", name, "up"]):
        subprocess.run(["ip", *args], check=True)
    return fd


def spec(cid, script, **kw):
    p = nexus.ProcessSpec(args=["sh", "-c", script], **kw.pop("process", {}))
    return nexus.ContainerSpec(id=cid, name=cid, process=p, **kw)


class Guest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.mkdtemp(prefix="nexus-guest-")
        cls.image = f"{cls.tmp}/image.erofs"
        make_image(cls.image, "first")
        cls.other = f"{cls.tmp}/other.erofs"
        make_image(cls.other, "second")
        scratch = f"{cls.tmp}/scratch"
        with open(scratch, "wb") as f:
            f.truncate(256 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", scratch], check=True)
        tap = make_tap("tap-guest", "10.88.0.1/24")
        cls.vm = Vm(scratch=scratch, net_fd=tap, mac="02:00:00:00:88:02")
        os.close(tap)
        try:
            cls.vm.wait_ready()
            cls.vm.call(configure=nexus.SandboxConfig(
                hostname="guest-pod", resolv_conf=b"nameserver 10.88.0.1\n",
                interfaces=[nexus.Interface(name="eth0", mac="02:00:00:00:88:02", mtu=1450,
                                            addresses=["10.88.0.2/24", "fd88::2/64"],
                                            routes=[nexus.Route(destination="0.0.0.0/0", gateway="10.88.0.1")])],
                sysctls=[nexus.Sysctl(name="net.core.somaxconn", value="321")]))
            cls.vm.add_region("image", cls.image)
            cls.log = f"{cls.tmp}/main.log"
            cls.vm.create(spec("main", "echo up; while :; do sleep 1; done"), "image", cls.log)
            cls.vm.start("main")
        except BaseException:
            sys.stderr.write(cls.vm.console_text())
            cls.vm.kill()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.vm.kill()
        subprocess.run(["rm", "-rf", cls.tmp], check=True)

    def run_container(self, cid, script, **kw):
        log = f"{self.tmp}/{cid}.log"
        self.vm.create(spec(cid, script, **kw), "image", log)
        self.vm.start(cid)
        state = self.vm.wait_exit(cid)
        self.vm.remove(cid)
        lines = pathlib.Path(log).read_text(errors="replace").splitlines()
        return state, "\n".join(" ".join(line.split(" ")[3:]) for line in lines)

    def test_hello_tells_the_kernel_and_the_times(self):
        hello = self.vm.state.guest
        self.assertRegex(hello.kernel_release, r"^\d+\.\d+\.")
        self.assertGreaterEqual(hello.ready_ns, hello.boot_ns)

    def test_the_image_is_mapped_not_copied(self):
        self.assertNotIn("without DAX", self.vm.console_text())
        o = self.vm.sh("main", "cat /data/marker; md5sum /bin/busybox")
        want = subprocess.run(["md5sum", BUSYBOX], capture_output=True, text=True, check=True).stdout.split()[0]
        self.assertEqual(o.out.decode().split()[:2], ["first", want])

    def test_the_writable_layer_is_on_the_scratch_disk(self):
        o = self.vm.sh("main", "dd if=/dev/zero of=/data/big bs=1M count=40 2>/dev/null && ls -l /data/big | tr -s ' ' | "
                               "cut -d' ' -f5; rm /data/big; grep -c vda /proc/partitions")
        self.assertEqual(o.out.split()[0], b"41943040", o)

    def test_exec_codes_and_streams(self):
        o = self.vm.sh("main", "echo out; echo err >&2; exit 17")
        self.assertEqual((o.out, o.err, o.exit.code, o.exit.signal), (b"out\n", b"err\n", 17, 0))
        o = self.vm.exec("main", ["no-such-program"])
        self.assertEqual(o.error.exit_code, 127)
        self.assertIn('exec: "no-such-program": executable file not found in $PATH', o.error.reply.message)
        o = self.vm.sh("main", "kill -9 $$")
        self.assertEqual((o.exit.code, o.exit.signal, o.exit.oom_killed), (137, 9, False))

    def test_megabytes_cross_in_both_directions(self):
        s = self.vm.stream("main", ["md5sum"], open_stdin=True)
        block = bytes(range(256)) * 16
        for _ in range(1024):
            s.frames.send(STDIN, block)
        s.frames.send(STDIN)
        s.run()
        import hashlib
        self.assertEqual(s.out.split()[0].decode(), hashlib.md5(block * 1024).hexdigest())
        o = self.vm.sh("main", "seq 1 300000")
        self.assertEqual(o.out, b"".join(b"%d\n" % i for i in range(1, 300001)))

    def test_a_lost_client_takes_its_exec_along(self):
        s = self.vm.stream("main", ["sh", "-c", "(sleep 4321 &); echo up; sleep 4322"]).until(b"up")
        s.frames.close()
        for _ in range(50):
            o = self.vm.sh("main", "ps | grep -c '[s]leep 432'")
            if o.out == b"0\n":
                return
            time.sleep(0.1)
        self.fail(o.out)

    def test_memory_over_the_limit_is_told(self):
        state, _ = self.run_container("oom", "x=a; while :; do x=$x$x; done",
                                      resources=nexus.Resources(memory_limit_bytes=24 << 20))
        self.assertEqual((state.exit.code, state.exit.oom_killed), (137, True))
        self.assertEqual(self.vm.wait_event("oom").container_id, "oom")

    def test_a_devices_node_made_by_root_opens_nothing(self):
        o = self.vm.sh("main", "mknod /dev/disk b 254 0; head -c1 /dev/disk; mknod /dev/mem2 c 1 1; head -c1 /dev/mem2; "
                               "mknod /dev/pm b 259 0; head -c1 /dev/pm")
        self.assertEqual(o.err.count(b"Operation not permitted"), 3, o.err)

    def test_network_reaches_the_host_and_back(self):
        o = self.vm.sh("main", "ip addr show eth0; ip route; cat /proc/sys/net/core/somaxconn")
        text = o.out.decode()
        for want in ("mtu 1450", "10.88.0.2/24", "fd88::2/64", "default via 10.88.0.1 dev eth0", "321"):
            self.assertIn(want, text)
        self.assertNotIn("tentative", text)
        o = self.vm.sh("main", "ping -c 1 -W 20 10.88.0.1")
        self.assertEqual(o.exit.code, 0, o.out)
        r = subprocess.run(["ping", "-c", "1", "-W", "20", "10.88.0.2"], capture_output=True, check=False)
        self.assertEqual(r.returncode, 0, r.stdout)

    def test_regions_come_and_go(self):
        """A second image is added, used, released; and all of it again."""
        for n in range(2):
            self.vm.add_region("other", self.other)
            self.vm.create(spec(f"guest-of-other-{n}", "cat /data/marker; [ $(wc -c < /data/marker) = 7 ]"), "other",
                           f"{self.tmp}/other.log")
            self.vm.start(f"guest-of-other-{n}")
            self.assertEqual(self.vm.wait_exit(f"guest-of-other-{n}").exit.code, 0, self.vm.console_text())
            r = self.vm.try_call(remove_region=nexus.RemoveRegion(key="other"))
            self.assertEqual(r.error_class, "precondition", "it is in use")
            self.vm.remove(f"guest-of-other-{n}")
            self.vm.call(remove_region=nexus.RemoveRegion(key="other"))
        self.assertIn("second", pathlib.Path(f"{self.tmp}/other.log").read_text())
        o = self.vm.sh("main", "cat /data/marker")
        self.assertEqual(o.out, b"first\n", "the other region is untouched")

    def test_the_agent_is_small(self):
        """Free memory of the guest is the pod's: what the agent keeps is told by its own statm."""
        state, out = self.run_container("look", "cat /proc/1/statm; cat /proc/1/comm", share_pod_pids=True)
        self.assertEqual(state.exit.code, 0)
        resident = int(out.split()[1]) * 4096
        self.assertLess(resident, 2 << 20, out)


class Shutdown(unittest.TestCase):
    def test_power_off_is_orderly_and_the_container_has_its_grace(self):
        tmp = tempfile.mkdtemp(prefix="nexus-guest-")
        image = f"{tmp}/image.erofs"
        make_image(image, "x")
        vm = Vm()
        try:
            vm.wait_ready()
            vm.call(configure=nexus.SandboxConfig(hostname="p"))
            vm.add_region("image", image)
            vm.create(spec("one", "trap 'echo got term; exit 3' TERM; echo up; while :; do sleep 0.1; done"), "image",
                      f"{tmp}/log")
            vm.start("one")
            while "up" not in pathlib.Path(f"{tmp}/log").read_text():
                time.sleep(0.05)
            vm.call(shutdown=nexus.Shutdown(grace_ms=20000))
            self.assertEqual(vm.proc.wait(timeout=120), 0)
            self.assertIn("got term", pathlib.Path(f"{tmp}/log").read_text(), vm.console_text())
            self.assertIn("power off", vm.console_text())
        finally:
            vm.kill()
            subprocess.run(["rm", "-rf", tmp], check=False)


if __name__ == "__main__":
    unittest.main()
