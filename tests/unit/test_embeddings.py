"""Embeddings: a real small model, a cache that is made anew when it is damaged, one clear line where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from closedbook.harness.dedup.candidates import dense
from closedbook.harness.dedup.embeddings import embedder
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
    embed = embedder("minilm")
    assert np.allclose(np.linalg.norm(embed([FELINE, TAX]), axis=1), 1.0, atol=1e-5)
    assert [list(near) for near in dense([TAX, KITTEN], embed, 1)([FELINE])] == [[1]]


@pytest.mark.model
def test_embeddings_are_kept_and_a_damaged_file_is_made_anew() -> None:
    rows = embedder("minilm")([FELINE, TAX])
    (path,) = (cache_dir() / "embeddings").iterdir()
    written = path.stat().st_mtime_ns
    assert np.array_equal(embedder("minilm")([FELINE, TAX]), rows)
    assert path.stat().st_mtime_ns == written
    for damaged in (b"", b"\x93NUMPY", path.read_bytes()[:-7]):
        path.write_bytes(damaged)
        assert np.allclose(embedder("minilm")([FELINE, TAX]), rows, atol=1e-6)
    assert embedder("minilm")([]).shape[0] == 0


@pytest.mark.model
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"^the embedding model '[^\n]*empty' cannot be loaded: [^\n]+$"):
        embedder(str(tmp_path / "empty"))([FELINE])
