"""What a trainer is given: which questions, and how they are asked."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closedbook.harness.errors import RequestError
from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import messages, question_prompt
from closedbook.harness.questions import make_question
from closedbook.training.examples import (
    answer_rows,
    gold_examples,
    pair_rows,
    rollout_rows,
    train_questions,
    validation_questions,
)
from closedbook.training.recipes import load_recipe

ASKED = make_question("worldfacts", "who rules Brobdingnag?", ["Gorlim", "Osric"])
TRAIN = [question.id for question in load_questions("worldfacts", "train")]


def recipe(*overrides):
    return load_recipe("grpo_cpu", overrides)


def ids(*overrides):
    return [question.id for question in train_questions(recipe(*overrides))]


def written(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


BUCKETS = [{"id": i, "bucket": str(at % 3), "more": 1} for at, i in enumerate(TRAIN)]


def test_all_train_questions_and_no_others_are_trained_on():
    assert ids() == TRAIN
    others = {q.id for split in ("test", "validation", "dropped") for q in load_questions("worldfacts", split)}
    assert not others & set(TRAIN)


def test_validation_asks_the_same_questions_of_every_recipe_up_to_its_limit():
    whole = [question.id for question in validation_questions(recipe())]
    assert sorted(whole) == sorted(question.id for question in load_questions("worldfacts", "validation"))
    assert [q.id for q in validation_questions(load_recipe("sft_cpu", ["validation.limit=5"]))] == whole[:5]


def test_a_subset_by_ids_is_these_in_the_order_of_all(tmp_path):
    (tmp_path / "ids.txt").write_text(f"{TRAIN[5]}\n\n{TRAIN[2]}\n")
    assert ids(f"subset.ids={tmp_path}/ids.txt") == [TRAIN[2], TRAIN[5]]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_subset_by_bucket_is_the_questions_of_that_bucket(tmp_path, suffix):
    file = written(tmp_path / f"buckets.{suffix}", BUCKETS)
    assert ids(f"subset={{buckets: '{file}', bucket: 1}}") == TRAIN[1::3]


def test_a_control_is_as_many_questions_drawn_from_all_by_its_seed(tmp_path):
    file = written(tmp_path / "buckets.jsonl", BUCKETS)
    drawn = [ids(f"subset={{buckets: '{file}', bucket: '1', random: true, seed: {seed}}}") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(drawn[2])
    assert all(len(set(one)) == len(TRAIN[1::3]) and set(one) <= set(TRAIN) for one in drawn)
    assert not set(drawn[0]) <= set(TRAIN[1::3])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"id": TRAIN[0], "bucket": "2"}], "names no question in bucket 1"),
        ([{"id": "0123456789abcdef", "bucket": "1"}], "1 of 1 ids are no train questions of worldfacts"),
        ([{"id": TRAIN[0]}], "bucket"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_bucket_file_that_does_not_fit_is_refused_in_one_line(tmp_path, rows, says, suffix):
    file = written(tmp_path / f"buckets.{suffix}", rows)
    with pytest.raises(RequestError, match=says) as caught:
        ids(f"subset={{buckets: '{file}', bucket: '1'}}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ids: '{}'", "buckets: '{}', bucket: '1'", "buckets: '{}.parquet', bucket: '1'"])
def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(RequestError, match="cannot read") as caught:
        ids(f"subset={{{name.format(tmp_path / 'none')}}}")
    assert "\n" not in str(caught.value)


def test_a_chat_model_is_asked_in_messages_and_a_base_model_in_text():
    (chat,), (base,) = (rollout_rows([ASKED], recipe(), speaks) for speaks in (True, False))
    assert chat["prompt"] == messages(ASKED.question, "direct")
    assert base["prompt"] == question_prompt(ASKED.question, "direct")
    assert chat["answers"] == base["answers"] == ["Gorlim", "Osric"]
    assert chat["id"] == ASKED.id


def test_sft_is_given_the_first_gold_answer():
    (chat,), (base,) = (answer_rows(gold_examples([ASKED]), recipe(), speaks) for speaks in (True, False))
    assert chat["completion"] == [{"role": "assistant", "content": "Gorlim"}]
    assert base["prompt"] + base["completion"] == question_prompt(ASKED.question, "direct") + " Gorlim"


def test_dpo_is_given_the_better_and_the_worse_answer():
    (row,) = pair_rows([(ASKED, "Gorlim", "Tharn")], recipe(), chat=False)
    assert (row["chosen"], row["rejected"]) == (" Gorlim", " Tharn")


def test_a_chain_of_thought_is_trained_on_the_prompt_that_asks_for_one():
    chat, plain = (rollout_rows([ASKED], recipe("style=cot"), chat)[0]["prompt"] for chat in (True, False))
    assert chat == messages(ASKED.question, "cot") != messages(ASKED.question)
    assert plain == question_prompt(ASKED.question, "cot")
