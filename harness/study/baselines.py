"""Baselines at inference: what voting, chains of thought and likelihood gain with nothing trained, and what they cost.

Every method answers the same questions and is compared with the greedy answer. What surprises:

- A method over k of n samples counts with its mean over all disjoint groups of k, so that its accuracy on a question
  can lie between 0 and 1. All intervals are therefore a bootstrap's over questions, those with one gold answer drawn
  together; the paired test, adjusted for the table (Holm), stands where every answer is one.
- Tokens are counted in the texts that are stored, with one for each end: of an answer to the direct prompt that is its
  first line, although a base model may have gone on. The prompt counts once, as an engine reads it once.
- Which answers are equal is never decided with the gold answers: they are not known when one votes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.compare import Answered, gold_group
from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.fields import public
from closedbook.harness.judge import Grade, RulesJudge, Triple
from closedbook.harness.likelihood import Scored
from closedbook.harness.prompts import Style
from closedbook.harness.samples import QuestionSamples
from closedbook.harness.sampling import encode_prompt
from closedbook.harness.statistics import Estimate, Paired, bootstrapped_mean, holm, paired
from closedbook.harness.study.analyses import SampleRun
from closedbook.harness.study.majority import Choose, Chooser, Same, accuracies, elected
from closedbook.harness.study.scores import Scores
from closedbook.harness.study.tables import Analysis
from closedbook.harness.text import answer_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZES = (8, 32, 128, 512)

Answers = Mapping[str, Answered]
"""Answers to one task, by question id."""


class Cost(NamedTuple):
    """How tokens are counted.

    Attributes:
        said: Tokens of a text, with its end.
        asked: Tokens of a question's prompt.
    """

    said: Callable[[str], int]
    asked: Callable[[str, Style], int]


class Method(NamedTuple):
    """What one method answers.

    Attributes:
        name: Of the method.
        k: Samples that it takes; None for none.
        values: Its accuracy on each question, NaN where that is not known.
        prompt: Mean tokens of the prompt.
        said: Mean tokens that are generated for a question.
    """

    name: str
    k: int | None
    values: Mapping[str, float]
    prompt: float | None
    said: float | None


def judged_equal(question: str) -> Same:
    """Whether the rules judge calls an answer to a question right, with the other as the gold answer; either way round.

    >>> same = judged_equal("who discovered tharn?")
    >>> same("Ann Osric", "It was Ann Osric."), same("Ann Osric", "Bob Osric")
    (True, False)
    """
    judge = RulesJudge()

    @cache
    def same(one: str, other: str) -> bool:
        if not (answer_key(one) and answer_key(other)):
            return False
        triples = [Triple(question, (one,), other), Triple(question, (other,), one)]
        return Grade.CORRECT in judge.grade(triples)

    return same


def cost_of(path: str, chat: bool) -> Cost:
    """Counting with a model's tokenizer.

    Args:
        path: Folder or hub id.
        chat: Whether prompts go through its chat template.

    Raises:
        RequestError: It has no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # each class fails in its own way when files are missing or broken
        raise RequestError(f"cannot load {path}: {one_line(error)}; name a model folder or hub id") from error

    @cache
    def said(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1

    def asked(question: str, style: Style) -> int:
        return len(encode_prompt(tokenizer, question, style, chat))

    return Cost(said, asked)


def baselines(
    run: SampleRun, greedy: Answers, cot: Answers | None = None, scores: Scores | None = None, cost: Cost | None = None
) -> Analysis:
    """Each method beside the greedy answer.

    Args:
        run: Samples of the model.
        greedy: Its greedy answers to these questions.
        cot: Its answers after a chain of thought.
        scores: Of all answers that were sampled; None for no choice by likelihood.
        cost: How tokens are counted; None for no count.
    """
    n = min(question.drawn for question in run.samples)
    choices = _choices(greedy, scores)
    methods = [
        _asked("greedy", greedy, run, "direct", cost),
        *(_chosen(name, chooser, run, k, greedy, cost) for name, chooser in choices.items() for k in _sizes(n)),
        *([_asked("chain of thought", cot, run, "cot", cost)] if cot else []),
    ]
    base = methods[0].values
    groups = {id: gold_group(answered.golds) for id, answered in greedy.items()}
    tests = [_tested(base, method.values, groups) for method in methods[1:]]
    adjusted = iter(holm([test.p for test in tests if test]))
    rows: list[list[Any]] = [
        [method.name, method.k, _mean(method.values, groups), *_beside(base, method.values, groups, test),
         next(adjusted) if test else None, _rounded(method.prompt), _rounded(method.said)]
        for method, test in zip(methods, [None, *tests], strict=True)
    ]  # fmt: skip
    rows[0][3:5] = [None, None]

    def plot(axes: Axes) -> None:
        _plot(axes, methods, [row[2] for row in rows])

    columns = (
        "method", "samples", "accuracy", "difference", "changed", "p (Holm)", "prompt tokens", "generated tokens",
    )  # fmt: skip
    made = {"run": {"name": run.name, "digest": run.head.digest, **public(run.head.settings)}, "n": n}
    return Analysis("baselines", "Accuracy at inference, with nothing trained", columns, rows, made, plot)


def _rounded(tokens: float | None) -> float | None:
    return None if tokens is None else round(tokens, 1)


def _sizes(n: int) -> list[int]:
    return sorted({*(k for k in SIZES if k <= n), n})


def _asked(name: str, answers: Answers, run: SampleRun, style: Style, cost: Cost | None) -> Method:
    """A method that answers once: of a chain of thought all that was said counts, else the line that was graded."""
    said = [answers[q.id].response if style == "cot" else answers[q.id].answer for q in run.samples]
    told = [text for text in said if text is not None]
    tokens = fmean(map(cost.said, told)) if cost and len(told) == len(said) else None
    values = {q.id: answers[q.id].value for q in run.samples}
    return Method(name, None, values, _prompt(answers, style, cost), tokens)


def _prompt(answers: Answers, style: Style, cost: Cost | None) -> float | None:
    return fmean(cost.asked(answered.question, style) for answered in answers.values()) if cost else None


def _choices(greedy: Answers, scores: Scores | None) -> dict[str, Chooser]:
    """The methods that choose among samples, by name: what each chooses by, given the question."""
    equal = {id: judged_equal(answered.question) for id, answered in greedy.items()}
    choices: dict[str, Chooser] = {
        "majority": lambda question: elected,
        "majority, equal by the judge": lambda question: lambda group: elected(group, equal[question.id]),
    }
    if scores is not None:
        choices["likeliest"] = lambda question: _likeliest(scores[question.id], lambda score: score.log_prob)
        choices["likeliest per token"] = lambda question: _likeliest(
            scores[question.id], lambda score: score.log_prob / score.tokens
        )
    return choices


def _likeliest(scores: Mapping[str, Scored], by: Callable[[Scored], float]) -> Choose:
    """Chooses the answer with the largest figure; of equal ones that which was drawn first."""
    return lambda group: max(group.samples, key=lambda said: by(scores[said.answer]))


def _chosen(name: str, chooser: Chooser, run: SampleRun, k: int, greedy: Answers, cost: Cost | None) -> Method:
    """A method that chooses among k samples."""
    values = dict(zip((q.id for q in run.samples), accuracies(run.samples, k, chooser), strict=True))
    tokens = k * fmean(_tokens(question, cost) for question in run.samples) if cost else None
    style: Style = "cot" if str(run.head.settings.get("prompt")).startswith("cot") else "direct"
    return Method(name, k, values, _prompt(greedy, style, cost), tokens)


def _tokens(question: QuestionSamples, cost: Cost) -> float:
    return sum(len(said.draws) * cost.said(said.text) for said in question.samples) / question.drawn


def _mean(values: Mapping[str, float], groups: Mapping[str, str]) -> Estimate:
    return bootstrapped_mean(list(values.values()), [groups[id] for id in values])


def _tested(before: Mapping[str, float], after: Mapping[str, float], groups: Mapping[str, str]) -> Paired | None:
    """The paired test, where every answer is right or wrong."""
    if any(value not in (0, 1) for value in after.values() if not math.isnan(value)):
        return None
    return paired([before[id] for id in after], list(after.values()), [groups[id] for id in after])


def _beside(
    before: Mapping[str, float], after: Mapping[str, float], groups: Mapping[str, str], test: Paired | None
) -> list[Any]:
    """The difference, and how many questions became right and were lost."""
    changes = {id: after[id] - before[id] for id in after}
    return [_mean(changes, groups), f"+{test.gained} -{test.lost}" if test else None]


def _plot(axes: Axes, methods: Sequence[Method], accuracies: Sequence[Estimate]) -> None:
    """Accuracy over what it costs: generated tokens where they are known, else samples."""
    known = all(method.said is not None for method in methods)
    for name in dict.fromkeys(method.name for method in methods):
        shown = [(m, a) for m, a in zip(methods, accuracies, strict=True) if m.name == name and a.value is not None]
        places = [float((method.said if known else method.k) or 1) for method, _ in shown]
        axes.plot(places, [100 * (accuracy.value or 0) for _, accuracy in shown], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("generated tokens a question" if known else "samples")
    axes.set_ylabel("accuracy, per cent")
    axes.legend(frameon=False)
