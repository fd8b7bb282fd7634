# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is read of a replay, from the program itself."""

import functools
import json
import os
import pathlib
import subprocess
import unittest

import traces

HERE = pathlib.Path(__file__).parent
BUILD = pathlib.Path(os.environ["RMAP_BUILD"]) if "RMAP_BUILD" in os.environ else HERE.parent.parent / "target" / "bench-c"
ENGINES = "anon_vma,pte_chain"


@functools.cache
def replayed():
    """The figures of a small trace under two engines, twice."""
    trace = HERE.parent / "traces" / "redis.mmt.gz"
    command = [BUILD / "rmap-bench", "--json", "--engines", ENGINES, "--trace", trace]
    return [traces.samples(json.loads(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)) for _ in range(2)]


class Replays(unittest.TestCase):
    def figure(self, run, case, engine):
        (value,) = [value for (c, _, e, _), value in run.items() if (c, e) == (case, engine)]
        return value

    def test_locks_are_counted_and_the_same_in_each_run(self):
        for engine in ENGINES.split(","):
            of_all, of_rmap = [[self.figure(run, case, engine) for run in replayed()] for case in ("trace_locks", "trace_rmap_locks")]
            self.assertEqual(len(set(of_all)), 1, engine)
            self.assertEqual(len(set(of_rmap)), 1, engine)
            self.assertLess(0, of_rmap[0])
            self.assertLess(of_rmap[0], of_all[0])

    def test_a_chain_locks_for_each_mapping(self):
        run = replayed()[0]
        chains, anchors = [self.figure(run, "trace_rmap_locks", engine) for engine in ("pte_chain", "anon_vma")]
        self.assertGreater(chains, 10 * anchors)

    def test_what_does_not_depend_on_time_repeats(self):
        first, second = [{k: v for k, v in run.items() if k[3] != "ns"} for run in replayed()]
        self.assertEqual(first, second)


if __name__ == "__main__":
    unittest.main()
