# SPDX-License-Identifier: Apache-2.0
# needs: lab
# packages: socat libwrap0 libnsl2 libtirpc3
"""Exec streams and port-forward through nexus-stream, beside socat over the same kind of vsock (socat_guest.py): the
output and the input of a command, one GET of a large file and new connections for a small one. Our clients speak SPDY
over TCP, as kubelet does; the reference's bytes go bare over a unix socket. In turns, within one run; both guests run
the same programs, ours in a container. A rate is of the whole: from the request to the last byte; the processor time beside
it says who spent it.

socat's standard input comes at 0.1 MB/s, thirty times less than its output: it mostly waits, and it is not known whether for
the relay, for socat, or for the credit of our vsock device. That row is not judged until it is. Our client of a
port-forward, which is Python, takes a part of its time, not all that is missing."""
import os
import pathlib
import struct
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib")]
import cri  # noqa: E402
import node as nodelib  # noqa: E402
import ocimage  # noqa: E402
import socat_guest  # noqa: E402
import streaming  # noqa: E402
from exits import lab_only  # noqa: E402
from mapper_node import cpu_ns  # noqa: E402
from table import Report, median, print_table, spread  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
BYTES = int(os.environ.get("BENCH_MIB", "8")) << 20
CONNECTIONS = 20
ZEROS, SMALL = bytes(BYTES), b"small\n"
HEADER_END, HEADER_MAX = b"\r\n\r\n", 1024
PIECE = 1 << 20


def drain(client, sid):
    """How many bytes come on a SPDY stream to its end. None is kept or copied twice: the client shall cost little."""
    rest, skip, count = bytes(client.raw), 0, len(client.data[sid])
    while sid not in client.fin:
        got = client.sock.recv(PIECE)
        if not got:
            raise EOFError("the server has closed the connection")
        data = rest + got
        at = min(skip, len(data))
        skip -= at
        while len(data) - at >= 8:
            head, tail = struct.unpack_from(">II", data, at)
            end = at + 8 + (tail & 0xffffff)
            if head == sid:
                count += end - at - 8
                if tail >> 24 & streaming.FIN:
                    client.fin.add(sid)
                skip = max(0, end - len(data))
            elif end <= len(data):
                client.raw[:] = data[at:end]
                client.frame()
            else:
                break
            at = min(end, len(data))
        rest = data[at:]
    client.raw[:] = rest
    return count


class Ours:
    def __init__(self, node, pod, cid):
        self.cri, self.pod, self.cid = node.cri, pod, cid
        servers = [p for p in node.processes() if node.is_stream_server(p)]
        self.pids = [node.pid, *servers, *node.vmm_pids()]

    def exec(self, *command, **more):
        url = self.cri.Exec(container_id=self.cid, cmd=["/bin/busybox-static", *command], stdout=True, **more).url
        return streaming.Remote(url, stderr=False, **more)

    def stdout(self):
        with self.exec("head", "-c", str(BYTES), "/dev/zero") as r:
            assert drain(r, r.ids["stdout"]) == BYTES
            assert r.finish().code == 0

    def stdin(self):
        with self.exec("wc", "-c", stdin=True) as r:
            r.write(ZEROS, fin=True)
            result = r.finish()
        assert result.code == 0 and int(result.out) == BYTES, result

    @staticmethod
    def get(f, name):
        """Its streams: error, data. The request is sent."""
        error, data = f.connect(socat_guest.HTTP)
        f.send(data, f"GET /{name} HTTP/1.0\r\n\r\n".encode())
        return error, data

    def forward(self):
        return streaming.Forward(self.cri.PortForward(pod_sandbox_id=self.pod).url)

    def large(self):
        with self.forward() as f:
            _, data = self.get(f, "large")
            assert 0 < drain(f, data) - BYTES < HEADER_MAX

    def connections(self):
        with self.forward() as f:
            for _ in range(CONNECTIONS):
                error, data = self.get(f, "small")
                f.until(lambda: data in f.fin, 120)
                f.send(data, b"", fin=True)
                f.until(lambda: error in f.fin)
                assert f.data.pop(data).partition(HEADER_END)[2] == SMALL


class Socat:
    def __init__(self, guest):
        self.guest = guest
        self.pids = [guest.proc.pid]

    @staticmethod
    def drain(s):
        count = 0
        while more := len(s.recv(PIECE)):
            count += more
        return count

    def stdout(self):
        with self.guest.connect(socat_guest.STDOUT) as s:
            assert self.drain(s) == BYTES

    def stdin(self):
        with self.guest.connect(socat_guest.STDIN) as s:
            s.sendall(ZEROS)
            s.shutdown(1)
            assert int(s.recv(PIECE)) == BYTES
            assert not s.recv(PIECE)

    def get(self, name):
        s = self.guest.connect(socat_guest.FORWARD)
        s.sendall(f"GET /{name} HTTP/1.0\r\n\r\n".encode())
        return s

    def large(self):
        with self.get("large") as s:
            assert 0 < self.drain(s) - BYTES < HEADER_MAX

    def connections(self):
        for _ in range(CONNECTIONS):
            with self.get("small") as s, s.makefile("rb") as f:
                assert f.read().partition(HEADER_END)[2] == SMALL


WHAT = (("stdout", "exec, standard output", BYTES / 1e6, "MB/s"), ("stdin", "exec, standard input", BYTES / 1e6, "MB/s"),
        ("large", "port-forward, one large GET", BYTES / 1e6, "MB/s"),
        ("connections", "port-forward, new connections", CONNECTIONS, "a second"))
SPENDERS = ("client", "host", "guest")


def cpu(side):
    """ns so far: this client; the processes of the host's side without vCPUs; vCPUs."""
    used = [x for pid in side.pids for x in cpu_ns(pid).items()]
    guest = sum(ns for name, ns in used if "vcpu" in name)
    return {"client": time.process_time_ns(), "host": sum(ns for _, ns in used) - guest, "guest": guest}


def measure(sides):
    """{what: {side: [{"rate", and processor time of SPENDERS in ms per MB or connection}]}}"""
    out = {what: {name: [] for name in sides} for what, *_ in WHAT}
    for n in range(-1, ROUNDS):  # the first warms up
        for what, _, amount, _ in WHAT:
            for name, side in sides.items():
                before, start = cpu(side), time.monotonic()
                getattr(side, what)()
                rate = amount / (time.monotonic() - start)
                after = cpu(side)
                spent = {k: (after[k] - before[k]) / 1e6 / amount for k in SPENDERS}
                if n >= 0:
                    out[what][name].append({"rate": rate, **spent})
                print(f"round {n}: {what} {name} {rate:.2f}; " + ", ".join(f"{k} {v:.1f} ms" for k, v in spent.items()), flush=True)
    return out


def rows(report, out):
    report.raw["rounds"] = out
    for what, text, _, unit in WHAT:
        a, b = out[what]["ours"], out[what]["socat"]
        ratios = [x["rate"] / y["rate"] for x, y in zip(a, b)]
        rates = [f"{median(x['rate'] for x in side):.2f} {unit}" for side in (a, b)]
        judged = what != "stdin"   # socat stalls there, see above
        report.row(text, rates[0], f"socat over vsock {rates[1]}" + ("" if judged else " (stalls)"), spread(ratios), ">= 0.8",
                   median(ratios) >= 0.8 if judged else None)
        spent = [" / ".join(f"{median(x[k] for x in side):.0f}" for k in SPENDERS) + " ms" for side in (a, b)]
        report.row(f"  processor time per {'MB' if unit == 'MB/s' else 'connection'}: {', '.join(SPENDERS)}", *spent, "-", "", None)


def main():
    lab_only()
    report = Report("streams")
    files = {"large": ZEROS, "small": SMALL}
    layer = ocimage.Layer().file("/bin/busybox-static", socat_guest.BUSYBOX.read_bytes(), 0o755)
    for name, data in files.items():
        layer.file(f"/data/{name}", data)
    with ocimage.Registry() as registry, socat_guest.Guest(files, BYTES) as guest:
        ref = registry.push("bench/streams", "latest", ocimage.busybox_image([layer]))
        with nodelib.Node(insecure=[registry.address]) as node:
            node.cri.PullImage(image=cri.pb.ImageSpec(image=ref), timeout=300)
            pod = node.cri.run_pod("streams", timeout=300)
            cid = node.cri.run(pod, "main", ref, ["/bin/busybox-static", "httpd", "-f", "-p", f"127.0.0.1:{socat_guest.HTTP}", "-h", "/data"])
            out = measure({"ours": Ours(node, pod[0], cid), "socat": Socat(guest)})
            node.cri.remove_pod(pod[0])
    rows(report, out)
    report.save()
    print_table(report.rows)


if __name__ == "__main__":
    main()
