"""Drawing samples: what a folder lacks is drawn, graded and kept, a block of questions at a time.

A run that is killed loses one block at most and goes on where it was. What would surprise:

- Equal texts of a question are stored once, with the numbers of the samples that said so, and graded once.
- Of an answer to the direct prompt only its first line is kept, since nothing else of it is graded, and a base model's
  further lines are nothing to train on. A chain of thought is kept whole.
- An engine that works on several blocks at once is given them ahead; they are graded and kept in their order all the
  same, so that the folder is the one that an engine alone would have filled.
- What the judge failed on, or nobody has graded, is graded whenever a run goes on, and nothing of it drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol, runtime_checkable

from closedbook.harness.prompts import Style, extract_answer, first_line
from closedbook.harness.questions import Question
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import QuestionSamples, Sample, count, joined
from closedbook.harness.text import storable

BLOCK = 1024  # samples that are drawn, graded, saved and lost together, where an engine wants no more at once

Said = tuple[Question, str]
"""A question, and a text that a model gave to it."""

Grade = Callable[[Sequence[Said]], Sequence[float | None]]
"""Rewards of texts that all differ, in order: 1 for right, 0 for wrong, None where the judge failed."""


class Engine(Protocol):
    """Anything that answers questions at random, as harness.engines has them."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All of it that a sample depends on: model, prompt, sampling, arithmetic. Holds no key."""
        ...

    @property
    def at_once(self) -> int:
        """Samples that keep it busy."""
        ...

    def sample(self, questions: Sequence[Question], n: int, first: int) -> list[list[str]]:
        """Samples `first` to `first + n - 1` of each question."""
        ...


class Ask(NamedTuple):
    """Samples `first` to `first + n - 1` of each question, which an engine draws together."""

    questions: Sequence[Question]
    n: int
    first: int


@runtime_checkable
class Ahead(Protocol):
    """What answers as an engine does, and works on several asks at once."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """As an engine has it."""
        ...

    @property
    def at_once(self) -> int:
        """As an engine has it."""
        ...

    def stream(self, asks: Iterable[Ask]) -> Generator[list[list[str]], None, None]:
        """The samples of each, in order; some more may be under way."""
        ...


def draw(
    store: SampleStore,
    questions: Sequence[Question],
    n: int,
    engine: Engine | Ahead,
    grade: Grade | None,
    style: Style = "direct",
    *,
    block: int | None = None,
    progress: bool = True,
) -> list[QuestionSamples]:
    """The first n samples of each question with their rewards: those in the store, and what is missing, which is added.

    Args:
        store: Begun, with these questions.
        questions: All that are to be sampled.
        n: Samples of each.
        engine: Draws the samples.
        grade: Grades them; None for no grades.
        style: Of the prompt, which says where in a text the answer is.
        block: Questions that are drawn, graded, saved and lost together; None for what keeps the engine busy.
        progress: Whether to show a bar on standard error.

    Returns:
        One entry a question, in the order of the questions.

    Raises:
        RequestError: The store cannot be read.
        WorkError: It cannot be written; all blocks before are in it.
    """
    found = store.read(n)
    known = {question.id: found.get(question.id, QuestionSamples(question.id, ())) for question in questions}
    size = block or max(1, max(BLOCK, engine.at_once) // n)
    blocks = [questions[at : at + size] for at in range(0, len(questions), size)]
    waiting = [some for some in blocks if any(_pending(known[question.id], n, grade) for question in some)]
    asks = [_ask(some, known, n) for some in waiting]
    right = _Share(known.values())
    done = len(questions) - sum(map(len, waiting))
    with (
        closing(_answers(engine, [ask for ask in asks if ask.n])) as answers,
        _bar(done, len(questions), progress and bool(waiting)) as bar,
    ):
        for some, ask in zip(waiting, asks, strict=True):
            drawn = _numbered(ask, next(answers) if ask.n else [()] * len(some), known, style)
            new = _block(some, known, drawn, grade, style)
            store.add(new)
            for line in new:
                known[line.id] = joined([known[line.id], line])
            right.add(new)
            bar.set_postfix_str(f"right {right.share:.1%}", refresh=False)
            bar.update(len(some))
    return list(known.values())


def _pending(line: QuestionSamples, n: int, grade: Grade | None) -> bool:
    """Whether samples of a question are still to be drawn or graded."""
    return line.drawn < n or (grade is not None and line.failed > 0)


def _block(
    some: Sequence[Question],
    known: Mapping[str, QuestionSamples],
    drawn: Mapping[str, Mapping[str, list[int]]],
    grade: Grade | None,
    style: Style,
) -> list[QuestionSamples]:
    """What is new of some questions: samples that were missing, and rewards that could not be had before."""
    rewards = {(q.id, said.text): said.reward for q in some for said in known[q.id].samples}
    texts = {
        q.id: dict.fromkeys([*(said.text for said in known[q.id].samples if said.reward is None), *drawn[q.id]])
        for q in some
    }
    asked = [(q, text) for q in some for text in texts[q.id] if rewards.get((q.id, text)) is None]
    given = grade(asked) if grade and asked else [None] * len(asked)
    rewards |= {(question.id, text): reward for (question, text), reward in zip(asked, given, strict=True)}
    lines = (
        QuestionSamples(
            id,
            tuple(
                Sample(text, extract_answer(text, style), rewards[id, text], tuple(drawn[id].get(text, ())))
                for text in said
                if text in drawn[id] or rewards[id, text] is not None
            ),
        )
        for id, said in texts.items()
    )
    return [line for line in lines if line.samples]


def _ask(some: Sequence[Question], known: Mapping[str, QuestionSamples], n: int) -> Ask:
    """What is to be drawn of a block; no samples where none is missing.

    All questions are drawn together even where some have their samples, because a GPU's arithmetic depends on who
    stands in a batch.
    """
    held = [_held(known[question.id]) for question in some]
    # a file that is gone may have held any of the numbers
    first = next((number for number in range(n) if any(number not in draws for draws in held)), n)
    return Ask(some, n - first, first)


def _held(line: QuestionSamples) -> set[int]:
    """The numbers of the samples that are there."""
    return {draw for said in line.samples for draw in said.draws}


def _answers(engine: Engine | Ahead, asks: Sequence[Ask]) -> Generator[list[list[str]], None, None]:
    """The samples of each ask, in order, drawn when they are wanted or ahead."""
    if isinstance(engine, Ahead):
        yield from engine.stream(asks)
    else:
        for ask in asks:
            yield engine.sample(*ask)


def _numbered(
    ask: Ask, answers: Sequence[Sequence[str]], known: Mapping[str, QuestionSamples], style: Style
) -> dict[str, dict[str, list[int]]]:
    """By question and text the numbers of the samples that are new."""
    found: dict[str, dict[str, list[int]]] = {question.id: {} for question in ask.questions}
    for question, responses in zip(ask.questions, answers, strict=True):
        held, new = _held(known[question.id]), found[question.id]
        for number, response in enumerate(responses, ask.first):
            if number not in held:
                new.setdefault(_kept(response, style), []).append(number)
    return found


def _kept(response: str, style: Style) -> str:
    """What of a response is kept: all that is graded, and nothing after it."""
    return storable(response.strip() if style == "cot" else first_line(response))


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
