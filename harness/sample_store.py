"""The folder in which samples are kept: a head with all that they depend on, and a parquet file for each block of work.

    runs/sample-base/
        samples.json      what was sampled, how, and how many samples of how many questions were asked for
        000000.parquet    id, text, answer, reward, draws: a row for each text of a question

What would surprise:

- A question may stand in several files: samples that were drawn later, or grades that could not be had before. Reading
  joins them, so a folder in which a file is missing lacks those samples and nothing else; drawing makes them again.
- The number of samples is no part of what they depend on: sample 7 of a question is the same whether 8 or 512 are
  drawn.
- Neither is the judge, as long as nothing is graded: samples may be drawn today and judged another day.
- Nor is a shard, which is a choice of questions; but its folder is that shard's and no other one's, so that processes
  that were given one folder by mistake do not write into it together.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.fields import difference
from closedbook.harness.files import renamed_when_whole, write_text
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.samples import QuestionSamples, Sample, joined
from closedbook.harness.shards import Sharding, read_sharding

VERSION = 1
MAY_FAIL: float = JudgeSettings.model_fields["max_failures"].default  # share of questions without any verdict
HEAD = "samples.json"


class Head(NamedTuple):
    """What a folder of samples is, or of other records of questions.

    Attributes:
        settings: All that a record and its grade depend on, besides the question.
        n: Records of each question that were asked for last.
        ids: Of these questions.
        sharding: Of which questions they are a shard; None where they are all.
    """

    settings: Mapping[str, Any]
    n: int
    ids: tuple[str, ...]
    sharding: Sharding | None = None

    @property
    def digest(self) -> str:
        """The identity of the settings: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


class RecordStore:
    """A folder of records of questions that were made in one way: a head, and a file for each block of work.

    Args:
        folder: It need not be there.

    Attributes:
        file: Name of the head.
        records: What is kept, as messages name it.
        command: What writes the folder.
    """

    file: ClassVar[str]
    records: ClassVar[str]
    command: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, settings: Mapping[str, Any], ids: Sequence[str], n: int, sharding: Sharding | None = None) -> None:
        """Ask for n records of each of some questions; what is there of the same settings stays.

        Args:
            settings: As JSON has them; `judge` is None where nothing is graded.
            ids: Of the questions.
            n: Records of each.
            sharding: Of which questions they are a shard; None where they are all.

        Raises:
            RequestError: The folder holds records of other settings or of another shard, or other files.
            WorkError: It cannot be written.
        """
        self.require(settings, sharding)
        head = Head(settings, n, tuple(ids))
        whole = {"version": VERSION, "digest": head.digest, "settings": settings, "n": n, "ids": head.ids}
        if sharding:
            whole["shard"] = sharding.stated()
        write_text(self.folder / self.file, json.dumps(whole, indent=2) + "\n")

    @property
    def begun(self) -> bool:
        """Whether the folder is one of records."""
        return (self.folder / self.file).exists()

    def require(self, settings: Mapping[str, Any], sharding: Sharding | None = None) -> None:
        """See to it that records of such settings can be added to the folder.

        Raises:
            RequestError: It holds records of other settings or of another shard, or other files.
        """
        if self.begun:
            self._require_same(settings, sharding)
        elif self.folder.is_dir() and any(path.suffix != ".tmp" for path in self.folder.iterdir()):
            raise RequestError(f"{self.folder} holds other files; choose another folder")

    def head(self) -> Head:
        """What the folder holds.

        Raises:
            RequestError: It has no such file, or one of another version.
        """
        path, wanted = self.folder / self.file, f"name a folder that `{self.command}` wrote"
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            if stated["version"] == VERSION:
                sharding = read_sharding(stated["shard"]) if "shard" in stated else None
                head = Head(dict(stated["settings"]), int(stated["n"]), tuple(map(str, stated["ids"])), sharding)
                whole = sharding is None or sharding.shard.part(sharding.every) == head.ids
                if whole and stated["digest"] == head.digest:
                    return head
        except (OSError, ValueError) as error:
            raise RequestError(f"cannot read {path}: {one_line(error)}; {wanted}") from error
        except (KeyError, TypeError):
            pass
        raise RequestError(f"{path} was changed, or is of another version; {wanted}")

    def _keep(self, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
        """Write rows into a file of their own, all of them or none; no rows, no file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if rows:
            number = 1 + max((int(path.stem) for path in self._parts()), default=-1)
            with renamed_when_whole(self.folder / f"{number:06d}.parquet") as aside:
                pq.write_table(pa.Table.from_pylist(list(rows), schema), aside)

    def _parts(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.parquet") if path.stem.isdecimal())

    def _rows(self, schema: Any) -> Iterator[Mapping[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self._parts():
            try:
                table = pq.read_table(path, columns=schema.names)
                if table.schema != schema:
                    raise ValueError("its columns are others")
                yield from table.to_pylist()
            except (OSError, pa.ArrowException, KeyError, ValueError) as error:
                raise RequestError(
                    f"cannot read {path}: {one_line(error)}; remove it, and the same `{self.command}` draws what it "
                    "held"
                ) from error

    def _require_same(self, now: Mapping[str, Any], sharding: Sharding | None) -> None:
        """Refuse other settings by the first one that differs; a judge may join records that have none."""
        head = self.head()
        old, new = dict(head.settings), json.loads(json.dumps(now))
        if old.get("judge") is None:
            old["judge"] = new.get("judge")
        for settings, of in ((old, head.sharding), (new, sharding)):
            settings["shard"] = str(of.shard) if of else None
        if found := difference(old, new):
            raise RequestError(
                f"{self.folder} holds {self.records} of other settings: {found.name} was {found.first!r} and is "
                f"{found.second!r}; choose another folder"
            )


class SampleStore(RecordStore):
    """The samples of one model, drawn in one way and graded by one judge."""

    file, records, command = HEAD, "samples", "closedbook sample"

    def add(self, lines: Iterable[QuestionSamples]) -> None:
        """Keep some samples, all of them or none.

        Raises:
            WorkError: They cannot be written.
        """
        rows = [
            {
                "id": line.id,
                "text": said.text,
                "answer": said.answer,
                "reward": said.reward,
                "draws": list(said.draws),
            }
            for line in lines
            for said in line.samples
        ]
        self._keep(rows, _schema())

    def read(self, n: int | None = None) -> dict[str, QuestionSamples]:
        """The samples that are there, by question id: every draw below n, with the last reward that is known.

        Args:
            n: Samples of each question to look at; None for all.

        Raises:
            RequestError: A file cannot be read.
        """
        found: defaultdict[str, list[QuestionSamples]] = defaultdict(list)
        for row in self._rows(_schema()):
            said = Sample(row["text"], row["answer"], row["reward"], tuple(row["draws"]))
            found[row["id"]].append(QuestionSamples(row["id"], (said,)))
        return {id: whole for id, lines in found.items() if (whole := joined(lines, n)).samples}

    def whole(self, n: int | None = None) -> list[QuestionSamples]:
        """All samples that were asked for, by question id, for an analysis: with no gap, and graded.

        Args:
            n: Only the first n of each question; None for as many as were asked for.

        Raises:
            RequestError: More are wanted than were asked for, some are missing, or nothing is graded.
        """
        head = self.head()
        wanted = head.n if n is None else n
        if wanted > head.n:
            raise RequestError(
                f"{self.folder} holds {head.n} samples of each question, not {wanted}; draw more with -n"
            )
        if head.settings.get("judge") is None:
            raise RequestError(f"{self.folder} holds samples without verdicts; run `closedbook sample` with a judge")
        return self.complete(wanted)

    def complete(self, wanted: int | None = None) -> list[QuestionSamples]:
        """All samples that were asked for, by question id, with no gap, and graded if there is a judge.

        Args:
            wanted: Only so many of each question; None for as many as were asked for.

        Raises:
            RequestError: Some are missing, or a judge is named and hardly anything is graded.
        """
        head = self.head()
        wanted = head.n if wanted is None else wanted
        again = "the same `closedbook sample` again"
        if head.sharding:
            again += f", with --shard {head.sharding.shard} and --out {self.folder},"
        found = self.read(wanted)
        short = [id for id in head.ids if id not in found or found[id].drawn < wanted]
        if short:
            raise RequestError(
                f"{self.folder}: {len(short)} of {len(head.ids)} questions have fewer than {wanted} samples; {again} "
                "draws what is missing"
            )
        twice = [id for id in head.ids if found[id].doubled]
        if twice:
            raise RequestError(
                f"{self.folder}: {len(twice)} questions have two texts for one sample, as when two runs wrote at once; "
                "draw into another folder"
            )
        ungraded = sum(found[id].failed == found[id].drawn for id in head.ids)
        if head.settings.get("judge") is not None and ungraded > max(1, MAY_FAIL * len(head.ids)):
            raise RequestError(
                f"{self.folder}: {ungraded} of {len(head.ids)} questions have no verdict on any sample; {again} "
                "grades them"
            )
        return [found[id] for id in sorted(head.ids)]


def _schema() -> Any:
    import pyarrow as pa

    said = ("id", pa.string()), ("text", pa.string()), ("answer", pa.string())
    return pa.schema([*said, ("reward", pa.float64()), ("draws", pa.list_(pa.int32()))])
