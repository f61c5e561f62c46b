"""Question: one fact asked for, the unit that everything else counts.

The id is a hash of the benchmark and the folded question, so the same question has the same id on every mirror of a
data set. What surprises: two rows that ask the same words are one Question with the answers of both, because a model
that sees only the words cannot tell the rows apart (PopQA has 852 such strings).

    >>> make_question("nq", "who wrote  Hamlet?", ["Shakespeare"]).id == question_id("nq", "Who wrote hamlet")
    True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from closedbook.harness.text import clean, fold

__all__ = ["Metadata", "Question", "by_id", "make_question", "merge", "question_id"]

Metadata = Mapping[str, str | int | None]
"""What a source says of one row, by our name of the column."""

ID_LENGTH = 16  # hexadecimal digits, 64 bits: a clash among 300,000 questions has probability 2e-9


@dataclass(frozen=True, slots=True)
class Question:
    """One question and all answers that count as right.

    Attributes:
        id: Content hash of benchmark and folded question.
        benchmark: Name of the benchmark, such as "popqa".
        question: The text as the source has it, white space cleaned.
        answers: Gold answers in NFKC, none empty, unique up to case, in the source's order.
        metadata: What the source says of each row that was merged into this question, one mapping a row.
    """

    id: str
    benchmark: str
    question: str
    answers: tuple[str, ...]
    metadata: tuple[Metadata, ...] = field(default=(), hash=False)


def question_key(question: str) -> str:
    """The question as ids see it: folded, without the question mark that some mirrors append."""
    return fold(question).rstrip(" ?")


def question_id(benchmark: str, question: str) -> str:
    """The id of a question: 16 hexadecimal digits of SHA-256 over benchmark and question key."""
    return hashlib.sha256(f"{benchmark}\n{question_key(question)}".encode()).hexdigest()[:ID_LENGTH]


def unique_answers(answers: Iterable[str]) -> tuple[str, ...]:
    """Cleaned answers without empty ones and without twins that differ in case alone; the first spelling stays."""
    by_fold: dict[str, str] = {}
    for answer in map(clean, answers):
        if answer:
            by_fold.setdefault(fold(answer), answer)
    return tuple(by_fold.values())


def make_question(benchmark: str, question: str, answers: Iterable[str], metadata: Metadata | None = None) -> Question:
    """A Question from one row of a source."""
    return Question(
        id=question_id(benchmark, question),
        benchmark=benchmark,
        question=" ".join(question.split()),
        answers=unique_answers(answers),
        metadata=() if metadata is None else (metadata,),
    )


def merge(questions: Iterable[Question]) -> list[Question]:
    """One Question an id, with the union of the answers and the metadata of all rows, in order of first appearance."""
    merged: dict[str, Question] = {}
    for new in questions:
        old = merged.get(new.id)
        merged[new.id] = new if old is None else _union(old, new)
    return list(merged.values())


def _union(old: Question, new: Question) -> Question:
    return replace(old, answers=unique_answers(old.answers + new.answers), metadata=old.metadata + new.metadata)


def ids_digest(ids: Iterable[str]) -> str:
    """SHA-256 over the sorted ids, one a line: equal for equal sets of questions, whatever their order."""
    return hashlib.sha256("".join(f"{i}\n" for i in sorted(ids)).encode()).hexdigest()


def by_id(questions: Sequence[Question]) -> dict[str, Question]:
    """Questions keyed by id."""
    return {question.id: question for question in questions}
