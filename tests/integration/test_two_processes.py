"""Training on two processes, as `accelerate launch` starts them: one log, one file of samples, one end for both."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from closedbook.harness.manifests import load_questions
from closedbook.harness.provenance import read_provenance
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.testing import JudgeServer, write_tiny_model
from closedbook.training.accelerate import accelerate_dir
from closedbook.training.monitor import read_log
from closedbook.training.recipes import load_recipe
from closedbook.training.run import train
from closedbook.training.trainers import checkpoints, step_of

PLACES = ["Africa", "Asia", "Europe", "Oceania", "Euro", "Dollar", "Franc"]
ROLLOUTS = 4


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    """What every recipe here states: a model of a few thousand random weights, 16 questions that it can answer."""
    folder = tmp_path_factory.mktemp("two")
    model = write_tiny_model(folder / "model", PLACES, 256)
    sayable = [question for question in load_questions("worldfacts", "train") if set(question.answers) & set(PLACES)]
    (folder / "ids.txt").write_text("\n".join(question.id for question in sayable[:16]))
    return [f"model={model}", f"subset.ids={folder / 'ids.txt'}", "precision=float32", "questions=4", "epochs=2",
            f"rollouts={ROLLOUTS}", "learning_rate=0.01", "reward=contains", "validation={every: 4, limit: 5}",
            "save={every: 4, keep: 9}"]  # fmt: skip


def launched(method, folder, stated, *more):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_dir() / "ddp.yaml"),
               "--num_processes", "2", "--main_process_port", "0", "-m", "closedbook.harness.cli", "train", method,
               *stated, f"output_dir={folder}", *more]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
                               start_new_session=True)  # fmt: skip
    STARTED.append(process)
    return process


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    while STARTED:
        process = STARTED.pop()
        with suppress(psutil.NoSuchProcess):
            for child in (of := psutil.Process(process.pid)).children(recursive=True):
                child.kill()  # a group of their own, and they hold the pipes
            of.kill()
        process.communicate()


def ended(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


def test_two_processes_train_as_one_run(stated, tmp_path):
    said = ended(launched("grpo", tmp_path / "run", stated))
    assert said.count("the model of step") == 1
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["step"] for line in log] == [*range(1, 9)]
    assert [line["step"] for line in log if "validation/judge_correct" in line] == [4, 8]
    assert read_provenance(str(tmp_path / "run")).step in (4, 8)


def test_samples_are_drawn_and_judged_once_and_both_processes_train_on_them(stated, tmp_path):
    with JudgeServer(lambda prompt: "1.0") as server:
        judge = f"judge={{kind: openai, model: m, base_url: '{server.url}', cache: 'off'}}"
        ended(launched("rft", tmp_path / "run", stated, "reward=judge", judge, "validation.every=null"))
    samples = SampleStore(tmp_path / "run" / "samples").whole()
    assert len(samples) == 16
    assert {sample.drawn for sample in samples} == {ROLLOUTS}
    assert read_provenance(str(tmp_path / "run")).method == "rft"
    texts = [question.question for question in load_questions("worldfacts", "train")]
    prompts = [prompt for prompt in server.prompts if "It is Paris" not in prompt]  # with which the judge is tried
    asked = Counter(prompt for prompt in prompts if any(text in prompt for text in texts))
    assert len(asked) > ROLLOUTS
    assert set(asked.values()) == {1}


@pytest.fixture
def judging():
    """A judge that calls about half of all answers right, always the same ones."""
    with JudgeServer(lambda prompt: f"{len(prompt) % 2}.0") as server:
        yield server


def test_validation_is_the_same_however_many_processes_ask(stated, tmp_path, judging):
    """The weights do not move; an odd number of questions, so that one of them is asked twice and counts once."""
    judge = f"judge={{kind: openai, model: m, base_url: '{judging.url}', cache: 'off'}}"
    still = (
        *stated,
        judge,
        "learning_rate=1.0e-30",
        "max_steps=1",
        "validation={every: null, limit: 41}",
        "save={every: 1}",
    )
    still = tuple(text for text in still if not text.startswith(("rollouts", "reward")))  # which sft does not read
    ended(launched("sft", tmp_path / "two", still))
    train(load_recipe("sft_cpu", [*still, f"output_dir={tmp_path / 'one'}"]), progress=False)
    one, two = (
        {name: value for name, value in read_log(tmp_path / run / "log.jsonl")[-1].items() if "validation/" in name}
        for run in ("one", "two")
    )
    assert one == two
    assert 0 < one["validation/judge_correct"] < 1


def of_rank(rank):
    """The process of a rank that this test has started."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes().split(b"\0")
        except OSError:
            continue
        mine = f"PYTEST_CURRENT_TEST={os.environ['PYTEST_CURRENT_TEST']}".encode() in environment
        if mine and f"RANK={rank}".encode() in environment:
            return int(path.parent.name)
    raise AssertionError(f"no process has rank {rank}")


def test_a_signal_that_reaches_one_process_ends_both_after_the_same_step_and_the_run_goes_on(stated, tmp_path):
    long = ("epochs=40", "save.every=200", "validation.every=null")
    process = launched("grpo", tmp_path / "run", stated, *long)
    deadline = time.monotonic() + 120
    while len(read_log(tmp_path / "run" / "log.jsonl")) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(of_rank(1), signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    (kept,) = checkpoints(tmp_path / "run")
    assert f"step {step_of(kept)} is kept" in err
    again = launched("grpo", tmp_path / "run", stated, *long, "--resume")
    while len(read_log(tmp_path / "run" / "log.jsonl")) <= step_of(kept):
        assert again.poll() is None, again.stderr.read()
        time.sleep(0.05)
