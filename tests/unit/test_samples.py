"""What of the samples RFT and DPO are trained on: rules by example; laws are in tests/property/test_samples.py."""

import pytest

from closedbook.harness.errors import WorkError
from closedbook.harness.samples import Counts, QuestionSamples, Sample, count
from closedbook.training.samples import Pair, dpo_pairs, rft_examples

ADVICE = "; raise rollouts or temperature, or start from a model that was trained with sft$"


def question(key, *said):
    """The samples of a question, from text, reward and the numbers of the draws."""
    return QuestionSamples(key, tuple(Sample(text, text, reward, tuple(draws)) for text, reward, draws in said))


HAMLET = question(
    "q1",
    ("William Shakespeare", 1.0, [0]),
    ("the Bard", 1.0, [1, 5, 6]),
    ("Kyd", 0.0, [2]),
    ("The Bard!", 1.0, [3]),
    ("Marlowe", None, [4]),
)


def test_examples_are_the_distinct_correct_answers_the_most_frequent_first():
    assert [example.text for example in rft_examples([HAMLET])] == ["the Bard", "William Shakespeare"]
    assert [example.text for example in rft_examples([HAMLET], 1)] == ["the Bard"]


def test_of_answers_that_are_as_frequent_the_one_drawn_first_stands_first():
    asked = question("q1", ("b", 1.0, [1]), ("c", 1.0, [2]), ("d", 1.0, [0]))
    assert [example.text for example in rft_examples([asked])] == ["d", "b", "c"]


def test_an_answer_is_as_frequent_as_all_its_spellings():
    asked = question("q1", ("Kyd", 1.0, [0, 1]), ("Bard", 1.0, [2]), ("the Bard", 1.0, [3]), ("bard", 1.0, [4]))
    assert [example.text for example in rft_examples([asked])] == ["Bard", "Kyd"]


def test_the_answer_in_a_chain_of_thought_decides_what_is_distinct():
    thoughts = [Sample(f"thought {n}", "the Bard" if n else "Bard", 1.0, (n,)) for n in range(3)]
    assert [example.text for example in rft_examples([QuestionSamples("q1", tuple(thoughts))])] == ["thought 0"]


def test_a_pair_is_a_correct_and_an_incorrect_sample():
    pairs = dpo_pairs([HAMLET])
    assert {(pair.chosen.lower().strip("!"), pair.rejected) for pair in pairs} == {
        ("the bard", "Kyd"),
        ("william shakespeare", "Kyd"),
    }
    assert len(pairs) == 2
    assert dpo_pairs([HAMLET], 1) == pairs[:1]


def test_no_pair_has_the_same_answer_twice():
    asked = question("q1", ("the Bard", 1.0, [0]), ("Bard", 0.0, [1]), ("Kyd", 0.0, [2]))
    assert dpo_pairs([asked]) == [Pair("q1", "the Bard", "Kyd")]


def test_the_pair_of_a_question_is_chosen_by_the_seed_and_what_is_drawn_often_is_chosen_often():
    often = question("q", ("Kyd", 0.0, range(1, 9)), ("Bacon", 0.0, [9]), ("the Bard", 1.0, [0]))
    chosen = [dpo_pairs([often], 1, seed)[0].rejected for seed in range(200)]
    assert 0.8 < chosen.count("Kyd") / 200 < 0.97
    assert dpo_pairs([often], 1, 7) == dpo_pairs([often], 1, 7)
    assert dpo_pairs([often]) == dpo_pairs([often], None, 0)


def test_samples_that_leave_nothing_to_train_on_are_told_in_a_line():
    wrong, right = question("q1", ("Kyd", 0.0, [0]), ("Bacon", None, [1])), question("q2", ("the Bard", 1.0, [0]))
    with pytest.raises(
        WorkError,
        match=rf"^no question has a correct sample: .*{ADVICE}",
    ):
        rft_examples([wrong])
    with pytest.raises(
        WorkError,
        match=rf"^no question has both a correct and an incorrect sample: .*{ADVICE}",
    ):
        dpo_pairs([wrong, right])


def test_the_counts_are_told_in_a_line():
    right, wrong = question("q2", ("the Bard", 1.0, [0, 1])), question("q3", ("Kyd", 0.0, [0, 1]))
    ungraded = question("q4", ("Kyd", None, [0, 1]))
    assert count([HAMLET, right, wrong]).describe("2 pairs") == (
        "of 3 questions 1 have no correct sample, 1 no incorrect one; 1 of 11 samples are ungraded; 2 pairs"
    )
    assert count([right]).describe() == "of 1 question 0 have no correct sample, 1 no incorrect one"
    assert count([ungraded]) == Counts(1, never_right=1, always_right=0, samples=2, right=0, ungraded=2)
    assert count([]) == Counts(0, 0, 0, 0, 0, 0)


def test_questions_with_the_same_samples_are_not_all_given_the_same_pair():
    """Else the seed would choose one right and one wrong answer for the whole run."""
    samples = (*(Sample(f"right {n}", f"right {n}", 1.0, (n,)) for n in range(8)), Sample("no", "no", 0.0, (8,)))
    pairs = dpo_pairs([QuestionSamples(f"q{n}", samples) for n in range(20)], 1)
    assert len({pair.chosen for pair in pairs}) > 3
