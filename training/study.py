"""The whole study as a graph of stages: data, evaluations, samples, every method, every analysis, one report.

    OUT/judge.json                       the judge against people, where labels are given
    OUT/MODEL/eval/base                  greedy answers of the model as it is, and base-cot with a chain of thought
    OUT/MODEL/eval/BENCHMARK/METHOD      those of the checkpoint that was trained on that benchmark
    OUT/MODEL/samples/..., likelihood/...  sampled and likeliest answers, before and after
    OUT/MODEL/train/BENCHMARK/METHOD     training runs
    OUT/MODEL/analysis/BENCHMARK         tables and figures
    OUT/report.html

What surprises: a model in here is asked the same questions by every stage, so that all that is laid beside each other
can be paired. Settings were fixed on validation questions or taken over; no test question has a say in any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from closedbook.harness.errors import RequestError
from closedbook.harness.files import busy
from closedbook.harness.judge.calibration import chosen_labels
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.manifests import SPLITS, read_manifest
from closedbook.harness.small_model import require_folder
from closedbook.harness.study.accessibility import bucket_names
from closedbook.training.accelerate import accelerate_dir, accelerate_names
from closedbook.training.batches import devices
from closedbook.training.plan import plan
from closedbook.training.recipe_fields import Method, Recipe, Section, Whole
from closedbook.training.recipes import load_recipe, published, read_layers
from closedbook.training.stages import Graph, Stage, Status

BASE = "base"
LISTED = 1000  # answers that `closedbook likelihood` judges of a question, at most: 1 / its least probability


class Sampled(Section):
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
    models: Mapping[str, str] = Field(min_length=1, description="Models as they are, by a name for them")
    judge: JudgeSettings = Field(description="Settings of the judge, which rewards and grades everything")
    labels: str | None = Field(default=None, description="Human labels to measure the judge on; null for none")
    benchmarks: tuple[str, ...] = Field(min_length=1, description="Benchmarks that are studied")
    also: Mapping[str, tuple[str, ...]] = Field(
        default={}, description="Benchmarks for the transfer matrix only, each with changes to the main method's recipe"
    )
    limit: Whole | None = Field(default=None, ge=1, description="Test questions of each benchmark; null for all")
    methods: Mapping[str, tuple[str, ...]] = Field(
        min_length=1, description="By name: a recipe, and what it is changed by"
    )
    main: str = Field(description="The method that is sampled, attributed and transferred")
    overrides: Mapping[Method, tuple[str, ...]] = Field(
        default={}, description="Changes to all recipes for grpo, sft, rft or dpo"
    )
    engine: Literal["hf", "vllm"] = Field(default="hf", description="Who answers: hf (transformers) or vllm")
    launch: tuple[str, ...] = Field(
        default=(), description="Arguments of `accelerate launch` for training; () for none"
    )
    samples: Sampled = Field(default=Sampled(), description="Samples of each question")
    attribution: Attribution | None = Field(default=None, description="Data attribution; null for none")
    likelihood: Whole | None = Field(default=None, ge=1, description="Questions whose likeliest answers are listed")
    cot: bool = Field(default=True, description="Ask for a chain of thought too")

    @model_validator(mode="after")
    def _fits(self) -> Study:
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
SMOKE_SAMPLES = {"n": 4, "more": 4, "max_new_tokens": 12}
SMOKE_CHANGES: Mapping[str, Sequence[str]] = {"grpo": _STEP, "sft": _STEP, "rft": _SAMPLES, "dpo": _SAMPLES}


def load_study(name: str, overrides: Sequence[str] = (), smoke: bool = False) -> Study:
    """A study's recipe, checked.

    Args:
        name: Path of a YAML file, or the bare name of one of the package.
        overrides: `key=value`, as for a training recipe.
        smoke: The same stages with a few questions, samples and steps each.

    Raises:
        RequestError: No such recipe, or it is wrong: one line with the field and what to do.
    """
    stated = read_layers(name, overrides)
    where = f"study {stated.get('name')}"
    stated = {key: value for key, value in stated.items() if value is not None}  # null is every field's default
    if smoke:
        stated = _smoked(stated)
    lists = ("benchmarks", "launch")
    stated = {key: [value] if key in lists and isinstance(value, str) else value for key, value in stated.items()}
    if isinstance(judge := stated.get("judge"), str):
        stated["judge"] = {"kind": judge}
    elif isinstance(judge, Mapping) and (leaked := [name for name in judge if "key" in str(name).lower()]):
        raise RequestError(f"{where}: judge.{leaked[0]}: would be written to results; set OPENAI_API_KEY instead")
    there = read_layers(name) if overrides else {}
    for name in ("models", "methods", "also", "overrides"):  # what is set to null is left out
        if isinstance(of := stated.get(name), Mapping):
            known = there.get(name) or {}
            if absent := [key for key, value in of.items() if value is None and overrides and key not in known]:
                raise RequestError(f"{where}: {name}.{absent[0]}: is not there to be left out; {_there(known)}")
            stated[name] = {key: value for key, value in of.items() if value is not None}
    for name in ("methods", "also", "overrides"):
        if isinstance(of := stated.get(name), Mapping):
            stated[name] = {key: [value] if isinstance(value, str) else value for key, value in of.items()}
    try:
        return Study.model_validate(stated)
    except ValidationError as error:
        first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
        field = ".".join(map(str, first["loc"]))
        known = f"; there are {', '.join(Study.model_fields)}" if first["type"] == "extra_forbidden" else ""
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{where}: {field}: {message}{known}" if field else f"{where}: {message}") from None


def _there(names: Iterable[str]) -> str:
    return f"there are {', '.join(names)}" if names else "there are none"


def _smoked(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The study with a few questions, samples and steps each, and its own changes otherwise."""
    own = stated.get("overrides") or {}
    lists = {name: [value] if isinstance(value, str) else list(value or ()) for name, value in own.items()}
    changes = {name: [*lists.get(name, ()), *few] for name, few in SMOKE_CHANGES.items()}
    smoked = {**stated, "limit": 4, "samples": SMOKE_SAMPLES, "likelihood": 2, "overrides": changes}
    if isinstance(wanted := stated.get("attribution"), Mapping):
        smoked["attribution"] = {**wanted, "buckets": ["0"], "limit": 12}  # a few samples make no other buckets
    return smoked


def study_yaml(study: Study) -> str:
    """The study as YAML that `load_study` reads: all that it states, and no key."""
    import yaml

    stated = study.model_dump(mode="json", exclude_unset=True)
    stated["judge"] = {"kind": study.judge.kind, **_stated(study.judge)}
    return str(yaml.safe_dump(stated, sort_keys=False, allow_unicode=True))


def study_graph(study: Study, out: Path) -> Graph:
    """All stages of a study.

    Raises:
        RequestError: There is no such model, a recipe of it is wrong, or a manifest or the labels cannot be read.
    """
    for model in study.models.values():
        require_folder(model)
    return Graph(_stages(study, out), out)


def describe(graph: Graph, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each stage, as the plan and the status show it; seconds are those of its last start."""
    found = {name: graph.status(name) for name in names}
    begun = [name for name in names if found[name].state == "failed" and graph.file(name, "log").exists()]
    running = max(begun, key=lambda name: graph.file(name, "log").stat().st_mtime, default=None)
    if running and busy(graph.out):
        found[running] = Status("running")
    return [
        {
            "stage": name,
            "state": found[name].state,
            "seconds": found[name].seconds,
            "work": graph.stages[name].work,
            "judge calls": graph.stages[name].calls,
            "after": ", ".join(graph.stages[name].after),
        }
        for name in names
    ]


def _stages(study: Study, out: Path) -> Iterator[Stage]:
    named = (*study.benchmarks, *study.also)
    manifests = {name: read_manifest(name).digest for name in named}  # other splits are another study
    yield Stage("data", ("data", "check", *named), stated=json.dumps(manifests, sort_keys=True))
    yield Stage("dedup", ("splits", "check", *named), after=("data",))
    if study.labels:
        made, labels = out / "judge.json", len(chosen_labels(Path(study.labels)))
        command = ("judge", "calibrate", study.labels, "--out", str(made), *judge_flags(study.judge))
        calls = 0 if study.judge.kind == "rules" else labels
        said = hashlib.sha256(Path(study.labels).read_bytes()).hexdigest()  # other labels are another study
        work = f"{labels:,} answers that people have graded"
        yield Stage("judge", command, makes=(made,), stated=said, work=work, calls=calls)
    last: list[str] = []
    for name, model in study.models.items():
        for stage in _Model(study, out, name, model).stages():
            last.append(stage.name)
            yield stage
    page = out / "report.html"
    yield Stage("report", ("report", str(out), "--out", str(page)), after=tuple(last), makes=(page,))


class _Model:
    """The stages of one model."""

    def __init__(self, study: Study, out: Path, name: str, model: str) -> None:
        self.study, self.name, self.model, self.out = study, name, model, out / name
        self.root = out
        self.judge = judge_flags(study.judge)
        self.paid = study.judge.kind != "rules"

    def stages(self) -> Iterator[Stage]:
        study = self.study
        yield self.evaluation(BASE, self.model, study.tasks, ("dedup",))
        if study.cot:
            tasks = ",".join(f"{name}_dedup_cot" for name in study.benchmarks)
            yield self.evaluation("base-cot", self.model, tasks, ("dedup",))
        for benchmark in study.benchmarks:
            yield from self.studied(benchmark)
        for benchmark, changed in study.also.items():
            yield from self.trained(benchmark, study.main, (*study.methods[study.main], *changed))
        if len(study.benchmarks) + len(study.also) > 1:
            mains = [f"{name}/{study.main}" for name in (*study.benchmarks, *study.also)]
            trained = [
                part for name in mains for part in ("--trained", f"{name.split('/')[0]}={self.at('eval', name)}")
            ]
            yield self.analysis("transfer", "", [str(self.at("eval", BASE)), *trained], self.evals(BASE, *mains))

    def studied(self, benchmark: str) -> Iterator[Stage]:
        """All that is done with one benchmark."""
        study, task = self.study, f"{benchmark}_dedup"
        for method, recipe in study.methods.items():
            yield from self.trained(benchmark, method, recipe)
        evals = [BASE, *(f"{benchmark}/{method}" for method in study.methods)]
        main = f"{benchmark}/{study.main}"
        before, after = f"{benchmark}/{BASE}", main
        yield self.sampling(before, self.model, benchmark, "test", study.samples.n + study.samples.more, "dedup")
        yield self.sampling(
            after, str(self.at("train", main)), benchmark, "test", study.samples.n, self.stage("train", main)
        )
        folders = [str(self.at("eval", name)) for name in evals]
        sampled = [self.stage("samples", name) for name in (before, after)]
        pair = self.evals(BASE, main)
        yield self.analysis("accuracy", benchmark, [*folders, "--task", task], self.evals(*evals))
        greedy = [part for name in (BASE, main) for part in ("--greedy", str(self.at("eval", name)))]
        both = [str(self.at("samples", name)) for name in (before, after)]
        yield self.analysis("passk", benchmark, [*both, *greedy, "-n", str(study.samples.n)], (*sampled, *pair))
        yield self.analysis("majority", benchmark, [*both, "-n", str(study.samples.n)], sampled)
        compared = ["--before", str(self.at("eval", BASE)), "--after", str(self.at("eval", main))]
        buckets = ["-n", str(study.samples.n)]
        yield self.analysis("accessibility", benchmark, [both[0], *compared, *buckets], (sampled[0], *pair))
        flipped = [str(self.at("eval", name)) for name in (BASE, main)]
        yield self.analysis(
            "flips", benchmark, [*flipped, "--task", task, "--samples", both[0], *buckets], (sampled[0], *pair)
        )
        if study.attribution:
            yield from self.attributed(benchmark, study.attribution)
        cot = ["--cot", str(self.at("eval", "base-cot"))] if study.cot else []
        free = [both[0], "--greedy", str(self.at("eval", BASE)), *cot, "--model", self.model, *buckets]
        asked = [BASE, "base-cot"] if study.cot else [BASE]
        yield self.analysis("baselines", benchmark, free, (sampled[0], *self.evals(*asked)))
        if study.likelihood:
            listed = list(self.listed(benchmark, before, after))
            yield from listed
            folders = [str(self.at("likelihood", name)) for name in (before, after)]
            names = tuple(stage.name for stage in listed)
            yield self.analysis("mass", benchmark, [*folders, "--samples", both[0], *buckets], (sampled[0], *names))

    def listed(self, benchmark: str, before: str, after: str) -> Iterator[Stage]:
        """The likeliest answers, before and after."""
        for name, model, needed in (
            (before, self.model, "dedup"),
            (after, str(self.at("train", after)), self.stage("train", after)),
        ):
            to, asked = self.at("likelihood", name), min(self.study.likelihood or 0, self.sampled(benchmark, "test"))
            command = ("likelihood", model, "--task", f"{benchmark}_dedup", "--limit", str(asked), "--out", str(to))
            work = f"the likeliest answers to {asked:,} questions"
            calls = asked * LISTED if self.paid else 0
            yield Stage(
                self.stage("likelihood", name), (*command, *self.judge), (needed,), (to,), work=work, calls=calls
            )

    def attributed(self, benchmark: str, wanted: Attribution) -> Iterator[Stage]:
        """Training on single buckets, and on as many random questions."""
        study, n = self.study, self.study.samples.n
        source = f"{benchmark}/{BASE}-train"
        yield self.sampling(source, self.model, benchmark, "train", n, "dedup")
        buckets = self.analysis(
            "buckets", benchmark, [str(self.at("samples", source)), "-n", str(n)], [self.stage("samples", source)]
        )
        yield buckets
        parts: list[str] = []
        file = self.at("analysis", benchmark) / "buckets.parquet"
        recipe = study.methods[study.main]
        for bucket in wanted.buckets:
            for seed in wanted.seeds:
                for kind, random in ((f"bucket_{bucket}", False), (f"random_as_{bucket}", True)):
                    name = f"{kind}-seed{seed}"
                    subset = f"buckets: '{file}', bucket: '{bucket}', random: {str(random).lower()}, seed: {seed}"
                    yield from self.trained(
                        benchmark, name, (*recipe, f"subset={{{subset}}}", f"seed={seed}"), (buckets.name,), part=True
                    )
                    parts += ["--part", f"{kind}={self.at('eval', benchmark) / name}"]
        names = [f"{benchmark}/{Path(part.partition('=')[2]).name}" for part in parts[1::2]]
        main = f"{benchmark}/{study.main}"
        command = [str(self.at("eval", BASE)), str(self.at("eval", main)), *parts, "--task", f"{benchmark}_dedup"]
        yield self.analysis("attribution", benchmark, command, self.evals(BASE, main, *names))

    def trained(
        self, benchmark: str, method: str, recipe: Sequence[str], after: tuple[str, ...] = (), part: bool = False
    ) -> Iterator[Stage]:
        """Training, and the evaluation of what came of it.

        Args:
            benchmark: Trained on.
            method: Name of the run.
            recipe: A recipe and its changes.
            after: Stages besides the data.
            part: Whether it trains on a part that is not known yet.
        """
        name, folder = f"{benchmark}/{method}", self.at("train", f"{benchmark}/{method}")
        base, *changed = recipe
        changed += [
            *self.study.overrides.get(load_recipe(base).method, ()),
            f"model={self.model}",
            f"benchmarks={benchmark}",
            f"name={method}",
            "save.when_finished=remove",  # a study makes many runs, and only their models are asked
        ]
        changed += [f"judge={_inline(self.study.judge)}", f"output_dir={folder}"]
        loaded = load_recipe(base, changed)
        stage = self.stage("train", name)
        work, calls = _training(loaded, at_most=part)
        yield Stage(
            stage, ("train", loaded.method, "--config", base, *changed, "--resume"), ("dedup", *after), (folder,),
            stated=json.dumps(published(loaded), sort_keys=True), work=work, calls=calls,
            launch=_launch(self.study.launch),
        )  # fmt: skip
        yield self.evaluation(name, str(folder), self.study.tasks, (stage,))

    def evaluation(self, name: str, model: str, tasks: str, after: tuple[str, ...]) -> Stage:
        """Greedy answers."""
        limit = ("--limit", str(self.study.limit)) if self.study.limit else ()
        folder = self.at("eval", name)
        backend = ("--backend", "vllm") if self.study.engine == "vllm" else ()
        command = ("eval", model, "--tasks", tasks, *backend, *limit, *self.judge, "--out", str(folder))
        if self.study.labels:
            command, after = (*command, "--calibration", str(self.root / "judge.json")), (*after, "judge")
        asked = [_count(task.partition("_")[0], "test", self.study.limit) for task in tasks.split(",")]
        calls = sum(asked) if self.paid else 0
        return Stage(self.stage("eval", name), command, after, (folder,), work=f"{sum(asked):,} questions", calls=calls)

    def sampling(self, name: str, model: str, benchmark: str, split: str, n: int, after: str) -> Stage:
        """Samples of a split."""
        settings, folder = self.study.samples, self.at("samples", name)
        questions = self.sampled(benchmark, split)
        command = (
            "sample", model, "--task", f"{benchmark}_dedup", "--split", split, "-n", str(n),
            "--max-new-tokens", str(settings.max_new_tokens), "--engine", self.study.engine,
            "--limit", str(questions), *self.judge, "--out", str(folder),
        )  # fmt: skip
        work = f"{questions:,} questions x {n} = {questions * n:,} samples"
        calls = questions * n if self.paid else 0
        return Stage(self.stage("samples", name), command, (after,), (folder,), work=work, calls=calls)

    def sampled(self, benchmark: str, split: str) -> int:
        """How many questions of a split are sampled: of test, none that is not asked greedily too."""
        study = self.study
        attributed = study.attribution.limit if study.attribution else None
        limits = (study.samples.limit, study.limit) if split == "test" else (attributed,)
        return _count(benchmark, split, min((limit for limit in limits if limit), default=None))

    def analysis(self, name: str, benchmark: str, arguments: Sequence[str], after: Sequence[str]) -> Stage:
        """A table and a figure."""
        folder = self.at("analysis", benchmark)
        made = tuple(folder / f"{name}.{ending}" for ending in ("parquet", "csv", "md", "json", "svg", "png"))
        stage = self.stage("analysis", f"{benchmark}/{name}" if benchmark else name)
        return Stage(stage, ("analyze", name, *arguments, "--out", str(folder)), tuple(dict.fromkeys(after)), made)

    def at(self, kind: str, name: str) -> Path:
        return self.out / kind / name if name else self.out / kind

    def stage(self, kind: str, name: str) -> str:
        return f"{self.name}/{kind}/{name}"

    def evals(self, *names: str) -> tuple[str, ...]:
        return tuple(self.stage("eval", name) for name in names)


def _launch(arguments: Sequence[str]) -> tuple[str, ...]:
    """Arguments of `accelerate launch`, with the package's file for its bare name."""
    return tuple(str(accelerate_dir() / f"{part}.yaml") if part in accelerate_names() else part for part in arguments)


def _count(benchmark: str, split: str, limit: int | None) -> int:
    """Questions of a split, at most `limit`."""
    there = _size(benchmark, split)
    return min(there, limit) if limit else there


@cache  # a large study asks thousands of times
def _size(benchmark: str, split: str) -> int:
    return len(read_manifest(benchmark).ids(split))


def _training(recipe: Recipe, at_most: bool) -> tuple[str, int]:
    """What a training takes, in words, and its judge calls; `at_most` where it trains on a part of the questions."""
    asked = {split: sum(_size(name, split) for name in recipe.benchmarks) for split in SPLITS}
    planned = plan(recipe, asked["train"], devices(), validation_questions=asked["validation"])
    most = "at most " if at_most or planned.steps_at_most else ""
    rollouts = f", {planned.rollouts:,} rollouts" if planned.rollouts else ""
    return f"{most}{planned.steps:,} steps{rollouts}", planned.judge_calls


def _inline(judge: JudgeSettings) -> str:
    """A judge as YAML has it on one line."""
    import yaml

    stated = {"kind": judge.kind, **_stated(judge)}
    return str(yaml.safe_dump(stated, default_flow_style=True, width=10_000, sort_keys=False)).strip()


def judge_flags(judge: JudgeSettings) -> tuple[str, ...]:
    """A judge as flags of a command; its key stays in the environment."""
    texts = (
        f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in _stated(judge).items()
    )
    return ("--judge", judge.kind, *(part for text in texts for part in ("--judge-set", text)))


def _stated(judge: JudgeSettings) -> dict[str, Any]:
    return judge.model_dump(exclude={"api_key", "kind"}, exclude_defaults=True, mode="json")
