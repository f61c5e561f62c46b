"""The page on contamination: made from the manifests, and the committed one is what they make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from closedbook.harness.dedup.contamination import contamination
from closedbook.harness.dedup.effect import effect_of
from closedbook.harness.errors import RequestError
from closedbook.harness.manifests import manifests_dir, read_manifest, write_manifest
from closedbook.harness.statistics import Estimate, wilson

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_page_is_what_the_committed_manifests_make() -> None:
    assert (DOCS / "contamination.md").read_text() == contamination(effect=DOCS / "effect.json")


def test_the_page_counts_what_left_test_and_holds_no_more_than_ids() -> None:
    page = contamination()
    dropped = [row for row in read_manifest("popqa").rows if row.dropped_from == "test"]
    assert f"| popqa | 3,000 | {len(dropped)} | " in page
    assert f"| {dropped[0].id} | {dropped[0].contained_in} | contained |" in page


def test_a_folder_with_some_of_the_manifests_gives_their_part_of_the_page(tmp_path: Path) -> None:
    write_manifest(read_manifest("popqa"), tmp_path)
    page, whole = contamination(tmp_path), contamination()
    assert "worldfacts" not in page and "## Across benchmarks" not in page
    assert "## Across benchmarks" in whole
    (line,) = (line for line in page.splitlines() if line.startswith("| popqa | 3,000 |"))
    assert line in whole.splitlines()


def test_what_dropping_does_to_a_score_is_the_share_times_the_difference_between_the_parts() -> None:
    manifest = read_manifest("worldfacts")
    left, stayed = len(manifest.ids("dropped")), len(manifest.ids("test"))
    right_kept, right_dropped = 40, left
    full = (right_kept + right_dropped) / (left + stayed) - right_kept / stayed
    effect = effect_of("worldfacts", wilson(right_kept, stayed), wilson(right_dropped, left))
    found = effect.full_minus_deduplicated
    assert found.value == pytest.approx(full)
    assert found.low < full < found.high


FOUND = asdict(Estimate(0.5, 0.4, 0.6, 10))
MEASURED = {"benchmark": "nq", "share": 0.1, "kept": FOUND, "dropped": FOUND, "full_minus_deduplicated": FOUND}


@pytest.mark.parametrize(
    "stated",
    [
        {"model": "m"},
        {"model": "m", "judge": "rules", "effects": [MEASURED | {"share": None}]},
        {"model": "m", "judge": "rules", "effects": [MEASURED | {"benchmark": 5}]},
        {"model": "m", "judge": "rules", "effects": [MEASURED | {"kept": FOUND | {"n": None}}]},
        {"model": "m", "judge": "rules", "effects": [MEASURED | {"kept": FOUND | {"value": "high"}}]},
        {"model": "m", "judge": "rules", "effects": [MEASURED | {"kept": FOUND | {"low": float("nan")}}]},
    ],
)
def test_a_file_that_holds_no_effects_is_one_line(tmp_path: Path, stated: Mapping[str, object]) -> None:
    (tmp_path / "effect.json").write_text(json.dumps(stated))
    with pytest.raises(
        RequestError, match=r"effect\.json is no effect\.json \([^\n]*\); `closedbook dedup effect MODEL`"
    ):
        contamination(effect=tmp_path / "effect.json")


def test_a_file_of_effects_that_is_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "effect.json").write_text("[" * 100_000)
    with pytest.raises(RequestError, match=r"effect\.json is no effect\.json \([^\n]*\); "):
        contamination(effect=tmp_path / "effect.json")


def test_what_a_model_could_not_decide_is_shown_among_the_kinds(tmp_path: Path) -> None:
    shutil.copytree(manifests_dir(), tmp_path, dirs_exist_ok=True)
    manifest = read_manifest("worldfacts")
    failed = tuple(replace(row, rule="unparsable") if row.split == "dropped" else row for row in manifest.rows)
    write_manifest(replace(manifest, rows=failed), tmp_path)
    assert f"| worldfacts | 0 | 0 | 0 | 0 | 0 | {len(manifest.ids('dropped'))} |" in contamination(tmp_path)
