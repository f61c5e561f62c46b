"""Export: the questions of our splits as files that other evaluation suites read.

Three formats hold the same rows, in the order of the manifest: JSON Lines, parquet, and a folder in the layout of a
data set repository of the Hugging Face hub, with its card. The text comes from the user's own copy of the source; this
package has none to give away, worldfacts apart. What surprises: equal requests give equal bytes, and what stands at the
place is replaced only if it is an earlier export, unchanged as far as its format can tell.

    >>> json.loads(to_jsonl(load_questions("worldfacts", "test")).splitlines()[0])["benchmark"]
    'worldfacts'
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from closedbook.harness.data_card import data_card
from closedbook.harness.errors import RequestError, SourceError, one_line
from closedbook.harness.files import folder_when_whole, put, read_jsonl, resolved, tasks_dir, write_bytes
from closedbook.harness.manifests import DROPPED, SPLITS, Manifest, load_questions, read_manifest
from closedbook.harness.questions import Question, question_id
from closedbook.harness.sources import Benchmark, benchmark

if TYPE_CHECKING:
    from pyarrow import Schema

__all__ = ["FORMATS", "Export", "export"]

FORMATS = ("jsonl", "parquet", "hf")
"""What `export` can write: one file, or a folder as a data set repository of the hub."""
COLUMNS = ("id", "benchmark", "question", "answers")
CARD, LICENCE = "README.md", "LICENCE.md"
MARK = b"closedbook"  # key in the metadata of a parquet file, under which it says what it is
# JSON leaves these as they are, but some readers end a line at them
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        questions: How many of each split.
        manifest: Digest of the manifest that says which they are.
        sha256: Digest of each file, by its name in the folder.
    """

    benchmark: str
    format: str
    path: Path
    questions: Mapping[str, int]
    manifest: str
    sha256: Mapping[str, str]


def export(
    name: str, form: str = "jsonl", splits: Sequence[str] = (), out: Path | None = None, folder: Path | None = None
) -> Export:
    """Write splits of a benchmark, whole or not at all.

    Args:
        name: The benchmark.
        form: "jsonl" or "parquet", one file; "hf", a folder as a data set repository of the hub.
        splits: "train", "validation", "test" or "dropped"; unless named test, for a folder the first three.
        out: The file or folder to write; unless named one in the working folder.
        folder: Folder of the manifests, where they are not the committed ones.

    Raises:
        RequestError: No such benchmark, format or split, nothing to write, or something else stands at the place.
        SourceError: The source cannot be had, is not the one that the manifest pins, or holds what no file can.
        ManifestError: The manifest is missing or malformed.
        WorkError: The files cannot be written; what stood at the place is untouched.
    """
    chosen, wanted = benchmark(name), _wanted(form, splits)
    path = out or Path(_usual_name(name, form, wanted if splits or form != "hf" else ()))
    _require_place(path, form, name)
    manifest = read_manifest(name, folder)
    if empty := [split for split in wanted if not manifest.ids(split)]:
        raise RequestError(f"{name}: its manifest has no {empty[0]} question; there is nothing to export")
    asked = {split: load_questions(name, split, folder) for split in wanted}
    try:
        files = (
            repository(chosen, manifest, asked) if form == "hf" else {path.name: _file(form, chosen, manifest, asked)}
        )
    except (ValueError, TypeError, OverflowError) as error:  # a lone surrogate, a column of mixed types
        raise SourceError(
            f"{name}: its questions cannot be written ({one_line(error)}); use the data set as published"
        ) from error
    _write(path, form, files)
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    return Export(name, form, path, {split: len(rows) for split, rows in asked.items()}, manifest.digest, digests)


def _wanted(form: str, splits: Sequence[str]) -> tuple[str, ...]:
    """The splits to write, in the order of the manifests."""
    if form not in FORMATS:
        raise RequestError(f"--format is jsonl, parquet or hf, not {form!r}")
    every = (*SPLITS, DROPPED)
    for split in splits:
        if split not in every:
            raise RequestError(f"no split {split!r}; there are {', '.join(every)}")
    if not splits:
        return SPLITS if form == "hf" else ("test",)
    wanted = tuple(split for split in every if split in splits)
    if form != "hf" and len(wanted) > 1:
        raise RequestError(f"--format {form} writes one split, not {', '.join(wanted)}; name one, or choose hf")
    return wanted


def _usual_name(name: str, form: str, splits: Sequence[str]) -> str:
    stem = "-".join((name, *splits))
    return f"{stem}-hf" if form == "hf" else f"{stem}.{form}"


# --- what is written ---


def to_row(question: Question) -> dict[str, Any]:
    """A question as a row; metadata only where there is some."""
    row: dict[str, Any] = {column: getattr(question, column) for column in COLUMNS}
    row["answers"] = list(question.answers)
    return row | ({"metadata": [dict(of) for of in question.metadata]} if question.metadata else {})


def to_jsonl(questions: Sequence[Question]) -> bytes:
    """Questions as JSON Lines, in readable UTF-8.

    Raises:
        ValueError: A text holds a lone surrogate, or a number is none.
    """
    lines = (json.dumps(to_row(question), ensure_ascii=False, allow_nan=False) for question in questions)
    return "".join(line.translate(_LINE_ENDS) + "\n" for line in lines).encode()


def schema_of(chosen: Benchmark, questions: Sequence[Question]) -> Schema:
    """The columns in parquet; those of metadata have the types of the source, texts where it says nothing at all.

    Raises:
        ValueError, TypeError: A column of metadata is of more than one type.
    """
    import pyarrow as pa

    def type_of(name: str) -> Any:
        found = pa.infer_type([of[name] for question in questions for of in question.metadata])
        return pa.string() if pa.types.is_null(found) else found

    text = pa.string()
    fields = [("id", text), ("benchmark", text), ("question", text), ("answers", pa.list_(text))]
    if chosen.metadata:
        fields.append(("metadata", pa.list_(pa.struct([(name, type_of(name)) for name in chosen.metadata]))))
    return pa.schema(fields)


def to_parquet(questions: Sequence[Question], schema: Schema) -> bytes:
    """Questions as a parquet file with these columns.

    Raises:
        ValueError, TypeError, OverflowError: A text holds a lone surrogate, or a value is of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([to_row(question) for question in questions], schema), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _marked(schema: Schema, manifest: Manifest, split: str, **more: str) -> Schema:
    """The schema with what the file is, by which a later export knows it."""
    stated = {"benchmark": manifest.benchmark, "split": split, "manifest": manifest.digest, **more}
    return schema.with_metadata({MARK: json.dumps(stated)})


def _file(form: str, chosen: Benchmark, manifest: Manifest, asked: Mapping[str, Sequence[Question]]) -> bytes:
    ((split, questions),) = asked.items()
    if form == "jsonl":
        return to_jsonl(questions)
    return to_parquet(questions, _marked(schema_of(chosen, questions), manifest, split))


def data_file(split: str) -> str:
    """Where a data set repository holds a split."""
    return f"data/{split}-00000-of-00001.parquet"


def repository(chosen: Benchmark, manifest: Manifest, asked: Mapping[str, Sequence[Question]]) -> Files:
    """The files of a data set repository: the card, a parquet file a split, and the licence of what we ship."""
    card = data_card(chosen, manifest, {split: len(questions) for split, questions in asked.items()}).encode()
    files: Files = {CARD: card}
    if chosen.bundled and chosen.packaged:
        files[LICENCE] = (tasks_dir() / chosen.bundled).with_name(LICENCE).read_bytes()
    schema, digest = schema_of(chosen, list(chain.from_iterable(asked.values()))), hashlib.sha256(card).hexdigest()
    for split, questions in asked.items():
        files[data_file(split)] = to_parquet(questions, _marked(schema, manifest, split, card=digest))
    return files


def _write(path: Path, form: str, files: Files) -> None:
    if form != "hf":
        write_bytes(path, files[path.name])
        return
    with folder_when_whole(path) as aside:
        (aside / "data").mkdir()
        for name, data in files.items():
            put(aside / name, data)


# --- what may be replaced ---


def _require_place(path: Path, form: str, name: str) -> None:
    """Refuse a place where something stands that is no earlier export, or whose name promises another format."""
    if path.suffix in {f".{other}" for other in FORMATS} - {f".{form}"}:
        raise RequestError(f"{path} is named as another format, and --format is {form}; change one of them")
    whole = resolved(path)
    if form == "hf" and Path.cwd().is_relative_to(whole):
        raise RequestError(f"{path} is the folder that you are in; go out of it, or choose another --out")
    known = {"jsonl": _is_jsonl_export, "parquet": _is_parquet_export, "hf": _is_repository}[form]
    if path.exists() and not known(path, name):
        raise RequestError(
            f"{path} is there, and it is no {form} export of {name} as it was written; remove it, or choose another "
            "--out"
        )


def _is_jsonl_export(path: Path, name: str) -> bool:
    """Whether every line is a question of the benchmark: its id, a hash, says that it was not changed."""

    def ours(row: Any) -> bool:
        return (
            isinstance(row, dict)
            and [*row][: len(COLUMNS)] == [*COLUMNS]
            and not {*row} - {*COLUMNS, "metadata"}
            and row["benchmark"] == name
            and row["id"] == question_id(name, row["question"])
        )

    try:
        found = {ours(row) for row in read_jsonl(path, lambda row: row, "questions")} if path.is_file() else {False}
    except (RequestError, TypeError, AttributeError):
        return False
    return found == {True}


def _mark(path: Path) -> Mapping[str, Any]:
    """What a parquet file says it is; nothing where it is none, or somebody else's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stated = json.loads((pq.read_schema(path).metadata or {})[MARK]) if path.is_file() else {}
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _is_parquet_export(path: Path, name: str) -> bool:
    return _mark(path).get("benchmark") == name


def _is_repository(path: Path, name: str) -> bool:
    """Whether a folder holds what we write and nothing else, with the card that we wrote."""
    there = {file.relative_to(path).as_posix() for file in _below(path)}
    data = [path / data_file(split) for split in (*SPLITS, DROPPED) if data_file(split) in there]
    if not data or CARD not in there or not there <= {CARD, LICENCE, *map(data_file, (*SPLITS, DROPPED))}:
        return False
    digest = hashlib.sha256((path / CARD).read_bytes()).hexdigest()
    marks = [_mark(file) for file in data]
    return all(mark.get("benchmark") == name and mark.get("card") == digest for mark in marks)


def _below(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if not file.is_dir() or file.is_symlink())
