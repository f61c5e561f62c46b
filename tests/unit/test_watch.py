"""When a run looks like reward hacking, and when it does not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closedbook.training.watch import TAKEN_OVER, WINDOW, Step, suspicion

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


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_noise_around_constant_rates_raises_no_alarm(seed, reward, contains):
    assert suspicion(steps([(reward, contains, contains / 2, 0.1)] * (2 * WINDOW), seed)) is None
