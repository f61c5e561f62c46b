"""What `closedbook eval` decides before and after lm_eval runs. The run itself is in tests/integration/test_eval.py."""

import json
import math
from typing import Any

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.evaluate import (
    _Run,
    check_tasks,
    evaluate,
    members,
    parse_model_args,
    plan_judging,
    read_samples,
    task_names,
)
from closedbook.harness.files import folder_digest
from closedbook.harness.judge import Grade, JudgeFailure, JudgeSettings
from closedbook.harness.metrics import Answer
from closedbook.harness.statistics import wilson


def row(correct=None, exact=0.0, contains=0.0, failed=0.0):
    """One line of lm-eval's samples."""
    values = {"exact_match": exact, "contains": contains}
    if correct is not None:
        values |= {"judge_correct": correct, "judge_failed": failed}
    return {"doc": {"question": "q", "answers": ["g"]}, "filtered_resps": [[Answer("a")]]} | values


def test_model_arguments_have_the_types_that_lm_eval_gives_them():
    assert parse_model_args("a=1,b=x,c=False") == {"a": 1, "b": "x", "c": False}


def test_a_model_argument_without_a_value_is_refused():
    with pytest.raises(RequestError, match="--model-args: 'b' is not of the form name=value"):
        parse_model_args("a=1,b")


def test_an_unknown_task_is_refused_before_anything_is_loaded():
    with pytest.raises(RequestError, match=r"no task 'popqa'; did you mean popqa_dedup\? there are closedbook, "):
        evaluate("no/model", ["popqa"])
    check_tasks(task_names())


@pytest.mark.parametrize("content", [b"other", b""])
def test_a_checkpoint_with_other_weights_has_another_identity(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "logs").mkdir()
    before = folder_digest(tmp_path)
    assert before == folder_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert before != folder_digest(tmp_path)


def test_figures_come_from_the_samples_with_n_and_interval():
    figures, _ = read_samples({"t": [row(correct=1.0), row(correct=0.0), row(correct=math.nan, failed=1.0)]})
    assert figures["t"]["judge_correct"] == wilson(1, 2)
    assert figures["t"]["judge_failed"] == wilson(1, 3)


def test_a_run_without_a_judge_has_no_judge_figures():
    figures, _ = read_samples({"t": [row(contains=1.0), row()]})
    assert set(figures["t"]) == {"exact_match", "contains"}


def test_answers_without_a_grade_are_counted_with_their_reason():
    failed = row(correct=math.nan, failed=1.0) | {"filtered_resps": [[Answer("a", JudgeFailure("timeout", "late"))]]}
    graded = row(correct=1.0) | {"filtered_resps": [[Answer("a", Grade.CORRECT)]]}
    _, tally = read_samples({"t": [failed, graded], "u": [graded, graded]})
    assert (tally.failed, tally.graded, tally.failure_rate) == (1, 3, 0.25)
    assert str(tally) == "1 of 4 answers could not be graded (timeout: late)"


def test_a_plan_of_a_group_counts_the_questions_of_all_its_tasks(mirror, popqa_row):
    judge = JudgeSettings(kind="openai", model="m", base_url="http://127.0.0.1:9/v1", price_in=1.0, cache="off")
    plan = plan_judging(["worldfacts_dedup", "worldfacts_dedup_cot"], judge, limit=5)
    assert (plan.answers, plan.calls, plan.repeated) == (10, 5, 5)
    assert plan.dollars > 0
    assert plan_judging(["worldfacts_dedup"], JudgeSettings(kind="rules")) is None
    assert members(["closedbook", "worldfacts_dedup"]) == [
        "nq_dedup", "triviaqa_dedup", "popqa_dedup", "simpleqa_dedup", "worldfacts_dedup",
    ]  # fmt: skip


def test_the_model_cannot_be_named_twice():
    with pytest.raises(RequestError, match="pretrained is MODEL"):
        parse_model_args("pretrained=other")


def test_naming_no_task_is_refused():
    with pytest.raises(RequestError, match="no task is named"):
        check_tasks([])


def described(**changes):
    """A run, and what its folder and cache are named after."""
    plain: dict[str, Any] = {"model": "m", "identity": "i", "backend": "hf", "arguments": {"a": 1, "b": 2}}
    return _Run(**(plain | {"chat": True, "tasks": ["t"], "split": "test", "limit": None, "judge": None} | changes))


@pytest.mark.parametrize("change", [{"identity": "j"}, {"backend": "vllm"}, {"chat": False}, {"arguments": {"a": 2}}])
def test_answers_of_another_checkpoint_or_setting_are_never_reused(change):
    assert described(**change).answers_digest != described().answers_digest


@pytest.mark.parametrize(
    "change", [{"tasks": ["u"]}, {"split": "dropped"}, {"limit": 5}, {"judge": JudgeSettings(kind="rules")}]
)
def test_another_task_limit_or_judge_has_another_run_folder_but_the_same_answers(change):
    assert described(**change).digest != described().digest
    assert described(**change).answers_digest == described().answers_digest


def test_the_order_of_arguments_changes_nothing():
    assert described(arguments={"b": 2, "a": 1}).digest == described().digest


def test_what_is_allowed_changes_no_figure_and_so_no_run_folder():
    assert described(allow_contaminated=True).digest == described().digest
    assert described(allow_contaminated=True).described()["allow_contaminated"] is True


def test_secrets_among_the_arguments_are_not_written():
    shown = json.dumps(described(arguments={"api_key": "sk-1", "hf_token": "sk-1", "base_url": "u"}).described())
    assert "sk-1" not in shown
    assert '"base_url": "u"' in shown


@pytest.mark.parametrize("url", ["http://me:hush@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key=hush", "hush", 8000])
def test_an_address_that_holds_a_secret_or_is_none_is_refused_without_showing_it(url):
    with pytest.raises(RequestError, match=r"^--model-args: base_url ") as refused:
        evaluate("m", ["worldfacts_dedup"], backend="local-chat-completions", model_args={"base_url": url})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "said"), [({"backend": "foo"}, "no model type 'foo'"), ({"batch_size": "many"}, "'many'")]
)
def test_an_unknown_backend_or_batch_size_is_refused_before_anything_is_loaded(flags, said):
    with pytest.raises(RequestError, match=said):
        evaluate("no/model", ["worldfacts_dedup"], **flags)


def test_a_backend_that_fails_is_one_line_and_leaves_the_run_described(tmp_path):
    with pytest.raises(WorkError, match=r"^the run failed \(\w+: [^\n]+; answers so far are kept in "):
        evaluate(
            "m", ["worldfacts_dedup"], backend="local-completions", model_args={"tokenizer": "/none"}, out=tmp_path
        )
    assert json.loads((tmp_path / "run.json").read_text())["backend"] == "local-completions"


def test_a_folder_that_is_evaluated_anew_has_no_figures_until_that_has_ended(tiny_policy, tmp_path, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lm_eval.simple_evaluate", interrupted)
    (tmp_path / "figures.json").write_text("{}")
    with pytest.raises(WorkError, match="interrupted; the same command goes on"):
        evaluate(str(tiny_policy), ["worldfacts_dedup"], out=tmp_path)
    assert not (tmp_path / "figures.json").exists() and (tmp_path / "run.json").is_file()
