# SPDX-License-Identifier: Apache-2.0
"""What a person does with crictl on a node, and that what it shows makes sense. Beside a fake VM (test_crictl.py here)
and with a real one (e2e/test_crictl.py). Who inherits sets node, image, logs; crictl is made by tests/conformance/build."""
import base64
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
CRICTL = ROOT / "build/conformance/bin/crictl"
ID = re.compile(r"[0-9a-f]{64}")


class Follower:
    """A crictl that goes on; what it says is collected. end: a signal, its output."""

    def __init__(self, command, tty=False):
        self.text, self.master = b"", None
        if tty:
            self.master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
            self.proc = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
            os.close(slave)
            self.out = self.master
        else:
            self.proc = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.out = self.proc.stdout.fileno()

    def write(self, data):
        os.write(self.master if self.master is not None else self.proc.stdin.fileno(), data)

    def until(self, what, seconds=60):
        end = time.monotonic() + seconds
        while what not in self.text:
            if time.monotonic() > end:
                raise AssertionError(f"{what!r} not within {seconds} s: {self.text!r}")
            if select.select([self.out], [], [], 0.2)[0]:
                try:
                    more = os.read(self.out, 65536)
                except OSError:  # a terminal whose other end is closed
                    more = b""
                if not more:
                    if what in self.text:
                        break
                    raise AssertionError(f"it ended before {what!r}: {self.text!r}")
                self.text += more
        return self.text.decode(errors="replace")

    def end(self, how=signal.SIGINT):
        self.proc.send_signal(how)
        return self.wait()

    def wait(self, seconds=30):
        if self.proc.stdin and not self.proc.stdin.closed:
            with contextlib.suppress(OSError):
                self.proc.stdin.close()
        try:
            return self.proc.wait(seconds)
        finally:
            if self.proc.poll() is None:
                self.proc.kill()
                self.proc.wait()
            if self.proc.stdout:
                self.proc.stdout.close()
            if self.master is not None:
                os.close(self.master)
                self.master = None


@unittest.skipUnless(CRICTL.exists(), "crictl is not built (tests/conformance/build, needs Go)")
class Crictl(unittest.TestCase):
    maxDiff = None
    front = ()  # what enters the node's network

    @classmethod
    def write_config(cls, socket):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-crictl-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        (cls.dir / "crictl.yaml").write_text(f"runtime-endpoint: unix://{socket}\nimage-endpoint: unix://{socket}\ntimeout: 120\n")

    def command(self, *args):
        return [*self.front, str(CRICTL), "--config", str(self.dir / "crictl.yaml"), *args]

    def crictl(self, *args, fails=False):
        """Its output; an error fails the test, or (fails) is what it returns."""
        r = subprocess.run(self.command(*args), capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(r.returncode != 0, fails, f"crictl {' '.join(args)}: {r.stdout}{r.stderr}")
        if fails:
            return r.stdout + r.stderr
        for bad in ("unknown", "Unknown", "<nil>", "1970-", "years ago"):
            self.assertNotIn(bad, r.stdout, args)
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", r.stdout).strip()

    def json(self, *args):
        return json.loads(self.crictl(*args))

    def follow(self, *args, **more):
        return Follower(self.command(*args), **more)

    def row(self, text, first):
        """The fields of the line that begins with first, by the heading above them."""
        lines = text.splitlines()
        heads = re.split(r"\s{2,}", lines[0].strip())
        line = next(l for l in lines if l.startswith(first))
        return dict(zip(heads, re.split(r"\s{2,}", line.strip())))

    def file(self, name, content):
        path = self.dir / name
        path.write_text(json.dumps(content))
        return str(path)


class Pods(Crictl):
    """One pod from its beginning to its end; the steps are one test each, in the order of their names."""
    labels = {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "prod"}

    def forwarded(self, port):
        """What one learns through a forwarded local port."""
        raise NotImplementedError

    @classmethod
    def begin(cls):
        if "pod" in cls.__dict__:
            return
        self = cls("begin_")
        cls.events = self.follow("events")
        time.sleep(1)
        config = self.file("pod.json", {
            "metadata": {"name": "web", "namespace": "prod", "uid": "u-1", "attempt": 1}, "hostname": "web",
            "log_directory": str(cls.logs / "web"), "labels": {"app": "web"}, "annotations": {"a": "b"}, "linux": {"resources": {}}})
        ctr = self.file("ctr.json", {
            "metadata": {"name": "main", "attempt": 2}, "image": {"image": cls.image}, "command": ["cat"], "stdin": True,
            "log_path": "main/2.log", "labels": cls.labels,
            "linux": {"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_quota": 50000, "cpu_period": 100000, "cpu_shares": 512},
                      "security_context": {"namespace_options": {"pid": 1}}}})
        cls.pod = self.crictl("runp", "--runtime", "nexus-vmm", config)
        cls.ctr = self.crictl("create", "--no-pull", cls.pod, ctr, config)
        cls.pod_config = config

    def begin_(self):
        pass

    def setUp(self):
        type(self).begin()

    def test_1_it_begins(self):
        self.assertRegex(self.pod, ID)
        self.assertRegex(self.ctr, ID)
        self.assertNotIn(self.ctr[:13], self.crictl("ps"))
        row = self.row(self.crictl("ps", "-a"), self.ctr[:13])
        self.assertEqual((row["STATE"], row["NAME"], row["ATTEMPT"], row["POD ID"], row["POD"], row["NAMESPACE"]),
                         ("Created", "main", "2", self.pod[:13], "web", "prod"))
        self.assertEqual(self.crictl("start", self.ctr[:12]), self.ctr[:12])
        row = self.row(self.crictl("ps"), self.ctr[:13])
        self.assertEqual(row["STATE"], "Running")
        self.assertRegex(row["CREATED"], r"second|minute")
        row = self.row(self.crictl("pods"), self.pod[:13])
        self.assertEqual((row["STATE"], row["NAME"], row["NAMESPACE"], row["ATTEMPT"], row["RUNTIME"]),
                         ("Ready", "web", "prod", "1", "nexus-vmm"))
        self.assertEqual(self.crictl("pods", "-q", "--label", "app=web", "--state", "ready"), self.pod)
        self.assertEqual(self.crictl("pods", "-q", "--state", "notready"), "")
        self.assertEqual(self.crictl("ps", "-q", "--pod", self.pod, "--name", "main"), self.ctr)

    def test_2_exec(self):
        self.assertEqual(self.crictl("exec", "-s", self.ctr, "echo", "in sync"), "in sync")
        for transport in ("spdy", "websocket"):
            self.assertEqual(self.crictl("exec", "-r", transport, self.ctr, "echo", "streamed"), "streamed")
        said = self.crictl("exec", self.ctr, "sh", "-c", "echo out; echo err >&2; exit 3", fails=True)
        self.assertTrue(said.startswith("out\n") and "err\n" in said and "exit code 3" in said, said)
        self.assertIn("/no/such/program", self.crictl("exec", self.ctr, "/no/such/program", fails=True))
        f = self.follow("exec", "-i", self.ctr, "cat")
        f.write(b"through a pipe\n")
        f.until(b"through a pipe\n")
        self.assertEqual(f.wait(), 0)

    def test_2_exec_with_a_terminal(self):
        for transport in ("spdy", "websocket"):
            f = self.follow("exec", "-it", "-r", transport, self.ctr, *self.terminal_command, tty=True)
            f.until(self.terminal_answer)
            self.assertEqual(f.wait(), 0)

    terminal_command, terminal_answer = ("sh", "-c", "echo hello"), b"hello\r\n"

    def test_3_attach_and_logs(self):
        logs = self.follow("logs", "-f", self.ctr)
        a = self.follow("attach", "-i", self.ctr)
        time.sleep(1)
        a.write(b"said through attach\n")
        a.until(b"said through attach\n")
        logs.until(b"said through attach\n")
        a.end(signal.SIGKILL)
        logs.end(signal.SIGKILL)
        self.assertEqual(self.crictl("logs", self.ctr), "said through attach")
        self.assertRegex(self.crictl("logs", "-t", "--tail", "1", self.ctr), r"^20\d\d-\d\d-\d\dT\S+ said through attach$")
        self.assertEqual(self.row(self.crictl("ps"), self.ctr[:13])["STATE"], "Running", "who leaves an attach ends nothing")

    def test_4_port_forward(self):
        for transport in ("spdy", "websocket"):
            f = self.follow("port-forward", "-r", transport, self.pod, f"0:{self.port}")
            said = f.until(b"Forwarding from 127.0.0.1:")
            said = f.until(b"-> ")
            local = int(re.search(r"Forwarding from 127\.0\.0\.1:(\d+) -> ", said).group(1))
            for _ in range(2):
                self.forwarded(local)
            f.end()

    def test_5_numbers(self):
        s = self.json("stats", "-o", "json", self.ctr)["stats"][0]
        self.assertEqual((s["attributes"]["id"], s["attributes"]["metadata"]), (self.ctr, {"name": "main", "attempt": 2}))
        for value in (s["memory"]["workingSetBytes"], s["memory"]["usageBytes"], s["cpu"]["usageCoreNanoSeconds"],
                      s["writableLayer"]["usedBytes"]):
            self.assertGreater(int(value["value"]), 0, s)
        self.assertLess(int(s["memory"]["usageBytes"]["value"]), 64 << 20)
        row = self.row(self.crictl("stats", self.ctr), self.ctr[:13])
        self.assertEqual(row["NAME"], "main")
        self.assertRegex(row["MEM"], r"^[1-9][0-9.]*[kM]B$")
        p = self.pod_stats()
        self.assertEqual((p["attributes"]["id"], p["attributes"]["metadata"]["name"]), (self.pod, "web"))
        self.assertEqual([c["attributes"]["id"] for c in p["linux"]["containers"]], [self.ctr])
        self.assertEqual(p["linux"]["network"]["defaultInterface"]["name"], "eth0")
        self.assertGreater(int(p["linux"]["memory"]["workingSetBytes"]["value"]), 0)
        self.assertGreater(int(p["linux"]["process"]["processCount"]["value"]), 0)
        self.assertEqual(self.row(self.crictl("statsp", "--id", self.pod), "web")["POD ID"], self.pod[:13])
        metrics = self.json("metricsp")["podMetrics"]
        mine = next(m for m in metrics if m["podSandboxId"] == self.pod)
        known = {d["name"]: len(d["labelKeys"]) for d in self.json("metricdescs")["descriptors"]}
        told = mine["metrics"] + mine["containerMetrics"][0]["metrics"]
        self.assertEqual(mine["containerMetrics"][0]["containerId"], self.ctr)
        self.assertGreater(len(told), 30)
        for m in told:
            self.assertEqual(len(m["labelValues"]), known[m["name"]], m)

    def pod_stats(self):
        """With the network's numbers, which come a little later where a machine is slow."""
        end = time.monotonic() + 30
        while True:
            p = self.json("statsp", "-o", "json", "--id", self.pod)["stats"][0]
            if "network" in p["linux"] or time.monotonic() > end:
                return p

    def test_6_inspection(self):
        i = self.json("inspect", self.ctr)["status"]
        self.assertEqual((i["id"], i["state"], i["metadata"], i["labels"], i["logPath"]),
                         (self.ctr, "CONTAINER_RUNNING", {"name": "main", "attempt": 2}, self.labels, f"{self.logs}/web/main/2.log"))
        self.assertTrue(i["startedAt"] > i["createdAt"] > "2020", i)
        self.assertEqual(i["resources"]["linux"]["memoryLimitInBytes"], str(64 << 20))
        p = self.json("inspectp", self.pod)
        self.assertEqual((p["status"]["id"], p["status"]["state"], p["status"]["metadata"]["uid"], p["status"]["runtimeHandler"]),
                         (self.pod, "SANDBOX_READY", "u-1", "nexus-vmm"))
        self.assertRegex(p["status"]["network"]["ip"], r"^10\.")
        self.assertGreater(p["info"]["pid"], 1)
        img = self.json("inspecti", self.image)["status"]
        self.assertEqual((img["repoTags"], img["id"]), ([self.image], i["imageId"]))
        self.assertGreater(int(img["size"]), 0)
        row = self.row(self.crictl("images"), self.image.rpartition(":")[0])
        self.assertEqual(row["IMAGE ID"], img["id"].partition(":")[2][:13])
        fs = self.json("imagefsinfo")["status"]
        for of in ("imageFilesystems", "containerFilesystems"):
            self.assertGreater(int(fs[of][0]["usedBytes"]["value"]), 0)
            self.assertTrue(os.path.isdir(fs[of][0]["fsId"]["mountpoint"]))
        conditions = {c["type"]: c["status"] for c in self.json("info")["status"]["conditions"]}
        self.assertEqual(conditions, {"RuntimeReady": True, "NetworkReady": True})
        self.assertIn("RuntimeName:  nexus-vmm", self.crictl("version"))
        self.assertRegex(self.crictl("runtime-config"), r"cgroup driver: +(SYSTEMD|CGROUPFS)")

    def test_7_update(self):
        self.crictl("update", "--memory", str(48 << 20), self.ctr)
        self.assertEqual(self.json("inspect", self.ctr)["status"]["resources"]["linux"]["memoryLimitInBytes"], str(48 << 20))
        said = self.crictl("update", "--memory", str(48 << 20), "0123456789abcdef", fails=True)
        self.assertIn("NotFound desc = no container 0123456789abcdef", said)

    def test_8_an_image_in_use_is_not_pruned(self):
        self.assertNotIn(self.image, self.crictl("rmi", "--prune"))
        self.assertIn(self.image.rpartition(":")[0], self.crictl("images"))

    def test_9_it_ends(self):
        self.crictl("stop", "--timeout", "0", self.ctr)
        self.assertEqual(self.row(self.crictl("ps", "-a"), self.ctr[:13])["STATE"], "Exited")
        i = self.json("inspect", self.ctr)["status"]
        self.assertEqual((i["state"], i["exitCode"]), ("CONTAINER_EXITED", 137))
        self.assertGreater(i["finishedAt"], i["startedAt"])
        self.crictl("exec", self.ctr, "true", fails=True)
        self.assertIn("Stopped sandbox", self.crictl("stopp", self.pod))
        self.assertEqual(self.row(self.crictl("pods"), self.pod[:13])["STATE"], "NotReady")
        self.assertIn("Removed sandbox", self.crictl("rmp", self.pod))
        self.assertEqual((self.crictl("pods", "-q"), self.crictl("ps", "-aq")), ("", ""))
        said = self.events.until(b"CONTAINER_DELETED_EVENT")
        self.events.end(signal.SIGKILL)
        kinds = re.findall(r'"containerEventType": *"?(\w+)', said)
        for kind in ("CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT"):
            self.assertIn(kind, kinds, said)
        self.assertIn(self.ctr, said)


class Images(Crictl):
    """Pulling, with a registry that wants a name and a password."""
    USER, PASSWORD = "alice", "wonder:land"

    def test_a_registry_that_wants_a_password(self):
        ref = self.private
        for wrong in ((), ("--creds", "alice:other"), ("--creds", "bob:wonder:land")):
            said = self.crictl("pull", *wrong, ref, fails=True)
            self.assertRegex(said, "(?i)unauthorized|401|denied", said)
            self.assertNotIn("wonder", said)
        self.assertEqual(self.crictl("images", "-q"), "")
        secret = f"{self.USER}:{self.PASSWORD}"
        for how in (("--creds", secret), ("--auth", base64.b64encode(secret.encode()).decode())):
            said = self.crictl("pull", *how, ref)
            self.assertRegex(said, r"^Image is up to date for sha256:[0-9a-f]{64}$")
            img = self.json("inspecti", ref)["status"]
            self.assertEqual((img["repoTags"], said.rpartition(" ")[2]), ([ref], img["id"]))
            self.assertIn("Deleted", self.crictl("rmi", "--prune"))
            self.assertEqual(self.crictl("images", "-q"), "")
        self.assertIn("no such image", self.crictl("rmi", ref, fails=True))
