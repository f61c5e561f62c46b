"""Decisions: which one drops a question, and what is written of it."""

from __future__ import annotations

import json

from closedbook.harness.dedup import Decision, Verdict, compare, strongest
from closedbook.harness.dedup.decisions import to_json
from closedbook.harness.questions import make_question


def decision(candidate: str, verdict: Verdict, score: float) -> Decision:
    return Decision("q", candidate, verdict, "rule", score, "some-1")


def test_a_ledger_has_one_line_a_pair_and_is_written_as_json() -> None:
    one, other = (
        make_question("nq", "who slew smolt", ["Osric"]),
        make_question("nq", "smolt was slain by whom", ["Osric"]),
    )
    (line,) = compare([one], [other])
    written = json.loads(to_json(line))
    assert written["verdict"] == line.verdict.value
    assert Decision(**written | {"verdict": Verdict(written["verdict"])}) == line


def test_the_strongest_decision_has_the_highest_score_and_then_the_smallest_id() -> None:
    made = [
        decision("c", Verdict.CONTAINED, 0.9),
        decision("b", Verdict.CONTAINED, 0.9),
        decision("a", Verdict.UNSURE, 0.5),
    ]
    assert strongest(made) == strongest(made[::-1]) == {"q": made[1]}


def test_only_what_is_not_contained_stays() -> None:
    assert strongest([decision("a", Verdict.NOT_CONTAINED, 1.0)]) == {}
    assert decision("a", Verdict.UNSURE, 0.1).drops


def test_a_decision_turned_round_tells_of_the_candidate() -> None:
    turned = decision("a", Verdict.CONTAINED, 0.5).reversed()
    assert (turned.question, turned.candidate, turned.verdict) == ("a", "q", Verdict.CONTAINED)
