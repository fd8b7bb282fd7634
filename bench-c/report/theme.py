# SPDX-License-Identifier: MIT OR Apache-2.0
"""Colours by name, light and dark, and how each engine is drawn: by colour, by marker and by line.

matplotlib draws with a stand-in for each name; svg.py puts a CSS variable in its place, so one drawing serves light, dark and paper. The
engines' colours are Okabe and Ito's, which colour-blind readers tell apart, darker on white and lighter on black.
"""

from dataclasses import dataclass

COLOURS = {  # name: light, dark
    "ink": ("#1b1f27", "#e8eaee"),
    "muted": ("#5a6170", "#a2a9b6"),
    "grid": ("#dfe2e8", "#343a45"),
    "paper": ("#ffffff", "#14171c"),
    "raised": ("#f4f5f8", "#1d2128"),
    "ahead": ("#00694b", "#3fd3a0"),
    "behind": ("#a63d00", "#ff9a5c"),
    "link": ("#0b5cad", "#7db8f5"),
    "anon-vma": ("#0066aa", "#56b4e9"),
    "pte-chain": ("#c44e00", "#ff8548"),
    "objrmap": ("#00805f", "#2fd0a0"),
    "full-scan": ("#a8458a", "#ee93cb"),
    "pv-list": ("#8c6a00", "#e8b521"),
    "flat": ("#5a6170", "#a2a9b6"),
    "kernel": ("#1b1f27", "#e8eaee"),
    "spare-1": ("#5b3fc4", "#a99bff"),
    "spare-2": ("#7a3b1d", "#d9a184"),
    "spare-3": ("#3d6b1f", "#a4d479"),
}


def stand_in(name):
    """The colour that stands for a name in what matplotlib writes."""
    return "#0102%02x" % (list(COLOURS).index(name) + 1)


def css_variables(dark):
    """The declarations of all colours."""
    return " ".join("--%s: %s;" % (name, pair[dark]) for name, pair in COLOURS.items())


@dataclass(frozen=True)
class Look:
    """How an engine is drawn and what it is."""

    name: str
    colour: str
    marker: str
    line: str
    about: str


LOOKS = [
    Look("anon_vma", "anon-vma", "o", "-", "an anon_vma for each process and region, interval trees: Linux 2.6.34 to today"),
    Look("pte_chain", "pte-chain", "s", "-", "each page has the list of its PTEs: Linux 2.5"),
    Look("objrmap", "objrmap", "^", "-", "one anon_vma for the whole fork family: Linux 2.6.7"),
    Look("full_scan", "full-scan", "D", "-", "no reverse map, looks through every region: before Linux 2.5"),
    Look("pv_list", "pv-list", "v", "-.", "a model of what is written by hand: for each frame a mutex and a list"),
    Look("flat", "flat", "|", "--", "the floor: for each frame a dense array, no lock, one thread"),
]
KERNEL = Look("kernel", "kernel", "*", ":", "the kernel's own C code, compiled in user space, on a quiet machine")
SPARE = [("spare-1", "P"), ("spare-2", "X"), ("spare-3", "h")]


def looks(results):
    """The looks of all engines that occur, in one order: what the table above does not know comes last."""
    names = {r.engine for r in results}
    known = [look for look in LOOKS if look.name in names]
    others = sorted(names - {look.name for look in LOOKS})
    return known + [Look(name, *SPARE[i % len(SPARE)], "-", "") for i, name in enumerate(others)]
