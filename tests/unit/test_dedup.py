"""Deduplication: each rule on the pair it is for, and the candidates that reach the rules."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from closedbook.harness import dedup
from closedbook.harness.dedup import Decision, Verdict, candidates, decide_by_rules, facts, ledger, strongest
from closedbook.harness.questions import Question, make_question


def ask(question: str, *answers: str, benchmark: str = "nq", metadata: Mapping[str, str] | None = None) -> Question:
    return make_question(benchmark, question, answers, metadata)


def fact(subject: str, relation: str, object_: str, question: str = "What is it?") -> Question:
    row = {"subject": subject, "relation": relation, "object": object_}
    return ask(question, object_, benchmark="popqa", metadata=row)


def rule(question: Question, candidate: Question) -> tuple[str, Verdict]:
    decision = decide_by_rules(question, candidate)
    return decision.rule, decision.verdict


# --- the rules ---


def test_the_same_words_with_a_common_answer_are_contained() -> None:
    assert rule(ask("Who, slew Smolt?", "Osric"), ask("who slew smolt", "Pan", "osric")) == ("equal", Verdict.CONTAINED)


def test_the_same_words_with_other_answers_are_two_things_of_one_name() -> None:
    assert rule(ask("What is Avon?", "river"), ask("what is avon", "town")) == ("homonym", Verdict.NOT_CONTAINED)


def test_similar_words_with_a_common_answer_are_a_paraphrase() -> None:
    pair = ask("when did the bridge of tharn open", "1932"), ask("in what year was tharn bridge opened", "1932")
    assert rule(*pair) == ("paraphrase", Verdict.CONTAINED)
    assert decide_by_rules(*pair).score == 1.0


def test_answers_agree_where_one_is_a_part_of_the_other() -> None:
    pair = ask("when did tharn bridge open", "July 1932"), ask("date that tharn bridge opened", "6 July 1932")
    assert rule(*pair) == ("paraphrase", Verdict.CONTAINED)


def test_a_bare_number_is_no_part_of_another_answer() -> None:
    pair = ask("when did tharn bridge open", "1932"), ask("date that tharn bridge opened", "6 July 1932")
    assert rule(*pair)[1] is Verdict.NOT_CONTAINED


def test_one_letter_answers_need_word_boundaries_to_agree() -> None:
    pair = ask("symbol of the element brillium", "B"), ask("name of the element brillium symbol", "Brillium B")
    assert rule(*pair)[0] != "paraphrase"
    assert rule(ask("symbol of brillium", "B"), ask("symbol for brillium", "B"))[0] == "paraphrase"


def test_a_question_turned_round_is_a_reversal() -> None:
    pair = (
        ask("what is the capital of Brobdingnag", "Lorbrulgrud"),
        ask("Lorbrulgrud is the capital of what", "Brobdingnag"),
    )
    assert rule(*pair) == ("reversal", Verdict.CONTAINED)


def test_a_reversal_shares_a_word_beside_the_answers() -> None:
    pair = ask("who ruled Brobdingnag", "Osric"), ask("Osric fled where", "Brobdingnag")
    assert rule(*pair) == ("answer", Verdict.NOT_CONTAINED)


def test_a_common_answer_to_other_words_is_not_contained() -> None:
    assert rule(ask("who slew smolt", "Osric"), ask("who built tharn", "Osric")) == (
        "similarity",
        Verdict.NOT_CONTAINED,
    )


def test_similar_words_with_other_answers_are_not_contained() -> None:
    assert rule(ask("who slew smolt", "Osric"), ask("who slew smilt", "Pan")) == ("answer", Verdict.NOT_CONTAINED)


def test_capital_and_capital_of_state_one_fact_in_reverse() -> None:
    forward, backward = fact("s/1", "capital", "s/2"), fact("s/2", "capital of", "s/1", "Of what is it the capital?")
    assert facts(forward) == facts(backward) == {("popqa", "s/1", "capital", "s/2")}
    assert rule(forward, backward) == ("fact", Verdict.CONTAINED)


def test_structured_facts_decide_before_words_do() -> None:
    assert rule(fact("s/1", "genre", "o/1"), fact("s/2", "genre", "o/1")) == ("fact", Verdict.NOT_CONTAINED)
    assert rule(fact("s/1", "genre", "o/1"), fact("s/1", "genre", "o/1", "Else?")) == ("fact", Verdict.CONTAINED)


def test_structured_facts_of_two_benchmarks_are_not_compared() -> None:
    row = {"subject": "Brobdingnag", "relation": "capital", "object": "Lorbrulgrud"}
    one, other = (ask("What is it?", "Lorbrulgrud", benchmark=b, metadata=row) for b in ("popqa", "worldfacts"))
    assert rule(one, other) == ("equal", Verdict.CONTAINED)


@pytest.mark.parametrize(
    "row", [{}, {"subject": "s"}, {"subject": "s", "relation": "r"}, {"relation": "r", "object": "o"}]
)
def test_a_row_without_all_three_parts_states_no_fact(row: dict[str, str]) -> None:
    assert facts(ask("Who?", "x", benchmark="popqa", metadata=row)) == frozenset()


def test_a_question_of_an_unknown_benchmark_is_decided_too() -> None:
    row = {"subject": "s", "relation": "r", "object": "o"}
    assert facts(ask("Who?", "x", benchmark="ours", metadata=row)) == {("ours", "s", "r", "o")}


def test_questions_without_content_words_are_alike() -> None:
    assert decide_by_rules(ask("who is it", "Pan"), ask("what was that", "Pan")).score == 1.0


# --- candidates ---


def numbered(count: int) -> list[Question]:
    return [ask(f"who guards gate{number}", f"guard{number}") for number in range(count)]


def test_a_question_is_no_candidate_of_itself() -> None:
    assert list(candidates(numbered(1), numbered(1))) == []


def test_questions_that_share_nothing_are_no_candidates() -> None:
    assert list(candidates([ask("who slew smolt", "Osric")], [ask("what is avon", "river")])) == []


def test_a_pool_without_a_word_gives_no_lexical_candidates() -> None:
    assert list(candidates([ask("who slew smolt", "Osric")], [])) == []
    assert list(candidates([ask("who slew smolt", "Osric")], [ask("who is it", "#")])) == []


def test_a_reversal_is_found_through_its_answer() -> None:
    pair = ask("who ruled Brobdingnag", "Osric"), ask("Osric fled where", "Brobdingnag")
    assert list(candidates(pair[:1], pair[1:])) == [pair]


def test_a_question_of_the_same_words_is_found_behind_any_number_of_others() -> None:
    pool = [ask(f"who guards gate {'gate ' * number}", f"guard{number}") for number in range(1, 99)]
    twin = ask("who, guards gate", "nobody")
    found = [candidate for _, candidate in candidates([ask("who guards gate", "guard")], [*pool, twin])]
    assert twin in found and len(found) <= dedup.NEIGHBOURS + 1


def test_a_question_of_the_same_fact_is_found_without_a_common_word() -> None:
    forward, backward = fact("s/1", "capital", "s/2", "Chief town?"), fact("s/2", "capital of", "s/1", "Which realm?")
    assert list(candidates([forward], [backward])) == [(forward, backward)]


def test_of_equal_scores_the_first_neighbours_are_taken() -> None:
    pool = sorted(numbered(99), key=lambda question: question.id)
    found = [candidate for _, candidate in candidates([ask("guards", "x")], pool[::-1])]
    assert found == pool[: dedup.NEIGHBOURS]


def test_the_highest_scores_come_first_in_the_order_of_the_pool_and_zeros_never() -> None:
    assert dedup._highest(np.tile(np.array([1, 2], dtype=np.float32), 500)) == list(range(1, 40, 2))
    assert dedup._highest(np.array([0.0, 2.0, 1.0, 2.0], dtype=np.float32)) == [1, 3, 2]


def test_a_ledger_has_one_line_a_pair_and_is_written_as_json() -> None:
    (line,) = ledger([ask("who slew smolt", "Osric")], [ask("smolt was slain by whom", "Osric")])
    written = json.loads(dedup.to_json(line))
    assert written["verdict"] == line.verdict.value
    assert Decision(**written | {"verdict": Verdict(written["verdict"])}) == line


# --- the decision that drops ---


def decision(candidate: str, verdict: Verdict, score: float) -> Decision:
    return Decision("q", candidate, verdict, "rule", score)


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
