"""Decisions: which one drops a question."""

from __future__ import annotations

from closedbook.harness.dedup import Decision, Verdict, strongest


def decision(candidate: str, verdict: Verdict, score: float) -> Decision:
    return Decision("q", candidate, verdict, "rule", score, "some-1")


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
