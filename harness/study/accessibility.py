"""Accessibility: how often does the untrained model say a fact when it is sampled, and what becomes of it in training?

Questions are put into buckets by how many of n samples are right: 0, 1, 2-3, 4-7, ..., n. What would surprise: "0 of n"
does not mean "unknown". A fact that is said once in 256 times lands there in 61 of 100 cases when n is 128, so
`recheck` asks how many of that bucket further samples find.

    >>> bucket_names(8)
    ['0', '1', '2-3', '4-7', '8']
    >>> bucket(5, 8)
    '4-7'
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

from closedbook.harness.samples import QuestionSamples
from closedbook.harness.statistics import Estimate, Paired, bootstrapped_ratio, paired, proportion, wilson


def bucket_names(n: int) -> list[str]:
    """The buckets of n samples, the least accessible first: powers of two, and n of n for itself.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"{n} samples make no buckets")
    return list(dict.fromkeys(bucket(right, n) for right in range(n + 1)))


def bucket(right: int, n: int) -> str:
    """The bucket of a question with so many right samples of n.

    Raises:
        ValueError: Not 0 <= right <= n.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} of {n} samples cannot be right")
    if right in (0, n):
        return str(right)
    low = 1 << (right.bit_length() - 1)
    high = min(2 * low, n) - 1
    return str(low) if low == high else f"{low}-{high}"


def buckets(samples: Iterable[QuestionSamples], n: int) -> dict[str, str]:
    """The bucket of each question by its first n samples; none where those that are not graded could change it.

    Args:
        samples: At least n of each question.
        n: How many count.

    Raises:
        ValueError: A question has fewer samples.
    """
    first = {question.id: question.among(0, n) for question in samples}
    if short := [id for id, question in first.items() if question.drawn < n]:
        raise ValueError(f"question {short[0]} has {first[short[0]].drawn} samples, not {n}")
    least = {id: bucket(question.right, n) for id, question in first.items()}
    most = {id: bucket(question.right + question.failed, n) for id, question in first.items()}
    return {id: name for id, name in least.items() if name == most[id]}


@dataclass(frozen=True, slots=True)
class Gain:
    """What became of one bucket's questions; accuracy is that of the greedy answer.

    Attributes:
        bucket: Its name; "all" for all of them.
        before: Accuracy before training.
        after: Accuracy after it.
        paired: The difference, question by question.
        share: Share of the whole gain that came from here, which may be negative; not known where there is no gain.
    """

    bucket: str
    before: Estimate
    after: Estimate
    paired: Paired
    share: Estimate


def gains(
    of: Mapping[str, str],
    before: Mapping[str, float],
    after: Mapping[str, float],
    names: Iterable[str],
    groups: Mapping[str, Hashable] | None = None,
) -> list[Gain]:
    """The gain of each bucket, and of all of them together, last.

    Args:
        of: Bucket of each question id.
        before: 1 for a right greedy answer, 0 for a wrong one, NaN where that is not known; by question id.
        after: The same after training.
        names: The buckets, in order.
        groups: Of each question, what is evidence of one fact; each stands for itself where none are given.
    """
    known = sorted(id for id in of if id in before and id in after and not math.isnan(before[id] + after[id]))
    changes = [after[id] - before[id] for id in known]
    together: Mapping[str, Hashable] = groups or {id: id for id in known}

    def gain(name: str, ids: Collection[str]) -> Gain:
        first, second = [before[id] for id in ids], [after[id] for id in ids]
        test = paired(first, second, [together[id] for id in ids])
        own = [change if id in ids else 0.0 for id, change in zip(known, changes, strict=True)]
        share = bootstrapped_ratio(own, changes, [together[id] for id in known])
        return Gain(name, proportion(first), proportion(second), test, share)

    members = {name: {id: None for id in known if of[id] == name} for name in names}  # ordered, and quick to look into
    return [*(gain(name, ids) for name, ids in members.items()), gain("all", dict.fromkeys(known))]


def repair_rate(of: Mapping[str, str], before: Mapping[str, float], after: Mapping[str, float]) -> Estimate:
    """Of the questions that no sample and no greedy answer got right, the share that is right after training."""
    never = [id for id, name in of.items() if name == "0" and before.get(id) == 0 and id in after]
    return proportion(after[id] for id in never)


@dataclass(frozen=True, slots=True)
class Recheck:
    """What further samples of the questions in bucket 0 find.

    Attributes:
        n: Samples that put them there.
        more: Samples of each that were drawn besides.
        found: Share of the questions with a right one among these: rare, not absent.
        missed: Chance that a fact which is said once in `more` times is in none of the n samples.
        hidden: Questions that are not found, and might be if the judge had not failed on some of their samples.
    """

    n: int
    more: int
    found: Estimate
    missed: float
    hidden: int = 0


def recheck(samples: Iterable[QuestionSamples], n: int, more: int) -> Recheck:
    """How many questions of bucket 0 have a right answer among samples n to n + more - 1.

    Raises:
        ValueError: A question has fewer samples.
    """
    every = list(samples)
    zero = [question for question in every if buckets([question], n).get(question.id) == "0"]
    further = [question.among(n, n + more) for question in zero]
    if short := [question for question in further if question.drawn < more]:
        raise ValueError(f"question {short[0].id} has {n + short[0].drawn} samples, not {n + more}")
    found = wilson(sum(question.right > 0 for question in further), len(further))
    hidden = sum(question.failed > 0 and not question.right for question in further)
    return Recheck(n, more, found, (1 - 1 / more) ** n, hidden)
