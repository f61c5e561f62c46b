"""`closedbook dedup run`: which rows of somebody's own training set state a fact that our test questions ask for?

The test questions are indexed once, the training rows stream past them in chunks, on as many processes as there are
processors. Each finished chunk is saved in the folder `.parts` of the output folder, so that a run that was killed goes
on where it was, and ends with the same files, byte for byte.

What surprises: results of another request, or of the same file with other rows, are not replaced but refused.

    >>> request = Request("my_train.jsonl", against=("worldfacts",))
    >>> request.folder
    PosixPath('dedup-my_train')
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.dedup.candidates import RETRIEVAL
from closedbook.harness.dedup.own_matching import BY_WORDS
from closedbook.harness.dedup.own_parts import Part, Parts
from closedbook.harness.dedup.own_rows import (
    CHUNK,
    LONGEST,
    Columns,
    HubSet,
    choose_columns,
    chunks_of,
    fetched,
    file_digest,
    format_of,
    is_hub_id,
    require_readable,
    survey,
)
from closedbook.harness.dedup.own_workers import Work, compare
from closedbook.harness.dedup.rules import RULES
from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.files import alone, write_text, written_aside
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.questions import Question
from closedbook.harness.sources import benchmark, benchmarks

MATCHES, REPORT = "matches.jsonl", "report.json"
SPLITS = {"test": ("test",), "validation": ("validation",), "both": ("test", "validation")}

Compare = Callable[[Work, Sequence[int]], Generator[int, None, None]]
"""Compares and saves chunks of these numbers, and tells of each: `own_workers.compare`, or the one of a cluster."""

Watch = Callable[[int, int], None]
"""Told how many rows are compared, and of how many."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        train: A file, or the id of a data set on the hub.
        against: Names of benchmarks, or "all".
        split: Which of our questions: "test", "validation" or "both".
        question, answer, id: Columns; the usual names are tried where none is stated.
        hub_config, hub_split: Which part of a data set on the hub.
        out: Folder for the results.
    """

    train: str
    against: tuple[str, ...] = ("all",)
    split: str = "test"
    question: str | None = None
    answer: str | None = None
    id: str | None = None
    hub_config: str | None = None
    hub_split: str = "train"
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path(f"dedup-{Path(self.train).name if is_hub_id(self.train) else Path(self.train).stem}")

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks to compare with, each once.

        Raises:
            RequestError: One of them does not exist.
        """
        names = [name for name in dict.fromkeys(self.against) if name == "all" or benchmark(name)]
        return list(benchmarks()) if "all" in names else names


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: what report.json holds, and where the results lie."""

    report: Mapping[str, Any]
    folder: Path
    filtered: Path


class Tally:
    """Counts of a run, part by part; rows and test questions are counted once in each group they belong to."""

    def __init__(self, rows: int) -> None:
        self.counts: Counter[str] = Counter()
        self.marked = bytearray(rows + 1)  # 1 for a row that matches; rows are numbered from 1
        self._rows: Counter[tuple[str, str]] = Counter()
        self._questions: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def add(self, part: Part) -> None:
        """Count one part; a row lies in one part only."""
        self.counts.update(part.counts)
        groups: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for match in part.matches:
            self.marked[match.row] = 1
            named = (("overall", ""), ("benchmark", match.benchmark), ("rule", match.rule), ("verdict", match.verdict))
            for group in named:
                groups[group].add(match.row)
                self._questions[group].add(match.question)
        self._rows.update({group: len(found) for group, found in groups.items()})

    def group(self, kind: str, name: str = "") -> dict[str, int]:
        """Rows that match, and test questions that are contained, in one group."""
        return {"rows": self._rows[kind, name], "questions": len(self._questions[kind, name])}

    def groups(self, kind: str) -> dict[str, dict[str, int]]:
        """The same for all groups of a kind, by name."""
        return {name: self.group(kind, name) for of, name in sorted(self._rows) if of == kind}


def _inputs(train: Path, request: Request, columns: Columns) -> dict[str, Any]:
    """Everything that the results depend on."""
    hub = is_hub_id(request.train)
    named = HubSet(request.train, request.hub_config, request.hub_split).named if hub else train.name
    return {
        "train": {"name": named, "sha256": file_digest(train), "columns": columns._asdict()},
        "against": {name: {"manifest": read_manifest(name).digest} for name in request.benchmarks},
        "split": request.split,
        "retrieval": RETRIEVAL,
        "decider": RULES,
        "compared_characters": LONGEST,
        "by_words": BY_WORDS,
        "chunk": CHUNK,
    }


def _report(
    inputs: Mapping[str, Any], questions: Sequence[Question], tally: Tally, duplicate_ids: int
) -> dict[str, Any]:
    asked = Counter(question.benchmark for question in questions)
    counts, skipped = tally.counts, {}
    for kind in sorted(counts):
        if kind.startswith("skipped: "):
            skipped[kind.removeprefix("skipped: ")] = counts[kind]
    return {
        "train": inputs["train"],
        "decider": inputs["decider"],
        "split": inputs["split"],
        "rows": {
            "read": counts["read"],
            "skipped": skipped,
            "without_answers": counts["without answers"],
            "cut": counts["cut"],
            "duplicate_ids": duplicate_ids,
        },
        "contained": tally.group("overall"),
        "by_benchmark": {
            name: of | {"asked": asked[name]} | tally.group("benchmark", name) for name, of in inputs["against"].items()
        },
        "by_rule": tally.groups("rule"),
        "by_verdict": tally.groups("verdict"),
    }


def results(train: Path) -> tuple[str, str, str]:
    """Names of the files that a run writes, in the order in which they appear: filtered rows, matches, report."""
    return f"filtered{train.suffix.lower()}", MATCHES, REPORT


def _train_file(request: Request, parts: Path) -> Path:
    if is_hub_id(request.train):
        return fetched(HubSet(request.train, request.hub_config, request.hub_split), parts)
    train = Path(request.train)
    require_readable(train)
    replaced = (folder / name for folder in (request.folder, parts) for name in results(train))
    if parts.resolve() in train.resolve().parents or any(path.exists() and path.samefile(train) for path in replaced):
        raise RequestError(f"{train} lies where the results go and would be lost; choose another --out")
    return train


def _require_same_request(folder: Path, train: Path, inputs: Mapping[str, Any], begun: bool) -> None:
    """Let results be replaced by those of the same rows, columns and benchmarks only; rules may have changed.

    Raises:
        RequestError: They are of another request, or, where no run has begun here, are none of ours.
    """
    *others, report = (folder / name for name in results(train))
    if not report.exists():
        if not begun and (found := next((path for path in others if path.exists()), None)):
            raise RequestError(f"{found} is there without a {REPORT} and would be replaced; choose another --out")
        return
    try:
        held = json.loads(report.read_text(encoding="utf-8"))
        same = all(held[name] == inputs[name] for name in ("train", "split"))
        same = same and set(held["by_benchmark"]) == set(inputs["against"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise RequestError(
            f"{folder} holds the results of another request or of other rows; choose another --out, or remove "
            f"{', '.join(results(train))} from it"
        )


def find_matches(request: Request, watch: Watch = lambda done, total: None, comparing: Compare = compare) -> Outcome:
    """Compare a training set with our questions and write report, matches and filtered rows.

    Args:
        request: What is asked for.
        watch: Told of the progress.
        comparing: Who compares: processes of this machine, unless stated.

    Raises:
        RequestError: The training set cannot be read, a name is wrong, or the folder cannot be written to.
        SourceError: A benchmark's source cannot be had.
        WorkError: A result cannot be written, or a worker was ended; what was compared is kept for the next run.
    """
    if request.split not in SPLITS:
        raise RequestError(f"--split is one of {', '.join(SPLITS)}, not {request.split!r}")
    parts = Parts(request.folder / ".parts")
    names, train = request.benchmarks, _train_file(request, parts.folder)
    columns = choose_columns(train, request.question, request.answer, request.id)
    inputs = _inputs(train, request, columns)
    _require_same_request(request.folder, train, inputs, parts.begun)
    seen = survey(train, columns)
    with alone(request.folder):
        parts.begin(json.dumps(inputs, indent=2) + "\n")
        questions = [q for name in names for split in SPLITS[request.split] for q in load_questions(name, split)]
        _compare(Work(train, columns, questions, parts), seen.rows, watch, comparing)
        if file_digest(train) != inputs["train"]["sha256"]:
            raise WorkError(f"{train} changed while it was read; run the same command again")
        return _write(
            request.folder, train, parts, seen.rows, lambda t: _report(inputs, questions, t, seen.duplicate_ids)
        )


def _compare(work: Work, rows: int, watch: Watch, comparing: Compare) -> None:
    """Compare the chunks that are not compared yet, and save them."""
    missing = [at for at in range(chunks_of(rows)) if not work.parts.path(at).is_file()]
    left = len(missing)
    watch(max(0, rows - left * CHUNK), rows)
    with closing(comparing(work, missing)) as finished:  # its processes end here, whatever happens
        for _ in finished:
            left -= 1
            watch(max(0, rows - left * CHUNK), rows)


def _write(folder: Path, train: Path, parts: Parts, rows: int, report: Callable[[Tally], dict[str, Any]]) -> Outcome:
    """Write the results beside the parts, then give them their names, the report last."""
    tally = Tally(rows)
    names = filtered, matches, last = results(train)
    with written_aside(parts.folder / matches) as lines:
        for part in parts.all(chunks_of(rows)):
            tally.add(part)
            lines.writelines(json.dumps(match._asdict()) + "\n" for match in part.matches)
    format_of(train).keep(train, parts.folder / filtered, tally.marked)
    whole = report(tally) | {"files": {"matches": matches, "filtered": filtered}}
    write_text(parts.folder / last, json.dumps(whole, indent=2) + "\n")
    for name in names:
        _move(parts.folder / name, folder / name)
    shutil.rmtree(parts.folder, ignore_errors=True)
    return Outcome(whole, folder, folder / filtered)


def _move(whole: Path, path: Path) -> None:
    try:
        whole.replace(path)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {one_line(error)}; choose another --out") from error
