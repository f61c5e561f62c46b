"""Laws of group-relative advantages, for every form that TRL knows."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from closedbook.training.advantages import (
    EPSILON,
    LARGEST,
    Form,
    advantages,
    has_signal,
    signal_probability,
    signal_share,
)

FORMS = get_args(Form)
SCALED = ["group_std", "batch_std"]
WITHIN_GROUP = [form for form in FORMS if form != "batch_std"]

shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)
eighths = st.integers(-80, 80).map(lambda k: k / 8)  # two rewards are equal, or well apart
complete = arrays(float, shapes, elements=eighths)
matrices = arrays(float, shapes, elements=eighths | st.just(math.nan))
forms = st.sampled_from(FORMS)
group_sizes = st.integers(2, 12)
seeds = st.integers(0, 2**32 - 1)


def close(one, other):
    return np.allclose(one, other, rtol=1e-9, atol=1e-9)


@given(matrices, forms)
def test_there_is_one_advantage_per_reward(rewards, form):
    assert advantages(rewards, form).shape == rewards.shape


@given(matrices, forms)
def test_the_mean_of_every_group_is_zero(rewards, form):
    assert close(advantages(rewards, form).sum(axis=1), 0)


@given(matrices, forms, eighths)
def test_a_shift_changes_nothing(rewards, form, shift):
    assert close(advantages(rewards + shift, form), advantages(rewards, form))


@given(matrices, st.sampled_from(WITHIN_GROUP), seeds)
def test_a_shift_of_one_group_changes_nothing_unless_the_batch_scales(rewards, form, seed):
    shifts = np.random.default_rng(seed).integers(-8, 9, (len(rewards), 1))
    assert close(advantages(rewards + shifts, form), advantages(rewards, form))


@given(matrices, st.sampled_from(SCALED), st.floats(0.01, 100))
def test_a_scale_changes_nothing_where_a_deviation_divides(rewards, form, scale):
    assert close(advantages(scale * rewards, form, epsilon=0), advantages(rewards, form, epsilon=0))


@given(matrices, st.sampled_from(["unscaled", "leave_one_out"]), st.floats(-100, 100))
def test_a_scale_carries_over_where_nothing_divides(rewards, form, scale):
    assert close(advantages(scale * rewards, form), scale * advantages(rewards, form))


@given(matrices, forms)
def test_turning_the_rewards_round_turns_the_advantages_round(rewards, form):
    assert close(advantages(-rewards, form), -advantages(rewards, form))


@given(matrices, forms, seeds)
def test_an_order_inside_groups_carries_over(rewards, form, seed):
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(rewards.shape[1]), (len(rewards), 1)), axis=1)
    assert close(
        advantages(np.take_along_axis(rewards, order, axis=1), form),
        np.take_along_axis(advantages(rewards, form), order, axis=1),
    )


@given(matrices, forms, seeds)
def test_an_order_of_groups_carries_over(rewards, form, seed):
    order = np.random.default_rng(seed).permutation(len(rewards))
    assert close(advantages(rewards[order], form), advantages(rewards, form)[order])


@given(complete, st.sampled_from(WITHIN_GROUP))
def test_a_group_knows_nothing_of_the_others_unless_the_batch_scales(rewards, form):
    alone = np.concatenate([advantages(group[None], form) for group in rewards])
    assert close(advantages(rewards, form), alone)


@given(st.floats(-LARGEST, LARGEST), shapes, forms, st.sampled_from([0, EPSILON]))
def test_equal_rewards_give_exactly_zero(reward, shape, form, epsilon):
    assert not advantages(np.full(shape, reward), form, epsilon).any()


@given(st.lists(st.floats(-LARGEST, LARGEST), min_size=1, max_size=5), st.integers(1, 7), forms)
def test_rewards_that_are_equal_in_every_group_give_exactly_zero(rewards, n, form):
    assert not advantages(np.repeat(np.array(rewards)[:, None], n, axis=1), form).any()


@given(arrays(float, shapes, elements=st.floats(-LARGEST, LARGEST) | st.just(math.nan)), forms)
def test_every_advantage_is_finite(rewards, form):
    assert np.isfinite(advantages(rewards, form, epsilon=0)).all()
    assert np.isfinite(advantages(rewards, form)).all()


@given(matrices, forms)
def test_a_missing_reward_has_the_advantage_zero(rewards, form):
    assert not advantages(rewards, form)[np.isnan(rewards)].any()


@given(complete, st.sampled_from(WITHIN_GROUP), st.data())
def test_a_missing_reward_changes_nobody_elses_group(rewards, form, data):
    row, column = (data.draw(st.integers(0, side - 1)) for side in rewards.shape)
    without = rewards.copy()
    without[row, column] = math.nan
    others = np.arange(len(rewards)) != row
    assert np.array_equal(advantages(without, form)[others], advantages(rewards, form)[others])


@given(matrices, forms, seeds)
def test_a_missing_reward_is_as_if_the_rollout_had_not_been(rewards, form, seed):
    column = np.full((len(rewards), 1), math.nan)
    place = int(np.random.default_rng(seed).integers(rewards.shape[1] + 1))
    padded = np.hstack([rewards[:, :place], column, rewards[:, place:]])
    assert close(np.delete(advantages(padded, form), place, axis=1), advantages(rewards, form))


@given(eighths, group_sizes, forms)
def test_a_reward_that_is_alone_in_its_group_has_the_advantage_zero(reward, n, form):
    rewards = np.full((2, n), math.nan)
    rewards[0, 0] = reward
    assert not advantages(rewards, form).any()


@given(group_sizes, st.integers(1, 5), st.data())
def test_one_correct_among_n_has_the_closed_form_value(n, groups, data):
    place = data.draw(st.integers(0, n - 1))
    rewards = np.zeros((groups, n))
    rewards[:, place] = 1
    expected: dict[Form, float] = {
        "unscaled": (n - 1) / n,
        "leave_one_out": 1,
        "group_std": (n - 1) / math.sqrt(n),
        "batch_std": (n - 1) / n / math.sqrt(groups * (n - 1) / n / (groups * n - 1)),
    }
    for form, value in expected.items():
        assert close(advantages(rewards, form, epsilon=0)[:, place], value)
        assert close(np.delete(advantages(rewards, form, epsilon=0), place, axis=1), -value / (n - 1))


@given(group_sizes, st.data())
def test_binary_rewards_have_closed_forms(n, data):
    right = data.draw(st.integers(1, n - 1))
    rewards = np.array([[1.0] * right + [0.0] * (n - right)])
    p = right / n
    deviation = math.sqrt(p * (1 - p) * n / (n - 1))
    assert close(advantages(rewards, "unscaled"), rewards - p)
    assert close(advantages(rewards, "leave_one_out"), (rewards - p) * n / (n - 1))
    assert close(advantages(rewards, "group_std"), (rewards - p) / (deviation + EPSILON))
    assert close((advantages(rewards, "group_std", epsilon=0) ** 2).sum(), n - 1)


@given(matrices)
def test_the_forms_are_the_centred_rewards_up_to_one_factor_a_group(rewards):
    count = (~np.isnan(rewards)).sum(axis=1, keepdims=True)
    centred = advantages(rewards, "unscaled")
    assert close(advantages(rewards, "leave_one_out") * np.maximum(count - 1, 1), centred * count)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    assert close(advantages(rewards, "group_std") * (deviation + EPSILON), centred)


@given(matrices)
def test_leave_one_out_is_the_reward_less_the_mean_of_its_siblings(rewards):
    for group, given_advantages in zip(rewards, advantages(rewards, "leave_one_out"), strict=True):
        for at, reward in enumerate(group):
            siblings = [other for other in np.delete(group, at) if not math.isnan(other)]
            if siblings and not math.isnan(reward):
                assert close(given_advantages[at], reward - sum(siblings) / len(siblings))


@given(complete)
def test_the_batch_form_divides_by_the_deviation_of_all_rewards(rewards):
    if rewards.size > 1:
        by_hand = advantages(rewards, "unscaled") / (rewards.std(ddof=1) + EPSILON)
        assert close(advantages(rewards, "batch_std"), by_hand)


@given(matrices, forms)
def test_a_group_has_signal_exactly_if_an_advantage_is_not_zero(rewards, form):
    assert np.array_equal(has_signal(rewards), advantages(rewards, form).any(axis=1))
    assert signal_share(rewards) == pytest.approx(has_signal(rewards).mean())


@given(st.floats(0, 1), st.integers(1, 7))
def test_the_signal_probability_is_the_weight_of_the_outcomes_with_signal(p, n):
    outcomes = np.array(list(itertools.product([0.0, 1.0], repeat=n)))
    right = outcomes.sum(axis=1)
    weights = p**right * (1 - p) ** (n - right)
    assert signal_probability(p, n) == pytest.approx(weights[has_signal(outcomes)].sum(), abs=1e-12)


@given(st.floats(0, 1), st.integers(1, 500))
def test_the_signal_probability_is_one_and_grows_with_the_group(p, n):
    assert 0 <= signal_probability(p, n) <= signal_probability(p, n + 1) + 1e-12 <= 1 + 1e-9
    assert signal_probability(p, n) == pytest.approx(signal_probability(1 - p, n), abs=1e-9)
