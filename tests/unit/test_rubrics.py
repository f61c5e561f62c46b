"""The judge's prompt is inert to what stands in the data, and its replies are read strictly."""

import json

import pytest

from closedbook.harness.judge import Grade, JudgeFailure, Triple
from closedbook.harness.judge.rubrics import RUBRICS, build_messages, inert, parse

BINARY, SIMPLEQA = RUBRICS["binary"], RUBRICS["simpleqa"]
C, I, N = Grade.CORRECT, Grade.INCORRECT, Grade.NOT_ATTEMPTED  # noqa: E741


def content(question="q", golds=("g",), answer="a", rubric=BINARY):
    return build_messages(Triple(question, golds, answer), rubric)[0]["content"]


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("1.0", C),
        ("0.0", I),
        (" 0.0\n", I),
        ("1.0.", C),
        ("**1.0**", C),
        ("`0.0`", I),
        ("(1.0)", C),
        ('"0.0"', I),
        ("- 1.0", C),
        ("# 1.0", C),
        ("Score: 1.0", C),
        ("**Verdict:** 0.0", I),
        ("The final score is 1.0.", C),
        ("My grade is: 0.0", I),
        ("JUDGEMENT = 1.0", C),
        ("Both name the same city.\n1.0", C),
        ("Both name the same city. Score: 1.0", C),
        ("1.0\nOn second thought:\n0.0", I),
        ("<think>0.0 or 1.0?</think>\n1.0", C),
        ("0.0</think>1.0", C),
        ("0.0</think>x</think>1.0", C),
        ("1.0 <think>0.0", C),
        ('{"verdict": "1.0"}', C),
        ('{"score": 0.0}', I),
        ('```json\n{"reasoning": "same", "Grade": "1.0"}\n```', C),
    ],
)
def test_a_stated_number_is_a_grade(reply, grade):
    assert parse(reply, BINARY) is grade


@pytest.mark.parametrize(
    "reply",
    [
        "", " ", "1", "0", "10", "1.0.0", "-1.0", "1.0%", "> 1.0 points", "1.00", "11.0", "0.5", "1,0", "１.０",
        "1.0 or 0.0",
        "1.0/1.0", "CORRECT", "yes", "right", "正确", "Richtig", "not 1.0", "No: 1.0", "1.0 because it fits",
        "It deserves 1.0 I think", "The answer claims to be worth 1.0", "I cannot grade this.", "<think>1.0",
        "<think>1.0</think>", "<think>a</think>1.0<think>no</think>", "[]",
        '{"verdict": 1}', '{"verdict": "1"}',
        '{"verdict": "1.0", "score": "0.0"}', '{"other": "1.0"}', '{"verdict": {"score": "1.0"}}',
        "[" * 100_000, "x" * 100_000,
        "1.0 " * 50,
        "The answer is 1.0. It should be 2.0, so it is wrong.",
        "Answer: 1.0\nThat differs from the gold answer 2.0.",
        "```json\n" + "\n" * 100_000 + "x",
    ],
)  # fmt: skip
def test_any_other_reply_is_a_failure_and_never_a_grade(reply):
    failure = parse(reply, BINARY)
    assert isinstance(failure, JudgeFailure)
    assert failure.reason == "unparsable"
    assert len(failure.detail) < 200


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("CORRECT", C),
        ("INCORRECT", I),
        ("NOT_ATTEMPTED", N),
        ("Answer: B", I),
        ("The grade is A.", C),
        ("A (correct)", C),
    ],
)
def test_the_replies_that_other_parsers_misread_are_read(reply, grade):
    assert parse(reply, SIMPLEQA) is grade


@pytest.mark.parametrize("reply", ["", "I'm sorry, but I can't help with that."])
def test_an_empty_reply_and_a_refusal_are_failures(reply):
    assert isinstance(parse(reply, SIMPLEQA), JudgeFailure)


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("C", N),
        ("b", None),
        ("Correct.", C),
        ("incorrect", I),
        ("Not attempted", N),
        ("not-attempted", N),
        ("B: INCORRECT", I),
        ("CORRECT (A)", C),
        ("**Grade:** C - NOT_ATTEMPTED", N),
        ("A (incorrect)", None),
        ("A dog is no cat", None),
        ("A or B", None),
        ("Grade A or B", None),
        ("The answer is a", None),
        ("The answer is a city.", None),
        ("UNCORRECT", None),
        ("NOT CORRECT", None),
        ("not correct", None),
        ("partially correct", None),
        ("A better answer would be Paris.\nB", I),
        ("ABC", None),
        ('{"grade": "A"}', C),
        ('{"grade": "a"}', None),
        ('{"answer": "Paris", "grade": "A"}', C),
        ('{"grade": "correct"}', C),
    ],
)
def test_a_letter_or_a_word_counts_only_as_a_whole_statement(reply, grade):
    judged = parse(reply, SIMPLEQA)
    assert judged is grade if grade else isinstance(judged, JudgeFailure)


def test_a_label_of_another_rubric_is_no_grade():
    assert isinstance(parse("1.0", SIMPLEQA), JudgeFailure)
    assert isinstance(parse("A", BINARY), JudgeFailure)


def test_the_longest_statement_still_counts_and_a_longer_text_does_not():
    assert parse("Score: 1.0".ljust(79) + ".", BINARY) is C
    assert isinstance(parse("Score:".ljust(78) + "1.0", BINARY), JudgeFailure)


def test_a_failure_quotes_the_reply_and_names_what_was_wanted():
    assert parse("x" * 200, BINARY) == JudgeFailure("unparsable", f"the judge replied '{'x' * 80}', not 1.0 or 0.0")
    said = "the judge replied 'maybe', not "
    assert parse("maybe", BINARY) == JudgeFailure("unparsable", f"{said}1.0 or 0.0")
    assert parse("maybe", SIMPLEQA) == JudgeFailure("unparsable", f"{said}A or B or C")


@pytest.mark.parametrize("rubric", RUBRICS.values(), ids=RUBRICS)
def test_every_choice_that_is_offered_is_understood(rubric):
    assert [parse(choice, rubric) for choice in rubric.choices] == list(dict.fromkeys(rubric.labels.values()))
    assert [parse(json.dumps({"verdict": c}), rubric) for c in rubric.choices] == [
        rubric.labels[c] for c in rubric.choices
    ]
    assert all(choice in content(rubric=rubric) for choice in rubric.choices)


def test_a_rubric_is_known_by_name_and_content():
    assert BINARY.identity.startswith("binary-")
    assert BINARY.identity != SIMPLEQA.identity
    assert len(BINARY.identity.partition("-")[2]) == 16


def test_the_judges_prompt_holds_question_golds_and_answer_as_plain_text():
    text = content("who {golds}?", ("A", "B {answer}"), "{question} 1.0")
    for part in ("<question>\nwho {golds}?\n</question>", "- A\n- B {answer}\n", "<answer>\n{question} 1.0\n</answer>"):
        assert part in text


@pytest.mark.parametrize(
    "tag",
    [
        "</answer>",
        "< / Answer >",
        "<gold_answers>",
        "</QUESTION>",
        "＜/answer＞",
        "﹤answer﹥",
        "</ans\u200bwer>",
        "<|im_end|>",
    ],
)
def test_data_cannot_close_its_block_in_the_judges_prompt(tag):
    clean = content()
    planted = content(f"q{tag}", (f"g{tag}",), f"a{tag}")
    for bracket in "<>＜＞﹤﹥":
        assert planted.count(bracket) == clean.count(bracket)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\n\tc\u2028d", "a b c d"),
        ("  a  ", "a"),
        ("a\u200bb\u202ec\ufeff\x00\ue000\ud800", "abc"),
        ("[INST] x [/INST] [TOOL_CALLS]", "(INST) x (/INST) (TOOL_CALLS)"),
        ("＜a＞ ﹤b﹥", "‹a› ‹b›"),
        ("[|user|] [|endofturn|] ［INST］ [start_header_id]", "(|user|) (|endofturn|) (INST) (start_header_id)"),
        ("a\ufe0f\U000e0100\u3164\u2800b", "ab"),
        ("[1] and [sic] and [AB]", "[1] and [sic] and [AB]"),
        ("x < 5 > 3", "x ‹ 5 › 3"),
        ("Röntgen, 北京 🎉", "Röntgen, 北京 🎉"),
    ],
)
def test_data_becomes_one_line_of_inert_text(text, shown):
    assert inert(text) == shown


@pytest.mark.parametrize("mark", ["\ufe00", "\ufe0f", "\U000e0100", "\U000e01ef"])
def test_every_variation_selector_is_removed(mark):
    assert inert(f"a{mark}b") == "ab"


def test_the_prompt_is_one_turn_of_the_user():
    (message,) = build_messages(Triple("q", ("gold",), "answer"), RUBRICS["binary"])
    assert message.keys() == {"role", "content"}
    assert message["role"] == "user"


def test_a_verdict_counts_also_where_an_explanation_follows():
    assert parse("1.0\nBoth name the same person.", RUBRICS["binary"]) is Grade.CORRECT


def test_a_block_of_code_that_never_ends_is_no_block():
    assert isinstance(parse('```\n{"verdict": "1.0"}', RUBRICS["binary"]), JudgeFailure)
