"""What a GRPO step of ours costs beside a bare TRL script, what a slow judge adds to it, and which settings suit a CPU.

    $ python tests/bench/grpo_step.py [--part step|judge|settings] [--steps 8] [--rounds 3] [KEY=VALUE]...

Each run is a process of its own, on the recipe grpo_cpu, and the runs of a round alternate. Prints JSON:

- step: `ratio`, the median over rounds of our median step to the bare script's (target: at most 1.03), by the clock
  from one step's beginning to the next one's; `memory`, the same for peak memory (target: at most 1.05);
  `same_rollouts`, whether both drew the same number of tokens in every step, or the ratio compares different work.
- judge: `extra_round_trips`, how many times its own round trip a judge with a latency of 200 ms adds to a step (target:
  at most 1), beside one that answers at once; with a model of a few thousand random weights, whose steps are short.
- settings: the ratio of each setting's step to that of the recipe as it is.

The learning rate is so small that no weight moves: other rewards would lead to other rollouts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from closedbook.harness.small_model import small_model_dir
from closedbook.harness.testing import JudgeServer, write_tiny_model
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import load_recipe

LATENCY = 0.2  # seconds
STILL = ["learning_rate=1e-30", "validation.every=null", "validation.limit=8"]
SETTINGS: Mapping[str, list[str]] = {
    "as it is": [],
    "float32": ["precision=float32"],
    "bfloat16": ["precision=bfloat16"],
    "gradient checkpointing": ["gradient_checkpointing=true"],
    "micro-batches of 8": ["micro_batch=8"],
    "one micro-batch of 40": ["micro_batch=40"],
}
WORDS = tuple(f"word{n}" for n in range(50))  # no answer of these is decided by a rule
Result = dict[str, Any]


def child(kind: str, recipe: Recipe) -> Result:
    """Train in this process; `kind` is ours, bare, or batching: bare with transformers' continuous batching."""
    import transformers

    begun: list[float] = []
    tokens: list[float] = []

    class Clock(transformers.TrainerCallback):
        """Notes when each step begins, and the tokens so far."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun.append(time.perf_counter())

        def on_log(self, *_: Any, **given: Any) -> None:
            if "loss" in given["logs"]:
                tokens.append(given["logs"]["num_tokens"])

    callbacks: list[Any] = transformers.trainer.DEFAULT_CALLBACKS
    callbacks.append(Clock)  # the only way into a trainer that a run makes itself
    if kind == "ours":
        from closedbook.training.run import train

        train(recipe, progress=False)
    else:
        bare(recipe, {"use_transformers_continuous_batching": True} if kind == "batching" else {})
    steps = [after - before for before, after in pairwise(begun[1:])]
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": [round(step, 4) for step in steps], "tokens": tokens, "peak_bytes": peak}


def bare(recipe: Recipe, more: Mapping[str, Any]) -> None:
    """What one would write with TRL alone: its trainer, the recipe's questions, and a reward of one line."""
    import trl
    from datasets import Dataset

    from closedbook.training.batches import resolve
    from closedbook.training.examples import rollout_rows, train_questions
    from closedbook.training.models import load_model
    from closedbook.training.trl_config import trl_config

    def right(completions: Sequence[Any], answers: Sequence[Sequence[str]], **_: Any) -> list[float]:
        texts = [completion[-1]["content"].lower() for completion in completions]
        return [float(any(gold.lower() in text for gold in golds)) for text, golds in zip(texts, answers, strict=True)]

    model, tokenizer = load_model(recipe)
    rows = rollout_rows(train_questions(recipe), recipe, chat=True)
    config: Any = trl_config(recipe, resolve(recipe, 1), int(recipe.max_steps or 0), cpu=True)
    for name, value in more.items():
        setattr(config, name, value)
    data = Dataset.from_list([dict(row) for row in rows])
    rewards: Any = [right]
    trl.GRPOTrainer(model, rewards, args=config, train_dataset=data, processing_class=tokenizer).train()


def run(kind: str, overrides: Sequence[str]) -> Result:
    """The result of a child process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--child", kind, "--out", str(out), f"output_dir={folder}/run", *overrides]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        found: Result = json.loads(out.read_text())
        return found


def alternate(runs: Mapping[str, tuple[str, Sequence[str]]], rounds: int) -> list[dict[str, Result]]:
    """The results of all runs, round by round, every second round in the other order."""
    results = []
    for number in range(rounds):
        results.append({name: run(*runs[name]) for name in list(runs)[:: (-1) ** number]})
        print(f"round {number + 1} of {rounds}", json.dumps(results[-1]), file=sys.stderr, flush=True)
    return results


def step(result: Result) -> float:
    """The median step, in seconds."""
    return float(median(result["seconds"]))


def step_part(overrides: Sequence[str], rounds: int) -> Result:
    """Ours beside bare."""
    results = alternate({"bare": ("bare", overrides), "ours": ("ours", overrides)}, rounds)
    return {
        "rounds": results,
        "ratio": round(median(step(r["ours"]) / step(r["bare"]) for r in results), 4),
        "memory": round(median(r["ours"]["peak_bytes"] / r["bare"]["peak_bytes"] for r in results), 4),
        "same_rollouts": all(r["ours"]["tokens"] == r["bare"]["tokens"] for r in results),
    }


def judge_part(overrides: Sequence[str], rounds: int) -> Result:
    """A slow judge beside an instant one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_tiny_model(folder / "model", WORDS, positions=256)
        servers = {
            name: stack.enter_context(JudgeServer(lambda prompt: "1.0", latency=latency))
            for name, latency in {"instant": 0.0, "slow": LATENCY}.items()
        }
        runs = {}
        for name, server in servers.items():
            address = ["judge.kind=openai", f"judge.base_url={server.url}", "judge.model=scripted", "judge.cache=off"]
            runs[name] = ("ours", [*overrides, f"model={folder / 'model'}", *address, "judge.concurrency=64"])
        results = alternate(runs, rounds)
        trip = round_trip(servers["slow"].url)
        calls = len(servers["slow"].requests)
    extra = [step(r["slow"]) - step(r["instant"]) for r in results]
    return {
        "rounds": results,
        "calls": calls,
        "round_trip_seconds": round(trip, 4),
        "extra_seconds": [round(seconds, 4) for seconds in extra],
        "extra_round_trips": round(median(extra) / trip, 3),
    }


def round_trip(url: str) -> float:
    """Seconds of one call, the median of five."""
    body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "x"}]}).encode()

    def once() -> float:
        start = time.perf_counter()
        request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            reply.read()
        return time.perf_counter() - start

    return median(once() for _ in range(5))


def settings_part(overrides: Sequence[str], rounds: int) -> Result:
    """Settings beside the recipe as it is."""
    runs: dict[str, tuple[str, Sequence[str]]] = {
        name: ("ours", [*overrides, *changed]) for name, changed in SETTINGS.items()
    }
    results = alternate(runs | {"bare": ("bare", overrides), "continuous batching": ("batching", overrides)}, rounds)
    beside = dict.fromkeys(SETTINGS, "as it is") | {"continuous batching": "bare"}
    return {
        "rounds": results,
        "ratios": {
            name: results[0][name].get("error")
            or round(median(step(r[name]) / step(r[other]) for r in results), 3)
            for name, other in beside.items()
        },
    }  # fmt: skip


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["step", "judge", "settings"], default="step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="[the small model]")
    parser.add_argument("--child", choices=["ours", "bare", "batching"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.child:
        result = child(options.child, load_recipe("grpo_cpu", options.overrides))
        options.out.write_text(json.dumps(result))
        return
    if options.steps < 3:
        parser.error("--steps: the first step warms up and the last has no end; give 3 or more")
    model = options.model or str(small_model_dir())
    ends = [f"max_steps={options.steps}", f"save.every={options.steps}"]
    overrides = [f"model={model}", *STILL, *ends, *options.overrides]
    if options.part == "step":
        figures = step_part(overrides, options.rounds)
    elif options.part == "judge":
        figures = judge_part(overrides, options.rounds)
    else:
        figures = settings_part(overrides, options.rounds)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
