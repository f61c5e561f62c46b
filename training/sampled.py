"""What RFT and DPO train on: samples of the model as it is, drawn and graded before training begins.

The samples lie in the run's folder, as `closedbook sample` would keep them. What surprises:

- With several processes the first one draws all samples, with transformers, while the others wait for its folder: equal
  samples make equal rows, and a judge that fails on one process only must not part them.
- Once all are drawn, what the judge failed on is not graded again: what a run is trained on does not change when the
  run goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from closedbook.harness.drawing import Engine, Said, draw
from closedbook.harness.engines import TransformersEngine
from closedbook.harness.questions import Question, by_id
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import QuestionSamples, count
from closedbook.harness.sampling import Sampling
from closedbook.training.batches import is_main, sampled_of
from closedbook.training.examples import Row, answer_rows, pair_rows
from closedbook.training.plan import SAMPLES
from closedbook.training.recipe_fields import Recipe
from closedbook.training.rewards import Reward
from closedbook.training.samples import dpo_pairs, rft_examples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainingArguments


def sampling_of(recipe: Recipe) -> Sampling:
    """How a recipe's samples are drawn."""
    return Sampling(recipe.temperature, recipe.top_p, recipe.top_k, recipe.max_new_tokens, recipe.seed)


def sampled_rows(
    recipe: Recipe,
    questions: Sequence[Question],
    engine: TransformersEngine,
    config: TrainingArguments,
    reward: Reward,
    progress: bool,
) -> list[Row]:
    """Draw the samples that the run's folder does not hold yet; the correct ones as rows for SFT, or pairs for DPO.

    Args:
        recipe: For rft or dpo.
        questions: The train questions.
        engine: The model, as it is.
        config: The trainer's, which knows device and processes.
        reward: Grades the samples.
        progress: Show a bar.

    Raises:
        RequestError: The folder holds samples of other settings.
        Unfinished: The judge failed too often; what was drawn is kept.
        WorkError: The samples cannot be written, or leave nothing to train on.
    """
    # where max_steps leaves questions out: ids are hashes, so those that stay are of all benchmarks
    wanted = sorted(questions, key=lambda question: question.id)[: sampled_of(recipe, len(questions))]
    with config.main_process_first(local=False), _on_device(engine.sampler.model, config.device):
        if is_main():
            samples = drawn(recipe, wanted, engine, reward, progress)
        else:
            found = SampleStore(recipe.folder / SAMPLES).read(recipe.rollouts)
            samples = [found[question.id] for question in wanted]
    asked = by_id(questions)
    if recipe.method == "rft":
        examples = rft_examples(samples, recipe.examples)
        made, rows = "example", answer_rows([(asked[e.id], e.text) for e in examples], recipe, engine.chat)
    else:
        pairs = dpo_pairs(samples, recipe.examples, recipe.seed)
        made, rows = "pair", pair_rows([(asked[p.id], p.chosen, p.rejected) for p in pairs], recipe, engine.chat)
    if is_main():
        said = count(samples).describe(f"{len(rows):,} {made}{'' if len(rows) == 1 else 's'}")
        print(f"{recipe.name}: {said}", file=sys.stderr)
    return rows


def drawn(
    recipe: Recipe, questions: Sequence[Question], engine: Engine, reward: Reward, progress: bool = True
) -> list[QuestionSamples]:
    """The samples of each question, those that are missing drawn and graded; arguments as for `sampled_rows`."""
    store, ids = SampleStore(recipe.folder / SAMPLES), [question.id for question in questions]
    store.begin(settings_of(engine, reward), ids, recipe.rollouts)
    found = store.read(recipe.rollouts)
    if all(id in found and found[id].drawn == recipe.rollouts for id in ids):
        return [found[id] for id in ids]

    def grade(asked: Sequence[Said]) -> list[float | None]:
        return reward(
            completions=[text for _, text in asked],
            question=[question.question for question, _ in asked],
            answers=[question.answers for question, _ in asked],
        )

    return draw(store, questions, recipe.rollouts, engine, grade, recipe.style, progress=progress)


def settings_of(engine: Engine, reward: Reward) -> dict[str, Any]:
    """All that a sample and its reward depend on, besides the question."""
    judge = dict(reward.judge.identity) if reward.judge else {"kind": reward.__name__}
    return {**engine.identity, "judge": judge}


@contextmanager
def _on_device(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """The model on a device for a while, in the first process; accelerate wants to place it itself."""
    before = model.device
    if is_main():
        model.to(device)  # type: ignore[arg-type]  # its type says otherwise
    try:
        yield
    finally:
        model.to(before)  # type: ignore[arg-type]
