"""What RFT and DPO are trained on, chosen from samples of the train questions.

Everything here is a function of values; `sampled` has the samples drawn. What would surprise: an answer that the judge
failed on is neither right nor wrong, so it is no example and in no pair.

    >>> lines = [QuestionSamples("q1", (Sample("Paris", "Paris", 1.0, (0, 2)), Sample("Rome", "Rome", 0.0, (1,))))]
    >>> [example.text for example in rft_examples(lines)], [pair.rejected for pair in dpo_pairs(lines)]
    (['Paris'], ['Rome'])
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from closedbook.harness.errors import WorkError
from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.text import answer_key


class Example(NamedTuple):
    """A question, and a text to train on."""

    id: str
    text: str


class Pair(NamedTuple):
    """A question, a text that is right and one that is wrong."""

    id: str
    chosen: str
    rejected: str


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
