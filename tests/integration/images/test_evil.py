# SPDX-License-Identifier: Apache-2.0
# cost: 30
"""nexus-pull against a registry that lies, cuts, stalls and snoops (tests/fakes/registry-evil.py). Whatever it
does: an answer of the right class, nothing left behind, little memory, no credential in the wrong place."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

sys.path[:0] = [str(pathlib.Path(__file__).parent)]
import imagelib  # noqa: E402

PEAK_BYTES = 64 << 20
AUTH = {"username": "user", "password": "secret"}


class Evil(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="nexus-evil-")
        key, cert = cls.tmp.name + "/key", cls.tmp.name + "/cert"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                        key, "-out", cert, "-days", "2", "-subj", "/CN=evil", "-addext", "subjectAltName=IP:127.0.0.1"],
                       check=True, stderr=subprocess.DEVNULL)
        cls.ca_pem = pathlib.Path(cert).read_text()
        cls.server = subprocess.Popen(["/usr/bin/python3", imagelib.ROOT / "tests/fakes/registry-evil.py", "--tls", cert, key],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        cls.address, cls.other, cls.secure = cls.server.stdout.readline().split()

    @classmethod
    def tearDownClass(cls):
        cls.server.stdin.close()
        cls.server.wait(timeout=30)
        cls.server.stdout.close()
        cls.tmp.cleanup()

    def setUp(self):
        self.logged = 0
        self.logged = len(self.log())

    def log(self):
        with urllib.request.urlopen(f"http://{self.address}/_log", timeout=30) as r:
            return json.load(r)[self.logged:]

    def pull(self, way, reference=None, **kw):
        self.store = imagelib.Store()
        self.addCleanup(self.store.close)
        if "endpoints" not in kw:
            kw["endpoint"] = f"http://{self.address}"
        o = self.store.pull(f"{self.address}/{reference or way}", **kw)
        self.assertEqual(o.code, 0 if o.image else 1, o.lines)
        self.assertEqual(self.store.leftovers(), [])
        self.assertLess(o.peak_bytes, PEAK_BYTES)
        return o

    def good(self, way, **kw):
        o = self.pull(way, **kw)
        self.assertIsNone(o.error)
        _, content = self.store.read(o.image)
        self.assertEqual(len(content(b"hello")), 300_000)
        return o

    def bad(self, way, cls, word="", **kw):
        o = self.pull(way, **kw)
        self.assertIsNotNone(o.error, o.lines)
        self.assertEqual(o.error["class"], cls, o.error)
        self.assertIn(word, o.error["message"])
        self.assertNotIn("secret", json.dumps(o.lines))
        self.assertFalse([f for f in self.store.files() if f.endswith(".erofs")])
        return o

    def test_good(self):
        self.good("good")

    def test_certificates_are_checked(self):
        url = f"https://{self.secure}"
        self.bad("good", "denied", "certificate", endpoints=[{"url": url}])
        self.good("good", endpoints=[{"url": url, "ca_pem": self.ca_pem}])
        self.bad("redirect-plain", "denied", "not allowed", endpoints=[{"url": url, "ca_pem": self.ca_pem}])
        other = url.replace("127.0.0.1", "localhost")  # not in the certificate
        self.bad("good", "denied", "certificate", endpoints=[{"url": other, "ca_pem": self.ca_pem}])

    def test_a_host_without_an_address(self):
        """Asked again, and then the next one; as with any host that is not there."""
        nowhere = {"url": "https://registry.invalid"}
        self.bad("good", "unavailable", "resolve host", endpoints=[nowhere])
        self.good("good", endpoints=[nowhere, {"url": f"http://{self.address}"}])

    def test_what_talks_to_registries_has_given_everything_up(self):
        store = imagelib.Store()
        self.addCleanup(store.close)
        p = store.start(f"{self.address}/slow", f"http://{self.address}")
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        for line in p.stdout:  # until it reads the layer
            if json.loads(line).get("state") == "start":
                break
        children = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()
        self.assertEqual(len(children), 3)
        for pid in (p.pid, *children):
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
            status = dict(x.split(":\t", 1) for x in text.splitlines() if ":\t" in x)
            # without root there is nothing to give up, and the bounding set cannot be changed
            for key in ("CapInh", "CapPrm", "CapEff", "CapAmb", *(["CapBnd"] if os.getuid() == 0 else [])):
                self.assertEqual(int(status[key], 16), 0, f"{pid} {key}")
            sanitized = imagelib.is_sanitized(imagelib.PULL)
            self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "0" if sanitized else "2"))
            limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
            self.assertRegex(limits, r"Max core file size +0 +0")
            if not sanitized:
                self.assertNotRegex(limits, r"Max address space +unlimited")
        # a socket, stderr, and while it works three more; root alone sees them of a process without core dumps
        for pid in children if os.getuid() == 0 else []:
            self.assertLessEqual(len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())), 5)
        p.kill()
        p.wait()
        end = time.monotonic() + 10
        while any(pathlib.Path(f"/proc/{pid}").exists() for pid in children):
            self.assertLess(time.monotonic(), end, "converters end with their nexus-pull")
            time.sleep(0.01)

    # ---- transfers that break ----
    def test_cut_transfers_are_resumed_where_they_broke(self):
        self.good("cut")
        ranges = [x["range"] for x in self.log() if "/blobs/" in x["path"] and x["range"]]
        self.assertEqual(ranges, [f"bytes={n * 65536}-" for n in range(1, 5)])

    def test_a_server_that_begins_again_is_followed(self):
        self.good("cut-no-range")

    def test_transfers_that_always_break_end_after_five_tries(self):
        o = self.bad("cut-for-ever", "unavailable", "5 times")
        self.assertTrue(o.error["message"].startswith("RegistryUnavailable"))
        self.assertEqual(len([x for x in self.log() if "/blobs/" in x["path"]]), 6)  # config and five

    def test_resuming_at_the_wrong_byte(self):
        self.bad("wrong-range", "invalid", "wrong byte")

    def test_too_long(self):
        self.bad("too-long", "invalid", "longer than")

    def test_too_short(self):
        self.bad("too-short", "unavailable")

    # ---- lies ----
    def test_wrong_bytes(self):
        self.bad("wrong-bytes", "invalid", "digest")

    def test_wrong_config(self):
        self.bad("config-lies", "invalid", "digest")

    def test_wrong_manifest_for_a_digest(self):
        o = self.bad("manifest-lies", "invalid", "digest", reference="manifest-lies@sha256:" + "0" * 64)
        self.assertIn("0" * 64, o.error["message"])

    def test_lies_in_manifests(self):
        for way, cls in (("diff-id", "invalid"), ("foreign", "unsupported"), ("schema1", "unsupported"),
                         ("size-negative", "invalid"), ("size-huge", "invalid"), ("size-low", "invalid"),
                         ("size-high", "unavailable"), ("size-missing", "invalid"), ("more-layers", "invalid"),
                         ("no-such-blob", "not-found"), ("twice", "invalid"), ("text", "invalid"), ("empty", "invalid"),
                         ("deep", "exhausted"), ("wide", "exhausted"), ("index-3", "unsupported"), ("confused", "invalid"),
                         ("layers-10000", "exhausted"), ("config-huge", "invalid"), ("not-a-tar", "invalid"),
                         ("cut-gzip", "invalid")):
            with self.subTest(way=way):
                self.bad(way, cls)

    def test_urls_of_a_layer_are_not_followed(self):
        self.good("file-url")

    def test_an_index_in_an_index(self):
        self.good("index-2")

    # ---- size and time ----
    def test_a_manifest_of_100_megabytes(self):
        self.bad("manifest-huge", "exhausted")

    def test_a_bomb(self):
        self.bad("bomb", "exhausted", "times its size")

    def test_headers_without_end(self):
        self.bad("headers-for-ever", "unavailable")

    def test_garbage_for_an_answer(self):
        self.bad("garbage", "unavailable")

    def test_one_byte_a_second(self):
        self.bad("slow", "unavailable", "too slow", low_speed_s=1)

    def test_no_answer_at_all(self):
        self.bad("hang", "unavailable", "too slow", low_speed_s=1)

    # ---- status ----
    def test_too_many_requests_are_waited_out(self):
        self.good("busy")
        self.good("broken")

    def test_too_many_requests_for_ever(self):
        self.bad("busy-for-ever", "unavailable", "429")
        self.bad("broken-for-ever", "unavailable", "500")
        self.bad("forbidden", "denied", "slow down")

    # ---- redirects ----
    def test_five_redirects_are_enough(self):
        self.good("redirect-5")
        self.bad("redirect-6", "internal", "redirects")
        self.bad("redirect-circle", "internal", "redirects")

    def test_redirects_to_places_that_are_not_registries(self):
        self.bad("redirect-file", "denied")
        self.bad("redirect-metadata", "unavailable")

    def test_credentials_do_not_follow_a_redirect(self):
        for way in ("redirect-away", "redirect-away-token"):
            with self.subTest(way=way):
                self.setUp()
                self.good(way, auth=AUTH)
                away = [x for x in self.log() if x["host"] == self.other]
                self.assertEqual(len(away), 1)
                self.assertIsNone(away[0]["auth"])

    # ---- authentication ----
    def test_basic(self):
        self.good("auth-basic", auth=AUTH)
        self.good("auth-basic", auth={"auth": "dXNlcjpzZWNyZXQ="})
        self.assertNotIn("Basic", str([x["auth"] for x in self.log()][:1]), "not before it is asked for")
        self.bad("auth-basic", "denied", "no credentials")
        self.bad("auth-basic", "denied", "wrong credentials", auth={"username": "user", "password": "wrong-secret"})

    def test_token(self):
        self.good("auth-token", auth=AUTH)
        asked = [x for x in self.log() if x["path"].startswith("/token/")]
        self.assertEqual(len(asked), 1, "one token for all requests")
        self.assertIn("scope=repository%3Aauth-token%3Apull", asked[0]["path"], "our scope, not the registry's wish")
        self.bad("auth-token", "denied")

    def test_token_for_anyone_and_renewed(self):
        self.good("auth-anyone")
        self.good("auth-expires")

    def test_identity_and_registry_tokens(self):
        self.good("auth-token", auth={"identity_token": "refresh-me"})
        posted = [x for x in self.log() if x["body"]]
        self.assertEqual(len(posted), 1)
        self.assertIn("grant_type=refresh_token", posted[0]["body"])
        self.assertIn("refresh_token=refresh-me", posted[0]["body"])
        self.good("auth-token", auth={"registry_token": "good-token"})

    def test_credentials_are_not_sent_to_a_foreign_realm(self):
        self.bad("auth-foreign", "denied", "foreign token service", auth=AUTH)
        for x in self.log():
            if x["host"] == self.other:
                self.assertIsNone(x["auth"])

    def test_credentials_are_not_sent_to_a_mirror(self):
        store = imagelib.Store()
        self.addCleanup(store.close)
        o = store.pull("registry.example.org/auth-basic", auth=AUTH,
                            endpoints=[{"url": f"http://{self.address}", "credentials": False}])
        self.assertEqual(o.error["class"], "denied")
        self.assertEqual([x["auth"] for x in self.log() if x["auth"]], [])

    def test_authentication_that_never_ends(self):
        self.bad("auth-loop", "denied", auth=AUTH)
        self.assertLess(len(self.log()), 10)

    def test_odd_challenges_and_tokens(self):
        for way, cls in (("auth-huge-token", "exhausted"), ("auth-newline-token", "invalid"),
                         ("auth-no-token", "invalid"), ("auth-huge-realm", "exhausted"),
                         ("auth-file-realm", "denied"), ("auth-odd", "denied")):
            with self.subTest(way=way):
                self.bad(way, cls, auth=AUTH)


if __name__ == "__main__":
    unittest.main()
