# SPDX-License-Identifier: Apache-2.0
# needs: lab
"""nexus-vmm spawn → agent hello, against QEMU -M microvm with the same kernel, initramfs, memory, vCPUs
and kinds of device, in turn within one run: time, and KVM exits by reason."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from exits import ExitCounter, lab_only  # noqa: E402
from table import ROOT, Report, median, print_table  # noqa: E402

KERNEL, INITRAMFS = ROOT / "build/guest/vmlinux", ROOT / "build/guest/initramfs.cpio"
VMM = ROOT / "build/host/src/vmm/nexus-vmm"
MEMORY, CPUS = 256, 1
RUNS = int(os.environ.get("BENCH_RUNS", "5"))


def tap(name):
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap", "vnet_hdr"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)


def run_ours(scratch):
    start = time.monotonic_ns()
    r = subprocess.run([VMM, "--id", "bench", "--cpus", str(CPUS), "--memory", f"{MEMORY}M", "--kvm", "/dev/kvm",
                        "--kernel", KERNEL, "--initramfs", INITRAMFS, "--scratch", scratch, "--net", "tap:bench0",
                        "--until-hello"], capture_output=True, text=True, timeout=120, check=False)
    if r.returncode != 0:
        raise SystemExit(f"nexus-vmm ended with {r.returncode}: {r.stderr[-800:]}")
    d = json.loads(r.stdout.strip().splitlines()[-1])
    return d["hello_ns"], d, start


def run_qemu(scratch):
    """The agent connects to CID 2 port 1024 through vhost-vsock; accept() is the hello."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, 1024))
    listener.listen(1)
    listener.settimeout(120)
    # the same kernel command line but for what belongs to the monitor
    cmd = ["qemu-system-x86_64", "-M", "microvm,acpi=on,pic=off,pit=off,rtc=off,isa-serial=off,x-option-roms=off",
           "-enable-kvm", "-cpu", "host", "-m", str(MEMORY), "-smp", str(CPUS), "-nodefaults", "-no-user-config",
           "-display", "none", "-no-reboot", "-kernel", KERNEL, "-initrd", INITRAMFS,
           "-append", os.environ.get("BENCH_CMDLINE", "quiet loglevel=4 panic=-1 pci=off random.trust_cpu=on no_timer_check"),
           "-device", "vhost-vsock-device,guest-cid=77", "-device", "virtio-rng-device",
           "-netdev", "tap,id=n,ifname=bench1,script=no,downscript=no", "-device", "virtio-net-device,netdev=n",
           "-drive", f"id=d,file={scratch},format=raw,if=none", "-device", "virtio-blk-device,drive=d"]
    start = time.monotonic_ns()
    q = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        conn, _ = listener.accept()
        # hello is the first frame; its first byte is enough
        conn.recv(1)
        took = time.monotonic_ns() - start
        conn.close()
    finally:
        q.send_signal(signal.SIGKILL)
        q.wait()
        listener.close()
    return took


def main():
    lab_only()
    subprocess.run(["modprobe", "-a", "vhost_vsock", "tun"], check=True)
    tap("bench0"), tap("bench1")
    report = Report("boot")
    ours, theirs, our_exits, their_exits = [], [], [], []
    with tempfile.TemporaryDirectory() as tmp:
        scratch = pathlib.Path(tmp) / "scratch.img"
        scratch.write_bytes(b"")
        os.truncate(scratch, 64 << 20)
        for n in range(RUNS + 1):  # the first pair warms the page cache and is not counted
            with ExitCounter() as c:
                took, detail, _ = run_ours(scratch)
            with ExitCounter() as q:
                qemu_took = run_qemu(scratch)
            if n:
                ours.append(took / 1e6), theirs.append(qemu_took / 1e6)
                our_exits.append(c.counts), their_exits.append(q.counts)
            print(f"run {n}: ours {took / 1e6:.0f} ms, {c.total} exits; QEMU {qemu_took / 1e6:.0f} ms, {q.total} exits",
                  flush=True)
    report.samples("ours_ms", ours, "ms"), report.samples("qemu_ms", theirs, "ms")
    report.raw["ours_exits"], report.raw["qemu_exits"], report.raw["ours_detail"] = our_exits, their_exits, detail
    time_ratio = median(a / b for a, b in zip(ours, theirs))
    exit_ratio = median(sum(a.values()) / sum(b.values()) for a, b in zip(our_exits, their_exits))
    report.row("spawn → hello, ms", f"{median(ours):.0f}", f"{median(theirs):.0f} (QEMU microvm)", f"{time_ratio:.2f}",
               "≤ 0.6", time_ratio <= 0.6)
    report.row("KVM exits until hello", f"{median(sum(a.values()) for a in our_exits):.0f}",
               f"{median(sum(a.values()) for a in their_exits):.0f} (QEMU microvm)", f"{exit_ratio:.2f}", "≤ 0.3",
               exit_ratio <= 0.3)
    for reason in sorted(set().union(*our_exits, *their_exits)):
        a = median(e.get(reason, 0) for e in our_exits)
        b = median(e.get(reason, 0) for e in their_exits)
        report.row(f"  exits: {reason}", f"{a:.0f}", f"{b:.0f}", f"{a / b:.2f}" if b else "-", "", None)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
