"""Scores of a decider, on toys counted by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from closedbook.harness.dedup import Decision, Verdict
from closedbook.harness.dedup.decisions import Pair
from closedbook.harness.dedup.score import Confusion, figures, read_pairs, score_pairs
from closedbook.harness.errors import RequestError
from closedbook.harness.statistics import Estimate

Write = Callable[..., Path]


def pair(found: bool, label: str, benchmark: str = "nq") -> dict[str, Any]:
    """A pair of the same words, which the rules find contained just where an answer agrees."""
    return {
        "benchmark": benchmark,
        "test_question": "what is avon",
        "test_golds": ["river"],
        "train_question": "What is Avon?",
        "train_golds": ["river" if found else "town"],
        "label": label,
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def lines(*rows: dict[str, Any]) -> Path:
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "pairs.jsonl"

    return lines


TOY = (
    [pair(True, "same_fact")] * 3
    + [pair(False, "same_fact")]
    + [pair(True, "different_fact"), pair(True, "same_string_diff_entity", "popqa")]
    + [pair(False, "same_string_diff_entity", "popqa")] * 4
    + [pair(True, "unsure"), pair(False, "unsure", "popqa")]
)


def test_precision_recall_and_f1_are_those_counted_by_hand(write: Write) -> None:
    overall = score_pairs(write(*TOY))["overall"]
    assert {name: (figure.value, figure.n) for name, figure in overall.items()} == {
        "precision": (3 / 5, 5),
        "recall": (3 / 4, 4),
        "f1": (pytest.approx(2 / 3), 10),
    }


def test_each_benchmark_has_its_own_figures(write: Write) -> None:
    scores = score_pairs(write(*TOY))
    assert list(scores) == ["overall", "nq", "popqa"]
    assert scores["nq"]["precision"].value == 3 / 4
    assert scores["popqa"]["precision"].value == 0.0


def test_what_has_no_denominator_is_null(write: Write) -> None:
    scores = score_pairs(write(pair(False, "different_fact"), pair(False, "different_fact")))["overall"]
    undefined = partial(Estimate, None, None, None)
    assert scores == {"precision": undefined(0), "recall": undefined(0), "f1": undefined(2)}


def test_a_decider_that_finds_nothing_has_recall_and_f1_zero(write: Write) -> None:
    scores = score_pairs(write(pair(False, "same_fact"), pair(False, "different_fact")))["overall"]
    assert (scores["precision"].value, scores["recall"].value, scores["f1"].value) == (None, 0.0, 0.0)


def test_proportions_have_wilson_intervals() -> None:
    precision = figures(Confusion(hit=8, false_alarm=2, missed=0, passed=0))["precision"]
    assert precision.low == pytest.approx(0.4902, abs=1e-4)
    assert precision.high == pytest.approx(0.9433, abs=1e-4)


def test_f1_lies_within_its_interval_which_is_the_same_on_every_run() -> None:
    one, other = (figures(Confusion(30, 10, 5, 40))["f1"] for _ in range(2))
    assert one == other
    low, value, high = one.low or 0, one.value or 0, one.high or 0
    assert 0.6 < low < value == 0.8 < high < 0.9


def test_f1_is_certain_where_every_pair_is_a_hit() -> None:
    assert figures(Confusion(5, 0, 0, 0))["f1"] == Estimate(1.0, 1.0, 1.0, 5)


def test_unsure_to_the_decider_counts_as_found(write: Write) -> None:
    def unsure(pairs: Iterable[Pair]) -> Iterator[Decision]:
        return (
            Decision(question.id, candidate.id, Verdict.UNSURE, "doubt", 0.5, "some-1") for question, candidate in pairs
        )

    assert score_pairs(write(pair(False, "same_fact")), unsure)["overall"]["recall"].value == 1.0


def test_empty_lines_are_skipped(write: Write) -> None:
    path = write(*TOY)
    path.write_text("\n" + path.read_text() + "\n")
    assert len(list(read_pairs(path))) == len(TOY)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "it is no JSON"),
        ("[]", "it is not an object with a benchmark's name"),
        ("{}", "it has no benchmark"),
        (
            json.dumps(pair(True, "same_fact") | {"benchmark": 7}),
            "it is not an object with a benchmark's name",
        ),
        (json.dumps(pair(True, "same")), "label 'same' is none of different_fact, same_fact, "),
        (json.dumps(pair(True, "same_fact") | {"label": []}), "unhashable type"),
        (json.dumps(pair(True, "same_fact") | {"test_golds": "river"}), "test_question must be a text and"),
        (json.dumps(pair(True, "same_fact") | {"train_golds": [7]}), "train_question must be a text and"),
        (
            json.dumps(pair(True, "same_fact") | {"train_question": None}),
            "train_question must be a text and",
        ),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_what_to_do(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(TOY[0]) + "\n" + line + "\n")
    with pytest.raises(RequestError) as error:
        score_pairs(path)
    assert str(error.value).startswith(f"{path}, line 2: {reason}")
    assert str(error.value).endswith(
        "; give benchmark, test_question, test_golds, train_question, train_golds and label"
    )


def test_a_file_without_a_scored_pair_is_refused(write: Write) -> None:
    with pytest.raises(
        RequestError, match=r"holds no pair with a label other than unsure; name a file of labelled pairs"
    ):
        score_pairs(write(pair(True, "unsure")))


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"^cannot read .*/none: .*; name a JSON Lines file with benchmark, .* and label$"
    ):
        score_pairs(tmp_path / "none")


@pytest.mark.data
def test_the_rules_meet_their_targets_on_the_labelled_pairs() -> None:
    scores = score_pairs(Path(os.environ["CLOSEDBOOK_DATA"]) / "dedup_pairs_dev.jsonl")
    assert scores["overall"]["f1"].n == 274
    assert (scores["overall"]["f1"].value or 0) >= 0.93
    for name in ("nq", "triviaqa", "popqa"):
        assert (scores[name]["recall"].value or 0) >= 0.95
