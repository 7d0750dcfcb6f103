#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 110
"""Host directories and files in a real microVM, over virtio-fs: both sides write and read, what is read-only is so,
host mounts follow or do not, memory volumes are the guest's own with their size; and what a virtiofsd or a nexusd that
is killed costs."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import grpc  # noqa: E402
from cri import pb  # noqa: E402
from podcase import PodCase  # noqa: E402

EMPTY_DIR = "pods/uid/volumes/kubernetes.io~empty-dir"


class Share(PodCase):
    @classmethod
    def setUpClass(cls):
        cls.make_surroundings(tmpfs=True)
        subprocess.run(["mount", "--make-rshared", cls.kubelet], check=True)
        cls.make_node()
        cls.start_node()

    def setUp(self):
        name = self.id().split(".")[-1]
        self.pod = self.new_pod(name.replace("_", "-")[:60])

    def tearDown(self):
        self.cri.remove_pod(self.pod[0])
        self.until(lambda: self.node.census() == "", 30, self.node.census)

    def config(self, name, *mounts, command=("sleep", "100000")):
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=self.image),
                                    command=command, log_path=f"{name}.log")
        for host, path, *more in mounts:
            config.mounts.add(host_path=str(host), container_path=path, **dict(*more))
        config.linux.security_context.namespace_options.pid = pb.CONTAINER
        return config

    def create(self, name, *mounts, **more):
        ctr = self.cri.CreateContainer(pod_sandbox_id=self.pod[0], config=self.config(name, *mounts, **more),
                                       sandbox_config=self.pod[1], timeout=120).container_id
        self.cri.StartContainer(container_id=ctr)
        return ctr

    def fails(self, ctr, script, text):
        code, out, err = self.sh(ctr, script)
        self.assertNotEqual(code, 0, script)
        self.assertIn(text, (out + err).decode(), script)

    def virtiofsd(self):
        pids = []
        for p in self.node.processes():
            try:
                if b"virtiofsd" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes():
                    pids.append(p)
            except FileNotFoundError:
                pass
        return pids

    def folder(self, name):
        path = self.kubelet / name
        path.mkdir(parents=True)
        return path

    def test_directories_and_files(self):
        self.assertEqual(self.virtiofsd(), [])  # not before it is needed
        data, other = self.folder("data"), self.folder("other")
        (data / "hello").write_text("from the host\n")
        (data / "sub").mkdir()
        self.mount("tmpfs", data / "sub", "-t", "tmpfs")
        (data / "sub/deep").write_text("deep\n")
        (other / "file").write_text("one file\n")
        os.symlink(data, self.kubelet / "link")
        missing = self.kubelet / "not/there/yet"
        empty = self.folder(f"{EMPTY_DIR}/cache")
        os.chmod(empty, 0o777)
        ctr = self.create("one", (data, "/rw"), (data, "/ro", {"readonly": True}),
                          (data, "/rro", {"readonly": True, "recursive_read_only": True}),
                          (self.kubelet / "link", "/link"), (missing, "/missing"), (other / "file", "/etc/file"),
                          (empty, "/cache"))
        self.assertTrue(self.virtiofsd())
        memory = json.loads(self.node.nexus("pods", "--memory", "--output", "json"))["items"][0]["memory"]
        self.assertGreater(memory["virtiofsdBytes"], 100000)
        self.assertLess(memory["virtiofsdBytes"], memory["guestRssBytes"])
        self.assertEqual(self.out(ctr, "cat /rw/hello /ro/hello /rro/hello /link/hello /rw/sub/deep"), "from the host\n" * 4 + "deep\n")
        # both ways
        self.out(ctr, "echo from the guest > /rw/answer; mkdir /rw/d; ln -s answer /rw/d/l; chmod 640 /rw/answer; "
                      "chown 7:8 /rw/answer; echo x > /missing/x; echo more >> /etc/file")
        st = (data / "answer").stat()
        self.assertEqual((st.st_mode & 0o7777, st.st_uid, st.st_gid), (0o640, 7, 8))
        self.assertEqual((data / "answer").read_text(), "from the guest\n")
        self.assertEqual(os.readlink(data / "d/l"), "answer")
        self.assertEqual((missing / "x").read_text(), "x\n")
        self.assertEqual(missing.stat().st_mode & 0o7777, 0o755)
        self.assertEqual((other / "file").read_text(), "one file\nmore\n")
        (data / "hello").write_text("changed\n")
        (data / "new").write_text("new\n")
        time.sleep(1.2)  # the guest may believe what it knows for a second
        self.assertEqual(self.out(ctr, "cat /rw/hello /rw/new /ro/new"), "changed\nnew\nnew\n")
        # a megabyte there and back
        self.out(ctr, "dd if=/dev/urandom of=/rw/big bs=64k count=16 2>/dev/null; cp /rw/big /rw/copy; cmp /rw/big /rw/copy")
        self.assertEqual((data / "big").read_bytes(), (data / "copy").read_bytes())
        self.assertEqual((data / "big").stat().st_size, 1 << 20)
        # read-only is the top alone, or all of it; as the host says, whatever the guest does
        self.fails(ctr, "echo x > /ro/x", "Read-only")
        self.out(ctr, "echo x > /ro/sub/x")
        self.fails(ctr, "echo x > /rro/x", "Read-only")
        self.fails(ctr, "echo x > /rro/sub/y", "Read-only")
        self.assertFalse((data / "x").exists())
        # the emptyDir is shared by the containers of the pod
        two = self.create("two", (empty, "/mnt/cache"))
        self.out(ctr, "echo from one > /cache/f")
        self.assertEqual(self.out(two, "cat /mnt/cache/f; echo from two > /mnt/cache/g"), "from one\n")
        self.assertEqual(self.out(ctr, "cat /cache/g"), "from two\n")
        self.assertEqual(len([p for p in (self.node.run / "vmm").glob("*.share/*")]), 8)
        # a container that goes takes its mounts along
        self.cri.RemoveContainer(container_id=two)
        self.assertEqual(len([p for p in (self.node.run / "vmm").glob("*.share/*")]), 7)
        self.assertNotIn(str(self.node.run), pathlib.Path("/proc/self/mounts").read_text())

    def test_propagation(self):
        source = self.folder("prop")
        (source / "later").mkdir()
        (source / "other").mkdir()
        ctr = self.create("one", (source, "/private"), (source, "/follows", {"propagation": pb.PROPAGATION_HOST_TO_CONTAINER}))
        self.out(ctr, "ls /private/later /follows/later")
        self.mount("tmpfs", source / "later", "-t", "tmpfs")
        (source / "later/file").write_text("mounted\n")
        time.sleep(1.2)
        self.assertEqual(self.out(ctr, "cat /follows/later/file; ls /private/later"), "mounted\n")

    def test_memory(self):
        volume = self.folder(f"{EMPTY_DIR}/ram")
        self.mount("tmpfs", volume, "-t", "tmpfs", "-o", "size=2M,mode=1777")
        one = self.create("one", (volume, "/ram"))
        two = self.create("two", (volume, "/ram"), (volume, "/ram-ro", {"readonly": True}))
        self.assertEqual(self.virtiofsd(), [])
        self.assertEqual(self.out(one, "stat -c %a /ram; stat -f -c %T /ram; echo x > /ram/x; df -k /ram | tail -1 | awk '{print $2}'"),
                         "1777\ntmpfs\n2048\n")
        self.assertEqual(self.out(two, "cat /ram/x"), "x\n")
        self.fails(two, "echo y > /ram-ro/y", "Read-only")
        self.fails(one, "dd if=/dev/zero of=/ram/big bs=1M count=4", "No space left")
        self.assertEqual(list(volume.iterdir()), [])
        # a part of it would be other memory
        (volume / "part").mkdir()
        sub = self.folder("pods/uid/volume-subpaths/ram/three/0")
        self.mount(volume / "part", sub, "--bind")
        with self.assertRaises(grpc.RpcError) as e:
            self.create("three", (sub, "/part"))
        self.assertIn("a part of an emptyDir in memory", e.exception.details())

    def test_virtiofsd_killed(self):
        data = self.folder("killed")
        ctr = self.create("one", (data, "/data"))
        idle = self.create("two")
        self.out(ctr, "echo x > /data/x")
        for pid in self.virtiofsd():
            os.kill(pid, signal.SIGKILL)
        code, out, err = self.sh(ctr, "cat /data/none /data/x; echo y > /data/y; ls /data; echo over")
        self.assertIn(b"over", out)
        self.assertEqual(err.count(b"Input/output error"), 4, err)
        self.assertEqual(self.out(idle, "echo alive"), "alive\n")
        # no other one for this pod, and a clear word about it
        with self.assertRaises(grpc.RpcError) as e:
            self.create("three", (data, "/data"))
        self.assertEqual(e.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertIn("virtiofsd ended", e.exception.details())

    def test_nexusd_killed(self):
        data = self.folder("restart")
        ctr = self.create("one", (data, "/data"))
        before = sorted(self.virtiofsd())
        self.node.kill9()
        self.node.start()
        self.out(ctr, "echo x > /data/x")
        self.assertEqual(sorted(self.virtiofsd()), before)
        two = self.create("two", (data, "/data"))
        self.assertEqual(self.out(two, "cat /data/x"), "x\n")
        self.assertEqual(sorted(self.virtiofsd()), before)
        self.cri.RemoveContainer(container_id=ctr)
        self.assertEqual(len([p for p in (self.node.run / "vmm").glob("*.share/*")]), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
