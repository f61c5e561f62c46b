"""What the task files in tasks/ say of generation, for suites other than lm-eval: they are where it is decided.

Files of one's own say it in their own folder. An `include` is read as lm-eval reads it: what the including file states
wins, key by key.

    >>> generation("worldfacts", "cot").max_tokens
    512
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.prompts import Style
from closedbook.harness.sources import benchmark


class Generation(NamedTuple):
    """How a response is generated.

    Attributes:
        temperature: 0 for greedy.
        max_tokens: New tokens, at most.
        stop: What ends it, and is no part of it.
    """

    temperature: float
    max_tokens: int
    stop: tuple[str, ...]


def task_name(name: str, style: Style) -> str:
    """The task of a benchmark with that prompt."""
    return f"{name}_dedup{'_cot' if style == 'cot' else ''}"


def generation(name: str, style: Style) -> Generation:
    """How the task of a benchmark has responses generated; a process reads each file once.

    Raises:
        RequestError: No such benchmark, or its task file cannot be read.
    """
    return _generation(benchmark(name).home / f"{task_name(name, style)}.yaml")


@cache
def _generation(file: Path) -> Generation:
    try:
        stated = _read(file)["generation_kwargs"]
        return _checked(Generation(float(stated["temperature"]), int(stated["max_gen_toks"]), _stops(stated["until"])))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise RequestError(
            f"{file} does not say how to generate ({said}); write it as `closedbook benchmarks new` does"
        ) from error


def _stops(until: str | list[str]) -> tuple[str, ...]:
    """As lm-eval takes them: a text is one, and an empty one ends nothing."""
    if not all(isinstance(end, str) for end in until):
        raise TypeError(f"until is {until!r}")
    return tuple(end for end in ([until] if isinstance(until, str) else until) if end)


def _checked(stated: Generation) -> Generation:
    if not 0 <= stated.temperature < math.inf:
        raise ValueError(f"temperature is {stated.temperature}")
    if stated.max_tokens < 1:
        raise ValueError(f"max_gen_toks is {stated.max_tokens}")
    return stated


def _read(file: Path) -> dict[str, Any]:
    # lm-eval's own tag, which says that a name is one of Python's
    stated: Any = yaml.safe_load(file.read_text(encoding="utf-8").replace("!function ", ""))
    if not isinstance(stated, dict):
        raise TypeError(f"{file.name} is no mapping")
    bases = stated.pop("include", None) or []
    read: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        read |= _read(file.parent / base)
    return read | stated


def cut(response: str, stop: tuple[str, ...]) -> str:
    """The response before the first stop string; some suites leave the string in."""
    for end in stop:
        response = response.split(end)[0]
    return response
