"""A chat model that is asked many prompts, with the memory, the ledger and the budget that go with it.

Whoever asks says how a reply is read: `parse` gives what the reply states, or a JudgeFailure where it states nothing
that counts. Replies that state something are kept in the cache as they come, with the cost of every call in its ledger,
so that a run that is killed, or stopped by its budget, goes on from there. What goes wrong with one prompt becomes a
JudgeFailure for that prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from closedbook.harness.judge.chat import ChatModel, Messages, Outcome, ranks
from closedbook.harness.judge.reply_cache import Call, ReplyCache, reply_key
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.judge.verdicts import JudgeFailure

T = TypeVar("T")


@dataclass(slots=True)
class Spending:
    """What was spent on a model since it was first asked."""

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


class Asker(Generic[T]):
    """A chat model with cache, ledger and budget.

    Args:
        settings: How to ask, and what may be spent.
        model: The chat model.
        identity: All that a reply depends on besides the prompt; the key of the cache.
        parse: What a reply states.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        model: ChatModel,
        identity: Mapping[str, str],
        parse: Callable[[str], T | JudgeFailure],
    ) -> None:
        self.settings, self.model, self.identity, self.parse = settings, model, identity, parse
        self.cache = ReplyCache(settings.cache_path)
        self.spending = Spending()
        self._budget = None if settings.budget is None else settings.budget / ranks()
        self._halt: JudgeFailure | None = None  # what every further call would be

    @property
    def where(self) -> str:
        """The model and its place, for people."""
        model, place = self.model.identity.values()
        return f"{model!r} at {place}"

    def reply(self, messages: Messages) -> str | None:
        """What the model replied, word for word, when it was asked before and stated something."""
        return self.cache.get(reply_key(self.identity, messages))

    def known(self, messages: Messages) -> T | None:
        """What the model stated when it was asked before."""
        reply = self.reply(messages)
        stated = self.parse(reply) if reply is not None else None
        return None if isinstance(stated, JudgeFailure) else stated

    def try_out(self, messages: Messages) -> T | JudgeFailure:
        """Ask one prompt for real and find out how replies can be constrained; what is said is not kept.

        Raises:
            RequestError: The server refuses the key, the model or the request, or is no chat server.
            WorkError: The server cannot be reached, or is not able to answer now.
        """
        return self._take(self.model.prepare(messages), None)

    def ask(self, prompts: Sequence[Messages], on_stated: Callable[[int, T | JudgeFailure], None]) -> None:
        """Ask all prompts and hand over what each reply states, with the prompt's index, as it comes."""
        self.model.ask(prompts, lambda at, outcome: on_stated(at, self._take(outcome, prompts[at])), self._halted)

    def dollars(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of so many tokens."""
        return (prompt_tokens * self.settings.price_in + completion_tokens * self.settings.price_out) / 1e6

    def _halted(self) -> JudgeFailure | None:
        """Why no more calls are made; None while they are."""
        if self._halt is None and self.model.refusal:
            self._halt = JudgeFailure("refused", self.model.refusal)
        if self._halt is None and self._budget is not None and self.spending.dollars >= self._budget:
            self._halt = JudgeFailure("budget", f"the judge's budget of ${self.settings.budget:g} is spent")
        return self._halt

    def _take(self, outcome: Outcome, prompt: Messages | None) -> T | JudgeFailure:
        """Pay for a reply, read it, and keep it for its prompt if it states something."""
        if isinstance(outcome, JudgeFailure):
            return outcome
        stated = outcome.fault or self.parse(outcome.text)
        if isinstance(stated, JudgeFailure):
            stated = replace(stated, reply=outcome.text)
        model, server = self.model.identity.values()
        tokens = outcome.prompt_tokens, outcome.completion_tokens
        call = Call(model, server, *tokens, self.dollars(*tokens))
        self.spending.pay(call)
        kept = prompt is not None and not isinstance(stated, JudgeFailure)
        self.cache.add(call, reply_key(self.identity, prompt) if kept and prompt else None, outcome.text)
        return stated
