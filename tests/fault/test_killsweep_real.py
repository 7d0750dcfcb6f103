#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 160
"""A sample of the kill sweep with the real nexus-vmm, a stock kernel and a real image: one point for each
kind of thing that may be half done, and every point of an update, with containers that read the volumes."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import test_killsweep  # noqa: E402

SAMPLE = ["pod.run.spawned", "pod.run.after_network", "pod.run.after_guest", "pod.run.before_commit", "pod.run.after_commit",
          "pod.stop.after_guest", "pod.stop.before_network", "pod.remove.before_record", "container.create.after_region",
          "container.create.after_guest", "container.start.after_guest", "container.stop.after_kill",
          "container.remove.after_guest"]


class RealKillSweep(test_killsweep.KillSweep):
    options = {"real": True, "scratch": "1G"}
    ignores_term = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]

    one_pod_for_updates = True  # it takes its time to boot

    def all_points(self):
        return SAMPLE + [p for p in test_killsweep.declared() if p.startswith("pod.update.")]

    def reads(self, ctr, *wanted):
        for n, texts in enumerate(wanted):
            code, out, err = self.node.cri.exec(ctr, "cat", f"/v{n}/k", timeout=60)
            self.assertEqual((code, err), (0, b""))
            self.assertIn(out, texts)

    # errors need no real guest
    test_errors_in_run_pod_sandbox = test_errors_in_stop_and_remove_pod_sandbox = test_errors_in_containers = None
    test_errors_in_updates = None


del test_killsweep.KillSweep  # its own file runs it

if __name__ == "__main__":
    import unittest
    unittest.main()
