"""Numbers, quantities and dates as values, so that "1,000" equals "1000" and "May 5, 1992" equals "5 May 1992".

Only a text that is nothing but a value is read as one: in "24 hours in a day" nobody is asked to find the 24. A date
may lack its day or its year; one that says more than another and contradicts nothing `refines` it.

    >>> quantity("thirty-five yrs") == quantity("35 years"), quantity("1.5 km") == quantity("1,500 metres")
    (True, True)
    >>> date("5th of May 1992") == date("May 5, 1992"), refines(date("May 5, 1992"), date("May 1992"))
    (True, True)
"""

from __future__ import annotations

import datetime
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from closedbook.harness.text import fold

_WORDS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "values.toml").read_text(encoding="utf-8"))
SMALL: list[str] = _WORDS["small"].split()  # zero to nineteen
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBERS = {word: n for n, word in enumerate(SMALL)}
_NUMBERS |= {word: 10 * n for n, word in enumerate(_WORDS["tens"].split(), start=2)}
_MONTHS: list[str] = _WORDS["months"].split()
_UNITS = {  # name: what it measures, and how many of that measure's smallest unit it is
    name: (measure, Fraction(factor))
    for measure, units in _WORDS["units"].items()
    for names, factor in units.items()
    for name in names.split()
}

LONGEST_NUMBER = 40  # characters
_DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_MONTH = rf"(?P<month>{'|'.join(f'{m[:3]}(?:{m[3:]})?' if len(m) > 3 else m for m in _MONTHS)}|sept)\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_DATES = tuple(
    re.compile(form)
    for form in (
        rf"(?:the )?{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?",
        rf"{_MONTH}(?: the)? {_DAY}(?:,? {_YEAR})?",
        rf"{_MONTH}(?:,| of)? {_YEAR}",
        r"(?P<year>\d{4})-(?P<number>\d{2})-(?P<day>\d{2})",
    )
)


class Quantity(NamedTuple):
    """A number of something, in the smallest unit of its measure; without a unit the measure is ""."""

    amount: Fraction
    measure: str


class Date(NamedTuple):
    """A day, or less exactly a month of a year or a day of every year."""

    year: int | None
    month: int
    day: int | None


def number(text: str) -> Fraction | None:
    """The value of a number in digits ("1,000", "36.0") or in English words ("thirty-five"); None for other texts."""
    if len(text) <= LONGEST_NUMBER and _DIGITS.fullmatch(text):
        return Fraction(text.replace(",", ""))
    words = text.replace("-", " ").split()
    if words[:1] in (["a"], ["an"]) and len(words) > 1:
        words[0] = "one"
    return _from_words(words)


def _from_words(words: list[str]) -> Fraction | None:
    """2.5 million, two hundred and six: each scale multiplies what came since the last one."""
    total, part, seen = Fraction(0), Fraction(0), False
    for word in words:
        if word in _NUMBERS:
            ones = part % 100
            if ones and not (ones >= 20 and ones % 10 == 0 and _NUMBERS[word] < 10):
                return None  # "one two" is no number, and "nineteen sixty" a year
            part, seen = part + _NUMBERS[word], True
        elif len(word) <= LONGEST_NUMBER and _DIGITS.fullmatch(word) and not seen:
            part, seen = Fraction(word.replace(",", "")), True
        elif word == "hundred" and part:
            part *= 100
        elif word in SCALES and part:
            total, part = total + part * SCALES[word], Fraction(0)
        elif not (word == "and" and seen):
            return None
    return total + part if seen else None


def quantity(text: str) -> Quantity | None:
    """The value of a text that is a number with or without a unit; None for other texts."""
    text = fold(text).rstrip(".")
    text = re.sub(r"^(?:(?:about|around|approximately|roughly|some|nearly|almost|exactly) |(?:c\.|~) ?)", "", text)
    for cut in (None, *(m.start() for m in re.finditer(r"[ -]|(?<=\d)(?=[a-z%°])", text))):
        head, tail = (text, "") if cut is None else (text[:cut], text[cut:].strip(" -"))
        measure, factor = _unit(tail)
        money = head.startswith("$")
        if measure is None or (money and tail):
            continue
        negative = head.startswith(("-", "−"))  # noqa: RUF001 the minus sign
        value = number(head.lstrip("$-− "))  # noqa: RUF001
        if value is not None:
            return Quantity((-value if negative else value) * factor, "money" if money else measure)
    return None


def _unit(text: str) -> tuple[str | None, Fraction]:
    """What a unit measures and its size; "" for no unit, None for an unknown one."""
    if not text:
        return "", Fraction(1)
    name = text.rstrip(".")
    found = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
    return found or (None, Fraction(1))


def date(text: str) -> Date | None:
    """The date that a text is, in English or as 1992-05-31; None for other texts and for impossible days."""
    text = re.sub(r"^(?:on|in|by|since) ", "", fold(text).rstrip("."))
    match = next((match for form in _DATES if (match := form.fullmatch(text))), None)
    return _date(match.groupdict()) if match else None


def dates_in(text: str) -> list[Date]:
    """Dates with day, month and year that occur in a text."""
    found = (_date(match.groupdict()) for form in _DATES for match in form.finditer(fold(text)))
    return [day for day in found if day and day.year and day.day]


def _date(parts: dict[str, str | None]) -> Date | None:
    """The date with these parts, as far as they are given; None where there is no such day."""
    year, month, day = (int(value) if (value := parts.get(name)) else None for name in ("year", "number", "day"))
    if month is None:
        month = 1 + [name[:3] for name in _MONTHS].index((parts["month"] or "")[:3])
    try:
        datetime.date(2000 if year is None else year, month, 1 if day is None else day)  # 2000 has a 29 February
    except ValueError:
        return None
    return Date(year, month, day)


def refines(answer: Date, gold: Date) -> bool:
    """Whether a date says all that another one says; more is fine."""
    return all(theirs is None or ours == theirs for ours, theirs in zip(answer, gold, strict=True))
