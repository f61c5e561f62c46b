"""Evaluations of the same questions, compared question by question.

Two checkpoints answer the same questions, so what counts is where they differ: intervals of two accuracies may overlap
while the difference is certain. The first run is what the others are compared with; where several differences are
tested at once, the p values are Holm's. Questions with one gold answer are tested as one: a model that has learned to
say "Africa" gets all of them at once. Runs are folders of `closedbook eval` or of `lm_eval --log_samples`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.fields import difference, flat
from closedbook.harness.metrics import METRICS
from closedbook.harness.statistics import Estimate, Paired, holm, paired, proportion
from closedbook.harness.text import answer_key

__all__ = ["Answered", "Comparison", "Run", "compare", "read_run"]


@dataclass(frozen=True, slots=True)
class Answered:
    """One question as a run answered it.

    Attributes:
        question: The text.
        golds: Its gold answers.
        answer: What was graded.
        value: The metric: 1, 0, or NaN where it is not known.
        response: All that the model said; None where the run does not tell.
    """

    question: str
    golds: tuple[str, ...]
    answer: str
    value: float
    response: str | None = None


Run = Mapping[str, Mapping[str, Answered]]
"""The answers of an evaluation, by task and question id."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run on one task, beside the first run.

    Attributes:
        task: Its name.
        run: Name of the run.
        accuracy: Share of right answers.
        against: The same questions in the first run and in this one; None for the first run.
        p: Of that difference, adjusted for all differences of the table.
    """

    task: str
    run: str
    accuracy: Estimate
    against: Paired | None
    p: float | None


def read_run(folder: Path, metric: str = "judge_correct") -> Run:
    """The answers of a run, of each task those that were written last.

    Raises:
        RequestError: There are none, they cannot be read, or they were not graded by that metric.
    """
    if metric not in METRICS:
        raise RequestError(f"no metric {metric!r}; there are {', '.join(METRICS)}")
    files = _sample_files(folder)
    if not files:
        raise RequestError(f"{folder} holds no samples; name a folder of closedbook eval, or of lm_eval --log_samples")
    if len(models := sorted({path.parent for path in files})) > 1:
        raise RequestError(f"{folder} holds runs of several models; name one of {', '.join(map(str, models))}")
    return {task: dict(_answers(path, metric)) for task, path in last_written(folder).items()}


def last_written(folder: Path) -> dict[str, Path]:
    """The file of answers of each task of an evaluation that was written last, by task."""
    return {path.name.removeprefix("samples_").rsplit("_", 1)[0]: path for path in _sample_files(folder)}


def _sample_files(folder: Path) -> list[Path]:
    """All files of answers, the oldest first."""
    return sorted(folder.rglob("samples_*.jsonl"), key=lambda path: path.name)


def _answers(path: Path, metric: str) -> Iterator[tuple[str, Answered]]:
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; score the model again") from error
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):  # an answer may hold other line ends
        try:
            row: dict[str, Any] = json.loads(line)
            doc, answer = row["doc"], str(row["filtered_resps"][0][0])
            if "judge_correct" in row:  # logged with its judgement in brackets
                answer = answer.rsplit(" [", 1)[0]
            response = str(row["resps"][0][0]) if "resps" in row else None
            if not all(isinstance(said, str) for said in (doc["id"], doc["question"], *doc["answers"])):
                raise TypeError("its question or answers are no texts")
            if row[metric] not in (0, 1) and not math.isnan(row[metric]):
                raise ValueError(f"{metric} is neither 0 nor 1")
            yield doc["id"], Answered(doc["question"], tuple(doc["answers"]), answer, float(row[metric]), response)
        except KeyError as error:
            raise RequestError(f"{path}, line {number}: no {error}; score with one of {', '.join(METRICS)}") from error
        except (ValueError, TypeError, IndexError) as error:
            raise RequestError(f"{path}, line {number}: not a sample of lm-eval; score the model again") from error


def require_alike(folders: Sequence[Path], metric: str = "judge_correct") -> None:
    """Refuse runs of another split, or, where the judge's word counts, of another judge.

    Checkpoints may be asked with or without a chat template, each as it wants to be. A folder of plain lm_eval does not
    say how it was graded.

    Raises:
        RequestError: The first thing that differs, by its name.
    """
    stated = {folder: of for folder in folders if (of := how_graded(folder, metric))}
    for first, folder in pairwise(stated):
        if found := difference(stated[first], stated[folder]):
            raise RequestError(
                f"{first} and {folder} cannot be laid beside each other: {found.name} is {found.first!r} and "
                f"{found.second!r}; score both in the same way"
            )


def how_graded(folder: Path, metric: str = "judge_correct") -> dict[str, Any]:
    """The split of an evaluation and, where its word counts, the judge, by their whole names; nothing where none says.

    Raises:
        RequestError: Its run.json is damaged.
    """
    counts = ("judge", "split") if metric == "judge_correct" else ("split",)
    asked = how_asked(folder)
    return flat({name: asked[name] for name in counts}) if asked else {}


def how_asked(folder: Path) -> dict[str, Any]:
    """What run.json says of an evaluation: its model's identity, backend, chat, split and judge; nothing without it.

    Raises:
        RequestError: It is damaged.
    """
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {name: run[name] for name in ("identity", "backend", "chat", "split", "judge")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"cannot read {folder / 'run.json'}: {one_line(error)}; score again") from error


def compare(runs: Mapping[str, Run]) -> list[Comparison]:
    """Every run on every task of the first run, compared with it.

    Args:
        runs: By name; the first one is what the others are compared with.

    Raises:
        RequestError: A run lacks a task of the first one, or answered other questions.
    """
    (first, base), *others = runs.items()
    for (name, run), task in ((pair, task) for pair in others for task in base):
        _check_same(task, first, base[task], name, run.get(task, {}))
    tests = {
        (task, name): paired_answers(base[task], run[task], list(base[task])) for task in base for name, run in others
    }
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    return [
        Comparison(task, name, proportion(values(run[task])), tests.get((task, name)), adjusted.get((task, name)))
        for task in base
        for name, run in runs.items()
    ]


def _check_same(task: str, first: str, base: Mapping[str, Answered], name: str, other: Mapping[str, Answered]) -> None:
    if base.keys() != other.keys():
        common = len(base.keys() & other.keys())
        raise RequestError(
            f"{first} and {name} answer other questions of {task}: {len(base)} and {len(other)}, {common} in both; "
            "score both with the same tasks, split and --limit"
        )


def gold_group(golds: Sequence[str]) -> str:
    """What questions with the same first gold answer have in common: they may ask for one fact."""
    return answer_key(golds[0])


def paired_answers(before: Mapping[str, Answered], after: Mapping[str, Answered], ids: Sequence[str]) -> Paired:
    """Two runs on these questions; those with one gold answer are one piece of evidence in the test."""
    first, second = ([answers[id].value for id in ids] for answers in (before, after))
    return paired(first, second, [gold_group(before[id].golds) for id in ids])


def values(answers: Mapping[str, Answered]) -> list[float]:
    """The metric of each answer, in their order."""
    return [answered.value for answered in answers.values()]


def flips(before: Mapping[str, Answered], after: Mapping[str, Answered]) -> tuple[list[str], list[str]]:
    """Ids of the questions that are right only after, and of those that are right only before."""
    pairs = {id: (before[id].value, after[id].value) for id in before if id in after}
    known = {id: pair for id, pair in pairs.items() if not any(map(math.isnan, pair))}
    return [id for id, pair in known.items() if pair == (0, 1)], [id for id, pair in known.items() if pair == (1, 0)]


def names_of(folders: Sequence[Path]) -> list[str]:
    """A short name of each folder: its last part, or as much of its path as tells them apart."""
    for parts in range(1, max((len(folder.parts) for folder in folders), default=1) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise RequestError("a run is compared with itself; name different folders")
