"""What `closedbook dedup run` found so far: finished chunks in a folder, from which a run that was killed goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.files import write_text


class Match(NamedTuple):
    """A training row that states the fact of one of our questions; one line of matches.jsonl."""

    row: int
    row_id: str
    benchmark: str
    question: str
    verdict: str
    rule: str
    score: float


class Part(NamedTuple):
    """What was found in a chunk: how many rows of each kind, and the matches in order."""

    counts: Mapping[str, int]
    matches: list[Match]


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder of finished chunks, good for one set of inputs only."""

    folder: Path

    def path(self, at: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"{at:08d}.json"

    @property
    def begun(self) -> bool:
        """Whether a run has begun here that did not end."""
        return self._inputs.is_file()

    @property
    def _inputs(self) -> Path:
        return self.folder / "inputs.json"

    def begin(self, key: str) -> None:
        """Keep what an earlier run with the same inputs saved, drop what another one did.

        Raises:
            RequestError: Nothing can be written here.
        """
        stored = self._inputs
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (stored.is_file() and stored.read_text(encoding="utf-8") == key):
                for old in (*self.folder.glob("0*.json"), *self.folder.glob(".*.tmp")):
                    old.unlink()
                write_text(stored, key)
        except (OSError, ValueError, WorkError) as error:
            raise RequestError(f"cannot write to {self.folder}: {one_line(error)}; choose another --out") from error

    def save(self, at: int, part: Part) -> None:
        """Save what was found in a chunk, whole or not at all."""
        write_text(self.path(at), json.dumps({"counts": dict(part.counts), "matches": part.matches}) + "\n")

    def load(self, at: int) -> Part:
        """What was found in a chunk.

        Raises:
            WorkError: It is gone, or damaged.
        """
        path = self.path(at)
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            return Part(saved["counts"], [Match(*match) for match in saved["matches"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            with suppress(OSError):
                path.unlink()  # so that it is made anew
            raise WorkError(f"cannot read {path}: {one_line(error)}; run the same command again") from error

    def all(self, count: int) -> Iterator[Part]:
        """The parts of so many chunks, in order."""
        return map(self.load, range(count))
