"""Rewards: the harness's metric of one answer, in the form in which TRL's trainers ask for it.

A reward is what `harness.metrics` says of the answer that `extract_answer` takes out of a completion, so a run cannot
be rewarded for anything but what its evaluation measures. What would surprise:

- Where the judge fails there is no reward, None: TRL leaves the rollout out of its group's mean and gives it no
  advantage (a KL term still holds it). A 0 would teach the model about the judge's server. When too many fail,
  `JudgeUnreliable` is raised before the step is taken.
- A reward is a plain callable and no coroutine, although TRL would take one: it would wait for it all the same, and the
  judge already has its calls under way at once.
- The rule-based figures of the same answers stand beside every reward, the judge's above all. A judge that is fooled
  shows where its reward rises and they do not.

    >>> reward = make_reward("contains")
    >>> reward(completions=["It is Paris"], question=["what is the capital of france"], answers=[["Paris"]])
    [1.0]
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, get_args

from closedbook.harness.errors import RequestError, Unfinished, WorkError
from closedbook.harness.judge import Judge, Judgement, JudgeSettings, Tally, Triple, judge_settings, make_judge
from closedbook.harness.metrics import Answer, metrics
from closedbook.harness.prompts import Style, extract_answer
from closedbook.harness.text import answer_key
from closedbook.training.advantages import signal_share

__all__ = ["Completion", "JudgeUnreliable", "Reward", "RewardFigures", "RewardName", "judge_reward", "make_reward"]

RewardName = Literal["judge", "exact_match", "contains"]
"""The metric that is rewarded."""
Completion = str | Sequence[Mapping[str, str]]
"""What TRL hands over: a text, or chat messages of which the last one is the model's."""

WINDOW = 1000  # answers over which the share of failures is taken, or a step where that has more
MAX_FAILURES: float = JudgeSettings.model_fields["max_failures"].default


class JudgeUnreliable(Unfinished):
    """Too many answers could not be graded: save a checkpoint and stop."""


@dataclass(frozen=True, slots=True)
class RewardFigures:
    """What a step's answers are like; shares are in [0, 1] and of the rollouts that one process drew.

    Attributes:
        reward: Mean over the rollouts that have a reward, NaN where none has.
        exact_match: Share that equal a gold answer.
        contains: Share that contain one.
        failed: Share without a reward.
        signal: Share of questions with two rewards that differ, from which alone a step learns.
        words: Mean length of an answer in words.
        commonest: Share of the most frequent answer; high where one answer takes over.
        commonest_answer: Which that is, in the form in which answers are compared.
    """

    reward: float
    exact_match: float
    contains: float
    failed: float
    signal: float
    words: float
    commonest: float
    commonest_answer: str


class Reward:
    """A reward function for TRL's trainers.

    With several processes each sees its own rollouts, and raises for them alone.

    Args:
        name: The metric that is the reward; also the name in TRL's log.
        style: Of the prompt, which says where in a completion the answer is.
        judge: Who grades, for the judge's reward.
        max_failures: Share of the last `WINDOW` answers that the judge may fail on.

    Attributes:
        figures: Those of the last step; None before the first.
    """

    def __init__(
        self,
        name: RewardName,
        style: Style = "direct",
        judge: Judge | None = None,
        max_failures: float = MAX_FAILURES,
    ) -> None:
        self.__name__ = name
        self.style, self.judge, self.max_failures = style, judge, max_failures
        self.figures: RewardFigures | None = None
        self._metric = "judge_correct" if name == "judge" else name
        self._judged: list[Judgement] = []

    def __call__(
        self,
        completions: Sequence[Completion],
        question: Sequence[str],
        answers: Sequence[Sequence[str]],
        log_metric: Callable[[str, float], object] | None = None,
        **_: object,
    ) -> list[float | None]:
        """One reward a completion, in order: 0 or 1, or None where the judge failed.

        Args:
            completions: Texts, or lists of chat messages of which the last one counts.
            question: The question of each, a column of the data set.
            answers: Its gold answers, another one.
            log_metric: TRL's way to log figures, averaged over the steps between two logs and over processes.

        Raises:
            RequestError: The columns differ in length, or are empty.
            JudgeUnreliable: The judge failed on too many of the last answers.
            WorkError: The judge gave another number of judgements than it was given answers.
        """
        triples = _triples(completions, question, answers, self.style)
        judged = self._grade(list(dict.fromkeys(triples)))
        values = {triple: metrics([Answer(triple.answer, judged.get(triple))], triple.golds) for triple in set(triples)}
        rewards = [_known(values[triple][self._metric]) for triple in triples]
        self.figures = _figures(triples, rewards, [values[triple] for triple in triples])
        if log_metric:
            for name, value in asdict(self.figures).items():
                if name not in ("reward", "commonest_answer"):  # TRL logs the one, and the other is no number
                    log_metric(f"answers/{name}", value)
        self._check_failures([judged[triple] for triple in triples if triple in judged])
        return rewards

    def _grade(self, triples: Sequence[Triple]) -> dict[Triple, Judgement]:
        """Judgements of triples that all differ; none without a judge."""
        if self.judge is None:
            return {}
        judgements = self.judge.grade(triples, quiet=True)  # the run has a progress bar
        try:
            return dict(zip(triples, judgements, strict=True))
        except ValueError:
            said = f"reward: the judge gave {len(judgements)} judgements of {len(triples)} answers"
            raise WorkError(said) from None

    def _check_failures(self, judgements: Sequence[Judgement]) -> None:
        """Raise when failures pass the limit."""
        window = max(WINDOW, len(judgements))
        self._judged = [*self._judged, *judgements][-window:]
        tally = Tally.of(self._judged)
        if tally.failed > self.max_failures * window:
            raise JudgeUnreliable(
                f"reward: {tally}, and max_failures allows {math.floor(self.max_failures * window)} of {window}; "
                "mend the judge"
            )


def make_reward(name: RewardName, style: Style = "direct", judging: JudgeSettings | None = None) -> Reward:
    """The reward of that name; call its judge's `preflight` before a model is loaded.

    Args:
        name: judge, exact_match or contains.
        style: Of the prompt.
        judging: Settings of the judge, which the judge's reward needs and the others leave alone.

    Raises:
        RequestError: There is no such reward, or no judge for the judge's.
    """
    if name not in get_args(RewardName):
        raise RequestError(f"reward: no reward {name!r}; there are {', '.join(get_args(RewardName))}")
    if name != "judge":
        return Reward(name, style)
    if judging is None:
        raise RequestError(
            "reward: judge needs one; set CLOSEDBOOK_JUDGE to rules, openai or vllm, or choose exact_match or contains"
        )
    return Reward(name, style, make_judge(judging), judging.max_failures)


def judge_reward(
    completions: Sequence[Completion],
    question: Sequence[str] | None = None,
    answers: Sequence[Sequence[str]] | None = None,
    **more: Any,
) -> list[float | None]:
    """The judge's reward by a dotted name: `trl grpo --reward_funcs closedbook.training.rewards.judge_reward`.

    The judge is the environment's, CLOSEDBOOK_JUDGE and the like, or rules; it is made and tried at the first call.

    Args:
        completions: Answers to the direct prompt, of which the first line counts: texts or lists of chat messages.
        question: The question of each, a column of the data set.
        answers: Its gold answers, a list of texts; another one.
        more: What else TRL gives.

    Raises:
        RequestError: A column is missing or holds something else, or the judge's settings are wrong.
        WorkError: The judge cannot be reached.
        JudgeUnreliable: It failed on too many of the last answers; CLOSEDBOOK_JUDGE_MAX_FAILURES is their share.
    """
    if question is None or answers is None:
        absent = "question" if question is None else "answers"
        raise RequestError(
            f"judge_reward: the data set has no column {absent!r}; it needs prompt, question and answers (a list of "
            "texts)"
        )
    for asked in question:
        if not isinstance(asked, str):
            raise RequestError(f"judge_reward: question holds {asked!r}; give each row a text")
    for golds in answers:
        if isinstance(golds, str) or not golds or not all(isinstance(gold, str) for gold in golds):
            raise RequestError(f"judge_reward: answers holds {golds!r:.80}; give each row a list of texts")
    return _tried(judge_settings(None, "rules"))(completions, question, answers, **more)


@cache
def _tried(judging: JudgeSettings) -> Reward:
    """The reward of a judge that has graded a known answer; one for all calls, since it counts failures."""
    judge = make_judge(judging)
    judge.preflight()
    return Reward("judge", judge=judge, max_failures=judging.max_failures)


def completion_text(completion: Completion) -> str:
    """The text of a completion as TRL gives it: itself for a base model, the last message's content for a chat."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _triples(
    completions: Sequence[Completion], questions: Sequence[str], answers: Sequence[Sequence[str]], style: Style
) -> list[Triple]:
    """What is to be graded, one triple a completion."""
    if not completions or not len(completions) == len(questions) == len(answers):
        raise RequestError(
            "reward: want one question and its answers a completion; there are "
            f"{len(completions)} completions, {len(questions)} questions, {len(answers)} answers"
        )
    return [
        Triple(question, tuple(golds), extract_answer(completion_text(completion), style))
        for completion, question, golds in zip(completions, questions, answers, strict=True)
    ]


def _known(value: float) -> float | None:
    """A metric as a reward: None, not NaN, where it is not known."""
    return None if math.isnan(value) else value


def _figures(
    triples: Sequence[Triple], rewards: Sequence[float | None], values: Sequence[Mapping[str, float]]
) -> RewardFigures:
    """The figures of a step; all arguments have one entry a rollout."""
    n = len(triples)
    given = [reward for reward in rewards if reward is not None]
    times = Counter(answer_key(triple.answer) for triple in triples)
    commonest = max(times, key=times.__getitem__)
    return RewardFigures(
        reward=sum(given) / len(given) if given else math.nan,
        exact_match=sum(value["exact_match"] for value in values) / n,
        contains=sum(value["contains"] for value in values) / n,
        failed=1 - len(given) / n,
        signal=signal_share(_by_question(triples, rewards)),
        words=sum(len(triple.answer.split()) for triple in triples) / n,
        commonest=times[commonest] / n,
        commonest_answer=commonest,
    )


def _by_question(triples: Sequence[Triple], rewards: Sequence[float | None]) -> list[list[float | None]]:
    """Rewards in the shape (questions, n), None where a question has fewer: a process may hold a part of a group."""
    groups: defaultdict[tuple[str, tuple[str, ...]], list[float | None]] = defaultdict(list)
    for triple, reward in zip(triples, rewards, strict=True):
        groups[triple.question, triple.golds].append(reward)
    n = max(map(len, groups.values()))
    return [group + [None] * (n - len(group)) for group in groups.values()]
