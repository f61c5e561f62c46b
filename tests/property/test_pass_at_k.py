"""pass@k is what it says: the share of all subsets of k samples that hold a right one."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import comb

from closedbook.harness.pass_at_k import PassAtK, Sampled, curve, first_k, pass_at_k, passes
from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.statistics import Estimate

TABLES = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
LARGE = st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(TABLES)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(table):
    n, right, k = table
    subsets = [any(at < right for at in subset) for subset in combinations(range(n), k)]
    assert pass_at_k(n, right, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


@given(LARGE)
def test_pass_at_k_of_many_samples_equals_the_exact_integers(table):
    n, right, k = table
    exact = 1 - comb(n - right, k, exact=True) / comb(n, k, exact=True)
    assert pass_at_k(n, right, k) == pytest.approx(exact, abs=1e-9)
    assert 0 <= pass_at_k(n, right, k) <= 1


@given(LARGE)
def test_more_tries_and_more_right_samples_never_lower_it(table):
    n, right, k = table
    if k < n:
        assert pass_at_k(n, right, k) <= pass_at_k(n, right, k + 1) + 1e-12
    if right < n:
        assert pass_at_k(n, right, k) <= pass_at_k(n, right + 1, k) + 1e-12


@given(LARGE)
def test_all_samples_at_once_hold_a_right_one_if_there_is_one(table):
    n, right, _ = table
    assert pass_at_k(n, right, n) == (right > 0)
    assert pass_at_k(n, right, 1) == pytest.approx(right / n)


@pytest.mark.parametrize(("n", "right", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_what_cannot_be_estimated_is_refused(n, right, k):
    with pytest.raises(ValueError, match="cannot be"):
        pass_at_k(n, right, k)


def test_a_curve_is_the_mean_over_questions():
    points = curve([Sampled(4, 1), Sampled(8, 0), Sampled(4, 4)], [1, 2])
    assert [point.k for point in points] == [1, 2]
    assert [point.estimate.value for point in points] == pytest.approx([1.25 / 3, 1.5 / 3])
    assert all(point.estimate.n == 3 for point in points)


def test_failures_leave_the_mean_and_widen_the_bounds():
    (point,) = curve([Sampled(2, 1, failed=2), Sampled(4, 0)], [1])
    assert point.estimate.value == 0.25
    assert point.bounds == (0.125, 0.375)


def test_a_question_whose_samples_all_failed_is_not_known():
    (point,) = curve([Sampled(0, 0, failed=4), Sampled(4, 2)], [2], groups=["a", "b"])
    assert point.estimate.value == pytest.approx(5 / 6)
    assert point.estimate.n == 1
    assert point.bounds == pytest.approx((5 / 12, 11 / 12))


def test_one_failure_takes_its_question_from_the_k_that_it_lacks_and_no_other():
    ones, twos, fours = curve([Sampled(3, 1, failed=1), Sampled(4, 2), Sampled(4, 0)], [1, 2, 4])
    assert (ones.estimate.n, twos.estimate.n, fours.estimate.n) == (3, 3, 2)
    assert fours.estimate.value == 0.5
    assert fours.bounds == (2 / 3, 2 / 3)


def test_more_than_was_drawn_cannot_be_estimated():
    with pytest.raises(ValueError, match="pass@5 cannot be estimated from 4"):
        curve([Sampled(3, 1, failed=1), Sampled(8, 0)], [5])


def test_no_questions_give_no_figure():
    (point,) = curve([], [1])
    assert (point.estimate.value, point.estimate.n, point.bounds) == (None, 0, (0.0, 1.0))


def test_questions_that_are_all_alike_give_no_interval_rather_than_certainty():
    (point,) = curve([Sampled(4, 0)] * 20, [2])
    assert (point.estimate.value, point.estimate.low, point.estimate.high) == (0.0, None, None)


def sampled(right, wrong, failed=0):
    """A question with so many samples of each kind."""
    rewards = [1.0] * right + [0.0] * wrong + [None] * failed
    return QuestionSamples("q", tuple(Sample(f"{at}", f"{at}", reward, (at,)) for at, reward in enumerate(rewards)))


def test_a_curve_of_samples_goes_as_far_as_they_are_graded():
    points = passes([sampled(1, 2, failed=1), sampled(0, 1, failed=3)], 4)
    assert [(point.k, point.estimate.n) for point in points] == [(1, 2), (2, 1)]
    assert points[0].estimate.value == pytest.approx(1 / 6)
    assert points[0].bounds == pytest.approx((1 / 8, 5 / 8))
    assert [point.k for point in passes([sampled(2, 6)], 8)] == [1, 2, 4, 8]
    assert [point.k for point in passes([sampled(2, 5)], 7)] == [1, 2, 4]


def test_questions_of_one_fact_are_drawn_together_for_a_curve():
    lines = [sampled(at % 4, 4 - at % 4) for at in range(10)]
    ((alone,), (copied,)) = passes(lines, 1), passes(lines * 4, 1, list(range(10)) * 4)
    ends = [(point.estimate.value, point.estimate.low, point.estimate.high) for point in (alone, copied)]
    assert ends[1] == pytest.approx(ends[0])


def test_the_first_k_that_reaches_an_accuracy():
    points = curve([Sampled(8, 2), Sampled(8, 1)], [1, 2, 4, 8])
    assert first_k(points, points[2].estimate.value or math.nan) == 4
    assert first_k(points, 0.01) == 1
    assert first_k(points[:2], 0.9) is None


@given(TABLES)
def test_an_accuracy_is_reached_by_the_k_that_equals_it_whatever_rounding_takes(table):
    n, right, _ = table
    points = [PassAtK(k, Estimate(pass_at_k(n, right, k), None, None, 1), (0.0, 1.0)) for k in (1, n)]
    assert first_k(points, right / n) == 1
    assert first_k(points, pass_at_k(n, right, n) + 1e-6) is None


def test_the_interval_of_a_curve_covers_at_its_nominal_rate():
    """Of 300 studies with 60 questions in pairs that share their chance, about 95 in 100 hold the true pass@4."""
    chance, covered = np.random.default_rng(7), 0
    true = float(np.mean(1 - (1 - np.linspace(0, 0.5, 10_001)) ** 4))
    for _ in range(300):
        rates = np.repeat(chance.uniform(0, 0.5, 30), 2)
        right = chance.binomial(16, rates)
        (point,) = curve([Sampled(16, int(count)) for count in right], [4], groups=list(np.arange(60) // 2))
        covered += (point.estimate.low or 0.0) <= true <= (point.estimate.high or 1.0)
    assert 0.90 <= covered / 300 <= 0.985
