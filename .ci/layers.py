#!/usr/bin/env python3
"""Holds rmap-core to its layers: who may import whom, where `unsafe` may stand, who may name `std`.

Tests (files named tests.rs or *_tests.rs, the folder tests/, and what follows `#[cfg(test)]` or `#[cfg(all(test, ...` at the
start of a line) are free.
"""
import pathlib
import re
import sys

SRC = pathlib.Path(__file__).resolve().parent.parent / "rmap-core" / "src"

# Each layer may import itself and the layers named.
LAYERS = {
    "base": [],
    "ds": ["base"],
    "page": ["base", "ds"],
    "mm": ["base", "ds", "page"],
    "engine": ["base", "ds", "page", "mm"],
    "rmap": ["base", "ds", "page", "mm", "engine"],
    "machine": ["base", "ds", "page", "mm", "engine", "rmap"],
    "trace": ["base", "ds", "page", "mm", "engine", "rmap", "machine"],
}
UNSAFE = {"base", "ds", "page", "mm", "engine"}
STD = {"base"}
STD_FILES = {"trace/source.rs"}
ONLY_IN = {  # name -> where it may stand
    "core::sync::atomic": "base/sync/",
    "loom::": "base/sync/",
    "shuttle::": "base/",
    "std::sync": "base/",
    "crossbeam": None,
    "parking_lot": None,
}
STRIP = re.compile(r'//[^\n]*|/\*.*?\*/|b?r?"(?:\\.|[^"\\])*"', re.S)


def code_of(path):
    """The file without comments, strings and unit tests."""
    text = STRIP.sub(lambda m: "\n" * m.group().count("\n"), path.read_text())
    lines, keep, skip_depth = [], True, None
    depth = 0
    pending = False
    for line in text.split("\n"):
        if keep and re.match(r"#\[cfg\((all\()?test\b", line.strip()) and depth == 0:
            pending = True
        shown = "" if pending else line
        opened = line.count("{") - line.count("}")
        if pending and (("{" in line and depth + opened == 0) or (depth + opened == 0 and depth > 0) or
                        (line.rstrip().endswith(";") and depth == 0)):
            pending = False
        depth += opened
        lines.append(shown)
    return "\n".join(lines)


def main():
    faults = []
    for path in sorted(SRC.rglob("*.rs")):
        name = path.relative_to(SRC).as_posix()
        layer = name.split("/")[0]
        if layer not in LAYERS:
            if name != "lib.rs" and layer != "tests":
                faults.append(f"{name}: belongs to no layer")
            continue
        if "tests/" in name or name.endswith(("/tests.rs", "_tests.rs")):
            continue
        for number, line in enumerate(code_of(path).split("\n"), 1):
            where = f"rmap-core/src/{name}:{number}"
            for used in re.findall(r"\bcrate::(\w+)", line):
                if used in LAYERS and used != layer and used not in LAYERS[layer]:
                    faults.append(f"{where}: {layer} imports {used}")
            if layer not in UNSAFE and re.search(r"\bunsafe\b", line):
                faults.append(f"{where}: unsafe in {layer}")
            if layer not in STD and name not in STD_FILES and re.search(r"\bstd::", line):
                faults.append(f"{where}: {layer} names std")
            for word, home in ONLY_IN.items():
                if word in line and not (home and name.startswith(home)):
                    faults.append(f"{where}: names {word}")
    for fault in faults:
        print(fault)
    print(f"layers: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
