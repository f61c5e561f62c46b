"""Real questions for the benches, and as many more like them as a bench asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

from closedbook.harness.questions import Question, make_question
from closedbook.harness.sources import benchmarks
from closedbook.harness.splits import read_sources


def questions_of(name: str) -> dict[str, Question]:
    """All questions of a benchmark's source, by id."""
    return {question.id: question for source in read_sources(benchmarks()[name]) for question in source.questions}


def perturbed(question: Question, round_: int, chance: Random) -> Question:
    """The question with two words exchanged and a new one, so that it is another one of the same kind."""
    words = question.question.split()
    if round_:
        a, b = chance.randrange(len(words)), chance.randrange(len(words))
        words[a], words[b] = words[b], f"{words[a]} variant{round_}x{chance.randrange(1000)}"
    return make_question(question.benchmark, " ".join(words), question.answers)


def endless(real: Sequence[Question], chance: Random) -> Iterator[Question]:
    """The real ones as they are, then perturbed again and again."""
    return (perturbed(question, round_, chance) for round_ in count() for question in real)
