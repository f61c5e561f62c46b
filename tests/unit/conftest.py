"""What several unit tests share: models of a few thousand random weights, and run folders of evaluations."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from closedbook.harness import cli
from closedbook.harness.metrics import Answer
from closedbook.harness.testing import write_tiny_model

WORDS = ["who", "wrote", "hamlet", "Shakespeare", "Marlowe", "Kyd", "Bacon"]

# the policy's, so that some of its answers to worldfacts are right
PLACES = ["Africa", "Asia", "Europe", "Oceania", "Euro", "Dollar", "Franc"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that says ten words at random, with its tokenizer and a chat template."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model"), WORDS, 64)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other words, and room for the tasks' prompts."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-policy"), PLACES, 256)


def write_run_folder(
    folder: Path, values: Mapping[str, float], *, task: str = "gorlim_dedup", date: str = "2026-01-01T00-00-00.0"
) -> Path:
    """A run folder as lm-eval writes it."""
    rows = [
        {
            "doc": {"id": id, "question": f"who is {id}?", "answers": [f"Osric {id} [the Elder]", "Osric"]},
            "filtered_resps": [[f"{Answer('Osric [the Elder]')} [correct]"]],
            "exact_match": 0.0,
            "judge_correct": value,
        }
        for id, value in values.items()
    ]
    path = folder / "model" / f"samples_{task}_{date}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Writes an evaluation's run folder out of the metric of each question id."""
    return write_run_folder


@pytest.fixture
def closedbook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs the command in this process; returns exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["closedbook", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run
