"""A real model through the literal `inspect eval` command."""

import subprocess
import sys
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log

from closedbook.harness.manifests import load_questions
from closedbook.harness.metrics import Answer, metrics
from closedbook.harness.prompts import extract_answer, messages

BIN = Path(sys.executable).parent


def inspect_eval(folder, *arguments):
    """Run the command in a folder; logs go there."""
    command = [BIN / "inspect", "eval", *arguments, "--log-dir", folder / "logs", "--display", "plain"]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, cwd=folder)


@pytest.mark.model
def test_the_literal_inspect_command_scores_a_real_model(small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE", "rules")
    model = ["--model", "hf/local", "-M", f"model_path={small_model}", "-M", "device=cpu"]
    done = inspect_eval(tmp_path, "closedbook/worldfacts_dedup", *model, "--limit", "8")
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "logs").iterdir()
    log = read_eval_log(str(file))
    assert (log.status, log.eval.task) == ("success", "closedbook/worldfacts_dedup")
    asked = load_questions("worldfacts", "test")[:8]
    for sample, question in zip(log.samples, asked, strict=True):
        assert [{"role": m.role, "content": m.text} for m in sample.messages[:-1]] == messages(question.question)
        said = sample.output.completion
        found = metrics([Answer(extract_answer(said, "direct"))], question.answers)
        assert said.strip()
        assert {name: sample.scores[name].value for name in found} == found
    right = [sample.scores["judge_correct"].value for sample in log.samples].count("C")
    assert right >= 1
    assert log.results.scores[0].metrics["accuracy"].value == right / 8


def test_what_is_refused_is_said_in_one_line(tmp_path):
    wrong = ["-T", "split=tset"]
    done = inspect_eval(tmp_path, "closedbook/worldfacts_dedup", "--model", "mockllm/model", *wrong)
    assert done.returncode == 1
    said = (done.stdout + done.stderr).strip()
    assert said == "no split 'tset'; there are train, validation, test, dropped"
