"""Samples of the train questions with their rewards, and what of them RFT and DPO are trained on.

Everything here is a value or a function of values; `samples_file` draws samples and keeps them. What would surprise: an
answer that the judge failed on is neither right nor wrong, so it is no example and in no pair.

    >>> lines = [QuestionSamples("q1", (Sample("Paris", "Paris", 1.0, (0, 2)), Sample("Rome", "Rome", 0.0, (1,))))]
    >>> [example.text for example in rft_examples(lines)], [pair.rejected for pair in dpo_pairs(lines)]
    (['Paris'], ['Rome'])
    >>> count(lines).describe("1 pair")
    'of 1 question 0 have no correct sample, 0 no incorrect one; 1 pair'
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from closedbook.harness.errors import WorkError
from closedbook.harness.text import answer_key


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


class Example(NamedTuple):
    """A question, and a text to train on."""

    id: str
    text: str


class Pair(NamedTuple):
    """A question, a text that is right and one that is wrong."""

    id: str
    chosen: str
    rejected: str


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


def rft_examples(samples: Iterable[QuestionSamples], limit: int | None = None) -> list[Example]:
    """Distinct correct answers of each question; questions in the order of their ids.

    Texts with equal answers (`answer_key`) count as one, of which the text that was drawn most often stands, then the
    first.

    Args:
        samples: Of all questions, in any order.
        limit: Answers of one question at most, those drawn most often first, then those drawn first; None for all.

    Raises:
        WorkError: There is none.
    """
    examples = [
        Example(question.id, text)
        for question in sorted(samples, key=lambda question: question.id)
        for text in _distinct_correct(question)[:limit]
    ]
    if not examples:
        raise WorkError(
            "no question has a correct sample: there is nothing to train on; raise rollouts or temperature, or start "
            "from a model that was trained with sft"
        )
    return examples


def _distinct_correct(question: QuestionSamples) -> list[str]:
    """A text of each correct answer, the most frequent answer first."""
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in question.samples:
        if sample.reward == 1:
            groups[answer_key(sample.answer)].append(sample)
    merged = [
        (min(group, key=_commonest).text, [draw for sample in group for draw in sample.draws])
        for group in groups.values()
    ]
    return [text for text, draws in sorted(merged, key=lambda entry: (-len(entry[1]), min(entry[1])))]


def _commonest(sample: Sample) -> tuple[int, int]:
    """Sorts the text that was drawn most often to the front, then the one that was drawn first."""
    return -len(sample.draws), min(sample.draws)


def dpo_pairs(samples: Iterable[QuestionSamples], limit: int | None = None, seed: int = 0) -> list[Pair]:
    """Pairs of a correct and an incorrect sample of one question; questions in the order of their ids.

    A pair is a random correct and a random incorrect sample, so what was drawn often is in a pair more likely; no two
    pairs of a question have the same two answers (`answer_key`), and no pair has the same answer twice.

    Args:
        samples: Of all questions, in any order.
        limit: Pairs of one question at most; None for all.
        seed: Another seed chooses other pairs.

    Raises:
        WorkError: There is none.
    """
    pairs = [
        Pair(question.id, chosen.text, rejected.text)
        for question in sorted(samples, key=lambda question: question.id)
        for chosen, rejected in _distinct_pairs(question, seed)[:limit]
    ]
    if not pairs:
        raise WorkError(
            "no question has both a correct and an incorrect sample: there is nothing to compare; raise rollouts or "
            "temperature, or start from a model that was trained with sft"
        )
    return pairs


def _distinct_pairs(question: QuestionSamples, seed: int) -> list[tuple[Sample, Sample]]:
    """All pairs with different answers in the order in which samples would be picked at random."""
    draws = sorted(((draw, said) for said in question.samples for draw in said.draws), key=lambda entry: entry[0])
    right, wrong = ([sample for _, sample in draws if sample.reward == reward] for reward in (1, 0))
    rng = random.Random(f"{seed}\n{question.id}")
    picked = [(rng.random(), one, other) for one in right for other in wrong]
    pairs: dict[tuple[str, str], tuple[Sample, Sample]] = {}
    for _, one, other in sorted(picked, key=lambda entry: entry[0]):
        keys = answer_key(one.answer), answer_key(other.answer)
        if keys[0] != keys[1]:
            pairs.setdefault(keys, (one, other))
    return list(pairs.values())
