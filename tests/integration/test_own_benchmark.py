"""The tutorial on benchmarks of one's own, docs/own_benchmark.md: its commands, in their order, with a tiny model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from closedbook.harness.manifests import read_manifest
from closedbook.harness.sources import OWN
from closedbook.harness.testing import write_tiny_model

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORDS = ["Hadrick", "Moor", "Quillby", "nine", "seventeen", "Sorrowmere", "tin", "Ouzel"]


def commands(page: str) -> list[str]:
    """The commands in the blocks of a page that stand at its margin."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [line for of in blocks for line in of.splitlines() if re.match("closedbook |lm_eval |export ", line)]


def smaller(command: str, model: Path) -> str:
    """The command with the tiny model, wherever it runs."""
    command = command.replace("docs/own_benchmark", str(DOCS / "own_benchmark")).replace("smollm2", str(model))
    return f"{command} model={model}" if " train " in command else command


@dataclass(frozen=True)
class Followed:
    """What the tutorial left, and what it printed."""

    folder: Path
    printed: str

    def json(self, pattern: str) -> Any:
        """The one file of a name."""
        (path,) = self.folder.glob(pattern)
        return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    folder = tmp_path_factory.mktemp("tutorial")
    model = write_tiny_model(folder / "tiny", WORDS, 256)
    lines = [smaller(line, model) for line in commands((DOCS / "own_benchmark.md").read_text(encoding="utf-8"))]
    assert len(lines) == 10
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=folder,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Followed(folder, done.stdout)


@pytest.fixture
def manifest(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(OWN, str(followed.folder / "mine"))
    return read_manifest("gorlim")


def test_what_train_states_leaves_test(manifest: Any) -> None:
    assert manifest.counts == {
        "dropped from test": 5, "dropped from validation": 1, "test": 15, "train": 25, "validation": 4,
    }  # fmt: skip


def test_the_page_shows_what_the_commands_print(followed: Followed) -> None:
    page = (DOCS / "own_benchmark.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^ gorlim     local .*$", page, re.MULTILINE)
    assert followed.printed.count(shown) == 2  # splits build and splits check


def test_both_ways_of_asking_ask_the_same_and_say_by_which_manifest(followed: Followed, manifest: Any) -> None:
    ours, plain = (followed.json(f"runs/{name}/*/results_*.json") for name in ("base", "after"))
    for results in (ours, plain):
        assert results["configs"]["gorlim_dedup"]["metadata"]["closedbook"]["manifest"] == manifest.digest
        assert results["n-samples"]["gorlim_dedup"]["effective"] == 15
    assert "judge_correct,none" in plain["results"]["gorlim_dedup"]
    assert " after " in followed.printed


def test_a_checkpoint_says_that_it_was_trained_on_it(followed: Followed, manifest: Any) -> None:
    provenance = followed.json("runs/gorlim/provenance.json")
    assert provenance["manifests"] == {"gorlim": manifest.digest}
    assert set(provenance["train_ids"]) <= set(manifest.ids("train"))
    plain = followed.json("runs/after/*/results_*.json")
    checkpoint = plain["configs"]["gorlim_dedup"]["metadata"]["closedbook"]["checkpoint"]["pretrained"]
    assert (checkpoint["contaminated"], checkpoint["overlaps"]) == (0, None)


def test_the_report_counts_what_was_dropped(followed: Followed) -> None:
    page = (followed.folder / "report.html").read_text(encoding="utf-8")
    assert "gorlim_dedup" in page
    assert "contained by paraphrase" in page
