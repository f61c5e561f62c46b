"""Candidates: what each retriever finds that the others miss, and that order changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from closedbook.harness.dedup import candidate_pairs
from closedbook.harness.dedup.candidates import (
    NEIGHBOURS,
    Retriever,
    common_answer,
    dense,
    exchanged_answers,
    highest,
    lexical,
    lexical_terms,
    pairs_found,
    retrievers,
    same_words,
)
from closedbook.harness.dedup.profiles import profile
from closedbook.harness.questions import Question, make_question


def ask(question: str, *answers: str, benchmark: str = "nq", metadata: Mapping[str, str] | None = None) -> Question:
    return make_question(benchmark, question, answers, metadata)


def found(retrieve: Retriever, query: Question) -> list[int]:
    (positions,) = retrieve([query])
    return list(positions)


def numbered(count: int) -> list[Question]:
    return [ask(f"who guards gate{number}", f"guard{number}") for number in range(count)]


def test_questions_of_the_same_words_are_found_whatever_their_answers() -> None:
    pool = [ask("who slew smilt", "Osric"), ask("Who, slew SMOLT?", "Pan"), ask("slew smolt who", "Osric")]
    assert found(same_words(pool), ask("who slew smolt", "Osric")) == [1]


def test_questions_of_the_same_fact_are_found_without_a_common_word() -> None:
    rows = [
        ("s/1", "capital", "s/2", "Chief town?"),
        ("s/2", "capital of", "s/1", "Which realm?"),
        ("s/3", "capital", "s/4", "Seat?"),
    ]
    forward, backward, other = (
        ask(text, object_, benchmark="popqa", metadata={"subject": subject, "relation": relation, "object": object_})
        for subject, relation, object_, text in rows
    )
    assert found(same_words([other, backward]), forward) == [1]


def test_a_common_answer_counts_beside_a_common_word_only() -> None:
    pool = [
        ask("who built the tower of tharn", "Osric Vane"),
        ask("who wrote the smolt songs", "Vane, Osric"),
        ask("where is the tower of tharn", "Laputa"),
        ask("when did tharn tower fall", "7"),
    ]
    assert found(common_answer(pool), ask("name the tharn tower builder", "Osric Vane")) == [0]
    assert found(common_answer(pool), ask("how many towers fell in tharn", "seven")) == [3]
    assert found(common_answer(pool), ask("who wrote smolt", "Vane")) == [1]


def test_a_word_that_many_questions_use_is_not_enough_beside_a_common_answer() -> None:
    pool = [ask("who won it", "Osric"), ask("who won the tharn", "Osric")]
    assert found(common_answer(pool), ask("when did tharn win", "Osric")) == [1]


def test_questions_for_another_name_are_found_by_a_common_answer_without_a_common_word() -> None:
    names = ("Snorl", "Grumbler")
    pool = [ask("by what name is the grumbler known", *names), ask("who fled tharn", *names)]
    assert found(common_answer(pool), ask("what other name has the Snorl", *names)) == [0]


def test_all_that_share_an_answer_are_found_however_many_they_are() -> None:
    pool = [ask(f"tharn gate{number}", "Osric") for number in range(99)]
    assert found(common_answer(pool), ask("tharn", "osric")) == list(range(99))


def test_dates_that_may_be_one_are_a_common_answer() -> None:
    pool = [
        ask("when did tharn fall", "June 22, 2001"),
        ask("when did tharn rise", "22 June"),
        ask("when did tharn sink", "2002"),
    ]
    assert found(common_answer(pool), ask("in what year did tharn fall", "2001")) == [0]
    assert found(common_answer(pool), ask("what day did tharn rise", "June 22")) == [1]
    assert found(common_answer(pool), ask("what day did tharn rise", "May 22")) == []


def test_a_part_of_an_answer_counts_in_a_short_list_and_a_value_in_any() -> None:
    pool = [
        ask("who built tharn", "Osric Vane", *(f"Pan{number}" for number in range(7))),
        ask("who built tharn first", "Osric Vane", *(f"Pan{number}" for number in range(8))),
        ask("when was tharn built", "June 22, 2001", *(f"Pan{number}" for number in range(8))),
    ]
    assert found(common_answer(pool), ask("builder of tharn", "Vane")) == [0]
    assert found(common_answer(pool), ask("year of tharn", "2001")) == [2]


def test_a_reversal_is_found_through_its_answers() -> None:
    pool = [ask("Osric fled where", "Brobdingnag"), ask("Osric fled when", "Tuesday"), ask("who fled", "Brobdingnag")]
    assert found(exchanged_answers(pool), ask("who ruled Brobdingnag", "Osric")) == [0]


def test_the_nearest_by_words_come_first_and_no_more_than_asked_for() -> None:
    pool = [ask("who guards the gate of tharn", "a"), ask("who guards the gate", "b"), ask("who slew smolt", "c")]
    assert found(lexical(pool, 2), ask("who guards the gate of tharn today", "x")) == [0, 1]
    assert found(lexical(pool, 1), ask("who guards the gate of tharn today", "x")) == [0]


def test_of_the_answers_the_five_shortest_are_words_to_search_by() -> None:
    answers = ["zurg", "vrax", "brobdingnag", "lilliput", "laputan", "gorlim", "tharn", "harrow"]
    assert lexical_terms(profile(ask("who is it", *answers))) == ["gorlim", "harrow", "tharn", "vrax", "zurg"]
    alike = ["smolk", "smold", "smolp", "smolb", "smolt", "smolg", "smolv"]
    assert lexical_terms(profile(ask("who is it", *alike))) == ["smolb", "smold", "smolg", "smolk", "smolp"]


def test_a_search_by_words_writes_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert found(lexical(numbered(3)), ask("gate1", "x")) == [1]
    assert capsys.readouterr() == ("", "")


def test_a_pool_without_a_word_has_no_lexical_neighbours() -> None:
    assert found(lexical([]), ask("who slew smolt", "Osric")) == []
    assert found(lexical([ask("who is it", "#")]), ask("who slew smolt", "Osric")) == []


def by_length(questions: Sequence[Question]) -> NDArray[np.float32]:
    """An embedding on a circle: questions of like length are near."""
    angle = np.array([len(question.question) for question in questions], dtype=np.float32) / 40
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) if questions else np.zeros((0, 2), np.float32)


def test_the_nearest_by_meaning_are_those_with_the_highest_cosine() -> None:
    pool = [ask("w" * 40), ask("w" * 10), ask("w" * 12), ask("w" * 90)]
    assert found(dense(pool, by_length, 2), ask("v" * 12)) == [2, 1]
    assert [list(near) for near in dense([], by_length)([ask("v"), ask("w")])] == [[], []]


def test_the_highest_scores_come_first_in_the_order_of_the_pool_and_zeros_never() -> None:
    assert highest(np.tile(np.array([1, 2], dtype=np.float32), 500), 20) == list(range(1, 40, 2))
    assert highest(np.tile(np.array([1, 2], dtype=np.float32), 500), 600) == [*range(1, 1000, 2), *range(0, 200, 2)]
    assert highest(np.array([0.0, 2.0, 1.0, 2.0], dtype=np.float32), 20) == [1, 3, 2]
    assert highest(np.array([0.0, 2.0, 1.0, 2.0], dtype=np.float32), 1) == [1]


@pytest.mark.parametrize("count", [1, 10, 300, 700, 900, 998, 999, 1000])
def test_of_many_scores_the_highest_are_all_there(count: int) -> None:
    shuffled = np.random.default_rng(0).permutation(1000).astype(np.float32)
    assert [shuffled[at] for at in highest(shuffled, count)] == [*range(999, 0, -1)][:count]


def test_a_question_is_no_candidate_of_itself() -> None:
    assert list(candidate_pairs(numbered(1), numbered(1))) == []


def test_questions_that_share_nothing_are_no_candidates() -> None:
    assert list(candidate_pairs([ask("who slew smolt", "Osric")], [ask("what is avon", "river")])) == []


def test_candidates_are_the_union_of_all_retrievers_each_once() -> None:
    query = ask("who ruled Brobdingnag", "Osric")
    pool = [
        ask("Osric fled where", "Brobdingnag"),
        ask("Who ruled Brobdingnag?", "Pan"),
        ask("rulers of Brobdingnag", "Osric"),
    ]
    far = ask("w" * len(query.question), "x")
    assert {candidate for _, candidate in candidate_pairs([query], [*pool[:1], pool[2], far])} == {pool[0], pool[2]}
    assert {candidate for _, candidate in candidate_pairs([query], [pool[0], pool[2], far], by_length)} == {
        pool[0],
        pool[2],
        far,
    }


def test_the_order_of_the_pool_changes_nothing() -> None:
    pool = numbered(99)
    query = ask("guards", "x")
    once = list(candidate_pairs([query], pool))
    assert once == list(candidate_pairs([query], pool[::-1]))
    assert [candidate for _, candidate in once] == sorted(pool, key=lambda q: q.id)[:NEIGHBOURS]


def test_an_answer_of_several_words_is_found_where_it_is_mentioned() -> None:
    pool = [ask("which realm did Osric Vane rule", "Great Tharn"), ask("which realm did Osric rule", "Great Tharn")]
    assert found(exchanged_answers(pool), ask("who ruled Great Tharn", "Osric Vane")) == [0]


def test_an_answer_of_more_than_six_words_is_not_looked_for() -> None:
    six = "gorlim tharn smolt vane snorl harrow"
    pool = [ask("Osric burned what", six), ask("Osric burned what else", f"{six} grumbler")]
    assert found(exchanged_answers(pool), ask(f"{six} grumbler fled", "Osric")) == [0]


@pytest.mark.parametrize("found_by", [[1], [3, 2]])
def test_a_retriever_that_answers_too_few_or_too_many_queries_is_an_error(found_by: list[int]) -> None:
    pool = numbered(2)
    answering = [lambda _, answers=answers: iter([[0]] * answers) for answers in found_by]
    with pytest.raises(ValueError, match="argument"):
        list(pairs_found(pool, pool, answering))


def test_every_retriever_has_its_name_and_the_nearest_are_as_many_as_asked_for() -> None:
    pool = numbered(9)
    made = retrievers(pool, lambda questions: np.ones((len(questions), 1), dtype=np.float32), 2)
    assert list(made) == ["same words", "lexical", "common answer", "exchanged answers", "dense"]
    assert len(found(made["lexical"], ask("gate1 gate2 gate3 gate4", "x"))) == 2
    assert len(found(made["dense"], ask("gate1", "x"))) == 2
