"""Which judge: from the environment, or from lm-eval's `--metadata '{"judge": {...}}'`, which wins.

- CLOSEDBOOK_JUDGE: rules, or openai for any OpenAI-compatible server.
- CLOSEDBOOK_JUDGE_MODEL: the model's name on that server.
- CLOSEDBOOK_JUDGE_BASE_URL: the server, https://api.openai.com/v1 unless set.
- CLOSEDBOOK_JUDGE_CONSTRAINED: 1 for a vLLM server; it then allows no reply but 1.0 and 0.0.
- OPENAI_API_KEY: the key; only ever read from the environment, since metadata is written to results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from closedbook.harness.errors import RequestError

OPENAI_URL = "https://api.openai.com/v1"
NO_JUDGE_HINT = (
    "no judge is configured, so only exact_match and contains are reported; set CLOSEDBOOK_JUDGE=rules, or "
    "CLOSEDBOOK_JUDGE=openai with CLOSEDBOOK_JUDGE_MODEL and CLOSEDBOOK_JUDGE_BASE_URL or OPENAI_API_KEY"
)


class JudgeSettings(BaseModel):
    """Settings of a judge, checked.

    Attributes:
        timeout: Seconds that one call may take.
        concurrency: Calls under way at once, over all ranks of a distributed run together.
        max_tokens: Longest reply; a judge that thinks aloud needs more.
        constrained: Have the server allow no reply but the two numbers, by vLLM's `structured_outputs`. Other servers
            may refuse a request that names it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rules", "openai"]
    model: str = ""
    base_url: str = OPENAI_URL
    concurrency: int = Field(default=32, ge=1)
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    retries: int = Field(default=4, ge=0)
    max_tokens: int = Field(default=16, ge=1)
    constrained: bool = False
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        """An address that can be written to results."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1:
            raise ValueError("is no address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "holds a user, a password or a query, which would be written to results; use OPENAI_API_KEY"
            )
        return url


def judge_settings(metadata: Mapping[str, Any] | None = None) -> JudgeSettings | None:
    """Settings from the environment, overridden by `metadata["judge"]`; None when no judge is configured.

    Raises:
        RequestError: An unknown judge or setting, no model, no key for a server that needs one, or a key in metadata.
    """
    stated = (metadata or {}).get("judge") or {}
    if isinstance(stated, str):
        stated = {"kind": stated}
    if not isinstance(stated, Mapping):
        raise RequestError(f"judge: metadata wants a name or a mapping of settings, not {stated!r}")
    if leaked := [name for name in stated if "key" in str(name).lower()]:
        raise RequestError(f"judge: {leaked[0]!r} in metadata would be written to results; set OPENAI_API_KEY instead")
    environment = {
        "kind": os.environ.get("CLOSEDBOOK_JUDGE"),
        "model": os.environ.get("CLOSEDBOOK_JUDGE_MODEL"),
        "base_url": os.environ.get("CLOSEDBOOK_JUDGE_BASE_URL"),
        "constrained": os.environ.get("CLOSEDBOOK_JUDGE_CONSTRAINED"),
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    given = {name: value for name, value in environment.items() if value} | dict(stated)
    if "kind" not in given:
        return None
    try:
        settings = JudgeSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        # an address that was refused may hold a password
        shown = "" if first["loc"] == ("base_url",) else f"; got {first['input']!r}"
        raise RequestError(f"judge: {'.'.join(map(str, first['loc']))}: {first['msg']}{shown}") from None
    if settings.kind == "openai":
        if not settings.model:
            raise RequestError("judge: openai needs a model; set CLOSEDBOOK_JUDGE_MODEL")
        if settings.api_key is None and settings.base_url == OPENAI_URL:
            raise RequestError(
                "judge: openai needs a key; set OPENAI_API_KEY, or CLOSEDBOOK_JUDGE_BASE_URL for a local server"
            )
    return settings
