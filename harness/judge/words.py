"""The words that the rules know, from words.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

WORDS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))


def word_set(name: str) -> frozenset[str]:
    """A list of single words."""
    return frozenset(WORDS[name].split())
