"""Figures and their intervals."""

import math
import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from closedbook.harness.statistics import (
    Confusion,
    Estimate,
    bootstrapped_mean,
    bootstrapped_means,
    bootstrapped_ratio,
    detectable,
    difference,
    holm,
    kappa,
    mean_over_tasks,
    paired,
    proportion,
    sign_flips,
    wilson,
)


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
    few, many = wilson(1, 10), wilson(900, 1000)
    assert mean.low == pytest.approx(0.5 - math.hypot(0.1 - few.low, 0.9 - many.low) / 2)
    assert mean.high == pytest.approx(0.5 + math.hypot(few.high - 0.1, many.high - 0.9) / 2)


def test_a_mean_over_tasks_without_a_right_answer_is_not_certain():
    mean = mean_over_tasks([wilson(0, 50), wilson(0, 80)])
    assert mean.value == 0
    assert mean.low == pytest.approx(0, abs=1e-12)
    assert mean.high == pytest.approx(math.hypot(wilson(0, 50).high, wilson(0, 80).high) / 2)
    one, alone = mean_over_tasks([wilson(7, 50)]), wilson(7, 50)
    assert (one.value, one.low, one.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_a_mean_over_tasks_is_not_known_where_a_task_is_not():
    assert mean_over_tasks([wilson(1, 10), wilson(0, 0)]) == Estimate(None, None, None, 10)


def test_a_mean_over_tasks_has_no_interval_where_a_task_has_none() -> None:
    for value in (0.0, 1.0):
        for bare in (Estimate(value, None, None, 5), Estimate(value, 0.0, None, 5), Estimate(value, None, 1.0, 5)):
            mean = mean_over_tasks([bare, wilson(5, 10)])
            assert (mean.value, mean.low, mean.high, mean.n) == ((value + 0.5) / 2, None, None, 15)


def test_a_judge_that_always_says_the_same_has_a_kappa_of_zero_and_no_interval() -> None:
    agreement = kappa(Confusion(true_positive=7, false_positive=3))
    assert (agreement.value, agreement.low, agreement.high, str(agreement)) == (0.0, None, None, "0.0 [-]")


# --- the same questions answered twice ---


def test_a_paired_comparison_counts_what_was_gained_and_what_was_lost() -> None:
    found = paired([1, 1, 0, 0, 0], [1, 0, 1, 1, 0])
    assert (found.gained, found.lost, found.difference.value, found.difference.n) == (2, 1, 0.2, 5)


def test_mcnemar_is_a_fair_coin_over_the_questions_that_changed() -> None:
    """Ten gained and two lost of a hundred: twice the chance of at most two heads in twelve throws."""
    before, after = [0] * 10 + [1] * 2 + [1] * 88, [1] * 10 + [0] * 2 + [1] * 88
    assert paired(before, after).p == pytest.approx(2 * (1 + 12 + 66) / 2**12)


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 4)), max_size=12))
def test_sign_flips_count_all_signs_of_the_groups_sums(cases: list[tuple[int, int]]) -> None:
    sums = [sum(change for change, of in cases if of == group) for group in range(5)]
    totals = [abs(sum(sign * of for sign, of in zip(signs, sums, strict=True))) for signs in product((1, -1), repeat=5)]
    share = sum(total >= abs(sum(sums)) for total in totals) / len(totals)
    assert sign_flips([change for change, _ in cases], [of for _, of in cases]) == pytest.approx(share)


@given(st.lists(st.integers(-1, 1), max_size=60))
def test_sign_flips_of_single_questions_are_mcnemars_exact_test(changes: list[int]) -> None:
    gained, lost = changes.count(1), changes.count(-1)
    exact = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    assert sign_flips(changes, range(len(changes))) == pytest.approx(exact)


def test_the_sign_flip_test_keeps_its_level_where_questions_share_a_fact() -> None:
    """Of 2,000 tables without an effect, 20 facts in five questions each, one in twenty seems to have one."""
    chance = np.random.default_rng(5)
    alarms = naive = 0
    for _ in range(2000):
        changes = np.repeat(chance.choice([-1, 0, 1], 20), 5).tolist()
        alarms += sign_flips(changes, [at // 5 for at in range(100)]) < 0.05
        naive += sign_flips(changes, range(100)) < 0.05
    assert alarms / 2000 <= 0.06
    assert naive / 2000 > 0.2


def test_pairs_of_one_group_are_tested_as_one_and_counted_as_they_are() -> None:
    found = paired([0] * 6 + [1], [1] * 6 + [0], ["africa"] * 6 + ["asia"])
    assert (found.gained, found.lost, found.p) == (6, 1, 1.0)
    assert paired([0] * 6 + [1], [1] * 6 + [0]).p == pytest.approx(2 * 8 / 2**7)


def test_equal_answers_show_no_difference_and_prove_nothing() -> None:
    found = paired([1, 0] * 50, [1, 0] * 50)
    assert (found.difference.value, found.p) == (0, 1)
    assert found.difference.low == pytest.approx(-(found.difference.high or 0), abs=1e-12)
    assert -0.05 < (found.difference.low or 0) < 0


def test_a_question_that_is_not_known_once_is_left_out_of_both() -> None:
    assert paired([1, math.nan, 0], [1, 1, math.nan]).difference == paired([1], [1]).difference
    assert paired([math.nan], [1]).difference == Estimate(None, None, None, 0)


def test_a_question_that_is_not_known_leaves_the_others_in_their_groups() -> None:
    assert paired([math.nan, 0, 0, 0], [1] * 4, ["asia", "africa", "africa", "africa"]).p == 1


def test_no_questions_prove_nothing() -> None:
    assert paired([], []).p == paired([math.nan], [1]).p == sign_flips([], []) == 1


def test_answers_of_different_lengths_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired([1, 0], [1])


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1))
def test_a_paired_comparison_turned_round_is_its_negative(pairs: list[tuple[float, float]]) -> None:
    before, after = [one for one, _ in pairs], [other for _, other in pairs]
    there, back = paired(before, after), paired(after, before)
    assert (there.gained, there.lost, there.p) == (back.lost, back.gained, back.p)
    low, high = there.difference.low, there.difference.high
    assert low is not None and high is not None and back.difference.low is not None
    assert low <= (there.difference.value or 0) <= high
    assert back.difference.low == pytest.approx(-high, abs=1e-9)


def test_the_paired_interval_covers_the_true_difference_at_its_nominal_rate() -> None:
    """2,000 data sets of 200 questions: 25 % right before, 33 % after, half of the first kept by luck of the draw."""
    rng = np.random.default_rng(7)
    chances = {(1, 1): 0.19, (1, 0): 0.06, (0, 1): 0.14, (0, 0): 0.61}
    kinds, covered = list(chances), 0
    for drawn in rng.choice(4, size=(2000, 200), p=list(chances.values())):
        found = paired([kinds[k][0] for k in drawn], [kinds[k][1] for k in drawn]).difference
        covered += (found.low or 0) <= 0.08 <= (found.high or 0)
    assert 0.935 < covered / 2000 < 0.97


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_a_bootstrapped_mean_of_independent_cases_has_about_the_interval_of_wilson() -> None:
    (mean,) = bootstrapped_means([[1.0]] * 300 + [[0.0]] * 700)
    exact = wilson(300, 1000)
    assert (mean.value, mean.n) == (0.3, 1000)
    assert (mean.low, mean.high) == pytest.approx((exact.low, exact.high), abs=0.005)


def test_cases_that_go_together_widen_the_interval() -> None:
    """Ten copies of each case know no more than one."""
    table = [[float(at % 3 == 0)] for at in range(60)]
    (alone,) = bootstrapped_means(table)
    (copied,) = bootstrapped_means(table * 10, groups=list(range(60)) * 10)
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_columns_are_resampled_together_and_estimated_apart() -> None:
    right, wrong, twice = bootstrapped_means([[at % 4 == 0, at % 4 != 0, 2 * (at % 4 == 0)] for at in range(40)])
    assert (right.value, wrong.value, twice.value) == (0.25, 0.75, 0.5)
    assert (wrong.low, wrong.high) == pytest.approx((1 - (right.high or 0), 1 - (right.low or 0)))
    assert twice.high == pytest.approx(2 * (right.high or 0))


def test_cases_that_are_all_alike_have_no_interval() -> None:
    assert bootstrapped_means([[0.0, 1.0]] * 5) == [Estimate(0.0, None, None, 5), Estimate(1.0, None, None, 5)]


def test_what_is_not_known_leaves_a_bootstrapped_mean_and_its_n() -> None:
    values, groups = [1.0, math.nan, 0.0, 1.0], ["a", "a", "b", "c"]
    assert bootstrapped_mean(values, groups) == bootstrapped_means([[1.0], [0.0], [1.0]], ["a", "b", "c"])[0]
    assert bootstrapped_mean([math.nan] * 3) == bootstrapped_mean([]) == Estimate.unknown()


def test_the_detectable_difference_is_found_as_often_as_it_says() -> None:
    n, changed, chance = 400, 0.2, random.Random(3)
    difference = detectable(n, changed)
    assert difference is not None
    gain = (changed + difference) / 2
    found = 0
    for _ in range(400):
        drawn = [chance.random() for _ in range(n)]
        pairs = [(0.0, 1.0) if u < gain else (1.0, 0.0) if u < changed else (1.0, 1.0) for u in drawn]
        found += paired([one for one, _ in pairs], [other for _, other in pairs]).p < 0.05
    assert 0.70 <= found / 400 <= 0.87  # the exact test is a little more careful than the formula


def test_more_questions_show_smaller_differences_and_too_few_show_none() -> None:
    assert (detectable(4000, 0.2) or 1) < (detectable(400, 0.2) or 0)
    assert detectable(10, 0.1) is None
    assert detectable(100, 0.0) is detectable(0, 0.5) is None


def test_a_ratio_of_means_is_exact_and_has_the_interval_of_its_simulation() -> None:
    above, below = [1.0, 0.0, 1.0, 1.0] * 50, [1.0, 1.0, 1.0, 0.0] * 50
    found = bootstrapped_ratio(above, below)
    assert (found.value, found.n) == (1.0, 200)
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, 200, 200) for _ in range(4000)]
    pairs = np.column_stack([above, below])
    low, high = np.quantile([pairs[at, 0].sum() / pairs[at, 1].sum() for at in drawn], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_a_share_of_what_is_not_surely_above_zero_has_no_interval() -> None:
    assert bootstrapped_ratio([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, -1.0, 0.0]) == Estimate(1.0, None, None, 4)
    assert (
        bootstrapped_ratio([1.0, 1.0], [0.0, 0.0])
        == bootstrapped_ratio([1.0, 1.0], [-1.0, 0.0])
        == Estimate(None, None, None, 2)
    )


def test_a_share_on_which_all_resamples_agree_has_no_interval() -> None:
    gains = [1.0, 0.0, 1.0, -1.0, 1.0, 1.0] * 10
    assert bootstrapped_ratio(gains, gains) == Estimate(1.0, None, None, 60)
    assert bootstrapped_ratio([0.0] * 60, gains) == Estimate(0.0, None, None, 60)


def test_a_mean_over_groups_of_several_sizes_weighs_every_case_the_same_in_each_resample() -> None:
    (mean,) = bootstrapped_means([[1.0]] * 9 + [[0.0]] * 3, groups=[0] * 9 + [1, 2, 3])
    assert mean.value == 0.75
    assert (mean.low, mean.high) == pytest.approx((0, 27 / 28))  # no draw of the large group, or three of four


def test_a_resample_in_which_the_lower_mean_is_nothing_leaves_the_interval() -> None:
    found = bootstrapped_ratio([1.0, 0.0, 1.0, 0.0, 1.0] + [0.0] * 5, [1.0] * 5 + [0.0] * 5)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low < 0.6 < found.high <= 1


def test_means_that_differ_by_rounding_are_alike() -> None:
    (mean,) = bootstrapped_means([[0.1]] * 5, groups=[0, 0, 0, 1, 1])
    assert (mean.low, mean.high) == (None, None)


def test_a_share_by_groups_is_that_of_independent_groups() -> None:
    gains = [1.0, 0.0, 1.0, -1.0, 1.0, 1.0] * 10
    alone, copied = (
        bootstrapped_ratio(gains[:30], [1.0] * 30),
        bootstrapped_ratio(gains[:30] * 4, [1.0] * 120, list(range(30)) * 4),
    )
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_a_ratio_whose_lower_mean_may_be_nothing_has_no_interval():
    found = bootstrapped_ratio([1.0] + [0.0] * 59, [1.0] * 3 + [0.0] * 57)  # its 2.5 % quantile is exactly nothing
    assert found.value == pytest.approx(1 / 3) and (found.low, found.high) == (None, None)


def test_the_correlation_of_two_runs_is_corrected_for_continuity_as_newcombe_does():
    """By his formula for method 10, of a table in which the correction counts: 20 * 20 > 7 * 3."""
    before = [1.0] * 20 + [1.0] * 3 + [0.0] * 7 + [0.0] * 20
    after = [1.0] * 20 + [0.0] * 3 + [1.0] * 7 + [0.0] * 20
    found = paired(before, after).difference
    n, product, margins = 50, 20 * 20 - 7 * 3, 27 * 23 * 23 * 27
    phi = (product - n / 2) / margins**0.5
    first, second = wilson(27, n), wilson(23, n)
    below = ((first.value - first.low) ** 2 - 2 * phi * (first.value - first.low) * (second.high - second.value)
             + (second.high - second.value) ** 2) ** 0.5  # fmt: skip
    assert found.low == pytest.approx(4 / 50 - below)


def test_a_correlation_that_the_correction_would_turn_round_is_none():
    """3 * 3 > 2 * 3, but not by half of the questions: by Newcombe's method 10 phi is then 0."""
    found = paired([1] * 6 + [0] * 5, [1] * 3 + [0] * 3 + [1] * 2 + [0] * 3).difference
    first, second = wilson(5, 11), wilson(6, 11)
    below = math.hypot(first.value - first.low, second.high - second.value)
    assert found.low == pytest.approx(-1 / 11 - below)
