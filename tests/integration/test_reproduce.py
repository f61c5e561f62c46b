"""The study on two cores, each kind of stage with a few questions: from the sources to a report."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser

ANALYSES = ("accuracy", "passk", "majority", "accessibility", "flips", "buckets", "attribution", "baselines", "mass")

LOOKS = runpy.run_path(str(Path(__file__).with_name("test_report_browser.py")))
browser = LOOKS["browser"]
Reproduced = Callable[[Path], list[dict[str, object]]]

pytestmark = [pytest.mark.model, pytest.mark.data, pytest.mark.timeout(3000)]


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
    assert len(folders) == 5
    ids = {folder.name: json.loads((folder / "provenance.json").read_text())["train_ids"] for folder in folders}
    assert len(ids["bucket_0-seed0"]) == len(ids["random_as_0-seed0"]) < len(ids["sft"])


def test_the_report_of_a_whole_study_stands_the_same_looks(browser: Browser, whole_study: Path) -> None:
    with LOOKS["opening"](browser, whole_study / "report.html") as open_page:
        for scheme in ("light", "dark"):
            page = open_page(viewport=LOOKS["PHONE"], color_scheme=scheme, is_mobile=True, has_touch=True)
            LOOKS["unfold"](page)
            assert LOOKS["too_wide"](page) == []
            assert LOOKS["too_pale"](page) == []
        page = open_page()
        wanted, reached, unseen = LOOKS["keyboard"](page)
        assert wanted == reached > 100
        assert unseen == []
        before = page.locator("#accuracy-1-table tbody tr").all_inner_texts()
        page.locator("#accuracy-1-table th button").nth(1).click()
        assert sorted(page.locator("#accuracy-1-table tbody tr").all_inner_texts()) == sorted(before)
