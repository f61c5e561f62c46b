"""An LLM as judge, behind any server that speaks OpenAI's chat protocol.

Identical triples are sent once. All calls of a batch run concurrently, under one limit. What goes wrong with one triple
becomes a JudgeFailure for that triple; only a judge that cannot work at all (no key, no server, no such model) raises,
and it does so in `preflight`, before any answer has been generated.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge.rules import VERSION, sure_grade
from closedbook.harness.judge.verdicts import Grade, JudgeFailure, Judgement, Triple
from closedbook.harness.prompts import fill, template, template_digest

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from closedbook.harness.judge.settings import JudgeSettings

T = TypeVar("T")

PROMPT = "binary"
_LABELS = {"1.0": Grade.CORRECT, "0.0": Grade.INCORRECT}
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


def build_messages(triple: Triple) -> list[dict[str, str]]:
    """The judge's prompt for one triple; question, golds and answer are inserted as data, in one pass."""
    golds = "\n".join(f"- {gold}" for gold in triple.golds)
    content = fill(template(PROMPT), question=triple.question, golds=golds, answer=triple.answer)
    return [{"role": "user", "content": content}]


def parse(reply: str) -> Judgement:
    """The grade that a reply states; any reply but exactly 1.0 or 0.0 is a JudgeFailure."""
    stated = _THOUGHTS.sub("", reply).strip()
    return _LABELS.get(stated) or JudgeFailure("unparsable", f"the judge replied {reply[:80]!r}, not 1.0 or 0.0")


class LLMJudge:
    """Rules first, then an LLM for what they leave open."""

    can_fail = True

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings

    @property
    def identity(self) -> Mapping[str, str]:
        """Model, server, prompt and the rules in front."""
        return {
            "kind": self.settings.kind,
            "model": self.settings.model,
            "base_url": self.settings.base_url,
            "prompt": f"{PROMPT}-{template_digest(PROMPT)}",
            "rules": VERSION,
        }

    def preflight(self) -> None:
        """Grade one known answer for real, so that a judge that cannot work is found out before the model runs.

        Raises:
            WorkError: The server cannot be reached or does not answer in time.
            RequestError: The server refuses the key, the model or the request.
        """
        _run(self._preflight())

    async def _preflight(self) -> None:
        import openai

        where = f"judge {self.settings.model!r} at {self.settings.base_url}"
        try:
            async with self._client() as client:
                await self._ask(client, Triple("What is the capital of France?", ("Paris",), "It is Paris"))
        except openai.APIStatusError as error:
            raise RequestError(f"{where} refused a call: {error.status_code} {_one_line(error)}") from error
        except openai.APIError as error:
            raise WorkError(
                f"{where} cannot be reached ({_one_line(error)}); check CLOSEDBOOK_JUDGE_BASE_URL"
            ) from error

    def grade(self, triples: Sequence[Triple]) -> list[Judgement]:
        """One judgement a triple, in order."""
        open_triples = [triple for triple in dict.fromkeys(triples) if sure_grade(triple) is None]
        judged = dict(zip(open_triples, _run(self._grade_all(open_triples)), strict=True)) if open_triples else {}
        return [judged[triple] if triple in judged else sure_grade(triple) or Grade.INCORRECT for triple in triples]

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        key = self.settings.api_key
        return AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none",
            base_url=self.settings.base_url,
            timeout=self.settings.timeout,
            max_retries=self.settings.retries,
        )

    async def _ask(self, client: AsyncOpenAI, triple: Triple) -> str:
        reply = await client.chat.completions.create(
            model=self.settings.model,
            messages=build_messages(triple),  # type: ignore[arg-type]  # the SDK wants its own typed dicts
            temperature=0.0,
            max_tokens=16,
        )
        return (reply.choices[0].message.content or "") if reply.choices else ""

    async def _grade_all(self, triples: Sequence[Triple]) -> list[Judgement]:
        from tqdm import tqdm

        limit = asyncio.Semaphore(self.settings.concurrency_per_rank)
        with tqdm(total=len(triples), desc="judging", unit="answer") as progress:
            async with self._client() as client:

                async def grade_one(triple: Triple) -> Judgement:
                    async with limit:
                        judgement = await self._grade_one(client, triple)
                    progress.update()
                    return judgement

                return await asyncio.gather(*map(grade_one, triples))

    async def _grade_one(self, client: AsyncOpenAI, triple: Triple) -> Judgement:
        import openai

        try:
            return parse(await self._ask(client, triple))
        except openai.APITimeoutError as error:
            return JudgeFailure("timeout", _one_line(error))
        except openai.OpenAIError as error:
            return JudgeFailure("server", _one_line(error))
        except Exception as error:  # a reply that is no chat completion: the batch goes on without this one
            return JudgeFailure("server", f"{type(error).__name__}: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also from within a running event loop (a notebook): in a thread of its own."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
