#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""Exec through nexus-stream: what Kubernetes' clients do and everything they may do wrong. nexusd with fake-vmm;
the clients are tests/lib/streaming.py and python3-websocket."""
import base64
import hashlib
import os
import pathlib
import signal
import socket
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from streamcase import Streams, grpc, nodes, st  # noqa: E402

Code = grpc.StatusCode


class Exec(Streams):
    def test_output_and_exit_code(self):
        r = self.run_("sh", "-c", "echo out; echo err >&2; exit 3")
        self.assertEqual((r.out, r.err, r.code), (b"out\n", b"err\n", 3), r)
        self.assertEqual(r.status["message"], "command terminated with non-zero exit code: 3")
        r = self.run_("echo", "fine")
        self.assertEqual((r.out, r.status), (b"fine\n", {"metadata": {}, "status": "Success"}))

    def test_a_missing_program_is_127_with_its_reason(self):
        r = self.run_("no-such-program")
        self.assertEqual(r.code, 127, r)
        self.assertIn(b"no such file", r.err)
        self.assertEqual(self.run_("noexec").code, 126)

    def test_every_protocol_version(self):
        for version in (1, 2, 3, 4):
            r = self.run_("sh", "-c", "echo out; exit 3", version=version)
            self.assertEqual(r.out, b"out\n", version)
            if version < 4:
                self.assertEqual(r.error, b"command terminated with non-zero exit code: 3")
                self.assertEqual(self.run_("true", version=version).error, b"")

    def test_stdin_to_its_end(self):
        data = os.urandom(3_000_000)
        r = self.run_("cat", stdin=data)
        self.assertEqual(hashlib.sha256(r.out).digest(), hashlib.sha256(data).digest())
        self.assertEqual(r.code, 0)
        self.assertEqual(self.run_("cat", stdin=b"").out, b"")

    def test_the_end_comes_while_stdin_is_open(self):
        url = self.url("sh", "-c", "echo hello", stdin=True, stdout=True, tty=True)
        with st.Remote(url, stdin=True, tty=True, netns=self.netns) as r:
            r.resize(80, 24)
            r.resize(0, 0)
            result = r.finish()
            self.assertIn(b"hello", result.out)
            self.assertEqual(result.code, 0)
            r.until(lambda: r.goaway is not None)
            self.assertEqual(r.goaway, 0)
            with self.assertRaises(EOFError):
                r.until(lambda: False)

    def test_pings_are_answered(self):
        url = self.url("cat", stdin=True, stdout=True)
        with st.Remote(url, stdin=True, stderr=False, netns=self.netns) as r:
            for n in range(1, 200, 2):
                r.ping(n)
            r.until(lambda: len(r.pings) == 100)
            r.write(b"x", fin=True)
            self.assertEqual(r.finish().out, b"x")

    def test_bytes_behind_the_request_are_kept(self):
        """A client may speak SPDY without waiting for 101."""
        url = self.url("echo", "quick")
        probe = st.Spdy.__new__(st.Spdy)
        probe.deflate = st.zlib.compressobj(zdict=st.DICTIONARY)
        sent = bytearray()
        probe.sock = type("S", (), {"sendall": lambda _, b: sent.extend(b)})()
        for i, kind in enumerate(("error", "stdout", "stderr")):
            probe.syn(2 * i + 1, {"streamtype": kind})
        s, status, _, rest = st.request(url, st.upgrade_headers("v4.channel.k8s.io"), netns=self.netns, rest=bytes(sent))
        self.assertEqual(status, 101)
        while True:
            more = s.recv(65536)
            if not more:
                break
            rest += more
        self.assertIn(b"quick\n", rest)
        s.close()

    def test_a_large_output_arrives_whole(self):
        r = self.run_("bytes", "20000000")
        self.assertEqual((len(r.out), r.code), (20_000_000, 0))

    def test_many_at_once(self):
        results = []

        def one(n):
            results.append((n, self.run_("sh", "-c", f"echo {n}; exit {n}")))
        threads = [threading.Thread(target=one, args=(n,)) for n in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(sorted((n, r.out, r.code) for n, r in results),
                         [(n, f"{n}\n".encode(), n) for n in range(24)])

    def test_requests_that_are_wrong(self):
        bad = Code.INVALID_ARGUMENT
        self.fails(bad, "tty and stderr", tty=True, stderr=True)
        self.fails(bad, "one of", stdout=False)
        self.fails(bad, "empty", cmd=[])
        self.fails(bad, "empty", cmd=[""])
        self.fails(Code.NOT_FOUND, container_id="0123456789abcdef")
        self.fails(bad, "too long", cmd=["x" * 1_100_000])

    def test_a_container_that_has_ended(self):
        c = self.start_container()
        url = self.node.cri.Exec(container_id=c, cmd=["true"], stdout=True).url
        self.stop_container(c)
        r = st.remote(url, stderr=False, netns=self.netns)
        self.assertEqual(r.status["reason"], "InternalError")
        self.assertIn("not running", r.status["message"])
        with self.assertRaises(grpc.RpcError) as e:
            self.node.cri.Exec(container_id=c, cmd=["true"], stdout=True)
        self.assertEqual(e.exception.code(), Code.FAILED_PRECONDITION)
        self.node.cri.RemoveContainer(container_id=c)

    def test_a_client_that_leaves_ends_the_command(self):
        before = self.fds() if self.node.stream_pids() else None
        url = self.url("sleep", "infinity")
        r = st.Remote(url, netns=self.netns)
        r.ping(1)
        r.until(lambda: r.pings)
        if before is None:
            before = self.fds() - 2
        r.close()
        nodes.wait_for(lambda: self.fds() <= before, why="descriptors of nexus-stream as before")

    def test_a_client_that_does_not_read_stops_the_writer(self):
        url = self.url("yes", "100000000")
        r = st.Remote(url, netns=self.netns)
        self.waits_quietly()
        self.assertEqual(self.run_("echo", "others", "go on").out, b"others go on\n")
        r.until(lambda: len(r.data[r.ids["stdout"]]) > 3_000_000)
        r.close()

    def test_a_command_that_does_not_read_stops_the_client(self):
        url = self.url("sleep", "infinity", stdin=True, stdout=True)
        r = st.Remote(url, stdin=True, stderr=False, netns=self.netns)
        r.sock.setblocking(False)
        sent, last = 0, time.monotonic()
        while time.monotonic() - last < 1:
            try:
                sent += r.sock.send(struct.pack(">II", r.ids["stdin"], 4096) + bytes(4096))
                last = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
            self.assertLess(sent, 100_000_000)
        self.assertEqual(self.run_("echo", "others", "go on").out, b"others go on\n")
        r.close()


class Tokens(Streams):
    def test_a_token_is_good_once(self):
        url = self.url("echo", "x")
        self.assertRegex(url, r"^http://127\.0\.0\.1:\d+/exec/[0-9a-f]{32}$")
        self.assertEqual(st.remote(url, netns=self.netns).out, b"x\n")
        with self.assertRaises(st.Refused) as e:
            st.remote(url, netns=self.netns)
        self.assertEqual(e.exception.status, 404)

    def test_guesses_and_other_paths(self):
        url = self.url("true")
        base, token = url.rpartition("/exec/")[::2]
        for path in ("/exec/" + "0" * 32, "/exec/", "/exec", "/", "/attach/" + token[:-1] + "x", "/exec/../exec/" + token,
                     "/EXEC/" + token, "/exec/" + token + "/", "/exec/" + token[:8]):
            with self.assertRaises(st.Refused) as e:
                st.Spdy(base + path, "v4.channel.k8s.io", netns=self.netns)
            self.assertEqual(e.exception.status, 404, path)
        self.assertEqual(st.remote(url, netns=self.netns).code, 0, "guesses did it no harm")

    def test_a_token_of_another_kind_is_used_up(self):
        base, token = self.url("true").rpartition("/exec/")[::2]
        for route in ("/portforward/", "/exec/"):
            with self.assertRaises(st.Refused) as e:
                st.Spdy(base + route + token, "v4.channel.k8s.io", netns=self.netns)
            self.assertEqual(e.exception.status, 404)

    def test_there_are_never_too_many(self):
        first, n = self.url("true"), 1
        with self.assertRaises(grpc.RpcError) as e:
            while n < 1500:
                self.url("true")
                n += 1
        self.assertEqual(e.exception.code(), Code.RESOURCE_EXHAUSTED)
        self.assertLessEqual(n, 1000)
        self.assertEqual(st.remote(first, netns=self.netns).code, 0)
        self.url("true")
        os.kill(self.stream_pid(), signal.SIGTERM)  # the rest would last a minute
        nodes.wait_for(lambda: not self.node.stream_pids())
        self.assertEqual(self.run_("true").code, 0)


class Handshake(Streams):
    def answer(self, headers, method="POST", url=None):
        s, status, fields, _ = st.request(url or self.url("true"), headers, method, netns=self.netns)
        s.close()
        return status, fields

    def test_refusals(self):
        up = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
        self.assertEqual(self.answer(up)[0], 400)
        status, fields = self.answer([*up, ("X-Stream-Protocol-Version", "v9.channel.k8s.io")])
        self.assertEqual(status, 403)
        self.assertEqual(fields["x-accepted-stream-protocol-versions"],
                         ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
        self.assertEqual(self.answer([])[0], 400)
        self.assertEqual(self.answer(st.upgrade_headers("v4.channel.k8s.io"), "DELETE")[0], 405)
        self.assertEqual(self.answer([*up, ("Content-Length", "5")])[0], 400)
        self.assertEqual(self.answer([("X", "y" * 20000)])[0], 431)

    def test_first_of_the_clients_list(self):
        status, fields = self.answer(st.upgrade_headers("v5.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io"))
        self.assertEqual((status, fields["x-stream-protocol-version"]), (101, ["v3.channel.k8s.io"]))


class BadSpdy(Streams):
    """Each of them ends its own connection; the server goes on and nothing stays behind."""

    def setUp(self):
        self.assertEqual(self.run_("true").code, 0)
        self.pid, self.before = self.stream_pid(), self.fds()

    def tearDown(self):
        nodes.wait_for(lambda: self.fds() <= self.before, why="descriptors of nexus-stream as before")
        self.assertEqual(self.stream_pid(), self.pid)
        self.assertEqual(self.run_("true").code, 0)

    def connect(self, **more):
        return st.Spdy(self.url("cat", stdin=True, stdout=True), "v4.channel.k8s.io", netns=self.netns, **more)

    def ends(self, c, goaway=1):
        with self.assertRaises(EOFError):
            c.until(lambda: False, 20)
        self.assertEqual(c.goaway, goaway)
        c.close()

    def test_bad_zlib(self):
        c = self.connect()
        c.control(st.SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + b"this is no zlib stream")
        self.ends(c)

    def test_wrong_dictionary(self):
        c = self.connect(dictionary=b"another dictionary")
        c.syn(1, {"streamtype": "error"})
        self.ends(c)

    def test_header_bomb(self):
        c = self.connect()
        c.syn(1, {"streamtype": "x" * 10_000_000})
        self.ends(c)

    def test_id_reuse(self):
        c = self.connect()
        c.open({"streamtype": "error"})
        c.syn(1, {"streamtype": "stdin"})
        self.ends(c)

    def test_window_overflow(self):
        c = self.connect()
        sid = c.open({"streamtype": "error"})
        c.control(st.WINDOW_UPDATE, struct.pack(">II", sid, 0x7fffffff))
        c.until(lambda: sid in c.reset)
        self.assertEqual(c.reset[sid], 7)
        c.close()

    def test_ten_thousand_streams(self):
        c = self.connect()
        threading.Thread(target=lambda: [c.syn(2 * i + 1, {"streamtype": "error"}) for i in range(10000)], daemon=True).start()
        c.until(lambda: len(c.reset) == 9999)
        self.assertEqual(set(c.reset.values()), {3})
        c.close()

    def test_data_before_the_reply(self):
        c = self.connect()
        c.syn(1, {"streamtype": "error"})
        c.syn(3, {"streamtype": "stdin"})
        c.send(3, b"early")
        self.ends_without_word(c)

    def ends_without_word(self, c):
        with self.assertRaises(EOFError):
            c.until(lambda: False, 20)
        c.close()

    def test_reset_storm(self):
        c = self.connect()
        for i in range(10000):
            c.syn(2 * i + 1, {"streamtype": "error"})
            c.rst(2 * i + 1)
        c.ping(1)
        c.until(lambda: c.pings)
        c.close()

    def test_garbage(self):
        for seed in range(20):
            c = self.connect()
            c.sock.sendall(hashlib.sha512(bytes([seed])).digest() * 100)
            c.sock.shutdown(socket.SHUT_WR)
            self.ends_without_word(c)

    def test_no_streams_at_all_and_gone(self):
        for _ in range(20):
            self.connect().close()


class WebSocket(Streams):
    def connect(self, *protocols, command=("cat",), **channels):
        channels = channels or {"stdin": True, "stdout": True, "stderr": True}
        return st.websocket(self.url(*command, **channels), *protocols, netns=self.netns)

    def test_v5_with_half_close(self):
        ws = self.connect("v5.channel.k8s.io", "v4.channel.k8s.io")
        self.assertEqual(ws.getsubprotocol(), "v5.channel.k8s.io")
        self.assertEqual(ws.recv_data(), (2, b"\1"), "an empty message on the lowest channel comes first")
        ws.send_binary(b"\0hello ")
        ws.send_binary(b"\0world")
        ws.send_binary(b"\xff\0")
        r = st.websocket_finish(ws)
        self.assertEqual((r.out, r.code, r.close_code), (b"hello world", 0, 1000), r)
        ws.close()

    def test_v4(self):
        ws = self.connect("v4.channel.k8s.io", command=("sh", "-c", "echo out; echo err >&2; exit 3"), stdout=True, stderr=True)
        r = st.websocket_finish(ws)
        self.assertEqual((r.out, r.err, r.code, r.close_code), (b"out\n", b"err\n", 3, 1000), r)
        ws.close()

    def test_base64(self):
        ws = self.connect("v4.base64.channel.k8s.io", command=("echo", "text"), stdout=True)
        got = {}
        while True:
            opcode, data = ws.recv_data()
            if opcode == 8:
                break
            self.assertEqual(opcode, 1)
            got[data[:1]] = got.get(data[:1], b"") + base64.b64decode(data[1:])
        self.assertEqual(got[b"1"], b"text\n")
        self.assertIn(b"Success", got[b"3"])
        ws.close()

    def test_ping_and_large_messages(self):
        ws = self.connect("v5.channel.k8s.io")
        data = os.urandom(1_000_000)

        def write():
            for at in range(0, len(data), 50_000):
                ws.send_binary(b"\0" + data[at:at + 50_000])
                ws.ping(b"x")
            ws.send_binary(b"\xff\0")
        t = threading.Thread(target=write)
        t.start()
        r = st.websocket_finish(ws)
        t.join()
        self.assertEqual((hashlib.sha256(r.out).digest(), r.code), (hashlib.sha256(data).digest(), 0))
        ws.close()

    def raw(self, frame):
        """Sends bytes as they are; the close code that comes."""
        ws = self.connect("v4.channel.k8s.io")
        ws.sock.sendall(frame)
        code = st.websocket_finish(ws).close_code
        ws.close()
        return code

    def test_rules_that_are_broken(self):
        for name, frame, code in (
                ("unmasked", b"\x82\x02\0x", 1002), ("huge", b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"\0" * 4, 1009),
                ("bad close code", b"\x88\x82\0\0\0\0\x03\xed", 1002), ("bad utf-8", b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007),
                ("reserved bits", b"\xf2\x80\0\0\0\0", 1002), ("a close", b"\x88\x82\0\0\0\0\x03\xe8", 1000)):
            self.assertEqual(self.raw(frame), code, name)
        self.assertEqual(self.run_("true").code, 0)


class Life(Streams):
    def test_it_survives_nexusd(self):
        url = self.url("cat", stdin=True, stdout=True)
        r = st.Remote(url, stdin=True, stderr=False, netns=self.netns)
        pid, later = self.stream_pid(), self.url("echo", "later")
        r.write(b"before ")
        self.node.restart()
        type(self).cri = self.node.cri
        r.write(b"after", fin=True)
        self.assertEqual(r.finish().out, b"before after")
        r.close()
        self.assertEqual(st.remote(later, netns=self.netns).out, b"later\n", "its token stayed good")
        self.assertEqual(self.run_("echo", "again").out, b"again\n")
        self.assertEqual(self.stream_pid(), pid, "the same one was found")

    def test_nexusd_starts_another_when_it_is_gone(self):
        self.assertEqual(self.run_("true").code, 0)
        for sig in (signal.SIGKILL, signal.SIGTERM):
            pid = self.stream_pid()
            os.kill(pid, sig)
            nodes.wait_for(lambda: not nodes.alive(pid))
            self.assertEqual(self.run_("echo", "x").out, b"x\n")
            self.assertNotEqual(self.stream_pid(), pid)

    def test_it_has_no_rights(self):
        self.assertEqual(self.run_("true").code, 0)
        status = pathlib.Path(f"/proc/{self.stream_pid()}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["Seccomp"] == "0":
            self.skipTest("a sanitizer build is not confined")
        self.assertEqual((fields["NoNewPrivs"], fields["Seccomp"], fields["CapEff"], fields["CapBnd"]),
                         ("1", "2", "0" * 16, "0" * 16))


class Idle(unittest.TestCase):
    def test_a_silent_client_is_left(self):
        with nodes.Node(config={"stream": {"idle_timeout": "1s"}}) as node:
            pod = node.cri.run_pod("idle", log_directory=str(node.logs / "idle"))
            c = node.cri.run(pod, "c", nodes.IMAGE, ["sleep", "infinity"])
            url = node.cri.Exec(container_id=c, cmd=["cat"], stdin=True, stdout=True).url
            with st.Remote(url, stdin=True, stderr=False, netns=node.holder.pid) as r:
                began = time.monotonic()
                with self.assertRaises(EOFError):
                    r.until(lambda: False, 60)
                self.assertGreater(time.monotonic() - began, 0.9)
            busy = st.Remote(node.cri.Exec(container_id=c, cmd=["cat"], stdin=True, stdout=True).url, stdin=True, stderr=False,
                             netns=node.holder.pid)
            for n in range(1, 20, 2):
                time.sleep(0.2)
                busy.ping(n)
            busy.until(lambda: len(busy.pings) == 10)
            busy.close()
            node.cri.remove_pod(pod[0])


if __name__ == "__main__":
    unittest.main()
