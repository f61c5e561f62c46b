"""The metrics of one question: values in [0, 1], or NaN where a value is not known.

>>> metrics([Answer("It is Paris", Grade.CORRECT)], ["Paris"])
{'exact_match': 0.0, 'contains': 1.0, 'judge_correct': 1.0, 'not_attempted': 0.0, 'judge_failed': 0.0}
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from closedbook.harness.judge import Grade, Judge, JudgeFailure, Judgement, Tally, Triple, contains, exact_match

__all__ = ["METRICS", "Answer", "Metric", "metric_names", "metrics"]

log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """How a metric is shown and aggregated.

    Attributes:
        title: As shown to people.
        higher_is_better: As lm-eval's tables show it.
        judged: Whether it needs a judge.
        can_be_unknown: Whether a value can be NaN, which then leaves the mean.
        prompt: The judge's prompt that can produce it, if not every one can.
    """

    title: str
    higher_is_better: bool = True
    judged: bool = False
    can_be_unknown: bool = False
    prompt: str | None = None


METRICS = {
    "exact_match": Metric("exact match"),
    "contains": Metric("contains"),
    "judge_correct": Metric("correct", judged=True, can_be_unknown=True),
    "not_attempted": Metric("not attempted", False, judged=True, can_be_unknown=True, prompt="simpleqa"),
    "judge_failed": Metric("failed", higher_is_better=False, judged=True),
}
"""All metrics, by name."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the model, and what the judge said of it, if there was one."""

    text: str
    judgement: Judgement | None = None

    def __str__(self) -> str:
        """As written to the samples' log: the answer, and the judgement in brackets."""
        match self.judgement:
            case None:
                return self.text
            case JudgeFailure() as failure:
                return f"{self.text} [judge failed: {failure}]"
            case grade:
                return f"{self.text} [{grade}]"


def judged_answers(
    asked: Sequence[Sequence[Triple]], judge: Judge | None, max_failures: float, task: str
) -> list[list[Answer]]:
    """The answers to each question with what the judge says of them, all judged in one batch.

    A share of failures above `max_failures` is said loudly: a task cannot fail a run and have it saved too.
    """
    triples = [triple for of_one in asked for triple in of_one]
    judged: Sequence[Judgement | None] = [None] * len(triples)
    if judge:
        judged = graded = judge.grade(triples)
        tally = Tally.of(graded)
        if tally.failure_rate > max_failures:
            log.error("%s: %s; judge_correct rests on the others only", task, tally)
    judgements = iter(judged)
    return [[Answer(triple.answer, next(judgements)) for triple in of_one] for of_one in asked]


def metric_names(prompt: str | None) -> list[str]:
    """Names of the metrics that a judge with this prompt brings; None for no judge."""
    return [
        name
        for name, metric in METRICS.items()
        if not metric.judged or (prompt is not None and metric.prompt in (None, prompt))
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def metrics(answers: Sequence[Answer], golds: Sequence[str]) -> dict[str, float]:
    """Metrics of one question: means over the answers given to it; judged ones only where a judge has spoken.

    `judge_correct` is the mean over the answers that could be graded, NaN when there is none.
    """
    values = {
        "exact_match": _mean([float(exact_match(answer.text, golds)) for answer in answers]),
        "contains": _mean([float(contains(answer.text, golds)) for answer in answers]),
    }
    judgements = [answer.judgement for answer in answers if answer.judgement is not None]
    if judgements:
        grades = [judgement for judgement in judgements if isinstance(judgement, Grade)]
        values["judge_correct"] = _mean([float(grade is Grade.CORRECT) for grade in grades])
        values["not_attempted"] = _mean([float(grade is Grade.NOT_ATTEMPTED) for grade in grades])
        values["judge_failed"] = 1 - len(grades) / len(judgements)
    return values
