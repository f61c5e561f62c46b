"""Several methods on one model: train with each recipe, score every checkpoint on the same questions, compare all.

Each part is a command of its own in a process of its own, which gives a GPU's memory back and can be repeated by hand;
what is done already is not done again. The commands stand in the report beside the figures.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from closedbook.harness.compare import Comparison, Run, compare, read_run
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import write_text
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.small_model import model_path
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import judge_of, to_yaml

BASE = "base"
SAID = 20  # last lines of a command that failed


@dataclass(frozen=True, slots=True)
class Study:
    """What a study found.

    Attributes:
        runs: The answers of the base model and of each trained one, by name.
        table: Each on each task, compared with the base model.
        commands: What was run.
    """

    runs: Mapping[str, Run]
    table: Sequence[Comparison]
    commands: Sequence[str]

    def against(self, name: str) -> Sequence[Comparison]:
        """Every run compared with the run of that name."""
        return compare({name: self.runs[name]} | {other: run for other, run in self.runs.items() if other != name})


def run_study(recipes: Mapping[str, Recipe], task: str, out: Path, limit: int | None = None) -> Study:
    """Train with each recipe and compare what comes of it, on one task.

    Args:
        recipes: By a name of the run. All start from one model and have one judge, which also grades the test answers.
        task: Name of a task.
        out: Where everything goes: `out/NAME` a trained model, `out/eval/NAME` its answers, study.json the figures.
        limit: Test questions; None for all.

    Raises:
        RequestError: The recipes start from different models, or have different judges.
        WorkError: A command failed; the same call goes on from there.
    """
    models, judges = {model_path(r.model) for r in recipes.values()}, [judge_of(r) for r in recipes.values()]
    if len(models) != 1 or any(judge != judges[0] for judge in judges):
        raise RequestError("a study compares recipes of one model and one judge; make them equal")
    flags = ["--tasks", task, *_judge_flags(judges[0]), *(["--limit", str(limit)] if limit else [])]
    commands = []
    for name, recipe in recipes.items():
        write_text(out / f"{name}.yaml", to_yaml(recipe))
        commands.append(
            ["train", recipe.method, "--config", str(out / f"{name}.yaml"), f"output_dir={out / name}", "--resume"]
        )
    for name, model in {BASE: models.pop(), **{name: str(out / name) for name in recipes}}.items():
        commands.append(["eval", model, *flags, "--out", str(out / "eval" / name)])
    for command in commands:
        _run(command)
    runs = {name: read_run(out / "eval" / name) for name in (BASE, *recipes)}
    study = Study(runs, compare(runs), [shlex.join(["closedbook", *command]) for command in commands])
    figures = {"table": [asdict(row) for row in study.table], "commands": study.commands}
    write_text(out / "study.json", json.dumps(figures, indent=2) + "\n")
    return study


def _judge_flags(judge: JudgeSettings) -> list[str]:
    """A judge as flags of a command; its key stays in the environment."""
    stated = judge.model_dump(exclude={"api_key", "kind"}, exclude_defaults=True, mode="json")
    settings = (f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in stated.items())
    return ["--judge", judge.kind, *(part for setting in settings for part in ("--judge-set", setting))]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "closedbook.harness.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines()[-SAID:]
        raise WorkError(f"closedbook {shlex.join(command)} failed:\n" + "\n".join(lines))
