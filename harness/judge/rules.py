"""Rules that grade answers without a model, each with a name, each to be switched off.

The rules come in order, and the first that speaks decides; where none speaks, only a reader can tell. They stand in
front of an LLM judge, which then grades the rest. `RulesJudge` has nobody to ask and calls the rest INCORRECT. So every
rule must be right nearly always: docs/judge.md measures them against people, rule by rule.

What would surprise: a gold answer found inside the answer is not enough. It must be a short text that settles on it. An
answer that lists candidates, negates, hedges, or takes the gold answer from the question is left to the reader.

    >>> decide(Triple("who wrote hamlet", ("William Shakespeare",), "It was William Shakespeare."))
    Ruling(grade=<Grade.CORRECT: 'correct'>, rule='contains')
    >>> decide(Triple("who wrote hamlet", ("William Shakespeare",), "Marlowe or William Shakespeare")) is None
    True
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.verdicts import Grade, Judgement, Triple
from closedbook.harness.judge.words import WORDS, word_set
from closedbook.harness.text import answer_key, clean, contains_words, words
from closedbook.harness.values import SCALES, SMALL, date, dates_in, number, quantity, refines

VERSION = "judge-rules-2"  # a change of any grade is a new version
LONGEST_MATCH = 50  # words; in a longer text a gold answer may be mentioned without being the answer
LONGEST_ANSWER = 250  # words, of ten characters at most on average; a long enough text mentions everything
LONGEST_PIECE = 4  # words; a list of longer pieces is a sentence


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the answer's key equals that of a gold answer; False for an answer without any text."""
    key = answer_key(answer)
    return bool(key) and any(key == answer_key(gold) for gold in golds)


def contains(answer: str, golds: Sequence[str]) -> bool:
    """Whether a gold answer occurs in the answer at word boundaries."""
    return any(contains_words(answer, gold) for gold in golds)


class Ruling(NamedTuple):
    """A grade, and the rule that gave it."""

    grade: Grade
    rule: str

    def with_empty(self, empty: Grade) -> Grade:
        """The grade, where an answer that says nothing gets that one."""
        return empty if self.grade is Grade.NOT_ATTEMPTED else self.grade


_OPENINGS = frozenset(WORDS["openings"])
_NICKNAMES = [frozenset(group) for group in WORDS["nicknames"]]
_SAME = {word: group[-1] for group in WORDS["same"] for word in group}
_SAME |= {word: str(n) for n, word in enumerate(SMALL)}
_UNSETTLED, _FILLERS, _TITLES, _PEOPLE, _SUFFIXES, _CHANGES = map(
    word_set, ("unsettled", "fillers", "titles", "people", "suffixes", "changes")
)
_ENDS_IN_A = re.compile(r"\w\s+A$")
_LISTS = re.compile(r",| and |&")
_PIECES = re.compile(r"[;:/|\\\n•·()?]|(?<=\w\w)[.!…]+\s|\s(?:-|->|\d\.|and|&|plus|with)\s")
_SIGNS = re.compile(r"(?<!\w)[-−–+$£€](?=\w)|(?<=\w)[%+#°](?!\w)|(?<=\w)[-−–](?!\w)|(?<=\d)[/:](?=\d)")  # noqa: RUF001
_SEVERAL = re.compile(
    r"\b(?:are|were|name|list|which|what) (?:the |all )*"
    r"(?:two|three|four|five|six|seven|eight|nine|ten|[2-9]|1\d) (?!(?:letter|year|time|word|leg)s?)\w+"
)


def _empty(triple: Triple) -> bool:
    return not any(c.isalnum() or c in "*&#%@" or unicodedata.category(c)[0] == "S" for c in triple.answer)


def _opening(triple: Triple) -> bool:
    return " ".join(words(triple.answer)) in _OPENINGS


def _too_long(triple: Triple) -> bool:
    return len(triple.answer.split()) > LONGEST_ANSWER or len(triple.answer) > 10 * LONGEST_ANSWER


def _exact(triple: Triple) -> bool:
    return exact_match(triple.answer, [gold for gold in triple.golds if _signs(gold) == _signs(triple.answer)])


def _signs(text: str) -> list[str]:
    """The signs that keys leave out although they change the meaning: "-5", "C++", "$5", "AB-"; dashes are alike."""
    return sorted("-" if sign in "−–" else sign for sign in _SIGNS.findall(text))  # noqa: RUF001


def _value(triple: Triple) -> bool:
    """The same number, quantity or date as a gold answer; a date may say more."""
    given_date, given = date(triple.answer), quantity(triple.answer)
    golds = [clean(gold) for gold in triple.golds]
    if given_date and any((gold := date(text)) and refines(given_date, gold) for text in golds):
        return True
    return given is not None and any(given == quantity(text) for text in golds)


def _contains(triple: Triple) -> bool:
    """A short text that holds a gold answer and settles on it."""
    if len(words(triple.answer)) > LONGEST_MATCH or "?" in triple.answer:
        return False
    found = [gold for gold in triple.golds if contains_words(triple.answer, gold)]
    return _agrees_on_the_day(triple) and any(
        not contains_words(triple.question, gold) and _settles(triple, gold) for gold in found
    )


def _agrees_on_the_day(triple: Triple) -> bool:
    """Whether the answer names no other day than the gold answers do, where they name one ("2004", "11 June 2004")."""
    days = [gold for text in triple.golds if (gold := date(clean(text))) and gold.day]
    return not days or all(any(refines(given, day) for day in days) for given in dates_in(clean(triple.answer)))


def _settles(triple: Triple, gold: str) -> bool:
    """Whether nothing around a gold answer takes it back, changes it, or offers another one."""
    key, answer = f" {answer_key(gold)} ", f" {answer_key(triple.answer)} "
    before, _, after = answer.partition(key)
    asked = set(words(triple.question))
    around = [word for word in f"{before} {after}".split() if word not in asked]
    if (
        not _UNSETTLED.isdisjoint(around)
        or not _CHANGES.isdisjoint(before.split()[-1:])
        or _signs(gold) != _signs(triple.answer)
    ):
        return False
    dated = bool(dates_in(clean(triple.answer)))  # and the day agrees
    if not dated and any(map(_is_number, answer_key(gold).split())) and any(map(_is_number, around)):
        return False  # of several numbers one may be right by chance
    keys = {answer_key(gold) for gold in triple.golds}
    firm = [piece for piece in map(answer_key, _PIECES.split(triple.answer)) if piece]
    loose = [piece for piece in map(answer_key, re.split(rf"{_PIECES.pattern}|,", triple.answer)) if piece]
    listed = len(firm) > 1 and not keys.isdisjoint(firm)
    listed |= len(loose) > 1 and loose[-1] in keys and len(loose[0].split()) <= LONGEST_PIECE
    listed |= len(loose) > 2 and all(len(piece.split()) <= LONGEST_PIECE for piece in loose)
    bare_list = len(around) > LONGEST_PIECE and all(part[:1].isupper() for part in triple.answer.split())
    return not bare_list and (not listed or all(piece in keys for piece in loose))


def _is_number(word: str) -> bool:
    return word[:1].isdigit() or number(word) is not None or word in SCALES or word in ("bc", "ad", "bce", "ce")


def _variants(text: str) -> Iterable[str]:
    """Other ways to write a gold answer: without what stands in brackets, or only that."""
    yield text
    if bracketed := re.fullmatch(r"([^()]+)\(([^()]+)\)\s*", text):
        yield bracketed[1]
        yield bracketed[2]


def _plain(text: str) -> list[str]:
    """Words without accents and plurals, each in one of its spellings, and without function words in front."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text.replace("&", " and ")) if not unicodedata.combining(c))
    kept = list(words(bare))
    while kept and kept[0] in _FILLERS:
        kept.pop(0)
    return [_SAME.get(word, _singular(word)) for word in kept]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.isalpha() and word.endswith("s") and not word.endswith("ss") else word


def _spelling(triple: Triple) -> bool:
    """A gold answer in another spelling: spaces, accents, plural, a preposition in front, brackets, a typing error."""
    given = _plain(triple.answer)
    golds = [_plain(text) for gold in triple.golds for text in _variants(gold) if _signs(text) == _signs(triple.answer)]
    return bool(given) and any(_glued(given) == _glued(gold) or _one_typo(given, gold) for gold in golds)


def _glued(parts: Sequence[str]) -> str:
    """Words without the spaces between them, save around numbers, where a space makes another number."""
    return "".join(f" {part} " if part.isdigit() else part for part in parts)


def _one_typo(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one long word of two texts of several words differs by one letter, and nothing else does.

    Neither its first letter nor one of the last three: "nitrate" is no "nitrite", nor "Russian" "Russia".
    """
    differing = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
    if len(one) != len(other) or len(one) < 2 or len(differing) != 1:
        return False
    a, b = sorted(differing[0], key=len)
    same = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    rest = a[same:], b[same:]
    return len(a) > 5 and a.isalpha() and 0 < same < len(b) - 3 and rest[1][1:] in (rest[0], rest[0][1:])


def _name(triple: Triple) -> bool:
    """The same person: first and last name agree, where one has middle names, initials, a title or a nickname."""
    if not words(triple.question)[:1] or not {"who", "whos", "whose", "whom", "name", "real"} & set(
        words(triple.question)
    ):
        return False
    given = _person(triple.answer)
    golds = [gold for gold in triple.golds if len(_suffixes(gold) | _suffixes(triple.answer)) < 2]
    return any(_same_person(given, _person(gold)) for gold in golds)


def _suffixes(text: str) -> frozenset[str]:
    return _SUFFIXES.intersection(words(text))


def _person(text: str) -> tuple[str, ...]:
    kept = [word for word in words(text.replace("-", "")) if word not in _SUFFIXES]
    while kept and kept[0] in _TITLES:
        kept.pop(0)
    return tuple(kept)


def _same_person(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if min(len(one), len(other)) < 2 or max(len(one), len(other)) > 5 or one[-1] != other[-1]:
        return False
    if not (one[0] == other[0] or any({one[0], other[0]} <= group for group in _NICKNAMES)):
        return False
    middles = one[1:-1], other[1:-1]
    if not all(middles):
        return True
    return len(middles[0]) == len(middles[1]) and all(map(_same_or_initial, *middles))


def _same_or_initial(one: str, other: str) -> bool:
    initial = 1 in (len(one), len(other)) and one[0] == other[0]
    return one == other or (initial and not {one, other} & {"v", "x", "i"})


def _part(triple: Triple) -> bool:
    """A gold answer without what leads up to it: "the botanist Carl Linnaeus"; of a person, the surname will do."""
    given = answer_key(triple.answer).split()
    if not given or given[0] in _FILLERS or any(c.isdigit() for c in triple.answer):
        return False
    golds = [(gold, answer_key(gold).split()) for gold in triple.golds if "," not in gold]
    if len(given) > 1:
        longer = [key for _, key in golds if len(key) > len(given)]
        dropped = [key[: -len(given)] for key in longer if key[-len(given) :] == given]
        return any(part[-1] not in _FILLERS and not _changes(part) for part in dropped)
    surname = len(given[0]) > 3 and _asks_for_a_person(triple)
    return surname and any(key[-1:] == given and _reads_as_name(gold) and not _changes(key) for gold, key in golds)


def _changes(parts: Sequence[str]) -> bool:
    """Whether a word that is left out makes another thing of the rest: "vice president", "North Korea"."""
    return not _CHANGES.isdisjoint(parts) or any(map(_is_number, parts))


def _reads_as_name(text: str) -> bool:
    """Two or three words, each with a capital."""
    parts = text.split()
    return 2 <= len(parts) <= 3 and all(part[0].isupper() for part in parts)


def _asks_for_a_person(triple: Triple) -> bool:
    return not _PEOPLE.isdisjoint(words(triple.question))


def _asks_for_several(triple: Triple) -> bool:
    """Whether one of the gold answers would be a part of the answer only: "what are the four types of ..."."""
    return len(triple.golds) > 1 and bool(_SEVERAL.search(" ".join(words(triple.question))))


def _place(triple: Triple) -> bool:
    """The place that was asked for, without the larger one that it lies in."""
    if "where" not in words(triple.question):
        return False
    key = _plain(triple.answer)
    return bool(key) and any(key == _plain(gold.split(",")[0]) for gold in triple.golds if "," in gold)


def _year(triple: Triple) -> bool:
    """The year alone, where a year or no more than "when" was asked for."""
    asked = words(triple.question)
    if not ("year" in asked or "when" in asked) or not re.fullmatch(r"\d{4}", triple.answer.strip()):
        return False
    return any((gold := date(clean(text))) and gold.year == int(triple.answer) for text in triple.golds)


RULES: Mapping[str, tuple[Callable[[Triple], bool], Grade]] = {  # name: whether it applies, and what it then says
    "exact": (_exact, Grade.CORRECT),
    "empty": (_empty, Grade.NOT_ATTEMPTED),
    "opening": (_opening, Grade.NOT_ATTEMPTED),
    "too_long": (_too_long, Grade.INCORRECT),
    "value": (_value, Grade.CORRECT),
    "contains": (_contains, Grade.CORRECT),
    "spelling": (_spelling, Grade.CORRECT),
    "name": (_name, Grade.CORRECT),
    "place": (_place, Grade.CORRECT),
    "year": (_year, Grade.CORRECT),
    "part": (_part, Grade.CORRECT),
}


def decide(triple: Triple, without: Collection[str] = ()) -> Ruling | None:
    """The ruling of the first rule that speaks, None where only a reader can tell; rules in `without` are silent."""
    several = _asks_for_several(triple)
    # "Vitamin A" would lose its letter to the articles
    triple = replace(triple, golds=tuple(gold for gold in triple.golds if not _ENDS_IN_A.search(gold)))
    for name, (applies, grade) in RULES.items():
        doubtful = several and grade is Grade.CORRECT and not (name == "exact" and _LISTS.search(triple.answer))
        if name not in without and not doubtful and applies(triple):
            return Ruling(grade, name)
    return None


class RulesJudge:
    """Rules alone: what they cannot decide is INCORRECT. Never fails.

    Args:
        without: Names of rules that are switched off.
        empty: Grade of an answer that says nothing, as in a rubric.

    Raises:
        RequestError: There is no rule of that name.
    """

    can_fail = False

    def __init__(self, without: Iterable[str] = (), empty: Grade = Grade.INCORRECT) -> None:
        self.without, self.empty = check_rules(without), empty

    @property
    def identity(self) -> Mapping[str, str]:
        """The version of the rules, those switched off, and whether an answer that says nothing is a wrong one."""
        return {"kind": "rules", "version": rules_identity(self.without), "empty": str(self.empty)}

    def preflight(self) -> None:
        """Nothing can be missing."""

    def stream(
        self, triples: Iterable[Triple], total: int | None = None, *, preflight: bool = False, quiet: bool = False
    ) -> Iterator[Judgement]:
        """One grade per triple, in order."""
        for triple in triples:
            ruling = decide(triple, self.without)
            yield Grade.INCORRECT if ruling is None else ruling.with_empty(self.empty)

    def decided_by(self, triple: Triple) -> str:
        """The rule that decides a triple, else "none"."""
        ruling = decide(triple, self.without)
        return ruling.rule if ruling else "none"

    def grade(self, triples: Iterable[Triple], *, preflight: bool = False, quiet: bool = False) -> list[Judgement]:
        """One grade per triple, in order."""
        return list(self.stream(triples))


def check_rules(names: Iterable[str]) -> tuple[str, ...]:
    """The names, sorted and each once.

    Raises:
        RequestError: There is no rule of that name.
    """
    chosen = tuple(sorted(set(names)))
    if unknown := [name for name in chosen if name not in RULES]:
        raise RequestError(f"judge: no rule {unknown[0]!r}; there are {', '.join(RULES)}")
    return chosen


def rules_identity(without: Sequence[str]) -> str:
    """The version of the rules, and those switched off."""
    return "-".join([VERSION, *(f"without_{name}" for name in without)])
