"""The rules judge: verdicts that need no model.

`sure_grade` decides only what it can decide surely and leaves the rest open; in front of an LLM judge it saves most
calls. Alone, as `RulesJudge`, what it leaves open counts as INCORRECT, so alone it is strict: a right answer in other
words than the gold's is refused.

    >>> sure_grade(Triple("who wrote hamlet", ("William Shakespeare",), "It was William Shakespeare."))
    <Grade.CORRECT: 'correct'>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from closedbook.harness.judge.verdicts import Grade, Judgement, Triple
from closedbook.harness.text import answer_key, contains_words, words

VERSION = "rules-1"
LONGEST_MATCH = 50  # words; in a longer text a gold answer may be mentioned without being the answer


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the answer's key equals that of a gold answer; False for an answer without any text."""
    key = answer_key(answer)
    return bool(key) and any(key == answer_key(gold) for gold in golds)


def contains(answer: str, golds: Sequence[str]) -> bool:
    """Whether a gold answer occurs in the answer at word boundaries."""
    return any(contains_words(answer, gold) for gold in golds)


def sure_grade(triple: Triple) -> Grade | None:
    """The grade, or None where no rule is sure.

    A gold answer in a text of at most 50 words is CORRECT; an answer without any word or sign is INCORRECT.
    """
    if not answer_key(triple.answer):
        return Grade.INCORRECT
    if len(words(triple.answer)) <= LONGEST_MATCH and contains(triple.answer, triple.golds):
        return Grade.CORRECT
    return None


class RulesJudge:
    """Rules alone: what they cannot decide is INCORRECT. Never fails."""

    can_fail = False
    identity: Mapping[str, str] = {"kind": "rules", "version": VERSION}

    def grade(self, triples: Sequence[Triple]) -> list[Judgement]:
        """One grade a triple, in order."""
        return [sure_grade(triple) or Grade.INCORRECT for triple in triples]
