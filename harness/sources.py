"""Sources: the benchmarks as their authors publish them, read into Questions.

Each benchmark is described once, as data, in benchmarks.toml; a folder named by CLOSEDBOOK_BENCHMARKS may hold another
such file with benchmarks of one's own. Rows come from the Hugging Face hub, or from a mirror folder named by
CLOSEDBOOK_DATA, with the layout `<owner>__<name>/[<config>/]<split>.parquet`, or from a file beside the description,
which is a mirror of its own; all become one kind of data set and go through the same code after it.

    >>> read_source("worldfacts", "test").questions[0].benchmark
    'worldfacts'
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from closedbook.harness.errors import RequestError, SourceError, one_line
from closedbook.harness.files import read_jsonl, tasks_dir
from closedbook.harness.questions import Question, make_question, merge, question_key

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Benchmark", "Source", "benchmark", "benchmarks", "read_source"]

OWN = "CLOSEDBOOK_BENCHMARKS"
DESCRIPTIONS = "benchmarks.toml"
FIXED = {"name", "home"}  # by where an entry stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What is known of a benchmark before any row is read; the fields are those of benchmarks.toml.

    Attributes:
        home: Folder with its task files and manifest, and its rows where they are `bundled`.
        train: Split of the source from which train and validation are drawn.
        test: Split of the source that is test, or from which test is drawn when it equals `train`.
        rows: Rows of each split in the full data set; empty where a local file is all there is.
        sizes: Questions of each split of ours before deduplication.
        answers_format: How the answers' column holds them: a list, a JSON string of a list, or one plain text.
        repo, config: Data set on the hub.
        bundled: File in the home instead, .jsonl or .parquet, `{split}` in its name for the split.
        required: Columns that a usable row has filled.
        metadata: Our name of each column that is kept beside the question.
        licence_id: The hub's identifier of the licence: "other" where it has none, "unknown" where upstream states no
            licence for the data.
        inverse: Relations that state the fact of another one with subject and object exchanged.
        forms: How the questions on each relation read, `{}` for the subject, where they were made from forms.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    home: Path
    title: str
    train: str
    test: str
    sizes: Mapping[str, int]
    question: str
    answers: str
    answers_format: Literal["list", "json", "text"]
    licence: str
    licence_id: str = "other"
    homepage: str = ""
    citation: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
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
    def splits(self) -> tuple[str, ...]:
        """The splits of the source."""
        return tuple(dict.fromkeys((self.train, self.test)))

    @property
    def packaged(self) -> bool:
        """Whether it ships with the package, and is not one's own."""
        return self.home == tasks_dir()

    @property
    def remedy(self) -> str:
        """What to do where the source is not as described."""
        return (
            "use the data set as published"
            if self.packaged
            else f"correct it, or the entry in {self.home / DESCRIPTIONS}"
        )

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


def described(text: str, file: Path, home: Path) -> dict[str, Benchmark]:
    """The benchmarks that the text of a benchmarks.toml describes, by name, in its order.

    Args:
        text: The text.
        file: Where it stands, for messages.
        home: Folder of the benchmarks' tasks, manifests and bundled rows.

    Raises:
        RequestError: It is no TOML, or an entry is wrong: one line with its name, the field and what to do.
    """
    try:
        entries = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RequestError(f"{file} is no TOML: {one_line(error)}; correct it") from error
    return {name: _described(name, entry, file, home) for name, entry in entries.items()}


def _described(name: str, entry: Any, file: Path, home: Path) -> Benchmark:
    where = f"{file}: {name}"
    if not isinstance(entry, dict):
        raise RequestError(f"{where}: it stands in no table; write fields below a benchmark's name, such as [mine]")
    try:
        check_name(name)
        if fixed := FIXED & entry.keys():
            raise ValueError(f"{min(fixed)}: no such field; remove it")
        chosen = TypeAdapter(Benchmark).validate_python({**entry, "name": name, "home": home})
        if problem := next(_impossible(chosen), None):
            raise ValueError(problem)
    except ValueError as error:
        raise RequestError(f"{where}: {_explained(error)}") from None
    return chosen


def check_name(name: str) -> None:
    """Refuse what cannot open the name of a task, where an underscore ends it.

    Raises:
        ValueError: It holds other characters, or is what commands call every benchmark.
    """
    if not re.fullmatch("[a-z][a-z0-9]*", name) or name == "all":
        raise ValueError("that is no name for a benchmark; use lower-case letters and digits, and not `all`")


def _explained(error: ValueError) -> str:
    """The first thing that is wrong with an entry: field, problem, what to do."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        return (
            f"{where}: no such field; there are {', '.join(f.name for f in fields(Benchmark) if f.name not in FIXED)}"
        )
    if first["type"] == "missing":
        return f"{where}: is not stated; add it"
    return f"{where}: {first['msg']}; got {first['input']!r:.60}"


def _impossible(chosen: Benchmark) -> Iterator[str]:
    """What no source can be, as `field: why; what to do`."""
    parts = {"train", "validation"} | ({"test"} if chosen.partitioned else set())
    if bool(chosen.repo) == bool(chosen.bundled):
        yield "repo: a source is on the hub (repo) or in a file (bundled), one of the two; state the one that it is"
    if chosen.bundled and Path(chosen.bundled).suffix not in (".jsonl", ".parquet"):
        yield f"bundled: {chosen.bundled} is neither .jsonl nor .parquet; convert the file"
    if chosen.bundled and not chosen.partitioned and "{split}" not in chosen.bundled:
        yield "bundled: train and test would be one file; write {split} where their names differ"
    if chosen.repo and not chosen.rows:
        yield "rows: is not stated; add the rows of each split, so that a part of the data set is seen to be one"
    if chosen.rows and set(chosen.rows) != set(chosen.splits):
        yield f"rows: is of {', '.join(chosen.rows)}; state them of the source's splits {', '.join(chosen.splits)}"
    if set(chosen.sizes) != parts:
        said = "test is a part of the same split" if chosen.partitioned else "test is the whole of its split"
        yield f"sizes: is of {', '.join(chosen.sizes)}; state them of {', '.join(sorted(parts))}: {said}"
    if any(size < 0 for size in chosen.sizes.values()) or chosen.sizes.get("test") == 0:
        yield "sizes: one is below 0, or test has no question; count questions"


@cache
def packaged() -> dict[str, Benchmark]:
    """The benchmarks that ship with the package, by name."""
    file = Path(__file__).with_name(DESCRIPTIONS)
    return described(file.read_text(encoding="utf-8"), file, tasks_dir())


def own_home() -> Path | None:
    """The folder with benchmarks of one's own, if one is named."""
    named = os.environ.get(OWN)
    return Path(named).absolute() if named else None


def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name, one's own after those of the package; a process reads each description once.

    Raises:
        RequestError: The folder of one's own holds no benchmarks.toml, or a wrong one.
    """
    home = own_home()
    return packaged() | described_in(home) if home else packaged()


@cache
def described_in(home: Path) -> dict[str, Benchmark]:
    """The benchmarks of one's own that a folder describes, by name.

    Raises:
        RequestError: It holds no benchmarks.toml, or a wrong one, or one with a name that the package has.
    """
    file = home / DESCRIPTIONS
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{OWN}: cannot read {file}: {one_line(error)}; `closedbook benchmarks new` writes one; or unset it"
        ) from error
    own = described(text, file, home)
    if taken := own.keys() & packaged().keys():
        raise RequestError(f"{file}: {min(taken)}: the package has a benchmark of that name; choose another one")
    return own


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        RequestError: There is none.
    """
    try:
        return benchmarks()[name]
    except KeyError:
        hint = "" if own_home() else f"; {OWN}=FOLDER names your own"
        raise RequestError(f"no benchmark {name!r}; there are {', '.join(benchmarks())}{hint}") from None


def mirror_file(chosen: Benchmark, split: str) -> Path | None:
    """The local file that holds a split, or None when it comes from the hub."""
    if chosen.bundled:
        return chosen.home / chosen.bundled.replace("{split}", split)
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
    if split not in chosen.splits:
        raise RequestError(f"{chosen.name}: its source has no split {split!r}; there are {', '.join(chosen.splits)}")
    file = mirror_file(chosen, split)
    if file is not None and not file.is_file():
        advice = ("reinstall the package" if chosen.packaged else chosen.remedy) if chosen.bundled else _MIRROR_ADVICE
        raise SourceError(f"{chosen.name}: no file {file}; {advice}")
    where, advice = str(file or chosen.repo), "check the network, or set CLOSEDBOOK_DATA to a mirror"
    if file is not None:
        advice = "fetch it again" if chosen.packaged or chosen.repo else chosen.remedy
    try:
        rows = _loaded(chosen, split, file)
    except Exception as error:  # the loader raises many unrelated types for one cause: the source cannot be read
        raise SourceError(f"{chosen.name}: cannot read {where}, split {split}: {_reason(error)}; {advice}") from error
    if missing := chosen.columns - set(rows.column_names):
        wanted, found = ", ".join(sorted(missing)), ", ".join(rows.column_names)
        raise SourceError(f"{chosen.name}: {where} has no column {wanted}, only {found}; {chosen.remedy}")
    return rows.select_columns(sorted(chosen.columns))


def _loaded(chosen: Benchmark, split: str, file: Path | None) -> Dataset:
    import datasets

    if file is None:
        return datasets.load_dataset(chosen.repo, chosen.config, split=split)
    if file.suffix == ".jsonl":  # not by the loader, which takes a column of texts like 1921-05-04 for one of times
        if not (rows := list(read_jsonl(file, _mapping, "one object a line"))):
            raise ValueError("it holds no rows")
        return datasets.Dataset.from_list(rows)
    # by default a batch is as long as a row group, which for a file without rows is an error that says nothing
    return datasets.load_dataset("parquet", data_files={split: str(file)}, split=split, batch_size=1000)


def _mapping(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TypeError(f"{row!r:.40} is no object")
    return row


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
                f"{chosen.name}, split {split}, row {number}: {_reason(error)}; {chosen.remedy}"
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
