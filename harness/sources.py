"""Sources: the benchmarks as their authors publish them, read into Questions.

Each benchmark is described once, as data, in benchmarks.toml. Rows come from the Hugging Face hub, or from a mirror
folder named by CLOSEDBOOK_DATA, with the layout `<owner>__<name>/[<config>/]<split>.parquet`; both go through the same
call of `datasets.load_dataset` and the same code after it. A benchmark that ships with the package is a mirror of its
own.

    >>> read_source("worldfacts", "test").questions[0].benchmark
    'worldfacts'
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from closedbook.harness.errors import RequestError, SourceError, one_line
from closedbook.harness.files import tasks_dir
from closedbook.harness.questions import Question, make_question, merge, question_key

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What is known of a benchmark before any row is read; the fields are those of benchmarks.toml.

    Attributes:
        train: Split of the source from which train and validation are drawn.
        test: Split of the source that is test, or from which test is drawn when it equals `train`.
        rows: Rows of each split in the full data set on the hub.
        sizes: Questions of each split of ours before deduplication.
        answers_format: How the answers' column holds them: a list, a JSON string of a list, or one plain text.
        required: Columns that a usable row has filled.
        metadata: Our name of each column that is kept beside the question.
        licence_id: The hub's identifier of the licence; "unknown" where upstream states none for the data.
        inverse: Relations that state the fact of another one with subject and object exchanged.
        forms: How the questions on each relation read, `{}` for the subject, where they were made from forms.
    """

    name: str
    title: str
    train: str
    test: str
    rows: Mapping[str, int]
    sizes: Mapping[str, int]
    question: str
    answers: str
    answers_format: Literal["list", "json", "text"]
    licence: str
    licence_id: str
    homepage: str
    citation: str
    repo: str = ""
    config: str | None = None
    bundled: str = ""
    required: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    inverse: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)

    @property
    def partitioned(self) -> bool:
        """Whether one split of the source is parted at random into train, validation and test."""
        return self.train == self.test

    @property
    def columns(self) -> frozenset[str]:
        """Top-level columns that are read."""
        return frozenset(
            name.partition(".")[0] for name in (self.question, self.answers, *self.required, *self.metadata.values())
        )


@dataclass(frozen=True, slots=True)
class Source:
    """One split of a benchmark's source, read.

    Attributes:
        rows: Rows in the split.
        unusable: Rows left out because their question, their answers or a required column is empty.
        questions: Questions after merging rows that ask the same words.
    """

    benchmark: str
    split: str
    rows: int
    unusable: int
    questions: tuple[Question, ...]

    @property
    def merged(self) -> int:
        """Rows that became part of an earlier row's question."""
        return self.rows - self.unusable - len(self.questions)


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name, in the order of benchmarks.toml."""
    described = tomllib.loads((Path(__file__).parent / "benchmarks.toml").read_text(encoding="utf-8"))
    return {name: Benchmark(name=name, **entry) for name, entry in described.items()}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        RequestError: There is none.
    """
    try:
        return benchmarks()[name]
    except KeyError:
        raise RequestError(f"no benchmark {name!r}; there are {', '.join(benchmarks())}") from None


def mirror_file(chosen: Benchmark, split: str) -> Path | None:
    """The local file that holds a split, or None when it comes from the hub."""
    if chosen.bundled:
        return tasks_dir() / chosen.bundled.format(split=split)
    root = os.environ.get("CLOSEDBOOK_DATA")
    if not root:
        return None
    return Path(root) / chosen.repo.replace("/", "__") / (chosen.config or "") / f"{split}.parquet"


_MIRROR_ADVICE = (
    "CLOSEDBOOK_DATA names a folder with <owner>__<name>/[<config>/]<split>.parquet; unset it and the hub is read"
)


def read_rows(chosen: Benchmark, split: str) -> Dataset:
    """One split of the source as a data set, with the columns that the description names.

    Raises:
        RequestError: The source has no such split.
        SourceError: The source cannot be had, is empty, or lacks a column.
    """
    if split not in chosen.rows:
        raise RequestError(f"{chosen.name}: its source has no split {split!r}; there are {', '.join(chosen.rows)}")
    file = mirror_file(chosen, split)
    if file is not None and not file.is_file():
        advice = "reinstall the package" if chosen.bundled else _MIRROR_ADVICE
        raise SourceError(f"{chosen.name}: no file {file}; {advice}")
    import datasets

    where, advice = chosen.repo, "check the network, or set CLOSEDBOOK_DATA to a mirror"
    arguments: dict[str, Any] = {"path": chosen.repo, "name": chosen.config}
    if file is not None:
        where, advice = str(file), "fetch it again"
        # by default a batch is as long as a row group, which for a file without rows is an error that says nothing
        kind: dict[str, Any] = {"path": "parquet", "batch_size": 1000}
        arguments = ({"path": "json"} if file.suffix == ".jsonl" else kind) | {"data_files": {split: where}}
    try:
        rows = datasets.load_dataset(**arguments, split=split)
    except Exception as error:  # the loader raises many unrelated types for one cause: the source cannot be read
        raise SourceError(f"{chosen.name}: cannot read {where}, split {split}: {_reason(error)}; {advice}") from error
    if missing := chosen.columns - set(rows.column_names):
        wanted, found = ", ".join(sorted(missing)), ", ".join(rows.column_names)
        raise SourceError(f"{chosen.name}: {where} has no column {wanted}, only {found}; use the data set as published")
    return rows.select_columns(sorted(chosen.columns))


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "DatasetGenerationError":  # says nothing but that there is a cause
        error = error.__cause__ or error
    return f"{type(error).__name__}: {one_line(error)}"


def _field(row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for part in column.split("."):
        value = None if value is None else value[part]
    return value


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value or ""


def _answers(value: Any, answers_format: str) -> list[str]:
    if value is None or answers_format == "text":
        return [_text(value)]
    answers = json.loads(value) if answers_format == "json" else value
    if not isinstance(answers, list):
        raise TypeError(f"{value!r} is not a list of answers")
    return [_text(answer) for answer in answers]


def question_from_row(chosen: Benchmark, row: Mapping[str, Any]) -> Question | None:
    """The Question that a row asks, or None where its question, its answers or a required column is empty.

    Raises:
        KeyError, TypeError, ValueError: A value is not of the form that benchmarks.toml describes.
    """
    text = _text(_field(row, chosen.question))
    answers = _answers(_field(row, chosen.answers), chosen.answers_format)
    filled = all(_text(_field(row, column)).strip() for column in chosen.required)
    metadata = {name: _field(row, column) for name, column in chosen.metadata.items()}
    question = make_question(chosen.name, text, answers, metadata or None)
    return question if filled and question_key(text) and question.answers else None


def source_from_rows(chosen: Benchmark, split: str, rows: Iterable[Mapping[str, Any]]) -> Source:
    """Questions of the rows, merged, with the counts that a manifest records.

    Raises:
        SourceError: A row holds a value of another type than benchmarks.toml describes.
    """
    asked = []
    for number, row in enumerate(rows):
        try:
            asked.append(question_from_row(chosen, row))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise SourceError(
                f"{chosen.name}, split {split}, row {number}: {_reason(error)}; use the data set as published"
            ) from error
    usable = [question for question in asked if question is not None]
    return Source(chosen.name, split, len(asked), len(asked) - len(usable), tuple(merge(usable)))


def read_source(name: str, split: str) -> Source:
    """One split of a benchmark's source, read and merged.

    Raises:
        RequestError: No such benchmark, or no such split.
        SourceError: The source cannot be had, is empty, lacks a column, or holds values of another type.
    """
    chosen = benchmark(name)
    return source_from_rows(chosen, split, read_rows(chosen, split).to_list())
