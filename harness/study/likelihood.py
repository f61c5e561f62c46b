"""`closedbook likelihood`: how likely a model is to give each answer, by computation and without a single sample.

Of each question all answers with a probability of at least `least` are listed and judged, and the gold answers scored.
The folder is that of samples in its making: a head with all that the figures depend on, a parquet file for each block
of questions, more questions with a larger limit, and other settings refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from closedbook.harness.compare import names_of
from closedbook.harness.drawing import Grade
from closedbook.harness.engines import LONGEST_PROMPT, engine_identity, load_sampler
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.fields import flat
from closedbook.harness.files import alone, model_digest
from closedbook.harness.judge import JudgeSettings, make_judge
from closedbook.harness.likelihood import Likelihood, Scored
from closedbook.harness.manifests import load_questions
from closedbook.harness.questions import Question
from closedbook.harness.sample_store import RecordStore
from closedbook.harness.sampling import encode_prompts, uses_chat
from closedbook.harness.study.accessibility import bucket_names, buckets
from closedbook.harness.study.analyses import at_most, read_sample_runs, require_alike
from closedbook.harness.study.mass import Listed, MassRun, QuestionMass
from closedbook.harness.study.sample import asked_by, grading, settings_of, untrained

LEAST = 0.001
MAX_TOKENS = 64  # as many as samples have
BLOCK = 16  # questions that are listed, graded, saved and lost together
AT_ONCE = 4  # questions that are read together; each may take 1 / least rows


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        model: Folder, hub id or `smollm2`.
        task: Of this package, such as popqa_dedup; no chain of thought, which is no short answer.
        split: test, validation, train or dropped.
        least: The smallest probability of an answer that is listed.
        max_tokens: Longest answer.
        chat: Whether to ask through the chat template; "auto" if there is one.
        limit: Questions: the first so many by id, which is a random sample.
        out: The folder; `runs/likelihood-MODEL-TASK-SPLIT` unless stated.
        allow_contaminated: Ask a checkpoint questions that it was trained on.
    """

    model: str
    task: str = "worldfacts_dedup"
    split: str = "test"
    least: float = LEAST
    max_tokens: int = MAX_TOKENS
    chat: bool | Literal["auto"] = "auto"
    limit: int | None = None
    out: Path | None = None
    allow_contaminated: bool = False

    @property
    def folder(self) -> Path:
        """Where the figures go."""
        return self.out or Path("runs") / f"likelihood-{Path(self.model).name}-{self.task}-{self.split}"


class Found(NamedTuple):
    """A finished run: its folder and what is in it, in the order of the questions."""

    folder: Path
    questions: Sequence[QuestionMass]


class MassStore(RecordStore):
    """The listed answers of one model, graded by one judge, and the scores of gold answers; a row a question."""

    file, records, command = "likelihood.json", "probabilities", "closedbook likelihood"

    def add(self, questions: Sequence[QuestionMass]) -> None:
        """Keep some questions, all of them or none; one that is there already is replaced.

        Raises:
            WorkError: They cannot be written.
        """
        rows = [
            {
                "id": question.id,
                "golds": [gold._asdict() for gold in question.golds],
                "answers": [said._asdict() for said in question.answers],
            }
            for question in questions
        ]
        self._keep(rows, _schema())

    def read(self) -> dict[str, QuestionMass]:
        """What is there, by question id.

        Raises:
            RequestError: A file cannot be read.
        """
        return {
            row["id"]: QuestionMass(
                row["id"],
                tuple(Scored(**gold) for gold in row["golds"]),
                tuple(Listed(**said) for said in row["answers"]),
            )
            for row in self._rows(_schema())
        }

    def whole(self) -> list[QuestionMass]:
        """All questions that were asked for, by id, for an analysis.

        Raises:
            RequestError: Some are missing.
        """
        head, found = self.head(), self.read()
        if missing := [id for id in head.ids if id not in found]:
            raise RequestError(
                f"{self.folder}: {len(missing)} of {len(head.ids)} questions are missing; the same `{self.command}` "
                "again computes them"
            )
        return [found[id] for id in sorted(head.ids)]


def read_mass_runs(before: Path, after: Path) -> tuple[MassRun, MassRun]:
    """Two folders of probabilities of the same questions, computed in the same way.

    Raises:
        RequestError: One is not whole, or they differ in more than the model.
    """
    first, second = MassStore(before), MassStore(after)
    require_alike(before, first.head(), after, second.head())
    one, other = names_of([before, after])
    return MassRun(one, first.head(), first.whole()), MassRun(other, second.head(), second.whole())


def buckets_beside(run: MassRun, folder: Path, n: int | None = None) -> tuple[dict[str, str], list[str]]:
    """The bucket of each question of a run, from samples of the same model, and the names of the buckets in order.

    Args:
        run: The model before.
        folder: Of `closedbook sample`.
        n: Samples that make the buckets; None for all.

    Raises:
        RequestError: They are of another model, prompt, judge, split or manifest, or lack a question.
    """
    (samples,) = read_sample_runs([folder])
    stated, sampled = flat(run.head.settings), flat(samples.head.settings)
    for name in sorted(stated):
        if not name.startswith(("engine.", "listing.")) and stated[name] != sampled.get(name):
            raise RequestError(
                f"{folder} holds samples of another kind than {run.name}: {name} is {sampled.get(name)!r} and "
                f"{stated[name]!r}; name samples of the model before"
            )
    if missing := set(run.head.ids) - set(samples.head.ids):
        raise RequestError(f"{folder} lacks {len(missing)} of the {len(run.head.ids)} questions; sample more of them")
    n = at_most(samples, n)
    return buckets(samples.samples, n), bucket_names(n)


def _schema() -> Any:
    import pyarrow as pa

    gold = pa.struct([("text", pa.string()), ("log_prob", pa.float64()), ("tokens", pa.int32())])
    said = pa.struct([("text", pa.string()), ("probability", pa.float64()), ("reward", pa.float64())])
    return pa.schema([("id", pa.string()), ("golds", pa.list_(gold)), ("answers", pa.list_(said))])


def likelihood(request: Request, judging: JudgeSettings, progress: bool = True) -> Found:
    """Compute what the folder lacks, and grade it.

    Args:
        request: What is asked for.
        judging: The judge.
        progress: Show a bar on standard error.

    Raises:
        RequestError: The request cannot be carried out; the folder is as it was.
        WorkError: It ended early; all blocks before are kept, and the same call goes on.
    """
    name, style = asked_by(request.task)
    if style != "direct":
        raise RequestError(f"--task {request.task}: a chain of thought is no short answer; name {name}_dedup")
    if not 0 < request.least <= 1 or request.max_tokens < 1:
        raise RequestError("--least is above 0 and at most 1, and --max-tokens at least 1")
    questions = load_questions(name, request.split)[: request.limit]
    path = untrained(request.model, name, request.split, request.allow_contaminated)
    judge = make_judge(judging)
    judge.preflight()
    sampler = load_sampler(path)
    chat = uses_chat(sampler.tokenizer, request.chat)
    identity = engine_identity(model_digest(path), style, chat, None, **sampler.identity)
    settings = settings_of(identity, name, request.split, judge)
    settings["listing"] = {"least": request.least, "max_tokens": request.max_tokens}
    store = MassStore(request.folder)
    try:
        with alone(request.folder):
            store.begin(settings, [question.id for question in questions], 1)
            found = _fill(store, questions, Likelihood(sampler), chat, request, grading(judge, style), progress)
    except KeyboardInterrupt:
        raise WorkError(f"interrupted; the same command goes on from what is kept in {request.folder}") from None
    return Found(request.folder, [found[question.id] for question in questions])


def _fill(
    store: MassStore,
    questions: Sequence[Question],
    likely: Likelihood,
    chat: bool,
    request: Request,
    grade: Grade,
    progress: bool,
) -> Mapping[str, QuestionMass]:
    """Compute and grade, block by block, what is missing; all of it."""
    from tqdm import tqdm

    found = store.read()
    waiting = [q for q in questions if q.id not in found or any(said.reward is None for said in found[q.id].answers)]
    done = len(questions) - len(waiting)
    with tqdm(initial=done, total=len(questions), desc="listing", unit="question", disable=not progress) as bar:
        for at in range(0, len(waiting), BLOCK):
            block = waiting[at : at + BLOCK]
            new = [q for q in block if q.id not in found]
            for listed in _listed(likely, chat, new, request):
                found[listed.id] = listed
                bar.update()
            graded = _graded(block, found, grade)
            store.add(graded)
            found |= {question.id: question for question in graded}
            bar.update(len(block) - len(new))
    return found


def _listed(likely: Likelihood, chat: bool, questions: Sequence[Question], request: Request) -> Iterator[QuestionMass]:
    """The likely answers to questions, not graded yet, and the scores of their gold answers."""
    for at in range(0, len(questions), AT_ONCE):
        some = questions[at : at + AT_ONCE]
        prompts = encode_prompts(likely.tokenizer, some, "direct", chat, LONGEST_PROMPT)
        golds = likely.log_probs(prompts, [question.answers for question in some])
        listings = likely.likeliest(prompts, request.least, request.max_tokens)
        for question, scored, listing in zip(some, golds, listings, strict=True):
            said = tuple(Listed(text, probability, None) for text, probability in listing.texts().items())
            yield QuestionMass(question.id, tuple(scored), said)


def _graded(block: Sequence[Question], found: Mapping[str, QuestionMass], grade: Grade) -> list[QuestionMass]:
    """The questions with rewards of all answers that had none."""
    asked = [(q, said.text) for q in block for said in found[q.id].answers if said.reward is None]
    given = {(q.id, text): reward for (q, text), reward in zip(asked, grade(asked), strict=True)}
    return [
        QuestionMass(
            q.id,
            found[q.id].golds,
            tuple(said._replace(reward=given.get((q.id, said.text), said.reward)) for said in found[q.id].answers),
        )
        for q in block
    ]
