"""The benches that a release is measured with still run, and compare like with like."""

import json
import subprocess
import sys
from pathlib import Path

from closedbook.harness.testing import write_tiny_model

BENCH = Path(__file__).parents[1] / "bench"
TINY = ["--steps", "3", "--rounds", "1", "questions=2"]


def bench(*arguments):
    """What a bench prints."""
    command = [sys.executable, str(BENCH / "grpo_step.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_step_of_ours_draws_the_rollouts_that_bare_trl_draws(tmp_path):
    model = write_tiny_model(tmp_path / "model", ["Africa", "Asia", "Europe", "Euro"], 256)
    figures = bench("--model", model, *TINY)
    assert figures["same_rollouts"]
    (both,) = figures["rounds"]
    assert len(both["ours"]["tokens"]) == 3
    assert len(set(both["ours"]["tokens"])) == 3
    assert figures["ratio"] > 0
    assert figures["memory"] > 0.5


def test_a_slow_judge_and_an_instant_one_are_asked_about_the_same_rollouts():
    figures = bench("--part", "judge", *TINY)
    (both,) = figures["rounds"]
    assert both["slow"]["tokens"] == both["instant"]["tokens"]
    assert figures["calls"] >= 3
    assert figures["round_trip_seconds"] >= 0.2
