#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 90
"""Files that go bad under a running pod: I/O errors, files cut short, written in place or grown, of volumes and of
image layers, on ext4, tmpfs and overlay. Each costs its reader zeros or an error. The VM, nexusd and the pod beside
it never notice, and the log names pod and file."""
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
from atomic_writer import AtomicWriter, kubelet_volume  # noqa: E402
from baddisk import BadDisk  # noqa: E402
from cri import pb, unique  # noqa: E402
from ocimage import Layer, busybox_image  # noqa: E402
from podcase import PodCase  # noqa: E402

PAGE = 4096
BIG = os.urandom(8 << 20)  # larger than what is found by reading alone, src/mapper/region.h
SLEEP = ["sleep", "100000"]


class Faults(PodCase):
    @classmethod
    def setUpClass(cls):
        cls.make_surroundings()
        cls.rotten = [cls.registry.push("test/rotten", str(n), busybox_image([Layer("none").file("big", bytes([n]) + BIG)]))
                      for n in range(2)]
        cls.disk = BadDisk(256)
        cls.addClassCleanup(cls.disk.close)
        cls.make_node()
        cls.mount(cls.disk.path, cls.node.state / "images", "--bind")  # they lie on a disk that goes bad, too
        cls.start_node(*cls.rotten)
        cls.pods = {name: cls.new_pod(name) for name in ("victim", "bystander")}
        cls.beside = cls.node.cri.run(cls.pods["bystander"], "b", cls.image, SLEEP)
        cls.vmms = cls.node.vmm_pids()

    def tearDown(self):
        """Whatever happened: nobody but the reader has noticed."""
        self.assertIsNone(self.node.proc.poll(), self.node.log_tail())
        self.assertEqual(self.node.vmm_pids(), self.vmms, self.node.log_tail())
        for pod, _ in self.pods.values():
            self.assertEqual(self.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state, pb.SANDBOX_READY)
        self.assertEqual(self.out(self.beside, "cat /proc/uptime >/dev/null; echo well"), "well\n")
        self.assertNotIn("region", self.lines(self.pods["bystander"], "zeros"))
        for ctr in self.cri.ListContainers().containers:
            if ctr.id != self.beside:
                self.cri.RemoveContainer(container_id=ctr.id)

    # ---- words

    def volume(self, name, payload, plugin="secret", on="ext4"):
        """A volume of the victim's on the bad disk, on tmpfs or on an overlay of the bad disk's."""
        path = pathlib.Path(kubelet_volume(self.kubelet, "uid", plugin, name))
        if on == "tmpfs":
            self.mount("tmpfs", path, "-t", "tmpfs")
        else:
            own = self.disk.path / f"volume-{name}"
            for d in ("lower", "upper", "work"):
                (own / d).mkdir(parents=True)
            if on == "overlay":
                self.mount("overlay", path, "-t", "overlay", "-o",
                           f"lowerdir={own}/lower,upperdir={own}/upper,workdir={own}/work")
            else:
                self.mount(own / "upper", path, "--bind")
        writer = AtomicWriter(str(path))
        writer.write(payload)
        return writer

    def run_with(self, *mounts, image=None):
        return self.cri.run(self.pods["victim"], unique("c"), image or self.image, SLEEP,
                            mounts=[(getattr(h, "dir", h), p, True) for h, p in mounts])

    def digest(self, ctr, path):
        return self.out(ctr, f"sha256sum <{path}").split()[0]

    def lines(self, pod, text):
        """What was logged of the pod with text in it."""
        return "\n".join(l for l in self.node.log_path.read_text().splitlines() if pod[0] in l and text in l)

    def told(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.lines(self.pods["victim"], "")):
            self.assertLess(time.monotonic(), end, f"{pattern} in\n{self.node.log_tail(60)}")
            time.sleep(0.1)

    def region(self, prefix):
        (r,) = [r for r in self.info(self.pods["victim"])["regions"] if r["what"].startswith(prefix)]
        return r

    # ---- I/O errors

    def test_io_errors_of_a_volume(self):
        """A small file, which is found by reading, and a large one, whose size tells nothing."""
        small = b"".join(bytes([65 + n]) * PAGE for n in range(5))
        v = self.volume("eio", {"small": (small, 0o644), "large": (BIG, 0o644), "well": (b"well", 0o644)}, "configmap")
        self.disk.spoil(f"{v.data_dir()}/small", 1, 3)
        self.disk.spoil(f"{v.data_dir()}/large", 100, 1500)
        ctr = self.run_with((v, "/v"))
        self.assertEqual(self.out(ctr, "cat /v/well"), "well")
        self.assertEqual(self.out(ctr, "tr -d '\\000' </v/small | tr -s A-E"), "ACE")
        self.told(r"region vol-\d+ \(configmap eio\): file eio/\S+/(small|large) .*cannot be read")
        want = bytearray(BIG)
        for page in (100, 1500):
            want[page * PAGE:(page + 1) * PAGE] = bytes(PAGE)
        self.assertEqual(self.digest(ctr, "/v/large"), hashlib.sha256(want).hexdigest())
        self.assertEqual(self.region("configmap eio")["repairedPages"], 4)
        self.assertEqual(self.out(ctr, "cat /v/well"), "well")
        with open(f"{v.data_dir()}/small", "rb") as f, self.assertRaises(OSError):
            f.read()  # the host has the error still

    def test_io_error_while_a_volume_is_updated(self):
        """Its directory cannot be read: the old generation stays, and the update comes when it can."""
        v = self.volume("later", {f"{n:0250}": (b"first", 0o644) for n in range(40)})
        name = f"/v/{0:0250}"
        ctr = self.run_with((v, "/v"))
        self.assertEqual(self.out(ctr, f"cat {name}"), "first")
        blocked = self.disk.path / "volume-later/upper/..new"
        blocked.mkdir()
        for n in range(40):
            (blocked / f"{n:0250}").write_bytes(b"second")
        self.disk.spoil(blocked, 0, 1)
        os.symlink("..new", f"{v.dir}/..data_tmp")
        os.rename(f"{v.dir}/..data_tmp", f"{v.dir}/..data")
        self.told(r"volume v-\d+ \(later\) stays at generation 1")
        self.assertEqual(self.out(ctr, f"cat {name}"), "first")
        self.disk.heal()
        self.until(lambda: self.out(ctr, f"cat {name}") == "second")

    def test_io_error_of_a_layer(self):
        self.spoil_layer(0, "cannot be read", lambda path: self.disk.spoil(path, 700), lambda data: data.__setitem__(
            slice(700 * PAGE, 701 * PAGE), bytes(PAGE)))

    def test_a_layer_cut_short_while_a_guest_reads_it(self):
        def cut(path):
            os.chmod(path, 0o600)
            os.truncate(path, 300 * PAGE)
        self.spoil_layer(1, "was cut short", cut, lambda data: data.__setitem__(
            slice(300 * PAGE, None), bytes(len(data) - 300 * PAGE)))

    def spoil_layer(self, n, text, spoil, mark):
        (path,) = [p for p in (self.node.state / "images/layers").glob("*.data")
                   if p.stat().st_size >= len(BIG) and p.read_bytes()[:1 + PAGE] == (bytes([n]) + BIG)[:1 + PAGE]]
        self.disk.forget()
        ctr = self.run_with(image=self.rotten[n])
        if n == 1:  # it has been read before, and is read while it goes
            self.assertEqual(self.digest(ctr, "/big"), hashlib.sha256(bytes([n]) + BIG).hexdigest())
            reader = self.cri.ExecSync(pb.ExecSyncRequest(
                container_id=ctr, cmd=["sh", "-c", "for i in 1 2 3 4 5 6; do cat /big >/dev/null; done; echo read"],
                timeout=120), timeout=150, future=True)
        spoil(path)
        if n == 1:
            self.assertEqual(reader.result().stdout, b"read\n")
        want = bytearray(bytes([n]) + BIG)
        mark(want)
        self.assertEqual(self.digest(ctr, "/big"), hashlib.sha256(want).hexdigest())
        self.told(rf"region sha256:\S+ \(image {re.escape(self.rotten[n])}\): file {path.name} .*{text}")
        self.assertGreater(self.region(f"image {self.rotten[n]}")["repairedPages"], 0)
        self.assertEqual(self.out(ctr, "busybox echo all else is well"), "all else is well\n")

    # ---- files that change

    def test_a_file_that_grows_keeps_its_size(self):
        v = self.volume("grow", {"key": (b"1234", 0o644)}, on="tmpfs")
        ctr = self.run_with((f"{v.data_dir()}/key", "/key"))
        with open(f"{v.data_dir()}/key", "ab") as f:
            f.write(b"5" * 3 * PAGE)
        self.told(r"volume v-\d+ \(grow\): file \S*/key was written in place on the host")
        self.assertEqual(self.out(ctr, "cat /key; stat -c %s /key"), "12344\n")

    def test_a_subpath_written_in_place(self):
        """kubelet's bind mount of a file of a volume: told, and never updated."""
        v = self.volume("sub", {"key": (b"first", 0o644)}, "configmap")
        target = self.kubelet / "pods/uid/volume-subpaths/sub/main/0"
        target.parent.mkdir(parents=True)
        target.touch()
        subprocess.run(["mount", "--bind", f"{v.data_dir()}/key", target], check=True)
        self.addClassCleanup(subprocess.run, ["umount", "-l", target], check=True)
        ctr = self.run_with((target, "/etc/key"))
        region = self.region("configmap sub")
        v.write({"key": (b"second", 0o644)})  # what kubelet does: another file
        time.sleep(1)
        self.assertEqual(self.out(ctr, "cat /etc/key"), "first")
        with open(target, "r+b") as f:
            f.write(b"FIRST")
        self.told(r"volume v-\d+ \(sub\): file pods/uid/volume-subpaths/sub/main/0 was written in place on the host")
        self.assertEqual(self.out(ctr, "cat /etc/key"), "FIRST")  # the page is the file's own
        self.assertEqual(self.region("configmap sub")["key"], region["key"])

    def test_a_volume_directory_that_goes(self):
        v = self.volume("gone", {"key": (b"still here", 0o644)})
        ctr = self.run_with((v, "/v"))
        os.unlink(f"{v.dir}/..data")  # first: without it nothing of what goes then is a change of the volume
        subprocess.run(f"rm -rf {v.dir}/* {v.dir}/..*2*", shell=True, check=True)
        self.unmount(v.dir)
        self.told(r"volume v-\d+ \(gone\)")
        self.disk.forget()
        self.assertEqual(self.out(ctr, "cat /v/key"), "still here")

    # ---- where volumes lie

    def test_updates_on_ext4_tmpfs_and_overlay(self):
        for on in ("ext4", "tmpfs", "overlay"):
            with self.subTest(on):
                v = self.volume(f"on-{on}", {"key": (b"first", 0o640), "big": (BIG, 0o644)}, on=on)
                ctr = self.run_with((v, "/v"))
                self.assertEqual(self.out(ctr, "stat -c '%a %s' /v/..data/key; cat /v/key"), "640 5\nfirst")
                self.assertEqual(self.digest(ctr, "/v/big"), hashlib.sha256(BIG).hexdigest())
                v.write({"key": (b"second", 0o640), "big": (BIG[::-1], 0o644)})
                self.until(lambda c=ctr: self.out(c, "cat /v/key") == "second")
                self.assertEqual(self.digest(ctr, "/v/big"), hashlib.sha256(BIG[::-1]).hexdigest())
                os.truncate(f"{v.data_dir()}/key", 0)
                self.until(lambda c=ctr: self.out(c, "cat /v/key") == "")  # a new generation


if __name__ == "__main__":
    unittest.main()
