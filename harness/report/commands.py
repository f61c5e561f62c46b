"""`closedbook report`: found by the command line in the entry point group `closedbook.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from closedbook.harness.cli import JsonFlag, people, print_json


def report_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of eval, sample, train or analyze, or a folder that holds some.", metavar="RUN..."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page; by default the name of the first folder.")] = "",
    texts: Annotated[
        bool,
        typer.Option("--texts/--no-texts", help="Show questions and answers; without, a page can be published."),
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Put what runs and analyses found on one page, with where every number comes from.

    The page is a single file that needs no network. Each part is there where its data is: accuracy with paired tests,
    pass@k, buckets, attribution, transfer, changed answers, judge, contamination, cost, provenance. Evaluations that no
    `analyze accuracy` has compared are compared here. The evaluation named base or before, else the first one, is
    the model before.

    Example: `closedbook report runs/study --out report.html`.
    """
    from closedbook.harness.files import write_text
    from closedbook.harness.report.page import render
    from closedbook.harness.report.reading import read_study
    from closedbook.harness.report.sections import sections
    from closedbook.harness.study.inputs import command_line

    study = read_study(runs)
    parts = sections(study, texts)
    words = ["report", *map(str, runs), *(["--title", title] if title else []), *([] if texts else ["--no-texts"])]
    page = render(study, parts, title or runs[0].resolve().name, command_line(words))
    write_text(out, page)
    if as_json:
        print_json(
            {
                "file": out,
                "bytes": len(page.encode()),
                "sections": [part.id for part in parts],
                "evaluations": [run.name for run in study.evaluations],
                "samples": [run.name for run in study.samples],
                "likelihoods": [run.name for run in study.likelihoods],
                "training": [run.name for run in study.training],
                "analyses": [f"{one.of}/{one.stored.analysis.name}".strip("/") for one in study.analyses],
                "unfinished": study.unfinished,
            }
        )
    people.print(f"written: {out}", highlight=False, markup=False, soft_wrap=True)
