"""The LLM judge: what it replied before, then rules, then the model.

Identical triples are asked once. What goes wrong with one triple becomes a JudgeFailure for that triple. Only
`preflight` raises: it grades a known answer for real before anything else is spent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.asker import Asker, Spending
from closedbook.harness.judge.chat import ChatModel, Messages, Offer, estimated_tokens, make_chat_model
from closedbook.harness.judge.rubrics import RUBRICS, build_messages, parse
from closedbook.harness.judge.rules import check_rules, decide, rules_identity
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.judge.verdicts import Grade, JudgeFailure, Judgement, Triple

log = logging.getLogger(__name__)

KNOWN = Triple("What is the capital of France?", ("Paris",), "It is Paris")
VERDICT_TOKENS = 2  # about what a reply costs
WINDOW = 10_000  # triples in memory at once; calls run dry between two windows, so it is long against one call


@dataclass(frozen=True, slots=True)
class Plan:
    """What grading would take: the answers decided without a call, and the calls with an estimate of their cost."""

    answers: int
    repeated: int
    cached: int
    by_rule: int
    calls: int
    prompt_tokens: int
    dollars: float | None


class Exchange(NamedTuple):
    """What the model was asked of one triple, and what it replied, word for word; None where nothing is kept."""

    messages: Messages
    reply: str | None


class LLMJudge:
    """A cascade of cache, rules and a chat model.

    Args:
        settings: The model and how to ask it.
        model: The chat model, where it is not the one of the settings.
    """

    can_fail = True

    def __init__(self, settings: JudgeSettings, model: ChatModel | None = None) -> None:
        self.settings = settings
        self.rubric = RUBRICS[settings.prompt]
        self.without = check_rules(settings.without)
        model = model or make_chat_model(settings, Offer(choices=self.rubric.choices))
        self.identity: Mapping[str, str] = {
            "kind": settings.kind,
            **model.identity,
            "prompt": self.rubric.identity,
            "sampling": f"greedy-{settings.max_tokens}-{settings.constrained}",
            "rules": rules_identity(self.without),
        }
        self.asker = Asker(settings, model, self.identity, partial(parse, rubric=self.rubric))
        self._ready = False

    def preflight(self) -> None:
        """Grade one known answer for real, once.

        Raises:
            RequestError: The server refuses the key, the model or the request, or does not reply as a judge.
            WorkError: The server cannot be reached, or is not able to answer now.
        """
        if self._ready:
            return
        judgement = self.asker.try_out(build_messages(KNOWN, self.rubric))
        if isinstance(judgement, JudgeFailure):
            raise RequestError(f"judge {self.asker.where}: {judgement.detail}; choose a model that follows the prompt")
        if judgement is not Grade.CORRECT:
            log.warning("judge %s calls %r wrong; calibrate it before you trust it", self.asker.where, KNOWN.answer)
        self._ready = True

    @property
    def spending(self) -> Spending:
        """What was spent on the model."""
        return self.asker.spending

    def grade(self, triples: Iterable[Triple], *, preflight: bool = False, quiet: bool = False) -> list[Judgement]:
        """One judgement per triple, in order."""
        every = list(triples)
        return list(self.stream(every, len(every), preflight=preflight, quiet=quiet))

    def stream(
        self, triples: Iterable[Triple], total: int | None = None, *, preflight: bool = False, quiet: bool = False
    ) -> Iterator[Judgement]:
        """One judgement per triple, in order, a window at a time."""
        from tqdm import tqdm

        waiting = iter(triples)
        with tqdm(total=total, desc="judging", unit="answer", disable=quiet) as progress:
            while window := list(islice(waiting, WINDOW)):
                judged = self._judge(list(dict.fromkeys(window)), progress.update, preflight)
                progress.update(len(window) - len(judged))  # the repeated ones
                yield from (judged[triple] for triple in window)

    def decided_by(self, triple: Triple) -> str:
        """The rule that decides a triple, else "model"."""
        ruling = decide(triple, self.without)
        return ruling.rule if ruling else "model"

    def exchange(self, triple: Triple) -> Exchange | None:
        """What the model is asked of a triple, and what it replied if it was; None where a rule decides."""
        if decide(triple, self.without):
            return None
        messages = build_messages(triple, self.rubric)
        return Exchange(messages, self.asker.reply(messages))

    def plan(self, triples: Iterable[Triple]) -> Plan:
        """What `grade` would take; asks nobody."""
        every = list(triples)
        unique = dict.fromkeys(every)
        asked, settled = [], Counter[str]()
        for triple in unique:
            if found := self._settled(triple):
                settled[found[0]] += 1
            else:
                asked.append(triple)
        tokens = sum(estimated_tokens(build_messages(triple, self.rubric)) for triple in asked)
        return Plan(
            answers=len(every),
            repeated=len(every) - len(unique),
            cached=settled["cache"],
            by_rule=settled["rule"],
            calls=len(asked),
            prompt_tokens=tokens,
            dollars=self.asker.dollars(tokens, VERDICT_TOKENS * len(asked)) if self.settings.priced else None,
        )

    def _judge(
        self, triples: Sequence[Triple], advance: Callable[[int], object], preflight: bool
    ) -> dict[Triple, Judgement]:
        """Judgements of triples that all differ."""
        judged: dict[Triple, Judgement] = {}
        asked: list[Triple] = []
        for triple in triples:
            if found := self._settled(triple):
                judged[triple] = found[1]
            else:
                asked.append(triple)
        advance(len(judged))

        def on_stated(number: int, judgement: Judgement) -> None:
            judged[asked[number]] = judgement
            advance(1)

        if asked:
            if preflight:
                self.preflight()
            self.asker.ask([build_messages(triple, self.rubric) for triple in asked], on_stated)
        return judged

    def _settled(self, triple: Triple) -> tuple[Literal["cache", "rule"], Grade] | None:
        """The grade that needs no call, and where it comes from.

        The cache first, because it is quicker: its key holds the rules, so what it knows no rule has decided.
        """
        if known := self.asker.known(build_messages(triple, self.rubric)):
            return "cache", known
        ruling = decide(triple, self.without)
        if ruling is None:
            return None
        return "rule", ruling.with_empty(self.rubric.empty)
