"""`closedbook judge grade`: grade answers that stand in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError
from closedbook.harness.files import read_jsonl, write_text
from closedbook.harness.judge import Grade, Judge, JudgeFailure, Judgement, Triple
from closedbook.harness.statistics import Estimate, wilson

WANTED = "question and answer as text and golds as a list of texts"


def _checked(row: Any) -> dict[str, Any]:
    """The row, if it has what can be graded."""
    match row:
        case {"question": str(), "answer": str(), "golds": [_, *_] as golds} if all(isinstance(g, str) for g in golds):
            return dict(row)
    raise ValueError("it cannot be graded")


def _graded(row: dict[str, Any], judgement: Judgement) -> dict[str, Any]:
    if isinstance(judgement, JudgeFailure):
        return row | {"grade": None, "judge_failure": judgement.reason, "detail": judgement.detail}
    return row | {"grade": str(judgement)}


def grade_file(path: Path, out: Path, judge: Judge) -> dict[str, Estimate]:
    """Grade every line of a file and write the graded lines.

    Returns:
        Share of each grade among the graded answers, and the share of failures among all.

    Raises:
        RequestError: No line, a malformed line, `out` is the input, or a judge that is wrongly set up.
        WorkError: The judge cannot be reached, or the file cannot be written.
    """
    if out.resolve() == path.resolve():
        raise RequestError(f"{out} is the input; name another file for the graded lines")
    rows = list(read_jsonl(path, _checked, WANTED))
    if not rows:
        raise RequestError(f"{path} holds no answers; give {WANTED}")
    judge.preflight()
    judgements = judge.grade([Triple(row["question"], tuple(row["golds"]), row["answer"]) for row in rows])
    graded = (_graded(row, judgement) for row, judgement in zip(rows, judgements, strict=True))
    write_text(out, "".join(json.dumps(row) + "\n" for row in graded))
    known = [judgement for judgement in judgements if isinstance(judgement, Grade)]
    figures = {str(grade): wilson(known.count(grade), len(known)) for grade in Grade}
    return figures | {"judge_failed": wilson(len(judgements) - len(known), len(judgements))}
