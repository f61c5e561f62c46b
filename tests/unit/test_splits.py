"""Splits: the partition, deduplication, building and checking, on made-up questions and then on the real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from closedbook.harness import splits
from closedbook.harness.dedup import RETRIEVAL, RULES, Decision, Verdict, decide_by_rules, rules
from closedbook.harness.dedup.decisions import Pair
from closedbook.harness.dedup.embeddings import Embedder
from closedbook.harness.dedup.profiles import Fact, profile
from closedbook.harness.errors import ManifestError, RequestError, SourceError
from closedbook.harness.manifests import Manifest, load_questions, manifests_dir, read_manifest, to_text, write_manifest
from closedbook.harness.questions import Question, make_question
from closedbook.harness.sources import benchmark, benchmarks, read_rows, read_source, source_from_rows
from closedbook.harness.splits import Overlap, Splits, deduplicate, overlaps_text, partition

Mirror = Callable[..., Path]


def ask(question: str, *answers: str) -> Question:
    return make_question("nq", question, answers)


def unlike(number: int) -> Question:
    """A question that shares neither words nor answer with another such one."""
    return ask(f"who guards gate{number}", f"guard{number}")


HERO, HERO_AGAIN = ask("who slew the dragon of brill", "Osric"), ask("the dragon of brill was slain by whom", "Osric")
RIVER, RIVER_AGAIN = ask("what river flows past tharn", "Ouzel"), ask("past tharn which river flows", "the Ouzel")


# --- drawing ---


def test_a_partition_has_the_wanted_sizes_and_the_last_parts_fall_short() -> None:
    parts = partition([unlike(number) for number in range(10)], (4, 3, 5), seed=1)
    assert [len(part) for part in parts] == [4, 3, 3]


def test_another_seed_draws_another_partition() -> None:
    questions = [unlike(number) for number in range(50)]
    one, other = (partition(questions, (25,), seed)[0] for seed in (1, 2))
    assert {question.id for question in one} != {question.id for question in other}


def test_the_seed_and_the_order_it_gives_never_change() -> None:
    assert splits.SEED == 2605
    assert splits.partition_key(2605, "0123456789abcdef")[:12] == "388b3e11e91b"


def test_a_question_shared_by_the_official_splits_is_tests() -> None:
    chosen, test = benchmark("nq"), [{"question": "who slew the dragon?", "answer": ["Osric"]}]
    train = [{"question": "Who slew the dragon", "answer": ["Osric"]}, {"question": "who else", "answer": ["Pan"]}]
    sources = (source_from_rows(chosen, "train", train), source_from_rows(chosen, "validation", test))
    drawn = splits.draw(chosen, *sources, seed=1)
    assert [question.question for question in drawn.train + drawn.validation] == ["who else"]
    assert [question.question for question in drawn.test] == ["who slew the dragon?"]


# --- deduplicating ---


def test_contained_test_questions_leave_test() -> None:
    kept = deduplicate(Splits(train=[HERO, unlike(1)], validation=[], test=[HERO_AGAIN, unlike(2)]))
    assert (kept.train, kept.test) == ([HERO, unlike(1)], [unlike(2)])
    assert [(side, d.question, d.candidate) for side, d in kept.dropped] == [("test", HERO_AGAIN.id, HERO.id)]


def test_their_training_questions_leave_train_on_request() -> None:
    kept = deduplicate(Splits(train=[HERO, unlike(1)], validation=[], test=[HERO_AGAIN, unlike(2)]), drop="train")
    assert (kept.train, kept.test) == ([unlike(1)], [HERO_AGAIN, unlike(2)])
    assert [(side, d.question, d.candidate) for side, d in kept.dropped] == [("train", HERO.id, HERO_AGAIN.id)]


def test_train_is_searched_again_until_no_copy_is_left_behind_nearer_ones() -> None:
    copies = [ask(f"who slew the dragon of brill {'indeed ' * number}", "Osric") for number in range(1, 60)]
    kept = deduplicate(Splits(train=copies, validation=[], test=[HERO]), drop="train")
    assert kept.train == []
    assert len(kept.dropped) == 59


def test_validation_is_deduplicated_against_train_and_test() -> None:
    kept = deduplicate(Splits(train=[HERO], validation=[HERO_AGAIN, RIVER_AGAIN, unlike(1)], test=[RIVER]))
    assert kept.validation == [unlike(1)]
    assert {(side, d.question, d.candidate) for side, d in kept.dropped} == {
        ("validation", HERO_AGAIN.id, HERO.id),
        ("validation", RIVER_AGAIN.id, RIVER.id),
    }


def test_an_unsure_verdict_drops_the_question() -> None:
    def unsure(pairs: Iterable[Pair]) -> Iterator[Decision]:
        return (replace(decision, verdict=Verdict.UNSURE, decider="doubter-1") for decision in rules(pairs))

    kept = deduplicate(Splits(train=[HERO], validation=[], test=[ask("who rode to brill", "Pan")]), decider=unsure)
    assert kept.test == []


def test_every_decision_is_recorded() -> None:
    record: list[Decision] = []
    rider = ask("who rode to brill", "Pan")
    deduplicate(Splits(train=[HERO], validation=[HERO_AGAIN], test=[rider]), record=record.append)
    assert {(d.question, d.candidate, d.verdict) for d in record} == {
        (rider.id, HERO.id, Verdict.NOT_CONTAINED),
        (HERO_AGAIN.id, HERO.id, Verdict.CONTAINED),
        (HERO_AGAIN.id, rider.id, Verdict.NOT_CONTAINED),
    }


# --- building and checking, offline ---


def test_the_committed_manifest_is_what_the_command_builds() -> None:
    assert to_text(splits.build("worldfacts")) == (manifests_dir() / "worldfacts.jsonl").read_text()


def test_a_manifest_names_every_decider_that_took_part() -> None:
    def second(pairs: Iterable[Pair]) -> Iterator[Decision]:
        return (replace(decision, decider="second-1") if decision.drops else decision for decision in rules(pairs))

    assert splits.build("worldfacts", decider=second).decider == f"{RULES} + second-1"


class AllAlike(Embedder):
    """One row for all questions."""

    name = "alike-1"

    def __init__(self) -> None:
        """No model."""

    def __call__(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        return np.ones((len(questions), 1), np.float32)


def test_a_manifest_names_the_model_that_found_candidates() -> None:
    assert splits.build("worldfacts", embed=AllAlike()).retrieval == f"{RETRIEVAL} + dense:alike-1"


@pytest.mark.parametrize("drop", ["test", "train"])
def test_what_is_built_passes_the_check(drop: splits.Drop, tmp_path: Path) -> None:
    write_manifest(splits.build("worldfacts", drop=drop), tmp_path)
    assert splits.check("worldfacts", tmp_path).drop == drop


def lenient(pairs: Iterable[Pair]) -> Iterator[Decision]:
    return (replace(d, verdict=Verdict.NOT_CONTAINED, decider="lenient-1") for d in rules(pairs))


def test_the_check_does_not_overrule_another_decider(tmp_path: Path) -> None:
    kept = splits.build("worldfacts", decider=lenient)
    assert kept.counts["test"] > read_manifest("worldfacts").counts["test"]
    write_manifest(kept, tmp_path)
    assert splits.decided_by_rules(read_manifest("worldfacts"))
    assert not splits.decided_by_rules(splits.check("worldfacts", tmp_path))


def test_whoever_decided_the_check_fails_when_questions_have_been_taken_out(tmp_path: Path) -> None:
    kept = splits.build("worldfacts", decider=lenient)
    write_manifest(replace(kept, rows=kept.rows[1:]), tmp_path)
    with pytest.raises(ManifestError, match=r"^worldfacts: \w+ is not what seed 2605 draws: 1 "):
        splits.check("worldfacts", tmp_path)


def test_the_check_fails_when_what_contains_a_dropped_question_could_not_have_dropped_it(tmp_path: Path) -> None:
    manifest = read_manifest("worldfacts")
    gone = next(row.id for row in manifest.rows if row.dropped_from == "test")
    for other in ("nosuch", manifest.ids("validation")[0]):
        write_manifest(with_row(replace(manifest, decider="lenient-1"), gone, contained_in=other), tmp_path)
        with pytest.raises(ManifestError, match=f"^worldfacts: {gone} left test for {other}, which is not in train; "):
            splits.check("worldfacts", tmp_path)


def with_row(manifest: Manifest, question: str, **changes: Any) -> Manifest:
    return replace(manifest, rows=tuple(replace(r, **changes) if r.id == question else r for r in manifest.rows))


KEPT = {"contained_in": None, "decider": None, "rule": None, "score": None, "dropped_from": None}


@pytest.mark.parametrize("side", ["test", "validation"])
def test_the_check_fails_when_a_contained_question_is_put_back(side: str, tmp_path: Path) -> None:
    manifest = read_manifest("worldfacts")
    back = next(row for row in manifest.rows if row.dropped_from == side)
    write_manifest(with_row(manifest, back.id, split=side, **KEPT), tmp_path)
    with pytest.raises(ManifestError) as error:
        splits.check("worldfacts", tmp_path)
    assert str(error.value).startswith(f"worldfacts: {side} question {back.id} states the fact of ")
    assert str(error.value).endswith("; rebuild with `closedbook splits build worldfacts`")


def test_the_check_fails_when_a_question_is_dropped_without_need(tmp_path: Path) -> None:
    manifest = read_manifest("worldfacts")
    gone = next(row for row in manifest.rows if row.dropped_from == "test")
    kept, other = manifest.ids("test")[0], manifest.ids("train")[0]
    write_manifest(with_row(manifest, kept, **asdict(replace(gone, id=kept, contained_in=other))), tmp_path)
    with pytest.raises(ManifestError, match=f"^worldfacts: {kept} left test for {other}, but the rules say "):
        splits.check("worldfacts", tmp_path)


@pytest.mark.parametrize(("name", "value"), [("verdict", "unsure"), ("rule", "alias"), ("score", 0.5)])
def test_the_check_fails_when_the_reason_for_a_drop_is_another(tmp_path: Path, name: str, value: object) -> None:
    manifest = read_manifest("worldfacts")
    gone = next(row for row in manifest.rows if row.dropped_from == "validation")
    write_manifest(with_row(manifest, gone.id, **{name: value}), tmp_path)
    with pytest.raises(ManifestError, match=f"^worldfacts: {gone.id} left validation for {gone.contained_in}, but "):
        splits.check("worldfacts", tmp_path)


def test_the_check_fails_when_a_question_stands_twice(tmp_path: Path) -> None:
    manifest = read_manifest("worldfacts")
    write_manifest(replace(manifest, rows=(*manifest.rows, manifest.rows[0])), tmp_path)
    with pytest.raises(ManifestError, match=f"^worldfacts: question {manifest.rows[0].id} stands twice"):
        splits.check("worldfacts", tmp_path)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_check_fails_when_questions_have_been_taken_out(split: str, tmp_path: Path) -> None:
    manifest = read_manifest("worldfacts")
    first = manifest.ids(split)[0]
    write_manifest(replace(manifest, rows=tuple(row for row in manifest.rows if row.id != first)), tmp_path)
    with pytest.raises(ManifestError, match=f"^worldfacts: {split} is not what seed 2605 draws: 1 .* them {first}; "):
        splits.check("worldfacts", tmp_path)


def test_the_check_fails_for_another_seed(tmp_path: Path) -> None:
    write_manifest(replace(read_manifest("worldfacts"), seed=1), tmp_path)
    with pytest.raises(ManifestError, match=r"^worldfacts: train is not what seed 1 draws"):
        splits.check("worldfacts", tmp_path)


def copied_manifests(folder: Path) -> Path:
    for path in manifests_dir().glob("*.jsonl"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / splits.OVERLAPS


def test_the_committed_overlaps_belong_to_the_committed_manifests() -> None:
    assert splits.check_overlaps() == committed_overlaps()


def test_overlaps_that_were_made_for_other_manifests_fail_the_check(tmp_path: Path) -> None:
    copied_manifests(tmp_path)
    write_manifest(with_row(read_manifest("worldfacts"), committed_overlaps()[-1].test_id, split="train"), tmp_path)
    with pytest.raises(ManifestError, match=r"overlaps.jsonl was made for other manifests"):
        splits.check_overlaps(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"test_id": "x"}'])
def test_malformed_overlaps_are_one_line(tmp_path: Path, text: str) -> None:
    copied_manifests(tmp_path).write_text(text)
    with pytest.raises(ManifestError, match=r"^[^\n]*overlaps\.jsonl[^\n]*`closedbook splits build`[^\n]*$"):
        splits.check_overlaps(tmp_path)


@pytest.mark.parametrize("name", ["test_benchmark", "test_id", "train_benchmark", "train_id", "rule", "score"])
def test_an_overlap_of_other_types_is_told_by_the_name_of_its_field(tmp_path: Path, name: str) -> None:
    overlap = asdict(committed_overlaps()[0]) | {name: ["tharn"]}
    copied_manifests(tmp_path).write_text(json.dumps(overlap) + "\n")
    with pytest.raises(ManifestError, match=rf"overlaps\.jsonl, line 1: its {name} is \['tharn'\]"):
        splits.check_overlaps(tmp_path)


def test_a_source_is_the_full_one_only_if_every_split_is(nq: Path) -> None:
    full = [read_source("worldfacts", "test")]
    assert splits.variant(benchmark("worldfacts"), full) == "hub-full"
    part = replace(full[0], rows=597)
    assert splits.variant(benchmark("worldfacts"), [full[0], part]) == "mirror-subset"


def test_an_unknown_benchmark_cannot_be_built() -> None:
    with pytest.raises(RequestError, match=r"^no benchmark 'pop'; there are "):
        splits.build("pop")


# --- a partial mirror of a benchmark with an official test split ---


def rows(numbers: range) -> list[dict[str, Any]]:
    return [{"question": f"who guards gate{number}", "answer": [f"guard{number}"]} for number in numbers]


@pytest.fixture
def nq(mirror: Mirror, tmp_path: Path) -> Iterator[Path]:
    """A folder with the manifest of a made-up mirror: 600 train questions, 20 test questions."""
    mirror("nq", "train", rows(range(600)))
    mirror("nq", "validation", rows(range(600, 620)))
    yield write_manifest(splits.build("nq"), tmp_path / "manifests").parent


def test_a_partial_mirror_is_recorded_as_such_and_its_train_split_is_not_pinned(nq: Path) -> None:
    manifest = splits.check("nq", nq)
    assert manifest.variant == "mirror-subset"
    assert {split: pin.pinned for split, pin in manifest.sources.items()} == {"train": False, "validation": True}
    assert manifest.counts == {"test": 20, "train": 100, "validation": 500}
    assert manifest.wanted == {"train": 10000, "validation": 500, "test": 20}


def test_further_train_rows_in_the_source_pass_the_check(nq: Path, mirror: Mirror) -> None:
    before = splits.check("nq", nq).digest
    mirror("nq", "train", rows(range(700, 900)) + rows(range(600))[::-1])
    assert splits.check("nq", nq).digest == before


def test_a_missing_train_row_fails_the_check(nq: Path, mirror: Mirror) -> None:
    gone = make_question("nq", "who guards gate599", ["guard599"]).id
    mirror("nq", "train", rows(range(599)))
    with pytest.raises(SourceError, match=f"^nq, split train: 1 of the manifest's questions .* among them {gone};"):
        splits.check("nq", nq)


def test_a_missing_row_of_a_dropped_question_fails_the_check_too(nq: Path, mirror: Mirror) -> None:
    gone = make_question("nq", "who guards gate599", ["guard599"]).id
    manifest = read_manifest("nq", nq)
    side = next(row.split for row in manifest.rows if row.id == gone)
    write_manifest(with_row(manifest, gone, split="dropped", dropped_from=side, contained_in="x"), nq)
    mirror("nq", "train", rows(range(599)))
    with pytest.raises(SourceError, match=f"among them {gone};"):
        splits.check("nq", nq)


def test_a_changed_test_split_fails_the_check(nq: Path, mirror: Mirror) -> None:
    mirror("nq", "validation", rows(range(600, 621)))
    with pytest.raises(SourceError, match=r"^nq, split validation: the source has changed: expected 20 .* found 21"):
        splits.check("nq", nq)


# --- overlaps ---


def test_a_test_question_whose_fact_another_benchmark_trains_on_is_an_overlap(
    nq: Path, mirror: Mirror, popqa_row: Callable[..., dict[str, Any]]
) -> None:
    trained = load_questions("nq", "train", nq)[0]
    shared = {"problem": f"{trained.question.title()}?", "answer": trained.answers[0]}
    mirror("simpleqa", "test", [shared, {"problem": "Which river flows past Tharn?", "answer": "Ouzel"}])
    mirror("popqa", "test", [popqa_row()])
    for split in ("train", "validation"):
        mirror("triviaqa", split, [{"question": f"Who slew the {split}?", "answer": {"aliases": ["Osric"]}}])
    for name in ("triviaqa", "popqa", "simpleqa", "worldfacts"):
        write_manifest(splits.build(name), nq)
    test_id = make_question("simpleqa", shared["problem"], []).id
    assert splits.find_overlaps(nq) == [Overlap("simpleqa", test_id, "nq", trained.id, "equal", 1.0)]


def test_overlaps_are_written_as_lines_of_ids(tmp_path: Path) -> None:
    overlap = Overlap("nq", "1", "popqa", "2", "equal", 1.0)
    assert overlaps_text([overlap, overlap]).count("\n") == 2
    assert splits.write_overlaps([overlap], tmp_path).read_text() == (
        '{"test_benchmark": "nq", "test_id": "1", "train_benchmark": "popqa", "train_id": "2", '
        '"rule": "equal", "score": 1.0}\n'
    )


# --- the real files ---


@pytest.mark.data
@pytest.mark.parametrize("name", ["nq", "triviaqa", "popqa", "simpleqa", "worldfacts"])
def test_every_committed_manifest_passes_the_check(name: str) -> None:
    assert splits.check(name).counts["train"] > 200


@pytest.mark.data
@pytest.mark.parametrize("name", ["popqa", "simpleqa"])
def test_a_rebuilt_manifest_is_the_committed_one_byte_for_byte(name: str) -> None:
    assert to_text(splits.build(name)) == (manifests_dir() / f"{name}.jsonl").read_text()


@pytest.fixture
def popqa_rows() -> list[dict[str, Any]]:
    return list(read_rows(benchmark("popqa"), "test"))


@pytest.mark.data
def test_shuffled_rows_give_the_same_manifest(popqa_rows: list[dict[str, Any]], mirror: Mirror) -> None:
    shuffled = random.Random(1).sample(popqa_rows, len(popqa_rows))
    mirror("popqa", "test", shuffled)
    assert to_text(splits.build("popqa")) == (manifests_dir() / "popqa.jsonl").read_text()


@pytest.mark.data
def test_popqa_capital_and_capital_of_are_one_relation_and_part_into_no_two_splits() -> None:
    manifest = read_manifest("popqa")
    place = {row.id: row.split for row in manifest.rows}
    stated: dict[str, set[Fact]] = {"train": set(), "test": set()}
    for question in read_source("popqa", "test").questions:
        stated.get(place.get(question.id, ""), set()).update(profile(question).facts)
    assert any(fact[2] == "capital" for fact in stated["train"])
    assert not stated["train"] & stated["test"]


@cache
def committed_overlaps() -> list[Overlap]:
    lines = (manifests_dir() / splits.OVERLAPS).read_text().splitlines()
    return [Overlap(**json.loads(line)) for line in lines]


@pytest.mark.data
def test_every_committed_overlap_is_between_test_and_train_and_decided_so_again() -> None:
    test = {(name, q.id): q for name in benchmarks() for q in load_questions(name, "test")}
    train = {(name, q.id): q for name in benchmarks() for q in load_questions(name, "train")}
    for o in committed_overlaps():
        decision = decide_by_rules(test[o.test_benchmark, o.test_id], train[o.train_benchmark, o.train_id])
        assert o.test_benchmark != o.train_benchmark
        assert (decision.drops, decision.rule, decision.score) == (True, o.rule, o.score)


@pytest.mark.data
def test_no_overlap_is_missing_for_the_smallest_benchmarks() -> None:
    found = splits.find_overlaps(names=("simpleqa", "worldfacts"))
    assert found == [o for o in committed_overlaps() if o.test_benchmark in ("simpleqa", "worldfacts")]
