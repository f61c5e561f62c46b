"""What RFT and DPO train on: samples of the model as it is, drawn and graded before training begins.

What surprises: with several processes the first one draws all samples, by transformers, while the others wait for its
file: equal files make equal rows, and a judge that fails on one process only must not part them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from closedbook.harness.files import model_digest
from closedbook.harness.questions import Question, by_id
from closedbook.harness.samples import QuestionSamples, count
from closedbook.harness.sampling import Sampler
from closedbook.harness.small_model import model_path
from closedbook.training.batches import is_main, sampled_of
from closedbook.training.examples import Row, answer_rows, pair_rows
from closedbook.training.plan import SAMPLES_FILE
from closedbook.training.recipe_fields import Recipe
from closedbook.training.rewards import Reward
from closedbook.training.samples import dpo_pairs, rft_examples
from closedbook.training.samples_file import draw_samples, read_samples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainingArguments


def sampled_rows(
    recipe: Recipe,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    config: TrainingArguments,
    sampler: Sampler,
    reward: Reward,
    chat: bool,
    progress: bool,
) -> list[Row]:
    """Draw the samples that the run's folder does not hold yet; the correct ones as rows for SFT, or pairs for DPO.

    Args:
        recipe: For rft or dpo.
        questions: The train questions.
        prompts: Token ids of each one's prompt.
        config: The trainer's, which knows device and processes.
        sampler: Draws the samples.
        reward: Grades them.
        chat: Whether prompts go through the chat template.
        progress: Show a bar.

    Raises:
        RequestError: The folder holds samples of other settings.
        Unfinished: The judge failed too often; what was drawn is kept.
        WorkError: The samples cannot be written, or leave nothing to train on.
    """
    samples = _samples(recipe, questions, prompts, config, sampler, reward, chat, progress)
    asked = by_id(questions)
    if recipe.method == "rft":
        examples = rft_examples(samples, recipe.examples)
        made, rows = "example", answer_rows([(asked[e.id], e.text) for e in examples], recipe, chat)
    else:
        pairs = dpo_pairs(samples, recipe.examples, recipe.seed)
        made, rows = "pair", pair_rows([(asked[p.id], p.chosen, p.rejected) for p in pairs], recipe, chat)
    if is_main():
        said = count(samples).describe(f"{len(rows):,} {made}{'' if len(rows) == 1 else 's'}")
        print(f"{recipe.name}: {said}", file=sys.stderr)
    return rows


def _samples(
    recipe: Recipe,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    config: TrainingArguments,
    sampler: Sampler,
    reward: Reward,
    chat: bool,
    progress: bool,
) -> list[QuestionSamples]:
    # where max_steps leaves questions out: ids are hashes, so those that stay are of all benchmarks
    asked = sorted(zip(questions, prompts, strict=True), key=lambda pair: pair[0].id)
    asked = asked[: sampled_of(recipe, len(asked))]
    file = recipe.folder / SAMPLES_FILE
    with config.main_process_first(local=False):
        if not is_main():
            wanted = {question.id for question, _ in asked}
            return [line for line in read_samples(file, recipe.rollouts) if line.id in wanted]
        with _on_device(sampler.model, config.device):
            return draw_samples(
                file,
                recipe,
                [question for question, _ in asked],
                [prompt for _, prompt in asked],
                sampler,
                reward,
                model=model_digest(model_path(recipe.model)),
                chat=chat,
                progress=progress,
            )


@contextmanager
def _on_device(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """The model on a device for a while; accelerate wants to place it itself."""
    before = model.device
    model.to(device)  # type: ignore[arg-type]  # its type says otherwise
    try:
        yield
    finally:
        model.to(before)  # type: ignore[arg-type]
