"""What an analysis comes to, and how it is written: a table in four forms, a figure in two, and where it comes from.

out/passk.parquet   for programs: an estimate is four columns, NAME, NAME_low, NAME_high, NAME_n
out/passk.csv       the same for spreadsheets, where a text cannot become a formula
out/passk.md        for people: an estimate in per cent with its interval
out/passk.svg, .png the figure
out/passk.json      name, title and columns, the command, the folders it read with their digests, what decides it

The texts are a model's and may be anything. In Markdown they are escaped, so that they stay text where it is rendered.
"""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import renamed_when_whole, write_text
from closedbook.harness.markdown import line
from closedbook.harness.statistics import Estimate, number
from closedbook.harness.text import storable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = str | int | float | Estimate | None
ENDS = ("parquet", "csv", "md", "json", "svg", "png")
PARTS = ("low", "high", "n")
NUMBERS = re.compile(r"[+-]?[0-9.,]+(?:[eE][+-]?[0-9]+)?(?: [+-]?[0-9.,]+)*")  # which calculate nothing
FORMULAS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are wide forms of the first
LONGEST_NAME = 28  # letters of a name in a figure
NAMED = "\u2060"  # before a name that matplotlib would hide, until it is drawn
AGAIN = "run `closedbook analyze` again"
COLOURS = ("#2460ac", "#bd5208", "#2a7a3e", "#7848b3", "#b02c56", "#007584", "#7a6800", "#4b606c")
"""Of curves and bars: each has a contrast of 4.5 or more with white."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """A table with its figure.

    Attributes:
        name: Of its files.
        title: What it shows, in a line.
        columns: Names of the columns.
        rows: As many cells each.
        made_from: What decides the figures: runs with their digests, settings.
        plot: Draws the figure.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    made_from: Mapping[str, Any]
    plot: Callable[[Axes], object] | None = None


def plain_rows(analysis: Analysis) -> list[dict[str, str | int | float | None]]:
    """The rows as mappings in which an estimate is four numbers."""
    estimates = {
        column for row in analysis.rows for column, cell in zip(analysis.columns, row, strict=True)
        if isinstance(cell, Estimate)
    }  # fmt: skip
    return [
        {name: value for column, cell in zip(analysis.columns, row, strict=True)
         for name, value in _cells(column, cell, column in estimates)}
        for row in analysis.rows
    ]  # fmt: skip


def _cells(column: str, cell: Cell, estimated: bool) -> list[tuple[str, str | int | float | None]]:
    if not estimated:
        return [(column, storable(cell) if isinstance(cell, str) else cell)]  # type: ignore[list-item]  # no estimate
    known = cell if isinstance(cell, Estimate) else Estimate.unknown()
    return [
        (column, known.value),
        (f"{column}_low", known.low),
        (f"{column}_high", known.high),
        (f"{column}_n", known.n),
    ]


def markdown(analysis: Analysis) -> str:
    """The table for people, in per cent with 95 % intervals."""
    rows = [[*map(line, analysis.columns)], ["---"] * len(analysis.columns)]
    rows += [list(map(_shown, row, analysis.columns)) for row in analysis.rows]
    return f"{line(analysis.title)}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _shown(cell: Cell, column: str) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return line(cell)
    return str(cell) if isinstance(cell, Estimate) else number(cell, column)


def csv_text(analysis: Analysis) -> str:
    """The table as CSV, its estimates as four columns."""
    rows = plain_rows(analysis)
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(rows[0]) if rows else list(analysis.columns), lineterminator="\n")
    table.writeheader()
    table.writerows({name: no_formula(cell) for name, cell in row.items()} for row in rows)
    return file.getvalue()


def no_formula(cell: object) -> object:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it; anything else as it is.

    OWASP, "CSV injection". Numbers with a sign are none, also several: `+2 -1`.
    """
    formula = isinstance(cell, str) and cell.startswith(FORMULAS) and not NUMBERS.fullmatch(cell)
    return f"'{cell}" if formula else cell


class Input(NamedTuple):
    """A folder that an analysis read: its name as shown, and the digest of what is in it."""

    folder: str
    digest: str


def write(analysis: Analysis, out: Path, command: str | None = None, inputs: Sequence[Input] = ()) -> list[Path]:
    """Write all forms of an analysis; the files, in order.

    Args:
        analysis: Any.
        out: Their folder.
        command: The command line that made it.
        inputs: What it was made from.

    Raises:
        RequestError: There is a figure to draw and no matplotlib.
        WorkError: They cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = plain_rows(analysis)
    at = {end: out / f"{analysis.name}.{end}" for end in ENDS}
    with renamed_when_whole(at["parquet"]) as aside:
        empty = pa.schema([(name, pa.string()) for name in analysis.columns]).empty_table()
        pq.write_table(pa.Table.from_pylist(rows) if rows else empty, aside)
    write_text(at["csv"], csv_text(analysis))
    write_text(at["md"], markdown(analysis))
    write_text(at["json"], json.dumps(_stated(analysis, command, inputs), indent=2) + "\n")
    if analysis.plot is None:
        return [at[end] for end in ENDS if end not in ("svg", "png")]
    _draw(analysis.plot, analysis.title, at["svg"], at["png"])
    return list(at.values())


def _stated(analysis: Analysis, command: str | None, inputs: Sequence[Input]) -> dict[str, Any]:
    head = {"name": analysis.name, "title": analysis.title, "columns": list(analysis.columns), "command": command}
    return {**analysis.made_from, **head, "inputs": [read._asdict() for read in inputs]}


@dataclass(frozen=True, slots=True)
class Stored:
    """An analysis as its files have it.

    Attributes:
        analysis: Without its plot, which was drawn.
        command: The command line that made it; None where it was made by other code.
        inputs: The folders that it was made from.
        files: The files that are there, by their ending.
    """

    analysis: Analysis
    command: str | None = None
    inputs: Sequence[Input] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


def read(path: Path) -> Stored:
    """An analysis that `write` wrote.

    Args:
        path: Its JSON file; the others lie beside it.

    Raises:
        RequestError: It cannot be read, is of an earlier version, or its table is missing or damaged.
    """
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        head = stated["name"], stated["title"], tuple(stated["columns"])
        if not all(isinstance(text, str) for text in (*head[:2], *head[2])) or head[0] != path.stem:
            raise ValueError("its name, title or columns are not its own")
        command, inputs = stated["command"], [Input(str(one["folder"]), str(one["digest"])) for one in stated["inputs"]]
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; {AGAIN}") from error
    except (KeyError, TypeError) as error:
        raise RequestError(f"{path} is no analysis of this version (no {one_line(error)}); {AGAIN}") from error
    made = {
        name: value for name, value in stated.items() if name not in ("name", "title", "columns", "command", "inputs")
    }
    rows = _read_rows(path.with_suffix(".parquet"), head[2])
    files = {end: file for end in ENDS if (file := path.with_suffix(f".{end}")).is_file()}
    return Stored(Analysis(*head, rows, made), command and str(command), inputs, files)


def _read_rows(path: Path, columns: Sequence[str]) -> list[list[Cell]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        there = set(table.column_names)
        estimated = {name for name in columns if {f"{name}_{part}" for part in PARTS} <= there}
        return [
            [
                Estimate(row[name], *(row[f"{name}_{part}"] for part in PARTS)) if name in estimated else row[name]
                for name in columns
            ]
            for row in table.to_pylist()
        ]
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; {AGAIN}") from error


def _draw(plot: Callable[[Axes], object], title: str, *paths: Path) -> None:
    try:
        import matplotlib
        from cycler import cycler
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError("matplotlib is not installed; pip install 'closedbook[report]'") from error
    look: Any = {  # its type names all the hundreds of settings
        "svg.hashsalt": "closedbook",
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.prop_cycle": cycler(color=COLOURS),
        "text.parse_math": False,  # a name may hold dollar signs
    }
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name may be in any script; the page has other fonts
        figure = Figure(figsize=(5.6, 3.7), layout="constrained")
        axes = figure.subplots()
        plot(axes)
        _show_all_names(axes)
        figure.suptitle(textwrap.fill(_drawable(title), 60), fontsize=10, x=0.01, ha="left")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_xscale() == "log":  # 1, 2, 4 and not powers, which would be math
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        _shorten(axes)
        for path in paths:
            with renamed_when_whole(path) as aside:
                stamp = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(aside, format=path.suffix.removeprefix("."), dpi=160, metadata=stamp)


def _show_all_names(axes: Axes) -> None:
    """Make the legend again where a name begins with "_": matplotlib leaves it out, as its own `_child0`."""
    named: list[Any] = [*axes.get_children(), *axes.containers]
    hidden = [one for one in named if re.match(r"_(?!child\d|container\d|nolegend_)", str(one.get_label()))]
    for one in hidden:
        one.set_label(f"{NAMED}{one.get_label()}")
    if hidden and axes.get_legend():
        axes.legend(frameon=False)


def _drawable(text: str) -> str:
    """A text without what XML or a font engine cannot hold."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


def _shorten(axes: Axes) -> None:
    """Cut names that would leave no room for the figure, and turn those that would overlap."""
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    def cut(name: str) -> str:
        name = _drawable(name)
        return "\n".join(
            line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…" for line in name.split("\n")
        )

    def shortened(stated: Callable[..., str], value: float, at: int | None = None) -> str:
        return cut(stated(value, at))

    for axis in (axes.xaxis, axes.yaxis):
        stated = axis.get_major_formatter()
        if isinstance(stated, FixedFormatter | FuncFormatter | StrCategoryFormatter):
            axis.set_major_formatter(FuncFormatter(partial(shortened, stated)))
    labels = axes.get_xticklabels()
    longest = max((len(line) for label in labels for line in label.get_text().split("\n")), default=0)
    if longest * len(labels) > 2 * LONGEST_NAME:
        for label in labels:
            label.set(rotation=20, horizontalalignment="right", rotation_mode="anchor")
    legend = axes.get_legend()
    for text in legend.get_texts() if legend else ():
        text.set_text(cut(text.get_text().removeprefix(NAMED)))
    for words in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label):
        words.set_text(_drawable(words.get_text()))
