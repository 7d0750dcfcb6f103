# SPDX-License-Identifier: Apache-2.0
"""Volumes as kubelet writes them: the order of system calls of its AtomicWriter (kubernetes 1.28 and later:
visible links are made after the rename of ..data, so that a reader may meet the time in between).

    w = AtomicWriter("/path/of/an/existing/directory")
    w.write({"key": (b"bytes", 0o644), "dir/other": (b"", 0o400)})

A payload that is on disk already writes nothing. hook(step) is called before each step; a hook that raises
is a kubelet that dies there, and what it leaves behind stays."""
import os
import random
import shutil
import time

DATA, NEW_DATA = "..data", "..data_tmp"
STEPS = ["mkdir", "payload", "permissions", "symlink", "rename", "links", "stale", "remove", "done"]


class AtomicWriter:
    def __init__(self, directory, chown=None, hook=None):
        """chown(path of the new generation's directory): what setPerms does, fsGroup's owner and modes."""
        self.dir = os.fspath(directory)
        os.stat(self.dir)
        self.chown, self.hook = chown, hook or (lambda step: None)

    def write(self, payload):
        """payload: {name: (bytes, mode)}. True if a new generation was made."""
        payload = {self._clean(name): value for name, value in payload.items()}
        old = self._old_generation()
        stale = self._stale(payload, old) if old else set()
        fresh = not old or bool(stale) or self._differs(payload, old)
        if fresh:
            self._publish(payload)
        self.hook("links")
        self._make_links(payload)
        self.hook("stale")
        for name in sorted(stale):
            if "/" not in name:
                os.unlink(os.path.join(self.dir, name))
        self.hook("remove")
        if fresh and old:
            shutil.rmtree(os.path.join(self.dir, old))
        self.hook("done")
        return fresh

    # ---- the steps

    def _publish(self, payload):
        self.hook("mkdir")
        generation = self._make_generation()
        path = os.path.join(self.dir, generation)
        self.hook("payload")
        for name, (content, mode) in payload.items():
            full = os.path.join(path, name)
            os.makedirs(os.path.dirname(full), mode=0o777, exist_ok=True)
            fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            try:
                while content:
                    content = content[os.write(fd, content):]
            finally:
                os.close(fd)
            os.chmod(full, mode)
        self.hook("permissions")
        if self.chown:
            self.chown(path)
        self.hook("symlink")
        os.symlink(generation, os.path.join(self.dir, NEW_DATA))
        self.hook("rename")
        os.rename(os.path.join(self.dir, NEW_DATA), os.path.join(self.dir, DATA))

    def _make_generation(self):
        stamp = time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime())
        while True:
            name = stamp + str(random.randrange(10**9, 2**32))
            try:
                os.mkdir(os.path.join(self.dir, name), 0o700)
            except FileExistsError:
                continue
            os.chmod(os.path.join(self.dir, name), 0o755)
            return name

    def _make_links(self, payload):
        for name in payload:
            top = name.split("/")[0]
            link = os.path.join(self.dir, top)
            if not os.path.lexists(link):
                os.symlink(os.path.join(DATA, top), link)

    # ---- what is there

    @staticmethod
    def _clean(name):
        if not name or name.startswith(("/", "..")) or ".." in name.split("/"):
            raise ValueError(f"not a name of a payload: {name!r}")
        return os.path.normpath(name)

    def _old_generation(self):
        try:
            return os.readlink(os.path.join(self.dir, DATA))
        except FileNotFoundError:
            return ""

    def _stale(self, payload, old):
        """Paths of the old generation that the new one has no more."""
        there, wanted = set(), set()
        top = os.path.join(self.dir, old)
        for base, dirs, files in os.walk(top):
            for name in dirs + files:
                there.add(os.path.relpath(os.path.join(base, name), top))
        for name in payload:
            while name:
                wanted.add(name)
                name = os.path.dirname(name)
        return there - wanted

    def _differs(self, payload, old):
        for name, (content, _) in payload.items():
            try:
                with open(os.path.join(self.dir, old, name), "rb") as f:
                    if f.read() != content:
                        return True
            except FileNotFoundError:
                return True
        return False

    def data_dir(self):
        """The directory of the generation in force."""
        return os.path.join(self.dir, self._old_generation())


def kubelet_volume(root, uid, plugin, name):
    """Makes and returns <root>/pods/UID/volumes/kubernetes.io~PLUGIN/NAME."""
    path = os.path.join(os.fspath(root), "pods", uid, "volumes", f"kubernetes.io~{plugin}", name)
    os.makedirs(path, mode=0o755, exist_ok=True)
    os.chmod(path, 0o1777 if plugin in ("secret", "projected") else 0o755)
    return path
