"""An LLM as judge, behind any server that speaks OpenAI's chat protocol.

Identical triples are sent once. All calls of a batch run concurrently, under one limit. What goes wrong with one triple
becomes a JudgeFailure for that triple. Only `preflight` raises: it grades a known answer for real, before the model
runs, so that a missing key, a wrong model or a judge that talks instead of grading is found out in time.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.judge.rules import VERSION, sure_grade
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.judge.verdicts import Grade, JudgeFailure, Judgement, Triple
from closedbook.harness.prompts import fill, template, template_digest

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

PROMPT = "binary"
KNOWN = Triple("What is the capital of France?", ("Paris",), "It is Paris")

_LABELS = {"1.0": Grade.CORRECT, "0.0": Grade.INCORRECT}
_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_TAG = re.compile(r"<(?=\s*/?\s*(?:question|gold_answers|answer)\b)", re.IGNORECASE)


def inert(text: str) -> str:
    """Text in which the prompt's own tags are broken, so that data cannot close its block and open another."""
    return _TAG.sub("‹", text)  # noqa: RUF001 a look-alike is what people should see


def build_messages(triple: Triple) -> list[dict[str, str]]:
    """The judge's prompt for one triple; question, golds and answer are inserted as data, in one pass."""
    golds = "\n".join(f"- {inert(gold)}" for gold in triple.golds)
    content = fill(template(PROMPT), question=inert(triple.question), golds=golds, answer=inert(triple.answer))
    return [{"role": "user", "content": content}]


def parse(reply: str) -> Judgement:
    """The grade that a reply states; any reply but exactly 1.0 or 0.0 is a JudgeFailure."""
    thoughts = _THOUGHTS.match(reply)
    stated = reply[thoughts.end() if thoughts else 0 :].strip()
    return _LABELS.get(stated) or JudgeFailure("unparsable", f"the judge replied {reply[:80]!r}, not 1.0 or 0.0")


class LLMJudge:
    """Rules for what is beyond doubt, an LLM for the rest."""

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

    @property
    def concurrency(self) -> int:
        """This process's share of the calls under way, where several ranks judge at once."""
        return max(1, self.settings.concurrency // max(1, int(os.environ.get("WORLD_SIZE", "1"))))

    def preflight(self) -> None:
        """Grade one known answer for real.

        Raises:
            RequestError: The server refuses the key, the model or the request, or does not reply as a judge.
            WorkError: The server cannot be reached, or is not able to answer now.
        """
        judgement = _run(self._preflight())
        if isinstance(judgement, JudgeFailure):
            raise RequestError(f"{self._where}: {judgement.detail}; choose a model that follows the prompt")

    @property
    def _where(self) -> str:
        return f"judge {self.settings.model!r} at {self.settings.base_url}"

    def _said(self, error: BaseException) -> str:
        """What an error says, without the key, which a server may echo."""
        key = self.settings.api_key
        said = one_line(error)
        return said.replace(key.get_secret_value(), "***") if key and key.get_secret_value() else said

    async def _preflight(self) -> Judgement:
        import openai

        try:
            async with self._client() as client:
                return parse(await self._ask(client, KNOWN))
        except openai.APIStatusError as error:
            said = f"{error.status_code} {self._said(error)}"
            if error.status_code == 429 or error.status_code >= 500:
                raise WorkError(f"{self._where} cannot answer now: {said}; try again later") from error
            raise RequestError(f"{self._where} refused a call: {said}; check its key, model and address") from error
        except openai.APIError as error:
            raise WorkError(
                f"{self._where} cannot be reached: {self._said(error)}; check CLOSEDBOOK_JUDGE_BASE_URL"
            ) from error
        except TimeoutError as error:
            raise WorkError(f"{self._where} did not answer in time; check CLOSEDBOOK_JUDGE_BASE_URL") from error
        except Exception as error:  # a server that speaks something else fails in as many ways as there are replies
            raise RequestError(
                f"{self._where} is no chat server ({type(error).__name__}); check CLOSEDBOOK_JUDGE_BASE_URL"
            ) from error

    def grade(self, triples: Sequence[Triple]) -> list[Judgement]:
        """One judgement per triple, in order."""
        unique = dict.fromkeys(triples)
        judged: dict[Triple, Judgement] = {triple: grade for triple in unique if (grade := sure_grade(triple))}
        unsure = [triple for triple in unique if triple not in judged]
        if unsure:
            judged |= zip(unsure, _run(self._grade_all(unsure)), strict=True)
        return [judged[triple] for triple in triples]

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
        # the client's own timeout starts anew with every byte that arrives, so a trickle would never end
        async with asyncio.timeout(self.settings.timeout * (self.settings.retries + 1)):
            reply = await client.chat.completions.create(
                model=self.settings.model,
                messages=build_messages(triple),  # type: ignore[arg-type]  # the SDK wants its own typed dicts
                temperature=0.0,
                max_tokens=self.settings.max_tokens,
                extra_body={"structured_outputs": {"choice": list(_LABELS)}} if self.settings.constrained else None,
            )
        return reply.choices[0].message.content or ""

    async def _grade_all(self, triples: Sequence[Triple]) -> list[Judgement]:
        from tqdm import tqdm

        limit = asyncio.Semaphore(self.concurrency)
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
        except (openai.APITimeoutError, TimeoutError) as error:
            return JudgeFailure("timeout", self._said(error))
        except Exception as error:  # whatever one reply is like, the batch goes on without it
            return JudgeFailure("server", f"{type(error).__name__}: {self._said(error)}")


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; in a thread of its own where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
