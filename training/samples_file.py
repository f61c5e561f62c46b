"""The sampling stage that RFT and DPO share: each train question is sampled and graded once, and kept in a file.

The file is JSON Lines: a head with all that a sample depends on, then a line a question. Work goes in blocks: draw,
grade, append; a run that is killed loses one block at most, goes on where it was, and ends with the same bytes. What
would surprise:

- Equal texts of a question are stored once, with the numbers of the samples that said so, and are graded once.
- Of an answer to the direct prompt only its first line is kept, since nothing else of it is graded, and a base model's
  further lines are nothing to train on. A chain of thought is kept whole.
- Where more rollouts are asked for than the file holds, only the missing ones are drawn; they stand in a second line of
  their question. Where fewer are asked for, the others are not looked at.
- What the judge failed on is graded again while samples are missing, and not later: what a run is trained on does not
  change when the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.files import read_jsonl
from closedbook.harness.prompts import Style, extract_answer, first_line, template_digest
from closedbook.harness.questions import Question
from closedbook.harness.samples import QuestionSamples, Sample, count
from closedbook.harness.sampling import BATCH, Sampling
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import flat
from closedbook.training.rewards import Reward

VERSION = 1  # of the file
WANTED = "a file of samples as RFT and DPO write it"


class DrawsSamples(Protocol):
    """Anything that draws samples, as harness.sampling.Sampler does."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What of it a sample depends on, besides the model."""
        ...

    def sample(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], n: int, settings: Sampling, *, first: int = 0
    ) -> list[list[str]]:
        """Samples `first` to `first + n - 1` of each prompt."""
        ...


def sampling_of(recipe: Recipe) -> Sampling:
    """How a recipe's samples are drawn."""
    return Sampling(recipe.temperature, recipe.top_p, recipe.top_k, recipe.max_new_tokens, recipe.seed)


def settings_of(recipe: Recipe, sampler: DrawsSamples, reward: Reward, *, model: str, chat: bool) -> dict[str, Any]:
    """All that a sample and its reward depend on, besides the question: the head of the file.

    Args:
        recipe: Of the samples.
        sampler: Who draws them.
        reward: Who grades them.
        model: Digest of the model's folder, or its commit on the hub.
        chat: Whether prompts go through the chat template.
    """
    return {
        "model": model,
        "sampler": dict(sampler.identity),
        "prompt": f"{recipe.style}-{template_digest(recipe.style)}",
        "chat": chat,
        "temperature": recipe.temperature,
        "top_p": recipe.top_p,
        "top_k": recipe.top_k,
        "max_new_tokens": recipe.max_new_tokens,
        "seed": recipe.seed,
        "reward": reward.__name__,
        "judge": dict(reward.judge.identity) if reward.judge else None,
    }


def read_samples(path: Path, rollouts: int | None = None) -> list[QuestionSamples]:
    """The samples in a file, in the order in which questions first stand in it.

    Args:
        path: As `draw_samples` wrote it.
        rollouts: Samples of each question to look at; None for all.

    Raises:
        RequestError: The file cannot be read, or is none of ours.
    """
    return list(_merged(_lines(path), rollouts).values())


def draw_samples(
    path: Path,
    recipe: Recipe,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    sampler: DrawsSamples,
    reward: Reward,
    *,
    model: str,
    chat: bool,
    block: int | None = None,
    progress: bool = True,
) -> list[QuestionSamples]:
    """The samples of each question with their rewards: those in the file, and what is missing, which is added to it.

    Args:
        path: The file; it need not be there.
        recipe: Says how many samples are drawn, and how.
        questions: All that are to be sampled, cut by `max_steps` already.
        prompts: Token ids of each question's prompt.
        sampler: Draws the samples.
        reward: Grades them; its judge's `preflight` is the caller's.
        model: Digest of the model's folder, or its commit on the hub.
        chat: Whether the prompts went through the chat template.
        block: Questions that are drawn, graded, saved and lost together; None for about four batches of sequences.
        progress: Whether to show a bar on standard error.

    Returns:
        One entry a question, in the order of the questions.

    Raises:
        RequestError: The file holds samples of other settings, or is none of ours; it is left as it is.
        JudgeUnreliable: The judge failed too often; all blocks before are in the file.
        WorkError: The file cannot be written.
    """
    _prepare(path, settings_of(recipe, sampler, reward, model=model, chat=chat))
    found = _merged(_lines(path), recipe.rollouts)
    known = {question.id: found.get(question.id, QuestionSamples(question.id, ())) for question in questions}
    size = block or max(1, 4 * BATCH // recipe.rollouts)
    asked = list(zip(questions, prompts, strict=True))
    waiting = [
        some
        for some in (asked[at : at + size] for at in range(0, len(asked), size))
        if any(_pending(known[question.id], recipe.rollouts) for question, _ in some)
    ]
    if all(line.drawn == recipe.rollouts for line in known.values()):
        waiting = []
    right = _Share(known.values())
    done = len(asked) - sum(map(len, waiting))
    with _bar(done, len(asked), progress and bool(waiting)) as bar:
        for some in waiting:
            new = _block(some, known, recipe, sampler, reward)
            _append(path, map(_row, new))
            known |= _merged([*(known[line.id] for line in new), *new], recipe.rollouts)
            right.add(new)
            bar.set_postfix_str(f"right {right.share:.1%}", refresh=False)
            bar.update(len(some))
    return list(known.values())


def _pending(line: QuestionSamples, rollouts: int) -> bool:
    """Whether samples of a question are still to be drawn, or to be graded again."""
    return line.drawn < rollouts or any(sample.reward is None for sample in line.samples)


def _block(
    some: Sequence[tuple[Question, Sequence[int]]],
    known: Mapping[str, QuestionSamples],
    recipe: Recipe,
    sampler: DrawsSamples,
    reward: Reward,
) -> list[QuestionSamples]:
    """What is new of some questions: samples that were missing, and rewards that could not be had before.

    All of them are drawn together even where some have their samples, because a GPU's arithmetic depends on who stands
    in a batch.
    """
    old = {(q.id, sample.text): sample.reward for q, _ in some for sample in known[q.id].samples}
    drawn = _draw(some, known, recipe, sampler)
    texts = {
        question.id: dict.fromkeys(
            [*(sample.text for sample in known[question.id].samples if sample.reward is None), *drawn[question.id]]
        )
        for question, _ in some
    }
    unknown = [
        (question, text) for question, _ in some for text in texts[question.id] if old.get((question.id, text)) is None
    ]
    given = _grade(unknown, reward)
    rewards = old | {(question.id, text): value for (question, text), value in zip(unknown, given, strict=True)}
    lines = (
        QuestionSamples(
            key,
            tuple(
                Sample(text, extract_answer(text, recipe.style), rewards[key, text], tuple(drawn[key].get(text, ())))
                for text in said
                if text in drawn[key] or rewards[key, text] is not None
            ),
        )
        for key, said in texts.items()
    )
    return [line for line in lines if line.samples]


def _draw(
    some: Sequence[tuple[Question, Sequence[int]]],
    known: Mapping[str, QuestionSamples],
    recipe: Recipe,
    sampler: DrawsSamples,
) -> dict[str, dict[str, list[int]]]:
    """By question and text the numbers of the samples that are new."""
    keys = [question.id for question, _ in some]
    first = min(known[key].drawn for key in keys)
    prompts = [prompt for _, prompt in some]
    texts = sampler.sample(prompts, keys, recipe.rollouts - first, sampling_of(recipe), first=first)
    found: dict[str, dict[str, list[int]]] = {key: {} for key in keys}
    for key, responses in zip(keys, texts, strict=True):
        for number, response in enumerate(responses, first):
            if number >= known[key].drawn:
                found[key].setdefault(_kept(response, recipe.style), []).append(number)
    return found


def _kept(response: str, style: Style) -> str:
    """What of a response is kept: all that is graded, and nothing after it."""
    return response.strip() if style == "cot" else first_line(response)


def _grade(asked: Sequence[tuple[Question, str]], reward: Reward) -> list[float | None]:
    if not asked:
        return []
    questions = [question for question, _ in asked]
    return reward(
        completions=[text for _, text in asked],
        question=[question.question for question in questions],
        answers=[question.answers for question in questions],
    )


class _Share:
    """The share of graded samples that are right, kept up to date."""

    def __init__(self, lines: Iterable[QuestionSamples]) -> None:
        self.right = self.graded = 0
        self.add(lines)

    def add(self, lines: Iterable[QuestionSamples]) -> None:
        counts = count(lines)
        self.right += counts.right
        self.graded += counts.samples - counts.ungraded

    @property
    def share(self) -> float:
        return self.right / self.graded if self.graded else 0.0


def _bar(done: int, total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(initial=done, total=total, desc="sampling", unit="question", disable=not progress)


def _merged(lines: Iterable[QuestionSamples], rollouts: int | None) -> dict[str, QuestionSamples]:
    """One entry a question from all lines of it: every draw below `rollouts`, and the last reward that is known."""
    samples: defaultdict[str, dict[str, Sample]] = defaultdict(dict)
    for line in lines:
        of = samples[line.id]
        for new in line.samples:
            old = of.get(new.text, new)
            draws = {draw for draw in (*old.draws, *new.draws) if rollouts is None or draw < rollouts}
            reward = old.reward if new.reward is None else new.reward
            of[new.text] = Sample(new.text, new.answer, reward, tuple(sorted(draws)))
    return {
        key: QuestionSamples(key, tuple(sorted((s for s in of.values() if s.draws), key=lambda s: s.draws[0])))
        for key, of in samples.items()
    }


def _lines(path: Path) -> list[QuestionSamples]:
    """The lines of a file, without its head."""
    _check_head(path)
    return [line for line in read_jsonl(path, _parse, WANTED) if isinstance(line, QuestionSamples)]


def _parse(row: Mapping[str, Any]) -> QuestionSamples | Mapping[str, Any]:
    """A line, or the head as it is."""
    if "settings" in row:
        return row
    samples = (Sample(said["text"], said["answer"], said["reward"], tuple(said["draws"])) for said in row["samples"])
    return QuestionSamples(row["id"], tuple(samples))


def _row(line: QuestionSamples) -> dict[str, Any]:
    return {
        "id": line.id,
        "samples": [
            {"text": said.text, "answer": said.answer, "reward": said.reward, "draws": said.draws}
            for said in line.samples
        ],
    }


def _prepare(path: Path, settings: Mapping[str, Any]) -> None:
    """Leave a file with the head of these settings and whole lines only; what was cut off was not finished."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    head = {"version": VERSION, "digest": digest, "settings": settings}
    try:
        content = path.read_bytes() if path.exists() else b""
        if _encoded([head]).startswith(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            _append(path, [head])
            return
        found = flat(_check_head(path))
        wanted = flat(json.loads(json.dumps(settings)))
        if changed := [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]:
            raise RequestError(
                f"{path} holds samples of other settings: {changed[0]} was {found.get(changed[0])!r} and is "
                f"{wanted.get(changed[0])!r}; name another output_dir, or remove the file"
            )
        os.truncate(path, content.rfind(b"\n") + 1)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {one_line(error)}; free space or name another output_dir") from error


def _check_head(path: Path) -> dict[str, Any]:
    """The settings in the head of a file.

    Raises:
        RequestError: The file cannot be read, or has no such head.
    """
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline())
        if head["version"] == VERSION:
            return dict(head["settings"])
    except OSError as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; name {WANTED}") from error
    except (KeyError, TypeError, ValueError):
        pass
    raise RequestError(f"{path} is not {WANTED}, or of another version; name another output_dir, or remove the file")


def _encoded(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a file, and see them on the disk."""
    try:
        with path.open("ab") as file:
            file.write(_encoded(rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WorkError(f"cannot write {path}: {one_line(error)}; free space or name another output_dir") from error
