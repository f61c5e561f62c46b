"""On a GPU: the literal command, and the plain command on several GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.model]
BIN = Path(sys.executable).parent


def evaluate(folder, model, *launcher):
    """Score the small model on all of worldfacts; returns the results."""
    command = [
        *launcher, "--model", "hf", "--model_args", f"pretrained={model},dtype=bfloat16", "--tasks", "worldfacts_dedup",
        "--apply_chat_template", "--batch_size", "64", "--output_path", folder, "--metadata", '{"judge": "rules"}',
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = folder.rglob("results_*.json")
    return json.loads(results.read_text())["results"]["worldfacts_dedup"]


def test_the_literal_command_scores_a_model_on_the_gpu(small_model, tmp_path):
    results = evaluate(tmp_path, small_model, BIN / "lm_eval")
    assert results["judge_correct,none"] > 0.2


def test_several_gpus_answer_every_question_once(small_model, tmp_path):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    results = evaluate(tmp_path, small_model, BIN / "accelerate", "launch", "-m", "lm_eval")
    assert results["judge_correct,none"] > 0.2
