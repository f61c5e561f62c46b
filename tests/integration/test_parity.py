"""One checkpoint, the same questions, through lm-eval, Inspect and lighteval: equal prompts, answers and grades.

Of 16 questions; tests/bench/parity.py, which asks the suites here, makes the table of docs/suites.md with 200.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import messages

pytestmark = [pytest.mark.model, pytest.mark.suites]
QUESTIONS = 16


@pytest.fixture(scope="module")
def suites(small_model):
    """What each suite did with each question: by its name, by the question's id."""
    bench = Path(__file__).parents[1] / "bench" / "parity.py"
    command = [
        sys.executable, bench, "--model", small_model, "--task", "worldfacts_dedup", "--questions", str(QUESTIONS),
        "--batch", "8", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout).items()
    return {name.partition(" ")[0]: {answered.pop("id"): answered for answered in of} for name, of in rows}


def column(suites, field):
    """One thing of every question, by suite."""
    return {name: {id_: row[field] for id_, row in rows.items()} for name, rows in suites.items()}


def test_each_suite_answers_the_same_questions(suites):
    assert suites.keys() == {"lm_eval", "inspect_ai", "lighteval"}
    assert [len(rows) for rows in suites.values()] == [QUESTIONS] * len(suites)
    assert all(rows.keys() == suites["lm_eval"].keys() for rows in suites.values())


def test_each_suite_sends_the_chat_messages_of_the_prompt_function_byte_for_byte(suites, small_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    expected = {
        question.id: tokenizer.apply_chat_template(
            messages(question.question), tokenize=False, add_generation_prompt=True
        )
        for question in load_questions("worldfacts", "test")
        if question.id in suites["lm_eval"]
    }
    assert column(suites, "prompt") == dict.fromkeys(suites, expected)


def test_each_suite_gets_the_same_greedy_answers(suites):
    answers = column(suites, "answer")
    assert answers == dict.fromkeys(suites, answers["lm_eval"])
    assert all(answer.strip() for answer in answers["lm_eval"].values())


def test_each_suite_gives_the_same_grades(suites):
    grades = column(suites, "correct")
    assert grades == dict.fromkeys(suites, grades["lm_eval"])
    assert {*grades["lm_eval"].values()} == {0.0, 1.0}
