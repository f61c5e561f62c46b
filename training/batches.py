"""One optimiser step, shared among devices: exactly the questions and rollouts of the recipe, or a refusal.

Nothing is rounded, because a batch that grows with the number of devices is another experiment.

    >>> from closedbook.training.recipes import load_recipe
    >>> resolve(load_recipe("grpo_paper"), devices=8)
    Batch(devices=8, micro_batch=20, accumulation=4, generation_steps=1)
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from closedbook.harness.errors import RequestError
from closedbook.training.recipe_fields import Recipe, multiple

MICRO_BATCH = 32  # sequences at once on one device, at most, where the recipe states no number


@dataclass(frozen=True, slots=True)
class Batch:
    """How one optimiser step is shared. A sequence is a rollout for grpo, a pair for dpo, else an example.

    Attributes:
        devices: Processes that train, over all nodes.
        micro_batch: Sequences at once on one device.
        accumulation: Micro-batches of one device before its gradients are used.
        generation_steps: Optimiser steps that one round of rollouts serves.
    """

    devices: int
    micro_batch: int
    accumulation: int
    generation_steps: int = 1

    @property
    def step(self) -> int:
        """Sequences an optimiser step, over all devices."""
        return self.devices * self.micro_batch * self.accumulation

    @property
    def generated(self) -> int:
        """Rollouts that are drawn at once, over all devices."""
        return self.step * self.generation_steps


def devices() -> int:
    """Processes that train, over all nodes: what accelerate and torchrun say, else one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes and speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def resolve(recipe: Recipe, devices: int) -> Batch:
    """Shares an optimiser step of `recipe` among devices, exactly: nothing is rounded.

    Args:
        recipe: Its `micro_batch` is kept where it is stated; else it is the largest one up to MICRO_BATCH that fits.
        devices: Processes that train, over all nodes.

    Raises:
        RequestError: The sequences of a step cannot be shared equally; the line names numbers that would do.
    """
    where = f"recipe {recipe.name}"
    if devices < 1:
        raise RequestError(f"{where}: devices: {devices} devices train nothing; use 1 or more")
    each = recipe.rollouts if recipe.method == "grpo" else 1
    step = recipe.questions * each
    what = f"{step} rollouts a step ({recipe.questions} questions x {each})" if each > 1 else f"{step} examples a step"
    if step % devices:
        stated = recipe.micro_batch if recipe.micro_batch and step % recipe.micro_batch == 0 else 1
        unit = devices * stated // math.gcd(devices * stated, each)
        counts = _nearest(devices, _divisors(step // stated))
        sizes = [size for size in (recipe.questions // unit * unit, multiple(recipe.questions, unit)) if size]
        raise RequestError(
            f"{where}: devices: {what} cannot be shared equally among {devices} devices; use "
            f"{' or '.join(map(str, counts))} devices, or {' or '.join(f'questions={size}' for size in sizes)}"
        )
    share = step // devices
    micro_batch = recipe.micro_batch or max(size for size in _divisors(share) if size <= MICRO_BATCH)
    if share % micro_batch:
        sizes = _nearest(micro_batch, _divisors(share))
        raise RequestError(
            f"{where}: micro_batch: {what} are {share} a device, which {micro_batch} does not divide; use "
            f"{' or '.join(f'micro_batch={size}' for size in sizes)}"
        )
    return Batch(devices, micro_batch, share // micro_batch, recipe.generation_steps)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _nearest(wanted: int, sizes: Sequence[int]) -> list[int]:
    """The nearest size below `wanted` and the nearest above, as far as there are any."""
    below, above = [size for size in sizes if size < wanted], [size for size in sizes if size > wanted]
    return below[-1:] + above[:1]


def sampled_of(recipe: Recipe, questions: int) -> int:
    """Questions that are sampled: all for grpo; for rft and dpo no more than `max_steps` could take, one of each."""
    return min(questions, recipe.max_steps * recipe.questions) if recipe.max_steps else questions


def steps_of(recipe: Recipe, examples: int) -> int:
    """Optimiser steps that training takes: all epochs, or `max_steps` if that is fewer.

    GRPO leaves out of each epoch the questions that fill no round of rollouts, other ones each time, as TRL's sampler
    does; every other method ends an epoch with a smaller step.

    Args:
        recipe: Any.
        examples: Questions for grpo; else examples, or pairs.

    Raises:
        RequestError: Nothing to train on, or too little to fill a step of GRPO.
    """
    where = f"recipe {recipe.name}"
    if not examples:
        raise RequestError(f"{where}: subset: leaves nothing to train on; widen it, or set subset=null")
    if recipe.method == "grpo":
        rounds = examples // (recipe.questions * recipe.generation_steps)
        if not rounds:
            size = examples // recipe.generation_steps
            fix = f"questions={size}" if size else "generation_steps=1"
            raise RequestError(
                f"{where}: questions: {recipe.questions * recipe.generation_steps} are asked at once, and there are "
                f"{examples}; use {fix}"
            )
        epoch = rounds * recipe.generation_steps
    else:
        epoch = -(-examples // recipe.questions)
    steps = recipe.epochs * epoch
    return min(steps, recipe.max_steps or steps)
