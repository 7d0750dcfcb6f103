# SPDX-License-Identifier: Apache-2.0
"""The gRPC server alone: Version over its socket against the machine's own floor (200 bytes there and back
between two processes), one call at a time and 32 in flight; its memory when idle."""
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench"))
from table import Report, median, p99  # noqa: E402

FAKES = ROOT / "build/host/tests/fakes"
CALLS = 20000


def load(*args):
    return json.loads(subprocess.run([FAKES / "grpc-load", *map(str, args)], check=True, capture_output=True).stdout)


def memory(pid, field):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.split("\n") if line.startswith(field)) / 1024


def main():
    report = Report("rpc")
    with tempfile.TemporaryDirectory() as d:
        path = f"{d}/s"
        server = subprocess.Popen([FAKES / "grpc-echo", path], stdout=subprocess.PIPE)
        try:
            server.stdout.readline()
            rss, private = memory(server.pid, "Rss:"), memory(server.pid, "Private_")
            load(path, 1000, 1)  # warm
            floor = report.samples("floor", load("--floor", CALLS)["latency_ns"], "ns")
            one = report.samples("version", load(path, CALLS, 1)["latency_ns"], "ns")
            many = load(path, CALLS * 5, 32)
            report.samples("version_32", many["latency_ns"], "ns")
            after = memory(server.pid, "Rss:")
        finally:
            server.terminate()
            server.wait()
    report.row("Version, one at a time, p50 / p99", f"{median(one) / 1e3:.0f} / {p99(one) / 1e3:.0f} us",
               f"socket pair {median(floor) / 1e3:.0f} / {p99(floor) / 1e3:.0f} us",
               f"{median(one) / median(floor):.1f}", "p99 < 1 ms", p99(one) < 1e6)
    report.row("Version, 32 in flight", f"{len(many['latency_ns']) / many['elapsed_ns'] * 1e9:.0f}/s", "-", "-", "-", None)
    report.row("server idle, RSS / private", f"{rss:.1f} / {private:.1f} MB", "-", "-", "RSS < 4 MB", rss < 4)
    report.row("server after 120,000 calls, RSS", f"{after:.1f} MB", f"idle {rss:.1f} MB", f"{after / rss:.2f}", "-", None)
    report.save()


if __name__ == "__main__":
    main()
