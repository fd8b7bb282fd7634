# SPDX-License-Identifier: MIT OR Apache-2.0
"""matplotlib's SVG made fit to stand in a page: colours by CSS variable, names of its own, nothing from elsewhere."""

import re
import xml.etree.ElementTree as ElementTree

from theme import COLOURS, css_variables, stand_in

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
FONT = "system-ui, 'DejaVu Sans', 'Segoe UI', sans-serif"
LINK = re.compile(r"url\(#([^)]+)\)")
ElementTree.register_namespace("", SVG)


def tag(name):
    return "{%s}%s" % (SVG, name)


def remove_all(root, names):
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in names:
                parent.remove(child)


def retarget(text, slug):
    return LINK.sub(r"url(#%s-\1)" % slug, text)


def rename(root, slug):
    """Prefixes what is referred to, and drops the other names: many plots stand in one page."""
    used = set()
    for element in root.iter():
        target = element.attrib.pop(XLINK, None)
        if target:
            element.set("href", "#%s-%s" % (slug, target.removeprefix("#")))
            used.add(target.removeprefix("#"))
        for name, value in element.attrib.items():
            used.update(LINK.findall(value))
            element.set(name, retarget(value, slug))
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", "%s-%s" % (slug, name))


def restyle(style):
    """A style with variables for colours, and the page's font."""
    style = re.sub(r"font: ([^;]*?)([\d.]+px) [^;]*", r"font-size: \2", style)
    style = re.sub(r"font-family: [^;]*;?", "", style)
    for name in COLOURS:
        style = style.replace(stand_in(name), "var(--%s)" % name)
    return style


def describe(root, slug, title, description):
    """What a reader who does not see it is told."""
    for name, text in (("desc", description), ("title", title)):
        element = ElementTree.Element(tag(name), {"id": "%s-%s" % (slug, name)})
        element.text = text
        root.insert(0, element)
    root.set("role", "img")
    root.set("aria-labelledby", "%s-title %s-desc" % (slug, slug))


def inline(text, slug, title, description):
    """A plot as an element of a page that has the colours' variables."""
    root = ElementTree.fromstring(text)
    remove_all(root, {tag("metadata"), tag("style")})
    rename(root, slug)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", restyle(element.get("style")))
    root.attrib.pop("version", None)
    for name in ("width", "height"):
        root.set(name, "%.0f" % (float(root.get(name).removesuffix("pt")) * 96 / 72))
    root.set("style", "stroke-linejoin: round")
    describe(root, slug, title, description)
    return ElementTree.tostring(root, encoding="unicode")


def standalone(element):
    """The same as a file of its own."""
    style = "<style>svg { %s background: var(--paper); font-family: %s }\n" % (css_variables(False), FONT)
    style += "@media (prefers-color-scheme: dark) { svg { %s } }</style>" % css_variables(True)
    head, rest = element.split(">", 1)
    return '<?xml version="1.0" encoding="utf-8"?>\n%s>%s%s\n' % (head, style, rest)
