"""A release has one version, wherever it is named, and the changelog says what is in it."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NAMED_IN = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
HEADINGS = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_citation_is_of_this_version() -> None:
    assert CITATION["version"] == VERSION


def test_the_citation_has_what_its_format_asks_for() -> None:
    assert CITATION.keys() >= {"cff-version", "message", "title", "authors"}
    assert CITATION["authors"] == [{"name": "The closedbook maintainers"}]


def test_headings_of_the_changelog_are_versions_with_their_days_newest_first_and_before_them_what_is_unreleased() -> (
    None
):
    released = [heading for heading in HEADINGS if heading != "Unreleased"]
    assert ["Unreleased", *released] in (HEADINGS, ["Unreleased", *HEADINGS])
    stated = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) \((.*)\)", heading) for heading in released]
    assert all(stated)
    order = [(*map(int, found.groups()[:3]), datetime.date.fromisoformat(found[4])) for found in stated if found]
    assert order == sorted(set(order), reverse=True)


def test_what_was_released_last_is_this_version_or_an_older_one() -> None:
    newest = next((heading for heading in HEADINGS if heading != "Unreleased"), "0.0.0").partition(" ")[0]
    assert [int(part) for part in newest.split(".")] <= [int(part) for part in VERSION.split(".")]


@pytest.mark.parametrize(
    ("tag", "cited", "heading", "status"),
    [
        ("v1.2.3", "1.2.3", "1.2.3 (2026-05-06)", 0),
        ("v1.2.4", "1.2.3", "1.2.3 (2026-05-06)", 1),
        ("1.2.3", "1.2.3", "1.2.3 (2026-05-06)", 1),
        ("v1.2.3", "1.2.2", "1.2.3 (2026-05-06)", 1),
        ("v1.2.3", "1.2.3", "Unreleased", 1),
    ],
)
def test_a_release_is_stopped_where_versions_differ(
    tmp_path: Path, tag: str, cited: str, heading: str, status: int
) -> None:
    for name in (*NAMED_IN, "ci/release"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, before, after in (
        ("pyproject.toml", f'version = "{VERSION}"', 'version = "1.2.3"'),
        ("CITATION.cff", f"version: {VERSION}", f"version: {cited}"),
        ("CHANGELOG.md", f"## {HEADINGS[0]}", f"## {heading}"),
    ):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert before in text
        (tmp_path / name).write_text(text.replace(before, after, 1), encoding="utf-8")
    done = subprocess.run([tmp_path / "ci" / "release", tag], capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert (tag in done.stderr) == bool(status)
