#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 150
"""Exec, attach and port-forward of a real pod: a client of SPDY, nexus-stream, nexus-vmm, a guest and what runs in
it. What only the server does is tested with a fake guest (tests/integration/stream)."""
import hashlib
import os
import pathlib
import signal
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import streaming as st  # noqa: E402
from cri import pb, unique  # noqa: E402
from node import Node  # noqa: E402
from ocimage import Layer, Registry, busybox_image  # noqa: E402

BIG = os.urandom(2_000_000)


class Streaming(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.left = ""
        cls.registry = Registry().start()
        cls.image = cls.registry.push("test/busybox", "1", busybox_image(
            [Layer("none").dir("data").file("data/small", b"from the image\n").file("data/big", BIG)]))
        cls.node = Node(insecure=[cls.registry.address])
        cls.node.start()
        cls.node.cri.PullImage(image=pb.ImageSpec(image=cls.image), timeout=300)
        (cls.node.logs / "main").mkdir()
        cls.pod = cls.node.cri.run_pod("main", str(cls.node.logs / "main"), timeout=240)
        cls.main = cls.run_("sleep", "100000")
        cls.run_("httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/data")
        cls.run_("httpd", "-f", "-p", "[::1]:8081", "-h", "/data")

    @classmethod
    def tearDownClass(cls):
        try:
            if cls.node.proc:
                cls.node.cri.remove_pod(cls.pod[0])
                cls.left = cls.node.census()
            cls.node.close()
        finally:
            cls.registry.stop()
        if cls.left:
            raise AssertionError(f"left behind after removing the pod:\n{cls.left}")

    def tearDown(self):
        if self._outcome.result.failures or self._outcome.result.errors:
            print(f"---- nexusd, nexus-vmm and nexus-stream said\n{self.node.log_tail(40)}\n----", file=sys.stderr, flush=True)

    @classmethod
    def run_(cls, *command, **more):
        return cls.node.cri.run(cls.pod, unique("c"), cls.image, list(command), **more)

    def url(self, *command, container=None, **channels):
        return self.node.cri.Exec(container_id=container or self.main, cmd=command,
                                  **(channels or {"stdout": True, "stderr": True})).url

    def sh(self, script, **more):
        return st.remote(self.url("sh", "-c", script), **more)

    def in_guest(self, script):
        return self.node.cri.exec(self.main, "sh", "-c", script, timeout=60)[1].decode()

    # ---- exec

    def test_output_code_and_a_missing_program(self):
        r = self.sh("echo out; echo err >&2; exit 3")
        self.assertEqual((r.out, r.err, r.code), (b"out\n", b"err\n", 3))
        r = st.remote(self.url("/no/such/program"))
        self.assertEqual(r.code, 127)
        self.assertEqual(r.err, b'exec: "/no/such/program": no such file or directory\n')

    def test_stdin_exactly_both_ways(self):
        r = st.remote(self.url("cat", stdin=True, stdout=True), stdin=BIG, stderr=False)
        self.assertEqual((hashlib.sha256(r.out).digest(), r.code), (hashlib.sha256(BIG).digest(), 0))

    def rss_anon(self):
        """KiB of memory of their own, by program; a guest's RAM is not among it."""
        pids = {"nexusd": self.node.pid, "nexus-vmm": self.node.vmm_pids()[0]}
        pids["nexus-stream"] = next(p for p in self.node.processes() if self.node.is_stream_server(p))
        out = {}
        for name, pid in pids.items():
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
            out[name] = int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon:")))
        return out

    def test_much_both_ways(self):
        """The bytes are the same, and nobody on the way keeps them. NEXUS_STREAM_MIB=1024 for more."""
        size, seen = int(os.environ.get("NEXUS_STREAM_MIB", "64")) << 20, []
        with st.Remote(self.url("cat", stdin=True, stdout=True), stdin=True, stderr=False) as r:
            st.pump(r, 4 << 20)
        before, began = self.rss_anon(), time.monotonic()
        with st.Remote(self.url("cat", stdin=True, stdout=True), stdin=True, stderr=False) as r:
            sent, got, count, result = st.pump(r, size, lambda: seen.append(self.rss_anon()), 4 << 20)
        took = time.monotonic() - began
        self.assertEqual((sent, count, result.code), (got, size, 0))
        most = {name: max(s[name] for s in seen) - kib for name, kib in before.items()}
        print(f"{size >> 20} MiB both ways in {took:.1f} s; grown by at most, KiB: {most}", file=sys.stderr, flush=True)
        for name, kib in most.items():
            self.assertLess(kib, 4096, name)

    def test_terminal_with_resize(self):
        url = self.url("sh", "-c", "read a; stty size; read b; stty size; echo $TERM; tty", stdin=True, stdout=True, tty=True)
        with st.Remote(url, stdin=True, tty=True) as r:
            r.resize(100, 40)
            r.write(b"\n")
            r.until(lambda: b"40 100" in r.out())
            r.resize(120, 50)
            r.write(b"\n")
            out = r.finish().out
        self.assertIn(b"50 120\r\nxterm\r\n/dev/pts/", out)

    def test_a_terminal_gets_signals_by_key(self):
        url = self.url("sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done", stdin=True, stdout=True, tty=True)
        with st.Remote(url, stdin=True, tty=True) as r:
            r.until(lambda: b"ready" in r.out())
            r.write(b"\x03")
            result = r.finish()
        self.assertIn(b"caught", result.out)
        self.assertEqual(result.code, 5)

    def test_a_client_that_leaves_ends_all_of_its_command(self):
        with st.Remote(self.url("sh", "-c", "sleep 31337 & echo on; sleep 31337")) as r:
            r.until(lambda: b"on" in r.out())
            self.assertIn("31337", self.in_guest("ps"))
        end = time.monotonic() + 60
        while "31337" in self.in_guest("ps"):
            self.assertLess(time.monotonic(), end)

    def test_nexusd_may_die_meanwhile(self):
        with st.Remote(self.url("cat", stdin=True, stdout=True), stdin=True, stderr=False) as r:
            r.write(b"before ")
            r.until(lambda: r.out() == b"before ")
            self.node.kill9()
            r.write(b"while ")
            r.until(lambda: r.out() == b"before while ")
            self.node.start()
            r.write(b"after", fin=True)
            self.assertEqual(r.finish().out, b"before while after")
        self.assertEqual(self.sh("echo again").out, b"again\n")

    def test_nexus_stream_may_die_meanwhile(self):
        """What was run through it is ended in the guest, what was attached to runs on, and another one is started."""
        pid = next(p for p in self.node.processes() if self.node.is_stream_server(p))
        c = self.run_("sh", "-c", "while read x; do echo $x; done", stdin=True)
        attached = st.Remote(self.node.cri.Attach(container_id=c, stdin=True, stdout=True).url, stdin=True, stderr=False)
        attached.write(b"one\n")
        attached.until(lambda: attached.out() == b"one\n")
        forward = self.forward()
        forward.connect(8080)
        with st.Remote(self.url("sh", "-c", "sleep 31338 & echo on; sleep 31338")) as r:
            r.until(lambda: b"on" in r.out())
            os.kill(pid, signal.SIGKILL)
            for client in (r, attached, forward):
                with self.assertRaises(EOFError):
                    client.until(lambda: False, 30)
                client.close()
        end = time.monotonic() + 60
        while "31338" in self.in_guest("ps"):
            self.assertLess(time.monotonic(), end, "the exec's processes are ended")
        self.assertEqual(self.sh("echo again").out, b"again\n")
        with st.Remote(self.node.cri.Attach(container_id=c, stdin=True, stdout=True).url, stdin=True, stderr=False) as r:
            r.write(b"two\n")
            r.until(lambda: r.out() == b"two\n")
        servers = [p for p in self.node.processes() if self.node.is_stream_server(p)]
        self.assertEqual((len(servers), pid in servers), (1, False))
        self.node.cri.StopContainer(pb.StopContainerRequest(container_id=c, timeout=0))
        self.node.cri.RemoveContainer(container_id=c)

    def test_websocket_v5(self):
        ws = st.websocket(self.url("cat", stdin=True, stdout=True), "v5.channel.k8s.io")
        ws.send_binary(b"\0hello")
        ws.send_binary(b"\xff\0")
        r = st.websocket_finish(ws)
        self.assertEqual((r.out, r.code, r.close_code), (b"hello", 0, 1000))
        ws.close()

    # ---- attach

    def test_attach_to_a_shell(self):
        c = self.run_("sh", stdin=True, stdin_once=True)
        url = self.node.cri.Attach(container_id=c, stdin=True, stdout=True, stderr=True).url
        with st.Remote(url, stdin=True) as r:
            r.write(b"echo -n hello\n")
            r.until(lambda: r.out())
            time.sleep(1)
            self.assertEqual(r.out(), b"hello")
            r.write(b"echo err >&2\n", fin=True)
            result = r.finish()
        self.assertEqual((result.out, result.err, result.status["status"]), (b"hello", b"err\n", "Success"))
        self.assertEqual(self.node.cri.wait_exited(c).exit_code, 0)
        self.node.cri.RemoveContainer(container_id=c)

    def test_attach_to_a_terminal_and_leave(self):
        c = self.run_("sh", stdin=True, tty=True)
        for columns in (91, 92):
            url = self.node.cri.Attach(container_id=c, stdin=True, stdout=True, tty=True).url
            with st.Remote(url, stdin=True, tty=True) as r:
                r.resize(columns, 30)
                r.write(b"stty size\n")
                r.until(lambda r=r, n=columns: b"30 %d" % n in r.out())
        self.assertEqual(self.node.cri.ContainerStatus(container_id=c).status.state, pb.CONTAINER_RUNNING)
        self.node.cri.StopContainer(pb.StopContainerRequest(container_id=c, timeout=0))
        self.node.cri.RemoveContainer(container_id=c)

    # ---- port-forward

    def test_ports_in_channels(self):
        """The older WebSocket form."""
        url = self.node.cri.PortForward(pod_sandbox_id=self.pod[0], port=[8080, 9999]).url
        ws, heard = st.websocket(url, "v4.channel.k8s.io"), {}
        ws.send_binary(b"\0GET /small HTTP/1.0\r\n\r\n")
        while True:
            opcode, data = ws.recv_data()
            if opcode == 8:
                break
            heard[data[0]] = heard.get(data[0], b"") + data[1:]
        ws.close()
        self.assertTrue(heard[0].startswith(b"\x90\x1f") and heard[0].endswith(b"\r\n\r\nfrom the image\n"), heard)
        self.assertEqual(heard[2], b"\x0f\x27")
        self.assertIn(b"Connection refused", heard[3])

    def forward(self):
        return st.Forward(self.node.cri.PortForward(pod_sandbox_id=self.pod[0]).url)

    def get(self, f, port, name):
        error, data = f.connect(port)
        f.send(data, f"GET /{name} HTTP/1.0\r\n\r\n".encode())
        f.until(lambda: data in f.fin)
        f.send(data, b"", fin=True)
        f.until(lambda: error in f.fin)
        self.assertEqual(bytes(f.data[error]), b"")
        return bytes(f.data[data]).partition(b"\r\n\r\n")[2]

    def test_ipv4_and_ipv6_of_the_guest(self):
        with self.forward() as f:
            self.assertEqual(self.get(f, 8080, "small"), b"from the image\n")
            self.assertEqual(self.get(f, 8081, "small"), b"from the image\n")
            self.assertEqual(hashlib.sha256(self.get(f, 8080, "big")).digest(), hashlib.sha256(BIG).digest())

    def test_a_closed_port_ends_alone(self):
        with self.forward() as f:
            error, data = f.connect(9999)
            f.until(lambda: error in f.fin and data in f.reset)
            self.assertIn(b"cannot forward to port 9999 of the pod: Connection refused", bytes(f.data[error]))
            self.assertEqual(self.get(f, 8080, "small"), b"from the image\n")

    def test_many_at_once(self):
        with self.forward() as f:
            pairs = [f.connect(8080 + n % 2) for n in range(40)]
            for _, data in pairs:
                f.send(data, b"GET /small HTTP/1.0\r\n\r\n")
            f.until(lambda: {d for _, d in pairs} <= f.fin, 120)
            for _, data in pairs:
                self.assertTrue(bytes(f.data[data]).endswith(b"\r\n\r\nfrom the image\n"))

    def test_several_clients(self):
        results = []

        def one():
            with self.forward() as f:
                results.append(self.get(f, 8080, "small"))
        threads = [threading.Thread(target=one) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(results, [b"from the image\n"] * 6)


if __name__ == "__main__":
    unittest.main()
