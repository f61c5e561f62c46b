"""Figures with their uncertainty. Every number that is shown carries an interval and its n.

>>> wilson(30, 100)
Estimate(value=0.3, low=0.21894885294932764, high=0.39584854633346667, n=100)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its 95 % interval, and the number of cases it rests on; all None where there are none."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        """As shown to people, in per cent."""
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, n: int) -> Estimate:
    """A proportion with its Wilson score interval.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n == 0:
        return Estimate(None, None, None, 0)
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n)


def proportion(values: Iterable[float]) -> Estimate:
    """The mean of zeros and ones with its Wilson interval. NaN means "not known" and leaves the mean and n.

    Raises:
        ValueError: A value is something else, such as a mean over repeats.
    """
    known = [value for value in values if not math.isnan(value)]
    if other := [value for value in known if value not in (0, 1)]:
        raise ValueError(f"a proportion is taken over zeros and ones, not over {other[0]}")
    return wilson(sum(value == 1 for value in known), len(known))


def mean_over_tasks(parts: Sequence[Estimate]) -> Estimate:
    """The plain mean of several proportions, each task with the same weight, with a normal interval; n is the sum.

    None if one of the parts is: a mean over the others would be a mean over something else.
    """
    values = [part.value for part in parts if part.value is not None]
    n = sum(part.n for part in parts)
    if not values or len(values) < len(parts):
        return Estimate(None, None, None, n)
    mean = sum(values) / len(values)
    variance = sum(value * (1 - value) / part.n for value, part in zip(values, parts, strict=True)) / len(values) ** 2
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(variance)
    return Estimate(mean, max(0.0, mean - reach), min(1.0, mean + reach), n)
