"""Laws of questions, ids and merging."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from closedbook.harness.questions import (
    Question,
    ids_digest,
    make_question,
    merge,
    question_id,
    question_key,
    unique_answers,
)
from closedbook.harness.text import clean, fold

WORDS = st.lists(st.text("abcdeéüñ019,.'-", min_size=1, max_size=6), min_size=1, max_size=6)
SPACES = st.sampled_from([" ", "  ", "\t", "\n", "\u00a0", "\u3000"])
QUESTIONS = st.builds(
    make_question,
    st.just("nq"),
    st.sampled_from(["who", "Who?", "what", "where"]),
    st.lists(st.text(max_size=3), max_size=4),
)


@given(WORDS, SPACES, st.sampled_from([str.upper, str.title, str.lower]), st.sampled_from(["", "?", " ?", "??", "？"]))
def test_an_id_ignores_case_spacing_and_a_final_question_mark(
    words: list[str], space: str, case: Callable[[str], str], mark: str
) -> None:
    assert question_id("nq", space + case(space.join(words)) + mark) == question_id("nq", " ".join(words))


@given(WORDS, WORDS)
def test_an_id_tells_other_words_apart(one: list[str], other: list[str]) -> None:
    same_words = [fold(word) for word in one] == [fold(word) for word in other]
    assert (question_id("nq", " ".join(one)) == question_id("nq", " ".join(other))) == same_words


@given(st.text())
def test_the_key_of_a_question_is_its_own_key(text: str) -> None:
    assert question_key(question_key(text)) == question_key(text)


@given(st.lists(st.text(max_size=4)))
def test_unique_answers_lose_none_and_repeat_none(answers: list[str]) -> None:
    kept = unique_answers(answers)
    assert {fold(answer) for answer in kept} == {fold(answer) for answer in answers} - {""}
    assert len({fold(answer) for answer in kept}) == len(kept)
    assert unique_answers(kept) == kept == tuple(map(clean, kept))


@given(st.lists(QUESTIONS))
def test_merging_keeps_every_answer_and_one_question_an_id(questions: list[Question]) -> None:
    merged = merge(questions)
    assert len({question.id for question in merged}) == len(merged)
    before = {(question.id, fold(answer)) for question in questions for answer in question.answers}
    assert {(question.id, fold(answer)) for question in merged for answer in question.answers} == before


@given(st.lists(QUESTIONS))
def test_merging_is_idempotent(questions: list[Question]) -> None:
    assert merge(merge(questions)) == merge(questions)


@given(st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), unique=True), st.randoms())
def test_the_digest_of_ids_ignores_their_order(ids: list[str], chance: random.Random) -> None:
    assert ids_digest(chance.sample(ids, len(ids))) == ids_digest(ids)
