"""The examples in docstrings are run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[2] / "harness"
FILES = (file for file in HARNESS.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8"))
WITH_EXAMPLES = sorted(".".join(file.relative_to(HARNESS).with_suffix("").parts) for file in FILES)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_a_module_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"closedbook.harness.{module}"))
    assert result.attempted and not result.failed
