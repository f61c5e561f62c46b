"""The demo's story: ask, train, ask again, with a model of a few thousand random weights."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from closedbook.harness.compare import read_run
from closedbook.harness.errors import RequestError, Unfinished, WorkError
from closedbook.harness.provenance import read_provenance
from closedbook.training import demo
from closedbook.training.commands import demo_command, train_command
from closedbook.training.demo import QUICK_STEPS, STEPS, Story, demo_recipe, run_demo
from closedbook.training.monitor import read_log
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import load_recipe
from closedbook.training.rewards import Reward
from closedbook.training.run import Trained

pytestmark = [
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


def test_a_demo_that_was_ended_while_training_goes_on_and_a_finished_one_trains_no_more(
    tell: Callable[..., tuple[Story, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Reward, "__call__", _interrupting(Reward.__call__))
        with pytest.raises(Unfinished, match=r"ended by SIGINT; step 1 is kept$"):
            tell()
    answered = (tmp_path / "before" / "figures.json").read_text()
    first, _ = tell()
    again, _ = tell()
    assert (first.trained.finished, again.trained.finished) == (False, True)
    assert [line["step"] for line in read_log(tmp_path / "grpo" / "log.jsonl")] == [1, 2]
    assert (tmp_path / "before" / "figures.json").read_text() == answered
    assert again.after == first.after


def _interrupting(grade: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object, **named: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return grade(*args, **named)

    return call


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


def test_a_quick_look_and_the_whole_demo_share_a_folder_without_meeting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def told(recipe: Recipe, out: Path, limit: int | None, say: object) -> Story:
        folders.append({out / name for name in ("before", "after")} | {recipe.folder})
        raise WorkError("far enough")

    monkeypatch.setattr(demo, "run_demo", told)
    for quick in (True, False):
        with pytest.raises(WorkError, match="far enough"):
            demo_command(quick=quick, out=tmp_path)
    assert not folders[0] & folders[1]


@pytest.mark.parametrize(
    ("command", "how"),
    [(lambda: demo_command(), "the same command"), (lambda: train_command("grpo"), "--resume")],
)
def test_each_command_says_how_it_goes_on_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Callable[[], None], how: str
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise Unfinished("the judge failed too often; mend the judge")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("closedbook.training.run.train", ended)
    monkeypatch.setattr(demo, "run_demo", ended)
    with pytest.raises(Unfinished, match=rf"^the judge failed too often; mend the judge; go on with {how}$"):
        command()


@pytest.mark.parametrize("command", [lambda: demo_command(), lambda: train_command("grpo")])
@pytest.mark.parametrize("package", ["torch", "trl"])
def test_a_missing_package_is_named_with_the_extra_that_brings_all_of_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Callable[[], None], package: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(RequestError, match=rf"^{package} is not installed; pip install 'closedbook\[train\]'$"):
        command()
