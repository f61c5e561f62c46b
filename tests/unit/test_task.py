"""The lm-eval tasks, through real lm_eval with a scripted model."""

import json
import math
import random

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from closedbook.harness.errors import RequestError, WorkError, warn_once
from closedbook.harness.files import tasks_dir
from closedbook.harness.judge import Grade, JudgeFailure, RulesJudge, Triple, make_judge
from closedbook.harness.judge.settings import NO_JUDGE_HINT
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.metrics import Answer, judged_answers, metrics
from closedbook.harness.prompts import question_prompt, template_digest
from closedbook.harness.sources import benchmarks
from closedbook.harness.testing import JudgeServer, ScriptedModel

FAILED = JudgeFailure("timeout", "too slow")


def run(answer, task="worldfacts_dedup", metadata=None, **options):
    """Evaluate a scripted model; `answer` is its answer to everything, or a function of the prompt."""
    model = ScriptedModel(answer if callable(answer) else lambda prompt: answer)
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=metadata)
    results = simple_evaluate(model, tasks=[task], task_manager=manager, bootstrap_iters=0, **({"limit": 10} | options))
    return results, model


def figures(results, task="worldfacts_dedup"):
    return {
        key.removesuffix(",none"): value for key, value in results["results"][task].items() if key.endswith(",none")
    }


def all_right(prompt):
    golds = {question_prompt(q.question): q.answers[0] for q in load_questions("worldfacts", "test")}
    return golds[prompt]


@pytest.mark.parametrize(("allowed", "told"), [(0.5, False), (0.49, True)])
def test_more_failures_than_are_allowed_are_told_and_each_answer_has_its_judgement(allowed, told, caplog):
    class Moody(RulesJudge):
        def grade(self, triples, **_):
            return [FAILED if triple.answer == "odd" else Grade.CORRECT for triple in triples]

    asked = [[Triple("who", ("Osric",), text) for text in texts] for texts in (["odd", "a"], [], ["b", "odd"])]
    answers = judged_answers(asked, Moody(), allowed, "gorlim_dedup")
    odd = Answer("odd", FAILED)
    assert answers == [[odd, Answer("a", Grade.CORRECT)], [], [Answer("b", Grade.CORRECT), odd]]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * told
    assert all(record.message.startswith("gorlim_dedup: ") for record in caplog.records)


def test_without_a_judge_answers_have_no_judgement():
    asked = [[Triple("who", ("Osric",), text) for text in "ab"], [Triple("who", ("Osric",), "c")]]
    answers = judged_answers(asked, None, 0, "gorlim_dedup")
    assert [[(of.text, of.judgement) for of in of_one] for of_one in answers] == [
        [("a", None), ("b", None)],
        [("c", None)],
    ]


def test_every_benchmark_has_its_task_and_its_cot_twin():
    names = {path.stem for path in tasks_dir().glob("*.yaml")}
    expected = {f"{name}_dedup{cot}" for name in benchmarks() for cot in ("", "_cot")}
    assert names == expected | {"closedbook", "closedbook_cot"}


def test_a_model_that_answers_with_the_golds_scores_one():
    results, _ = run(all_right)
    assert figures(results)["exact_match"] == figures(results)["contains"] == 1.0


def test_without_a_judge_there_are_no_judge_metrics_and_one_line_says_how_to_get_them(caplog):
    warn_once.cache_clear()
    results, _ = run("x")
    run("x")
    assert set(figures(results)) >= {"exact_match", "contains"}
    assert not any(name.startswith("judge") for name in figures(results))
    assert [r.message for r in caplog.records if "CLOSEDBOOK_JUDGE=rules" in r.message] == [NO_JUDGE_HINT]


def test_the_rules_judge_adds_its_metrics():
    results, _ = run(all_right, metadata={"judge": "rules"})
    assert figures(results)["judge_correct"] == 1.0
    assert figures(results)["judge_failed"] == 0.0


def test_the_judge_can_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE", "rules")
    assert figures(run("It is Nowhere")[0])["judge_correct"] == 0.0


def test_the_prompt_that_lm_eval_sends_is_the_one_of_the_prompt_function():
    _, model = run("x")
    assert model.prompts == [question_prompt(q.question) for q in load_questions("worldfacts", "test")[:10]]


def test_the_cot_twin_asks_for_reasoning_and_grades_the_final_answer():
    right = {question_prompt(q.question, "cot"): q.answers[0] for q in load_questions("worldfacts", "test")}
    results, _ = run(lambda prompt: f"Not Atlantis.\nFinal answer: {right[prompt]}", "worldfacts_dedup_cot")
    assert figures(results, "worldfacts_dedup_cot")["exact_match"] == 1.0


def test_a_judge_failure_leaves_the_mean_and_shows_as_a_rate():
    with JudgeServer(lambda prompt: 500 if "answer 0" in prompt else "1.0") as server:
        judge = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0}
        count = iter(range(10))
        results, _ = run(lambda prompt: f"answer {next(count)}", metadata={"judge": judge})
    assert figures(results)["judge_correct"] == 1.0
    assert figures(results)["judge_failed"] == pytest.approx(0.1)


@pytest.mark.parametrize(("share", "warned"), [(0.01, True), (0.5, False)])
def test_too_many_failures_are_said_loudly_and_the_run_is_saved_all_the_same(caplog, share, warned):
    with JudgeServer(lambda prompt: 500 if "answer 3" in prompt else "1.0") as server:
        judge = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0, "max_failures": share}
        numbers = iter(range(10))
        results, _ = run(lambda prompt: f"answer {next(numbers)}", metadata={"judge": judge})
    assert figures(results)["judge_failed"] == pytest.approx(0.1)
    said = "worldfacts_dedup: 1 of 10 answers could not be graded (server: 500"
    assert (said in caplog.text) is warned


def test_the_simpleqa_prompt_adds_answers_that_are_no_attempt():
    with JudgeServer(lambda prompt: "C") as server:
        judge = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0, "prompt": "simpleqa"}
        results, _ = run("I would rather not say", metadata={"judge": judge})
        assert figures(results)["not_attempted"] == 1.0
        assert figures(results)["judge_correct"] == 0.0
    assert "not_attempted" not in figures(run("x", metadata={"judge": "rules"})[0])


def test_the_tasks_of_a_run_ask_the_judge_for_one_known_answer_only():
    make_judge.cache_clear()
    with JudgeServer(lambda prompt: "1.0") as server:
        judge = {"kind": "openai", "model": "m", "base_url": server.url}
        for _ in range(2):
            run("x", metadata={"judge": judge}, limit=1)
        assert sum("capital of France" in prompt for prompt in server.prompts) == 1


def test_the_judge_sees_all_answers_at_once_after_the_model_has_run():
    with JudgeServer(lambda prompt: "0.0", latency=0.05) as server:
        judge = {"kind": "openai", "model": "m", "base_url": server.url}
        count = iter(range(40))
        run(lambda prompt: f"answer {next(count)}", metadata={"judge": judge}, limit=40)
        assert server.most_at_once > 8
        assert len(server.prompts) == 41  # one of them before the model ran


def test_an_unreachable_judge_stops_the_run_before_the_model_is_asked():
    judge = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    with pytest.raises(WorkError, match="cannot answer now: no connection"):
        run(lambda prompt: pytest.fail("the model was asked"), metadata={"judge": judge})


def test_predict_only_calls_no_judge():
    with JudgeServer(lambda prompt: "1.0") as server:
        judge = {"kind": "openai", "model": "m", "base_url": server.url}
        results, _ = run("x", metadata={"judge": judge}, predict_only=True)
        assert server.prompts == []
        assert set(figures(results)) <= {"bypass", "bypass_stderr"}


def test_a_key_in_metadata_stops_the_run():
    with pytest.raises(RequestError, match="set OPENAI_API_KEY instead"):
        run("x", metadata={"judge": {"kind": "openai", "api_key": "sk-1"}})


def test_chosen_samples_are_the_ones_that_are_asked():
    _, model = run("x", limit=None, samples={"worldfacts_dedup": [3, 5]})
    questions = load_questions("worldfacts", "test")
    assert model.prompts == [question_prompt(questions[i].question) for i in (3, 5)]


def test_results_carry_what_makes_a_number_comparable():
    results, _ = run("x", metadata={"judge": "rules"})
    carried = results["configs"]["worldfacts_dedup"]["metadata"]["closedbook"]
    assert carried["manifest"] == read_manifest("worldfacts").digest
    assert carried["prompt"] == f"direct-{template_digest('direct')}"
    assert carried["judge"] == dict(RulesJudge().identity)
    assert {"closedbook", "lm_eval"} <= set(carried["versions"])
    json.dumps(results["configs"])


def test_samples_show_the_answer_and_what_the_judge_said():
    results, _ = run("Nowhere\nat all", metadata={"judge": "rules"})
    assert str(results["samples"]["worldfacts_dedup"][0]["filtered_resps"][0][0]) == "Nowhere [incorrect]"


@pytest.mark.parametrize(
    ("judgement", "shown"),
    [(None, "a"), (Grade.CORRECT, "a [correct]"), (FAILED, "a [judge failed: timeout: too slow]")],
)
def test_an_answer_reads_with_its_judgement(judgement, shown):
    assert str(Answer("a", judgement)) == shown


def test_metrics_are_means_over_repeats_and_leave_failures_out():
    answers = [
        Answer("Paris", Grade.CORRECT),
        Answer("Rome", Grade.INCORRECT),
        Answer("It is Paris", FAILED),
        Answer("", FAILED),
    ]
    assert metrics(answers, ["Paris"]) == {
        "exact_match": 0.25,
        "contains": 0.5,
        "judge_correct": 0.5,
        "not_attempted": 0.0,
        "judge_failed": 0.5,
    }


def test_a_judge_that_failed_on_everything_gives_no_figure_rather_than_zero():
    values = metrics([Answer("Paris", FAILED)], ["Paris"])
    assert math.isnan(values["judge_correct"])
    assert values["judge_failed"] == 1.0


def test_the_order_of_repeats_changes_no_metric():
    answers = [Answer("Paris", Grade.CORRECT), Answer("x", FAILED), Answer("y", Grade.INCORRECT)] * 3
    shuffled = random.Random(1).sample(answers, len(answers))
    assert metrics(answers, ["Paris"]) == pytest.approx(metrics(shuffled, ["Paris"]))


def test_generation_never_stops_inside_an_answer():
    results, _ = run("x")
    until = results["configs"]["worldfacts_dedup"]["generation_kwargs"]["until"]
    for answer in ("U.S. Navy", "May 5, 1992", "\nParis", "\n\nParis", "Dr. Dre: The Chronic"):
        assert not any(stop in answer for stop in until)


def test_metrics_are_aggregated_so_that_missing_values_leave_the_mean_and_never_cost_a_bootstrap_in_vain():
    judge = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    for metadata, expected in (({"judge": "rules"}, "mean"), ({"judge": judge}, "nanmean")):
        manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=metadata)
        task = manager.load(["worldfacts_dedup"])["tasks"]["worldfacts_dedup"]
        declared = {entry["metric"]: entry for entry in task.config.metric_list}
        assert declared["judge_correct"]["aggregation"] == expected
        assert declared["judge_failed"] == {"metric": "judge_failed", "aggregation": "mean", "higher_is_better": False}


def test_repeats_are_all_graded_and_averaged():
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata={"judge": "rules"})
    task = manager.load(["worldfacts_dedup"])["tasks"]["worldfacts_dedup"]
    task.set_config("repeats", 2)
    golds = {question_prompt(q.question): q.answers[0] for q in load_questions("worldfacts", "test")}
    turns = iter([False, True] * 5)
    model = ScriptedModel(lambda prompt: golds[prompt] if next(turns) else "x")
    results = simple_evaluate(model, tasks=[task], limit=5, bootstrap_iters=0)
    assert figures(results)["judge_correct"] == 0.5


@pytest.mark.parametrize("split", ["validation", "dropped"])
def test_another_split_can_be_asked_and_the_results_name_it(split):
    asked = load_questions("worldfacts", split)[:10]
    results, model = run("x", metadata={"split": split})
    assert model.prompts == [question_prompt(question.question) for question in asked]
    assert results["configs"]["worldfacts_dedup"]["metadata"]["closedbook"]["split"] == split


def test_an_unknown_style_is_refused():
    with pytest.raises(RequestError, match="no style 'haiku'; there are direct, cot"):
        run("x", metadata={"style": "haiku"})
