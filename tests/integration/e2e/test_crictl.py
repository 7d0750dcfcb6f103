#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 120
"""crictl against nexusd with a real pod: a microVM with busybox."""
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "cri"), str(HERE.parents[1] / "lib")]
import crictlcase  # noqa: E402
import streaming as st  # noqa: E402
from cri import pb  # noqa: E402
from podcase import PodCase  # noqa: E402


class RealPods(crictlcase.Pods, PodCase):
    port = 8080
    terminal_command, terminal_answer = ("sh", "-c", "stty size; tty"), b"40 100\r\n/dev/pts/"

    @classmethod
    def setUpClass(cls):
        cls.start_all()
        cls.logs = cls.node.logs
        cls.write_config(cls.node.socket)

    def forwarded(self, port):
        with st.tcp("127.0.0.1", port) as s:
            s.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
            self.assertRegex(st.read_all(s), rb"^HTTP/1\.[01] 200 OK\r\n")

    def test_4_port_forward(self):
        cri = self.node.cri
        pod = self.pod, cri.pod_config("web", str(self.logs / "web"), namespace="prod", attempt=1)
        web = cri.run(pod, "httpd", self.image, ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc"])
        super().test_4_port_forward()
        cri.StopContainer(pb.StopContainerRequest(container_id=web, timeout=0))
        cri.RemoveContainer(container_id=web)

    def test_9_it_ends(self):
        super().test_9_it_ends()
        self.assertEqual(self.node.census(), "")


if __name__ == "__main__":
    unittest.main()
