# SPDX-License-Identifier: Apache-2.0
"""critest's JSON report, and its comparison with the table of what is not expected to pass.

A line of the table: KIND :: SPEC :: REASON. KIND is "fail" or "skip"; SPEC the full name of a spec, or the
beginning of many and "..." at its end. Anything the table does not say passes."""
import collections
import json
import pathlib

Spec = collections.namedtuple("Spec", "name state seconds message")
Rule = collections.namedtuple("Rule", "kind name reason line")
KINDS = ("fail", "skip")


class TableError(ValueError):
    pass


def read_report(path):
    """Every spec of a report that was to run, in the order of the report. Those that filters left out are no result."""
    specs = []
    for suite in json.loads(pathlib.Path(path).read_text()):
        for r in suite["SpecReports"] or []:
            if r["LeafNodeType"] != "It":
                if r["State"] not in ("passed", "skipped"):
                    specs.append(Spec(f"({r['LeafNodeType']})", r["State"], r["RunTime"] / 1e9, message_of(r)))
                continue
            name = " ".join([*(r["ContainerHierarchyTexts"] or []), r["LeafNodeText"]])
            if r["State"] == "skipped" and not message_of(r):
                continue
            specs.append(Spec(name, r["State"], r["RunTime"] / 1e9, message_of(r)))
        specs += [Spec("(the whole of critest)", "failed", 0, why) for why in suite["SpecialSuiteFailureReasons"] or []]
    return specs


def message_of(report):
    return (report.get("Failure") or {}).get("Message") or ""


def read_table(path):
    rules = []
    for n, text in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        if not text.strip() or text.startswith("#"):
            continue
        parts = [p.strip() for p in text.split(" :: ")]
        if len(parts) != 3 or not all(parts) or parts[0] not in KINDS:
            raise TableError(f"{path}:{n}: not KIND :: SPEC :: REASON")
        if any(r.name == parts[1] for r in rules):
            raise TableError(f"{path}:{n}: {parts[1]!r} is there twice")
        rules.append(Rule(*parts, n))
    return rules


def rule_of(name, rules):
    """The full name first, else the longest beginning."""
    fitting = [r for r in rules if r.name == name or (r.name.endswith("...") and name.startswith(r.name[:-3]))]
    return max(fitting, key=lambda r: (r.name == name, len(r.name)), default=None)


def judge(spec, rules):
    """(word for the line, is it as expected, reason)"""
    rule = rule_of(spec.name, rules)
    kind = {"passed": "pass", "skipped": "skip"}.get(spec.state, "fail")
    word = {"pass": "PASS", "skip": "SKIP", "fail": "FAIL"}[kind]
    want = rule.kind if rule else "pass"
    if kind == want:
        return word, True, rule.reason if rule else ""
    why = {"pass": "expected to pass", "fail": "expected to fail", "skip": "expected to be skipped"}[want]
    return word, False, f"{why}{': ' + rule.reason if rule else ''}"


def unused(specs, rules):
    """Rules that fitted no spec: of a run of all specs they are mistakes in the table."""
    used = {rule_of(s.name, rules) for s in specs}
    return [r for r in rules if r not in used]
