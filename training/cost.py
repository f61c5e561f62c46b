"""What a study would cost on GPUs: hours, GPU hours, money, and what takes the time, on some numbers of machines.

The work is counted out of the study's stages; how fast a GPU does it is assumed, since nobody measured it here. Each
assumption is a range with its source, from the best case to the worst, and so is every result. What surprises: one
machine does one stage at a time, on eight GPUs of which some hold the judge, and the phases of a stage follow each
other. So more machines shorten a study only until the longest chain of its stages is left, and one training is no
faster on more machines than its waits allow.

    >>> times = {"base": 1.0, "train": 5.0, "other": 3.0, "eval": 1.0}
    >>> makespan(times, {"base": (), "train": ("base",), "other": ("base",), "eval": ("train",)}, machines=2)
    7.0
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.cascade import KNOWN, VERDICT_TOKENS
from closedbook.harness.judge.chat import estimated_tokens
from closedbook.harness.judge.rubrics import RUBRICS, build_messages
from closedbook.training.batches import resolve
from closedbook.training.recipe_fields import Recipe, meant
from closedbook.training.stages import Amount, Stage

GPUS = 8  # of a machine
HOUR = 3600
LEAST, MOST = 1e-9, 1e12  # of any assumption; far beyond, a float has no room for what follows


class Assumed(NamedTuple):
    """One number that nobody measured on a GPU here: what it is for the best, and for the worst, and who says so."""

    best: float
    worst: float
    unit: str
    source: str


TRT = "https://nvidia.github.io/TensorRT-LLM/performance/perf-overview.html"
LAMBDA = "https://github.com/LambdaLabsML/vllm-benchmark/blob/main/benchmark_v0.md"
NEMO_RL = "https://docs.nvidia.com/nemo/rl/0.5.0/about/performance-summary.html"
KEMPNER = "https://kempnerinstitute.github.io/KempnerForge/reference/benchmarks.html"
PRICES = "https://www.mercatus-ai.com/blog/cloud-gpu-pricing"

ASSUMED: Mapping[str, Assumed] = {
    "sampling": Assumed(
        56_000, 8_000, "tokens/s a GPU",
        f"an 8B model on an H100. Best: FP8, 128 tokens in and out, both counted ({TRT}); worst: vLLM 0.6, tokens out "
        f"alone ({LAMBDA})",
    ),
    "judging": Assumed(
        6_400, 880, "tokens/s a GPU",
        f"a 70B model on H100. Best: FP8, two GPUs, both counted ({TRT}); worst: vLLM 0.6, four, tokens out alone "
        f"({LAMBDA})",
    ),
    "training": Assumed(
        10_000, 1_500, "tokens/s a GPU",
        f"a 7B model. Best: pretraining, 4,096 tokens, one H200 ({KEMPNER}); worst: an 8B model's GRPO on 16 H100, "
        f"rollouts included ({NEMO_RL})",
    ),
    "token_seconds": Assumed(
        0.02, 0.064, "s a token", f"between two tokens of one answer, an 8B model on a full H100 ({LAMBDA})"
    ),
    "round_trip": Assumed(0.2, 2, "s a round", "of a judge; 0.2 is what docs/judge.md measured the client against"),
    "update": Assumed(1, 10, "s a round", "weights on their way to vLLM, Adam's step, the log; no source"),
    "client": Assumed(854, 547, "calls/s", "of one process with one core, measured: docs/judge.md"),
    "prompt": Assumed(
        74, 88, "tokens", "measured: means of 500 test questions, PopQA and SimpleQA, by SmolLM2's tokenizer"
    ),
    "answer": Assumed(8, 64, "tokens", "64 is the longest that recipes allow"),
    "asked": Assumed(0.05, 1, "of all answers", "the judge's share; rules decide the rest, or it was asked before"),
    "judge_gpus": Assumed(4, 4, f"of {GPUS} GPUs", "72 billion parameters take 145 GB in bfloat16"),
    "price": Assumed(2, 5, "$ a GPU hour", f"an H100, on demand, May 2026 ({PRICES})"),
}  # fmt: skip


class Seconds(NamedTuple):
    """How long a machine takes for each phase; `waits` are what no further GPU shortens."""

    rollouts: float = 0.0
    judge: float = 0.0
    training: float = 0.0
    waits: float = 0.0


PHASES = Seconds._fields


@dataclass(frozen=True, slots=True)
class Cost:
    """What a study costs on some machines, which are paid for from its first stage to its last.

    Attributes:
        machines: Of eight GPUs each.
        hours: From begin to end.
        gpu_hours: All GPUs of all machines, working or not.
        dollars: What these cost.
        shares: Of the machines' time, by phase, and `idle`; they add up to 1, or to 0 where nothing is done.
    """

    machines: int
    hours: float
    gpu_hours: float
    dollars: float
    shares: Mapping[str, float]

    @property
    def bottleneck(self) -> str:
        """What takes the largest part of the time; nothing where there is nothing to do."""
        return max(self.shares, key=self.shares.__getitem__) if any(self.shares.values()) else "nothing"


def assumptions(changes: Iterable[str] = ()) -> dict[str, Assumed]:
    """All assumptions, with changes as `NAME=VALUE` or `NAME=BEST..WORST`.

    Raises:
        RequestError: There is no such assumption, or it is not a number that it could be.
    """
    assumed = dict(ASSUMED)
    for change in changes:
        name, _, text = change.partition("=")
        if name not in assumed:
            raise RequestError(f"--assume {change}: no assumption {name!r}; {meant(name, assumed)}")
        numbers = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\.\.(\d+(?:\.\d+)?))?", text)
        best, worst = (float(numbers[1]), float(numbers[2] or numbers[1])) if numbers else (0.0, 0.0)
        if not LEAST <= min(best, worst) <= max(best, worst) <= MOST:
            raise RequestError(
                f"--assume {change}: give a number from {LEAST:g} to {MOST:g}, or the best and the worst, such as "
                f"{name}=2..5"
            )
        if name == "asked" and max(best, worst) > 1:
            raise RequestError(f"--assume {change}: a share is at most 1")
        if name == "judge_gpus" and not all(number in range(1, GPUS) for number in (best, worst)):
            raise RequestError(f"--assume {change}: a machine has {GPUS} GPUs; leave the judge 1 to {GPUS - 1} of them")
        assumed[name] = assumed[name]._replace(best=best, worst=worst, source="stated")
    return assumed


def cases(assumed: Mapping[str, Assumed]) -> tuple[dict[str, float], dict[str, float]]:
    """The best and the worst case: a number for each assumption."""
    return {name: of.best for name, of in assumed.items()}, {name: of.worst for name, of in assumed.items()}


def call_tokens(case: Mapping[str, float]) -> float:
    """Tokens of one call to the judge: a short question, one gold answer, an answer, a bare verdict."""
    return estimated_tokens(build_messages(KNOWN, RUBRICS["binary"])) + case["answer"] + VERDICT_TOKENS


def seconds(amount: Amount, case: Mapping[str, float], machines: int = 1, step: int | None = None) -> Seconds:
    """How long some work takes, one phase after the other.

    Args:
        amount: The work.
        case: One case of all assumptions.
        machines: That share it.
        step: Texts of a training's step, shared equally among GPUs; those that are too many do nothing.
    """
    judges = case["judge_gpus"] * machines
    gpus = GPUS * machines - judges  # they draw rollouts, and train
    if step:
        gpus = max(number for number in range(1, step + 1) if step % number == 0 and number <= gpus)
    text, calls = case["prompt"] + case["answer"], amount.calls * case["asked"]
    judged = max(calls * call_tokens(case) / (case["judging"] * judges), calls / (case["client"] * machines))
    waited = case["answer"] * case["token_seconds"] + case["round_trip"] + case["update"]
    return Seconds(
        rollouts=amount.samples * text / (case["sampling"] * gpus),
        judge=judged,
        training=amount.trained * text / (case["training"] * gpus),
        waits=amount.rounds * waited,
    )


def makespan(times: Mapping[str, float], after: Mapping[str, Collection[str]], machines: int) -> float:
    """How long all stages take on machines that do one at a time each, those with the longest way to the end first.

    Args:
        times: Of each stage, listed after those that it needs.
        after: What each needs.
        machines: 1 or more.
    """
    rest = dict(times)  # from a stage's begin to the end, over the longest way
    users: dict[str, list[str]] = {name: [] for name in times}
    for name in reversed(list(times)):
        rest[name] = times[name] + max((rest[user] for user in users[name]), default=0.0)
        for before in after[name]:
            users[before].append(name)
    missing = {name: len(after[name]) for name in times}
    ready = [(-rest[name], name) for name, number in missing.items() if not number]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < machines:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + times[name], name))
        now, done = heapq.heappop(running)
        for user in users[done]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, (-rest[user], user))
    return now


def cost(stages: Iterable[Stage], case: Mapping[str, float], machines: int) -> Cost:
    """What stages cost, each of them on one machine.

    Args:
        stages: Listed after those that they need, as far as these are among them.
        case: One case of all assumptions.
        machines: 1 or more.
    """
    listed = {stage.name: stage for stage in stages}
    phases = {name: seconds(stage.amount, case) for name, stage in listed.items()}
    after = {name: [before for before in stage.after if before in listed] for name, stage in listed.items()}
    wall = makespan({name: sum(of) for name, of in phases.items()}, after, machines)
    paid = machines * wall
    shares = {phase: _share(sum(of[at] for of in phases.values()), paid) for at, phase in enumerate(PHASES)}
    shares["idle"] = max(0.0, 1 - sum(shares.values())) if paid else 0.0
    gpu_hours = GPUS * paid / HOUR
    return Cost(machines, wall / HOUR, gpu_hours, gpu_hours * case["price"], shares)


def total(stages: Iterable[Stage]) -> Amount:
    """The work of all stages."""
    return Amount(*map(sum, zip(*(stage.amount for stage in stages), strict=True)))


def report(
    stages: Sequence[Stage], main: Recipe, assumed: Mapping[str, Assumed], machines: Sequence[int]
) -> dict[str, Any]:
    """All figures, as JSON has them; where two stand together, the best case and the worst.

    Args:
        stages: Of a study.
        main: The recipe of its main method, one round of which is looked at by itself.
        assumed: As `assumptions` gives it.
        machines: Numbers of them.
    """
    both, work, batch = cases(assumed), total(stages), resolve(main, devices=1)
    one = Amount(samples=batch.generated, trained=batch.generated, rounds=1, calls=batch.generated if work.calls else 0)
    texts = [case["prompt"] + case["answer"] for case in both]
    studies = [[cost(stages, case, number) for case in both] for number in machines]
    rounds = [[seconds(one, case, number, batch.step) for case in both] for number in machines]
    return {
        "work": {
            **work._asdict(),
            "tokens_drawn": [work.samples * text for text in texts],
            "tokens_trained": [work.trained * text for text in texts],
            "calls_asked": [work.calls * case["asked"] for case in both],
            "tokens_judged": [work.calls * case["asked"] * call_tokens(case) for case in both],
        },
        "assumed": {name: of._asdict() for name, of in assumed.items()},
        "study": [
            {
                "machines": best.machines,
                "hours": [best.hours, worst.hours],
                "gpu_hours": [best.gpu_hours, worst.gpu_hours],
                "dollars": [best.dollars, worst.dollars],
                "shares": [dict(best.shares), dict(worst.shares)],
                "bottleneck": [best.bottleneck, worst.bottleneck],
            }
            for best, worst in studies
        ],
        "round": [
            {"machines": number, **{phase: [of[at] for of in pair] for at, phase in enumerate(PHASES)}}
            for number, pair in zip(machines, rounds, strict=True)
        ],
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
