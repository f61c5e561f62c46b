"""`closedbook judge calibrate`: a judge against people, and accuracy corrected for the errors that were found.

Labels are rows of question, golds, answer and correct (what people said), in JSON Lines or parquet; `system` says who
answered, where it is known. What the judge could not grade is counted and left out. What people call wrong and the
judge calls not attempted is no error: both say that the answer is not right.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import read_jsonl, write_text
from closedbook.harness.judge import Grade, Judge, JudgeFailure, Triple
from closedbook.harness.judge.verdicts import FailureCount
from closedbook.harness.statistics import Confusion, Estimate

WANTED = "question and answer as text, golds as a list of texts, correct as true or false, and system if known"
LENGTHS = ((5, "1-5 words"), (20, "6-20 words"), (50, "21-50 words"))


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
        return next((name for longest, name in LENGTHS if count <= longest), "over 50 words")


@dataclass(frozen=True)
class Calibration:
    """How a judge compares with people.

    Attributes:
        judge: Identity of the judge.
        labels: Name and digest of the file of labels, and the systems that were chosen.
        tables: Confusion by group: "overall", "system: NAME", "length: RANGE".
        failures: Answers that the judge could not grade.
    """

    judge: Mapping[str, str]
    labels: Mapping[str, Any]
    tables: Mapping[str, Confusion]
    failures: FailureCount

    def figures(self) -> dict[str, dict[str, Estimate]]:
        """Accuracy, fpr, fnr and kappa of each group."""
        return {group: table.figures() for group, table in self.tables.items()}


def _label(row: Any) -> Label:
    match row:
        case {"question": str(question), "answer": str(answer), "golds": [_, *_] as golds, "correct": bool(correct)}:
            if all(isinstance(gold, str) for gold in golds):
                return Label(Triple(question, tuple(golds), answer), correct, str(row.get("system") or ""))
    raise ValueError("it is no label")


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
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; name a parquet file with {WANTED}") from error
    for number, row in enumerate(rows, start=1):
        try:
            yield _label(row)
        except ValueError as error:
            raise RequestError(f"{path}, row {number}: {error}; give {WANTED}") from error


def calibrate(path: Path, judge: Judge, systems: Sequence[str] = (), limit: int | None = None) -> Calibration:
    """Have the judge grade labelled answers and compare.

    Args:
        path: The labels.
        judge: The judge.
        systems: Take answers of these only.
        limit: Take that many of each file, spread evenly over it.

    Raises:
        RequestError: No labels, or a judge that is wrongly set up.
        WorkError: The judge cannot be reached.
    """
    labels = [label for label in read_labels(path) if not systems or label.system in systems]
    if not labels:
        of = f" of {', '.join(systems)}" if systems else ""
        raise RequestError(f"{path} holds no labels{of}; give {WANTED}")
    if limit and limit < len(labels):
        labels = [labels[n * len(labels) // limit] for n in range(limit)]
    judge.preflight()
    judgements = judge.grade(label.triple for label in labels)
    failures = FailureCount()
    cells: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for label, judgement in zip(labels, judgements, strict=True):
        failures.add(judgement)
        if isinstance(judgement, JudgeFailure):
            continue
        groups = ["overall", f"length: {label.length}", *([f"system: {label.system}"] if label.system else [])]
        for group in groups:
            cells[group].append((judgement is Grade.CORRECT, label.correct))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    described = {"file": path.name, "sha256": digest, "systems": sorted(systems), "answers": len(labels)}
    tables = {group: _table(cells[group]) for group in sorted(cells, key=_order)}
    return Calibration(dict(judge.identity), described, tables, failures)


def _order(group: str) -> tuple[bool, bool, str]:
    """Overall first, then systems, then lengths as they grow."""
    lengths = [name for _, name in LENGTHS]
    kind, _, name = group.partition(": ")
    return kind != "overall", kind == "length", f"{lengths.index(name) if name in lengths else 9}{name}"


def _table(pairs: Iterable[tuple[bool, bool]]) -> Confusion:
    every = list(pairs)
    return Confusion(
        true_positive=every.count((True, True)),
        false_positive=every.count((True, False)),
        true_negative=every.count((False, False)),
        false_negative=every.count((False, True)),
    )


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON, whole or not at all."""
    written = {
        "judge": dict(calibration.judge),
        "labels": dict(calibration.labels),
        "tables": {group: asdict(table) for group, table in calibration.tables.items()},
        "failed": calibration.failures.failed,
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
