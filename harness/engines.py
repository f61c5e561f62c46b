"""Who draws samples: transformers, vLLM in this process, or any server that speaks OpenAI's language.

All of them answer the same question for the same seed, question and number: sample 7 of a question does not depend on
how many are drawn or in whose company. What would surprise: transformers keeps that promise to the bit on a CPU. A GPU,
vLLM and servers add numbers up in an order that depends on the load, so that a near tie can go the other way; and a
server may ignore the seed altogether. Samples of two engines are never mixed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.fields import address
from closedbook.harness.files import model_digest
from closedbook.harness.prompts import Style, messages, question_prompt, template_digest
from closedbook.harness.questions import Question
from closedbook.harness.sampling import BATCH, STOP, Sampler, Sampling, encode_prompts, sample_seed, uses_chat

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from transformers import PreTrainedTokenizerBase

    from closedbook.harness.drawing import Engine

EngineName = Literal["hf", "vllm", "openai"]
LONGEST_PROMPT = 1024  # tokens; the tasks' prompts have about a tenth
AT_ONCE = 256  # sequences that transformers samples at once: 64 took half as long again on a CPU (docs/speed.md)
RETRIES = 4  # further tries of a call to a server
# Stated, or a server draws with what the model brings: `vllm serve` takes top_k, min_p and penalties from its files.
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}

PROBE = "What is the capital of France?"  # asked for one token, to see what a server takes


def engine_identity(model: str, style: Style, chat: bool, sampling: Sampling | None, **own: str) -> dict[str, Any]:
    """All that an answer depends on, besides the question.

    Args:
        model: The checkpoint's digest, or its name where only a server has it.
        style: Of the prompt.
        chat: Whether it goes through the chat template.
        sampling: How samples are drawn; None where nothing is.
        own: What else decides in an engine, such as the type of the numbers.
    """
    prompt = f"{style}-{template_digest(style)}"
    drawn = {"sampling": asdict(sampling)} if sampling else {}
    return {"model": model, "prompt": prompt, "chat": chat, **drawn, "engine": own}


class TransformersEngine:
    """A model that is loaded here.

    Args:
        sampler: The model with its tokenizer.
        model: The checkpoint's digest.
        style: Of the prompt.
        chat: Whether to ask through the chat template.
        sampling: How samples are drawn.
        longest: Tokens of a prompt, at most.
    """

    def __init__(
        self,
        sampler: Sampler,
        model: str,
        style: Style,
        chat: bool,
        sampling: Sampling,
        longest: int = LONGEST_PROMPT,
    ) -> None:
        self.sampler, self.style, self.chat, self.sampling = sampler, style, chat, sampling
        self.longest, self.at_once = longest, sampler.batch
        self.identity: Mapping[str, Any] = engine_identity(model, style, chat, sampling, **sampler.identity)

    def sample(self, questions: Sequence[Question], n: int, first: int) -> list[list[str]]:
        """Samples `first` to `first + n - 1` of each question."""
        prompts = encode_prompts(self.sampler.tokenizer, questions, self.style, self.chat, self.longest)
        keys = [question.id for question in questions]
        return self.sampler.sample(prompts, keys, n, self.sampling, first=first)


class VllmEngine:
    """A vLLM engine in this process, which shares the work on a prompt among its samples.

    Args:
        path: Folder or hub id of the model.
        style: Of the prompt.
        chat: As `uses_chat` takes it.
        sampling: How samples are drawn.
        memory_share: Share of a GPU's memory that it takes.
    """

    at_once = 8192  # sequences; vLLM queues them

    def __init__(
        self,
        path: str,
        style: Style,
        chat: bool | Literal["auto"],
        sampling: Sampling,
        memory_share: float = 0.9,
    ) -> None:
        self.style, self.sampling = style, sampling
        self._engine, self._tokenizer = _vllm(path, sampling.max_new_tokens, memory_share)
        self.chat = uses_chat(self._tokenizer, chat)
        self.identity: Mapping[str, Any] = engine_identity(
            model_digest(path), style, self.chat, sampling, engine="vllm", dtype="bfloat16"
        )

    def sample(self, questions: Sequence[Question], n: int, first: int) -> list[list[str]]:
        """Samples `first` to `first + n - 1` of each question."""
        from vllm import SamplingParams

        prompts = encode_prompts(self._tokenizer, questions, self.style, self.chat, LONGEST_PROMPT)
        s = self.sampling
        parameters = [
            SamplingParams(
                temperature=s.temperature,
                top_p=s.top_p,
                top_k=s.top_k,
                max_tokens=s.max_new_tokens,
                stop=[STOP],
                seed=sample_seed(s.seed, question.id, number),
            )
            for question in questions
            for number in range(first, first + n)
        ]
        tokens = [{"prompt_token_ids": prompt} for prompt in prompts for _ in range(n)]
        done = self._engine.generate(tokens, parameters, use_tqdm=False)
        texts = [str(request.outputs[0].text) for request in done]
        return [texts[at : at + n] for at in range(0, len(texts), n)]


def _vllm(path: str, max_new_tokens: int, memory_share: float) -> tuple[Any, PreTrainedTokenizerBase]:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is the command's
    try:
        from vllm import LLM
    except ImportError as error:
        raise RequestError("--engine vllm: vLLM is not installed; pip install 'closedbook[vllm]'") from error
    try:
        engine = LLM(
            model=path,
            dtype="bfloat16",
            gpu_memory_utilization=memory_share,
            max_model_len=LONGEST_PROMPT + max_new_tokens,
            enable_prefix_caching=True,
            # of a prompt in pieces vLLM draws a token too many and winds the seed's numbers back, which on a CPU it
            # cannot (0.31: "CPU Generator does not use offset")
            enable_chunked_prefill=False,
            enforce_eager=True,
            disable_log_stats=True,
        )
    except Exception as error:  # the engine fails in as many ways as there are machines
        said = one_line(error)
        raise RequestError(f"{path} does not load in vLLM: {said}; check the model and the free memory") from error
    return engine, engine.get_tokenizer()


class ServerEngine:
    """A server with OpenAI's interface, `vllm serve` among them; a sample is a call.

    Settings that are no part of that interface, such as a top_k of none, are stated too; a server that refuses them is
    asked without. Which of the two it is belongs to what samples depend on, so one call asks before any is drawn; where
    the server stands does not.

    Args:
        url: Its address, such as http://127.0.0.1:8000/v1.
        model: The model's name there.
        style: Of the prompt.
        chat: False to send plain text to /completions, for a base model; else chat messages.
        sampling: How samples are drawn.
        concurrency: Calls under way at once.

    Raises:
        RequestError: The address is none, or holds a secret.
    """

    def __init__(
        self,
        url: str,
        model: str,
        style: Style,
        chat: bool,
        sampling: Sampling,
        concurrency: int = 64,
    ) -> None:
        try:
            self.url = address(url)
        except ValueError as error:
            raise RequestError(f"--base-url: {error}") from None
        self.model, self.style, self.chat, self.sampling = model, style, chat, sampling
        self.concurrency, self.at_once = concurrency, 4 * concurrency

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """All that a sample depends on, besides the question.

        Raises:
            RequestError: The server refuses a call.
            WorkError: It cannot be reached, or does not answer as such a server.
        """
        neutral = "stated" if self._stated else "refused"
        return engine_identity(
            self.model, self.style, self.chat, self.sampling, engine="server", neutral_settings=neutral
        )

    @cached_property
    def _stated(self) -> Mapping[str, float]:
        """What is stated besides OpenAI's settings: nothing where the server takes a call without, and not with it."""
        return asyncio.run(self._probed())

    async def _probed(self) -> Mapping[str, float]:
        import openai

        async with self._client() as client:
            try:
                await self._ask(client, PROBE, 0, NEUTRAL, tokens=1)
            except RequestError as error:
                if not isinstance(error.__cause__, openai.BadRequestError | openai.UnprocessableEntityError):
                    raise
                await self._ask(client, PROBE, 0, {}, tokens=1)
                return {}
        return NEUTRAL

    def sample(self, questions: Sequence[Question], n: int, first: int) -> list[list[str]]:
        """Samples `first` to `first + n - 1` of each question.

        Raises:
            RequestError: The server refuses a call.
            WorkError: It cannot be reached, or does not answer as such a server.
        """
        asked = [(question, number) for question in questions for number in range(first, first + n)]
        texts = asyncio.run(self._all(asked, self._stated))
        return [texts[at : at + n] for at in range(0, len(texts), n)]

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, DefaultAioHttpClient

        key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
        return AsyncOpenAI(api_key=key, base_url=self.url, max_retries=RETRIES, http_client=DefaultAioHttpClient())

    async def _all(self, asked: Sequence[tuple[Question, int]], stated: Mapping[str, float]) -> list[str]:
        gate = asyncio.Semaphore(self.concurrency)

        async def one(client: AsyncOpenAI, question: Question, number: int) -> str:
            async with gate:
                seed = sample_seed(self.sampling.seed, question.id, number)
                return await self._ask(client, question.question, seed, stated, self.sampling.max_new_tokens)

        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(client, question, number)) for question, number in asked]
        except* (RequestError, WorkError) as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(
        self, client: AsyncOpenAI, question: str, seed: int, stated: Mapping[str, float], tokens: int
    ) -> str:
        """The server's answer; `stated` are settings besides OpenAI's."""
        import openai

        where, s = f"model {self.model!r} at {self.url}", self.sampling
        body = {
            **stated,
            "model": self.model,
            "temperature": s.temperature,
            "top_p": s.top_p,
            **({"top_k": s.top_k} if s.top_k else {}),
            "max_tokens": tokens,
            "stop": [STOP],
            "seed": seed,
        }
        asked: dict[str, Any] = {"prompt": question_prompt(question, self.style)}
        if self.chat:
            asked = {"messages": messages(question, self.style)}
        path = "/chat/completions" if self.chat else "/completions"
        try:
            reply: Any = await client.post(path, cast_to=object, body=body | asked)
            choice = reply["choices"][0]
            return str((choice["message"]["content"] if self.chat else choice["text"]) or "")
        except openai.APIStatusError as error:
            said = one_line(error).removeprefix("Error code: ")
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise WorkError(f"{where} cannot answer now: {said}; the same command goes on") from error
            raise RequestError(f"{where} refused a call: {said}; check its key, model and address") from error
        except openai.APIConnectionError as error:
            raise WorkError(f"{where} cannot be reached: {one_line(error)}; start it, or check --base-url") from error
        except (LookupError, TypeError, ValueError) as error:
            raise WorkError(f"{where} is no such server: it gave no completion; check --base-url") from error


def make_engine(
    name: EngineName,
    model: str,
    style: Style,
    chat: bool | Literal["auto"],
    sampling: Sampling,
    *,
    base_url: str = "",
    dtype: str = "auto",
    batch: int = AT_ONCE,
) -> Engine:
    """The engine of that name.

    Args:
        name: hf, vllm or openai.
        model: A folder or hub id, or the model's name on a server.
        style: Of the prompt.
        chat: As `uses_chat` takes it; a server is asked by chat unless it is False.
        sampling: How samples are drawn.
        base_url: The server's address.
        dtype: Type of the weights with hf: auto for the checkpoint's own.
        batch: Sequences at once with hf.

    Raises:
        RequestError: The model cannot be had like this.
    """
    if name == "openai":
        return ServerEngine(base_url, model, style, chat is not False, sampling)
    if name == "vllm":
        return VllmEngine(model, style, chat, sampling)
    sampler = load_sampler(model, dtype=dtype, batch=batch)
    return TransformersEngine(sampler, model_digest(model), style, uses_chat(sampler.tokenizer, chat), sampling)


def load_sampler(path: str, *, dtype: str = "auto", batch: int = BATCH) -> Sampler:
    """A model with its tokenizer, on a GPU where there is one.

    Args:
        path: A folder or hub id.
        dtype: Type of the weights: auto for the checkpoint's own.
        batch: Sequences at once.

    Raises:
        RequestError: It cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except Exception as error:  # each class fails in its own way when files are missing or broken
        raise RequestError(f"cannot load {path}: {one_line(error)}; name a model folder or hub id") from error
    return Sampler(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, batch=batch)
