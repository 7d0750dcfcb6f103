# SPDX-License-Identifier: Apache-2.0
"""nexus-vmm with a real guest and the real agent, driven over its control socket as nexusd does it: containers,
logs, exit codes, execs, ends of the VM, and a nexusd that goes away and comes back."""
# needs: lab
# cost: 120
import hashlib
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lib"))
import vmm as vmm_lib  # noqa: E402
from vmm import Gone, Refused, Vmm  # noqa: E402

BUSYBOX = next(p for p in (ROOT / "build/kernels/busybox-static", pathlib.Path("/usr/bin/busybox"),
                           pathlib.Path("/bin/busybox")) if p.exists())
APPLETS = "sh echo cat sleep true false yes seq head tail wc ps ls id env sha256sum dd kill stty hostname grep touch".split()


def make_image(folder):
    root = folder / "root"
    for d in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
        (root / d).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    os.chmod(root / "bin/busybox", 0o755)
    for a in APPLETS:
        (root / "bin" / a).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/noexec").write_text("text\n")
    return vmm_lib.erofs_of(root, folder / "img.erofs")


def log_lines(path, stream="stdout"):
    """The content of one stream of a CRI log; every record is checked."""
    out, part = [], b""
    last_time = b""
    for line in pathlib.Path(path).read_bytes().split(b"\n")[:-1]:
        m = re.fullmatch(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([PF]) (.*)", line, re.S)
        assert m, f"malformed record {line[:80]!r}"
        assert m[1] >= last_time
        last_time = m[1]
        if m[2].decode() != stream:
            continue
        part += m[4]
        if m[3] == b"F":
            out.append(part)
            part = b""
    assert not part, "the log ends within a line"
    return out


class OnePod(unittest.TestCase):
    """Cases that share a guest."""

    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-sup-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.image = make_image(cls.dir)
        cls.vmm = Vmm()
        cls.addClassCleanup(cls.vmm.close)
        c = cls.vmm.connect()
        try:
            c.wait_ready()
        except Exception:
            print(cls.vmm.stderr())
            raise
        c.configure(hostname="testpod")
        c.add_region("img", [cls.image])
        c.close()

    def setUp(self):
        self.c = self.vmm.connect()
        self.addCleanup(lambda: self.c.close())  # the one there is then
        self.log = self.dir / f"{self.id().split('.')[-1]}.log"

    def pod_is_well(self):
        self.assertEqual(self.c.get_state().phase, self.c.pb.VmmState.READY)

    def test_container_from_create_to_remove(self):
        self.c.create("life", ["sh", "-c", "echo out; echo bad >&2; echo -n tail; exit 3"], log=self.log)
        self.assertEqual(self.c.container("life").state, self.c.pb.ContainerState.CREATED)
        before = time.time_ns()
        self.c.start("life")
        self.assertEqual(self.c.wait_exit("life").code, 3)
        self.assertEqual(log_lines(self.log), [b"out", b"tail"])
        self.assertEqual(log_lines(self.log, "stderr"), [b"bad"])
        s = self.c.container("life")
        self.assertGreater(s.pid, 1)
        self.assertTrue(before <= s.started_at_ns <= s.finished_at_ns <= time.time_ns())
        self.c.remove("life")
        self.assertIsNone(self.c.container("life"))

    def test_failed_starts(self):
        for id_, path, text in (("nofile", "/no/such", "/no/such"), ("noexec", "/etc/noexec", "/etc/noexec")):
            self.c.create(id_, [path], log=self.log)
            with self.assertRaises(Refused) as e:
                self.c.start(id_)
            self.assertIn(text, e.exception.text)
            s = self.c.container(id_)
            self.assertEqual((s.state, s.exit.code), (self.c.pb.ContainerState.EXITED, 128))
            self.assertEqual(s.error, e.exception.text)
            self.c.remove(id_)
        self.pod_is_well()

    def test_signals_and_codes(self):
        self.c.run("sig", ["sh", "-c", "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done"], log=self.log)
        while b"up" not in log_lines(self.log):
            time.sleep(0.05)
        self.c.signal("sig", signal.SIGTERM)
        self.assertEqual(self.c.wait_exit("sig").code, 7)
        self.assertEqual(log_lines(self.log), [b"up", b"got"])
        self.c.remove("sig")
        self.c.run("kill", ["sleep", "1000"])
        self.c.signal("kill", signal.SIGKILL)
        e = self.c.wait_exit("kill")
        self.assertEqual((e.code, e.signal), (137, 9))
        self.c.remove("kill")

    def test_removing_a_running_container(self):
        self.c.run("gone", ["sh", "-c", "sleep 1000 & sleep 1000"])
        id_ = self.c.begin(remove_container=self.c.pb.RemoveContainer(container_id="gone"))
        self.assertEqual(self.c.event("container_exited").exit.code, 137)
        self.c.answer(id_)
        self.assertIsNone(self.c.container("gone"))

    def test_log_is_complete_and_rotates(self):
        n = 60000
        self.c.run("log", ["sh", "-c", f"seq {n}; sleep 0.3; seq {n}; head -c 100000 /dev/zero | tail -c 40000"], log=self.log)
        rotated = pathlib.Path(f"{self.log}.1")
        while not self.log.stat().st_size:
            time.sleep(0.01)
        self.log.rename(rotated)
        self.c.reopen("log", self.log)
        self.assertEqual(self.c.wait_exit("log").code, 0)
        lines = log_lines(rotated) + log_lines(self.log)
        self.assertEqual(lines[:-1], [b"%d" % i for i in range(1, n + 1)] * 2)
        self.assertEqual(lines[-1], bytes(40000))
        self.assertEqual(self.c.container("log").log_dropped_bytes, 0)
        self.c.remove("log")

    def test_container_logs_on_without_nexusd(self):
        self.c.run("alone", ["sh", "-c", "seq 20000; exit 5"], log=self.log)
        self.c.close()
        self.c = self.vmm.connect()
        self.assertEqual(self.c.wait_exit("alone").code, 5)
        self.assertEqual(len(log_lines(self.log)), 20000)
        self.c.remove("alone")

    def test_exec_is_exact(self):
        self.c.run("x1", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x1")
        self.assertEqual(self.vmm.exec("x1", ["sh", "-c", "echo out; echo err >&2; exit 42"]), (42, b"out\n", b"err\n"))
        self.assertEqual(self.vmm.exec("x1", ["echo", "a b", "", "$x'"]), (0, b"a b  $x'\n", b""))
        self.assertEqual(self.vmm.exec("x1", ["sh", "-c", "kill -9 $$"])[0], 137)
        self.assertEqual(self.vmm.exec("x1", ["hostname"])[1], b"testpod\n")
        for args, code in ((["/no/such"], 127), (["/etc/noexec"], 126)):
            x = self.vmm.begin_exec("x1", args)
            x.finish()
            self.assertEqual(x.error.exit_code, code)
            self.assertIn(args[0], x.error.reply.message)
        x = self.vmm.begin_exec("nope", ["true"])
        x.finish()
        self.assertEqual(x.error.reply.error_class, "not-found")

    def test_exec_stdin_both_ways(self):
        self.c.run("x2", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x2")
        data = os.urandom(1 << 20)
        x = self.vmm.begin_exec("x2", ["sha256sum"], stdin=True).wait_started()
        x.write(data)
        x.close_stdin()
        self.assertEqual(x.finish()[1].split()[0].decode(), hashlib.sha256(data).hexdigest())

    def test_exec_terminal(self):
        self.c.run("x3", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x3")
        x = self.vmm.begin_exec("x3", ["sh", "-c", "sleep 0.3; stty size; echo e >&2"], tty=True, stdin=True)
        x.wait_started()
        x.send(vmm_lib.RESIZE, b"\x00\x64\x00\x28")
        self.assertEqual(x.finish(), (0, b"40 100\r\ne\r\n", b""))

    def test_slow_reader_stops_the_process(self):
        self.c.run("x4", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x4")
        x = self.vmm.begin_exec("x4", ["sh", "-c", "head -c 8000000 /dev/zero; touch /tmp/written"]).wait_started()
        time.sleep(1)
        self.assertNotEqual(self.vmm.exec("x4", ["ls", "/tmp/written"])[0], 0)  # held up, while others go on
        code, out, _ = x.finish()
        self.assertEqual((code, len(out)), (0, 8000000))

    def test_output_waits_in_queues_after_the_exit(self):
        self.c.run("x5", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x5")
        x = self.vmm.begin_exec("x5", ["head", "-c", "700000", "/dev/zero"]).wait_started()
        time.sleep(12)  # longer than the guest keeps a closed connection
        code, out, _ = x.finish()
        self.assertEqual((code, len(out)), (0, 700000))

    def processes(self, id_, text):
        out = self.vmm.exec(id_, ["ps"])[1].decode()
        return [l for l in out.splitlines() if text in l]

    def test_disconnect_kills_the_exec_whole(self):
        self.c.run("x6", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x6")
        x = self.vmm.begin_exec("x6", ["sh", "-c", "sleep 4321 & sleep 4321"]).wait_started()
        while len(self.processes("x6", "sleep 4321")) < 2:
            time.sleep(0.1)
        x.close()
        end = time.monotonic() + 60
        while self.processes("x6", "4321"):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.1)

    def test_grandchild_does_not_hold_up_the_exit(self):
        self.c.run("x7", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x7")
        code, out, _ = self.vmm.exec("x7", ["sh", "-c", "sleep 1000 & echo done"])
        self.assertEqual((code, out), (0, b"done\n"))

    def test_many_execs_at_once(self):
        self.c.run("x8", ["sleep", "1000"])
        self.addCleanup(self.c.remove, "x8")
        execs = [self.vmm.begin_exec("x8", ["echo", str(i)]) for i in range(32)]
        for i, x in enumerate(execs):
            self.assertEqual(x.finish(), (0, b"%d\n" % i, b""))

    def test_region_goes_and_comes_back(self):
        for _ in range(2):
            self.c.add_region("second", [self.image])
            self.c.run("r2", ["true"], region="second")
            self.assertEqual(self.c.wait_exit("r2").code, 0)
            with self.assertRaises(Refused) as e:
                self.c.remove_region("second")
            self.assertEqual(e.exception.cls, "precondition")
            self.c.remove("r2")
            self.c.remove_region("second")
        self.assertEqual([r.key for r in self.c.get_state().regions], ["img"])

    def test_newer_connection_replaces(self):
        first, self.c = self.c, self.vmm.connect()
        with self.assertRaises(Gone):
            first.get_state()
        first.close()
        self.pod_is_well()

    def test_counters_are_there(self):
        self.assertNotIn("virtio.console.kicks", self.c.counters(), "a device nobody listens to")
        counters = self.c.counters()
        self.assertGreater(counters["agent.messages"], 0)
        self.assertTrue(any(k.startswith("kvm.exit.") and v for k, v in counters.items()), counters)


class WithConsole(unittest.TestCase):
    def test_kernel_and_agent_speak_on_hvc0(self):
        """The agent loads the driver where the kernel's command line asks for it, and nowhere else."""
        with tempfile.TemporaryDirectory(prefix="nexus-con-") as d:
            console = pathlib.Path(d) / "console"
            with Vmm(arguments=["--console", str(console)]) as vmm:
                c = vmm.connect()
                c.wait_ready()
                c.configure()
                c.add_region("img", [make_image(pathlib.Path(d))])
                c.run("c1", ["sh", "-c", "echo '<1>said by a container' > /dev/kmsg"], privileged=True)
                self.assertEqual(c.wait_exit("c1").code, 0)
                counters = c.counters()
                c.call(shutdown=c.pb.Shutdown(grace_ms=10000))
                vmm.proc.wait(timeout=30)
                c.close()
            text = console.read_text(errors="replace")
        self.assertRegex(text, r"(?s)^\[ +0\.0+\] Linux version .*console \[hvc0\] enabled.*bootconsole \[uart8250\] disabled")
        self.assertIn("said by a container", text)
        self.assertIn("nexus-agent: sandbox configured", text)
        self.assertGreater(counters["virtio.console.kicks"], 0)
        self.assertEqual(counters["virtio.console.failures"], 0)


class Ends(unittest.TestCase):
    """Each case ends its guest."""

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-sup-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.vmm = Vmm()
        self.addCleanup(self.vmm.close)
        self.c = self.vmm.connect()
        self.addCleanup(lambda: self.c.close())
        self.c.wait_ready()
        self.c.configure()
        self.c.add_region("img", [make_image(self.dir)])

    def ends_in(self, end, code):
        e = self.c.event("container_exited")
        self.assertEqual(e.exit.code, code)
        ended = self.c.event("vm_ended")
        self.assertEqual(ended.end, getattr(self.c.pb.VmmState, end), ended.detail)
        self.assertIsNone(self.vmm.proc.poll())  # it waits for nexusd
        self.c.close()
        self.c = self.vmm.connect()
        self.assertEqual(self.c.state.phase, self.c.pb.VmmState.ENDED)
        self.assertEqual(self.c.state.containers[0].exit.code, code)
        self.c.remove("c1")
        self.c.remove_region("img")
        self.c.call(shutdown=self.c.pb.Shutdown(grace_ms=10000))
        self.assertEqual(self.vmm.proc.wait(timeout=30), 0)

    def test_panic(self):
        self.c.run("c1", ["sh", "-c", "echo last words; sleep 1; echo c > /proc/sysrq-trigger; sleep 100"],
                   log=self.dir / "log", privileged=True)
        self.ends_in("PANIC", 255)
        self.assertEqual(log_lines(self.dir / "log"), [b"last words"])

    def test_orderly_shutdown(self):
        self.c.run("c1", ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"],
                   log=self.dir / "log")
        while b"up" not in log_lines(self.dir / "log"):
            time.sleep(0.05)
        id_ = self.c.begin(shutdown=self.c.pb.Shutdown(grace_ms=30000))
        self.assertEqual(self.c.event("container_exited").exit.code, 0)
        self.assertEqual(self.c.event("vm_ended").end, self.c.pb.VmmState.POWEROFF)
        self.c.answer(id_)
        self.assertEqual(self.vmm.proc.wait(timeout=30), 0)
        self.assertEqual(log_lines(self.dir / "log"), [b"up", b"bye"])

    def test_shutdown_by_force(self):
        self.c.run("c1", ["sleep", "1000"])
        id_ = self.c.begin(shutdown=self.c.pb.Shutdown(grace_ms=0))
        self.assertEqual(self.c.event("vm_ended").end, self.c.pb.VmmState.KILLED)
        self.c.answer(id_)
        self.assertEqual(self.vmm.proc.wait(timeout=30), 0)

    def test_sigterm_is_a_shutdown(self):
        self.vmm.proc.send_signal(signal.SIGHUP)
        self.vmm.proc.send_signal(signal.SIGINT)
        self.c.get_state()
        self.vmm.proc.send_signal(signal.SIGTERM)
        self.assertEqual(self.c.event("vm_ended").end, self.c.pb.VmmState.KILLED)
        self.assertEqual(self.vmm.proc.wait(timeout=30), 0)

    def test_out_of_memory_in_a_container(self):
        self.c.run("c1", ["sh", "-c", "x=$(yes | head -c 200000000); echo ${#x}"],
                   resources=self.c.pb.Resources(memory_limit_bytes=32 << 20))
        self.c.event("oom")
        e = self.c.wait_exit("c1")
        self.assertTrue(e.oom_killed)
        self.assertEqual(e.code, 137)


if __name__ == "__main__":
    unittest.main()
