#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 100
"""Root in a privileged container of a pod, with everything between it and the hypervisor as in production, against the
Secret and the image of its pod. After each attack the host's files are looked at, byte for byte and page for page,
and a pod beside it that has the same image and the same Secret is asked what it reads."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
from atomic_writer import AtomicWriter, kubelet_volume  # noqa: E402
from cri import pb  # noqa: E402
from node import BUILD, Node  # noqa: E402
from ocimage import Layer, Registry, busybox_image  # noqa: E402
from volumes import PROBE  # noqa: E402
from witness import Witness, identity, mappings  # noqa: E402

SLEEP = ["sleep", "100000"]
MKE2FS = next(p for p in ("/sbin/mke2fs", "/usr/sbin/mke2fs") if os.path.exists(p))


def tools():
    """A layer with mke2fs of e2fsprogs and the libraries it runs with, and what scribbles on a device."""
    layer = Layer().file("probe", PROBE.read_bytes(), 0o755).file("random", os.urandom(1 << 20))
    layer.file("tools/mke2fs", pathlib.Path(MKE2FS).read_bytes(), 0o755)
    out = subprocess.run(["ldd", MKE2FS], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"(/\S+) \(0x", out):
        layer.file(f"tools/{os.path.basename(path)}", pathlib.Path(path).read_bytes(), 0o755)
    return layer


# A container stands on the device that it writes over: what its kernel believes meanwhile is its own affair, and gone
# with its caches. Then it reads what is there.
FORGET = "echo 3 > /proc/sys/vm/drop_caches"
EACH = "for d in /dev/pmem*; do"
NEXT = f"{FORGET}; done"
ATTACKS = [
    # (what, script, what it must say to have been an attack at all, writes that must have been dropped)
    ("remount", """mount -o remount,rw /creds && echo mounted
        for m in $(grep erofs /proc/1/mountinfo | cut -d' ' -f5); do mount -o remount,rw /proc/1/root$m; done
        echo evil > /creds/pass; rm -f /creds/user; touch /creds/new; chmod 777 /creds/pass; ls -la /creds
        for f in /proc/1/root/run/regions/*/* /proc/1/root/run/regions/*/*/*; do echo evil > $f; done""", "mounted", 0),
    ("dd", f"{EACH} dd if=/random of=$d bs=4096 count=16 conv=fsync; {NEXT}", r"16\+0 records out", 2 * 16 * 512),
    ("dd direct", f"""{EACH} n=$(($(cat /sys/block/${{d##*/}}/size) / 8 - 1))
        dd if=/random of=$d bs=4096 count=4 oflag=direct
        dd if=/random of=$d bs=4096 count=1 seek=$n oflag=direct; {NEXT}""",
     r"records out", 2 * 5 * 512),
    ("mmap", f"{EACH} /probe scribble $d; {NEXT}", "scribbled 4", 100),
    ("file system", f"""{EACH} blockdev --setro $d; blockdev --setrw $d; echo read-only $(blockdev --getro $d)
        dd if=/dev/zero of=/tmp/fs bs=64k count=4; LD_LIBRARY_PATH=/tools /tools/ld-linux-x86-64.so.2 \\
          /tools/mke2fs -q -F -t ext2 /tmp/fs && dd if=/tmp/fs of=$d bs=4096 conv=fsync && echo made
        sync; {NEXT}""",
     "read-only 0\n(?s:.*)made", 2 * 64 * 512),  # mke2fs itself wants a device that nobody has mounted
    ("/dev/mem", f"""{EACH} a=$(cat /sys/block/${{d##*/}}/device/resource); devmem $a 32 0x11223344; echo devmem $?
        dd if=/random of=/dev/mem bs=4096 count=1 seek=$((a / 4096)) conv=notrunc; echo dd $?; done""", r"devmem \d", 0),
]


class PrivilegedPod(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="nexus-attack-"))
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.disk = cls.base / "disk"  # pages of files on tmpfs are never clean
        cls.disk.mkdir()
        with open(cls.base / "disk.img", "wb") as f:
            f.truncate(512 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", cls.base / "disk.img"], check=True)
        subprocess.run(["modprobe", "loop"], check=False)
        subprocess.run(["mount", "-o", "loop", cls.base / "disk.img", cls.disk], check=True)
        cls.addClassCleanup(subprocess.run, ["umount", cls.disk], check=True)
        registry = Registry().start()
        cls.addClassCleanup(registry.stop)
        cls.image = registry.push("test/attacker", "1", busybox_image([tools()]))
        kubelet = cls.disk / "kubelet"
        cls.secret = AtomicWriter(kubelet_volume(kubelet, "uid", "secret", "creds"))
        cls.secret.write({"user": (b"root", 0o644), "pass": (b"do not change" * 500, 0o400)})
        shutil.copy(ROOT / "build/guest/modules.erofs", cls.disk)  # what all guests have of it is one file, too
        cls.node = Node(insecure=[registry.address], root=cls.disk / "node", config=f"mapper:\n  kubelet_root: {kubelet}\n",
                        modules=cls.disk / "modules.erofs")
        cls.addClassCleanup(cls.node.close)
        cls.node.start()
        cls.cri = cls.node.cri
        cls.cri.PullImage(image=pb.ImageSpec(image=cls.image), timeout=300)
        cls.pods = {n: cls.pod(n) for n in ("attacker", "bystander")}
        cls.ctrs = {n: cls.container(n) for n in cls.pods}
        cls.right = {n: cls.read(n) for n in cls.pods}

    @classmethod
    def pod(cls, name):
        (cls.node.logs / name).mkdir()
        security = pb.LinuxSandboxSecurityContext(privileged=name == "attacker")
        return cls.cri.run_pod(name, str(cls.node.logs / name), timeout=240,
                               linux=pb.LinuxPodSandboxConfig(security_context=security))

    @classmethod
    def container(cls, name):
        c = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=cls.image), command=SLEEP,
                               log_path="c.log")
        c.mounts.add(host_path=str(cls.secret.dir), container_path="/creds", readonly=True)
        c.linux.security_context.privileged = name == "attacker"
        c.linux.security_context.namespace_options.pid = pb.POD if name == "attacker" else pb.CONTAINER
        ctr = cls.cri.CreateContainer(pod_sandbox_id=cls.pods[name][0], config=c, sandbox_config=cls.pods[name][1],
                                      timeout=120).container_id
        cls.cri.StartContainer(container_id=ctr)
        return ctr

    @classmethod
    def sh(cls, name, script):
        _, out, err = cls.cri.exec(cls.ctrs[name], "sh", "-c", script, timeout=300)
        return (out + err).decode(errors="replace")

    @classmethod
    def read(cls, name):
        """What a pod reads. The attacker's own view of its volume is its own: it may have put something above it, so
        it is asked for what is below."""
        volume = "/proc/1/root/run/regions/*/v-1" if name == "attacker" else "/creds"
        out = cls.sh(name, f"sha256sum /random /bin/busybox /tools/mke2fs {volume}/user {volume}/pass")
        assert len(re.findall("^[0-9a-f]{64} ", out, re.M)) == 5, out
        return out

    def inspect(self, name):
        """By nexus inspect, as a person would."""
        r = subprocess.run([BUILD / "src/cli/nexus", "inspect", "--type", "pod", name], capture_output=True, text=True,
                           check=True, env={**os.environ, "NEXUS_ADDRESS": self.node.address})
        d = json.loads(r.stdout)
        self.assertEqual(d["status"]["state"], "SANDBOX_READY")
        return d["info"]["info"]

    def test_attacks(self):
        infos = {n: self.inspect(n) for n in self.pods}
        self.assertEqual([i["deniedWrites"] for i in infos.values()], [0, 0])
        self.assertEqual(sorted(r["what"] for r in infos["attacker"]["regions"]),
                         [f"image {self.image}", "kernel modules", "secret creds"])
        pids = [i["pid"] for i in infos.values()]
        theirs = {m[0] for m in mappings(pids[0])}
        mapped = [p for p in self.disk.rglob("*") if p.is_file() and identity(p) in theirs]
        for part in ("kubelet", "images/layers", "images/meta", "modules.erofs"):
            self.assertTrue(any(part in str(p) for p in mapped), mapped)
        witness = Witness(self.disk, pids, files=mapped)
        witness.check(self)
        before = 0
        for what, script, said, dropped in ATTACKS:
            with self.subTest(what):
                out = self.sh("attacker", script)
                print(f"---- {what}\n{out[-1500:]}", flush=True)
                self.assertRegex(out, said)
                self.sh("attacker", FORGET)
                witness.check(self)
                self.assertEqual(self.read("bystander"), self.right["bystander"])
                self.assertEqual(self.read("attacker"), self.right["attacker"])
                count = self.inspect("attacker")["deniedWrites"]
                print(f"---- {what}: {count - before} writes dropped, {len(witness.files)} files, {witness.shared} mapped "
                      "pages of the page cache looked at", flush=True)
                self.assertGreaterEqual(count - before, dropped)
                before = count
        regions = self.inspect("attacker")["regions"]
        self.assertGreater(min(r["deniedWrites"] for r in regions), 0, regions)
        self.assertEqual(sum(r["deniedWrites"] for r in regions), before)
        self.assertEqual(self.inspect("bystander")["deniedWrites"], 0)
        for what in ("secret creds", "kernel modules", f"image {self.image}"):
            self.assertIn(f"({what}): the guest wrote at offset", self.node.log_tail(2000))
        for pod in self.pods.values():
            self.cri.remove_pod(pod[0])
        self.assertFalse(self.node.census())


if __name__ == "__main__":
    unittest.main(verbosity=2)
