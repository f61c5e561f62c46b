"""Candidates: which pairs of questions are worth deciding?

The union of what several retrievers find, each of which sees something that the others miss: the same words, the same
fact, a common answer beside a common rare word, an answer of each in the other's text, similar words (BM25), similar
meaning (sentence embeddings, where a model is named). What is no candidate is never compared, so the union aims at
recall; deciding a pair is cheap.

What surprises: the pool is sorted by id first, and ties go to the first in that order, so the same questions give the
same candidates whatever order they come in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from closedbook.harness.dedup.profiles import FEW, Fact, Profile, profile, says_something, weight
from closedbook.harness.questions import Question

if TYPE_CHECKING:
    from numpy.typing import NDArray

RETRIEVAL = "words-2"  # name and version of the retrievers that see words; a change of any candidate is a new version
NEIGHBOURS = 10  # candidates that a ranking retriever may name for a question
TELLING = 0.4  # weight of a word that must be shared beside an answer
LONGEST_PHRASE = 6  # words of an answer that is looked for in a text

Retriever = Callable[[Sequence[Question]], Iterator[Sequence[int]]]
"""For each query the positions of its candidates in the pool, the best first."""


def highest(scores: NDArray[np.float32], count: int) -> list[int]:
    """Positions of the highest scores above 0; of equal ones the first, whatever the processor."""
    hits = np.flatnonzero(scores > 0)
    if len(hits) > count:  # all that reach the last place, so that ties are broken by position alone
        hits = hits[scores[hits] >= np.partition(scores[hits], -count)[-count]]
    return [int(at) for at in hits[np.argsort(-scores[hits], kind="stable")[:count]]]


def _keys(seen: Profile) -> list[str | Fact]:
    return [seen.key, *seen.facts]


def same_words(pool: Sequence[Question]) -> Retriever:
    """Questions of the same words, and questions that share a structured fact; all of them."""
    by_key: dict[str | Fact, list[int]] = defaultdict(list)
    for at, question in enumerate(pool):
        for key in _keys(profile(question)):
            by_key[key].append(at)

    def retrieve(queries: Sequence[Question]) -> Iterator[Sequence[int]]:
        for query in map(profile, queries):
            yield sorted({at for key in _keys(query) for at in by_key.get(key, ())})

    return retrieve


def lexical_terms(seen: Profile) -> list[str]:
    """Words that BM25 sees: the question's content and its shortest answers, so that a reversal is near too."""
    shortest = sorted(seen.gold_phrases, key=lambda phrase: (len(phrase), phrase))[:5]
    return sorted({*seen.content, *chain.from_iterable(phrase.split() for phrase in shortest)})


def lexical(pool: Sequence[Question], count: int = NEIGHBOURS) -> Retriever:
    """The nearest questions by BM25."""
    import bm25s

    documents = [lexical_terms(profile(question)) for question in pool]
    known = {term for document in documents for term in document}
    index = bm25s.BM25()
    if known:
        index.index(documents, show_progress=False)

    def retrieve(queries: Sequence[Question]) -> Iterator[Sequence[int]]:
        for query in queries:
            terms = [term for term in lexical_terms(profile(query)) if term in known]
            yield highest(index.get_scores(terms), count) if terms else []

    return retrieve


def _answer_traits(seen: Profile) -> set[Hashable]:
    """Traits of which two questions have one in common wherever their answers agree."""
    traits: set[Hashable] = {*seen.golds, *seen.gold_words, *seen.quantities}
    traits |= {day[:1] if day[0] else day[1:] for day in seen.dates}
    if len(seen.golds) <= FEW:
        traits |= {("part", word) for words in seen.gold_words for word in words if says_something([word])}
    return traits


def common_answer(pool: Sequence[Question]) -> Retriever:
    """Questions whose answers agree and that share a word, or both mention one of their own answers; all of them."""
    by_trait: dict[Hashable, list[int]] = defaultdict(list)
    by_word: dict[str | bool, set[int]] = defaultdict(set)
    for at, question in enumerate(pool):
        seen = profile(question)
        for trait in _answer_traits(seen):
            by_trait[trait].append(at)
        for word in _shared_traits(seen):
            by_word[word].add(at)

    def retrieve(queries: Sequence[Question]) -> Iterator[Sequence[int]]:
        for query in map(profile, queries):
            near = {at for trait in _answer_traits(query) for at in by_trait.get(trait, ())}
            yield sorted(at for at in near if any(at in by_word.get(word, ()) for word in _shared_traits(query)))

    return retrieve


def _shared_traits(seen: Profile) -> list[str | bool]:
    words: list[str | bool] = [word for word in seen.content if weight(word) >= TELLING]
    return [*words, True] if any(phrase in seen.text for phrase in seen.gold_phrases) else words


def exchanged_answers(pool: Sequence[Question]) -> Retriever:
    """Questions whose answer the query mentions and that mention an answer of the query; all of them."""
    by_phrase: dict[str, list[int]] = defaultdict(list)
    for at, question in enumerate(pool):
        for phrase in profile(question).gold_phrases:
            by_phrase[phrase].append(at)
    texts = [profile(question).text for question in pool]

    def retrieve(queries: Sequence[Question]) -> Iterator[Sequence[int]]:
        for query in map(profile, queries):
            named = {at for phrase in _phrases(query.text) for at in by_phrase.get(phrase, ())}
            yield sorted(at for at in named if any(phrase in texts[at] for phrase in query.gold_phrases))

    return retrieve


def _phrases(text: str) -> Iterator[str]:
    words = text.split()
    for start in range(len(words)):
        for end in range(start + 1, min(len(words), start + LONGEST_PHRASE) + 1):
            yield f" {' '.join(words[start:end])} "


Embed = Callable[[Sequence[Question]], "NDArray[np.float32]"]
BLOCK = 256  # queries whose similarities are computed at once


def dense(pool: Sequence[Question], embed: Embed, count: int = NEIGHBOURS) -> Retriever:
    """The nearest questions by the cosine of their embeddings (`embed` gives rows of length 1)."""
    known = embed(pool)

    def retrieve(queries: Sequence[Question]) -> Iterator[Sequence[int]]:
        asked = embed(queries)
        for start in range(0, len(queries), BLOCK):
            for scores in asked[start : start + BLOCK] @ known.T:
                yield highest(scores, count)

    return retrieve


def retrievers(pool: Sequence[Question], embed: Embed | None = None, count: int = NEIGHBOURS) -> dict[str, Retriever]:
    """All retrievers by name, over a pool whose order breaks ties."""
    made: dict[str, Retriever] = {
        "same words": same_words(pool),
        "lexical": lexical(pool, count),
        "common answer": common_answer(pool),
        "exchanged answers": exchanged_answers(pool),
    }
    return made | ({"dense": dense(pool, embed, count)} if embed else {})


def pairs_found(
    queries: Sequence[Question], ordered: Sequence[Question], found_by: Iterable[Retriever]
) -> Iterator[tuple[Question, Question]]:
    """Pairs worth deciding, query by query: the union of what retrievers over `ordered` find."""
    found = [retrieve(queries) for retrieve in found_by]
    for query, near in zip(queries, zip(*found, strict=True), strict=True):
        yield from ((query, ordered[at]) for at in sorted(set(chain(*near))) if ordered[at].id != query.id)


def candidate_pairs(
    queries: Sequence[Question], pool: Iterable[Question], embed: Embed | None = None
) -> Iterator[tuple[Question, Question]]:
    """Pairs worth deciding, query by query: the union of all retrievers."""
    ordered = sorted(pool, key=lambda question: question.id)
    return pairs_found(queries, ordered, retrievers(ordered, embed).values())
