"""Which rows of somebody's own training set state our test facts: what matches, what is written, what is refused."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closedbook.harness import cli
from closedbook.harness.dedup import own_data, own_matching, own_rows, own_workers
from closedbook.harness.dedup.own_data import Outcome, Request, find_matches
from closedbook.harness.dedup.own_matching import Matcher, row_question
from closedbook.harness.dedup.own_parts import Parts
from closedbook.harness.dedup.own_rows import (
    LONGEST,
    Columns,
    HubSet,
    Row,
    answers_in,
    choose_columns,
    is_hub_id,
    read_rows,
    row_of,
    spool,
)
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.manifests import load_questions
from closedbook.harness.questions import Question

Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return load_questions("worldfacts", "test")


@pytest.fixture
def rows(asked: list[Question]) -> list[dict[str, Any]]:
    """Test questions at the odd places, other ones between."""
    ours = [{"question": q.question, "answer": q.answers[0]} for q in asked[:5]]
    return [
        row
        for n, own in enumerate(ours)
        for row in ({"question": f"who guards the gate of zorb{n}", "answer": f"smolt{n}"}, own)
    ]


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def request(train: Path, **options: Any) -> Request:
    stated: dict[str, Any] = {"against": ("worldfacts",), "out": train.parent / "out"} | options
    return Request(str(train), **stated)


def run(train: Path, **options: Any) -> Outcome:
    return find_matches(request(train, **options))


def matches(done: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done.folder / "matches.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(train: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as refusal:
        run(train, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_rows_that_state_a_test_fact_are_found_and_named_by_their_number(tmp_path, rows, asked):
    done = run(jsonl(tmp_path / "t.jsonl", rows))
    assert {match["row"] for match in matches(done)} == {2, 4, 6, 8, 10}
    assert {match["question"] for match in matches(done)} >= {question.id for question in asked[:5]}
    assert done.report["rows"]["read"] == 10
    assert done.report["contained"]["rows"] == done.report["by_benchmark"]["worldfacts"]["rows"] == 5
    assert done.report["contained"]["questions"] == len({match["question"] for match in matches(done)})


def test_the_question_of_a_decision_is_ours_and_the_candidate_theirs(asked):
    part = Matcher(asked).compare([Row(7, "mine", asked[0].question, asked[0].answers)])
    assert (part.matches[0].row, part.matches[0].row_id, part.matches[0].question) == (7, "mine", asked[0].id)


def test_no_text_of_a_test_question_is_written(tmp_path, rows, asked):
    done = run(jsonl(tmp_path / "t.jsonl", rows))
    written = b"".join(files(done.folder).values()).decode()
    assert not [question for question in asked[:5] if question.question in written]


def test_rows_are_kept_as_they_stand(tmp_path, rows):
    train = tmp_path / "t.jsonl"
    kept = '{ "answer":"smölt", "question" : "who guards the gate of zorb" , "x": 1.0}\r\n'
    train.write_text(kept + json.dumps(rows[1]) + "\n\n" + kept.rstrip(), encoding="utf-8", newline="")
    assert run(train).filtered.read_bytes() == (kept + kept.rstrip()).encode()


@pytest.mark.parametrize("pattern", [(), (1,), (0,), (0, 1, 1), (1, 0, 9), (9,), (9, 1, 9, 0)])
def test_each_row_is_either_kept_or_matched(tmp_path, asked, pattern):
    """0 is a test question, 1 another, 9 a row that cannot be compared; one of each to begin with."""
    made = {0: {"question": asked[0].question, "answer": asked[0].answers[0]}, 9: {"question": None, "answer": "a"},
            1: {"question": "who guards the gate of zorb", "answer": "smolt"}}  # fmt: skip
    lines = [made[kind] | {"n": n} for n, kind in enumerate((0, 1, 9, *pattern), start=1)]
    done = run(jsonl(tmp_path / "t.jsonl", lines))
    kept = [json.loads(line)["n"] for line in done.filtered.read_text().splitlines()]
    matched = {match["row"] for match in matches(done)}
    assert sorted([*kept, *matched]) == [line["n"] for line in lines]
    assert done.report["rows"]["read"] == len(kept) + done.report["contained"]["rows"]


def test_a_csv_file_is_filtered_to_a_csv_file(tmp_path, asked):
    head, kept = "id,question,answer\r\n", '"a","who, ""they"" ask,\nguards zorb",smolt\r\n'
    train = tmp_path / "t.csv"
    train.write_text(f'\ufeff{head}{kept}b,"{asked[0].question}",{asked[0].answers[0]}\r\n{kept}', newline="")
    done = run(train, id="id")
    assert done.filtered.name == "filtered.csv"
    assert done.filtered.read_bytes().decode() == f"\ufeff{head}{kept}{kept}"
    assert {match["row_id"] for match in matches(done)} == {"b"}
    assert done.report["rows"]["duplicate_ids"] == 1


def test_a_parquet_file_is_filtered_to_a_parquet_file_with_all_columns_and_types(tmp_path, rows):
    table = pa.Table.from_pylist([row | {"answer": [row["answer"]], "n": n} for n, row in enumerate(rows)])
    table = table.cast(table.schema.set(2, pa.field("n", pa.int16())))
    pq.write_table(table, tmp_path / "t.parquet")
    done = run(tmp_path / "t.parquet")
    assert pq.read_table(done.filtered).equals(table.take(list(range(0, 10, 2))))


@pytest.mark.parametrize("name", ["prompt", "instruction", "problem", "input", "query"])
def test_usual_names_of_columns_are_tried(tmp_path, rows, name):
    train = jsonl(tmp_path / "t.jsonl", [{name: row["question"], "output": row["answer"]} for row in rows])
    done = run(train)
    assert done.report["train"]["columns"] == {"question": name, "answer": "output", "id": None}
    assert done.report["contained"]["rows"] == 5


def test_a_stated_column_is_used_and_a_wrong_one_names_those_there_are(tmp_path, rows):
    train = jsonl(tmp_path / "t.jsonl", [{"q": row["question"], "a": row["answer"]} for row in rows])
    assert run(train, question="q", answer="a").report["contained"]["rows"] == 5
    assert refused(train, question="x").endswith("no column 'x'; choose --question-column among q, a")
    assert refused(train, question="q", answer="x").endswith("choose --answer-column among q, a")
    assert refused(train, question="q", id="x").endswith("choose --id-column among q, a")
    assert refused(train).endswith("has no column of questions; choose --question-column among q, a")


def test_a_row_without_answers_is_unsure_at_most(tmp_path, rows):
    done = run(jsonl(tmp_path / "t.jsonl", [{"question": row["question"]} for row in rows]))
    assert {match["verdict"] for match in matches(done)} == {"unsure"}
    assert done.report["contained"]["rows"] == 5
    assert done.report["rows"]["without_answers"] == 10


def test_a_row_without_answers_is_found_in_other_words(asked):
    capital = next(q for q in asked if q.question.startswith("What is the capital of "))
    land = capital.question.removeprefix("What is the capital of ").rstrip("?")
    part = Matcher(asked).compare([Row(1, "1", f"Name {land}'s capital city.", ())])
    assert [match.question for match in part.matches] == [capital.id]


def test_a_row_without_answers_that_asks_something_else_of_one_thing_is_no_match(asked):
    capital = next(q for q in asked if q.question.startswith("What is the capital of "))
    land = capital.question.removeprefix("What is the capital of ").rstrip("?")
    assert (
        not Matcher([capital])
        .compare([Row(1, "1", f"Which volcano in {land} erupted at the emperor's coronation?", ())])
        .matches
    )


@pytest.mark.parametrize(
    ("cell", "texts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), (None, []), (1912, ["1912"]), ('["a", "b"]', ["a", "b"]), ("[a]", ["[a]"]),
     ({"text": ["a"], "answer_start": [3]}, ["a"]), ({"value": "a", "aliases": ["b"], "type": "t"}, ["a", "b"]),
     ([["a"], None], ["a"]), (62.0, ["62.0"]), (Decimal("1.5"), ["1.5"]), (datetime.date(1912, 4, 5), ["1912-04-05"]),
     (datetime.datetime.fromisoformat("1912-04-05"), ["1912-04-05"])],
)  # fmt: skip
def test_an_answer_is_a_text_a_list_or_an_object_that_holds_texts(cell, texts):
    assert list(answers_in(cell)) == texts


@pytest.mark.parametrize("cell", ["", " \u00a0", [""], "[]", float("nan"), [float("nan"), " "], {"text": []}])
def test_an_answer_that_says_nothing_is_none(tmp_path, rows, cell):
    """As one it would agree with no other, and hide the row."""
    done = run(jsonl(tmp_path / "t.jsonl", [row | {"answer": cell} for row in rows]))
    assert {match["row"] for match in matches(done)} == {2, 4, 6, 8, 10}
    assert done.report["rows"]["without_answers"] == 10


def test_rows_without_a_question_are_counted_and_kept(tmp_path, rows):
    lines = [*rows, {"answer": "a"}, {"question": " ? "}, {"question": None}, {"question": ["a"]}]
    done = run(jsonl(tmp_path / "t.jsonl", lines))
    assert done.report["rows"]["skipped"] == {"no question": 3, "the question is no text": 1}
    assert len(done.filtered.read_text().splitlines()) == 5 + 4


def test_duplicate_ids_are_counted(tmp_path, rows):
    train = jsonl(tmp_path / "t.jsonl", [row | {"id": n // 2} for n, row in enumerate(rows)])
    assert run(train, id="id").report["rows"]["duplicate_ids"] == 5


def test_a_long_text_is_cut_and_counted(tmp_path, rows):
    long = {"question": "zorb " * 2_000_000, "answer": "smolt " * 2_000_000}
    started = time.monotonic()
    done = run(jsonl(tmp_path / "t.jsonl", [*rows, long]))
    assert done.report["rows"]["cut"] == 1
    assert time.monotonic() - started < 30


def test_what_is_cut_is_still_compared(asked):
    row = row_of(1, {"q": asked[0].question, "a": [*asked[0].answers, "x" * 9 * LONGEST]}, Columns("q", "a"))
    assert row.cut and max(map(len, row.answers)) == LONGEST
    assert Matcher(asked).compare([row]).matches


def test_a_text_with_half_a_surrogate_pair_does_no_harm(tmp_path, rows):
    train = tmp_path / "t.jsonl"
    train.write_text(
        '{"question": "who is \\ud800 zorb", "answer": "\\udfff", "id": "\\ud800"}\n' + json.dumps(rows[1])
    )
    assert run(train, id="id").report["contained"]["rows"] == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", b"", "holds no rows"),
        ("t.jsonl", b"\n \n", "holds no rows"),
        ("t.jsonl", b'{"question": "q"}\n{"question": \n', "line 2: it is no JSON"),
        ("t.jsonl", b'{"question": "q"}\n[1]\n', "line 2: it is no object"),
        ("t.jsonl", b'{"question": "q"}\n\n{"question": "\xff"}\n', "line 3: it is not UTF-8"),
        ("t.jsonl", b'{"question": ""}\n', "holds no row with a question in column 'question'"),
        ("t.jsonl", b'{"question": ' + b"[" * 100_000 + b"\n", "line 1: it is no JSON"),
        ("t.csv", b"", "holds no rows"),
        ("t.csv", b"question,answer\n", "holds no rows"),
        ("t.csv", b"question,answer\nq,a\nq\n", "line 3: it has 1 cells, the head has 2"),
        ("t.csv", b"question,answer\nq,a\nq,\0\n", "line 3: it holds a NUL"),
        ("t.csv", b'question,answer\nq,"a\n', "it is no CSV"),
        ("t.csv", b"question,answer\nq,\xe9\n", "line 2: it is not UTF-8"),
        ("t.parquet", b"PAR1 no", "name a whole parquet file"),
        ("t.parquet", b"", "name a whole parquet file"),
        ("t.txt", b"q", "it is none of .jsonl, .csv, .parquet"),
    ],
)
def test_bad_input_is_one_line_that_names_the_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert said in message
    assert str(tmp_path / name) in message


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert "holds no rows" in refused(tmp_path / "t.parquet")


def test_a_damaged_parquet_file_is_refused(tmp_path, rows):
    pq.write_table(pa.Table.from_pylist(rows * 1000), tmp_path / "t.parquet", compression="none")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    (tmp_path / "t.parquet").write_bytes(content)
    assert "name a whole parquet file" in refused(tmp_path / "t.parquet")


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path, rows):
    train = jsonl(tmp_path / "t.jsonl", rows)
    assert "choose another folder" in refused(train, out=train)


@pytest.mark.parametrize("name", ["filtered.jsonl", "matches.jsonl", ".parts/t.jsonl", ".parts/matches.jsonl"])
def test_a_training_file_that_the_run_would_replace_is_refused_and_untouched(tmp_path, rows, name):
    train = tmp_path / name
    train.parent.mkdir(exist_ok=True)
    content = jsonl(train, rows).read_bytes()
    assert "would be lost; choose another --out" in refused(train, out=tmp_path)
    assert train.read_bytes() == content
    assert sorted(path.name for path in train.parent.iterdir()) == [train.name]


@pytest.mark.parametrize("name", ["filtered.jsonl", "matches.jsonl", "report.json"])
def test_a_link_hides_no_training_file_that_the_run_would_replace(tmp_path, rows, name):
    (tmp_path / "out").mkdir()
    content = jsonl(tmp_path / "out" / name, rows).read_bytes()
    (tmp_path / "t.jsonl").symlink_to(tmp_path / "out" / name)
    assert "would be lost; choose another --out" in refused(tmp_path / "t.jsonl")
    assert (tmp_path / "out" / name).read_bytes() == content


def test_a_training_file_beside_the_results_is_kept(tmp_path, rows):
    train = jsonl(tmp_path / "t.jsonl", rows)
    content = train.read_bytes()
    run(train, out=tmp_path)
    assert train.read_bytes() == content


def test_results_of_another_training_file_are_not_replaced(tmp_path, rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        jsonl(Path(name, "train.jsonl"), rows if name == "a" else rows[::-1])
    done = find_matches(Request("a/train.jsonl", ("worldfacts",)))
    before = files(done.folder)
    with pytest.raises(RequestError, match=r"^dedup-train holds the results of another request.*--out.*$"):
        find_matches(Request("b/train.jsonl", ("worldfacts",)))
    assert files(done.folder) == before


@pytest.mark.parametrize("changed", [{"split": "validation"}, {"against": ("worldfacts", "popqa")}, {"answer": "note"}])
def test_results_of_another_request_are_not_replaced(tmp_path, rows, changed):
    train = jsonl(tmp_path / "t.jsonl", [row | {"note": ""} for row in rows])
    before = files(run(train).folder)
    assert "choose another --out" in refused(train, **changed)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\udcff", '{"train": 1, "split": 2, "by_benchmark": 3}'])
def test_a_report_that_is_none_of_ours_is_not_replaced(tmp_path, rows, content):
    (tmp_path / "report.json").write_text(content, errors="surrogateescape")
    assert "choose another --out" in refused(jsonl(tmp_path / "t.jsonl", rows), out=tmp_path)


@pytest.mark.parametrize("name", ["filtered.jsonl", "matches.jsonl"])
def test_a_file_that_no_run_wrote_is_not_replaced(tmp_path, rows, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    assert name in refused(jsonl(tmp_path / "t.jsonl", rows))
    assert files(tmp_path / "out") == {name: b"mine"}


def test_a_run_that_was_killed_while_it_named_its_results_goes_on(stopped, monkeypatch):
    def die(whole: Path, path: Path) -> None:
        whole.replace(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(own_data, "_move", die)
        with pytest.raises(KeyboardInterrupt):
            run(stopped)
    assert "report.json" not in files(stopped.parent / "out")
    assert run(stopped).report["contained"]["rows"] == 5


def test_the_same_request_is_done_again_also_by_other_rules(tmp_path, rows, monkeypatch):
    train = jsonl(tmp_path / "t.jsonl", rows)
    before = files(run(train).folder)
    assert files(run(train).folder) == before
    monkeypatch.setattr(own_data, "RULES", "another")
    assert run(train).report["decider"] == "another"


def test_an_unknown_benchmark_or_split_is_refused(tmp_path, rows):
    train = jsonl(tmp_path / "t.jsonl", rows)
    assert "no benchmark 'x'" in refused(train, against=("x",))
    assert "--split is one of test, validation, both" in refused(train, split="train")


def test_validation_is_compared_where_it_is_asked_for(tmp_path):
    (question, *_) = load_questions("worldfacts", "validation")
    train = jsonl(tmp_path / "t.jsonl", [{"question": question.question, "answer": question.answers[0]}])
    done = {split: run(train, split=split, out=tmp_path / split) for split in own_data.SPLITS}
    found = {split: {match["question"] for match in matches(of)} for split, of in done.items()}
    assert question.id not in found["test"]
    assert question.id in found["validation"] & found["both"]


def test_a_name_is_a_hub_id_only_if_it_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").write_text("")
    names = {"owner/name-1.0": True, "data/train": False, "data/none.jsonl": False, "a/b/c": False, "name": False}
    assert {name: is_hub_id(name) for name in names} == names


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    with pytest.raises(RequestError, match=r"^cannot read owner/name, config c, split s from the hub: .*$"):
        find_matches(Request("owner/name", ("worldfacts",), hub_config="c", hub_split="s", out=tmp_path / "out"))


def test_hub_rows_are_written_as_json_lines(tmp_path):
    spool(iter([{"question": "zürich?", "at": Path("x")}]), tmp_path / "s.jsonl")
    assert (tmp_path / "s.jsonl").read_text(encoding="utf-8") == '{"question": "zürich?", "at": "x"}\n'
    assert HubSet("o/n", "c").named == "o/n, config c, split train"


def many(path: Path, rows: Rows, count: int) -> Path:
    """Rows for several chunks, not all of them equal."""
    repeated = (rows[n % len(rows)] for n in range(count))
    return jsonl(path, ({**row, "question": f"{row['question']} {'so' * (n % 3)}"} for n, row in enumerate(repeated)))


def test_the_number_of_workers_changes_nothing(tmp_path, rows, monkeypatch):
    train = many(tmp_path / "t.jsonl", rows, 3 * own_rows.CHUNK)
    several = files(run(train, out=tmp_path / "several").folder)
    monkeypatch.setattr(own_workers, "MOST_WORKERS", 1)
    assert files(run(train, out=tmp_path / "one").folder) == several


@pytest.fixture
def work(tmp_path, rows, asked, monkeypatch) -> own_workers.Work:
    """Six chunks for two workers."""
    monkeypatch.setattr(own_workers, "workers_for", lambda chunks: 2)
    (tmp_path / "parts").mkdir()
    train = many(tmp_path / "t.jsonl", rows, 6 * own_rows.CHUNK)
    return own_workers.Work(train, Columns("question", "answer"), asked, Parts(tmp_path / "parts"))


def test_workers_do_each_wanted_chunk_once_and_no_other(work):
    assert sorted(own_workers.compare(work, [0, 2, 5])) == [0, 2, 5]
    assert sorted(files(work.parts.folder)) == [work.parts.path(at).name for at in (0, 2, 5)]
    assert not multiprocessing.active_children()


def test_no_worker_outlives_a_loop_that_ends_early(work):
    finished = own_workers.compare(work, range(6))
    next(finished)
    assert len(multiprocessing.active_children()) == 2
    finished.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_is_ended_from_outside_is_an_error_that_names_the_way_on(work):
    finished = own_workers.compare(work, range(6))
    next(finished)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(
        WorkError, match=r"^a worker process was ended \(exit code -9\).* The same command again goes on$"
    ):
        list(finished)


def test_workers_that_are_ended_before_they_hear_what_to_do_are_the_same_error(work, monkeypatch):
    """The questions do not fit into what a connection holds, so that nobody reads the rest of them."""
    started = own_workers._workers

    @contextmanager
    def ended(count: int) -> Iterator[Any]:
        with started(count) as workers:
            for worker in workers.values():
                worker.kill()
            yield workers

    monkeypatch.setattr(own_workers, "_workers", ended)
    with pytest.raises(WorkError, match="worker process was ended"):
        list(own_workers.compare(work._replace(questions=[*work.questions] * 20), range(6)))


def test_what_goes_wrong_in_a_worker_is_said_as_if_it_went_wrong_here(work):
    work.parts.path(4).mkdir()
    with pytest.raises(RequestError, match=rf"^cannot write {work.parts.path(4)}"):
        list(own_workers.compare(work, range(6)))
    assert not multiprocessing.active_children()


def set_chunk(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    for module in (own_data, own_rows):
        monkeypatch.setattr(module, "CHUNK", rows)


@pytest.mark.parametrize("chunk", [1, 3, 10, 11])
def test_the_length_of_chunks_changes_nothing(tmp_path, rows, monkeypatch, chunk):
    monkeypatch.setattr(own_workers, "MOST_WORKERS", 1)
    train = jsonl(tmp_path / "t.jsonl", [*rows, {"answer": "no question"}])
    usual = files(run(train, out=tmp_path / "usual").folder)
    set_chunk(monkeypatch, chunk)
    assert files(run(train, out=tmp_path / "other").folder) == usual


def test_the_limit_of_what_is_remembered_changes_nothing(asked, rows, monkeypatch):
    theirs = [Row(n, str(n), row["question"], (row["answer"],)) for n, row in enumerate(rows, start=1)]
    whole = Matcher(asked).compare(theirs)
    monkeypatch.setattr(own_matching, "REMEMBERED", 0)
    assert Matcher(asked).compare(theirs) == whole


@pytest.fixture
def stopped(tmp_path, rows, monkeypatch) -> Path:
    """A training set of two chunks, the first of which was compared when its run was stopped."""
    set_chunk(monkeypatch, 5)
    monkeypatch.setattr(own_workers, "MOST_WORKERS", 1)
    train = jsonl(tmp_path / "t.jsonl", rows)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_matches(request(train), stop)
    return train


def progress(train: Path) -> list[int]:
    """How many rows are compared, each time a run tells it."""
    seen: list[int] = []
    find_matches(request(train), lambda done, total: seen.append(done))
    return seen


def test_finished_chunks_are_not_compared_again(stopped):
    assert progress(stopped) == [5, 10]


def test_parts_of_other_inputs_are_dropped(tmp_path, rows, stopped):
    jsonl(stopped, rows[::-1])
    assert {match["row"] for match in matches(run(stopped))} == {1, 3, 5, 7, 9}
    assert sorted(files(tmp_path / "out")) == ["filtered.jsonl", "matches.jsonl", "report.json"]


def test_results_of_a_training_file_that_changed_meanwhile_are_not_written(tmp_path, rows):
    train = jsonl(tmp_path / "t.jsonl", rows)

    def change(done: int, total: int) -> None:
        jsonl(train, rows[::-1])

    with pytest.raises(WorkError, match="changed while it was read"):
        find_matches(request(train), change)
    assert not files(tmp_path / "out")


def test_a_chunk_that_is_gone_is_not_counted_as_one_without_matches(stopped, monkeypatch):
    """As another run takes it away when it ends."""
    monkeypatch.setattr(Parts, "save", lambda self, at, part: None)
    with pytest.raises(WorkError, match="run the same command again"):
        run(stopped)
    assert not (stopped.parent / "out" / "report.json").exists()


def test_two_runs_do_not_share_a_folder(tmp_path, rows, started):
    assert "another run" in refused(tmp_path / "t.jsonl")
    started.kill()
    started.wait()
    assert run(tmp_path / "t.jsonl").report["contained"]["rows"]


@pytest.mark.parametrize("version", ["RULES", "RETRIEVAL"])
def test_parts_that_other_rules_or_retrievers_made_are_dropped(stopped, monkeypatch, version):
    monkeypatch.setattr(own_data, version, "another")
    assert progress(stopped) == [0, 5, 10]


def command(train: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "closedbook.harness.cli", "dedup", "run", "--train", str(train),
            "--against", "worldfacts", "--out", str(out), "--json"]  # fmt: skip


def heeds_ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C, and so would all that these tests start in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


Started = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path, rows) -> Iterator[Started]:
    """Starts a run of twenty chunks in a session of its own."""
    train = many(tmp_path / "t.jsonl", rows, 20 * own_rows.CHUNK)
    started: list[subprocess.Popen[str]] = []

    def go() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                command(train, tmp_path / "out"),
                start_new_session=True,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=heeds_ctrl_c,
                env=os.environ | {"PYTHONFAULTHANDLER": "1"},
            )
        )
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def started(tmp_path, start: Started) -> subprocess.Popen[str]:
    """A run that has saved a chunk and is not done."""
    process = start()
    while not list((tmp_path / "out" / ".parts").glob("0*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def alive(session: int) -> list[str]:
    """Processes of a session that are not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(stat.parent.name)
    return found


def ends(session: int) -> bool:
    """Whether all processes of a session end within seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(session):
        time.sleep(0.1)
    return not alive(session)


def test_a_killed_run_goes_on_where_it_was(tmp_path, started):
    started.kill()
    assert started.wait() == -signal.SIGKILL
    assert ends(started.pid), "workers outlive the run"
    kept = len(list((tmp_path / "out" / ".parts").glob("0*.json")))
    assert 0 < kept < 20
    again = subprocess.run(command(tmp_path / "t.jsonl", tmp_path / "out"), capture_output=True, text=True, check=True)
    undisturbed = run(tmp_path / "t.jsonl", out=tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / "out" / ".parts").exists()
    assert (
        json.loads(again.stdout)
        == json.loads((tmp_path / "whole" / "report.json").read_text())
        == dict(undisturbed.report)
    )


def interrupted(process: subprocess.Popen[str]) -> str:
    """What a run says of Ctrl-C, before all its processes end; where it does not end, what each thread does."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        left = alive(process.pid)
        os.killpg(process.pid, signal.SIGABRT)
        pytest.fail(f"{left} of {process.pid} do not end: {process.communicate()[1]}")
    assert process.returncode == 1
    assert ends(process.pid)
    return said


def test_ctrl_c_ends_all_processes_and_says_what_goes_on(tmp_path, started):
    assert interrupted(started).endswith(
        f"interrupted; the same command goes on from what is kept in {tmp_path / 'out'}\n"
    )
    assert list((tmp_path / "out" / ".parts").glob("0*.json"))


def test_ctrl_c_while_workers_start_shows_no_traceback(start):
    process = start()
    while len(alive(process.pid)) < 3:  # itself, the tracker of resources, and a worker
        assert process.poll() is None
        time.sleep(0.001)
    said = interrupted(process)
    assert len(said.splitlines()) == 1
    assert "interrupted; the same command goes on" in said


@pytest.mark.parametrize(("start", "flags", "code"), [(0, [], 0), (1, [], 0), (0, ["--fail-on-match"], 0),
                                                      (1, ["--fail-on-match"], 1)])  # fmt: skip
def test_a_match_is_an_error_only_where_the_command_is_told_so(tmp_path, rows, monkeypatch, capsys, start, flags, code):
    train = jsonl(tmp_path / "t.jsonl", rows[start::2])
    monkeypatch.setattr(sys, "argv", ["closedbook", *command(train, tmp_path / "out")[3:-1], *flags])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert (stop.value.code or 0) == code
    shown = capsys.readouterr()
    assert "5 rows read" in shown.out
    assert f"results: {tmp_path / 'out'}" in shown.err


def test_a_row_becomes_a_question_named_by_its_number():
    assert row_question(Row(7, "x", "who  is it", ("A", "a"))) == Question("7", "train", "who is it", ("A",))


def test_columns_are_those_of_all_rows_however_late_one_has_them(tmp_path):
    train = jsonl(tmp_path / "t.jsonl", [*({"id": n} for n in range(500)), {"prompt": "q", "answer": "a", "id": 500}])
    columns = choose_columns(train, None, None, "id")
    assert columns == Columns("prompt", "answer", "id")
    assert [row.id for row in read_rows(train, columns)] == [str(n) for n in range(501)]
