"""From a recipe to what a trainer is given: the questions, and one row for each, asked as the tasks ask.

A chat model's prompt is a list of messages and a base model's is plain text; TRL makes tokens of either, the same that
lm-eval makes. What surprises: a base model's answer opens with a space, because its prompt ends in "Answer:".
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.files import read_jsonl
from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import messages, question_prompt
from closedbook.harness.questions import Question
from closedbook.training.recipe_fields import Recipe, Subset

Row = Mapping[str, Any]


def train_questions(recipe: Recipe) -> list[Question]:
    """The questions that a recipe trains on.

    Raises:
        RequestError: A source or manifest cannot be had, or `subset` names no question of them.
    """
    everything = [question for name in recipe.benchmarks for question in load_questions(name, "train")]
    if recipe.subset is None:
        return everything
    wanted = _wanted(recipe.subset)
    where = f"recipe {recipe.name}: subset: {recipe.subset.ids or recipe.subset.buckets}"
    if not wanted:
        bucket = f" in bucket {recipe.subset.bucket}" if recipe.subset.bucket else ""
        raise RequestError(f"{where}: names no question{bucket}; name another one, or set subset=null")
    if unknown := wanted - {question.id for question in everything}:
        raise RequestError(
            f"{where}: {len(unknown)} of {len(wanted)} ids are no train questions of {', '.join(recipe.benchmarks)}, "
            f"such as {min(unknown)}; take ids of that split"
        )
    if recipe.subset.random:
        return random.Random(recipe.subset.seed).sample(everything, len(wanted))
    return [question for question in everything if question.id in wanted]


def _wanted(subset: Subset) -> set[str]:
    """The ids that a subset's file names."""
    if subset.ids is not None:
        path = Path(subset.ids).expanduser()
        try:
            return set(path.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"subset.ids: cannot read {path}: {one_line(error)}; give a file, one id a line"
            ) from None
    return bucket_ids(Path(str(subset.buckets)).expanduser(), subset.bucket)


def bucket_ids(path: Path, wanted: str | None) -> set[str]:
    """The ids that a file of buckets has in one of them.

    Raises:
        RequestError: It cannot be read.
    """
    return {id for id, bucket in _buckets(path) if bucket == wanted}


def _buckets(path: Path) -> Iterable[tuple[str, str]]:
    """Ids with the bucket of each."""
    if path.suffix != ".parquet":
        return read_jsonl(path, lambda row: (str(row["id"]), str(row["bucket"])), "an id and its bucket")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["id", "bucket"])
        return [(str(row["id"]), str(row["bucket"])) for row in table.to_pylist()]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise RequestError(f"subset.buckets: cannot read {path}: {one_line(error)}; want columns id, bucket") from None


def validation_questions(recipe: Recipe) -> list[Question]:
    """The questions that validation asks; where there is a limit, the same random ones for every recipe.

    Raises:
        RequestError: A source or manifest cannot be had.
    """
    everything = [question for name in recipe.benchmarks for question in load_questions(name, "validation")]
    return sorted(everything, key=lambda question: question.id)[: recipe.validation.limit]  # ids are hashes


def rollout_rows(questions: Sequence[Question], recipe: Recipe, chat: bool) -> list[Row]:
    """Rows for GRPO: the prompt, and what the reward needs to know."""
    return [
        {"prompt": _prompt(q, recipe, chat), "id": q.id, "question": q.question, "answers": list(q.answers)}
        for q in questions
    ]


def answer_rows(examples: Iterable[tuple[Question, str]], recipe: Recipe, chat: bool) -> list[Row]:
    """Rows for supervised fine-tuning: a prompt and the answer to give."""
    return [{"prompt": _prompt(q, recipe, chat), "completion": _answer(text, chat)} for q, text in examples]


def gold_examples(questions: Iterable[Question]) -> list[tuple[Question, str]]:
    """Each question with its first gold answer."""
    return [(question, question.answers[0]) for question in questions]


def pair_rows(pairs: Iterable[tuple[Question, str, str]], recipe: Recipe, chat: bool) -> list[Row]:
    """Rows for DPO: a prompt, the better and the worse answer."""
    return [
        {"prompt": _prompt(q, recipe, chat), "chosen": _answer(right, chat), "rejected": _answer(wrong, chat)}
        for q, right, wrong in pairs
    ]


def _prompt(question: Question, recipe: Recipe, chat: bool) -> str | list[dict[str, str]]:
    return messages(question.question, recipe.style) if chat else question_prompt(question.question, recipe.style)


def _answer(text: str, chat: bool) -> str | list[dict[str, str]]:
    return [{"role": "assistant", "content": text}] if chat else f" {text}"
