"""pass@k: how likely is it that one of k answers of a model is right, estimated from n samples of each question.

What surprises: an answer that the judge failed on is neither right nor wrong. Such answers are left out, as if the
judge failed at random, and with them a question of which fewer than k are left; `bounds` says what the figure could be
if it did not.

    >>> pass_at_k(128, 1, 64)
    0.5
    >>> curve([Sampled(4, 1), Sampled(4, 4)], [1, 4])[0]
    PassAtK(k=1, estimate=Estimate(value=0.625, low=0.25, high=1.0, n=2), bounds=(0.625, 0.625))
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from closedbook.harness.samples import QuestionSamples
from closedbook.harness.statistics import ALIKE, Estimate, bootstrapped_means

__all__ = ["PassAtK", "Sampled", "curve", "first_k", "pass_at_k", "passes"]


class Sampled(NamedTuple):
    """The samples of one question.

    Attributes:
        n: Samples that were graded.
        right: Those of them that are right.
        failed: Samples beside them that the judge failed on.
    """

    n: int
    right: int
    failed: int = 0


class PassAtK(NamedTuple):
    """A point of the curve: the mean over questions, and its lowest and highest value whatever failures hide."""

    k: int
    estimate: Estimate
    bounds: tuple[float, float]


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that k of n samples, drawn without putting back, hold a right one: unbiased for k fresh samples.

    Chen et al., "Evaluating large language models trained on code" (2021), arXiv 2107.03374, equation 1, as the product
    that their appendix computes, which neither overflows nor cancels where n is large.

    Raises:
        ValueError: Not 0 <= right <= n, or not 1 <= k <= n.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} of {n} samples cannot be right")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples")
    if n - right < k:
        return 1.0
    missed = 1.0
    for others in range(n - right + 1, n + 1):
        missed *= 1 - k / others
    return 1 - missed


def curve(questions: Sequence[Sampled], ks: Sequence[int], groups: Sequence[Hashable] | None = None) -> list[PassAtK]:
    """pass@k for each k: the mean over questions, with a bootstrap interval over questions.

    Args:
        questions: Their samples; one with fewer than k that are graded is not known, and leaves mean and n.
        ks: Any, in any order.
        groups: Of each question, what is drawn together in the bootstrap, such as the fact that it asks for.

    Raises:
        ValueError: A k is above the samples of a question, graded or not; draw more.
    """
    return [PassAtK(k, _estimate(questions, k, groups), _bounds(questions, k)) for k in ks]


def _estimate(questions: Sequence[Sampled], k: int, groups: Sequence[Hashable] | None) -> Estimate:
    """The mean over the questions of which k samples are graded."""
    known = [(of, group) for of, group in zip(questions, groups or range(len(questions)), strict=True) if of.n >= k]
    if not known:
        return Estimate.unknown()
    return bootstrapped_means([[pass_at_k(of.n, of.right, k)] for of, _ in known], [group for _, group in known])[0]


def _bounds(questions: Sequence[Sampled], k: int) -> tuple[float, float]:
    """The mean if every failed sample were wrong, and if every one were right; nothing is known of no questions."""
    whole = [of for of in questions if of.n + of.failed]
    if not whole:
        return 0.0, 1.0
    worst = sum(pass_at_k(of.n + of.failed, of.right, k) for of in whole)
    best = sum(pass_at_k(of.n + of.failed, of.right + of.failed, k) for of in whole)
    return worst / len(whole), best / len(whole)


def passes(samples: Sequence[QuestionSamples], n: int, groups: Sequence[Hashable] | None = None) -> list[PassAtK]:
    """pass@k for each power of two up to n, as far as a question has k samples that are graded."""
    sampled = [Sampled(of.drawn - of.failed, of.right, of.failed) for of in samples]
    most = max((of.n for of in sampled), default=0)
    return curve(sampled, [k for k in (1 << at for at in range(n.bit_length())) if k <= min(n, most)], groups)


def first_k(points: Sequence[PassAtK], accuracy: float) -> int | None:
    """The smallest k of a curve at which it reaches an accuracy, whatever rounding takes; None where it does not."""
    return min((point.k for point in points if (point.estimate.value or 0.0) > accuracy - ALIKE), default=None)
