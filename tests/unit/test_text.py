"""Normal forms of text, on the spellings that the benchmarks hold."""

from __future__ import annotations

import pytest

from closedbook.harness.text import answer_key, answer_keys, clean, contains_words, fold, words


def test_white_space_of_every_kind_is_one_plain_space() -> None:
    assert clean(" 6\u00a0July\t \u20031932\n") == "6 July 1932"
    assert fold("6\u00a0July\u3000 1932 ") == "6 july 1932"


def test_a_ligature_and_a_full_width_letter_are_their_plain_letters() -> None:
    assert clean("\ufb01n \uff21") == "fin A"
    assert fold("\ufb01n \uff21") == "fin a"


def test_case_folding_is_repeated_until_nothing_changes() -> None:
    assert fold("Straße") == fold("STRASSE") == "strasse"
    assert fold("\u0345\u0391") == fold(fold("\u0345\u0391"))


def test_fold_keeps_punctuation_articles_and_accents() -> None:
    assert fold("The Café, No. 1?") == "the café, no. 1?"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("The U.S. Navy!", "us navy"),
        ("J.R.R. Tolkien", "jrr tolkien"),
        ("1,000,000", "1000000"),
        ("1,0001", "1 0001"),
        ("3.50", "3.50"),
        ("No.5", "no 5"),
        ("rock-and-roll", "rock and roll"),
        ("O’Brien's", "obriens"),
        ("snake_case", "snake case"),
        ("Dvořák", "dvořák"),
        ("“Hello,” she said…", "hello she said"),
        ("\ue000 private", "private"),
    ],
)
def test_the_key_of_an_answer_is_its_words(text: str, key: str) -> None:
    assert answer_key(text) == key


@pytest.mark.parametrize(
    ("text", "key"), [("The The", "the the"), ("A", "a"), ("#", "#"), ("?!", "?!"), (" \u00a0", "")]
)
def test_an_answer_of_articles_or_symbols_keeps_a_key(text: str, key: str) -> None:
    assert answer_key(text) == key


def test_a_letter_and_its_mark_compose_once_the_punctuation_between_is_gone() -> None:
    assert words("e'\u0301") == ("é",)
    assert answer_key("\u1100.\u1161") == answer_key("\uac00")


def test_keys_of_several_answers_leave_out_empty_ones() -> None:
    assert answer_keys(["The Nile", "nile", "", "\u00a0"]) == {"nile"}


def test_one_letter_answers_need_word_boundaries() -> None:
    assert contains_words("The symbol is U.", "U")
    assert not contains_words("The symbol is Uranium.", "U")
    assert not contains_words("Russia", "US")
    assert contains_words("the U.S. of A.", "US")


def test_a_number_is_not_found_inside_a_longer_one() -> None:
    assert contains_words("There are 1,000 of them", "1000")
    assert not contains_words("There are 11,000 of them", "1000")
    assert not contains_words("It costs 3.50", "50")


def test_nothing_is_contained_where_the_part_is_empty() -> None:
    assert not contains_words("anything", "")
    assert not contains_words("", " ")


def test_an_answer_of_articles_is_found_only_where_it_stands_alone() -> None:
    assert contains_words("A", "a")
    assert not contains_words("A dog", "A")
