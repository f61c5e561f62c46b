"""Laws of normal forms, for any text."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from closedbook.harness.text import ARTICLES, answer_key, clean, contains_words, fold, words

# any text, and text dense in what has tripped up normal forms: marks, Hangul letters, points, commas, odd spaces
AWKWARD = "aAeE ßſıİσςΣ\u0301\u0308\u0345\u1100\u1161\u11a8ﬁ.,'’#-_019½²\u00a0\u3000\u2028\ue000ǅﷺ"
TEXTS = st.one_of(st.text(), st.text(st.sampled_from(AWKWARD)))


@given(TEXTS)
@example("\u0345\u0391")
def test_folding_is_idempotent(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(TEXTS)
@example("\u1100.\u1161")
@example("a'\u0308")
def test_the_key_of_a_key_is_the_key(text: str) -> None:
    assert answer_key(answer_key(text)) == answer_key(text)


@given(TEXTS)
def test_cleaning_is_idempotent(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(TEXTS)
def test_normal_forms_are_the_same_for_composed_and_decomposed_text(text: str) -> None:
    composed, decomposed = unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)
    assert fold(composed) == fold(decomposed)
    assert answer_key(composed) == answer_key(decomposed)


@given(st.text("aZéÜñßÆσΣ "))
def test_folding_takes_case_out(text: str) -> None:
    assert fold(text.swapcase()) == fold(text.upper()) == fold(text)


@given(TEXTS)
def test_cleaning_changes_no_key(text: str) -> None:
    assert answer_key(clean(text)) == answer_key(text)


@given(TEXTS)
def test_words_hold_no_space_and_no_empty_word(text: str) -> None:
    assert all(word and not any(map(str.isspace, word)) for word in words(text))


@given(TEXTS)
def test_only_an_empty_text_has_an_empty_key(text: str) -> None:
    assert bool(answer_key(text)) == bool(clean(text))


@given(TEXTS)
def test_an_answer_always_matches_itself(text: str) -> None:
    assert contains_words(text, text) == bool(clean(text))


@given(TEXTS, TEXTS, TEXTS)
def test_an_answer_is_found_in_a_sentence_that_holds_it(before: str, answer: str, after: str) -> None:
    if set(words(answer)) - ARTICLES:
        assert contains_words(f"{before} {answer} {after}", answer)


@given(st.text("abc", min_size=1), st.text("abc", min_size=1))
def test_an_answer_is_not_found_inside_a_longer_word(answer: str, rest: str) -> None:
    assert not contains_words(f"x{answer}{rest}y", answer)
