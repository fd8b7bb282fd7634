# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is read from the files, today's and those to come."""

import copy
import json
import pathlib
import tempfile
import unittest

from data import Unusable, load

SAMPLE = pathlib.Path(__file__).parent / "sample"
MICRO = SAMPLE / "micro.json"
TRACES = [SAMPLE / "traces-1.json", SAMPLE / "traces-2.json"]


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def written(self, content, name="x.json"):
        path = pathlib.Path(self.folder.name) / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def test_every_result_is_read(self):
        entries = json.loads(MICRO.read_text())["results"]
        data = load([MICRO])
        self.assertEqual([(r.case, r.key, r.engine, r.threads) for r in data.results],
                         [(e["case"], e["key"], e["engine"], e["threads"]) for e in entries])
        self.assertEqual([r.median for r in data.measured], [e["median"] for e in entries if e["supported"]])
        self.assertEqual(data.machine["cpu"], "a sample")

    def test_replays_are_samples_of_the_same_figure(self):
        values = sorted(json.loads(path.read_text())["traces"][0]["engines"][0]["replay_ns"] for path in TRACES)
        (replay,) = [r for r in load(TRACES).results if r.case == "trace_replay" and r.key == "trace=bash"]
        self.assertEqual((replay.n, replay.low, replay.high, replay.median), (2, values[0], values[1], sum(values) / 2))

    def test_a_mark_is_named_unless_its_trace_is(self):
        keys = {r.key for r in load(TRACES[:1]).results if r.case == "trace_walk_median"}
        self.assertEqual(keys, {"trace=bash", "trace=py", "trace=redis", "trace=redis mark=redis0"})

    def test_each_engine_of_a_trace_is_read(self):
        loaded = json.loads(TRACES[0].read_text())
        for trace in loaded["traces"]:
            trace["engines"].append({**copy.deepcopy(trace["engines"][0]), "engine": "full_scan", "peak_rmap_bytes": 0})
        results = load([self.written(loaded)]).results
        self.assertEqual({r.engine for r in results}, {"anon_vma", "full_scan"})
        self.assertEqual({r.median for r in results if (r.case, r.engine) == ("trace_bytes", "full_scan")}, {0})
        before = {(r.case, r.key): r.median for r in load(TRACES[:1]).results}
        self.assertEqual({(r.case, r.key): r.median for r in results if r.engine == "anon_vma"}, before)

    def test_locks_are_read_where_they_were_counted(self):
        loaded = json.loads(TRACES[0].read_text())
        loaded["traces"][0]["engines"][0].update(locks=70, rmap_locks=7)
        locks = {(r.case, r.key): r.median for r in load([self.written(loaded)]).results if r.unit == "locks"}
        self.assertEqual(locks, {("trace_locks", "trace=bash"): 70, ("trace_rmap_locks", "trace=bash"): 7})

    def test_marks_that_do_not_hold_are_told(self):
        loaded = json.loads(TRACES[0].read_text())
        loaded["traces"][1]["engines"][0]["marks"][0].update(holds=False, difference="pid 1: no such VMA")
        self.assertEqual(load([self.written(loaded)]).wrong,
                         ["py under anon_vma: mark py.snap does not hold: pid 1: no such VMA"])

    def refused(self, *contents, says):
        paths = [self.written(content, "%d.json" % i) for i, content in enumerate(contents)]
        with self.assertRaisesRegex(Unusable, says):
            load(paths)

    def test_what_cannot_be_used_is_named(self):
        micro = json.loads(MICRO.read_text())
        self.refused("{", says="0.json")
        self.refused("[]", says="not an object")
        self.refused({}, says="neither rmap-micro's nor rmap-bench's")
        self.refused({"results": 3}, says="KeyError")
        self.refused({**micro, "results": []}, says="no results")
        self.refused({**micro, "results": [{**micro["results"][0], "median": "fast"}]}, says="fast")
        self.refused({"traces": [{"trace": "x"}]}, says="engines")
        self.refused(micro, micro, says="second file of rmap-micro")
        with self.assertRaisesRegex(Unusable, "nowhere"):
            load(["/nowhere.json"])


if __name__ == "__main__":
    unittest.main()
