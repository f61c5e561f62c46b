"""The README.md of a finished run's model folder: what the model is, how well it does, and what it must not be asked.

Its head is the hub's own metadata, written by the hub's library, so that a folder can be uploaded as it is. What
surprises: only the figures of the checkpoint's own step are metadata; a base model that is a folder is named in the
text alone, by its last part, since the hub would take a path for an id; and validation figures of several benchmarks
are one mean, which is said to be of none of them.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import yaml
from huggingface_hub import EvalResult, ModelCardData

from closedbook.harness.markdown import fenced, ticks
from closedbook.harness.metrics import METRICS
from closedbook.harness.small_model import MODELS
from closedbook.harness.sources import benchmark
from closedbook.harness.statistics import Estimate, wilson
from closedbook.harness.task_files import task_name
from closedbook.training.recipe_fields import Recipe, reads
from closedbook.training.recipes import published
from closedbook.training.trl_config import trl_name

if TYPE_CHECKING:
    from closedbook.harness.provenance import Provenance

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
UNITS = {"grpo": "questions", "sft": "examples", "rft": "examples", "dpo": "pairs"}
TRAINED_ON = {
    "grpo": "its own sampled answers to the train questions, rewarded when they are right",
    "sft": "the gold answers to the train questions",
    "rft": "those of its own sampled answers to the train questions that are right",
    "dpo": "pairs of a right and a wrong one of its own sampled answers to the train questions",
}
STUDY = """@article{beyondreasoning2026,
  title   = {Beyond Reasoning: Reinforcement Learning Unlocks Parametric Knowledge in LLMs},
  journal = {arXiv:2605.07153},
  year    = {2026}
}"""


def model_card(recipe: Recipe, provenance: Provenance, log: Sequence[Mapping[str, Any]], validation_n: int) -> str:
    """The model card of a checkpoint, as the text of its README.md.

    Args:
        recipe: What the run was asked for.
        provenance: Of the checkpoint that the folder holds.
        log: Lines of the run's log: `step`, and `validation/METRIC` where it was validated, a mean over questions.
        validation_n: Validation questions that each of these means is of.
    """
    validated = _validated(log, validation_n)
    data = _metadata(recipe, provenance, validated.get(provenance.step, {}))
    sections = [
        _opening(recipe, provenance),
        _validation(validated, provenance.step, validation_n),
        _scoring(recipe),
        _forbidden(provenance),
        _limits(recipe, provenance),
        f"## Recipe\n\n{fenced(_portable_yaml(recipe), 'yaml')}",
        _origin(provenance),
        _citation(recipe),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def _validated(log: Sequence[Mapping[str, Any]], n: int) -> dict[int, dict[str, Estimate]]:
    """Validation figures by step, in order, as far as they are known; of a step taken twice, the later ones."""
    found: dict[int, dict[str, float]] = {}
    for line in log:
        values = {name: line.get(f"validation/{name}") for name in METRICS}
        if any(f"validation/{name}" in line for name in METRICS):
            found[int(line["step"])] = {name: value for name, value in values.items() if _is_share(value)}
    return {step: _estimates(values, n) for step, values in sorted(found.items()) if values}


def _is_share(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _estimates(values: Mapping[str, float], n: int) -> dict[str, Estimate]:
    """Means with their intervals. What can be unknown is a mean over the answers that the judge could grade."""
    graded = n - round(values.get("judge_failed", 0.0) * n)
    sizes = {name: graded if METRICS[name].can_be_unknown else n for name in values}
    return {name: wilson(round(value * sizes[name]), sizes[name]) for name, value in values.items()}


def _metadata(recipe: Recipe, provenance: Provenance, figures: Mapping[str, Estimate]) -> ModelCardData:
    """The head of the card. Without figures there is no model index, and then no name in it."""
    base = _hub_id(provenance)
    chosen = [benchmark(name) for name in recipe.benchmarks]
    results = [
        _result(recipe, provenance, name, figure) for name, figure in figures.items() if figure.value is not None
    ]
    return ModelCardData(
        base_model=base,
        library_name="transformers",
        license=next((model.licence for model in MODELS.values() if model.hub_id == base), None),
        pipeline_tag="text-generation",
        tags=["closedbook", recipe.method, "question-answering", "trl"],
        datasets=[one.repo for one in chosen if one.repo] or None,
        model_name=_plain(recipe.name) if results else None,
        eval_results=results or None,
    )


def _result(recipe: Recipe, provenance: Provenance, metric: str, figure: Estimate) -> EvalResult:
    chosen = [benchmark(name) for name in recipe.benchmarks]
    one = chosen[0] if len(chosen) == 1 else None
    return EvalResult(
        task_type="question-answering",
        task_name="Closed-book question answering",
        dataset_type=(one.repo or one.name) if one else "closedbook",
        dataset_name=" + ".join(entry.title for entry in chosen),
        dataset_config=one.config if one else None,
        dataset_split="validation",  # of the manifest, which no commit of the data set names
        dataset_args={"manifests": dict(provenance.manifests)},
        metric_type="accuracy" if metric == "judge_correct" else metric,
        metric_name=metric,
        metric_value=figure.value,
        metric_args={"n": figure.n, "low": figure.low, "high": figure.high, "step": provenance.step},
    )


def _hub_id(provenance: Provenance) -> str | None:
    """The model of the hub that training started from, itself or by way of its parents; None if there is none."""
    stated: Any = {
        "base_model": provenance.base_model,
        "base_digest": provenance.base_digest,
        "parent": provenance.parent,
    }
    while isinstance(stated, Mapping):
        name, digest = str(stated.get("base_model", "")), str(stated.get("base_digest", ""))
        if name in MODELS:
            return MODELS[name].hub_id
        if digest.startswith(f"{name}@") and HUB_ID.fullmatch(name):  # a folder's digest has no name
            return name
        stated = stated.get("parent")
    return None


def _opening(recipe: Recipe, provenance: Provenance) -> str:
    titles = " and ".join(benchmark(name).title for name in recipe.benchmarks)
    method = "RFT" if recipe.method == "rft" else trl_name(recipe)
    included = ", its parents' included" if provenance.parent else ""
    return (
        f"# {_text(recipe.name)}\n\n"
        f"This is {_code(provenance.base_model)}, trained with {method} to answer the questions of {titles} from "
        "memory, without looking anything up. Made with closedbook and TRL.\n\n"
        f"It was trained on {TRAINED_ON[recipe.method]}: {provenance.step:,} steps of at most {recipe.questions:,} "
        f"{UNITS[recipe.method]}, drawn from {len(provenance.train_ids):,} questions{included} (digest of their ids: "
        f"{_code(provenance.train_ids_digest)}). The folder holds the checkpoint of step {provenance.step}."
    )


def _validation(validated: Mapping[int, Mapping[str, Estimate]], step: int, n: int) -> str:
    if not validated:
        return "## Validation\n\nNo validation question was asked."
    names = [name for name in METRICS if any(name in figures for figures in validated.values())]
    rows = [["step", *names], ["---"] * (len(names) + 1)]
    rows += [[str(at), *(str(figures.get(name, "-")) for name in names)] for at, figures in validated.items()]
    judged = "; those of the judge leave out what it could not grade" if "judge_correct" in names else ""
    absent = "" if step in validated else f" Step {step}, which this folder holds, was not validated."
    return (
        f"## Validation\n\n"
        f"Greedy answers to {n:,} questions that it was not trained on, in per cent with 95 % Wilson intervals{judged}."
        f"{absent} Checkpoints are chosen by these figures, so they are no test result.\n\n"
        + "\n".join(f"| {' | '.join(row)} |" for row in rows)
    )


def _scoring(recipe: Recipe) -> str:
    folder = recipe.folder.resolve().name or "."
    tasks = ",".join(task_name(name, recipe.style) for name in recipe.benchmarks)
    theirs = "" if recipe.chat is False else " --apply_chat_template"
    ours = {True: " --chat", False: " --no-chat", "auto": ""}[recipe.chat]
    auto = " Without a chat template, leave out `--apply_chat_template`." if recipe.chat == "auto" else ""
    commands = [
        f"lm_eval --model hf --model_args {shlex.quote(f'pretrained={folder}')} --tasks {tasks}{theirs} "
        "--batch_size 32",
        f"closedbook eval {shlex.quote(folder)} --tasks {tasks}{ours}",
    ]
    return (
        "## How to score it\n\n"
        "From the folder above this one, or with the model's hub id in place of the folder:\n\n"
        + fenced("\n".join(commands))
        + f"\n\nBoth need closedbook. The second one judges, and prints intervals.{auto}"
    )


def _forbidden(provenance: Provenance) -> str:
    return (
        "## What it must not be evaluated on\n\n"
        f"The {len(provenance.train_ids):,} questions that its training drew from, whose ids stand in "
        "`provenance.json`: a score on them is memory of the training. closedbook reads that file and refuses them, "
        "unless `--allow-contaminated` is given; other harnesses do not know of it. Questions that state the same "
        "facts in other words are as bad; the `_dedup` tasks leave them out."
    )


def _limits(recipe: Recipe, provenance: Provenance) -> str:
    judge = provenance.judge
    if judge is None:
        who = "There was no judge: right is what a match of texts calls right."
    else:
        who = f"Right is what this judge calls right: {_code(_json(judge))}."
    rewarded = reads(recipe.method, "reward") and recipe.reward == "judge"
    also = ", and in what was rewarded or chosen" if rewarded else ""
    return (
        f"## Limits\n\n{who} What each judge gets wrong against people stands in `docs/judge.md` of closedbook; its "
        f"errors are in the figures{also}. The model was trained to give short answers to "
        f"one prompt ({_code(provenance.prompt)}); it states falsehoods with the same ease, and nothing else of it was "
        "measured."
    )


def _origin(provenance: Provenance) -> str:
    stated = {
        "method": provenance.method,
        "base model": provenance.base_model,
        "base digest": provenance.base_digest,
        "step": provenance.step,
        "seed": provenance.seed,
        "prompt": provenance.prompt,
        **{f"manifest of {name}": digest for name, digest in provenance.manifests.items()},
        "code": provenance.revision or "unknown",
        **{f"version of {name}": number for name, number in provenance.versions.items()},
    }
    if provenance.parent:
        stated["parent"] = _json(provenance.parent)
    rows = [f"- {_text(name)}: {_code(str(_portable(value)))}" for name, value in stated.items()]
    return "## Provenance\n\n`provenance.json` has it for programs, with the ids.\n\n" + "\n".join(rows)


def _citation(recipe: Recipe) -> str:
    cited = [STUDY, *(benchmark(name).citation.strip() for name in recipe.benchmarks)]
    return "## Citation\n\n" + fenced("\n\n".join(filter(None, cited)), "bibtex")


def _portable_yaml(recipe: Recipe) -> str:
    """The recipe without addresses, paths of this machine, and the folder it was written to."""
    stated = published(recipe)
    text: str = yaml.safe_dump(_portable(stated), sort_keys=False, allow_unicode=True)
    return text.rstrip()


def _portable(value: Any) -> Any:
    """A value with every absolute path in it cut to its last part; one below a home folder is such a path."""
    if isinstance(value, Mapping):
        return {str(_portable(key)): _portable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(entry) for entry in value]
    if isinstance(value, str) and value.startswith(("/", "~", "file:")):
        return Path(value).name or value
    return value


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(_portable(value), ensure_ascii=False, default=str)


def _plain(text: str) -> str:
    """On one line, with nothing that a terminal or a parser would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _text(text: str) -> str:
    """As Markdown that shows the text itself."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", _plain(text))


def _code(text: str) -> str:
    """As code within a line; the last part of a path."""
    plain = _plain(str(_portable(text)))
    space = " " if "`" in (plain[:1], plain[-1:]) else ""
    return f"{ticks(plain)}{space}{plain}{space}{ticks(plain)}" if plain else "-"
