"""`closedbook judge calibrate`: a judge against people, and accuracy corrected for the errors that were found.

Labels are rows of question, golds, answer and correct (what people said), in JSON Lines or parquet; `system` says who
answered, where it is known. What the judge could not grade is counted and left out. What people call wrong and the
judge calls not attempted is no error: both say that the answer is not right.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import read_jsonl, write_text
from closedbook.harness.judge import Grade, Judge, JudgeFailure, Tally, Triple
from closedbook.harness.statistics import Confusion, Estimate

WANTED = "question and answer as text, golds as a list of texts, correct as true or false, and system if known"
LENGTHS = ((5, "1-5 words"), (20, "6-20 words"), (50, "21-50 words"), (math.inf, "over 50 words"))


@dataclass(frozen=True, slots=True)
class Label:
    """What people said of an answer."""

    triple: Triple
    correct: bool
    system: str = ""

    @property
    def length(self) -> str:
        """The length of the answer, as a group to report by."""
        count = len(self.triple.answer.split())
        return next(name for longest, name in LENGTHS if count <= longest)


@dataclass(frozen=True)
class Calibration:
    """How a judge compares with people.

    Attributes:
        judge: Identity of the judge.
        labels: Name and digest of the file of labels, and the systems that were chosen.
        tables: Confusion by group: "overall", "system: NAME", "length: RANGE".
        tally: The judgements, counted.
    """

    judge: Mapping[str, str]
    labels: Mapping[str, Any]
    tables: Mapping[str, Confusion]
    tally: Tally

    def figures(self) -> dict[str, dict[str, Estimate]]:
        """Accuracy, fpr, fnr and kappa of each group."""
        return {group: table.figures() for group, table in self.tables.items()}


def _label(row: Any) -> Label:
    triple = Triple.from_row(row)
    if row.get("correct") is None:
        raise ValueError("it has no correct, what people said")
    if not isinstance(row["correct"], bool):
        raise ValueError("correct is neither true nor false")
    return Label(triple, row["correct"], str(row.get("system") or ""))


def read_labels(path: Path) -> Iterator[Label]:
    """Labels from JSON Lines, or from a file named *.parquet.

    Raises:
        RequestError: The file cannot be read, or a row is no label.
    """
    if path.suffix != ".parquet":
        yield from read_jsonl(path, _label, WANTED)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        wanted = [
            name for name in ("question", "golds", "answer", "correct", "system") if name in file.schema_arrow.names
        ]
        rows = file.read(columns=wanted).to_pylist()
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; name a parquet file with {WANTED}") from error
    for number, row in enumerate(rows, start=1):
        try:
            yield _label(row)
        except ValueError as error:
            raise RequestError(f"{path}, row {number}: {error}; give {WANTED}") from error


def chosen_labels(path: Path, systems: Sequence[str] = (), limit: int | None = None) -> list[Label]:
    """Labels of the systems, or all of them; `limit` of them, spread evenly over the file.

    Raises:
        RequestError: There are none.
    """
    if not path.is_file():
        raise RequestError(f"cannot read {path}: there is no such file; give {WANTED}")
    every = list(read_labels(path))
    labels = [label for label in every if not systems or label.system in systems]
    if not labels:
        there = ", ".join(sorted({label.system for label in every} - {""}))
        of = f" of {', '.join(systems)}; there are {there or 'no systems in it'}" if every else f"; give {WANTED}"
        raise RequestError(f"{path} holds no labels{of}")
    return [labels[n * len(labels) // limit] for n in range(limit)] if limit and limit < len(labels) else labels


def calibrate(path: Path, judge: Judge, systems: Sequence[str] = (), limit: int | None = None) -> Calibration:
    """Have the judge grade labelled answers and compare.

    Args:
        path: The labels.
        judge: The judge.
        systems: Take answers of these only.
        limit: Take that many, spread evenly over the file.

    Raises:
        RequestError: No labels, or a judge that is wrongly set up.
        WorkError: The judge cannot be reached.
    """
    labels = chosen_labels(path, systems, limit)
    judgements = judge.grade((label.triple for label in labels), preflight=True)
    cells: dict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for label, judgement in zip(labels, judgements, strict=True):
        if not isinstance(judgement, JudgeFailure):
            for group in ("overall", f"system: {label.system}", f"length: {label.length}"):
                cells[group][judgement is Grade.CORRECT, label.correct] += 1
    groups = ["overall", *(f"system: {name}" for name in sorted({label.system for label in labels} - {""}))]
    groups += [f"length: {name}" for _, name in LENGTHS]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    described = {"file": path.name, "sha256": digest, "systems": sorted(systems), "answers": len(labels)}
    tables = {group: _table(cells[group]) for group in groups if group in cells or group == "overall"}
    return Calibration(dict(judge.identity), described, tables, Tally.of(judgements))


def _table(cells: Counter[tuple[bool, bool]]) -> Confusion:
    """From counts by what the judge said and what people said."""
    return Confusion(
        true_positive=cells[True, True],
        false_positive=cells[True, False],
        true_negative=cells[False, False],
        false_negative=cells[False, True],
    )


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON, whole or not at all."""
    written = {
        "judge": dict(calibration.judge),
        "labels": dict(calibration.labels),
        "tables": {group: asdict(table) for group, table in calibration.tables.items()},
        "failed": calibration.tally.failed,
        "figures": {group: {n: asdict(e) for n, e in f.items()} for group, f in calibration.figures().items()},
    }
    write_text(path, json.dumps(written, indent=2) + "\n")


def read_calibration(path: Path, judge: Judge) -> Confusion:
    """The overall table of a saved calibration of this judge.

    Raises:
        RequestError: No such file, no calibration, or another judge's.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        identity, table = saved["judge"], Confusion(**saved["tables"]["overall"])
        if any(not isinstance(count, int) or count < 0 for count in asdict(table).values()):
            raise ValueError("its counts are no counts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path} is no calibration ({one_line(error)}); make one with `closedbook judge calibrate`"
        ) from error
    if identity != dict(judge.identity):
        differ = sorted(k for k in {*identity, *judge.identity} if identity.get(k) != judge.identity.get(k))
        raise RequestError(
            f"{path} is the calibration of another judge (they differ in {', '.join(differ)}); calibrate this one"
        )
    return table
