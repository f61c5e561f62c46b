"""Training on a GPU: does it do what the study says?

`pytest -m gpu` runs the smoke test, ten minutes on one GPU. `pytest -m "gpu and paper"` runs the study's own setting,
hours to days, with the model of CLOSEDBOOK_PAPER_MODEL and the judge of CLOSEDBOOK_JUDGE and its fellows. What they
find stays in CLOSEDBOOK_GPU_OUT, from where a run that was ended goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from closedbook.harness.compare import Comparison
from closedbook.harness.statistics import Paired
from closedbook.training.monitor import read_log
from closedbook.training.recipes import load_recipe
from closedbook.training.study import BASE, run_study
from closedbook.training.throughput import throughput

pytestmark = [pytest.mark.gpu, pytest.mark.data]
SMOLLM2_WEIGHTS = 134_515_008


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(os.environ.get("CLOSEDBOOK_GPU_OUT") or tmp_path)


def of(table: Sequence[Comparison], name: str) -> Paired:
    """The comparison of one run."""
    (found,) = [row.against for row in table if row.run == name and row.against]
    return found


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_grpo_on_popqa_raises_greedy_accuracy_on_unseen_facts_and_beats_sft(small_model: Path, out: Path) -> None:
    import torch

    engine = ["vllm=colocate"] if find_spec("vllm") else []
    recipes = {
        "grpo": load_recipe("grpo_gpu_small", [f"model={small_model}", *engine]),
        "sft": load_recipe("sft_gpu_small", [f"model={small_model}"]),
    }
    study = run_study(recipes, "popqa_dedup", out)
    beside = of(study.against("sft"), "grpo")
    speed = throughput(
        read_log(out / "grpo" / "log.jsonl"), SMOLLM2_WEIGHTS, device=torch.cuda.get_device_name(), rollouts=True
    )
    found = {"table": [asdict(row) for row in study.table], "grpo_against_sft": asdict(beside), "speed": asdict(speed)}
    (out / "smoke.json").write_text(json.dumps(found | {"engine": engine or ["transformers"]}, indent=2))
    print(json.dumps(found, indent=2))
    gained = of(study.table, "grpo")
    assert (gained.difference.value or 0) > 0
    assert gained.p < 0.01
    assert (beside.difference.value or 0) > 0, f"GRPO does not beat SFT at equal epochs: {beside}; see {out}/smoke.json"


@pytest.mark.paper
@pytest.mark.timeout(0)
def test_the_papers_direction_rl_above_every_baseline_and_the_judges_reward_above_exact_match(out: Path) -> None:
    stated = [f"model={os.environ['CLOSEDBOOK_PAPER_MODEL']}"]
    for field, variable in {"kind": "JUDGE", "model": "JUDGE_MODEL", "base_url": "JUDGE_BASE_URL"}.items():
        if value := os.environ.get(f"CLOSEDBOOK_{variable}"):
            stated.append(f"judge.{field}={value}")
    recipes = {name: load_recipe(f"{name}_paper", stated) for name in ("grpo", "sft", "rft", "dpo")}
    recipes["grpo_exact_match"] = load_recipe("grpo_paper", [*stated, "reward=exact_match"])
    study = run_study(recipes, "popqa_dedup", out)
    against = {name: of(study.against(name), "grpo") for name in (BASE, "sft", "rft", "dpo", "grpo_exact_match")}
    (out / "paper.json").write_text(json.dumps({name: asdict(found) for name, found in against.items()}, indent=2))
    behind = {name: found for name, found in against.items() if (found.difference.low or 0) <= 0}
    assert not behind, f"GRPO is not above {', '.join(behind)} with 95 % confidence: {behind}"
