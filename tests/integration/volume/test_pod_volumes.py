#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""Volumes of pods as nexusd handles them, with VMs that record what they are told: which regions there are,
what is shared, what an update does and in which order, what a restart catches up with, what bad volumes say,
and that nothing is left."""
import json
import os
import pathlib
import re
import socket
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import erofs_reader  # noqa: E402
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
from atomic_writer import AtomicWriter, kubelet_volume  # noqa: E402
from cri import pb  # noqa: E402

FOREVER = ["sleep", "infinity"]
Code = grpc.StatusCode


class Volumes(unittest.TestCase):
    maxDiff = None
    mapper = {}

    def setUp(self):
        self.node = nodes.Node()
        self.addCleanup(self.node.close)
        self.kubelet = self.node.root / "kubelet"
        self.node.extra = {"mapper": {"kubelet_root": str(self.kubelet), **self.mapper}}
        self.prepare()
        self.node.start()

    def prepare(self):
        pass

    # ---- words

    def volume(self, name="creds", payload=None, plugin="secret"):
        path = kubelet_volume(self.kubelet, "uid-1", plugin, name)
        writer = AtomicWriter(path)
        writer.write(payload if payload is not None else {"user": (b"root", 0o644), "pass": (b"first", 0o400)})
        return writer

    def pod(self, name="pod"):
        return self.node.cri.run_pod(name, log_directory=str(self.node.logs / name))

    def create(self, pod, name, *mounts, start=True):
        """mounts: (host path or writer, container path)."""
        c = pb.ContainerConfig()
        for host, path in mounts:
            c.mounts.add(host_path=str(getattr(host, "dir", host)), container_path=path, readonly=True)
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=nodes.IMAGE),
                                    command=FOREVER, log_path=f"{name}.log", mounts=c.mounts)
        config.linux.security_context.namespace_options.pid = pb.CONTAINER
        ctr = self.node.cri.CreateContainer(pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1]).container_id
        if start:
            self.node.cri.StartContainer(container_id=ctr)
        return ctr

    def refused(self, pod, name, *mounts):
        with self.assertRaises(grpc.RpcError) as e:
            self.create(pod, name, *mounts)
        return e.exception.code(), e.exception.details()

    def told(self, pod, what):
        return [x for x in self.node.told(pod[0]) if x["what"] == what and x["key"] != "image"]

    def tree(self, pod, key):
        """{path: bytes or link} of a region, and of directories None."""
        image = self.node.region(pod[0], key)
        out = {}
        for path, inode in erofs_reader.Image(image).tree().items():
            out[path.decode()] = None if inode.mode & 0o170000 == 0o040000 else inode.data(image)
        return out

    def in_force(self, pod, key, part):
        """{name: bytes} as a container reads them through ..data."""
        tree = self.tree(pod, key)
        data = tree[f"{part}/..data"].decode()
        return {p.rsplit("/", 1)[1]: b for p, b in tree.items() if p.startswith(f"{part}/{data}/") and b is not None}

    def info(self, pod):
        return json.loads(self.node.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])

    def regions(self, pod):
        """{key: {volume: generation}} of what the VM has."""
        return {r["key"]: {v["name"]: v["generation"] for v in r["volumes"]}
                for r in self.info(pod)["regions"] if r["key"].startswith("vol-")}

    def until(self, what, pod=None):
        try:
            return nodes.wait_for(what)
        except AssertionError as e:
            state = self.regions(pod) if pod else ""
            raise AssertionError(f"{e}; regions {state}\n{self.node.log()[-4000:]}") from e

    def settled(self, pod, want):
        self.until(lambda: self.regions(pod) == want, pod)

    @staticmethod
    def swap(writer, text):
        """An update that changes contents only, so that it is one change however slow the writer is."""
        writer.write({"user": (b"root", 0o644), "pass": (text, 0o400)})

    def watches(self):
        """inotify watches of nexusd, as the kernel counts them."""
        n = 0
        for fd in pathlib.Path(f"/proc/{self.node.proc.pid}/fdinfo").iterdir():
            try:
                n += len(re.findall(r"^inotify wd:", fd.read_text(), re.M))
            except OSError:
                pass
        return n

    def lives(self):
        self.assertIsNone(self.node.proc.poll(), self.node.log()[-3000:])


class Create(Volumes):
    def test_one_region_for_all_new_volumes_of_a_container(self):
        pod = self.pod()
        a, b = self.volume("a"), self.volume("b", {"deep/er": (b"x" * 5000, 0o640)}, "configmap")
        p = self.volume("p", {"token": (b"jwt", 0o600)}, "projected")
        self.create(pod, "c", (a, "/a"), (b, "/b"), (p, "/p"), (a, "/a2"))
        adds, mounts = self.told(pod, "add"), self.told(pod, "mount")
        self.assertEqual([(x["key"], x["more"]) for x in adds], [("vol-1", False)])
        self.assertEqual([(m["destination"], m["volume"], m["part"], m["key"], m["live"]) for m in mounts],
                         [("/a", "v-1", "v-1", "vol-1", True), ("/b", "v-2", "v-2", "vol-1", True),
                          ("/p", "v-3", "v-3", "vol-1", True), ("/a2", "v-1", "v-1", "vol-1", True)])
        self.assertEqual(self.in_force(pod, "vol-1", "v-1"), {"user": b"root", "pass": b"first"})
        self.assertEqual(self.in_force(pod, "vol-1", "v-2"), {"er": b"x" * 5000})
        self.assertEqual(self.in_force(pod, "vol-1", "v-3"), {"token": b"jwt"})
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1, "v-2": 1, "v-3": 1}})

    def test_containers_share_whole_volumes(self):
        pod = self.pod()
        a, b = self.volume("a"), self.volume("b")
        one = self.create(pod, "one", (a, "/a"))
        two = self.create(pod, "two", (a, "/x"), (b, "/y"))
        mounts = self.told(pod, "mount")
        self.assertEqual([(m["container"], m["volume"], m["key"]) for m in mounts],
                         [(one, "v-1", "vol-1"), (two, "v-1", "vol-1"), (two, "v-2", "vol-2")])
        three = self.create(pod, "three", (a, "/x"), (b, "/y"))
        self.assertEqual(len(self.told(pod, "add")), 2)
        for ctr in (one, two):  # what still has a reader stays
            self.node.cri.RemoveContainer(container_id=ctr)
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1}, "vol-2": {"v-2": 1}})
        self.node.cri.RemoveContainer(container_id=three)
        self.settled(pod, {})

    def test_small_files_are_copied_and_other_directories_refused(self):
        pod = self.pod()
        a = self.volume("a")
        small = self.kubelet / "pods/uid-1/etc-hosts"
        small.write_text("127.0.0.1 localhost\n")
        self.create(pod, "c", (a, "/a"), (small, "/etc/hosts"))
        self.assertEqual([m["destination"] for m in self.told(pod, "mount")], ["/a"])
        plain = self.node.root / "plain"
        plain.mkdir()
        code, text = self.refused(pod, "d", (a, "/a"), (plain, "/plain"))
        self.assertEqual(code, Code.UNIMPLEMENTED)
        self.assertIn(f"mount of {plain} at /plain: it is a directory of the host", text)
        empty_dir = kubelet_volume(self.kubelet, "uid-1", "empty-dir", "scratch")
        self.assertEqual(self.refused(pod, "e", (empty_dir, "/tmp"))[0], Code.UNIMPLEMENTED)
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1}})

    def test_a_path_in_a_volume_never_updates(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (os.path.join(a.data_dir(), "pass"), "/etc/pass"), (a, "/a"))
        mounts = self.told(pod, "mount")
        self.assertEqual([(m["destination"], m["live"]) for m in mounts], [("/etc/pass", False), ("/a", True)])
        self.assertEqual(self.tree(pod, "vol-1")["v-1"], b"first")
        self.swap(a, b"second")
        self.settled(pod, {"vol-1": {"v-1": 1}, "vol-2": {"v-2": 2}})

    def test_4000_files_come_in_batches(self):
        pod = self.pod()
        self.create(pod, "c", (self.volume("many", {f"f{n:04}": (b"%d" % n, 0o644) for n in range(4000)}), "/m"))
        adds = self.told(pod, "add")
        self.assertEqual([x["more"] for x in adds], [True] * (len(adds) - 1) + [False])
        self.assertEqual(sum(x["segments"] for x in adds), 4001)
        self.assertEqual(self.in_force(pod, "vol-1", "v-1")["f3999"], b"3999")

    def test_mounts_and_regions_are_shown(self):
        pod = self.pod()
        ctr = self.create(pod, "c", (self.volume("a"), "/a"))
        status = self.node.cri.ContainerStatus(container_id=ctr, verbose=True)
        self.assertEqual([(m.container_path, m.host_path) for m in status.status.mounts],
                         [("/a", str(self.kubelet / "pods/uid-1/volumes/kubernetes.io~secret/a"))])
        volume = json.loads(status.info["info"])["volumes"][0]
        self.assertEqual({k: volume[k] for k in ("destination", "name", "volume", "plugin", "region", "generation")},
                         {"destination": "/a", "name": "v-1", "volume": "a", "plugin": "secret", "region": "vol-1",
                          "generation": 1})
        region = [r for r in self.info(pod)["regions"] if r["key"] == "vol-1"][0]
        self.assertEqual((region["what"], region["deniedWrites"], region["repairedPages"]), ("secret a", 0, 0))
        image = [r for r in self.info(pod)["regions"] if r["key"] != "vol-1"][0]
        self.assertEqual((image["what"], image["volumes"]), (f"image {nodes.IMAGE}", []))
        self.assertEqual(self.info(pod)["deniedWrites"], 0)
        self.assertGreater(region["bytes"], 4096)


class Listed(Volumes):
    def prepare(self):
        self.node.extra["mapper"]["directories"] = [str(self.node.root / "listed")]

    def test_directories_are_recognised_by_content(self):
        pod = self.pod()
        d = self.node.root / "listed/app/config"
        d.mkdir(parents=True)
        AtomicWriter(d).write({"k": (b"v", 0o644)})
        self.create(pod, "c", (d, "/c"))
        self.assertEqual(self.in_force(pod, "vol-1", "v-1"), {"k": b"v"})


class Copied(Volumes):
    mapper = {"data": "copy"}

    def test_copies_take_two_segments(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.assertEqual([x["segments"] for x in self.told(pod, "add")], [2])
        self.assertEqual(self.in_force(pod, "vol-1", "v-1"), {"user": b"root", "pass": b"first"})


class Update(Volumes):
    def test_a_swap_is_a_new_region_and_the_old_one_goes(self):
        pod = self.pod()
        a, b = self.volume("a"), self.volume("b")
        self.create(pod, "c", (a, "/a"), (b, "/b"))
        self.swap(a, b"second")
        self.settled(pod, {"vol-1": {"v-2": 1}, "vol-2": {"v-1": 2}})
        self.assertEqual(self.in_force(pod, "vol-2", "v-1"), {"user": b"root", "pass": b"second"})
        self.swap(b, b"other")  # nobody needs the bundle any more
        self.settled(pod, {"vol-2": {"v-1": 2}, "vol-3": {"v-2": 2}})
        order = [(x["what"], x["key"]) for x in self.node.told(pod[0]) if x["what"] in ("add", "update", "release", "remove")]
        self.assertEqual(order, [("add", "vol-1"), ("add", "vol-2"), ("update", "vol-2"), ("add", "vol-3"),
                                 ("update", "vol-3"), ("release", "vol-1"), ("remove", "vol-1")])

    def test_a_container_created_after_a_swap_sees_it(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "one", (a, "/a"))
        for n in range(2, 12):
            self.swap(a, b"%d" % n)
            self.create(pod, f"c{n}", (a, "/a"))
            self.assertEqual(self.in_force(pod, self.told(pod, "mount")[-1]["key"], "v-1"), {"user": b"root", "pass": b"%d" % n})

    def test_five_swaps_while_the_guest_is_slow_are_one_or_two(self):
        self.node.guest_script("delay@update#1=1500")
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.swap(a, b"1")
        nodes.wait_for(lambda: self.told(pod, "update"), why="the first update is in the guest")
        for n in range(2, 7):
            self.swap(a, b"%d" % n)
        self.settled(pod, {"vol-3": {"v-1": 3}})
        self.assertEqual(len(self.told(pod, "update")), 2)
        self.assertEqual(self.in_force(pod, "vol-3", "v-1"), {"user": b"root", "pass": b"6"})

    def test_refused_updates_keep_the_old_generation_and_are_tried_again(self):
        self.node.guest_script("fail@update#1=5; fail@update#2=12")
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.swap(a, b"second")
        self.settled(pod, {"vol-4": {"v-1": 2}})
        log = self.node.log()
        self.assertRegex(log, r"volume v-1 \(a\) stays at generation 1, the next try is in 500 ms: .*told to fail")
        self.assertIn("the next try is in 1000 ms", log)
        self.assertIn(f"pod={pod[0]}", [line for line in log.splitlines() if "stays at generation" in line][0])

    def test_an_answer_that_never_comes_is_asked_for_again(self):
        self.node.guest_script("mute@update#1; times=2")
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.swap(a, b"second")
        self.settled(pod, {"vol-2": {"v-1": 2}})
        self.assertEqual([u["key"] for u in self.told(pod, "update")], ["vol-2", "vol-2"])

    def test_an_agent_that_dies_in_an_update_costs_its_pod_alone(self):
        """Between the mount of the new generation and the rename, or wherever the answer finds nobody."""
        beside = self.pod("beside")
        a = self.volume("a")
        self.create(beside, "c", (a, "/a"))
        for n, how in enumerate(("die", "panic", "hang", "kill")):
            with self.subTest(how):
                self.node.guest_script(f"{how}@update#1; times=2")
                pod = self.pod(how)
                b = self.volume(f"b-{how}")
                self.create(pod, "c", (b, "/b"))
                self.swap(b, b"second")
                self.until(lambda p=pod: self.node.pods()[p[0]].state == pb.SANDBOX_NOTREADY)
                self.swap(a, b"%d" % n)
                self.settled(beside, {f"vol-{n + 2}": {"v-1": n + 2}})
                self.assertEqual(self.in_force(beside, f"vol-{n + 2}", "v-1")["pass"], b"%d" % n)
                self.node.restart()  # the record of the update that nobody finished is in nobody's way
                self.assertEqual(self.node.pods()[pod[0]].state, pb.SANDBOX_NOTREADY)
                self.node.cri.remove_pod(pod[0])
                self.swap(b, b"third")
                self.lives()
        self.node.cri.remove_pod(beside[0])
        self.assertEqual(self.node.census(), self.node.empty)

    def test_a_region_that_fails_half_way_keeps_the_old_generation(self):
        """The second of several messages is refused: what came before it is forgotten, and the next try is whole."""
        self.node.guest_script("fail@region#4=12")  # the image, the volume, and of the next generation the second
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        fds = self.node.fds()
        many = {f"f{n:04}": (b"%d" % n, 0o644) for n in range(1000)}
        a.write(many)
        self.until(lambda: list(self.regions(pod).values()) == [{"v-1": 2}], pod)
        self.assertRegex(self.node.log(), r"volume v-1 \(a\) stays at generation 1, .*told to fail")
        self.assertEqual(self.in_force(pod, list(self.regions(pod))[0], "v-1"), {k: v[0] for k, v in many.items()})
        self.until(lambda: self.node.fds() == fds, pod)

    def test_readers_of_an_old_generation_keep_its_region(self):
        self.node.guest_script("delay@release#1=2000")
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.swap(a, b"2")
        nodes.wait_for(lambda: self.told(pod, "release"))
        self.swap(a, b"3")  # updates go on meanwhile
        self.until(lambda: self.regions(pod).get("vol-3") == {"v-1": 3}, pod)
        self.assertIn("vol-1", self.regions(pod))
        self.settled(pod, {"vol-3": {"v-1": 3}})

    def test_a_write_in_place_is_logged_and_a_new_generation(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        with open(os.path.join(a.data_dir(), "pass"), "wb") as f:
            f.write(b"written")

        def newest():  # opening it for writing is a change, too
            regions = self.regions(pod)
            return (len(regions) == 1 and list(regions.values()) != [{"v-1": 1}] and
                    self.in_force(pod, list(regions)[0], "v-1")["pass"] == b"written")
        self.until(newest, pod)
        self.assertRegex(self.node.log(), r"volume v-1 \(a\): file \S*pass was written in place")

    def test_a_subpath_written_in_place_is_logged_and_not_updated(self):
        pod = self.pod()
        a = self.volume("a")
        target = self.kubelet / "pods/uid-1/volume-subpaths/a/c/0"
        target.parent.mkdir(parents=True)
        os.link(os.path.join(a.data_dir(), "pass"), target)  # what a bind mount shows: the same file
        self.create(pod, "c", (target, "/p"))
        self.swap(a, b"second")
        with open(target, "r+b") as f:
            f.write(b"FIRST")
        nodes.wait_for(lambda: re.search(r"volume v-1 \(a\): file pods/uid-1/volume-subpaths/a/c/0 was written in place",
                                         self.node.log()),
                       why=self.node.log()[-2000:])
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1}})
        self.assertEqual(len(self.told(pod, "update")), 0)

    def test_a_volume_that_goes_keeps_its_last_generation(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        os.rename(a.dir, a.dir + ".gone")
        nodes.wait_for(lambda: "it is gone from the host; its last generation stays" in self.node.log())
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1}})
        self.node.restart()
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1}})

    def test_a_broken_volume_keeps_the_old_generation_until_it_is_whole(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        data = os.path.join(a.dir, "..data")
        os.symlink("..nowhere", data + "_tmp")
        os.rename(data + "_tmp", data)
        nodes.wait_for(lambda: "stays at generation 1" in self.node.log())
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1}})
        a._publish({"user": (b"root", 0o644), "pass": (b"whole", 0o400)})  # pylint: disable=protected-access
        self.settled(pod, {"vol-2": {"v-1": 2}})

    def test_300_updates_leave_nothing(self):
        pod = self.pod()
        a = self.volume("a")
        ctr = self.create(pod, "c", (a, "/a"))
        fds, watches = self.node.fds(), self.watches()
        for n in range(300):
            self.swap(a, b"%d" % n)
        nodes.wait_for(lambda: len(self.regions(pod)) == 1 and
                       self.in_force(pod, list(self.regions(pod))[0], "v-1")["pass"] == b"299")
        self.assertEqual(self.watches(), watches)
        nodes.wait_for(lambda: self.node.fds() == fds, why=f"{self.node.fds()} descriptors, {fds} before")
        self.node.cri.RemoveContainer(container_id=ctr)
        self.settled(pod, {})


class Paced(Volumes):
    mapper = {"update_burst": 2, "update_interval": "60s"}

    def shown(self, ctr):
        info = json.loads(self.node.cri.ContainerStatus(container_id=ctr, verbose=True).info["info"])["volumes"][0]
        return info["state"], info["pacedUpdates"], info["generation"]

    def test_a_volume_that_changes_all_the_time_has_to_wait(self):
        pod = self.pod()
        a, b = self.volume("a"), self.volume("b")
        ctr = self.create(pod, "c", (a, "/a"), (b, "/b"))
        for n in (2, 3):  # the burst
            self.swap(a, b"%d" % n)
            self.settled(pod, {"vol-1": {"v-2": 1}, f"vol-{n}": {"v-1": n}})
        for n in range(4, 9):
            self.swap(a, b"%d" % n)
        self.until(lambda: self.shown(ctr)[0] == "paced", pod)
        self.swap(b, b"other")  # each volume has its own pace
        self.settled(pod, {"vol-3": {"v-1": 3}, "vol-4": {"v-2": 2}})
        self.assertEqual(self.shown(ctr), ("paced", 1, 3))
        self.create(pod, "d", (a, "/a"))  # which is not to wait, nor to see what was before
        self.assertEqual(self.regions(pod), {"vol-4": {"v-2": 2}, "vol-5": {"v-1": 4}})
        self.assertEqual(self.in_force(pod, "vol-5", "v-1")["pass"], b"8")
        self.swap(a, b"9")
        self.until(lambda: self.shown(ctr) == ("paced", 2, 4), pod)
        told = [line for line in self.node.log().splitlines() if "changes all the time" in line]
        self.assertEqual(len(told), 1, told)
        self.assertIn(f"pod={pod[0]}", told[0])
        self.node.restart()  # what waited is caught up
        self.settled(pod, {"vol-4": {"v-2": 2}, "vol-6": {"v-1": 5}})
        self.assertEqual(self.in_force(pod, "vol-6", "v-1")["pass"], b"9")


class PacedShortly(Volumes):
    mapper = {"update_burst": 1, "update_interval": "1500ms"}

    def test_the_last_state_arrives_by_itself(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.swap(a, b"2")
        self.settled(pod, {"vol-2": {"v-1": 2}})
        for n in range(3, 8):
            self.swap(a, b"%d" % n)
        self.settled(pod, {"vol-3": {"v-1": 3}})
        self.assertEqual(self.in_force(pod, "vol-3", "v-1")["pass"], b"7")
        self.assertEqual(len(self.told(pod, "update")), 2)


class NotPaced(Volumes):
    mapper = {"update_burst": 0, "update_interval": "60s"}

    def test_each_change_is_followed_at_once(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        for n in range(2, 12):
            self.swap(a, b"%d" % n)
            self.settled(pod, {f"vol-{n}": {"v-1": n}})


class Restart(Volumes):
    def test_a_change_during_the_death_is_caught_up(self):
        pod = self.pod()
        a, b = self.volume("a"), self.volume("b")
        self.create(pod, "c", (a, "/a"), (b, "/b"))
        self.node.kill()
        self.swap(a, b"meanwhile")
        self.node.start()
        self.settled(pod, {"vol-1": {"v-2": 1}, "vol-2": {"v-1": 2}})
        self.assertEqual(self.in_force(pod, "vol-2", "v-1"), {"user": b"root", "pass": b"meanwhile"})
        self.swap(b, b"later")  # and followed again
        self.settled(pod, {"vol-2": {"v-1": 2}, "vol-3": {"v-2": 2}})

    def test_an_unchanged_volume_is_not_touched(self):
        pod = self.pod()
        self.create(pod, "c", (self.volume("a"), "/a"))
        before = self.node.told(pod[0])
        watches = self.watches()
        self.node.restart()
        nodes.wait_for(lambda: self.watches() == watches)
        self.assertEqual(self.node.told(pod[0]), before)

    def test_names_and_keys_go_on_counting(self):
        pod = self.pod()
        self.create(pod, "one", (self.volume("a"), "/a"))
        self.node.restart()
        self.create(pod, "two", (self.volume("b"), "/b"))
        self.assertEqual(self.regions(pod), {"vol-1": {"v-1": 1}, "vol-2": {"v-2": 1}})

    def test_a_removal_that_waits_for_readers_is_taken_up_again(self):
        self.node.guest_script("delay@release#1=3000")
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.swap(a, b"2")
        nodes.wait_for(lambda: self.told(pod, "release"))
        self.node.restart()
        self.settled(pod, {"vol-2": {"v-1": 2}})


class Bad(Volumes):
    """Whatever is wrong with a volume is an error of CreateContainer that names mount and path."""

    def check(self, prepare, code, text, payload=None):
        pod = self.pod()
        good, bad = self.volume("good"), self.volume("bad", payload)
        prepare(pathlib.Path(bad.dir), pathlib.Path(bad.data_dir()))
        fds, watches = self.node.fds(), self.watches()
        for _ in range(2):
            got, details = self.refused(pod, "c", (good, "/good"), (bad, "/bad"))
            self.assertEqual(got, code, details)
            self.assertIn(f"mount of {bad.dir} at /bad: ", details)
            self.assertRegex(details, text)
        self.assertEqual(self.regions(pod), {})
        self.assertEqual((self.node.fds(), self.watches()), (fds, watches))
        self.create(pod, "c", (good, "/good"))  # the name is free, the pod is fine

    def test_fifo(self):
        self.check(lambda v, d: os.mkfifo(d / "pipe"), Code.INVALID_ARGUMENT, "pipe")

    def test_socket(self):
        def listen(_, d):
            with socket.socket(socket.AF_UNIX) as s:
                here = os.getcwd()
                os.chdir(d)
                s.bind("sock")
                os.chdir(here)
        self.check(listen, Code.INVALID_ARGUMENT, "sock")

    def test_device(self):
        self.check(lambda v, d: os.mknod(d / "null", 0o020666, os.makedev(1, 3)), Code.INVALID_ARGUMENT, "null")

    def test_dangling_data(self):
        def dangle(v, _):
            os.unlink(v / "..data")
            os.symlink("..gone", v / "..data")
        self.check(dangle, Code.INVALID_ARGUMENT, r"\.\.data")

    def test_data_that_leads_out(self):
        def out(v, _):
            os.unlink(v / "..data")
            os.symlink("../../..", v / "..data")
        self.check(out, Code.INVALID_ARGUMENT, r"\.\.data")

    def test_data_is_a_file(self):
        def file(v, _):
            os.unlink(v / "..data")
            (v / "..data").write_text("x")
        self.check(file, Code.INVALID_ARGUMENT, r"\.\.data")

    def test_too_many_files(self):
        self.check(lambda v, d: None, Code.RESOURCE_EXHAUSTED, "more files and directories than are taken \\(limit 4096\\)", {f"f{n}": (b"", 0o644) for n in range(4200)})

    def test_too_deep(self):
        self.check(lambda v, d: os.makedirs(d / "/".join(["d"] * 20)), Code.RESOURCE_EXHAUSTED, "/d/d/d/")

    def test_missing(self):
        pod = self.pod()
        gone = self.kubelet / "pods/uid-1/volumes/kubernetes.io~secret/nowhere"
        code, text = self.refused(pod, "c", (gone, "/gone"))
        self.assertEqual(code, Code.INVALID_ARGUMENT)
        self.assertIn(f"mount of {gone} at /gone", text)

    def test_symlink_outside_is_only_a_link(self):
        pod = self.pod()
        a = self.volume("a")
        os.symlink("/etc/shadow", os.path.join(a.data_dir(), "leak"))
        self.create(pod, "c", (a, "/a"))
        self.assertEqual(self.in_force(pod, "vol-1", "v-1")["leak"], b"/etc/shadow")

    def test_a_region_that_fails_half_way(self):
        self.node.guest_script("fail@region#4=28")  # the image, and of four messages the third
        pod = self.pod()
        fds = self.node.fds()
        a = self.volume("many", {f"f{n:04}": (b"%d" % n, 0o644) for n in range(1000)})
        self.assertIn("told to fail", self.refused(pod, "c", (a, "/a"))[1])
        self.settled(pod, {})
        self.until(lambda: self.node.fds() == fds, pod)
        self.create(pod, "c", (a, "/a"))
        self.assertEqual(self.in_force(pod, list(self.regions(pod))[0], "v-2")["f0999"], b"999")

    def test_a_vm_that_refuses_a_region(self):
        self.node.guest_script("fail@create#1=28")
        pod = self.pod()
        a = self.volume("a")
        self.assertIn("told to fail", self.refused(pod, "c", (a, "/a"))[1])
        self.settled(pod, {})
        self.create(pod, "c", (a, "/a"))
        self.assertEqual(list(self.regions(pod).values()), [{"v-2": 1}])


class Leaks(Volumes):
    def test_nothing_is_left_after_removal(self):
        self.pod("first")
        self.node.cri.remove_pod(list(self.node.pods())[0])
        before = (self.node.fds(), self.watches())
        for n in range(3):
            pod = self.pod(f"p{n}")
            a, b = self.volume(f"a{n}"), self.volume(f"b{n}")
            one = self.create(pod, "one", (a, "/a"), (b, "/b"), (os.path.join(a.data_dir(), "pass"), "/p"))
            self.create(pod, "two", (a, "/a"))
            self.swap(a, b"new")
            if n == 0:
                self.node.cri.RemoveContainer(container_id=one)
            if n == 1:
                os.kill(self.node.vmm_pid(pod[0]), 9)
            self.node.cri.remove_pod(pod[0])
        self.assertEqual(self.node.census(), self.node.empty)
        nodes.wait_for(lambda: (self.node.fds(), self.watches()) == before,
                       why=f"{(self.node.fds(), self.watches())}, before {before}")
        self.lives()
        self.assertEqual(self.node.stop(), 0, "and no memory, where a sanitizer looks")

    def test_it_ends_with_volumes_being_followed(self):
        pod = self.pod()
        a = self.volume("a")
        self.create(pod, "c", (a, "/a"))
        self.swap(a, b"second")
        self.assertEqual(self.node.stop(), 0)
        self.node.start()
        self.until(lambda: self.in_force(pod, list(self.regions(pod))[-1], "v-1")["pass"] == b"second", pod)


if __name__ == "__main__":
    unittest.main()
