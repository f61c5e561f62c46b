"""`closedbook judge grade`: grade answers that stand in a file, line by line, in memory that does not grow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import tee
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError
from closedbook.harness.files import read_jsonl, written_aside
from closedbook.harness.judge import Grade, Judge, JudgeFailure, Judgement, Tally, Triple
from closedbook.harness.statistics import Estimate, wilson

WANTED = "question and answer as text and golds as a list of texts"


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], Triple]]:
    """Rows, each with what is judged of it.

    Raises:
        RequestError: The file cannot be read, or a line cannot be graded.
    """
    return read_jsonl(path, lambda row: (row, Triple.from_row(row)), WANTED)


def _graded(row: dict[str, Any], judgement: Judgement, decided_by: str) -> dict[str, Any]:
    if isinstance(judgement, JudgeFailure):
        return row | {"grade": None, "judge_failure": judgement.reason, "detail": judgement.detail}
    return row | {"grade": str(judgement), "decided_by": decided_by}


def grade_file(path: Path, out: Path, judge: Judge) -> tuple[dict[str, Estimate], Tally]:
    """Grade every line of a file and write the graded lines.

    Returns:
        Share of each grade among the graded answers and of failures among all, and the judgements, counted.

    Raises:
        RequestError: No line, a malformed line, `out` is the input, or a judge that is wrongly set up.
        WorkError: The judge cannot be reached, or the file cannot be written.
    """
    if out.resolve() == path.resolve():
        raise RequestError(f"{out} is the input; name another file for the graded lines")
    # read beforehand where it can be read twice: a malformed line is found before anything is spent
    total = sum(1 for _ in read_rows(path)) if path.is_file() or not path.exists() else None
    if total == 0:
        raise RequestError(f"{path} holds no answers; give {WANTED}")
    tally = Tally()
    with written_aside(out) as lines:
        rows, asked = tee(read_rows(path))
        judgements = judge.stream((triple for _, triple in asked), total, preflight=True)
        for (row, triple), judgement in zip(rows, judgements, strict=True):
            lines.write(json.dumps(_graded(row, judgement, judge.decided_by(triple))) + "\n")
            tally.add(judgement)
    figures = {str(grade): wilson(tally.grades[grade], tally.graded) for grade in Grade}
    return figures | {"judge_failed": wilson(tally.failed, tally.graded + tally.failed)}, tally
