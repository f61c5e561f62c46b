"""closedbook: what a language model recalls without looking anything up, measured and trained.

This file is `closedbook/__init__.py` in an installed package (see pyproject.toml and ci/hatch_build.py). Importing it
imports nothing. verifiers finds what it runs by the name of a package, so what it looks for is handed on from here:
`closedbook.harness.suites.verifiers`, loaded when it is first asked for.

    env = closedbook.load_environment(benchmark="popqa")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from closedbook.harness.suites.verifiers import AskOnce, ClosedbookEnv, ClosedbookTaskset, load_environment

__all__ = ["AskOnce", "ClosedbookEnv", "ClosedbookTaskset", "load_environment"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("closedbook.harness.suites.verifiers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
