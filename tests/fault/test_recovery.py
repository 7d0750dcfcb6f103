#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: root
"""What nexusd finds when it starts, and what happens around it: restarts with running pods, reboots,
damaged, empty, swapped and newer records, things that belong to no record, a full disk."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import fakenode as nodes  # noqa: E402
import grpc  # noqa: E402
from cri import parse_log, pb  # noqa: E402

Code = grpc.StatusCode
FOREVER = ["sleep", "infinity"]


class Recovery(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.node = nodes.Node()
        self.addCleanup(self.node.close)
        self.node.start()

    def pod(self, name="pod", **more):
        return self.node.cri.run_pod(name, log_directory=str(self.node.logs / name), **more)

    def everything_goes(self):
        for pod in list(self.node.pods()):
            self.node.cri.remove_pod(pod)
        nodes.wait_for(lambda: self.node.census() == self.node.empty, why="nothing left")

    def status(self, pod):
        return self.node.cri.PodSandboxStatus(pod_sandbox_id=pod).status

    # ---- restarts

    def test_restart_finds_everything_as_it_was(self):
        pods = [self.pod(f"p{n}", labels={"n": str(n)}) for n in range(3)]
        ctrs = [self.node.cri.run(p, "c", nodes.IMAGE, ["sh", "-c", "lines 3; sleep infinity"]) for p in pods]
        created = self.node.cri.create(pods[0], "later", nodes.IMAGE, FOREVER)
        done = self.node.cri.run(pods[1], "done", nodes.IMAGE, ["exit", "9"])
        self.node.cri.wait_exited(done)
        before = ([self.status(p[0]) for p in pods], [self.node.vmm_pid(p[0]) for p in pods],
                  [self.node.cri.ContainerStatus(container_id=c).status for c in (*ctrs, created, done)])
        self.node.restart()
        after = ([self.status(p[0]) for p in pods], [self.node.vmm_pid(p[0]) for p in pods],
                 [self.node.cri.ContainerStatus(container_id=c).status for c in (*ctrs, created, done)])
        self.assertEqual(before, after)
        self.node.cri.StartContainer(container_id=created)
        for c in (*ctrs, created):
            self.assertEqual(self.node.cri.exec(c, "echo", "here"), (0, b"here\n", b""))
        self.everything_goes()

    def test_exit_while_nexusd_is_away(self):
        pod = self.pod()
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, ["sh", "-c", "echo said; sleep 1; exit 17"])
        self.node.kill()
        log = pathlib.Path(pod[1].log_directory) / "c.log"
        nodes.wait_for(log.exists)
        # the container ends by itself, one second later, without nexusd
        end = time.monotonic() + 20
        while "exited with code 17" not in self.node.log():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.node.start()
        s = self.node.cri.ContainerStatus(container_id=ctr).status
        self.assertEqual((s.state, s.exit_code, s.reason), (pb.CONTAINER_EXITED, 17, "Error"))
        self.assertEqual(parse_log(log), [("stdout", "F", b"said")])
        self.everything_goes()

    def test_many_restarts_change_nothing(self):
        pod = self.pod()
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        pid = self.node.vmm_pid(pod[0])
        for _ in range(10):
            self.node.restart()
        self.assertEqual(self.node.vmm_pid(pod[0]), pid)
        self.assertEqual(self.node.cri.exec(ctr, "true")[0], 0)
        self.everything_goes()

    def test_termination_leaves_pods_running(self):
        pod = self.pod()
        pid = self.node.vmm_pid(pod[0])
        self.assertEqual(self.node.stop(), 0)
        self.assertTrue(nodes.alive(pid))
        self.node.start()
        self.assertEqual(self.status(pod[0]).state, pb.SANDBOX_READY)
        self.everything_goes()

    def test_systemd_is_told(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            path = str(self.node.root / "notify")
            s.bind(path)
            s.settimeout(30)
            self.node.kill()
            self.node.start(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"})
            said = [s.recv(4096) for _ in range(4)]
            self.assertEqual(sum(b"READY=1" in m for m in said), 1)
            self.assertEqual(sum(b"WATCHDOG=1" in m for m in said), 3)  # and the loop goes on feeding it
            self.assertEqual(self.node.stop(), 0)
            while b"STOPPING=1" not in s.recv(4096):
                pass
        self.node.start()

    def test_second_nexusd_is_refused(self):
        r = self.node.inside(str(nodes.NEXUSD), "--config", str(self.node.root / "nexusd.yaml"), stderr=subprocess.PIPE,
                             timeout=30)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"another nexusd runs", r.stderr)

    def test_reboot(self):
        pod = self.pod()
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.node.kill()
        # what a reboot does: another boot id, no processes, an empty /run, no namespaces; records stay
        for pid in self.node.vmm_pids():
            os.kill(pid, signal.SIGKILL)
        self.node.end_namespaces()
        for d in ("run", "netns"):
            shutil.rmtree(self.node.root / d)
            (self.node.root / d).mkdir()
        self.node.boot_id.write_text("00000000-0000-4000-8000-000000000002\n")
        self.assertNotEqual(self.node.record("sandboxes", pod[0])["status"]["ips"], [])
        self.node.start()
        self.assertEqual(self.status(pod[0]).state, pb.SANDBOX_NOTREADY)
        s = self.node.cri.ContainerStatus(container_id=ctr).status
        self.assertEqual((s.state, s.exit_code, s.reason), (pb.CONTAINER_EXITED, 255, "Unknown"))
        self.assertEqual(self.node.census()["leases"], [])  # the debt is paid
        self.everything_goes()

    def test_vm_gone_while_nexusd_is_away(self):
        pod = self.pod()
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.node.kill()
        pid = self.node.vmm_pid(pod[0])
        os.kill(pid, signal.SIGKILL)
        nodes.wait_for(lambda: not nodes.alive(pid), why="it is gone, not only told to go")
        self.node.start()
        self.assertEqual(self.status(pod[0]).state, pb.SANDBOX_NOTREADY)
        s = self.node.cri.ContainerStatus(container_id=ctr).status
        self.assertEqual((s.state, s.exit_code, s.reason), (pb.CONTAINER_EXITED, 255, "Unknown"))
        self.everything_goes()

    def test_pid_of_another_process_is_not_mistaken(self):
        pod = self.pod()
        self.node.kill()
        path = self.node.root / f"run/vmm/{pod[0]}.pid"
        doc = json.loads(path.read_text())
        os.kill(doc["pid"], signal.SIGKILL)
        nodes.wait_for(lambda: not nodes.alive(doc["pid"]))
        doc["pid"] = os.getpid()  # reused: same number, another start time
        path.write_text(json.dumps(doc))
        self.node.start()
        self.assertEqual(self.status(pod[0]).state, pb.SANDBOX_NOTREADY)
        self.everything_goes()

    # ---- records

    def damage(self, change):
        """A pod that lives through a restart with its record changed, and one beside it."""
        pod, other = self.pod("victim"), self.pod("other")
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        pid, other_pid = self.node.vmm_pid(pod[0]), self.node.vmm_pid(other[0])
        self.node.kill()
        path = self.node.root / f"state/sandboxes/{pod[0]}.json"
        change(path)
        self.node.start()
        self.assertEqual(self.status(other[0]).state, pb.SANDBOX_READY)
        self.assertEqual(self.node.vmm_pid(other[0]), other_pid)
        # nobody knows what the pod was: it is gone, with all that it had
        self.assertEqual(list(self.node.pods()), [other[0]])
        self.assertNotIn(ctr, self.node.containers())
        nodes.wait_for(lambda: not nodes.alive(pid), why="its VM ended")
        self.assertEqual(self.node.census()["leases"], [f"10.201.0.{3}", "fd00:201::3"])
        self.node.cri.RunPodSandbox(config=pod[1])  # a new start
        self.everything_goes()

    def test_empty_record(self):
        self.damage(lambda p: p.write_bytes(b""))

    def test_cut_record(self):
        self.damage(lambda p: p.write_bytes(p.read_bytes()[:-200]))

    def test_record_with_a_flipped_byte(self):
        def flip(p):
            data = bytearray(p.read_bytes())
            at = data.index(b"victim")
            data[at] ^= 1
            p.write_bytes(data)
        self.damage(flip)

    def test_record_without_sense_but_with_a_good_checksum(self):
        def rewrite(p):
            doc = json.loads(p.read_text())
            doc["record"]["spec"] = []
            doc["checksum"] = None  # "mended by hand"
            p.write_text(json.dumps(doc))
        self.damage(rewrite)

    def test_fifo_in_place_of_a_record(self):
        def fifo(p):
            p.unlink()
            os.mkfifo(p)
        self.damage(fifo)

    def test_lost_record(self):
        self.damage(lambda p: p.unlink())

    def test_newer_record_is_refused_and_untouched(self):
        pod = self.pod()
        pid = self.node.vmm_pid(pod[0])
        self.node.kill()
        path = self.node.root / f"state/sandboxes/{pod[0]}.json"
        good = path.read_bytes()
        doc = json.loads(good)
        doc["schema"], doc["checksum"] = 99, None
        path.write_text(json.dumps(doc))
        newer = path.read_bytes()
        self.node.start(wait=False)
        self.assertEqual(self.node.died(), 1)
        self.assertEqual(path.read_bytes(), newer)
        self.assertTrue(nodes.alive(pid))
        path.write_bytes(good)
        self.node.start()
        self.assertEqual(self.node.vmm_pid(pod[0]), pid)
        self.everything_goes()

    def test_damaged_container_record(self):
        pod = self.pod()
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.node.kill()
        (self.node.root / f"state/containers/{ctr}.json").write_bytes(b"{")
        self.node.start()
        self.assertEqual(self.status(pod[0]).state, pb.SANDBOX_READY)
        self.assertEqual(self.node.containers(), {})
        again = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.assertEqual(self.node.cri.exec(again, "true")[0], 0)
        self.everything_goes()

    def test_container_record_with_half_a_mount(self):
        pod = self.pod()
        for part, key, half in (("spec", "mounts", {"container_path": "/x"}), ("spec", "mounts", {"host_path": "/x"}),
                                ("status", "image_mounts", {"destination": "/x"}), ("status", "image_mounts", {"image_id": "sha256:1"})):
            ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
            self.node.kill()
            path = self.node.root / f"state/containers/{ctr}.json"
            doc = json.loads(path.read_text())
            doc["record"][part][key], doc["checksum"] = [half], None
            path.write_text(json.dumps(doc))
            self.node.start()
            self.assertEqual(self.status(pod[0]).state, pb.SANDBOX_READY)
            self.assertEqual(self.node.containers(), {}, half)
        self.everything_goes()

    def test_what_belongs_to_no_record_goes(self):
        self.node.kill()
        stranger = "ab" * 32
        (self.node.root / f"run/vmm/{stranger}.sock").write_text("")
        (self.node.root / f"state/scratch/{stranger}.img").write_text("")
        (self.node.root / "netns/nexus-0123456789ab").write_text("")
        self.node.start()
        nodes.wait_for(lambda: self.node.census() == self.node.empty, why="nothing left")
        self.assertEqual(self.node.pods(), {})

    # ---- a full disk

    def test_failed_state_write_changes_nothing(self):
        pod = self.pod()
        self.node.restart("pod.sandbox.save=error(ENOSPC);pod.container.save=error(ENOSPC)")
        with self.assertRaises(grpc.RpcError) as e:
            self.pod("second")
        self.assertEqual(e.exception.code(), Code.RESOURCE_EXHAUSTED)
        with self.assertRaises(grpc.RpcError) as e:
            self.node.cri.create(pod, "c", nodes.IMAGE, FOREVER)
        self.assertEqual(e.exception.code(), Code.RESOURCE_EXHAUSTED)
        self.assertEqual(list(self.node.pods()), [pod[0]])
        self.assertEqual(self.node.containers(), {})
        # but what gives space back works
        self.node.cri.remove_pod(pod[0])
        self.node.restart()
        self.everything_goes()

    def test_really_full_disk(self):
        self.node.kill()
        shutil.copytree(self.node.root / "state/images", self.node.root / "images-copy")
        shutil.rmtree(self.node.root / "state")
        (self.node.root / "state").mkdir()
        self.node.extra = {"images": {"dir": str(self.node.root / "images-copy")}}
        self.node.inside("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(self.node.root / "state"), check=True)
        self.node.images = None
        self.node.start()
        pod = self.pod()
        ctr = self.node.cri.run(pod, "c", nodes.IMAGE, FOREVER)
        self.node.inside("dd", "if=/dev/zero", f"of={self.node.root}/state/filler", "bs=64k", check=False,
                         stderr=subprocess.DEVNULL)
        with self.assertRaises(grpc.RpcError) as e:
            self.pod("second")
        self.assertEqual(e.exception.code(), Code.RESOURCE_EXHAUSTED)
        self.assertEqual(self.node.cri.exec(ctr, "true")[0], 0)
        self.node.restart()
        self.assertEqual(self.node.containers()[ctr].state, pb.CONTAINER_RUNNING)
        self.node.cri.StopContainer(container_id=ctr)
        self.node.cri.remove_pod(pod[0])
        self.assertEqual(self.node.pods(), {})
        self.node.kill()
        self.node.inside("umount", "-l", str(self.node.root / "state"), check=True)


if __name__ == "__main__":
    unittest.main()
