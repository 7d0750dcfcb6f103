# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""Memory of one nexus-vmm beyond its guest's: a real VM with network, scratch disk and a container's image,
at the agent's hello and after a container and some execs. Guest RAM and the read-only regions are told
from the rest by what their mappings are of; the rest counts whole, program text included, which several
VMs would share."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench"))
sys.path.insert(0, str(ROOT / "tests/lib"))
from exits import lab_only  # noqa: E402
from table import Report, print_table  # noqa: E402
from vmm import Vmm, erofs_of  # noqa: E402

AIM_KIB = 3 * 1024
EXECS = 20


def mappings(pid):
    """(pathname, {field: KiB}) of each mapping."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            found.append(((line.split(maxsplit=5) + [""])[5], {}))
        elif line.endswith(" kB"):
            name, value = line[:-3].split(":")
            found[-1][1][name] = int(value)
    return found


def private(fields):
    return fields["Private_Dirty"] + fields["Private_Clean"]


def measure(vmm, image):
    pid, guest, rest = vmm.proc.pid, 0, {}
    for path, fields in mappings(pid):
        if path.startswith("/memfd:nexus-ram"):
            guest += fields["Rss"]
        elif path != str(image):
            name = path.rsplit("/", 1)[-1] or "anonymous"
            rest[name] = rest.get(name, 0) + private(fields)
    assert guest > 16 << 10, "guest RAM was not found among the mappings"
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    pages = int(re.search(r"^VmPTE:\s+(\d+) kB", status, re.M).group(1))
    return {"private_kib": sum(rest.values()), "by_mapping_kib": rest, "page_tables_kib": pages, "guest_kib": guest}


def image_of_busybox(tmp):
    tree = tmp / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/busybox").write_bytes((ROOT / "build/kernels/busybox-static").read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    for name in ("sh", "true", "seq", "sleep"):
        (tree / "bin" / name).symlink_to("busybox")
    return erofs_of(tree, tmp / "image.erofs")


def main():
    lab_only()
    subprocess.run(["modprobe", "tun"], check=True)
    subprocess.run(["ip", "tuntap", "add", "mem0", "mode", "tap", "vnet_hdr"], check=True)
    with tempfile.TemporaryDirectory() as d:
        tmp = pathlib.Path(d)
        image = image_of_busybox(tmp)
        scratch = tmp / "scratch.img"
        scratch.touch()
        subprocess.run(["mkfs.ext4", "-qF", scratch, "64M"], check=True)
        with Vmm(arguments=["--net", "tap:mem0", "--scratch", str(scratch)]) as vmm:
            c = vmm.connect()
            c.wait_ready()
            hello = measure(vmm, image)
            c.configure(hostname="pod")
            c.add_region("img", [image])
            c.run("c1", ["sleep", "1000"], log=str(tmp / "log"))
            for _ in range(EXECS):
                code, out, _ = vmm.exec("c1", ["seq", "10000"])
                assert code == 0 and len(out) == 48894, (code, len(out), vmm.stderr())
            busy = measure(vmm, image)
    report = Report("vmm_memory")
    report.raw.update(at_hello=hello, after_execs=busy)
    for when, m in (("at hello", hello), (f"after {EXECS} execs of 48 KB", busy)):
        report.row(f"nexus-vmm private memory beyond guest RAM, {when}", f"{m['private_kib'] / 1024:.2f} MiB",
                   f"guest RAM resident {m['guest_kib'] >> 10} MiB", "-", "≤ 3 MiB", m["private_kib"] <= AIM_KIB)
        report.row(f"  page tables (VmPTE), {when}", f"{m['page_tables_kib']} KiB", "-", "-", "", None)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
