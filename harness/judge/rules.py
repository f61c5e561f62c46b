"""The rules judge: verdicts that need no model.

`sure_grade` decides only what is beyond doubt: an answer that equals a gold answer, or an empty one. It stands in front
of an LLM judge, which decides the rest. `RulesJudge` has nobody to ask, so it also takes a gold answer inside a short
text for right, and everything else for wrong; "It is not Paris" fools it, and so does a list of candidates.

    >>> triple = Triple("who wrote hamlet", ("William Shakespeare",), "It was William Shakespeare.")
    >>> sure_grade(triple), RulesJudge().grade([triple])
    (None, [<Grade.CORRECT: 'correct'>])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from closedbook.harness.judge.verdicts import Grade, Judgement, Triple
from closedbook.harness.text import answer_key, contains_words, words

VERSION = "judge-rules-1"  # a change of any grade is a new version
LONGEST_MATCH = 50  # words; in a longer text a gold answer may be mentioned without being the answer


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the answer's key equals that of a gold answer; False for an answer without any text."""
    key = answer_key(answer)
    return bool(key) and any(key == answer_key(gold) for gold in golds)


def contains(answer: str, golds: Sequence[str]) -> bool:
    """Whether a gold answer occurs in the answer at word boundaries."""
    return any(contains_words(answer, gold) for gold in golds)


def sure_grade(triple: Triple) -> Grade | None:
    """CORRECT for an exact match, INCORRECT for an answer without any text, None where only a reader can tell."""
    if not answer_key(triple.answer):
        return Grade.INCORRECT
    return Grade.CORRECT if exact_match(triple.answer, triple.golds) else None


class RulesJudge:
    """Rules alone: a gold answer in a text of at most 50 words is CORRECT, the rest INCORRECT. Never fails."""

    can_fail = False
    identity: Mapping[str, str] = {"kind": "rules", "version": VERSION}

    def preflight(self) -> None:
        """Nothing can be missing."""

    def grade(self, triples: Sequence[Triple]) -> list[Judgement]:
        """One grade per triple, in order."""
        return [self._grade(triple) for triple in triples]

    def _grade(self, triple: Triple) -> Grade:
        short = len(words(triple.answer)) <= LONGEST_MATCH
        return Grade.CORRECT if short and contains(triple.answer, triple.golds) else Grade.INCORRECT
