#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 60
"""packaging/nexusd.service under a real systemd: readiness, what the unit forbids and still lets a pod run,
restarts without end, and pods that outlive them."""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
from cri import Cri, pb  # noqa: E402
from fakenode import wait_for  # noqa: E402
from node import BUILD, Node  # noqa: E402
from ocimage import Registry, busybox_image  # noqa: E402
from systemd import Systemd  # noqa: E402

UNIT = "nexusd.service"


def unit_text(node):
    """The unit as it is packaged, with this tree's program, and a configuration and a log of the test's."""
    text = (ROOT / "packaging" / UNIT).read_text()
    text, n = re.subn(r"^ExecStart=/usr/sbin/nexusd --config \S+$",
                      f"ExecStart={BUILD}/src/daemon/nexusd --config {node.config_path}\n"
                      f"StandardOutput=append:{node.log_path}\nStandardError=inherit", text, flags=re.M)
    assert n == 1, text
    return text


class ManagedNode(Node):
    """A node whose nexusd belongs to a systemd."""

    def __init__(self, **more):
        super().__init__(**more)
        self.manager = Systemd({UNIT: unit_text(self)})

    def connect(self):
        if self.cri:
            self.cri.close()
        self.cri = Cri(self.address)
        return self.cri


class Unit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.registry = Registry().start()
        cls.addClassCleanup(cls.registry.stop)
        cls.image = cls.registry.push("test/busybox", "1", busybox_image())
        cls.node = ManagedNode(insecure=[cls.registry.address])
        cls.addClassCleanup(cls.node.close)
        cls.manager = cls.enterClassContext(cls.node.manager)

    def tearDown(self):
        if self._outcome.result.failures or self._outcome.result.errors:
            print(self.node.log_tail(), flush=True)

    def main_pid(self):
        return int(self.manager.show(UNIT, "MainPID"))

    def state(self):
        return self.manager.show(UNIT, "ActiveState")

    def uname(self, container):
        code, out, err = self.node.cri.exec(container, "uname", "-s")
        self.assertEqual((code, out.strip(), err), (0, b"Linux", b""))

    def test_a_pod_outlives_every_restart(self):
        m = self.manager
        m.ctl("start", UNIT)
        self.assertEqual(self.state(), "active")
        self.assertEqual(m.show(UNIT, "StatusText"), "Serving CRI")
        cri = self.node.connect()  # start returned: it serves, nothing is waited for
        cri.Version(version="v1", timeout=10)
        cri.PullImage(image=pb.ImageSpec(image=self.image), timeout=300)
        pod = cri.run_pod("unit", timeout=300)
        container = cri.run(pod, "main", self.image, ["sleep", "100000"])
        self.uname(container)
        vms = self.node.vmm_pids()
        self.assertEqual(len(vms), 1)

        for n in range(1, 8):  # systemd's own limit is five in ten seconds
            old = self.main_pid()
            m.ctl("kill", "--kill-who=main", "--signal=KILL", UNIT)
            wait_for(lambda: self.state() == "active" and self.main_pid() not in (0, old), 60, "it is started again")
            self.assertEqual(m.show(UNIT, "NRestarts"), str(n))
        self.node.connect()
        self.uname(container)

        m.ctl("stop", UNIT)
        self.assertEqual((self.state(), m.show(UNIT, "Result")), ("inactive", "success"))
        self.assertEqual(self.node.vmm_pids(), vms)
        m.ctl("start", UNIT)
        cri = self.node.connect()
        self.uname(container)
        self.assertEqual(self.node.vmm_pids(), vms)
        cri.remove_pod(pod[0])
        self.assertEqual(self.node.vmm_pids(), [])
        m.ctl("stop", UNIT)

    def test_start_fails_where_nexusd_cannot_start(self):
        good = self.node.config_path.read_text()
        self.manager.ctl("stop", UNIT)
        self.node.config_path.write_text("no_such_key: 1\n")
        try:
            r = self.manager.ctl("start", "--no-block", UNIT)
            wait_for(lambda: int(self.manager.show(UNIT, "NRestarts")) > 0, 60, "it is tried again")
            self.assertNotEqual(self.state(), "active", r.stderr)
            self.assertIn("no_such_key", self.node.log_tail())
        finally:
            self.node.config_path.write_text(good)
        wait_for(lambda: self.state() == "active", 60, "a good configuration is found at the next try")
        self.manager.ctl("stop", UNIT)

    def test_systemd_knows_every_word_of_it(self):
        path = self.manager.root / "verify" / UNIT
        path.parent.mkdir(exist_ok=True)
        path.write_text(unit_text(self.node))
        r = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False)
        said = [l for l in (r.stdout + r.stderr).splitlines() if UNIT in l]
        self.assertEqual((r.returncode, said), (0, []))


if __name__ == "__main__":
    unittest.main()
