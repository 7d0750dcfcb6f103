#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
# cost: 60
"""nexus-stream, or nexusd, is killed with SIGKILL at every moment of an exec, an attach and a port-forward.
Without nexus-stream the client's connection is over, the guest's end of it too (so an exec's process is killed), a
new server is started for the next request, and nothing is left. Without nexusd every connection goes on to its end."""
import os
import pathlib
import signal
import sys
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/lib"), str(ROOT / "tests/integration/stream")]
from streamcase import Streams, grpc, nodes, st, unique  # noqa: E402

PART = os.urandom(200_000)


def begin(client, size=1):
    client.until(lambda: len(client.out()) >= size)
    return client


class Moment:
    """A client at some point of its life. go_on: does the rest and checks it."""

    def __init__(self, case):
        self.case, self.client = case, None

    def exec_(self, *command, **channels):
        return self.case.node.cri.Exec(container_id=self.case.shared, cmd=command,
                                       **(channels or {"stdin": True, "stdout": True})).url

    def open(self, url, **more):
        more.setdefault("stderr", False)
        self.client = st.Remote(url, netns=self.case.netns, **more)
        return self.client

    def start(self):
        raise NotImplementedError

    def go_on(self):
        raise NotImplementedError

    def lost(self):
        """The server is gone: the connection ends, it does not hang."""
        if self.client:
            with self.case.assertRaises((EOFError, OSError)):
                self.client.until(lambda: False, 30)

    def close(self):
        if self.client:
            self.client.close()


class ExecOffered(Moment):
    """The URL is there and nobody has come."""
    def start(self):
        self.url = self.exec_("echo", "x", stdout=True)

    def go_on(self):
        self.case.assertEqual(st.remote(self.url, stderr=False, netns=self.case.netns).out, b"x\n")

    def lost(self):
        with self.case.assertRaises((OSError, EOFError, st.Refused)):
            st.remote(self.url, stderr=False, netns=self.case.netns)


class ExecUpgraded(Moment):
    """The answer was 101, no channel is open."""
    def start(self):
        self.client = st.Spdy(self.exec_("echo", "x", stdout=True), "v4.channel.k8s.io", netns=self.case.netns)

    def go_on(self):
        c = self.client
        ids = [c.open({"streamtype": kind}) for kind in ("error", "stdout")]
        c.until(lambda: set(ids) <= c.fin)
        self.case.assertEqual(bytes(c.data[ids[1]]), b"x\n")


class ExecHalfOpen(ExecUpgraded):
    """One channel of two."""
    def start(self):
        super().start()
        self.error = self.client.open({"streamtype": "error"})

    def go_on(self):
        c = self.client
        out = c.open({"streamtype": "stdout"})
        c.until(lambda: {self.error, out} <= c.fin)
        self.case.assertEqual(bytes(c.data[out]), b"x\n")


class ExecQuiet(Moment):
    """It runs and says nothing."""
    def start(self):
        c = self.open(self.exec_("cat"), stdin=True)
        c.ping(1)
        c.until(lambda: c.pings)

    def go_on(self):
        self.client.write(b"x", fin=True)
        r = self.client.finish()
        self.case.assertEqual((r.out, r.code), (b"x", 0))


class ExecTalking(Moment):
    """In the middle of stdin and of output."""
    def start(self):
        c = self.open(self.exec_("cat"), stdin=True)
        c.write(PART)
        begin(c, 1000)

    def go_on(self):
        t = threading.Thread(target=self.client.write, args=(PART, True))
        t.start()
        r = self.client.finish()
        t.join()
        self.case.assertEqual((r.out, r.code), (PART + PART, 0))


class ExecHeldBack(Moment):
    """The client does not read: all queues are full."""
    def start(self):
        self.open(self.exec_("bytes", "20000000", stdout=True))
        time.sleep(0.5)

    def go_on(self):
        self.case.assertEqual(len(self.client.finish().out), 20_000_000)


class ExecEnded(Moment):
    """It has ended; what it said waits for the client."""
    def start(self):
        c = self.open(self.exec_("sh", "-c", "echo out; exit 3", stdout=True))
        c.ping(1)
        time.sleep(0.3)

    def go_on(self):
        r = self.client.finish()
        self.case.assertEqual((r.out, r.code), (b"out\n", 3))

    lost = Moment.close  # all may have been sent before


class ExecTerminal(Moment):
    def start(self):
        c = self.open(self.exec_("cat", stdin=True, stdout=True, tty=True), stdin=True, tty=True)
        c.resize(80, 24)
        c.write(b"x\n")
        begin(c)

    def go_on(self):
        size = len(self.client.out())
        self.client.write(b"y\n")
        self.client.until(lambda: len(self.client.out()) > size)


class ExecWebSocket(Moment):
    def start(self):
        self.client = st.websocket(self.exec_("cat"), "v5.channel.k8s.io", netns=self.case.netns)
        self.client.send_binary(b"\0before ")
        while not self.client.recv_data()[1][1:]:
            pass

    def go_on(self):
        self.client.send_binary(b"\0after")
        self.client.send_binary(b"\xff\0")
        r = st.websocket_finish(self.client)
        self.case.assertEqual((r.out, r.code), (b"after", 0))

    def lost(self):
        import websocket
        with self.case.assertRaises((websocket.WebSocketException, OSError)):
            while True:
                self.client.recv_data()


class AttachTalking(Moment):
    def start(self):
        cri = self.case.node.cri
        self.container = cri.create(self.case.pod, unique("c"), nodes.IMAGE, ["cat"], stdin=True)
        cri.StartContainer(container_id=self.container)
        self.attach(b"before ")

    def attach(self, text):
        url = self.case.node.cri.Attach(container_id=self.container, stdin=True, stdout=True).url
        c = self.open(url, stdin=True)
        c.write(text)
        c.until(lambda: c.out() == text)

    def go_on(self):
        self.client.write(b"after")
        self.client.until(lambda: self.client.out() == b"before after")

    def lost(self):
        super().lost()
        self.client.close()
        self.attach(b"the container lives")

    def close(self):
        super().close()
        self.case.stop_container(self.container)
        self.case.node.cri.RemoveContainer(container_id=self.container)


class ForwardHalf(Moment):
    """The error stream of a pair, not its data stream."""
    def start(self):
        self.client = st.Forward(self.case.node.cri.PortForward(pod_sandbox_id=self.case.pod[0]).url, netns=self.case.netns)
        self.client.open({"streamtype": "error", "port": "7", "requestid": "a"})

    def go_on(self):
        self.echo(self.client.open({"streamtype": "data", "port": "7", "requestid": "a"}), b"", b"x")

    def echo(self, sid, had, more):
        self.client.send(sid, more, fin=True)
        self.client.until(lambda: sid in self.client.fin)
        self.case.assertEqual(bytes(self.client.data[sid]), had + more)


class ForwardTalking(ForwardHalf):
    """Two pairs, one of them in the middle of its bytes."""
    def start(self):
        self.client = st.Forward(self.case.node.cri.PortForward(pod_sandbox_id=self.case.pod[0]).url, netns=self.case.netns)
        _, self.quiet = self.client.connect(7)
        _, self.sid = self.client.connect(7)
        self.client.send(self.sid, PART)
        self.client.until(lambda: len(self.client.data[self.sid]) > 1000)

    def go_on(self):
        self.echo(self.sid, PART, b"more")
        self.echo(self.quiet, b"", b"x")


class ForwardChannels(Moment):
    """The older WebSocket form."""
    def start(self):
        url = self.case.node.cri.PortForward(pod_sandbox_id=self.case.pod[0], port=[7]).url
        self.client = st.websocket(url, "v4.channel.k8s.io", netns=self.case.netns)
        for _ in range(2):
            self.client.recv_data()
        self.client.send_binary(b"\0before")
        self.case.assertEqual(self.client.recv_data()[1], b"\0before")

    def go_on(self):
        self.client.send_binary(b"\0after")
        self.case.assertEqual(self.client.recv_data()[1], b"\0after")

    lost = ExecWebSocket.lost


MOMENTS = (ExecOffered, ExecUpgraded, ExecHalfOpen, ExecQuiet, ExecTalking, ExecHeldBack, ExecEnded, ExecTerminal, ExecWebSocket,
           AttachTalking, ForwardHalf, ForwardTalking, ForwardChannels)


class StreamKill(Streams):
    def fds_of(self, pid):
        return len(os.listdir(f"/proc/{pid}/fd"))

    def settled(self):
        """(descriptors of nexus-vmm, of nexusd, of nexus-stream) with no client."""
        self.assertEqual(self.run_("true").code, 0)
        return self.fds_of(self.node.vmm_pid(self.pod[0])), self.fds_of(self.node.proc.pid), self.fds()

    def nothing_left(self, before, name):
        for what, pid, n in zip(("nexus-vmm", "nexusd", "nexus-stream"),
                                (self.node.vmm_pid(self.pod[0]), self.node.proc.pid, self.stream_pid()), before):
            nodes.wait_for(lambda pid=pid, n=n: self.fds_of(pid) <= n, why=f"{name}: descriptors of {what} as before, {n}")

    def reachable(self):
        try:
            return self.run_("echo", "new").out == b"new\n"
        except (grpc.RpcError, OSError, EOFError):
            return False

    def test_nexus_stream_is_killed(self):
        self.settled()
        before = self.settled()
        for kind in MOMENTS:
            with self.subTest(kind.__name__):
                m = kind(self)
                m.start()
                pid = self.stream_pid()
                os.kill(pid, signal.SIGKILL)
                nodes.wait_for(lambda pid=pid: not nodes.alive(pid))
                began = time.monotonic()
                nodes.wait_for(self.reachable, why="a new nexus-stream")
                self.assertLess(time.monotonic() - began, 5)
                m.lost()
                m.close()
                self.assertNotEqual(self.stream_pid(), pid)
                self.nothing_left(before, kind.__name__)
        self.assertFalse([f"/proc/{p}" for p in self.zombies()])

    def zombies(self):
        """Children of nexusd that it has not reaped."""
        out = []
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                fields = (p / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == self.node.proc.pid:
                out.append(p.name)
        return out

    def test_nexusd_is_killed(self):
        self.settled()
        before = self.settled()
        pid = self.stream_pid()
        for kind in MOMENTS:
            with self.subTest(kind.__name__):
                m = kind(self)
                m.start()
                self.node.kill()
                if kind not in (ExecEnded, ExecHeldBack):
                    m.go_on()  # nobody needs nexusd for it
                self.node.start()
                type(self).cri = self.node.cri
                if kind in (ExecEnded, ExecHeldBack):
                    m.go_on()
                m.close()
                self.assertTrue(self.reachable())
                self.assertEqual(self.stream_pid(), pid)
                self.nothing_left((before[0], before[1] + 1, before[2]), kind.__name__)

    def test_both_are_killed(self):
        self.settled()
        before = self.settled()
        m = ExecTalking(self)
        m.start()
        pid = self.stream_pid()
        self.node.kill()
        os.kill(pid, signal.SIGKILL)
        m.lost()
        m.close()
        self.node.start()
        type(self).cri = self.node.cri
        self.assertTrue(self.reachable())
        self.nothing_left((before[0], before[1] + 1, before[2]), "both")

    def test_nexus_stream_is_killed_while_it_is_asked(self):
        """Requests and kills at the same time: each request is answered, with a URL or an error that says to try again."""
        stop, answers, strange = threading.Event(), [], []

        def ask():
            while not stop.is_set():
                try:
                    answers.append(self.node.cri.Exec(container_id=self.shared, cmd=["true"], stdout=True, timeout=20).url)
                except grpc.RpcError as e:
                    if e.code() != grpc.StatusCode.UNAVAILABLE:
                        strange.append(e)
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for t in threads:
            t.start()
        for _ in range(20):
            time.sleep(0.05)
            for pid in self.node.stream_pids():
                os.kill(pid, signal.SIGKILL)
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual(strange, [])
        self.assertGreater(len(answers), 10)
        nodes.wait_for(self.reachable, why="a new nexus-stream")
        nodes.wait_for(lambda: len(self.node.stream_pids()) == 1)
        nodes.wait_for(lambda: not self.zombies(), why="all are reaped")


del Streams  # a base


if __name__ == "__main__":
    unittest.main()
