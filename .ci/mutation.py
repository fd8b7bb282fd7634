#!/usr/bin/env python3
"""Mutation testing of engine/anon_vma and rmap: one thing wrong at a time, and the tests must notice each.

    .ci/mutation.py               all mutants
    .ci/mutation.py NAME...       those

The mutants stand in .ci/mutation.txt. All are built at once: in a copy of the sources every place becomes "if this mutant is on, the
wrong code, else the right code" (base/mutant.rs), so that there is one build, and a run for each. Exit status 1 if one survives.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / ".ci" / "mutation.txt"
COPY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "mutation"
# The engine's own tests first: most mutants end there.
TESTS = ["anon_vma", ""]
# How many times longer than without a mutant a run may take.
PATIENCE = 6


def mutants():
    """Name, file, what is there, what stands there instead. See the head of the list."""
    file, found = None, []
    for block in re.split(r"\n\s*\n", LIST.read_text()):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        if lines[0].startswith("== "):
            file = lines[0][3:].strip()
            continue
        name = lines[0].split(":")[0]
        right = "\n".join(line[2:] for line in lines[1:] if line[:2] in ("- ", "= "))
        wrong = "\n".join(line[2:] for line in lines[1:] if line[:2] == "+ ")
        drop = any(line.startswith("= ") for line in lines[1:])
        found.append((name, file, right, None if drop else wrong))
    return found


def plant(text, name, right, wrong):
    """The file with the mutant in it."""
    before, right, after = re.fullmatch(r"(?:(.*)«)?([^«»]*)(?:»(.*))?", right, re.S).groups("")
    # Anything may stand between two words but for code: the layout of the sources is not what the list is about.
    pattern = re.compile("".join(f"({tokens(part)})" for part in (before, right, after)))
    places = list(pattern.finditer(text))
    if len(places) != 1:
        sys.exit(f"{name}: what it changes stands in {len(places)} places")
    start, end = places[0].span(2)
    on, was = f'crate::base::mutant::mutant("{name}")', text[start:end].strip()
    new = f"if !{on} {{ {was} }} " if wrong is None else f"(if {on} {{ {wrong} }} else {{ {was} }})"
    return text[:start] + new + text[end:]


def tokens(code):
    """A pattern for these words with any space around them."""
    return r"\s*" + "".join(re.escape(word) + r"\s*" for word in re.findall(r"\w+|[^\w\s]", code))


def build(all_mutants):
    """The test program with all of them in it."""
    sources = COPY / "sources"
    for part in ["Cargo.toml", "Cargo.lock", "README.md", "rmap-core", "rmap-ffi", "bench-c", "docs", "include"]:
        old, new = ROOT / part, sources / part
        if old.is_dir():
            shutil.copytree(old, new, dirs_exist_ok=True)
        else:
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old, new)
    for file in {m[1] for m in all_mutants}:
        path = sources / "rmap-core" / "src" / file
        text = (ROOT / "rmap-core" / "src" / file).read_text()
        for name, of, right, wrong in all_mutants:
            if of == file:
                text = plant(text, name, right, wrong)
        path.write_text(text)
    command = ["cargo", "test", "-q", "-p", "rmap-core", "--lib", "--no-run", "--message-format=json"]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(COPY / "target"), RUSTFLAGS="-Awarnings")
    out = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True)
    built = re.findall(r'"executable":"([^"]+)"', out.stdout)
    if out.returncode or not built:
        messages = re.findall(r'"rendered":"((?:\\.|[^"\\])*error(?:\\.|[^"\\])*)"', out.stdout)
        sys.exit("the mutants do not build:\n" + "\n".join(m.encode().decode("unicode_escape") for m in messages) + out.stderr)
    return built[-1], sources / "rmap-core"


def run(program, cwd, mutant, tests, limit=None):
    """How many tests fail, "hangs", "aborts", or None: all pass; `limit` is in seconds."""
    environment = dict(os.environ, RMAP_MUTANT=mutant, RUST_BACKTRACE="0", PROPTEST_MAX_SHRINK_ITERS="0", PROPTEST_FAILURE_PERSISTENCE="off")
    try:
        out = subprocess.run([program] + ([tests] if tests else []), cwd=cwd, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "hangs"
    if out.returncode == 0:
        return None
    if out.returncode != 101:
        return "aborts"
    return f"{len(re.findall(r'^test .*FAILED$', out.stdout, re.M))} tests fail"


def main():
    every = mutants()
    wanted = [m for m in every if not sys.argv[1:] or m[0] in sys.argv[1:]]
    program, cwd = build(every)
    limits = {}
    for tests in TESTS:
        start = time.monotonic()
        if failed := run(program, cwd, "", tests):
            sys.exit(f"without a mutant: {failed}")
        limits[tests] = PATIENCE * (time.monotonic() - start)
    survivors = []
    for name, file, _, _ in wanted:
        start = time.monotonic()
        noticed = next(filter(None, (run(program, cwd, name, tests, limits[tests]) for tests in TESTS)), None)
        if not noticed:
            survivors.append(name)
        print(f"{file:<28} {name:<32} {noticed or 'SURVIVES'}, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{len(wanted)} mutants, {len(survivors)} survive{''.join(' ' + s for s in survivors)}")
    return 1 if survivors else 0


sys.exit(main())
