"""Figures and their intervals."""

import math

import pytest

from closedbook.harness.statistics import Confusion, Estimate, difference, kappa, mean_over_tasks, proportion, wilson


def test_wilson_gives_the_textbook_interval():
    estimate = wilson(81, 263)  # Newcombe (1998), Statistics in Medicine 17, table I
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize("n", [1, 7, 1000])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_interval_holds_its_value_and_stays_within_0_and_1(share, n):
    estimate = wilson(int(share * n), n)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_no_cases_give_no_figure_rather_than_zero():
    assert wilson(0, 0) == Estimate(None, None, None, 0)
    assert str(wilson(0, 0)) == "-"


def test_unknown_values_leave_the_mean_and_n():
    assert proportion([1.0, math.nan, 0.0, math.nan]) == wilson(1, 2)


def test_a_figure_reads_in_per_cent_with_its_interval():
    assert str(wilson(30, 100)) == "30.0 [21.9, 39.6]"
    assert str(Estimate(-0.0001, -0.02, 0.0001, 9)) == "0.0 [-2.0, 0.0]"


def test_a_proportion_refuses_what_is_neither_0_nor_1():
    with pytest.raises(ValueError, match=r"not over 0\.5"):
        proportion([0.5])


def test_a_difference_has_the_published_interval():
    found = difference(wilson(56, 70), wilson(48, 80))  # Newcombe (1998), Statistics in Medicine 17, page 873
    assert [round(value, 4) for value in (found.value, found.low, found.high)] == [0.2, 0.0524, 0.3339]
    assert found.n == 150


def test_a_difference_from_what_is_not_known_is_not_known():
    assert difference(wilson(1, 2), wilson(0, 0)) == Estimate(None, None, None, 2)


def test_a_mean_over_tasks_weighs_every_task_the_same():
    mean = mean_over_tasks([wilson(1, 10), wilson(900, 1000)])
    assert (mean.value, mean.n) == (0.5, 1010)
    assert mean.low < 0.5 < mean.high


def test_a_mean_over_tasks_is_not_known_where_a_task_is_not():
    assert mean_over_tasks([wilson(1, 10), wilson(0, 0)]) == Estimate(None, None, None, 10)


def test_a_judge_that_always_says_the_same_has_a_kappa_of_zero_and_no_interval() -> None:
    agreement = kappa(Confusion(true_positive=7, false_positive=3))
    assert (agreement.value, agreement.low, agreement.high, str(agreement)) == (0.0, None, None, "0.0 [-]")
