#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 50
"""Two real pods of two images that share a layer: what of it is there once only (devices, mappings, pages)."""
import json
import os
import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
from cri import pb, unique  # noqa: E402
from node import Node  # noqa: E402
from ocimage import Layer, Registry, busybox_image  # noqa: E402

SLEEP = ["sleep", "100000"]
BIG = os.urandom(16 << 20)  # what a layer has that is worth to be shared


def mappings(pid):
    """[(file, fields of smaps)] of a process; sizes in bytes."""
    out = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+) *(.*)", line)
        if head:
            out.append((head[3], {"dev": head[1], "inode": int(head[2])}))
        elif line.endswith(" kB"):
            out[-1][1][line.split(":")[0]] = int(line.split()[1]) * 1024
    return out


class Sharing(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.registry = Registry().start()
        cls.addClassCleanup(cls.registry.stop)
        big = Layer("none").file("big", BIG)
        cls.images = [cls.registry.push(f"test/{name}", "1", busybox_image([big, Layer("none").file("own", name.encode())]))
                      for name in ("one", "two")]
        cls.node = Node(insecure=[cls.registry.address])
        cls.addClassCleanup(cls.node.close)
        cls.node.start()
        cls.cri = cls.node.cri
        for image in cls.images:
            cls.cri.PullImage(image=pb.ImageSpec(image=image), timeout=300)
        cls.pods = []
        for i, image in enumerate(cls.images):
            name = f"pod{i}"
            (cls.node.logs / name).mkdir()
            pod = cls.cri.run_pod(name, str(cls.node.logs / name), timeout=240)
            cls.pods.append((pod, cls.cri.run(pod, "c", image, SLEEP)))

    def vmm(self, pod):
        (pid,) = [p for p in self.node.vmm_pids() if pod[0].encode() in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
        return pid

    def sh(self, ctr, script):
        code, out, err = self.cri.exec(ctr, "sh", "-c", script, timeout=60)
        self.assertEqual((code, err), (0, b""), script)
        return out.decode()

    def layer_mappings(self, pid):
        """Those of data files of layers that have BIG's size at least."""
        return [(n, m) for n, m in mappings(pid) if n.endswith(".data") and "/layers/" in n and m["Size"] >= len(BIG)]

    def test_1_a_second_container_of_the_image_adds_nothing(self):
        pod, ctr = self.pods[0]
        regions = json.loads(self.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])["regions"]
        devices, maps = self.sh(ctr, "ls /sys/bus/virtio/devices /sys/block"), len(mappings(self.vmm(pod)))
        self.assertEqual(len(regions), 1)
        more = [self.cri.run(pod, unique("more"), self.images[0], SLEEP) for _ in range(3)]
        after = json.loads(self.cri.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])["regions"]
        self.assertEqual(after, regions)
        self.assertEqual(self.sh(ctr, "ls /sys/bus/virtio/devices /sys/block"), devices)
        self.assertLessEqual(len([n for n, _ in mappings(self.vmm(pod)) if n.endswith((".data", ".erofs"))]), maps)
        for m in more:
            self.assertEqual(self.sh(m, "cat /own"), "one")
            self.cri.RemoveContainer(container_id=m)

    def test_2_a_layer_of_two_images_in_two_pods_is_one_set_of_pages(self):
        files = []
        for pod, ctr in self.pods:
            self.assertEqual(self.sh(ctr, "wc -c < /big").strip(), str(len(BIG)))
            self.sh(ctr, "cat /big > /dev/null")
        for pod, _ in self.pods:
            (mapped,) = self.layer_mappings(self.vmm(pod))
            files.append((mapped[0], mapped[1]["dev"], mapped[1]["inode"]))
            m = mapped[1]
            self.assertGreaterEqual(m["Rss"], len(BIG))
            self.assertEqual(m["Anonymous"], 0)
            # the other pod has the very same pages; "dirty" is what those of a tmpfs always are
            self.assertGreaterEqual(m["Shared_Clean"] + m["Shared_Dirty"], len(BIG))
            self.assertLessEqual(m["Pss"], m["Rss"] * 0.51)
        self.assertEqual(files[0], files[1])

    # ---- nexus pods --memory

    def nexus(self, *args):
        return self.node.nexus(*args)

    def assert_near(self, ours, kernels, what):
        self.assertLessEqual(abs(ours - kernels), kernels * 0.05, f"{what}: {ours} against the kernel's {kernels}")

    @staticmethod
    def guest_ram(pid):
        """Bytes allocated for the guest's memfd: what the file system says, not the page tables."""
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(fd).startswith("/memfd:nexus-ram"):
                return os.stat(fd).st_blocks * 512
        raise AssertionError("no memfd")

    @staticmethod
    def rollup(pid):
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        return {m[0]: int(m[1]) * 1024 for m in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}

    def test_3_memory_is_what_the_kernel_says(self):
        doc = json.loads(self.nexus("pods", "--memory", "--output", "json"))
        found = {i["id"]: i["memory"] for i in doc["items"]}
        totals = 0
        for pod, _ in self.pods:
            pid, ours = self.vmm(pod), found[pod[0]]
            rollup = self.rollup(pid)
            regions = [m for n, m in mappings(pid) if n.startswith(str(self.node.state / "images"))]
            share = sum(m["Pss"] for m in regions)
            print(f"\n{ours} guest={self.guest_ram(pid)} pss={rollup['Pss']} regions={share}", file=sys.stderr)
            self.assert_near(ours["guestRssBytes"], self.guest_ram(pid), "guest RAM")
            self.assert_near(ours["regionShareBytes"], share, "share of the regions")
            self.assert_near(ours["regionMappedBytes"], sum(m["Size"] for m in regions), "regions")
            self.assert_near(ours["totalBytes"], rollup["Pss"], "total")
            private = rollup["Private_Clean"] + rollup["Private_Dirty"]
            self.assert_near(ours["guestRssBytes"] + ours["vmmPrivateBytes"],
                             private - sum(m["Private_Clean"] + m["Private_Dirty"] for m in regions), "RAM and monitor")
            self.assertGreater(ours["vmmPrivateBytes"], 0)
            self.assertLess(ours["vmmPrivateBytes"], ours["guestRssBytes"])
            totals += rollup["Pss"]
        self.assert_near(doc["memory"]["totalBytes"], totals, "sum of the totals")
        # both have all of BIG: each has half of it as its share
        self.assertGreaterEqual(found[self.pods[0][0][0]]["regionResidentBytes"], len(BIG))
        self.assertLessEqual(sum(found[p[0]]["regionShareBytes"] for p, _ in self.pods), len(BIG) * 1.5)

    def test_4_memory_as_a_table(self):
        lines = self.nexus("pods", "--memory").splitlines()
        self.assertEqual(lines[0].split(), ["POD", "NAME", "GUEST", "RSS", "VMM", "PRIVATE", "VIRTIOFSD", "REGIONS", "SHARE",
                                            "TOTAL"])
        self.assertEqual(len(lines), 1 + len(self.pods) + 1)
        for pod, _ in self.pods:
            (row,) = [l for l in lines if l.startswith(pod[0][:12])]
            self.assertEqual(len(re.findall(r"\d [kMG]B\b", row)), 5, row)
        self.assertIn("sum", lines[-1])

    def test_5_a_pod_without_a_vm_has_none(self):
        pod, _ = self.pods[1]
        self.cri.StopPodSandbox(pod_sandbox_id=pod[0])
        doc = json.loads(self.nexus("pods", "--memory", "--output", "json"))
        self.assertEqual([i["memory"] is None for i in doc["items"] if i["id"] == pod[0]], [True])
        (row,) = [l for l in self.nexus("pods", "--memory").splitlines() if l.startswith(pod[0][:12])]
        self.assertEqual(row.split()[2:], ["-"] * 6)


if __name__ == "__main__":
    unittest.main()
