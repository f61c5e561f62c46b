"""Sources: every oddity of the real benchmarks on made-up rows, then the counts on the real files."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from closedbook.harness.errors import ClosedbookError, RequestError, SourceError
from closedbook.harness.questions import question_id
from closedbook.harness.sources import (
    Source,
    benchmark,
    benchmarks,
    mirror_file,
    read_rows,
    read_source,
    source_from_rows,
)
from closedbook.harness.text import answer_key, words

Mirror = Callable[..., Path]
MakeRow = Callable[..., dict[str, Any]]
SIMPLE = {"problem": "Which is the oldest lighthouse of Lilliput?", "answer": "Mildendo Light"}


def message(error: pytest.ExceptionInfo[ClosedbookError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- reading a row ---


def test_popqa_answers_are_read_from_a_json_string(popqa_row: MakeRow) -> None:
    source = source_from_rows(benchmark("popqa"), "test", [popqa_row(answers=["wéaver", "spinner"])])
    assert source.questions[0].answers == ("wéaver", "spinner")


def test_popqa_homonyms_are_merged_with_the_union_of_answers(popqa_row: MakeRow) -> None:
    rows = [popqa_row(answers=["weaver"], uris=("s/1", "o/1")), popqa_row(answers=["poet"], uris=("s/2", "o/2"))]
    source = source_from_rows(benchmark("popqa"), "test", rows)
    assert [question.answers for question in source.questions] == [("weaver", "poet")]
    assert [row["subject"] for row in source.questions[0].metadata] == ["s/1", "s/2"]
    assert (source.rows, source.unusable, source.merged) == (2, 0, 1)


@pytest.mark.parametrize("subject", ["", " \u00a0", None])
def test_popqa_rows_with_an_empty_subject_are_dropped(popqa_row: MakeRow, subject: str | None) -> None:
    source = source_from_rows(benchmark("popqa"), "test", [popqa_row(subject=subject), popqa_row("What else?")])
    assert [question.question for question in source.questions] == ["What else?"]
    assert (source.rows, source.unusable) == (2, 1)


@pytest.mark.parametrize(("question", "answers"), [("", ["x"]), ("?", ["x"]), ("Who?", []), ("Who?", ["", " "])])
def test_a_row_without_a_question_or_an_answer_is_unusable(
    popqa_row: MakeRow, question: str, answers: list[str]
) -> None:
    source = source_from_rows(benchmark("popqa"), "test", [popqa_row(question, answers)])
    assert (source.rows, source.unusable, source.questions) == (1, 1, ())


def test_triviaqa_is_read_where_value_is_null() -> None:
    row = {"question": "Who?", "answer": {"value": None, "aliases": ["Pan", "PAN", "Pan (god)"]}}
    source = source_from_rows(benchmark("triviaqa"), "validation", [row])
    assert source.questions[0].answers == ("Pan", "Pan (god)")


@pytest.mark.parametrize("answer", [None, {"value": "x", "aliases": None}, {"value": "x", "aliases": [None]}])
def test_triviaqa_rows_without_aliases_are_unusable(answer: Any) -> None:
    source = source_from_rows(benchmark("triviaqa"), "train", [{"question": "Who?", "answer": answer}])
    assert source.unusable == 1


def test_simpleqa_answers_lose_stray_white_space() -> None:
    source = source_from_rows(benchmark("simpleqa"), "test", [{**SIMPLE, "answer": " Mildendo\u00a0Light \n"}])
    assert source.questions[0].answers == ("Mildendo Light",)


def test_simpleqa_rows_without_an_answer_are_unusable() -> None:
    assert source_from_rows(benchmark("simpleqa"), "test", [{**SIMPLE, "answer": None}]).unusable == 1


# --- reading a mirror ---


def test_a_mirror_is_read_in_the_layout_of_the_hub(mirror: Mirror) -> None:
    rows = [{"question": "Who?", "question_id": None, "answer": {"value": None, "aliases": ["Pan"]}}]
    file = mirror("triviaqa", "train", rows)
    assert file.parts[-3:] == ("mandarjoshi__trivia_qa", "unfiltered.nocontext", "train.parquet")
    assert [question.answers for question in read_source("triviaqa", "train").questions] == [("Pan",)]


def test_a_rewritten_mirror_file_is_read_anew(mirror: Mirror) -> None:
    mirror("simpleqa", "test", [SIMPLE])
    assert read_source("simpleqa", "test").questions[0].answers == ("Mildendo Light",)
    mirror("simpleqa", "test", [{**SIMPLE, "answer": "Belfaborac Light"}])
    assert read_source("simpleqa", "test").questions[0].answers == ("Belfaborac Light",)


def test_without_a_mirror_the_hub_is_read() -> None:
    assert mirror_file(benchmark("popqa"), "test") is None
    with pytest.raises(SourceError) as error:
        read_rows(benchmark("popqa"), "test")
    assert message(error).startswith("popqa: cannot read akariasai/PopQA, split test: ")
    assert message(error).endswith("check the network, or set CLOSEDBOOK_DATA to a mirror")


def test_the_bundled_benchmark_needs_neither_hub_nor_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSEDBOOK_DATA", "/nowhere")
    assert read_source("worldfacts", "test").rows == 598


def test_a_missing_mirror_folder_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSEDBOOK_DATA", "/nowhere")
    with pytest.raises(SourceError) as error:
        read_source("nq", "train")
    assert "nq: no file /nowhere/google-research-datasets__nq_open/train.parquet; CLOSEDBOOK_DATA names" in message(
        error
    )


def test_a_missing_mirror_file_is_told_in_one_line(mirror: Mirror) -> None:
    file = mirror("nq", "train", [{"question": "who", "answer": ["Pan"]}])
    with pytest.raises(SourceError) as error:
        read_source("nq", "validation")
    assert f"nq: no file {file.with_name('validation.parquet')}; CLOSEDBOOK_DATA names" in message(error)


def test_a_file_that_is_no_parquet_is_told_in_one_line(mirror: Mirror) -> None:
    file = mirror("simpleqa", "test", [SIMPLE])
    file.write_text("no parquet\n")
    with pytest.raises(SourceError) as error:
        read_source("simpleqa", "test")
    assert message(error).startswith(f"simpleqa: cannot read {file}, split test: ")
    assert message(error).endswith("; fetch it again")


def test_a_damaged_parquet_file_is_told_with_the_cause(mirror: Mirror) -> None:
    file = mirror("simpleqa", "test", [SIMPLE])
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + bytes(60) + whole[64:])
    with pytest.raises(SourceError) as error:
        read_source("simpleqa", "test")
    assert message(error).startswith(f"simpleqa: cannot read {file}, split test: OSError: ")
    assert message(error).endswith("; fetch it again")


def test_wrong_columns_are_named_with_those_found(mirror: Mirror) -> None:
    file = mirror("simpleqa", "test", [{"question": "Who?", "answer": "Pan"}])
    with pytest.raises(SourceError) as error:
        read_source("simpleqa", "test")
    expected = f"simpleqa: {file} has no column problem, only question, answer; use the data set as published"
    assert message(error) == expected


def test_an_empty_split_is_refused(mirror: Mirror) -> None:
    file = mirror("simpleqa", "test", [SIMPLE])
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(SourceError) as error:
        read_source("simpleqa", "test")
    assert message(error).startswith(f"simpleqa: cannot read {file}, split test: ")
    assert message(error).endswith("corresponds to no data!; fetch it again")


def test_an_unknown_benchmark_is_told_with_those_there_are() -> None:
    with pytest.raises(RequestError) as error:
        read_source("pop", "test")
    assert message(error) == (
        "no benchmark 'pop'; there are nq, triviaqa, popqa, simpleqa, worldfacts; CLOSEDBOOK_BENCHMARKS=FOLDER names "
        "your own"
    )


def test_an_unknown_split_of_a_source_is_told_with_those_there_are() -> None:
    with pytest.raises(RequestError) as error:
        read_source("nq", "test")
    assert message(error) == "nq: its source has no split 'test'; there are train, validation"


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("simpleqa", {**SIMPLE, "answer": 7}, "TypeError: 7 is not a text"),
        ("simpleqa", {**SIMPLE, "problem": ["who"]}, "TypeError: ['who'] is not a text"),
        ("nq", {"question": "who", "answer": "Pan"}, "TypeError: 'Pan' is not a list of answers"),
        ("nq", {"question": "who", "answer": [7]}, "TypeError: 7 is not a text"),
        ("triviaqa", {"question": "who", "answer": {"value": "Pan"}}, "KeyError: 'aliases'"),
        ("triviaqa", {"question": "who", "answer": "Pan"}, "TypeError: string indices must be integers"),
    ],
)
def test_a_value_of_another_type_is_told_with_its_row(
    mirror: Mirror, name: str, row: dict[str, Any], reason: str
) -> None:
    split = benchmark(name).test
    mirror(name, split, [row])
    with pytest.raises(SourceError) as error:
        read_source(name, split)
    assert message(error).startswith(f"{name}, split {split}, row 0: {reason}")
    assert message(error).endswith("; use the data set as published")


@pytest.mark.parametrize("text", ["weaver", '"weaver"', '{"a": 1}', "[1]", "null"])
def test_popqa_answers_that_are_no_json_list_of_texts_are_refused(popqa_row: MakeRow, text: str) -> None:
    bad = popqa_row() | {"possible_answers": text}
    with pytest.raises(SourceError, match=r"^popqa, split test, row 1: \w+: .*; use the data set as published$"):
        source_from_rows(benchmark("popqa"), "test", [popqa_row(), bad])


def test_a_subject_of_another_type_is_refused(popqa_row: MakeRow) -> None:
    with pytest.raises(SourceError, match=r"row 0: TypeError: 7 is not a text"):
        source_from_rows(benchmark("popqa"), "test", [popqa_row(subject=7)])


# --- the descriptions ---


@pytest.mark.parametrize("name", benchmarks())
def test_sizes_ask_for_no_more_than_the_full_source_holds(name: str) -> None:
    chosen = benchmark(name)
    assert set(chosen.rows) == {chosen.train, chosen.test}
    assert sum(chosen.sizes.values()) <= chosen.rows[chosen.train]
    assert ("test" in chosen.sizes) == chosen.partitioned


@pytest.mark.parametrize("name", benchmarks())
def test_every_benchmark_names_its_licence_home_and_citation(name: str) -> None:
    chosen = benchmark(name)
    assert chosen.licence and chosen.citation and chosen.homepage.startswith("https://")
    assert bool(chosen.repo) != bool(chosen.bundled)


@pytest.mark.parametrize("name", benchmarks())
def test_a_licence_that_nobody_states_for_the_data_is_unknown(name: str) -> None:
    chosen = benchmark(name)
    stated = chosen.licence.partition(" (")[0].lower().replace(" ", "-")
    assert chosen.licence_id == ("unknown" if "of the code" in chosen.licence else stated)


# --- the real files ---


@cache
def real(name: str, split: str) -> Source:
    return read_source(name, split)


@cache
def real_rows(name: str, split: str) -> list[dict[str, Any]]:
    return list(read_rows(benchmark(name), split))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "counts"),
    [
        ("popqa", "test", (14267, 3, 13063)),
        ("simpleqa", "test", (4326, 0, 4326)),
        ("nq", "validation", (3610, 0, 3610)),
        ("nq", "train", (13757, 0, 13757)),
        ("triviaqa", "validation", (11313, 0, 11311)),
        ("triviaqa", "train", (8837, 0, 8835)),
    ],
)
def test_rows_unusable_rows_and_questions_are_as_counted(name: str, split: str, counts: tuple[int, int, int]) -> None:
    source = real(name, split)
    assert (source.rows, source.unusable, len(source.questions)) == counts


@pytest.mark.data
def test_popqa_has_13068_strings_that_ask_13063_questions() -> None:
    rows = real_rows("popqa", "test")
    assert len({row["question"] for row in rows}) == 13068
    assert len({question_id("popqa", row["question"]) for row in rows if row["subj"]}) == 13063


@pytest.mark.data
def test_popqa_has_2385_answers_of_one_or_two_characters() -> None:
    answers = [answer for row in real_rows("popqa", "test") for answer in json.loads(row["possible_answers"])]
    assert sum(len(answer) <= 2 for answer in answers) == 2385


@pytest.mark.data
def test_simpleqa_has_211_answers_with_stray_white_space_and_none_once_read() -> None:
    raw = [row["answer"] for row in real_rows("simpleqa", "test")]
    read = [answer for question in real("simpleqa", "test").questions for answer in question.answers]
    assert sum(answer != answer.strip() for answer in raw) == 211
    assert all(answer == " ".join(answer.split()) for answer in read) and len(read) == 4326


@pytest.mark.data
def test_nq_has_142_answers_with_no_break_spaces_and_none_once_read() -> None:
    raw = [answer for row in real_rows("nq", "validation") for answer in row["answer"]]
    read = [answer for question in real("nq", "validation").questions for answer in question.answers]
    assert sum("\u00a0" in answer for answer in raw) == 142
    assert all(answer == unicodedata.normalize("NFKC", answer) and "\u00a0" not in answer for answer in read)


@pytest.mark.data
def test_triviaqa_is_read_without_its_value_and_without_case_only_twins() -> None:
    rows = real_rows("triviaqa", "train")
    assert {row["answer"]["value"] for row in rows} == {None}
    assert max(len(row["answer"]["aliases"]) for row in rows) == 372
    for question in real("triviaqa", "train").questions:
        assert len({answer.casefold() for answer in question.answers}) == len(question.answers)


@pytest.mark.data
@pytest.mark.parametrize(
    ("train", "test", "shared"),
    [("triviaqa", "triviaqa", 8), ("nq", "triviaqa", 1), ("triviaqa", "popqa", 10)],
)
def test_questions_shared_up_to_punctuation_are_as_counted(train: str, test: str, shared: int) -> None:
    asked = {words(question.question) for question in real(test, benchmark(test).test).questions}
    found = [
        question for question in real(train, benchmark(train).train).questions if words(question.question) in asked
    ]
    assert len(found) == shared


@pytest.mark.data
@pytest.mark.parametrize("name", ["nq", "triviaqa", "popqa", "simpleqa"])
def test_every_real_answer_has_a_key(name: str) -> None:
    questions = real(name, benchmark(name).test).questions
    assert all(answer_key(answer) for question in questions for answer in question.answers)
