"""Several checkpoints' answers to the same questions: accuracy, attribution and transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from closedbook.harness.compare import Answered, gold_group
from closedbook.harness.errors import RequestError
from closedbook.harness.splits import Overlap
from closedbook.harness.statistics import Estimate
from closedbook.harness.study.checkpoints import (
    Answers,
    Part,
    TrainedOn,
    accuracy,
    attribution,
    mean_difference,
    overlaps_of,
    transfer,
)
from closedbook.harness.study.tables import Analysis


def answers(values: Sequence[float], golds: Sequence[str] = ()) -> Answers:
    """Answers to questions q0, q1, ...; each has a gold of its own unless stated."""
    of = list(golds) or [f"gorlim {at}" for at in range(len(values))]
    return {f"q{at:03}": Answered("tharn?", (of[at],), "osric", value) for at, value in enumerate(values)}


def column(analysis: Analysis, name: str) -> list[object]:
    return [row[analysis.columns.index(name)] for row in analysis.rows]


def test_accuracy_stands_beside_the_first_run_with_a_paired_test_adjusted_for_all() -> None:
    base, up = answers([0.0] * 30 + [1.0] * 10), answers([1.0] * 12 + [0.0] * 18 + [1.0] * 10)
    found = accuracy({"base": {"t": base}, "up": {"t": up}, "same": {"t": base}})
    assert column(found, "run") == ["base", "up", "same"]
    assert column(found, "gained") == [None, 12, 0]
    assert column(found, "p (Holm)") == [None, pytest.approx(2 * 2 * 0.5**12), 1.0]


def test_no_difference_says_how_small_a_one_would_have_been_found() -> None:
    base = answers([0.0, 1.0] * 100)
    turned = answers([1.0, 0.0] * 10 + [0.0, 1.0] * 90)
    (_, least) = column(accuracy({"base": {"t": base}, "turned": {"t": turned}}), "detectable, unadjusted")
    assert isinstance(least, Estimate) and least.value
    assert 0.05 < least.value < 0.1


def test_questions_with_one_gold_answer_are_drawn_together() -> None:
    """Ten facts asked ten times each know no more than ten questions."""
    values, golds = [float(at % 3 == 0) for at in range(10)], [f"gorlim {at}" for at in range(10)]
    none, alone = answers([0.0] * 10, golds), answers(values, golds)
    many_none, many = answers([0.0] * 100, golds * 10), answers(values * 10, golds * 10)
    one, ten = mean_difference(none, alone), mean_difference(many_none, many)
    assert (ten.value, ten.low, ten.high) == pytest.approx((one.value, one.low, one.high))
    assert (one.n, ten.n) == (10, 100)


def test_golds_in_another_form_are_one_gold() -> None:
    assert gold_group(("The Gorlim",)) == gold_group(("gorlim!", "Osric"))


def test_a_question_that_is_not_known_once_is_in_no_difference() -> None:
    assert mean_difference(answers([math.nan, 0.0]), answers([1.0, 1.0])).n == 1


def test_a_part_that_gains_as_much_as_all_has_a_share_of_one_and_the_base_model_none() -> None:
    base, full = answers([0.0] * 60), answers([1.0, 0.0, 1.0] * 20)
    found = attribution(base, full, [Part("bucket_0", full, 9), Part("random_as_0", base, 9)], questions=30)
    assert column(found, "trained on")[:3] == ["all", "bucket_0", "random_as_0"]
    assert column(found, "share of the whole gain")[:3] == [
        None,
        Estimate(1.0, None, None, 60),
        Estimate(0.0, None, None, 60),
    ]
    assert column(found, "questions")[:3] == [30, 9, 9]


def test_seeds_of_one_part_count_as_one_by_their_mean() -> None:
    base, full = answers([0.0] * 4), answers([1.0] * 4)
    halves = [Part("bucket_0", answers([1.0, 1.0, 0.0, 0.0])), Part("bucket_0", answers([0.0, 0.0, 1.0, 1.0]))]
    found = attribution(base, full, halves)
    assert column(found, "seeds")[:2] == [1, 2]
    assert [estimate.value for estimate in column(found, "gain")[:2] if isinstance(estimate, Estimate)] == [1.0, 0.5]


def test_a_bucket_stands_beside_its_control() -> None:
    base, full = answers([0.0] * 20), answers([1.0] * 20)
    parts = [Part("bucket_0", answers([1.0] * 15 + [0.0] * 5)), Part("random_as_0", answers([1.0] * 5 + [0.0] * 15))]
    last = attribution(base, full, parts).rows[-1]
    assert last[0] == "bucket_0 minus its control"
    assert isinstance(last[4], Estimate) and last[4].value == 0.5


def test_a_share_of_no_sure_gain_has_no_interval() -> None:
    base, full = answers([0.0, 1.0] * 10), answers([1.0, 0.0] * 9 + [1.0, 1.0])
    (share,) = column(attribution(base, full, [Part("bucket_0", full)]), "share of the whole gain")[1:]
    assert isinstance(share, Estimate) and (share.low, share.high) == (None, None)


def test_parts_that_answer_other_questions_are_refused() -> None:
    with pytest.raises(RequestError, match="part bucket_0 answers other questions"):
        attribution(answers([0.0] * 4), answers([1.0] * 4), [Part("bucket_0", answers([1.0] * 3))])


def test_transfer_leaves_out_what_the_other_benchmark_states() -> None:
    base = {"a_dedup": answers([0.0] * 10), "b_dedup": answers([0.0] * 6)}
    after = {"a_dedup": answers([1.0] * 10), "b_dedup": answers([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])}
    stated = overlaps_of(
        [Overlap("b", "q000", "a", "x", "paraphrase", 1.0), Overlap("a", "q009", "b", "x", "alias", 1.0)]
    )
    found = transfer(base, [TrainedOn("a", after)], stated)
    assert column(found, "asked") == ["a", "b"]
    assert column(found, "left out") == [0, 1]
    assert column(found, "questions") == [10, 5]
    assert column(found, "gained") == [10, 1]


def test_transfer_refuses_other_questions() -> None:
    with pytest.raises(RequestError, match="trained on a answers other questions of b_dedup"):
        transfer({"b_dedup": answers([0.0] * 6)}, [TrainedOn("a", {"b_dedup": answers([0.0] * 5)})], {})


def test_attribution_draws_questions_with_one_gold_answer_together() -> None:
    """Ten facts asked ten times each know no more than ten questions, in every figure with an interval."""

    def found(times: int) -> list[tuple[object, ...]]:
        golds = [f"gorlim {at}" for at in range(10)] * times
        base, full = answers([0.0] * 10 * times, golds), answers([1.0] * 10 * times, golds)
        part, control = (answers([float(at % step == 0) for at in range(10)] * times, golds) for step in (2, 3))
        table = attribution(base, full, [Part("bucket_0", part), Part("random_as_0", control)])
        cells = [cell for row in table.rows[1:] for cell in row if isinstance(cell, Estimate) and cell.low is not None]
        return [(cell.value, cell.low, cell.high) for cell in cells]

    one, ten = found(1), found(10)
    assert len(one) == len(ten) == 7
    for few, many in zip(one, ten, strict=True):
        assert many == pytest.approx(few)


def test_the_tests_of_a_transfer_table_are_adjusted_for_each_other() -> None:
    base = {"a_dedup": answers([0.0] * 12), "b_dedup": answers([0.0] * 12)}
    after = {"a_dedup": answers([1.0] * 6 + [0.0] * 6), "b_dedup": answers([1.0] * 8 + [0.0] * 4)}
    first, second = column(transfer(base, [TrainedOn("a", after)], {}), "p (Holm)")
    assert (first, second) == (pytest.approx(2 * 0.5**6), pytest.approx(2 * 2 * 0.5**8))
