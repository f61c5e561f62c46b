"""Figures of validation: the metrics that the tasks report with the same judge, as means over the answers."""

import math

import pytest

from closedbook.harness.judge import Grade, JudgeFailure, Judgement, Triple
from closedbook.harness.metrics import metric_names
from closedbook.training.validation import ACCURACY, validation_figures

RIGHT, WRONG, SILENT = (Triple("who rules Brobdingnag?", ("Gorlim",), said) for said in ("Gorlim", "Osric", ""))
FAILED = JudgeFailure("timeout", "")


@pytest.mark.parametrize("prompt", ["binary", "simpleqa"])
def test_what_a_judge_cannot_say_with_its_prompt_is_no_figure(prompt):
    figures = validation_figures([RIGHT, WRONG], [Grade.CORRECT, Grade.INCORRECT], prompt, 0.0)
    assert list(figures) == [f"validation/{name}" for name in metric_names(prompt)]
    assert ("validation/not_attempted" in figures) == (prompt == "simpleqa")


def test_answers_that_could_not_be_graded_leave_the_means_of_the_judge_alone():
    figures = validation_figures([RIGHT, WRONG, SILENT], [Grade.CORRECT, FAILED, Grade.NOT_ATTEMPTED], "simpleqa", 0.4)
    assert figures == {
        "validation/exact_match": pytest.approx(1 / 3),
        "validation/contains": pytest.approx(1 / 3),
        "validation/judge_correct": 0.5,
        "validation/not_attempted": 0.5,
        "validation/judge_failed": pytest.approx(1 / 3),
    }


def test_the_accuracy_is_unknown_where_nothing_could_be_graded():
    assert math.isnan(validation_figures([RIGHT], [FAILED], "binary", 1.0)[ACCURACY])


def test_the_few_answers_that_were_graded_choose_no_best_checkpoint():
    figures = validation_figures([RIGHT, WRONG, SILENT], [Grade.CORRECT, FAILED, FAILED], "simpleqa", 0.5)
    assert math.isnan(figures[ACCURACY])
    assert math.isnan(figures["validation/not_attempted"])
    assert figures["validation/judge_failed"] == pytest.approx(2 / 3)
    assert figures["validation/contains"] == pytest.approx(1 / 3)


def test_as_many_failures_as_are_allowed_are_allowed():
    judged: list[Judgement] = [Grade.CORRECT, FAILED]
    assert validation_figures([RIGHT, WRONG], judged, "binary", 0.5)[ACCURACY] == 1.0
    assert math.isnan(validation_figures([RIGHT, WRONG], judged, "binary", 0.49)[ACCURACY])
