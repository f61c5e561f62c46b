"""The lm-eval tasks: one class for all of them, configured by the short YAML files in tasks/.

The judge runs once, concurrently, over all answers of a task, in `apply_filters`: lm-eval's other hook,
`process_results`, sees one document at a time and would judge serially. Judgements travel in the filtered responses,
because lm-eval hands `process_results` a fresh copy of each document. Judge metrics exist only when a judge is
configured. A JudgeFailure becomes NaN in `judge_correct`, which `nanmean` leaves out, and counts in `judge_failed`.

    $ lm_eval --model hf --model_args pretrained=MODEL --tasks popqa_dedup --apply_chat_template
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from lm_eval.api.filter import Filter
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_filter, register_metric
from lm_eval.api.task import ConfigurableTask

from closedbook.harness.judge import (
    HOW_TO,
    Grade,
    JudgeFailure,
    Judgement,
    Triple,
    contains,
    exact_match,
    judge_settings,
    make_judge,
)
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.prompts import Style, extract_answer, question_prompt, template_digest

log = logging.getLogger(__name__)

PACKAGES = ("closedbook", "lm_eval", "datasets", "transformers", "torch", "vllm")


class _AnswerFilter(Filter):
    """Takes the answer out of every response, keeping all repeats of a document."""

    style: ClassVar[Style]

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """Answers in the shape of the responses: one list a document, one answer a repeat."""
        return [[extract_answer(response, self.style) for response in repeats] for repeats in resps]


@register_filter("closedbook_direct")
class DirectFilter(_AnswerFilter):
    """The first line that is not empty."""

    style = "direct"


@register_filter("closedbook_cot")
class CotFilter(_AnswerFilter):
    """What follows the last "Final answer:"."""

    style = "cot"


def _registered(name: str, higher_is_better: bool, aggregation: str) -> None:
    """Make a metric's name known, so that lm-eval does not look for it on the hub; values come from the task."""

    def value(items: Sequence[float]) -> float:
        return items[0]

    register_metric(metric=name, higher_is_better=higher_is_better, aggregation=aggregation)(value)


_registered("contains", True, "mean")
_registered("judge_correct", True, "nanmean")
_registered("not_attempted", False, "nanmean")
_registered("judge_failed", False, "mean")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the model, and what the judge said of it, if there was one."""

    text: str
    judgement: Judgement | None = None

    def __str__(self) -> str:
        """As written to the samples' log: the answer, and the judgement in brackets."""
        match self.judgement:
            case None:
                return self.text
            case JudgeFailure(reason, detail):
                return f"{self.text} [judge failed: {reason}: {detail}]"
            case grade:
                return f"{self.text} [{grade}]"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def metrics(answers: Sequence[Answer], golds: Sequence[str]) -> dict[str, float]:
    """Values of one document's metrics: means over its repeats, judge metrics only where a judge has spoken.

    `judge_correct` is NaN when the judge failed on every repeat.
    """
    values = {
        "exact_match": _mean([float(exact_match(answer.text, golds)) for answer in answers]),
        "contains": _mean([float(contains(answer.text, golds)) for answer in answers]),
    }
    judgements = [answer.judgement for answer in answers if answer.judgement is not None]
    if judgements:
        grades = [judgement for judgement in judgements if isinstance(judgement, Grade)]
        values["judge_correct"] = _mean([float(grade is Grade.CORRECT) for grade in grades])
        values["judge_failed"] = 1 - len(grades) / len(judgements)
    return values


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a number can depend on, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _say_once(message: str) -> None:
    log.warning(message)


class ClosedbookTask(ConfigurableTask):
    """A deduplicated benchmark as an lm-eval task.

    The YAML names the benchmark under `dataset_kwargs` and the prompt's style under `metadata`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        settings = {key: value for key, value in config.items() if key != "class"}
        metadata = dict(settings.get("metadata") or {})
        self.benchmark: str = settings["dataset_kwargs"]["benchmark"]
        self.style: Style = metadata.get("style", "direct")
        self.judge_settings = judge_settings(metadata)
        settings["metric_list"] = self._metric_list()
        settings["metadata"] = metadata | {"closedbook": self._provenance()}
        if self.judge_settings is None:
            _say_once(HOW_TO)
        super().__init__(config=settings)

    def _metric_list(self) -> list[dict[str, Any]]:
        aggregations = {"exact_match": "mean", "contains": "mean"}
        if self.judge_settings is not None:
            # the bootstrap behind nanmean's error takes minutes on large tasks: only where values can be missing
            can_fail = self.judge_settings.kind != "rules"
            aggregations |= {"judge_correct": "nanmean" if can_fail else "mean", "judge_failed": "mean"}
        return [
            {"metric": name, "aggregation": how, "higher_is_better": name != "judge_failed"}
            for name, how in aggregations.items()
        ]

    def _provenance(self) -> dict[str, Any]:
        """What makes a number comparable with another one; lm-eval writes it to the results."""
        manifest = read_manifest(self.benchmark)
        return {
            "manifest": manifest.digest,
            "variant": manifest.variant,
            "split": "test",
            "prompt": f"{self.style}-{template_digest(self.style)}",
            "judge": None if self.judge_settings is None else dict(self._judge_identity()),
            "versions": installed_versions(),
        }

    def _judge_identity(self) -> Mapping[str, str]:
        from closedbook.harness.judge import LLMJudge, RulesJudge

        assert self.judge_settings is not None
        return RulesJudge.identity if self.judge_settings.kind == "rules" else LLMJudge(self.judge_settings).identity

    @property
    def _judges(self) -> bool:
        """Whether this run judges: a judge is configured, and `--predict_only` has not replaced the metrics."""
        return self.judge_settings is not None and "bypass" not in self._metric_fn_list

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Load the test questions; called by lm-eval."""
        from datasets import Dataset

        questions = load_questions(self.benchmark, "test")
        columns: dict[str, list[Any]] = {
            "id": [question.id for question in questions],
            "question": [question.question for question in questions],
            "answers": [list(question.answers) for question in questions],
        }
        self.dataset = {"test": Dataset.from_dict(columns)}

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: object = None) -> str:
        """The prompt of a document."""
        return question_prompt(doc["question"], self.style)

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: object = None) -> list[str]:
        """The gold answers of a document."""
        return list(doc["answers"])

    def build_all_requests(self, **options: Any) -> None:
        """Build the requests, having made sure that the judge can work: better now than after the model has run."""
        if self._judges:
            assert self.judge_settings is not None
            make_judge(self.judge_settings)
        super().build_all_requests(**options)

    def apply_filters(self) -> None:
        """Take the answers out of the responses, then judge all of them in one batch."""
        super().apply_filters()
        for name in {name for instance in self._instances for name in instance.filtered_resps}:
            self._judge_all(name)

    def _judge_all(self, filter_name: str) -> None:
        instances: list[Instance] = self._instances
        texts = [instance.filtered_resps[filter_name] for instance in instances]
        judgements: Iterable[Judgement | None] = (None for repeats in texts for _ in repeats)
        if self._judges:
            assert self.judge_settings is not None
            judgements = iter(
                make_judge(self.judge_settings).grade(
                    [
                        Triple(instance.doc["question"], tuple(instance.doc["answers"]), text)
                        for instance, repeats in zip(instances, texts, strict=True)
                        for text in repeats
                    ]
                )
            )
        judged = iter(judgements)
        for instance, repeats in zip(instances, texts, strict=True):
            instance.filtered_resps[filter_name] = [Answer(text, next(judged)) for text in repeats]

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Sequence[Answer]]) -> dict[str, Any]:
        """Metrics of one document, from judgements already made."""
        if "bypass" in self._metric_fn_list:
            return {"bypass": results}
        return metrics(results[0], doc["answers"])
