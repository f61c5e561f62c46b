"""Laws of the rules decider: what holds for any question."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from closedbook.harness.dedup import Verdict, compare, decide_by_rules, strongest
from closedbook.harness.dedup.profiles import normal_words, says_something
from closedbook.harness.dedup.rules import REASONS
from closedbook.harness.questions import Question, make_question
from closedbook.harness.sources import benchmarks

WORDS = st.text(string.ascii_letters + "äßéО中ı", min_size=1, max_size=9) | st.sampled_from(
    ["who", "what", "capital", "first", "second", "most", "not", "7", "1992", "2001", "wrote", "won", "the", "St.",
     "U.S.", "Osric", "Tharn"]
)  # fmt: skip
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
QUESTIONS = st.builds(
    make_question,
    st.sampled_from(["nq", "popqa", "ours"]),
    TEXTS,
    st.lists(TEXTS | st.sampled_from(["7", "May 5, 1992", "Osric Vane"]), min_size=1, max_size=3),
)


@given(QUESTIONS)
def test_a_question_is_contained_in_itself(question: Question) -> None:
    assert decide_by_rules(question, question).verdict is Verdict.CONTAINED


@given(QUESTIONS, st.sampled_from([str.upper, str.title, str.swapcase]), st.sampled_from(["?", " !", "...", "\t"]))
def test_case_spacing_and_punctuation_change_nothing(question: Question, case: Callable[[str], str], tail: str) -> None:
    if not question.question.isascii():  # some letters have more than two cases
        return
    written = "  ".join(case(question.question).split()) + tail
    assert decide_by_rules(question, make_question(question.benchmark, written, question.answers)).drops


@given(QUESTIONS, QUESTIONS)
def test_the_verdict_is_the_same_both_ways(a: Question, b: Question) -> None:
    one, other = decide_by_rules(a, b), decide_by_rules(b, a)
    assert (one.verdict, one.rule, one.score) == (other.verdict, other.rule, other.score)
    assert 0 <= one.score <= 1
    assert one.rule in REASONS


POOLS = st.lists(QUESTIONS, unique_by=lambda question: question.id, min_size=1, max_size=20)


@given(POOLS, POOLS, QUESTIONS)
def test_more_training_questions_never_free_a_test_question(
    queries: list[Question], pool: list[Question], new: Question
) -> None:
    assert strongest(compare(queries, pool)).keys() <= strongest(compare(queries, [*pool, new])).keys()


@given(POOLS, POOLS, st.randoms())
def test_the_order_of_the_rows_changes_nothing(
    queries: list[Question], pool: list[Question], chance: random.Random
) -> None:
    shuffled = chance.sample(queries, len(queries)), chance.sample(pool, len(pool))
    assert strongest(compare(queries, pool)) == strongest(compare(*shuffled))


# a name that is a common word too, such as Money, is not looked for in another text
NAMES = (
    st.text(string.ascii_lowercase, min_size=3, max_size=9)
    .filter(lambda name: says_something(normal_words(name)))
    .map(str.capitalize)
)
FORMS = benchmarks()["popqa"].forms


def popqa(form: str, subject: str, *answers: str) -> Question:
    return make_question("popqa", form.format(subject), answers)


@given(st.sampled_from(list(FORMS.values())), NAMES, NAMES, NAMES)
def test_two_things_of_one_name_with_other_answers_are_never_contained(
    form: str, subject: str, answer: str, other: str
) -> None:
    if answer != other:
        decision = decide_by_rules(popqa(form, subject, answer), popqa(form, subject, other))
        assert decision.verdict is Verdict.NOT_CONTAINED


@given(NAMES, NAMES, st.lists(NAMES, max_size=2))
def test_a_capital_turned_round_is_always_contained(town: str, realm: str, further: list[str]) -> None:
    forward = popqa(FORMS["capital"], realm, town, *further)
    backward = popqa(FORMS["capital of"], town, *further, realm)
    assert decide_by_rules(forward, backward).verdict is Verdict.CONTAINED


IN_OTHER_WORDS = {
    "director": ["Who directed {0}?", "{0} was directed by whom?", "Which film did {1} direct?"],
    "screenwriter": [
        "Who wrote the screenplay for {0}?",
        "{0} has which screenwriter?",
        "{1} was the screenwriter for what?",
    ],
    "producer": ["Who produced {0}?", "By whom was {0} produced?", "What was produced by {1}?"],
    "composer": ["Who composed {0}?", "By which composer is {0}?", "What did {1} compose?"],
    "author": ["Who wrote {0}?", "Which author wrote the book {0}?", "Which book is {1} the author of?"],
    "genre": ["What is the genre of {0}?", "To which genre does {0} belong?"],
    "country": ["Which country is {0} in?", "{0} is located in which country?"],
    "capital": ["Which city is the capital of {0}?", "{0} has which capital?", "Of what is {1} the capital?"],
    "capital of": [
        "Of what is {0} the capital?",
        "{0} is the capital city of which country?",
        "What is the capital of {1}?",
    ],
    "place of birth": ["Where was {0} born?", "What is the birthplace of {0}?", "Who was born in {1}?"],
    "father": ["Who was {0}'s father?", "Whose child is {0}, by the father?", "Of whom is {1} the father?"],
    "mother": ["Who was {0}'s mother?", "What is the name of the mother of {0}?", "Whose mother is {1}?"],
    "sport": ["Which sport does {0} play?", "{0} plays which sport?"],
    "occupation": ["What is the occupation of {0}?", "Which occupation does {0} have?"],
    "religion": ["What religion does {0} have?", "Which religion is {0}?"],
    "color": ["What is the color of {0}?", "Which colour is {0}?"],
}
REPHRASED = st.sampled_from([(form, other) for name, form in FORMS.items() for other in IN_OTHER_WORDS[name]])


@given(REPHRASED, NAMES, NAMES)
def test_a_popqa_fact_in_other_words_or_turned_round_is_always_contained(
    rephrased: tuple[str, str], subject: str, answer: str
) -> None:
    form, other = rephrased
    gold = subject if "{1}" in other else answer
    for benchmark in ("nq", "popqa"):
        asked = make_question(benchmark, other.format(subject, answer), [gold])
        assert decide_by_rules(popqa(form, subject, answer), asked).drops
