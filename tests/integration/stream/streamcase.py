# SPDX-License-Identifier: Apache-2.0
"""One node with fake-vmm, one pod, one container: what the streaming tests share."""
import os
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
import streaming as st  # noqa: E402
from cri import pb, unique  # noqa: E402


class Streams(unittest.TestCase):
    maxDiff = None
    config = None

    @classmethod
    def setUpClass(cls):
        cls.node = nodes.Node(config=cls.config)
        cls.node.start()
        cls.cri = cls.node.cri
        name = unique("pod")
        cls.pod = cls.cri.run_pod(name, log_directory=str(cls.node.logs / name))
        cls.shared = cls.start_container()

    @classmethod
    def tearDownClass(cls):
        try:
            cls.node.cri.remove_pod(cls.pod[0])
            assert cls.node.census() == cls.node.empty, cls.node.census()
            for pid in cls.node.stream_pids():
                os.kill(pid, signal.SIGTERM)
            nodes.wait_for(lambda: not cls.node.stream_pids(), why="the end of nexus-stream")
            for bad in ("Sanitizer", "runtime error", "on signal 11", "wait status 134", "wait status 139"):
                assert bad not in cls.node.log(), cls.node.log()[-4000:]
        finally:
            cls.node.close()

    @classmethod
    def start_container(cls, **more):
        c = cls.node.cri.create(cls.pod, unique("c"), nodes.IMAGE, ["sleep", "infinity"], **more)
        cls.node.cri.StartContainer(container_id=c)
        return c

    def stop_container(self, c):
        self.node.cri.StopContainer(pb.StopContainerRequest(container_id=c, timeout=0))

    @property
    def netns(self):
        return self.node.holder.pid

    def url(self, *command, **channels):
        channels = channels or {"stdout": True, "stderr": True}
        return self.node.cri.Exec(container_id=self.shared, cmd=command, **channels).url

    def run_(self, *command, stdin=None, tty=False, **more):
        url = self.url(*command, stdin=stdin is not None, stdout=True, stderr=not tty, tty=tty)
        return st.remote(url, stdin=stdin, tty=tty, netns=self.netns, **more)

    def stream_pid(self):
        pids = self.node.stream_pids()
        self.assertEqual(len(pids), 1)
        return pids[0]

    def waits_quietly(self):
        """nexus-stream, whose client does not read, neither collects what comes nor looks at it all the time."""
        pid, sizes = self.stream_pid(), []

        def ticks():
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                return sum(map(int, f.read().rpartition(")")[2].split()[11:13]))

        for _ in range(8):
            time.sleep(0.1)
            with open(f"/proc/{pid}/statm", encoding="ascii") as f:
                sizes.append(int(f.read().split()[1]))
        self.assertLess(max(sizes) - min(sizes), 2048, "pages: 8 MiB")
        before = ticks()
        time.sleep(0.5)
        self.assertLess(ticks() - before, 20, "it waits, it does not spin")

    def fds(self):
        return len(os.listdir(f"/proc/{self.stream_pid()}/fd"))

    def fails(self, code, text="", **request):
        with self.assertRaises(grpc.RpcError) as e:
            self.node.cri.Exec(**{"container_id": self.shared, "cmd": ["true"], "stdout": True, **request})
        self.assertEqual(e.exception.code(), code, e.exception.details())
        self.assertIn(text, e.exception.details())
