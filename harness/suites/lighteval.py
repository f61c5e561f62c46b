"""The tasks in lighteval, by the same names: a module of custom tasks.

    $ lighteval accelerate model_name=MODEL "popqa_dedup|0" --custom-tasks closedbook.harness.suites.lighteval

What would surprise:

- lighteval reads questions with `load_dataset`, so those of a task that is asked for are first exported to a folder of
  our cache. Its name holds a digest of the questions: lighteval keeps answers by the task's settings and the number of
  a row, and would serve those to other questions as theirs.
- The judge is named in the environment, is tried before the model answers, and is asked once for all metrics together.
- lighteval hands a chat model no stop string, so its answers are cut where lm-eval's would have ended.
- It does not tell a task which model answers, so a checkpoint that was trained on the questions is not refused here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

from closedbook.harness.errors import RequestError, warn_once
from closedbook.harness.export import export, to_jsonl
from closedbook.harness.files import cache_dir
from closedbook.harness.judge import Triple, judge_settings, make_judge
from closedbook.harness.judge.settings import NO_JUDGE_HINT
from closedbook.harness.manifests import load_questions
from closedbook.harness.metrics import METRICS, judged_answers, metric_names, metrics
from closedbook.harness.prompts import Style, extract_answer, question_prompt, template_digest
from closedbook.harness.sources import benchmarks
from closedbook.harness.task_files import cut, generation, task_name


def _doc(row: Mapping[str, Any], task: str, style: Style) -> Doc:
    """A question as lighteval asks it.

    Raises:
        RequestError: An example is wanted; there is none that is not a test question.
    """
    if row["__few_shots"]:
        raise RequestError(f"{task}: the tasks are asked without examples; ask {task}|0")
    golds = list(row["answers"])
    return Doc(
        query=question_prompt(row["question"], style),
        choices=golds,
        gold_index=list(range(len(golds))),
        specific={"id": row["id"], "question": row["question"]},
    )


@lru_cache(maxsize=1)  # every metric of a task asks for the same
def _values(task: str, asked: tuple[tuple[Triple, ...], ...]) -> list[dict[str, float]]:
    """The metrics of each question, whose answers are judged in one batch."""
    settings = judge_settings()
    judge = make_judge(settings) if settings else None
    answers = judged_answers(asked, judge, settings.max_failures if settings else 0, task)
    return [metrics(given, triples[0].golds) for given, triples in zip(answers, asked, strict=True)]


class _Value(SampleLevelComputation):
    """One of our metrics, for all questions of a task at once."""

    def __init__(self, metric: str, style: Style, stop: tuple[str, ...]) -> None:
        self.metric, self.style, self.stop = metric, style, stop

    def compute(self, responses: Sequence[ModelResponse], docs: Sequence[Doc]) -> list[float]:
        """A value per question, NaN where it is not known."""
        asked = tuple(
            tuple(
                Triple(doc.specific["question"], tuple(doc.choices), extract_answer(cut(text, self.stop), self.style))
                for text in response.final_text
            )
            for response, doc in zip(responses, docs, strict=True)
        )
        return [values[self.metric] for values in _values(docs[0].task_name, asked)]


def _over_questions(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean of what is known, and its standard error, for which lighteval would take every value."""
    known = [value for value in values if not math.isnan(value)]
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return {name: fmean(known) if known else math.nan, f"{name}_stderr": error}


def _metric(name: str, style: Style, stop: tuple[str, ...]) -> SampleLevelMetric:
    return SampleLevelMetric(
        metric_name=name,
        higher_is_better=METRICS[name].higher_is_better,
        category=SamplingMethod.GENERATIVE,
        sample_level_fn=_Value(name, style, stop),
        corpus_level_fn=partial(_over_questions, name),
        batched_compute=True,
    )


class ClosedbookTask(LightevalTaskConfig):
    """The test questions of a benchmark, asked in one style."""

    def __init__(self, benchmark: str, style: Style) -> None:
        judging, generated = judge_settings(), generation(benchmark, style)
        if judging is None:
            warn_once(NO_JUDGE_HINT)
        names = metric_names(judging.prompt if judging else None)
        super().__init__(
            name=task_name(benchmark, style),
            prompt_function=partial(_doc, style=style),
            hf_repo="",
            hf_subset="default",
            hf_revision=template_digest(style),  # a folder has none; answers are kept by it
            hf_avail_splits=["test"],
            evaluation_splits=["test"],
            metrics=[_metric(name, style, generated.stop) for name in names],
            generation_size=generated.max_tokens,
            stop_sequence=list(generated.stop),
            version=1,
        )
        self.benchmark = benchmark
        del self.hf_repo  # so that the property below is asked

    @cached_property
    def hf_repo(self) -> str:
        """The folder with the questions, made when the task is asked for; by then the judge has to be able to work.

        Raises:
            RequestError: The judge refuses to work.
            WorkError: The judge cannot be reached, or the folder cannot be written.
            ManifestError, SourceError: The test questions cannot be had as the manifest pins them.
        """
        if judging := judge_settings():
            make_judge(judging).preflight()
        return str(_exported(self.benchmark))


def _exported(benchmark: str) -> Path:
    """The test questions as a data set folder, named by what they are."""
    digest = hashlib.sha256(to_jsonl(load_questions(benchmark, "test"))).hexdigest()[:16]
    folder = cache_dir() / "lighteval" / f"{benchmark}-{digest}"
    if not folder.exists():
        export(benchmark, "hf", ["test"], folder)
    return folder


TASKS_TABLE = [ClosedbookTask(name, style) for name in benchmarks() for style in get_args(Style)]
