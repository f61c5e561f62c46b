"""TRL's trainers, with checkpoints that are whole or not there, and a run that goes on as if it had never been stopped.

TRL's own mathematics is left alone. What is changed, and why:

- A checkpoint counts once its `provenance.json` is there, which is written last. A save that fails leaves the earlier
  checkpoints as they are; older ones are removed only after a whole new one.
- The order of the questions depends on the seed and the epoch alone. TRL's sampler goes on from where its generator
  is, so that a run resumed in the second epoch would see the first epoch's order again.
- A loss that is no number ends the run before it reaches the weights, and they are in no checkpoint that is kept.
- A judge that fails too often ends it after a checkpoint of the weights as they are. Since rewards are asked for where
  rollouts are drawn, that is always a place from which a run can go on.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from safetensors import SafetensorError
from trl.trainer.utils import RepeatSampler

from closedbook.harness.errors import Unfinished, WorkError, one_line
from closedbook.harness.provenance import PROVENANCE_FILE, Provenance, write_provenance
from closedbook.training.rewards import JudgeUnreliable, Reward, RewardFigures

CHECKPOINT = "checkpoint-"
FAR_APART = 1_000_003  # between the seeds of two epochs


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if re.fullmatch(rf"{CHECKPOINT}\d+", path.name)]
    return sorted((path for path in found if (path / PROVENANCE_FILE).is_file()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimiser steps after which a checkpoint was taken."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))


class Checkpointed:
    """What every trainer of ours adds to TRL's: put it before TRL's class.

    Attributes:
        provenance_at: Makes the provenance of a checkpoint out of its step.
        keep: Checkpoints to keep, besides the best.
        extra: Figures to be logged with the next step's.
    """

    provenance_at: Callable[[int], Provenance]
    keep: int
    extra: dict[str, float]

    # TRL's classes supply these
    args: Any
    state: Any
    accelerator: Any
    model: Any
    _total_train_tokens: int

    @property
    def figures(self) -> RewardFigures | None:
        """Those of the last rollouts of this process; None where none are drawn."""
        return None

    def attach(self, provenance_at: Callable[[int], Provenance], keep: int) -> None:
        """Say what a checkpoint's provenance is; call it before `train`."""
        self.provenance_at, self.keep, self.extra = provenance_at, keep, {}

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.args.output_dir)

    def save(self) -> None:
        """Write a checkpoint of the weights as they are, unless there is one.

        Raises:
            Unfinished: It cannot be written.
        """
        if self.state.global_step and not self._here(PROVENANCE_FILE).is_file():
            self._save_checkpoint(self.model, None)

    def _here(self, name: str = "") -> Path:
        return self.folder / f"{CHECKPOINT}{self.state.global_step}" / name

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(self._here(), ignore_errors=True)  # half of one, from a run that was killed
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self.accelerator.wait_for_everyone()
            if main:
                write_provenance(self._here(), self.provenance_at(self.state.global_step))
        except (OSError, RuntimeError, SafetensorError, WorkError) as error:  # each writer fails in its own way
            shutil.rmtree(self._here(), ignore_errors=True)
            kept = checkpoints(self.folder)
            last = f"{kept[-1].name} is whole" if kept else "there is no earlier one"
            raise Unfinished(f"cannot save {self._here()}: {one_line(error)}; {last}; free space") from error
        if main:
            self._remove_older()

    def _remove_older(self) -> None:
        best = self.state.best_model_checkpoint
        for old in checkpoints(self.folder)[: -self.keep]:
            if best is None or old != Path(best):
                shutil.rmtree(old)

    def create_model_card(self, *args: Any, **named: Any) -> None:
        """Nothing: TRL would write its own over ours."""

    def training_step(self, *args: Any, **named: Any) -> torch.Tensor:
        """A step of TRL's.

        Raises:
            WorkError: The loss is no number. A checkpoint of the weights that gave it is removed.
        """
        loss: torch.Tensor = super().training_step(*args, **named)  # type: ignore[misc]
        if not torch.isfinite(loss):
            shutil.rmtree(self._here(), ignore_errors=True)
            kept = checkpoints(self.folder)
            last = f"{kept[-1].name} is the last good checkpoint" if kept else "there is no checkpoint yet"
            raise WorkError(
                f"{self.folder}: the loss of step {self.state.global_step + 1} is {loss.item()}; {last}; "
                "lower learning_rate or use precision=float32, in another output_dir"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step's figures, and with them what waits in `extra`."""
        logs |= self.extra
        self.extra = {}
        super().log(logs, start_time)  # type: ignore[misc]


class EpochSampler(RepeatSampler):
    """TRL's sampler, in an order that depends on the seed and on the epoch in which the run stands.

    Args:
        like: TRL's own, whose shape is taken over.
        epoch: Says in which epoch the run stands.
    """

    def __init__(self, like: RepeatSampler, epoch: Callable[[], int]) -> None:
        super().__init__(like.data_source, like.mini_repeat_count, like.batch_size, like.repeat_count, True, like.seed)
        self.epoch = epoch
        self.base_seed = int(like.seed or 0)

    def __iter__(self) -> Iterator[int]:
        # the first epoch's order is TRL's; others are far apart, since seeds of runs are often 0, 1, 2; and below 2^32,
        # since torch looks at no higher bits
        self.generator.manual_seed((self.base_seed + FAR_APART * self.epoch()) % 2**32)
        yield from super().__iter__()  # type: ignore[no-untyped-call]


class _Patient:
    """A reward whose last judgement, that the judge is unreliable, waits until all processes have theirs."""

    def __init__(self, reward: Reward) -> None:
        self.__name__ = reward.__name__
        self._reward = reward
        self.problem: JudgeUnreliable | None = None

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        try:
            return self._reward(completions, **columns)
        except JudgeUnreliable as problem:
            self.problem = problem
            return [None] * len(completions)

    @property
    def figures(self) -> RewardFigures | None:
        return self._reward.figures


class RolledOut(Checkpointed):
    """What trainers that draw rollouts need besides."""

    train_dataset: Any
    reward_funcs: list[Any]

    @property
    def figures(self) -> RewardFigures | None:
        """Those of the last rollouts of this process; None before the first."""
        (reward,) = self.reward_funcs
        figures: RewardFigures | None = reward.figures
        return figures

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        like: RepeatSampler = super()._get_train_sampler(dataset)  # type: ignore[misc]
        rounds = like.num_samples // like.batch_size
        epoch_steps = rounds * self.args.steps_per_generation // self.args.gradient_accumulation_steps
        return EpochSampler(like, lambda: self.state.global_step // epoch_steps)

    def _calculate_rewards(self, *args: Any, **named: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(*args, **named)  # type: ignore[misc]
        (reward,) = self.reward_funcs
        stopped = torch.tensor([reward.problem is not None], device=self.accelerator.device)
        if self.accelerator.gather(stopped).any():
            self.save()
            raise reward.problem or Unfinished("the judge failed too often for another process; see its message")
        return rewards


def make_trainer(name: str, reward: Reward | None, **arguments: Any) -> Any:
    """A trainer of ours: TRL's, with what this module adds.

    Args:
        name: GRPO, RLOO, SFT or DPO.
        reward: For the first two.
        arguments: As TRL's class takes them.
    """
    if reward is None:
        return {"SFT": _SFT, "DPO": _DPO}[name](**arguments)
    return {"GRPO": _GRPO, "RLOO": _RLOO}[name](reward_funcs=[_Patient(reward)], **arguments)


class _GRPO(RolledOut, trl.GRPOTrainer):
    """Group-relative policy optimisation and its relatives."""


class _RLOO(RolledOut, trl.RLOOTrainer):
    """Leave-one-out REINFORCE."""


class _SFT(Checkpointed, trl.SFTTrainer):
    """Supervised fine-tuning, on gold answers or on one's own correct samples."""


class _DPO(Checkpointed, trl.DPOTrainer):
    """Direct preference optimisation."""
