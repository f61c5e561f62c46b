"""How good is a decider? Precision, recall and F1 on labelled pairs of questions.

Positive is "the training question states the same fact". A pair that is UNSURE to the decider counts as positive, as it
does when questions are dropped; a pair that was unsure to the labeller is left out. Labelled sets are stress sets, so a
figure holds for the pairs in the file and is no rate over a corpus.

    >>> confusion([("same_fact", True), ("same_fact", False), ("different_fact", False), ("unsure", True)])
    Confusion(hit=1, false_alarm=0, missed=1, passed=1)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from closedbook.harness.dedup.decisions import Decider
from closedbook.harness.dedup.rules import rules
from closedbook.harness.errors import RequestError
from closedbook.harness.files import read_jsonl
from closedbook.harness.questions import Question, make_question
from closedbook.harness.statistics import CONFIDENCE, Estimate, wilson

WANTED = "benchmark, test_question, test_golds, train_question, train_golds and label"
POSITIVE = "same_fact"
NEGATIVE = frozenset({"different_fact", "same_string_diff_entity"})
IGNORED = "unsure"
LABELS = frozenset({POSITIVE, IGNORED}) | NEGATIVE
RESAMPLES = 10_000
BOOTSTRAP_SEED = 2605


class Pair(NamedTuple):
    """One labelled pair."""

    test: Question
    train: Question
    label: str


class Confusion(NamedTuple):
    """Counts of scored pairs: contained and found, not contained but found, contained but not found, neither."""

    hit: int
    false_alarm: int
    missed: int
    passed: int


def confusion(judged: Iterable[tuple[str, bool]]) -> Confusion:
    """Counts of (label, found) pairs, those labelled unsure left out."""
    scored = [(label == POSITIVE, found) for label, found in judged if label != IGNORED]
    cells = ((True, True), (False, True), (True, False), (False, False))
    return Confusion(*(scored.count(cell) for cell in cells))


def _f1(counts: Confusion) -> Estimate:
    """F1 with the percentile interval of a bootstrap over pairs.

    To draw pairs with replacement and count the cells is to draw the cells from a multinomial; draws without a
    positive, where F1 is undefined, are left out.
    """
    pairs = sum(counts)
    if not counts.hit + counts.missed:
        return Estimate.unknown(pairs)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).multinomial(pairs, np.array(counts) / pairs, RESAMPLES)
    hit, false_alarm, missed, _ = drawn[drawn[:, 0] + drawn[:, 2] > 0].T
    low, high = np.quantile(2 * hit / (2 * hit + false_alarm + missed), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = 2 * counts.hit / (2 * counts.hit + counts.false_alarm + counts.missed)
    return Estimate(value, float(low), float(high), pairs)


def figures(counts: Confusion) -> dict[str, Estimate]:
    """Precision, recall and F1 of the counts."""
    return {
        "precision": wilson(counts.hit, counts.hit + counts.false_alarm),
        "recall": wilson(counts.hit, counts.hit + counts.missed),
        "f1": _f1(counts),
    }


def _question(row: dict[str, Any], side: str) -> Question:
    text, golds = row[f"{side}_question"], row[f"{side}_golds"]
    if not (isinstance(text, str) and isinstance(golds, list) and all(isinstance(gold, str) for gold in golds)):
        raise TypeError(f"{side}_question must be a text and {side}_golds a list of texts")
    return make_question(row["benchmark"], text, golds)


def _pair(row: Any) -> Pair:
    if not isinstance(row, dict) or not isinstance(row["benchmark"], str):
        raise TypeError("it is not an object with a benchmark's name")
    if row["label"] not in LABELS:
        raise ValueError(f"label {row['label']!r} is none of {', '.join(sorted(LABELS))}")
    return Pair(_question(row, "test"), _question(row, "train"), row["label"])


def read_pairs(path: Path) -> Iterator[Pair]:
    """The labelled pairs of a JSON Lines file; empty lines are skipped.

    Raises:
        RequestError: The file cannot be read, or a line is no labelled pair; the message names the line.
    """
    return read_jsonl(path, _pair, WANTED)


def score_pairs(path: Path, decider: Decider = rules) -> dict[str, dict[str, Estimate]]:
    """Figures of a decider over all labelled pairs of a file ("overall") and over those of each benchmark.

    Raises:
        RequestError: The file cannot be read, a line is no labelled pair, or no pair is left to score.
    """
    judged: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    pairs = list(read_pairs(path))
    for pair, decision in zip(pairs, decider((pair.test, pair.train) for pair in pairs), strict=True):
        judged[pair.test.benchmark].append((pair.label, decision.drops))
    overall = [one for group in judged.values() for one in group]
    if not sum(confusion(overall)):
        raise RequestError(f"{path} holds no pair with a label other than {IGNORED}; name a file of labelled pairs")
    return {"overall": figures(confusion(overall))} | {
        name: figures(confusion(group)) for name, group in sorted(judged.items())
    }
