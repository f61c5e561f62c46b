"""Chat models that a judge asks: a server that speaks OpenAI's protocol, or vLLM inside this process.

Both take many prompts at once and hand each outcome over as it comes, a Reply or a JudgeFailure; neither raises once it
is at work. Retries are the SDK's own: exponential, with jitter and Retry-After, on 408, 409, 429, 5xx and dropped
connections. A refusal that would meet every call (400, 401, 403, 404, 422) ends the work: `refusal` then says why, and
what was not asked yet stays unasked. After a 400 or 422 the prompt that was answered first is asked again: where it is
answered still, the refusal was of one prompt only, such as one that is too long.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.files import folder_digest
from closedbook.harness.judge.settings import OPENAI_URL, JudgeSettings
from closedbook.harness.judge.verdicts import JudgeFailure

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

Messages = list[dict[str, str]]
RAMP = 0.2  # seconds over which the first calls start: calls that start together come back together, and then queue
LONGEST_DETAIL = 300  # characters
ADDRESS = "the address, --judge-url or CLOSEDBOOK_JUDGE_BASE_URL"
GARBAGE = "the server's reply is no chat completion"


class Reply(NamedTuple):
    """What a model said.

    Attributes:
        prompt_tokens: What was asked, in tokens; as the server counts, or estimated where it does not say.
        completion_tokens: What was said, in tokens.
        fault: Why the text is no answer, although it was paid: the model declined, or was cut off.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    fault: JudgeFailure | None = None


Outcome = Reply | JudgeFailure


class ChatModel(Protocol):
    """A model that is asked many prompts at once.

    Attributes:
        identity: Who is asked: model, and server or weights. Holds no key.
        refusal: Why no call can succeed; None while they may.
    """

    identity: Mapping[str, str]
    refusal: str | None

    def prepare(self, messages: Messages) -> Outcome:
        """Ask one prompt for real and find out how replies can be constrained.

        Raises:
            RequestError: The model cannot be had like this.
            WorkError: It cannot be had now.
        """
        ...

    def ask(
        self,
        prompts: Sequence[Messages],
        on_outcome: Callable[[int, Outcome], None],
        halted: Callable[[], JudgeFailure | None],
    ) -> None:
        """Ask all prompts and hand over each outcome with the prompt's index; what `halted` refuses is not asked."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """The replies to allow, where a server can be told: one of some labels, or JSON of a schema."""

    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None

    @property
    def structured(self) -> dict[str, Any]:
        """As vLLM takes it."""
        return {"choice": list(self.choices)} if self.schema is None else {"json": dict(self.schema)}

    @property
    def json_schema(self) -> dict[str, Any]:
        """As a schema, which OpenAI takes; labels stand in an object, since a schema there must be one."""
        if self.schema is not None:
            return dict(self.schema)
        verdict = {"type": "string", "enum": list(self.choices)}
        return object_of({"verdict": verdict})


def object_of(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these properties, in this order, and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


class ChatServer:
    """An OpenAI-compatible server.

    Args:
        settings: Which server, and how fast to ask.
        offer: The replies to allow, where the server can be told.
    """

    def __init__(self, settings: JudgeSettings, offer: Offer) -> None:
        self.settings = settings
        self.identity: Mapping[str, str] = {"model": settings.model, "server": settings.base_url}
        self.refusal: str | None = None
        self._known: Messages = []  # a prompt that was answered
        self._calls = Pace(settings.requests_per_minute)
        self._tokens = Pace(settings.tokens_per_minute)
        self._refused_with = 0  # the HTTP status of that
        self._constraints = dict(_constraints(offer))
        self._constraint: dict[str, Any] = self._constraints.get(settings.constrained, {})

    @property
    def concurrency(self) -> int:
        """This process's share of the calls under way, where several ranks judge at once."""
        return max(1, self.settings.concurrency // ranks())

    @property
    def _where(self) -> str:
        return f"judge {self.settings.model!r} at {self.settings.base_url}"

    def prepare(self, messages: Messages) -> Outcome:
        """Ask one prompt for real; the first constraint that the server takes is kept."""
        return _run(self._prepare(messages))

    async def _prepare(self, messages: Messages) -> Outcome:
        order = ["schema", "choice", "off"] if self.settings.base_url == OPENAI_URL else ["choice", "schema", "off"]
        async with self.client() as client:
            for name in order if self.settings.constrained == "auto" else [self.settings.constrained]:
                self._constraint, self.refusal = self._constraints[name], None
                outcome = await self.reply(client, messages)
                if not self.refusal or self._refused_with not in (400, 422):
                    break
        if self.refusal:
            raise RequestError(self.refusal)
        self._known = messages
        if isinstance(outcome, JudgeFailure) and outcome.reason in ("server", "timeout"):
            if outcome.detail.startswith(GARBAGE):
                raise RequestError(f"{self._where} is no chat server; check {ADDRESS}")
            raise WorkError(f"{self._where} cannot answer now: {outcome.detail}; start it, or check {ADDRESS}")
        return outcome

    def ask(
        self,
        prompts: Sequence[Messages],
        on_outcome: Callable[[int, Outcome], None],
        halted: Callable[[], JudgeFailure | None],
    ) -> None:
        """Ask all prompts, `concurrency` at once, within the rate limits."""
        _run(self._ask_all(prompts, on_outcome, halted))

    async def _ask_all(
        self,
        prompts: Sequence[Messages],
        on_outcome: Callable[[int, Outcome], None],
        halted: Callable[[], JudgeFailure | None],
    ) -> None:
        numbered = iter(enumerate(prompts))

        workers = min(self.concurrency, len(prompts))

        async def work(client: AsyncOpenAI, worker: int) -> None:
            await asyncio.sleep(RAMP * worker / workers)
            for number, messages in numbered:  # shared: each worker takes the next prompt
                if not halted():
                    await self._calls.wait(1)
                    await self._tokens.wait(estimated_tokens(messages) + self.settings.max_tokens)
                on_outcome(number, halted() or await self.reply(client, messages))

        async with self.client() as client, asyncio.TaskGroup() as group:
            for worker in range(workers):
                group.create_task(work(client, worker))

    def client(self) -> AsyncOpenAI:
        """A client of the server, for one event loop."""
        from openai import AsyncOpenAI, DefaultAioHttpClient

        key = self.settings.api_key
        return AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none",
            base_url=self.settings.base_url,
            timeout=self.settings.timeout,
            max_retries=self.settings.retries,
            http_client=DefaultAioHttpClient(),
        )

    async def reply(self, client: AsyncOpenAI, messages: Messages) -> Outcome:
        """Ask one prompt; a body that is no chat completion is asked for again, like any other fault of the server."""
        import openai

        outcome: Outcome = JudgeFailure("server", GARBAGE)
        # the client's own timeout starts anew with every byte that arrives, so a trickle would never end
        limit = (self.settings.timeout + 8.0) * (self.settings.retries + 1)
        try:
            async with asyncio.timeout(limit):
                for _ in range(self.settings.retries + 1):
                    try:
                        outcome = _read(await self._call(client, messages), messages, self._hidden)
                        break
                    except (ValueError, TypeError, AttributeError, LookupError) as error:
                        outcome = JudgeFailure("server", f"{GARBAGE} ({type(error).__name__})")
        except (openai.APIConnectionError, TimeoutError) as error:
            # the client calls a refused connection a timeout too; what lies at the bottom knows better
            cause = _bottom(error)
            if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
                return JudgeFailure("server", f"no connection: {self._said(cause)}")
            late = isinstance(error, openai.APITimeoutError | TimeoutError)
            return JudgeFailure("timeout" if late else "server", self._said(error) or f"no reply in {limit:.0f} s")
        except openai.APIStatusError as error:
            said = self._said(error).removeprefix("Error code: ")
            said = said if said.startswith(str(error.status_code)) else f"{error.status_code} {said}"
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                return JudgeFailure("server", said)
            if error.status_code in (400, 422) and messages is not self._known and await self._answers(client):
                return JudgeFailure(
                    "refused", said
                )  # this prompt, not every one: too long, or not to the filter's taste
            self._refused_with = error.status_code
            self.refusal = f"{self._where} refused a call: {said}; check its key, model and address"
            return JudgeFailure("refused", self.refusal)
        except Exception as error:  # whatever one reply is like, the others go on without it
            return JudgeFailure("server", f"{type(error).__name__}: {self._said(error)}")
        return outcome

    async def _answers(self, client: AsyncOpenAI) -> bool:
        """Whether the server still answers a prompt that it has answered before."""
        return bool(self._known) and isinstance(await self.reply(client, self._known), Reply)

    async def _call(self, client: AsyncOpenAI, messages: Messages) -> Any:
        """The body of the reply, as JSON: the SDK's typed models of request and reply would take twice the time."""
        body = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": 0.0,
            "max_tokens": self.settings.max_tokens,
        }
        return await client.post("/chat/completions", cast_to=object, body=body | self._constraint)

    def _said(self, error: BaseException) -> str:
        """What an error says, in one line and without the key, which a server may echo."""
        return self._hidden(one_line(error, longest=10_000))[:LONGEST_DETAIL]

    def _hidden(self, text: str) -> str:
        key = self.settings.api_key.get_secret_value() if self.settings.api_key else ""
        return text.replace(key, "***") if key else text


def _bottom(error: BaseException) -> BaseException:
    """The error that all the others were raised from."""
    while error.__cause__:
        error = error.__cause__
    return error


def _constraints(offer: Offer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ways to have a server allow nothing but what is offered, as additions to a request."""
    yield "choice", {"structured_outputs": offer.structured}  # vLLM
    json_schema = {"name": "verdict", "strict": True, "schema": offer.json_schema}
    yield "schema", {"response_format": {"type": "json_schema", "json_schema": json_schema}}  # OpenAI
    yield "off", {}


def estimated_tokens(messages: Messages) -> int:
    """About how many tokens a prompt has: four characters each."""
    return 1 + sum(len(message["content"]) for message in messages) // 4


def _read(completion: Any, messages: Messages, hidden: Callable[[str], str]) -> Outcome:
    """The reply in the body of a chat completion; `hidden` masks the key.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: It is no chat completion.
    """
    choice = completion["choices"][0]
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise TypeError("the content is no text")
    text = hidden(text)
    ended, refusal = choice.get("finish_reason"), choice["message"].get("refusal")
    fault = None
    if refusal or ended == "content_filter":
        fault = JudgeFailure("refused", hidden(f"the model declined to grade: {refusal or text}")[:LONGEST_DETAIL])
    elif ended == "length":
        fault = JudgeFailure("unparsable", f"the reply was cut off: {text}"[:LONGEST_DETAIL])
    usage = completion.get("usage")
    return Reply(
        text,
        _counted(usage, "prompt_tokens", estimated_tokens(messages)),
        _counted(usage, "completion_tokens", 1 + len(text) // 4),
        fault,
    )


def _counted(usage: Any, name: str, estimate: int) -> int:
    """A number of tokens as the server states it; the estimate where it states none that can be."""
    stated = usage.get(name) if isinstance(usage, dict) else None
    return stated if isinstance(stated, int) and 0 <= stated < 10**9 else estimate


class Pace:
    """Spreads what a minute allows evenly over it, so that no minute starts with a burst; None allows everything."""

    def __init__(self, per_minute: int | None) -> None:
        self._seconds = 60 * ranks() / per_minute if per_minute else 0.0  # for one, in this rank
        self._free = 0.0  # when the next one may start, on the monotonic clock

    async def wait(self, amount: int) -> None:
        """Wait for the turn of so many."""
        if self._seconds:
            await asyncio.sleep(self.due(amount))

    def due(self, amount: int) -> float:
        """Seconds until the turn of so many, which is then taken."""
        now = time.monotonic()
        start = max(now, self._free)
        self._free = start + amount * self._seconds
        return start - now


def ranks() -> int:
    """Processes of a distributed run, which share the limits."""
    stated = os.environ.get("WORLD_SIZE", "")
    return max(1, int(stated)) if stated.isdecimal() else 1


class InProcessVLLM:
    """A vLLM engine in this process: a judge for a machine without a server.

    Args:
        settings: `model` is a folder or a hub id.
        offer: The only replies that are allowed.
    """

    CHUNK = 512  # prompts between two hand-overs: what a killed run may have to ask again

    def __init__(self, settings: JudgeSettings, offer: Offer) -> None:
        self.settings, self.offer = settings, offer
        folder = Path(settings.model)
        self.identity: Mapping[str, str] = {
            "model": settings.model,
            "weights": folder_digest(folder) if folder.is_dir() else "of the hub",
        }
        self.refusal: str | None = None
        self._engine: Any = None

    def prepare(self, messages: Messages) -> Outcome:
        """Load the model and ask one prompt."""
        try:
            (outcome,) = self._generate([messages])
        except ImportError as error:
            raise RequestError("judge: vllm is not installed here; pip install 'closedbook[vllm]'") from error
        except Exception as error:  # the engine fails in as many ways as there are machines
            raise RequestError(
                f"judge {self.settings.model!r} does not load in vLLM: {one_line(error)}; "
                "check the model and the free memory"
            ) from error
        return outcome

    def ask(
        self,
        prompts: Sequence[Messages],
        on_outcome: Callable[[int, Outcome], None],
        halted: Callable[[], JudgeFailure | None],
    ) -> None:
        """Ask all prompts, a chunk at a time."""
        for start in range(0, len(prompts), self.CHUNK):
            chunk = prompts[start : start + self.CHUNK]
            failure = halted()
            outcomes = [failure] * len(chunk) if failure else self._outcomes(chunk)
            for number, outcome in enumerate(outcomes, start):
                on_outcome(number, outcome)

    def _outcomes(self, prompts: Sequence[Messages]) -> Sequence[Outcome]:
        """Replies to all prompts; where the engine refuses them together, each is asked alone."""
        try:
            return self._generate(prompts)
        except Exception as error:  # a prompt that is too long takes its whole batch along
            if len(prompts) == 1:
                return [JudgeFailure("server", f"{type(error).__name__}: {one_line(error)}")]
            return [outcome for prompt in prompts for outcome in self._outcomes([prompt])]

    def _generate(self, prompts: Sequence[Messages]) -> list[Outcome]:
        if self._engine is None:
            self._engine = _load_engine(self.settings)
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        constraint = None if self.settings.constrained == "off" else StructuredOutputsParams(**self.offer.structured)
        parameters = SamplingParams(temperature=0.0, max_tokens=self.settings.max_tokens, structured_outputs=constraint)
        done = self._engine.chat(list(prompts), parameters, use_tqdm=False)
        return [_vllm_reply(request) for request in done]


def _vllm_reply(request: Any) -> Reply:
    output = request.outputs[0]
    cut = output.finish_reason == "length"
    fault = JudgeFailure("unparsable", f"the reply was cut off: {output.text}"[:LONGEST_DETAIL]) if cut else None
    return Reply(output.text, len(request.prompt_token_ids or ()), len(output.token_ids), fault)


def _load_engine(settings: JudgeSettings) -> Any:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is the command's
    from vllm import LLM

    return LLM(
        model=settings.model,
        dtype="bfloat16",
        gpu_memory_utilization=settings.memory_share,
        max_model_len=settings.context,
        enforce_eager=True,
        disable_log_stats=True,
    )


def make_chat_model(settings: JudgeSettings, offer: Offer) -> ChatModel:
    """The chat model of these settings."""
    return InProcessVLLM(settings, offer) if settings.kind == "vllm" else ChatServer(settings, offer)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; in a thread of its own where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
