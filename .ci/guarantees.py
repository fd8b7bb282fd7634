#!/usr/bin/env python3
"""Holds the README's table of proofs to the tests: each guarantee has a model, a randomised test and a sanitizer's run, and what is named
there exists and cites the guarantee.

A name in backticks is a test, a file of tests, a fuzz target or a script of .ci; it cites G1 if "G1" stands in its documentation or in
its file's, or its name begins with "g1_".
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
GUARANTEES = [f"G{n}" for n in range(1, 9)]
COLUMNS = ["models", "randomised", "sanitizers"]


def sources():
    for folder, pattern in (("rmap-core/src", "*.rs"), ("rmap-core/tests", "*.rs"), ("rmap-ffi", "*.rs"), ("rmap-ffi/tests", "*.c"),
                            ("fuzz", "*.rs"), (".ci", "*")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            if path.is_file() and "target" not in path.relative_to(ROOT).parts:
                yield path, path.read_text(errors="replace")


def citations(name, files):
    """What is said of a test: its name, its comment, and the head of its file. Empty: there is no such test."""
    said = []
    for path, text in files:
        head = "\n".join(line for line in text.splitlines()[:80] if re.match(r"//!|#|/\*| \*|//", line))
        if path.stem == name or path.name == name:
            said.append(head)
        for found in re.finditer(rf"((?:^[ \t]*(?:///|#\[).*\n)*)^[ \t]*(?:pub )?fn {name}\b", text, re.M):
            said.append(f"{name} {found.group(1)} {head}")
    return " ".join(said)


def main():
    files = list(sources())
    table = re.search(r"^## Why trust it$.*?(?=^## )", (ROOT / "README.md").read_text(), re.M | re.S)
    rows = re.findall(r"^\| \*\*(G\d)\*\*.*$", table.group(0), re.M) if table else []
    faults = [f"{g}: no row" for g in GUARANTEES if g not in rows]
    for row in re.findall(r"^\| \*\*G\d\*\*.*$", table.group(0) if table else "", re.M):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        letter = cells[0][2:4]
        for column, cell in zip(COLUMNS, cells[1:]):
            names = re.findall(r"`([^`]+)`", cell)
            if not names:
                faults.append(f"{letter}: nothing under {column}")
            for name in names:
                said = citations(name.split()[0].split("::")[-1].removeprefix(".ci/"), files)
                if not said:
                    faults.append(f"{letter}: there is no {name}")
                elif not re.search(rf"\b{letter}\b|\b{letter.lower()}_", said):
                    faults.append(f"{letter}: {name} does not cite it")
    print(*faults, f"guarantees: {len(faults)} faults", sep="\n")
    return 1 if faults else 0


sys.exit(main())
