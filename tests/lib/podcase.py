# SPDX-License-Identifier: Apache-2.0
"""What end-to-end tests share: a registry with busybox, a kubelet's root, a node, and words for real pods."""
import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

from cri import pb
from node import Node
from ocimage import Registry, busybox_image


class PodCase(unittest.TestCase):
    """setUpClass calls start_all, or its parts with what is to be there before the next one. All of it is gone
    after the class's last case, in the opposite order."""
    maxDiff = None

    @classmethod
    def start_all(cls, tmpfs=False):
        cls.make_surroundings(tmpfs)
        cls.make_node()
        cls.start_node()

    @classmethod
    def make_surroundings(cls, tmpfs=False):
        """tmpfs: kubelet's root lies on one."""
        cls.registry = Registry().start()
        cls.addClassCleanup(cls.registry.stop)
        cls.image = cls.registry.push("test/busybox", "1", busybox_image())
        cls.kubelet = pathlib.Path(tempfile.mkdtemp(prefix="nexus-kubelet-"))
        cls.addClassCleanup(subprocess.run, ["rm", "-rf", cls.kubelet], check=True)
        if tmpfs:
            cls.mount("tmpfs", cls.kubelet, "-t", "tmpfs")

    @classmethod
    def make_node(cls):
        cls.node = Node(insecure=[cls.registry.address], config=f"mapper:\n  kubelet_root: {cls.kubelet}\n")
        cls.addClassCleanup(cls.node.close)

    @classmethod
    def start_node(cls, *more_images):
        cls.node.start()
        for image in (cls.image, *more_images):
            cls.node.cri.PullImage(image=pb.ImageSpec(image=image), timeout=300)

    @classmethod
    def new_pod(cls, name, **more):
        """(id, config) of a pod that is ready."""
        (cls.node.logs / name).mkdir(exist_ok=True)
        return cls.node.cri.run_pod(name, str(cls.node.logs / name), timeout=240, **more)

    @classmethod
    def mount(cls, what, where, *options):
        """mount(8); what it mounts is gone at the end, whether or not a case has seen to that."""
        where.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *options, what, where], check=True)
        cls.addClassCleanup(cls.unmount, where)

    @staticmethod
    def unmount(where):
        if os.path.ismount(where):
            subprocess.run(["umount", "-R", "-l", where], check=True)

    @property
    def cri(self):
        return self.node.cri   # a new one after a restart

    def sh(self, ctr, script, timeout=120):
        return self.cri.exec(ctr, "sh", "-c", script, timeout=timeout)

    def out(self, ctr, script):
        code, out, err = self.sh(ctr, script)
        self.assertEqual((code, err), (0, b""), f"{script}\n{self.node.log_tail(30)}")
        return out.decode()

    def until(self, what, seconds=240, tell=lambda: ""):
        end = time.monotonic() + seconds
        while not what():
            self.assertLess(time.monotonic(), end, f"{tell()}\n{self.node.log_tail(40)}")
            time.sleep(0.05)

    def info(self, pod):
        """What nexusd tells of a pod beyond CRI."""
        return json.loads(self.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])
