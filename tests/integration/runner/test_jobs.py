# SPDX-License-Identifier: Apache-2.0
"""tests/run's jobs: what fails is tried again alone, what hangs is ended with all it started, and all ends in time."""
import contextlib
import io
import os
import pathlib
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
import jobs  # noqa: E402


def read(folder, code, log):
    return jobs.Result(1 if code == 0 else 0, 1 if code else 0, 0, log.strip())


class Jobs(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="nexus-jobs-")
        self.addCleanup(holder.cleanup)
        self.dir = pathlib.Path(holder.name)

    def job(self, name, script, cost=1, limit=60, **more):
        return jobs.Job(name, ["sh", "-c", script, "sh", "{out}"], read, cost, limit, **more)

    def run_all(self, *all_of_them, count=2, seconds=60):
        self.said = io.StringIO()
        with contextlib.redirect_stdout(self.said):
            return jobs.run(list(all_of_them), count, self.dir, time.monotonic() + seconds)

    def test_all_run_the_longest_first(self):
        order = self.dir / "order"
        told = self.run_all(*[self.job(n, f'echo {n} >>{order}; [ -d "$1" ]', cost) for n, cost in (("a", 1), ("b", 3), ("c", 2))],
                            count=1)
        self.assertEqual(order.read_text().split(), ["b", "c", "a"])
        self.assertEqual([(n, r.passed, r.failed, flaky) for n, r, flaky in told], [(n, 1, 0, None) for n in "abc"])

    def test_a_failure_counts_when_it_comes_again(self):
        told = self.run_all(self.job("once", f"[ -e {self.dir}/been ] || {{ touch {self.dir}/been; echo bad luck; exit 1; }}"),
                            self.job("always", "echo broken; exit 3"), self.job("never", "true"))
        self.assertEqual(told, [("once", jobs.Result(1, 0, 0, ""), "bad luck"), ("always", jobs.Result(0, 1, 0, "broken"), None),
                                ("never", jobs.Result(1, 0, 0, ""), None)])
        self.assertEqual(self.said.getvalue().count("== once more, alone"), 2)
        self.assertIn("bad luck", self.said.getvalue())

    def test_a_job_says_what_of_it_to_repeat(self):
        part = self.job("part", "true")
        whole = jobs.Job("whole", ["false"], lambda *_: jobs.Result(5, 1, 0, "x"), 1, 60, again=lambda first: part)
        told = self.run_all(whole, self.job("other", "true"))
        self.assertEqual(told[0], ("whole", jobs.Result(6, 0, 0, ""), "x"))

    def test_one_job_alone_is_not_repeated(self):
        self.assertEqual(self.run_all(self.job("only", "echo no; exit 1")), [("only", jobs.Result(0, 1, 0, "no"), None)])

    def test_what_hangs_is_ended_with_its_children(self):
        pid = self.dir / "pid"
        (_, result, _), = self.run_all(self.job("hangs", f"sleep 1000 & echo $! >{pid}; wait", limit=1))
        self.assertEqual((result.passed, result.failed), (0, 1))
        self.assertRegex(result.why, "time was up after 1 s")
        with self.assertRaises(ProcessLookupError):
            for _ in range(100):  # init may take a moment to reap it
                os.kill(int(pid.read_text()), 0)
                time.sleep(0.1)

    def test_when_all_time_is_used_the_rest_fails_by_name(self):
        told = self.run_all(self.job("long", "sleep 1000", cost=2), self.job("late", "true"), count=1, seconds=1)
        self.assertEqual([(n, r.failed) for n, r, _ in told], [("long", 1), ("late", 1)])
        self.assertRegex(told[1][1].why, "no time was left")


if __name__ == "__main__":
    unittest.main()
