"""The whole study on two cores, each stage with a few questions: from the sources to a report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "training" / "recipes" / "study_cpu.yaml"
ANALYSES = ("accuracy", "passk", "majority", "accessibility", "flips", "buckets", "attribution", "baselines", "mass")

pytestmark = [pytest.mark.model, pytest.mark.data, pytest.mark.xdist_group("reproduce")]


def reproduce(out: Path, *flags: str) -> list[dict[str, object]]:
    """The stages as `--json` prints them; what it says besides stands in the error."""
    command = [sys.executable, "-m", "closedbook.harness.cli", "reproduce", "--config", str(STUDY), "--smoke"]
    done = subprocess.run([*command, "--out", str(out), "--json", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """The folder of a finished study."""
    out = tmp_path_factory.mktemp("study") / "out"
    assert {row["state"] for row in reproduce(out)} == {"done"}
    return out


def names(paths: Sequence[Path]) -> set[str]:
    return {path.stem for path in paths}


@pytest.mark.timeout(1200)
def test_a_study_comes_to_every_analysis_and_a_report(study: Path) -> None:
    found = study / "smollm2" / "analysis"
    assert names([*found.glob("worldfacts/*.json")]) == set(ANALYSES)
    assert names([*found.glob("*.json")]) == {"transfer"}
    page = (study / "report.html").read_text(encoding="utf-8")
    for title in ("accuracy", "pass@k", "transfer"):
        assert title in page


def test_a_finished_study_runs_nothing_again(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    assert {row["state"] for row in reproduce(study)} == {"done"}
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()} == before


def test_every_checkpoint_of_a_study_says_what_it_was_trained_on(study: Path) -> None:
    folders = [path.parent for path in study.glob("*/train/*/*/provenance.json")]
    assert len(folders) == 8
    ids = {folder.name: json.loads((folder / "provenance.json").read_text())["train_ids"] for folder in folders}
    assert len(ids["bucket_0-seed0"]) == len(ids["random_as_0-seed0"]) < len(ids["sft"])
