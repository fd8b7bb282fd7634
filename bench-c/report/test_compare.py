# SPDX-License-Identifier: MIT OR Apache-2.0
"""Ratios, bounds and exit statuses of compare.py."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).parent
MICRO = json.loads((HERE / "sample" / "micro.json").read_text())
TRACES = json.loads((HERE / "sample" / "traces-1.json").read_text())


def scaled(entry, factor, spread=1.0):
    """A result of so many times the median, with a spread of its own."""
    median = entry["median"] * factor
    return {**entry, "median": median, "min": median / spread, "max": median * spread}


class Compare(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def compare(self, before, after, *arguments):
        paths = []
        for name, content in (("a.json", before), ("b.json", after)):
            paths.append(pathlib.Path(self.folder.name) / name)
            paths[-1].write_text(json.dumps(content))
        command = [sys.executable, "-B", HERE / "compare.py", *paths, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.splitlines(), done.stderr

    def one(self, case="walk_n", unit="ns", factor=1.0, spread=1.02, arguments=()):
        """One result, then the same so many times the median: the status and the result's line."""
        entry = next(e for e in MICRO["results"] if e["case"] == case and e["unit"] == unit)
        before = {**MICRO, "results": [scaled(entry, 1, spread)]}
        after = {**MICRO, "results": [scaled(entry, factor, spread)]}
        status, lines, _ = self.compare(before, after, *arguments)
        self.assertEqual(len(lines), 2)
        return status, lines[0]

    def test_a_run_is_not_worse_than_itself(self):
        status, lines, _ = self.compare(MICRO, MICRO)
        self.assertEqual(status, 0)
        self.assertEqual(len(lines), 1 + sum(e["supported"] for e in MICRO["results"]))
        self.assertIn("0 worse, 0 better, 0 noise", lines[-1])

    def test_slower_is_worse_and_faster_is_better(self):
        status, line = self.one(factor=1.5)
        self.assertEqual(status, 1)
        self.assertRegex(line, r" 1\.500  \[1\.442, 1\.561\]  WORSE$")
        status, line = self.one(factor=0.5)
        self.assertEqual(status, 0)
        self.assertRegex(line, r" 0\.500  .*better$")

    def test_fewer_a_second_is_worse(self):
        status, line = self.one("look_up", "ops/s", factor=0.5)
        self.assertEqual(status, 1)
        self.assertRegex(line, r" 2\.000  \[1\.922, 2\.081\]  WORSE$")
        self.assertEqual(self.one("look_up", "ops/s", factor=2)[0], 0)

    def test_more_bytes_are_worse_without_any_spread(self):
        status, line = self.one("sizes", "B", factor=1.2, spread=1)
        self.assertEqual(status, 1)
        self.assertTrue(line.endswith("WORSE"))

    def test_what_the_spread_covers_is_noise(self):
        status, line = self.one(factor=1.5, spread=1.3)
        self.assertEqual(status, 0)
        self.assertTrue(line.endswith("noise"))

    def test_the_threshold_decides(self):
        self.assertEqual(self.one(factor=1.09)[0], 0)
        self.assertEqual(self.one(factor=1.09, arguments=("--threshold", "1.05"))[0], 1)
        self.assertEqual(self.one(factor=1.5, arguments=("--threshold", "2"))[0], 0)

    def test_one_sample_of_a_time_is_not_judged(self):
        slower = json.loads(json.dumps(TRACES))
        for trace in slower["traces"]:
            trace["engines"][0]["replay_ns"] *= 3
        status, lines, _ = self.compare(TRACES, slower)
        self.assertEqual(status, 0)
        self.assertEqual(sum(line.endswith("not judged: one sample") for line in lines), len(TRACES["traces"]))
        for trace in slower["traces"]:
            trace["engines"][0]["marks"][0]["candidates"] *= 3
        self.assertEqual(self.compare(TRACES, slower)[0], 1)

    def test_what_only_one_has_is_counted(self):
        status, lines, _ = self.compare(MICRO, {**MICRO, "results": MICRO["results"][:1]})
        self.assertEqual(status, 0)
        self.assertRegex(lines[-1], r"^1 results in both, \d+ only in the first, 0 only in the second")

    def test_what_cannot_be_used_is_status_2(self):
        for after, arguments, says in (
                ({}, (), "neither"), (TRACES, (), "no result in common"), (MICRO, ("--threshold", "0.5"), "a ratio of 1 or above"),
                (MICRO, ("--threshold", "x"), "threshold"), (MICRO, ("more.json",), "more.json")):
            status, lines, err = self.compare(MICRO, after, *arguments)
            self.assertEqual((status, lines), (2, []), err)
            self.assertIn(says, err)


if __name__ == "__main__":
    unittest.main()
