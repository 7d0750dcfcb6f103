# SPDX-License-Identifier: Apache-2.0
"""The part of `run` that is in the lab: the registry, nexusd, critest; results go to $LAB_OUT."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests/lib"), str(HERE)]
import images  # noqa: E402
from node import Node  # noqa: E402

BIN = ROOT / "build/conformance/bin"
CALL_TIMEOUT = "600s"  # of one CRI call: a machine of a machine is slow
QUIET = 1.5            # seconds without a new client: then a new one begins a spec


class Restarter:
    """A socket in front of nexusd's. critest connects anew for every spec; at such a moment, now and then,
    nexusd is killed and started again, and only then the client is let through."""

    def __init__(self, node, seed):
        self.node, self.random, self.path = node, random.Random(seed), node.run / "restarter.sock"
        self.kills, self.last = 0, 0.0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            if time.monotonic() - self.last > QUIET and self.random.random() < 0.5:
                self.restart()
            self.last = time.monotonic()
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.node.socket))
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    def restart(self):
        time.sleep(self.random.random())
        self.kills += 1
        print(f"nexusd is killed, the {self.kills}. time", flush=True)
        self.node.kill9()
        self.node.start()

    @staticmethod
    def copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def command(options, address, out):
    c = [BIN / "critest", f"-runtime-endpoint={address}", f"-runtime-service-timeout={CALL_TIMEOUT}",
         f"-image-service-timeout={CALL_TIMEOUT}", "-runtime-handler=nexus-vmm", "-config=/nonexistent",
         "-test.timeout=0", f"-ginkgo.timeout={options['timeout']}s", f"-ginkgo.seed={options['seed']}",
         f"-ginkgo.json-report={out / 'report.json'}", "-ginkgo.no-color", "-ginkgo.v",
         f"-ginkgo.poll-progress-after={options['progress']}s"]
    c += [f"-ginkgo.focus={f}" for f in options["focus"]] + [f"-ginkgo.skip={s}" for s in options["skip"]]
    if options["parallel"] > 1:
        c.append(f"-parallel={options['parallel']}")
    return c


def follow(source, log_path, parallel):
    """Keeps critest's words, and says where it is: what counts is its report, at the end."""
    name, state, count = "", "", 0
    with open(log_path, "wb", buffering=0) as log:
        for raw in source:
            log.write(raw)
            line = raw.decode(errors="replace").rstrip()
            if line.startswith("[k8s.io]"):
                name = line
            elif line.startswith(("\u2022 ", "S [SKIPPED]")):
                state = line
            else:
                continue
            if state and (name == line) == parallel:  # the name comes last where specs run side by side
                count += 1
                print(f"{count:4} {state}  {name}", flush=True)
                state = ""


def run_critest(options, node, out):
    address = node.address
    restarter = None
    if options["restart"]:
        restarter = Restarter(node, options["seed"])
        address = f"unix://{restarter.path}"
    proc = subprocess.Popen(command(options, address, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL, cwd=out, env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"})
    follower = threading.Thread(target=follow, args=(proc.stdout, out / "critest.log", options["parallel"] > 1))
    follower.start()
    try:
        proc.wait(options["timeout"] + 60)
    except subprocess.TimeoutExpired:
        proc.send_signal(signal.SIGKILL)
        proc.wait()
    follower.join(10)
    return restarter.kills if restarter else 0


def main():
    options, out = json.loads(sys.argv[1]), pathlib.Path(os.environ["LAB_OUT"])
    result = {"kills": 0, "left": "", "alive": False}
    with images.registry() as registry:
        node = Node(mirrors=images.mirrors(registry.address), insecure=[registry.address])
        try:
            node.start()
            print(f"nexusd is up after {time.monotonic():.0f} s of this machine", flush=True)
            result["kills"] = run_critest(options, node, out)
            result["alive"] = node.proc.poll() is None
            result["left"] = left_behind(node)
        finally:
            shutil.copy(node.log_path, out / "nexusd.log")
            node.close()
    (out / "result.json").write_text(json.dumps(result))


def left_behind(node):
    """Pods that critest did not remove are its matter; what stays when they are gone is ours."""
    for pod in node.cri.ListPodSandbox().items:
        node.cri.remove_pod(pod.id)
    return node.census()


if __name__ == "__main__":
    main()
