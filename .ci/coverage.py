#!/usr/bin/env python3
"""Measures which lines of rmap-core its tests run, and holds each file to 90 %.

    .ci/coverage.py          exit status 1 if a file stays under 90 % and .ci/coverage.txt gives no reason, or gives one that is out of date
    .ci/coverage.py --html   also leaves the lines in target/coverage/html

Counts the unit and integration tests of rmap-core; the C tests and the C programs run more. Needs llvm-profdata and llvm-cov (Debian's
llvm-19 reads what this compiler writes) and cargo-llvm-cov: installs what is missing.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
REASONS = ROOT / ".ci" / "coverage.txt"
BAR = 90.0
# From here on a reason is out of date: what threads and random histories run is not the same each time.
WELL_OVER = 93.0
LLVM = "19"


def tools():
    """The environment in which cargo-llvm-cov finds them."""
    if not shutil.which(f"llvm-cov-{LLVM}"):
        for command in ("apt-get install -y -q", "apt-get update -q", "apt-get install -y -q"):
            package = [f"llvm-{LLVM}"] if "install" in command else []
            if subprocess.run(command.split() + package, stdout=subprocess.DEVNULL).returncode == 0 and package:
                break
        else:
            sys.exit(f"no llvm-cov-{LLVM}, and it cannot be installed")
    if not shutil.which("cargo-llvm-cov"):
        subprocess.run(["cargo", "install", "--locked", "--quiet", "cargo-llvm-cov"], check=True)
    # Which lines run, a few histories show. One test at a time: the counters of lines are shared, and two threads that count on them
    # take many times as long as one.
    few = {"PROPTEST_CASES": "16", "RMAP_TEST_ROUNDS": "300", "RUST_TEST_THREADS": "1"}
    return dict(os.environ, **few, LLVM_COV=shutil.which(f"llvm-cov-{LLVM}"), LLVM_PROFDATA=shutil.which(f"llvm-profdata-{LLVM}"))


def measure(html):
    """Lines run and lines in all, by file."""
    environment = tools()
    run = ["cargo", "llvm-cov", "-q", "-p", "rmap-core", "--lib", "--tests", "--json", "--summary-only"]
    # The tests themselves are no part of the library.
    run += ["--ignore-filename-regex", r"(/tests/|_tests/|_tests\.rs|/tests\.rs|/inspect\.rs)"]
    out = subprocess.run(run, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if out.returncode:
        sys.exit("the tests failed")
    if html:
        report = ["cargo", "llvm-cov", "report", "--html", "--output-dir", str(ROOT / "target" / "coverage")]
        subprocess.run(report + run[-2:], cwd=ROOT, env=environment, check=True)
    files = json.loads(out.stdout)["data"][0]["files"]
    src = ROOT / "rmap-core" / "src"
    return {str(pathlib.Path(f["filename"]).relative_to(src)): (f["summary"]["lines"]["covered"], f["summary"]["lines"]["count"])
            for f in files if pathlib.Path(f["filename"]).is_relative_to(src) and f["summary"]["lines"]["count"]}


def main():
    lines = measure("--html" in sys.argv[1:])
    reasons = dict(line.split(": ", 1) for line in REASONS.read_text().splitlines() if line and not line.startswith("#"))
    wrong = 0
    for name, (covered, count) in sorted(lines.items(), key=lambda item: item[1][0] / item[1][1]):
        share, reason = 100 * covered / count, reasons.get(name)
        if share < BAR or reason:
            out_of_date = share >= WELL_OVER
            wrong += out_of_date or not reason
            print(f"{name:<36} {share:5.1f} %  {'is well over the bar: take its reason out' if out_of_date else reason or 'NO REASON'}")
    for name in reasons.keys() - lines.keys():
        print(f"{name}: no such file")
        wrong += 1
    covered, count = (sum(column) for column in zip(*lines.values()))
    print(f"{covered} of {count} lines in {len(lines)} files, {100 * covered / count:.1f} %; {wrong} files under {BAR:.0f} % without a reason")
    return wrong != 0


sys.exit(main())
