# SPDX-License-Identifier: MIT OR Apache-2.0
"""Which results stand in one plot."""

import re
from dataclasses import dataclass, replace

from cases import CASES, SECTIONS, THREADS, case_named

# Figures of a case that are results of their own: case, figure, the new case's name, unit.
FIGURES = (
    ("fork_chain", "anchors", "fork_chain_anchors", "anchors"),
    ("fork_chain", "rmap_bytes", "fork_chain_bytes", "B"),
)


@dataclass(frozen=True)
class Chart:
    """A plot: results of one case and one unit. Where x is "", each row is one set of parameters."""

    slug: str
    case: str
    title: str
    detail: str  # the parameters that all of it has in common
    results: list
    x: str
    common: dict

    @property
    def unit(self):
        return self.results[0].unit

    @property
    def measured(self):
        return [r for r in self.results if not r.reason]

    def row_of(self, result):
        """What a result's row is called: what it does not have in common with all the others."""
        own = ["%s=%s" % item for item in result.params.items() if item[0] not in self.common]
        if len({r.role for r in self.results}) > 1:
            own.append(result.role)
        if len({r.threads for r in self.results}) > 1:
            own.append("%d thread%s" % (result.threads, "s"[:result.threads > 1]))
        return " ".join(own) or self.detail or result.case


def counted(results):
    """The figures of FIGURES, as results."""
    for case, figure, name, unit in FIGURES:
        for r in results:
            if r.case != case:
                continue
            value = r.figures.get(figure)
            if not value:
                yield replace(r, case=name, unit=unit, reason=r.reason or "has none")
                continue
            yield replace(r, case=name, unit=unit, median=value, low=value, high=value, n=1, dropped=0, ops=1, kernel=0.0,
                          better="lower", figures={})


def x_of(result, x):
    """Where a result stands along the axis; None: nowhere."""
    value = result.threads if x == THREADS else result.params.get(x)
    return value if isinstance(value, (int, float)) else None


def along_axis(results, x):
    """Whether an axis is worth it: all have a place on it, and there are two places at least."""
    places = {x_of(r, x) for r in results}
    return x != "" and None not in places and len(places) > 1


def panel_of(result, x):
    """Results that share this share a plot."""
    return tuple(item for item in result.params.items() if item[0] != x), result.role


def common_params(results):
    """The parameters that are the same in all."""
    return {k: v for k, v in results[0].params.items() if all(r.params.get(k) == v for r in results)}


def chart_of(case, results, x):
    common = common_params(results)
    detail = " ".join(["%s=%s" % item for item in common.items() if item[0] != x])
    roles = {r.role for r in results}
    if len(roles) == 1:
        detail = " ".join(filter(None, [detail, *roles]))
    slug = re.sub(r"[^a-z0-9]+", "-", ("%s %s" % (case, detail)).lower()).strip("-")
    return Chart(slug, case, case_named(case).title, detail, results, x, common)


def charts_of(case, results):
    """The plots of a case: one for each panel along an axis; what has no axis shares one with rows."""
    x = case_named(case).x
    if not x and len({r.threads for r in results}) > 1:
        x = THREADS
    panels, rest = {}, []
    for r in results:
        panels.setdefault(panel_of(r, x), []).append(r)
    charts = []
    for panel in panels.values():
        measured = [r for r in panel if not r.reason]
        if measured and along_axis(measured, x):
            charts.append(chart_of(case, panel, x))
        else:
            rest += panel
    for unit in dict.fromkeys(r.unit for r in rest):
        rows = [r for r in rest if r.unit == unit]
        if any(not r.reason for r in rows):
            charts.append(chart_of(case, rows, ""))
    return charts


def sections_of(results):
    """(section, charts) in the report's order, without the empty ones."""
    results = list(results) + list(counted(results))
    names = list(dict.fromkeys(r.case for r in results))
    order = [name for name in CASES if name in names] + [name for name in names if name not in CASES]
    for section in SECTIONS:
        charts = [
            chart for name in order if case_named(name).section == section
            for chart in charts_of(name, [r for r in results if r.case == name])
        ]
        if charts:
            yield section, charts
