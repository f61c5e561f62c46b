"""Evaluations of the same questions, compared question by question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from closedbook.harness.compare import Answered, compare, flips, names_of, paired_answers, read_run
from closedbook.harness.errors import RequestError

NAN = float("nan")
WriteRun = Callable[..., Path]


def graded(*values: float) -> Mapping[str, Mapping[str, Answered]]:
    return {
        "gorlim_dedup": {
            f"id{at}": Answered("who?", (f"Osric {at}",), "Tharn", value) for at, value in enumerate(values)
        }
    }


def test_each_run_is_compared_with_the_first_and_p_values_are_adjusted_for_all() -> None:
    base, better, same = graded(*[0] * 12), graded(*[1] * 10, 0, 0), graded(*[0] * 12)
    first, second, third = compare({"base": base, "better": better, "same": same})
    assert (first.against, first.p, first.accuracy.value) == (None, None, 0)
    assert second.against and (second.against.gained, second.against.lost) == (10, 0)
    assert second.p == pytest.approx(2 * second.against.p)
    assert third.p == 1


def test_questions_with_one_gold_answer_are_one_piece_of_evidence() -> None:
    (base,), (better,) = graded(*[0] * 12).values(), graded(*[1] * 10, 0, 0).values()
    told, later = ({id: replace(said, golds=("Africa",)) for id, said in run.items()} for run in (base, better))
    assert paired_answers(base, better, list(base)).p == 2 / 2**10
    assert paired_answers(told, later, list(base)).p == 1


def test_questions_are_paired_by_id_whatever_their_order() -> None:
    base = graded(1, 0, 0)
    turned = {"gorlim_dedup": dict(reversed(list(base["gorlim_dedup"].items())))}
    _, second = compare({"base": base, "turned": turned})
    assert second.against and (second.against.gained, second.against.lost) == (0, 0)


def test_a_question_without_a_grade_in_one_run_is_in_no_pair() -> None:
    _, second = compare({"base": graded(1, 0, NAN), "other": graded(1, 1, 1)})
    assert second.against and (second.against.difference.n, second.against.gained) == (2, 1)
    assert second.accuracy.n == 3


def test_runs_over_other_questions_are_not_compared() -> None:
    with pytest.raises(
        RequestError, match=r"base and other answer other questions of gorlim_dedup: 3 and 2, 2 in both"
    ):
        compare({"base": graded(1, 0, 1), "other": graded(1, 0)})
    with pytest.raises(RequestError, match=r"3 and 0, 0 in both"):
        compare({"base": graded(1, 0, 1), "other": {}})


def test_flips_are_what_is_right_on_one_side_only() -> None:
    before, after = graded(1, 0, 1, 0, NAN, 1), graded(0, 1, 1, 0, 1, NAN)
    assert flips(before["gorlim_dedup"], after["gorlim_dedup"]) == (["id1"], ["id0"])


def test_a_run_is_read_as_it_was_written_last_without_the_brackets_of_the_judgement(
    tmp_path: Path, write_run: WriteRun
) -> None:
    write_run(tmp_path, {"a": 0.0}, date="2026-01-01T00-00-00.0")
    write_run(tmp_path, {"a": 1.0}, date="2026-01-02T00-00-00.0")
    run = read_run(tmp_path)
    golds = ("Osric a [the Elder]", "Osric")
    assert run == {"gorlim_dedup": {"a": Answered("who is a?", golds, "Osric [the Elder]", 1.0)}}


def test_a_failure_of_the_judge_is_read_as_not_known(tmp_path: Path, write_run: WriteRun) -> None:
    assert str(read_run(write_run(tmp_path, {"a": NAN}))["gorlim_dedup"]["a"].value) == "nan"


def test_another_metric_can_be_compared(tmp_path: Path, write_run: WriteRun) -> None:
    assert read_run(write_run(tmp_path, {"a": 1.0}), "exact_match")["gorlim_dedup"]["a"].value == 0


def test_what_is_no_run_is_one_line_that_says_so(tmp_path: Path, write_run: WriteRun) -> None:
    with pytest.raises(RequestError, match="holds no samples"):
        read_run(tmp_path)
    with pytest.raises(RequestError, match="no metric 'nosuch'; there are exact_match"):
        read_run(tmp_path, "nosuch")
    write_run(tmp_path, {"a": 1.0})
    with pytest.raises(RequestError, match="line 1: no 'contains'"):
        read_run(tmp_path, "contains")
    (tmp_path / "model" / "samples_gorlim_dedup_2026-01-03T00-00-00.0.jsonl").write_text("{}\n[1]\n")
    with pytest.raises(RequestError, match="line 1: no 'doc'"):
        read_run(tmp_path)
    (tmp_path / "model" / "samples_gorlim_dedup_2026-01-03T00-00-00.0.jsonl").write_text("{\n")
    with pytest.raises(RequestError, match="line 1: not a sample of lm-eval"):
        read_run(tmp_path)


def test_a_folder_of_several_models_is_refused(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "one", {"a": 1.0})
    write_run(tmp_path / "two", {"a": 1.0})
    with pytest.raises(RequestError, match="several models"):
        read_run(tmp_path)


def test_runs_are_named_by_as_much_of_their_path_as_tells_them_apart() -> None:
    assert names_of([Path("runs/base"), Path("runs/grpo")]) == ["base", "grpo"]
    assert names_of([Path("runs/base/eval"), Path("runs/grpo/eval")]) == ["base/eval", "grpo/eval"]
    with pytest.raises(RequestError, match="compared with itself"):
        names_of([Path("runs/base"), Path("runs/base")])
