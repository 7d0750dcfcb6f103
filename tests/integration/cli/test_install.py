# SPDX-License-Identifier: Apache-2.0
"""make install: everything that the configuration and the unit name is there, without failpoints; what a person has
configured stays."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
OWN = re.compile(r"^ *(?:program|kernel|initramfs|modules|pull_program): (/usr/\S+)", re.M)


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory(prefix="nexus-install-")
        cls.addClassCleanup(holder.cleanup)
        cls.dest = pathlib.Path(holder.name)
        cls.install()

    @classmethod
    def install(cls):
        r = subprocess.run(["make", "-s", "install", f"DESTDIR={cls.dest}"], cwd=ROOT, capture_output=True, text=True,
                           check=False)
        assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
        return r.stderr

    def at(self, path):
        return self.dest / path.lstrip("/")

    def run_(self, program, *args):
        return subprocess.run([self.at(program), *args], capture_output=True, text=True, check=True).stdout

    def test_what_the_configuration_names_is_there(self):
        config = self.at("/etc/nexus/nexusd.yaml")
        named = OWN.findall(config.read_text())
        self.assertGreaterEqual(len(named), 6, named)
        for path in named:
            if "virtiofsd" not in path:  # another package's
                self.assertTrue(self.at(path).is_file(), path)
        self.run_("/usr/sbin/nexusd", "--check-config", "--config", config)

    def test_the_unit_starts_what_was_installed(self):
        unit = self.at("/usr/lib/systemd/system/nexusd.service").read_text()
        program, config = re.search(r"^ExecStart=(\S+) --config (\S+)$", unit, re.M).groups()
        self.assertTrue(os.access(self.at(program), os.X_OK))
        self.assertTrue(self.at(config).is_file())

    def test_programs_run_and_have_no_failpoints(self):
        for program in ("/usr/sbin/nexusd", "/usr/bin/nexus", "/usr/libexec/nexus/nexus-vmm", "/usr/libexec/nexus/nexus-pull",
                        "/usr/libexec/nexus/nexus-stream"):
            self.assertIn("usage", self.run_(program, "--help").lower(), program)
        r = subprocess.run([self.at("/usr/sbin/nexusd"), "--failpoints"], capture_output=True, text=True, check=False)
        self.assertEqual((r.returncode, r.stdout), (1, ""))
        self.assertIn("built without failpoints", r.stderr)

    def test_a_configuration_that_is_there_stays(self):
        config = self.at("/etc/nexus/nexusd.yaml")
        before = config.read_text()
        config.write_text("# mine\n")
        try:
            self.assertIn("stays", self.install())
            self.assertEqual(config.read_text(), "# mine\n")
        finally:
            config.write_text(before)


if __name__ == "__main__":
    unittest.main()
