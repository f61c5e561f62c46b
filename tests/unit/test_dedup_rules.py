"""The rules decider: each rule on the pair it is for, and on the pair beside it that it must leave alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from closedbook.harness.dedup.decisions import Verdict
from closedbook.harness.dedup.profiles import profile
from closedbook.harness.dedup.rules import REASONS, RULES, Balance, agree, balance, decide_by_rules, overlap, rules
from closedbook.harness.questions import Question, make_question

YES, NO, PERHAPS = Verdict.CONTAINED, Verdict.NOT_CONTAINED, Verdict.UNSURE


def ask(question: str, *answers: str, benchmark: str = "nq", metadata: Mapping[str, str] | None = None) -> Question:
    return make_question(benchmark, question, answers, metadata)


def fact(subject: str, relation: str, object_: str, question: str = "What is it?") -> Question:
    row = {"subject": subject, "relation": relation, "object": object_}
    return ask(question, object_, benchmark="popqa", metadata=row)


def rule(question: Question, candidate: Question) -> tuple[str, Verdict]:
    decision, turned = decide_by_rules(question, candidate), decide_by_rules(candidate, question)
    assert (decision.rule, decision.verdict, decision.score) == (turned.rule, turned.verdict, turned.score)
    assert 0 <= decision.score <= 1
    return decision.rule, decision.verdict


def same_answer(question: str, candidate: str, answer: str = "Osric Vane") -> tuple[str, Verdict]:
    return rule(ask(question, answer), ask(candidate, answer))


def test_the_docs_tell_every_rule_in_the_order_in_which_they_are_tried() -> None:
    page = (Path(__file__).parents[2] / "docs" / "dedup.md").read_text()
    table = page.split("| rule | verdict | when |")[1].split("\n\n")[0]
    assert [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])] == [
        *REASONS
    ]


def test_answers_that_are_mentioned_in_another_connection_do_not_turn_a_question_round() -> None:
    who = "who led the tharn rebellion against the gorlim dynasty before osric burned the harbour"
    which = "which ancient chronicler did smolt harrow hire to praise the winter palace of osric"
    assert rule(ask(who, "Smolt Harrow"), ask(which, "Osric")) == ("mention", NO)


# --- facts and forms ---


def test_capital_and_capital_of_state_one_fact_in_reverse() -> None:
    forward, backward = fact("s/1", "capital", "s/2"), fact("s/2", "capital of", "s/1", "Of what is it the capital?")
    assert profile(forward).facts == profile(backward).facts == {("popqa", "s/1", "capital", "s/2")}
    assert rule(forward, backward) == ("fact", YES)


def test_structured_facts_decide_before_words_do() -> None:
    assert rule(fact("s/1", "genre", "o/1"), fact("s/2", "genre", "o/1")) == ("fact", NO)
    assert rule(fact("s/1", "genre", "o/1"), fact("s/1", "genre", "o/1", "Else?")) == ("fact", YES)


def test_structured_facts_of_two_benchmarks_are_not_compared() -> None:
    row = {"subject": "Brobdingnag", "relation": "capital", "object": "Lorbrulgrud"}
    one, other = (ask("What is it?", "Lorbrulgrud", benchmark=b, metadata=row) for b in ("popqa", "worldfacts"))
    assert rule(one, other) == ("equal", YES)


@pytest.mark.parametrize(
    "row", [{}, {"subject": "s"}, {"subject": "s", "relation": "r"}, {"relation": "r", "object": "o"}]
)
def test_a_row_without_all_three_parts_states_no_fact(row: dict[str, str]) -> None:
    assert profile(ask("Who?", "x", benchmark="popqa", metadata=row)).facts == frozenset()


def test_a_question_of_an_unknown_benchmark_is_decided_too() -> None:
    row = {"subject": "s", "relation": "r", "object": "o"}
    assert profile(ask("Who?", "x", benchmark="ours", metadata=row)).facts == {("ours", "s", "r", "o")}


def popqa(question: str, *answers: str) -> Question:
    return ask(question, *answers, benchmark="popqa")


def test_a_form_tells_relation_and_subject() -> None:
    form = profile(popqa("What is Lorbrulgrud the capital of?", "Brobdingnag")).form
    assert form == ("popqa", "capital of", "lorbrulgrud", "capital")
    assert profile(popqa("What is Old Lorbrulgrud the capital of?", "Brobdingnag")).form.subject == "old lorbrulgrud"
    assert profile(popqa("What is the capital of Brobdingnag?", "Lorbrulgrud")).form.inverse == "capital of"
    assert profile(ask("What is Lorbrulgrud the capital of?", "Brobdingnag")).form is None


def test_in_one_form_an_article_makes_another_title() -> None:
    assert rule(popqa("Who was the director of Smolt?", "Pan"), popqa("Who was the director of The Smolt?", "Pan")) == (
        "form",
        NO,
    )


def test_in_one_form_another_relation_of_the_same_thing_is_another_fact() -> None:
    pair = popqa("Who was the director of Smolt?", "Pan"), popqa("Who was the producer of Smolt?", "Pan")
    assert rule(*pair) == ("form", NO)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["Pan", "Osric"], ("equal", YES)), (["Pan"], ("equal", PERHAPS)), (["Smit"], ("homonym", NO))],
)
def test_in_one_form_the_same_subject_is_the_same_thing_as_far_as_its_answers_are(
    answers: list[str], expected: tuple[str, Verdict]
) -> None:
    assert (
        rule(
            popqa("Who was the composer of Tharnsong?", "Pan", "Osric"),
            popqa("who was the composer of tharnsong", *answers),
        )
        == expected
    )


def test_a_form_turned_round_states_the_fact_only_if_each_names_the_other_one() -> None:
    capital = popqa("What is the capital of Brobdingnag?", "Lorbrulgrud")
    assert rule(capital, popqa("What is Lorbrulgrud the capital of?", "Laputa", "Brobdingnag")) == ("reversal", YES)
    assert rule(capital, popqa("What is Lorbrulgrud the capital of?", "Laputa")) == ("form", NO)


def test_a_form_is_compared_by_its_words_with_what_fills_no_form_of_its_benchmark() -> None:
    capital = popqa("What is the capital of Brobdingnag?", "Lorbrulgrud")
    assert rule(capital, popqa("Lorbrulgrud is the capital city of which realm?", "Brobdingnag")) == ("reversal", YES)
    assert rule(capital, ask("Which city is the capital of Brobdingnag?", "Lorbrulgrud")) == ("paraphrase", YES)


# --- the same words ---


def test_the_same_words_with_a_common_answer_are_contained() -> None:
    assert rule(ask("Who, slew Smolt?", "Osric"), ask("who slew smolt", "Pan", "osric")) == ("equal", YES)


def test_the_same_words_with_other_answers_are_two_things_of_one_name() -> None:
    assert rule(ask("What is Avon?", "river"), ask("what is avon", "town")) == ("homonym", NO)


# --- answers ---


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("Osric Vane", "osric vane!"),
        ("Vane, Osric", "Osric Vane"),
        ("seven", "7"),
        ("1,000 km", "1000 kilometres"),
        ("2001", "June 22, 2001"),
        ("July 1932", "6 July 1932"),
        ("Wednesday, 5 September 1666", "5 September 1666"),
        ("5 September", "September 5, 1666"),
        ("2017 season", "2017"),
        ("Vane", "Osric Vane"),
        ("in the stomach", "stomach"),
        ("house, white", "white house"),
        ("The The", "the the"),
    ],
)
def test_answers_agree_as_texts_as_values_and_as_parts(ours: str, theirs: str) -> None:
    assert agree(profile(ask("who", ours)), profile(ask("who", theirs)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("Osric", "Pan"),
        ("14", "October 14, 2007"),
        ("July 1932", "July 1933"),
        ("September", "5 September 1666"),
        ("10 km", "10 miles"),
        ("14", "14 others"),
        ("1712", "1712 km"),
        ("the first one", "the first man"),
    ],
)
def test_answers_that_share_no_more_than_a_digit_or_a_common_word_do_not_agree(ours: str, theirs: str) -> None:
    assert not agree(profile(ask("who", ours)), profile(ask("who", theirs)))


def test_long_lists_of_aliases_agree_by_whole_names_only() -> None:
    aliases = [f"Osric Vane of Tharn{number}" for number in range(9)]
    assert not agree(profile(ask("who", *aliases)), profile(ask("who", *(f"Tharn{n}" for n in range(9)))))
    assert agree(profile(ask("who", *aliases)), profile(ask("who", "Tharn3")))
    others = ["Osric", *(f"Pan{n}" for n in range(8))]
    assert agree(profile(ask("who", *aliases)), profile(ask("who", *others[:8])))  # eight are no long list yet
    assert not agree(profile(ask("who", *aliases)), profile(ask("who", *others)))


def test_other_answers_are_another_fact_however_alike_the_questions() -> None:
    assert rule(ask("who slew smolt", "Osric"), ask("who slew smilt", "Pan")) == ("answer", NO)
    assert rule(ask("who slew smolt", "Osric"), ask("which realm did Osric rule", "Tharn")) == ("answer", NO)


def test_a_question_without_answers_is_never_more_than_an_open_case() -> None:
    assert rule(ask("who slew smolt"), ask("Who slew Smolt?", "Osric")) == ("equal", PERHAPS)
    assert rule(ask("who slew the monster smolt"), ask("who slew smolt", "Osric")) == ("paraphrase", PERHAPS)
    assert rule(ask("who slew smolt"), ask("who built tharn", "Osric")) == ("subject", NO)


# --- paraphrase ---


@pytest.mark.parametrize(
    ("question", "candidate"),
    [
        ("when did the bridge of tharn open", "in what year was tharn bridge opened"),
        ("who sang smolt", "who sings the song smolt"),
        ("who wrote the tharn chronicles", "author of the tharn chronicles"),
        ("when did the daylight law of tharn start", "when did the day light law of tharn start"),
        ("how many episodes in season seven of tharn", "how many episodes of tharn season 7"),
        ("who won the 2nd battle of tharn", "who won the second battle of tharn"),
        ("who played the beast in tharnberg", "who played the beast in tharnburg"),
        ("who founded the Tharn Press in 1891", "Which poet and artist set up the Tharn Press?"),
        ("who plays gorlim in tharn", "who is the voice of gorlim in tharn"),
        ("what was the capital of france", "which city was the capital of france"),
    ],
)
def test_other_words_for_the_same_thing_are_a_paraphrase(question: str, candidate: str) -> None:
    assert same_answer(question, candidate) == ("paraphrase", YES)


@pytest.mark.parametrize(
    ("question", "candidate"),
    [
        ("how many episodes in season 2 of gorlim", "how many episodes are on tharnberg season 2"),
        ("What year was the town of Smolt, Tharn, founded?", "What year was the town of Gorlim, Tharn, founded?"),
        ("Which lake lies in Smolt?", "Which lake lies in Gorlim, near Tharn?"),
        ("what is the official language of france", "what is the official language of germany"),
    ],
)
def test_the_same_question_about_another_thing_is_another_fact(question: str, candidate: str) -> None:
    assert same_answer(question, candidate) == ("subject", NO)


def test_more_detail_on_one_side_changes_nothing() -> None:
    long = "Which poet, artist and designer, born in Smolt, founded the Tharnscott Press in 1891?"
    assert same_answer("who founded the Tharnscott Press", long) == ("paraphrase", YES)


def test_a_question_that_does_not_say_of_what_is_contained_in_nothing() -> None:
    assert same_answer("when does the new season start", "when does the new season of tharn start") == ("subject", NO)


def test_a_country_beside_its_people_is_no_other_thing() -> None:
    assert same_answer("Who led the Tharn gang in Britain?", "Who led the SDP's Tharn gang?") == ("paraphrase", YES)


def test_words_that_anyone_uses_are_not_enough() -> None:
    assert same_answer("who was the man", "who is the boy")[1] is NO


def test_the_score_says_how_much_of_what_would_have_to_be_shared_is() -> None:
    assert Balance(shared=2.0, told=1.5, poorer=0.5, richer=9.0).score == 0.75
    assert Balance(shared=2.0, told=1.5, poorer=0.0, richer=9.0).score == 1.0
    assert Balance(shared=2.0, told=0.1, poorer=0.0, richer=0.1).score == 1.0
    assert Balance(shared=2.0, told=0.1, poorer=0.0, richer=2.0).score == 0.0
    assert Balance(shared=0.0, told=0.0, poorer=0.0, richer=0.0).score == 0.0


def test_three_quarters_of_the_weight_are_enough_and_two_thirds_an_open_case() -> None:
    rare = ask("gorlim tharn smolt harrow", "Osric"), ask("gorlim tharn smolt snorl", "Osric")
    fewer = ask("gorlim tharn harrow", "Osric"), ask("gorlim tharn snorl", "Osric")
    assert rule(*rare) == ("paraphrase", YES) and decide_by_rules(*rare).score == 0.75
    assert rule(*fewer) == ("paraphrase", PERHAPS) and decide_by_rules(*fewer).score == 0.6667


def test_a_name_that_is_an_answer_of_the_other_question_is_no_other_thing() -> None:
    asked = ask("Who, known as Smolt, led the tharn rebel gang?", "Osric")
    assert rule(asked, ask("Who led the tharn rebel gang against Pan?", "Osric", "Smolt")) == ("paraphrase", YES)
    assert rule(asked, ask("Who led the tharn rebel gang against Pan?", "Osric")) == ("subject", NO)


def test_between_the_thresholds_a_paraphrase_is_an_open_case() -> None:
    decision = decide_by_rules(
        ask("when did gorlim save the world first come out", "July 9, 2013"),
        ask("when is gorlim coming out of early sale", "July 9, 2013"),
    )
    assert (decision.verdict, decision.rule) == (PERHAPS, "paraphrase") and decision.drops
    assert 0.55 <= decision.score < 0.75


# --- what speaks against it ---


@pytest.mark.parametrize(
    ("question", "candidate"),
    [
        ("who wrote the song smolt", "who sang the song smolt originally"),
        ("Who directed 'The Countess of Tharn'?", "Who starred in 'The Countess of Tharn'?"),
        ("when was the last time tharn won the cup", "when was the last time tharn was in the cup"),
        ("when did tharn win the smolt cup", "the season of the smolt cup in tharn"),
        ("who was the first man in tharn", "who was the last man in tharn"),
        ("when does season 8 of smolt come out", "when does season 8 of smolt end"),
        ("Who was the father of Osric of Tharn?", "Who was the uncle of Osric of Tharn?"),
        ("who ruled the north of tharn", "who ruled the south of tharn"),
    ],
)
def test_another_relation_is_another_fact(question: str, candidate: str) -> None:
    assert same_answer(question, candidate) == ("relation", NO)


@pytest.mark.parametrize(
    ("question", "candidate"),
    [
        ("who won the tharn prize in 2001", "who won the tharn prize in 2010"),
        ("who scored most 70 point games in tharn", "who scored most 60 point games in tharn"),
        ("who scored most 70 point games in tharn", "who scored most point games in tharn"),
        ("who has the second most followers in tharn", "who has the most followers in tharn"),
        ("who won season 5 of smolt", "who won season 6 of smolt"),
    ],
)
def test_another_year_number_or_rank_is_another_fact(question: str, candidate: str) -> None:
    assert same_answer(question, candidate) == ("edition", NO)


@pytest.mark.parametrize(
    ("question", "candidate"),
    [
        ("who won the tharn prize in 2010", "who won the tharn prize in 2011"),
        ("who sang the anthem at super bowl 51", "who sang the super bowl anthem in 2017"),
        ("how many episodes in smolt season 7", "how many episodes of smolt this season"),
        ("who won the 1st battle of tharn", "who won the battle of tharn"),
    ],
)
def test_a_number_on_one_side_or_a_neighbouring_year_is_no_other_edition(question: str, candidate: str) -> None:
    assert same_answer(question, candidate)[0] == "paraphrase"


def test_a_record_is_no_single_event() -> None:
    assert same_answer("who won the most tharn cups", "who won the tharn cup in 2016") == ("record", NO)
    assert same_answer("who scored the most points in tharn", "who scored the highest points in tharn")[1] is YES


def test_what_is_not_is_another_fact() -> None:
    assert same_answer("which tharn king was crowned in smolt", "which tharn king was never crowned in smolt") == (
        "negation",
        NO,
    )


# --- reversal and alias ---


def test_a_question_turned_round_is_a_reversal() -> None:
    pair = (
        ask("what is the capital of Brobdingnag", "Lorbrulgrud"),
        ask("Lorbrulgrud is the capital of what", "Brobdingnag"),
    )
    assert rule(*pair) == ("reversal", YES)


def test_any_slot_of_a_fact_may_be_the_one_that_is_asked_for() -> None:
    animal = ask("What animal was bred in Tharn in 1996?", "Dolly")
    assert rule(animal, ask("In which country was the animal Dolly bred in 1996?", "Tharn")) == ("reversal", YES)


def test_a_year_that_is_mentioned_needs_more_in_common() -> None:
    league = ask("who won the league of tharn in 2017", "Houston Gorlims")
    assert rule(league, ask("when were the houston gorlims in the smolt series", "2017"))[1] is NO
    assert rule(league, ask("when did the houston gorlims win the league of tharn", "2017")) == ("reversal", YES)


def test_two_other_facts_about_the_same_two_things_are_no_reversal() -> None:
    fire = ask("whose riders had entered Moskva when the flood of 1712 rose after the northern retreat", "Bonaparte")
    assert rule(fire, ask("what town closed the longest march of the campaigns by Bonaparte", "Moskva")) == (
        "mention",
        NO,
    )


def test_two_questions_for_another_name_of_one_thing_are_contained() -> None:
    names = ("Snorl", "Honey Grumbler", "Grumblora capensis")
    pair = (
        ask("What other name has the Snorl, of the grumbler tribe?", *names),
        ask("By what name is the mammal of the southern hills, the snorl, often known?", *names),
    )
    assert rule(*pair) == ("alias", PERHAPS)
    assert rule(pair[0], ask("What other name has the grumbler called Snorl?", *names)) == ("alias", YES)


def test_a_number_in_the_question_is_no_other_name() -> None:
    assert rule(
        ask("How many of the 5 gates of Tharn fell?", "5"), ask("Does Old Tom wait 1, 3 or 5 seconds?", "5")
    ) == (
        "subject",
        NO,
    )


# --- the words that are compared ---


def test_of_two_spellings_the_nearest_are_paired_whichever_question_comes_first() -> None:
    a, b = profile(ask("gorlimm tharnberg")), profile(ask("tharnburg gorlim gorlam"))
    assert (
        {frozenset(pair) for pair in overlap(a, b).shared}
        == {frozenset(pair) for pair in overlap(b, a).shared}
        == {frozenset({"gorlimm", "gorlim"}), frozenset({"tharnberg", "tharnburg"})}
    )


def test_numbers_are_never_alike() -> None:
    assert overlap(profile(ask("gate 10000")), profile(ask("gate 10001"))).shared == (("gate", "gate"),)


@pytest.mark.parametrize(
    ("left", "right", "shared"),
    [
        ("thar", "tharn", {("thar", "tharn")}),  # one letter more
        ("gor", "gorl", set()),  # the same, but too short
        ("tharn", "thorn", {("tharn", "thorn")}),  # one letter of five is another one
        ("tharn", "tharnberg", {("tharn", "tharnberg")}),  # the beginning of the other one
        ("thar", "tharnova", set()),  # the same, but too short
        ("tharnovan", "tharno", {("tharnovan", "tharno")}),  # the beginning of the other one
        ("hgfedcba", "abcdefgh", set()),  # the same letters
        ("gorlimmen", "gorlimman gorlimmenz", {("gorlimmen", "gorlimmenz")}),  # the nearest first
        ("gorlimz gorlima", "gorlimk", {("gorlima", "gorlimk")}),  # of equally near ones by the alphabet
        ("who wrote smolt", "author of smolt", {("write", "author"), ("smolt", "smolt")}),  # one relation
    ],
)
def test_words_are_one_if_they_are_spelled_alike_or_stand_for_one_relation(
    left: str, right: str, shared: set[tuple[str, str]]
) -> None:
    assert set(overlap(profile(ask(left)), profile(ask(right))).shared) == shared


def test_a_word_that_one_of_two_questions_writes_as_a_name_tells_as_much_as_in_both() -> None:
    def told(left: str, right: str) -> float:
        a, b = profile(ask(left)), profile(ask(right))
        return balance(a, b, overlap(a, b), frozenset()).told

    assert told("who ruled Harbour", "who ruled harbour") == told("who ruled Harbour", "who ruled Harbour")
    assert told("who ruled Harbour", "who ruled Harbour") > told("who ruled harbour", "who ruled harbour")


# --- the lines between the rules ---


def test_a_decision_names_both_questions_and_how_alike_they_are() -> None:
    a, b, c = ask("who slew smolt", "Osric"), ask("Who slew the Smolt?", "Osric"), ask("who wrote tharn", "Pan")
    equal, other = decide_by_rules(a, b), decide_by_rules(a, c)
    assert (equal.question, equal.candidate, equal.score) == (a.id, b.id, 1.0)
    assert (other.rule, other.score) == ("answer", 0.0)
    forward, backward = fact("s/1", "capital", "s/2"), fact("s/2", "capital of", "s/1", "Of what is it the capital?")
    assert decide_by_rules(forward, backward).score == 1.0
    assert decide_by_rules(fact("s/1", "genre", "o/1"), fact("s/2", "genre", "o/1")).score == 0.0
    forms = popqa("Who was the director of Smolt?", "Pan"), popqa("Who was the producer of Smolt?", "Pan")
    assert decide_by_rules(*forms).score == 0.0


def test_both_must_ask_for_another_name_of_their_answer() -> None:
    asked = ask("which river runs past the smolt mill", "Gorlim")
    assert rule(asked, ask("by what other name is the gorlim water known", "Gorlim")) == ("subject", NO)


def test_few_words_are_enough_where_all_of_one_question_is_in_the_other_one() -> None:
    assert same_answer("who is the king", "who is the king of the old north") == ("paraphrase", YES)
    assert same_answer("who is the king of smolt", "who is the king of the old north")[1] is NO
    assert same_answer("who was king that season", "who was king in that song") == ("subject", NO)


def test_a_year_that_is_mentioned_turns_no_question_round_unless_something_else_is_shared() -> None:
    crowned = ask("when did gorlim become king", "1712")
    assert rule(crowned, ask("which king died in 1712", "Gorlim")) == ("mention", NO)


def test_a_rank_on_one_side_alone_is_another_edition() -> None:
    assert same_answer("who was the second king of tharn", "who was king of tharn") == ("edition", NO)


def test_as_a_decider_the_rules_decide_pair_by_pair_under_their_name() -> None:
    pairs = [(ask("who slew smolt", "Osric"), ask(text, "Osric")) for text in ("Who slew Smolt?", "who wrote tharn")]
    assert list(rules(pairs)) == [decide_by_rules(*pair) for pair in pairs]
    assert {decision.decider for decision in rules(pairs)} == {RULES}


@pytest.mark.parametrize("parted", ["snorl grumbler tower", "tower snorl grumbler", "laputa snorl grumbler pan tower"])
def test_a_word_may_be_written_in_two_parts(parted: str) -> None:
    one, two = profile(ask("smolt snorlgrumbler king")), profile(ask(f"smolt {parted} king"))
    rest = tuple(word for word in parted.split() if word not in {"snorl", "grumbler"})
    for laid, left, right in [(overlap(one, two), (), rest), (overlap(two, one), rest, ())]:
        assert (laid.left, laid.right) == (left, right)
        assert {word for pair in laid.shared for word in pair} == {"smolt", "snorlgrumbl", "king"}


def test_two_words_may_each_be_written_in_two_parts() -> None:
    laid = overlap(profile(ask("snorlgrumbler harrowpan")), profile(ask("harrow pan snorl grumbler")))
    assert (set(laid.shared), laid.left, laid.right) == (
        {("snorlgrumbl", "snorlgrumbl"), ("harrowpan", "harrowpan")},
        (),
        (),
    )


def test_a_word_that_is_no_number_is_not_alike_to_one() -> None:
    for left, right in [("gate b10000", "gate 10000"), ("gate 10000", "gate b10000")]:
        assert overlap(profile(ask(left)), profile(ask(right))).shared == (("gate", "gate"),)


def test_a_year_and_a_day_without_one_are_not_the_same_date() -> None:
    year, day = profile(ask("when", "1712")), profile(ask("when", "May 5"))
    assert not agree(year, day) and not agree(day, year)


def test_a_reversal_that_shares_nothing_but_its_answers_is_unsure() -> None:
    assert rule(ask("who slew Gorlim Vane", "Osric Tharn"), ask("whom did Osric Tharn slay", "Gorlim Vane"))[1] is YES
    assert rule(ask("who freed Gorlim Vane", "Osric Tharn"), ask("whom did Osric Tharn seek", "Gorlim Vane")) == (
        "reversal",
        PERHAPS,
    )
    bare = ask("the snorl of Gorlim Vane", "Osric Tharn"), ask("the smolt of Osric Tharn", "Gorlim Vane")
    assert rule(*bare) == ("reversal", PERHAPS)  # one rare word is left of each


# --- words and values that are one, words that exclude each other ---


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2.5 million", "2,500,000"),
        ("12.5 kg", "12,500 grams"),
        ("Émile Thârn", "Emile Tharn"),
        ("São Velmo", "Sao Velmo"),
    ],
)
def test_answers_agree_however_a_number_or_a_name_is_spelled(one: str, other: str) -> None:
    assert agree(profile(ask("what is the gorlim of tharn", one)), profile(ask("which gorlim has tharn", other)))


def test_a_mark_on_a_letter_of_another_script_is_part_of_it() -> None:
    assert not agree(profile(ask("кто это", "Край")), profile(ask("кто это", "Краи")))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("longest", "widest"),
        ("largest", "smallest"),
        ("tallest", "shortest"),
        ("oldest", "youngest"),
        ("highest", "lowest"),
        ("northernmost", "southernmost"),
        ("easternmost", "westernmost"),
    ],
)
def test_opposite_superlatives_ask_for_other_facts(one: str, other: str) -> None:
    assert same_answer(f"what is the {one} gorlim of tharn", f"what is the {other} gorlim of tharn") == ("relation", NO)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what comes before gorlim in the tharn alphabet", "what comes after gorlim in the tharn alphabet"),
        ("who preceded osric as king of gorlim", "who succeeded osric as king of gorlim"),
        ("who bought the gorlim company", "who sold the gorlim company"),
        ("which team beat gorlim in the tharn cup", "which team lost to gorlim in the tharn cup"),
        ("which planet is closest to gorlim", "which planet is farthest from gorlim"),
        ("who won the men's gorlim open", "who won the women's gorlim open"),
    ],
)
def test_words_that_exclude_each_other_ask_for_other_facts(one: str, other: str) -> None:
    assert same_answer(one, other) == ("relation", NO)


@pytest.mark.parametrize(("one", "other"), [("1990s", "1980s"), ("sixties", "seventies")])
def test_another_decade_is_another_edition(one: str, other: str) -> None:
    assert same_answer(f"who won the {one} gorlim poll", f"who won the {other} gorlim poll") == ("relation", NO)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("who led the gorlim poll of the 1980s", "who led the gorlim poll of 1985"),
        ("who led the gorlim poll of the 1980s", "who led the gorlim poll of the eighties"),
        ("which bird of tharn has the largest wings", "which bird of tharn has the widest wings"),
        ("who did the gorlims beat in the 2016 tharn series", "who played the gorlims in the 2016 tharn series"),
    ],
)
def test_words_that_can_tell_of_one_fact_do_not_exclude_each_other(one: str, other: str) -> None:
    assert same_answer(one, other)[1] is not NO


def test_a_name_with_a_mark_on_a_letter_is_still_a_name() -> None:
    """It names what the other question does not: another town that was founded in the same year."""
    towns = (f"What year was the town of {town}, Gorlím, Tharn, founded?" for town in ("Smoltá", "Osríc"))
    assert rule(*(ask(town, "1556") for town in towns)) == ("subject", NO)


def test_a_verdict_does_not_depend_on_the_order_of_a_set() -> None:
    """Words can be in several families, and Python walks a set of them in another order in every process."""
    pairs = [
        ("when did the gorlims win the tharn cup", "when did the gorlims play in the tharn cup"),
        ("when did the gorlims beat the tharns", "when did the gorlims play the tharns"),
        ("when did the gorlims lose to the tharns", "when did the gorlims defeat the tharns"),
    ]
    program = (
        "from closedbook.harness.dedup.rules import decide_by_rules as d; from closedbook.harness.questions import "
        f"make_question as q; print([d(q('nq', a, ['1907']), q('nq', b, ['1907'])).rule for a, b in {pairs!r}])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(6)
    }
    assert len(said) == 1
