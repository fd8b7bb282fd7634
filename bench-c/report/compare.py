#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares the figures of two runs.

One line for each result that both have: how many times worse the second is (below 1: better), and between what that ratio lies if both
are anywhere between their least and their greatest sample. Past the threshold and with spreads that do not meet it is WORSE or better;
past it otherwise, it is noise. A time of which there is one sample only has no spread, and is not judged.

Exit status: 0 nothing is worse, 1 something is, 2 a file or the command line is not to be used.
"""

import argparse
import sys

from data import Unusable, load
from ratios import apart, bounds, worsening
from units import short


def threshold(text):
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError("a ratio of 1 or above, not %s" % text)
    return value


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="A.json")
    parser.add_argument("after", metavar="B.json")
    parser.add_argument("--threshold", type=threshold, default=1.10, help="ratios within it are no change (default 1.10)")
    return parser.parse_args()


def verdict(old, new, limit):
    """What is to be said of two results; "" when nothing is."""
    ratio = worsening(new, old)
    if 1 / limit <= ratio <= limit:
        return ""
    if new.timed and 1 in (old.n, new.n):
        return "not judged: one sample"
    if not apart(old, new):
        return "noise"
    return "WORSE" if ratio > limit else "better"


def line(old, new, said):
    """One result: what it is, both medians, the ratio and its bounds."""
    name = " ".join(filter(None, (new.case, new.key, new.role)))
    least, most = bounds(new, old)
    return "%-62s %-10s %2d  %10s -> %10s  %6.3f  [%.3f, %.3f]  %s" % (
        name, new.engine, new.threads, short(old.median, old.unit), short(new.median, new.unit), worsening(new, old), least, most, said)


def compare(before, after, limit):
    """Prints all lines; how many are worse."""
    old = {r.identity: r for r in before.measured}
    new = {r.identity: r for r in after.measured}
    both = [identity for identity in new if identity in old]
    if not both:
        raise Unusable("the two have no result in common")
    said = {identity: verdict(old[identity], new[identity], limit) for identity in both}
    for identity in both:
        print(line(old[identity], new[identity], said[identity]).rstrip())
    words = list(said.values())
    print("%d results in both, %d only in the first, %d only in the second; past %.2f: %d worse, %d better, %d noise" % (
        len(both), len(old) - len(both), len(new) - len(both), limit, words.count("WORSE"), words.count("better"), words.count("noise")))
    return words.count("WORSE")


def main():
    given = options()
    try:
        return 1 if compare(load([given.before]), load([given.after]), given.threshold) else 0
    except Unusable as error:
        print("compare: %s" % error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
