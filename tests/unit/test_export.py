"""Exports: what is written is what was asked, loads in other libraries, and never takes the place of other files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from closedbook.harness import cli
from closedbook.harness.errors import RequestError, SourceError, WorkError
from closedbook.harness.export import FORMATS, Export, export, schema_of, to_jsonl, to_parquet
from closedbook.harness.manifests import Manifest, Row, load_questions, read_manifest, write_manifest
from closedbook.harness.prompts import template
from closedbook.harness.questions import Question, make_question
from closedbook.harness.sources import benchmark, read_source
from closedbook.harness.splits import build

MakeRow = Callable[..., dict[str, Any]]
WORLD = benchmark("worldfacts")


def question_of(row: Mapping[str, Any]) -> Question:
    metadata = tuple(row.get("metadata", ()))
    return Question(row["id"], row["benchmark"], row["question"], tuple(row["answers"]), metadata)


def read_back(done: Export) -> list[Question]:
    """What the library that people load data sets with makes of a file."""
    kind = {"jsonl": "json"}.get(done.format, done.format)
    rows = datasets.load_dataset(kind, data_files=str(done.path), split="train")
    return [question_of(row) for row in rows]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


# --- one file ---


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("split", ["test", "validation", "train", "dropped"])
def test_a_file_loads_as_the_questions_of_the_split_in_the_order_of_the_manifest(form: str, split: str) -> None:
    done = export("worldfacts", form, [split])
    assert done.path == Path(f"worldfacts-{split}.{form}")
    assert read_back(done) == load_questions("worldfacts", split)
    assert [question.id for question in read_back(done)] == read_manifest("worldfacts").ids(split)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_test_is_written_unless_another_split_is_named(form: str) -> None:
    assert export("worldfacts", form).questions == {"test": 214}


def test_a_line_holds_the_columns_and_nothing_else() -> None:
    lines = export("worldfacts").path.read_text(encoding="utf-8").splitlines()
    assert [list(json.loads(line)) for line in lines] == [["id", "benchmark", "question", "answers", "metadata"]] * 214


def test_a_parquet_file_says_what_it_is() -> None:
    done = export("worldfacts", "parquet", ["validation"])
    schema = pq.read_schema(done.path)
    assert json.loads(schema.metadata[b"closedbook"]) == {
        "benchmark": "worldfacts",
        "split": "validation",
        "manifest": read_manifest("worldfacts").digest,
    }
    assert schema.names == ["id", "benchmark", "question", "answers", "metadata"]


def test_a_benchmark_without_metadata_has_no_such_column() -> None:
    asked = [make_question("nq", "who", ["Ada"])]
    assert json.loads(to_jsonl(asked)) == row_of(asked[0])
    table = pq.read_table(pa.BufferReader(to_parquet(asked, schema_of(benchmark("nq"), asked))))
    assert table.to_pylist() == [row_of(asked[0])]


def row_of(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "benchmark": question.benchmark,
        "question": question.question,
        "answers": list(question.answers),
    }


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ['"', "\\", "a\nb\r\nc", "\u2028", "\u2029", "\x85", "\x00", "\ufeff", "'; --", "{question}", "👩‍🚀", "ﬁ"]
)
METADATA = st.fixed_dictionaries(
    {
        "subject": st.none() | TEXTS,
        "relation": TEXTS,
        "object": st.none() | TEXTS,
        "subject_name": TEXTS,
        "popularity": st.none() | st.integers(-(2**63), 2**63 - 1),
    }
)
QUESTIONS = st.lists(
    st.builds(
        Question,
        TEXTS,
        st.just("popqa"),
        TEXTS,
        st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
        st.lists(METADATA, min_size=1, max_size=3).map(tuple),
    ),
    max_size=4,
)


@given(QUESTIONS)
def test_any_text_comes_back_from_json_lines(questions: list[Question]) -> None:
    lines = to_jsonl(questions).decode("utf-8").splitlines()
    assert [question_of(json.loads(line)) for line in lines] == questions


@given(QUESTIONS)
def test_any_text_comes_back_from_parquet(questions: list[Question]) -> None:
    written = to_parquet(questions, schema_of(benchmark("popqa"), questions))
    rows = pq.read_table(pa.BufferReader(written)).to_pylist()
    assert [question_of(row) for row in rows] == questions


def test_hostile_texts_come_back_from_the_library_too(popqa: Callable[..., Path], popqa_row: MakeRow) -> None:
    hostile = ['say "x\\n"\u2028y', "a\tb\r\nc", "\x85\u2029", "👩‍🚀", "ﬁ", "\ufeffx", "[1]", "null"]
    folder = popqa([popqa_row(f"what {at}", [text, "plain"], subject=text) for at, text in enumerate(hostile)])
    for form in ("jsonl", "parquet"):
        assert read_back(export("popqa", form, ["train"], folder=folder)) == load_questions("popqa", "train", folder)
    loaded = datasets.load_dataset(str(export("popqa", "hf", ["train"], folder=folder).path), split="train")
    assert [question_of(row) for row in loaded] == load_questions("popqa", "train", folder)


@pytest.fixture
def popqa(mirror: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes made-up rows as PopQA's source, all of them train questions; returns the folder of the manifest."""

    def write(rows: Sequence[Mapping[str, Any]]) -> Path:
        mirror("popqa", "test", rows)
        manifest = build("popqa")
        kept = tuple(Row(question.id, "train") for question in read_source("popqa", "test").questions)
        write_manifest(replace(manifest, rows=tuple(sorted(kept, key=lambda row: row.id))), tmp_path)
        return tmp_path

    return write


def test_rows_that_ask_the_same_words_are_one_row_with_the_metadata_of_each(
    popqa: Callable[..., Path], popqa_row: MakeRow
) -> None:
    rows = [popqa_row(answers=["weaver"], uris=("s/1", "o/1")), popqa_row(answers=["poet"], uris=("s/2", "o/2"))]
    done = export("popqa", "parquet", ["train"], folder=popqa(rows))
    (row,) = pq.read_table(done.path).to_pylist()
    assert row["answers"] == ["weaver", "poet"]
    assert [(of["subject"], of["popularity"]) for of in row["metadata"]] == [("s/1", 7), ("s/2", 7)]


@pytest.mark.parametrize("form", FORMATS)
def test_what_no_file_can_hold_is_told_before_any_is_written(
    popqa: Callable[..., Path], popqa_row: MakeRow, form: str
) -> None:
    folder = popqa([popqa_row(answers=["a \ud800"])])
    with pytest.raises(
        SourceError, match=r"^popqa: its questions cannot be written .*; use the data set as published$"
    ):
        export("popqa", form, ["train"], folder=folder)
    assert list(Path().iterdir()) == []


def test_a_number_that_is_none_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        nan: Any = float("nan")  # no source has one, by its type
        to_jsonl([Question("id", "popqa", "who", ("Ada",), ({"popularity": nan},))])


# --- a data set repository ---


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("worldfacts", "hf", out=tmp_path_factory.mktemp("hf") / "worldfacts").path


def test_a_repository_loads_as_train_validation_and_test(repository: Path) -> None:
    loaded = datasets.load_dataset(str(repository))
    assert list(loaded) == ["train", "validation", "test"]
    for split, rows in loaded.items():
        assert [question_of(row) for row in rows] == load_questions("worldfacts", split)


def test_a_repository_loads_in_a_fresh_process_by_one_split(repository: Path) -> None:
    code = f"import datasets; print(datasets.load_dataset({str(repository)!r}, split='test').num_rows)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "214\n"


def test_a_repository_holds_a_card_data_and_the_licence_that_ships_with_the_questions(repository: Path) -> None:
    data = {f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")}
    assert everything(repository).keys() == {"README.md", "LICENCE.md", *data}


def test_the_asked_splits_alone_are_written_in_one_order() -> None:
    done = export("worldfacts", "hf", ["dropped", "test"])
    assert list(done.questions.items()) == [("test", 214), ("dropped", 34)]
    loaded = datasets.load_dataset(str(done.path))
    assert {split: len(rows) for split, rows in loaded.items()} == done.questions
    assert [question_of(row) for row in loaded["dropped"]] == load_questions("worldfacts", "dropped")


def head(folder: Path) -> dict[str, Any]:
    _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    read: dict[str, Any] = yaml.safe_load(front)
    return read


def test_the_head_of_the_card_is_the_hubs(repository: Path) -> None:
    stated = head(repository)
    assert stated == {
        "language": ["en"],
        "license": "cc-by-4.0",
        "pretty_name": "worldfacts, deduplicated",
        "size_categories": ["n<1K"],
        "tags": ["closedbook"],
        "task_categories": ["question-answering"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*"} for split in ("train", "validation", "test")
                ],
            }
        ],
    }
    assert DatasetCard.load(repository / "README.md").data.to_dict() == stated


def test_the_card_tells_provenance_prompts_and_citation(repository: Path) -> None:
    card = (repository / "README.md").read_text(encoding="utf-8")
    manifest = read_manifest("worldfacts")
    assert manifest.digest in card
    assert template("direct") in card and template("cot") in card
    assert WORLD.licence in card and WORLD.citation in card and WORLD.homepage in card
    assert "| test | 248 | 34 | 214 | yes |" in card
    assert "| validation | 50 | 14 | 36 | yes |" in card
    assert "| test | fact | contained | 34 |" in card
    assert not any(question.question in card for question in read_source("worldfacts", "test").questions)


def test_a_citation_is_bibtex_where_it_is_some(
    mirror: Callable[..., Path], popqa: Callable[..., Path], popqa_row: MakeRow
) -> None:
    folder = export("popqa", "hf", ["train"], folder=popqa([popqa_row()])).path
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"```bibtex\n{benchmark('popqa').citation.strip()}\n```" in card
    assert "https://huggingface.co/datasets/akariasai/PopQA" in card
    assert "Nothing was dropped." in card
    assert head(folder)["license"] == "unknown"
    assert "For the data itself no licence is stated" in card
    assert everything(folder).keys() == {"README.md", "data/train-00000-of-00001.parquet"}


# --- again, and over other files ---


@pytest.mark.parametrize("form", FORMATS)
def test_exporting_again_gives_the_same_bytes_and_leaves_nothing_beside_it(form: str) -> None:
    first = export("worldfacts", form)
    before = everything(Path())
    assert export("worldfacts", form) == first
    assert everything(Path()) == before
    assert len(list(Path().iterdir())) == 1


@pytest.mark.parametrize("form", FORMATS)
def test_an_earlier_export_of_another_split_may_be_replaced(form: str) -> None:
    for split in ("train", "test"):
        export("worldfacts", form, [split], out=Path("out"))
    fresh = export("worldfacts", form, ["test"])
    written = {"out": Path("out"), "fresh": fresh.path}
    if form == "hf":
        assert everything(written["out"]) == everything(written["fresh"])
    else:
        assert written["out"].read_bytes() == written["fresh"].read_bytes()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["loop", "a\0b"])
def test_a_place_that_no_file_can_have_is_refused_in_one_line(form: str, name: str) -> None:
    Path("loop").symlink_to("loop")
    with pytest.raises(RequestError, match=r"^cannot write '.*': [^\n\0]+; choose another name$"):
        export("worldfacts", form, out=Path(name))


def instead(path: Path) -> Path:
    """The same path, with nothing there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path


def spoiled() -> Iterable[tuple[str, Callable[[Path], object]]]:
    """What is no earlier export: the format, and what makes it of one."""
    yield "jsonl", lambda path: path.write_text("")
    yield "jsonl", lambda path: path.write_text("mine")
    yield "jsonl", lambda path: path.write_text('{"question": "q"}\n')
    yield "jsonl", lambda path: path.write_text(path.read_text() + '{"id": "mine"}\n')
    yield "jsonl", lambda path: path.write_text(path.read_text().replace('"question": "', '"question": "my ', 1))
    yield "jsonl", lambda path: path.write_text(path.read_text().replace('"worldfacts"', '"popqa"', 1))
    yield "jsonl", lambda path: path.write_text("[]\n")
    yield "jsonl", lambda path: path.write_bytes(b"\xff")
    yield "parquet", lambda path: path.write_text("mine")
    yield "parquet", lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    yield "parquet", lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata({"closedbook": "x"}), path)
    yield "hf", lambda path: (path / "notes.txt").write_text("mine")
    yield "hf", lambda path: (path / "README.md").write_text("my card")
    yield "hf", lambda path: (path / "README.md").unlink()
    yield "hf", lambda path: shutil.rmtree(path / "data")
    yield "hf", lambda path: (path / "data" / "test-00000-of-00001.parquet").write_text("mine")
    yield "hf", lambda path: (path / "data" / "deeper").symlink_to(path / "data")
    yield "hf", lambda path: instead(path).write_text("mine")
    yield "hf", lambda path: instead(path).mkdir()
    for form in ("jsonl", "parquet"):
        yield form, lambda path: instead(path).mkdir()
        yield form, lambda path: os.mkfifo(instead(path))


@pytest.mark.parametrize(("form", "spoil"), list(spoiled()))
def test_what_is_no_earlier_export_stays_as_it_is(form: str, spoil: Callable[[Path], object]) -> None:
    path = export("worldfacts", form, ["test"]).path
    spoil(path)
    before = everything(Path())
    with pytest.raises(RequestError) as error:
        export("worldfacts", form, ["test"])
    assert str(error.value) == (
        f"{path} is there, and it is no {form} export of worldfacts as it was written; remove it, or choose another "
        "--out"
    )
    assert everything(Path()) == before


def test_an_export_of_another_benchmark_is_not_replaced(popqa: Callable[..., Path], popqa_row: MakeRow) -> None:
    folder = popqa([popqa_row()])
    for form in FORMATS:
        export("worldfacts", form, ["train"], out=Path(f"out-{form}"))
        with pytest.raises(RequestError, match=r"it is no .* export of popqa"):
            export("popqa", form, ["train"], out=Path(f"out-{form}"), folder=folder)


@pytest.mark.parametrize("out", [".", "../worldfacts-hf", "../worldfacts-hf/data/.."])
def test_nobodys_working_folder_is_replaced(monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(export("worldfacts", "hf").path)
    before = everything(Path())
    with pytest.raises(RequestError, match=r"is the folder that you are in; go out of it"):
        export("worldfacts", "hf", out=Path(out))
    assert everything(Path.cwd()) == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_write_that_fails_leaves_the_earlier_export(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export("worldfacts", form, ["test"], out=Path("out")).path
    before = everything(Path())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match=r"^cannot write .*/out: No space left on device; free space or"):
        export("worldfacts", form, ["train"], out=path)
    assert everything(Path()) == before


# --- wrong requests ---


@pytest.mark.parametrize(
    ("form", "splits", "out", "said"),
    [
        ("csv", [], None, "--format is jsonl, parquet or hf, not 'csv'"),
        ("jsonl", ["tests"], None, "no split 'tests'; there are train, validation, test, dropped"),
        ("jsonl", ["train", "test"], None, "--format jsonl writes one split, not train, test; name one, or choose hf"),
        ("jsonl", [], "x.parquet", "x.parquet is named as another format, and --format is jsonl; change one of them"),
        ("hf", [], "x.jsonl", "x.jsonl is named as another format, and --format is hf; change one of them"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(form: str, splits: list[str], out: str | None, said: str) -> None:
    with pytest.raises(RequestError) as error:
        export("worldfacts", form, splits, out=Path(out) if out else None)
    assert str(error.value) == said


@pytest.mark.parametrize("form", FORMATS)
def test_a_split_without_questions_is_refused(form: str, tmp_path: Path) -> None:
    write_manifest(build("worldfacts", drop="train"), tmp_path)
    with pytest.raises(RequestError, match=r"^worldfacts: its manifest has no dropped question; there is nothing to"):
        export("worldfacts", form, ["dropped"], folder=tmp_path)


def test_a_benchmark_that_is_not_there_is_told_before_anything_is_read() -> None:
    with pytest.raises(RequestError, match=r"^no benchmark 'pop'"):
        export("pop")


# --- the command ---


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["closedbook", "export", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_the_command_says_what_it_wrote_and_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "worldfacts", "--format", "hf", "--split", "test", "--split", "train") == 0
    assert capsys.readouterr().out == "worldfacts-train-test-hf: 300 train, 214 test questions of worldfacts\n"


def test_the_command_writes_json_alone_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "worldfacts", "--json", "--out", "deep/er/out.jsonl") == 0
    stated = json.loads(capsys.readouterr().out)
    digest = stated["sha256"].pop("out.jsonl")
    assert len(digest) == 64
    assert stated == {
        "benchmark": "worldfacts",
        "format": "jsonl",
        "path": "deep/er/out.jsonl",
        "questions": {"test": 214},
        "manifest": read_manifest("worldfacts").digest,
        "sha256": {},
    }


def test_the_command_exits_with_2_where_something_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("worldfacts-test.jsonl").write_text("mine")
    assert run(monkeypatch, "worldfacts") == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)


# --- the real data ---


@pytest.mark.data
@pytest.mark.parametrize("name", ["nq", "triviaqa", "popqa", "simpleqa"])
def test_a_real_benchmark_loads_as_our_splits(name: str) -> None:
    done = export(name, "hf")
    loaded = datasets.load_dataset(str(done.path))
    manifest: Manifest = read_manifest(name)
    for split, rows in loaded.items():
        assert rows["id"][:] == manifest.ids(split)
    assert [question_of(row) for row in loaded["test"]] == load_questions(name, "test")
    card = (done.path / "README.md").read_text(encoding="utf-8")
    assert manifest.digest in card and benchmark(name).licence in card
    asked = {row["question"] for row in loaded["test"]}
    assert not any(line in asked for line in card.splitlines())


@pytest.mark.data
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_real_file_loads_as_our_questions(form: str) -> None:
    assert read_back(export("popqa", form)) == load_questions("popqa", "test")
