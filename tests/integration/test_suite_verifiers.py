"""Our environment in verifiers itself, which has an environment of its own: what it asks, and what it rewards.

The model and the judge are real servers on loopback in this process; verifiers runs in another one.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from closedbook.harness.judge import Grade, RulesJudge, Triple
from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import question_prompt
from closedbook.harness.questions import by_id
from closedbook.harness.testing import JudgeServer

pytestmark = pytest.mark.suites
SCRIPT = Path(__file__).parent / "verifiers_rollouts.py"
N = 24


@pytest.fixture
def run(suites_python, tmp_path):
    """Runs a program of the environment with verifiers; returns how it ended."""

    def run(*command, **more):
        # a home of its own: verifiers keeps the folders of its rollouts there
        environment = os.environ | {"HOME": str(tmp_path), "NO_COLOR": "1"}
        return subprocess.run(
            [suites_python, *map(str, command)], capture_output=True, text=True, timeout=300, cwd=tmp_path,
            env=environment, **more,
        )  # fmt: skip

    return run


@pytest.fixture
def rollouts(run):
    """What became of a request to the script."""

    def ask(policy=None, n=N, served=False, **environment):
        request = {"environment": environment}
        if policy:
            request |= {"policy": policy.url, "n": n, "served": served}
        done = run(SCRIPT, input=json.dumps(request))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def policy():
    """A model that knows every other training question of worldfacts, and says so in several lines."""
    questions = load_questions("worldfacts", "train")
    says = {question_prompt(q.question): q.answers[0] if at % 2 else "Atlantis" for at, q in enumerate(questions)}
    with JudgeServer(lambda prompt: f"\n{says[prompt]}\nI hope this helps.") as server:
        yield server


def triple(rollout, questions):
    """What was to be judged, put together without the adapter."""
    question = questions[rollout["id"]]
    at = list(questions).index(question.id)
    return Triple(question.question, question.answers, question.answers[0] if at % 2 else "Atlantis")


def test_the_tasks_are_the_train_split_in_order_with_our_prompt(rollouts):
    tasks = rollouts(benchmark="worldfacts")["tasks"]
    questions = load_questions("worldfacts", "train")
    assert [task["id"] for task in tasks] == [question.id for question in questions]
    assert [task["prompt"] for task in tasks] == [question_prompt(question.question) for question in questions]
    assert [task["system_prompt"] for task in tasks] == [None] * len(questions)
    assert [tuple(task["answers"]) for task in tasks] == [question.answers for question in questions]
    assert not {task["id"] for task in tasks} & {question.id for question in load_questions("worldfacts", "test")}


def test_another_split_is_there_for_evaluation_and_another_prompt(rollouts):
    tasks = rollouts(benchmark="worldfacts", split="validation", style="cot")["tasks"]
    wanted = {q.id: question_prompt(q.question, "cot") for q in load_questions("worldfacts", "validation")}
    assert {task["id"]: task["prompt"] for task in tasks} == wanted


@pytest.mark.parametrize("served", [False, True], ids=["in its process", "by its server"])
def test_a_rollout_is_rewarded_as_the_judge_grades_it(rollouts, policy, served):
    done = rollouts(policy, served=served, benchmark="worldfacts")["rollouts"]
    questions = by_id(load_questions("worldfacts", "train"))
    assert [rollout["id"] for rollout in done] == list(questions)[:N]
    assert all(rollout["ok"] and rollout["key"] == rollout["id"] for rollout in done)
    grades = RulesJudge().grade([triple(rollout, questions) for rollout in done])
    assert [rollout["rewards"] for rollout in done] == [{"judge_correct": float(g is Grade.CORRECT)} for g in grades]
    assert {rollout["rewards"]["judge_correct"] for rollout in done} == {0.0, 1.0}
    right = [float(g is Grade.CORRECT) for g in grades]
    assert [rollout["metrics"] for rollout in done] == [
        {"exact_match": value, "contains": value, "judge_failed": 0.0} for value in right
    ]
    assert done[1]["info"]["closedbook"]["answer"].endswith(" [correct]")
    assert done[0]["info"]["closedbook"]["answer"] == "Atlantis [incorrect]"
    assert done[0]["info"]["closedbook"]["judge"] == RulesJudge().identity


def test_the_model_is_asked_once_with_our_prompt_alone_and_the_runs_sampling(rollouts, policy):
    rollouts(policy, benchmark="worldfacts")
    questions = load_questions("worldfacts", "train")[:N]
    wanted = [[{"role": "user", "content": question_prompt(question.question)}] for question in questions]
    asked = [request["messages"] for request in policy.requests]
    assert sorted(asked, key=str) == sorted(wanted, key=str)
    assert {(request["model"], request["temperature"]) for request in policy.requests} == {("policy", 0.5)}
    assert not any("tools" in request for request in policy.requests)


def test_a_judge_that_fails_gives_no_reward_and_the_others_theirs(rollouts, policy, monkeypatch):
    questions = load_questions("worldfacts", "train")[:N]
    bad = {question.id for question in questions[::4]}  # answered Atlantis, which no rule can grade
    texts = [question.question for question in questions if question.id in bad]

    def verdict(prompt):
        return 500 if any(text in prompt for text in texts) else "1.0" if "It is Paris" in prompt else "0.0"

    monkeypatch.setenv("CLOSEDBOOK_JUDGE_RETRIES", "0")
    with JudgeServer(verdict, latency=0.5) as judge:
        settings = {"kind": "openai", "model": "judge", "base_url": judge.url}
        done = rollouts(policy, benchmark="worldfacts", judge=settings)["rollouts"]
    assert {rollout["id"] for rollout in done if not rollout["ok"]} == bad
    for rollout in done:
        if rollout["id"] in bad:
            assert rollout["rewards"] == {"judge_correct": None}
            assert rollout["metrics"]["judge_failed"] == 1.0
            assert "WorkError: the judge failed: server: 500" in rollout["errors"][0]
        else:
            assert rollout["rewards"]["judge_correct"] == rollout["metrics"]["exact_match"]
            assert rollout["errors"] == []
    assert judge.most_at_once > 2  # answers are judged together


def test_a_judge_that_cannot_work_ends_the_run_before_the_model_is_asked(run, policy):
    judge = {"kind": "openai", "model": "judge", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    request = {"environment": {"judge": judge}, "policy": policy.url, "n": N, "served": False}
    done = run(SCRIPT, input=json.dumps(request))
    assert done.returncode == 1
    assert "WorkError: judge 'judge' at http://127.0.0.1:9/v1 cannot answer now" in done.stderr.splitlines()[-1]
    assert policy.requests == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"benchmark": "nope"}, "RequestError: taskset.benchmark: no benchmark 'nope'; there are "),
        ({"split": "dropped"}, "RequestError: taskset.split: Input should be 'train', 'validation' or 'test'"),
        ({"style": "curt"}, "RequestError: taskset.style: Input should be 'direct' or 'cot'"),
        ({"judge": "oracle"}, "RequestError: taskset.task.judge: judge: kind: Input should be 'rules', "),
        ({"judge": {"kind": "openai", "model": "m", "api_key": "k"}}, "would be written to results"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(run, environment, said):
    done = run(SCRIPT, input=json.dumps({"environment": environment}))
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]


def test_its_own_command_evaluates_from_a_file_of_settings(run, suites_python, policy, tmp_path):
    settings = tmp_path / "closedbook.toml"
    settings.write_text(
        f'model = "policy"\noutput_dir = "{tmp_path}"\n[run]\nname = "run"\n'
        f'[client]\nbase_url = "{policy.url}"\napi_key_var = "NO_KEY"\n'
        '[env.taskset]\nid = "closedbook"\nbenchmark = "worldfacts"\nsplit = "train"\ntask.judge = "rules"\n'
    )
    done = run(suites_python.parent / "vf-eval", "@", settings, "-n", "4", "-r", "2", "--no-push", "--no-rich")
    assert done.returncode == 0, done.stderr[-3000:]
    traces = [json.loads(line)["traces"] for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]
    assert sorted(trace["rewards"]["judge_correct"]["score"] for (trace,) in traces) == [0.0] * 4 + [1.0] * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--env.taskset.benchmark", "nope"), "no benchmark 'nope'; there are "),
        (("--env.taskset.split", "dropped"), "'train', 'validation' or 'test'"),
    ],
)
def test_its_own_command_refuses_a_wrong_request(run, suites_python, arguments, said):
    done = run(suites_python.parent / "vf-eval", "closedbook", *arguments, "--no-push")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
