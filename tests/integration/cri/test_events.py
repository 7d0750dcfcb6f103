#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""GetContainerEvents and the lists that come as streams: order, completeness, slow readers."""
import os
import pathlib
import queue
import signal
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
from cri import Cri, pb, unique  # noqa: E402

Code = grpc.StatusCode
FOREVER = ["sleep", "infinity"]
CREATED, STARTED, STOPPED, DELETED = (pb.CONTAINER_CREATED_EVENT, pb.CONTAINER_STARTED_EVENT, pb.CONTAINER_STOPPED_EVENT,
                                      pb.CONTAINER_DELETED_EVENT)


class Listener:
    """Reads events in a thread; its own connection."""

    def __init__(self, node):
        self.cri = Cri(f"unix://{node.root}/run/nexusd.sock")
        self.events, self.end = queue.Queue(), None
        self.cri.Version(version="0.1.0")
        self.stream = self.cri.GetContainerEvents(timeout=3600)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for e in self.stream:
                self.events.put(e)
        except grpc.RpcError as e:
            self.end = e

    def next(self, seconds=30):
        return self.events.get(timeout=seconds)

    def close(self):
        self.stream.cancel()
        self.thread.join(30)
        self.cri.close()


class EventsAndStreams(unittest.TestCase):
    def setUp(self):
        self.node = nodes.Node()
        self.node.start()
        self.cri = self.node.cri
        self.fds = self.node.fds()
        self.others = []  # connections

    def tearDown(self):
        try:
            for one in self.others:
                one.close()
            for pod in list(self.node.pods()):
                self.cri.remove_pod(pod)
            self.assertEqual(self.node.census(), self.node.empty)
            nodes.wait_for(lambda: self.node.fds() <= self.fds, why="descriptors of nexusd as before")
        finally:
            self.node.close()

    def pod(self, **more):
        name = unique("pod")
        return self.cri.run_pod(name, log_directory=str(self.node.logs / name), **more)

    def listener(self):
        one = Listener(self.node)
        self.others.append(one)
        one.cri.Version(version="0.1.0")  # the same connection: what came before it was read
        return one

    def test_a_life_is_told_to_all_in_order(self):
        ears = [self.listener() for _ in range(3)]
        pod = self.pod(labels={"l": "1"})
        ctr = self.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.cri.StopContainer(pb.StopContainerRequest(container_id=ctr, timeout=60))
        other = self.cri.create(pod, "never", nodes.IMAGE, FOREVER)
        self.cri.RemoveContainer(container_id=other)
        self.cri.remove_pod(pod[0])
        wanted = [(pod[0], CREATED), (pod[0], STARTED), (ctr, CREATED), (ctr, STARTED), (ctr, STOPPED), (other, CREATED),
                  (other, DELETED), (pod[0], STOPPED), (ctr, DELETED), (pod[0], DELETED)]
        for ear in ears:
            got = [ear.next() for _ in wanted]
            self.assertEqual([(e.container_id, e.container_event_type) for e in got], wanted)
            self.assertEqual([e.created_at for e in got], sorted(e.created_at for e in got))
            for e in got:  # kubelet ignores an event without them
                self.assertEqual((e.pod_sandbox_status.id, dict(e.pod_sandbox_status.labels)), (pod[0], {"l": "1"}))
                self.assertTrue(e.pod_sandbox_status.metadata.uid)
            states = {e.container_event_type: e for e in got if e.container_id == ctr}
            self.assertEqual(states[STARTED].containers_statuses[0].state, pb.CONTAINER_RUNNING)
            self.assertEqual(states[STOPPED].containers_statuses[0].exit_code, 143)
            self.assertEqual([s.id for s in states[DELETED].containers_statuses], [])
            self.assertEqual(list(got[-1].containers_statuses), [])

    def test_an_event_never_comes_before_the_lists_show_it(self):
        ear = self.listener()
        pod = self.pod()
        ctr = self.cri.run(pod, "c", nodes.IMAGE, ["exit", "7"])
        seen = set()
        while STOPPED not in seen:
            e = ear.next()
            if e.container_id != ctr:
                continue
            seen.add(e.container_event_type)
            state = self.cri.ContainerStatus(container_id=ctr).status.state
            self.assertGreaterEqual(state, {CREATED: pb.CONTAINER_CREATED, STARTED: pb.CONTAINER_RUNNING,
                                            STOPPED: pb.CONTAINER_EXITED}[e.container_event_type])
        self.assertEqual(seen, {CREATED, STARTED, STOPPED})

    def test_status_of_a_pod_has_its_containers_and_a_time(self):
        pod = self.pod()
        made = [self.cri.run(pod, f"c{n}", nodes.IMAGE, FOREVER) for n in range(2)]
        self.cri.StopContainer(container_id=made[0])
        s = self.cri.PodSandboxStatus(pod_sandbox_id=pod[0])
        self.assertEqual(list(s.containers_statuses), [self.cri.ContainerStatus(container_id=c).status for c in made])
        self.assertGreater(self.cri.PodSandboxStatus(pod_sandbox_id=pod[0]).timestamp, s.timestamp)

    def test_start_that_fails_and_vm_that_dies(self):
        ear = self.listener()
        pod = self.pod()
        bad = self.cri.create(pod, "bad", nodes.IMAGE, ["/no/such/program"])
        with self.assertRaises(grpc.RpcError):
            self.cri.StartContainer(container_id=bad)
        good = self.cri.run(pod, "good", nodes.IMAGE, FOREVER)
        os.kill(self.node.vmm_pid(pod[0]), signal.SIGKILL)
        wanted = [(pod[0], CREATED), (pod[0], STARTED), (bad, CREATED), (bad, STOPPED), (good, CREATED), (good, STARTED),
                  (good, STOPPED), (pod[0], STOPPED)]
        self.assertEqual([(e.container_id, e.container_event_type) for e in (ear.next() for _ in wanted)], wanted)

    def test_subscriber_that_never_reads_is_dropped_and_nobody_waits(self):
        deaf = Cri(f"unix://{self.node.root}/run/nexusd.sock")
        self.others.append(deaf)
        stream = deaf.GetContainerEvents(timeout=3600)  # nobody calls next(): gRPC takes a window and no more
        ear = self.listener()
        pod = self.pod(annotations={"big": "x" * (300 << 10)})
        told = 2
        for _ in range(12):
            ctr = self.cri.run(pod, unique("c"), nodes.IMAGE, FOREVER)
            self.cri.RemoveContainer(container_id=ctr)
            told += 4
        for _ in range(told):
            ear.next()
        self.assertIsNone(ear.end)
        with self.assertRaises(grpc.RpcError) as e:
            for _ in stream:
                pass
        self.assertEqual(e.exception.code(), Code.RESOURCE_EXHAUSTED)
        self.assertIn("subscribe again", e.exception.details())

    def test_too_many_subscribers_are_refused(self):
        ears = [self.listener() for _ in range(16)]
        with self.assertRaises(grpc.RpcError) as e:
            next(iter(self.cri.GetContainerEvents(timeout=30)))
        self.assertEqual(e.exception.code(), Code.RESOURCE_EXHAUSTED)
        ears[0].close()
        nodes.wait_for(self.there_is_room)

    def there_is_room(self):
        ear = self.listener()
        pod = self.pod()
        nodes.wait_for(lambda: ear.end or not ear.events.empty())
        self.cri.remove_pod(pod[0])
        return ear.end is None

    def test_subscribers_do_not_delay_the_end_of_nexusd(self):
        ear = self.listener()
        self.assertEqual(self.node.stop(), 0)
        nodes.wait_for(lambda: ear.end, why="the end of the stream")
        self.assertEqual(ear.end.code(), Code.UNAVAILABLE)
        self.node.start()
        self.cri = self.node.cri

    # ---- lists as streams

    def test_streamed_lists_have_what_the_lists_have(self):
        self.assertEqual(list(self.cri.StreamPodSandboxes()), [])
        pods = [self.pod(labels={"n": str(n % 2)}) for n in range(3)]
        for pod in pods:
            self.cri.run(pod, "c", nodes.IMAGE, FOREVER, labels={"of": pod[0][:8]})
        odd = pb.PodSandboxFilter(label_selector={"n": "1"})
        for f in (None, odd):
            streamed = [p for m in self.cri.StreamPodSandboxes(filter=f) for p in m.pod_sandboxes]
            self.assertEqual(streamed, list(self.cri.ListPodSandbox(filter=f).items))
        self.assertEqual(len(streamed), 1)
        one = pb.ContainerFilter(pod_sandbox_id=pods[0][0])
        for f in (None, one):
            streamed = [c for m in self.cri.StreamContainers(filter=f) for c in m.containers]
            self.assertEqual(streamed, list(self.cri.ListContainers(filter=f).containers))
        self.assertEqual(len(streamed), 1)
        images = [i for m in self.cri.StreamImages() for i in m.images]
        self.assertEqual(images, list(self.cri.ListImages().images))
        self.assertEqual(len(images), 1)

    def test_streamed_list_larger_than_a_message_to_a_reader_that_dawdles(self):
        """Each container has 400 KiB of annotations, 20 MiB in all: no answer in one message. The reader stops in
        the middle while half of the list is removed: it gets the list as it was."""
        notes = {"big": "x" * (400 << 10)}
        pods = [self.pod() for _ in range(2)]
        made = [self.cri.create(pods[n % 2], f"c{n}", nodes.IMAGE, FOREVER, annotations=notes) for n in range(52)]
        with self.assertRaises(grpc.RpcError) as e:
            self.cri.ListContainers()
        self.assertEqual(e.exception.code(), Code.RESOURCE_EXHAUSTED)
        stream = iter(self.cri.StreamContainers())
        got = list(next(stream).containers)
        self.cri.remove_pod(pods[1][0])
        for m in stream:
            self.assertGreater(len(m.containers), 0)
            got += m.containers
        self.assertEqual(sorted(c.id for c in got), sorted(made))
        self.assertEqual({c.annotations["big"] for c in got}, {notes["big"]})

    def test_reader_that_leaves_in_the_middle(self):
        notes = {"big": "x" * (400 << 10)}
        pod = self.pod()
        for n in range(30):
            self.cri.create(pod, f"c{n}", nodes.IMAGE, FOREVER, annotations=notes)
        for _ in range(3):
            stream = self.cri.StreamContainers()
            next(stream)
            stream.cancel()
        self.assertEqual(sum(len(m.containers) for m in self.cri.StreamContainers()), 30)


if __name__ == "__main__":
    unittest.main()
