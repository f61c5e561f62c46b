"""Prompts and the answers taken out of responses."""

import pytest

from closedbook.harness.prompts import (
    extract_answer,
    fill,
    final_answer,
    first_line,
    messages,
    question_prompt,
    template,
    template_digest,
)


def test_a_question_that_holds_placeholders_stays_plain_text():
    assert "what is {question} in {golds}" in question_prompt("what is {question} in {golds}")


def test_filling_is_one_pass_so_values_are_never_filled_again():
    assert fill("{a} {b}", a="{b}", b="x") == "{b} x"


def test_braces_around_unknown_names_are_left_alone():
    assert fill('{"json": {a}}', a="1") == '{"json": 1}'


@pytest.mark.parametrize("style", ["direct", "cot"])
def test_a_prompt_ends_in_a_cue_without_white_space(style):
    prompt = question_prompt("who wrote hamlet", style)
    assert prompt.endswith(":")
    assert "who wrote hamlet" in prompt


def test_direct_and_cot_prompts_differ_and_so_do_their_digests():
    assert question_prompt("q", "direct") != question_prompt("q", "cot")
    assert template_digest("direct") != template_digest("cot")


def test_chat_messages_hold_the_same_text_as_the_plain_prompt():
    assert messages("who wrote hamlet") == [{"role": "user", "content": question_prompt("who wrote hamlet")}]


def test_templates_do_not_end_in_a_newline():
    assert not template("direct").endswith("\n")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (" Paris\nQuestion: next", "Paris"),
        ("\n\n Paris \n\nIt is the capital.", "Paris"),
        ("U.S. Navy", "U.S. Navy"),
        ("May 5, 1992", "May 5, 1992"),
        ("", ""),
        (" \n\t\n", ""),
        ("Paris\r\nLondon", "Paris"),
    ],
)
def test_the_direct_answer_is_the_first_line_that_is_not_empty(response, answer):
    assert first_line(response) == answer == extract_answer(response, "direct")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("It is in France.\nFinal answer: Paris", "Paris"),
        ("Final answer: London\nNo, wait.\nfinal answer: Paris.", "Paris."),
        ("**Final Answer:** Paris", "Paris"),
        ("**Final answer**: **Paris**", "Paris"),
        ("The final answer is near.\nFinal answer: May 5, 1992", "May 5, 1992"),
        ("Final answer:\nParis\nThat was hard.", "Paris"),
        ("Final answer: Paris\nFinal answer:", "Paris"),
        ("thinking\nso it is Paris", "so it is Paris"),
        ("so it is Paris\nFinal answer:", "so it is Paris"),
        ("", ""),
    ],
)
def test_the_cot_answer_follows_the_last_marker_or_is_the_last_line(response, answer):
    assert final_answer(response) == answer == extract_answer(response, "cot")
