"""The page on contamination: made from the manifests, and the committed one is what they make."""

from __future__ import annotations

from pathlib import Path

from closedbook.harness.dedup.contamination import contamination
from closedbook.harness.manifests import read_manifest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_page_is_what_the_committed_manifests_make() -> None:
    assert (DOCS / "contamination.md").read_text() == contamination()


def test_the_page_counts_what_left_test_and_holds_no_more_than_ids() -> None:
    page = contamination()
    dropped = [row for row in read_manifest("popqa").rows if row.dropped_from == "test"]
    assert f"| popqa | 3,000 | {len(dropped)} | " in page
    assert f"| {dropped[0].id} | {dropped[0].contained_in} |" in page
