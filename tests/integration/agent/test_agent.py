# SPDX-License-Identifier: Apache-2.0
"""nexus-agent as a program: agent-drive plays nexus-vmm over unix sockets and runs containers and execs in
namespaces of its own. One test per case of agent-drive, for the guest's binary and for the one with ASan."""
# needs: lab
# cost: 110
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
DRIVE = ROOT / "build/host/tests/integration/agent/agent-drive"
PROBE = ROOT / "build/host/tests/integration/agent/agent-probe"
BUSYBOX = next((p for p in (ROOT / "build/kernels/busybox-static", pathlib.Path("/usr/bin/busybox")) if p.exists()),
               "/bin/busybox")


class AgentCase(unittest.TestCase):
    agent = None

    @classmethod
    def setUpClass(cls):
        r = subprocess.run([DRIVE, cls.agent, BUSYBOX, PROBE], capture_output=True, text=True, timeout=600,
                           errors="replace", check=False)
        cls.output = r.stdout + r.stderr
        cls.said = dict(reversed(m) for m in re.findall(r"^(ok|not ok|skip) (\S+)", r.stdout, re.M))

    def check(self, name):
        self.assertEqual(self.said.get(name), "ok", self.output[-6000:])


def cases():
    return subprocess.run([DRIVE, "--list"], capture_output=True, text=True, check=True).stdout.split()


def add_class(name, agent):
    members = {"agent": agent}
    for case in cases():
        members["test_" + case] = lambda self, case=case: self.check(case)
    globals()[name] = type(name, (AgentCase,), members)


add_class("GuestBinary", ROOT / "build/agent/src/agent/nexus-agent")
if (ROOT / "build/asan/src/agent/nexus-agent").exists():
    add_class("WithSanitizers", ROOT / "build/asan/src/agent/nexus-agent")

if __name__ == "__main__":
    unittest.main()
