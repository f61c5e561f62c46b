"""What a judge says: a Grade, or a JudgeFailure, which is something else and never becomes a number.

A failure leaves the mean in evaluation (and is reported as a rate), gives the trainer no reward, and is counted in
pass@k. Scoring it as a wrong answer would measure the judge's server, not the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol


class Grade(StrEnum):
    """The verdict on an answer."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NOT_ATTEMPTED = "not_attempted"


Reason = Literal["timeout", "refused", "unparsable", "budget", "server"]


@dataclass(frozen=True, slots=True)
class JudgeFailure:
    """No verdict could be had.

    Attributes:
        reason: Why, in one word. "refused": the server or the model declines; "budget": the money ran out before.
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

    def stream(self, triples: Iterable[Triple], total: int | None = None) -> Iterator[Judgement]:
        """One judgement per triple, in order, in memory that does not grow. Failures are returned, never raised.

        `total` is how many there will be, for the progress bar.
        """
        ...

    def grade(self, triples: Iterable[Triple]) -> list[Judgement]:
        """The same as a list."""
        ...


@dataclass(slots=True)
class FailureCount:
    """Counts judgements, and says in one line how many failed and why."""

    graded: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    details: dict[Reason, str] = field(default_factory=dict)

    def add(self, judgement: Judgement) -> None:
        """Count one judgement."""
        if isinstance(judgement, JudgeFailure):
            self.reasons[judgement.reason] += 1
            self.details.setdefault(judgement.reason, judgement.detail)
        else:
            self.graded += 1

    @property
    def failed(self) -> int:
        """Answers without a grade."""
        return self.reasons.total()

    @property
    def share(self) -> float:
        """Their share of all."""
        return self.failed / max(1, self.failed + self.graded)

    def __str__(self) -> str:
        """How many, and why most of them."""
        said = f"{self.failed} of {self.failed + self.graded} answers could not be graded"
        if not self.failed:
            return said
        (reason, _), *_ = self.reasons.most_common(1)
        return f"{said} ({reason}: {self.details[reason]})"
