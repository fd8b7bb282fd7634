"""Holds rmap-micro to its command line and its output. No time is asserted.

usage: test_micro.py RMAP_MICRO
"""
import csv
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop()
# A case has the name of its file.
CASES = sorted(path.stem for path in (pathlib.Path(__file__).parent / "cases").glob("*.c"))
MEASURED = {"median", "min", "max", "n", "dropped", "ops", "figures"}


def run(*args):
    done = subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


class CommandLine(unittest.TestCase):
    def refused(self, *args, says):
        status, out, err = run(*args)
        self.assertEqual((status, out), (2, ""), args)
        self.assertIn(says, err)

    def test_list_names_every_case_and_its_source(self):
        status, out, _ = run("--list")
        self.assertEqual(status, 0)
        self.assertEqual(re.findall(r"^(\w+):", out, re.M), CASES)
        self.assertEqual(len(re.findall(r"^    from \S", out, re.M)), len(CASES))

    def test_list_obeys_the_filter(self):
        _, out, _ = run("--list", "--filter", "walk_n n=(1|10) .*pte")
        self.assertEqual(re.findall(r"^    (walk_n n=.*)", out, re.M), [
            f"walk_n n={n} order={order} check=pte" for order in ("in_order", "scattered") for n in (1, 10)
        ])

    def test_what_cannot_be_used_is_named(self):
        self.refused("--engines", "anon_vma,no_such", says='there is no engine "no_such"')
        self.refused("--engines", "", says='there is no engine ""')
        self.refused("--engines", "flat,flat", says="named twice")
        self.refused("--frobnicate", says="what is --frobnicate?")
        self.refused("walk_n", says="what is walk_n?")
        self.refused("--threads", "0", says="--threads takes a number")
        self.refused("--threads", "two", says="--threads takes a number")
        self.refused("--seconds", "-1", says="--seconds takes a number")
        self.refused("--filter", "(", says='--filter "("')
        self.refused("--filter", "no such case", says="no case matches")
        self.refused("--json", says="--json needs a value")
        self.refused("--json", "/nowhere/at/all.json", says="/nowhere/at/all.json")
        self.refused("--baseline", "/nowhere/at/all.json", says="/nowhere/at/all.json")

    def test_a_baseline_that_is_none_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.json"
            for text, says in (("{", "not JSON"), ('{"results": [1,]}', "not JSON"), ('{"results": []}', "no results")):
                path.write_text(text)
                self.refused("--baseline", path, says=says)


class Output(unittest.TestCase):
    """One quick run of everything."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.json_path = pathlib.Path(cls.folder.name) / "a.json"
        cls.csv_path = pathlib.Path(cls.folder.name) / "a.csv"
        status, cls.out, cls.err = run("--quick", "--json", cls.json_path, "--csv", cls.csv_path)
        assert status == 0, cls.err
        cls.data = json.loads(cls.json_path.read_text())
        cls.results = cls.data["results"]
        cls.measured = [r for r in cls.results if r["supported"]]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def find(self, case, engine="anon_vma", **params):
        return [
            r for r in self.measured
            if r["case"] == case and r["engine"] == engine and params.items() <= r["params"].items()
        ]

    def test_machine_and_options_are_described(self):
        machine = self.data["machine"]
        self.assertLessEqual({"cpu", "kernel", "governor", "compiler", "date", "cores", "load"}, machine.keys())
        self.assertGreaterEqual(machine["cores"], 1)
        self.assertRegex(machine["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertTrue(self.data["options"]["quick"])

    def test_every_case_has_results_of_every_engine(self):
        self.assertEqual(sorted({r["case"] for r in self.results}), CASES)
        self.assertEqual({r["case"] for r in self.measured if r["engine"] == "anon_vma"}, set(CASES))
        for case in ("walk_n", "fan_out", "page_fault", "look_up", "mixed", "exec_shells", "sizes"):
            for model in ("pv_list", "flat"):
                self.assertTrue(self.find(case, model), (case, model))

    def test_results_are_sane(self):
        for r in self.measured:
            self.assertLessEqual(MEASURED, r.keys())
            self.assertLessEqual(r["min"], r["median"], r)
            self.assertLessEqual(r["median"], r["max"], r)
            self.assertEqual(r["n"] + r["dropped"], 1 if r["unit"] == "B" else self.data["options"]["rounds"])
            self.assertGreaterEqual(r["n"], 1)
            self.assertGreater(r["ops"], 0)
            self.assertEqual(r["better"], "higher" if r["unit"] == "ops/s" else "lower")
            if r["engine"] == "anon_vma":
                self.assertEqual(r["ratio"], 1)
        for r in self.results:
            if not r["supported"]:
                self.assertTrue(r["reason"])
                self.assertFalse(MEASURED & r.keys())

    def test_what_walks_find_is_exact_where_it_is_known(self):
        for r in self.find("walk_n"):
            self.assertEqual((r["figures"]["candidates"], r["figures"]["mappings"]), (r["params"]["n"],) * 2)
        for r in self.find("fan_out"):
            expected = r["params"]["children"] + 1 if r["params"]["page"] == "parent" else 1
            self.assertEqual(r["figures"]["candidates_per_mapping"], expected)
        for r in self.find("fork_chain", ancestors="exiting"):
            self.assertLessEqual(r["figures"]["anchors"], 3)
        for r in self.find("mixed"):
            self.assertAlmostEqual(r["figures"]["single_mapper"], 0.84, delta=0.06)

    def test_models_take_what_their_structs_take(self):
        for model, frame, mapping in (("pv_list", 48, 24), ("flat", 16, 16)):
            (per_frame,) = self.find("sizes", model, what="frame")
            (per_vma,) = self.find("sizes", model, what="vma")
            self.assertEqual((per_frame["median"], per_vma["median"]), (frame, mapping))

    def test_kernel_figures_stand_beside_ours(self):
        (r,) = self.find("walk_n", n=1000, order="in_order", check="none")
        self.assertEqual(r["kernel"], 7700)

    def test_one_summary_line_a_result(self):
        lines = self.out.splitlines()
        self.assertEqual(len(lines), len(self.results))
        for line, r in zip(lines, self.results):
            words = line.split()
            self.assertEqual(words[0], "SUMMARY")
            self.assertEqual(words[1:3], ["case", r["case"]])
            self.assertEqual(words[words.index("engine") + 1], r["engine"])
            self.assertEqual("not_supported" in words, not r["supported"])

    def test_csv_says_the_same(self):
        rows = list(csv.DictReader(self.csv_path.read_text().splitlines()))
        self.assertEqual(len(rows), len(self.results))
        for row, r in zip(rows, self.results):
            self.assertEqual((row["case"], row["params"], row["engine"]), (r["case"], r["key"], r["engine"]))
            self.assertEqual(row["supported"], "1" if r["supported"] else "0")
            if r["supported"]:
                self.assertAlmostEqual(float(row["median"]), r["median"], delta=0.001 + r["median"] * 1e-9)

    def test_a_baseline_gives_ratios(self):
        again = self.json_path.with_name("b.json")
        before = {
            r["engine"]: r["median"]
            for r in self.measured if (r["case"], r["key"]) == ("fork", "over=component depth=16")
        }
        # Laid out differently: any JSON of the same meaning will do.
        self.json_path.with_name("laid_out.json").write_text(json.dumps(self.data, indent=3))
        status, out, err = run("--quick", "--filter", "^fork over=component depth=16$", "--engines", "pv_list,anon_vma",
                               "--baseline", self.json_path.with_name("laid_out.json"), "--json", again)
        self.assertEqual(status, 0, err)
        results = json.loads(again.read_text())["results"]
        self.assertEqual([r["engine"] for r in results], ["pv_list", "anon_vma"])
        for r in results:
            self.assertAlmostEqual(r["baseline"] * before[r["engine"]] / r["median"], 1, places=6)
        self.assertEqual(out.count(" baseline "), 2)


if __name__ == "__main__":
    unittest.main()
