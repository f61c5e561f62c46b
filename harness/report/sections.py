"""The parts of the page, out of what was read: each only where there is something to show.

What surprises: where no analysis compared the evaluations, the page does it itself, in the same way as `closedbook
analyze accuracy`; evaluations of other questions then stand in a table of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from closedbook.harness.compare import Run, how_graded, read_run
from closedbook.harness.fields import flat
from closedbook.harness.report.blocks import (
    ADJUSTED,
    MINUS,
    Download,
    Figure,
    HeatMap,
    Section,
    Source,
    Table,
    Tile,
    clean,
    cleaned,
    data_uri,
    file_name,
    heat_map,
    said,
    table,
    without_texts,
)
from closedbook.harness.report.figures import inline
from closedbook.harness.report.reading import Analysed, EvaluationFolder, Findings, read_analysis
from closedbook.harness.report.runs import contamination, cost, judging, provenance
from closedbook.harness.statistics import Estimate, number
from closedbook.harness.study.inputs import command_line, shown_path
from closedbook.harness.study.tables import Analysis, Cell, Input, Stored, write

KNOWN: Mapping[str, tuple[str, str]] = {
    "accuracy": (
        "Accuracy",
        "The share of greedy answers that are right, and what changed from the first run on the same questions. A "
        "difference is clear, and coloured, where its interval leaves out zero and p is below 0.05. p is of an "
        "exact sign-flip test, adjusted for all differences of a table (Holm). Click a number to see the run it comes "
        "from.",
    ),
    "passk": (
        "pass@k",
        "The share of questions with a right answer among k samples. Where the trained model starts as high as the "
        "base model gets with many samples, training moved answers to the front that were there before.",
    ),
    "accessibility": (
        "Accessibility",
        "Questions by how often the untrained model says the answer when it is sampled, with greedy accuracy before "
        "and after training. Zero means never in these samples, not that the model cannot know it.",
    ),
    "attribution": (
        "Attribution",
        "What training on a part of the questions gains, as a share of what training on all of them gains. A part says "
        "something only beside random questions of the same number.",
    ),
    "transfer": (
        "Transfer",
        "The gain over the base model, in points: a row for what was trained on, a column for what was asked. Test "
        "questions whose facts the training questions state are left out.",
    ),
    "mass": (
        "Probability mass",
        "How likely the model finds the right answers, and where they stand among all that it could say, before and "
        "after training. A rank that falls to 1 is an answer that moved to the front.",
    ),
    "baselines": (
        "Baselines without training",
        "What more computing at inference time gains, with its cost in tokens beside it.",
    ),
    "buckets": (
        "Buckets of the training questions",
        "How often the untrained model said the answer to each training question: what attribution trains on.",
    ),
    "majority": (
        "Majority voting",
        "Accuracy of the answer that most of k samples give: what sampling alone gains, with nothing trained.",
    ),
    "flips": (
        "Changed answers",
        "Each question whose greedy answer changed sides in training: gained ones became right, lost ones became "
        "wrong. The bucket is how many samples of the untrained model were right.",
    ),
}  # fmt: skip
DRAWN = {"svg": "image/svg+xml", "png": "image/png"}
OWN = ("run", "runs", "became_first", "no_longer_first")  # what is shown in another way
LABELS = ("task", "run", "id", "bucket")
LABELS_OF: Mapping[str, Sequence[str]] = {
    "passk": ("if failures hide",),
    "attribution": ("trained on",),
    "transfer": ("trained on", "asked"),
    "baselines": ("method", "changed"),
    "flips": ("change",),
}
"""Columns whose texts are no questions and no answers, of any analysis and of one; any other may hold some."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the page needs besides its sections.

    Attributes:
        anchors: The parts of the page that tell of runs, with their folders, by digest: equal answers have equal ones.
    """

    anchors: Mapping[str, Sequence[tuple[str, Path]]]

    def anchor(self, folder: str, digest: str) -> str:
        """The part of the page that tells of the run in a folder, as an analysis names it; empty for none."""
        known = self.anchors.get(digest, ())
        named = [anchor for anchor, path in known if f"/{path.resolve()}".endswith(f"/{folder}")]
        return next(iter([*named, *(anchor for anchor, _ in known)]), "")


def sections(study: Findings, texts: bool = True) -> list[Section]:
    """All parts of the page, in order.

    Args:
        study: What was read.
        texts: Whether to show questions, gold answers and models' answers, and whatever else may hold some.

    Raises:
        RequestError: A figure is damaged, or evaluations hold no answers.
    """
    page = Page(_anchors(study))
    found = list(study.analyses)
    if study.evaluations and not any(one.stored.analysis.name == "accuracy" for one in found):
        found = [*headline(study.evaluations), *found]
    by_name: dict[str, list[Analysed]] = {name: [] for name in KNOWN}
    for one in found if texts else map(_publishable, found):
        by_name.setdefault(one.stored.analysis.name, []).append(one)
    flips = by_name.pop("flips")
    shown = [(name, several) for name, several in [*by_name.items(), ("flips", flips)] if several]
    parts = [_analysed(name, several, page, at) for at, (name, several) in enumerate(shown)]
    own = (judging(study), contamination(study), cost(study), provenance(study))
    return [*parts, *(part for part in own if part is not None)]


def _anchors(study: Findings) -> dict[str, list[tuple[str, Path]]]:
    runs = [(run.digest, f"run-e{at}", run.folder) for at, run in enumerate(study.evaluations, 1)]
    runs += [(run.head.digest, f"run-s{at}", run.folder) for at, run in enumerate(study.samples, 1)]
    runs += [(run.head.digest, f"run-l{at}", run.folder) for at, run in enumerate(study.likelihoods, 1)]
    found: dict[str, list[tuple[str, Path]]] = {}
    for digest, anchor, folder in runs:
        found.setdefault(digest, []).append((anchor, folder))
    return found


def headline(evaluations: Sequence[EvaluationFolder]) -> list[Analysed]:
    """Accuracy of evaluations beside the first of each group that answers the same questions.

    Raises:
        RequestError: One holds no answers that were graded.
    """
    from closedbook.harness.study.checkpoints import accuracy

    judged = all(run.described.judge for run in evaluations)
    metric = "judge_correct" if judged else "contains"
    left = {run.name: (run, read_run(run.folder, metric)) for run in evaluations}
    made: list[Analysed] = []
    while left:
        (first, (_, base)), *_ = left.items()
        graded = how_graded(left[first][0].folder, metric)
        alike = {
            name: _same(base, run)
            for name, (of, run) in left.items()
            if name == first or (_answers(base, run) and how_graded(of.folder, metric) == graded)
        }
        inputs = [Input(shown_path(left[name][0].folder), left[name][0].digest) for name in alike]
        command = command_line(["analyze", "accuracy", *(one.folder for one in inputs), "--metric", metric])
        of = f"beside {first}" if made or len(alike) < len(left) else ""
        with tempfile.TemporaryDirectory() as folder:
            write(accuracy(alike), Path(folder), command, inputs)
            made.append(read_analysis(of, Path(folder) / "accuracy.json"))
        left = {name: run for name, run in left.items() if name not in alike}
    return made


def _answers(base: Run, run: Run) -> bool:
    """Whether a run answers the questions of another one, and perhaps others."""
    return all(run.get(task, {}).keys() == answers.keys() for task, answers in base.items())


def _same(base: Run, run: Run) -> Run:
    return {task: run[task] for task in base}


def _publishable(one: Analysed) -> Analysed:
    """An analysis without questions and answers; of one that is not known, only its command, its labels and numbers."""
    analysis = one.stored.analysis
    labels = (*LABELS, *LABELS_OF.get(analysis.name, ()))
    kept = without_texts(analysis, [name for name in analysis.columns if name not in labels])
    if analysis.name in KNOWN:
        return one._replace(stored=replace(one.stored, analysis=kept))
    return Analysed(one.of, replace(one.stored, analysis=replace(kept, title=kept.name, made_from={})), {})


def _analysed(name: str, several: Sequence[Analysed], page: Page, number: int) -> Section:
    """The part of one analysis, which may have been made of several benchmarks or models."""
    part = name if name in KNOWN else f"other{number}-{file_name(name)}"  # whatever it is called, no id is there twice
    title, lead = KNOWN.get(name, (several[0].stored.analysis.title, ""))
    blocks: list[Table | Figure | HeatMap] = []
    facts: list[str] = []
    tiles: list[Tile] = []
    for at, one in enumerate(several, 1):
        blocks += list(_blocks(one, f"{part}-{at}", page))
        facts += [f"{one.of}: {fact}" if one.of else fact for fact in _facts(one.stored.analysis)]
        tiles += _largest(one, f"{part}-{at}-table") if name == "accuracy" else ()
    return Section(part, clean(title), lead, blocks, [clean(fact) for fact in facts], tiles=tiles)


def _largest(one: Analysed, link: str) -> list[Tile]:
    """Of each task the run whose accuracy changed most, up or down, from that of the first run."""
    analysis = cleaned(one.stored.analysis)
    rows = [dict(zip(analysis.columns, row, strict=True)) for row in analysis.rows]
    if not {"task", "run", "accuracy", "difference"} <= set(analysis.columns):
        return []
    tiles = []
    for task in dict.fromkeys(row["task"] for row in rows):
        base, *_ = asked = [row for row in rows if row["task"] == task]
        changes = [(abs(found), of) for of in asked if (found := _value(of["difference"])) is not None]
        if changes:
            _, most = max(changes, key=lambda change: change[0])
            sign = "+" if (_value(most["difference"]) or 0) > 0 else ""
            value, _, interval = f"{sign}{most['difference']}".replace("-", MINUS).partition(" ")
            more = f"{value} points {interval} beside {base['run']}"
            if isinstance(p := most.get(ADJUSTED), int | float):
                more += f", {ADJUSTED} {number(p, ADJUSTED)}"
            more += f"; the largest of {len(changes)} changes" if len(changes) > 1 else ""
            before, after = (str(of["accuracy"]).partition(" ")[0] for of in (base, most))
            what = f"{task}: {most['run']}{f' ({clean(one.of)})' if one.of else ''}"
            tiles.append(Tile(what, f"{before} \N{RIGHTWARDS ARROW} {after} %", more, link))
    return tiles


def _value(cell: Cell) -> float | None:
    return cell.value if isinstance(cell, Estimate) else None


def _blocks(one: Analysed, id: str, page: Page) -> Iterator[Table | Figure | HeatMap]:
    """The figure and the table of an analysis, or a heat map in the figure's place."""
    analysis = one.stored.analysis
    title = f"{analysis.title}: {one.of}" if one.of else analysis.title
    name = file_name(f"{analysis.name}-{one.of}" if one.of else analysis.name)
    shown = cleaned(Analysis(name, title, analysis.columns, analysis.rows, analysis.made_from))
    downloads = [
        Download(f"{name}.{end}", end.upper(), data_uri(kind, one.held[end]))
        for end, kind in DRAWN.items()
        if end in one.held
    ]
    heat = heat_map(shown, f"{id}-map", "trained on", "asked", "gain", downloads)
    if heat:
        yield heat
    elif "svg" in one.held:
        yield Figure(f"{id}-figure", shown.title, inline(one.held["svg"], f"{id}-", f"{name}.svg"), downloads)
    flips = analysis.name == "flips"
    source, runs = _source(one.stored, page), _runs_of(one.stored, page)
    head = analysis.name == "accuracy"
    yield table(
        shown, f"{id}-table", source=source, runs=runs, search=flips, choice="change" if flips else "", head=head
    )


def _runs_of(stored: Stored, page: Page) -> dict[str, str]:
    """The part of the page that tells of a run, by the name that an analysis gives it."""
    named = {name: page.anchor(name, str(of.get("digest"))) for name, of in _runs(stored.analysis.made_from).items()}
    columns = stored.analysis.columns
    names = {str(row[columns.index("run")]) for row in stored.analysis.rows} if "run" in columns else set()
    for name in names - named.keys():
        fitting = [one for one in stored.inputs if f"/{one.folder}".endswith(f"/{name}")]
        named |= {name: page.anchor(*fitting[0])} if len(fitting) == 1 else {}
    return {name: anchor for name, anchor in named.items() if anchor}


def _runs(made: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What an analysis states of its runs, by their names; several, or one that it names."""
    stated, single = made.get("runs"), made.get("run")
    if isinstance(single, Mapping):
        stated = {single.get("name", ""): {name: value for name, value in single.items() if name != "name"}}
    return (
        {str(name): of for name, of in stated.items() if isinstance(of, Mapping)} if isinstance(stated, Mapping) else {}
    )


def _source(stored: Stored, page: Page) -> Source:
    made = stored.analysis.made_from
    runs = _runs(made)
    inputs = [(clean(one.folder), clean(one.digest), page.anchor(one.folder, one.digest)) for one in stored.inputs]
    known = {digest for _, digest, _ in inputs}
    settings: dict[str, dict[str, str]] = {}
    for name, of in runs.items():
        digest = str(of.get("digest", ""))
        if digest and digest not in known:
            inputs.append((clean(name), clean(digest), page.anchor(name, digest)))
        for key, value in flat(of).items():
            settings.setdefault("samples in the folder" if key == "n" else key, {})[name] = said(value)
    decides = {
        key: said(value) for key, value in flat(_with_estimates(made)).items() if key.partition(".")[0] not in OWN
    }
    for key, values in settings.items():
        if key != "digest":
            same = len(set(values.values())) == 1
            decides[key] = next(iter(values.values())) if same else "; ".join(f"{n}: {v}" for n, v in values.items())
    return Source(stored.command and clean(stored.command), inputs, {clean(k): clean(v) for k, v in decides.items()})


def _with_estimates(made: Mapping[str, Any]) -> dict[str, Any]:
    """The same with estimates in words."""
    return {
        name: str(stated)
        if (stated := _stated(value))
        else _with_estimates(value)
        if isinstance(value, Mapping)
        else value
        for name, value in made.items()
    }


def _facts(analysis: Analysis) -> Iterator[str]:
    """What an analysis found besides its table, in sentences."""
    made = analysis.made_from
    repaired, again, n = _stated(made.get("repair_rate_of_0")), made.get("recheck"), made.get("n")
    if repaired and repaired.n:
        yield (
            f"Of the {repaired.n:,} questions that no sample and no greedy answer got right, {_per_cent(repaired)} are "
            "right after training."
        )
    if isinstance(again, Mapping) and isinstance(missed := again.get("missed_if_rare"), float):
        more, found = again.get("more"), _stated(again.get("found"))
        if found and found.n:
            yield (
                f"Never seen is not absent: {more} further samples find a right answer to {_per_cent(found)} of the "
                f"{found.n:,} questions with 0 of {n}. A fact that is said once in {more} times has a chance of "
                f"{100 * missed:.0f} % to be in none of {n}."
            )
        if hidden := again.get("hidden_by_failures"):
            yield f"A failure of the judge may hide a right answer to {hidden} of the others."
    if ungraded := made.get("left_out_as_ungraded"):
        yield f"{ungraded} questions are in no bucket, since answers that the judge failed on could change which."
    if analysis.name == "flips" and {"questions", "gained", "lost"} <= made.keys():
        yield f"Of {made['questions']} questions {made['gained']} became right and {made['lost']} were lost."

    for key, moved, ranks in (
        ("became_first", "right answers became the likeliest; before training they stood at", "rank_before"),
        ("no_longer_first", "right answers are the likeliest no longer; after training they stand at", "rank_after"),
    ):
        found = made.get(key)
        if isinstance(found, Mapping) and found.get("questions") and isinstance(found.get(ranks), Mapping):
            shown = [f"{rank} ({times})" if rank == "not listed" else f"rank {rank} ({times})"
                     for rank, times in found[ranks].items()]  # fmt: skip
            rest = f" and {len(shown) - 6} further ranks" if len(shown) > 6 else ""
            yield f"{found['questions']} {moved} {', '.join(shown[:6])}{rest}."


def _stated(value: object) -> Estimate | None:
    """An estimate as an analysis states it beside its table."""
    if not isinstance(value, Mapping) or not isinstance(value.get("value"), int | float):
        return None
    low, high, n = value.get("low"), value.get("high"), value.get("n")
    if not all(isinstance(end, int | float | None) for end in (low, high)) or not isinstance(n, int):
        return None
    return Estimate(value["value"], low, high, n)


def _per_cent(estimate: Estimate) -> str:
    value, _, interval = str(estimate).partition(" ")
    return f"{value} % {interval}"
