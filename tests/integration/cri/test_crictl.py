#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
# cost: 30
"""crictl against nexusd with a fake VM; and pulling, which needs no VM."""
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "lib")]
import crictlcase  # noqa: E402
from authority import Authority  # noqa: E402
import fakenode as nodes  # noqa: E402
import ocimage  # noqa: E402
import streaming as st  # noqa: E402


class FakePods(crictlcase.Pods):
    image, port = nodes.IMAGE, 13
    terminal_answer = b"hello\n"  # there is none in a fake guest

    @classmethod
    def setUpClass(cls):
        cls.node = nodes.Node()
        cls.addClassCleanup(cls.node.close)
        cls.node.start()
        cls.logs = cls.node.logs
        cls.front = ("nsenter", "-t", str(cls.node.holder.pid), "-n")
        cls.write_config(cls.node.root / "run/nexusd.sock")

    def forwarded(self, port):
        with st.tcp("127.0.0.1", port, self.node.holder.pid) as s:
            self.assertEqual(s.recv(100), b"noon\n")

    def test_9_it_ends(self):
        super().test_9_it_ends()
        self.assertEqual(self.node.census(), self.node.empty)


class Tls(crictlcase.Crictl):
    """Streams with TLS, where clients have to show a certificate."""

    @classmethod
    def setUpClass(cls):
        cls.write_config("/nowhere")
        cls.ours = Authority(cls.dir, "authority")
        certificate, key = cls.ours.issue("server")
        cls.node = nodes.Node(config={"stream": {"tls_certificate": str(certificate), "tls_key": str(key),
                                                 "tls_client_ca": str(cls.ours.path)}})
        cls.addClassCleanup(cls.node.close)
        cls.node.start()
        cls.front = ("nsenter", "-t", str(cls.node.holder.pid), "-n")
        old, socket = cls.dir / "crictl.yaml", cls.node.root / "run/nexusd.sock"
        old.write_text(old.read_text().replace("/nowhere", str(socket)))
        pod = cls.node.cri.run_pod("tls", log_directory=str(cls.node.logs / "tls"))
        cls.ctr = cls.node.cri.run(pod, "c", nodes.IMAGE, ["sleep", "infinity"])

    def test_exec(self):
        certificate, key = self.ours.issue("client")
        options = ["--tls-ca", str(self.ours.path), "--tls-cert", str(certificate), "--tls-key", str(key), "--tls-server-name",
                   "127.0.0.1"]
        for transport in ("spdy", "websocket"):
            self.assertEqual(self.crictl("exec", *options, "-r", transport, self.ctr, "echo", "x"), "x")
        other = Authority(self.dir, "other")
        options[1] = str(other.path)
        self.assertIn("certificate signed by unknown authority", self.crictl("exec", *options, self.ctr, "true", fails=True))
        self.crictl("exec", self.ctr, "true", fails=True)  # shows no certificate


class PrivateImages(crictlcase.Images):
    @classmethod
    def setUpClass(cls):
        registry = ocimage.Registry()
        cls.addClassCleanup(registry.stop)
        with registry:
            cls.private = registry.push("private/tiny", "1", nodes.fake_image())
            registry.own_root = False  # the same store, now behind a password
        registry.own_root = True
        registry.users = {cls.USER: cls.PASSWORD}
        registry.start()
        cls.node = nodes.Node(images=None, own_network=False, config={
            "images": {"registries": [{"host": registry.address, "plain_http": True}]}})
        cls.addClassCleanup(cls.node.close)
        cls.node.start()
        cls.write_config(cls.node.root / "run/nexusd.sock")


if __name__ == "__main__":
    unittest.main()
