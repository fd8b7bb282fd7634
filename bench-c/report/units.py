# SPDX-License-Identifier: MIT OR Apache-2.0
"""Figures as text: short ones for axes and prose, exact ones for tables."""

import math

SCALES = {
    "ns": ((1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1, " ns")),
    "B": ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " B")),
    "ops/s": ((1e9, " G/s"), (1e6, " M/s"), (1e3, " k/s"), (1, " /s")),
}
COUNTS = ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, ""))


def short(value, unit):
    """Three digits: 12,345 ns is 12.3 µs."""
    if value == 0:
        return "0"
    scales = SCALES.get(unit, COUNTS)
    scale, name = next((s for s in scales if abs(value) >= s[0]), scales[-1])
    return ("%.0f" if abs(value) >= 100 * scale else "%.3g") % (value / scale) + name


def exact(value):
    """All digits that mean something, thousands parted."""
    if value == int(value):
        return format(int(value), ",")
    if abs(value) < 1:
        return "%.3g" % value
    if abs(value) < 10:
        return "%.2f" % value
    return format(value, ",.1f" if abs(value) < 10000 else ",.0f")


def times(ratio):
    """A ratio."""
    if math.isinf(ratio):
        return "∞×"
    if ratio < 0.01:
        return "0×"
    if ratio < 0.1:
        return "%.2g×" % ratio
    return "%.2f×" % ratio if ratio < 10 else format(ratio, ",.0f") + "×"
