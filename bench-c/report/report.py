#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes a page and its plots from the figures of rmap-micro and rmap-bench.

With FILEs it takes the figures from there: one file of rmap-micro --json at most, and any number of rmap-bench --json, which are samples
of the same replays. Without, it runs both programs first, and keeps their files beside the page.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import install
from data import Unusable, load

HERE = os.path.dirname(os.path.abspath(__file__))


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="figures that are there already")
    parser.add_argument("--out", required=True, help="the folder to write to")
    parser.add_argument("--build", help="the folder of rmap-micro and rmap-bench, and for matplotlib if it is missing (default: OUT/..)")
    parser.add_argument("--traces", default=os.path.join(HERE, "..", "traces"), help="the folder of the traces to replay")
    parser.add_argument("--replays", type=int, default=3, help="how often each trace is replayed (default 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes, short samples, one replay")
    parsed = parser.parse_args()
    parsed.build = parsed.build or os.path.join(parsed.out, "..")
    parsed.replays = 1 if parsed.quick else parsed.replays
    return parsed


def run(program, arguments, log):
    """Runs a program. 1 is a result that is wrong: what it says is in its file."""
    print("report: running %s" % os.path.basename(program), file=sys.stderr, flush=True)
    with open(log, "w", encoding="utf-8") as out:
        status = subprocess.run([program, *arguments], stdout=out).returncode
    if status not in (0, 1):
        raise Unusable("%s ended with status %d" % (program, status))


def measure(given):
    """Runs both programs; the files that they wrote."""
    folder = os.path.join(given.out, "data")
    os.makedirs(folder, exist_ok=True)
    micro = os.path.join(folder, "micro.json")
    quick = ["--quick"] if given.quick else []
    run(os.path.join(given.build, "rmap-micro"), ["--json", micro, *quick], os.path.join(folder, "micro.txt"))
    files = [micro]
    for i in range(given.replays):
        files.append(os.path.join(folder, "traces-%d.json" % (i + 1)))
        run(os.path.join(given.build, "rmap-bench"), ["--json", given.traces], files[-1])
    return files


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_report(out, data):
    """The page, and each plot in a file of its own below plots/; the page's path."""
    # Both need matplotlib, which is found by now.
    import page
    import svg
    from charts import sections_of
    plots = pathlib.Path(out) / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for earlier in plots.glob("*.svg"):
        earlier.unlink()
    sections = list(sections_of(data.results))
    drawings = page.draw_all(sections)
    for slug, drawing in drawings.items():
        write(plots / (slug + ".svg"), svg.standalone(drawing))
    path = os.path.join(out, "index.html")
    write(path, page.page(data, sections, drawings))
    return path


def main():
    given = options()
    try:
        install.find_matplotlib(given.build)
        data = load(given.files or measure(given))
        path = write_report(given.out, data)
    except (Unusable, install.Missing, OSError) as error:
        print("report: %s" % error, file=sys.stderr)
        return 2
    print("report: %s" % path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
