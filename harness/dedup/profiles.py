"""What the rules read off a question: its content as a list of normal words, its names, its answers as values.

Words are brought to one form each: "sang" and "sung" are "sing", "Greek" is "greece", "14th" and "fourteen" are "14",
endings go (Snowball's English stemmer). Each form has a weight between 0 and 1, high for words that few questions use;
it comes from a table of counts that ships with the package, so that a pair is decided the same way in any corpus.

    >>> from closedbook.harness.questions import make_question
    >>> profile(make_question("nq", "Who sang the Super Bowl anthem?", ["Pink"])).content
    ('sing', 'superbowl', 'anthem')
"""

from __future__ import annotations

import math
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import Stemmer

from closedbook.harness.questions import Question, question_key
from closedbook.harness.sources import benchmarks
from closedbook.harness.text import answer_key, words
from closedbook.harness.values import Quantity, date, number, quantity

Fact = tuple[str, str, str, str]  # benchmark, subject, relation, object
Relation = tuple[str, int]  # family in the lexicon, line in it

HERE = Path(__file__).parent
LEXICON: Mapping[str, Any] = tomllib.loads((HERE / "lexicon.toml").read_text(encoding="utf-8"))

_ORDINALS = LEXICON["ordinals"].split()
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9", "xi": "11", "xii": "12"}
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_CAPITALISED = re.compile(r"(?<=[^\s.?!:])\s+[\"'‘“(]*([A-Z][\w'’.&-]*)")  # noqa: RUF001 not the first word of a sentence
_LATIN_MARKS = re.compile(r"(?<=[A-Za-z])[\u0300-\u036f]+")  # in other scripts marks are letters of their own
_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b", re.IGNORECASE)  # noqa: RUF001
_stemmer = Stemmer.Stemmer("english")


def _forms() -> Iterator[tuple[str, str]]:
    for line in LEXICON["forms"].strip().splitlines():
        form, _, others = line.partition(" = ")
        yield from ((other, form) for other in others.split())


_FORMS = dict(_forms())
_PHRASES = dict(line.split(" = ") for line in LEXICON["phrases"].strip().splitlines())
_PHRASE = re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, _PHRASES))})(?!\S)")


@lru_cache(maxsize=1 << 18)
def normal(word: str) -> str:
    """The one form of a word, as `words` gives it."""
    word = _FORMS.get(word, word)
    if word in _ROMAN:
        return _ROMAN[word]
    if word in _ORDINALS[1:]:  # "first" is rather the opposite of "last"
        return str(1 + _ORDINALS.index(word))
    if ordinal := _ORDINAL.fullmatch(word):
        return "first" if ordinal[1] == "1" else ordinal[1]
    if word.isalpha():
        value = number(word) if len(word) > 2 else None
        return _FORMS.get(stem := _stemmer.stemWord(word), stem) if value is None or value == 1 else str(value)
    return word


def normal_words(text: str) -> list[str]:
    """The words of a text in their one form, in order; "Osric's" is "osric", "São" is "sao"."""
    plain = words(_unmarked(_POSSESSIVE.sub("", text)))
    text = _PHRASE.sub(lambda found: _PHRASES[found[0]], " ".join(plain))
    return [normal(word) for word in text.split()]


def _unmarked(text: str) -> str:
    """A text without the marks on its Latin letters."""
    return unicodedata.normalize("NFC", _LATIN_MARKS.sub("", unicodedata.normalize("NFD", text)))


_STOP_WORDS = frozenset(LEXICON["stop"].split())
STOP = _STOP_WORDS | {normal(word) for word in _STOP_WORDS}
LITTLE = frozenset(normal(word) for word in LEXICON["little"].split())
CALENDAR = frozenset(normal(word) for word in LEXICON["calendar"]["words"].split())
PEOPLES = frozenset(normal(word) for word in LEXICON["peoples"]["words"].split())
SUPERLATIVES = frozenset(normal(word) for word in LEXICON["superlatives"]["words"].split())
NEGATION = frozenset(normal(word) for word in LEXICON["negation"]["words"].split())


@cache
def _counts() -> tuple[int, dict[str, int]]:
    """Number of questions that were counted, and in how many of them a word occurs."""
    head, *lines = (HERE / "word_counts.txt").read_text(encoding="utf-8").splitlines()
    counts: dict[str, int] = {}
    for line in lines:
        count, *same = line.split(" ")
        counts |= dict.fromkeys(same, int(count))
    return int(head.split()[0]), counts


NAMING = 0.75  # weight from which a word can tell things apart
FEW = 8  # gold answers: longer lists hold every name of a thing already, and names of other things too
RARE = 5  # a word in no more questions than these has weight 1


@lru_cache(maxsize=1 << 18)
def weight(word: str) -> float:
    """How much a normal word says, in [0, 1]: inverse document frequency, 1 for rare and unknown words."""
    questions, counts = _counts()
    return math.log(questions / max(counts.get(word, 0), RARE)) / math.log(questions / RARE)


COMMON = 0.45  # weight that any word may have


def telling(word: str, names: frozenset[str]) -> float:
    """How much a word says beyond what any word says, in [0, 1]; a name says everything."""
    return 1.0 if word in names else max(0.0, weight(word) - COMMON) / (1 - COMMON)


def relations_of(word: str) -> frozenset[Relation]:
    """The relations that a normal word stands for."""
    return _families().get(word, frozenset())


def is_year(word: str) -> bool:
    """Whether a word can be a year."""
    return bool(_YEAR.fullmatch(word))


@cache
def _families() -> dict[str, frozenset[Relation]]:
    """For each word of the lexicon, the families it belongs to and its relation in each."""
    found: dict[str, set[Relation]] = {}
    for family, lines in LEXICON["relations"].items():
        for at, line in enumerate(lines.strip().splitlines()):
            for word in line.split():
                found.setdefault(normal(word), set()).add((family, at))
    return {word: frozenset(pairs) for word, pairs in found.items()}


Day = tuple[int | None, int | None, int | None]  # year, month, day, as far as they are known


class Form(NamedTuple):
    """What a question that fills a form of its benchmark asks: which relation of which subject."""

    benchmark: str
    relation: str
    subject: str  # as an answer key
    inverse: str | None  # the relation that asks for the subject


@dataclass(frozen=True, slots=True)
class Profile:
    """What the rules read off one question.

    Attributes:
        key: The words as they stand, for telling whether two questions are equal.
        content: Normal words that carry the fact, without repetition, in order.
        names: Those of them that are written as names; empty where a question has no capital letters.
        ordinals: Numbers that stand as ordinals: "second", "14th".
        relations: (family, relation) of each word that the lexicon has in a family.
        negated: Whether the question asks for what is not.
        when: Whether it asks for a time.
        text: Normal words between spaces, for finding a phrase.
        golds: Keys of the gold answers.
        gold_words: Normal words of each gold answer.
        gold_phrases: The same in order, between spaces, for finding them in a text.
        dates, quantities: Gold answers that are values.
        facts: Structured facts, where the rows have them.
        form: Relation and subject, where the question fills a form of its benchmark.
    """

    key: str
    content: tuple[str, ...]
    names: frozenset[str]
    ordinals: frozenset[str]
    relations: frozenset[Relation]
    negated: bool
    when: bool
    text: str
    golds: frozenset[str]
    gold_words: frozenset[frozenset[str]]
    gold_phrases: frozenset[str]
    dates: tuple[Day, ...]
    quantities: frozenset[Quantity]
    facts: frozenset[Fact]
    form: Form | None


_WHEN = re.compile(r"\b(?:when|what year|which year|last time|first time|what date|what day)\b")


@lru_cache(maxsize=1 << 17)
def profile(question: Question) -> Profile:
    """The profile of a question."""
    asked = normal_words(question.question)
    content = tuple(dict.fromkeys(word for word in asked if word not in STOP))
    golds = frozenset(key for answer in question.answers if (key := answer_key(answer)))
    phrases = [[word for word in normal_words(gold) if word not in LITTLE] for gold in golds]
    values = [answer for answer in question.answers if any(word[:1].isdigit() for word in normal_words(answer))]
    folded = words(question.question)
    return Profile(
        key=" ".join(words(question_key(question.question))),
        content=content,
        names=_names(question.question),
        ordinals=frozenset(normal(word) for word in folded if _is_ordinal(word)),
        relations=frozenset(pair for word in asked for pair in relations_of(word)),
        negated=not NEGATION.isdisjoint(asked),
        when=bool(_WHEN.search(" ".join(folded))),
        text=f" {' '.join(word for word in asked if word not in LITTLE)} ",
        golds=golds,
        gold_words=frozenset(frozenset(phrase) for phrase in phrases if phrase),
        gold_phrases=frozenset(_phrases(question.answers)),
        dates=tuple(day for answer in values if (day := _date(answer))),
        quantities=frozenset(amount for answer in values if (amount := quantity(answer))),
        facts=facts(question),
        form=form(question),
    )


def forget_profiles() -> None:
    """Empty the caches that hold whole texts; what is known of single words stays."""
    profile.cache_clear()
    words.cache_clear()


def says_something(phrase: Iterable[str]) -> bool:
    """Whether words can tell one thing from another: a name, a year or several words, not a small or a common one."""
    every = list(phrase)
    weights = [weight(word) for word in every if not word.isdigit()]
    return any(map(is_year, every)) or max(weights, default=0.0) >= NAMING or sum(weights) >= 2 * NAMING


def _phrases(golds: Sequence[str]) -> Iterator[str]:
    """Normal words of the gold answers that a text can be searched for, between spaces.

    Numbers and what can be told from other words; of a short list also common words that are written as a name: Paris.
    """
    for gold in golds:
        phrase = [word for word in normal_words(gold) if word not in LITTLE]
        named = len(golds) <= FEW and gold[:1].isupper() and any(weight(word) >= COMMON for word in phrase)
        if named or says_something(phrase) or "".join(phrase).isdigit():
            yield f" {' '.join(phrase)} "


def _is_ordinal(word: str) -> bool:
    return word in _ORDINALS[1:] or bool((match := _ORDINAL.fullmatch(word)) and match[1] != "1")


def _names(question: str) -> frozenset[str]:
    """Normal forms of words with a capital letter, those that open a sentence or that everybody uses aside."""
    if question == question.lower():
        return frozenset()
    written = (normal(word) for name in _CAPITALISED.findall(_unmarked(question)) for word in words(name))
    return frozenset(word for word in written if word not in STOP | CALENDAR and weight(word) >= NAMING)


_WEEKDAY = re.compile(r"^(?:on )?(?:mon|tues|wednes|thurs|fri|satur|sun)day,? ", re.IGNORECASE)


def _date(answer: str) -> Day | None:
    """The date that an answer is, with as much as it says of year, month and day."""
    if is_year(bare := answer.strip(" .")):
        return int(bare), None, None
    return date(_WEEKDAY.sub("", answer))


def facts(question: Question) -> frozenset[Fact]:
    """(benchmark, subject, relation, object) of each row that has them, inverse relations turned round."""
    inverse = benchmarks()[question.benchmark].inverse if question.benchmark in benchmarks() else {}
    found = set()
    for row in question.metadata:
        subject, relation, object_ = (str(row.get(part) or "") for part in ("subject", "relation", "object"))
        if subject and relation and object_:
            if relation in inverse:
                subject, relation, object_ = object_, inverse[relation], subject
            found.add((question.benchmark, subject, relation, object_))
    return frozenset(found)


@cache
def _forms_of(benchmark: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    known = benchmarks().get(benchmark)
    texts = ((relation, re.escape(question_key(text))) for relation, text in (known.forms if known else {}).items())
    return tuple((relation, re.compile(text.replace(r"\{\}", "([^?]+)"))) for relation, text in texts)


def form(question: Question) -> Form | None:
    """Relation and subject of a question that fills a form of its benchmark, such as "What is the capital of {}?"."""
    asked = question_key(question.question)
    for relation, pattern in _forms_of(question.benchmark):
        if match := pattern.fullmatch(asked):
            inverse = benchmarks()[question.benchmark].inverse
            turned = inverse.get(relation) or next((name for name, of in inverse.items() if of == relation), None)
            return Form(question.benchmark, relation, " ".join(words(match[1])), turned)
    return None
