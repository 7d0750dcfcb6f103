#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# needs: lab
# cost: 50
"""Mapped volumes through the whole chain: kubelet's files on the host, CRI, a real microVM, a shell in the
container that sees them as it would on the host, sees them change, and cannot change them."""
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import grpc  # noqa: E402
from atomic_writer import AtomicWriter, kubelet_volume  # noqa: E402
from cri import pb  # noqa: E402
from ocimage import Layer, busybox_image  # noqa: E402
from podcase import PodCase  # noqa: E402


def own(path):
    """What kubelet does for an fsGroup."""
    for base, dirs, files in os.walk(path):
        for name in [base, *(os.path.join(base, n) for n in dirs + files)]:
            os.chown(name, 0, 2000, follow_symlinks=False)
            if not os.path.islink(name):
                os.chmod(name, os.stat(name).st_mode & 0o7777 | (0o2070 if os.path.isdir(name) else 0o040))


# Keeps the secret's first generation open until it is told to read it.
READER = """exec 3< /creds/pass; while [ ! -e /tmp/go ]; do sleep 0.2; done; cat <&3 > /tmp/old; exec 3<&-; touch /tmp/done
exec sleep 100000"""


class Volumes(PodCase):
    @classmethod
    def setUpClass(cls):
        cls.start_all(tmpfs=True)
        cls.secret = cls.volume("secret", "creds", {"user": (b"root", 0o644), "pass": (b"first", 0o400)})
        cls.token = cls.volume("projected", "token", {"token": (b"jwt" * 3000, 0o640), "ns/name": (b"default", 0o644)}, own)
        cls.config = cls.volume("configmap", "conf", {"app.conf": (b"a=1\n" * 5000, 0o644), "empty": (b"", 0o600)})
        cls.pod = cls.new_pod("main")

    @classmethod
    def volume(cls, plugin, name, payload, chown=None):
        writer = AtomicWriter(kubelet_volume(cls.kubelet, "uid", plugin, name), chown=chown)
        writer.write(payload)
        return writer

    @classmethod
    def sub_path(cls, writer, name):
        """kubelet's bind mount of one file of a volume."""
        target = cls.kubelet / "pods/uid/volume-subpaths" / os.path.basename(writer.dir) / "main/0"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        subprocess.run(["mount", "--bind", os.path.join(writer.data_dir(), name), target], check=True)
        return target

    def create(self, name, *mounts, command=("sleep", "100000")):
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=self.image),
                                    command=command, log_path=f"{name}.log")
        for host, path in mounts:
            config.mounts.add(host_path=str(getattr(host, "dir", host)), container_path=path, readonly=True)
        config.linux.security_context.namespace_options.pid = pb.CONTAINER
        ctr = self.cri.CreateContainer(pod_sandbox_id=self.pod[0], config=config, sandbox_config=self.pod[1],
                                       timeout=120).container_id
        self.cri.StartContainer(container_id=ctr)
        return ctr

    def regions(self):
        return {r["key"]: r for r in self.info(self.pod)["regions"] if r["key"].startswith("vol-")}

    def until(self, what):
        super().until(what, tell=self.regions)

    @staticmethod
    def host_view(path):
        """As the script of guest_view tells it; the writer's other generations are not there."""
        lines = []
        data = os.readlink(os.path.join(path, "..data"))
        for base, dirs, files in os.walk(path):
            dirs[:] = [d for d in dirs if not (base == path and d.startswith("..") and d not in ("..data", data))]
            for name in [".", *files, *(d for d in dirs if os.path.islink(os.path.join(base, d)))]:
                full = os.path.normpath(os.path.join(base, name))
                st = os.lstat(full)
                line = f"{'.' + full[len(path):]} {st.st_mode & 0o7777:o} {st.st_uid} {st.st_gid} {int(st.st_mtime)}"
                if os.path.islink(full):
                    line += f" -> {os.readlink(full)}"
                elif os.path.isfile(full):
                    line += f" {st.st_size} {hashlib.sha256(pathlib.Path(full).read_bytes()).hexdigest()}"
                lines.append(line)
        return sorted(lines)

    def guest_view(self, ctr, path):
        script = (f"cd {path} && find . | while read -r f; do s=$(stat -c '%n %a %u %g %Y' \"$f\"); "
                  "if [ -L \"$f\" ]; then echo \"$s -> $(readlink \"$f\")\"; "
                  "elif [ -f \"$f\" ]; then echo \"$s $(stat -c %s \"$f\") $(sha256sum < \"$f\" | cut -d' ' -f1)\"; "
                  "else echo \"$s\"; fi; done")
        return sorted(self.out(ctr, script).splitlines())

    @staticmethod
    def without_own_times(lines):
        """The rename of an update happens in the guest at a time of its own, which the directory keeps."""
        return [re.sub(r"^(\. .*) \d+$|^(\./\.\.data .*) \d+ (->.*)", r"\1\2\3", line) for line in lines]

    def test_1_a_container_sees_what_the_host_has(self):
        cls = type(self)
        cls.one = self.create("one", (self.secret, "/creds"), (self.token, "/run/token"),
                              (self.sub_path(self.config, "app.conf"), "/etc/app.conf"), command=["sh", "-c", READER])
        self.assertEqual(list(self.regions()), ["vol-1"])
        for writer, path in ((self.secret, "/creds"), (self.token, "/run/token")):
            self.assertEqual(self.guest_view(self.one, path), self.host_view(writer.dir))
        self.assertEqual(self.out(self.one, "stat -c '%a %u %g %s' /etc/app.conf; tail -n1 /etc/app.conf"),
                         "644 0 0 20000\na=1\n")

    def test_2_another_one_shares_it(self):
        cls = type(self)
        cls.two = self.create("two", (self.secret, "/elsewhere"))
        self.assertEqual(list(self.regions()), ["vol-1"])
        self.assertEqual(self.guest_view(self.two, "/elsewhere"), self.host_view(self.secret.dir))

    def test_3_nothing_can_be_written(self):
        before = self.host_view(self.secret.dir)
        for command in ("echo x > /creds/pass", "echo x > /creds/new", "rm -f /creds/user", "chmod 777 /creds/pass",
                        "mv /creds/..data /creds/other", "touch /creds/pass", "rm -rf /creds/..2*", "echo x > /etc/app.conf",
                        "ln -s /etc/passwd /creds/more"):
            code, _, err = self.sh(self.one, command)
            self.assertNotEqual(code, 0, command)
            self.assertRegex(err, b"Read-only file system|Permission denied|Operation not permitted", command)
        self.assertEqual(self.host_view(self.secret.dir), before)
        self.assertEqual(self.guest_view(self.one, "/creds"), before)

    def test_4_an_update_reaches_both_and_old_readers_read_on(self):
        self.secret.write({"user": (b"root", 0o644), "pass": (b"second", 0o400)})
        for ctr, path in ((self.one, "/creds"), (self.two, "/elsewhere")):
            self.until(lambda c=ctr, p=path: self.out(c, f"cat {p}/pass") == "second")
            self.assertEqual(self.without_own_times(self.guest_view(ctr, path)),
                             self.without_own_times(self.host_view(self.secret.dir)))
        self.assertEqual(sorted(self.regions()), ["vol-1", "vol-2"])
        for n in range(3, 6):
            self.secret.write({"user": (b"root", 0o644), "pass": (b"%d" % n, 0o400)})
        self.until(lambda: self.out(self.two, "cat /elsewhere/pass") == "5")
        self.config.write({"app.conf": (b"changed", 0o644), "empty": (b"", 0o600)})  # a subPath never follows
        self.token.write({"token": (b"new", 0o640), "ns/name": (b"default", 0o644)})
        self.until(lambda: self.out(self.one, "cat /run/token/token") == "new")
        self.assertEqual(self.out(self.one, "tail -n1 /etc/app.conf"), "a=1\n")
        self.out(self.one, "touch /tmp/go")
        self.until(lambda: self.sh(self.one, "test -e /tmp/done")[0] == 0)
        self.assertEqual(self.out(self.one, "cat /tmp/old"), "first")
        self.until(lambda: len(self.regions()) == 3)  # the subPath's, the secret's, the token's

    def test_5_a_change_during_the_death_of_nexusd(self):
        self.node.kill9()
        self.secret.write({"user": (b"root", 0o644), "pass": (b"meanwhile", 0o400)})
        self.node.start()
        type(self).cri = self.node.cri
        self.until(lambda: self.out(self.two, "cat /elsewhere/pass") == "meanwhile")
        self.until(lambda: len(self.regions()) == 3)

    def test_6_an_image_is_mounted(self):
        """All of it and a part of it, read-only; it stays while it is mounted, whatever becomes of its names."""
        ref = self.registry.push("test/model", "1", busybox_image([Layer().file("model/weights", b"3.14\n"), Layer().dir("opt")]))
        image = self.cri.PullImage(image=pb.ImageSpec(image=ref), timeout=300).image_ref

        def create(name, *mounts):
            config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=self.image),
                                        command=["sleep", "100000"])
            config.linux.security_context.namespace_options.pid = pb.CONTAINER
            for path, part in mounts:
                config.mounts.add(container_path=path, readonly=True, image=pb.ImageSpec(image=ref), image_sub_path=part)
            return self.cri.CreateContainer(pod_sandbox_id=self.pod[0], config=config, sandbox_config=self.pod[1],
                                            timeout=120).container_id

        with self.assertRaises(grpc.RpcError) as e:
            create("missing", ("/m", "no/such"))
        self.assertEqual(e.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertRegex(e.exception.details(), "^ImageVolumeMountFailed: .*no/such: No such file")
        ctr = create("images", ("/all", ""), ("/part", "model"))
        self.cri.StartContainer(container_id=ctr)
        self.assertEqual(self.out(ctr, "cat /all/model/weights /part/weights; /all/bin/echo runs"), "3.14\n3.14\nruns\n")
        for command in ("echo x > /part/weights", "touch /all/new", "rm /all/bin/sh"):
            self.assertIn(b"Read-only file system", self.sh(ctr, command)[2], command)
        self.assertEqual([m.image.image_ref for m in self.cri.ContainerStatus(container_id=ctr).status.mounts], [image] * 2)
        self.cri.RemoveImage(image=pb.ImageSpec(image=ref))
        self.assertEqual(self.out(ctr, "cat /all/model/weights; /part/../all/bin/id -u"), "3.14\n0\n")
        self.cri.RemoveContainer(container_id=ctr)
        self.assertNotIn(image, [r["key"] for r in self.info(self.pod)["regions"]])

    def test_7_everything_goes(self):
        self.cri.RemoveContainer(container_id=self.one)
        self.until(lambda: len(self.regions()) == 1)
        self.assertEqual(self.out(self.two, "cat /elsewhere/pass"), "meanwhile")
        self.cri.RemoveContainer(container_id=self.two)
        self.until(lambda: self.regions() == {})
        self.cri.remove_pod(self.pod[0])
        self.assertFalse(self.node.census())


if __name__ == "__main__":
    unittest.main(failfast=True)
