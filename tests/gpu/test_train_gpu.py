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

from closedbook.harness.compare import Comparison, compare, read_run
from closedbook.harness.statistics import Paired
from closedbook.training.monitor import read_log
from closedbook.training.stage_runs import run
from closedbook.training.study import study_graph
from closedbook.training.study_recipe import BASE, load_study
from closedbook.training.throughput import throughput

pytestmark = [pytest.mark.gpu, pytest.mark.data]
SMOLLM2_WEIGHTS = 134_515_008


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(os.environ.get("CLOSEDBOOK_GPU_OUT") or tmp_path)


def trained(name: str, out: Path, overrides: Sequence[str]) -> dict[str, list[Comparison]]:
    """A study's methods, trained and scored on PopQA: every run beside each one of them."""
    study = load_study(name, ["benchmarks=popqa", "also=null", "cot=false", *overrides])
    graph = study_graph(study, out)
    run(graph, ["data", "dedup", *graph.named(["train", "eval"])], print)
    (model,) = study.models
    folders = {BASE: out / model / "eval" / BASE} | {m: out / model / "eval" / "popqa" / m for m in study.methods}
    runs = {method: read_run(folder) for method, folder in folders.items()}
    return {first: compare({first: runs[first]} | {n: r for n, r in runs.items() if n != first}) for first in runs}


def of(table: Sequence[Comparison], name: str) -> Paired:
    """The comparison of one run."""
    (found,) = [row.against for row in table if row.run == name and row.against]
    return found


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_grpo_on_popqa_raises_greedy_accuracy_on_unseen_facts_and_beats_sft(small_model: Path, out: Path) -> None:
    import torch

    engine = ["vllm=colocate"] if find_spec("vllm") else []
    methods = f"methods={{grpo: {['grpo_gpu_small', *engine]}, rft: null, dpo: null, grpo_exact_match: null}}"
    only = [f"models={{smollm2: {small_model}, gemma-270m: null, qwen-0.5b: null}}", "attribution=null", "limit=null"]
    tables = trained("study_gpu_small", out, [methods, *only])
    beside = of(tables["sft"], "grpo")
    speed = throughput(
        read_log(out / "smollm2" / "train" / "popqa" / "grpo" / "log.jsonl"),
        SMOLLM2_WEIGHTS,
        device=torch.cuda.get_device_name(),
        rollouts=True,
    )
    found = {"table": [asdict(row) for row in tables[BASE]], "grpo_against_sft": asdict(beside), "speed": asdict(speed)}
    (out / "smoke.json").write_text(json.dumps(found | {"engine": engine or ["transformers"]}, indent=2))
    print(json.dumps(found, indent=2))
    gained = of(tables[BASE], "grpo")
    assert (gained.difference.value or 0) > 0
    assert gained.p < 0.01
    assert (beside.difference.value or 0) > 0, f"GRPO does not beat SFT at equal epochs: {beside}; see {out}/smoke.json"


@pytest.mark.paper
@pytest.mark.timeout(0)
def test_the_papers_direction_rl_above_every_baseline_and_the_judges_reward_above_exact_match(out: Path) -> None:
    stated = [f"models={{llama: null, olmo: null, qwen: {os.environ['CLOSEDBOOK_PAPER_MODEL']}}}", "attribution=null"]
    for field, variable in {"kind": "JUDGE", "model": "JUDGE_MODEL", "base_url": "JUDGE_BASE_URL"}.items():
        if value := os.environ.get(f"CLOSEDBOOK_{variable}"):
            stated.append(f"judge.{field}={value}")
    methods = "methods={dr_grpo: null, dapo: null, gspo: null, rloo: null}"
    tables = trained("study_paper", out, [methods, "engine=hf", "launch=null", *stated])
    against = {name: of(tables[name], "grpo") for name in (BASE, "sft", "rft", "dpo", "grpo_exact_match")}
    (out / "paper.json").write_text(json.dumps({name: asdict(found) for name, found in against.items()}, indent=2))
    behind = {name: found for name, found in against.items() if (found.difference.low or 0) <= 0}
    assert not behind, f"GRPO is not above {', '.join(behind)} with 95 % confidence: {behind}"
