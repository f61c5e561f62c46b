"""One training run, from a recipe to a folder that lm-eval scores.

The order is: whatever can be refused, then what costs little, then the model. A judge that is down, a folder of another
recipe or a subset without questions ends a run before a model is loaded.

    runs/grpo_cpu/
        recipe.yaml          the recipe, resolved
        log.jsonl            a line of figures a step
        samples.jsonl        rft and dpo: samples with their rewards
        checkpoint-N/        everything that a run needs to go on
        model.safetensors    the checkpoint that did best on validation, as a model folder
        README.md            the model card
        provenance.json      written last: a run that has it is finished
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from datasets import Dataset
from transformers import PrinterCallback
from transformers.utils import logging as transformers_logging

from closedbook.harness.errors import RequestError, Unfinished
from closedbook.harness.files import write_text
from closedbook.harness.judge import make_judge
from closedbook.harness.manifests import read_manifest
from closedbook.harness.prompts import template_digest
from closedbook.harness.provenance import (
    PROVENANCE_FILE,
    Provenance,
    code_revision,
    installed_versions,
    read_provenance,
    write_provenance,
)
from closedbook.harness.questions import Question, by_id
from closedbook.harness.sampling import Sampler, encode_prompts, uses_chat
from closedbook.harness.small_model import model_path
from closedbook.training.batches import devices, is_main, steps_of
from closedbook.training.card import model_card
from closedbook.training.examples import (
    Row,
    answer_rows,
    gold_examples,
    pair_rows,
    rollout_rows,
    train_questions,
    validation_questions,
)
from closedbook.training.models import adapters, load_model, model_digest, write_model
from closedbook.training.monitor import Monitor, read_log
from closedbook.training.plan import LOG_FILE, RECIPE_FILE, SAMPLES_FILE, Plan, plan
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import judge_of, published, to_yaml
from closedbook.training.rewards import Reward, make_reward
from closedbook.training.samples import count, dpo_pairs, rft_examples
from closedbook.training.samples_file import draw_samples
from closedbook.training.trainers import CHECKPOINT, checkpoints, make_trainer
from closedbook.training.trl_config import trl_config, trl_name
from closedbook.training.validation import ACCURACY, make_validation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has come to.

    Attributes:
        folder: The model folder.
        steps: Optimiser steps taken.
        best_step: The step whose weights the folder holds.
        accuracy: Share of the validation questions that these answer rightly; None where there is none.
        finished: Whether it had been finished before, so that nothing was done.
    """

    folder: Path
    steps: int
    best_step: int
    accuracy: float | None
    finished: bool = False


def train(recipe: Recipe, *, resume: bool = False, progress: bool = True) -> Trained:
    """Train as the recipe says, or go on with it.

    Args:
        recipe: Any; its folder is written.
        resume: Go on from the last whole checkpoint; a finished run is left as it is.
        progress: Show a progress bar.

    Raises:
        RequestError: Something in the recipe, its data, its judge or its folder makes the run impossible.
        Unfinished: It ended early: interrupted, a full disk, a judge that fails. What was done is kept, and `resume`
            goes on from it.
        WorkError: The model cannot be read, or the loss is no number.
    """
    folder = _opened(recipe, resume)
    if (folder / PROVENANCE_FILE).is_file():
        return _found(folder)
    questions, validation = train_questions(recipe), validation_questions(recipe)
    planned = plan(recipe, len(questions), devices(), validation_questions=len(validation))
    _check_engine(recipe)
    reward = make_reward(recipe.reward, recipe.style, judge_of(recipe))
    make_judge(judge_of(recipe)).preflight()
    write_text(folder / RECIPE_FILE, to_yaml(recipe))
    try:
        with _quiet():
            return _run(recipe, planned, questions, validation, reward, progress)
    except KeyboardInterrupt:
        raise Unfinished(f"{folder}: interrupted; its last samples or checkpoint are kept") from None


def _opened(recipe: Recipe, resume: bool) -> Path:
    """The run's folder, which is new or holds a run of the same recipe.

    Raises:
        RequestError: It holds another recipe's run, or this one's and nobody asked to resume.
    """
    folder, file = recipe.folder, recipe.folder / RECIPE_FILE
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise RequestError(f"{folder} holds other files; choose another output_dir")
        return folder
    before = yaml.safe_load(file.read_text(encoding="utf-8"))
    now = yaml.safe_load(to_yaml(recipe))
    changed = [name for name in {**before, **now} if name != "output_dir" and before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise RequestError(
            f"{folder} holds the run of another recipe ({name}: {before.get(name)}, now {now.get(name)}); "
            "choose another output_dir, or give the same recipe"
        )
    if not resume and (checkpoints(folder) or (folder / PROVENANCE_FILE).is_file()):
        raise RequestError(f"{folder} holds a run of this recipe; go on with --resume, or choose another output_dir")
    return folder


def _found(folder: Path) -> Trained:
    """A run that was finished before."""
    provenance = read_provenance(str(folder))
    assert provenance is not None  # its file is why this is asked
    log = read_log(folder / LOG_FILE)
    accuracy = next((line[ACCURACY] for line in log if line["step"] == provenance.step and ACCURACY in line), None)
    return Trained(folder, log[-1]["step"] if log else provenance.step, provenance.step, accuracy, finished=True)


def _check_engine(recipe: Recipe) -> None:
    """Refuse a vLLM that is not there, or that cannot be given new weights."""
    if recipe.vllm.mode == "none":
        return
    if recipe.vllm.mode == "colocate" and not find_spec("vllm"):
        raise RequestError(
            f"recipe {recipe.name}: vllm: vLLM is not installed; pip install 'closedbook[vllm]', or use vllm=none"
        )
    if not torch.cuda.is_available():
        raise RequestError(f"recipe {recipe.name}: vllm: TRL gives vLLM new weights on GPUs only; use vllm=none")


def _run(
    recipe: Recipe,
    planned: Plan,
    questions: Sequence[Question],
    validation: Sequence[Question],
    reward: Reward,
    progress: bool,
) -> Trained:
    """Everything from the model on."""
    # made before the model, which ZeRO-3 shards while it is loaded
    config = trl_config(recipe, planned.batch, planned.steps, cpu=not torch.cuda.is_available())
    model, tokenizer = load_model(recipe)
    chat = uses_chat(tokenizer, recipe.chat)
    rows = _rows(recipe, questions, model, tokenizer, chat, reward, progress)
    if recipe.method != "grpo":
        config.max_steps = steps_of(recipe, len(rows))  # rft and dpo train on what their samples left
    trainer = make_trainer(
        trl_name(recipe),
        reward if recipe.method == "grpo" else None,
        model=model,
        args=config,
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        **adapters(recipe),
    )
    trainer.attach(_provenances(recipe, questions), recipe.save.keep)
    validate = make_validation(recipe, trainer, tokenizer, validation, chat) if validation else None
    monitor = Monitor(recipe, trainer, validate, main=is_main(), progress=progress)
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    trainer.add_callback(monitor)
    whole = checkpoints(recipe.folder)
    with monitor.ends_calmly():
        trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
    state = trainer.state
    if state.global_step < state.max_steps:
        raise Unfinished(f"{monitor.stop}; step {state.global_step} is kept")
    best = state.best_global_step or state.global_step
    if is_main():
        _finish(recipe, recipe.folder / f"{CHECKPOINT}{best}", len(validation))
    return Trained(recipe.folder, state.global_step, best, state.best_metric)


@contextmanager
def _quiet() -> Iterator[None]:
    """Notices and bars of TRL and transformers off: TRL would print a question and its golds for each judge failure.

    Off as well is what transformers says of its own names that TRL and accelerate still use.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    loud = [logging.getLogger(name) for name in ("trl", "accelerate")]
    before, levels = transformers_logging.get_verbosity(), [log.level for log in loud]
    transformers_logging.set_verbosity_error()
    for log in loud:
        log.setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
        for log, level in zip(loud, levels, strict=True):
            log.setLevel(level)


def _rows(
    recipe: Recipe,
    questions: Sequence[Question],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chat: bool,
    reward: Reward,
    progress: bool,
) -> list[Row]:
    """What the trainer is given: for RFT and DPO made of samples, which are drawn first."""
    prompts = encode_prompts(tokenizer, questions, recipe.style, chat, recipe.max_prompt_tokens)
    if recipe.method == "grpo":
        return rollout_rows(questions, recipe, chat)
    if recipe.method == "sft":
        return answer_rows(gold_examples(questions), recipe, chat)
    most = recipe.max_steps * recipe.questions if recipe.max_steps else len(questions)
    samples = draw_samples(
        recipe.folder / SAMPLES_FILE,
        recipe,
        questions[:most],
        prompts[:most],
        Sampler(model, tokenizer),
        reward,
        model=model_digest(model_path(recipe.model)),
        chat=chat,
        progress=progress,
    )
    asked = by_id(questions)
    if recipe.method == "rft":
        examples = rft_examples(samples, recipe.examples)
        made, rows = "example", answer_rows([(asked[e.id], e.text) for e in examples], recipe, chat)
    else:
        pairs = dpo_pairs(samples, recipe.examples, recipe.seed)
        made, rows = "pair", pair_rows([(asked[p.id], p.chosen, p.rejected) for p in pairs], recipe, chat)
    said = count(samples).describe(f"{len(rows):,} {made}{'' if len(rows) == 1 else 's'}")
    print(f"{recipe.name}: {said}", file=sys.stderr)
    return rows


def _provenances(recipe: Recipe, questions: Sequence[Question]) -> Callable[[int], Provenance]:
    """Makes the provenance of a checkpoint out of its step."""
    path = model_path(recipe.model)
    parent = read_provenance(path)
    ids = {question.id for question in questions} | set(parent.train_ids if parent else ())
    judge = make_judge(judge_of(recipe)).identity
    whole = Provenance(
        method=recipe.method,
        base_model=parent.base_model if parent else recipe.model,
        base_digest=parent.base_digest if parent else model_digest(path),
        step=0,
        seed=recipe.seed,
        recipe=published(recipe),
        manifests={name: read_manifest(name).digest for name in recipe.benchmarks},
        train_ids=tuple(sorted(ids)),
        judge={name: value for name, value in judge.items() if name != "server"},  # its address is nobody's business
        prompt=f"{recipe.style}-{template_digest(recipe.style)}",
        versions=installed_versions(),
        revision=code_revision(),
        parent=parent.without_ids() if parent else None,
    )
    return lambda step: replace(whole, step=step)


def _finish(recipe: Recipe, best: Path, validated: int) -> None:
    """Make the run's folder the model folder of its best checkpoint; its provenance is written last."""
    folder, provenance = recipe.folder, read_provenance(str(best))
    assert provenance is not None  # or the checkpoint would not be whole
    write_model(recipe, best, folder)
    write_text(folder / "README.md", model_card(recipe, provenance, read_log(folder / LOG_FILE), validated))
    write_provenance(folder, provenance)
