"""Samples of a model's answers to questions, with their grades: what RFT and DPO choose from and the study counts.

Equal texts of a question are one sample that was drawn several times. What would surprise: an answer that the judge
failed on has no reward, and counts neither as right nor as wrong.

    >>> lines = [QuestionSamples("q1", (Sample("Paris", "Paris", 1.0, (0, 2)), Sample("Rome", "Rome", 0.0, (1,))))]
    >>> lines[0].drawn, lines[0].right, lines[0].failed
    (3, 2, 0)
    >>> count(lines).describe("1 pair")
    'of 1 question 0 have no correct sample, 0 no incorrect one; 1 pair'
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Counts", "QuestionSamples", "Sample", "count"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One text that a model gave to a question.

    Attributes:
        text: What can be trained on.
        answer: The answer in it.
        reward: 1 for right, 0 for wrong, None where the judge failed.
        draws: Numbers of the samples that say so, sorted.
    """

    text: str
    answer: str
    reward: float | None
    draws: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QuestionSamples:
    """The samples of one question, each text once, in the order in which they were first drawn."""

    id: str
    samples: tuple[Sample, ...]

    @property
    def drawn(self) -> int:
        """How many samples there are; their numbers have no gaps."""
        return sum(len(sample.draws) for sample in self.samples)

    def times(self, reward: float | None) -> int:
        """How many samples have that reward."""
        return sum(len(sample.draws) for sample in self.samples if sample.reward == reward)

    @property
    def doubled(self) -> bool:
        """Whether two texts have one number, as where two runs wrote at once."""
        return len({draw for sample in self.samples for draw in sample.draws}) < self.drawn

    @property
    def right(self) -> int:
        """How many samples are right."""
        return self.times(1.0)

    @property
    def failed(self) -> int:
        """How many samples the judge failed on."""
        return self.times(None)

    def among(self, first: int, last: int) -> QuestionSamples:
        """The samples whose numbers are at least `first` and below `last`."""
        kept = ((said, tuple(draw for draw in said.draws if first <= draw < last)) for said in self.samples)
        return QuestionSamples(
            self.id, tuple(Sample(said.text, said.answer, said.reward, draws) for said, draws in kept if draws)
        )


def joined(lines: Iterable[QuestionSamples], n: int | None = None) -> QuestionSamples:
    """One question's samples from several records of it: every draw below n, with the last reward that is known.

    Args:
        lines: All of one question, the oldest first; at least one.
        n: Samples to look at; None for all.
    """
    every = list(lines)
    found: dict[str, Sample] = {}
    for new in (said for line in every for said in line.samples):
        old = found.get(new.text, new)
        draws = {draw for draw in (*old.draws, *new.draws) if n is None or draw < n}
        reward = old.reward if new.reward is None else new.reward
        found[new.text] = Sample(new.text, new.answer, reward, tuple(sorted(draws)))
    drawn = (said for said in found.values() if said.draws)
    return QuestionSamples(every[0].id, tuple(sorted(drawn, key=lambda said: said.draws[0])))


@dataclass(frozen=True, slots=True)
class Counts:
    """What the samples leave to train on.

    Attributes:
        questions: All of them.
        never_right: Questions with no sample that is right.
        always_right: Questions with one that is right and none that is wrong.
        samples: All of them.
        right: Samples that are.
        ungraded: Samples without a reward.
    """

    questions: int
    never_right: int
    always_right: int
    samples: int
    right: int
    ungraded: int

    def describe(self, made: str = "") -> str:
        """The counts in a line; `made` says what came of them, such as "57 pairs"."""
        asked = f"{self.questions:,} question{'' if self.questions == 1 else 's'}"
        ungraded = f"; {self.ungraded:,} of {self.samples:,} samples are ungraded" if self.ungraded else ""
        return (
            f"of {asked} {self.never_right:,} have no correct sample, {self.always_right:,} no incorrect one{ungraded}"
            + (f"; {made}" if made else "")
        )


def count(samples: Iterable[QuestionSamples]) -> Counts:
    """The counts of some questions."""
    every = list(samples)
    rewards = [{sample.reward for sample in question.samples} for question in every]
    draws = [(sample.reward, len(sample.draws)) for question in every for sample in question.samples]
    return Counts(
        questions=len(every),
        never_right=sum(1.0 not in given for given in rewards),
        always_right=sum(1.0 in given and 0.0 not in given for given in rewards),
        samples=sum(times for _, times in draws),
        right=sum(times for reward, times in draws if reward == 1),
        ungraded=sum(times for reward, times in draws if reward is None),
    )
