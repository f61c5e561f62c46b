"""Normal forms of text: one for identity (`fold`), one for comparing answers (`answer_key`).

Identity is strict, comparison is lenient. `fold` ignores case, Unicode form and spacing but no word and no punctuation;
ids are built on it and must never change. `answer_key` also drops punctuation and articles, close to what SQuAD's
exact match does. Unlike there, punctuation parts words instead of gluing them ("rock-and-roll" is three words, so that
"contains" respects word boundaries), and a text made only of articles or symbols ("The The", "#") keeps a key, so that
no gold answer is unmatchable.

    >>> answer_key("The U.S. Navy!"), answer_key("1,000"), answer_key("The The")
    ('us navy', '1000', 'the the')
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})

_APOSTROPHES = str.maketrans("", "", "'’‘ʼʻ`")  # noqa: RUF001 the look-alikes are the point
_INITIALS = re.compile(r"\b[^\W\d_](?:\.[^\W\d_])+\b\.?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LONE_POINT = re.compile(r"(?<!\d)\.|\.(?!\d)")  # every point but a decimal one


class _Punctuation(dict[int, str]):
    """For `str.translate`: letters, marks, numbers and points as they are, all else a space; filled as it is asked."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if character == "." or unicodedata.category(character)[0] in "LMN" else " "
        return self[code]


_PUNCTUATION = _Punctuation()


def clean(text: str) -> str:
    """Text in NFKC with every run of white space (U+00A0 included) made one plain space."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def fold(text: str) -> str:
    """Text with case, Unicode form and spacing taken out; idempotent, equal for NFC and NFD input.

    Case folding and normalisation undo each other for a few characters, so both are repeated until nothing changes
    (Unicode Standard, section 3.13, compatibility caseless matching).
    """
    if text.isascii():
        return " ".join(text.lower().split())
    previous = None
    while text != previous:
        previous = text
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", text).casefold())
    return " ".join(text.split())


@lru_cache(maxsize=1 << 16)
def words(text: str) -> tuple[str, ...]:
    """Folded words of a text, without punctuation; initials are joined ("U.S." -> "us"), "1,000" is "1000".

    Folded a second time because what stood apart can compose once the punctuation between is gone: a letter and its
    accent, the parts of a Hangul syllable.
    """
    return tuple(fold(_without_punctuation(fold(text))).split())


def _without_punctuation(text: str) -> str:
    text = _INITIALS.sub(lambda match: match[0].replace(".", ""), text.translate(_APOSTROPHES))
    return _LONE_POINT.sub(" ", _THOUSANDS.sub("", text)).translate(_PUNCTUATION)


def answer_key(text: str) -> str:
    """The form in which two answers are compared: `words` without articles, joined by spaces.

    Falls back to the words with articles, then to the folded text, where nothing would be left.
    """
    every = words(text)
    return " ".join(w for w in every if w not in ARTICLES) or " ".join(every) or fold(text)


def answer_keys(texts: Iterable[str]) -> frozenset[str]:
    """Keys of several answers, empty ones left out."""
    return frozenset(key for text in texts if (key := answer_key(text)))


def contains_words(text: str, part: str) -> bool:
    """Whether the key of `part` occurs in the key of `text` at word boundaries; False for an empty part."""
    key = answer_key(part)
    return bool(key) and f" {key} " in f" {answer_key(text)} "


def storable(text: str) -> str:
    """A text that files can hold: a lone surrogate, which a server may send, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
