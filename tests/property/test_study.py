"""The study's analyses: every question is counted once, and in the place where it belongs."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.statistics import wilson
from closedbook.harness.study.accessibility import (
    bucket,
    bucket_names,
    buckets,
    gains,
    recheck,
    repair_rate,
)
from closedbook.harness.study.majority import elected, majority, votes

RIGHT_OF = st.integers(1, 600).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
REWARDS = st.sampled_from([0.0, 1.0, None])


def question(rewards, id="q"):
    """One text for each reward, drawn where it stands in the list."""
    draws = {reward: tuple(at for at, given in enumerate(rewards) if given == reward) for reward in (1.0, 0.0, None)}
    return QuestionSamples(
        id, tuple(Sample(f"{reward}", f"{reward}", reward, of) for reward, of in draws.items() if of)
    )


@given(RIGHT_OF)
def test_a_bucket_holds_what_its_name_says(right_of):
    right, n = right_of
    low, _, high = bucket(right, n).partition("-")
    assert int(low) <= right <= int(high or low)
    assert int(high or low) < max(2 * int(low), 1) or right == 0 or right == n


@given(st.integers(1, 600))
def test_buckets_cover_all_counts_in_order_without_overlap(n):
    edges = [tuple(map(int, name.split("-"))) for name in bucket_names(n)]
    assert [edge[0] for edge in edges] == [0, *(edge[-1] + 1 for edge in edges[:-1])]
    assert edges[-1] == (n,)
    assert edges[0] == (0,)


def test_the_buckets_of_the_study():
    assert bucket_names(128) == ["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127", "128"]


@pytest.mark.parametrize(("right", "n"), [(-1, 4), (5, 4)])
def test_counts_that_cannot_be_have_no_bucket(right, n):
    with pytest.raises(ValueError, match="cannot be right"):
        bucket(right, n)
    with pytest.raises(ValueError, match="make no buckets"):
        bucket_names(0)


@given(st.lists(REWARDS, min_size=4, max_size=12))
def test_a_bucket_is_that_of_the_first_n_samples_whatever_those_without_a_grade_are(rewards):
    found = buckets([question(rewards)], 4)
    right, failed = (rewards[:4].count(reward) for reward in (1.0, None))
    possible = {bucket(right + of, 4) for of in range(failed + 1)}
    assert found == ({"q": possible.pop()} if len(possible) == 1 else {})


def test_a_failure_that_decides_nothing_leaves_a_question_in_its_bucket():
    rewards = [1.0] * 4 + [0.0] * 11 + [None]
    assert buckets([question(rewards)], 16) == {"q": "4-7"}


def test_too_few_samples_make_no_bucket():
    with pytest.raises(ValueError, match="question q has 3 samples, not 4"):
        buckets([question([1.0, 0.0, 0.0])], 4)


ANSWERS = st.dictionaries(
    st.sampled_from([f"q{at}" for at in range(12)]),
    st.tuples(st.sampled_from(bucket_names(8)), *[st.sampled_from([0.0, 1.0, math.nan])] * 2),
)


@given(ANSWERS)
def test_gains_of_the_buckets_add_up_to_the_whole_gain(answers):
    of = {id: name for id, (name, _, _) in answers.items()}
    before, after = ({id: row[at] for id, row in answers.items()} for at in (1, 2))
    *parts, whole = gains(of, before, after, bucket_names(8))
    assert whole.bucket == "all"
    assert sum(part.paired.gained for part in parts) == whole.paired.gained
    assert sum(part.paired.lost for part in parts) == whole.paired.lost
    assert sum(part.before.n for part in parts) == whole.before.n == whole.after.n
    if whole.share.value is None:
        assert whole.paired.gained <= whole.paired.lost
    else:
        assert whole.share.value == 1
        assert sum(part.share.value for part in parts) == pytest.approx(1)


def test_a_share_of_a_gain_has_an_interval_where_the_gain_is_sure_and_none_where_it_is_not():
    of = {f"q{at}": "0" if at < 30 else "1" for at in range(60)}
    before = dict.fromkeys(of, 0.0)
    sure = {id: float(int(id[1:]) % 3 == 0) for id in of}
    zero, _, whole = gains(of, before, sure, ["0", "1"])
    assert zero.share.value == 0.5
    assert 0.2 < zero.share.low < 0.5 < zero.share.high < 0.8
    assert (whole.share.value, whole.share.low) == (1.0, None)
    zero, *_ = gains(of, before, {**before, "q0": 1.0}, ["0", "1"])
    assert (zero.share.value, zero.share.low) == (1.0, None)


def test_a_gain_is_from_before_to_after():
    zero, whole = gains(
        dict.fromkeys("abcd", "0"),
        dict.fromkeys("abcd", 0.0),
        dict(zip("abcd", (0.0, 0.0, 0.0, 1.0), strict=True)),
        ["0"],
    )
    for found in (zero, whole):
        assert (found.before, found.after, found.paired.difference.value) == (wilson(0, 4), wilson(1, 4), 0.25)


def test_a_share_of_the_gain_draws_the_questions_of_one_fact_together():
    of = {f"q{at}": "0" if at < 30 else "1" for at in range(60)}
    after = {id: float(int(id[1:]) % 3 == 0) for id in of}
    alone, *_ = gains(of, dict.fromkeys(of, 0.0), after, ["0", "1"])
    facts = {f"{id}-{copy}": id for id in of for copy in range(4)}
    named, later = {copy: of[id] for copy, id in facts.items()}, {copy: after[id] for copy, id in facts.items()}
    copied, *_ = gains(named, dict.fromkeys(facts, 0.0), later, ["0", "1"], facts)
    ends = [(gain.share.value, gain.share.low, gain.share.high) for gain in (alone, copied)]
    assert ends[1] == pytest.approx(ends[0])


def test_questions_of_one_fact_are_one_piece_of_evidence_for_a_buckets_gain():
    of = {f"q{at}": "0" for at in range(8)}
    before, after = dict.fromkeys(of, 0.0), dict.fromkeys(of, 1.0)
    alone, _ = gains(of, before, after, ["0"])
    together, _ = gains(of, before, after, ["0"], dict.fromkeys(of, "africa"))
    assert (alone.paired.p, together.paired.p) == (2 / 2**8, 1.0)


def test_repaired_is_what_no_sample_and_no_greedy_answer_knew_before():
    of = {"a": "0", "b": "0", "c": "0", "d": "1", "e": "0"}
    before = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0, "e": math.nan}
    after = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0, "e": 1.0}
    rate = repair_rate(of, before, after)
    assert (rate.value, rate.n) == (0.5, 2)


def test_further_samples_part_the_rare_from_the_absent():
    rare, absent, known = [0.0] * 4 + [0.0, 1.0, 0.0, 0.0], [0.0] * 8, [1.0] + [0.0] * 7
    every = [question(rare, "a"), question(absent, "b"), question(known, "c")]
    found = recheck(every, 4, 4)
    assert (found.found.value, found.found.n) == (0.5, 2)
    assert found.missed == pytest.approx(0.75**4)
    with pytest.raises(ValueError, match="question a has 8 samples, not 9"):
        recheck(every, 4, 5)


def test_what_the_judge_failed_on_is_not_found_and_counted_as_what_might_have_been():
    found, hidden = [0.0] * 4 + [1.0, None, 0.0, 0.0], [0.0] * 4 + [0.0, None, 0.0, 0.0]
    every = [question(found, "a"), question(hidden, "b"), question([0.0] * 8, "c")]
    again = recheck(every, 4, 4)
    assert (again.found, again.hidden) == (wilson(1, 3), 1)


def test_a_fact_said_once_in_256_times_is_in_none_of_128_samples_in_61_of_100_cases():
    assert recheck([], 128, 256).missed == pytest.approx(0.606, abs=1e-3)


TEXTS = st.lists(st.sampled_from(["Rome", "rome!", "Paris", "the Paris", "Gorlim"]), min_size=1, max_size=9)


def said(texts, rewards=None):
    draws = {text: tuple(at for at, other in enumerate(texts) if other == text) for text in texts}
    known = rewards or {}
    return QuestionSamples("q", tuple(Sample(text, text, known.get(text, 0.0), of) for text, of in draws.items()))


@given(TEXTS)
def test_nobody_has_more_votes_than_the_elected_answer(texts):
    from closedbook.harness.text import answer_key

    keys = [answer_key(text) for text in texts]
    winner = answer_key(elected(said(texts)).answer)
    assert all(keys.count(winner) >= keys.count(other) for other in keys)
    tied = [key for key in keys if keys.count(key) == keys.count(winner)]
    assert winner == tied[0]


@given(TEXTS, st.integers(1, 9))
def test_every_sample_votes_once_in_a_whole_group(texts, k):
    assume(k <= len(texts))
    assert len(votes(said(texts), k)) == len(texts) // k


def test_a_group_votes_for_itself():
    texts = ["Rome", "Paris", "the Paris", "Rome", "Rome", "Paris"]
    assert votes(said(texts, {"Rome": 1.0, "Paris": 0.0, "the Paris": 0.0}), 3) == [0.0, 1.0]


@given(TEXTS)
def test_a_judge_that_calls_no_two_answers_equal_changes_no_vote(texts):
    assert elected(said(texts), lambda one, other: False) == elected(said(texts))


@given(TEXTS)
def test_where_all_answers_are_equal_the_commonest_text_is_elected(texts):
    most = max(map(texts.count, texts))
    assert texts.count(elected(said(texts), lambda one, other: True).text) == most


def test_equal_answers_vote_together():
    texts = ["Rome", "Paris", "Rome", "City of Paris", "Paris, France"]
    assert elected(said(texts)).text == "Rome"
    assert elected(said(texts), lambda one, other: "Paris" in one and "Paris" in other).text == "Paris"


def test_an_answer_joins_one_other_and_links_no_third():
    texts = ["Ann Smith", "Bob Smith", "Tharn", "Tharn", "Tharn", "Smith"]
    assert elected(said(texts), lambda one, other: one in other or other in one).text == "Tharn"


def test_another_choice_may_stand_in_for_the_vote():
    texts = ["Rome", "Paris", "Rome", "Rome"]
    rewards = {"Rome": 1.0, "Paris": 0.0}
    assert votes(said(texts, rewards), 2, lambda group: group.samples[-1]) == [0.0, 1.0]


def test_one_vote_is_a_mean_over_samples_and_failures_leave_it():
    questions = [said(["Rome", "Paris"], {"Rome": 1.0}), said(["Gorlim", "Gorlim"], {"Gorlim": None})]
    (one,) = majority(questions, [1])
    assert (one.accuracy.value, one.accuracy.n) == (0.5, 1)


def test_more_votes_than_samples_are_refused():
    with pytest.raises(ValueError, match="question q has 2 samples, too few for 3 votes"):
        votes(said(["Rome", "Paris"]), 3)
    with pytest.raises(ValueError, match="no samples to vote"):
        elected(QuestionSamples("q", ()))
