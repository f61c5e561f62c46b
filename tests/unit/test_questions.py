"""Questions: their ids, their answers, and the merging of rows that ask the same words."""

from __future__ import annotations

import hashlib

from closedbook.harness.questions import by_id, ids_digest, make_question, merge, question_id, unique_answers


def test_an_id_is_the_published_hash_and_never_changes() -> None:
    expected = hashlib.sha256(b"nq\nwho founded atlantis").hexdigest()[:16]
    assert question_id("nq", "Who  founded Atlantis ?") == expected == "33452f9493c70794"


def test_the_appended_question_mark_changes_no_id() -> None:
    assert question_id("nq", "who founded atlantis") == question_id("nq", "who founded atlantis ??")
    assert question_id("nq", "who founded atlantis") == question_id("nq", "who founded atlantis\uff1f")


def test_the_same_words_in_two_benchmarks_have_two_ids() -> None:
    assert question_id("nq", "who founded atlantis") != question_id("triviaqa", "who founded atlantis")


def test_stray_white_space_leaves_question_and_answers() -> None:
    question = make_question("simpleqa", " In which\u00a0year\n did it open? ", [" 1932 ", "6\u00a0July 1932"])
    assert question.question == "In which year did it open?"
    assert question.answers == ("1932", "6 July 1932")


def test_case_only_aliases_are_one_answer_in_its_first_spelling() -> None:
    assert unique_answers(["The Nile", "THE NILE", "the nile ", "Nile"]) == ("The Nile", "Nile")


def test_empty_answers_are_no_answers() -> None:
    assert unique_answers(["", " \u00a0", "Nile"]) == ("Nile",)


def test_homonyms_are_merged_with_the_union_of_answers() -> None:
    river = make_question("popqa", "What is the Avon?", ["river", "water"], {"subject": "s/1"})
    town = make_question("popqa", "What is the Avon ?", ["town", "River"], {"subject": "s/2"})
    (merged,) = merge([river, town])
    assert merged.answers == ("river", "water", "town")
    assert merged.metadata == ({"subject": "s/1"}, {"subject": "s/2"})


def test_merging_keeps_the_order_of_first_appearance() -> None:
    one, two, three = (make_question("nq", word, ["x"]) for word in ("one", "two", "three"))
    assert merge([two, one, two, three]) == [two, one, three]


def test_a_row_without_metadata_makes_a_question_without() -> None:
    assert make_question("nq", "who", ["x"]).metadata == ()


def test_questions_are_hashable_whatever_their_metadata() -> None:
    question = make_question("nq", "who", ["x"], {"subject": "s/1"})
    assert {question: 1}[make_question("nq", "who", ["x"], {"subject": "s/1"})] == 1


def test_the_digest_of_ids_tells_sets_apart() -> None:
    assert ids_digest(["a", "b"]) == ids_digest(["b", "a"])
    assert ids_digest(["a", "b"]) != ids_digest(["ab"])


def test_questions_are_found_by_id() -> None:
    question = make_question("nq", "who", ["x"])
    assert by_id([question]) == {question.id: question}
