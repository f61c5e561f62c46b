"""The demo's story: ask, train, ask again, with a model of a few thousand random weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from closedbook.harness.compare import read_run
from closedbook.harness.errors import WorkError
from closedbook.harness.provenance import read_provenance
from closedbook.training import demo
from closedbook.training.commands import demo_command
from closedbook.training.demo import QUICK_STEPS, STEPS, Story, demo_recipe, run_demo
from closedbook.training.recipes import load_recipe
from closedbook.training.run import Trained

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TINY = [
    "precision=float32",
    "questions=4",
    "learning_rate=0.01",
    "validation.limit=6",
    "reward=contains",
    "save.every=1",
]


@pytest.fixture
def tell(tiny_policy: Path, tmp_path: Path) -> Callable[..., tuple[Story, list[str]]]:
    """Tells the story in seconds; returns it, and what it said."""

    def run(*overrides: str) -> tuple[Story, list[str]]:
        stated = [f"model={tiny_policy}", f"output_dir={tmp_path / 'grpo'}", "max_steps=2", *TINY, *overrides]
        said: list[str] = []
        return run_demo(load_recipe("grpo_cpu", stated), tmp_path, 12, said.append), said

    return run


def test_the_same_test_questions_are_asked_before_and_after_and_none_was_trained_on(
    tell: Callable[..., tuple[Story, list[str]]],
) -> None:
    story, said = tell()
    (before,), (after,) = story.before.values(), story.after.values()
    assert len(before) == 12
    assert before.keys() == after.keys()
    provenance = read_provenance(str(story.trained.folder))
    assert provenance is not None
    assert not before.keys() & set(provenance.train_ids)
    assert [text[:6] for text in said] == ["1 of 3", "2 of 3", "3 of 3"]


def test_a_demo_that_was_ended_goes_on_and_a_finished_one_trains_no_more(
    tell: Callable[..., tuple[Story, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(demo, "train", _interrupted)
        with pytest.raises(WorkError, match="interrupted"):
            tell()
    assert (tmp_path / "before" / "figures.json").is_file()
    first, _ = tell()
    again, _ = tell()
    assert (first.trained.finished, again.trained.finished) == (False, True)
    assert again.after == first.after


def _interrupted(*_: object, **__: object) -> None:
    raise WorkError("interrupted")


def test_the_quick_look_differs_in_its_steps_alone(tmp_path: Path) -> None:
    whole, quick = demo_recipe(tmp_path, quick=False), demo_recipe(tmp_path, quick=True)
    assert (whole.max_steps, quick.max_steps) == (STEPS, QUICK_STEPS)
    assert quick.model_copy(update={"max_steps": STEPS}) == whole


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--quick"], "show nothing about GRPO"), ([], "One run with one seed"), (["--json"], '"gained"')],
)
def test_the_command_prints_the_paired_result_and_says_what_it_is_worth(
    write_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    before, after = (
        read_run(write_run(tmp_path / name, {f"gorlim{at}": float(at < right) for at in range(12)}))
        for name, right in {"one": 3, "two": 9}.items()
    )
    story = Story(before, after, Trained(tmp_path / "grpo", steps=2, best_step=2, accuracy=0.5))
    monkeypatch.setattr(demo, "run_demo", lambda *_: story)
    monkeypatch.setattr(sys, "argv", ["closedbook", *flags, "--out", str(tmp_path)])
    app = typer.Typer()
    app.command()(demo_command)
    with pytest.raises(SystemExit) as ended:
        app()
    out = capsys.readouterr().out
    assert not ended.value.code
    assert said in out
    if "--json" in flags:
        assert [row["run"] for row in json.loads(out)["comparison"]] == ["before", "after"]
    else:
        assert all(text in out for text in ("25.0", "75.0", "gained", "lost", "0.031", "who is gorlim3?"))
