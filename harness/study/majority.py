"""Majority voting: the answer that most of k samples give, as a baseline that trains nothing.

Answers are the same vote if their `answer_key` is, and also, where a judge is given, if it calls one right with the
other as the gold answer. A tie goes to the answer that was drawn first. What would surprise:

- The accuracy of k votes is a mean over all disjoint groups of k samples, not one draw of k, which would be noisier.
- An answer joins the commonest answer that it equals and no further: "Smith" may equal both "Ann Smith" and "Bob Smith"
  and makes them no one answer.

    >>> lines = QuestionSamples("q", (Sample("Rome", "Rome", 0.0, (0,)), Sample("the Paris", "the Paris", 1.0, (1, 2))))
    >>> votes(lines, 3)
    [1.0]
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.statistics import Estimate, bootstrapped_mean
from closedbook.harness.text import answer_key


class Votes(NamedTuple):
    """Accuracy of the answer that most of k samples give."""

    k: int
    accuracy: Estimate


Same = Callable[[str, str], bool]
"""Whether two answers to one question say the same."""

Choose = Callable[[QuestionSamples], Sample]
"""The sample that a method gives as its answer to a question; there is at least one."""

Chooser = Callable[[QuestionSamples], Choose]
"""How a method chooses among the samples of one question."""


def elected(question: QuestionSamples, same: Same | None = None) -> Sample:
    """The sample whose answer most samples give: of texts with that answer the commonest, then the first.

    Args:
        question: With its samples.
        same: What makes one answer of two with different keys; None for nothing.

    Raises:
        ValueError: There are no samples.
    """
    votes: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in question.samples:
        votes[answer_key(sample.answer)].append(sample)
    if not votes:
        raise ValueError(f"question {question.id} has no samples to vote")
    groups = sorted(votes.values(), key=_standing)
    if same:
        groups = sorted(_merged(groups, same), key=_standing)
    return min(groups[0], key=lambda sample: (-len(sample.draws), min(sample.draws)))


def _standing(group: Sequence[Sample]) -> tuple[int, int]:
    """Sorts answers: that of most samples first, then that drawn first."""
    return -sum(len(sample.draws) for sample in group), min(min(sample.draws) for sample in group)


def _merged(groups: Iterable[list[Sample]], same: Same) -> list[list[Sample]]:
    """Each answer with the commoner one that it equals, if there is one; the commonest come first."""
    leaders: list[list[Sample]] = []
    for group in groups:
        said = group[0].answer
        leader = next((one for one in leaders if same(one[0].answer, said)), None)
        if leader is None:
            leaders.append(list(group))
        else:
            leader.extend(group)
    return leaders


def votes(question: QuestionSamples, k: int, choose: Choose = elected) -> list[float]:
    """The reward of the chosen answer of each disjoint group of k samples; NaN where the judge failed on it.

    Args:
        question: With its samples.
        k: Samples of a group.
        choose: Which answer of a group counts.

    Raises:
        ValueError: There are fewer than k samples.
    """
    groups = question.drawn // k if k > 0 else 0
    if not groups:
        raise ValueError(f"question {question.id} has {question.drawn} samples, too few for {k} votes")
    rewards = (choose(question.among(at * k, (at + 1) * k)).reward for at in range(groups))
    return [math.nan if reward is None else reward for reward in rewards]


def accuracies(samples: Iterable[QuestionSamples], k: int, chooser: Chooser = lambda _: elected) -> list[float]:
    """The mean of a method's votes on each question; NaN where the judge failed on all the answers that it chose.

    Raises:
        ValueError: A question has fewer than k samples.
    """
    return [_known_mean(votes(question, k, chooser(question))) for question in samples]


def _known_mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def majority(samples: Sequence[QuestionSamples], ks: Sequence[int]) -> list[Votes]:
    """Accuracy of majority voting for each k, with a bootstrap interval over questions; see `accuracies`."""
    return [Votes(k, bootstrapped_mean(accuracies(samples, k))) for k in ks]
