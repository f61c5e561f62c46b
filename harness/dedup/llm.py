"""The LLM as decider, as in the study: it reads two questions and says whether one states the fact of the other.

The reply is JSON with `reasoning` and then `is_contained`, so that the model thinks before it decides; where the server
can be told to allow nothing else, it is. A reply that is no such JSON is asked for once more with a reminder. What
fails all the same is an open case (UNSURE, which drops the question) with the reason of the failure as its rule, never
a quiet "not contained". Client, cache, ledger and budget are the judge's.

    >>> parse('{"reasoning": "both ask for the capital", "is_contained": true}')
    Answer(is_contained=True, reasoning='both ask for the capital')
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from closedbook.harness.dedup.decisions import Decision, Pair, Verdict
from closedbook.harness.dedup.rules import decide_by_rules
from closedbook.harness.errors import RequestError
from closedbook.harness.judge.asker import Asker
from closedbook.harness.judge.chat import ChatModel, Messages, Offer, make_chat_model, object_of
from closedbook.harness.judge.rubrics import inert, unfenced
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.judge.verdicts import JudgeFailure
from closedbook.harness.prompts import fill, template, template_digest
from closedbook.harness.questions import Question, make_question

TEMPLATE = "contained"
OFFER = Offer(
    schema=object_of({"reasoning": {"type": "string", "maxLength": 300}, "is_contained": {"type": "boolean"}})
)
REMINDER = (
    'Reply with one JSON object that has "reasoning" (text) and "is_contained" (true or false), and nothing else.'
)
LEAST_TOKENS = 200  # of a reply, so that the reasoning has room
SHOWN_GOLDS = 8  # gold answers of a question in the prompt: further ones are further spellings
LONGEST_TEXT = 2_000  # characters of a question in the prompt
WINDOW = 1_000  # pairs in memory at once
CERTAIN = frozenset({"fact", "form", "equal", "homonym", "answer"})  # rules that need no second opinion
KNOWN = (
    make_question("nq", "which city is the capital of france", ["Paris"]),
    make_question("nq", "of which country is paris the capital", ["France"]),
)


class Answer(NamedTuple):
    """What the model said of a pair."""

    is_contained: bool
    reasoning: str


def parse(reply: str) -> Answer | JudgeFailure:
    """The answer in a reply; anything but one JSON object with both fields, of the right types, is a failure.

    Only what follows the last </think> counts, and nothing after a <think> that is never closed.
    """
    said = unfenced(reply.rpartition("</think>")[2].partition("<think>")[0].strip())
    try:
        stated = json.loads(said)
    except (ValueError, RecursionError):
        return JudgeFailure("unparsable", f"the model replied {reply[:80]!r}, which is no JSON")
    if not isinstance(stated, dict):
        return JudgeFailure("unparsable", f"the model replied {reply[:80]!r}, which is no object")
    contained, reasoning = stated.get("is_contained"), stated.get("reasoning")
    if not isinstance(contained, bool) or not isinstance(reasoning, str):
        return JudgeFailure(
            "unparsable", f"the model replied {reply[:80]!r}: is_contained or reasoning is missing or wrong"
        )
    return Answer(contained, reasoning)


def _golds(question: Question) -> str:
    return "\n".join(f"- {inert(gold)[:LONGEST_TEXT]}" for gold in question.answers[:SHOWN_GOLDS])


def build_messages(pair: Pair) -> Messages:
    """The prompt for one pair; texts are inserted as inert lines, so nothing in them can look like a part of it."""
    question, candidate = pair
    text = fill(
        template(TEMPLATE),
        question=inert(question.question)[:LONGEST_TEXT],
        golds=_golds(question),
        candidate=inert(candidate.question)[:LONGEST_TEXT],
        candidate_golds=_golds(candidate),
    )
    return [{"role": "user", "content": text}]


class LLMDecider:
    """A chat model that decides pairs; with `rules_first` only those that the rules leave open.

    Args:
        settings: The model and how to ask it.
        rules_first: Whether rules settle what is certain. Where the model then fails, the verdict of the rules stands.
        model: The chat model, where it is not the one of the settings.

    Attributes:
        failures: Pairs that the model could not decide, by reason.
    """

    def __init__(self, settings: JudgeSettings, rules_first: bool = False, model: ChatModel | None = None) -> None:
        settings = settings.model_copy(update={"max_tokens": max(settings.max_tokens, LEAST_TOKENS)})
        model = model or make_chat_model(settings, OFFER)
        identity: Mapping[str, str] = {
            **model.identity,
            "prompt": f"{TEMPLATE}-{template_digest(TEMPLATE)}",
            "sampling": f"greedy-{settings.max_tokens}-{settings.constrained}",
        }
        self.rules_first = rules_first
        self.name = f"llm-{settings.model.rstrip('/').rpartition('/')[2]}-{template_digest(TEMPLATE)[:8]}"
        self.asker = Asker(settings, model, identity, parse)
        self.failures: Counter[str] = Counter()
        self.decided = 0
        self._ready = False

    def __call__(self, pairs: Iterable[Pair]) -> Iterator[Decision]:
        """One decision a pair, in order, a window at a time.

        Raises:
            RequestError: The server refuses, or does not follow the prompt.
            WorkError: The server cannot be reached, or is not able to answer now.
        """
        from tqdm import tqdm

        waiting = iter(pairs)
        with tqdm(desc="deciding", unit="pair") as progress:
            while window := list(islice(waiting, WINDOW)):
                yield from self._decide(window, progress.update)

    def _decide(self, pairs: Sequence[Pair], advance: Callable[[int], object]) -> list[Decision]:
        ruled = [decide_by_rules(*pair) for pair in pairs]
        open_ = [at for at, rule in enumerate(ruled) if not (self.rules_first and _is_certain(rule))]
        advance(len(pairs) - len(open_))
        answers = self._ask([build_messages(pairs[at]) for at in open_], advance)
        decisions = list(ruled)
        for at, answer in zip(open_, answers, strict=True):
            decisions[at] = self._decision(ruled[at], answer)
        return decisions

    def _decision(self, rules: Decision, answer: Answer | JudgeFailure) -> Decision:
        self.decided += 1
        if isinstance(answer, JudgeFailure):
            self.failures[answer.reason] += 1
            if self.rules_first:
                return rules
            return Decision(
                rules.question, rules.candidate, Verdict.UNSURE, answer.reason, rules.score, self.name, answer.detail
            )
        verdict = Verdict.CONTAINED if answer.is_contained else Verdict.NOT_CONTAINED
        return Decision(rules.question, rules.candidate, verdict, "llm", rules.score, self.name, answer.reasoning)

    def _ask(self, prompts: Sequence[Messages], advance: Callable[[int], object]) -> list[Answer | JudgeFailure]:
        answers: list[Answer | JudgeFailure | None] = [self.asker.known(prompt) for prompt in prompts]
        asked = [at for at, answer in enumerate(answers) if answer is None]
        advance(len(prompts) - len(asked))
        if asked:
            self.preflight()
        self._fill(answers, asked, [prompts[at] for at in asked], advance)
        again = [at for at in asked if (a := answers[at]) and isinstance(a, JudgeFailure) and a.reason == "unparsable"]
        self._fill(answers, again, [_reminded(prompts[at]) for at in again], lambda _: None)
        return [answer for answer in answers if answer is not None]

    def _fill(
        self,
        answers: list[Answer | JudgeFailure | None],
        at: Sequence[int],
        prompts: Sequence[Messages],
        advance: Callable[[int], object],
    ) -> None:
        def on_stated(number: int, answer: Answer | JudgeFailure) -> None:
            answers[at[number]] = answer
            advance(1)

        if prompts:
            self.asker.ask(prompts, on_stated)

    def preflight(self) -> None:
        """Ask one known pair for real, once.

        Raises:
            RequestError: The server refuses the key, the model or the request, or does not reply in JSON.
            WorkError: The server cannot be reached, or is not able to answer now.
        """
        if not self._ready:
            answer = self.asker.try_out(build_messages(KNOWN))
            if isinstance(answer, JudgeFailure):
                raise RequestError(
                    f"decider {self.asker.where}: {answer.detail}; choose a model that follows the prompt, or "
                    "decide by rules"
                )
            self._ready = True

    @property
    def failure_rate(self) -> float:
        """Share of the pairs put to the model that it could not decide."""
        return self.failures.total() / max(1, self.decided)


def _reminded(messages: Messages) -> Messages:
    """The same prompt with the reminder; in one turn, since some chat templates want turns to alternate."""
    return [{"role": "user", "content": f"{messages[0]['content']}\n\n{REMINDER}"}]


def _is_certain(decision: Decision) -> bool:
    return decision.rule in CERTAIN and decision.verdict is not Verdict.UNSURE
