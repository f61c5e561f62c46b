"""`closedbook sample`: many answers of a model to each question of a task, graded and kept.

The folder can be added to: more samples with a larger n, more questions without a limit, grades by a judge another day.
Several processes share the work by shards, each with a folder of its own; `harness.study.merge` joins them.
What surprises: a question's samples are graded against all its gold answers once for each different text, so that 128
samples of an easy question cost one verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from closedbook.harness.cluster import Cluster
from closedbook.harness.cluster_engine import cluster_engine
from closedbook.harness.drawing import Ahead, Engine, Said, draw
from closedbook.harness.drawing import Grade as Grading
from closedbook.harness.engines import EngineName, make_engine
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import alone
from closedbook.harness.judge import Grade, Judge, JudgeSettings, Triple, make_judge
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.pass_at_k import PassAtK, passes
from closedbook.harness.prompts import Style, extract_answer
from closedbook.harness.provenance import check_untrained, read_provenance
from closedbook.harness.questions import Question
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import Counts, QuestionSamples, count
from closedbook.harness.sampling import Sampling
from closedbook.harness.shards import Shard, Sharding
from closedbook.harness.small_model import model_path
from closedbook.harness.sources import benchmark


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        model: Folder, hub id, `smollm2`, or a name on a server.
        task: Of this package, such as popqa_dedup.
        split: test, validation, train or dropped.
        n: Samples of each question.
        sampling: How they are drawn.
        engine: hf, vllm or openai; on a cluster that of each worker.
        base_url: The server's address, with openai.
        chat: Whether to ask through the chat template; "auto" if there is one.
        limit: Questions: the first so many by id, which is a random sample.
        out: The folder; `runs/sample-MODEL-TASK-SPLIT` unless stated, and for a shard with its name.
        allow_contaminated: Ask a checkpoint questions that it was trained on.
        shard: Which part of the questions to draw; None for all of them.
        cluster: Whose workers draw; None for this process alone.
    """

    model: str
    task: str = "worldfacts_dedup"
    split: str = "test"
    n: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    engine: EngineName = "hf"
    base_url: str = ""
    chat: bool | Literal["auto"] = "auto"
    limit: int | None = None
    out: Path | None = None
    allow_contaminated: bool = False
    shard: Shard | None = None
    cluster: Cluster | None = None

    @property
    def folder(self) -> Path:
        """Where the samples go."""
        part = f"-{self.shard.number}of{self.shard.of}" if self.shard else ""
        return self.out or Path("runs") / f"sample-{Path(self.model).name}-{self.task}-{self.split}{part}"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished run: its folder, what is in it, and pass@k for powers of two."""

    folder: Path
    samples: Sequence[QuestionSamples]
    counts: Counts
    passes: Sequence[PassAtK]


def asked_by(task: str) -> tuple[str, Style]:
    """The benchmark and the style of prompt of a task.

    Raises:
        RequestError: It is none of ours.
    """
    name, _, rest = task.partition("_")
    styles: Mapping[str, Style] = {"dedup": "direct", "dedup_cot": "cot"}
    if rest not in styles:
        raise RequestError(f"--task {task!r} is none of ours; see `closedbook tasks list`")
    return benchmark(name).name, styles[rest]


def sample(request: Request, judging: JudgeSettings | None, progress: bool = True, block: int | None = None) -> Drawn:
    """Draw what the folder lacks, and grade it.

    Args:
        request: What is asked for.
        judging: The judge; None to grade nothing now.
        progress: Show a bar on standard error.
        block: As `draw` takes it.

    Raises:
        RequestError: The request cannot be carried out; the folder is as it was.
        WorkError: It ended early; all blocks before are kept, and the same call goes on.
    """
    name, style = asked_by(request.task)
    if request.n < 1:
        raise RequestError(f"-n {request.n}: draw at least one sample")
    if (request.engine == "openai") != bool(request.base_url):
        raise RequestError("--base-url goes with --engine openai, and only with it; give both or neither")
    every = load_questions(name, request.split)[: request.limit]
    sharding = _sharding(request, every)
    questions: Sequence[Question] = request.shard.part(every) if request.shard else every
    path = request.model
    if request.engine != "openai":
        path = untrained(request.model, name, request.split, request.allow_contaminated)
    judge = make_judge(judging) if judging else None
    if judge:
        judge.preflight()
    grade = grading(judge, style) if judge else None
    store = SampleStore(request.folder)
    try:
        with _engine(request, path, style) as engine:
            settings = settings_of(engine.identity, name, request.split, judge)
            with alone(request.folder):  # two at once would draw one sample twice
                store.begin(settings, [question.id for question in questions], request.n, sharding)
                samples = draw(store, questions, request.n, engine, grade, style, block=block, progress=progress)
    except KeyboardInterrupt:
        raise WorkError(f"interrupted; the same command goes on from what is kept in {request.folder}") from None
    return Drawn(request.folder, samples, count(samples), passes(samples, request.n) if judge else ())


def _engine(request: Request, path: str, style: Style) -> AbstractContextManager[Engine | Ahead]:
    """What draws: here, or on the workers of a cluster, where a folder is found by its whole path."""
    if request.cluster and Path(path).is_dir():
        path = str(Path(path).resolve())
    settings = request.chat, request.sampling
    make = partial(make_engine, request.engine, path, style, *settings, base_url=request.base_url)
    return cluster_engine(request.cluster, make) if request.cluster else nullcontext(make())


def _sharding(request: Request, every: Sequence[Question]) -> Sharding | None:
    """What the folder says of the shard of all questions that is drawn; None where they all are.

    Raises:
        RequestError: There are more shards than questions.
    """
    if request.shard is None:
        return None
    if request.shard.of > len(every):
        raise RequestError(
            f"--shard {request.shard}: there are {len(every)} questions; draw them with at most {len(every)} shards"
        )
    return Sharding(request.shard, tuple(question.id for question in every))


def untrained(model: str, name: str, split: str, allowed: bool = False) -> str:
    """The folder or hub id of a model that was not trained on the questions of a split.

    Args:
        model: As people name it.
        name: Of the benchmark.
        split: Of its questions.
        allowed: Whether to warn only.

    Raises:
        RequestError: It was, and that is not allowed; or there is no such folder.
    """
    path = model_path(model)
    if provenance := read_provenance(path):
        check_untrained(model, provenance, name, split, read_manifest(name).ids(split), allowed)
    return path


def settings_of(identity: Mapping[str, Any], name: str, split: str, judge: Judge | None) -> dict[str, Any]:
    """All that an answer and its grade depend on, besides the question; `identity` is the engine's part of it."""
    task = {"benchmark": name, "split": split, "manifest": read_manifest(name).digest}
    return {**identity, "task": task, "judge": dict(judge.identity) if judge else None}


def grading(judge: Judge, style: Style) -> Grading:
    """Rewards by that judge of answers in texts of that style."""

    def grade(asked: Sequence[Said]) -> list[float | None]:
        judgements = judge.grade([_triple(question, text, style) for question, text in asked], quiet=True)
        return [float(said is Grade.CORRECT) if isinstance(said, Grade) else None for said in judgements]

    return grade


def _triple(question: Question, text: str, style: Style) -> Triple:
    return Triple(question.question, question.answers, extract_answer(text, style))
