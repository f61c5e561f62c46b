"""Decisions: what a decider says of one pair of questions, and which decision drops a question."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from closedbook.harness.questions import Question


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
        score: Similarity in [0, 1] that the decider saw.
        decider: Name and version of who decided.
        reasoning: What a model said for it, or why it failed; may quote the questions.
    """

    question: str
    candidate: str
    verdict: Verdict
    rule: str
    score: float
    decider: str
    reasoning: str = ""

    @property
    def drops(self) -> bool:
        """Whether the question counts as contained."""
        return self.verdict is not Verdict.NOT_CONTAINED

    def reversed(self) -> Decision:
        """The same decision with the roles exchanged, for `drop="train"`."""
        return replace(self, question=self.candidate, candidate=self.question)


Pair = tuple[Question, Question]
Decider = Callable[[Iterable[Pair]], Iterator[Decision]]
"""One decision a pair, in order; a stream, so that a decider that asks a model can ask many at once."""


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
