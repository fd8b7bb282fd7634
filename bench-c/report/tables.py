# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tables: the exact figures of a plot, and where anon_vma stands in all cases."""

from html import escape

from explain import CLOSE, OURS, pairs
from ratios import worsening
from theme import KERNEL, looks
from units import exact, times


def cell(text, kind="td", attributes=""):
    return "<%s%s>%s</%s>" % (kind, " " + attributes if attributes else "", escape(text), kind)


def table(head, rows, caption, numbers=()):
    """A table in a box that scrolls by itself. Rows are made of cells; `numbers` names the columns that have them."""
    top = "".join(cell(name, "th", 'scope="col"' + ' class="num"' * (name in numbers)) for name in head)
    body = "".join("<tr>%s</tr>\n" % "".join(row) for row in rows)
    return ('<div class="box" tabindex="0" role="region" aria-label="%s">\n<table>\n<thead><tr>%s</tr></thead>\n<tbody>\n%s</tbody>\n'
            "</table>\n</div>\n" % (escape(caption), top, body))


def own_params(chart):
    """The parameters that differ within a chart."""
    names = dict.fromkeys(name for r in chart.results for name in r.params)
    return [name for name in names if name not in chart.common]


def varies(chart, name):
    return len({getattr(r, name) for r in chart.results}) > 1


def figures_text(result):
    return ", ".join("%s %s" % (name, exact(value)) for name, value in result.figures.items())


def ratio_to_ours(result, ours):
    reference = ours.get(result.group)
    return times(result.median / reference.median) if reference and reference.median else ""


class Columns:
    """What a chart's table tells of a result."""

    def __init__(self, chart):
        unit = chart.unit
        self.ours = {r.group: r for r in chart.measured if r.engine == OURS}
        self.labels = [(name, lambda r, name=name: str(r.params.get(name, ""))) for name in own_params(chart)]
        self.labels += [("role", lambda r: r.role)] if varies(chart, "role") else []
        self.labels += [("threads", lambda r: str(r.threads))] if varies(chart, "threads") else []
        self.labels += [("engine", lambda r: r.engine)]
        self.figures = [
            ("median, %s" % unit, lambda r: exact(r.median)), ("min", lambda r: exact(r.low)), ("max", lambda r: exact(r.high)),
            ("samples", lambda r: str(r.n)), ("dropped", lambda r: str(r.dropped)), ("operations", lambda r: exact(r.ops)),
            ("to " + OURS, lambda r: ratio_to_ours(r, self.ours)),
        ]
        if any(r.kernel for r in chart.measured):
            self.figures.append(("kernel's, %s" % unit, lambda r: exact(r.kernel) if r.kernel else ""))
        self.numbers = [name for name, _ in self.figures]
        if any(r.figures for r in chart.measured):
            self.figures.append(("counted", figures_text))

    def row(self, result):
        cells = [cell(text(result), "th", 'scope="row"') for _, text in self.labels]
        return cells + [cell(text(result), "td", 'class="num"' * (name in self.numbers)) for name, text in self.figures]


def chart_table(chart):
    """The exact figures of a plot."""
    columns = Columns(chart)
    head = [name for name, _ in columns.labels + columns.figures]
    return table(head, [columns.row(r) for r in chart.measured], "Figures of %s %s" % (chart.case, chart.detail), columns.numbers)


def unsupported_text(chart):
    """Who is not in a plot, and why."""
    reasons = {}
    for r in chart.results:
        if r.reason:
            reasons.setdefault(r.reason, {})[r.engine] = None
    return "; ".join("%s: %s" % (", ".join(engines), reason) for reason, engines in reasons.items())


def standing(both):
    """How many times anon_vma is ahead of another in the results of a case: from the least to the most."""
    factors = [worsening(theirs, ours) for ours, theirs in both]
    least, most = min(factors), max(factors)
    text = times(least) if times(least) == times(most) else "%s to %s" % (times(least).removesuffix("×"), times(most))
    if 1 / CLOSE < least and most < CLOSE:
        return cell("= " + text)
    if least >= 1:
        return cell("▲ " + text, "td", 'class="ahead"')
    if most <= 1:
        return cell("▼ " + text, "td", 'class="behind"')
    return cell("◆ " + text, "td")


def overview(by_case):
    """A row for each case, a column for everyone but anon_vma."""
    compared = {case: pairs(results) for case, results in by_case.items()}
    present = {other for others in compared.values() for other in others}
    order = [look.name for look in looks([r for results in by_case.values() for r in results])] + [KERNEL.name]
    order = [name for name in order if name in present]
    rows = [
        [cell(case, "th", 'scope="row"')] + [standing(others[name]) if name in others else cell("") for name in order]
        for case, others in compared.items() if others
    ]
    return table(["case"] + order, rows, "How many times anon_vma is ahead") if rows else ""
