# SPDX-License-Identifier: Apache-2.0
"""Jobs that run side by side, each with a log, a limit and a result: the labs of tests/run.

A lab is a slow machine, and two side by side are slower still: what waits for a guest there can run out of
time. So a job that fails is run once more, alone, and that counts; it is named as flaky all the same. Nothing
goes on for longer than the time all jobs have together: what is left then fails, by name."""
import collections
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

Result = collections.namedtuple("Result", "passed failed skipped why")
NO_TIME = Result(0, 1, 0, "no time was left for it")
POLL_S = 0.2
GRACE_S = 30   # a lab that was told to end: its files are copied out


class Job:
    """One command, with a limit of seconds. {out} in it becomes a folder; read(folder, code, log) is its Result.
    cost: seconds, about. again(Result): the job that repeats what failed; None: all of it."""

    def __init__(self, name, command, read, cost, limit, again=lambda result: None):
        self.name, self.command, self.read, self.cost, self.limit, self.again = name, command, read, cost, limit, again
        self.proc = self.result = None

    def start(self, log_dir, seconds):
        self.out = tempfile.mkdtemp(prefix="nexus-job-")
        self.log = log_dir / (re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-") + ".log")
        self.began, self.ends = time.monotonic(), time.monotonic() + min(self.limit, seconds)
        self.late = False
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen([str(c).replace("{out}", self.out) for c in self.command], stdout=log,
                                         stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def signal(self, number):
        os.killpg(self.proc.pid, number)   # its lab too, whoever started that

    def poll(self):
        """True when it has ended, its result read."""
        now = time.monotonic()
        if self.proc.poll() is None:
            if now > self.ends and not self.late:
                self.late = True
                self.signal(signal.SIGTERM)
            elif now > self.ends + GRACE_S:
                self.signal(signal.SIGKILL)
            return False
        self.seconds = now - self.began
        text = self.log.read_text(errors="replace")
        self.result = self.read(pathlib.Path(self.out), self.proc.returncode, text)
        if self.late:
            why = f"time was up after {self.seconds:.0f} s"
            self.result = self.result._replace(failed=max(1, self.result.failed), why=f"{why} {self.result.why}".strip())
        subprocess.run(["rm", "-rf", self.out], check=False)
        return True

    def stop(self):
        if self.proc and self.proc.poll() is None:
            self.signal(signal.SIGTERM)
            self.proc.wait()


def tell(job):
    r = job.result
    state = f"{r.passed} passed" + (f", {r.failed} FAILED" if r.failed else "") + (f", {r.skipped} skipped" if r.skipped else "")
    print(f"== {job.name}: {state} ({job.seconds:.0f} s)", flush=True)
    if r.failed:
        sys.stdout.write(job.log.read_text(errors="replace"))
        print(f"== end of the log of {job.name}: {r.why}", flush=True)


def run_side_by_side(jobs, count, log_dir, deadline):
    """The longest first; the next one begins when one ends."""
    waiting, running = sorted(jobs, key=lambda j: -j.cost), []
    try:
        while waiting or running:
            left = deadline - time.monotonic()
            while waiting and len(running) < count and left > 0:
                running.append(waiting.pop(0))
                running[-1].start(log_dir, left)
            if left <= 0 and waiting:
                for j in waiting:
                    j.result = NO_TIME
                waiting = []
            time.sleep(POLL_S)
            for j in [j for j in running if j.poll()]:
                running.remove(j)
                tell(j)
    finally:
        for j in running:
            j.stop()


def once_more(job, log_dir, deadline):
    """Its Result after a second try, alone."""
    first = job.result
    print(f"== once more, alone: {job.name} ({first.failed} failed: {first.why})", flush=True)
    part = job.again(first)
    run_side_by_side([part or job], 1, log_dir, deadline)
    second = (part or job).result
    return second._replace(passed=first.passed + second.passed) if part else second


def run(jobs, count, log_dir, deadline):
    """Runs all, by time.monotonic() no longer than deadline: [(name, Result, why the first of two tries failed)]."""
    log_dir.mkdir(parents=True, exist_ok=True)
    run_side_by_side(jobs, count, log_dir, deadline)
    told = []
    for j in jobs:
        first = result = j.result
        if first.failed and len(jobs) > 1 and deadline > time.monotonic():
            result = once_more(j, log_dir, deadline)
        told.append((j.name, result, first.why if first.failed and not result.failed else None))
    return told


def stop_on_signals():
    """SIGTERM ends as Ctrl-C does: no lab stays."""
    def end(number, frame):
        raise KeyboardInterrupt

    for s in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, end)
