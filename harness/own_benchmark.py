"""`closedbook benchmarks new`: from a file of questions and answers to a benchmark of one's own.

It lays down what the package has for each of its own benchmarks: an entry in benchmarks.toml, a task YAML with its
chain-of-thought twin, and the rows. The base that those YAMLs share is copied beside them, because `include` knows no
place but the YAML's own folder or an absolute path, which would hold on one machine alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.dedup.own_rows import choose_columns, format_of
from closedbook.harness.errors import RequestError
from closedbook.harness.files import alone, renamed_when_whole, tasks_dir, write_text
from closedbook.harness.sources import (
    DESCRIPTIONS,
    Source,
    check_name,
    described,
    described_in,
    packaged,
    read_rows,
    source_from_rows,
)
from closedbook.harness.text import storable

BASES = ("_direct_yaml", "_cot_yaml")
NOT_STATED = "not stated"
OPENING = "# Benchmarks of our own, in the form of those of closedbook; its docs/own_benchmark.md has the fields.\n"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        name: Of the benchmark: lower-case letters and digits.
        data: A .jsonl or .parquet file with a question a row.
        home: Folder of one's own benchmarks.
        question, answer: Columns; the usual names are tried where none is stated.
        licence: Of the questions; NOT_STATED where there is none.
        title: The benchmark's name for people.
    """

    name: str
    data: Path
    home: Path
    question: str | None
    answer: str | None
    licence: str
    title: str


def new_benchmark(request: Request) -> Source:
    """Write a benchmark's files and return its questions, of which two fifths become test and a tenth validation.

    Raises:
        RequestError: The file cannot be read, a column is missing, the name is taken, or something stands where a file
            would be written; nothing is written then.
        WorkError: A file cannot be written.
    """
    name, home = request.name, request.home
    try:
        check_name(name)
    except ValueError as error:
        raise RequestError(f"{name}: {error}") from None
    _require_free(request)
    entry = _entry(request)
    source = _source(request, entry)
    entry["sizes"] = _sizes(len(source.questions))
    with alone(home):  # of two at once the second would write the descriptions without the first one's
        _require_free(request)
        try:
            _write(request, entry)
        except BaseException:
            for path in _files(request):  # or the same command would find them there
                path.unlink(missing_ok=True)
            raise
    described_in.cache_clear()
    return source


def _tasks(request: Request) -> dict[Path, str]:
    """The style of each task file."""
    return {request.home / f"{request.name}_dedup{style}.yaml": style for style in ("", "_cot")}


def _rows(request: Request) -> Path:
    return request.home / request.name / f"test{request.data.suffix}"


def _files(request: Request) -> tuple[Path, ...]:
    """What is the benchmark's alone."""
    return (_rows(request), *_tasks(request))


def _require_free(request: Request) -> None:
    file = request.home / DESCRIPTIONS
    described_in.cache_clear()
    if request.name in packaged() or (file.exists() and request.name in described_in(request.home)):
        raise RequestError(f"there is a benchmark {request.name} already; choose another name")
    if taken := next((path for path in _files(request) if path.exists()), None):
        raise RequestError(f"{taken} is there already; choose another name, or remove it")


def _write(request: Request, entry: Mapping[str, Any]) -> None:
    """All files, the description last: until then there is no such benchmark."""
    home, file = request.home, request.home / DESCRIPTIONS
    for path, style in _tasks(request).items():
        write_text(path, _task(request.name, style))
    for base in BASES:
        if not (home / base).exists():
            write_text(home / base, (tasks_dir() / base).read_text(encoding="utf-8"))
    with renamed_when_whole(_rows(request)) as aside:
        shutil.copyfile(request.data, aside)
    before = file.read_text(encoding="utf-8") if file.exists() else OPENING
    write_text(file, f"{before}\n{_toml(request.name, entry)}")


def _task(name: str, style: str) -> str:
    base = BASES[style == "_cot"]
    return f"include: {base}\ntask: {name}_dedup{style}\ndataset_kwargs:\n  benchmark: {name}\n"


def _entry(request: Request) -> dict[str, Any]:
    """The fields of benchmarks.toml, with sizes of some kind."""
    columns = choose_columns(request.data, request.question, request.answer, None)
    if columns.answer is None:
        there = ", ".join(format_of(request.data).names(request.data))
        raise RequestError(f"{request.data} has no column of answers; choose --answer-column among {there}")
    return {
        "title": request.title,
        "bundled": f"{request.name}/{{split}}{request.data.suffix}",
        "train": "test",
        "test": "test",
        "sizes": _sizes(1),
        "question": columns.question,
        "answers": columns.answer,
        "answers_format": _answers_format(request.data, columns.answer),
        "licence": request.licence,
        "licence_id": "unknown" if request.licence == NOT_STATED else "other",
        "homepage": "",
        "citation": "",
    }


def _answers_format(data: Path, column: str) -> str:
    """How the first filled cell holds its answers."""
    cells = (record.get(column) for record in format_of(data).records(data, [column]))
    cell = next((cell for cell in cells if cell or cell == []), "")
    if isinstance(cell, list):
        return "list"
    try:
        return "json" if isinstance(json.loads(cell), list) else "text"
    except (ValueError, TypeError, RecursionError):
        return "text"


def _source(request: Request, entry: Mapping[str, Any]) -> Source:
    """The questions, read from where the file lies now by the entry that is to be written."""
    text = _toml(request.name, {**entry, "bundled": str(request.data.absolute())})
    for name, stated in entry.items():
        if isinstance(stated, str) and storable(stated) != stated:
            raise RequestError(f"{request.name}: its {name} {stated!r} is no text that a file can hold; state another")
    chosen = described(text, request.home / DESCRIPTIONS, request.home)[request.name]
    source = source_from_rows(chosen, chosen.test, read_rows(chosen, chosen.test).to_list())
    if not source.questions:
        raise RequestError(f"{request.data} has no row with a question and an answer; name the columns that hold them")
    return source


def _sizes(questions: int) -> dict[str, int]:
    test, validation = max(1, 2 * questions // 5), questions // 10
    return {"train": questions - test - validation, "validation": validation, "test": test}


def _toml(name: str, entry: Mapping[str, Any]) -> str:
    """A table of texts and of whole numbers by name; texts of JSON are texts of TOML."""

    def value(of: Any) -> str:
        if isinstance(of, Mapping):
            return "{ " + ", ".join(f"{key} = {number}" for key, number in of.items()) + " }"
        return json.dumps(of, ensure_ascii=False).replace("\x7f", "\\u007f")

    return f"[{name}]\n" + "".join(f"{field} = {value(of)}\n" for field, of in entry.items())
