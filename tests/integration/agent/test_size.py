#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""nexus-agent as it goes into the guest: every pod keeps it in memory, and it has no libraries there."""
import pathlib
import subprocess
import unittest

AGENT = pathlib.Path(__file__).resolve().parents[3] / "build/agent/src/agent/nexus-agent"


class Size(unittest.TestCase):
    def test_at_most_200_kb(self):
        self.assertLessEqual(AGENT.stat().st_size, 200_000)

    def test_needs_no_library(self):
        headers = subprocess.run(["readelf", "-lW", AGENT], capture_output=True, text=True, check=True).stdout
        self.assertIn("LOAD", headers)
        self.assertNotIn("INTERP", headers)
        self.assertNotIn("DYNAMIC", headers)


if __name__ == "__main__":
    unittest.main()
