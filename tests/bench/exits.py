# SPDX-License-Identifier: Apache-2.0
"""KVM exits by reason, counted by the kernel's own tracepoint, so that two monitors are counted alike."""
import os
import pathlib
import re
import subprocess

TRACING = pathlib.Path("/sys/kernel/tracing")
TRIGGER = TRACING / "events/kvm/kvm_exit/trigger"
HIST = TRACING / "events/kvm/kvm_exit/hist"

# AMD's exit codes (arch/x86/include/uapi/asm/svm.h); the lab's KVM is SVM
SVM = {0x60: "interrupt", 0x61: "nmi", 0x64: "vintr", 0x72: "cpuid", 0x77: "pause", 0x78: "hlt", 0x79: "invlpg",
       0x7b: "io", 0x7c: "msr", 0x7f: "shutdown", 0x80: "vmrun", 0x81: "vmmcall", 0x8a: "wbinvd", 0x8d: "xsetbv",
       0x400: "npf", 0x401: "avic_incomplete", 0x402: "avic_noaccel"}


class ExitCounter:
    """with ExitCounter() as c: …; c.counts → {reason: n}"""

    def __enter__(self):
        if not TRIGGER.exists():
            subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACING)], check=False)
        if not TRIGGER.exists():
            raise RuntimeError("no kvm tracepoints: load kvm first")
        TRIGGER.write_text("hist:keys=exit_reason:size=256\n")
        return self

    def __exit__(self, *_):
        text = HIST.read_text()
        with open(TRIGGER, "a", encoding="ascii") as f:
            f.write("!hist:keys=exit_reason:size=256\n")
        self.counts = {}
        for reason, count in re.findall(r"\{ exit_reason: +(\S+) *\} hitcount: +(\d+)", text):
            code = int(reason, 0)
            name = SVM.get(code, f"code_{code:#x}")
            if 0x00 <= code < 0x20:
                name = "cr_access"
            elif 0x40 <= code < 0x60:
                name = "exception"
            self.counts[name] = self.counts.get(name, 0) + int(count)

    @property
    def total(self):
        return sum(self.counts.values())


def lab_only():
    if not os.path.exists("/dev/kvm"):
        raise SystemExit("this benchmark needs /dev/kvm: run it through make bench")
