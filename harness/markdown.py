r"""Texts of others in Markdown: whatever they hold, they are shown as they are.

>>> print(line("a *b* | <c>"))
a \*b\* \| &lt;c&gt;
"""

from __future__ import annotations

import re

from closedbook.harness.text import storable


def line(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    whole = " ".join(re.split(r"[\s\x1c-\x1f\x85\u2028\u2029]+", storable(text)))
    return re.sub(r"([\\`*_~\[\]|])", r"\\\1", whole.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def fenced(text: str, language: str = "") -> str:
    """A text as a block of code."""
    fence = ticks(text, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def ticks(text: str, least: int = 1) -> str:
    """The backticks around a text as code: more than it has anywhere, and no fewer than that."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
