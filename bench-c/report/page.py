# SPDX-License-Identifier: MIT OR Apache-2.0
"""The page: one file that needs no other."""

import pathlib
from html import escape

import svg
from cases import SECTIONS, case_named
from draw import draw
from explain import OF_ENGINE, behind
from tables import chart_table, overview, unsupported_text
from theme import css_variables, looks
from units import times

STYLE = pathlib.Path(__file__).with_name("style.css")
MACHINE = (("cpu", "processor"), ("cores", "processors"), ("kernel", "system"), ("governor", "governor"), ("compiler", "C compiler"),
           ("load", "load at first"), ("date", "date"))
OPTIONS = (("seconds", "seconds a result"), ("rounds", "samples a result"), ("threads", "threads at most"))
HOW = ("Dots are medians; whiskers go from the least to the greatest sample that was kept. A sample during which the machine was slow is "
       "dropped, and counted. Engines take turns within a run, so ratios hold where times do not. The same colour and marker is the same "
       "engine in every plot.")


def style():
    """The style sheet, with the colours of theme.py."""
    return ":root { %s }\n@media screen and (prefers-color-scheme: dark) { :root { %s } }\n%s" % (
        css_variables(False), css_variables(True), STYLE.read_text(encoding="utf-8"))


def definitions(pairs):
    """A list of terms and what is said of each."""
    items = "".join("<div><dt>%s</dt><dd>%s</dd></div>\n" % (escape(name), escape(text)) for name, text in pairs)
    return "<dl>\n%s</dl>\n" % items


def described(value):
    return "%.3g" % value if isinstance(value, float) else str(value)


def machine(data):
    """What measured, and how long."""
    known = [(label, described(data.machine[name])) for name, label in MACHINE if name in data.machine]
    known += [(label, described(data.options[name])) for name, label in OPTIONS if name in data.options]
    known += [("librmap", data.version)] if data.version else []
    if not data.machine:
        known.append(("machine", "not described: rmap-bench's files do not name it"))
    return "<h2>The machine</h2>\n" + definitions(known)


def warnings(data):
    """What must be known before a figure is believed."""
    texts = list(data.wrong)
    if data.options.get("quick"):
        texts.insert(0, "A quick run: small sizes and short samples. Its figures show that all works, and no more.")
    return "".join('<p class="warning">%s</p>\n' % escape(text) for text in texts)


def engines(data):
    return "<h2>Engines and models</h2>\n" + definitions((look.name, look.about or "not described") for look in looks(data.measured))


def standing(by_case):
    shown = overview(by_case)
    if not shown:
        return ""
    ahead = {entry.other for results in by_case.values() for entry in behind(results)}
    reasons = [(other, text) for other, text in OF_ENGINE.items() if other in ahead]
    return ("<h2>Where anon_vma stands</h2>\n<p>How many times anon_vma is ahead, over the results of a case: ▲ ahead in all, ▼ behind in all, "
            "◆ some of both, = neither. Below 1 it is behind. Why, is said with each case; what holds in all of "
            "them is this.</p>\n" + definitions(reasons) + shown)


def counts(entry):
    """How often and how far."""
    text = "ahead of anon_vma in %d of %d results, at most %s" % (entry.behind, entry.of, times(entry.worst))
    where = " ".join(filter(None, (entry.where.key, entry.where.role)))
    text += " (%s)" % where if where else ""
    if entry.clear == entry.behind:
        return text
    return text + ("; beyond the spread in %d" % entry.clear if entry.clear else "; always within the spread")


def explanations(results):
    """Why anon_vma is behind where it is."""
    entries = list(behind(results))
    if not entries:
        return ""
    items = "".join("<li><strong>%s</strong> is %s. %s</li>\n" % (escape(e.other), escape(counts(e)), escape(e.text)) for e in entries)
    return '<div class="why">\n<h4>Where anon_vma is not ahead</h4>\n<ul>\n%s</ul>\n</div>\n' % items


def figure(chart, drawing):
    """A plot with its table."""
    missing = unsupported_text(chart)
    note = '<p class="missing">Not here: %s.</p>\n' % escape(missing) if missing else ""
    caption = "<figcaption>%s</figcaption>\n" % escape(chart.detail) if chart.detail else ""
    return '<figure id="%s">\n%s%s\n%s%s</figure>\n' % (chart.slug, caption, drawing, chart_table(chart), note)


def section(name, charts, drawings):
    """The cases of one section, each with its plots and its explanations."""
    title, text = SECTIONS[name]
    parts = ['<section id="%s">\n<h2>%s</h2>\n<p>%s</p>\n' % (name, escape(title), escape(text))]
    for case in dict.fromkeys(chart.case for chart in charts):
        own = [chart for chart in charts if chart.case == case]
        parts.append('<article id="case-%s">\n<h3>%s <code>%s</code></h3>\n<div class="plots">\n' % (
            escape(case), escape(case_named(case).title), escape(case)))
        parts += [figure(chart, drawings[chart.slug]) for chart in own]
        parts.append("%s</div>\n</article>\n" % explanations([r for chart in own for r in chart.measured]))
    return "".join(parts) + "</section>\n"


def navigation(sections):
    links = "".join('<li><a href="#%s">%s</a></li>\n' % (name, escape(SECTIONS[name][0])) for name, _ in sections)
    return "<nav><ul>\n%s</ul></nav>\n" % links


def draw_all(sections):
    """Each plot as an element, by the name of its chart."""
    return {
        chart.slug: svg.inline(draw(chart), chart.slug, chart.title, "%s; the figures are in the table below it" % (chart.detail or chart.case))
        for _, charts in sections for chart in charts
    }


def page(data, sections, drawings):
    """The whole page."""
    by_case = {}
    for _, charts in sections:
        for chart in charts:
            by_case.setdefault(chart.case, []).extend(chart.measured)
    body = "".join([
        "<header>\n<h1>librmap: reverse-mapping designs, measured</h1>\n<p>%s</p>\n</header>\n" % escape(HOW), warnings(data),
        navigation(sections), '<div class="columns">\n<div>\n', machine(data), "</div>\n<div>\n", engines(data), "</div>\n</div>\n",
        standing(by_case), "".join(section(name, charts, drawings) for name, charts in sections)])
    return ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
            "<title>librmap: measured</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n%s</main>\n</body>\n</html>\n" % (style(), body))
