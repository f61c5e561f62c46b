"""Which judge: from the environment, or from lm-eval's `--metadata '{"judge": {...}}'`, which wins.

- CLOSEDBOOK_JUDGE: rules, openai for any OpenAI-compatible server, or vllm for an engine in this process.
- CLOSEDBOOK_JUDGE_MODEL: the model's name on that server, or vllm's model folder.
- CLOSEDBOOK_JUDGE_BASE_URL: the server, https://api.openai.com/v1 unless set.
- CLOSEDBOOK_JUDGE_<SETTING>: any other one of `JudgeSettings`, such as CLOSEDBOOK_JUDGE_BUDGET or _MAX_FAILURES.
- OPENAI_API_KEY: the key; only ever read from the environment, since metadata is written to results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from closedbook.harness.errors import RequestError
from closedbook.harness.fields import address
from closedbook.harness.files import cache_dir

OPENAI_URL = "https://api.openai.com/v1"
NO_JUDGE_HINT = (
    "no judge is configured, so only exact_match and contains are reported; set CLOSEDBOOK_JUDGE=rules, or "
    "CLOSEDBOOK_JUDGE=openai with CLOSEDBOOK_JUDGE_MODEL and CLOSEDBOOK_JUDGE_BASE_URL or OPENAI_API_KEY"
)


JudgeStated = str | dict[str, Any] | None
"""A judge as it is stated elsewhere: a kind, or settings by name; None for that of the environment."""


class JudgeSettings(BaseModel):
    """Settings of a judge, checked; `closedbook judge settings` prints them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rules", "openai", "vllm"] = Field(
        description="rules, openai (any compatible server) or vllm (an engine in this process)"
    )
    model: str = Field(default="", description="The model's name on the server; for vllm a folder or hub id")
    base_url: Annotated[str, AfterValidator(address)] = Field(default=OPENAI_URL, description="The server's address")
    prompt: Literal["binary", "simpleqa"] = Field(
        default="binary", description="The rubric: binary (right or wrong) or simpleqa (right, wrong or not attempted)"
    )
    without: tuple[str, ...] = Field(default=(), description="Names of rules that are switched off")
    concurrency: int = Field(
        default=32, ge=1, description="Calls under way at once, over all ranks of a distributed run together"
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="Rate limit, over all ranks; None for none")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="The same, by estimated tokens")
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False, description="Seconds that one call may take")
    retries: int = Field(default=4, ge=0, le=100, description="Further tries of a call")
    max_tokens: int = Field(default=16, ge=1, description="Longest reply; a judge that thinks aloud needs more")
    constrained: Literal["auto", "choice", "schema", "off"] = Field(
        default="auto",
        description="How the server is told to allow no reply but the labels: choice (vLLM), schema (OpenAI), off, or "
        "auto, which takes the first one that the server takes",
    )
    price_in: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Dollars per million prompt tokens")
    price_out: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Dollars per million tokens of replies"
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Dollars, over all ranks, after which no call is made; those under way are paid all the same",
    )
    max_failures: float = Field(default=0.01, ge=0, le=1, description="Share of answers that may stay ungraded")
    cache: str = Field(default="", description='File of the replies, or "off"')
    memory_share: float = Field(default=0.4, gt=0, le=1, description="Share of a GPU's memory that vllm takes")
    context: int = Field(default=4096, ge=128, description="Longest prompt and reply of vllm, in tokens")
    api_key: SecretStr | None = Field(
        default=None, exclude=True, repr=False, description="The key of the server; never shown or written"
    )

    @property
    def priced(self) -> bool:
        """Whether costs can be told."""
        return self.price_in > 0 or self.price_out > 0

    @property
    def cache_path(self) -> Path | None:
        """Where replies are kept; None for nowhere."""
        return None if self.cache == "off" else Path(os.path.expanduser(self.cache or cache_dir() / "judge.sqlite"))  # noqa: PTH111 Path's raises for a user that does not exist

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        """A key without the newline that files end with."""
        stripped = key.get_secret_value().strip() if key else ""
        if not stripped.isascii():
            raise ValueError("the key holds characters that no header can carry")
        return SecretStr(stripped) if stripped else None

    @field_validator("without", mode="before")
    @classmethod
    def _names(cls, names: Any) -> Any:
        """Names with commas, as in the environment."""
        return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _budget_has_prices(self) -> JudgeSettings:
        if self.budget is not None and not self.priced:
            raise ValueError("a budget needs prices: set price_in and price_out, dollars per million tokens")
        return self


VARIABLES = {
    name: {"kind": "CLOSEDBOOK_JUDGE", "api_key": "OPENAI_API_KEY"}.get(name, f"CLOSEDBOOK_JUDGE_{name.upper()}")
    for name in JudgeSettings.model_fields
}


@overload
def judge_settings(metadata: Mapping[str, Any] | None = None) -> JudgeSettings | None: ...


@overload
def judge_settings(metadata: Mapping[str, Any] | None, default: str) -> JudgeSettings: ...


def judge_settings(metadata: Mapping[str, Any] | None = None, default: str | None = None) -> JudgeSettings | None:
    """Settings from the environment, overridden by `metadata["judge"]`.

    Args:
        metadata: lm-eval's metadata of a task.
        default: The kind of judge where none is configured; without it the result is then None.

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
    known = {*VARIABLES.values(), "CLOSEDBOOK_JUDGE"}
    if unknown := sorted(v for v in os.environ if v.startswith("CLOSEDBOOK_JUDGE") and v not in known):
        raise RequestError(f"judge: there is no variable {unknown[0]}; there are {', '.join(sorted(known))}")
    environment = {name: os.environ.get(variable) for name, variable in VARIABLES.items()}
    given = {name: value for name, value in environment.items() if value} | dict(stated)
    if "kind" not in given:
        if stray := [name for name in ("model", "base_url") if name in given]:
            raise RequestError(
                f"judge: {stray[0]} is set and no kind of judge; ask for one with --judge or CLOSEDBOOK_JUDGE: "
                "openai or vllm"
            )
        if default is None:
            return None
        given["kind"] = default
    try:
        settings = JudgeSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        # an address that was refused may hold a password
        shown = (
            f"; got {first['input']!r}" if first["loc"] and first["loc"] not in (("base_url",), ("api_key",)) else ""
        )
        raise RequestError(f"judge: {'.'.join(map(str, first['loc'])) or 'budget'}: {first['msg']}{shown}") from None
    if settings.kind != "rules" and not settings.model:
        raise RequestError(
            f"judge: {settings.kind} needs a model; give --judge-model (in a recipe judge.model) or set "
            "CLOSEDBOOK_JUDGE_MODEL"
        )
    if settings.kind == "openai" and settings.api_key is None and settings.base_url == OPENAI_URL:
        raise RequestError(
            "judge: openai needs a key; set OPENAI_API_KEY, or name a local server with --judge-url (in a recipe "
            "judge.base_url) or CLOSEDBOOK_JUDGE_BASE_URL"
        )
    return settings
