"""The tutorial's commands, as they stand on the page and in its order, in an empty folder."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BIN = Path(sys.executable).parent
PROGRAMS = ("closedbook", "lm_eval")


def commands(page: str) -> list[list[str]]:
    """Every command of a program of ours in a page's fenced blocks."""
    blocks = page.split("```")[1::2]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(PROGRAMS)]


def test_commands_are_found_in_blocks_with_their_continuations_and_without_their_comments() -> None:
    page = "run closedbook eval\n```\nclosedbook eval a \\\n    --limit 2  # two\n```\n```sh\nlm_eval -b 'c d'\n```\n"
    assert commands(page) == [["closedbook", "eval", "a", "--limit", "2"], ["lm_eval", "-b", "c d"]]


@pytest.mark.model
@pytest.mark.timeout(1200)
def test_every_command_of_the_tutorial_works_in_its_order(small_model: Path, tmp_path: Path) -> None:
    found = commands(PAGE.read_text(encoding="utf-8"))
    assert {"eval", "train", "compare", "report"} <= {command[1] for command in found}
    for program, *arguments in found:
        done = subprocess.run([BIN / program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        print(f"$ {shlex.join([program, *arguments])}\n{done.stdout}")
        assert done.returncode == 0, done.stderr[-3000:]
    assert "SmolLM2-135M" in (tmp_path / "report.html").read_text(encoding="utf-8")
