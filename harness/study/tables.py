"""What an analysis comes to, and how it is written: a table in four forms, a figure in two, and where it comes from.

out/passk.parquet   for programs: an estimate is four columns, NAME, NAME_low, NAME_high, NAME_n
out/passk.csv       the same
out/passk.md        for people: an estimate in per cent with its interval
out/passk.svg, .png the figure
out/passk.json      the runs that it was made from, their digests, and the command
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from closedbook.harness.errors import RequestError
from closedbook.harness.files import renamed_when_whole, write_text, written_aside
from closedbook.harness.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = str | int | float | Estimate | None


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
        return [(column, cell)]  # type: ignore[list-item]  # no estimate stands in such a column
    known = cell if isinstance(cell, Estimate) else Estimate(None, None, None, 0)
    return [
        (column, known.value),
        (f"{column}_low", known.low),
        (f"{column}_high", known.high),
        (f"{column}_n", known.n),
    ]


def markdown(analysis: Analysis) -> str:
    """The table for people, in per cent with 95 % intervals."""
    rows = [analysis.columns, ["---"] * len(analysis.columns)]
    rows += [["-" if cell is None else str(cell) for cell in row] for row in analysis.rows]
    return f"{analysis.title}\n\n" + "\n".join(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows) + "\n"


def _text(cell: object) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def write(analysis: Analysis, out: Path) -> list[Path]:
    """Write all forms of an analysis; the files, in order.

    Raises:
        RequestError: There is a figure to draw and no matplotlib.
        WorkError: They cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = plain_rows(analysis)
    at = {end: out / f"{analysis.name}.{end}" for end in ("parquet", "csv", "md", "json", "svg", "png")}
    with renamed_when_whole(at["parquet"]) as aside:
        pq.write_table(pa.Table.from_pylist(rows), aside)
    with written_aside(at["csv"]) as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else list(analysis.columns), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    write_text(at["md"], markdown(analysis))
    write_text(at["json"], json.dumps({"title": analysis.title, **analysis.made_from}, indent=2) + "\n")
    if analysis.plot is None:
        return [at[end] for end in ("parquet", "csv", "md", "json")]
    _draw(analysis.plot, analysis.title, at["svg"], at["png"])
    return list(at.values())


def _draw(plot: Callable[[Axes], object], title: str, *paths: Path) -> None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError("matplotlib is not installed; pip install 'closedbook[report]'") from error
    with matplotlib.rc_context({"svg.hashsalt": "closedbook", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axes = figure.subplots()
        plot(axes)
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        for path in paths:
            with renamed_when_whole(path) as aside:
                stamp = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(aside, format=path.suffix.removeprefix("."), dpi=160, metadata=stamp)
