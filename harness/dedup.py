"""Deduplication at the level of facts: which training question states the fact that a test question asks for?

Three steps, each replaceable: candidates (which pairs are worth a look), a decider (is one contained in the other?),
and the ledger of its decisions. The rules decider sees a pair of Questions and nothing else, neither corpus statistics
nor other rows, so a verdict can be explained and repeated for one pair alone.

What surprises: the rules lean towards "contained". A question dropped without need costs a little test size; a fact
that leaked makes the whole measurement wrong.

    >>> from closedbook.harness.questions import make_question
    >>> france = make_question("nq", "what is the capital of france", ["Paris"])
    >>> paris = make_question("nq", "of which country is paris the capital", ["France"])
    >>> decide_by_rules(france, paris).rule
    'reversal'
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from closedbook.harness.questions import Question, question_key
from closedbook.harness.sources import benchmarks
from closedbook.harness.text import answer_key, answer_keys, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

RULES = "rules-1"  # name and version of the rules; a change of any verdict is a new version
SIMILAR = 0.4  # Dice coefficient of content words at which questions with a common answer state the same fact
NEIGHBOURS = 20  # lexical candidates a question

Fact = tuple[str, str, str, str]


class Verdict(StrEnum):
    """Whether the fact of a question is stated by another one. UNSURE counts as contained: the question is dropped."""

    CONTAINED = "contained"
    NOT_CONTAINED = "not_contained"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the ledger: `question` compared with `candidate`.

    Attributes:
        rule: The rule that decided, or the reason of another decider.
        score: Similarity in [0, 1] that the rule saw.
    """

    question: str
    candidate: str
    verdict: Verdict
    rule: str
    score: float
    decider: str = RULES

    @property
    def drops(self) -> bool:
        """Whether the question counts as contained."""
        return self.verdict is not Verdict.NOT_CONTAINED

    def reversed(self) -> Decision:
        """The same decision with the roles exchanged, for `drop="train"`."""
        return replace(self, question=self.candidate, candidate=self.question)


Decider = Callable[[Question, Question], Decision]

# Words that carry no fact: function words, question words, and the answer types that questions name.
_STOP = """
a an the of in on at to for from by with and or as into is are was were be been being am do does did has have had
can could will would what which who whom whose when where why how many much name named names called known that this
these those there it its his her their he she they you we year date time kind type
"""
_STOP_WORDS = frozenset(_STOP.split())


def _stem(word: str) -> str:
    for suffix, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)] + instead
    return word


@dataclass(frozen=True, slots=True)
class _Profile:
    """What the rules read off one question."""

    key: str
    content: frozenset[str]
    golds: frozenset[str]
    gold_parts: frozenset[str]
    text: str
    facts: frozenset[Fact]


def _parts(key: str) -> Iterator[str]:
    """Runs of up to six words of an answer key that can name the same thing as the whole; a bare number cannot."""
    tokens = key.split()
    for start in range(len(tokens)):
        for end in range(start + 1, min(len(tokens), start + 6) + 1):
            part = " ".join(tokens[start:end])
            if len(part) > 2 and not part.replace(" ", "").replace(".", "").isdigit():
                yield part


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


@lru_cache(maxsize=1 << 17)
def _profile(question: Question) -> _Profile:
    golds = answer_keys(question.answers)
    return _Profile(
        key=" ".join(words(question_key(question.question))),
        content=frozenset(_stem(w) for w in words(question.question) if w not in _STOP_WORDS),
        golds=golds,
        gold_parts=frozenset(part for gold in golds for part in _parts(gold)),
        text=f" {answer_key(question.question)} ",
        facts=facts(question),
    )


def _similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Dice coefficient of two sets, 1 for two empty ones."""
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


def _answers_agree(a: _Profile, b: _Profile) -> bool:
    return bool(a.golds & b.golds or a.golds & b.gold_parts or b.golds & a.gold_parts)


def _answers_exchanged(a: _Profile, b: _Profile) -> bool:
    """Whether each question asks for what the other one mentions."""
    return any(f" {g} " in b.text for g in a.golds) and any(f" {g} " in a.text for g in b.golds)


def _rule(a: _Profile, b: _Profile, score: float) -> tuple[Verdict, str]:
    if a.facts and b.facts:
        if a.facts & b.facts:
            return Verdict.CONTAINED, "fact"
        # both sides name their facts in the same vocabulary, so no common one means different facts
        if next(iter(a.facts))[0] == next(iter(b.facts))[0]:
            return Verdict.NOT_CONTAINED, "fact"
    agree = _answers_agree(a, b)
    if a.key == b.key:
        return (Verdict.CONTAINED, "equal") if agree else (Verdict.NOT_CONTAINED, "homonym")
    if agree and score >= SIMILAR:
        return Verdict.CONTAINED, "paraphrase"
    if a.content & b.content and _answers_exchanged(a, b):
        return Verdict.CONTAINED, "reversal"
    return Verdict.NOT_CONTAINED, "similarity" if agree else "answer"


def decide_by_rules(question: Question, candidate: Question) -> Decision:
    """Whether `candidate` states the fact that `question` asks for; symmetric in its verdict.

    The first rule that applies decides:
        fact: both carry structured facts of one benchmark; contained if they share one ("capital" and "capital of" are
            one relation), else not.
        equal, homonym: the same words; contained if an answer agrees, else two things of one name.
        paraphrase: an answer agrees and content words are similar (Dice >= 0.4).
        reversal: each question mentions an answer of the other one, and they share a content word.
        similarity, answer: not contained, for want of similar words or of a common answer.
    """
    a, b = _profile(question), _profile(candidate)
    score = _similarity(a.content, b.content)
    verdict, rule = _rule(a, b, score)
    return Decision(question.id, candidate.id, verdict, rule, round(score, 4))


def _lexical_terms(question: Question) -> list[str]:
    """Words that a lexical index sees: the question's content and its shortest answers, so that a reversal is found."""
    profile = _profile(question)
    shortest = sorted(profile.golds, key=lambda gold: (len(gold), gold))[:5]
    answer_terms = {_stem(word) for gold in shortest for word in gold.split()}
    return sorted(profile.content | answer_terms)


def _lexical(queries: Sequence[Question], pool: Sequence[Question]) -> Iterator[list[int]]:
    """Positions in the pool of the NEIGHBOURS nearest to each query, by BM25."""
    import bm25s

    documents = [_lexical_terms(question) for question in pool]
    known = {term for document in documents for term in document}
    if not known:
        yield from ([] for _ in queries)
        return
    index = bm25s.BM25()
    index.index(documents, show_progress=False)
    for query in queries:
        terms = [term for term in _lexical_terms(query) if term in known]
        yield _highest(index.get_scores(terms)) if terms else []


def _highest(scores: NDArray[np.float32]) -> list[int]:
    """Positions of the NEIGHBOURS highest scores above 0; of equal ones the first, whatever the processor."""
    hits = np.flatnonzero(scores > 0)
    return [int(at) for at in hits[np.argsort(-scores[hits], kind="stable")[:NEIGHBOURS]]]


def candidates(queries: Sequence[Question], pool: Iterable[Question]) -> Iterator[tuple[Question, Question]]:
    """Pairs worth deciding: lexical neighbours, questions of the same words, and questions that share a fact.

    The pool is sorted by id first, so its order changes nothing.
    """
    ordered = sorted(pool, key=lambda question: question.id)
    by_key: dict[str, list[int]] = defaultdict(list)
    by_fact: dict[Fact, list[int]] = defaultdict(list)
    for at, question in enumerate(ordered):
        profile = _profile(question)
        by_key[profile.key].append(at)
        for fact in profile.facts:
            by_fact[fact].append(at)
    for query, near in zip(queries, _lexical(queries, ordered), strict=True):
        profile = _profile(query)
        found = {*near, *by_key[profile.key], *(at for fact in profile.facts for at in by_fact.get(fact, ()))}
        yield from ((query, ordered[at]) for at in sorted(found) if ordered[at].id != query.id)


def ledger(
    queries: Sequence[Question], pool: Iterable[Question], decider: Decider = decide_by_rules
) -> Iterator[Decision]:
    """Decisions on all candidate pairs, question by question."""
    return (decider(query, candidate) for query, candidate in candidates(queries, pool))


def strongest(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """For each question that counts as contained, the decision with the highest score (ties: the smallest id)."""
    best: dict[str, Decision] = {}
    for new in decisions:
        old = best.get(new.question)
        if new.drops and (old is None or (-new.score, new.candidate) < (-old.score, old.candidate)):
            best[new.question] = new
    return best


def to_json(decision: Decision) -> str:
    """One line of a ledger file."""
    return json.dumps(asdict(decision))
