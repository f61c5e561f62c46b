"""The lm-eval tasks: one class for all of them, configured by the short YAML files in tasks/.

The judge runs once, concurrently, over all answers of a task, in `apply_filters`: lm-eval's other hook,
`process_results`, sees one document at a time and would judge serially. Judgements travel in the filtered responses,
because lm-eval hands `process_results` a fresh copy of each document. Judge metrics exist only when a judge is
configured. A JudgeFailure becomes NaN in `judge_correct`, which `nanmean` leaves out, and counts in `judge_failed`.

    $ lm_eval --model hf --model_args pretrained=MODEL --tasks popqa_dedup --apply_chat_template
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, get_args

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter, register_metric
from lm_eval.api.task import ConfigurableTask

from closedbook.harness.errors import RequestError, warn_once
from closedbook.harness.judge import Judge, Triple, judge_settings, make_judge
from closedbook.harness.judge.settings import NO_JUDGE_HINT
from closedbook.harness.manifests import load_questions
from closedbook.harness.metrics import METRICS, Answer, judged_answers, metric_names, metrics
from closedbook.harness.prompts import Style, extract_answer, question_prompt
from closedbook.harness.provenance import result_provenance


class _AnswerFilter(Filter):
    """Takes the answer out of every response, keeping all repeats of a document."""

    style: ClassVar[Style]

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """Answers in the shape of the responses: a list per document, an answer per repeat."""
        return [[extract_answer(response, self.style) for response in repeats] for repeats in resps]


@register_filter("closedbook_direct")
class DirectFilter(_AnswerFilter):
    """The first line that is not empty."""

    style = "direct"


@register_filter("closedbook_cot")
class CotFilter(_AnswerFilter):
    """What follows the last "Final answer:"."""

    style = "cot"


def _register_metrics() -> None:
    """Make our metrics' names known, so that lm-eval does not look for them on the hub; it never calls the function."""

    def value(items: Sequence[float]) -> float:
        return items[0]

    for name, metric in METRICS.items():
        if name != "exact_match":  # lm-eval has one of that name
            register_metric(metric=name, higher_is_better=metric.higher_is_better, aggregation="mean")(value)


_register_metrics()


class ClosedbookTask(ConfigurableTask):
    """A deduplicated benchmark as an lm-eval task.

    The YAML names the benchmark under `dataset_kwargs` and the prompt's style under `metadata`. `split` in the metadata
    asks another split than test: "validation", "train", or "dropped", the test questions that train states. The model
    that lm-eval puts there may not have been trained on the questions, unless `allow_contaminated` there is true.

    Raises:
        RequestError: A judge that is wrongly set up, or a checkpoint that was trained on the questions.
        ManifestError, SourceError: The test questions cannot be had as the manifest pins them.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        settings = {key: value for key, value in config.items() if key != "class"}
        metadata = dict(settings.get("metadata") or {})
        self.benchmark: str = settings["dataset_kwargs"]["benchmark"]
        self.style: Style = metadata["style"]
        if self.style not in get_args(Style):
            raise RequestError(f"metadata: no style {self.style!r}; there are {', '.join(get_args(Style))}")
        self.split: str = metadata.get("split", "test")
        self.judging = judge_settings(metadata)
        self.judge: Judge | None = make_judge(self.judging) if self.judging else None
        if self.judge is None:
            warn_once(NO_JUDGE_HINT)
        settings["filter_list"] = [{"name": "none", "filter": [{"function": f"closedbook_{self.style}"}]}]
        settings["metric_list"] = self._metric_list()
        carried = result_provenance(self.benchmark, self.split, self.style, self.judge, metadata)
        settings["metadata"] = metadata | {"closedbook": carried}
        super().__init__(config=settings)

    def _metric_list(self) -> list[dict[str, Any]]:
        # the bootstrap behind nanmean's error takes minutes on large tasks: only where values can be missing
        can_fail = self.judge is not None and self.judge.can_fail
        return [
            {
                "metric": name,
                "aggregation": "nanmean" if can_fail and METRICS[name].can_be_unknown else "mean",
                "higher_is_better": METRICS[name].higher_is_better,
            }
            for name in metric_names(self.judging.prompt if self.judging else None)
        ]

    @property
    def _predicts_only(self) -> bool:
        """Whether `--predict_only` has replaced the metrics."""
        return "bypass" in self._metric_fn_list

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Load the questions; called by lm-eval, to which they are its test split."""
        from datasets import Dataset

        questions = load_questions(self.benchmark, self.split)
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
        if self.judge and not self._predicts_only:
            self.judge.preflight()
        super().build_all_requests(**options)

    def apply_filters(self) -> None:
        """Take the answers out of the responses, then judge all of them in one batch."""
        super().apply_filters()
        asked = [
            [Triple(of.doc["question"], tuple(of.doc["answers"]), text) for text in of.filtered_resps["none"]]
            for of in self._instances
        ]
        judge = None if self._predicts_only else self.judge
        max_failures = self.judging.max_failures if self.judging else 0
        judged = judged_answers(asked, judge, max_failures, self.config.task)
        for instance, answers in zip(self._instances, judged, strict=True):
            instance.filtered_resps["none"] = answers

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Sequence[Answer]]) -> dict[str, Any]:
        """Metrics of one document, from judgements already made."""
        if self._predicts_only:
            return {"bypass": results}
        values = metrics(results[0], doc["answers"])
        return {name: value for name, value in values.items() if name in self._metric_fn_list}
