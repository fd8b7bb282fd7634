# SPDX-License-Identifier: MIT OR Apache-2.0
"""Ratios of two results, told so that more is worse whatever the unit."""

import math


def quotient(a, b):
    """a / b, where nothing to nothing is no change."""
    if a == b:
        return 1.0
    return a / b if b else math.inf


def worsening(new, old):
    """How many times worse a median is than another: above 1 is slower, or larger, or less a second."""
    if new.better == "higher":
        return quotient(old.median, new.median)
    return quotient(new.median, old.median)


def bounds(new, old):
    """Between what the worsening lies if both are anywhere in their spread."""
    if new.better == "higher":
        return quotient(old.low, new.high), quotient(old.high, new.low)
    return quotient(new.low, old.high), quotient(new.high, old.low)


def apart(a, b):
    """Whether the spreads do not meet."""
    return a.low > b.high or b.low > a.high
