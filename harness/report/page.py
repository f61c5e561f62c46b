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

from closedbook.harness.errors import RequestError
from closedbook.harness.provenance import code_revision
from closedbook.harness.report.blocks import Section, Tile, clean
from closedbook.harness.report.reading import Findings

LONG = 40  # rows of a table that is shown at once
TILES = 6  # at the top, at most


def render(study: Findings, parts: Sequence[Section], title: str, command: str) -> str:
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
        tiles=TILES,
        sections=parts,
        style=Markup(style),
        script=Markup(script),
        script_digest=f"sha256-{digest}",
        version=version("closedbook"),
        revision=(code_revision() or "")[:12],
        command=clean(command),
        long=LONG,
    )


def summary(study: Findings) -> str:
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


def warnings(study: Findings) -> list[str]:
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
    """What stands at the top; none where no part has any."""
    return [tile for part in parts for tile in part.tiles]
