"""Rows of somebody's own training set: read from JSON Lines, CSV, parquet or the hub, and written again untouched.

A file is read more than once (to check it, to compare it, to filter it) and never held. What surprises: a row that is
kept is copied as it stands in the file, not parsed and written anew, so that quotes, order and spacing stay; only
blank lines of a JSON Lines file are left out.

    >>> row_of(7, {"prompt": "who wrote Hamlet?", "golds": ["Shakespeare"]}, Columns("prompt", "golds"))
    Row(number=7, id='7', question='who wrote Hamlet?', answers=('Shakespeare',), skipped='', cut=False)
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.errors import ClosedbookError, RequestError, one_line
from closedbook.harness.files import renamed_when_whole, written_aside
from closedbook.harness.questions import question_key

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

QUESTION_COLUMNS = ("question", "prompt", "instruction", "problem", "input", "query")
ANSWER_COLUMNS = (
    "answer", "answers", "output", "response", "completion", "solution", "target", "gold", "golds",
)  # fmt: skip
ANSWER_FIELDS = ("text", "value", "aliases")  # of an answer that is an object, as in SQuAD and TriviaQA
LONGEST = 2_000  # characters of a question or an answer that are compared; the test questions have a tenth of that
MOST = 1_000  # answers of a row that are compared
LONGEST_CELL = 1 << 28  # characters of a CSV cell: more is a quote that was never closed
BATCH = 8_192  # rows of a parquet file that are held at once
CHUNK = 2_000  # rows that are compared, saved and lost together

Record = Mapping[str, Any]


class Columns(NamedTuple):
    """The columns that are read; without `answer` rows are compared by words only, without `id` they are numbered."""

    question: str
    answer: str | None = None
    id: str | None = None

    @property
    def named(self) -> list[str]:
        """Those that are there."""
        return [name for name in self if name is not None]


class Row(NamedTuple):
    """What is compared of one row.

    Attributes:
        number: Its place in the file, from 1.
        skipped: Why it cannot be compared; empty where it can.
        cut: Whether only the beginning is compared.
    """

    number: int
    id: str
    question: str
    answers: tuple[str, ...]
    skipped: str = ""
    cut: bool = False


class Survey(NamedTuple):
    """What was found when a file was read for the first time."""

    rows: int
    duplicate_ids: int


class Format(NamedTuple):
    """How one kind of file is read and written.

    Attributes:
        names: Columns of a file.
        records: Its rows, with the columns named or with all of them.
        keep: Copies a file without the rows whose numbers are marked.
    """

    names: Callable[[Path], list[str]]
    records: Callable[[Path, Sequence[str]], Iterator[Record]]
    keep: Callable[[Path, Path, bytearray], None]


def answers_in(value: Any) -> Iterator[str]:
    """All texts of an answer cell: a text, a number, a date, a list, a JSON list in a text, an object that holds texts.

    None of a cell that says nothing: an empty text, or NaN, which is how tables call a cell that is missing.
    """
    if isinstance(value, str) and value.lstrip().startswith("[") and (inner := _json_list(value)) is not None:
        value = inner
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, int | float | Decimal) and value == value:
        yield str(value)
    elif isinstance(value, date):
        yield str(value).removesuffix(" 00:00:00")
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(answers_in, value))
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(answers_in(value[name]) for name in ANSWER_FIELDS if name in value)


def _json_list(text: str) -> list[Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def row_of(number: int, record: Record, columns: Columns) -> Row:
    """What is compared of a record, cut to a length that takes no time to compare."""
    name = record.get(columns.id) if columns.id else None
    known = str(number) if name is None or name == "" else str(name)
    asked = record.get(columns.question)
    if asked is not None and not isinstance(asked, str):
        return Row(number, known, "", (), "the question is no text")
    text = (asked or "").strip()
    if not question_key(text[:LONGEST]):
        return Row(number, known, "", (), "no question")
    every = list(islice(answers_in(record.get(columns.answer)), MOST + 1)) if columns.answer else []
    cut = len(text) > LONGEST or len(every) > MOST or any(len(answer) > LONGEST for answer in every)
    return Row(number, known, text[:LONGEST], tuple(answer[:LONGEST] for answer in every[:MOST]), cut=cut)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, ends included; they end at a newline only.

    Raises:
        RequestError: The file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise RequestError(f"{path}, line {number}: it is not UTF-8; convert the file") from error
    except OSError as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; name a file that can be read") from error


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in _lines(path) if line.strip("\ufeff \t\r\n"))


def _json_records(path: Path, names: Sequence[str] = ()) -> Iterator[Record]:
    for number, line in _filled_lines(path):
        try:
            record = json.loads(line.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path}, line {number}: it is no JSON; give one object a line") from error
        if not isinstance(record, dict):
            raise RequestError(f"{path}, line {number}: it is no object; give one object a line")
        yield record


def _json_names(path: Path) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(_json_records(path))))  # a late row may have a key of its own


def _keep_json(path: Path, out: Path, marked: bytearray) -> None:
    with written_aside(out) as file:
        for number, (_, line) in enumerate(_filled_lines(path), start=1):
            if not marked[number]:
                file.write(line)


class CsvRecord(NamedTuple):
    """A row of a CSV file: as it stands, and its cells."""

    raw: str
    cells: list[str]
    line: int


def _csv_records(path: Path) -> Iterator[CsvRecord]:
    """Rows, the head first; blank lines are skipped.

    Raises:
        RequestError: A line is not UTF-8, holds a NUL or an open quote, or has more or fewer cells than the head.
    """
    csv.field_size_limit(LONGEST_CELL)
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for number, line in _lines(path):
            if "\0" in line:
                raise RequestError(f"{path}, line {number}: it holds a NUL character; remove it")
            taken.append(line)
            yield line.removeprefix("\ufeff") if number == 1 else line

    reader, width = csv.reader(lines(), strict=True), 0
    try:
        for cells in reader:
            if cells:
                width = width or len(cells)
                if len(cells) != width:
                    raise RequestError(
                        f"{path}, line {reader.line_num}: it has {len(cells)} cells, the head has {width}; quote cells "
                        "that hold a comma"
                    )
                yield CsvRecord("".join(taken), cells, reader.line_num)
            taken.clear()
    except csv.Error as error:
        raise RequestError(f"{path}, line {reader.line_num}: it is no CSV ({error}); check its quotes") from error


def _csv_names(path: Path) -> list[str]:
    return next((record.cells for record in _csv_records(path)), [])


def _csv_rows(path: Path, names: Sequence[str] = ()) -> Iterator[Record]:
    records = _csv_records(path)
    head = next(records).cells
    return (dict(zip(head, record.cells, strict=True)) for record in records)


def _keep_csv(path: Path, out: Path, marked: bytearray) -> None:
    with written_aside(out) as file:
        for number, record in enumerate(_csv_records(path)):  # the head is number 0, which is never marked
            if not marked[number]:
                file.write(record.raw)


@contextmanager
def _parquet(path: Path) -> Iterator[ParquetFile]:
    """An open parquet file.

    Raises:
        RequestError: It is none, or it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; name a whole parquet file") from error


def _parquet_names(path: Path) -> list[str]:
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def _batches(path: Path, names: Sequence[str] = ()) -> Iterator[RecordBatch]:
    with _parquet(path) as file:
        yield from file.iter_batches(BATCH, columns=list(names) or None)


def _parquet_records(path: Path, names: Sequence[str] = ()) -> Iterator[Record]:
    return chain.from_iterable(batch.to_pylist() for batch in _batches(path, names))


def _keep_parquet(path: Path, out: Path, marked: bytearray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _parquet(path) as file:
        schema = file.schema_arrow
    with renamed_when_whole(out) as aside, pq.ParquetWriter(aside, schema) as kept:
        start = 1
        for batch in _batches(path):
            wanted = pa.array([not mark for mark in marked[start : start + len(batch)]], pa.bool_())
            kept.write_batch(batch.filter(wanted))
            start += len(batch)


FORMATS = {
    ".jsonl": Format(_json_names, _json_records, _keep_json),
    ".csv": Format(_csv_names, _csv_rows, _keep_csv),
    ".parquet": Format(_parquet_names, _parquet_records, _keep_parquet),
}


def format_of(path: Path) -> Format:
    """How a file is read, by the end of its name.

    Raises:
        RequestError: It is no file, or of no known kind.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file; name a {', '.join(FORMATS)} file, or a hub id owner/name")
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"{path}: it is none of {', '.join(FORMATS)}; convert it to one of them")
    return FORMATS[path.suffix.lower()]


def require_readable(path: Path) -> None:
    """See to it that a file can be read, as far as its name tells.

    Raises:
        RequestError: It is no file, or of no known kind.
    """
    format_of(path)


def choose_columns(path: Path, question: str | None, answer: str | None, id_: str | None) -> Columns:
    """The columns to read: those that are stated, else the first of the usual names that is there.

    Raises:
        RequestError: The file holds no rows, or lacks a column; the message names the columns there are.
    """
    there = format_of(path).names(path)
    if not there:
        raise RequestError(f"{path} holds no rows; name a file of training rows")
    for option, name in (("question", question), ("answer", answer), ("id", id_)):
        if name is not None and name not in there:
            raise RequestError(f"{path} has no column {name!r}; choose --{option}-column among {', '.join(there)}")
    asked = question or next((name for name in QUESTION_COLUMNS if name in there), None)
    if asked is None:
        raise RequestError(f"{path} has no column of questions; choose --question-column among {', '.join(there)}")
    return Columns(asked, answer or next((name for name in ANSWER_COLUMNS if name in there), None), id_)


def read_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """All rows of a file, in order.

    Raises:
        RequestError: The file cannot be read, or a line is malformed; the message names the line.
    """
    records = format_of(path).records(path, columns.named)
    return (row_of(number, record, columns) for number, record in enumerate(records, start=1))


def chunks_of(rows: int) -> int:
    """How many chunks so many rows make."""
    return -(-rows // CHUNK)


def read_chunks(path: Path, columns: Columns, wanted: Collection[int]) -> Iterator[tuple[int, list[Row]]]:
    """The chunks of these numbers, counted from 0, in order; the last one of a file may be shorter.

    Raises:
        RequestError: The file cannot be read, or a line is malformed; the message names the line.
    """
    rows, numbers = read_rows(path, columns), frozenset(wanted)
    for at in range(max(numbers, default=-1) + 1):
        chunk = list(islice(rows, CHUNK))
        if chunk and at in numbers:
            yield at, chunk


def survey(path: Path, columns: Columns) -> Survey:
    """Read a file once, so that a malformed line is found before any work is done.

    Raises:
        RequestError: There are no rows, no row has a question, or a line is malformed.
    """
    ids = array("q")  # hashes: the ids of a million rows would take a hundred megabytes
    rows, asked = 0, False
    for row in read_rows(path, columns):
        rows, asked = rows + 1, asked or not row.skipped
        if columns.id:
            ids.append(hash(row.id))
    if not asked:
        why = f"no row with a question in column {columns.question!r}" if rows else "no rows"
        there = ", ".join(format_of(path).names(path))
        raise RequestError(f"{path} holds {why}; name a file of training rows (its columns: {there})")
    return Survey(rows, len(ids) - len(set(ids)))


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        RequestError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; name a file that can be read") from error


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class HubSet:
    """One split of a data set on the Hugging Face hub."""

    repo: str
    config: str | None = None
    split: str = "train"

    @property
    def named(self) -> str:
        """The data set, as messages name it."""
        return f"{self.repo}{f', config {self.config}' if self.config else ''}, split {self.split}"


def is_hub_id(train: str) -> bool:
    """Whether a name that is no path can be a data set's: `owner/name`, without the end of a file's name."""
    return bool(_HUB_ID.fullmatch(train)) and not Path(train).exists() and Path(train).suffix.lower() not in FORMATS


def spool(records: Iterable[Record], path: Path) -> None:
    """Write records as JSON Lines, whole or not at all; what JSON does not know becomes text."""
    with written_aside(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")


def fetched(hub: HubSet, folder: Path) -> Path:
    """The rows of a hub data set as JSON Lines in a folder, streamed there unless they lie there already.

    The file is named by the commit on the hub, so that a rerun reads what the first run read or notices the change.

    Raises:
        RequestError: The hub or the data set cannot be reached, or it has no such configuration or split.
        WorkError: The rows cannot be written.
    """
    import datasets
    from huggingface_hub import HfApi

    try:
        revision = HfApi().dataset_info(hub.repo).sha
        name = hashlib.sha256(repr((hub, revision)).encode()).hexdigest()[:16]
        path = folder / f"hub-{name}.jsonl"
        if not path.exists():
            rows = datasets.load_dataset(hub.repo, hub.config, split=hub.split, revision=revision, streaming=True)
            spool(rows, path)
    except ClosedbookError:
        raise
    except Exception as error:  # the hub's libraries raise many unrelated types for one cause: it cannot be had
        raise RequestError(
            f"cannot read {hub.named} from the hub: {one_line(error)}; name a file, or owner/name with --train-config "
            "and --train-split"
        ) from error
    return path
