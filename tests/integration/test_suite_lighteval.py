"""The tasks in real lighteval, in its own environment: a run by its command line with a judge that fails at times."""

import json
import math
import os
import subprocess
from collections.abc import Iterator
from itertools import cycle
from statistics import fmean, stdev

import pytest
from pyarrow.parquet import read_table

from closedbook.harness.manifests import load_questions
from closedbook.harness.metrics import METRICS
from closedbook.harness.own_benchmark import NOT_STATED, Request, new_benchmark
from closedbook.harness.prompts import question_prompt, template_digest
from closedbook.harness.task_files import generation
from closedbook.harness.testing import JudgeServer, write_tiny_model

pytestmark = pytest.mark.suites
QUESTIONS = 40


def call(folder, *command, **variables):
    """Run a command that must succeed, in a folder that keeps all caches."""
    kept = {"CLOSEDBOOK_CACHE": str(folder / "closedbook"), "HF_HOME": str(folder / "huggingface")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLOSEDBOOK_JUDGE")}
    environment = inherited | kept | {"HF_HUB_OFFLINE": "1"} | variables
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def judged(lighteval_bin, tmp_path_factory):
    """Figures, rows and judge of a run in which one call in three fails."""
    folder = tmp_path_factory.mktemp("lighteval")
    write_tiny_model(folder / "model", ["Africa", "Asia", "Europe", "Euro"], 1024, "qwen2")
    replies: Iterator[str | int] = cycle(["A", 500, "C", "B", 500, "A"])
    with JudgeServer(lambda prompt: next(replies), latency=0.05) as server:
        call(
            folder, lighteval_bin / "lighteval", "accelerate", "model_name=model,batch_size=8,cache_dir=cache",
            "worldfacts_dedup|0", "--custom-tasks", "closedbook.harness.suites.lighteval", "--max-samples", QUESTIONS,
            "--output-dir", "out", "--save-details",
            CLOSEDBOOK_JUDGE="openai", CLOSEDBOOK_JUDGE_MODEL="m", CLOSEDBOOK_JUDGE_BASE_URL=server.url,
            CLOSEDBOOK_JUDGE_RETRIES="0", CLOSEDBOOK_JUDGE_PROMPT="simpleqa", CLOSEDBOOK_JUDGE_CACHE="off",
        )  # fmt: skip
    (results,) = folder.glob("out/results/**/*.json")
    (details,) = folder.glob("out/details/**/*.parquet")
    return json.loads(results.read_text())["results"]["worldfacts_dedup|0"], read_table(details).to_pylist(), server


def values(rows, name):
    return [row["metric"][name] for row in rows]


def test_every_metric_of_the_judges_prompt_is_there(judged):
    figures, rows, _ = judged
    assert figures.keys() == {name + end for name in METRICS for end in ("", "_stderr")}
    assert len(rows) == QUESTIONS


def test_a_judge_failure_is_no_number_and_leaves_the_mean_and_its_error(judged):
    figures, rows, _ = judged
    failed = [at for at, value in enumerate(values(rows, "judge_failed")) if value]
    assert 0 < len(failed) < QUESTIONS
    assert figures["judge_failed"] == len(failed) / QUESTIONS
    for name in ("judge_correct", "not_attempted"):
        assert [at for at, value in enumerate(values(rows, name)) if math.isnan(value)] == failed
        known = [value for value in values(rows, name) if not math.isnan(value)]
        assert {*known} == {0.0, 1.0}
        assert figures[name] == pytest.approx(fmean(known))
        assert figures[f"{name}_stderr"] == pytest.approx(stdev(known) / math.sqrt(len(known)))


def test_the_judge_is_tried_first_and_then_asked_once_about_all_answers_together(judged):
    _, rows, server = judged
    assert "capital of France" in server.prompts[0]
    assert len(server.prompts) <= QUESTIONS + 1
    assert server.most_at_once > 8
    asked = {row["doc"]["specific"]["question"] for row in rows}
    assert all(any(question in prompt for question in asked) for prompt in server.prompts[1:])


LOOK = """
import json
from closedbook.harness.suites import lighteval as suite
from closedbook.harness.errors import RequestError

tasks = {task.name: task for task in suite.TASKS_TABLE}
one = tasks["worldfacts_dedup_cot"]
row = {"id": "1", "question": "Who?", "answers": ["Ada", "Ada L."], "__few_shots": False}
doc = one.prompt_function(row, one.name)
try:
    refused = ""
    one.prompt_function(row | {"__few_shots": True}, one.name)
except RequestError as error:
    refused = str(error)
print(json.dumps({
    "names": list(tasks), "metrics": [metric.metric_name for metric in one.metrics], "stop": one.stop_sequence,
    "longest": one.generation_size, "query": doc.query, "golds": doc.get_golds(), "refused": refused,
    "revision": one.hf_revision, "unknown": suite._over_questions("x", [float("nan")]),
}))
"""


@pytest.fixture(scope="module")
def seen(lighteval_bin, tmp_path_factory):
    """What the module holds without a judge and with a benchmark of one's own."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "rows.jsonl").write_text('{"question": "who was Gorlim", "answer": "a man"}\n' * 3)
    request = Request("gorlim", folder / "rows.jsonl", folder / "own", None, None, NOT_STATED, "Gorlim")
    new_benchmark(request)
    printed = call(folder, lighteval_bin / "python", "-c", LOOK, CLOSEDBOOK_BENCHMARKS=str(folder / "own"))
    return json.loads(printed)


def test_a_benchmark_of_ones_own_has_both_tasks_and_without_a_judge_there_are_two_metrics(seen):
    assert {"popqa_dedup", "popqa_dedup_cot", "gorlim_dedup", "gorlim_dedup_cot"} < {*seen["names"]}
    assert seen["metrics"] == ["exact_match", "contains"]


def test_a_task_asks_with_the_prompt_function_and_stops_where_lm_evals_does(seen):
    assert (seen["query"], seen["golds"]) == (question_prompt("Who?", "cot"), ["Ada", "Ada L."])
    stated = generation("worldfacts", "cot")
    assert (seen["stop"], seen["longest"]) == ([*stated.stop], stated.max_tokens)
    assert seen["revision"] == template_digest("cot")


def test_examples_are_refused_since_they_would_be_test_questions(seen):
    assert seen["refused"] == "worldfacts_dedup_cot: the tasks are asked without examples; ask worldfacts_dedup_cot|0"


def test_a_mean_of_nothing_known_is_not_zero(seen):
    assert all(math.isnan(value) for value in seen["unknown"].values())


def test_the_questions_are_those_of_the_test_split(judged):
    _, rows, _ = judged
    test = {question.id: question.question for question in load_questions("worldfacts", "test")}
    chosen = {row["doc"]["specific"]["id"]: row["doc"]["specific"]["question"] for row in rows}
    assert len(chosen) == QUESTIONS
    assert chosen.items() <= test.items()
