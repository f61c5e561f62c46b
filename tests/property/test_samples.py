"""Laws of what RFT and DPO are trained on: all of it was sampled and graded, nothing twice, whatever the order."""

from __future__ import annotations

from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st

from closedbook.harness.errors import WorkError
from closedbook.harness.samples import QuestionSamples, Sample, count
from closedbook.harness.shards import Shard
from closedbook.harness.text import answer_key
from closedbook.training.samples import Pair, dpo_pairs, rft_examples

TEXTS = ["the Bard", "Bard", "bard!", "Kyd", "kyd", "Marlowe", "Bacon", ""]
LIMITS = st.none() | st.integers(1, 4)
SEEDS = st.integers(0, 3)


@st.composite
def questions(draw: st.DrawFn) -> list[QuestionSamples]:
    """Up to five questions with up to twelve samples each, of few texts; a text of a question has one reward."""
    lines = []
    for number in range(draw(st.integers(1, 5))):
        drawn = draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12))
        samples = [
            Sample(
                text,
                text,
                draw(st.sampled_from([1.0, 0.0, None])),
                tuple(at for at, said in enumerate(drawn) if said == text),
            )
            for text in dict.fromkeys(drawn)
        ]
        lines.append(QuestionSamples(f"q{number}", tuple(samples)))
    return lines


def rewards(lines: list[QuestionSamples]) -> dict[tuple[str, str], float | None]:
    return {(line.id, sample.text): sample.reward for line in lines for sample in line.samples}


def pairs_or_none(lines: list[QuestionSamples], limit: int | None = None, seed: int = 0) -> list[Pair]:
    try:
        return dpo_pairs(lines, limit, seed)
    except WorkError:
        return []


@given(questions(), LIMITS)
def test_every_example_was_sampled_and_graded_right_and_none_stands_twice(
    lines: list[QuestionSamples], limit: int | None
) -> None:
    known = rewards(lines)
    right = {(key, answer_key(text)) for (key, text), reward in known.items() if reward == 1}
    assume(right)
    examples = rft_examples(lines, limit)
    assert all(known[example] == 1 for example in examples)
    distinct = {(example.id, answer_key(example.text)) for example in examples}
    assert len(distinct) == len(examples)
    assert distinct == right if limit is None else distinct <= right
    wanted = Counter(key for key, _ in right)
    assert Counter(example.id for example in examples) == {key: min(n, limit or n) for key, n in wanted.items()}


@given(questions(), LIMITS, SEEDS)
def test_every_pair_is_right_against_wrong_of_one_question_and_none_stands_twice(
    lines: list[QuestionSamples], limit: int | None, seed: int
) -> None:
    known = rewards(lines)
    possible = {
        (key, answer_key(one), answer_key(other))
        for (key, one), reward in known.items()
        for (of, other), against in known.items()
        if key == of and (reward, against) == (1, 0) and answer_key(one) != answer_key(other)
    }
    pairs = pairs_or_none(lines, limit, seed)
    assert all((known[pair.id, pair.chosen], known[pair.id, pair.rejected]) == (1, 0) for pair in pairs)
    distinct = {(pair.id, answer_key(pair.chosen), answer_key(pair.rejected)) for pair in pairs}
    assert len(distinct) == len(pairs)
    assert distinct <= possible
    wanted = Counter(key for key, _, _ in possible)
    assert Counter(pair.id for pair in pairs) == {key: min(n, limit or n) for key, n in wanted.items()}


@given(questions(), LIMITS, SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_the_lines_changes_nothing(
    lines: list[QuestionSamples], limit: int | None, seed: int, rng: object
) -> None:
    other = list(lines)
    rng.shuffle(other)  # type: ignore[attr-defined]
    assert pairs_or_none(lines, limit, seed) == pairs_or_none(other, limit, seed)
    assert count(lines) == count(other)
    if count(lines).right:
        assert rft_examples(lines, limit) == rft_examples(other, limit)


@given(questions())
def test_counts_add_up(lines: list[QuestionSamples]) -> None:
    counts = count(lines)
    wrong = sum(len(s.draws) for line in lines for s in line.samples if s.reward == 0)
    assert counts.right + wrong + counts.ungraded == counts.samples == sum(line.drawn for line in lines)
    with_both = sum({1.0, 0.0} <= {sample.reward for sample in line.samples} for line in lines)
    assert counts.never_right + counts.always_right + with_both == counts.questions == len(lines)
    assert len({pair.id for pair in pairs_or_none(lines)}) <= with_both


@given(st.lists(st.integers(), unique=True), st.integers(1, 9))
def test_every_question_is_in_one_shard_and_shards_differ_by_one_question_at_most(every: list[int], of: int) -> None:
    parts = [Shard(number, of).part(every) for number in range(1, of + 1)]
    assert sorted(item for part in parts for item in part) == sorted(every)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(), unique=True), st.integers(0, 20), st.integers(1, 9))
def test_a_shard_of_more_questions_begins_with_that_of_fewer(every: list[int], limit: int, of: int) -> None:
    for number in range(1, of + 1):
        few = Shard(number, of).part(every[:limit])
        assert few == Shard(number, of).part(every)[: len(few)]
