"""What a report is made from: folders of runs and analyses, found and read.

A study's folder holds evaluations, samples, training runs and analyses somewhere below it. What surprises: a run that
has not ended is no error, since a study is looked at while it runs; it is named on the page as unfinished. A file that
is damaged is one, since a page without it would pass for the whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from closedbook.harness.compare import names_of
from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import read_jsonl
from closedbook.harness.provenance import PROVENANCE_FILE, Provenance, from_text
from closedbook.harness.sample_store import HEAD, Head, SampleStore
from closedbook.harness.statistics import Estimate
from closedbook.harness.study.inputs import digest_of, shown_path
from closedbook.harness.study.tables import Stored, read

DEPTH = 3  # folders below the one that is named
BASE = "base"
WANTED = "folders of closedbook eval, sample, train or analyze, or a folder that holds some"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Described:
    """What run.json says of an evaluation."""

    model: str
    tasks: list[str]
    identity: str = ""
    backend: str = "hf"
    arguments: dict[str, Any] = field(default_factory=dict)
    chat: bool = False
    split: str = "test"
    limit: int | None = None
    judge: dict[str, Any] | None = None
    allow_contaminated: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    checkpoint: dict[str, dict[str, dict[str, Any]] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation that has ended.

    Attributes:
        name: Tells it from the others.
        folder: Where it lies.
        described: How it was made.
        figures: By task or group and metric.
        digest: Of its answers.
        seconds: That it took, where lm-eval says so.
    """

    name: str
    folder: Path
    described: Described
    figures: Mapping[str, Mapping[str, Estimate]]
    digest: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Sampled:
    """A folder of samples; `texts` are the different ones, `drawn` all of them, `failed` those without a grade."""

    name: str
    folder: Path
    head: Head
    drawn: int
    texts: int
    failed: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A training run that has ended.

    Attributes:
        name: Tells it from the others.
        folder: Where it lies.
        provenance: What it was trained on, by what.
        steps: Optimiser steps taken; the checkpoint may be of an earlier one.
        seconds: Of all steps, where the log has them.
        tokens: Read and written in training, where the log counts them.
    """

    name: str
    folder: Path
    provenance: Provenance
    steps: int
    seconds: float | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A judge against people: its identity, and figures by group."""

    name: str
    judge: Mapping[str, Any]
    labels: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that was found, the model before first; `unfinished` names runs that have not ended."""

    evaluations: Sequence[Evaluated] = ()
    samples: Sequence[Sampled] = ()
    training: Sequence[Trained] = ()
    analyses: Sequence[Stored] = ()
    calibrations: Sequence[Calibrated] = ()
    unfinished: Sequence[str] = ()


def read_study(paths: Sequence[Path]) -> Study:
    """What the folders hold, or folders in them, three levels down.

    Raises:
        RequestError: One is missing or holds nothing to report, or a file is damaged.
    """
    found: dict[str, list[Path]] = {kind: [] for kind in ("evaluation", "samples", "training", "analysis", "judge")}
    for path in paths:
        here = list(_find(path, DEPTH))
        if not here:
            said = "holds nothing to report" if path.exists() else "is not there"
            raise RequestError(f"{path} {said}; name {WANTED}")
        for kind, place in here:
            if all(place.resolve() != other.resolve() for other in found[kind]):
                found[kind].append(place)
    ended = {
        "evaluation": [folder for folder in found["evaluation"] if (folder / "figures.json").is_file()],
        "training": [folder for folder in found["training"] if (folder / PROVENANCE_FILE).is_file()],
    }
    unfinished = [shown_path(f) for kind, folders in ended.items() for f in found[kind] if f not in folders]
    evaluations = [read_evaluation(*named) for named in _named(ended["evaluation"])]
    return Study(
        sorted(evaluations, key=lambda run: run.name != BASE),  # sorting keeps the order of the others
        [_read_samples(*named) for named in _named(found["samples"])],
        [_read_training(*named) for named in _named(ended["training"])],
        [read(path) for path in found["analysis"]],
        [_read_calibration(path) for path in found["judge"]],
        unfinished,
    )


def _named(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    yield from zip(names_of([folder.resolve() for folder in folders]), folders, strict=True)


def _find(path: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """Runs and analyses at a path and below it, with their kinds."""
    if path.is_file() and path.suffix == ".json":
        if path.stem.startswith("calibration"):
            yield "judge", path
        elif any(path.with_suffix(end).is_file() for end in (".parquet", ".csv", ".md")):
            yield "analysis", path
    elif (path / "run.json").is_file():
        yield "evaluation", path
    elif (path / HEAD).is_file():
        yield "samples", path
    elif (path / "recipe.yaml").is_file() and (path / "log.jsonl").is_file():
        yield "training", path
    elif path.is_dir():
        below = sorted(child for child in path.iterdir() if not child.name.startswith("."))
        for child in below:
            if child.is_file() or depth:
                yield from _find(child, depth - 1)


def _load(path: Path, kind: type[T] | Any, advice: str) -> T:
    """What a JSON file holds, as a type."""
    try:
        loaded: T = TypeAdapter(kind).validate_json(path.read_bytes())
        return loaded
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else str(first["msg"])
    except OSError as error:
        reason = one_line(error)
    raise RequestError(f"cannot read {path}: {' '.join(reason.split())[:200]}; {advice}")


def read_evaluation(name: str, folder: Path) -> Evaluated:
    """A folder of `closedbook eval` that has ended.

    Raises:
        RequestError: A file of it is damaged, or it holds no answers.
    """
    advice = "evaluate again into another folder, or restore it"
    described = _load(folder / "run.json", Described, advice)
    figures = _load(folder / "figures.json", dict[str, dict[str, Estimate]], advice)
    digest = digest_of(folder)
    if digest is None:
        raise RequestError(f"{folder} holds no answers (samples_*.jsonl); {advice}")
    results = sorted(folder.rglob("results_*.json"), key=lambda path: path.name)
    return Evaluated(name, folder, described, figures, digest, _seconds(results[-1]) if results else None)


def _seconds(path: Path) -> float | None:
    try:
        seconds = float(json.loads(path.read_bytes())["total_evaluation_time_seconds"])
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; restore it, or evaluate again") from error
    except (KeyError, TypeError):
        return None
    return seconds if math.isfinite(seconds) else None


def _read_samples(name: str, folder: Path) -> Sampled:
    store = SampleStore(folder)
    head, questions = store.head(), store.read().values()
    return Sampled(
        name,
        folder,
        head,
        sum(question.drawn for question in questions),
        sum(len(question.samples) for question in questions),
        sum(question.failed for question in questions),
    )


def _read_training(name: str, folder: Path) -> Trained:
    path = folder / PROVENANCE_FILE
    try:
        provenance = from_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; copy the run again") from error
    lines = list(read_jsonl(folder / "log.jsonl", _step, "the log that training wrote"))
    seconds = [line["seconds"] for line in lines if line.get("seconds") is not None]
    tokens = [line["num_tokens"] for line in lines if line.get("num_tokens") is not None]
    last = max((line["step"] for line in lines), default=provenance.step)
    return Trained(
        name, folder, provenance, int(last), sum(seconds) if seconds else None, int(tokens[-1]) if tokens else None
    )


def _step(line: Any) -> Mapping[str, float | None]:
    """The figures of a step that a report needs."""
    found = {name: line.get(name) for name in ("step", "seconds", "num_tokens")}
    if not isinstance(found["step"], int) or not all(isinstance(x, int | float | None) for x in found.values()):
        raise ValueError("its step, seconds or num_tokens are no numbers")
    return found


def _read_calibration(path: Path) -> Calibrated:
    @dataclass
    class Written:
        judge: dict[str, Any]
        labels: dict[str, Any]
        figures: dict[str, dict[str, Estimate]]

    found: Written = _load(path, Written, "make one with `closedbook judge calibrate`")
    return Calibrated(shown_path(path), found.judge, found.labels, found.figures)
