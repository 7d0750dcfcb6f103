# SPDX-License-Identifier: Apache-2.0
"""A real systemd as the init of namespaces of its own, with only the units it is given.

    with Systemd({"web.service": "[Service]\\nExecStart=…"}) as manager:
        manager.ctl("start", "web.service"); manager.show("web.service", "MainPID")

Needs root and cgroup v2. Files are this machine's, but for /run, /etc/systemd and /lib/systemd/system."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

CGROUP = pathlib.Path("/sys/fs/cgroup")
# What a service's default dependencies name, empty: nothing of the machine is started.
TARGETS = ("sysinit", "basic", "shutdown", "umount", "network", "local-fs", "multi-user", "default", "rescue")
START = """
set -e
echo 0 > "$CG/cgroup.procs"
exec unshare --pid --mount --cgroup --ipc --fork --kill-child --propagation private sh -ec '
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /etc/systemd
mount -t tmpfs tmpfs /lib/systemd/system
cp "$UNITS"/* /lib/systemd/system/
exec env -i PATH="$PATH" container=other /lib/systemd/systemd --system --unit=basic.target --log-target=null \
  --show-status=0' </dev/null
"""


class Systemd:
    def __init__(self, units):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="nexus-systemd-"))
        self.units = self.root / "units"
        self.units.mkdir()
        for t in TARGETS:
            (self.units / f"{t}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        for name, text in units.items():
            (self.units / name).write_text(text)
        self.cgroup = CGROUP / self.root.name
        self.log_path = self.root / "log"
        self.proc = self.init = None

    def __enter__(self):
        self.cgroup.mkdir()
        with open(self.log_path, "wb") as log:
            self.proc = subprocess.Popen(["sh", "-c", START], stdout=log, stderr=log,
                                         env={**os.environ, "CG": str(self.cgroup), "UNITS": str(self.units)})
        try:
            self._wait_up()
        except BaseException:
            self.close()
            raise
        return self

    def _wait_up(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            children = pathlib.Path(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children").read_text().split()
            if children and not self.init:
                self.init = int(children[0])
                # it waits for its child in what is the root of the child's cgroups, which is to have no process
                (CGROUP / "cgroup.procs").write_text(str(self.proc.pid))
            if self.init and self.ctl("is-active", "basic.target", check=False).stdout.strip() == "active":
                return
            if self.proc.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"systemd did not come up:\n{self.log()}")

    def inside(self, *cmd, check=True, timeout=120):
        r = subprocess.run(["nsenter", "-t", str(self.init), "-m", "-p", *map(str, cmd)], capture_output=True, text=True,
                           timeout=timeout, check=False)
        if check and r.returncode:
            raise AssertionError(f"{' '.join(map(str, cmd))}: {r.returncode}\n{r.stdout}{r.stderr}\n{self.log()}")
        return r

    def ctl(self, *args, check=True):
        return self.inside("systemctl", "--no-pager", *args, check=check)

    def show(self, unit, what):
        return self.ctl("show", "-P", what, unit).stdout.strip()

    def log(self, last=4000):
        return self.log_path.read_text(errors="replace")[-last:]

    def close(self):
        if self.proc:
            self.proc.kill()  # and with it its init, and all of its namespace
            self.proc.wait()
        self._remove_cgroups()
        shutil.rmtree(self.root, ignore_errors=True)

    def _remove_cgroups(self, seconds=30):
        end = time.monotonic() + seconds
        while self.cgroup.exists():
            for d in sorted(self.cgroup.rglob("*/"), reverse=True):
                try:
                    d.rmdir()
                except OSError:
                    pass
            try:
                self.cgroup.rmdir()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def __exit__(self, kind, *_):
        if kind:
            print(self.log(), flush=True)
        self.close()
