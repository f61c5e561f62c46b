"""Manifests: which question is train, validation, test or dropped, and for a dropped one, why.

One JSON Lines file a benchmark: a head, then one row a question, sorted by id. It holds ids, counts and digests, no
question text, so it can be committed beside data whose licence does not travel. One manifest serves the full data set
and a partial mirror of it: the splits that test is drawn from are pinned by count and digest, whereas train is pinned
by the ids that are used, so that further rows in the source change nothing.

    >>> read_manifest("worldfacts").ids("test")[0] == min(read_manifest("worldfacts").ids("test"))
    True
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, get_args

from closedbook.harness.errors import ManifestError, RequestError, SourceError
from closedbook.harness.files import tasks_dir, typed, write_text
from closedbook.harness.questions import Question, by_id, ids_digest
from closedbook.harness.sources import Source, benchmark, benchmarks, mirror_file, read_source

__all__ = ["DROPPED", "SPLITS", "Manifest", "Pin", "Row", "Split", "load_questions", "read_manifest", "read_manifests"]

Split = Literal["train", "validation", "test"]
"""A split of ours."""
SPLITS: tuple[Split, ...] = get_args(Split)
"""All of them, in the order in which they are written."""
AGAINST: Mapping[str, tuple[Split, ...]] = {"test": ("train",), "validation": ("train", "test"), "train": ("test",)}
"""Where the question stands that can drop one from a split."""
DROPPED = "dropped"
"""The split of questions that left test."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question of a manifest.

    Attributes:
        split: "train", "validation", "test" or "dropped".
        dropped_from: The split that the question was dropped from.
        contained_in: Id of the question that states the same fact.
        verdict: "contained", or "unsure", which drops a question too.
        decider: Who decided, with its version.
        rule: The rule that decided.
        score: Similarity that the decider saw.
    """

    id: str
    split: str
    dropped_from: str | None = None
    contained_in: str | None = None
    verdict: str | None = None
    decider: str | None = None
    rule: str | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise TypeError(f"id {self.id!r} is not a text")
        if self.split == DROPPED:
            typed(self)
        dropped = self.split == "dropped" and self.dropped_from in SPLITS and isinstance(self.contained_in, str)
        kept = self.split in SPLITS and self.dropped_from is None
        if not (dropped or kept):
            raise ValueError(f"question {self.id} is neither in {', '.join(SPLITS)} nor dropped from one with a reason")


@dataclass(frozen=True, slots=True)
class Pin:
    """What a manifest says of one split of the source. Only a pinned one must still be exactly so."""

    pinned: bool
    rows: int
    unusable: int
    merged: int
    questions: int
    ids: str


@dataclass(frozen=True)  # without slots, so that its digest is kept
class Manifest:
    """A benchmark's splits.

    Attributes:
        variant: What the source held when the manifest was built: "hub-full", "mirror-subset", or "local", a file of
            one's own with no stated size.
        seed: Seed of the random partition.
        drop: Side that a contained pair is dropped from, "test" or "train".
        decider: Name and version of the decider.
        retrieval: Name and version of what finds the pairs that are compared.
        wanted: Questions of each split that were asked for; a source may have fewer.
        sources: What is known of each split of the source.
    """

    benchmark: str
    variant: str
    seed: int
    drop: str
    decider: str
    retrieval: str
    wanted: Mapping[str, int]
    sources: Mapping[str, Pin]
    rows: tuple[Row, ...]

    def ids(self, split: str) -> list[str]:
        """Ids of a split, sorted; "dropped" are those that left test."""
        if split == DROPPED:
            return [row.id for row in self.rows if row.dropped_from == "test"]
        return [row.id for row in self.rows if row.split == split]

    @property
    def counts(self) -> dict[str, int]:
        """Questions in each split, and those dropped from each."""
        return dict(
            sorted(Counter(f"dropped from {r.dropped_from}" if r.dropped_from else r.split for r in self.rows).items())
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest as written."""
        return hashlib.sha256(to_text(self).encode()).hexdigest()


def to_text(manifest: Manifest) -> str:
    """The manifest as JSON Lines: equal manifests give equal bytes."""
    head = asdict(replace(manifest, rows=())) | {"counts": manifest.counts}
    del head["rows"]
    names = [field.name for field in fields(Row)]  # asdict would take ten times as long
    rows = ({name: getattr(row, name) for name in names} for row in sorted(manifest.rows, key=lambda row: row.id))
    shown = ({name: value for name, value in row.items() if value is not None} for row in rows)
    return "".join(json.dumps(line) + "\n" for line in (head, *shown))


@lru_cache(maxsize=8)  # a task asks for its manifest more than once
def from_text(text: str, where: str) -> Manifest:
    """The manifest that `to_text` wrote.

    Raises:
        ManifestError: The text is not such a manifest.
    """
    try:
        head, *rows = (json.loads(line) for line in text.splitlines())
        counts = head.pop("counts")
        pins = {split: Pin(**pin) for split, pin in head.pop("sources").items()}
        manifest = Manifest(**head, sources=pins, rows=tuple(Row(**row) for row in rows))
        if not isinstance(manifest.seed, int):
            raise TypeError(f"its seed {manifest.seed!r} is no number")
        if manifest.counts != counts:
            raise ValueError(f"its head counts {counts}, its rows are {manifest.counts}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ManifestError(f"{where} is no whole manifest ({reason}); rebuild: `closedbook splits build`") from error
    return manifest


def manifests_dir() -> Path:
    """Where the committed manifests lie."""
    return tasks_dir() / "manifests"


def manifest_file(name: str, folder: Path | None = None) -> Path:
    """Where the manifest of a benchmark lies: in its home, unless a folder is named.

    Raises:
        RequestError: No such benchmark.
    """
    return (folder or benchmark(name).home / "manifests") / f"{name}.jsonl"


def read_manifest(name: str, folder: Path | None = None) -> Manifest:
    """The manifest of a benchmark.

    Raises:
        RequestError: No such benchmark.
        ManifestError: The file is missing, malformed, or another benchmark's.
    """
    path = manifest_file(benchmark(name).name, folder)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{name}: cannot read {path} ({error}); run `closedbook splits build {name}`") from error
    manifest = from_text(text, str(path))
    if manifest.benchmark != name:
        raise ManifestError(f"{path} is the manifest of {manifest.benchmark}; run `closedbook splits build {name}`")
    return manifest


def read_manifests(folder: Path | None = None) -> dict[str, Manifest]:
    """The manifests that there are, in the benchmarks' homes or in a folder, by name of the benchmark.

    Raises:
        ManifestError: A file is malformed, or there is none.
    """
    names = [name for name in benchmarks() if manifest_file(name, folder).exists()]
    if not names:
        raise ManifestError(f"no manifest in {folder}; run `closedbook splits build --out {folder}`")
    return {name: read_manifest(name, folder) for name in names}


def write_manifest(manifest: Manifest, folder: Path | None = None) -> Path:
    """Write a manifest, whole or not at all, and return its path."""
    path = manifest_file(manifest.benchmark, folder)
    write_text(path, to_text(manifest))
    return path


def pin(source: Source, pinned: bool) -> Pin:
    """What a manifest records of one split of the source."""
    ids = ids_digest(question.id for question in source.questions)
    return Pin(pinned, source.rows, source.unusable, source.merged, len(source.questions), ids)


def check_source(manifest: Manifest, source: Source) -> None:
    """Refuse a source that is not the one the manifest was built from.

    Raises:
        ManifestError: The manifest says nothing of that split of the source.
        SourceError: A pinned split has other questions, or an id that the manifest uses is missing.
    """
    where = f"{source.benchmark}, split {source.split}"
    if source.split not in manifest.sources:
        raise ManifestError(f"{where}: the manifest does not know this split of the source; rebuild the manifest")
    expected = manifest.sources[source.split]
    found = pin(source, expected.pinned)
    if expected.pinned and (expected.questions, expected.ids) != (found.questions, found.ids):
        raise SourceError(
            f"{where}: the source has changed: expected {expected.questions} questions, digest {expected.ids[:12]}, "
            f"found {found.questions}, digest {found.ids[:12]}; use the data set as published or rebuild the manifest"
        )
    if missing := _used_ids(manifest, source.split) - {question.id for question in source.questions}:
        raise SourceError(
            f"{where}: {len(missing)} of the manifest's questions are not in the source, among them {min(missing)}; "
            "use a source that has them or rebuild the manifest"
        )


def _used_ids(manifest: Manifest, source_split: str) -> set[str]:
    """Ids that the manifest takes from one split of the source."""
    chosen = benchmark(manifest.benchmark)
    splits = {split for split in SPLITS if source_split == (chosen.test if split == "test" else chosen.train)}
    return {row.id for row in manifest.rows if (row.dropped_from or row.split) in splits}


def load_questions(name: str, split: str, folder: Path | None = None) -> list[Question]:
    """Questions of one of our splits, sorted by id, which is as good as shuffled: any head of it is a random sample.

    "dropped" are the test questions that train states, so "test" and "dropped" are what the benchmark asks.

    Raises:
        RequestError: No such benchmark or split.
        SourceError: The source cannot be had, or is not the one that the manifest pins.
        ManifestError: The manifest is missing or malformed.
    """
    if split not in (*SPLITS, DROPPED):
        raise RequestError(f"no split {split!r}; there are {', '.join((*SPLITS, DROPPED))}")
    chosen, manifest = benchmark(name), read_manifest(name, folder)
    source = read_source(name, chosen.test if split in ("test", DROPPED) else chosen.train)
    check_source(manifest, source)
    questions = by_id(source.questions)
    return [questions[i] for i in manifest.ids(split)]


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was found of one split of a source; `error` says why it cannot be used, None where it can."""

    benchmark: str
    split: str
    where: str
    full_rows: int | None
    rows: int | None = None
    questions: int | None = None
    merged: int | None = None
    unusable: int | None = None
    error: str | None = None


def check_sources(name: str) -> Iterator[SourceReport]:
    """Reads each split of a benchmark's source and compares it with what the manifest pins; errors are reported.

    Raises:
        RequestError: No such benchmark.
    """
    chosen = benchmark(name)
    for split in chosen.splits:
        report = SourceReport(name, split, str(mirror_file(chosen, split) or chosen.repo), chosen.rows.get(split))
        try:
            source = read_source(name, split)
            report = replace(
                report,
                rows=source.rows,
                questions=len(source.questions),
                merged=source.merged,
                unusable=source.unusable,
            )
            check_source(read_manifest(name), source)
        except RequestError as error:
            report = replace(report, error=str(error))
        yield report
