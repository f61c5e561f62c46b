"""Figures with their uncertainty. Every number that is shown carries an interval and its n.

>>> wilson(30, 100)
Estimate(value=0.3, low=0.21894885294932764, high=0.39584854633346667, n=100)
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Confusion",
    "Estimate",
    "Paired",
    "bootstrapped_mean",
    "bootstrapped_means",
    "bootstrapped_ratio",
    "corrected",
    "detectable",
    "difference",
    "holm",
    "kappa",
    "mean_over_tasks",
    "paired",
    "proportion",
    "sign_flips",
    "wilson",
]

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
RESAMPLES = 10_000
AT_ONCE = 500  # resamples held in memory
ALIKE = 1e-12  # numbers that differ by less differ by rounding


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its 95 % interval, and the number of cases it rests on; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def unknown(cls, n: int = 0) -> Estimate:
        """No figure, though there may be cases."""
        return cls(None, None, None, n)

    def __str__(self) -> str:
        """As shown to people, in per cent."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{_per_cent(self.value)} [-]"
        return f"{_per_cent(self.value)} [{_per_cent(self.low)}, {_per_cent(self.high)}]"


def _per_cent(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f}"  # never "-0.0"


def number(value: float, name: str = "") -> str:
    """A number as a column of that name shows it: p values, shares in per cent, counts, others to three digits.

    >>> number(0.00001, "p (Holm)"), number(0.25, "share of the gain"), number(12345), number(0.123456), number(1234.5)
    ('< 0.001', '25.0 %', '12,345', '0.123', '1,234')
    """
    if re.match(r"p\b", name):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if name.startswith("share") and isinstance(value, float):
        return f"{100 * value:.1f} %"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def wilson(successes: int, n: int) -> Estimate:
    """A proportion with its Wilson score interval.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n == 0:
        return Estimate.unknown()
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


def difference(first: Estimate, second: Estimate) -> Estimate:
    """`first` - `second` of two proportions of different cases, with Newcombe's hybrid score interval; n is the sum.

    Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven methods",
    Statistics in Medicine 17 (1998), method 10. Not known where one of the two is not.
    """
    n = first.n + second.n
    if first.value is None or second.value is None:
        return Estimate.unknown(n)
    value = first.value - second.value
    below = math.hypot(first.value - (first.low or 0.0), (second.high or 0.0) - second.value)
    above = math.hypot((first.high or 0.0) - first.value, second.value - (second.low or 0.0))
    return Estimate(value, value - below, value + above, n)


@dataclass(frozen=True, slots=True)
class Paired:
    """The same questions answered twice: `after` against `before`.

    Attributes:
        difference: Share right after minus share right before.
        gained: Questions that are right only after.
        lost: Questions that are right only before.
        p: That gains and losses are equally likely, by `sign_flips`.
    """

    difference: Estimate
    gained: int
    lost: int
    p: float


def paired(before: Sequence[float], after: Sequence[float], groups: Sequence[Hashable] | None = None) -> Paired:
    """Compare two lists of zeros and ones over the same cases; one that is not known (NaN) in a list is left out.

    The interval is Newcombe's, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17 (1998), method 10; it takes every case for itself.

    Args:
        before: Of each case.
        after: Of each case.
        groups: Of each case, what the test takes together; each stands for itself where none are given.

    Raises:
        ValueError: They are not of one length.
    """
    whole = list(zip(before, after, groups or range(len(before)), strict=True))
    known = [case for case in whole if not any(map(math.isnan, case[:2]))]
    cases = [case[:2] for case in known]
    n = len(cases)
    if not n:
        return Paired(Estimate.unknown(), 0, 0, 1.0)
    both, lost, gained, neither = (cases.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0)))
    p = sign_flips([int(other - one) for one, other in cases], [group for _, _, group in known])
    first, second = wilson(both + gained, n), wilson(both + lost, n)
    phi = _phi(both, gained, lost, neither)
    below = _reach(_span(first.value, first.low), _span(second.high, second.value), phi)
    above = _reach(_span(first.high, first.value), _span(second.value, second.low), phi)
    value = (gained - lost) / n
    return Paired(Estimate(value, value - below, value + above, n), gained, lost, p)


def sign_flips(changes: Sequence[int], groups: Sequence[Hashable]) -> float:
    """P value, two-sided and exact, that the changes of each group are as likely in either direction.

    Under the hypothesis a group's sum may as well have the other sign, so the total is compared with those of all
    choices of signs: Fisher's randomisation test ("The design of experiments", 1935, section 21) with groups in the
    place of cases. Where each case is a group of its own it is McNemar's exact test, "Note on the sampling error of the
    difference between correlated proportions or percentages", Psychometrika 12 (1947).

    Args:
        changes: Of each case, in whole numbers.
        groups: Of each case; what one fact changes is one piece of evidence.
    """
    import numpy as np

    sums: defaultdict[Hashable, int] = defaultdict(int)
    for change, group in zip(changes, groups, strict=True):
        sums[group] += change
    chances = np.ones(1)  # of each total from -reach to reach
    for size in (abs(total) for total in sums.values() if total):
        either = np.zeros(2 * size + 1)
        either[[0, -1]] = 0.5
        chances = np.convolve(chances, either)
    reach, total = len(chances) // 2, abs(sum(sums.values()))
    return min(1.0, float(chances[np.abs(np.arange(-reach, reach + 1)) >= total].sum()))


def _span(high: float | None, low: float | None) -> float:
    return abs((high or 0.0) - (low or 0.0))


def _reach(own: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, own**2 - 2 * phi * own * other + other**2))


def _phi(both: int, gained: int, lost: int, neither: int) -> float:
    """Correlation of the two answers to a question, corrected for continuity as Newcombe does."""
    product: float = both * neither - gained * lost
    if product > 0:
        product = max(0.0, product - (both + gained + lost + neither) / 2)
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    return product / math.sqrt(margins) if margins else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of several tests, adjusted so that one false alarm among all is as unlikely as in one test.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = worst
    return adjusted


def mean_over_tasks(parts: Sequence[Estimate]) -> Estimate:
    """The plain mean of several proportions, each task with the same weight; n is the sum.

    The interval joins those of the parts, as Newcombe's does for a difference (`difference`), so that a mean of zeros
    is not certain; there is none where a part has none. None if one of the parts is: a mean over the others would be a
    mean over something else.
    """
    values = [part.value for part in parts if part.value is not None]
    n = sum(part.n for part in parts)
    if not values or len(values) < len(parts):
        return Estimate.unknown(n)
    mean = sum(values) / len(values)
    ends = [(part.low, part.high) for part in parts if part.low is not None and part.high is not None]
    if len(ends) < len(parts):
        return Estimate(mean, None, None, n)
    below = math.hypot(*(value - low for value, (low, _) in zip(values, ends, strict=True))) / len(values)
    above = math.hypot(*(high - value for value, (_, high) in zip(values, ends, strict=True))) / len(values)
    return Estimate(mean, mean - below, mean + above, n)


def bootstrapped_means(table: Sequence[Sequence[float]], groups: Sequence[Hashable] | None = None) -> list[Estimate]:
    """The mean of each column over cases, with a percentile bootstrap interval over cases; n is the number of cases.

    Cases of one group are drawn together: questions that ask for one fact are not independent. Without an interval
    where all groups have the same mean, as where no answer is right: the bootstrap then knows nothing of the
    uncertainty. Seeded, so that a table gives the same figures each time.

    Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13; groups as in Field and Welsh,
    "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69 (2007).

    Args:
        table: Of shape (cases, columns), at least one case.
        groups: Of each case; each stands for itself where none are given.
    """
    import numpy as np

    cases = np.asarray(table, dtype=float)
    sums, sizes = _by_group(cases, groups)
    drawn = np.vstack([times @ sums / (times @ sizes)[:, None] for times in _resamples(len(sums))])
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    alike = np.ptp(sums / sizes[:, None], axis=0) < ALIKE
    return [
        Estimate(float(mean), None if same else float(below), None if same else float(above), len(cases))
        for mean, below, above, same in zip(cases.mean(axis=0), low, high, alike, strict=True)
    ]


def bootstrapped_mean(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> Estimate:
    """The mean of one number a case, as of `bootstrapped_means`. NaN means "not known" and leaves the mean and n."""
    whole = zip(values, groups or range(len(values)), strict=True)
    known = [(value, group) for value, group in whole if not math.isnan(value)]
    if not known:
        return Estimate.unknown()
    return bootstrapped_means([[value] for value, _ in known], [group for _, group in known])[0]


def bootstrapped_ratio(
    above: Sequence[float], below: Sequence[float], groups: Sequence[Hashable] | None = None
) -> Estimate:
    """The ratio of two means over the same cases, with a bootstrap interval in which both are drawn together.

    A ratio to what may be nothing says nothing: there is no interval where the lower mean is not above zero in 97.5 %
    of the resamples, and no value where it is not above zero itself. Nor is there an interval where all resamples
    agree. Sources as of `bootstrapped_means`.

    Args:
        above: One number a case.
        below: Another one.
        groups: Of each case; each stands for itself where none are given.
    """
    import numpy as np

    if not sum(below) > 0:
        return Estimate.unknown(len(below))
    sums, _ = _by_group(np.column_stack([above, below]).astype(float), groups)
    drawn = np.vstack([times @ sums for times in _resamples(len(sums))])
    value = sum(above) / sum(below)
    if np.quantile(drawn[:, 1], (1 - CONFIDENCE) / 2) <= 0 or len(sums) == 1:
        return Estimate(value, None, None, len(below))
    kept = drawn[drawn[:, 1] > 0]
    ratios = kept[:, 0] / kept[:, 1]
    if np.ptp(ratios) < ALIKE:
        return Estimate(value, None, None, len(below))
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), len(below))


def _by_group(
    cases: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The sum of each group's cases (groups, columns), and how many they are (groups,)."""
    import numpy as np

    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(name, len(numbers)) for name in (groups or range(len(cases)))])
    sums = np.zeros((len(numbers), cases.shape[1]))
    np.add.at(sums, of, cases)
    return sums, np.bincount(of)


def _resamples(groups: int) -> Iterator[NDArray[np.int64]]:
    """How often each group is drawn in each resample, of shape (some resamples, groups) at a time; always the same."""
    import numpy as np

    chance = np.random.default_rng(0)
    for _ in range(RESAMPLES // AT_ONCE):
        yield chance.multinomial(groups, np.full(groups, 1 / groups), size=AT_ONCE)


def detectable(n: int, changed: float, power: float = 0.8) -> float | None:
    """The smallest difference of two accuracies that McNemar's test at 5 % would find with that power.

    Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43 (1987).

    Args:
        n: Questions.
        changed: Share of them that are right in one run only.
        power: Chance to find it.

    Returns:
        None where even a difference of `changed`, all of them in one direction, would not be found.
    """
    from scipy.optimize import brentq

    certain, wanted = Z, NormalDist().inv_cdf(power)

    def missing(difference: float) -> float:
        reach = certain * math.sqrt(changed) + wanted * math.sqrt(max(0.0, changed - difference**2))
        return difference * math.sqrt(n) - reach

    return float(brentq(missing, 0.0, changed)) if n and changed and missing(changed) > 0 else None


@dataclass(frozen=True, slots=True)
class Confusion:
    """A judge against people: answers by what the judge said and what people said."""

    true_positive: int = 0
    false_positive: int = 0
    true_negative: int = 0
    false_negative: int = 0

    @property
    def n(self) -> int:
        """Answers that both have graded."""
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative

    @property
    def right(self) -> int:
        """Answers that people call right."""
        return self.true_positive + self.false_negative

    @property
    def wrong(self) -> int:
        """Answers that people call wrong."""
        return self.true_negative + self.false_positive

    def figures(self) -> dict[str, Estimate]:
        """Accuracy, false positive rate, false negative rate and Cohen's kappa."""
        return {
            "accuracy": wilson(self.true_positive + self.true_negative, self.n),
            "fpr": wilson(self.false_positive, self.wrong),
            "fnr": wilson(self.false_negative, self.right),
            "kappa": kappa(self),
        }


def kappa(table: Confusion) -> Estimate:
    """Cohen's kappa with a percentile bootstrap interval; without a value where people call all right, or all wrong.

    Without an interval where every resampled table gives the same kappa, as for a judge that calls all answers right:
    the bootstrap then knows nothing of the uncertainty.

    Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960). The
    bootstrap draws whole tables from a multinomial distribution, which is the same as drawing answers, and is seeded.
    """
    import numpy as np

    cells = np.array(
        [table.true_positive, table.false_positive, table.true_negative, table.false_negative], dtype=float
    )
    if not table.n or not table.right or not table.wrong:
        return Estimate.unknown(table.n)
    drawn = np.random.default_rng(0).multinomial(table.n, cells / table.n, size=RESAMPLES)
    value, *resampled = _kappas(np.vstack([cells, drawn]))
    if np.nanmin(resampled) == np.nanmax(resampled):
        return Estimate(float(value), None, None, table.n)
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(value), float(low), float(high), table.n)


def _kappas(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa of each row of [tp, fp, tn, fn]; NaN where chance alone would agree always."""
    import numpy as np

    tp, fp, tn, fn = cells.T / cells.sum(axis=1)
    chance = (tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((tp + tn - chance) / (1 - chance))


def corrected(raw: Estimate, table: Confusion) -> Estimate:
    """Accuracy as an exact judge would have found it, from what this judge found and its errors on labelled answers.

    The value is Rogan and Gladen's, "Estimating prevalence from the results of a screening test", American Journal of
    Epidemiology 107 (1978), kept within [0, 1]. The interval is Lang and Reiczigel's, "Confidence limits for prevalence
    of disease adjusted for estimated sensitivity and specificity", Preventive Veterinary Medicine 113 (2014): it
    carries the uncertainty of the calibration too. Both suppose that the judge errs here as often as it did there.

    Args:
        raw: The share of answers that the judge called right, with its n.
        table: The judge against people, on other answers.

    Returns:
        No value where there is no raw one, no label of one kind, or a judge no better than chance.
    """
    if raw.value is None or not table.right or not table.wrong:
        return Estimate.unknown(raw.n)
    sensitivity, specificity = table.true_positive / table.right, table.true_negative / table.wrong
    if sensitivity + specificity <= 1:
        return Estimate.unknown(raw.n)
    value = _clip((raw.value + specificity - 1) / (sensitivity + specificity - 1))

    n, right, wrong = raw.n + Z**2, table.right + 2, table.wrong + 2
    p = (raw.n * raw.value + Z**2 / 2) / n
    se, sp = (table.true_positive + 1) / right, (table.true_negative + 1) / wrong
    if se + sp <= 1:
        return Estimate(value, 0.0, 1.0, raw.n)
    share = (p + sp - 1) / (se + sp - 1)
    se_variance, sp_variance = se * (1 - se) / right, sp * (1 - sp) / wrong
    shift = 2 * Z**2 * (share * se_variance - (1 - share) * sp_variance)
    spread = p * (1 - p) / n + share**2 * se_variance + (1 - share) ** 2 * sp_variance
    reach = Z * math.sqrt(spread) / (se + sp - 1)
    return Estimate(value, min(value, _clip(share + shift - reach)), max(value, _clip(share + shift + reach)), raw.n)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
