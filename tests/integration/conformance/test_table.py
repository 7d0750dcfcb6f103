#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How the runner of critest judges: what fails, is skipped or passes against the table, and no other way."""
import json
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/conformance"))
import specs  # noqa: E402


def spec(name="area does it", state="passed"):
    return specs.Spec(name, state, 1.0, "")


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nexus-table-"))
        self.addCleanup(lambda: [f.unlink() for f in self.dir.iterdir()] and self.dir.rmdir())

    def table(self, text):
        (self.dir / "table").write_text(text)
        return specs.read_table(self.dir / "table")

    def report(self, *reports, reasons=None):
        (self.dir / "report").write_text(json.dumps([{"SpecReports": list(reports), "SpecialSuiteFailureReasons": reasons}]))
        return specs.read_report(self.dir / "report")


def it(state, *words, message="", kind="It"):
    return {"LeafNodeType": kind, "LeafNodeText": words[-1] if words else "", "ContainerHierarchyTexts": list(words[:-1]) or None,
            "State": state, "RunTime": 2_500_000_000, "Failure": {"Message": message}}


class Judgement(Case):
    def fine(self, state, rules):
        return specs.judge(spec(state=state), rules)[1]

    def test_a_spec_that_is_not_in_the_table_has_to_pass(self):
        self.assertTrue(self.fine("passed", []))
        for state in ("failed", "panicked", "timedout", "interrupted", "aborted", "pending", "skipped"):
            self.assertFalse(self.fine(state, []), state)

    def test_an_expected_failure_that_passes_is_unexpected(self):
        rules = self.table("fail :: area does it :: because\n")
        self.assertTrue(self.fine("failed", rules))
        self.assertTrue(self.fine("timedout", rules))
        self.assertFalse(self.fine("passed", rules))
        self.assertFalse(self.fine("skipped", rules))

    def test_an_expected_skip_has_to_be_skipped(self):
        rules = self.table("skip :: area does it :: because\n")
        self.assertTrue(self.fine("skipped", rules))
        self.assertFalse(self.fine("passed", rules))
        self.assertFalse(self.fine("failed", rules))

    def test_a_beginning_fits_many_and_the_full_name_goes_first(self):
        rules = self.table("skip :: area ... :: none here\nfail :: area does it :: because\n")
        self.assertTrue(self.fine("failed", rules))
        self.assertTrue(specs.judge(spec("area does more", "skipped"), rules)[1])
        self.assertFalse(specs.judge(spec("another area", "skipped"), rules)[1])

    def test_the_reason_is_part_of_the_line(self):
        rules = self.table("fail :: area does it :: a kernel of its own\n")
        self.assertEqual(specs.judge(spec(state="failed"), rules), ("FAIL", True, "a kernel of its own"))
        self.assertIn("a kernel of its own", specs.judge(spec(), rules)[2])

    def test_rules_that_fit_nothing_are_told(self):
        rules = self.table("fail :: area does it :: a\nfail :: gone :: b\n")
        self.assertEqual([r.name for r in specs.unused([spec()], rules)], ["gone"])


class Table(Case):
    def test_the_table_of_the_repository_reads(self):
        specs.read_table(ROOT / "tests/conformance/expected.txt")

    def test_comments_and_empty_lines(self):
        self.assertEqual(self.table("# a :: b\n\n"), [])

    def test_a_line_without_a_reason_is_an_error(self):
        for bad in ("fail :: area", "fail :: area :: ", "broken :: area :: why", "fail : area : why", "fail :: :: why",
                    "fail :: area :: a :: b"):
            with self.assertRaises(specs.TableError, msg=bad):
                self.table(bad + "\n")

    def test_the_same_spec_twice_is_an_error(self):
        with self.assertRaises(specs.TableError):
            self.table("fail :: a :: b\nskip :: a :: b\n")


class Report(Case):
    def test_names_states_and_times(self):
        got = self.report(it("passed", "[k8s.io] Area", "when", "does it"))
        self.assertEqual(got, [specs.Spec("[k8s.io] Area when does it", "passed", 2.5, "")])

    def test_what_a_filter_left_out_is_no_result(self):
        self.assertEqual(self.report(it("skipped", "a")), [])

    def test_a_skip_with_a_reason_is_one(self):
        self.assertEqual([s.state for s in self.report(it("skipped", "a", message="not supported"))], ["skipped"])

    def test_a_failed_suite_node_is_a_result_and_a_good_one_is_none(self):
        got = self.report(it("passed", kind="BeforeSuite"), it("failed", kind="BeforeSuite", message="no runtime"))
        self.assertEqual([(s.name, s.state) for s in got], [("(BeforeSuite)", "failed")])

    def test_a_run_that_ended_early_failed(self):
        got = self.report(it("passed", "a"), it("skipped", "b"), reasons=["Suite Timeout Elapsed"])
        self.assertEqual([s.state for s in got], ["passed", "failed"])
        self.assertFalse(specs.judge(got[-1], [])[1])


if __name__ == "__main__":
    unittest.main()
