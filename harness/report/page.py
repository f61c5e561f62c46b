"""The page: sections become one HTML file that asks nothing of a network.

What surprises: texts of models stand in it, so everything is escaped by the template, the page forbids itself to load
anything and to run any script but its own, which it names by its digest. Figures are the one thing that is put in as
markup; `figures` says what is left of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.provenance import code_revision
from closedbook.harness.report.blocks import ADJUSTED, Section, Shown, Table, clean
from closedbook.harness.report.reading import Study

LONG = 40  # rows of a table that is shown at once


class Tile(NamedTuple):
    """A figure at the top of the page, with what it is and the part of the page that says more."""

    what: str
    big: str
    more: str
    link: str


def render(study: Study, parts: Sequence[Section], title: str, command: str) -> str:
    """The page as text.

    Args:
        study: What was read.
        parts: Its sections.
        title: Of the page.
        command: The command line that makes it.

    Raises:
        RequestError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise RequestError("jinja2 is not installed; pip install 'closedbook[report]'") from error
    here = Path(__file__).parent
    style, script, page = (
        (here / name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "template.html")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(page).render(
        title=clean(title),
        summary=clean(summary(study)),
        warnings=[clean(text) for text in warnings(study)],
        glance=glance(parts),
        sections=parts,
        style=Markup(style),
        script=Markup(script),
        script_digest=f"sha256-{digest}",
        version=version("closedbook"),
        revision=(code_revision() or "")[:12],
        command=clean(command),
        long=LONG,
    )


def summary(study: Study) -> str:
    """What the page was made from, in a line."""
    counts = [
        (len(study.evaluations), "evaluation"),
        (len(study.samples), "folder of samples"),
        (len(study.likelihoods), "folder of probabilities"),
        (len(study.training), "training run"),
        (len(study.analyses), "analysis"),
    ]
    said = [f"{n} {name if n == 1 else _several(name)}" for n, name in counts if n]
    return f"What a model can recall without looking anything up: {', '.join(said)}."


def _several(name: str) -> str:
    """Two or more of something."""
    return name.replace("folder", "folders") if "folder" in name else name.replace("sis", "se") + "s"


def warnings(study: Study) -> list[str]:
    """What a reader should know before any number."""
    found = [f"{name} has not ended and is not on this page." for name in study.unfinished]
    for run in study.samples:
        wanted = run.head.n * len(run.head.ids)
        if run.drawn < wanted:
            found.append(f"The samples {run.name} hold {run.drawn:,} of {wanted:,} that were asked for.")
    if limited := sorted({run.described.limit for run in study.evaluations if run.described.limit}):
        asked = ", ".join(f"{limit:,}" for limit in limited)
        found.append(f"Not all test questions were asked: at most {asked} of each task, drawn at random.")
    return found


def glance(parts: Sequence[Section]) -> list[Tile]:
    """The largest change of each table of accuracy; none where there is no such table."""
    tiles = []
    for part in parts:
        for block in part.blocks:
            if part.id == "accuracy" and isinstance(block, Table):
                tiles += _largest(block)
    return tiles[:6]


def _largest(block: Table) -> list[Tile]:
    names = [column.name for column in block.columns]
    if not {"task", "run", "accuracy", "difference"} <= set(names):
        return []
    tiles = []
    at = {name: names.index(name) for name in names}
    for task in dict.fromkeys(row[at["task"]].text for row in block.rows):
        rows = [row for row in block.rows if row[at["task"]].text == task]
        changed = [row for row in rows if isinstance(row[at["difference"]].sort, float)]
        if changed:
            best = max(changed, key=lambda row: _number(row[at["difference"]]))
            change, before, after = best[at["difference"]], rows[0][at["accuracy"]], best[at["accuracy"]]
            more = f"{change.text} points {change.interval} beside {rows[0][at['run']].text}"
            more += f", {ADJUSTED} {best[at[ADJUSTED]].text}" if ADJUSTED in at else ""
            more += f"; the largest of {len(changed)} changes" if len(changed) > 1 else ""
            of = block.caption.partition(": ")[2]
            what = f"{task}: {best[at['run']].text}{f' ({of})' if of else ''}"
            tiles.append(Tile(what, f"{before.text} \N{RIGHTWARDS ARROW} {after.text} %", more, block.id))
    return tiles


def _number(shown: Shown) -> float:
    return shown.sort if isinstance(shown.sort, float) else float("-inf")
