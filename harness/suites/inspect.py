"""The tasks in Inspect: `closedbook/popqa_dedup` and its siblings, found by Inspect's entry point.

Each score has the name of the metric that it is in lm-eval, and the same value. What would surprise: Inspect scores
sample by sample, so answers are judged together as they arrive. A judge's failure is an unscored sample to Inspect and
leaves the mean; how many there were is a score of its own, because metrics do not see what is unscored. And Inspect's
hf provider draws at random, also at temperature 0, unless it is told otherwise.

    $ inspect eval closedbook/popqa_dedup --model hf/local -M model_path=MODEL
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from inspect_ai import Task, task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import transcript
from inspect_ai.model import ChatMessageUser, GenerateConfig, Model, ModelName, get_model
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    NOANSWER,
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    accuracy,
    mean,
    metric,
    scorer,
    stderr,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver
from rich.markup import escape

from closedbook.harness.compare import gold_group
from closedbook.harness.errors import ClosedbookError, RequestError, warn_once
from closedbook.harness.judge import (
    Grade,
    Judge,
    JudgeFailure,
    Judgement,
    LLMJudge,
    Triple,
    judge_settings,
    make_judge,
)
from closedbook.harness.judge.arrivals import arrivals_of
from closedbook.harness.judge.settings import NO_JUDGE_HINT, JudgeStated
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.metrics import Answer, metric_names, metrics
from closedbook.harness.prompts import Style, extract_answer, messages
from closedbook.harness.provenance import check_checkpoints, result_provenance
from closedbook.harness.questions import Question
from closedbook.harness.sources import benchmarks
from closedbook.harness.task_files import cut, generation, task_name

GROUP = "gold_group"  # in a sample's metadata: questions with one gold answer are one piece of evidence
LOADED_HERE = ("hf", "nnterp", "sglang", "transformer_lens", "vllm")  # providers that load a folder or a hub id
LETTERS = {Grade.CORRECT: CORRECT, Grade.INCORRECT: INCORRECT, Grade.NOT_ATTEMPTED: NOANSWER}


# --- tasks ---


def deduplicated(
    benchmark: str,
    style: Style = "direct",
    split: str = "test",
    judge: JudgeStated = None,
    allow_contaminated: bool = False,
) -> Task:
    """A deduplicated benchmark as a task of Inspect, greedy unless `--temperature` is stated.

    Args:
        benchmark: Name of the benchmark.
        style: Of the prompt.
        split: "test", "validation", "train", or "dropped": the test questions that train states.
        judge: Who grades, beside exact_match and contains.
        allow_contaminated: Ask a checkpoint questions that it was trained on.

    Raises:
        PrerequisiteError: In one line, which Inspect shows as it is: no such split, a source that cannot be had, a
            judge that is wrongly set up or does not answer, or a checkpoint that was trained on the questions.
    """
    with _in_one_line():
        settings = judge_settings({"judge": judge})
        grader = make_judge(settings) if settings else None
        generated = generation(benchmark, style)
        questions = load_questions(benchmark, split)
        known = {**_checkpoint(_model_at_hand()), "allow_contaminated": allow_contaminated}
        carried = result_provenance(benchmark, split, style, grader, known)
        if grader:
            grader.preflight()
        else:
            warn_once(NO_JUDGE_HINT)
    scorers: dict[str, Callable[[], Scorer]] = {
        "judge_correct": lambda: judge_correct(style, judge),
        "not_attempted": not_attempted,
        "judge_failed": judge_failed,
        "exact_match": lambda: exact_match(style),
        "contains": lambda: contains(style),
    }
    names = metric_names(settings.prompt if settings else None)
    return Task(
        dataset=MemoryDataset([_sample(question, style) for question in questions], name=f"{benchmark} {split}"),
        setup=prepared(benchmark, split, allow_contaminated),
        scorer=[make() for name, make in scorers.items() if name in names],
        config=GenerateConfig(
            temperature=generated.temperature, max_tokens=generated.max_tokens, stop_seqs=list(generated.stop)
        ),
        metadata={"closedbook": carried},
    )


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Our errors as Inspect's, of which it shows the message and no traceback."""
    try:
        yield
    except ClosedbookError as error:
        raise PrerequisiteError(escape(str(error))) from error


def _sample(question: Question, style: Style) -> Sample:
    return Sample(
        id=question.id,
        input=[ChatMessageUser(content=message["content"]) for message in messages(question.question, style)],
        target=list(question.answers),
        metadata={
            "benchmark": question.benchmark,
            "question": question.question,
            GROUP: gold_group(question.answers),
            "source": [dict(row) for row in question.metadata],
        },
    )


def _register(benchmark: str, style: Style) -> None:
    """Make a benchmark known to Inspect, which puts the package before its name."""

    @task(name=task_name(benchmark, style))
    def of_benchmark(split: str = "test", judge: JudgeStated = None, allow_contaminated: bool = False) -> Task:
        return deduplicated(benchmark, style, split, judge, allow_contaminated)


for _benchmark in benchmarks():
    for _style in get_args(Style):
        _register(_benchmark, _style)


# --- the model ---


def _model_at_hand() -> Model | None:
    """The model that is evaluated; None where a task is made before that is known."""
    try:
        return get_model()
    except ValueError:
        return None


def _checkpoint(model: Model | None) -> dict[str, object]:
    """The model's folder or hub id, by the name of lm-eval's argument; nothing of a model on a server."""
    if model is None or (provider := ModelName(model).api) not in LOADED_HERE:
        return {}
    path, adapter = str(model.model_args.get("model_path") or model.name), ""
    if provider == "vllm":  # MODEL:ADAPTER@REVISION
        path, _, adapter = path.partition(":")
    named = {"pretrained": path, "lora_local_path": adapter.partition("@")[0]}
    return {**named, "revision": model.model_args.get("revision")}


@solver
def prepared(benchmark: str, split: str, allow_contaminated: bool = False) -> Solver:
    """What has to hold before a question is asked, whenever the task was made.

    The model was not trained on it, and draws at random only where the temperature is above 0.

    Raises:
        RequestError: The checkpoint was trained on the questions.
    """
    checked: list[dict[str, object]] = []

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        if (named := _checkpoint(model)) not in checked:
            asked = read_manifest(benchmark).ids(split)
            check_checkpoints({**named, "allow_contaminated": allow_contaminated}, benchmark, split, asked)
            checked.append(named)
        api: Any = model.api
        if hasattr(api, "do_sample") and "do_sample" not in model.model_args:
            api.do_sample = active_generate_config().temperature != 0
        return state

    return solve


# --- scores ---


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge said of one answer, and how it came to that.

    Attributes:
        decided_by: The rule that decided, or "model".
        prompt: What the judge's model was asked; None where a rule decided.
        reply: What it replied, word for word.
    """

    judgement: Judgement
    decided_by: str
    prompt: list[dict[str, str]] | None = None
    reply: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """For the transcript."""
        said = str(self.judgement) if isinstance(self.judgement, Grade) else f"failed: {self.judgement}"
        told = {"judgement": said, "decided_by": self.decided_by}
        return told if self.prompt is None else {**told, "prompt": self.prompt, "reply": self.reply}

    def score(self, answer: str) -> Score:
        """As Inspect counts it: a failure is unscored."""
        how = {"decided_by": self.decided_by}
        if isinstance(self.judgement, JudgeFailure):
            why = str(self.judgement)
            return Score.unscored(reason="grader_failed", answer=answer, explanation=why, metadata=how)
        said = f"decided by the rule {self.decided_by!r}" if self.prompt is None else self.reply
        return Score(value=LETTERS[self.judgement], answer=answer, explanation=said, metadata=how)


def _judged(judge: Judge, triple: Triple, judgement: Judgement) -> Judged:
    by, exchange = judge.decided_by(triple), None
    if isinstance(judge, LLMJudge):
        exchange = judge.exchange(triple)
    if exchange is None:
        return Judged(judgement, by)
    reply = judgement.reply if isinstance(judgement, JudgeFailure) else exchange.reply
    return Judged(judgement, by, exchange.messages, reply)


def _answer(state: TaskState, style: Style) -> str:
    """The answer in the model's response, from which not every provider takes the stop."""
    stop = generation(state.metadata["benchmark"], style).stop
    return extract_answer(cut(state.output.completion, stop), style)


@metric(scores="unreduced")
def share() -> Metric:
    """The mean over all answers, those of every epoch, whatever reducer the epochs have."""

    def mean_of(scores: list[SampleScore]) -> float:
        return sum(score.score.as_float() for score in scores) / len(scores) if scores else math.nan

    return mean_of


@scorer(metrics=[accuracy(), stderr(cluster=GROUP)])
def judge_correct(style: Style = "direct", judge: JudgeStated = None) -> Scorer:
    """Whether the judge calls the answer right; unscored where it failed.

    Raises:
        PrerequisiteError: No judge is configured, or it is wrongly set up.
    """
    with _in_one_line():
        settings = judge_settings({"judge": judge})
        if settings is None:
            raise RequestError("judge_correct needs a judge; set CLOSEDBOOK_JUDGE=rules, or name one with judge=...")
    arrivals = arrivals_of(settings)

    async def score(state: TaskState, target: Target) -> Score:
        answer = _answer(state, style)
        triple = Triple(state.metadata["question"], tuple(target.target), answer)
        judgement = await arrivals.grade(triple)
        judged = await arrivals.call(partial(_judged, arrivals.judge, triple, judgement))
        transcript().info(judged.told, source="judge")
        return judged.score(answer)

    return score


def _judged_value(state: TaskState) -> object:
    """The value of judge_correct, which is scored before; None where it is not known."""
    value = (state.scores or {})["judge_correct"].value
    return None if isinstance(value, float) and math.isnan(value) else value


@scorer(metrics=[share()])
def not_attempted() -> Scorer:
    """Whether the judge calls the answer no attempt; unscored where it failed."""

    async def score(state: TaskState, target: Target) -> Score:
        value = _judged_value(state)
        return Score.unscored(reason="grader_failed") if value is None else Score(value=float(value == NOANSWER))

    return score


@scorer(metrics=[share()])
def judge_failed() -> Scorer:
    """Whether the judge gave no verdict."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float(_judged_value(state) is None))

    return score


@scorer(metrics=[mean(), stderr(cluster=GROUP)])
def exact_match(style: Style = "direct") -> Scorer:
    """Whether the answer equals a gold answer, without case, punctuation and articles."""
    return _by_metric("exact_match", style)


@scorer(metrics=[mean(), stderr(cluster=GROUP)])
def contains(style: Style = "direct") -> Scorer:
    """Whether the answer holds a gold answer as a run of whole words."""
    return _by_metric("contains", style)


def _by_metric(name: str, style: Style) -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        answer = _answer(state, style)
        return Score(value=metrics([Answer(answer)], target.target)[name], answer=answer)

    return score
