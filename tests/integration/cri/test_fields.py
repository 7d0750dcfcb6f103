#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tools/gen-field-table: what it reads of the interface, and what it refuses."""
import importlib.machinery
import importlib.util
import pathlib
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[3] / "tools/gen-field-table"
loader = importlib.machinery.SourceFileLoader("gen_field_table", str(TOOL))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("gen_field_table", loader))
loader.exec_module(tool)

PROTO = """
syntax = "proto3"; // rpc Not(AnRpc) returns (X);
package p;
service S {
    rpc Do(DoRequest) returns (DoResponse);
    rpc Watch(WatchRequest) returns (stream DoResponse);
}
enum Kind { A = 0; B = 1; }
message Inner { repeated string words = 1; map<string, string> labels = 2; Kind kind = 3 [deprecated = true]; }
message DoRequest { Inner inner = 1; Inner other = 2; enum Own { C = 0; } Own own = 3; }
message DoResponse { string never = 1; }
message WatchRequest {}
"""
GOOD = """
# a comment
DoRequest.inner handled
DoRequest.other ignored for a reason
DoRequest.own rejected for another
Inner.words handled
Inner.labels handled with a note
Inner.kind handled
DoRequest/inner.kind ignored here
"""


def check(text):
    errors = []
    messages, rpcs = tool.parse_proto(PROTO)
    classes = tool.Classes(text, errors)
    doc = tool.document(messages, rpcs, classes, errors)
    errors += [f"unused {w}" for w in classes.lines if w not in classes.used]
    return errors, doc


class Fields(unittest.TestCase):
    def test_every_field_of_a_request_is_found(self):
        errors, doc = check(GOOD)
        self.assertEqual(errors, ["unused Inner.kind"])  # the only place has a class of its own
        errors, doc = check(GOOD.replace("Inner.kind handled\n", ""))
        self.assertEqual(errors, [])
        self.assertIn("| `inner.kind` | ignored | here |", doc)
        self.assertIn("6 places: 3 handled, 2 ignored, 1 rejected.", doc)
        self.assertNotIn("never", doc)  # of an answer
        self.assertNotIn("other.words", doc)  # below what is ignored
        self.assertIn("### Watch (stream)\n\nNo fields.", doc)

    def test_what_is_refused(self):
        for change, text in ((("Inner.words handled\n", ""), "has no class"),
                             (("ignored for a reason", "ignored"), "without a reason"),
                             (("ignored for", "forgotten for"), "is no class"),
                             (("# a comment", "DoRequest.gone handled"), "unused DoRequest.gone"),
                             (("# a comment", "DoRequest.inner handled"), "there twice")):
            with self.subTest(text):
                self.assertTrue(any(text in e for e in check(GOOD.replace(*change))[0]))

    def test_rpc_that_is_not_offered(self):
        errors, doc = check(GOOD.replace("DoRequest/inner.kind ignored here\n", "") + "Watch rejected not yet\n")
        self.assertEqual(errors, [])
        self.assertIn("UNIMPLEMENTED: not yet", doc)

    def test_the_document_is_up_to_date(self):
        self.assertEqual(tool.main(["--check"]), 0)


if __name__ == "__main__":
    unittest.main()
