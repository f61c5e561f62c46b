"""Our environment in verifiers itself, which has an environment of its own: what it asks, and what it rewards.

The models and the judges are real servers on loopback in this process; verifiers runs in another one.
"""

import json
import os
import subprocess
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from closedbook.harness.judge import Grade, RulesJudge, Triple
from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import question_prompt
from closedbook.harness.testing import JudgeServer

pytestmark = pytest.mark.suites
SCRIPT = Path(__file__).parent / "verifiers_rollouts.py"
N = 24
NOWHERE = "http://127.0.0.1:9/v1"
WRONG = {
    "benchmark": ({"benchmark": "nope"}, "RequestError: taskset.benchmark: no benchmark 'nope'; there are "),
    "split": ({"split": "dropped"}, "RequestError: taskset.split: Input should be 'train', 'validation' or 'test'"),
    "style": ({"style": "curt"}, "RequestError: taskset.style: Input should be 'direct' or 'cot'"),
    "judge": ({"judge": "oracle"}, "RequestError: taskset.task.judge: judge: kind: Input should be 'rules', "),
    "key": ({"judge": {"kind": "openai", "model": "m", "api_key": "k"}}, "would be written to results"),
}


@cache
def train():
    return load_questions("worldfacts", "train")


@cache
def answers():
    """What the model says, by id: it knows every other question."""
    return {question.id: question.answers[0] if at % 2 else "Atlantis" for at, question in enumerate(train())}


def unjudged():
    """Questions over which a judge breaks down; they are answered Atlantis, which no rule can grade."""
    return train()[:N:4]


def model():
    """A server that says these answers, in several lines."""
    says = {question_prompt(question.question): answers()[question.id] for question in train()}
    return JudgeServer(lambda prompt: f"\n{says[prompt]}\nI hope this helps.")


def goes_on():
    """A server that knows every validation question, and goes on to another one that it gets wrong."""
    says = {question_prompt(q.question, "cot"): q.answers[0] for q in load_questions("worldfacts", "validation")}
    return JudgeServer(lambda prompt: f"Final answer: {says[prompt]}\nQuestion: and who?\nFinal answer: nobody")


def verdict(prompt):
    """What the judge replies that breaks down."""
    if any(question.question in prompt for question in unjudged()):
        return 500
    return "1.0" if "It is Paris" in prompt else "0.0"


def judged_by(url):
    return {"kind": "openai", "model": "judge", "base_url": url, "retries": 0}


@pytest.fixture(scope="module")
def run(verifiers_bin, tmp_path_factory):
    """Runs a script of the environment with verifiers; returns how it ended."""
    # a home of its own, in which verifiers keeps the folders of rollouts, and none of our settings
    home = str(tmp_path_factory.mktemp("home"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CLOSEDBOOK_", "OPENAI_"))}
    clean |= {"HOME": home, "CLOSEDBOOK_CACHE": home, "NO_COLOR": "1"}

    def run(script, *arguments, **more):
        command = [verifiers_bin / "python", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=home, env=clean, **more)

    return run


class Done(NamedTuple):
    """What came of each request, the models that were asked, and the judge that broke down."""

    answers: dict[str, Any]
    models: dict[str, JudgeServer]
    judge: JudgeServer


@pytest.fixture(scope="module")
def done(run):
    with ExitStack() as servers:
        models = {name: servers.enter_context(model()) for name in ("plain", "served", "judge breaks", "no judge")}
        models["cot"] = servers.enter_context(goes_on())
        judge = servers.enter_context(JudgeServer(verdict, latency=0.5))
        judges = {"judge breaks": judged_by(judge.url), "no judge": judged_by(NOWHERE)}
        environments = {"cot": {"benchmark": "worldfacts", "split": "validation", "style": "cot"}}
        requests = {
            name: {
                "environment": environments.get(name, {"benchmark": "worldfacts", "judge": judges.get(name)}),
                "policy": server.url,
                "n": N,
                "served": name == "served",
            }
            for name, server in models.items()
        }
        requests |= {name: {"environment": wrong} for name, (wrong, _) in WRONG.items()}
        ended = run(SCRIPT, input=json.dumps(requests))
        assert ended.returncode == 0, ended.stderr[-3000:]
        yield Done(json.loads(ended.stdout), models, judge)


def test_the_tasks_are_the_train_split_in_order_with_our_prompt(done):
    tasks = done.answers["plain"]["tasks"]
    assert [task["id"] for task in tasks] == [question.id for question in train()]
    assert [task["prompt"] for task in tasks] == [question_prompt(question.question) for question in train()]
    assert [tuple(task["answers"]) for task in tasks] == [question.answers for question in train()]
    assert {task["system_prompt"] for task in tasks} == {None}
    assert not {task["id"] for task in tasks} & {question.id for question in load_questions("worldfacts", "test")}


def test_another_split_is_there_for_evaluation_and_another_prompt(done):
    tasks = done.answers["cot"]["tasks"]
    wanted = {q.id: question_prompt(q.question, "cot") for q in load_questions("worldfacts", "validation")}
    assert {task["id"]: task["prompt"] for task in tasks} == wanted


@pytest.mark.parametrize("way", ["plain", "served"])
def test_a_rollout_is_rewarded_as_the_judge_grades_it(done, way):
    rollouts = done.answers[way]["rollouts"]
    asked = train()[:N]
    assert [(rollout["id"], rollout["key"], rollout["ok"]) for rollout in rollouts] == [
        (q.id, q.id, True) for q in asked
    ]
    grades = RulesJudge().grade([Triple(q.question, q.answers, answers()[q.id]) for q in asked])
    assert set(grades) == {Grade.CORRECT, Grade.INCORRECT}
    for rollout, grade in zip(rollouts, grades, strict=True):
        right = float(grade is Grade.CORRECT)
        assert rollout["rewards"] == {"judge_correct": right}
        assert rollout["metrics"] == {"exact_match": right, "contains": right, "judge_failed": 0.0}
        answer = f"{answers()[rollout['id']]} [{grade}]"
        assert rollout["info"] == {"closedbook": {"answer": answer, "judge": RulesJudge().identity}}


def test_a_reply_ends_where_the_task_ends_it(done):
    assert [rollout["rewards"] for rollout in done.answers["cot"]["rollouts"]] == [{"judge_correct": 1.0}] * N


@pytest.mark.parametrize("way", ["plain", "served"])
def test_the_model_is_asked_once_with_our_prompt_alone_and_the_runs_sampling(done, way):
    requests = done.models[way].requests
    wanted = [[{"role": "user", "content": question_prompt(question.question)}] for question in train()[:N]]
    assert sorted((request["messages"] for request in requests), key=str) == sorted(wanted, key=str)
    assert {(request["model"], request["temperature"]) for request in requests} == {("policy", 0.5)}
    assert not any("tools" in request for request in requests)


def test_a_judge_that_fails_gives_no_reward_and_the_others_theirs(done):
    rollouts = {rollout["id"]: rollout for rollout in done.answers["judge breaks"]["rollouts"]}
    failed = {question.id for question in unjudged()}
    assert {id for id, rollout in rollouts.items() if not rollout["ok"]} == failed
    for id in failed:
        assert rollouts[id]["rewards"] == {"judge_correct": None}
        assert rollouts[id]["metrics"]["judge_failed"] == 1.0
        assert "WorkError: the judge failed: server: 500" in rollouts[id]["errors"][0]
    for id in rollouts.keys() - failed:
        assert rollouts[id]["rewards"] == {"judge_correct": float(answers()[id] != "Atlantis")}
        assert rollouts[id]["errors"] == []


def test_answers_that_come_together_are_judged_together(done):
    assert done.judge.most_at_once > 2


def test_a_judge_that_cannot_work_ends_the_run_before_the_model_is_asked(done):
    said = done.answers["no judge"]["error"]
    assert said.startswith(f"WorkError: judge 'judge' at {NOWHERE} cannot answer now: ")
    assert done.models["no judge"].requests == []


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_is_refused_in_one_line(done, what):
    said = done.answers[what]["error"]
    assert WRONG[what][1] in said
    assert "\n" not in said


def test_its_own_command_evaluates_from_a_file_of_settings(run, verifiers_bin, tmp_path):
    settings = tmp_path / "closedbook.toml"
    with model() as policy:
        settings.write_text(
            f'model = "policy"\noutput_dir = "{tmp_path}"\n[run]\nname = "run"\n'
            f'[client]\nbase_url = "{policy.url}"\napi_key_var = "NO_KEY"\n'
            '[env.taskset]\nid = "closedbook"\nbenchmark = "worldfacts"\nsplit = "train"\ntask.judge = "rules"\n'
        )
        ended = run(verifiers_bin / "vf-eval", "@", settings, "-n", "4", "-r", "2", "--no-push", "--no-rich")
    assert ended.returncode == 0, ended.stderr[-3000:]
    traces = [json.loads(line)["traces"] for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]
    assert sorted(trace["rewards"]["judge_correct"]["score"] for (trace,) in traces) == [0.0] * 4 + [1.0] * 4


def test_its_own_command_refuses_a_wrong_request(run, verifiers_bin):
    ended = run(verifiers_bin / "vf-eval", "closedbook", "--env.taskset.benchmark", "nope", "--no-push")
    assert ended.returncode != 0
    assert "no benchmark 'nope'; there are " in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
