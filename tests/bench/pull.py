# SPDX-License-Identifier: Apache-2.0
"""Pull and conversion of an image of 100 MB (unpacked) from a registry on loopback, against skopeo copy + tar -x of
the same image (what a runtime that unpacks does), in turns within one run. Ours is synced to disk when it is
done, theirs is not: one cannot sync a tree without waiting for everybody else's writes. The image is a tree of the system:
many small files and a few large ones, in three layers."""
import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bench"), str(ROOT / "tests/lib"), str(ROOT / "tests/integration/images")]
import imagelib  # noqa: E402
from ocimage import Image, Registry  # noqa: E402
from table import Report, median  # noqa: E402

ROUNDS = 5
PARTS_BYTES = (60 << 20, 30 << 20, 10 << 20)


class Packed:
    """A layer as tests/lib/ocimage wants it."""

    def __init__(self, plain):
        self.plain = plain

    def bytes(self):
        return self.plain, gzip.compress(self.plain, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"


def system_layers():
    """Tars of files of /usr, cut where the sizes are reached."""
    files = [p for top in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/perl", "/usr/bin", "/usr/lib/x86_64-linux-gnu")
             for p in sorted(pathlib.Path(top).rglob("*")) if p.is_file() and not p.is_symlink()]
    layers, at = [], 0
    for want in PARTS_BYTES:
        names, size = [], 0
        while at < len(files) and size < want:
            names.append(str(files[at]))
            size += files[at].stat().st_size
            at += 1
        raw = subprocess.run(["tar", "-cPf", "-", "--format=posix", "--no-recursion", "-T", "-"], check=True,
                             input="\n".join(names).encode(), capture_output=True).stdout
        layers.append(Packed(raw))
    return layers


def ours(url, ref):
    with imagelib.Store() as store:
        start = time.monotonic()
        o = store.pull(ref, url)
        took = time.monotonic() - start
        assert o.image, o.error
        return took, o.peak_bytes


def theirs(ref):
    d = pathlib.Path(tempfile.mkdtemp(prefix="nexus-bench-"))
    start = time.monotonic()
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{ref}",
                    f"dir:{d}/blobs"], check=True)
    manifest = json.loads((d / "blobs/manifest.json").read_text())
    (d / "root").mkdir()
    for layer in manifest["layers"]:
        subprocess.run(["tar", "-xzf", d / "blobs" / layer["digest"][7:], "-C", d / "root"], check=True,
                       stderr=subprocess.DEVNULL)
    took = time.monotonic() - start
    shutil.rmtree(d)
    return took


def main():
    report = Report("pull")
    with Registry() as registry:
        image = Image(system_layers())
        ref = registry.push("bench/pull", "latest", image)
        packed = sum(len(b) for b in image.blobs.values())
        report.note(f"image of {packed >> 20} MiB packed")
        a, b, peak = [], [], 0
        for _ in range(ROUNDS):
            took, rss = ours(f"http://{registry.address}", ref)
            a.append(took)
            peak = max(peak, rss)
            b.append(theirs(ref))
    report.samples("nexus-pull", a, "s")
    report.samples("skopeo+tar", b, "s")
    ratio = median(x / y for x, y in zip(a, b))
    report.row("pull and convert 100 MB", f"{median(a):.2f} s", f"skopeo + tar -x {median(b):.2f} s", f"{ratio:.2f}", "<= 1.2",
               ratio <= 1.2)
    report.row("nexus-pull, peak memory", f"{peak / 1e6:.0f} MB", "-", "-", "< 64 MB", peak < 64 << 20)
    report.save()


if __name__ == "__main__":
    main()
