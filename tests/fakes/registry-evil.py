#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that misbehaves, one way per repository: /v2/<way>/… on loopback. Prints its two addresses (the
second is "another host" to clients: 127.0.0.2; with --tls CERT KEY a third speaks https), then serves until
stdin ends. GET /_log: the requests so far as
JSON, with their Authorization and Range headers."""
import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import socketserver
import ssl
import sys
import tarfile
import threading
import time
import urllib.parse

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TOKEN = "good-token"
USER = "Basic " + base64.b64encode(b"user:secret").decode()
LOG, BLOBS, STATE = [], {}, {}
LOCK = threading.Lock()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob(data, media, **extra):
    BLOBS[digest(data)] = data
    return {"mediaType": media, "digest": digest(data), "size": len(data), **extra}


def tar(files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as t:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def dump(doc):
    return json.dumps(doc).encode()


def image(contents, /, diff_ids=None, **override):
    """Manifest bytes for contents [(stored, plain)]; override replaces keys of the manifest."""
    conf = {"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(p) for _, p in contents]}}
    doc = {"schemaVersion": 2, "mediaType": MANIFEST, "config": blob(dump(conf), "application/vnd.oci.image.config.v1+json"),
           "layers": [blob(s, LAYER + ("+gzip" if s is not p else "")) for s, p in contents], **override}
    return dump(doc)


PLAIN = tar([("hello", random.Random(1).randbytes(300_000))])  # the same in each run, and hard to pack
GOOD = image([(PLAIN, PLAIN)])
LAYER_DIGEST = digest(PLAIN)
BOMB = gzip.compress(bytes(128 << 20), 6)  # zeros, a thousand to one


def layer_with(**changes):
    d = {"mediaType": LAYER, "digest": LAYER_DIGEST, "size": len(PLAIN)}
    return image([(PLAIN, PLAIN)], layers=[{**d, **changes}])


def nested(depth):
    body, media = GOOD, MANIFEST
    for _ in range(depth):
        desc = blob(body, media, platform={"os": "linux", "architecture": "amd64"})
        body, media = dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": [desc]}), INDEX
    return body


MANIFESTS = {  # bodies that lie; anything else is GOOD
    "bomb": image([(BOMB, b"whatever")]),
    "diff-id": image([(PLAIN, PLAIN)], diff_ids=[digest(b"other")]),
    "foreign": layer_with(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                          urls=["http://169.254.169.254/"]),
    "file-url": layer_with(urls=["file:///etc/passwd"]),
    "schema1": dump({"schemaVersion": 1, "name": "x", "fsLayers": []}),
    "size-negative": layer_with(size=-1),
    "size-huge": layer_with(size=1 << 62),
    "size-low": layer_with(size=1000),
    "size-high": layer_with(size=len(PLAIN) + 1),
    "size-missing": layer_with(size=None),
    "more-layers": image([(PLAIN, PLAIN)], layers=[blob(PLAIN, LAYER)] * 2),
    "no-such-blob": layer_with(digest="sha256:" + "1" * 64),
    "twice": GOOD[:-1] + b',"layers":[]}',
    "text": b"hello",
    "empty": b"",
    "deep": b'{"a":' * 100000 + b"1" + b"}" * 100000,
    "wide": b'{"schemaVersion":2,"manifests":[' + b"{}," * 1_000_000 + b"{}]}",
    "index-2": nested(2),
    "index-3": nested(3),
    "confused": GOOD,
    "layers-10000": image([(PLAIN, PLAIN)], layers=[blob(PLAIN, LAYER)] * 10000),
    "config-huge": image([(PLAIN, PLAIN)], config=blob(b'{"x":"' + b"y" * (5 << 20) + b'"}', "x")),
    "not-a-tar": image([(b"this is no tar at all" * 1000, b"this is no tar at all" * 1000)]),
    "cut-gzip": image([(gzip.compress(PLAIN)[:-100], PLAIN)]),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 300

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=None, length=None):
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def drop(self):
        self.close_connection = True

    def count(self, key):
        with LOCK:
            STATE[key] = STATE.get(key, 0) + 1
            return STATE[key]

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.note(body.decode())
        self.answer(200, dump({"access_token": TOKEN}))

    def note(self, body=""):
        with LOCK:
            LOG.append({"host": self.headers.get("Host"), "path": self.path, "auth": self.headers.get("Authorization"),
                        "range": self.headers.get("Range"), "body": body})

    def do_GET(self):
        if self.path == "/_log":
            with LOCK:
                self.answer(200, dump(LOG))
            return
        self.note()
        try:
            self.route()
        except (BrokenPipeError, ConnectionResetError):
            self.drop()

    def route(self):
        path = urllib.parse.urlsplit(self.path).path
        parts = path.strip("/").split("/")
        if parts[0] == "token":
            self.token(parts[1])
        elif parts[0] == "v2" and len(parts) >= 4:
            way, kind, name = parts[1], parts[2], parts[3]
            hook = getattr(self, "way_" + way.replace("-", "_"), None)
            if hook is None or not hook(kind, name):
                self.honest(way, kind, name)
        else:
            self.answer(404)

    def honest(self, way, kind, name):
        if kind == "manifests":
            body = BLOBS.get(name) if name.startswith("sha256:") else MANIFESTS.get(way, GOOD)
            if body is None and name == digest(GOOD):
                body = GOOD
            self.answer(200 if body is not None else 404, body or b"", {"Content-Type": "" if way == "index-2" else MANIFEST
                                                                        if b'"manifests"' not in (body or b"")[:200] else INDEX})
            return
        data = BLOBS.get(name)
        start = self.start()
        if data is None:
            self.answer(404, dump({"errors": [{"message": "blob unknown"}]}))
        elif start:
            self.answer(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        else:
            self.answer(200, data)

    def start(self):
        value = self.headers.get("Range", "")
        return int(value[6:].split("-")[0]) if value.startswith("bytes=") else 0

    def piece(self, data, start, n):
        """n bytes of what is announced whole, then the connection breaks."""
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:start + n])
        self.wfile.flush()
        self.drop()

    # ---- blobs ----
    def way_cut(self, kind, name):  # every 64 KiB
        if name != LAYER_DIGEST:
            return False
        self.piece(PLAIN, self.start(), 65536)
        return True

    def way_cut_for_ever(self, kind, name):
        if name != LAYER_DIGEST:
            return False
        self.piece(PLAIN, self.start(), 10)
        return True

    def way_cut_no_range(self, kind, name):  # begins again from the start
        if name != LAYER_DIGEST:
            return False
        self.piece(PLAIN, 0, 100_000 if self.count("cut-no-range") == 1 else len(PLAIN))
        return True

    def way_wrong_range(self, kind, name):
        if name != LAYER_DIGEST:
            return False
        if not self.start():
            self.piece(PLAIN, 0, 100_000)
        else:
            self.answer(206, PLAIN[5:], {"Content-Range": f"bytes 5-{len(PLAIN) - 1}/{len(PLAIN)}"})
        return True

    def way_wrong_bytes(self, kind, name):
        if name != LAYER_DIGEST:
            return False
        self.answer(200, PLAIN[:1000] + b"!" + PLAIN[1001:])
        return True

    def way_too_long(self, kind, name):
        if name != LAYER_DIGEST:
            return False
        self.answer(200, PLAIN + b"more")
        return True

    def way_too_short(self, kind, name):  # orderly, again and again
        if name != LAYER_DIGEST:
            return False
        self.answer(200, b"")
        return True

    def way_config_lies(self, kind, name):
        if kind != "blobs" or name == LAYER_DIGEST:
            return False
        data = BLOBS[name]
        self.answer(200, data.replace(b"amd64", b"amd46"))
        return True

    def way_manifest_lies(self, kind, name):
        if kind != "manifests":
            return False
        self.answer(200, GOOD + b" ", {"Content-Type": MANIFEST, "Docker-Content-Digest": digest(GOOD)})
        return True

    def way_confused(self, kind, name):
        if kind != "manifests":
            return False
        self.answer(200, GOOD, {"Content-Type": INDEX})
        return True

    # ---- size and time ----
    def way_manifest_huge(self, kind, name):
        self.send_response(200)
        self.send_header("Content-Length", str(100 << 20))
        self.end_headers()
        for _ in range(1600):
            self.wfile.write(b" " * 65536)
        return True

    def way_headers_for_ever(self, kind, name):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(200_000):
            self.wfile.write(b"X-%d: %s\r\n" % (n, b"y" * 1000))
        self.drop()
        return True

    def way_garbage(self, kind, name):
        self.wfile.write(os.urandom(1000))
        self.drop()
        return True

    def way_slow(self, kind, name):
        if name != LAYER_DIGEST:
            return False
        self.send_response(200)
        self.send_header("Content-Length", str(len(PLAIN)))
        self.end_headers()
        for b in PLAIN:
            self.wfile.write(bytes([b]))
            self.wfile.flush()
            time.sleep(1)
        return True

    def way_hang(self, kind, name):
        time.sleep(100)
        self.drop()
        return True

    # ---- status ----
    def busy(self, status, times, headers):
        if self.count(self.path) > times:
            return False
        self.answer(status, dump({"errors": [{"message": "slow down"}]}), headers)
        return True

    def way_busy(self, kind, name):
        return self.busy(429, 2, {"Retry-After": "1"})

    def way_busy_for_ever(self, kind, name):
        return self.busy(429, 10**6, {})

    def way_broken(self, kind, name):
        return self.busy(503, 2, {})

    def way_broken_for_ever(self, kind, name):
        return self.busy(500, 10**6, {"Retry-After": "0"})

    def way_forbidden(self, kind, name):
        return self.busy(403, 10**6, {})

    # ---- redirects ----
    def redirect(self, to):
        self.answer(302, b"", {"Location": to})
        return True

    def hops(self, kind, name, n):
        if name != LAYER_DIGEST:
            return False
        left = int(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)).get("left", n))
        if left:
            return self.redirect(urllib.parse.urlsplit(self.path).path + f"?left={left - 1}")
        return False

    def way_redirect_5(self, kind, name):
        return self.hops(kind, name, 5)

    def way_redirect_6(self, kind, name):
        return self.hops(kind, name, 6)

    def way_redirect_circle(self, kind, name):
        return self.redirect(self.path)

    def way_redirect_file(self, kind, name):
        return self.redirect("file:///etc/passwd") if name == LAYER_DIGEST else False

    def way_redirect_plain(self, kind, name):  # from https down to http
        return self.redirect(f"http://127.0.0.2:1/{name}") if name == LAYER_DIGEST else False

    def way_redirect_metadata(self, kind, name):
        return self.redirect("http://169.254.169.254/latest/meta-data") if name == LAYER_DIGEST else False

    def way_redirect_away(self, kind, name):  # behind Basic authentication, to another host
        if self.headers.get("Authorization") != USER:
            return self.challenge('Basic realm="x"')
        if name == LAYER_DIGEST:
            return self.redirect(f"http://127.0.0.2:{self.server.server_port}/v2/good/blobs/{name}")
        return False

    def way_redirect_away_token(self, kind, name):
        if self.headers.get("Authorization") != "Bearer " + TOKEN:
            return self.challenge(f'Bearer realm="{self.realm("basic")}"')
        if name == LAYER_DIGEST:
            return self.redirect(f"http://127.0.0.2:{self.server.server_port}/v2/good/blobs/{name}")
        return False

    # ---- authentication ----
    def challenge(self, text):
        self.answer(401, b"", {"WWW-Authenticate": text})
        return True

    def realm(self, kind, host=None):
        return f"http://{host or '127.0.0.1'}:{self.server.server_port}/token/{kind}"

    def token(self, kind):
        auth = self.headers.get("Authorization")
        if kind == "huge":
            self.answer(200, b'{"token":"' + b"x" * (10 << 20) + b'"}')
        elif kind == "newline":
            self.answer(200, dump({"token": "a\r\nX-Evil: 1"}))
        elif kind == "nothing":
            self.answer(200, b"{}")
        elif kind == "anyone" or auth == USER:
            self.answer(200, dump({"token": TOKEN}))
        else:
            self.answer(401)

    def needs_token(self, kind, host=None, extra=""):
        if self.headers.get("Authorization") == "Bearer " + TOKEN:
            return False
        return self.challenge(f'Bearer realm="{self.realm(kind, host)}",service="s",scope="everything"{extra}')

    def way_auth_basic(self, kind, name):
        return False if self.headers.get("Authorization") == USER else self.challenge('Basic realm="x"')

    def way_auth_token(self, kind, name):
        return self.needs_token("basic")

    def way_auth_anyone(self, kind, name):
        return self.needs_token("anyone")

    def way_auth_foreign(self, kind, name):
        return self.needs_token("basic", "127.0.0.2")

    def way_auth_loop(self, kind, name):
        return self.challenge(f'Bearer realm="{self.realm("anyone")}"')

    def way_auth_huge_token(self, kind, name):
        return self.needs_token("huge")

    def way_auth_newline_token(self, kind, name):
        return self.needs_token("newline")

    def way_auth_no_token(self, kind, name):
        return self.needs_token("nothing")

    def way_auth_huge_realm(self, kind, name):
        return self.needs_token("x" * (1 << 20))

    def way_auth_file_realm(self, kind, name):
        return self.challenge('Bearer realm="file:///etc/passwd"')

    def way_auth_odd(self, kind, name):
        return self.challenge("Negotiate")

    def way_auth_expires(self, kind, name):  # the first blob request is refused once more
        if name == LAYER_DIGEST and self.count("expires") == 1:
            return self.challenge(f'Bearer realm="{self.realm("anyone")}"')
        return self.needs_token("anyone")


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients hang up on us, rightly


def main():
    server = Server(("127.0.0.1", 0), Handler)
    port = server.server_port
    servers = [server, Server(("127.0.0.2", port), Handler)]
    if sys.argv[1:2] == ["--tls"]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[2], sys.argv[3])
        secure = Server(("127.0.0.1", 0), Handler)
        secure.socket = tls.wrap_socket(secure.socket, server_side=True)
        servers.append(secure)
    for s in servers:
        threading.Thread(target=s.serve_forever, daemon=True).start()
    print(*(f"{s.server_address[0]}:{s.server_port}" for s in servers), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
