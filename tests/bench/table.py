# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: samples in, medians and p99 out, one table, raw samples as JSON."""
import json
import os
import pathlib
import statistics

ROOT = pathlib.Path(__file__).resolve().parents[2]


def p99(samples):
    s = sorted(samples)
    return s[min(len(s) - 1, int(len(s) * 0.99))]


def median(samples):
    return statistics.median(samples)


def spread(values, digits=2):
    """Median and extremes of what each round gave."""
    v = sorted(values)
    return f"{median(v):.{digits}f} ({v[0]:.{digits}f}–{v[-1]:.{digits}f})"


class Report:
    """Rows of the final table: figure, ours, reference, ratio, aim, reached."""

    def __init__(self, name):
        self.name, self.rows, self.raw = name, [], {}

    def samples(self, key, values, unit):
        self.raw[key] = {"unit": unit, "samples": list(values)}
        return values

    def row(self, figure, ours, reference, ratio, aim, reached):
        self.rows.append((figure, ours, reference, ratio, aim, {True: "yes", False: "NO", None: "-"}[reached]))

    def note(self, text):
        self.raw.setdefault("notes", []).append(text)

    def save(self):
        out = pathlib.Path(os.environ.get("LAB_OUT", ROOT / "build/bench"))
        out.mkdir(parents=True, exist_ok=True)
        (out / f"bench-{self.name}.json").write_text(json.dumps(
            {"name": self.name, "rows": self.rows, "raw": self.raw}, indent=1))


def print_table(rows):
    head = ("figure", "ours", "reference", "ratio", "aim", "reached")
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(6)]
    for r in [head, tuple("-" * w for w in widths), *rows]:
        print("  ".join(str(c).ljust(w) for c, w in zip(r, widths)).rstrip())
