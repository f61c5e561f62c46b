"""What dropping contained questions does to a score.

The full test set is what was kept and what was dropped, and the answers to the kept questions are the same ones in both
scores. So the score on the full set differs from the deduplicated one by the share that was dropped, times how much
better the model answers those. Both parts are asked apart, and a sample of the kept ones is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.evaluate import evaluate
from closedbook.harness.files import typed, write_text
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.manifests import DROPPED, read_manifest
from closedbook.harness.statistics import Estimate, difference


@dataclass(frozen=True, slots=True)
class Effect:
    """A model on one benchmark, with and without the questions that train states.

    Attributes:
        share: Dropped questions, as a share of the test questions drawn.
        kept: Accuracy on the test split.
        dropped: Accuracy on what was dropped from it.
        full_minus_deduplicated: The difference that dropping makes.
    """

    benchmark: str
    share: float
    kept: Estimate
    dropped: Estimate
    full_minus_deduplicated: Estimate


def effect_of(benchmark: str, kept: Estimate, dropped: Estimate, folder: Path | None = None) -> Effect:
    """The effect, from accuracies on both parts; its interval is Newcombe's, scaled by the share."""
    manifest = read_manifest(benchmark, folder)
    left, stayed = len(manifest.ids(DROPPED)), len(manifest.ids("test"))
    share = left / (left + stayed)
    return Effect(benchmark, share, kept, dropped, _scaled(difference(dropped, kept), share))


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    value, low, high = (None if x is None else factor * x for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.n)


def measure(
    model: str, names: Sequence[str], judge: JudgeSettings, out: Path, limit: int | None = None, **options: Any
) -> list[Effect]:
    """Ask a model the dropped questions of each benchmark, and the kept ones or a sample of `limit` of them.

    Args:
        model: Model folder or hub id.
        names: Benchmarks.
        judge: Who grades; accuracy is the share that it calls right.
        out: Folder of the runs and of `effect.json`; the same call goes on from the answers it has.
        limit: Kept questions a benchmark; all unless given.
        options: What `evaluate` takes besides.

    Raises:
        RequestError, WorkError: As `evaluate` does; and a WorkError where the judge could not grade too many answers.
    """
    tasks = {f"{name}_dedup": name for name in names}
    dropped = evaluate(model, list(tasks), split=DROPPED, judge=judge, out=out / DROPPED, **options)
    kept = evaluate(model, list(tasks), limit=limit, judge=judge, out=out / "test", **options)
    for run in (dropped, kept):
        if run.tally.failure_rate > judge.max_failures:
            raise WorkError(f"{run.tally}; answers are kept in {out}; the same command again asks for the rest")
    found = [
        effect_of(name, kept.figures[task]["judge_correct"], dropped.figures[task]["judge_correct"])
        for task, name in tasks.items()
    ]
    stated = {"model": Path(model).name, "judge": judge.model or judge.kind, "effects": [asdict(one) for one in found]}
    write_text(out / "effect.json", json.dumps(stated, indent=2) + "\n")
    return found


def read_effects(path: Path) -> tuple[str, str, list[Effect]]:
    """The names of the model and the judge, and the effects, from a file `effect.json`.

    Raises:
        RequestError: The file cannot be read, or is none of these.
    """

    def estimate(stated: Mapping[str, Any]) -> Estimate:
        made = Estimate(**stated)
        typed(made)
        return made

    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        effects = [
            Effect(**row | {name: estimate(row[name]) for name in ("kept", "dropped", "full_minus_deduplicated")})
            for row in stated["effects"]
        ]
        for effect in effects:
            typed(effect)
        return stated["model"], stated["judge"], effects
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(f"{path} is no effect.json ({error}); `closedbook dedup effect MODEL` writes one") from error
