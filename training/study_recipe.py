"""A study's recipe: what it may say, and how it is read.

A study is found, layered and overridden as a training recipe is. What surprises: null leaves something out, a model or
a method, and only what is there can be left out.

    >>> load_study("study_cpu", ["models.mine=my/checkpoint", "models.smollm2=null"]).models
    {'mine': 'my/checkpoint'}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.study.accessibility import bucket_names
from closedbook.training.recipe_fields import Method, Section, Whole
from closedbook.training.recipes import as_yaml, read_layers, study_names

BASE = "base"


def _without_nulls(given: Any) -> Any:
    """A mapping without what is set to null."""
    return {key: value for key, value in given.items() if value is not None} if isinstance(given, Mapping) else given


def _judge(given: Any) -> Any:
    """Settings of a judge, of which its kind alone may stand for all."""
    if isinstance(given, Mapping) and (leaked := [name for name in given if "key" in str(name).lower()]):
        raise ValueError(f"{leaked[0]} would be written to results; set OPENAI_API_KEY instead")
    return {"kind": given} if isinstance(given, str) else given


_WITHOUT_NULLS = BeforeValidator(_without_nulls)
_ONE_WORD = BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
Words = Annotated[tuple[str, ...], _ONE_WORD]


class SampleSettings(Section):
    """Samples of each question, before and after training."""

    n: Whole = Field(default=128, ge=1, description="Samples of each question; they make the buckets of accessibility")
    more: Whole = Field(default=0, ge=0, description="Further ones of the test questions, which recheck bucket 0")
    limit: Whole | None = Field(default=None, ge=1, description="Test questions that are sampled; null for all")
    max_new_tokens: Whole = Field(default=64, ge=1, description="Longest sample, in tokens")


class Attribution(Section):
    """Training on the questions of one bucket only, beside as many random ones."""

    buckets: tuple[str, ...] = Field(default=("0",), min_length=1, description="Buckets to train on, each by itself")
    seeds: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="Seeds, each with a training on the bucket and a control"
    )
    limit: Whole | None = Field(default=None, ge=1, description="Train questions that get a bucket; null for all")


class Study(Section):
    """One study. Fields that are not stated hold their defaults."""

    name: str = Field(min_length=1, description="Name of the study; the file's, unless stated")
    models: Annotated[Mapping[str, str], Field(min_length=1), _WITHOUT_NULLS] = Field(
        description="Models as they are, by a name for them"
    )
    judge: Annotated[JudgeSettings, BeforeValidator(_judge)] = Field(
        description="Settings of the judge, which rewards and grades everything"
    )
    labels: str | None = Field(default=None, description="Human labels to measure the judge on; null for none")
    benchmarks: Annotated[tuple[str, ...], Field(min_length=1), _ONE_WORD] = Field(
        description="Benchmarks that are studied"
    )
    also: Annotated[Mapping[str, Words], _WITHOUT_NULLS] = Field(
        default={}, description="Benchmarks for the transfer matrix only, each with changes to the main method's recipe"
    )
    limit: Whole | None = Field(default=None, ge=1, description="Test questions of each benchmark; null for all")
    methods: Annotated[Mapping[str, Words], Field(min_length=1), _WITHOUT_NULLS] = Field(
        description="By name: a recipe, and what it is changed by"
    )
    main: str = Field(description="The method that is sampled, attributed and transferred")
    overrides: Annotated[Mapping[Method, Words], _WITHOUT_NULLS] = Field(
        default={}, description="Changes to all recipes for grpo, sft, rft or dpo"
    )
    engine: Literal["hf", "vllm"] = Field(default="hf", description="Who answers: hf (transformers) or vllm")
    # Where training runs, and so no setting of a stage: a step has the same questions and rollouts on any number of
    # processes (batches.py), and a study that began on one GPU may go on with eight.
    launch: Words = Field(default=(), description="Arguments of `accelerate launch` for training; () for none")
    samples: SampleSettings = Field(default=SampleSettings(), description="Samples of each question")
    attribution: Attribution | None = Field(default=None, description="Data attribution; null for none")
    likelihood: Whole | None = Field(default=None, ge=1, description="Questions whose likeliest answers are listed")
    cot: bool = Field(default=True, description="Ask for a chain of thought too")

    @model_validator(mode="before")
    @classmethod
    def _stated(cls, given: Any) -> Any:
        """Null is every field's default."""
        return _without_nulls(given)

    @model_validator(mode="after")
    def _fits(self) -> Study:
        if strange := [name for name in self.models if name in ("", ".", "..") or "/" in name]:
            raise ValueError(f"models: {strange[0]!r} cannot be the name of a folder; use letters, digits, - and _")
        if without := [name for name, recipe in self.methods.items() if not recipe]:
            raise ValueError(f"methods: {without[0]} has no recipe; name one")
        if self.main not in self.methods:
            raise ValueError(f"main: {self.main!r} is none of the methods {', '.join(self.methods)}")
        if len(set(self.benchmarks)) < len(self.benchmarks):
            raise ValueError("benchmarks: one stands there twice; name each once")
        if twice := set(self.benchmarks) & set(self.also):
            raise ValueError(f"also: {min(twice)} is studied already; name other benchmarks")
        if BASE in self.methods:
            raise ValueError(f"methods: {BASE!r} is the model as it is; call the method otherwise")
        if wanted := self.attribution:
            known = bucket_names(self.samples.n)
            if absent := [bucket for bucket in wanted.buckets if bucket not in known]:
                raise ValueError(
                    f"attribution.buckets: {absent[0]!r} is no bucket of {self.samples.n} samples; there are "
                    f"{', '.join(known)}"
                )
            for name, given in (("buckets", wanted.buckets), ("seeds", wanted.seeds)):
                if len(set(given)) < len(given):
                    raise ValueError(f"attribution.{name}: one stands there twice; name each once")
        return self

    @property
    def tasks(self) -> str:
        """What every model is asked, as flags have it."""
        return ",".join(f"{name}_dedup" for name in (*self.benchmarks, *self.also))


_STEP = ("max_steps=1", "questions=2", "validation={every: null, limit: 4}")
_SAMPLES = ("max_steps=4", "questions=4", "temperature=0.5", "validation={every: null, limit: 4}")  # some are right
SMOKE_SAMPLES = SampleSettings(n=4, more=4, max_new_tokens=12)
SMOKE_CHANGES: Mapping[Method, tuple[str, ...]] = {"grpo": _STEP, "sft": _STEP, "rft": _SAMPLES, "dpo": _SAMPLES}


def load_study(name: str, overrides: Sequence[str] = (), smoke: bool = False) -> Study:
    """A study's recipe, checked.

    Args:
        name: Path of a YAML file, or the bare name of one of the package.
        overrides: `key=value`, as for a training recipe.
        smoke: The same stages with a few questions, samples and steps each.

    Raises:
        RequestError: No such recipe, or it is wrong: one line with the field and what to do.
    """
    stated = read_layers(name, overrides, study_names)
    where = f"study {stated.get('name')}"
    if absent := next(_left_out_in_vain(stated, read_layers(name)), None):
        raise RequestError(f"{where}: {absent}")
    try:
        study = Study.model_validate(stated)
    except ValidationError as error:
        raise RequestError(f"{where}: {_explained(error)}") from None
    return _smoked(study) if smoke else study


def _left_out_in_vain(stated: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """What an override sets to null and the file does not have."""
    for field in ("models", "methods", "also", "overrides"):
        there = before.get(field) or {}
        for key, value in stated[field].items() if isinstance(stated.get(field), Mapping) else ():
            if value is None and key not in there:
                known = f"there are {', '.join(there)}" if there else "there are none"
                yield f"{field}.{key}: is not there to be left out; {known}"


def _explained(error: ValidationError) -> str:
    """The first thing that is wrong, on one line; unknown fields come first."""
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    field = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
    known = f"; there are {', '.join(Study.model_fields)}" if first["type"] == "extra_forbidden" else ""
    return f"{field}{first['msg'].removeprefix('Value error, ')}{known}"


def _smoked(study: Study) -> Study:
    """The study with a few questions, samples and steps each, and its own changes otherwise."""
    changes = {name: (*study.overrides.get(name, ()), *few) for name, few in SMOKE_CHANGES.items()}
    few = {"limit": 4, "samples": SMOKE_SAMPLES, "likelihood": 2, "overrides": changes}
    if study.attribution:  # a few samples make no other buckets
        few["attribution"] = study.attribution.model_copy(update={"buckets": ("0",), "limit": 12})
    return study.model_copy(update=few)


def study_yaml(study: Study) -> str:
    """The study as YAML that `load_study` reads: all that it states, and no key."""
    stated = study.model_dump(mode="json", exclude_unset=True) | {"judge": judge_stated(study.judge)}
    return as_yaml(stated)


def judge_stated(judge: JudgeSettings) -> dict[str, Any]:
    """What is stated of a judge: its kind, and all that is no default, but for the key."""
    return {"kind": judge.kind, **judge.model_dump(exclude={"api_key", "kind"}, exclude_defaults=True, mode="json")}
