"""The LLM judge: what it replied before, then rules, then the model.

Identical triples are asked once. Replies are kept in the cache as they come, with their cost in its ledger, so that a
run that is killed, or stopped by its budget, goes on from there. What goes wrong with one triple becomes a JudgeFailure
for that triple. Only `preflight` raises: it grades a known answer for real before anything else is spent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.chat import ChatModel, Outcome, estimated_tokens, make_chat_model, ranks
from closedbook.harness.judge.reply_cache import Call, ReplyCache, reply_key
from closedbook.harness.judge.rubrics import RUBRICS, build_messages, parse
from closedbook.harness.judge.rules import check_rules, decide, rules_identity
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.judge.verdicts import Grade, JudgeFailure, Judgement, Triple

log = logging.getLogger(__name__)

KNOWN = Triple("What is the capital of France?", ("Paris",), "It is Paris")
VERDICT_TOKENS = 2  # about what a reply costs
WINDOW = 10_000  # triples in memory at once; calls run dry between two windows, so it is long against one call


@dataclass(slots=True)
class Spending:
    """What a judge has spent since it was made."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    def pay(self, call: Call) -> None:
        """Add one call."""
        self.calls += 1
        self.prompt_tokens += call.prompt_tokens
        self.completion_tokens += call.completion_tokens
        self.dollars += call.dollars


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
        self.model = model or make_chat_model(settings, self.rubric.choices)
        self.cache = ReplyCache(settings.cache_path)
        self.spending = Spending()
        self.identity: Mapping[str, str] = {
            "kind": settings.kind,
            **self.model.identity,
            "prompt": self.rubric.identity,
            "sampling": f"greedy-{settings.max_tokens}-{settings.constrained}",
            "rules": rules_identity(self.without),
        }
        self._budget = None if settings.budget is None else settings.budget / ranks()
        self._ready = False
        self._halt: JudgeFailure | None = None  # what every further call would be

    def preflight(self) -> None:
        """Grade one known answer for real, once.

        Raises:
            RequestError: The server refuses the key, the model or the request, or does not reply as a judge.
            WorkError: The server cannot be reached, or is not able to answer now.
        """
        if self._ready:
            return
        judgement = self._take(KNOWN, self.model.prepare(build_messages(KNOWN, self.rubric)))
        if isinstance(judgement, JudgeFailure):
            raise RequestError(f"judge {self._where}: {judgement.detail}; choose a model that follows the prompt")
        if judgement is not Grade.CORRECT:
            log.warning("judge %s calls %r wrong; calibrate it before you trust it", self._where, KNOWN.answer)
        self._ready = True

    @property
    def _where(self) -> str:
        model, place = self.model.identity.values()
        return f"{model!r} at {place}"

    def grade(self, triples: Iterable[Triple], *, preflight: bool = False) -> list[Judgement]:
        """One judgement per triple, in order."""
        every = list(triples)
        return list(self.stream(every, len(every), preflight=preflight))

    def stream(
        self, triples: Iterable[Triple], total: int | None = None, *, preflight: bool = False
    ) -> Iterator[Judgement]:
        """One judgement per triple, in order, a window at a time."""
        from tqdm import tqdm

        waiting = iter(triples)
        with tqdm(total=total, desc="judging", unit="answer") as progress:
            while window := list(islice(waiting, WINDOW)):
                judged = self._judge(list(dict.fromkeys(window)), progress.update, preflight)
                progress.update(len(window) - len(judged))  # the repeated ones
                yield from (judged[triple] for triple in window)

    def decided_by(self, triple: Triple) -> str:
        """The rule that decides a triple, else "model"."""
        ruling = decide(triple, self.without)
        return ruling.rule if ruling else "model"

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
            dollars=self._dollars(tokens, VERDICT_TOKENS * len(asked)) if self.settings.priced else None,
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

        def on_outcome(number: int, outcome: Outcome) -> None:
            judged[asked[number]] = self._take(asked[number], outcome)
            advance(1)

        if asked:
            if preflight:
                self.preflight()
            self.model.ask([build_messages(triple, self.rubric) for triple in asked], on_outcome, self._halted)
        return judged

    def _settled(self, triple: Triple) -> tuple[Literal["cache", "rule"], Grade] | None:
        """The grade that needs no call, and where it comes from.

        The cache first, because it is quicker: its key holds the rules, so what it knows no rule has decided.
        """
        reply = self.cache.get(reply_key(self.identity, build_messages(triple, self.rubric)))
        judgement = parse(reply, self.rubric) if reply is not None else None
        if isinstance(judgement, Grade):
            return "cache", judgement
        ruling = decide(triple, self.without)
        if ruling is None:
            return None
        return "rule", ruling.with_empty(self.rubric.empty)

    def _halted(self) -> JudgeFailure | None:
        """Why no more calls are made; None while they are."""
        if self._halt is None and self.model.refusal:
            self._halt = JudgeFailure("refused", self.model.refusal)
        if self._halt is None and self._budget is not None and self.spending.dollars >= self._budget:
            self._halt = JudgeFailure("budget", f"the judge's budget of ${self.settings.budget:g} is spent")
        return self._halt

    def _take(self, triple: Triple, outcome: Outcome) -> Judgement:
        """Pay for a reply, read it, and keep it if it states a grade."""
        if isinstance(outcome, JudgeFailure):
            return outcome
        judgement = outcome.fault or parse(outcome.text, self.rubric)
        model, server = self.model.identity.values()
        call = Call(
            model,
            server,
            outcome.prompt_tokens,
            outcome.completion_tokens,
            self._dollars(outcome.prompt_tokens, outcome.completion_tokens),
        )
        self.spending.pay(call)
        messages = build_messages(triple, self.rubric)
        kept = isinstance(judgement, Grade) and triple is not KNOWN  # which rules may decide, later
        key = reply_key(self.identity, messages) if kept else None
        self.cache.add(call, key, outcome.text)
        return judgement

    def _dollars(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.settings.price_in + completion_tokens * self.settings.price_out) / 1e6
