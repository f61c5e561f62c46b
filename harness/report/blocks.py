"""What a page is put together from: sections of tables, figures and heat maps, each with where it comes from.

Every table on the page is an analysis, also those that are made for the page alone, so that all of them can be had as
CSV and Markdown in the same way. What surprises: an estimate is shown in per cent, as everywhere in this package; other
numbers are shown as they are.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from closedbook.harness.report.figures import Inline
from closedbook.harness.statistics import Estimate, number
from closedbook.harness.study.tables import Analysis, Cell, csv_text, markdown
from closedbook.harness.text import storable

UNKNOWN, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
CODE = ("command", "checkpoint", "digest", "manifest")  # columns that hold words for machines
ADJUSTED = "p (Holm)"  # the column of p values that are adjusted for all tests of a table
LONGEST = 400  # characters of a text that a cell shows; the CSV has all


MEANINGS = {
    "answers together": "the same difference; its interval draws questions that share a gold answer as one",
    "detectable": "the least difference that one such test, not adjusted, finds in four of five cases",
    "p (Holm)": "exact sign-flip test of the difference (McNemar's, with questions that share a gold answer as one), "
    "adjusted for all tests of this table",
    "gained": "questions that are right only after",
    "lost": "questions that are right only before",
    "changed": "questions that only this method has right, and that only the greedy answer has right",
    "if failures hide": "the least and the most that it could be, whatever answers without a grade are",
    "greedy": "accuracy of the one answer that the model says first",
    "k of the first run": "the smallest k at which pass@k of the first run is as high as this greedy accuracy",
    "bucket": "how many of the samples before training are right",
    "share of the gain": "this bucket's part of the whole gain, which is gained less lost",
    "share of the whole gain": "this gain as a part of that of training on all questions",
    "mean sample": "share of all samples that are right",
    "votes": "samples that vote; equal answers count together",
    "at least": "the probability of right answers as far as they were listed: there may be more",
    "not known": "the probability of answers that were not listed, or not graded",
    "gold log-prob": "natural logarithm of the probability of the likeliest gold answer in its very words; median",
    "first before": "share of questions whose likeliest answer was right before",
    "first after": "the same after",
    "became first": "questions whose likeliest answer is right only after",
    "of these listed before": "how many of those had a right answer in the list before, if further down",
    "left out": "test questions whose facts the other benchmark's training questions state",
    "prompt tokens": "a question, on average; the prompt counts once, however many samples are drawn",
    "generated tokens": "a question, on average, over all samples that the method needs",
    "fpr": "share of the wrong answers that the judge calls right",
    "fnr": "share of the right answers that the judge calls wrong",
    "kappa": "agreement with people beyond what chance would give (Cohen)",
}
"""What a column says, by a part of its name, where the name alone does not tell."""


class Download(NamedTuple):
    """A file inside the page: its name, what the link says, and its data."""

    name: str
    label: str
    data: str


class Place(NamedTuple):
    """Where an estimate lies on its column's scale, in per cent of the width; `zero` where zero lies inside."""

    low: float
    value: float
    high: float
    zero: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """A cell.

    Attributes:
        text: What it says.
        sort: What it is sorted by; None sorts last.
        interval: Of an estimate, in brackets.
        place: Of an estimate.
        link: The part of the page that it links to; empty for none.
        tone: "up" or "down" for a difference that neither its interval nor its adjusted test leaves to chance.
    """

    text: str
    sort: float | str | None
    interval: str = ""
    place: Place | None = None
    link: str = ""
    tone: str = ""


class Column(NamedTuple):
    """A column's name, and how its cells look: "number", "code", "long" for long texts, or plain."""

    name: str
    look: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where numbers come from: the command, the folders with their digests, and what else decides them."""

    command: str | None = None
    inputs: Sequence[tuple[str, str, str]] = ()  # folder, digest, part of the page
    decides: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table on the page.

    Attributes:
        id: Of its part of the page.
        caption: What it shows.
        columns: In order.
        rows: A cell for each column.
        downloads: The table as files.
        source: Where it comes from.
        search: Whether it has a search box.
        choice: Values of a column of which one can be chosen.
        anchors: An id for each row, or none.
        head: Whether it is the headline.
        meanings: Columns that need a word, with it.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Shown]]
    downloads: Sequence[Download]
    source: Source | None = None
    search: bool = False
    choice: Sequence[str] = ()
    anchors: Sequence[str] = ()
    head: bool = False
    meanings: Sequence[tuple[str, str]] = ()
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure on the page."""

    id: str
    caption: str
    drawn: Inline
    downloads: Sequence[Download]
    kind: str = "figure"


class Heat(NamedTuple):
    """A cell of a heat map: its text, its interval, and a strength from -1 to 1."""

    text: str
    interval: str
    strength: float


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A heat map on the page, as a table whose cells are coloured; None where nothing is known."""

    id: str
    caption: str
    down: str
    across: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Heat | None]]]
    downloads: Sequence[Download] = ()
    kind: str = "heat"


class Tile(NamedTuple):
    """A figure at the top of the page, with what it is and the part of the page that says more."""

    what: str
    big: str
    more: str
    link: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: what it shows in a sentence or two, facts in sentences, its blocks, and tiles of the top."""

    id: str
    title: str
    lead: str
    blocks: Sequence[Table | Figure | HeatMap] = ()
    facts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tiles: Sequence[Tile] = ()


def data_uri(kind: str, content: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def clean(text: str) -> str:
    """A text that any page and file can hold: no lone surrogates, no control characters but line ends and tabs."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", storable(text))


def said(value: object) -> str:
    """A setting in words, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]} …"


def cleaned(analysis: Analysis) -> Analysis:
    """The same with texts that any page and file can hold."""
    rows = [[clean(cell) if isinstance(cell, str) else cell for cell in row] for row in analysis.rows]
    columns = tuple(map(clean, analysis.columns))
    return Analysis(clean(analysis.name), clean(analysis.title), columns, rows, analysis.made_from)


def without_texts(analysis: Analysis, columns: Sequence[str]) -> Analysis:
    """The same without those of some columns that hold texts."""
    texts = {at for row in analysis.rows for at, cell in enumerate(row) if isinstance(cell, str)}
    kept = [at for at, name in enumerate(analysis.columns) if name not in columns or at not in texts]
    rows = [[row[at] for at in kept] for row in analysis.rows]
    names = tuple(analysis.columns[at] for at in kept)
    return Analysis(analysis.name, analysis.title, names, rows, analysis.made_from)


def file_name(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "table"


def table(
    analysis: Analysis,
    id: str,
    *,
    source: Source | None = None,
    runs: Mapping[str, str] | None = None,
    search: bool = False,
    choice: str = "",
    anchors: Sequence[str] = (),
    links: Sequence[str] = (),
    head: bool = False,
) -> Table:
    """An analysis as a table on the page.

    Args:
        analysis: What it holds.
        id: Of its part of the page.
        source: Where it comes from.
        runs: The part of the page that tells of a run, by name: names link to it.
        search: Whether it gets a search box.
        choice: A column whose values can be chosen.
        anchors: An id for each row.
        links: The part of the page that each row's run links to, where `runs` does not say.
        head: Whether it is the headline: numbers link to their run too, and intervals are drawn.
    """
    analysis = cleaned(analysis)
    columns = [_column(analysis, at) for at in range(len(analysis.columns))]
    scales = [_scale([row[at] for row in analysis.rows]) if head else None for at in range(len(columns))]
    rows = []
    for at, row in enumerate(analysis.rows):
        named = row[analysis.columns.index("run")] if "run" in analysis.columns else None
        link = links[at] if links else (runs or {}).get(str(named), "")
        shown = [
            _shown(cell, column, scale, link if head or column.name == "run" else "")
            for cell, column, scale in zip(row, columns, scales, strict=True)
        ]
        rows.append([replace(cell, tone="") for cell in shown] if _by_chance(analysis.columns, row) else shown)
    chosen = analysis.columns.index(choice) if choice in analysis.columns else None
    name = file_name(analysis.name)
    downloads = [
        Download(f"{name}.csv", "CSV", data_uri("text/csv;charset=utf-8", csv_text(analysis).encode())),
        Download(f"{name}.md", "Markdown", data_uri("text/markdown;charset=utf-8", markdown(analysis).encode())),
    ]
    choices = list(dict.fromkeys(str(row[chosen]) for row in analysis.rows)) if chosen is not None else []
    told = [(name, meaning) for name in analysis.columns if (meaning := _meaning(name))]
    return Table(id, analysis.title, columns, rows, downloads, source, search, choices, anchors, head, told)


def _meaning(column: str) -> str:
    """What a column says, by the longest known part of its name; empty where the name alone tells."""
    known = [part for part in MEANINGS if part in column]
    return MEANINGS[max(known, key=len)] if known else ""


def _by_chance(columns: Sequence[str], row: Sequence[Cell]) -> bool:
    """Whether a row's own test, adjusted for all of its table, leaves its difference to chance."""
    p = row[columns.index(ADJUSTED)] if ADJUSTED in columns else None
    return isinstance(p, int | float) and not p < 0.05


def _column(analysis: Analysis, at: int) -> Column:
    name, cells = analysis.columns[at], [row[at] for row in analysis.rows if row[at] is not None]
    if cells and all(isinstance(cell, int | float | Estimate) for cell in cells):
        return Column(name, "number")
    if name in CODE:
        return Column(name, "code")
    return Column(name, "long" if any(isinstance(cell, str) and len(cell) > 28 for cell in cells) else "")


def _scale(cells: Sequence[Cell]) -> tuple[float, float] | None:
    """From where to where the intervals of a column reach, zero included; None without intervals."""
    ends = [x for cell in cells if isinstance(cell, Estimate) for x in (cell.low, cell.high) if x is not None]
    return (min(0.0, *ends), max(0.0, *ends)) if ends and min(*ends, 0.0) < max(*ends, 0.0) else None


def _shown(cell: Cell, column: Column, scale: tuple[float, float] | None, link: str) -> Shown:
    if isinstance(cell, Estimate):
        return _estimate(cell, column.name, scale, link)
    if cell is None:
        return Shown(UNKNOWN, None)
    if isinstance(cell, str):
        cut = cell if len(cell) <= LONGEST else f"{cell[:LONGEST]} … ({len(cell):,} characters)"
        return Shown(cut, cell, link=link if column.name == "run" else "")
    return Shown(number(cell, column.name), float(cell), link=link)


def _estimate(cell: Estimate, name: str, scale: tuple[float, float] | None, link: str) -> Shown:
    if cell.value is None:
        return Shown(UNKNOWN, None)
    value, _, interval = str(cell).partition(" ")
    interval = interval if cell.low is not None else ""
    place = None
    if scale and cell.low is not None and cell.high is not None:
        low, high = scale
        first, middle, last, zero = (
            round(100 * (min(max(x, low), high) - low) / (high - low), 2) for x in (cell.low, cell.value, cell.high, 0)
        )
        place = Place(first, middle, last, zero if low < 0 else None)
    changed = name.startswith(("difference", "gain")) and cell.low is not None and cell.high is not None
    tone = ("up" if (cell.low or 0) > 0 else "down" if (cell.high or 0) < 0 else "") if changed else ""
    shown = f"+{value}" if name.startswith(("difference", "gain")) and cell.value > 0 else value
    return Shown(shown.replace("-", MINUS), cell.value, interval.replace("-", MINUS), place, link, tone)


def heat_map(
    analysis: Analysis, id: str, down: str, across: str, value: str, downloads: Sequence[Download] = ()
) -> HeatMap | None:
    """A heat map of estimates by two columns; None where the analysis has no such columns, or no rows."""
    if not {down, across, value} <= set(analysis.columns) or not analysis.rows:
        return None
    places: list[Any] = [analysis.columns.index(name) for name in (down, across, value)]
    cells = {(str(row[places[0]]), str(row[places[1]])): row[places[2]] for row in analysis.rows}
    known = [abs(cell.value) for cell in cells.values() if isinstance(cell, Estimate) and cell.value is not None]
    most = max(known, default=0.0) or 1.0
    rows, columns = list(dict.fromkeys(key[0] for key in cells)), list(dict.fromkeys(key[1] for key in cells))
    lines = [(name, [_heat(cells.get((name, other)), most) for other in columns]) for name in rows]
    return HeatMap(id, analysis.title, down, across, columns, lines, downloads)


def _heat(cell: Cell, most: float) -> Heat | None:
    if not isinstance(cell, Estimate) or cell.value is None:
        return None
    value, _, interval = str(cell).replace("-", MINUS).partition(" ")
    return Heat(f"+{value}" if cell.value > 0 else value, interval, round(cell.value / most, 3))
