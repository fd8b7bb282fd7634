# SPDX-License-Identifier: MIT OR Apache-2.0
"""The page and the plots as text: well formed, complete, and in need of nothing else."""

import argparse
import contextlib
import html.parser
import io
import json
import os
import pathlib
import re
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

import report
import sample
from data import Unusable

VOID = {"meta"}
REFERENCES = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


class Reader(html.parser.HTMLParser):
    """Holds a page to its tags, and keeps what refers, is named and is said."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.targets, self.tags, self.wrong, self.words = [], [], [], [], [], []
        self.feed(text)
        self.close()
        self.wrong += ["<%s> is not closed" % tag for tag in self.open]

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.names.append(value)
            if name in REFERENCES:
                self.targets.append(value)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append("</%s> at %s" % (tag, self.getpos()))

    def handle_data(self, data):
        self.words.append(data)


class Report(unittest.TestCase):
    """One report of the sample, and one with more engines."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.out = pathlib.Path(cls.folder.name)
        cls.text = sample.made(cls.out / "a", sample.MICRO, *sample.TRACES)
        cls.page = Reader(cls.text)
        cls.more_text = (sample.with_everything() / "index.html").read_text(encoding="utf-8")
        cls.drawings = {path.stem: path.read_text(encoding="utf-8") for path in (cls.out / "a" / "plots").glob("*.svg")}
        cls.entries = json.loads(sample.MICRO.read_text())["results"]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def says(self, page, *texts):
        for text in texts:
            self.assertTrue(text in page, text)

    def says_not(self, page, *texts):
        for text in texts:
            self.assertFalse(text in page, text)

    def test_the_page_is_well_formed(self):
        for page in (self.page, Reader(self.more_text)):
            self.assertEqual(page.wrong, [])
            self.assertEqual(len(page.names), len(set(page.names)), "a name stands twice")

    def test_it_needs_nothing_else(self):
        self.assertNotIn("script", self.page.tags)
        self.assertNotIn("link", self.page.tags)
        self.assertEqual([target for target in self.page.targets if not target.startswith("#")], [])
        for text in [self.text, *self.drawings.values()]:
            self.assertEqual(set(re.findall(r"\w+://[^\"' <]*", text)) - {"http://www.w3.org/2000/svg"}, set())
            self.says_not(text, "@import")
            self.assertEqual(set(re.findall(r"url\((.)", text)) - {"#"}, set())

    def test_what_is_referred_to_is_there(self):
        names = set(self.page.names)
        self.assertEqual({target[1:] for target in self.page.targets} - names, set())
        self.assertEqual(set(re.findall(r"url\(#([^)]*)\)", self.text)) - names, set())

    def test_every_plot_is_xml_and_says_what_it_is(self):
        self.assertGreater(len(self.drawings), 15)
        for slug, text in self.drawings.items():
            root = ElementTree.fromstring(text)
            self.assertTrue(root.tag.endswith("svg"), slug)
            self.assertTrue(root.find("{http://www.w3.org/2000/svg}title").text, slug)
            self.says(self.text, '<figure id="%s">' % slug)

    def test_no_colour_is_fixed(self):
        for slug, text in self.drawings.items():
            body = text.split("</style>")[1]
            self.assertEqual(re.findall(r"(?:fill|stroke): *#\w+", body), [], slug)

    def test_every_case_and_every_figure_is_there(self):
        for case in {entry["case"] for entry in self.entries}:
            self.says(self.text, 'id="case-%s"' % case)
        for case in ("trace_replay", "trace_walk_median", "trace_walk_p99", "trace_candidates", "trace_bytes", "fork_chain_bytes"):
            self.says(self.text, 'id="case-%s"' % case)
        self.assertEqual(self.text.count("<svg"), self.text.count("<figure"))
        tables = self.text[self.text.index('<section'):]
        for entry in self.entries:
            if entry["supported"] and entry["ops"] > 9999:
                self.says(tables, ">%s</td>" % format(entry["ops"], ","))

    def test_the_machine_and_haste_are_told(self):
        words = " ".join(self.page.words)
        for text in ("a sample", "Linux 6.12.0 x86_64", "2026-01-01T00:00:00Z", "A quick run"):
            self.says(words, text)

    def test_who_is_ahead_is_explained_only_where_it_is(self):
        flat = "flat</strong> is ahead of anon_vma"
        self.says(self.text, flat)
        scan = "full_scan</strong> is ahead of anon_vma"
        self.says_not(self.text, scan)
        walk, sizes = (self.more_text.split('id="case-%s"' % case)[1].split("</article>")[0] for case in ("walk_n", "sizes"))
        self.says_not(walk, scan)
        self.says(sizes, scan)
        self.says(walk, "pte_chain</strong> is ahead")
        self.says(walk, "newcomer</strong> is ahead of anon_vma")
        self.says(walk, "No explanation is kept")

    def test_an_engine_has_one_colour_in_all_plots(self):
        colours = set(re.findall(r"var\(--([\w-]+)\)", self.more_text))
        self.assertLessEqual({"anon-vma", "pte-chain", "objrmap", "full-scan", "pv-list", "flat", "kernel", "spare-1"}, colours)
        self.assertNotIn("spare-2", colours)

    def test_a_case_that_nobody_knows_has_its_plot(self):
        loaded = {**json.loads(sample.MICRO.read_text())}
        entry = {**self.entries[0], "case": "brand_new", "params": {"a<b": "c&d"}, "key": "a<b=c&d"}
        loaded["results"] = [entry]
        path = self.out / "new.json"
        path.write_text(json.dumps(loaded))
        page = sample.made(self.out / "c", path)
        self.assertEqual(Reader(page).wrong, [])
        self.says(page, "Other cases")
        self.says(page, 'id="case-brand_new"')

    def test_traces_alone_will_do(self):
        page = sample.made(self.out / "d", sample.TRACES[0])
        self.says(page, "rmap-bench&#x27;s files do not name it", "one replay has none")

    def test_what_cannot_be_used_is_status_2(self):
        for arguments, says in (((self.out / "none.json",), "none.json"), (("--frobnicate",), "frobnicate"),
                                ((sample.MICRO, sample.MICRO), "second file")):
            done = sample.run("--out", self.out / "e", "--build", sample.BUILD, *arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(says, done.stderr)

    @unittest.skipUnless(os.path.exists(os.path.join(sample.BUILD, "rmap-micro")), "rmap-micro is not built")
    def test_a_quick_run_measures_and_reports(self):
        done = sample.run("--out", self.out / "g", "--build", sample.BUILD, "--quick")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, "report: %s\n" % (self.out / "g" / "index.html"))
        self.assertEqual(sorted(os.listdir(self.out / "g" / "data")), ["micro.json", "micro.txt", "traces-1.json"])

    def test_programs_that_fail_are_named(self):
        for name in ("rmap-micro", "rmap-bench"):
            program = self.out / name
            program.write_text("#!/bin/sh\nexit 2\n")
            program.chmod(0o755)
        given = argparse.Namespace(out=self.out / "f", build=self.out, traces="traces", replays=1, quick=True)
        with self.assertRaisesRegex(Unusable, "rmap-micro ended with status 2"), contextlib.redirect_stderr(io.StringIO()):
            report.measure(given)


if __name__ == "__main__":
    unittest.main()
