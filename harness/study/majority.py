"""Majority voting: the answer that most of k samples give, as a baseline that trains nothing.

Answers are the same vote if their `answer_key` is. A tie goes to the answer that was drawn first. What would surprise:
the accuracy of k votes is a mean over all disjoint groups of k samples, not one draw of k, which would be noisier.

    >>> lines = QuestionSamples("q", (Sample("Rome", "Rome", 0.0, (0,)), Sample("the Paris", "the Paris", 1.0, (1, 2))))
    >>> votes(lines, 3)
    [1.0]
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.statistics import Estimate, bootstrapped_means
from closedbook.harness.text import answer_key


class Votes(NamedTuple):
    """Accuracy of the answer that most of k samples give."""

    k: int
    accuracy: Estimate


def elected(question: QuestionSamples) -> Sample:
    """The sample whose answer most samples give: of texts with that answer the commonest, then the first.

    Raises:
        ValueError: There are no samples.
    """
    votes: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in question.samples:
        votes[answer_key(sample.answer)].append(sample)
    if not votes:
        raise ValueError(f"question {question.id} has no samples to vote")
    most = min(votes.values(), key=lambda group: (-_times(group), min(min(sample.draws) for sample in group)))
    return min(most, key=lambda sample: (-len(sample.draws), min(sample.draws)))


def _times(group: Sequence[Sample]) -> int:
    return sum(len(sample.draws) for sample in group)


def votes(question: QuestionSamples, k: int) -> list[float]:
    """The reward of the elected answer of each disjoint group of k samples; NaN where the judge failed on it.

    Raises:
        ValueError: There are fewer than k samples.
    """
    groups = question.drawn // k if k > 0 else 0
    if not groups:
        raise ValueError(f"question {question.id} has {question.drawn} samples, too few for {k} votes")
    rewards = (elected(question.among(at * k, (at + 1) * k)).reward for at in range(groups))
    return [math.nan if reward is None else reward for reward in rewards]


def majority(samples: Iterable[QuestionSamples], ks: Sequence[int]) -> list[Votes]:
    """Accuracy of majority voting for each k, with a bootstrap interval over questions.

    Questions on all of whose elected answers the judge failed leave mean and n.
    """
    every = list(samples)
    found = []
    for k in ks:
        known = [[vote for vote in votes(question, k) if not math.isnan(vote)] for question in every]
        means = [[fmean(of)] for of in known if of]
        found.append(Votes(k, bootstrapped_means(means)[0] if means else Estimate(None, None, None, 0)))
    return found
