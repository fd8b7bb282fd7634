# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reports for the tests: of the committed sample, and of the same with more engines."""

import copy
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import install
import report
from data import load

HERE = pathlib.Path(__file__).parent
MICRO = HERE / "sample" / "micro.json"
TRACES = [HERE / "sample" / "traces-1.json", HERE / "sample" / "traces-2.json"]
BUILD = os.environ.get("RMAP_BUILD") or os.path.join(tempfile.gettempdir(), "rmap-report")
MORE = {"pte_chain": 0.7, "objrmap": 1.3, "full_scan": 60.0, "newcomer": 0.9}


def with_more_engines():
    """rmap-micro's sample with engines whose figures are so many times anon_vma's."""
    loaded = json.loads(MICRO.read_text())
    for entry in [e for e in loaded["results"] if e["engine"] == "anon_vma"]:
        for engine, factor in MORE.items():
            more = {**copy.deepcopy(entry), "engine": engine}
            more.pop("kernel", None)
            factor = 1 / factor if more["better"] == "higher" else factor
            for name in {"median", "min", "max"} & more.keys():
                more[name] *= factor
            if engine == "full_scan" and more["unit"] == "B":
                more.update(median=0, min=0, max=0)
            loaded["results"].append(more)
    return loaded


def run(*arguments):
    """report.py as a command."""
    command = [sys.executable, "-B", HERE / "report.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)


def made(out, *files):
    """Makes a report; its page."""
    install.find_matplotlib(BUILD)
    return pathlib.Path(report.write_report(out, load(files))).read_text(encoding="utf-8")


@functools.cache
def with_everything():
    """The folder of a report with more engines and with traces. All tests share it, and it stays."""
    folder = pathlib.Path(BUILD) / "report-test"
    os.makedirs(folder, exist_ok=True)
    (folder / "more.json").write_text(json.dumps(with_more_engines()))
    made(folder, folder / "more.json", *TRACES)
    return folder
