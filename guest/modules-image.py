#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the EROFS image of the kernel modules that few guests need:
  modules-image.py --kernel-dir build/kernels/cloud --lists guest/modules-later --out build/guest/modules.erofs

A line of the lists is "NAME MODULE...". The image has each module once and for each list NAME.list, the files to load
in their order. It needs mkfs.erofs (erofs-utils); the same modules give the same image."""
import argparse
import os
import pathlib
import subprocess
import tempfile

import initramfs

NO_TIME = "-T0"
NO_UUID = "-U00000000-0000-0000-0000-000000000000"


def fill(folder, kernel_dir, lists):
    for name, *modules in initramfs.read_lines(lists):
        _, paths = initramfs.module_order(kernel_dir, modules)
        for path in paths:
            (folder / f"{initramfs.stem(str(path))}.ko").write_bytes(initramfs.module_bytes(path))
        (folder / f"{name}.list").write_text("".join(f"{initramfs.stem(str(p))}.ko\n" for p in paths))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kernel-dir", required=True)
    p.add_argument("--lists", required=True, help="file with names of lists and their modules")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    out = pathlib.Path(a.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    tmp = out.with_name(f".{out.name}.{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="nexus-modules-") as folder:
        fill(pathlib.Path(folder), a.kernel_dir, a.lists)
        # whole pages: what is inline cannot be mapped
        subprocess.run(["mkfs.erofs", "--quiet", "--all-root", NO_TIME, NO_UUID, "-Enoinline_data", tmp, folder], check=True)
    tmp.rename(out)


if __name__ == "__main__":
    main()
