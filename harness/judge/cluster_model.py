"""A judge's model that is asked from a Ray cluster: clients of a server, or a vLLM engine on each GPU.

Only the asking goes there. Rules, cache, ledger, budget and rate limits stay in the one process that began, so that
nothing is asked twice and every call is paid once, whatever becomes of a node: of one that is lost the calls that it
had under way are made again, and no others.

What surprises: the key goes to the workers with what else the client is made of, from process to process. It stands in
no environment of a node, no log, and not in the cluster's store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from closedbook.harness.cluster import Cluster, Pool
from closedbook.harness.errors import RequestError
from closedbook.harness.fields import difference
from closedbook.harness.judge.cascade import LLMJudge
from closedbook.harness.judge.chat import (
    ChatModel,
    ChatServer,
    InProcessVLLM,
    Messages,
    Offer,
    Outcome,
    Pace,
    estimated_tokens,
    make_chat_model,
)
from closedbook.harness.judge.rubrics import RUBRICS
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.judge.verdicts import JudgeFailure


class Asked(NamedTuple):
    """Prompts for one worker: those from `first` on."""

    first: int
    prompts: Sequence[Messages]


class Said(NamedTuple):
    """What a worker was told, and why no call can succeed where that is so."""

    first: int
    outcomes: Sequence[Outcome]
    refusal: str | None


class Client:
    """A client of a chat server in a worker's process, with any number of calls under way.

    Args:
        server: As it was prepared where the work began.
    """

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        self._client = server.client()  # it takes a second; calls that waited for it would come together, off the pace
        self.identity: Mapping[str, str] = server.identity

    async def work(self, asked: Asked) -> Said:
        """Ask the prompts, one after the other."""
        outcomes = [await self._server.reply(self._client, messages) for messages in asked.prompts]
        return Said(asked.first, outcomes, self._server.refusal)

    async def close(self) -> None:
        """Let go of the server."""
        await self._client.close()


class Loaded:
    """A vLLM engine in a worker's process, which takes its prompts together.

    Args:
        settings: The model.
        offer: The only replies that are allowed.
    """

    def __init__(self, settings: JudgeSettings, offer: Offer) -> None:
        self._model = InProcessVLLM(settings, offer)
        self._model.prepare([{"role": "user", "content": "1"}])  # loads it here, where a failure is told once
        self.identity: Mapping[str, str] = self._model.identity

    def work(self, asked: Asked) -> Said:
        """Ask all prompts."""
        outcomes: dict[int, Outcome] = {}
        self._model.ask(asked.prompts, outcomes.__setitem__, lambda: None)
        return Said(asked.first, [outcomes[at] for at in range(len(asked.prompts))], self._model.refusal)


class ClusterModel:
    """A chat model whose calls are made on a cluster.

    Args:
        settings: The model, and how fast to ask over all workers together.
        offer: The replies to allow, where the model can be told.
        cluster: Where.
    """

    def __init__(self, settings: JudgeSettings, offer: Offer, cluster: Cluster) -> None:
        self._settings, self._offer, self._cluster = settings, offer, cluster
        self._model: ChatModel = make_chat_model(settings, offer)
        self.identity: Mapping[str, str] = self._model.identity
        self.refusal: str | None = None
        self._calls, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._pool: Pool[Asked, Said] | None = None

    @property
    def pool(self) -> Pool[Asked, Said]:
        """The workers, made when they are first wanted."""
        if self._pool is None:
            if isinstance(self._model, ChatServer):
                make = partial(Client, self._model)
                self._pool = Pool(self._cluster, make, per="node", at_once=self._settings.concurrency)
            else:
                self._pool = Pool(self._cluster, partial(Loaded, self._settings, self._offer), per="gpu")
        return self._pool

    def close(self) -> None:
        """End the workers."""
        if self._pool:
            self._pool.close()
        self._pool = None

    def prepare(self, messages: Messages) -> Outcome:
        """Ask one prompt for real: a server from here, an engine on the first worker that is ready.

        Raises:
            RequestError: The model cannot be had like this.
            WorkError: It cannot be had now.
        """
        if isinstance(self._model, ChatServer):
            self.close()  # they hold the server's settings as of their start, and `prepare` may change them
            return self._model.prepare(messages)
        ((_, said),) = self.pool.map([Asked(0, [messages])])
        if found := difference(self.identity, self.pool.identity):
            raise RequestError(
                f"the judge's {found.name} is {found.second!r} on the workers and {found.first!r} here; "
                "put the same model folder on this machine"
            )
        return said.outcomes[0]

    def ask(
        self,
        prompts: Sequence[Messages],
        on_outcome: Callable[[int, Outcome], None],
        halted: Callable[[], JudgeFailure | None],
    ) -> None:
        """Ask all prompts, `concurrency` at once over all workers, within the rate limits."""
        served = isinstance(self._model, ChatServer)
        size = 1 if served else InProcessVLLM.CHUNK

        def asked() -> Iterator[Asked]:
            for first in range(0, len(prompts), size):
                some = prompts[first : first + size]
                if failure := halted():
                    for number in range(first, first + len(some)):
                        on_outcome(number, failure)
                    continue
                if served:
                    tokens = estimated_tokens(some[0]) + self._settings.max_tokens
                    time.sleep(max(self._calls.due(1), self._tokens.due(tokens)))
                yield Asked(first, some)

        for _, said in self.pool.map(asked()):
            self.refusal = self.refusal or said.refusal
            for number, outcome in enumerate(said.outcomes, said.first):
                on_outcome(number, outcome)


@contextmanager
def cluster_judge(settings: JudgeSettings, cluster: Cluster) -> Iterator[LLMJudge]:
    """The judge of these settings, whose model is asked on a cluster; its workers end with the context.

    Raises:
        RequestError: It is the rules, which ask nobody.
    """
    if settings.kind == "rules":
        raise RequestError("--engine ray: rules ask nobody; leave it out, or choose --judge openai or vllm")
    model = ClusterModel(settings, Offer(choices=RUBRICS[settings.prompt].choices), cluster)
    try:
        yield LLMJudge(settings, model)
    finally:
        model.close()
