"""Advantages: how much better a rollout is than its siblings, the other answers to the same question.

TRL computes them inside its trainers. Here they stand alone, to be read, and a test holds TRL's own against them, so
that a release of TRL that changes the mathematics is noticed; a run itself asks for `signal_share` only. What would
surprise: a missing reward (None or NaN, where the judge failed) is no wrong answer. It leaves the statistics of its
group, as if the rollout had not been, and its own advantage is 0. A group with fewer than two rewards has advantages of
0 only.

    >>> advantages([[1, 0, 0, None]], "leave_one_out").tolist()
    [[1.0, -0.5, -0.5, 0.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Floats", "Form", "Rewards", "advantages", "has_signal", "signal_probability", "signal_share"]

Form = Literal["group_std", "unscaled", "batch_std", "leave_one_out"]
"""How advantages are scaled; see `advantages`."""
Floats = NDArray[np.float64]
"""An array of double precision."""
Rewards = ArrayLike | Sequence[Sequence[float | None]]
"""Rewards of shape (groups, n), None or NaN where one is missing."""

EPSILON = 1e-4  # TRL's, added to the deviation
LARGEST = float(np.finfo(np.float32).max)


def advantages(rewards: Rewards, form: Form = "group_std", epsilon: float = EPSILON) -> Floats:
    """Advantages of rollouts, relative to their groups.

    With r a reward, k the number of rewards in its group, m their mean and s their sample deviation (over k - 1):

    - group_std: (r - m) / (s + epsilon). GRPO: Shao et al. 2024, DeepSeekMath, arXiv 2402.03300. TRL's
      `scale_rewards="group"`.
    - unscaled: r - m. Dr. GRPO: Liu et al. 2025, arXiv 2503.20783; without s, a question that is nearly always or
      nearly never answered weighs no more than the others. TRL's `scale_rewards="none"`.
    - batch_std: (r - m) / (S + epsilon), S the deviation of all rewards about the mean of all. Lite PPO: Liu et al.
      2025, arXiv 2508.08221. TRL's `scale_rewards="batch"`.
    - leave_one_out: r less the mean of the k - 1 others, which is (r - m) k / (k - 1). RLOO: Ahmadian et al. 2024,
      arXiv 2402.14740. TRL's `RLOOTrainer`, which takes its KL term, unless beta is 0, off the rewards before.

    Args:
        rewards: Shape (groups, n), row by row the rewards of n rollouts of one question; None or NaN where missing.
        form: Which of the four.
        epsilon: What is added to a deviation, at least 0.

    Returns:
        Shape (groups, n), all finite; exactly 0 for missing rewards and where all rewards of a group are equal.

    Raises:
        ValueError: Another shape, a reward that float32 cannot hold, or another form.
    """
    table = _table(rewards)
    centred = _centred(table)
    match form:
        case "unscaled":
            return centred
        case "leave_one_out":
            return centred * _count(table) / _others(table)
        case "group_std":
            deviation = _deviation(table)
        case "batch_std":
            deviation = _deviation(table.reshape(1, -1))
        case _:
            raise ValueError(f"advantages: no form {form!r}; there are {', '.join(get_args(Form))}")
    return centred / np.where(deviation > 0, deviation + epsilon, 1.0)  # without deviation the rewards are equal


def has_signal(rewards: Rewards) -> NDArray[np.bool_]:
    """Whether a group teaches anything: two of its rewards differ, so that its advantages are not all 0.

    TRL's `frac_reward_zero_std` is not the complement: it leaves out groups with fewer than two rewards.

    Args:
        rewards: Shape (groups, n), None or NaN where missing.

    Returns:
        Shape (groups,).

    Raises:
        ValueError: Another shape, or a reward that float32 cannot hold.
    """
    return np.asarray(_centred(_table(rewards)).any(axis=1))


def signal_share(rewards: Rewards) -> float:
    """The share of groups with signal, in [0, 1]; arguments and errors as those of `has_signal`."""
    return float(has_signal(rewards).mean())


def signal_probability(p: float, n: int) -> float:
    """The chance that a group has signal: n independent rollouts, each right with probability p, do not all agree.

    It is 1 - p^n - (1 - p)^n: all but "all right" and "all wrong".

    Raises:
        ValueError: p is no probability, or n is less than 1.
    """
    if not (0 <= p <= 1 and n >= 1):
        raise ValueError(f"signal: want a probability and a group of 1 or more, not {p!r} and {n!r}")
    return float(1 - p**n - (1 - p) ** n)


def _table(rewards: Rewards) -> Floats:
    """Rewards as floats, NaN where missing."""
    table = np.asarray(rewards, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"rewards: want the shape (groups, n), neither of them 0, not {table.shape}")
    if (too_large := np.abs(table) > LARGEST).any():
        raise ValueError(f"rewards: {table[too_large][0]:g} is more than TRL's float32 can hold")
    return table


def _count(table: Floats) -> NDArray[np.int_]:
    """How many rewards a row has; shape (rows, 1)."""
    return np.count_nonzero(~np.isnan(table), axis=1, keepdims=True)


def _others(table: Floats) -> NDArray[np.int_]:
    """How many siblings with a reward a rollout has, 1 where there is none to divide by."""
    return np.maximum(_count(table) - 1, 1)


def _centred(table: Floats) -> Floats:
    """Rewards less the mean of their row, 0 where missing.

    The mean is taken of what each reward is above the lowest, so that equal rewards give zeros and not roundings.
    """
    present = ~np.isnan(table)
    lowest = table.min(axis=1, keepdims=True, where=present, initial=np.inf)
    above = np.where(present, table - lowest, 0.0)
    return np.where(present, above - above.sum(axis=1, keepdims=True) / np.maximum(_count(table), 1), 0.0)


def _deviation(table: Floats) -> Floats:
    """The sample deviation of each row, 0 for fewer than two rewards; shape (rows, 1)."""
    squares: Floats = (_centred(table) ** 2).sum(axis=1, keepdims=True)
    return np.sqrt(squares / _others(table))
