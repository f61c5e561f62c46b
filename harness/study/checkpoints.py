"""Analyses of several checkpoints' greedy answers: accuracy beside the base model, attribution, transfer.

All of them compare question by question. What surprises: tests, and intervals by bootstrap, take questions with one
gold answer together. Such questions may ask for one fact, and a model that has learned to say "Africa" gets all of them
at once; taken one by one they would make differences look more certain than they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.compare import Answered, Run, compare, gold_group, paired_answers
from closedbook.harness.errors import RequestError
from closedbook.harness.statistics import (
    Estimate,
    bootstrapped_mean,
    bootstrapped_means,
    bootstrapped_ratio,
    detectable,
    holm,
)
from closedbook.harness.study.tables import Analysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from closedbook.harness.splits import Overlap

Answers = Mapping[str, Answered]
"""Answers to one task, by question id."""


def accuracy(runs: Mapping[str, Run]) -> Analysis:
    """Accuracy of each run on each task, beside the first run.

    Args:
        runs: By name, over the same questions; the first one is what the others are compared with.

    Raises:
        RequestError: They answer other questions.
    """
    table = compare(runs)
    base = next(iter(runs.values()))
    rows: list[list[Any]] = []
    for row in table:
        line: list[Any] = [row.task, row.run, row.accuracy]
        if row.against is None:
            rows.append([*line, *[None] * 6])
            continue
        against, before, after = row.against, base[row.task], runs[row.run][row.task]
        n = against.difference.n
        least = detectable(n, (against.gained + against.lost) / n) if n else None
        clustered = mean_difference(before, after)
        found = Estimate(least, None, None, n) if least is not None else None
        rows.append([*line, against.difference, clustered, against.gained, against.lost, row.p, found])

    def plot(axes: Axes) -> None:
        shown = [row for row in table if row.accuracy.value is not None]
        names = [row.run if len(base) == 1 else f"{row.run}, {row.task.removesuffix('_dedup')}" for row in shown]
        for at, row in enumerate(shown):
            value, low, high = (100 * (x or 0) for x in (row.accuracy.value, row.accuracy.low, row.accuracy.high))
            colour = "C7" if row.against is None else "C0"
            axes.errorbar([value], [at], xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("accuracy of the greedy answer, per cent")

    columns = (
        "task", "run", "accuracy", "difference", "difference, answers together", "gained", "lost", "p (Holm)",
        "detectable, unadjusted",
    )  # fmt: skip
    return Analysis("accuracy", "Greedy accuracy beside the first run", columns, rows, {"runs": list(runs)}, plot)


def mean_difference(before: Answers, after: Answers) -> Estimate:
    """Share right after minus share right before, with a bootstrap interval in which equal golds stay together."""
    ids = _known(before, after)
    return bootstrapped_mean(
        [after[id].value - before[id].value for id in ids], [gold_group(before[id].golds) for id in ids]
    )


def _known(*runs: Answers) -> list[str]:
    """Ids that all runs answer, with a value that is known, sorted."""
    common = set.intersection(*(set(run) for run in runs))
    return sorted(id for id in common if not any(math.isnan(run[id].value) for run in runs))


class Part(NamedTuple):
    """A checkpoint that was trained on some of the questions.

    Attributes:
        name: Of the part; several seeds of one part have one name.
        answers: To the test questions.
        trained_on: Questions; None where that is not known.
    """

    name: str
    answers: Answers
    trained_on: int | None = None


def attribution(base: Answers, full: Answers, parts: Sequence[Part], questions: int | None = None) -> Analysis:
    """What training on a part of the questions gains, as a share of what training on all of them does.

    Seeds of one part count as one, by the mean of a question's answers. The interval of a share is a bootstrap's over
    questions, both gains drawn together; there is none where the whole gain is not surely above zero. It knows nothing
    of how much another training of the same part would differ.

    Args:
        base: Answers before training.
        full: After training on all questions.
        parts: After training on some.
        questions: How many `full` was trained on.

    Raises:
        RequestError: A run answers other questions.
    """
    for part in [Part("all", full), *parts]:
        if part.answers.keys() != base.keys():
            raise RequestError(f"part {part.name} answers other questions; score it on the same task and --limit")
    seeds: defaultdict[str, list[Part]] = defaultdict(list)
    for part in parts:
        seeds[part.name].append(part)
    ids = _known(base, full, *(part.answers for part in parts))
    groups = [gold_group(base[id].golds) for id in ids]
    whole = [full[id].value - base[id].value for id in ids]
    rows: list[list[Any]] = []
    shares: list[tuple[str, Estimate]] = []
    for name, runs in {"all": [Part("all", full, questions)], **seeds}.items():
        means = [fmean(run.answers[id].value for run in runs) for id in ids]
        gains = [mean - base[id].value for id, mean in zip(ids, means, strict=True)]
        unknown = [Estimate.unknown()] * 2
        right, gain = bootstrapped_means(list(zip(means, gains, strict=True)), groups) if ids else unknown
        share = None if name == "all" else bootstrapped_ratio(gains, whole, groups)
        if share is not None:
            shares.append((name, share))
        rows.append([name, runs[0].trained_on, len(runs), right, gain, share])
    rows += _against_controls(seeds, ids, groups)

    def plot(axes: Axes) -> None:
        for at, (_, share) in enumerate(shares):
            value = 100 * (share.value or 0)
            reach = (
                [[value - 100 * (share.low or 0)], [100 * (share.high or 0) - value]] if share.low is not None else None
            )
            axes.bar([at], [value], width=0.6, color="C0", yerr=reach, capsize=3)
        axes.set_xticks(range(len(shares)), [name for name, _ in shares])
        axes.axhline(100, color="C7", lw=1, ls="--")
        axes.set_ylabel("share of the whole gain, per cent")

    columns = ("trained on", "questions", "seeds", "accuracy", "gain", "share of the whole gain")
    made = {"parts": {name: len(runs) for name, runs in seeds.items()}}
    return Analysis("attribution", "What a part of the training questions gains", columns, rows, made, plot)


def _against_controls(
    seeds: Mapping[str, Sequence[Part]], ids: Sequence[str], groups: Sequence[str]
) -> list[list[Any]]:
    """Each bucket minus the random questions of its size."""
    rows: list[list[Any]] = []
    for name, runs in seeds.items():
        control = seeds.get(name.replace("bucket_", "random_as_", 1))
        if name.startswith("bucket_") and control and ids:
            changes = [
                fmean(run.answers[id].value for run in runs) - fmean(run.answers[id].value for run in control)
                for id in ids
            ]
            rows.append([f"{name} minus its control", None, len(runs), None, bootstrapped_mean(changes, groups), None])
    return rows


class TrainedOn(NamedTuple):
    """A checkpoint and what it was trained on."""

    benchmark: str
    run: Run


def transfer(base: Run, trained: Sequence[TrainedOn], overlaps: Mapping[tuple[str, str], frozenset[str]]) -> Analysis:
    """The gain on each benchmark of training on each, without test questions that the other's train states.

    Args:
        base: Answers of the model before, to every task.
        trained: Checkpoints, by what they were trained on.
        overlaps: By tested and trained benchmark, the ids of test questions that are left out.

    Raises:
        RequestError: A checkpoint does not answer what the base model answers.
    """
    cells: list[tuple[str, str, Any, int]] = []
    for name, run in trained:
        for task, before in base.items():
            if run.get(task, {}).keys() != before.keys():
                raise RequestError(
                    f"the checkpoint trained on {name} answers other questions of {task}; score it again"
                )
            tested = task.replace("_dedup", "")  # a chain of thought keeps its name
            left_out = overlaps.get((task.partition("_")[0], name), frozenset()) & before.keys()
            pair = paired_answers(before, run[task], sorted(before.keys() - left_out))
            cells.append((name, tested, pair, len(left_out)))
    adjusted = holm([pair.p for _, _, pair, _ in cells])
    rows: list[list[Any]] = [
        [name, tested, pair.difference.n, left, pair.difference, pair.gained, pair.lost, p]
        for (name, tested, pair, left), p in zip(cells, adjusted, strict=True)
    ]
    names, tasks = list(dict.fromkeys(c[0] for c in cells)), list(dict.fromkeys(c[1] for c in cells))

    def plot(axes: Axes) -> None:
        gain = {(name, tested): 100 * (pair.difference.value or 0) for name, tested, pair, _ in cells}
        grid = [[gain[name, tested] for tested in tasks] for name in names]
        most = max(1.0, *(abs(x) for line in grid for x in line))
        axes.imshow(grid, cmap="RdBu", vmin=-2 * most, vmax=2 * most, aspect="auto")
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                axes.text(x, y, f"{value:+.1f}", ha="center", va="center")
        axes.set_xticks(range(len(tasks)), tasks)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("asked")
        axes.set_ylabel("trained on")

    columns = ("trained on", "asked", "questions", "left out", "gain", "gained", "lost", "p (Holm)")
    title = "Gain over the base model by what was trained on and asked"
    return Analysis("transfer", title, columns, rows, {"trained": names}, plot)


def overlaps_of(overlaps: Iterable[Overlap]) -> dict[tuple[str, str], frozenset[str]]:
    """Ids of the test questions of a benchmark that another one's train questions state, by both names."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for overlap in overlaps:
        found[overlap.test_benchmark, overlap.train_benchmark].add(overlap.test_id)
    return {names: frozenset(ids) for names, ids in found.items()}
