# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 90
"""The nexus command and the real thing: nexusd, images from a registry, microVMs."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
import node as nodelib  # noqa: E402
import ocimage  # noqa: E402

NEXUS = nodelib.BUILD / "src/cli/nexus"


class RealNode(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.registry = ocimage.Registry()
        cls.registry.start()
        cls.addClassCleanup(cls.registry.stop)
        cls.registry.push("demo/tools", "1.0", ocimage.busybox_image())
        cls.image = f"{cls.registry.address}/demo/tools:1.0"
        cls.node = nodelib.Node(insecure=[cls.registry.address])
        cls.node.start()
        cls.addClassCleanup(cls.node.close)
        cls.env = {**os.environ, "NEXUS_ADDRESS": cls.node.address}

    def tearDown(self):
        if any(t is self for t, _ in self._outcome.result.failures + self._outcome.result.errors):
            print(f"---- last lines of nexusd's log\n{self.node.log_tail()}\n----", flush=True)

    def nexus(self, *args, code=0):
        r = subprocess.run([NEXUS, *args], capture_output=True, text=True, timeout=300, env=self.env, check=False)
        self.assertEqual(r.returncode, code, f"{args}: {r.stdout}{r.stderr}")
        return r

    def start(self, *args):
        p = subprocess.Popen([NEXUS, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)
        self.addCleanup(lambda: (p.poll() is None and p.kill(), p.wait(), p.stdout.close(), p.stderr.close()))
        return p

    def run_args(self, *command, options=()):
        return ["run", "--log-dir", str(self.node.logs), *options, self.image, "--", *command]

    def test_1_doctor_finds_a_good_machine(self):
        r = self.nexus("doctor", "--config", str(self.node.config_path), "--boot", "-o", "json")
        found = {f["check"]: f for f in json.loads(r.stdout)}
        self.assertEqual({k for k, f in found.items() if f["result"] == "problem"}, set())
        self.assertEqual({found[k]["result"] for k in ("kvm", "tun", "cgroup", "network", "guest", "server", "boot")}, {"ok"})

    def test_2_pull_tells_progress_and_the_id(self):
        r = self.nexus("pull", self.image)
        self.assertRegex(r.stdout, "^sha256:[0-9a-f]{64}\n$")
        self.assertIn("downloading", r.stderr)
        self.assertIn("done", r.stderr)
        self.assertIn("demo/tools", self.nexus("images").stdout)
        r = self.nexus("pull", f"{self.registry.address}/demo/none:1", code=1)
        self.assertIn("the registry does not have it", r.stderr)

    def test_3_run_shows_output_gives_the_code_and_leaves_nothing(self):
        r = self.nexus(*self.run_args("/bin/sh", "-c", "echo out; echo err >&2; uname -n; exit 7",
                                      options=["--name", "first"]), code=7)
        self.assertEqual((r.stdout, r.stderr), ("out\nfirst\n", "err\n"))
        self.assertEqual(self.nexus("pods", "-q").stdout, "")
        self.assertEqual(self.node.census(), "")
        self.assertEqual(list(self.node.logs.iterdir()), [])

    def test_4_a_container_from_all_sides(self):
        cid = self.nexus(*self.run_args("/bin/sh", "-c", "echo up; while :; do sleep 1; done",
                                        options=["--detach", "--name", "side", "--env", "A=b c"])).stdout.strip()
        try:
            self.assertIn("side", self.nexus("ps").stdout)
            self.assertEqual(self.nexus("exec", "side", "--", "/bin/sh", "-c", "echo \"$A\"; echo x >&2; exit 3", code=3).stdout,
                             "b c\n")
            self.nexus("exec", "side", "/nonexistent", code=127)
            self.assertEqual(self.nexus("logs", "side").stdout, "up\n")
            d = json.loads(self.nexus("inspect", "--type", "pod", "side").stdout)
            self.assertTrue(d["status"]["network"]["ip"])
            self.assertEqual(json.loads(self.nexus("inspect", "--type", "container", cid[:10]).stdout)["status"]["id"], cid)
            pod = self.nexus("pods", "-q").stdout.strip()
            second = self.nexus(*self.run_args("/bin/echo", "beside", options=["--pod", pod[:8], "--name", "two"]))
            self.assertEqual(second.stdout, "beside\n")
            follow = self.start("logs", "-f", "--timestamps", cid)
            self.nexus("stop", "--grace", "0", "--", cid)
            self.assertRegex(follow.communicate(timeout=60)[0], r"^[-0-9T:.]+Z up\n$")
        finally:
            self.nexus("rm", "--force", self.nexus("pods", "-q").stdout.strip())
        self.assertEqual(self.node.census(), "")

    def test_5_run_survives_kill_9_of_nexusd(self):
        p = self.start(*self.run_args("/bin/sh", "-c", "echo before; sleep 8; echo after; exit 9"))
        self.assertEqual(p.stdout.readline(), "before\n")
        self.node.kill9()
        self.node.start()
        self.assertEqual(p.stdout.read(), "after\n")
        self.assertEqual(p.wait(120), 9)
        self.assertEqual(self.node.census(), "")

    def test_6_ctrl_c_ends_it(self):
        p = self.start(*self.run_args("/bin/sh", "-c", "echo up; exec sleep 1000", options=["--grace", "1"]))
        self.assertEqual(p.stdout.readline(), "up\n")
        p.send_signal(signal.SIGINT)
        self.assertIn(p.wait(120), (137, 143))
        self.assertEqual(self.node.census(), "")

    def test_7_what_cannot_be_run_is_told(self):
        r = self.nexus(*self.run_args("/nonexistent"), code=125)
        self.assertIn("cannot run", r.stderr)
        self.assertEqual(self.node.census(), "")

    def test_8_rmi(self):
        self.nexus("rmi", self.image)
        self.assertEqual(self.nexus("images", "-q").stdout, "")


if __name__ == "__main__":
    unittest.main()
