"""The parts of the page that tell of the runs themselves: judge, contamination, cost, provenance.

What surprises: a command that a study's stage recorded is shown as it ran; of a run that was made by hand, the page
shows the command that its folder describes, without what the folder does not know, such as the judge's model.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from closedbook.harness.compare import last_written
from closedbook.harness.evaluate import LOCAL_BACKENDS
from closedbook.harness.fields import flat, public
from closedbook.harness.manifests import read_manifest
from closedbook.harness.report.blocks import Section, Source, clean, said, table
from closedbook.harness.report.reading import EvaluationFolder, Findings, LikelihoodFolder, SampleFolder
from closedbook.harness.sources import benchmarks
from closedbook.harness.study.inputs import command_line, shown_path
from closedbook.harness.study.tables import Analysis, Cell

NOT_SHOWN = ("pretrained", "model", "device", "base_url")  # arguments of a backend that a command need not repeat
SCORES = {
    "judge_correct": "judged right", "corrected": "corrected", "contains": "contains", "exact_match": "exact match",
    "not_attempted": "not attempted", "judge_failed": "judge failed",
}  # fmt: skip


def judging(study: Findings) -> Section | None:
    """Who graded, how sure that is, and accuracy corrected for its errors."""
    if not study.evaluations:
        return None
    rows: list[list[Cell]] = []
    for run in study.evaluations:
        for task, figures in run.figures.items():
            rows.append([run.name, task, *(figures.get(name) for name in SCORES)])
    columns, table_rows = _without_empty(("run", "task", *SCORES.values()), rows)
    judged = Analysis("judge", "What the judge said, beside plain matching", columns, table_rows, {})
    blocks = [table(judged, "judge-table", runs=_evaluated(study))]
    for at, one in enumerate(study.calibrations, 1):
        lines: list[list[Cell]] = [
            [group, *(figures.get(name) for name in ("accuracy", "fpr", "fnr", "kappa"))]
            for group, figures in one.figures.items()
        ]
        named = ("answers", "agrees with people", "wrong called right", "right called wrong", "kappa")
        source = Source(inputs=[(one.name, str(one.labels.get("sha256", ""))[:16], "")], decides=_flat(one.judge))
        title = "The judge against people"
        blocks.append(table(Analysis("calibration", title, named, lines, {}), f"calibration-{at}", source=source))
    facts, without_judge = [], [run.name for run in study.evaluations if not run.described.judge]
    for judge, names in _judges(study.evaluations).items():
        facts.append(f"Judge: {judge} ({_listed(names)}).")
    if without_judge:
        facts.append(f"Without a judge, so that only plain matching counts: {_listed(without_judge)}.")
    if not any("corrected" in figures for run in study.evaluations for figures in run.figures.values()):
        facts.append("No accuracy is corrected for the judge's errors: no evaluation was made with --calibration.")
    lead = (
        "Who decided what is right, and what plain matching says of the same answers. A judge errs: corrected accuracy "
        "is what an exact judge would have found, given this one's errors on answers that people have graded."
    )
    return Section("judge", "Judge", lead, blocks, [clean(fact) for fact in facts])


def _judges(evaluations: Sequence[EvaluationFolder]) -> dict[str, list[str]]:
    """Names of evaluations by the judge that graded them, in words."""
    by_judge: dict[str, list[str]] = {}
    for run in evaluations:
        if run.described.judge:
            words = ", ".join(f"{name} {value}" for name, value in _flat(run.described.judge).items() if value)
            by_judge.setdefault(words, []).append(run.name)
    return by_judge


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    return {clean(name): clean(said(value)) for name, value in public(settings).items()}


def _listed(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _without_empty(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """A table without the columns that hold nothing."""
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    return tuple(columns[at] for at in kept), [[row[at] for at in kept] for row in rows]


def contamination(study: Findings) -> Section | None:
    """What was left out of the test sets, and whether a checkpoint was asked what it was trained on."""
    if not study.evaluations:
        return None
    facts: list[str] = []
    warnings: list[str] = []
    rows: list[list[Cell]] = []
    for run in study.evaluations:
        found = [(task, of) for task, parts in run.described.checkpoint.items() for of in (parts or {}).values()]
        for task, of in found:
            seen, stated = of.get("contaminated"), of.get("overlaps")
            rows.append([run.name, task, str(of.get("method", "")), _count(seen), _count(stated),
                         "yes" if run.described.allow_contaminated else "no"])  # fmt: skip
            if seen:
                warnings.append(f"{run.name} was asked {seen} questions of {task} that it was trained on.")
        for task, digest in run.manifests.items():
            name = task.partition("_")[0]
            if name in benchmarks() and digest != read_manifest(name).digest:
                warnings.append(f"{run.name} was asked {task} by another manifest than the one that is counted here.")
    unknown = [run.name for run in study.evaluations if not any(run.described.checkpoint.values())]
    if unknown:
        facts.append(f"No record says what these have seen, so nothing could be checked: {_listed(unknown)}.")
    allowed = [run.name for run in study.evaluations if run.described.allow_contaminated]
    facts.append(
        f"Questions that were trained on were allowed in: {_listed(allowed)}."
        if allowed
        else "No evaluation was allowed to ask a checkpoint what it was trained on."
    )
    blocks = []
    if manifests := _manifests(study.evaluations):
        blocks.append(table(manifests, "dropped-table"))
    if rows:
        names = ("run", "task", "trained with", "asked and trained on", "stated by another benchmark", "allowed")
        made = Analysis("contamination", "Test questions that a checkpoint was trained on", names, rows, {})
        blocks.append(table(made, "contamination-table", runs=_evaluated(study)))
    lead = (
        "A test question whose fact the training questions state measures memory of training. Those were dropped "
        "before anything was asked; checkpoints carry the ids they were trained on, and are checked against what they "
        "are asked. Counts are of the whole split, also where a part of it was asked."
    )
    return Section(
        "contamination", "Contamination", lead, blocks, [clean(f) for f in facts], [clean(w) for w in warnings]
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _manifests(evaluations: Sequence[EvaluationFolder]) -> Analysis | None:
    """How many test questions were dropped from each benchmark, and why; None where none is one of ours."""
    asked = dict.fromkeys(task.partition("_")[0] for run in evaluations for task in run.figures)
    rows: list[list[Cell]] = []
    for name in asked:
        if name in benchmarks():
            manifest = read_manifest(name)
            gone = [row for row in manifest.rows if row.dropped_from == "test"]
            why = Counter(f"{row.verdict or 'contained'} by {row.rule or row.decider or 'hand'}" for row in gone)
            reasons = ", ".join(f"{count} {reason}" for reason, count in why.most_common())
            rows.append(
                [name, len(manifest.ids("test")), len(gone), reasons or None, manifest.decider, manifest.digest[:16]]
            )
    columns = ("benchmark", "test questions", "dropped", "why", "decided by", "manifest")
    title = "Test questions dropped because the training questions state their facts"
    return Analysis("dropped", title, columns, rows, {}) if rows else None


def cost(study: Findings) -> Section | None:
    """What it took: training, samples, evaluations."""
    rows: list[list[Cell]] = [
        [
            run.name,
            f"train {run.provenance.method}",
            f"{run.steps:,} steps",
            run.tokens,
            _minutes(_took(study, run.folder, run.seconds)),
        ]
        for run in study.training
    ]
    rows += [
        [run.name, "sample", f"{len(run.head.ids):,} questions, {run.drawn:,} samples, {run.texts:,} different", None,
         _minutes(_took(study, run.folder))]
        for run in study.samples
    ]  # fmt: skip
    rows += [
        [run.name, "likelihood", f"{run.questions:,} questions", None, _minutes(_took(study, run.folder))]
        for run in study.likelihoods
    ]
    rows += [
        [run.name, "evaluate", f"{_asked(run):,} questions", None, _minutes(_took(study, run.folder, run.seconds))]
        for run in study.evaluations
    ]
    if not rows:
        return None
    whole = sum(float(row[4]) for row in rows if isinstance(row[4], int | float))
    columns, lines = _without_empty(("run", "work", "amount", "tokens", "minutes"), rows)
    facts = [f"Recorded in all: {whole:,.0f} minutes."] if whole else []
    if any(run.failed for run in study.samples):
        facts.append(f"{sum(run.failed for run in study.samples):,} samples have no grade.")
    lead = (
        "What was recorded while it ran. A judge is asked once for each different sample and each answer at most; its "
        "calls and tokens stand in the ledger of its cache, not here."
    )
    kinds = (("t", study.training), ("s", study.samples), ("l", study.likelihoods), ("e", study.evaluations))
    links = [f"run-{kind}{at}" for kind, runs in kinds for at in range(1, len(runs) + 1)]
    made = table(Analysis("cost", "What it took", columns, lines, {}), "cost-table", links=links)
    return Section("cost", "Cost", lead, [made], facts)


def _asked(run: EvaluationFolder) -> int:
    """Questions of all tasks; groups, which are means over tasks, not counted again."""
    return sum(
        figures["contains"].n for task, figures in run.figures.items() if task in _tasks(run) and "contains" in figures
    )


def _tasks(run: EvaluationFolder) -> set[str]:
    return set(last_written(run.folder))


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 60, 1)


def _took(study: Findings, folder: Path, own: float | None = None) -> float | None:
    """Seconds of a run: its own record's, or its stage's where that has more; a stage counts its last start only."""
    stage = study.stages.get(folder.resolve())
    recorded = (own, stage.seconds if stage else None)
    return max((seconds for seconds in recorded if seconds is not None), default=None)


def _evaluated(study: Findings) -> dict[str, str]:
    """The part of the page that tells of an evaluation, by its name."""
    return {run.name: f"run-e{at}" for at, run in enumerate(study.evaluations, 1)}


def provenance(study: Findings) -> Section | None:
    """Every run: what made it, of which checkpoint, and the digest of what it holds."""
    rows: list[list[Cell]] = []
    anchors: list[str] = []
    for at, run in enumerate(study.evaluations, 1):
        command = _command(study, run.folder) or _eval_command(run)
        rows.append([run.name, "evaluation", command, _checkpoint(run), run.digest, None,
                     _versions(run.described.versions)])  # fmt: skip
        anchors.append(f"run-e{at}")
    for at, drawn in enumerate(study.samples, 1):
        settings = flat(drawn.head.settings)
        rows.append([drawn.name, "samples", _command(study, drawn.folder) or _sample_command(drawn),
                     str(settings.get("model", ""))[:16], drawn.head.digest, _count(settings.get("sampling.seed")),
                     None])  # fmt: skip
        anchors.append(f"run-s{at}")
    for at, listed in enumerate(study.likelihoods, 1):
        command = _command(study, listed.folder) or _sample_command(listed, "likelihood")
        model = str(listed.head.settings.get("model", ""))[:16]
        rows.append([listed.name, "likelihood", command, model, listed.head.digest, None, None])
        anchors.append(f"run-l{at}")
    for at, trained in enumerate(study.training, 1):
        of = trained.provenance
        command = _command(study, trained.folder) or command_line(
            ["train", of.method, "--config", shown_path(trained.folder / "recipe.yaml")]
        )
        rows.append([trained.name, "training", command, of.base_digest[:16], of.train_ids_digest[:16], of.seed,
                     _versions(of.versions, of.revision)])  # fmt: skip
        anchors.append(f"run-t{at}")
    if not rows:
        return None
    columns = ("run", "kind", "command", "checkpoint", "digest", "seed", "made with")
    made = Analysis("runs", "All runs", columns, rows, {})
    lead = (
        "Every run behind this page. The checkpoint is the digest of the model that was asked, or that training "
        "started from. The digest is that of an evaluation's answers, of all that samples depend on, or of the ids of "
        "the questions that were trained on."
    )
    return Section("provenance", "Provenance", lead, [table(made, "runs-table", anchors=anchors)])


def _command(study: Findings, folder: Path) -> str | None:
    """The command line of the study's stage that wrote a folder."""
    stage = study.stages.get(folder.resolve())
    return command_line(shlex.split(stage.command)[1:]) if stage else None


def _checkpoint(run: EvaluationFolder) -> str:
    """The identity of the model that was asked; its name where only a server has it."""
    of = run.described
    return of.identity[:16] if of.backend in LOCAL_BACKENDS else of.model


def _eval_command(run: EvaluationFolder) -> str:
    """The command line of an evaluation, as far as its folder tells."""
    of = run.described
    words = ["eval", of.model, "--tasks", ",".join(of.tasks)]
    words += ["--backend", of.backend] if of.backend != "hf" else []
    own = {name: value for name, value in of.arguments.items() if name not in NOT_SHOWN}
    words += ["--model-args", ",".join(f"{name}={value}" for name, value in own.items())] if own else []
    words += ["--split", of.split] if of.split != "test" else []
    words += ["--limit", str(of.limit)] if of.limit else []
    words += ["--judge", str(of.judge["kind"])] if of.judge and of.judge.get("kind") else []
    words += ["--allow-contaminated"] if of.allow_contaminated else []
    return command_line(words)


def _sample_command(run: SampleFolder | LikelihoodFolder, command: str = "sample") -> str:
    """The command line of samples or probabilities, as far as their folder tells: it knows the model by its digest."""
    of = flat(run.head.settings)
    style = "_cot" if str(of.get("prompt", "")).startswith("cot") else ""
    words = [command, "MODEL", "--task", f"{of.get('task.benchmark', '')}_dedup{style}"]
    words += ["--split", str(of.get("task.split", "test")), *(["-n", str(run.head.n)] if command == "sample" else [])]
    for name in ("temperature", "top_p", "top_k", "max_new_tokens", "seed") if command == "sample" else ():
        if f"sampling.{name}" in of:
            words += [f"--{name.replace('_', '-')}", str(of[f"sampling.{name}"])]
    return command_line(words)


def _versions(versions: Mapping[str, str], revision: str | None = None) -> str:
    parts = [f"{name} {version}" for name, version in versions.items()]
    return ", ".join([*parts, f"commit {revision[:12]}"] if revision else parts)
