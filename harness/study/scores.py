"""The likelihood of answers that were sampled, under the model that said them: what "best of n by likelihood" needs.

Each different answer of a question is scored once and kept, so that a second analysis computes only what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from closedbook.harness.engines import load_sampler
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import alone, model_digest
from closedbook.harness.likelihood import Likelihood, Scored
from closedbook.harness.prompts import template_digest
from closedbook.harness.sample_store import Head, RecordStore
from closedbook.harness.samples import Sample
from closedbook.harness.sampling import encode_prompt
from closedbook.harness.study.analyses import SampleRun

AT_ONCE = 8  # questions that are scored and saved together

Scores = Mapping[str, Mapping[str, Scored]]
"""By question id and answer."""


class ScoreStore(RecordStore):
    """The scores of answers under one model and prompt; a row for some answers of a question."""

    file, records, command = "scores.json", "scores", "closedbook analyze baselines"

    def add(self, scores: Mapping[str, list[Scored]]) -> None:
        """Keep some scores, all of them or none.

        Raises:
            WorkError: They cannot be written.
        """
        rows = [{"id": id, "scores": [score._asdict() for score in some]} for id, some in scores.items()]
        self._keep(rows, _schema())

    def read(self) -> dict[str, dict[str, Scored]]:
        """The scores that are there.

        Raises:
            RequestError: A file cannot be read.
        """
        found: dict[str, dict[str, Scored]] = {}
        for row in self._rows(_schema()):
            found.setdefault(row["id"], {}).update({score["text"]: Scored(**score) for score in row["scores"]})
        return found


def _schema() -> Any:
    import pyarrow as pa

    score = pa.struct([("text", pa.string()), ("log_prob", pa.float64()), ("tokens", pa.int32())])
    return pa.schema([("id", pa.string()), ("scores", pa.list_(score))])


def scores_of(run: SampleRun, asked: Mapping[str, str], path: str, folder: Path, progress: bool = True) -> Scores:
    """The score of every answer of a run.

    Args:
        run: Samples of a model.
        asked: The text of each question.
        path: Folder or hub id of the same model.
        folder: Where scores are kept, in a folder of their own for each model and prompt.
        progress: Show a bar on standard error.

    Raises:
        RequestError: The samples are of another model, or not of short answers; or another analysis scores them now.
        WorkError: It ended early; what was scored is kept.
    """
    wanted = {"model": model_digest(path), "prompt": f"direct-{template_digest('direct')}"}
    for name, value in wanted.items():
        if run.head.settings.get(name) != value:
            raise RequestError(
                f"--model: {run.name} was sampled with {name} {run.head.settings.get(name)!r}, not {value!r}; name the "
                "model that was sampled, with the direct prompt"
            )
    chat = bool(run.head.settings["chat"])
    settings = {**wanted, "chat": chat}
    store = ScoreStore(folder / f"scores-{Head(settings, 1, ()).digest}")
    try:
        with alone(store.folder):  # two at once would write one file
            store.begin(settings, run.head.ids, 1)
            found = store.read()
            missing = {q.id: texts for q in run.samples if (texts := _lacking(found.get(q.id, {}), q.samples))}
            if missing:
                _fill(store, missing, asked, path, chat, progress)
                found = store.read()
    except KeyboardInterrupt:
        raise WorkError(f"interrupted; the same command goes on from what is kept in {store.folder}") from None
    return found


def _lacking(found: Mapping[str, Scored], samples: Iterable[Sample]) -> list[str]:
    return [text for text in dict.fromkeys(said.answer for said in samples) if text not in found]


def _fill(
    store: ScoreStore, missing: Mapping[str, list[str]], asked: Mapping[str, str], path: str, chat: bool, progress: bool
) -> None:
    from tqdm import tqdm

    likely, ids = Likelihood(load_sampler(path)), list(missing)
    with tqdm(total=len(ids), desc="scoring", unit="question", disable=not progress) as bar:
        for at in range(0, len(ids), AT_ONCE):
            some = ids[at : at + AT_ONCE]
            prompts = [encode_prompt(likely.tokenizer, asked[id], "direct", chat) for id in some]
            scores = likely.log_probs(prompts, [missing[id] for id in some])
            store.add(dict(zip(some, scores, strict=True)))
            bar.update(len(some))
