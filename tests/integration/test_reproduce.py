"""The whole study on two cores, each stage with a few questions: from the sources to a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ANALYSES = ("accuracy", "passk", "majority", "accessibility", "flips", "buckets", "attribution", "baselines", "mass")

Reproduced = Callable[[Path], list[dict[str, object]]]

pytestmark = [pytest.mark.model, pytest.mark.data, pytest.mark.timeout(1200)]


def names(paths: Sequence[Path]) -> set[str]:
    return {path.stem for path in paths}


def test_a_study_comes_to_every_analysis_and_a_report(whole_study: Path) -> None:
    found = whole_study / "smollm2" / "analysis"
    assert names([*found.glob("worldfacts/*.json")]) == set(ANALYSES)
    assert names([*found.glob("*.json")]) == {"transfer"}
    page = (whole_study / "report.html").read_text(encoding="utf-8")
    for title in ("accuracy", "pass@k", "transfer"):
        assert title in page


def test_a_finished_study_runs_nothing_again(whole_study: Path, reproduced: Reproduced) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole_study.rglob("*") if path.is_file()}
    assert {row["state"] for row in reproduced(whole_study)} == {"done"}
    assert {path: path.stat().st_mtime_ns for path in whole_study.rglob("*") if path.is_file()} == before


def test_every_checkpoint_of_a_study_says_what_it_was_trained_on(whole_study: Path) -> None:
    folders = [path.parent for path in whole_study.glob("*/train/*/*/provenance.json")]
    assert len(folders) == 8
    ids = {folder.name: json.loads((folder / "provenance.json").read_text())["train_ids"] for folder in folders}
    assert len(ids["bucket_0-seed0"]) == len(ids["random_as_0-seed0"]) < len(ids["sft"])
