"""What the shipped worldfacts file promises; the truth of a fact is checked by reading, not here."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "ci" / "build_worldfacts.py"))
DATA = ROOT / "tasks" / "worldfacts" / "test.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
RELATIONS = Counter(row["relation"] for row in ROWS)
FORWARD = {"capital_of": "capital", "element": "symbol"}


def normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def rows_of(relation: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["relation"] == relation]


def test_the_committed_file_is_what_the_script_builds() -> None:
    assert DATA.read_bytes() == SCRIPT["render"]().encode()


def test_the_check_passes_on_the_committed_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert SCRIPT["main"](["--check"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", [None, "", "{}\n"])
def test_the_check_fails_in_one_line_on_any_other_file(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "test.jsonl"
    if text is not None:
        path.write_text(text)
    assert SCRIPT["check"](path) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_the_benchmark_stays_small_and_capitals_lead() -> None:
    assert 550 <= len(ROWS) <= 700
    assert RELATIONS.most_common(1)[0][0] == "capital"


def test_every_row_has_the_same_keys_in_the_same_order() -> None:
    assert {tuple(row) for row in ROWS} == {("question", "answers", "subject", "relation", "object")}


def test_every_question_is_unique_ignoring_case_and_spacing() -> None:
    counts = Counter(normalised(row["question"]) for row in ROWS)
    assert [question for question, n in counts.items() if n > 1] == []


def test_every_row_has_an_answer() -> None:
    for row in ROWS:
        assert row["answers"]
        assert all(answer and answer == answer.strip() for answer in row["answers"])


def test_no_answer_is_listed_twice_in_a_row() -> None:
    for row in ROWS:
        answers = [normalised(answer) for answer in row["answers"]]
        assert len(answers) == len(set(answers)), row["question"]


def test_the_first_answer_is_the_object() -> None:
    assert all(row["answers"][0] == row["object"] for row in ROWS)


def test_every_question_names_its_subject() -> None:
    assert all(row["subject"] in row["question"] for row in ROWS)


def test_a_subject_is_asked_once_in_a_relation() -> None:
    assert max(Counter((row["relation"], row["subject"]) for row in ROWS).values()) == 1


@pytest.mark.parametrize("relation", FORWARD)
def test_reversals_state_a_fact_that_is_also_asked_forwards(relation: str) -> None:
    forward = {(row["subject"], row["object"]) for row in rows_of(FORWARD[relation])}
    backward = {(row["object"], row["subject"]) for row in rows_of(relation)}
    assert backward
    assert backward <= forward


@pytest.mark.parametrize("relation", FORWARD)
def test_a_reversed_question_has_one_right_subject(relation: str) -> None:
    answers = Counter(row["object"] for row in rows_of(FORWARD[relation]))
    assert all(answers[row["subject"]] == 1 for row in rows_of(relation))


def test_element_facts_cover_all_118_symbols() -> None:
    assert RELATIONS["symbol"] == 118
    assert len({row["object"] for row in rows_of("symbol")}) == 118


def test_atomic_numbers_lie_on_the_table_and_differ() -> None:
    numbers = [int(row["object"]) for row in rows_of("atomic_number")]
    assert set(numbers) <= set(range(1, 119))
    assert len(numbers) == len(set(numbers))


def test_a_currency_can_be_answered_by_its_iso_code_and_no_two_countries_share_it() -> None:
    codes = [row["answers"][-1] for row in rows_of("currency")]
    assert all(len(code) == 3 and code.isupper() for code in codes)
    assert len(codes) == len(set(codes))


def test_a_head_of_the_file_samples_every_large_relation() -> None:
    head = {row["relation"] for row in ROWS[:50]}
    assert {"capital", "symbol", "currency", "atomic_number"} <= head


@pytest.mark.parametrize("table", ["EXCLUDED", "NO_CAPITAL_QUESTION", "NO_CAPITAL_OF_QUESTION"])
def test_every_omission_gives_a_reason(table: str) -> None:
    assert all(SCRIPT[table].values())


@pytest.mark.parametrize("code", ["BO", "IL", "LK", "ZA"])
def test_a_country_with_a_disputed_capital_is_not_asked_for_it(code: str) -> None:
    subjects = {country.code: country.names[0] for country in SCRIPT["countries"]()}
    assert subjects[code] not in {row["subject"] for row in rows_of("capital")}


def test_a_correction_that_no_longer_applies_stops_the_build() -> None:
    assert SCRIPT["corrected"]("KZ", "capital", "Nur-Sultan") == "Astana"
    with pytest.raises(ValueError, match="KZ capital"):
        SCRIPT["corrected"]("KZ", "capital", "Almaty")


def test_a_package_value_missing_from_its_table_stops_the_build() -> None:
    with pytest.raises(ValueError, match="the table has"):
        SCRIPT["answers_for"]("FR", "capital", "Lyon", {"FR": ("Paris",)})
