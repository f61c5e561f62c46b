"""What the rules read off a question: words in one form, names, weights."""

from __future__ import annotations

import pytest

from closedbook.harness.dedup.profiles import (
    is_year,
    normal,
    normal_words,
    profile,
    relations_of,
    says_something,
    telling,
    weight,
)
from closedbook.harness.questions import make_question


@pytest.mark.parametrize(
    ("words", "form"),
    [
        ("sang sung sings singing sing", "sing"),
        ("greek greeks greece", "greec"),
        ("seven 7th seventh 7 vii", "7"),
        ("first 1st", "first"),
        ("us american usa america", "usa"),
        ("colour colours color", "color"),
        ("grey gray", "gray"),
        ("one", "one"),
        ("thirty", "30"),
    ],
)
def test_words_that_mean_the_same_have_one_form(words: str, form: str) -> None:
    assert {normal(word) for word in words.split()} == {form}


def test_a_form_is_its_own_form() -> None:
    for word in ["sang", "greek", "vii", "first", "american", "colours", "thirty", "bridges", "ratified"]:
        assert normal(normal(word)) == normal(word)


def test_phrases_become_one_word_and_only_whole_ones() -> None:
    assert normal_words("The Super Bowl in the United States of America") == ["the", "superbowl", "in", "the", "usa"]
    assert normal_words("super bowls, united statesmen") == ["super", "bowl", "unit", "statesmen"]


def test_the_s_of_an_owner_is_no_part_of_a_name() -> None:
    assert normal_words("Osric's tharn and Smolt’s") == ["osric", "tharn", "and", "smolt"]


def test_a_word_that_few_questions_use_weighs_most() -> None:
    assert weight("tharnberg") == 1.0
    assert 0 <= weight("the") < 0.1 < weight(normal("play")) < weight(normal("bridge")) < 1.0


def test_a_name_says_everything_and_a_common_word_nothing() -> None:
    assert telling("play", frozenset({"play"})) == 1.0
    assert telling("the", frozenset()) == 0.0
    assert telling("tharnberg", frozenset()) == 1.0


@pytest.mark.parametrize(
    ("word", "expected"), [("1066", True), ("2026", True), ("999", False), ("2126", False), ("196", False)]
)
def test_a_year_has_four_digits_of_this_or_the_last_millennium(word: str, expected: bool) -> None:
    assert is_year(word) is expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("tharnberg", True),
        ("1066", True),
        ("14", False),
        ("play", False),
        ("white hous", False),
        ("orang new black", True),
    ],
)
def test_a_phrase_says_something_if_it_can_tell_one_thing_from_another(phrase: str, expected: bool) -> None:
    assert says_something(phrase.split()) is expected


def test_words_of_one_relation_are_known() -> None:
    assert relations_of(normal("wrote")) == relations_of(normal("author")) != relations_of(normal("sang"))
    assert relations_of("tharnberg") == frozenset()


def read(question: str, *answers: str):
    return profile(make_question("nq", question, answers))


def test_names_are_written_with_a_capital_inside_a_sentence() -> None:
    assert read("Which Bridge did Osric cross? Say where").names == {"osric"}  # many questions speak of a bridge
    assert read("which bridge did osric cross").names == frozenset()
    assert read("WHICH BRIDGE DID OSRIC CROSS").names == {"osric"}
    assert read("What happened to Osric on Monday, 5 May?").names == {"osric"}


def test_content_leaves_out_what_carries_no_fact_and_what_was_said() -> None:
    assert read("What is the name of the bridge that is a bridge in Tharn?").content == ("bridg", "tharn")


def test_ordinals_are_numbers_that_rank() -> None:
    assert read("who came second in the 14th season of 24").ordinals == {"2", "14"}
    assert read("who was first, in 1st place").ordinals == frozenset()


@pytest.mark.parametrize(
    "question", ["when did it open", "in what year did it open", "the last time it opened", "what date was it"]
)
def test_a_question_for_a_time_is_known(question: str) -> None:
    assert read(question).when


@pytest.mark.parametrize("question", ["whenever it opens", "who opened it in its last year"])
def test_a_question_for_something_else_is_known(question: str) -> None:
    assert not read(question).when


def test_gold_answers_are_read_as_dates_and_quantities() -> None:
    seen = read("when", "Wednesday, 5 September 1666", "1666", "seven miles", "Osric")
    assert set(seen.dates) == {(1666, 9, 5), (1666, None, None)}
    assert {amount.measure for amount in seen.quantities} == {"length", ""}
    assert read("when", "1712.").dates == ((1712, None, None),)


def test_a_gold_answer_is_looked_for_if_it_can_be_told_from_other_words() -> None:
    assert read("who", "Osric Vane", "play", "nine", "the play").gold_phrases == {" osric vane ", " 9 "}
    assert read("who", "osric vane", "24/7").gold_phrases == {" osric vane ", " 24 7 "}


def test_a_word_of_some_weight_is_looked_for_if_it_is_written_as_a_name_in_a_short_list() -> None:
    assert read("where", "Tower").gold_phrases == {" tower "}
    assert read("where", "tower", "Play").gold_phrases == frozenset()
    assert " tower " in read("where", "Tower", *(f"Tharn{n}" for n in range(7))).gold_phrases
    assert " tower " not in read("where", "Tower", *(f"Tharn{n}" for n in range(8))).gold_phrases
