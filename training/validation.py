"""Validation while a model trains: greedy answers to questions held back, graded as the tasks grade."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from closedbook.harness.judge import Judgement, Triple, make_judge
from closedbook.harness.metrics import METRICS, Answer, metric_names, metrics
from closedbook.harness.prompts import extract_answer
from closedbook.harness.questions import Question
from closedbook.harness.sampling import Sampler, encode_prompts
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import judge_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ACCURACY = "validation/judge_correct"
FAILED = "validation/judge_failed"


def make_validation(
    recipe: Recipe,
    trainer: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    chat: bool,
) -> Callable[[], dict[str, float]]:
    """Asks the trainer's model, as it is, the validation questions; each process asks its share."""
    from accelerate.utils import broadcast_object_list, gather_object
    from trl.models.utils import unwrap_model_for_generation

    judging = judge_of(recipe)
    judge = make_judge(judging)
    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    # as many for each process, some asked twice: where a model is sharded, all must take every step together
    share = -(-len(questions) // processes)
    mine = [questions[(rank + processes * at) % len(questions)] for at in range(share)]
    prompts = encode_prompts(tokenizer, mine, recipe.style, chat, recipe.max_prompt_tokens)

    def validate() -> dict[str, float]:
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            texts = Sampler(model, tokenizer, together=processes > 1).greedy(prompts, recipe.max_new_tokens)
        triples = [
            Triple(question.question, question.answers, extract_answer(text, recipe.style))
            for question, text in zip(mine, texts, strict=True)
        ]
        everyones = list(dict(gather_object([((one.question, one.golds), one) for one in triples])).values())
        figures: list[dict[str, float]] = [{}]
        if rank == 0:
            judgements = judge.grade(everyones, quiet=True)
            figures = [validation_figures(everyones, judgements, judging.prompt, judging.max_failures)]
        broadcast_object_list(figures)
        return figures[0]

    return validate


def validation_figures(
    triples: Sequence[Triple], judgements: Sequence[Judgement], prompt: str, max_failures: float
) -> dict[str, float]:
    """Means of the metrics that the judge's prompt brings, as `validation/NAME`, over the answers they are known of.

    Where the judge failed on more than a share of `max_failures`, what it said of the others is not known either: the
    best checkpoint must not be chosen by the few answers that happened to be graded.
    """
    values = [
        metrics([Answer(triple.answer, judgement)], triple.golds)
        for triple, judgement in zip(triples, judgements, strict=True)
    ]
    known = {name: [v[name] for v in values if not math.isnan(v[name])] for name in metric_names(prompt)}
    figures = {f"validation/{name}": fmean(those) if those else math.nan for name, those in known.items()}
    if figures[FAILED] > max_failures:
        figures |= {f"validation/{name}": math.nan for name in known if METRICS[name].can_be_unknown}
    return figures
