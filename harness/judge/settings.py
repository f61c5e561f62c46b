"""Which judge: from the environment, or from lm-eval's `--metadata '{"judge": {...}}'`, which wins.

CLOSEDBOOK_JUDGE            rules, or openai for any OpenAI-compatible server
CLOSEDBOOK_JUDGE_MODEL      the model's name on that server
CLOSEDBOOK_JUDGE_BASE_URL   the server, https://api.openai.com/v1 unless set
OPENAI_API_KEY              the key; only ever read from the environment, since metadata is written to results
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.llm import LLMJudge
from closedbook.harness.judge.rules import RulesJudge
from closedbook.harness.judge.verdicts import Judge

OPENAI_URL = "https://api.openai.com/v1"
HOW_TO = (
    "no judge is configured, so only exact_match and contains are reported; set CLOSEDBOOK_JUDGE=rules, or "
    "CLOSEDBOOK_JUDGE=openai with CLOSEDBOOK_JUDGE_MODEL and CLOSEDBOOK_JUDGE_BASE_URL or OPENAI_API_KEY"
)


class JudgeSettings(BaseModel):
    """Settings of a judge, checked.

    Attributes:
        timeout: Seconds that one call may take.
        concurrency: Calls under way at once, over all ranks of a distributed run together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rules", "openai"]
    model: str = ""
    base_url: str = OPENAI_URL
    concurrency: int = Field(default=32, ge=1)
    timeout: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)

    @property
    def concurrency_per_rank(self) -> int:
        """This process's share of the calls under way."""
        return max(1, self.concurrency // max(1, int(os.environ.get("WORLD_SIZE", "1"))))


def judge_settings(metadata: Mapping[str, Any] | None = None) -> JudgeSettings | None:
    """Settings from the environment, overridden by `metadata["judge"]`; None when no judge is configured.

    Raises:
        RequestError: An unknown judge or setting, no model, no key for a server that needs one, or a key in metadata.
    """
    stated = (metadata or {}).get("judge") or {}
    stated = {"kind": stated} if isinstance(stated, str) else dict(stated)
    if leaked := [name for name in stated if "key" in name.lower()]:
        raise RequestError(f"judge: {leaked[0]!r} in metadata would be written to results; set OPENAI_API_KEY instead")
    environment = {
        "kind": os.environ.get("CLOSEDBOOK_JUDGE"),
        "model": os.environ.get("CLOSEDBOOK_JUDGE_MODEL"),
        "base_url": os.environ.get("CLOSEDBOOK_JUDGE_BASE_URL"),
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    given = {name: value for name, value in environment.items() if value} | stated
    if "kind" not in given:
        return None
    try:
        settings = JudgeSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(
            f"judge: {'.'.join(map(str, first['loc']))}: {first['msg']}; got {first['input']!r}"
        ) from None
    if settings.kind == "openai":
        if not settings.model:
            raise RequestError("judge: openai needs a model; set CLOSEDBOOK_JUDGE_MODEL")
        if settings.api_key is None and settings.base_url == OPENAI_URL:
            raise RequestError(
                "judge: openai needs a key; set OPENAI_API_KEY, or CLOSEDBOOK_JUDGE_BASE_URL for a local server"
            )
    return settings


@lru_cache(maxsize=8)
def make_judge(settings: JudgeSettings) -> Judge:
    """The judge of these settings, found able to work; one object a process for equal settings.

    Raises:
        RequestError: The server refuses the key, the model or the request.
        WorkError: The server cannot be reached.
    """
    if settings.kind == "rules":
        return RulesJudge()
    judge = LLMJudge(settings)
    judge.preflight()
    return judge
