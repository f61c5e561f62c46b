"""Advantages: examples worked by hand, and what is refused."""

import math

import numpy as np
import pytest

from closedbook.training.advantages import (
    EPSILON,
    LARGEST,
    advantages,
    has_signal,
    signal_probability,
    signal_share,
)

REWARDS: list[list[float | None]] = [[1, 0, 0, None], [1, 1, None, None], [None] * 4, [3, None, None, None]]


def test_two_thirds_of_a_group_of_three():
    first = [2 / 3, -1 / 3, -1 / 3, 0]
    assert advantages(REWARDS, "unscaled").tolist() == pytest.approx(np.array([first, *[[0] * 4] * 3]))
    assert advantages(REWARDS, "leave_one_out")[0].tolist() == pytest.approx([1, -0.5, -0.5, 0])
    assert advantages(REWARDS)[0].tolist() == pytest.approx(np.array(first) / (math.sqrt(1 / 3) + EPSILON))


def test_the_deviation_of_the_batch_is_that_of_every_reward_there_is():
    deviation = np.std([1, 0, 0, 1, 1, 3], ddof=1)
    assert advantages(REWARDS, "batch_std")[0, 0] == pytest.approx(2 / 3 / (deviation + EPSILON))


def test_the_default_is_grpo_as_trl_computes_it():
    assert EPSILON == 1e-4
    assert advantages([[1, 0]])[0, 0] == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4), abs=1e-12)
    assert np.array_equal(advantages([[1, 0]]), advantages([[1, 0]], "group_std", 1e-4))


def test_integers_and_booleans_are_rewards():
    assert advantages([[True, False]], "unscaled").tolist() == [[0.5, -0.5]]


def test_the_rewards_stay_as_they_were():
    rewards = np.array([[1.0, math.nan, 0.0]])
    advantages(rewards)
    assert np.array_equal(rewards, [[1.0, math.nan, 0.0]], equal_nan=True)


def test_a_group_has_signal_where_two_of_its_rewards_differ():
    assert has_signal(REWARDS).tolist() == [True, False, False, False]
    assert signal_share(REWARDS) == 0.25


def test_a_signal_of_five_rollouts():
    assert signal_probability(0.5, 5) == 1 - 2 / 32
    assert signal_probability(1 / 256, 5) == pytest.approx(0.0194, abs=1e-4)
    assert signal_probability(0, 5) == signal_probability(1, 5) == signal_probability(0.3, 1) == 0


@pytest.mark.parametrize("rewards", [[], [[]], [1, 0], [[[1, 0]]], 1])
def test_rewards_of_another_shape_are_refused(rewards):
    with pytest.raises(ValueError, match=r"^rewards: want the shape \(groups, n\), neither of them 0, not \("):
        advantages(rewards)
    with pytest.raises(ValueError, match="want the shape"):
        signal_share(rewards)


@pytest.mark.parametrize("reward", [math.inf, -math.inf, 2 * LARGEST, -2 * LARGEST])
def test_a_reward_that_float32_cannot_hold_is_refused(reward):
    assert np.isfinite(np.float32(LARGEST))
    assert np.isfinite(advantages([[LARGEST, -LARGEST]])).all()
    with pytest.raises(ValueError, match=r"^rewards: .* is more than TRL's float32 can hold$"):
        advantages([[0, reward]])


def test_another_form_is_refused():
    with pytest.raises(
        ValueError, match=r"^advantages: no form 'ppo'; there are group_std, unscaled, batch_std, leave_one_out$"
    ):
        advantages([[1, 0]], "ppo")  # type: ignore[arg-type]


@pytest.mark.parametrize(("p", "n"), [(-0.1, 5), (1.1, 5), (math.nan, 5), (0.5, 0)])
def test_no_probability_or_no_group_is_refused(p, n):
    with pytest.raises(ValueError, match=r"^signal: want a probability and a group of 1 or more, not "):
        signal_probability(p, n)
