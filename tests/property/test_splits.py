"""Laws of partition, deduplication and manifests."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closedbook.harness.dedup import Verdict, decide_by_rules
from closedbook.harness.manifests import SPLITS, Manifest, Pin, Row, from_text, to_text
from closedbook.harness.questions import Question, make_question
from closedbook.harness.splits import Drop, Splits, deduplicate, partition

# few words, so that many questions state the same fact in other words, or turned round
WORDS = ["brill", "tharn", "dragon", "slew", "Osric", "river", "ouzel", "bridge", "who", "the"]
QUESTIONS = st.builds(
    lambda words, answers: make_question("nq", " ".join(words), answers),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=4),
    st.lists(st.sampled_from(["Osric", "the ouzel", "Brill", "dragon of Tharn", "7", "B"]), min_size=1, max_size=2),
)
POOLS = st.lists(QUESTIONS, unique_by=lambda question: question.id, max_size=30)
DROPS = pytest.mark.parametrize("drop", ["test", "train"])


def splits_of(questions: list[Question]) -> Splits:
    """A third of the questions in each split."""
    return Splits(train=questions[0::3], validation=questions[1::3], test=questions[2::3])


def ids(questions: list[Question]) -> list[str]:
    return sorted(question.id for question in questions)


@given(POOLS, st.lists(st.integers(0, 12), max_size=4), st.integers(), st.randoms())
def test_a_partition_ignores_the_order_of_the_questions(
    pool: list[Question], sizes: list[int], seed: int, chance: random.Random
) -> None:
    assert partition(chance.sample(pool, len(pool)), sizes, seed) == partition(pool, sizes, seed)


@given(POOLS, st.lists(st.integers(0, 12), max_size=4), st.integers())
def test_parts_are_disjoint_and_as_long_as_wanted_while_questions_last(
    pool: list[Question], sizes: list[int], seed: int
) -> None:
    parts, left = partition(pool, sizes, seed), len(pool)
    for part, size in zip(parts, sizes, strict=True):
        assert len(part) == min(size, left)
        left -= len(part)
    assert len({question.id for part in parts for question in part}) == len(pool) - left


@given(POOLS, QUESTIONS, st.integers())
def test_one_more_question_moves_no_other_in_the_order(pool: list[Question], new: Question, seed: int) -> None:
    others = [question for question in pool if question.id != new.id]
    (before,), (after,) = partition(others, [99], seed), partition([*others, new], [99], seed)
    assert [question for question in after if question.id != new.id] == before


@DROPS
@settings(max_examples=40)
@given(pool=POOLS)
def test_deduplicating_is_idempotent(drop: Drop, pool: list[Question]) -> None:
    once = deduplicate(splits_of(pool), drop)
    assert deduplicate(once, drop) == once


@DROPS
@settings(max_examples=40)
@given(pool=POOLS, chance=st.randoms())
def test_deduplicating_ignores_the_order_of_the_questions(
    drop: Drop, pool: list[Question], chance: random.Random
) -> None:
    drawn = splits_of(pool)
    train, validation, test = (chance.sample(part, len(part)) for part in (drawn.train, drawn.validation, drawn.test))
    shuffled = Splits(train, validation, test)
    one, other = deduplicate(drawn, drop), deduplicate(shuffled, drop)
    for split in SPLITS:
        assert ids(getattr(one, split)) == ids(getattr(other, split))
    assert set(one.dropped) == set(other.dropped)


@DROPS
@settings(max_examples=40)
@given(pool=POOLS)
def test_what_is_kept_and_what_is_dropped_are_all_there_was(drop: Drop, pool: list[Question]) -> None:
    after = deduplicate(splits_of(pool), drop)
    dropped = [decision.question for _, decision in after.dropped]
    assert sorted(dropped + ids(after.train + after.validation + after.test)) == ids(pool)


@settings(max_examples=40)
@given(POOLS)
def test_no_test_question_is_left_whose_fact_train_states(pool: list[Question]) -> None:
    after = deduplicate(splits_of(pool[:20]))  # with no more questions than neighbours, every pair is a candidate
    assert not any(decide_by_rules(test, train).drops for test in after.test for train in after.train)


@given(QUESTIONS, QUESTIONS)
def test_a_verdict_is_symmetric(one: Question, other: Question) -> None:
    there, back = decide_by_rules(one, other), decide_by_rules(other, one)
    assert (there.verdict, there.rule, there.score) == (back.verdict, back.rule, back.score)


TOKENS = st.text("abcdeéüñ019", min_size=1, max_size=6)
Change = Callable[[str], str]
CHANGES: list[Change] = [str.upper, str.title, lambda t: t.replace(" ", " \u00a0 "), lambda t: t.replace(" ", ", ")]


@given(
    st.lists(TOKENS, min_size=1, max_size=6),
    st.lists(TOKENS, min_size=1),
    st.lists(st.sampled_from(CHANGES)),
    st.sampled_from(["", "?", " !", "..."]),
)
def test_a_question_is_contained_in_every_variant_of_itself(
    words: list[str], answers: list[str], changes: list[Change], mark: str
) -> None:
    text = " ".join(words)
    question = make_question("nq", text, answers)
    for change in changes:
        text = change(text)
    decision = decide_by_rules(question, make_question("nq", f"“{text}{mark}”", [answers[-1].upper()]))
    assert (decision.verdict, decision.rule) == (Verdict.CONTAINED, "equal")


ID = st.text("0123456789abcdef", min_size=16, max_size=16)
NAME = st.text(max_size=9)
KEPT = st.builds(Row, ID, st.sampled_from(SPLITS))
DROPPED = st.builds(
    Row,
    ID,
    st.just("dropped"),
    st.sampled_from(SPLITS),
    ID,
    NAME,
    NAME,
    NAME,
    st.floats(0, 1).map(lambda x: round(x, 4)),
)
COUNT = st.integers(0, 10**6)
MANIFESTS = st.builds(
    Manifest,
    benchmark=NAME,
    variant=NAME,
    seed=st.integers(),
    drop=st.sampled_from(["test", "train"]),
    decider=NAME,
    retrieval=NAME,
    wanted=st.dictionaries(st.sampled_from(SPLITS), COUNT),
    sources=st.dictionaries(NAME, st.builds(Pin, st.booleans(), COUNT, COUNT, COUNT, COUNT, ID)),
    rows=st.lists(KEPT | DROPPED, unique_by=lambda row: row.id).map(
        lambda rows: tuple(sorted(rows, key=lambda r: r.id))
    ),
)


@given(MANIFESTS)
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    assert from_text(to_text(manifest), "here") == manifest


@given(MANIFESTS)
def test_a_written_manifest_is_sorted_and_one_line_a_question(manifest: Manifest) -> None:
    lines = to_text(manifest).splitlines()
    assert len(lines) == 1 + len(manifest.rows)
    assert all(one < other for one, other in pairwise(line[8:24] for line in lines[1:]))
