#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
# cost: 30
"""Streaming with TLS: who may come in, what is refused, and certificates that change. The client is Python's ssl."""
import hashlib
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from streamcase import Streams, grpc, nodes, st  # noqa: E402
from authority import Authority, openssl  # noqa: E402

NEXUS_STREAM = nodes.BUILD / "src/stream/nexus-stream"


class Tls(Streams):
    client_ca = False

    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-tls-"))
        cls.authority = Authority(cls.dir, "authority")
        cls.other = Authority(cls.dir, "other")
        cls.certificate, cls.key = cls.authority.issue("server")
        cls.install("server")
        cls.config = {"stream": {"tls_certificate": str(cls.dir / "now.pem"), "tls_key": str(cls.dir / "now.key"),
                                 **({"tls_client_ca": str(cls.authority.path)} if cls.client_ca else {})}}
        try:
            super().setUpClass()
        except BaseException:
            shutil.rmtree(cls.dir)
            raise

    @classmethod
    def tearDownClass(cls):
        try:
            super().tearDownClass()
        finally:
            shutil.rmtree(cls.dir)

    @classmethod
    def install(cls, name):
        """As an agent that renews certificates does it: each file replaced, one after the other."""
        for kind in ("pem", "key"):
            shutil.copy(cls.dir / f"{name}.{kind}", cls.dir / f"new.{kind}")
            os.replace(cls.dir / f"new.{kind}", cls.dir / f"now.{kind}")

    def setUp(self):
        st.TLS = self.authority.trust()

    def raw(self, url=None):
        u = urllib.parse.urlsplit(url or self.url("true"))
        return st.tcp(u.hostname, u.port, self.netns)

    def serial(self):
        s = st.connect(urllib.parse.urlsplit(self.url("true")), self.netns)
        number = s.getpeercert()["serialNumber"]
        s.close()
        return number

    def said(self, text):
        nodes.wait_for(lambda: text in self.node.log(), why=text)


class Server(Tls):
    def test_exec_both_ways(self):
        url = self.url("cat", stdin=True, stdout=True)
        self.assertRegex(url, r"^https://127\.0\.0\.1:\d+/exec/[0-9a-f]{32}$")
        data = os.urandom(3_000_000)
        r = st.remote(url, stdin=data, stderr=False, netns=self.netns)
        self.assertEqual((hashlib.sha256(r.out).digest(), r.code), (hashlib.sha256(data).digest(), 0))
        r = self.run_("sh", "-c", "echo out; echo err >&2; exit 3")
        self.assertEqual((r.out, r.err, r.code), (b"out\n", b"err\n", 3))

    def test_both_versions_and_no_older_one(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            st.TLS = self.authority.trust()
            st.TLS.minimum_version = st.TLS.maximum_version = version
            self.assertEqual(self.run_("echo", "x").out, b"x\n")
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            old = self.authority.trust()
            old.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                old.minimum_version = ssl.TLSVersion.TLSv1
                old.maximum_version = version
            with self.raw() as s, self.assertRaisesRegex(ssl.SSLError, "PROTOCOL_VERSION"):
                old.wrap_socket(s, server_hostname="127.0.0.1")
        self.said("TLS handshake failed: unsupported protocol")

    def test_a_client_that_trusts_another_authority(self):
        st.TLS = self.other.trust()
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.run_("true")
        self.said("TLS handshake failed:")

    def test_plain_http_is_told_so(self):
        s = self.raw()
        s.sendall(b"GET /exec/x HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = st.read_all(s)
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
        self.assertTrue(answer.endswith(b"this port speaks HTTPS\n"), answer)
        s.close()

    def test_garbage_and_silence(self):
        before = self.fds()
        socks = [self.raw() for _ in range(20)]
        for i, s in enumerate(socks):
            if i % 2:
                s.sendall(hashlib.sha512(bytes([i])).digest() * 50)
        self.assertEqual(self.run_("echo", "others", "go on").out, b"others go on\n")
        started = time.monotonic()
        socks[0].settimeout(30)
        self.assertEqual(socks[0].recv(100), b"", "the handshake has a time limit")
        self.assertLess(time.monotonic() - started, 20)
        for s in socks:
            s.close()
        nodes.wait_for(lambda: self.fds() <= before, why="descriptors of nexus-stream as before")

    def test_more_than_may_come_have_to_wait(self):
        """512 that say nothing: the next one is served when they are left."""
        url = self.url("echo", "x")
        socks = [self.raw(url) for _ in range(530)]
        self.assertEqual(st.remote(url, netns=self.netns).out, b"x\n")
        for s in socks:
            s.close()

    def test_a_new_certificate_is_used_without_a_restart(self):
        first, pid = self.serial(), self.stream_pid()
        url = self.url("cat", stdin=True, stdout=True)
        with st.Remote(url, stdin=True, stderr=False, netns=self.netns) as r:
            r.write(b"before ")
            r.until(lambda: r.out() == b"before ")
            self.authority.issue("second")
            self.install("second")
            second = self.serial()
            self.assertNotEqual(first, second)
            r.write(b"after", fin=True)
            self.assertEqual(r.finish().out, b"before after", "a session keeps what it began with")
        # one that does not fit: the old one stays, until the rest of it is there
        self.authority.issue("third")
        shutil.copy(self.dir / "third.pem", self.dir / "now.pem")
        self.assertEqual(self.serial(), second)
        self.said("keeps the one it had: the key cannot be used: key values mismatch")
        shutil.copy(self.dir / "third.key", self.dir / "now.key")
        third = self.serial()
        self.assertNotIn(third, (first, second))
        os.unlink(self.dir / "now.pem")
        self.assertEqual(self.serial(), third)
        self.said("now.pem: No such file")
        self.assertEqual(self.stream_pid(), pid)
        self.install("server")
        self.assertEqual(self.serial(), first)
        # nexusd is started again, and finds the same server
        self.node.restart()
        self.assertEqual(self.serial(), first)
        self.assertEqual(self.stream_pid(), pid)
        # and a new server gets it, too
        os.kill(pid, signal.SIGKILL)
        nodes.wait_for(lambda: not self.node.stream_pids())
        nodes.wait_for(self.reached, why="a new nexus-stream")
        self.assertEqual(self.serial(), first)

    def reached(self):
        try:
            return self.url("true")
        except grpc.RpcError:
            return None

    def test_websocket_and_port_forward(self):
        ws = st.websocket(self.url("cat", stdin=True, stdout=True), "v5.channel.k8s.io", netns=self.netns)
        ws.send_binary(b"\0hello")
        ws.send_binary(b"\xff\0")
        r = st.websocket_finish(ws)
        self.assertEqual((r.out, r.code), (b"hello", 0))
        content = os.urandom(2_000_000)
        with st.Forward(self.node.cri.PortForward(pod_sandbox_id=self.pod[0]).url, netns=self.netns) as f:
            _, sid = f.connect(7)
            t = threading.Thread(target=lambda: f.send(sid, content[:300_000], fin=True))
            t.start()
            t.join()
            f.until(lambda: sid in f.fin)
            self.assertEqual(bytes(f.data[sid]), content[:300_000])

    def test_a_client_that_does_not_read_stops_the_command(self):
        r = st.Remote(self.url("bytes", "100000000"), netns=self.netns)
        self.waits_quietly()
        self.assertEqual(self.run_("echo", "others", "go on").out, b"others go on\n")
        r.close()

    def test_the_end_of_a_session_is_said(self):
        s = st.connect(urllib.parse.urlsplit(self.url("true")), self.netns)
        s.sendall(b"GET /exec/none HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = st.read_all(s)
        self.assertTrue(answer.startswith(b"HTTP/1.1 404 "), answer)
        s.close()


class Clients(Tls):
    client_ca = True

    def test_who_shows_a_certificate_comes_in(self):
        st.TLS.load_cert_chain(*self.authority.issue("client"))
        self.assertEqual(self.run_("echo", "x").out, b"x\n")

    def test_who_shows_none_or_anothers_does_not(self):
        foreign = self.other.issue("foreign")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for certificate in (None, foreign):
                st.TLS = self.authority.trust()
                st.TLS.maximum_version = version
                if certificate:
                    st.TLS.load_cert_chain(*certificate)
                with self.assertRaisesRegex(ssl.SSLError, "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|UNKNOWN_CA"):
                    self.run_("true")
        self.said("TLS handshake failed: peer did not return a certificate")
        self.said("TLS handshake failed: certificate verify failed")


class Start(unittest.TestCase):
    """What nexusd says before it serves."""

    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-tls-"))
        cls.authority = Authority(cls.dir, "authority")
        cls.certificate, cls.key = cls.authority.issue("server")
        cls.foreign = cls.authority.issue("foreign")[1]
        (cls.dir / "garbage").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        (cls.dir / "empty").write_text("")
        (cls.dir / "large").write_bytes(bytes(100_000))
        shutil.copy(cls.key, cls.dir / "open.key")
        os.chmod(cls.dir / "open.key", 0o644)
        openssl("pkey", "-in", str(cls.key), "-aes128", "-passout", "pass:x", "-out", str(cls.dir / "locked.key"))
        os.chmod(cls.dir / "locked.key", 0o600)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def check(self, certificate=None, key=None, ca=None, program=NEXUS_STREAM):
        config = self.dir / "nexusd.yaml"
        config.write_text(f"stream:\n  program: {program}\n  tls_certificate: {certificate or self.certificate}\n"
                          f"  tls_key: {key or self.key}\n" + (f"  tls_client_ca: {ca}\n" if ca else ""))
        r = subprocess.run([nodes.NEXUSD, "--config", config, "--check-config"], capture_output=True, text=True, timeout=60,
                           check=False)
        return r.returncode, r.stdout + r.stderr

    def test_good_files(self):
        for ca in (None, self.authority.path):
            self.assertEqual(self.check(ca=ca), (0, "the configuration is good\n"))

    def test_bad_files(self):
        d = self.dir
        for words, text in (
                ({"certificate": d / "none"}, "none: No such file or directory"), ({"certificate": d / "garbage"}, "the certificate cannot be used"),
                ({"certificate": d / "empty"}, "the certificate cannot be used"), ({"certificate": d}, f"{d}: Invalid argument"),
                ({"certificate": d / "large"}, "large: File too large"), ({"key": d / "none"}, "none: No such file"),
                ({"key": self.certificate}, "everybody can read"), ({"key": self.foreign}, "the key cannot be used: key values mismatch"),
                ({"key": d / "open.key"}, "everybody can read"), ({"key": d / "locked.key"}, "the key cannot be used"),
                ({"ca": d / "none"}, "none: No such file"), ({"ca": d / "empty"}, "empty is empty"),
                ({"ca": d / "garbage"}, "the client certificate authority cannot be used"),
                ({"program": "/nonexistent/nexus-stream"}, "/nonexistent/nexus-stream cannot check it: No such file")):
            with self.subTest(text):
                code, said = self.check(**words)
                self.assertEqual(code, 1)
                self.assertIn(text, said)

    def test_nexusd_does_not_start(self):
        node = nodes.Node(config={"stream": {"tls_certificate": str(self.dir / "none"), "tls_key": str(self.key)}})
        try:
            with self.assertRaisesRegex(AssertionError, "none: No such file"):
                node.start()
        finally:
            node.close()

    def test_another_address_and_from_plain_to_tls(self):
        """A server that does not fit any more keeps its clients; new ones come to a new server."""
        node = nodes.Node()
        try:
            node.start()
            pod = node.cri.run_pod("p", log_directory=str(node.logs / "p"))
            c = node.cri.create(pod, "c", nodes.IMAGE, ["sleep", "infinity"])
            node.cri.StartContainer(container_id=c)
            netns = node.holder.pid
            url = node.cri.Exec(container_id=c, cmd=["cat"], stdin=True, stdout=True).url
            self.assertTrue(url.startswith("http://127.0.0.1:"))
            with st.Remote(url, stdin=True, stderr=False, netns=netns) as r:
                node.extra["stream"] = {"address": "::1", "tls_certificate": str(self.certificate), "tls_key": str(self.key)}
                node.restart()
                url = node.cri.Exec(container_id=c, cmd=["echo", "x"], stdout=True).url
                self.assertTrue(url.startswith("https://[::1]:"), url)
                st.TLS = self.authority.trust()
                self.assertEqual(st.remote(url, stderr=False, netns=netns).out, b"x\n")
                r.write(b"still here", fin=True)
                self.assertEqual(r.finish().out, b"still here")
            node.cri.remove_pod(pod[0])
        finally:
            node.close()


del Tls, Streams  # bases


if __name__ == "__main__":
    unittest.main()
