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
"""Why there is no verdict."""


@dataclass(frozen=True, slots=True)
class JudgeFailure:
    """No verdict could be had.

    Attributes:
        reason: Why, in one word. "refused": the server or the model declines; "budget": the money ran out before.
        detail: What happened, for people to read.
        reply: All that the model said, where it said something; no part of what failures are compared by.
    """

    reason: Reason
    detail: str = ""
    reply: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


Judgement = Grade | JudgeFailure
"""What a judge gives for each answer."""


@dataclass(frozen=True, slots=True)
class Triple:
    """What is judged: an answer to a question, beside the gold answers. Equal triples get one judgement."""

    question: str
    golds: tuple[str, ...]
    answer: str

    @classmethod
    def from_row(cls, row: object) -> Triple:
        """The triple in a row with question, golds and answer.

        Raises:
            ValueError: The row has no such fields; says which.
        """
        if not isinstance(row, Mapping):
            raise ValueError("it is no object")
        for name in ("question", "golds", "answer"):
            if row.get(name) is None:
                raise ValueError(f"it has no {name}")
        for name in ("question", "answer"):
            if not isinstance(row[name], str):
                raise ValueError(f"{name} is no text")
        golds = row["golds"]
        if not isinstance(golds, list | tuple) or not all(isinstance(gold, str) for gold in golds):
            raise ValueError("golds is no list of texts")
        if not golds:
            raise ValueError("golds is an empty list")
        return cls(row["question"], tuple(golds), row["answer"])


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

    def stream(
        self, triples: Iterable[Triple], total: int | None = None, *, preflight: bool = False, quiet: bool = False
    ) -> Iterator[Judgement]:
        """One judgement per triple, in order, in memory that does not grow. Failures are returned, never raised.

        Args:
            triples: What is judged.
            total: How many there will be, for the progress bar.
            preflight: Whether to do `preflight` if and when a call turns out to be needed, which may raise.
            quiet: Whether to show no progress bar, where whoever asks has one.
        """
        ...

    def decided_by(self, triple: Triple) -> str:
        """The rule that decides a triple, or "model" where none does."""
        ...

    def grade(self, triples: Iterable[Triple], *, preflight: bool = False, quiet: bool = False) -> list[Judgement]:
        """The same as a list."""
        ...


@dataclass(slots=True)
class Tally:
    """Judgements, counted: grades, and failures by reason with one detail each."""

    grades: Counter[Grade] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    details: dict[Reason, str] = field(default_factory=dict)

    @classmethod
    def of(cls, judgements: Iterable[Judgement]) -> Tally:
        """The tally of some judgements."""
        tally = cls()
        for judgement in judgements:
            tally.add(judgement)
        return tally

    def add(self, judgement: Judgement) -> None:
        """Count one judgement."""
        if isinstance(judgement, JudgeFailure):
            self.reasons[judgement.reason] += 1
            self.details.setdefault(judgement.reason, judgement.detail)
        else:
            self.grades[judgement] += 1

    @property
    def graded(self) -> int:
        """Answers with a grade."""
        return self.grades.total()

    @property
    def failed(self) -> int:
        """Answers without one."""
        return self.reasons.total()

    @property
    def failure_rate(self) -> float:
        """Their share of all, 0 where there are no answers."""
        return self.failed / max(1, self.failed + self.graded)

    def __str__(self) -> str:
        """How many failed, and why most of them."""
        said = f"{self.failed} of {self.failed + self.graded} answers could not be graded"
        for reason, _ in self.reasons.most_common(1):
            said += f" ({reason}: {self.details[reason]})"
        return said
