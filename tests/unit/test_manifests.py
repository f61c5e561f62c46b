"""Manifests: what is written is read back, and what does not fit is refused in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from closedbook.harness.errors import ManifestError, RequestError, SourceError
from closedbook.harness.manifests import (
    Manifest,
    Row,
    check_source,
    from_text,
    load_questions,
    manifests_dir,
    read_manifest,
    to_text,
    write_manifest,
)
from closedbook.harness.questions import make_question
from closedbook.harness.sources import Source, benchmarks, read_source

Spoil = Callable[[list[dict[str, Any]]], object]


@pytest.fixture
def worldfacts() -> Manifest:
    return read_manifest("worldfacts")


@pytest.mark.parametrize("name", benchmarks())
def test_a_committed_manifest_is_read_and_written_byte_for_byte(name: str, tmp_path: Path) -> None:
    written = write_manifest(read_manifest(name), tmp_path)
    assert written == tmp_path / f"{name}.jsonl"
    assert written.read_bytes() == (manifests_dir() / f"{name}.jsonl").read_bytes()


def test_a_manifest_holds_no_text_of_a_question(worldfacts: Manifest) -> None:
    text = to_text(worldfacts)
    assert not any(question.question in text for question in read_source("worldfacts", "test").questions)


def test_rows_in_another_order_are_written_alike(worldfacts: Manifest) -> None:
    assert to_text(replace(worldfacts, rows=worldfacts.rows[::-1])) == to_text(worldfacts)
    assert replace(worldfacts, rows=worldfacts.rows[::-1]).digest == worldfacts.digest


def test_the_digest_tells_manifests_apart(worldfacts: Manifest) -> None:
    assert replace(worldfacts, seed=1).digest != worldfacts.digest


def test_counts_tell_what_was_dropped_from_where(worldfacts: Manifest) -> None:
    dropped = {row.dropped_from for row in worldfacts.rows if row.split == "dropped"}
    assert dropped == {"test", "validation"}
    assert sum(worldfacts.counts.values()) == 598
    assert worldfacts.counts["test"] == len(worldfacts.ids("test"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (list.clear, "not enough values to unpack"),
        (list.pop, "its head counts"),
        (lambda lines: lines.pop(0), "KeyError: 'counts'"),
        (lambda lines: lines[0].pop("seed"), "missing 1 required positional argument: 'seed'"),
        (lambda lines: lines[0].update(sources=[]), "'list' object has no attribute 'items'"),
        (lambda lines: lines[0].update(sources={"test": {"pinned": True}}), "missing 5 required positional arguments"),
        (lambda lines: lines[1].update(colour="red"), "unexpected keyword argument 'colour'"),
        (lambda lines: lines[1].update(split="tests"), "is neither in train, validation, test nor dropped"),
        (lambda lines: lines[1].update(split="dropped"), "is neither in train, validation, test nor dropped"),
        (lambda lines: lines[1].update(id=7), "id 7 is not a text"),
        (lambda lines: lines[1].update(split="train", dropped_from="test"), "is neither in train"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_reason(spoil: Spoil, reason: str) -> None:
    lines = [json.loads(line) for line in to_text(read_manifest("worldfacts")).splitlines()]
    spoil(lines)
    with pytest.raises(ManifestError) as error:
        from_text("".join(json.dumps(line) + "\n" for line in lines), "here.jsonl")
    assert str(error.value).startswith("here.jsonl is no whole manifest (")
    assert reason in str(error.value)
    assert str(error.value).endswith("); rebuild: `closedbook splits build`")


def test_a_truncated_line_is_refused(worldfacts: Manifest) -> None:
    with pytest.raises(ManifestError, match="no whole manifest \\(JSONDecodeError"):
        from_text(to_text(worldfacts)[:-9], "here.jsonl")


def test_a_missing_manifest_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^nq: cannot read .*/nq\.jsonl \(.*\); run `closedbook splits build nq`$"):
        read_manifest("nq", tmp_path)


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nq.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match=r"^nq: cannot read .*; run `closedbook splits build nq`$"):
        read_manifest("nq", tmp_path)


def test_the_manifest_of_another_benchmark_is_refused(tmp_path: Path) -> None:
    write_manifest(read_manifest("worldfacts"), tmp_path).rename(tmp_path / "nq.jsonl")
    with pytest.raises(
        ManifestError, match=r"nq.jsonl is the manifest of worldfacts; run `closedbook splits build nq`"
    ):
        read_manifest("nq", tmp_path)


def test_an_unknown_benchmark_has_no_manifest() -> None:
    with pytest.raises(RequestError, match=r"^no benchmark 'pop'; there are "):
        read_manifest("pop")


def test_an_unknown_split_is_told_with_those_there_are() -> None:
    with pytest.raises(RequestError, match=r"^no split 'tset'; there are train, validation, test, dropped$"):
        load_questions("worldfacts", "tset")


def test_every_benchmark_has_a_committed_manifest() -> None:
    assert [read_manifest(name).benchmark for name in benchmarks()] == list(benchmarks())


@pytest.mark.parametrize("split", ["train", "validation", "test", "dropped"])
def test_questions_of_a_split_are_those_of_the_manifest_in_its_order(worldfacts: Manifest, split: str) -> None:
    questions = load_questions("worldfacts", split)
    assert [question.id for question in questions] == worldfacts.ids(split) == sorted(worldfacts.ids(split))


def changed(source: Source, questions: int) -> Source:
    return replace(source, questions=source.questions[:questions])


def test_a_changed_source_is_told_with_what_was_expected_and_found(worldfacts: Manifest) -> None:
    source = changed(read_source("worldfacts", "test"), 597)
    with pytest.raises(SourceError) as error:
        check_source(worldfacts, source)
    expected = worldfacts.sources["test"].ids[:12]
    assert str(error.value).startswith(
        f"worldfacts, split test: the source has changed: expected 598 questions, digest {expected}, found 597, digest "
    )
    assert str(error.value).endswith("; use the data set as published or rebuild the manifest")


def test_a_source_with_one_word_changed_is_refused(worldfacts: Manifest) -> None:
    first, *others = read_source("worldfacts", "test").questions
    other = make_question("worldfacts", first.question + " Really", first.answers)
    with pytest.raises(SourceError, match=r"expected 598 questions, digest .*, found 598, digest "):
        check_source(worldfacts, Source("worldfacts", "test", 598, 0, (other, *others)))


def test_a_split_that_the_manifest_does_not_know_is_refused(worldfacts: Manifest) -> None:
    with pytest.raises(ManifestError, match=r"^worldfacts, split train: the manifest does not know this split"):
        check_source(worldfacts, replace(read_source("worldfacts", "test"), split="train"))


def nq_manifest(train: list[str], test: list[str]) -> Manifest:
    head = read_manifest("nq")
    rows = [Row(i, "train") for i in train] + [Row(i, "test") for i in test]
    return replace(head, rows=tuple(rows))


def test_a_missing_train_question_is_told_with_its_id() -> None:
    questions = [make_question("nq", f"who lives in house {number}", ["Pan"]) for number in range(9)]
    source = Source("nq", "train", 9, 0, tuple(questions))
    manifest = nq_manifest([questions[0].id, "0000000000000000", "1111111111111111"], ["2222222222222222"])
    with pytest.raises(
        SourceError, match=r"^nq, split train: 2 of the manifest's questions .* among them 0000000000000000;"
    ):
        check_source(manifest, source)


def test_further_rows_in_the_train_source_change_nothing() -> None:
    questions = [make_question("nq", f"who lives in house {number}", ["Pan"]) for number in range(9)]
    check_source(nq_manifest([questions[3].id], []), Source("nq", "train", 9, 0, tuple(questions)))


def test_a_row_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"^question 0 is neither in train, validation, test nor dropped"):
        Row("0", "tests")


def test_a_killed_build_leaves_a_whole_manifest_and_a_rerun_writes_the_same_bytes(tmp_path: Path) -> None:
    loop = (
        "import sys; from pathlib import Path; from closedbook.harness import manifests, splits\n"
        "while True: manifests.write_manifest(splits.build('worldfacts'), Path(sys.argv[1]))"
    )
    file, committed = tmp_path / "worldfacts.jsonl", manifests_dir() / "worldfacts.jsonl"
    builder = subprocess.Popen([sys.executable, "-c", loop, str(tmp_path)], stderr=subprocess.DEVNULL)
    while not file.exists():
        time.sleep(0.001)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert file.read_bytes() == committed.read_bytes()
    assert write_manifest(read_manifest("worldfacts"), tmp_path).read_bytes() == committed.read_bytes()
