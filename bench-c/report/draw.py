# SPDX-License-Identifier: MIT OR Apache-2.0
"""One plot, drawn by matplotlib. Its colours are the stand-ins of theme.py."""

import io
import math

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from cases import THREADS, case_named
from charts import x_of
from theme import KERNEL, looks, stand_in
from units import short

WIDTH = 4.4  # inches, like all lengths here; text is as large as in print when the plot is
LEFT, RIGHT, TOP, BOTTOM = 0.82, 0.16, 0.1, 0.58
PLOT_HEIGHT = 2.7
LEGEND_COLUMNS, LEGEND_ROW = 3, 0.2
ROW_TITLE, ROW_DOT = 0.24, 0.15
WHOLE_DECADES = 100  # from here on, axes are marked at 1, 10, 100, ... only
LINEAR_BELOW = 20  # rates that differ less share a linear axis from 0
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "librmap", "font.family": "DejaVu Sans", "font.size": 9.5,
    "text.color": stand_in("ink"), "axes.labelcolor": stand_in("ink"), "axes.edgecolor": stand_in("muted"),
    "xtick.color": stand_in("muted"), "ytick.color": stand_in("muted"),
    "xtick.labelcolor": stand_in("ink"), "ytick.labelcolor": stand_in("ink"),
    "grid.color": stand_in("grid"), "grid.linewidth": 0.8, "axes.linewidth": 0.8, "axes.axisbelow": True,
    "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False,
}


def kernel_results(chart):
    """One result for each place that the kernel's figure is known for."""
    return list({r.group: r for r in chart.measured if r.kernel > 0}.values())


def line_style(look):
    return {
        "color": stand_in(look.colour), "marker": look.marker, "linestyle": look.line, "linewidth": 1.6,
        "markersize": {"|": 9, "*": 9}.get(look.marker, 5.5), "markeredgewidth": 1.6 if look.marker == "|" else 0.8,
    }


def canvas(chart, height):
    """A figure with room for a plot of this height, and its axes."""
    entries = len(looks(chart.measured)) + bool(kernel_results(chart))
    legend = LEGEND_ROW * -(-entries // LEGEND_COLUMNS) + 0.08
    total = TOP + legend + height + BOTTOM
    figure = Figure(figsize=(WIDTH, total))
    left = LEFT if chart.x else RIGHT
    axes = figure.add_axes([left / WIDTH, BOTTOM / total, 1 - (left + RIGHT) / WIDTH, height / total])
    return figure, axes


def add_legend(figure, chart):
    shown = looks(chart.measured) + ([KERNEL] if kernel_results(chart) else [])
    handles = [Line2D([], [], **line_style(look)) for look in shown]
    for handle, look in zip(handles, shown):
        if not chart.x or look is KERNEL:
            handle.set_linestyle("none")
    names = [{"flat": "flat (floor)", "kernel": "kernel's code"}.get(look.name, look.name) for look in shown]
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0, 1), ncol=LEGEND_COLUMNS, handlelength=2.2,
                  columnspacing=1.4, labelspacing=0.25, borderaxespad=0.3)


def mark_axis(axis, unit):
    """Marks with their unit, and none between them."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value, unit)))
    axis.set_minor_locator(NullLocator())


def log_axis(axis, low, high, unit):
    """Powers of ten; between them, too, where there are few."""
    axes, name = axis.axes, axis.axis_name
    low, high = low / 1.4, high * 1.4
    getattr(axes, "set_%slim" % name)(low, max(high, 6 * low))
    subs = (1.0,) if high > WHOLE_DECADES * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    mark_axis(axis, unit)


def linear_axis(axis, high, unit):
    getattr(axis.axes, "set_%slim" % axis.axis_name)(0, high * 1.08 or 1)
    axis.set_major_locator(MaxNLocator(5))
    mark_axis(axis, unit)


def symlog_axis(axis, least, high, unit):
    """For figures of which some are 0: linear up to the least above it, logarithmic from there."""
    name = axis.axis_name
    getattr(axis.axes, "set_%sscale" % name)("symlog", linthresh=least)
    getattr(axis.axes, "set_%slim" % name)(-0.25 * least, high * 2)
    first, last = math.ceil(math.log10(least)), math.floor(math.log10(high * 2))
    axis.set_ticks([0.0] + [10.0 ** power for power in range(first, last + 1, 1 + (last - first) // 8)])
    mark_axis(axis, unit)


def scale_values(axis, chart):
    """The axis of the figures, wide enough for every spread."""
    shown = [v for r in chart.measured for v in (r.low, r.high)] + [r.kernel for r in kernel_results(chart)]
    low, high = min(shown), max(shown)
    above = [v for v in shown if v > 0]
    if low <= 0 and above:
        symlog_axis(axis, min(above), high, chart.unit)
    elif low <= 0 or (chart.x == THREADS and high < LINEAR_BELOW * low):
        linear_axis(axis, high, chart.unit)
    else:
        getattr(axis.axes, "set_%sscale" % axis.axis_name)("log")
        log_axis(axis, low, high, chart.unit)


def scale_places(axes, chart):
    """The axis along which results stand."""
    places = sorted({x_of(r, chart.x) for r in chart.measured})
    if chart.x == THREADS or places[0] <= 0:
        axes.set_xlim(places[0] - 0.4, places[-1] + 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        return
    axes.set_xscale("log")
    axes.set_xlim(places[0] / 1.5, places[-1] * 1.5)
    axes.set_xticks(places)
    mark_axis(axes.xaxis, "")


def beside(axes, place, index, count):
    """A place moved a little, so that the spreads of engines do not cover each other."""
    step = 0.012 * (index - (count - 1) / 2)
    low, high = axes.get_xlim()
    if axes.get_xscale() == "log":
        return place * (high / low) ** step
    return place + step * (high - low)


def spread(results):
    """How far the least and the greatest sample are from each median."""
    return [[r.median - r.low for r in results], [r.high - r.median for r in results]]


def draw_lines(chart):
    """Figures along an axis, a line for each engine."""
    figure, axes = canvas(chart, PLOT_HEIGHT)
    scale_values(axes.yaxis, chart)
    scale_places(axes, chart)
    shown = looks(chart.measured)
    for i, look in enumerate(shown):
        own = sorted((r for r in chart.measured if r.engine == look.name), key=lambda r: x_of(r, chart.x))
        places = [beside(axes, x_of(r, chart.x), i, len(shown)) for r in own]
        axes.errorbar(places, [r.median for r in own], yerr=spread(own), capsize=2.5, elinewidth=1.1, **line_style(look))
    known = sorted(kernel_results(chart), key=lambda r: x_of(r, chart.x))
    if known:
        axes.plot([x_of(r, chart.x) for r in known], [r.kernel for r in known], **{**line_style(KERNEL), "linewidth": 1.0})
    axes.grid(axis="y")
    axes.set_xlabel(case_named(chart.case).x_label or chart.x)
    axes.set_ylabel(case_named(chart.case).value)
    return figure


def rows_of(chart):
    """The results on each row, by its title."""
    rows = {}
    for r in chart.measured:
        rows.setdefault(chart.row_of(r), []).append(r)
    return rows


def draw_row(axes, title, results, top, order):
    """A row's title and its dots below it, from `top` on; returns where the next row begins."""
    axes.text(0.01, top + 0.14, title, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=stand_in("muted"))
    for r in results:
        if r.kernel > 0 and r.engine == results[0].engine:
            at = top + ROW_TITLE + ROW_DOT / 2
            axes.plot([r.kernel], [at], **{**line_style(KERNEL), "linestyle": "none"})
    for i, look in enumerate(order):
        for r in (r for r in results if r.engine == look.name):
            at = top + ROW_TITLE + ROW_DOT * (i + 0.5)
            style = {**line_style(look), "linestyle": "none"}
            axes.errorbar([r.median], [at], xerr=spread([r]), capsize=2.5, elinewidth=1.1, **style)
    return top + ROW_TITLE + ROW_DOT * len(order)


def draw_rows(chart):
    """A row for each set of parameters, a dot for each engine."""
    order, rows = looks(chart.measured), rows_of(chart)
    height = len(rows) * (ROW_TITLE + ROW_DOT * len(order)) + 0.08
    figure, axes = canvas(chart, height)
    scale_values(axes.xaxis, chart)
    axes.set_ylim(height, 0)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    top = 0.0
    for title, results in rows.items():
        axes.axhline(top, color=stand_in("grid"), linewidth=0.8)
        top = draw_row(axes, title, results, top, order)
    axes.grid(axis="x")
    axes.set_xlabel(case_named(chart.case).value)
    return figure


def draw(chart):
    """The plot as matplotlib's SVG."""
    with rc_context(SETTINGS):
        figure = draw_lines(chart) if chart.x else draw_rows(chart)
        add_legend(figure, chart)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
