"""What a report is made from: folders of runs and analyses, found and read.

A study's folder holds evaluations, samples, training runs and analyses somewhere below it. What surprises: a run that
has not ended is no error, since a study is looked at while it runs; it is named on the page as unfinished. A file that
is damaged is one, since a page without it would pass for the whole.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from closedbook.harness.compare import names_of
from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import read_jsonl
from closedbook.harness.provenance import PROVENANCE_FILE, Provenance, from_text
from closedbook.harness.sample_store import Head, SampleStore
from closedbook.harness.statistics import Estimate
from closedbook.harness.study.inputs import digest_of, shown_path
from closedbook.harness.study.likelihood import MassStore
from closedbook.harness.study.tables import Stored, read

DEPTH = 5  # folders below the one that is named
BASE = ("base", "before")  # names of the model before
KINDS = ("evaluation", "samples", "likelihood", "training", "analysis", "judge", "stage")
FOLDERS = ("eval", "samples", "likelihood", "train", "analysis", "stages")  # a study's own, which names need not repeat
LAST = {"evaluation": "figures.json", "training": PROVENANCE_FILE}  # a run without it has not ended
STATED = {"judge": {"judge", "labels", "tables", "figures"}, "stage": {"command", "digest", "seconds"}}
WANTED = "folders of closedbook eval, sample, train or analyze, or a folder that holds some"


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
class EvaluationFolder:
    """An evaluation that has ended.

    Attributes:
        name: Tells it from the others.
        folder: Where it lies.
        described: How it was made.
        figures: By task or group and metric.
        digest: Of its answers.
        seconds: That it took, where lm-eval says so.
        manifests: Digest of the manifest of each task, where lm-eval's results have it.
    """

    name: str
    folder: Path
    described: Described
    figures: Mapping[str, Mapping[str, Estimate]]
    digest: str
    seconds: float | None
    manifests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SampleFolder:
    """A folder of samples; `texts` are the different ones, `drawn` all of them, `failed` those without a grade."""

    name: str
    folder: Path
    head: Head
    drawn: int
    texts: int
    failed: int


@dataclass(frozen=True, slots=True)
class LikelihoodFolder:
    """A folder of `closedbook likelihood`; `questions` are those that are there."""

    name: str
    folder: Path
    head: Head
    questions: int


@dataclass(frozen=True, slots=True)
class TrainingFolder:
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


class Analysed(NamedTuple):
    """An analysis.

    Attributes:
        of: What it is of where there are several, such as a benchmark.
        stored: What its files say.
        held: Its figures' files, by their ending.
    """

    of: str
    stored: Stored
    held: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A command of a study that has run."""

    command: str
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was found, the model before first.

    `stages` are by the folders that they wrote, resolved; `unfinished` names runs that have not ended.
    """

    evaluations: Sequence[EvaluationFolder] = ()
    samples: Sequence[SampleFolder] = ()
    likelihoods: Sequence[LikelihoodFolder] = ()
    training: Sequence[TrainingFolder] = ()
    analyses: Sequence[Analysed] = ()
    calibrations: Sequence[Calibrated] = ()
    stages: Mapping[Path, StageRecord] = field(default_factory=dict)
    unfinished: Sequence[str] = ()


def read_study(paths: Sequence[Path]) -> Findings:
    """What the folders hold, or folders in them, some levels down.

    Raises:
        RequestError: One is missing or holds nothing to report, or a file is damaged.
    """
    found: dict[str, dict[Path, Path]] = {kind: {} for kind in KINDS}  # the folder that was named, by what was found
    seen: set[tuple[str, Path]] = set()
    for root in paths:
        here = list(_find(root, DEPTH))
        if not here:
            said = "holds nothing to report" if root.exists() else "is not there"
            raise RequestError(f"{root} {said}; name {WANTED}")
        for kind, place in here:
            if (once := (kind, place.resolve())) not in seen:
                seen.add(once)
                found[kind][place] = root
    ended = {kind: [f for f in found[kind] if (f / last).is_file()] for kind, last in LAST.items()}
    unfinished = [shown_path(f) for kind, last in LAST.items() for f in found[kind] if not (f / last).is_file()]
    evaluations = [read_evaluation(*of) for of in _named(ended["evaluation"], found["evaluation"])]
    analyses = _named(list(found["analysis"]), found["analysis"])
    return Findings(
        sorted(evaluations, key=lambda run: Path(run.name).name not in BASE),  # sorting keeps the order of the others
        [_read_samples(*of) for of in _named(list(found["samples"]), found["samples"])],
        [_read_likelihood(*of) for of in _named(list(found["likelihood"]), found["likelihood"])],
        [_read_training(*of) for of in _named(ended["training"], found["training"])],
        [read_analysis(name.rpartition("/")[0], path) for name, path in analyses],
        [_read_calibration(path) for path in found["judge"]],
        _read_stages(found["stage"]),
        unfinished,
    )


def _named(places: Sequence[Path], roots: Mapping[Path, Path]) -> list[tuple[str, Path]]:
    """A short name of each: its path below the folder that was named, without what all have and the kind of folder."""
    parts = [_below(place, roots[place]) for place in places]
    while parts and all(len(names) > 1 and names[0] == parts[0][0] for names in parts):
        parts = [names[1:] for names in parts]
    names = ["/".join(names) for names in parts]
    if len(set(names)) < len(names):
        names = names_of([place.resolve() for place in places])
    return list(zip(names, places, strict=True))


def _below(place: Path, root: Path) -> tuple[str, ...]:
    whole = place.resolve()
    if whole == root.resolve():
        return (whole.stem if place.is_file() else whole.name,)
    parts = whole.relative_to(root.resolve()).with_suffix("" if place.is_file() else whole.suffix).parts
    return (*(part for part in parts[:-1] if part not in FOLDERS), parts[-1])


def _find(path: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """Runs and analyses at a path and below it, with their kinds."""
    if path.is_file():
        if path.suffix == ".json" and (kind := _kind_of_file(path)):
            yield kind, path
    elif (path / "run.json").is_file():
        yield "evaluation", path
    elif (path / SampleStore.file).is_file():
        yield "samples", path
    elif (path / MassStore.file).is_file():
        yield "likelihood", path
    elif (path / "recipe.yaml").is_file() and (path / "log.jsonl").is_file():
        yield "training", path
    elif path.is_dir() and depth >= 0:
        for child in sorted(child for child in path.iterdir() if not child.name.startswith(".")):
            yield from _find(child, depth - 1)


def _kind_of_file(path: Path) -> str | None:
    """What a JSON file is; one of other tools is nothing to us, whether or not it is whole."""
    if any(path.with_suffix(end).is_file() for end in (".parquet", ".csv", ".md")):
        return "analysis"
    try:
        keys = set(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return "judge" if path.stem.startswith("calibration") else None
    return next((kind for kind, wanted in STATED.items() if wanted <= keys), None)


def _load(path: Path, kind: Any, advice: str) -> Any:
    """What a JSON file holds, as a type."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else str(first["msg"])
    except OSError as error:
        reason = one_line(error)
    raise RequestError(f"cannot read {path}: {' '.join(reason.split())[:200]}; {advice}")


def read_analysis(of: str, path: Path) -> Analysed:
    """An analysis with its figures.

    Raises:
        RequestError: A file of it is missing or damaged.
    """
    stored = read(path)
    try:
        held = {end: stored.files[end].read_bytes() for end in ("svg", "png") if end in stored.files}
    except OSError as error:
        raise RequestError(f"cannot read the figures of {path}: {one_line(error)}; analyze again") from error
    return Analysed(of, stored, held)


def read_evaluation(name: str, folder: Path) -> EvaluationFolder:
    """A folder of `closedbook eval` that has ended.

    Raises:
        RequestError: A file of it is damaged, or it holds no answers.
    """
    advice = "evaluate again into another folder, or restore it"
    described: Described = _load(folder / "run.json", Described, advice)
    figures = _load(folder / "figures.json", dict[str, dict[str, Estimate]], advice)
    digest = digest_of(folder)
    if digest is None:
        raise RequestError(f"{folder} holds no answers (samples_*.jsonl); {advice}")
    results = sorted(folder.rglob("results_*.json"), key=lambda path: path.name)
    seconds, manifests = _results(results[-1]) if results else (None, {})
    return EvaluationFolder(name, folder, described, figures, digest, seconds, manifests)


def _results(path: Path) -> tuple[float | None, dict[str, str]]:
    """How long lm-eval took, and the manifest of each task, as far as its results say."""
    try:
        found = json.loads(path.read_bytes())
        seconds = float(found.get("total_evaluation_time_seconds", "nan"))
        stated = {task: of["metadata"]["closedbook"]["manifest"] for task, of in found.get("configs", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; restore it, or evaluate again") from error
    return seconds if math.isfinite(seconds) else None, {task: str(digest) for task, digest in stated.items()}


def _read_samples(name: str, folder: Path) -> SampleFolder:
    store = SampleStore(folder)
    head, questions = store.head(), store.read().values()
    return SampleFolder(
        name,
        folder,
        head,
        sum(question.drawn for question in questions),
        sum(len(question.samples) for question in questions),
        sum(question.failed for question in questions),
    )


def _read_likelihood(name: str, folder: Path) -> LikelihoodFolder:
    store = MassStore(folder)
    return LikelihoodFolder(name, folder, store.head(), len(store.read()))


def _read_training(name: str, folder: Path) -> TrainingFolder:
    path = folder / PROVENANCE_FILE
    try:
        provenance = from_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; copy the run again") from error
    lines = list(read_jsonl(folder / "log.jsonl", _step, "the log that training wrote"))
    seconds = [line.seconds for line in lines if line.seconds is not None]
    tokens = [line.tokens for line in lines if line.tokens is not None]
    last = max((line.step for line in lines), default=provenance.step)
    took, read = sum(seconds) if seconds else None, int(tokens[-1]) if tokens else None
    return TrainingFolder(name, folder, provenance, last, took, read)


class _Step(NamedTuple):
    step: int
    seconds: float | None
    tokens: float | None


def _step(line: Any) -> _Step:
    """The figures of a step that a report needs."""
    found = _Step(line["step"], line.get("seconds"), line.get("num_tokens"))
    if not isinstance(found.step, int) or not all(isinstance(x, int | float | None) for x in found):
        raise ValueError("its step, seconds or num_tokens are no numbers")
    return found


@dataclass(frozen=True, slots=True)
class _Written:
    judge: dict[str, Any]
    labels: dict[str, Any]
    figures: dict[str, dict[str, Estimate]]


def _read_calibration(path: Path) -> Calibrated:
    found: _Written = _load(path, _Written, "make one with `closedbook judge calibrate`")
    return Calibrated(shown_path(path), found.judge, found.labels, found.figures)


def _read_stages(paths: Iterable[Path]) -> dict[Path, StageRecord]:
    """Stages by the folders that they wrote, resolved; the first one where several wrote one."""
    made: dict[Path, StageRecord] = {}
    for path in paths:
        stage: StageRecord = _load(path, StageRecord, "run the stage again")
        for folder in _written(stage.command):
            made.setdefault(folder, stage)
    return made


def _written(command: str) -> list[Path]:
    """The folders that a command line says it writes, resolved; none of a line that is no command's."""
    try:
        words = shlex.split(command)
        made = [second for first, second in pairwise(words) if first == "--out"]
        stated = (word.partition("=")[2] for word in words if word.startswith("output_dir="))
        return [Path(name).resolve() for name in (*made, *(str(yaml.safe_load(value)) for value in stated))]
    except (ValueError, yaml.YAMLError):
        return []
