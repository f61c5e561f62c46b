"""The rules decider: does one question state the fact that another one asks for?

It sees a pair of Questions and no other row, only tables that ship with the package (how rare a word is, the forms of
a benchmark's questions), so a verdict can be explained and repeated for one pair alone. Two questions can state the
same fact only if their answers agree, or if each mentions the answer of the other one (a reversal). What then decides
is what is left when the words that they share are taken away: extra words on one side only add detail ("the song", "in
1891"); distinct words on both sides name two things.

What surprises: the rules lean towards "contained". A question dropped without need costs a little test size; a fact
that leaked makes the whole measurement wrong.

    >>> from closedbook.harness.questions import make_question
    >>> france = make_question("nq", "what is the capital of france", ["Paris"])
    >>> paris = make_question("nq", "of which country is paris the capital", ["France"])
    >>> decide_by_rules(france, paris).rule
    'reversal'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from math import fsum

from closedbook.harness.dedup.decisions import Decision, Pair, Verdict
from closedbook.harness.dedup.profiles import (
    FEW,
    NAMING,
    PEOPLES,
    SUPERLATIVES,
    Day,
    Profile,
    is_year,
    normal,
    profile,
    relations_of,
    says_something,
    telling,
    weight,
)
from closedbook.harness.questions import Question
from closedbook.harness.text import answer_key

RULES = "rules-3"  # name and version of the rules; a change of any verdict is a new version

REASONS = {  # what each rule says, in the order in which they are tried
    "fact": "both carry structured facts of one benchmark; contained if they share one, else not",
    "form": "both fill forms of one benchmark with another subject or relation; not contained",
    "equal": "the same words, and an answer agrees; contained, or unsure if only some answers of PopQA's do",
    "homonym": "the same words, and no answer agrees; two things of one name, not contained",
    "answer": "no answer agrees, and they do not mention each other's; not contained",
    "negation": "one asks for what is not; not contained",
    "relation": "other relations, such as wrote and sang, or won and played in; not contained",
    "record": "one asks for the most, the other one for one event; not contained",
    "edition": "other years, numbers or ranks; not contained",
    "alias": "the answers agree, and each mentions one of them: both ask for another name of one thing; contained",
    "paraphrase": "an answer agrees, and what they share outweighs what is left of the poorer one; contained",
    "reversal": "each mentions an answer of the other one, and little else is left of the poorer one; contained",
    "subject": "the same answer to a question about something else; not contained",
    "mention": "they mention each other's answers, but too much is left; not contained",
}

SIMILAR = 0.75  # share of the weight that questions with a common answer must share to state the same fact
UNSURE = 0.55  # from here on it is an open question
SHARED = 0.9  # the least weight of shared words: about two words that tell something
ALL_SHARED = 0.5  # the same, where all of one question is in the other one
APART = 2.3  # weight that may be left over on the poorer side of a reversal
BARE = 1.0  # the same, where nothing but the answers is shared
TYPO = 0.8  # similarity of letters at which two long words are one
(WIN,) = (relation for relation in relations_of(normal("win")) if relation[0] == "contest")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two questions laid side by side.

    Attributes:
        shared: Content words of both, each as it stands in the first and in the second question.
        left, right: What is left of the first and of the second question.
    """

    shared: tuple[tuple[str, str], ...]
    left: tuple[str, ...]
    right: tuple[str, ...]


def overlap(a: Profile, b: Profile) -> Overlap:
    """What two questions share, and what is left of each.

    Words are shared if they are equal, stand for one relation ("wrote", "author"), are one word parted ("day light") or
    are spelled alike; of several possible pairs the most alike is taken first, whichever question comes first.
    """
    shared = [(word, word) for word in a.content if word in b.content]
    left = [word for word in a.content if word not in b.content]
    right = [word for word in b.content if word not in a.content]
    shared += [(joined, joined) for joined in _compounds(left, right) + _compounds(right, left)]
    near = ((_likeness(x, y), x, y) for x in left for y in right)
    for _, x, y in sorted((pair for pair in near if pair[0]), key=lambda pair: (-pair[0], *sorted(pair[1:]))):
        if x in left and y in right:
            left.remove(x)
            right.remove(y)
            shared.append((x, y))
    return Overlap(tuple(shared), tuple(left), tuple(right))


def _likeness(a: str, b: str) -> float:
    """How much two normal words are one, in [0, 1]; numbers are never alike."""
    if not relations_of(a).isdisjoint(relations_of(b)):
        return 1.0
    if a.isdigit() or b.isdigit() or min(len(a), len(b)) < 4:
        return 0.0
    if min(len(a), len(b)) > 4 and (a.startswith(b) or b.startswith(a)):
        return 1.0
    short, long = sorted((a, b), key=len)
    if 2 * sum(letter in long for letter in short) < TYPO * (len(a) + len(b)) - 1e-9:
        return 0.0  # too few common letters in any order, which is found out ten times as fast
    ratio = SequenceMatcher(None, min(a, b), max(a, b), autojunk=False).ratio()
    return ratio if ratio >= TYPO else 0.0


def _compounds(joined: list[str], parted: list[str]) -> list[str]:
    """Take out of both lists what is one word there and two words here, and return it."""
    found = []
    for word in list(joined):
        for at in range(len(parted) - 1):
            if word in ((two := parted[at] + parted[at + 1]), normal(two)):
                joined.remove(word)
                del parted[at : at + 2]
                found.append(word)
                break
    return found


def agree(a: Profile, b: Profile) -> bool:
    """Whether the gold answers of two questions have one in common: as a text, as a value, or as a part of another."""
    if a.golds & b.golds or a.gold_words & b.gold_words or a.quantities & b.quantities:
        return True
    if any(_consistent(x, y) for x in a.dates for y in b.dates):
        return True
    if (a.quantities and b.quantities) or (a.dates and b.dates):
        return False  # values that differ; that they share a digit or a month means nothing
    if min(len(a.golds), len(b.golds)) > FEW:
        return False
    return any((x <= y or y <= x) and says_something(x & y) for x in a.gold_words for y in b.gold_words)


def _consistent(a: Day, b: Day) -> bool:
    """Whether two dates can be one day, and both say enough: the year, or month and day."""
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    enough = (a[0] is not None and b[0] is not None) or len(both) == 2
    return enough and all(x == y for x, y in both)


def mentioned(golds: Profile, question: Profile) -> frozenset[str]:
    """Words of the gold answers of one question that the text of another one names."""
    found = (phrase for phrase in golds.gold_phrases if phrase in question.text)
    return frozenset(word for phrase in found for word in phrase.split())


def _names_itself(seen: Profile) -> bool:
    """Whether a question mentions one of its own answers, as one for another name of a thing does."""
    return not all(word.isdigit() for word in mentioned(seen, seen))


def conflict(a: Profile, b: Profile, laid: Overlap) -> str | None:
    """Why two questions cannot ask for one fact, whatever else they share; None where nothing speaks against it."""
    if a.negated != b.negated:
        return "negation"
    for family in {family for family, _ in a.relations} & {family for family, _ in b.relations}:
        if not any(pair[0] == family for pair in a.relations & b.relations):
            return "relation"
    if (a.when or b.when) and (WIN in a.relations) != (WIN in b.relations):
        return "relation"  # to play, or to be there, is not to win
    for one, other in ((laid.left, b.content), (laid.right, a.content)):
        if "most" in one and SUPERLATIVES.isdisjoint(other):
            return "record"
    return "edition" if _other_edition(a, b, laid) else None


def _other_edition(a: Profile, b: Profile, laid: Overlap) -> bool:
    """Whether numbers or years stand against each other, or an ordinal on one side alone ("the second most")."""
    ours, theirs = ({word for word in words if word.isdigit()} for words in (laid.left, laid.right))
    if ours & a.ordinals or theirs & b.ordinals:
        return True
    if "most" in a.content and "most" in b.content and {w for w in ours ^ theirs if not is_year(w)}:
        return True  # most games of 60 points, most points
    years, other_years = {word for word in ours if is_year(word)}, {word for word in theirs if is_year(word)}
    neighbours = any(abs(int(year) - int(other)) == 1 for year in years for other in other_years)
    return bool((years and other_years and not neighbours) or (ours - years and theirs - other_years))


def _apart(a: Profile, b: Profile, laid: Overlap, answers: frozenset[str]) -> bool:
    """Whether each question names something that the other one does not; peoples count against peoples only."""

    def named(words: Iterable[str], names: frozenset[str]) -> set[str]:
        naming = (word for word in words if word in names or word in PEOPLES)
        return {word for word in naming if not word.isdigit() and word not in answers}

    ours, theirs = named(laid.left, a.names), named(laid.right, b.names)
    return bool((ours - PEOPLES and theirs - PEOPLES) or (ours & PEOPLES and theirs & PEOPLES))


@dataclass(frozen=True, slots=True)
class Balance:
    """What two questions share and what is left of each, by weight.

    Attributes:
        shared: Weight of the shared words.
        told: The same, counting only what a word says beyond what any word says.
        poorer, richer: What is left of the two questions, counted like `told`, the smaller one first.
    """

    shared: float
    told: float
    poorer: float
    richer: float

    @property
    def score(self) -> float:
        """How much of what would have to be shared is, in [0, 1]."""
        if not self.poorer and self.told < NAMING <= self.richer:
            return 0.0  # "when does the new season start", and the other one says of what
        return self.told / (self.told + self.poorer) if self.poorer else float(bool(self.shared))


def balance(a: Profile, b: Profile, laid: Overlap, answers: frozenset[str]) -> Balance:
    """Weigh two questions that are laid side by side; numbers are compared as editions, answers not at all."""

    def rest(words: Iterable[str], names: frozenset[str]) -> float:
        return fsum(telling(word, names) for word in words if not word.isdigit() and word not in answers)

    names = a.names | b.names
    return Balance(
        fsum(max(map(weight, pair)) for pair in laid.shared),
        fsum(max(telling(word, names) for word in pair) for pair in laid.shared),
        *sorted((rest(laid.left, a.names), rest(laid.right, b.names))),
    )


def _by_form(a: Profile, b: Profile) -> tuple[Verdict, str, float] | None:
    """The verdict on two questions that fill forms of one benchmark; None for other pairs."""
    if not (a.form and b.form and a.form.benchmark == b.form.benchmark):
        return None
    if a.form == b.form:
        if a.golds == b.golds:
            return Verdict.CONTAINED, "equal", 1.0
        # one thing with more than one answer, or two things of one name that share an answer
        return (Verdict.UNSURE, "equal", 1.0) if agree(a, b) else (Verdict.NOT_CONTAINED, "homonym", 1.0)
    inverse = a.form.inverse == b.form.relation  # each has at most one, and it is the other's too
    if inverse and answer_key(a.form.subject) in b.golds and answer_key(b.form.subject) in a.golds:
        return Verdict.CONTAINED, "reversal", 1.0
    return Verdict.NOT_CONTAINED, "form", 0.0


def _rule(a: Profile, b: Profile) -> tuple[Verdict, str, float]:
    if a.facts and b.facts and next(iter(a.facts))[0] == next(iter(b.facts))[0]:
        # both sides name their facts in the same vocabulary, so no common one means different facts
        return (Verdict.CONTAINED, "fact", 1.0) if a.facts & b.facts else (Verdict.NOT_CONTAINED, "fact", 0.0)
    if by_form := _by_form(a, b):
        return by_form
    known = bool(a.golds and b.golds)
    yes = Verdict.CONTAINED if known else Verdict.UNSURE  # without answers to compare, nothing is certain
    alike, ours, theirs = agree(a, b) or not known, mentioned(a, b), mentioned(b, a)
    if a.key == b.key:
        return (yes, "equal", 1.0) if alike else (Verdict.NOT_CONTAINED, "homonym", 1.0)
    if not (alike or (ours and theirs)):
        return Verdict.NOT_CONTAINED, "answer", 0.0
    laid, answers = overlap(a, b), ours | theirs
    weighed = balance(a, b, laid, answers)
    score = weighed.score
    if against := conflict(a, b, laid):
        return Verdict.NOT_CONTAINED, against, score
    if alike and _names_itself(a) and _names_itself(b):
        return (yes if score >= UNSURE else Verdict.UNSURE), "alias", score
    near = score >= UNSURE and weighed.shared >= (SHARED if laid.left and laid.right else ALL_SHARED)
    if alike and near and not _apart(a, b, laid, answers):
        return (yes if score >= SIMILAR else Verdict.UNSURE), "paraphrase", score
    if ours and theirs and _turned(weighed, ours, theirs):
        return (yes if weighed.shared else Verdict.UNSURE), "reversal", score
    return Verdict.NOT_CONTAINED, "subject" if alike else "mention", score


def _turned(weighed: Balance, ours: frozenset[str], theirs: frozenset[str]) -> bool:
    """Whether questions that mention each other's answers state one fact: little else is left of the poorer one."""
    if all(word.isdigit() for word in ours) or all(word.isdigit() for word in theirs):
        return weighed.shared >= SHARED  # a year or a count is mentioned often: something else must be shared too
    if not weighed.shared:
        return says_something(ours) and says_something(theirs) and weighed.poorer <= BARE
    return weighed.poorer <= APART


def decide_by_rules(question: Question, candidate: Question) -> Decision:
    """Whether `candidate` states the fact that `question` asks for; symmetric in its verdict.

    The first rule that applies decides; REASONS tells them.
    """
    verdict, rule, score = _rule(profile(question), profile(candidate))
    return Decision(question.id, candidate.id, verdict, rule, round(score, 4), RULES)


def rules(pairs: Iterable[Pair]) -> Iterator[Decision]:
    """The rules as a decider."""
    return (decide_by_rules(question, candidate) for question, candidate in pairs)
