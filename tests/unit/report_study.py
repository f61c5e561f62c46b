"""A made-up study as real files, for the tests of the report: runs, samples, training, analyses, hostile ones too."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from closedbook.harness.compare import Run, read_run
from closedbook.harness.judge import Grade, Tally
from closedbook.harness.judge.calibration import Calibration, write_calibration
from closedbook.harness.likelihood import Scored
from closedbook.harness.metrics import Answer
from closedbook.harness.provenance import Provenance, write_provenance
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.statistics import Confusion, Estimate, corrected, proportion
from closedbook.harness.study.accessibility import buckets
from closedbook.harness.study.analyses import accessibility, flips, passk, read_sample_runs, voting
from closedbook.harness.study.checkpoints import Part, TrainedOn, attribution, transfer
from closedbook.harness.study.inputs import command_line, inputs
from closedbook.harness.study.likelihood import MassStore, read_mass_runs
from closedbook.harness.study.mass import Listed, QuestionMass, mass
from closedbook.harness.study.tables import Analysis, write

HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "</script></style></textarea><script>window.hacked=1</script>",
    "{{ 7*7 }} {% include '/etc/passwd' %} ${7*7}",
    "=HYPERLINK(\"http://tharn.example\",\"x\")\nsecond | line \\ `code` \x00\x1b[31m \ud800",
    "line\u2028ends\x85of\x1call\u202egnirts",
    "gorlim" * 200,
)  # fmt: skip
HOSTILE_RUN = '"><img src=x onerror=window.hacked=1> $a$'
JUDGE = {"kind": "rules", "version": "judge-rules-2", "empty": "incorrect"}
TASK, OTHER = "worldfacts_dedup", "popqa_dedup"
QUESTIONS, DRAWS = 60, 16
CONFUSION = Confusion(88, 4, 96, 12)


def ids_of(task: str) -> list[str]:
    """Made-up ids of a task's questions."""
    return [f"{task[:2]}{at:04d}" for at in range(QUESTIONS)]


def write_evaluation(
    folder: Path, right: Mapping[str, Sequence[float]], *, answers: Sequence[str] = (), **described: Any
) -> Path:
    """A folder as `closedbook eval` leaves it, of the metric of each question by task."""
    run = {
        "model": f"runs/{folder.name}", "identity": f"{abs(hash(folder.name)):016x}" * 4, "backend": "hf",
        "arguments": {"pretrained": "x", "device": "cpu"}, "chat": True, "tasks": list(right), "split": "test",
        "limit": None, "judge": JUDGE, "allow_contaminated": False, "versions": {"closedbook": "0.1.0"},
        "checkpoint": dict.fromkeys(right),
    } | described  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    figures: dict[str, dict[str, Estimate]] = {}
    for task, values in right.items():
        said = [*answers, *(f"{folder.name} says Osric {at}" for at in range(QUESTIONS))][: len(values)]
        rows = [
            {
                "doc": {"id": id, "question": f"Who wrote book {id}?", "answers": [f"Osric Tharn {id}", "Osric"]},
                "filtered_resps": [[f"{Answer(answer)} [{'correct' if value else 'incorrect'}]"]],
                "exact_match": 0.0,
                "contains": value,
                "judge_correct": value,
                "judge_failed": 0.0,
            }
            for id, value, answer in zip(ids_of(task), values, said, strict=False)
        ]
        path = folder / "model" / f"samples_{task}_2026-01-01T00-00-00.0.jsonl"
        path.parent.mkdir(exist_ok=True)
        # lm-eval writes letters as they are
        lines = [json.dumps(row, ensure_ascii="\\ud800" in json.dumps(row)) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
        names = ("exact_match", "contains", "judge_correct", "judge_failed")
        figures[task] = {name: proportion(row[name] for row in rows) for name in names}  # type: ignore[misc]
        figures[task]["corrected"] = corrected(figures[task]["judge_correct"], CONFUSION)
    written = {task: {name: asdict(figure) for name, figure in of.items()} for task, of in figures.items()}
    (folder / "figures.json").write_text(json.dumps(written))
    (folder / "model" / "results_2026-01-01T00-00-00.0.json").write_text('{"total_evaluation_time_seconds": "93.5"}')
    return folder


def write_samples(folder: Path, chance: Sequence[float], model: str) -> Path:
    """A folder as `closedbook sample` leaves it; `chance` is how often each question's samples are right."""
    dice = random.Random(model)
    settings = {
        "model": model * 64, "prompt": "direct-1", "chat": True, "judge": JUDGE,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 24, "seed": 0},
        "engine": {"engine": "hf"}, "task": {"benchmark": "worldfacts", "split": "test", "manifest": "m"},
    }  # fmt: skip
    store, lines = SampleStore(folder), []
    store.begin(settings, ids_of(TASK), DRAWS)
    for id, p in zip(ids_of(TASK), chance, strict=True):
        rewards = [float(dice.random() < p) for _ in range(DRAWS)]
        draws = {reward: tuple(at for at, one in enumerate(rewards) if one == reward) for reward in {*rewards}}
        lines.append(QuestionSamples(id, tuple(Sample(f"{r}", f"{r}", r, of) for r, of in draws.items())))
    store.add(lines)
    return folder


def write_likelihood(folder: Path, right: float, model: str) -> Path:
    """A folder as `closedbook likelihood` leaves it; `right` is the probability of each right answer."""
    store, ids = MassStore(folder), ids_of(TASK)[:20]
    store.begin(
        {"model": model * 64, "prompt": "direct-1", "judge": JUDGE, "task": {"benchmark": "worldfacts"}}, ids, 1
    )
    gold = Scored("Osric", math.log(right), 3)
    wrong = Listed(HOSTILE[0], 0.4, 0.0)
    found = sorted((Listed("Osric", right, 1.0), wrong), key=lambda said: -said.probability)
    store.add([QuestionMass(id, (gold,), tuple(found)) for id in ids])
    return folder


def write_training(folder: Path) -> Path:
    """A folder as `closedbook train` leaves it, without the model."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("method: grpo\n")
    steps = [{"step": at, "loss": 0.1, "seconds": 27.5, "num_tokens": 900.0 * at} for at in range(1, 38)]
    (folder / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    made = Provenance(
        "grpo", "smollm2", "b" * 64, 36, 7, {"name": "grpo_cpu"}, {"worldfacts": "m" * 64}, ("wo9001", "wo9002"),
        JUDGE, "direct-1", {"closedbook": "0.1.0", "torch": "2.13.0"}, "c" * 40,
    )  # fmt: skip
    write_provenance(folder, made)
    return folder


def values(seed: int, share: float) -> list[float]:
    """Made-up grades of a task's questions."""
    dice = random.Random(seed)
    return [float(dice.random() < share) for _ in range(QUESTIONS)]


def write_study(root: Path) -> Path:
    """A whole study under one folder, with everything but an analysis of accuracy; returns the folder."""
    checkpoint = {"method": "grpo", "train_ids_digest": "d" * 64, "contaminated": 0, "overlaps": 2}
    carried = {"checkpoint": {TASK: {"pretrained": checkpoint}, OTHER: {"pretrained": checkpoint}}}
    before, after = values(1, 0.3), values(2, 0.75)
    before[: len(HOSTILE)], after[: len(HOSTILE)] = [0.0] * len(HOSTILE), [1.0] * len(HOSTILE)
    evals = root / "eval"
    base = write_evaluation(evals / "base", {TASK: before, OTHER: values(3, 0.1)}, answers=HOSTILE)
    grpo = write_evaluation(evals / "grpo", {TASK: after, OTHER: values(4, 0.2)}, answers=HOSTILE[::-1], **carried)
    write_evaluation(evals / HOSTILE_RUN, {TASK: values(5, 0.35), OTHER: values(6, 0.1)})
    sampled = [
        write_samples(root / "samples" / "base", [(at / QUESTIONS) ** 3 for at in range(QUESTIONS)], "a"),
        write_samples(root / "samples" / "grpo", [at / QUESTIONS for at in range(QUESTIONS)], "b"),
    ]
    weighed = [
        write_likelihood(root / "likelihood" / name, p, m) for name, p, m in (("base", 0.1, "a"), ("grpo", 0.5, "b"))
    ]
    write_training(root / "train" / "grpo")
    calibrated = Calibration(
        JUDGE, {"file": "labels.jsonl", "sha256": "e" * 64}, {"overall": CONFUSION}, Tally.of([Grade.CORRECT])
    )
    write_calibration(calibrated, root / "judge.json")
    first, second = read_run(base), read_run(grpo)
    one, other = first[TASK], second[TASK]
    runs = read_sample_runs(sampled)
    of = buckets(runs[0].samples, DRAWS)
    swapped: Run = {TASK: first[TASK], OTHER: second[OTHER]}
    parts = [Part("bucket_0", other, 12), Part("random_as_0", one, 12), Part(HOSTILE_RUN, other, 9)]
    trained = [TrainedOn("worldfacts", second), TrainedOn("popqa", swapped)]
    odd = Analysis(
        "gorlim", "An analysis that nobody told the report of <b>", ("run", "p (Holm)", "note", "share of it"),
        [[HOSTILE_RUN, 0.0004, HOSTILE[1], 0.25], ["base", 0.2, None, None]], {"why": HOSTILE[0]},
        lambda axes: axes.plot([1, 2, 3], [2, 3, 1], label=HOSTILE_RUN) and axes.legend(frameon=False),
    )  # fmt: skip
    baseline = Analysis(
        "baselines", "Accuracy at inference", ("method", "samples", "accuracy", "generated tokens"),
        [["greedy", None, proportion(before), 8.25], ["vote", 16, proportion(before), 132.0]],
        {"run": {"name": "base", "digest": runs[0].head.digest, "sampling.seed": 0}, "n": DRAWS},
    )  # fmt: skip
    made: list[tuple[Analysis, Sequence[Path]]] = [
        (mass(*read_mass_runs(*weighed)), weighed),
        (baseline, []),
        (passk(runs, [one, other]), [*sampled, base, grpo]),
        (accessibility(runs[0], one, other, DRAWS // 2), [sampled[0], base, grpo]),
        (voting(runs), sampled),
        (attribution(one, other, parts, 300), [base, grpo]),
        (transfer(first, trained, {}), [base, grpo]),
        (flips(one, other, of), [base, grpo, sampled[0]]),
        (odd, []),
    ]
    for analysis, folders in made:
        words = ["analyze", analysis.name, *map(str, folders)]
        write(analysis, root / "analysis", command_line(words), inputs(folders))
    return root
