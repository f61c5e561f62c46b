"""`closedbook judge attack`: how often a judge takes an answer for right that only tries to look so.

The answers lie in attacks.jsonl beside this module: ten families over questions of `worldfacts`, none of them right.
They are published so that a judge can be tested on them, and so a judge may also be trained on them: a low rate shows
that a judge resists these, not that it resists everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from closedbook.harness.files import read_jsonl
from closedbook.harness.judge import Grade, Judge, JudgeFailure, Tally, Triple
from closedbook.harness.statistics import Estimate, wilson

ATTACKS = Path(__file__).parent / "attacks.jsonl"


@dataclass(frozen=True, slots=True)
class Attack:
    """A wrong answer, dressed up."""

    family: str
    triple: Triple


@dataclass(frozen=True, slots=True)
class AttackReport:
    """False positive rates by family, the attacks that got through, and the judgements, counted."""

    figures: dict[str, dict[str, Estimate]]
    passed: tuple[Attack, ...]
    tally: Tally


def _attack(row: Any) -> Attack:
    return Attack(row["family"], Triple.from_row(row))


@cache
def attacks() -> tuple[Attack, ...]:
    """The published attacks."""
    return tuple(read_jsonl(ATTACKS, _attack, "attacks"))


def attack(judge: Judge, chosen: Sequence[Attack] | None = None) -> AttackReport:
    """Have the judge grade all attacks.

    Raises:
        RequestError: A judge that is wrongly set up.
        WorkError: The judge cannot be reached.
    """
    every = attacks() if chosen is None else chosen
    judgements = judge.grade((tried.triple for tried in every), preflight=True)
    judged = [(a, j) for a, j in zip(every, judgements, strict=True) if not isinstance(j, JudgeFailure)]
    figures = {"overall": {"fpr": _rate([j for _, j in judged])}}
    for family in sorted({a.family for a in every}):
        figures[family] = {"fpr": _rate([j for a, j in judged if a.family == family])}
    return AttackReport(figures, tuple(a for a, j in judged if j is Grade.CORRECT), Tally.of(judgements))


def _rate(grades: Sequence[object]) -> Estimate:
    return wilson(sum(grade is Grade.CORRECT for grade in grades), len(grades))
