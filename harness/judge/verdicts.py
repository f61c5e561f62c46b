"""What a judge says: a Grade, or a JudgeFailure, which is something else and never becomes a number.

A failure leaves the mean in evaluation (and is reported as a rate), gives the trainer no reward, and is counted in
pass@k. Scoring it as a wrong answer would measure the judge's server, not the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol


class Grade(StrEnum):
    """The verdict on an answer."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NOT_ATTEMPTED = "not_attempted"


Reason = Literal["timeout", "unparsable", "server"]


@dataclass(frozen=True, slots=True)
class JudgeFailure:
    """No verdict could be had.

    Attributes:
        reason: Why, in one word.
        detail: What happened, for people to read.
    """

    reason: Reason
    detail: str = ""


Judgement = Grade | JudgeFailure


@dataclass(frozen=True, slots=True)
class Triple:
    """What is judged: an answer to a question, beside the gold answers. Equal triples get one judgement."""

    question: str
    golds: tuple[str, ...]
    answer: str


class Judge(Protocol):
    """Anything that grades answers. One object serves evaluation, reward and analysis."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What makes two judges' verdicts comparable: kind, version, model, server, prompt digest. Holds no key."""
        ...

    @property
    def can_fail(self) -> bool:
        """Whether a JudgeFailure is possible."""
        ...

    def preflight(self) -> None:
        """Make sure that the judge can work, before anything else is spent.

        Raises:
            RequestError: The server refuses the key, the model or the request, or does not answer as a judge.
            WorkError: The server cannot be reached, or is not able to answer now.
        """
        ...

    def grade(self, triples: Sequence[Triple]) -> list[Judgement]:
        """One judgement per triple, in order. Failures are returned, never raised."""
        ...
