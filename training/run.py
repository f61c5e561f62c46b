"""One training run, from a recipe to a folder that lm-eval scores.

The order is: whatever can be refused, then what costs little, then the model. A judge that is down, a folder of another
recipe or a subset without questions ends a run before a model is loaded.

    runs/grpo_cpu/
        recipe.yaml          the recipe, resolved
        log.jsonl            a line of figures a step
        samples/             rft and dpo: samples with their rewards
        checkpoint-N/        everything that a run needs to go on
        model.safetensors    the checkpoint that did best on validation, as a model folder
        README.md            the model card
        provenance.json      written last: a run that has it is finished
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from datasets import Dataset
from transformers import PrinterCallback, TrainerState
from transformers.utils import logging as transformers_logging

from closedbook.harness.engines import TransformersEngine
from closedbook.harness.errors import ClosedbookError, RequestError, Unfinished, WorkError, one_line
from closedbook.harness.files import alone, model_digest, write_text
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
from closedbook.harness.questions import Question
from closedbook.harness.sampling import Sampler, encode_prompts, uses_chat
from closedbook.harness.small_model import model_path
from closedbook.training.batches import devices, is_main, steps_of
from closedbook.training.card import model_card
from closedbook.training.examples import (
    answer_rows,
    gold_examples,
    rollout_rows,
    train_questions,
    validation_questions,
)
from closedbook.training.models import adapters, load_model, write_model
from closedbook.training.monitor import Monitor, read_log
from closedbook.training.plan import LOG_FILE, RECIPE_FILE, Plan, plan
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import changes, judge_of, published, to_yaml
from closedbook.training.rewards import Reward, make_reward
from closedbook.training.sampled import sampled_rows, sampling_of
from closedbook.training.trainers import CHECKPOINT, checkpoints, make_trainer, step_of
from closedbook.training.trl_config import trl_config, trl_name
from closedbook.training.validation import ACCURACY, make_validation

__all__ = ["Trained", "train"]

ONE_BEFORE = "remove it, and --resume goes on from the one before"


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
        _remove_checkpoints(recipe)  # it may have been killed before all were gone
        return _found(folder)
    questions, validation = train_questions(recipe), validation_questions(recipe)
    planned = plan(recipe, len(questions), devices(), validation_questions=len(validation))
    _check_engine(recipe)
    reward = make_reward(recipe.reward, recipe.style, judge_of(recipe))
    make_judge(judge_of(recipe)).preflight()
    provenance = _provenance(recipe, questions)
    _require_same(folder, provenance)
    try:
        with alone(folder) if is_main() else nullcontext(), _quiet():
            write_text(folder / RECIPE_FILE, to_yaml(recipe))
            return _run(recipe, planned, questions, validation, reward, provenance, progress)
    except KeyboardInterrupt:
        raise Unfinished(f"{folder}: interrupted; its last samples or checkpoint are kept") from None


def _opened(recipe: Recipe, resume: bool) -> Path:
    """The run's folder, which is new or holds a run of the same recipe.

    Raises:
        RequestError: It holds another recipe's run, or this one's and nobody asked to resume.
    """
    folder, file = recipe.folder, recipe.folder / RECIPE_FILE
    if not is_main():  # the first process looks; by now it may have begun to write
        return folder
    if not file.is_file():
        if folder.is_dir() and any(not path.name.endswith(".tmp") for path in folder.iterdir()):
            raise RequestError(f"{folder} holds other files; choose another output_dir")
        return folder
    try:
        before = dict(yaml.safe_load(file.read_bytes()))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise RequestError(f"{file} is damaged: {one_line(error)}; restore it, or choose another output_dir") from error
    now = yaml.safe_load(to_yaml(recipe))
    if changed := changes(before, now):
        raise RequestError(
            f"{folder} holds the run of another recipe ({changed[0]}); give the same recipe, or choose another "
            f"output_dir, where model={folder} starts from what it was trained to"
        )
    if not resume and (checkpoints(folder) or (folder / PROVENANCE_FILE).is_file()):
        raise RequestError(f"{folder} holds a run of this recipe; go on with --resume, or choose another output_dir")
    return folder


def _require_same(folder: Path, now: Provenance) -> None:
    """Let a run go on only with the data, model, judge and prompt that its last checkpoint was trained with.

    The recipe names files and models, and what lies behind a name may have changed.

    Raises:
        RequestError: Something is another one.
    """
    for last in checkpoints(folder)[-1:]:
        before = read_provenance(str(last))
        assert before is not None  # or the checkpoint would not be whole
        for name in ("base_digest", "model_digest", "manifests", "train_ids", "prompt", "judge"):
            if getattr(before, name) != getattr(now, name):
                raise RequestError(
                    f"{folder}: {name} differs from what {last.name} was trained with; give the same as then, or "
                    "choose another output_dir"
                )


def _found(folder: Path) -> Trained:
    """A run that was finished before."""
    provenance = read_provenance(str(folder))
    assert provenance is not None  # its file is why this is asked
    log = read_log(folder / LOG_FILE)
    accuracy = next((line[ACCURACY] for line in log if line["step"] == provenance.step and ACCURACY in line), None)
    return Trained(folder, log[-1]["step"] if log else provenance.step, provenance.step, accuracy, finished=True)


def _check_engine(recipe: Recipe) -> None:
    """Refuse what TRL would refuse only when the model is loaded: GPUs without a process each, a vLLM that cannot work.

    Raises:
        RequestError: The line names what to do.
    """
    where, gpus = f"recipe {recipe.name}", torch.cuda.device_count()
    if gpus > 1 and devices() == 1:
        raise RequestError(
            f"{where}: there are {gpus} GPUs, and each needs a process; start with accelerate launch --num_processes "
            f"{gpus} (docs/training.md), or set CUDA_VISIBLE_DEVICES=0"
        )
    if recipe.method in ("rft", "dpo") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise RequestError(
            f"{where}: {recipe.method} draws its samples with one process, which holds no whole model under ZeRO-3; "
            "use ddp.yaml or fsdp.yaml"
        )
    if recipe.vllm.mode == "none":
        return
    if not find_spec("vllm"):
        raise RequestError(f"{where}: vllm: vLLM is not installed; pip install 'closedbook[vllm]', or use vllm=none")
    if not gpus:
        raise RequestError(f"{where}: vllm: TRL gives vLLM new weights on GPUs only; use vllm=none")


def _run(
    recipe: Recipe,
    planned: Plan,
    questions: Sequence[Question],
    validation: Sequence[Question],
    reward: Reward,
    provenance: Provenance,
    progress: bool,
) -> Trained:
    """Everything from the model on."""
    # made before the model, which ZeRO-3 shards while it is loaded
    config = trl_config(recipe, planned.batch, planned.steps, cpu=not torch.cuda.is_available())
    model, tokenizer = load_model(recipe)
    chat = uses_chat(tokenizer, recipe.chat)
    prompts = encode_prompts(tokenizer, questions, recipe.style, chat, recipe.max_prompt_tokens)
    _require_room(recipe, model, max(map(len, prompts)))
    if recipe.method in ("rft", "dpo"):
        sampler, sampling = Sampler(model, tokenizer), sampling_of(recipe)
        engine = TransformersEngine(
            sampler, provenance.model_digest, recipe.style, chat, sampling, recipe.max_prompt_tokens
        )
        rows = sampled_rows(recipe, questions, engine, config, reward, progress)
        config.max_steps = steps_of(recipe, len(rows))  # they train on what their samples left
    elif recipe.method == "sft":
        rows = answer_rows(gold_examples(questions), recipe, chat)
    else:
        rows = rollout_rows(questions, recipe, chat)
    trainer = make_trainer(
        trl_name(recipe),
        reward if recipe.method == "grpo" else None,
        model=model,
        args=config,
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        **adapters(recipe),
    )
    trainer.attach(lambda step: replace(provenance, step=step), recipe.save.keep)
    validate = make_validation(recipe, trainer, tokenizer, validation, chat) if validation else None
    monitor = Monitor(recipe, trainer, validate, main=is_main(), progress=progress)
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    trainer.add_callback(monitor)
    state = _trained(trainer, monitor, checkpoints(recipe.folder)[-1:])
    best = state.best_global_step or state.global_step
    if is_main():
        _finish(recipe, recipe.folder / f"{CHECKPOINT}{best}", len(validation))
    return Trained(recipe.folder, state.global_step, best, state.best_metric)


def _require_room(recipe: Recipe, model: Any, longest: int) -> None:
    """Refuse answers that the model has no positions for.

    Raises:
        RequestError: The longest prompt and answer are longer than its context.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    if room and longest + recipe.max_new_tokens > room:
        raise RequestError(
            f"recipe {recipe.name}: max_new_tokens: a prompt of {longest} tokens and {recipe.max_new_tokens} more do "
            f"not fit the model's {room} positions; use max_new_tokens={max(1, room - longest)}"
        )


def _trained(trainer: Any, monitor: Monitor, last: Sequence[Path]) -> TrainerState:
    """Train to the end, from the last checkpoint if there is one; the state in which that leaves the trainer.

    Raises:
        RequestError: The checkpoint cannot be gone on from.
        Unfinished: The run was asked to end early, and has.
    """
    for checkpoint in last:
        _require_whole(checkpoint)
        if step_of(checkpoint) >= trainer.args.max_steps:  # TRL would take one more step before it looks
            done: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            return done
    try:
        with monitor.ends_calmly():
            trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    except ClosedbookError:
        raise
    except Exception as error:  # each file of a checkpoint is read by another library
        if monitor.begun or not last:
            raise
        raise RequestError(f"cannot read {last[0]}: {one_line(error)}; {ONE_BEFORE}") from error
    state: TrainerState = trainer.state
    if state.global_step < state.max_steps:
        raise Unfinished(f"{monitor.stop}; step {state.global_step} is kept")
    return state


def _require_whole(checkpoint: Path) -> None:
    """See to it that a checkpoint has all to go on from: TRL would start the optimizer afresh without a word.

    Raises:
        RequestError: It lacks something, or its state cannot be read.
    """
    held = {path.name for path in checkpoint.iterdir()}
    sharded = any(name.startswith("global_step") for name in held)  # ZeRO-3 keeps all of it in there
    for wanted in ("trainer_state.json", *(() if sharded else ("optimizer", "scheduler", "rng_state"))):
        if not any(name.startswith(wanted) for name in held):
            raise RequestError(f"{checkpoint} lacks its {wanted}; {ONE_BEFORE}")
    try:
        TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"cannot read {checkpoint}: {one_line(error)}; {ONE_BEFORE}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Notices and bars of TRL and transformers off: TRL would print a question and its golds for each judge failure.

    Off as well is what transformers says of its own names that TRL and accelerate still use.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
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
        if not hidden:
            datasets.enable_progress_bars()
        for log, level in zip(loud, levels, strict=True):
            log.setLevel(level)


def _provenance(recipe: Recipe, questions: Sequence[Question]) -> Provenance:
    """The provenance of a checkpoint before the first step."""
    path = model_path(recipe.model)
    parent, digest = read_provenance(path), model_digest(path)
    ids = {question.id for question in questions} | set(parent.train_ids if parent else ())
    judge = make_judge(judge_of(recipe)).identity
    return Provenance(
        method=recipe.method,
        base_model=parent.base_model if parent else recipe.model,
        base_digest=parent.base_digest if parent else digest,
        model_digest=digest,
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


def _finish(recipe: Recipe, best: Path, validated: int) -> None:
    """Make the run's folder the model folder of its best checkpoint; its provenance is written last."""
    folder, provenance = recipe.folder, read_provenance(str(best)) if best.is_dir() else None
    if provenance is None:
        raise WorkError(f"{best}, the checkpoint that did best, is gone; put it back and go on with --resume")
    write_model(recipe, best, folder)
    write_text(folder / "README.md", model_card(recipe, provenance, read_log(folder / LOG_FILE), validated))
    write_provenance(folder, provenance)
    _remove_checkpoints(recipe)


def _remove_checkpoints(recipe: Recipe) -> None:
    """Free what a finished run needs no more, where the recipe says so."""
    if recipe.save.when_finished == "remove" and is_main():
        for checkpoint in checkpoints(recipe.folder):
            shutil.rmtree(checkpoint)
