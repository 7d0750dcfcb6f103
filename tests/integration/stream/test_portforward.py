#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""Port-forward: many connections over one, each on its own. The fake guest's ports: 7 echoes, 9 never reads,
13 says a line and closes, 19 sends for ever; nobody listens on the others."""
import base64
import hashlib
import os
import pathlib
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from streamcase import Streams, grpc, nodes, st  # noqa: E402

Code = grpc.StatusCode


class PortForward(Streams):
    def forward(self):
        return st.Forward(self.node.cri.PortForward(pod_sandbox_id=self.pod[0]).url, netns=self.netns)

    def test_echo_to_the_end(self):
        with self.forward() as f:
            error, data = f.connect(7)
            f.send(data, b"hello ")
            f.send(data, b"world", fin=True)
            f.until(lambda: {error, data} <= f.fin)
            self.assertEqual((bytes(f.data[data]), bytes(f.data[error])), (b"hello world", b""))
            self.assertFalse(f.reset, "a reset would overtake data")

    def test_a_line_and_the_end(self):
        with self.forward() as f:
            _, data = f.connect(13)
            f.until(lambda: data in f.fin)
            self.assertEqual(bytes(f.data[data]), b"noon\n")

    def test_nobody_listens(self):
        with self.forward() as f:
            error, data = f.connect(81)
            f.until(lambda: error in f.fin and data in f.reset)
            self.assertIn(b"cannot forward to port 81 of the pod: in guest: nobody listens", bytes(f.data[error]))
            _, data = f.connect(7)  # the connection lives
            f.send(data, b"x", fin=True)
            f.until(lambda: data in f.fin)
            self.assertEqual(bytes(f.data[data]), b"x")

    def test_ports_out_of_range(self):
        with self.forward() as f:
            for port in ("0", "65536", "-1", "http", ""):
                sid = f.open({"streamtype": "error", "port": port, "requestid": "1"})
                self.assertEqual(f.reset.get(sid), 3, port)
        for ports in ([0], [65536], [-1]):
            with self.assertRaises(grpc.RpcError) as e:
                self.node.cri.PortForward(pod_sandbox_id=self.pod[0], port=ports)
            self.assertEqual(e.exception.code(), Code.INVALID_ARGUMENT)
        self.assertTrue(self.node.cri.PortForward(pod_sandbox_id=self.pod[0], port=[80, 443]).url)

    def test_many_connections_at_once(self):
        data = {}
        with self.forward() as f:
            for n in range(100):
                _, sid = f.connect(7)
                data[sid] = os.urandom(2000 + n)
            for sid, content in data.items():
                f.send(sid, content, fin=True)
            f.until(lambda: set(data) <= f.fin)
            for sid, content in data.items():
                self.assertEqual(bytes(f.data[sid]), content)

    def test_bytes_arrive_exactly(self):
        content = os.urandom(5_000_000)
        with self.forward() as f:
            _, sid = f.connect(7)
            t = threading.Thread(target=f.send, args=(sid, content, True))
            t.start()
            f.until(lambda: sid in f.fin)
            t.join()
            self.assertEqual(hashlib.sha256(bytes(f.data[sid])).digest(), hashlib.sha256(content).digest())

    def test_a_reset_ends_one(self):
        with self.forward() as f:
            _, first = f.connect(19)
            _, second = f.connect(7)
            f.until(lambda: f.data[first])
            f.rst(first)
            f.send(second, b"still here", fin=True)
            f.until(lambda: second in f.fin)
            self.assertEqual(bytes(f.data[second]), b"still here")

    def test_a_client_that_does_not_read_stops_the_writer(self):
        f = self.forward()
        _, sid = f.connect(19)
        self.waits_quietly()
        f.until(lambda: len(f.data[sid]) > 3_000_000)
        f.close()

    def test_clients_that_leave_leave_nothing(self):
        with self.forward() as f:
            f.connect(7)
            before = self.fds() - 2
        for _ in range(5):
            with self.forward() as f:
                for _ in range(10):
                    f.connect(7)
        nodes.wait_for(lambda: self.fds() <= before, why="descriptors of nexus-stream as before")

    def test_websocket_tunnel(self):
        """SPDY bytes in messages, as kubectl's newer clients speak it."""
        url = self.node.cri.PortForward(pod_sandbox_id=self.pod[0]).url
        ws = st.websocket(url, "SPDY/3.1+portforward.k8s.io", netns=self.netns)
        self.assertEqual(ws.getsubprotocol().lower(), "spdy/3.1+portforward.k8s.io")

        class Tunnel(st.Forward):
            def __init__(self):
                self.sock = self
                self.raw, self.eof, self.goaway, self.sinks = bytearray(), False, None, {}
                self.deflate, self.inflate = (st.zlib.compressobj(zdict=st.DICTIONARY),
                                              st.zlib.decompressobj(zdict=st.DICTIONARY))
                self.next_id, self.requests = 1, 0
                self.replied, self.data, self.fin, self.reset, self.pings = set(), {}, set(), {}, []

            def sendall(self, b):
                ws.send_binary(b)

            def read(self, _):
                opcode, data = ws.recv_data()
                self.eof = opcode == 8
                self.raw += b"" if self.eof else data
                while self.frame():
                    pass
                return True
        t = Tunnel()
        _, sid = t.connect(7)
        t.send(sid, b"through the tunnel", fin=True)
        t.until(lambda: sid in t.fin)
        self.assertEqual(bytes(t.data[sid]), b"through the tunnel")
        ws.close()

    # ---- the older WebSocket form: ports named before, channel 2i data and 2i + 1 error

    def ports(self, *protocols, ports=(), query=""):
        url = self.node.cri.PortForward(pod_sandbox_id=self.pod[0], port=ports).url
        return st.websocket(url + query, *protocols, netns=self.netns)

    def channels(self, ws):
        """All it says until it closes, by channel."""
        out = {}
        while True:
            opcode, data = ws.recv_data()
            if opcode == 8:
                ws.shutdown()
                return out, int.from_bytes(data[:2], "big")
            out[data[0]] = out.get(data[0], b"") + data[1:]

    def test_ports_of_the_request(self):
        ws = self.ports("v4.channel.k8s.io", ports=[7, 13, 81])
        self.assertEqual(ws.getsubprotocol(), "v4.channel.k8s.io")
        begun = {}
        for _ in range(6):
            data = ws.recv_data()[1]
            begun[data[0]] = data[1:]
        self.assertEqual(begun, {0: b"\x07\0", 1: b"\x07\0", 2: b"\x0d\0", 3: b"\x0d\0", 4: b"\x51\0", 5: b"\x51\0"})
        ws.send_binary(b"\0echo this")
        heard = {}
        while heard.get(0) != b"echo this" or not heard.get(5):
            data = ws.recv_data()[1]
            heard[data[0]] = heard.get(data[0], b"") + data[1:]
        self.assertEqual(heard[2], b"noon\n")
        self.assertIn(b"cannot forward to port 81 of the pod: in guest: nobody listens", heard[5])
        ws.close()

    def test_ports_of_the_query(self):
        for query in ("?port=13", "?port=13,81", "?port=13%2C81&x=y", "?port=81&port=13"):
            heard, code = self.channels(self.ports(query=query))
            data = 2 if query.startswith("?port=81") else 0
            self.assertEqual((heard[data], code), (b"\x0d\0noon\n", 1000), query)

    def test_bytes_arrive_exactly_in_channels(self):
        content = os.urandom(3_000_000)
        ws = self.ports("v4.channel.k8s.io", ports=[7])
        got = bytearray()

        def write():
            for at in range(0, len(content), 60_000):
                ws.send_binary(b"\0" + content[at:at + 60_000])
        t = threading.Thread(target=write)
        t.start()
        while len(got) < len(content) + 2:
            data = ws.recv_data()[1]
            got += data[1:] if data[0] == 0 else b""
        t.join()
        self.assertEqual(hashlib.sha256(got[2:]).digest(), hashlib.sha256(content).digest())
        ws.close()

    def test_ports_in_base64(self):
        ws = self.ports("v4.base64.channel.k8s.io", ports=[7])
        self.assertEqual([ws.recv_data()[1] for _ in range(2)], [b"0BwA=", b"1BwA="])
        ws.send("0" + base64.b64encode(b"echo").decode())
        self.assertEqual(ws.recv_data()[1], b"0" + base64.b64encode(b"echo"))
        ws.close()

    def test_ports_that_are_none(self):
        import websocket as library
        for query in ("", "?port=", "?port=0", "?port=65536", "?port=80,80", "?port=http", "?ports=80"):
            with self.assertRaises(library.WebSocketBadStatusException, msg=query) as e:
                self.ports("v4.channel.k8s.io", query=query)
            self.assertEqual(e.exception.status_code, 400, query)
        with self.assertRaises(library.WebSocketBadStatusException) as e:
            self.ports("v4.base64.channel.k8s.io", ports=range(1, 41))
        self.assertEqual(e.exception.status_code, 400)
        with self.assertRaises(grpc.RpcError) as e:
            self.ports("v4.channel.k8s.io", ports=range(1, 130))
        self.assertEqual(e.exception.code(), Code.INVALID_ARGUMENT)

    def test_clients_of_channels_that_leave_leave_nothing(self):
        ws = self.ports("v4.channel.k8s.io", ports=[7, 9, 19])
        before = self.fds() - 4
        ws.sock.close()
        for _ in range(5):
            self.ports("v4.channel.k8s.io", ports=[7, 9, 19]).sock.close()
        nodes.wait_for(lambda: self.fds() <= before, why="descriptors of nexus-stream as before")

    def test_the_guest_dies_under_it(self):
        name = "dying"
        pod = self.node.cri.run_pod(name, log_directory=str(self.node.logs / name))
        with st.Forward(self.node.cri.PortForward(pod_sandbox_id=pod[0]).url, netns=self.netns) as f:
            error, data = f.connect(7)
            os.kill(self.node.vmm_pid(pod[0]), 9)
            f.until(lambda: error in f.fin and data in f.reset)
            self.assertIn(b"has ended", bytes(f.data[error]))
            error, data = f.connect(7)
            f.until(lambda: error in f.fin and data in f.reset)
            self.assertIn(b"cannot be reached", bytes(f.data[error]))
        nodes.wait_for(lambda: self.node.cri.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1)
        with self.assertRaises(grpc.RpcError) as e:
            self.node.cri.PortForward(pod_sandbox_id=pod[0])
        self.assertIn(e.exception.code(), (Code.FAILED_PRECONDITION, Code.UNAVAILABLE))
        self.node.cri.remove_pod(pod[0])

    def test_an_unknown_sandbox(self):
        with self.assertRaises(grpc.RpcError) as e:
            self.node.cri.PortForward(pod_sandbox_id="0123456789abcdef")
        self.assertEqual(e.exception.code(), Code.NOT_FOUND)


if __name__ == "__main__":
    unittest.main()
