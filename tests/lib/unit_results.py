# SPDX-License-Identifier: Apache-2.0
"""Runs unittest files and writes what came of each as JSON, so that tests/run can count them wherever
they ran:  unit_results.py FILE RESULT   |   unit_results.py --lab FILE (the result into $LAB_OUT)."""
import importlib.util
import json
import os
import pathlib
import re
import sys
import time
import unittest

LAB_RESULT = "result.json"


def cmocka_counts(text):
    """(passed, failed) cases in the output of cmocka programs."""
    return len(re.findall(r"^\[ +OK +\]", text, re.M)), len(set(re.findall(r"^\[  FAILED  \] (?!\d)(\S+)", text, re.M)))


class Result(unittest.TextTestResult):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.passed = 0

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        self.passed += 1
        super().addSuccess(test)

    def stopTest(self, test):
        super().stopTest(test)
        self.stream.write(f"    {time.monotonic() - self.began:.1f} s\n")
        self.stream.flush()


def run_file(path):
    path = pathlib.Path(path).resolve()
    sys.path[:0] = [str(path.parent), str(path.parents[len(path.parents) - 1 - path.parts.index("tests")] / "tests/lib")
                    if "tests" in path.parts else str(path.parent)]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    r = unittest.TextTestRunner(stream=sys.stderr, verbosity=2, resultclass=Result).run(suite)
    bad = [str(t) for t, _ in r.failures + r.errors] + [str(t) for t in r.unexpectedSuccesses]
    return {"passed": r.passed, "failed": len(bad), "skipped": len(r.skipped), "names": [b.split()[0] for b in bad]}


def main():
    lab = sys.argv[1] == "--lab"
    d = run_file(sys.argv[2 if lab else 1])
    result = os.path.join(os.environ["LAB_OUT"], LAB_RESULT) if lab else sys.argv[2]
    pathlib.Path(result).write_text(json.dumps(d))
    return 1 if d["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
