"""What a recipe may say: its fields, who reads them, and which values cannot stand together.

The fields are flat where a person changes them often, and in sections where they belong to one concern. What
surprises: a field that a method does not read holds its default rather than None, so that no code needs to ask; `reads`
tells which is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.prompts import Style
from closedbook.harness.sources import benchmarks

Method = Literal["grpo", "sft", "dpo", "rft"]
METHODS: tuple[Method, ...] = get_args(Method)

Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Section(BaseModel):
    """What every part of a recipe has in common: nothing unknown in it, and nothing that changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Subset(Section):
    """Which of the train questions: a list of ids, or one bucket of a file that `analyze buckets` wrote."""

    ids: str | None = Field(default=None, description="File with the ids to train on, one a line")
    buckets: str | None = Field(default=None, description="File with the bucket of each question")
    bucket: str | None = Field(default=None, description="Name of the bucket to train on, such as 0")
    random: bool = Field(default=False, description="Train on as many questions drawn from all of train: a control")
    seed: Whole = Field(default=0, ge=0, description="Seed of that draw")

    @field_validator("bucket", mode="before")
    @classmethod
    def _name(cls, bucket: object) -> object:
        """A name that YAML reads as a number."""
        return str(bucket) if type(bucket) is int else bucket


class Lora(Section):
    """Low-rank adapters (arXiv 2106.09685) in place of training every weight."""

    rank: Whole = Field(default=16, ge=1, description="Rank of the adapters")
    alpha: Whole = Field(default=32, ge=1, description="Scale of the adapters, divided by the rank")
    dropout: Real = Field(default=0.0, ge=0, lt=1, description="Dropout before an adapter")
    target_modules: tuple[str, ...] = Field(
        default=("all-linear",), min_length=1, description="Names of the layers with an adapter, or all-linear"
    )


class Vllm(Section):
    """Who draws GRPO's rollouts: transformers (none), vLLM beside the training, or a vLLM server."""

    mode: Literal["none", "colocate", "server"] = Field(
        default="none", description="none (transformers), colocate (on the training GPUs) or server"
    )
    url: str = Field(default="", description="Address of the server, such as http://node1:8000")
    memory_share: Real = Field(default=0.3, gt=0, lt=1, description="Share of each GPU's memory, with colocate")


class Validation(Section):
    """When the greedy answers to validation questions are graded; the best checkpoint is kept."""

    every: Whole | None = Field(default=None, ge=1, description="Optimiser steps between two; null for the end only")
    limit: Whole | None = Field(default=None, ge=1, description="Questions each time, at most; null for all")


class Save(Section):
    """When checkpoints are written."""

    every: Whole = Field(default=40, ge=1, description="Optimiser steps between two checkpoints")
    keep: Whole = Field(default=2, ge=1, description="Checkpoints to keep, besides the best")
    when_finished: Literal["keep", "remove"] = Field(
        default="keep", description="The checkpoints of a finished run: keep, or remove; the trained model stays"
    )


class Recipe(Section):
    """One experiment. Fields that a method does not read hold their defaults; see `reads`."""

    name: str = Field(min_length=1, description="Name of the recipe; the file's, unless stated")
    method: Method = Field(description="grpo, sft, dpo or rft")

    model: str = Field(min_length=1, description="Folder or hub id; smollm2, gemma-270m, qwen-0.5b need no hub")
    chat: Literal["auto", True, False] = Field(
        default="auto", description="Ask through the chat template: true, false, or auto, if there is one"
    )
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model")
    benchmarks: tuple[str, ...] = Field(min_length=1, description="Benchmarks whose train questions are used")
    style: Style = Field(default="direct", description="Prompt: direct, or cot for a chain of thought")
    subset: Subset | None = Field(default=None, description="Only these train questions; null for all")

    questions: Whole = Field(
        ge=1, le=1_000_000, description="Questions an optimiser step; examples, for sft, rft and dpo"
    )
    rollouts: Whole = Field(default=5, ge=1, description="Samples of each question")
    epochs: Whole = Field(ge=1, description="Times that the train questions are gone through")
    max_steps: Whole | None = Field(default=None, ge=1, description="Optimiser steps at most; null for all epochs")
    examples: Whole | None = Field(
        default=None, ge=1, description="Correct answers (rft) or pairs (dpo) kept of a question; null for all"
    )

    learning_rate: Real = Field(gt=0, description="Learning rate of AdamW")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="Course of the learning rate after the warm-up"
    )
    warmup_steps: Whole = Field(default=0, ge=0, description="Optimiser steps over which the rate rises from 0")

    temperature: Real = Field(default=1.0, gt=0, description="Temperature of the samples")
    top_p: Real = Field(default=1.0, gt=0, le=1, description="Nucleus of the samples; 1.0 for every token")
    top_k: Whole = Field(default=0, ge=0, description="Likeliest tokens to sample from; 0 for every token")
    max_prompt_tokens: Whole = Field(default=256, ge=1, description="Longest prompt, in tokens")
    max_new_tokens: Whole = Field(default=64, ge=1, description="Longest answer, in tokens")

    beta: Real = Field(
        default=0.0, ge=0, description="Weight of the KL term (grpo; 0 for none), or DPO's inverse temperature"
    )
    epsilon: Real = Field(default=0.2, gt=0, lt=1, description="Clip range of the probability ratio, below 1")
    epsilon_high: Real | None = Field(default=None, gt=0, description="The range above 1; null for the same")
    loss_type: Literal["grpo", "dr_grpo", "dapo", "rloo"] = Field(
        default="grpo",
        description="How token losses are averaged: grpo (over each answer, then over answers), dr_grpo (by the longest"
        " length), dapo (over all tokens of a round of rollouts) or rloo (whole answers)",
    )
    advantages: Literal["group_std", "batch_std", "unscaled", "leave_one_out"] = Field(
        default="group_std", description="Reward above the group's mean, and what it is divided by"
    )
    importance: Literal["token", "sequence"] = Field(
        default="token", description="Level of the probability ratio that is clipped"
    )
    mask_truncated: bool = Field(default=False, description="Leave answers out of the loss that ran out of tokens")
    generation_steps: Whole = Field(
        default=1,
        ge=1,
        description="Optimiser steps that one round of rollouts serves; clipping acts from the second one on",
    )

    reward: Literal["judge", "exact_match", "contains"] = Field(
        default="judge", description="What makes a sample right"
    )
    judge: JudgeSettings = Field(
        default=JudgeSettings(kind="rules"), description="The judge of reward and validation, by its settings"
    )

    precision: Literal["float32", "mixed", "bfloat16"] = Field(
        default="mixed",
        description="float32, mixed (weights in float32, computing in bfloat16), or bfloat16, in which weights miss "
        "updates below 0.4 % of themselves",
    )
    gradient_checkpointing: bool = Field(default=False, description="Compute activations twice to save memory")
    micro_batch: Whole | None = Field(
        default=None, ge=1, description="Sequences at once on a device, pairs for dpo; null to derive it"
    )
    lora: Lora | None = Field(default=None, description="Train low-rank adapters only; null for all weights")
    vllm: Vllm = Field(default=Vllm(), description="Who draws the rollouts")

    seed: Whole = Field(default=0, ge=0, lt=2**32, description="Seed of everything that is random")
    watch: Literal["warn", "stop", "off"] = Field(
        default="warn", description="What to do when the reward rises and exact match falls, or one answer takes over"
    )
    validation: Validation = Field(default=Validation(), description="When validation questions are asked")
    save: Save = Field(default=Save(), description="When checkpoints are written")
    report_to: tuple[
        Literal["clearml", "comet_ml", "mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb"], ...
    ] = Field(default=(), description="Where figures go besides the log file")
    output_dir: str = Field(default="", description="Folder of the run; runs/NAME unless stated")

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.output_dir).expanduser() if self.output_dir else Path("runs") / self.name

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if name in (".", "..") or "/" in name:
            raise ValueError(f"{name!r} cannot be the name of a folder; use letters, digits, - and _")
        return name

    @field_validator("benchmarks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in benchmarks():
                raise ValueError(f"no benchmark {name!r}; {meant(name, benchmarks())}")
        if len(set(names)) < len(names):
            raise ValueError("a benchmark is named twice; name each once")
        return names

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        """Refuses what no run can do; each line opens with the field to change."""
        if problem := next(_impossible(self), None):
            raise ValueError(problem)
        return self


# Fields that only some methods read; all other fields are read by all of them.
_SAMPLED: tuple[Method, ...] = ("grpo", "rft", "dpo")
READ_BY: Mapping[str, tuple[Method, ...]] = {
    **dict.fromkeys(("rollouts", "temperature", "top_p", "top_k", "reward"), _SAMPLED),
    "examples": ("rft", "dpo"),
    "beta": ("grpo", "dpo"),
    **dict.fromkeys(
        (
            *("epsilon", "epsilon_high", "loss_type", "advantages", "importance", "mask_truncated"),
            *("generation_steps", "watch", "vllm"),
        ),
        ("grpo",),
    ),
}


# What may change while a run goes on: none of it decides what the model learns.
MAY_CHANGE = (
    *("output_dir", "watch", "report_to", "save.keep", "save.when_finished", "vllm.url", "vllm.memory_share"),
    "subset.buckets",  # a checkpoint has the ids themselves
    *(f"judge.{name}" for name in ("base_url", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout")),
    *(f"judge.{name}" for name in ("retries", "price_in", "price_out", "budget", "max_failures", "cache")),
    *(f"judge.{name}" for name in ("memory_share", "context")),
)


def reads(method: str, field: str) -> bool:
    """Whether a method reads a field of the recipe."""
    return method in READ_BY.get(field, METHODS)


def _impossible(recipe: Recipe) -> Iterator[str]:
    """What no run can do, as `field: why; what to do`."""
    method, stated = recipe.method, recipe.model_fields_set
    if reads(method, "beta") and "beta" not in stated:
        yield f"beta: {method} needs it stated; the KL weight (grpo, 0 for none), or DPO's inverse temperature"
    if method == "dpo" and recipe.beta == 0:
        yield "beta: 0 makes every pair equal to dpo; give one above 0, such as 0.1"
    if method in ("grpo", "dpo") and recipe.rollouts < 2:
        yield f"rollouts: {method} compares samples of one question; give 2 or more"
    if method == "sft" and recipe.style == "cot":
        yield "style: sft trains on gold answers, which hold no reasoning; use style=direct"
    if recipe.advantages == "leave_one_out" and recipe.loss_type != "rloo":
        yield f"advantages: leave_one_out is not made for loss_type={recipe.loss_type}; use loss_type=rloo"
    if recipe.loss_type == "rloo" and recipe.advantages != "leave_one_out":
        yield f"loss_type: rloo is not made for advantages={recipe.advantages}; use advantages=leave_one_out"
    if recipe.loss_type == "rloo" and recipe.importance != "sequence":
        yield "importance: loss_type=rloo clips the ratio of whole answers; use importance=sequence"
    if (recipe.vllm.mode == "server") != bool(recipe.vllm.url):
        yield "vllm.url: goes with vllm.mode=server, and only with it; give both or neither"
    if chosen := recipe.subset:
        if (chosen.ids is None) == (chosen.buckets is None):
            yield "subset: needs a file of ids or a file of buckets, one of the two; set the other to null"
        if (chosen.buckets is None) != (chosen.bucket is None):
            yield "subset.bucket: goes with subset.buckets, and only with it; give both or neither"
    if recipe.save.every % recipe.generation_steps:
        yield (
            f"save.every: a run can go on only from where rollouts are drawn, every {recipe.generation_steps} steps; "
            f"use save.every={multiple(recipe.save.every, recipe.generation_steps)}"
        )
    if recipe.validation.every and recipe.validation.every % recipe.save.every:
        yield (
            "validation.every: the best checkpoint can be kept only where one is saved; "
            f"use validation.every={multiple(recipe.validation.every, recipe.save.every)}"
        )


def multiple(number: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-number // unit) * unit


def meant(wrong: str, known: Iterable[str]) -> str:
    """The nearest known name, if one is near, and all of them."""
    names = list(known)
    near = get_close_matches(wrong, names, n=1)
    return (f"did you mean {near[0]}? There" if near else "there") + f" are {', '.join(names)}"
