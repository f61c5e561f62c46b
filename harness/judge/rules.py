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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.values import WORDS, date, dates_in, quantity, refines
from closedbook.harness.judge.verdicts import Grade, Judgement, Triple
from closedbook.harness.text import answer_key, clean, contains_words, words

VERSION = "judge-rules-2"  # a change of any grade is a new version
LONGEST_MATCH = 50  # words; in a longer text a gold answer may be mentioned without being the answer
LONGEST_ANSWER = 250  # words; nobody asked for an essay, and a long enough one mentions everything


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


def _listed(name: str) -> list[str]:
    """Entries of a list in words.toml that are longer than a word: parted by bars and line ends."""
    return [entry.strip() for entry in re.split(r"[|\n]", WORDS[name]) if entry.strip()]


_OPENINGS = frozenset(_listed("openings"))
_SAME = {word: group.split()[-1] for group in _listed("same") for word in group.split()} | {
    word: str(n) for n, word in enumerate(WORDS["small"].split())
}
_NICKNAMES = [frozenset(group.split()) for group in _listed("nicknames")]
_UNSETTLED = frozenset(WORDS["unsettled"].split())
_FILLERS = frozenset(WORDS["fillers"].split())
_TITLES = frozenset(WORDS["titles"].split())
_PEOPLE = frozenset(WORDS["people"].split())
_SUFFIXES = frozenset(WORDS["suffixes"].split())
_SEVERAL = re.compile(
    r"\b(?:are|were|name|list|which|what) (?:the |all )*(?:two|three|four|five|six|seven|eight|nine|ten|\d+) \w+"
)


def _empty(triple: Triple) -> bool:
    return not any(character.isalnum() for character in triple.answer)


def _opening(triple: Triple) -> bool:
    return " ".join(words(triple.answer)) in _OPENINGS


def _too_long(triple: Triple) -> bool:
    return len(triple.answer.split()) > LONGEST_ANSWER


def _exact(triple: Triple) -> bool:
    return exact_match(triple.answer, [gold for gold in triple.golds if _signs(gold) == _signs(triple.answer)])


def _signs(text: str) -> list[str]:
    """The minus signs in front of numbers, which keys leave out."""
    return re.findall(r"(?<!\w)[-−](?=\d)", text)  # noqa: RUF001 the minus sign


def _value(triple: Triple) -> bool:
    """The same number, quantity or date as a gold answer; a date may say more."""
    given_date, given = date(triple.answer), quantity(triple.answer)
    golds = [clean(gold) for gold in triple.golds]
    if given_date and any((gold := date(text)) and refines(given_date, gold) for text in golds):
        return True
    return given is not None and any(given == quantity(text) for text in golds)


def _contains(triple: Triple) -> bool:
    """A short text that holds a gold answer and settles on it."""
    if len(words(triple.answer)) > LONGEST_MATCH:
        return False
    found = [gold for gold in triple.golds if contains_words(triple.answer, gold)]
    return _agrees_on_the_day(triple) and any(
        not contains_words(triple.question, gold) and _settles(triple.answer, gold, triple.golds) for gold in found
    )


def _agrees_on_the_day(triple: Triple) -> bool:
    """Whether the answer names no other day than the gold answers do, where they name one ("2004", "11 June 2004")."""
    days = [gold for text in triple.golds if (gold := date(clean(text))) and gold.day]
    return not days or all(any(refines(given, day) for day in days) for given in dates_in(clean(triple.answer)))


def _settles(answer: str, gold: str, golds: Sequence[str]) -> bool:
    """Whether nothing around a gold answer takes it back or offers another one."""
    around = f" {answer_key(answer)} ".replace(f" {answer_key(gold)} ", " ; ")
    part_of_range = gold[:1].isdigit() and re.search(rf"[-−–]\s?{re.escape(gold)}", answer)  # noqa: RUF001
    if part_of_range or not _UNSETTLED.isdisjoint(around.split()):
        return False
    firm = re.split(r"[;/|\n]| and | & ", answer)
    loose = [piece for part in firm for piece in part.split(",")]
    keys = {answer_key(gold) for gold in golds}
    listed = len(firm) > 1 and any(answer_key(piece) in keys for piece in firm)
    listed |= len(loose) > 2 and all(len(piece.split()) <= 4 for piece in loose)
    return not listed or all(answer_key(piece) in keys for piece in loose if piece.strip())


def _variants(text: str) -> Iterable[str]:
    """Other ways to write a gold answer: without what stands in brackets, or only that."""
    yield text
    if bracketed := re.fullmatch(r"([^()]+)\(([^()]+)\)\s*", text):
        yield bracketed[1]
        yield bracketed[2]


def _bare(text: str) -> str:
    """A key without function words in front, accents, plurals and spaces, each word in one of its spellings."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.replace("&", " and ")) if not unicodedata.combining(c))
    kept = list(words(plain))
    while kept and kept[0] in _FILLERS:
        kept.pop(0)
    return "".join(f" {word} " if word.isdigit() else word for word in (_SAME.get(w, _singular(w)) for w in kept))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _spelling(triple: Triple) -> bool:
    """A gold answer in another spelling: spaces, accents, plural, a preposition in front, brackets, a typing error."""
    given = _bare(triple.answer)
    golds = [_bare(text) for gold in triple.golds for text in _variants(gold) if _signs(text) == _signs(triple.answer)]
    return bool(given) and any(given == gold or _typo(given, gold) for gold in golds)


def _typo(one: str, other: str) -> bool:
    """Whether two long texts differ by a letter or two, not in the first one, and not in a number."""
    if min(len(one), len(other)) < 8 or one[0] != other[0] or re.findall(r"\d", one) != re.findall(r"\d", other):
        return False
    return SequenceMatcher(None, one, other, autojunk=False).ratio() > 0.93


def _name(triple: Triple) -> bool:
    """The same person: first and last name agree, where one has middle names, initials, a title or a nickname."""
    if not words(triple.question)[:1] or not {"who", "whos", "whose", "whom", "name", "real"} & set(
        words(triple.question)
    ):
        return False
    given = _person(triple.answer)
    return any(_same_person(given, _person(gold)) for gold in triple.golds)


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
    short, long = sorted((one[1:-1], other[1:-1]), key=len)
    return all(any(m == w or (len(m) == 1 and w.startswith(m)) for w in long) for m in short)


def _part(triple: Triple) -> bool:
    """A gold answer without what leads up to it: "the botanist Carl Linnaeus"; of a person, the surname will do."""
    given = answer_key(triple.answer).split()
    if not given or given[0] in _FILLERS or any(c.isdigit() for c in triple.answer):
        return False
    golds = [(gold, answer_key(gold).split()) for gold in triple.golds if "," not in gold]
    if len(given) > 1:
        return any(key[-len(given) :] == given for _, key in golds)
    surname = len(given[0]) > 3 and _asks_for_a_person(triple)
    return surname and any(key[-1:] == given and _reads_as_name(gold) for gold, key in golds)


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
    key = _bare(triple.answer)
    return bool(key) and any(key == _bare(gold.split(",")[0]) for gold in triple.golds if "," in gold)


def _year(triple: Triple) -> bool:
    """The year alone, where a year or no more than "when" was asked for."""
    asked = words(triple.question)
    if not ("year" in asked or "when" in asked) or not re.fullmatch(r"\d{4}", triple.answer.strip()):
        return False
    return any((gold := date(clean(text))) and gold.year == int(triple.answer) for text in triple.golds)


RULES: Mapping[str, tuple[Callable[[Triple], bool], bool]] = {  # name: whether it applies, and what it then says
    "exact": (_exact, True),
    "empty": (_empty, False),
    "opening": (_opening, False),
    "too_long": (_too_long, False),
    "value": (_value, True),
    "contains": (_contains, True),
    "spelling": (_spelling, True),
    "name": (_name, True),
    "place": (_place, True),
    "year": (_year, True),
    "part": (_part, True),
}


def decide(triple: Triple, without: Iterable[str] = ()) -> Ruling | None:
    """The ruling of the first rule that speaks, None where only a reader can tell; rules in `without` are silent."""
    several = _asks_for_several(triple)
    for name, (applies, right) in RULES.items():
        if name not in without and not (right and several) and applies(triple):
            return Ruling(Grade.CORRECT if right else Grade.INCORRECT, name)
    return None


class RulesJudge:
    """Rules alone: what they cannot decide is INCORRECT. Never fails.

    Args:
        without: Names of rules that are switched off.

    Raises:
        RequestError: There is no rule of that name.
    """

    can_fail = False

    def __init__(self, without: Iterable[str] = ()) -> None:
        self.without = check_rules(without)

    @property
    def identity(self) -> Mapping[str, str]:
        """The version of the rules, and those switched off."""
        return {"kind": "rules", "version": rules_identity(self.without)}

    def preflight(self) -> None:
        """Nothing can be missing."""

    def stream(self, triples: Iterable[Triple], total: int | None = None) -> Iterator[Judgement]:
        """One grade per triple, in order."""
        for triple in triples:
            ruling = decide(triple, self.without)
            yield ruling.grade if ruling else Grade.INCORRECT

    def grade(self, triples: Iterable[Triple]) -> list[Judgement]:
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
