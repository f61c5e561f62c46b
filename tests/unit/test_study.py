"""Several methods on one model, trained, scored and compared, with a model of a few thousand random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import load_recipe
from closedbook.training.study import _judge_flags, run_study

TINY = [
    "precision=float32",
    "questions=4",
    "max_steps=1",
    "learning_rate=0.05",
    "validation.limit=4",
    "reward=contains",
]


def recipe(model: Path, *overrides: str, name: str = "grpo_cpu") -> Recipe:
    return load_recipe(name, [f"model={model}", *TINY, *overrides])


def test_every_checkpoint_answers_the_questions_of_the_base_model_and_is_compared_with_it(
    tiny_policy: Path, tmp_path: Path
) -> None:
    study = run_study({"grpo": recipe(tiny_policy)}, "worldfacts_dedup", tmp_path, limit=8)
    assert [(row.run, row.accuracy.n, row.against is None) for row in study.table] == [
        ("base", 8, True),
        ("grpo", 8, False),
    ]
    written = json.loads((tmp_path / "study.json").read_text())
    assert [row["run"] for row in written["table"]] == ["base", "grpo"]
    assert [command.split()[:2] for command in written["commands"]] == [
        ["closedbook", "train"],
        ["closedbook", "eval"],
        ["closedbook", "eval"],
    ]
    assert (tmp_path / "grpo" / "provenance.json").is_file()
    (turned,) = [row for row in study.against("grpo") if row.against]
    assert study.table[1].against and turned.against
    assert (turned.run, turned.against.gained) == ("base", study.table[1].against.lost)


def test_a_part_that_fails_says_which_command_and_why(tiny_policy: Path, tmp_path: Path) -> None:
    broken = recipe(tiny_policy, "subset.ids=nosuch.txt")
    with pytest.raises(WorkError, match=r"closedbook train grpo .* failed:\n.*starting from step 0\n.*nosuch\.txt"):
        run_study({"grpo": broken}, "worldfacts_dedup", tmp_path)


def test_recipes_of_different_models_or_judges_are_not_compared(tiny_policy: Path, tmp_path: Path) -> None:
    other = recipe(tmp_path)
    judged = recipe(tiny_policy, "judge.without=[contains]")
    for second in (other, judged):
        with pytest.raises(RequestError, match="one model and one judge"):
            run_study({"one": recipe(tiny_policy), "two": second}, "worldfacts_dedup", tmp_path)


def test_a_judge_becomes_flags_without_its_key() -> None:
    judge = JudgeSettings(
        kind="openai", model="m", base_url="http://127.0.0.1:9/v1", without=("contains", "name"), api_key="secret"
    )
    assert _judge_flags(judge) == [
        "--judge", "openai", "--judge-set", "model=m", "--judge-set", "base_url=http://127.0.0.1:9/v1",
        "--judge-set", "without=contains,name",
    ]  # fmt: skip
    assert _judge_flags(JudgeSettings(kind="rules")) == ["--judge", "rules"]
