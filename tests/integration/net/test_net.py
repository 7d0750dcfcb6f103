# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 100
"""The network of a pod with Debian's real plugins, the kernel's real bridge, TAP, tc and NAT. Instead
of a VM, `net-driver guest` copies frames between the pod's TAP and a namespace that plays the guest;
another namespace plays a machine outside. Everything happens in a network and a mount namespace of
this process's own, and each test ends with a census."""
import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
DRIVER = ROOT / "build/host/tests/fakes/net-driver"
FAKES = ROOT / "tests/fakes"
BINS = f"/usr/lib/cni:{FAKES}"
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
work = None


def sh(*cmd, check=True, **kw):
    r = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, check=False, **kw)
    if check and r.returncode:
        raise AssertionError(f"{' '.join(map(str, cmd))}: {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def driver(*args, ok=True):
    r = subprocess.run([str(DRIVER), *map(str, args)], capture_output=True, text=True, check=False)
    doc = json.loads(r.stdout)
    if ok and r.returncode:
        raise AssertionError(doc)
    return doc


@contextlib.contextmanager
def inside(netns):
    """Sockets made in the block belong to that namespace. For the main thread."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(netns, os.O_RDONLY)
    try:
        if libc.setns(other, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
        yield
    finally:
        libc.setns(own, CLONE_NEWNET)
        os.close(own)
        os.close(other)


def setUpModule():
    global work
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare (these tests need root)")
    sh("mount", "--make-rprivate", "/")
    work = pathlib.Path(tempfile.mkdtemp(prefix="nexus-net-"))
    sh("mount", "-t", "tmpfs", "none", work)
    (work / "netns").mkdir()
    sh("ip", "link", "set", "lo", "up")


def tearDownModule():
    sh("umount", "-R", "-l", work)
    work.rmdir()


def conflist(name="net.d", plugins_after=(), masquerade=True):
    """The shipped list with its leases below our directory. Debian's bridge plugin (1.1.1) finds a pod's
    masquerading rules only through the interface in its namespace: without for tests that remove it."""
    doc = json.loads((ROOT / "packaging/cni/10-nexus.conflist").read_text())
    doc["plugins"][0]["ipam"]["dataDir"] = str(work / "leases")
    doc["plugins"][0]["ipMasq"] = masquerade
    doc["plugins"] += plugins_after
    d = work / name
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir()
    (d / "10-nexus.conflist").write_text(json.dumps(doc))
    return d


def census():
    """What a pod could leave behind. The bridge and the shared chains of portmap stay, as on any node."""
    leases = sorted(p.name for p in (work / "leases").rglob("*") if p.is_file() and p.name[0].isdigit()) \
        + sorted(p.name for p in (work / "leases").rglob("*:*"))
    rules = [line for t in ("iptables-save", "ip6tables-save") for line in sh(t).splitlines()
             if "CNI-" in line and "CNI-HOSTPORT" not in line.split()[0]]
    rules = [line for line in rules if "CNI-HOSTPORT-" not in line or "-DN-" in line]
    links = [x["ifname"] for x in json.loads(sh("ip", "-j", "link")) if x["ifname"] != "nexus0"]
    mounts = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
              if "/netns/" in line.split()[4]]
    return {"leases": leases, "rules": rules, "links": sorted(links), "mounts": sorted(mounts),
            "files": sorted(os.listdir(work / "netns"))}


NOTHING = {"leases": [], "rules": [], "links": ["lo"], "mounts": [], "files": []}


class Pod:
    """A namespace, CNI ADD, TAP, redirect, and a guest that took over the settings."""

    def __init__(self, add_cleanup, name, ports=(), conf=None):
        self.name, self.conf = f"{name}-{os.urandom(4).hex()}", conf or conflist()
        self.netns, self.guest = work / "netns" / self.name, work / "netns" / f"{self.name}-guest"
        self.ports = [x for p in ports for x in ("--port", p)]
        driver("netns-create", self.netns)
        add_cleanup(self.cleanup)
        self.added = driver("add", self.conf, BINS, self.name, self.netns, "eth0", *self.ports)
        self.result = work / f"{self.name}.json"
        self.result.write_text(json.dumps(self.added["result"]))
        self.vm = None

    def boot(self):
        driver("netns-create", self.guest)
        self.vm = subprocess.Popen([DRIVER, "guest", self.netns, "eth0", "tap0", self.guest], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        self.config = c = json.loads(self.vm.stdout.readline())
        ip = ("nsenter", f"--net={self.guest}", "ip")
        sh(*ip, "link", "set", "eth0", "address", c["mac"], "mtu", c["mtu"], "up")
        for a in c["addresses"]:
            sh(*ip, "addr", "add", a, "dev", "eth0", *(["nodad"] if ":" in a else []))
        for r in c["routes"]:
            sh(*ip, "-6" if ":" in r["destination"] else "-4", "route", "add", r["destination"],
               *(["via", r["gateway"]] if r["gateway"] else []), "dev", "eth0")
        self.ips = [a.split("/")[0] for a in c["addresses"]]
        return self

    def power_off(self):
        if self.vm:
            self.vm.stdin.close()
            self.vm.wait(10)
            self.vm.stdout.close()
            self.vm = None

    def delete(self, *more, netns=None):
        return driver("del", self.conf, BINS, self.name, netns or self.netns, "eth0", *self.ports, "--result", self.result,
                      *more)

    def remove(self):
        self.power_off()
        driver("netns-remove", self.netns)
        driver("netns-remove", self.guest)

    def cleanup(self):
        self.power_off()
        driver("del", self.conf, BINS, self.name, self.netns, "eth0", *self.ports, ok=False)
        driver("netns-remove", self.netns)
        driver("netns-remove", self.guest)


class Echo:
    """An echo server inside a namespace (None: ours), on every address of the family."""

    def __init__(self, add_cleanup, netns, port, family=socket.AF_INET):
        with inside(netns) if netns else contextlib.nullcontext():
            self.s = socket.create_server(("", port), family=family, backlog=16)
        self.peers = []
        threading.Thread(target=self.run, daemon=True).start()
        add_cleanup(self.s.close)

    def run(self):
        while True:
            try:
                c, peer = self.s.accept()
            except OSError:
                return
            self.peers.append(peer[0])
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    @staticmethod
    def serve(c):
        with c:
            while True:
                data = c.recv(65536)
                if not data:
                    return
                c.sendall(data)


def talk(netns, address, port, payload=b"hello", timeout=20):
    """The echo of payload over TCP from that namespace (None: ours)."""
    with inside(netns) if netns else contextlib.nullcontext():
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    with s:
        s.settimeout(timeout)
        s.connect((address, port))
        sender = threading.Thread(target=lambda: (s.sendall(payload), s.shutdown(socket.SHUT_WR)))
        sender.start()
        got = bytearray()
        while True:
            data = s.recv(65536)
            if not data:
                break
            got += data
        sender.join()
        return bytes(got)


def outside(add_cleanup):
    """A machine on a wire to the host: its namespace; the host is 192.0.2.1 and 2001:db8::1."""
    ns = work / "netns/outside"
    driver("netns-create", ns)
    sh("ip", "link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", ns)
    add_cleanup(lambda: (driver("netns-remove", ns), sh("ip", "link", "del", "wire", check=False)))
    for prefix, dev, last in ((), "wire", 1), (("nsenter", f"--net={ns}"), "eth0", 2):
        sh(*prefix, "ip", "link", "set", dev, "up")
        sh(*prefix, "ip", "addr", "add", f"192.0.2.{last}/24", "dev", dev)
        sh(*prefix, "ip", "addr", "add", f"2001:db8::{last}/64", "dev", dev, "nodad")
    return ns


class TwoPods(unittest.TestCase):
    """Two pods that run, and a machine outside; made once, for looking at from all sides."""
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(lambda: cls().assertEqual(census(), NOTHING))
        add = cls.addClassCleanup
        cls.world = outside(add)
        cls.a = Pod(add, "a", ports=["tcp:8080:80", "tcp:8081:81:192.0.2.1"]).boot()
        cls.b = Pod(add, "b").boot()

    def test_guest_takes_over_what_cni_gave(self):
        pod = self.a
        self.assertEqual(pod.config["mac"], pod.added["mac"])
        self.assertEqual(pod.config["mtu"], 1500)
        self.assertEqual(sorted(pod.config["addresses"]), sorted(pod.added["ips"]))
        self.assertEqual([ip.split("/")[1] for ip in pod.added["ips"]], ["16", "64"])
        self.assertEqual({(r["destination"], r["gateway"]) for r in pod.config["routes"]},
                         {("0.0.0.0/0", "10.88.0.1"), ("::/0", "fd88:6e65:7875::1")})
        tap = json.loads(sh("nsenter", f"--net={pod.netns}", "ip", "-j", "link", "show", "tap0"))[0]
        self.assertEqual(tap["mtu"], 1500)

    def test_pod_reaches_host_and_pod(self):
        for family, i, gateway in (socket.AF_INET, 0, "10.88.0.1"), (socket.AF_INET6, 1, "fd88:6e65:7875::1"):
            with self.subTest(gateway):
                Echo(self.addCleanup, None, 7000, family)
                there = Echo(self.addCleanup, self.b.guest, 7001, family)
                self.assertEqual(talk(self.a.guest, gateway, 7000), b"hello")
                self.assertEqual(talk(self.a.guest, self.b.ips[i], 7001), b"hello")
                self.assertEqual(there.peers, [self.a.ips[i]])  # not masqueraded between pods
                self.assertEqual(talk(None, self.b.ips[i], 7001), b"hello")

    def test_bulk_data_arrives_unchanged_both_ways(self):
        Echo(self.addCleanup, self.b.guest, 7003)
        payload = os.urandom(1 << 20) * 4
        got = talk(None, self.b.ips[0], 7003, payload, timeout=120)
        self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256(payload).digest())

    def test_pod_reaches_the_world_masqueraded(self):
        server = Echo(self.addCleanup, self.world, 7002)
        self.assertEqual(talk(self.a.guest, "192.0.2.2", 7002), b"hello")
        self.assertEqual(server.peers, ["192.0.2.1"])

    def test_host_port_works_from_everywhere(self):
        pod = self.a
        Echo(self.addCleanup, pod.guest, 80, socket.AF_INET6)
        Echo(self.addCleanup, pod.guest, 80)
        Echo(self.addCleanup, pod.guest, 81)
        with self.subTest("another machine, IPv4"):
            self.assertEqual(talk(self.world, "192.0.2.1", 8080), b"hello")
        with self.subTest("another machine, IPv6"):
            self.assertEqual(talk(self.world, "2001:db8::1", 8080), b"hello")
        with self.subTest("the host, by its address"):
            self.assertEqual(talk(None, "192.0.2.1", 8080), b"hello")
        with self.subTest("the host, by 127.0.0.1"):
            self.assertEqual(talk(None, "127.0.0.1", 8080), b"hello")
        with self.subTest("another pod"):
            self.assertEqual(talk(self.b.guest, "192.0.2.1", 8080), b"hello")
        with self.subTest("the pod itself, by the host's address (hairpin)"):
            self.assertEqual(talk(pod.guest, "192.0.2.1", 8080), b"hello")
        with self.subTest("bound to one host address"):
            self.assertEqual(talk(self.world, "192.0.2.1", 8081), b"hello")
        with self.subTest("and to no other"), self.assertRaises(OSError):
            talk(None, "10.88.0.1", 8081, timeout=5)

    def test_check_is_content_after_the_redirect(self):
        pod = self.b  # without ports: portmap 1.1.1 looks for IPv4 rules in the IPv6 table
        driver("check", pod.conf, BINS, pod.name, pod.netns, "eth0", "--result", pod.result)


class NetTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.addCleanup(lambda: self.assertEqual(census(), NOTHING))


class OnePod(NetTest):
    def test_nobody_answers_for_a_dead_vm(self):
        pod = Pod(self.addCleanup, "dead", conf=conflist(masquerade=False)).boot()
        Echo(self.addCleanup, pod.guest, 7001)
        self.assertEqual(talk(None, pod.ips[0], 7001), b"hello")
        pod.vm.kill()
        pod.vm.wait()
        pod.vm.stdin.close()
        pod.vm.stdout.close()
        pod.vm = None
        for ip in pod.ips:
            sh("ip", "neigh", "flush", "dev", "nexus0")
            with self.assertRaises(OSError):  # no ARP answer, no reset
                talk(None, ip, 7001, timeout=1)
        # and a plugin's CHECK notices what the namespace has lost
        sh("nsenter", f"--net={pod.netns}", "ip", "link", "del", "eth0")
        e = driver("check", pod.conf, BINS, pod.name, pod.netns, "eth0", "--result", pod.result, ok=False)
        self.assertIn("CNI CHECK by plugin /usr/lib/cni/bridge for network nexus", e["error"])

    def test_pods_at_once_get_addresses_of_their_own(self):
        conf = conflist(masquerade=False)
        names = [f"many{i}" for i in range(5)]
        for n in names:
            driver("netns-create", work / "netns" / n)
        running = [subprocess.Popen([DRIVER, "add", conf, BINS, n, work / "netns" / n, "eth0"], stdout=subprocess.PIPE)
                   for n in names]
        ips = [json.loads(p.communicate()[0])["ips"] for p in running]
        self.assertEqual(len({ip for pair in ips for ip in pair}), 10)
        for n in names:
            driver("del", conf, BINS, n, work / "netns" / n, "eth0")
            driver("netns-remove", work / "netns" / n)


class Delete(NetTest):
    def test_from_the_saved_list_after_the_file_changed(self):
        pod = Pod(self.addCleanup, "pod1", ports=["tcp:8080:80"]).boot()
        saved = work / "saved.json"
        shutil.copy(pod.conf / "10-nexus.conflist", saved)
        (pod.conf / "10-nexus.conflist").write_text("{")
        pod.power_off()
        pod.delete("--network", saved)
        pod.delete("--network", saved)  # again: no error
        pod.remove()
        self.assertEqual(census(), NOTHING)
        shutil.copy(saved, pod.conf / "10-nexus.conflist")

    def test_when_the_namespace_is_gone(self):
        pod = Pod(self.addCleanup, "pod1", ports=["tcp:8080:80"], conf=conflist(masquerade=False)).boot()
        pod.remove()
        self.assertNotEqual(census()["leases"], [])
        pod.delete()
        self.assertEqual(census(), NOTHING)

    def test_after_a_failed_add(self):
        conf = conflist(plugins_after=[{"type": "cni-evil", "evil": {"ADD": "exit-json"}}])
        ns = work / "netns/half"
        driver("netns-create", ns)
        e = driver("add", conf, BINS, "half", ns, "eth0", ok=False)
        self.assertIn("cni-evil for network nexus", e["error"])
        self.assertNotEqual(census()["leases"], [])
        driver("del", conf, BINS, "half", ns, "eth0")
        driver("netns-remove", ns)

    def test_after_a_crash_in_the_middle_of_add(self):
        conf = conflist(plugins_after=[{"type": "cni-evil", "evil": {"ADD": "hang", "state": str(work / "evil")}}])
        ns = work / "netns/crash"
        driver("netns-create", ns)
        p = subprocess.Popen([DRIVER, "add", conf, BINS, "crash", ns, "eth0"], stdout=subprocess.DEVNULL)
        while not (work / "evil/hanging").exists():
            self.assertIsNone(p.poll())
            time.sleep(0.02)
        p.send_signal(signal.SIGKILL)
        p.wait()
        self.assertEqual(driver("leftovers", "other", "crash")["killed"], 1)
        self.assertEqual(driver("leftovers", "other", "crash")["killed"], 0)
        driver("del", conf, BINS, "crash", ns, "eth0")
        driver("netns-remove", ns)

    def test_after_a_deadline_and_a_cancel(self):
        conf = conflist(plugins_after=[{"type": "cni-evil", "evil": {"ADD": "hang"}}])
        ns = work / "netns/late"
        for option, ms, cls in ("--deadline", 2500, "deadline"), ("--cancel", 2500, "cancelled"):
            driver("netns-create", ns)
            e = driver("add", conf, BINS, "late", ns, "eth0", option, ms, ok=False)
            self.assertEqual(e["class"], cls)
            driver("del", conf, BINS, "late", ns, "eth0")
            driver("netns-remove", ns)


class Namespaces(NetTest):
    def test_create_and_remove_are_exact(self):
        ns = work / "netns/one"
        self.assertGreater(driver("netns-create", ns)["inode"], 0)
        self.assertEqual(driver("netns-create", ns, ok=False)["class"], "exists")
        lo = json.loads(sh("nsenter", f"--net={ns}", "ip", "-j", "addr", "show", "lo"))[0]
        self.assertIn("UP", lo["flags"])
        self.assertEqual([a["local"] for a in lo["addr_info"]], ["127.0.0.1", "::1"])
        driver("netns-remove", ns)
        driver("netns-remove", ns)

    def test_leftover_of_a_crash_is_taken_over(self):
        ns = work / "netns/left"
        ns.touch()
        driver("netns-create", ns)
        driver("netns-remove", ns)
        self.assertFalse(ns.exists())

    def test_stacked_mounts_all_go(self):
        ns = work / "netns/stack"
        driver("netns-create", ns)
        for _ in range(3):
            sh("mount", "--bind", "/proc/self/ns/net", ns)
        driver("netns-remove", ns)
        self.assertFalse(ns.exists())

    def test_what_is_no_namespace_is_left_alone(self):
        f = work / "netns/file"
        f.write_text("precious")
        self.assertEqual(driver("netns-create", f, ok=False)["class"], "exists")
        self.assertIn("left alone", driver("netns-remove", f, ok=False)["error"])
        self.assertEqual(driver("config", f, "eth0", ok=False)["class"], "not-found")
        self.assertEqual(f.read_text(), "precious")
        f.unlink()
        (work / "netns/link").symlink_to("/proc/self/ns/net")
        self.assertIn("error", driver("config", work / "netns/link", "lo", ok=False))
        (work / "netns/link").unlink()

    def test_missing_interface_is_named(self):
        ns = work / "netns/bare"
        driver("netns-create", ns)
        self.assertIn("interface eth0 of the pod: No such device", driver("config", ns, "eth0", ok=False)["error"])
        driver("netns-remove", ns)


class Cgroups(unittest.TestCase):
    ROOT = "/sys/fs/cgroup"

    def cg(self, *args, ok=True):
        r = subprocess.run([DRIVER, "cgroup", self.ROOT, *args], capture_output=True, text=True, check=False)
        doc = json.loads(r.stdout) if r.stdout else {}
        if ok:
            self.assertEqual(r.returncode, 0, doc)
        return doc

    def setUp(self):
        self.assertEqual(self.cg("mode", "-", "-")["mode"], "v2", "the lab has cgroup v2")

    def test_leaf_is_limited_filled_killed_and_removed(self):
        doc = self.cg("create", "/nexustest/pod1", "vmm-1")
        self.assertEqual(doc, {"path": "/nexustest/pod1/vmm-1", "missing": 0})
        leaf = pathlib.Path(self.ROOT + doc["path"])
        self.assertEqual((leaf / "memory.max").read_text(), f"{64 << 20}\n")
        self.assertEqual((leaf / "memory.oom.group").read_text(), "1\n")
        self.assertEqual((leaf / "pids.max").read_text(), "32\n")
        self.assertEqual((leaf / "cpu.weight").read_text(), "50\n")
        # a family that ignores TERM and forks on
        p = subprocess.Popen(["sh", "-c", "trap '' TERM; read x; sleep 1000 & sleep 1000 & echo up; wait"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.cg("add", doc["path"], str(p.pid))
        p.stdin.write("go\n")
        p.stdin.flush()
        self.assertEqual(p.stdout.readline(), "up\n")
        self.assertEqual(self.cg("usage", doc["path"], "-")["pids"], 3)
        # the parent has no processes, but a child: not removable; the leaf is, with all that is in it
        reaper = threading.Thread(target=p.wait)
        reaper.start()
        self.cg("remove", doc["path"], "-")
        reaper.join()
        self.assertEqual(p.returncode, -signal.SIGKILL)
        p.stdin.close()
        p.stdout.close()
        self.assertFalse(leaf.exists())
        self.cg("remove", doc["path"], "-")  # again: no error
        for d in "/nexustest/pod1", "/nexustest":
            self.cg("remove", d, "-")

    def test_parent_with_processes_is_told_apart(self):
        d = pathlib.Path(self.ROOT, "nexusbusy")
        d.mkdir()
        p = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(lambda: (p.kill(), p.wait()))
        (d / "cgroup.procs").write_text(str(p.pid))
        doc = self.cg("create", "/nexusbusy", "vmm-1", ok=False)
        self.assertEqual(doc["class"], "precondition")
        self.assertIn("processes of its own", doc["error"])
        p.kill()
        p.wait()
        self.cg("remove", "/nexusbusy", "-")
        self.assertFalse(d.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
