"""Training on two processes, as `accelerate launch` starts them: one log, one file of samples, one end for both."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from closedbook.harness.manifests import load_questions
from closedbook.harness.provenance import read_provenance
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.testing import write_tiny_model
from closedbook.training.accelerate import accelerate_dir
from closedbook.training.monitor import read_log
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
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


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


def test_samples_are_drawn_once_and_both_processes_train_on_them(stated, tmp_path):
    ended(launched("rft", tmp_path / "run", stated))
    samples = SampleStore(tmp_path / "run" / "samples").whole()
    assert len(samples) == 16
    assert {sample.drawn for sample in samples} == {ROLLOUTS}
    assert read_provenance(str(tmp_path / "run")).method == "rft"


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
    again.kill()
    again.communicate()
