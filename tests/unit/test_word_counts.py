"""The table of word counts that the rules weigh words by."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script():
    spec = importlib.util.spec_from_file_location("build_word_counts", ROOT / "ci" / "build_word_counts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
def test_the_committed_word_counts_are_what_their_script_builds() -> None:
    built = script()
    assert built.TARGET.read_text(encoding="utf-8") == built.word_counts()


def test_no_word_of_a_handful_of_questions_shows() -> None:
    head, *lines = script().TARGET.read_text(encoding="utf-8").splitlines()
    assert head == "55500 questions"
    assert min(int(line.split()[0]) for line in lines) >= script().LEAST
