"""The ledger: why a question was dropped, and what would change with another decider."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from closedbook.harness import splits
from closedbook.harness.dedup import Decision, Verdict
from closedbook.harness.dedup.decisions import to_json
from closedbook.harness.dedup.ledger import diff, explain, read_ledger
from closedbook.harness.errors import RequestError
from closedbook.harness.manifests import read_manifest, write_manifest

Write = Callable[[str, Iterable[Decision]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def lines(name: str, decisions: Iterable[Decision]) -> Path:
        path = tmp_path / name
        path.write_text("".join(to_json(decision) + "\n" for decision in decisions))
        return path

    return lines


def decision(question: str, candidate: str, verdict: Verdict, score: float = 1.0) -> Decision:
    return Decision(question, candidate, verdict, "rule", score, "some-1", "because")


def test_a_ledger_is_read_as_it_was_written(write: Write) -> None:
    made = [decision("a", "b", Verdict.CONTAINED), decision("a", "c", Verdict.UNSURE, 0.5)]
    assert list(read_ledger(write("one.jsonl", made))) == made


@pytest.mark.parametrize(
    ("name", "value"),
    [("score", None), ("score", "high"), ("score", float("nan")), ("question", 5), ("candidate", {}), ("rule", ["a"])],
)
def test_a_decision_of_other_types_is_told_by_the_name_of_its_field(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(asdict(decision("a", "b", Verdict.CONTAINED)) | {name: value}) + "\n")
    with pytest.raises(RequestError, match=f"line 1: its {name} is "):
        diff(path, path)


@pytest.mark.parametrize("line", ["{", "[]", "{}", json.dumps({"verdict": "perhaps"}), json.dumps({"question": "a"})])
def test_a_line_that_is_no_decision_is_told_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(to_json(decision("a", "b", Verdict.CONTAINED)) + "\n" + line + "\n")
    with pytest.raises(RequestError, match="line 2: "):
        list(read_ledger(path))


def test_a_dropped_question_is_explained_by_what_contains_it() -> None:
    row = next(row for row in read_manifest("worldfacts").rows if row.dropped_from == "test")
    found = explain(row.id)
    assert found.question.id == row.id and found.row == row
    (first, other), *_ = found.compared
    assert (first.candidate, first.rule, first.drops) == (row.contained_in, row.rule, True)
    assert other.id == row.contained_in
    assert [d.drops for d, _ in found.compared] == sorted((d.drops for d, _ in found.compared), reverse=True)


def test_a_question_that_stayed_is_explained_by_what_does_not_contain_it() -> None:
    kept = read_manifest("worldfacts").ids("test")[0]
    found = explain(kept)
    assert found.compared and not any(d.drops for d, _ in found.compared)


def test_a_question_of_validation_is_compared_with_test_too() -> None:
    manifest = read_manifest("worldfacts")
    dropped = [row for row in manifest.rows if row.dropped_from == "validation"]
    held = set(manifest.ids("test"))
    assert any(row.contained_in in held for row in dropped)
    for row in dropped:
        assert explain(row.id).compared[0][0].candidate == row.contained_in


def test_a_ledger_may_tell_it_instead_of_the_rules(write: Write) -> None:
    test, train = (read_manifest("worldfacts").ids(split)[0] for split in ("test", "train"))
    path = write("one.jsonl", [decision(test, train, Verdict.UNSURE), decision("else", train, Verdict.CONTAINED)])
    assert [d.reasoning for d, _ in explain(test, path).compared] == ["because"]


@pytest.fixture(scope="module")
def without_train(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with one manifest alone, that dropped from train, and the ledger of its build."""
    folder = tmp_path_factory.mktemp("manifests")
    made: list[Decision] = []
    write_manifest(splits.build("worldfacts", drop="train", record=made.append), folder)
    ledger = folder / "ledger.jsonl"
    ledger.write_text("".join(to_json(decision) + "\n" for decision in made))
    return folder, ledger


@pytest.mark.parametrize("by_ledger", [False, True])
def test_what_was_dropped_from_train_is_explained_by_the_test_question_that_it_states(
    without_train: tuple[Path, Path], by_ledger: bool
) -> None:
    folder, ledger = without_train
    rows = [row for row in read_manifest("worldfacts", folder).rows if row.dropped_from == "train"]
    for row in rows[:10]:
        (first, other), *_ = explain(row.id, ledger if by_ledger else None, folder).compared
        assert other.id == row.contained_in
        assert first == Decision(row.id, other.id, Verdict(row.verdict), row.rule, row.score, row.decider)


def test_what_dropped_a_question_is_told_even_where_the_rules_would_not_have_compared_it(tmp_path: Path) -> None:
    manifest = read_manifest("worldfacts")
    row = next(row for row in manifest.rows if row.dropped_from == "test")
    compared = {other.id for _, other in explain(row.id).compared}
    far = replace(row, contained_in=next(i for i in manifest.ids("train") if i not in compared))
    write_manifest(replace(manifest, rows=tuple(far if r == row else r for r in manifest.rows)), tmp_path)
    assert {other.id for _, other in explain(row.id, folder=tmp_path).compared} == {*compared, far.contained_in}


def test_a_ledger_explains_a_question_by_what_could_have_dropped_it_alone(write: Write) -> None:
    train, test, validation = (read_manifest("worldfacts").ids(split)[0] for split in ("train", "test", "validation"))
    yes, no = Verdict.CONTAINED, Verdict.NOT_CONTAINED
    path = write("one.jsonl", [decision(validation, test, yes), decision(test, train, no)])
    assert [other.id for _, other in explain(test, path).compared] == [train]
    assert [other.id for _, other in explain(validation, path).compared] == [test]


def test_an_empty_folder_has_no_manifests(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^no manifest in [^\n]*; run `closedbook splits build"):
        explain("nosuch", folder=tmp_path)


def test_an_unknown_id_is_one_line() -> None:
    with pytest.raises(RequestError, match="no manifest has a question 'nosuch'"):
        explain("nosuch")


def test_two_ledgers_differ_in_what_they_drop_and_in_verdicts(write: Write) -> None:
    yes, no, perhaps = Verdict.CONTAINED, Verdict.NOT_CONTAINED, Verdict.UNSURE
    ours = write(
        "one.jsonl", [decision("a", "x", yes), decision("b", "x", no), decision("c", "x", yes), decision("d", "y", yes)]
    )
    theirs = write("two.jsonl", [decision("a", "x", no), decision("b", "x", yes), decision("c", "x", perhaps)])
    found = diff(ours, theirs)
    assert [d.question for d in found.only_first] == ["a", "d"]
    assert [d.question for d in found.only_second] == ["b"]
    assert found.verdicts == {
        "contained -> not_contained": 1, "contained -> unsure": 1, "not_contained -> contained": 1,
    }  # fmt: skip
    assert found.pairs == 3
