#!/usr/bin/env python3
"""Counts the instructions of the hottest operations and holds them to rmap-core/benches/instructions.txt.

    .ci/instructions.py          exit status 1 if an operation takes 2 % more, or 2 % less, than the file says
    .ci/instructions.py --write   puts the counts into the file

Less is wrong too: the file is to say how things are. Needs valgrind, and gungraun-runner in the version of Cargo.lock, which it installs.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "rmap-core" / "benches" / "instructions.txt"
TOLERANCE = 0.02
# So few that one more or less would be over the tolerance.
SLACK = 2


def runner():
    """Installs gungraun's runner, unless it is there."""
    lock = (ROOT / "Cargo.lock").read_text()
    wanted = re.search(r'name = "gungraun"\nversion = "([^"]+)"', lock).group(1)
    found = shutil.which("gungraun-runner")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    if wanted not in version:
        subprocess.run(["cargo", "install", "--locked", "--quiet", "gungraun-runner", "--version", wanted], check=True)


def count():
    """Instructions by operation."""
    command = ["cargo", "bench", "-q", "-p", "rmap-core", "--bench", "instructions", "--", "--output-format=json"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {}
    for line in out.stdout.splitlines():
        if line.startswith("{"):
            bench = json.loads(line)
            parts = bench["profiles"][0]["data"]["parts"]
            counts[f'{bench["function_name"]}/{bench["id"]}'] = sum(p["metrics"]["Ir"]["values"]["new"] for p in parts)
    if out.returncode or not counts:
        sys.exit(f"the counts failed:\n{out.stdout}\n{out.stderr}")
    return counts


def main():
    runner()
    counts = count()
    if sys.argv[1:] == ["--write"]:
        BASELINE.write_text("".join(f"{name} {n}\n" for name, n in counts.items()))
        return 0
    known = dict((name, int(n)) for name, n in map(str.split, BASELINE.read_text().splitlines()))
    wrong = 0
    for name in sorted(known.keys() | counts.keys()):
        was, now = known.get(name), counts.get(name)
        same = was is not None and now is not None and abs(now - was) <= max(SLACK, was * TOLERANCE)
        wrong += not same
        print(f'{name:<40} {now if now is not None else "-":>8} {was if was is not None else "-":>8}{"" if same else "   differs"}')
    if wrong:
        print(f"{wrong} differ from {BASELINE.relative_to(ROOT)}: find out why, then write it anew (--write)")
    return wrong != 0


sys.exit(main())
