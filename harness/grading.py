"""`closedbook judge grade`: grade answers that stand in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError
from closedbook.harness.files import write_text
from closedbook.harness.judge import Grade, JudgeFailure, Judgement, Triple, judge_settings, make_judge
from closedbook.harness.statistics import Estimate, wilson


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Lines of question, golds and answer.

    Raises:
        RequestError: The file cannot be read, or a line is not of that form; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            well_formed = (
                isinstance(row["question"], str)
                and isinstance(row["answer"], str)
                and all(isinstance(gold, str) for gold in row["golds"])
                and not isinstance(row["golds"], str)
            )
        except (ValueError, KeyError, TypeError):
            well_formed = False
        if not well_formed:
            raise RequestError(f"{path}, line {number}: needs question and answer as text and golds as a list of texts")
        rows.append(row)
    return rows


def _graded(row: dict[str, Any], judgement: Judgement) -> dict[str, Any]:
    if isinstance(judgement, JudgeFailure):
        return row | {"grade": None, "judge_failure": judgement.reason, "detail": judgement.detail}
    return row | {"grade": str(judgement)}


def grade_file(path: Path, out: Path) -> dict[str, Estimate]:
    """Grade every line of a file with the configured judge and write the graded lines.

    Returns:
        Share of each grade among the graded answers, and the share of failures among all.

    Raises:
        RequestError: A malformed line, or a judge that is wrongly set up.
        WorkError: The judge cannot be reached, or the file cannot be written.
    """
    settings = judge_settings()
    if settings is None:
        raise RequestError("no judge is configured; set CLOSEDBOOK_JUDGE or pass --judge")
    rows = read_answers(path)
    triples = [Triple(row["question"], tuple(row["golds"]), row["answer"]) for row in rows]
    judgements = make_judge(settings).grade(triples)
    graded = (_graded(row, judgement) for row, judgement in zip(rows, judgements, strict=True))
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in graded))
    known = [judgement for judgement in judgements if isinstance(judgement, Grade)]
    figures = {str(grade): wilson(known.count(grade), len(known)) for grade in Grade}
    return figures | {"judge_failed": wilson(len(judgements) - len(known), len(judgements))}
