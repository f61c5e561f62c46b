"""How fast a run was, out of its log: tokens a second, and the share of the device's peak that training used.

A token of a rollout costs a model of N weights about 8 N operations: 2 N when it is drawn, 2 N in the forward and 4 N
in the backward pass (Chowdhery et al. 2022, arXiv 2204.02311, appendix B, without attention); one that is only trained
on costs 6 N. What surprises: prompt tokens count like the others, since they go through the same matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

# Dense bfloat16 operations a second, by a part of the device's name; from the vendors' data sheets.
PEAK = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
DRAWN, TRAINED = 2, 6  # operations a weight and token


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast a run was.

    Attributes:
        tokens_per_second: Of prompts and answers; None where the log has no times.
        seconds_per_step: The median.
        utilisation: Share of the device's peak, in [0, 1]; None where the peak is not known.
    """

    tokens_per_second: float | None
    seconds_per_step: float | None
    utilisation: float | None


def peak_of(device: str) -> float | None:
    """Operations a second of a device by its name; None for one that is not in the table, never a guess."""
    return next((peak for name, peak in PEAK.items() if name in device), None)


def throughput(log: Sequence[Mapping[str, Any]], parameters: int, *, device: str, rollouts: bool) -> Throughput:
    """The throughput of a run on one device; its first step, which warms up, is left out.

    Args:
        log: Lines of its log file, as `read_log` gives them.
        parameters: Weights of the model.
        device: The device's name.
        rollouts: Whether the tokens were drawn too, as GRPO's are.
    """
    timed = [line for line in log if "seconds" in line and "num_tokens" in line]
    if len(timed) < 2:
        return Throughput(None, None, None)
    seconds = [float(line["seconds"]) for line in timed[1:]]
    tokens = float(timed[-1]["num_tokens"]) - float(timed[0]["num_tokens"])
    rate, peak = tokens / sum(seconds), peak_of(device)
    operations = rate * parameters * (TRAINED + (DRAWN if rollouts else 0))
    return Throughput(rate, median(seconds), operations / peak if peak else None)
