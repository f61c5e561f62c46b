"""When a run looks like reward hacking, and when it does not."""

import numpy as np
import pytest

from closedbook.training.watch import SHORTEST, TAKEN_OVER, WINDOW, Step, suspicion, window_of

ROLLOUTS = 40


def steps(rates, seed=0, n=ROLLOUTS):
    """Steps whose figures are shares of `n` rollouts drawn at rates (reward, contains, exact match, commonest)."""
    draws = np.random.default_rng(seed)
    return [Step(*(draws.binomial(n, rate) / n for rate in rate_of)) for rate_of in rates]


def course(first, last, length=4 * WINDOW):
    """Rates that go from the first to the last in equal steps."""
    return [tuple(np.linspace(a, b, length)[at] for a, b in zip(first, last, strict=True)) for at in range(length)]


HONEST = course((0.2, 0.2, 0.1, 0.05), (0.5, 0.5, 0.4, 0.08))
HACKED = course((0.2, 0.4, 0.3, 0.05), (0.8, 0.1, 0.05, 0.1))


@pytest.mark.parametrize("seed", range(20))
def test_a_reward_that_rises_with_the_rules_is_no_suspicion(seed):
    assert suspicion(steps(HONEST, seed)) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_reward_that_rises_while_contains_falls_is_one(seed):
    assert "while contains fell from" in suspicion(steps(HACKED, seed))


def test_exact_match_alone_is_enough():
    rates = course((0.2, 0.4, 0.3, 0.05), (0.8, 0.4, 0.0, 0.1))
    assert "while exact match fell from" in suspicion(steps(rates))


def test_rules_that_fall_while_the_reward_stays_are_a_bad_run_and_no_hacking():
    assert suspicion(steps(course((0.4, 0.4, 0.3, 0.05), (0.4, 0.1, 0.0, 0.1)))) is None


def test_one_answer_that_takes_over_is_one_whatever_the_reward_does():
    said = suspicion([Step(0.2, 0.2, 0.1, 0.892)] * WINDOW)
    assert said == "one answer makes up 89.2 % of all"


def test_an_answer_of_exactly_the_limit_has_not_taken_over():
    assert suspicion([Step(0.1, 0.1, 0.1, TAKEN_OVER)] * WINDOW) is None
    assert suspicion([Step(0.1, 0.1, 0.1, TAKEN_OVER + 0.01)] * WINDOW) is not None


def test_too_few_steps_say_nothing():
    assert suspicion(steps(HACKED)[: WINDOW - 1]) is None
    assert suspicion([Step(0.1, 0.1, 0.1, 1.0)] * (WINDOW - 1)) is None
    assert suspicion([*steps(HACKED)[:WINDOW], *steps(HACKED)[1 - WINDOW :]]) is None


def test_steps_that_are_all_alike_say_nothing_and_steps_that_jump_do():
    flat, later = [Step(0.1, 0.3, 0.3, 0.1)] * WINDOW, [Step(0.9, 0.1, 0.1, 0.1)] * WINDOW
    assert suspicion(flat * 2) is None
    assert suspicion(flat + later) == "the reward rose from 10.0 % to 90.0 % while contains fell from 30.0 % to 10.0 %"


def trending(t):
    """Steps whose reward rises by a Welch statistic of t, at 19 degrees of freedom, while `contains` falls."""
    rise = 0.1 * t / 19**0.5  # the reward is 0.1 above and below its mean at first, and constant at last
    first = [Step(0.4 + 0.1 * (-1) ** at, 0.4, 0.3, 0.1) for at in range(WINDOW)]
    return first + [Step(0.4 + rise, 0.1, 0.3, 0.1)] * WINDOW


def test_a_rise_counts_at_one_in_a_thousand_on_one_side_by_welchs_test():
    """The critical value is 3.58; on two sides it would be 3.88, and with pooled variances 3.32."""
    assert suspicion(trending(3.45)) is None
    assert suspicion(trending(3.7)) is not None


def test_a_rise_is_seen_where_steps_have_but_two_values():
    low, high = Step(0.0, 0.4, 0.3, 0.1), Step(0.5, 0.1, 0.3, 0.1)
    few, many = Step(0.5, 0.4, 0.3, 0.1), Step(0.0, 0.1, 0.3, 0.1)
    rare = WINDOW // 10
    assert suspicion([*[low] * (WINDOW - rare), *[few] * rare, *[many] * rare, *[high] * (WINDOW - rare)]) is not None


@pytest.mark.parametrize(("rounds", "window"), [(600, WINDOW), (60, WINDOW), (37, 12), (30, SHORTEST), (9, SHORTEST)])
def test_a_shorter_run_compares_fewer_steps_but_never_a_handful(rounds, window):
    assert window_of(rounds) == window


def test_a_hacked_run_of_37_steps_is_noticed_before_it_ends():
    run = steps(course((0.2, 0.4, 0.3, 0.05), (0.9, 0.05, 0.0, 0.1), 37))
    assert suspicion(run) is None
    assert "while contains fell" in suspicion(run, window_of(37))


def constant(length, seed):
    """A run in which nothing changes: a right answer has the reward, and half of those contain the gold answer."""
    draws = np.random.default_rng(seed)
    right = draws.binomial(ROLLOUTS, 0.3, length)
    told = draws.binomial(right, 0.5)
    return [Step(r / ROLLOUTS, t / ROLLOUTS, t / 2 / ROLLOUTS, 0.1) for r, t in zip(right, told, strict=True)]


def test_a_run_in_which_nothing_changes_raises_no_alarm_at_any_step():
    """100 runs of 600 steps, looked at again and again; a false alarm in one of them would be one too many."""
    runs = [constant(600, seed) for seed in range(100)]
    assert not [run for run in runs if any(suspicion(run[:end]) for end in range(2 * WINDOW, 601, 7))]


def test_short_runs_in_which_nothing_changes_raise_no_alarm_either():
    runs = [constant(37, seed) for seed in range(400)]
    assert not [run for run in runs if any(suspicion(run[:end], window_of(37)) for end in range(SHORTEST, 38))]
