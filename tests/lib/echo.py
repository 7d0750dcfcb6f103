# SPDX-License-Identifier: Apache-2.0
"""Runs tests/fakes/grpc-echo for a test case, and speaks raw HTTP/2 to it where a well-behaved client
would not. Needs nothing but a built tree."""
import os
import pathlib
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

from cri import ROOT, Cri

BUILD = pathlib.Path(os.environ.get("NEXUS_BUILD", ROOT / "build/host"))
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS, ACK = 1, 4, 1


class EchoCase(unittest.TestCase):
    """self.path: the socket; self.client: a grpcio client; self.proc: the server."""
    fd_limit = 0

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="grpc-test-")
        self.addCleanup(self.dir.cleanup)
        self.path = f"{self.dir.name}/s.sock"
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (self.fd_limit,) * 2)) if self.fd_limit else None
        self.proc = subprocess.Popen([BUILD / "tests/fakes/grpc-echo", self.path], stdout=subprocess.PIPE,
                                     preexec_fn=limit)
        self.assertEqual(self.proc.stdout.readline(), b"ready\n")
        self.client = Cri(f"unix:{self.path}", timeout=30)
        self.addCleanup(self.stop)
        self.addCleanup(self.client.close)

    def stop(self):
        """The server is alive, and its exit is clean whatever the test did (leaks included)."""
        self.client.close()
        self.assertIsNone(self.proc.poll(), "the server died")
        self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(30)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            self.proc.stdout.close()
            raise
        self.proc.stdout.close()
        self.assertEqual(code, 0)

    def info(self):
        return {k: int(v) for k, v in self.client.Status(verbose=True).info.items()}

    def wait_info(self, wanted, seconds=20):
        """Until the server's counters satisfy wanted(info)."""
        end = time.monotonic() + seconds
        while not wanted(i := self.info()):
            self.assertLess(time.monotonic(), end, f"counters stay {i}")
            time.sleep(0.02)
        return i

    def rss(self):
        fields = pathlib.Path(f"/proc/{self.proc.pid}/status").read_text().split("\n")
        return next(int(f.split()[1]) for f in fields if f.startswith("VmRSS")) * 1024

    def assert_rss_below(self, limit):
        if "libasan" not in pathlib.Path(f"/proc/{self.proc.pid}/maps").read_text():  # its shadow counts too
            self.assertLess(self.rss(), limit)


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """An HPACK field without indexing; no Huffman."""
    def string(s):
        s = s.encode("latin-1") if isinstance(s, str) else s
        n, out = len(s), b""
        if n < 127:
            out = bytes([n])
        else:
            out, n = b"\x7f", n - 127
            while n >= 128:
                out, n = out + bytes([n % 128 + 128]), n // 128
            out += bytes([n])
        return out + s
    return b"\0" + string(name) + string(value)


def headers(path="/runtime.v1.RuntimeService/Version", drop=(), extra=(), **change):
    """A good request's header block, with changes: method="GET", drop=[":path"], extra=[(name, value)]."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
              ("te", "trailers"), ("content-type", "application/grpc")]
    known = {"method": ":method", "scheme": ":scheme", "authority": ":authority", "content_type": "content-type",
             "te": "te"}
    swap = {known[k]: v for k, v in change.items()}
    return b"".join(literal(n, swap.get(n, v)) for n, v in fields if n not in drop) + \
        b"".join(literal(n, v) for n, v in extra)


def message(data=b"", flag=0, length=None):
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


class Raw:
    """A client that sends what it is told. recv_frames() parses what comes back."""

    def __init__(self, path, preface=True, settings=b""):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.got = b""
        if preface:
            self.send(PREFACE + frame(SETTINGS, payload=settings))

    def send(self, data):
        self.sock.sendall(data)

    def try_send(self, data):
        """False when the server is gone."""
        try:
            self.sock.sendall(data)
            return True
        except OSError:
            return False

    def request(self, stream, block=None, body=None, end=True):
        block = headers() if block is None else block
        body = message() if body is None else body
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end and not body else 0), stream, block) +
                  (frame(DATA, END_STREAM if end else 0, stream, body) if body else b""))

    def recv_frame(self):
        """(type, flags, stream, payload); None at the end of the connection."""
        while True:
            if len(self.got) >= 9:
                size = int.from_bytes(self.got[:3], "big")
                if len(self.got) >= 9 + size:
                    kind, flags, stream = struct.unpack(">BBI", self.got[3:9])
                    payload, self.got = self.got[9:9 + size], self.got[9 + size:]
                    return kind, flags, stream & 0x7fffffff, payload
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.got += data

    def until(self, wanted):
        """Frames up to and with the first that satisfies wanted(kind, flags, stream, payload), or to the end."""
        out = []
        while (f := self.recv_frame()) is not None:
            out.append(f)
            if wanted(*f):
                return out
        return out + [None]

    def answer(self, stream):
        """("reset", code) or (fields of the answer's headers and trailers, body); ("closed", None)."""
        fields, body = {}, b""
        while (f := self.recv_frame()) is not None:
            kind, flags, s, payload = f
            if s != stream:
                continue
            if kind == RST_STREAM:
                return "reset", int.from_bytes(payload, "big")
            if kind == HEADERS:
                fields.update(decode(payload, self))
            elif kind == DATA:
                body += payload
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                return fields, body
        return "closed", None

    def close(self):
        self.sock.close()


STATIC = {8: (":status", "200"), 12: (":status", "400"), 13: (":status", "404"), 14: (":status", "500")}
NAMES = {8: ":status", 31: "content-type"}


def decode(block, conn):
    """Enough HPACK for what nghttp2 sends in an answer: indexed and literal fields, no Huffman tables
    beyond digits and letters being absent: Huffman strings are returned raw as bytes."""
    table = conn.__dict__.setdefault("table", [])
    out, i = {}, 0

    def integer(bits):
        nonlocal i
        mask = (1 << bits) - 1
        n = block[i] & mask
        i += 1
        if n == mask:
            shift = 0
            while True:
                n += (block[i] & 127) << shift
                shift += 7
                i += 1
                if not block[i - 1] & 128:
                    break
        return n

    def string():
        nonlocal i
        huffman = block[i] & 128
        n = integer(7)
        s = block[i:i + n]
        i += n
        return unhuffman(s) if huffman else s.decode("latin-1")

    def name_of(n):
        return NAMES[n] if n <= 61 else table[n - 62][0]

    while i < len(block):
        b = block[i]
        if b & 128:
            n = integer(7)
            k, v = STATIC[n] if n <= 61 else table[n - 62]
        elif b & 64:
            n = integer(6)
            k = name_of(n) if n else string()
            v = string()
            table.insert(0, (k, v))
        elif b & 32:
            integer(5)
            continue
        else:
            n = integer(4)
            k = name_of(n) if n else string()
            v = string()
        out[k] = v
    return out


# RFC 7541, appendix B: code and length of the printable characters
HUFFMAN = {}
for char, code, bits in (
        (32, 0x14, 6), (33, 0x3f8, 10), (34, 0x3f9, 10), (35, 0xffa, 12), (36, 0x1ff9, 13), (37, 0x15, 6),
        (38, 0xf8, 8), (39, 0x7fa, 11), (40, 0x3fa, 10), (41, 0x3fb, 10), (42, 0xf9, 8), (43, 0x7fb, 11),
        (44, 0xfa, 8), (45, 0x16, 6), (46, 0x17, 6), (47, 0x18, 6), (48, 0x0, 5), (49, 0x1, 5), (50, 0x2, 5),
        (51, 0x19, 6), (52, 0x1a, 6), (53, 0x1b, 6), (54, 0x1c, 6), (55, 0x1d, 6), (56, 0x1e, 6), (57, 0x1f, 6),
        (58, 0x5c, 7), (59, 0xfb, 8), (60, 0x7ffc, 15), (61, 0x20, 6), (62, 0xffb, 12), (63, 0x3fc, 10),
        (64, 0x1ffa, 13), (65, 0x21, 6), (66, 0x5d, 7), (67, 0x5e, 7), (68, 0x5f, 7), (69, 0x60, 7), (70, 0x61, 7),
        (71, 0x62, 7), (72, 0x63, 7), (73, 0x64, 7), (74, 0x65, 7), (75, 0x66, 7), (76, 0x67, 7), (77, 0x68, 7),
        (78, 0x69, 7), (79, 0x6a, 7), (80, 0x6b, 7), (81, 0x6c, 7), (82, 0x6d, 7), (83, 0x6e, 7), (84, 0x6f, 7),
        (85, 0x70, 7), (86, 0x71, 7), (87, 0x72, 7), (88, 0xfc, 8), (89, 0x73, 7), (90, 0xfd, 8), (91, 0x1ffb, 13),
        (92, 0x7fff0, 19), (93, 0x1ffc, 13), (94, 0x3ffc, 14), (95, 0x22, 6), (96, 0x7ffd, 15), (97, 0x3, 5),
        (98, 0x23, 6), (99, 0x4, 5), (100, 0x24, 6), (101, 0x5, 5), (102, 0x25, 6), (103, 0x26, 6), (104, 0x27, 6),
        (105, 0x6, 5), (106, 0x74, 7), (107, 0x75, 7), (108, 0x28, 6), (109, 0x29, 6), (110, 0x2a, 6), (111, 0x7, 5),
        (112, 0x2b, 6), (113, 0x76, 7), (114, 0x2c, 6), (115, 0x8, 5), (116, 0x9, 5), (117, 0x2d, 6), (118, 0x77, 7),
        (119, 0x78, 7), (120, 0x79, 7), (121, 0x7a, 7), (122, 0x7b, 7), (123, 0x7ffe, 15), (124, 0x7fc, 11),
        (125, 0x3ffd, 14), (126, 0x1ffd, 13)):
    HUFFMAN[(code, bits)] = chr(char)


def unhuffman(data):
    out, code, bits = "", 0, 0
    for byte in data:
        for k in range(7, -1, -1):
            code, bits = code << 1 | byte >> k & 1, bits + 1
            if (code, bits) in HUFFMAN:
                out, code, bits = out + HUFFMAN[(code, bits)], 0, 0
    return out
