"""`closedbook demo`: the main job, small and offline: a real model answers real questions and is graded.

The small model comes from a package, the questions are `worldfacts`, which ships with closedbook. Where CLOSEDBOOK_DATA
names a mirror of the benchmarks, 200 questions of PopQA follow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from closedbook.harness.evaluate import Evaluation, Sample, evaluate
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.small_model import small_model_dir

POPQA_QUESTIONS = 200


def run_demo(out: Path, limit: int | None = None) -> list[Evaluation]:
    """Evaluate the small model, on worldfacts and, where there is a mirror, on PopQA; `limit` asks fewer questions.

    Raises:
        WorkError: The small model cannot be prepared, or the evaluation failed.
    """
    model = str(small_model_dir())
    judge = JudgeSettings(kind="rules")
    done = [evaluate(model, ["worldfacts_dedup"], judge=judge, limit=limit, out=out / "worldfacts")]
    if os.environ.get("CLOSEDBOOK_DATA"):
        done.append(evaluate(model, ["popqa_dedup"], judge=judge, limit=limit or POPQA_QUESTIONS, out=out / "popqa"))
    return done


def examples(samples: Sequence[Sample], each: int = 4) -> list[Sample]:
    """A few right and a few wrong answers, the first of each."""
    right = islice((sample for sample in samples if sample.correct), each)
    wrong = islice((sample for sample in samples if sample.correct is False), each)
    return [*right, *wrong]
