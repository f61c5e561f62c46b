"""Figures inside the page: an SVG file as markup that follows the page's colours and can do nothing but be seen.

A file may come from anywhere, and markup inside a page can run scripts and ask servers. So nothing is copied: the file
is parsed, and only known elements and attributes are written again. What surprises: colours of curves become the page's
variables, so that they are light on dark; a figure with an image in it, such as a heat map, keeps its own colours and
stands on a white card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import NamedTuple
from xml.etree import ElementTree

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.study.tables import COLOURS

ELEMENTS = frozenset(
    ("svg", "g", "defs", "clipPath", "path", "use", "text", "tspan", "rect", "circle", "ellipse", "line", "polyline",
     "polygon", "image", "title")
)  # fmt: skip
ATTRIBUTES = frozenset(
    ("id", "d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry", "width", "height", "points", "transform",
     "viewBox", "preserveAspectRatio", "clip-path", "clip-rule", "fill", "fill-opacity", "fill-rule", "stroke",
     "stroke-width", "stroke-linejoin", "stroke-linecap", "stroke-dasharray", "stroke-dashoffset", "stroke-opacity",
     "opacity", "style", "font-size", "font-family", "font-weight", "text-anchor", "dominant-baseline", "href")
)  # fmt: skip
PROPERTIES = ATTRIBUTES | {"font"}
FUNCTIONS = {"rgb", "rgba", "translate", "scale", "rotate", "matrix", "skewX", "skewY"}
OWN_CARD = ("image",)
MATPLOTLIB = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
FOLLOWS: Mapping[str, str] = {
    "#000000": "currentColor", "black": "currentColor", "#ffffff": "var(--paper)", "white": "var(--paper)",
    **{colour: f"var(--s{at})" for at, colour in enumerate(COLOURS, 1)},
    **{colour: f"var(--s{at})" for at, colour in enumerate(MATPLOTLIB, 1)},
}  # fmt: skip


class Inline(NamedTuple):
    """A figure as markup; `card` where it keeps its own colours."""

    markup: str
    card: bool


def inline(content: bytes, prefix: str, name: str) -> Inline:
    """An SVG file as markup for a page.

    Args:
        content: Of the file.
        prefix: Put before every id, so that figures of one page do not share any.
        name: Of the file, for messages.

    Raises:
        RequestError: It is no SVG file that can be read.
    """
    again = "run `closedbook analyze` again"
    try:
        root = ElementTree.fromstring(content)
        if _name(root.tag) != "svg" or not root.get("viewBox"):
            raise RequestError(f"{name} is no SVG figure; {again}")
        card = any(_name(element.tag) in OWN_CARD for element in root.iter())
        return Inline("".join(_written(root, prefix, card, top=True)), card)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise RequestError(f"cannot read {name}: {one_line(error)}; {again}") from error


def _name(tag: object) -> str:
    return str(tag).rpartition("}")[2]


def _written(element: ElementTree.Element, prefix: str, card: bool, *, top: bool = False) -> Iterator[str]:
    name = _name(element.tag)
    if name not in ELEMENTS or (name == "title" and top):
        return
    stated = {_name(key): value for key, value in element.attrib.items()}
    if top:  # as large as the page gives it
        stated = {"viewBox": stated["viewBox"]}
    kept = {key: _value(key, value, prefix, card, name) for key, value in stated.items() if key in ATTRIBUTES}
    shown = "".join(f' {key}="{escape(value)}"' for key, value in kept.items() if value)
    hidden = ' aria-hidden="true" focusable="false"' if top else ""  # a label beside it says what it shows
    yield f"<{name}{shown}{hidden}>"
    if name in ("text", "tspan", "title"):
        yield escape(element.text or "")
    for child in element:
        yield from _written(child, prefix, card)
        if name in ("text", "tspan"):
            yield escape(child.tail or "")
    yield f"</{name}>"


def _value(key: str, value: str, prefix: str, card: bool, element: str) -> str:
    """An attribute as it may stand in the page; empty where it may not."""
    if key == "id":
        return f"{prefix}{value}"
    if key == "href":
        if value.startswith("#"):
            return f"#{prefix}{value[1:]}"
        return value if element == "image" and re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=\s]+", value) else ""
    if key == "style":
        pairs = (part.partition(":") for part in value.split(";"))
        known = ((name.strip(), _paint(said.strip(), prefix, card)) for name, _, said in pairs)
        return "; ".join(f"{name}: {said}" for name, said in known if name in PROPERTIES and said)
    return _paint(value, prefix, card)


def _paint(value: str, prefix: str, card: bool) -> str:
    """A value with colours that follow the page, and references to this figure's own ids only."""
    if own := re.fullmatch(r"url\(#([\w.-]+)\)", value):
        return f"url(#{prefix}{own[1]})"
    if "\\" in value or {*re.findall(r"([\w-]*)\(", value)} - FUNCTIONS:
        return ""
    return value if card else FOLLOWS.get(value.lower(), value)
