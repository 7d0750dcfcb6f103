#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Builds an initramfs (cpio newc, uncompressed) of a few files and kernel modules.

As a library for lab/run; as a program it makes the guest's:
  initramfs.py --kernel-dir build/kernels/cloud --init build/agent/src/agent/nexus-agent \\
               --modules guest/modules --out build/guest/initramfs.cpio

Modules are named without suffix; their dependencies come first, compressed ones are unpacked, so
that the guest only has to load /modules/NN-name.ko in the order of /modules.list."""
import argparse
import lzma
import os
import pathlib
import subprocess
import sys


class Cpio:
    """Writes newc records; deterministic (no times, root owned)."""

    def __init__(self):
        self.parts = []
        self.ino = 0
        self.dirs = set()

    def _add(self, name, mode, data=b"", rdev=(0, 0), nlink=1):
        self.ino += 1
        raw = name.encode() + b"\0"
        head = "070701" + "".join(f"{v:08x}" for v in (
            self.ino, mode, 0, 0, nlink, 0, len(data), 0, 0, rdev[0], rdev[1], len(raw), 0))
        rec = head.encode() + raw
        rec += b"\0" * (-len(rec) % 4) + data + b"\0" * (-len(data) % 4)
        self.parts.append(rec)

    def _parents(self, name):
        for parent in reversed(list(pathlib.PurePosixPath(name).parents)[:-1]):
            self.dir(str(parent))

    def dir(self, name, mode=0o755):
        if name not in self.dirs:
            self.dirs.add(name)
            self._parents(name)
            self._add(name, 0o040000 | mode, nlink=2)

    def file(self, name, data, mode=0o644):
        self._parents(name)
        self._add(name, 0o100000 | mode, data)

    def node(self, name, major, minor, mode=0o600):
        self._parents(name)
        self._add(name, 0o020000 | mode, rdev=(major, minor))

    def symlink(self, name, target):
        self._parents(name)
        self._add(name, 0o120777, target.encode())

    def bytes(self):
        self._add("TRAILER!!!", 0)
        data = b"".join(self.parts)
        return data + b"\0" * (-len(data) % 512)


def module_order(kernel_dir, names):
    """Paths of the modules and all they depend on, in load order. Built-in ones are left out."""
    release = (pathlib.Path(kernel_dir) / "release").read_text().strip()
    base = pathlib.Path(kernel_dir) / "lib/modules" / release
    deps, builtin = {}, set()
    for line in (base / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        deps[path] = rest.split()
    for line in (base / "modules.builtin").read_text().splitlines():
        builtin.add(stem(line))
    by_name = {stem(p): p for p in deps}
    done = []

    def visit(path):
        # modules.dep lists the nearest dependency first; the deepest must be loaded first
        for dep in reversed(deps[path]):
            if dep not in done:
                visit(dep)
        if path not in done:
            done.append(path)

    for name in names:
        key = name.replace("-", "_")
        if key in by_name:
            visit(by_name[key])
        elif key not in builtin:
            raise SystemExit(f"initramfs: kernel {release} has no module {name}")
    return release, [base / p for p in done]


def stem(path):
    return os.path.basename(path).split(".")[0].replace("-", "_")


def module_bytes(path):
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def add_modules(cpio, paths, conditions=None):
    """conditions: module → "?WORD", from read_conditions(); the agent understands them, other inits load all."""
    names = []
    for n, path in enumerate(paths):
        name = f"modules/{n:02d}-{stem(str(path))}.ko"
        cpio.file(name, module_bytes(path))
        names.append(f"/{name} {(conditions or {}).get(stem(str(path)), '')}".rstrip())
    cpio.file("modules.list", ("\n".join(names) + "\n").encode())


def read_lines(path):
    """The words of each line, without comments and empty lines."""
    with open(path, encoding="utf-8") as f:
        return [words for words in (line.split("#")[0].split() for line in f) if words]


def read_names(path):
    return [words[0] for words in read_lines(path)]


def read_conditions(path):
    """A line "NAME ?WORD": the module is loaded only where the kernel's command line has WORD."""
    return {words[0].replace("-", "_"): words[1] for words in read_lines(path) if len(words) > 1}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kernel-dir", required=True)
    p.add_argument("--init", required=True, help="static binary that becomes /init")
    p.add_argument("--modules", required=True, help="file with module names")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    cpio = Cpio()
    for d in ("proc", "sys", "dev", "run", "tmp", "mnt"):
        cpio.dir(d)
    cpio.node("dev/console", 5, 1)
    cpio.file("init", pathlib.Path(a.init).read_bytes(), 0o755)
    _, paths = module_order(a.kernel_dir, read_names(a.modules))
    add_modules(cpio, paths, read_conditions(a.modules))
    out = pathlib.Path(a.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    tmp = out.with_name(f".{out.name}.{os.getpid()}")
    tmp.write_bytes(cpio.bytes())
    tmp.rename(out)
    print(f"{a.out}: {out.stat().st_size} bytes, {len(paths)} modules", file=sys.stderr)


if __name__ == "__main__":
    main()
