"""Embeddings: a real small model, a cache that is made anew when it is damaged, one clear line where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from closedbook.harness.dedup.candidates import dense
from closedbook.harness.dedup.embeddings import Embedder
from closedbook.harness.errors import RequestError
from closedbook.harness.files import cache_dir
from closedbook.harness.questions import make_question

FELINE = make_question("nq", "what do we call a young cat", ["kitten"])
KITTEN = make_question("nq", "name for the offspring of a feline", ["kitten"])
TAX = make_question("nq", "when is the tax return due", ["April 15"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSEDBOOK_CACHE", str(tmp_path))


@pytest.mark.model
def test_questions_of_like_meaning_are_near_without_a_common_word() -> None:
    embed = Embedder("minilm")
    assert np.allclose(np.linalg.norm(embed([FELINE, TAX]), axis=1), 1.0, atol=1e-5)
    assert [list(near) for near in dense([TAX, KITTEN], embed, 1)([FELINE])] == [[1]]


@pytest.mark.model
def test_embeddings_are_kept_and_a_damaged_file_is_made_anew() -> None:
    rows = Embedder("minilm")([FELINE, TAX])
    (path,) = (cache_dir() / "embeddings").iterdir()
    written = path.stat().st_mtime_ns
    assert np.array_equal(Embedder("minilm")([FELINE, TAX]), rows)
    assert path.stat().st_mtime_ns == written
    for damaged in (b"", b"\x93NUMPY", path.read_bytes()[:-7]):
        path.write_bytes(damaged)
        assert np.allclose(Embedder("minilm")([FELINE, TAX]), rows, atol=1e-6)
    assert Embedder("minilm")([]).shape[0] == 0


@pytest.mark.model
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"^the embedding model '[^\n]*empty' cannot be loaded: [^\n]+$"):
        Embedder(str(tmp_path / "empty"))([FELINE])


def test_a_folder_is_named_by_its_files_and_not_by_where_it_lies(tmp_path: Path) -> None:
    for folder, config in (("a/m", "1"), ("b/m", "1"), ("c/m", "2")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(config)
    one, same, other = (Embedder(str(tmp_path / folder)).name for folder in ("a/m", "b/m/", "c/m"))
    assert one == same != other
    assert re.fullmatch(r"m-[0-9a-f]{8}", one)


def test_a_model_of_the_hub_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "hf_hub_download", lambda model, file: str(tmp_path / "snapshots" / ("ab" * 20) / file))
    assert Embedder("someone/some-model").name == "some-model-abababab"


def test_a_model_that_the_hub_does_not_have_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: str, file: str) -> str:
        raise OSError(f"{model}\nhas no {file}")

    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(RequestError, match=r"^the embedding model 'someone/none' cannot be loaded: [^\n]+$"):
        Embedder("someone/none")
