# SPDX-License-Identifier: Apache-2.0
"""Volumes as regions, by src/volume itself (volume-driver): the metadata in a file, then the volume's own files."""
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / os.environ.get("NEXUS_BUILD", "build/host") / "tests/integration"
PROBE = TESTS / "volume-probe"


def pieces_of(out, live=(), fixed=()):
    """[(path, bytes)] for a region; out: where the metadata may be written. live, fixed: {part: directory}."""
    parts = [f"{n}={p}" for n, p in dict(live).items()] + [f"{n}:{p}" for n, p in dict(fixed).items()]
    r = subprocess.run([TESTS / "volume-driver", "compose", "map", out, *parts], capture_output=True, check=False)
    assert r.returncode == 0, r.stderr.decode(errors="replace")
    lines = r.stdout.split(b"\0")[1:-1]
    where = {**dict(live), **dict(fixed)}
    pieces = []
    for line in lines:
        size, pages, path = line.split(b" ", 2)
        bytes_, path = int(pages) * 4096, os.fsdecode(path)
        if not pieces:
            os.truncate(out, bytes_)
            pieces.append((out, bytes_))
            continue
        part, _, below = path.partition("/")
        pieces.append((os.path.join(where[part], below) if below else where[part], bytes_))
    return pieces


def plain(events):
    """Names of generations by their order, for the clock is in them; equal events in a row are one, as the kernel
    itself joins those that nobody has read yet."""
    seen = {}

    def name(m):
        return seen.setdefault(m.group(0), f"..generation-{len(seen) + 1}")
    lines = [re.sub(r"\.\.\d{4}_\S+", name, e) for e in events]
    return [line for i, line in enumerate(lines) if i == 0 or line != lines[i - 1]]
