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

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.calibration import chosen_labels
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.manifests import SPLITS, read_manifest
from closedbook.harness.small_model import require_folder
from closedbook.harness.study.accessibility import bucket_names
from closedbook.harness.study.likelihood import LEAST
from closedbook.harness.study.tables import ENDS
from closedbook.harness.task_files import task_name
from closedbook.training.accelerate import accelerate_dir, accelerate_names
from closedbook.training.batches import devices
from closedbook.training.examples import bucket_ids
from closedbook.training.plan import plan
from closedbook.training.recipe_fields import Method
from closedbook.training.recipes import inline, load_recipe, published
from closedbook.training.stages import Amount, Graph, Stage
from closedbook.training.study_recipe import BASE, Attribution, Study, judge_stated

NO_FIGURE = ("buckets", "flips")  # analyses that are tables alone


class _Made(NamedTuple):
    """What another stage has made, where it is an argument: its folder, after a label if there is one."""

    kind: str
    name: str
    label: str = ""


def study_graph(study: Study, out: Path) -> Graph:
    """All stages of a study.

    Raises:
        RequestError: There is no such model, a recipe of it is wrong, two runs have one name, or a manifest or the
            labels cannot be read.
    """
    for model in study.models.values():
        require_folder(model)
    stages = list(_stages(study, out))
    if twice := [name for name, times in Counter(stage.name for stage in stages).items() if times > 1]:
        raise RequestError(f"study {study.name}: two stages are called {twice[0]}; call the method otherwise")
    return Graph(stages, out, anywhere=_stages(study, Path()))


def _stages(study: Study, out: Path) -> Iterator[Stage]:
    named = (*study.benchmarks, *study.also)
    manifests = {name: read_manifest(name).digest for name in named}  # other splits are another study
    yield Stage("data", ("data", "check", *named), stated=json.dumps(manifests, sort_keys=True))
    yield Stage("dedup", ("splits", "check", *named), after=("data",))
    if study.labels:
        made, labels = out / "judge.json", len(chosen_labels(Path(study.labels)))
        command = ("judge", "calibrate", study.labels, "--out", str(made), *judge_flags(study.judge))
        calls = 0 if study.judge.kind == "rules" else labels
        work = f"{labels:,} answers that people have graded"
        yield Stage(
            "judge", command, makes=(made,), reads=(study.labels,), work=work, calls=calls, amount=Amount(calls=calls)
        )
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
        self.buckets = len(bucket_names(study.samples.n))

    def stages(self) -> Iterator[Stage]:
        study, named = self.study, (*self.study.benchmarks, *self.study.also)
        yield self.evaluation(BASE, self.model, study.tasks, ("dedup",))
        if study.cot:
            tasks = ",".join(task_name(name, "cot") for name in study.benchmarks)
            yield self.evaluation("base-cot", self.model, tasks, ("dedup",))
        for benchmark in study.benchmarks:
            yield from self.studied(benchmark)
        for benchmark, changed in study.also.items():
            yield from self.trained(benchmark, study.main, (*study.methods[study.main], *changed))
        if len(named) > 1:
            trained = [_Made("eval", f"{name}/{study.main}", name) for name in named]
            yield self.analysis("transfer", "", _Made("eval", BASE), *_each("--trained", trained))

    def studied(self, benchmark: str) -> Iterator[Stage]:
        """All that is done with one benchmark."""
        study, settings = self.study, self.study.samples
        for method, recipe in study.methods.items():
            yield from self.trained(benchmark, method, recipe)
        base, main = _Made("eval", BASE), _Made("eval", f"{benchmark}/{study.main}")
        before, after = _Made("samples", f"{benchmark}/{BASE}"), main._replace(kind="samples")
        trained = self.at("train", main.name), self.stage("train", main.name)
        yield self.sampling(before.name, self.model, benchmark, "test", settings.n + settings.more, "dedup")
        yield self.sampling(after.name, str(trained[0]), benchmark, "test", settings.n, trained[1])
        task, n = ("--task", f"{benchmark}_dedup"), ("-n", str(settings.n))
        greedy = _each("--greedy", [base, main])
        methods = [_Made("eval", f"{benchmark}/{method}") for method in study.methods]
        yield self.analysis("accuracy", benchmark, base, *methods, *task)
        yield self.analysis("passk", benchmark, before, after, *greedy, *n)
        yield self.analysis("majority", benchmark, before, after, *n)
        yield self.analysis("accessibility", benchmark, before, "--before", base, "--after", main, *n)
        yield self.analysis("flips", benchmark, base, main, *task, "--samples", before, *n)
        if study.attribution:
            yield from self.attributed(benchmark, study.attribution, base, main)
        cot = ("--cot", _Made("eval", "base-cot")) if study.cot else ()
        yield self.analysis("baselines", benchmark, before, "--greedy", base, *cot, "--model", self.model, *n)
        if study.likelihood:
            yield self.listing(before.name, self.model, benchmark, study.likelihood, "dedup")
            yield self.listing(after.name, str(trained[0]), benchmark, study.likelihood, trained[1])
            listed = [run._replace(kind="likelihood") for run in (before, after)]
            yield self.analysis("mass", benchmark, *listed, "--samples", before, *n)

    def attributed(self, benchmark: str, wanted: Attribution, base: _Made, main: _Made) -> Iterator[Stage]:
        """Training on single buckets, and on as many random questions."""
        study, n = self.study, self.study.samples.n
        source = _Made("samples", f"{benchmark}/{BASE}-train")
        yield self.sampling(source.name, self.model, benchmark, "train", n, "dedup")
        buckets = self.analysis("buckets", benchmark, source, "-n", str(n))
        yield buckets
        file = buckets.makes[0]
        parts: list[_Made] = []
        for bucket in wanted.buckets:
            for seed in wanted.seeds:
                for kind, random in ((f"bucket_{bucket}", False), (f"random_as_{bucket}", True)):
                    run = f"{kind}-seed{seed}"
                    yield from self.trained(
                        benchmark, run, (*study.methods[study.main], f"seed={seed}"), (buckets.name,),
                        {"buckets": str(file), "bucket": bucket, "random": random, "seed": seed},
                        partial(_without_questions, file, [bucket]),
                    )  # fmt: skip
                    parts.append(_Made("eval", f"{benchmark}/{run}", kind))
        task = ("--task", f"{benchmark}_dedup")
        words = (base, main, *_each("--part", parts), "--leave-out-absent", *task)
        yield replace(
            self.analysis("attribution", benchmark, *words), empty=partial(_without_questions, file, wanted.buckets)
        )

    def trained(
        self,
        benchmark: str,
        method: str,
        recipe: Sequence[str],
        after: tuple[str, ...] = (),
        subset: Mapping[str, Any] | None = None,
        empty: Callable[[], bool] | None = None,
    ) -> Iterator[Stage]:
        """Training, and the evaluation of what came of it.

        Args:
            benchmark: Trained on.
            method: Name of the run.
            recipe: A recipe and its changes.
            after: Stages besides the data.
            subset: The part of the questions that it trains on; None for all.
            empty: Whether there are none.
        """
        name, folder = f"{benchmark}/{method}", self.at("train", f"{benchmark}/{method}")
        base, *changed = recipe
        changed += [
            *self.study.overrides.get(_method(base), ()),
            f"model={inline(self.model)}",
            f"benchmarks={benchmark}",
            f"name={inline(method)}",
            "save.when_finished=remove",  # a study makes many runs, and only their models are asked
            f"judge={inline(judge_stated(self.study.judge))}",
        ]
        part = subset and {**subset, "buckets": Path(subset["buckets"]).name}
        training = _training(base, (*changed, *_subset(part)), at_most=subset is not None)
        changed += [*_subset(subset), f"output_dir={inline(str(folder))}"]
        amount = training.amount
        if subset:  # the buckets part the questions, so that over all of them the average is right
            amount = Amount(*(number / self.buckets for number in amount))
        stage = self.stage("train", name)
        yield Stage(
            stage, ("train", training.method, "--config", base, *changed, "--resume"), ("dedup", *after), (folder,),
            stated=training.stated, empty=empty, work=training.work, calls=training.calls,
            amount=amount, launch=_launch(self.study.launch),
        )  # fmt: skip
        yield replace(self.evaluation(name, str(folder), self.study.tasks, (stage,)), empty=empty)

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
        work, amount = f"{sum(asked):,} questions", Amount(samples=sum(asked), calls=calls)
        return Stage(self.stage("eval", name), command, after, (folder,), work=work, calls=calls, amount=amount)

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
        amount = Amount(samples=questions * n, calls=calls)
        return Stage(self.stage("samples", name), command, (after,), (folder,), work=work, calls=calls, amount=amount)

    def sampled(self, benchmark: str, split: str) -> int:
        """How many questions of a split are sampled: of test, none that is not asked greedily too."""
        study = self.study
        attributed = study.attribution.limit if study.attribution else None
        limits = (study.samples.limit, study.limit) if split == "test" else (attributed,)
        return _count(benchmark, split, min((limit for limit in limits if limit), default=None))

    def listing(self, name: str, model: str, benchmark: str, limit: int, after: str) -> Stage:
        """The likeliest answers to some of the questions that are sampled."""
        to, asked = self.at("likelihood", name), min(limit, self.sampled(benchmark, "test"))
        command = (
            "likelihood", model, "--task", f"{benchmark}_dedup", "--limit", str(asked), "--out", str(to), *self.judge
        )  # fmt: skip
        work = f"the likeliest answers to {asked:,} questions"
        calls = asked * round(1 / LEAST) if self.paid else 0  # no question has more answers that are as likely
        amount = Amount(calls=calls)
        return Stage(self.stage("likelihood", name), command, (after,), (to,), work=work, calls=calls, amount=amount)

    def analysis(self, name: str, benchmark: str, *words: str | _Made) -> Stage:
        """A table and a figure of what others have made, each of which is done before."""
        folder = self.at("analysis", benchmark)
        endings = ENDS[:4] if name in NO_FIGURE else ENDS
        read = [word for word in words if isinstance(word, _Made)]
        return Stage(
            self.stage("analysis", f"{benchmark}/{name}" if benchmark else name),
            ("analyze", name, *map(self.word, words), "--out", str(folder)),
            tuple(dict.fromkeys(self.stage(made.kind, made.name) for made in read)),
            tuple(folder / f"{name}.{ending}" for ending in endings),
        )

    def word(self, word: str | _Made) -> str:
        if isinstance(word, str):
            return word
        return f"{word.label}={self.at(word.kind, word.name)}" if word.label else str(self.at(word.kind, word.name))

    def at(self, kind: str, name: str) -> Path:
        return self.out / kind / name if name else self.out / kind

    def stage(self, kind: str, name: str) -> str:
        return f"{self.name}/{kind}/{name}"


def _each(flag: str, words: Iterable[_Made]) -> list[str | _Made]:
    """A flag before each of them."""
    return [part for word in words for part in (flag, word)]


def _subset(of: Mapping[str, Any] | None) -> tuple[str, ...]:
    return (f"subset={inline(of)}",) if of else ()


def _without_questions(file: Path, buckets: Sequence[str]) -> bool:
    return not any(bucket_ids(file, bucket) for bucket in buckets)


def _launch(arguments: Sequence[str]) -> tuple[str, ...]:
    """Arguments of `accelerate launch`, with the package's file for its bare name."""
    shipped = accelerate_names() if arguments else ()
    return tuple(str(accelerate_dir() / f"{part}.yaml") if part in shipped else part for part in arguments)


def _count(benchmark: str, split: str, limit: int | None) -> int:
    """Questions of a split, at most `limit`."""
    there = _size(benchmark, split)
    return min(there, limit) if limit else there


@cache  # a large study asks thousands of times
def _size(benchmark: str, split: str) -> int:
    return len(read_manifest(benchmark).ids(split))


@cache
def _method(recipe: str) -> Method:
    return load_recipe(recipe).method


class _Training(NamedTuple):
    """What a recipe comes to: its method, what is published of it, what it takes in words and in numbers."""

    method: str
    stated: str
    work: str
    calls: int
    amount: Amount


@cache
def _training(base: str, changed: tuple[str, ...], at_most: bool) -> _Training:
    """What a recipe with its changes comes to; `at_most` where it trains on a part of the questions."""
    recipe = load_recipe(base, changed)
    asked = {split: sum(_size(name, split) for name in recipe.benchmarks) for split in SPLITS}
    planned = plan(recipe, asked["train"], devices(), validation_questions=asked["validation"])
    most = "at most " if at_most or planned.steps_at_most else ""
    rollouts = f", {planned.rollouts:,} rollouts" if planned.rollouts else ""
    stated = json.dumps(published(recipe), sort_keys=True)
    amount = Amount(
        samples=planned.rollouts,
        trained=planned.texts_trained,
        rounds=planned.rollouts // planned.batch.generated if recipe.method == "grpo" else 0,
        calls=planned.judge_calls,
    )
    return _Training(recipe.method, stated, f"{most}{planned.steps:,} steps{rollouts}", planned.judge_calls, amount)


def judge_flags(judge: JudgeSettings) -> tuple[str, ...]:
    """A judge as flags of a command; its key stays in the environment."""
    stated = judge_stated(judge)
    kind = str(stated.pop("kind"))
    texts = (f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in stated.items())
    return ("--judge", kind, *(part for text in texts for part in ("--judge-set", text)))
