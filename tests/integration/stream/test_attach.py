#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""Attach: output from now on, to several clients, and stdin; what a client does never hurts the container."""
import pathlib
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from streamcase import Streams, grpc, nodes, st, unique  # noqa: E402

Code = grpc.StatusCode


class Attach(Streams):
    def container(self, *command, **more):
        c = self.node.cri.create(self.pod, unique("c"), nodes.IMAGE, list(command), **more)
        self.node.cri.StartContainer(container_id=c)
        self.addCleanup(self.remove, c)
        return c

    def remove(self, c):
        self.stop_container(c)
        self.node.cri.RemoveContainer(container_id=c)

    def attach(self, c, stdin=False, **more):
        url = self.node.cri.Attach(container_id=c, stdin=stdin, stdout=True, stderr=True).url
        return st.Remote(url, stdin=stdin, netns=self.netns, **more)

    def log(self, c):
        path = self.node.cri.ContainerStatus(container_id=c).status.log_path
        return pathlib.Path(path).read_text()

    def test_stdin_and_output(self):
        c = self.container("cat", stdin=True)
        with self.attach(c, stdin=True) as r:
            r.write(b"hello\n")
            r.until(lambda: r.out() == b"hello\n")
            r.write(b"", fin=True)  # stdin_once is not set: the container's stays open
        with self.attach(c, stdin=True) as r:
            r.write(b"again\n")
            r.until(lambda: r.out() == b"again\n")
        self.assertEqual([line.split(" ", 3)[3] for line in self.log(c).splitlines()], ["hello", "again"])

    def test_the_end_of_stdin_ends_a_container_with_stdin_once(self):
        c = self.node.cri.create(self.pod, unique("c"), nodes.IMAGE, ["cat"], stdin=True, stdin_once=True)
        self.node.cri.StartContainer(container_id=c)
        self.addCleanup(self.remove, c)
        with self.attach(c, stdin=True) as r:
            r.write(b"last words", fin=True)
            result = r.finish()
        self.assertEqual((result.out, result.status["status"]), (b"last words", "Success"))
        self.assertEqual(self.node.cri.wait_exited(c).exit_code, 0)

    def test_a_client_that_leaves_ends_stdin_once_too(self):
        c = self.node.cri.create(self.pod, unique("c"), nodes.IMAGE, ["cat"], stdin=True, stdin_once=True)
        self.node.cri.StartContainer(container_id=c)
        self.addCleanup(self.remove, c)
        r = self.attach(c, stdin=True)
        r.write(b"x")
        r.until(lambda: r.out() == b"x")
        r.close()
        self.assertEqual(self.node.cri.wait_exited(c).exit_code, 0)

    def test_several_clients_see_the_same(self):
        c = self.container("cat", stdin=True)
        clients = [self.attach(c, stdin=True) for _ in range(8)]
        for r in clients:
            r.ping(1)
            r.until(lambda r=r: r.pings)
        with self.attach(c) as ninth:
            self.assertIn("already", ninth.finish().status["message"])
        time.sleep(0.2)
        clients[3].write(b"for all\n")
        for r in clients:
            r.until(lambda r=r: r.out() == b"for all\n")
            r.close()
        with self.attach(c, stdin=True) as r:
            r.write(b"alive\n")
            r.until(lambda: r.out() == b"alive\n")

    def test_exit_and_exited(self):
        c = self.container("cat", stdin=True)
        with self.attach(c) as r:
            r.ping(1)
            r.until(lambda: r.pings)
            time.sleep(0.2)
            self.stop_container(c)
            self.assertEqual(r.finish().status["status"], "Success", "its end is no failure of the attach")
        with self.assertRaises(grpc.RpcError) as e:
            self.node.cri.Attach(container_id=c, stdout=True)
        self.assertEqual(e.exception.code(), Code.FAILED_PRECONDITION)

    def test_a_slow_client_is_waited_for_and_then_left(self):
        c = self.container("yes", "400000000")
        r = self.attach(c)
        r.until(lambda: len(r.out()) > 100_000)
        size = lambda: len(self.log(c))  # noqa: E731
        nodes.wait_for(lambda: size() == (time.sleep(0.5), size())[1], why="the writer waits")
        before = size()
        nodes.wait_for(lambda: size() > before + 1_000_000, why="the container goes on without it")
        self.stop_container(c)
        r.until(lambda: r.ids["error"] in r.fin)
        self.assertIn(b"too slowly", bytes(r.data[r.ids["error"]]))
        r.close()

    def test_a_client_that_keeps_up_misses_nothing(self):
        c = self.node.cri.create(self.pod, unique("c"), nodes.IMAGE, ["sh", "-c", "cat; lines 300000"], stdin=True,
                                 stdin_once=True)
        self.node.cri.StartContainer(container_id=c)
        self.addCleanup(self.remove, c)
        with self.attach(c, stdin=True) as r:
            r.write(b"begin\n", fin=True)
            out = r.finish().out
        lines = out.split(b"\n")
        self.assertEqual((lines[0], len(lines)), (b"begin", 300002))
        self.assertEqual([line.split(" ", 3)[3] for line in self.log(c).splitlines()], out.decode().splitlines())

    def test_requests_that_are_wrong(self):
        for request in ({"stdout": True, "stderr": True, "tty": True}, {}):
            with self.assertRaises(grpc.RpcError) as e:
                self.node.cri.Attach(container_id=self.shared, **request)
            self.assertEqual(e.exception.code(), Code.INVALID_ARGUMENT)
        with self.assertRaises(grpc.RpcError) as e:
            self.node.cri.Attach(container_id="0123456789abcdef", stdout=True)
        self.assertEqual(e.exception.code(), Code.NOT_FOUND)

    def test_stdin_of_a_container_without_one(self):
        with self.attach(self.shared, stdin=True) as r:
            r.write(b"nobody reads this", fin=True)
            r.ping(1)
            r.until(lambda: r.pings)


if __name__ == "__main__":
    unittest.main()
