# SPDX-License-Identifier: Apache-2.0
"""Clients of nexus-stream, written from the protocols' texts and not from ours: SPDY/3.1 as kubelet speaks it
(no flow control), remote commands, port-forward; WebSocket by python3-websocket.

    r = remote(url, stdin=b"hello")     # r.out, r.err, r.status, r.code
    with Forward(url) as f: s = f.connect(80); s.send(b"GET /"); s.recv()

netns: a pid in whose network namespace the connection is made.
TLS: the ssl.SSLContext with which https URLs are opened."""
import ctypes
import hashlib
import json
import os
import select
import socket
import struct
import threading
import time
import urllib.parse
import zlib

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN = 1

_WORDS = """options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
authorization cache-control connection content-base content-encoding content-language content-length content-location
content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range
if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after
server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status""".split() + [
    "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
_REST = (b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
         b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
         b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
         b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
         b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
         b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.")
DICTIONARY = b"".join(struct.pack(">I", len(w)) + w.encode() for w in _WORDS) + _REST
assert zlib.adler32(DICTIONARY) == 0xe3c6a7c2


TLS = None


def connect(u, netns=None):
    """A socket to the host of a split URL, with TLS where it says so."""
    s = tcp(u.hostname, u.port, netns)
    if u.scheme != "https":
        return s
    try:
        return TLS.wrap_socket(s, server_hostname=u.hostname)
    except BaseException:
        s.close()
        raise


def read_all(s):
    """What comes until the other side ends it. With TLS an end without its last word raises."""
    answer = b""
    while more := s.recv(4096):
        answer += more
    return answer


def tcp(host, port, netns=None, timeout=60):
    """A connected socket; in the network namespace of process netns."""
    out = []

    def make():
        try:
            if netns:
                fd = os.open(f"/proc/{netns}/ns/net", os.O_RDONLY)
                if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(fd)
            out.append(socket.create_connection((host, port), timeout))
        except OSError as e:
            out.append(e)
    t = threading.Thread(target=make)  # setns is the thread's
    t.start()
    t.join()
    if isinstance(out[0], OSError):
        raise out[0]
    return out[0]


def request(url, headers, method="POST", netns=None, rest=b""):
    """Sends one request head (and rest behind it). Socket, status, headers (lower case, lists), bytes behind."""
    u = urllib.parse.urlsplit(url)
    s = connect(u, netns)
    lines = [f"{method} {u.path}{'?' + u.query if u.query else ''} HTTP/1.1", f"Host: {u.netloc}"]
    lines += [f"{k}: {v}" for k, v in headers]
    try:
        s.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + rest)
        return (s, *read_head(s))
    except BaseException:
        s.close()
        raise


def read_head(s):
    data = b""
    while b"\r\n\r\n" not in data:
        more = s.recv(4096)
        if not more:
            raise EOFError(f"no answer: {data!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = {}
    for line in lines[1:]:
        k, _, v = line.partition(":")
        fields.setdefault(k.strip().lower(), []).append(v.strip())
    return int(lines[0].split()[1]), fields, rest


def upgrade_headers(*protocols):
    return [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), *[("X-Stream-Protocol-Version", p) for p in protocols]]


class Refused(Exception):
    def __init__(self, status, fields, body):
        super().__init__(f"{status}: {body}")
        self.status, self.fields, self.body = status, fields, body


class Spdy:
    """One connection. What comes is kept: data[id], fin (ids), reset {id: status}, goaway (status or None)."""

    def __init__(self, url, *protocols, netns=None, method="POST", dictionary=DICTIONARY):
        self.sock, status, fields, self.raw = request(url, upgrade_headers(*protocols), method, netns)
        if status != 101:
            body = self.raw
            while True:
                more = self.sock.recv(4096)
                if not more:
                    break
                body += more
            self.sock.close()
            raise Refused(status, fields, body.decode())
        self.raw = bytearray(self.raw)  # what is taken off its front costs nothing
        self.protocol = fields["x-stream-protocol-version"][0]
        self.deflate = zlib.compressobj(zdict=dictionary) if dictionary else zlib.compressobj()
        self.inflate = zlib.decompressobj(zdict=DICTIONARY)
        self.next_id = 1
        self.replied, self.data, self.fin, self.reset, self.pings = set(), {}, set(), {}, []
        self.sinks = {}  # id → who gets its bytes, which are not kept then
        self.goaway, self.eof = None, False

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- out

    def control(self, kind, payload, flags=0):
        self.sock.sendall(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload)

    def syn(self, sid, headers, flags=0):
        block = struct.pack(">I", len(headers))
        for k, v in headers.items():
            block += struct.pack(">I", len(k)) + k.encode() + struct.pack(">I", len(v)) + v.encode()
        block = self.deflate.compress(block) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        self.control(SYN_STREAM, struct.pack(">IIBB", sid, 0, 0, 0) + block, flags)

    def open(self, headers, flags=0, wait=True):
        sid, self.next_id = self.next_id, self.next_id + 2
        self.data[sid] = bytearray()
        self.syn(sid, headers, flags)
        if wait:
            self.until(lambda: sid in self.replied or sid in self.reset)
        return sid

    def send(self, sid, data, fin=False):
        view = memoryview(data)
        while len(view) > 65536:
            self.sock.sendall(struct.pack(">II", sid, 65536) + view[:65536])
            view = view[65536:]
        self.sock.sendall(struct.pack(">II", sid, (FIN if fin else 0) << 24 | len(view)) + view)

    def rst(self, sid, status=5):
        self.control(RST_STREAM, struct.pack(">II", sid, status))

    def ping(self, number):
        self.control(PING, struct.pack(">I", number))

    # ---- in

    def frame(self):
        if len(self.raw) < 8:
            return False
        head, tail = struct.unpack(">II", self.raw[:8])
        flags, n = tail >> 24, tail & 0xffffff
        if len(self.raw) < 8 + n:
            return False
        body = bytes(self.raw[8:8 + n])
        del self.raw[:8 + n]
        if not head >> 31:
            self.sinks.get(head, self.data.setdefault(head, bytearray()).extend)(body)
            if flags & FIN:
                self.fin.add(head)
            return True
        assert head >> 16 == 0x8003, f"version of a control frame: {head:x}"
        kind = head & 0xffff
        if kind == SYN_REPLY:
            block = self.inflate.decompress(body[4:])
            assert block[:4] == b"\0\0\0\0", block
            self.replied.add(struct.unpack(">I", body[:4])[0])
        elif kind == RST_STREAM:
            sid, status = struct.unpack(">II", body)
            self.reset[sid] = status
        elif kind == PING:
            self.pings.append(struct.unpack(">I", body)[0])
        elif kind == GOAWAY:
            self.goaway = struct.unpack(">II", body)[1]
        else:
            raise AssertionError(f"a control frame of type {kind}")
        return True

    def read(self, timeout):
        """Takes what is here within timeout. False: nothing came."""
        waiting = getattr(self.sock, "pending", lambda: 0)()
        if not waiting and not select.select([self.sock], [], [], timeout)[0]:
            return False
        try:
            got = self.sock.recv(1 << 20)
        except ConnectionResetError:
            got = b""
        self.eof = not got
        self.raw += got
        while self.frame():
            pass
        return bool(got)

    def until(self, what, seconds=60):
        end = time.monotonic() + seconds
        while not what():
            if self.eof:
                raise EOFError("the server has closed the connection")
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s")
            self.read(0.5)


class Result:
    def __init__(self, out, err, error):
        self.out, self.err, self.error = bytes(out), bytes(err), bytes(error)
        self.status = json.loads(self.error) if self.error[:1] == b"{" else None
        self.code = None
        if self.status:
            self.code = 0 if self.status["status"] == "Success" else None
            if self.status.get("reason") == "NonZeroExitCode":
                self.code = int(self.status["details"]["causes"][0]["message"])

    def __repr__(self):
        return f"Result(out={self.out[:200]!r}, err={self.err[:200]!r}, error={self.error!r})"


class Remote(Spdy):
    """A remote command: its streams are open when this returns."""

    def __init__(self, url, stdin=False, stdout=True, stderr=True, tty=False, version=4, netns=None):
        super().__init__(url, "channel.k8s.io" if version == 1 else f"v{version}.channel.k8s.io", netns=netns)
        self.ids = {}
        kinds = [("error", True), ("stdin", stdin), ("stdout", stdout), ("stderr", stderr and not tty),
                 ("resize", tty and version >= 3)]
        for kind, wanted in kinds:
            if wanted:
                self.ids[kind] = self.open({"streamtype": kind})

    def write(self, data, fin=False):
        self.send(self.ids["stdin"], data, fin)

    def resize(self, width, height):
        self.send(self.ids["resize"], json.dumps({"Width": width, "Height": height}).encode())

    def out(self):
        return bytes(self.data[self.ids["stdout"]])

    def finish(self, seconds=120):
        """Waits as client-go does: for the end of the output, then for the error stream."""
        outs = [self.ids[k] for k in ("stdout", "stderr", "error") if k in self.ids]
        self.until(lambda: all(i in self.fin for i in outs), seconds)
        out, err, error = (self.data[self.ids[k]] if k in self.ids else b"" for k in ("stdout", "stderr", "error"))
        return Result(out, err, error)


def remote(url, stdin=None, **more):
    """Runs it to its end; stdin: bytes, written from a second thread."""
    with Remote(url, stdin=stdin is not None, **more) as r:
        writer = None
        if stdin is not None:
            writer = threading.Thread(target=_write_all, args=(r, stdin), daemon=True)
            writer.start()
        result = r.finish()
        if writer:
            writer.join(10)
        return result


def pump(r, size, meanwhile=lambda: None, block=1 << 20):
    """Writes size bytes to stdin while it reads stdout to its end: digests of what was sent and what came, and how much.
    No block is like another; none is kept. meanwhile: called with each that came."""
    sent, got, count, failed = hashlib.sha256(), hashlib.sha256(), [0], []

    def write():
        data, left = bytearray(os.urandom(block)), size
        try:
            while left:
                data[:8] = struct.pack(">Q", left)
                part = memoryview(data)[:min(left, block)]
                left -= len(part)
                sent.update(part)
                r.write(part, fin=left == 0)
        except OSError as e:
            failed.append(e)

    def take(part):
        got.update(part)
        if count[0] // block != (count[0] + len(part)) // block:
            meanwhile()
        count[0] += len(part)
    r.sinks[r.ids["stdout"]] = take
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    result = r.finish(600)
    writer.join(60)
    if failed:
        raise failed[0]
    return sent.hexdigest(), got.hexdigest(), count[0], result


def _write_all(r, data):
    try:
        r.write(data, fin=True)
    except OSError:
        pass  # the command ended first


class Forward(Spdy):
    """A port-forward connection."""

    def __init__(self, url, netns=None):
        super().__init__(url, "portforward.k8s.io", netns=netns)
        self.requests = 0

    def connect(self, port):
        """(error id, data id) of a new pair."""
        headers = {"port": str(port), "requestid": str(self.requests)}
        self.requests += 1
        error = self.open({"streamtype": "error", **headers})
        self.send(error, b"", fin=True)
        return error, self.open({"streamtype": "data", **headers})


def websocket(url, *protocols, netns=None):
    """A connection of python3-websocket."""
    import websocket as library
    u = urllib.parse.urlsplit(url)
    query = f"?{u.query}" if u.query else ""
    return library.create_connection(f"ws://{u.netloc}{u.path}{query}", subprotocols=list(protocols) or None, timeout=60,
                                     socket=connect(u, netns))


class SocketResult(Result):
    def __init__(self, channels, close_code):
        super().__init__(channels.get(1, b""), channels.get(2, b""), channels.get(3, b""))
        self.close_code = close_code


def websocket_finish(ws):
    """Reads to the close; output by channel. Binary subprotocols."""
    channels = {}
    while True:
        opcode, data = ws.recv_data()
        if opcode == 8:
            ws.shutdown()
            return SocketResult(channels, struct.unpack(">H", data[:2])[0] if data else None)
        if data:
            channels[data[0]] = channels.get(data[0], b"") + data[1:]
