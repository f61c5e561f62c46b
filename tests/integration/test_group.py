"""The group of the study's four benchmarks, on the real questions, with a scripted model."""

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from closedbook.harness.files import tasks_dir
from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import question_prompt
from closedbook.harness.testing import ScriptedModel

STUDY = ("nq", "triviaqa", "popqa", "simpleqa")


@pytest.mark.data
def test_the_group_reports_the_plain_mean_over_the_four_benchmarks():
    right = {question_prompt(q.question): q.answers[0] for q in load_questions("simpleqa", "test")}
    model = ScriptedModel(lambda prompt: right.get(prompt, "x y z"))
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata={"judge": "rules"})
    results = simple_evaluate(model, tasks=["closedbook"], limit=8, task_manager=manager, bootstrap_iters=0)
    assert set(results["group_subtasks"]["closedbook"]) == {f"{name}_dedup" for name in STUDY}
    assert results["results"]["simpleqa_dedup"]["judge_correct,none"] == 1.0
    assert results["groups"]["closedbook"]["judge_correct,none"] == pytest.approx(0.25)
    assert len(model.prompts) == 8 * len(STUDY)
