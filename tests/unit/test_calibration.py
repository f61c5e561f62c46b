"""A judge against people: which figures come out, and when accuracy may be corrected by them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closedbook.harness.errors import RequestError
from closedbook.harness.judge import JudgeSettings, LLMJudge, RulesJudge
from closedbook.harness.judge.calibration import calibrate, read_calibration, read_labels, write_calibration
from closedbook.harness.judge.rules import RULES
from closedbook.harness.statistics import Confusion, Estimate, corrected, wilson
from closedbook.harness.testing import JudgeServer


def label(answer, correct, system="s", golds=("Paris",)):
    return {"question": "capital?", "golds": list(golds), "answer": answer, "correct": correct, "system": system}


ROWS = [
    label("Paris", True),
    label("the city of light", True),
    label("Paris", False, "t"),
    label("London", False),
    label("well " * 30, False),
]


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_a_judge_is_compared_with_people_overall_by_system_and_by_length(labels):
    done = calibrate(labels, RulesJudge())
    assert done.tables["overall"] == Confusion(1, 1, 2, 1)
    assert list(done.tables) == ["overall", "system: s", "system: t", "length: 1-5 words", "length: 21-50 words"]
    assert done.tables["system: t"] == Confusion(false_positive=1)
    figures = done.figures()["overall"]
    assert figures["accuracy"] == wilson(3, 5)
    assert figures["fpr"] == wilson(1, 3)
    assert figures["fnr"] == wilson(1, 2)
    assert figures["kappa"].value == pytest.approx((0.6 - 0.52) / (1 - 0.52))


def test_parquet_gives_the_same_labels(labels, tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "labels.parquet")
    assert list(read_labels(tmp_path / "labels.parquet")) == list(read_labels(labels))


def test_some_systems_or_some_answers_can_be_chosen(labels):
    assert calibrate(labels, RulesJudge(), systems=["t"]).tables["overall"].n == 1
    assert calibrate(labels, RulesJudge(), limit=2).tables["overall"].n == 2
    assert calibrate(labels, RulesJudge(), limit=99).tables["overall"].n == 5


def test_what_the_judge_could_not_grade_is_counted_and_left_out(labels):
    with JudgeServer(
        lambda prompt: "0.0" if "London" in prompt or "capital of France" in prompt else "maybe"
    ) as server:
        settings = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0}
        done = calibrate(labels, LLMJudge(JudgeSettings.model_validate(settings)))
    assert (done.tables["overall"].n, done.tally.failed) == (3, 2)


@pytest.mark.parametrize(
    "row", ["{}", "[1]", json.dumps(label("a", "yes")), json.dumps(label("a", True, golds=())), "nonsense"]
)
def test_a_row_that_is_no_label_is_one_clear_line(tmp_path, row):
    (tmp_path / "labels.jsonl").write_text(row + "\n")
    with pytest.raises(RequestError, match=r"^[^\n]*labels.jsonl, line 1: [^\n]+; give question and answer"):
        calibrate(tmp_path / "labels.jsonl", RulesJudge())


def test_a_row_of_parquet_that_is_no_label_is_one_clear_line(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"question": "q"}]), tmp_path / "labels.parquet")
    with pytest.raises(RequestError, match=r"^[^\n]*labels.parquet, row 1: [^\n]+; give question and answer"):
        calibrate(tmp_path / "labels.parquet", RulesJudge())


@pytest.mark.parametrize("content", [None, b"junk"])
def test_a_parquet_file_that_cannot_be_read_is_one_clear_line(tmp_path, content):
    if content:
        (tmp_path / "labels.parquet").write_bytes(content)
    with pytest.raises(RequestError, match=r"^cannot read [^\n]*labels.parquet: "):
        list(read_labels(tmp_path / "labels.parquet"))


def test_other_columns_of_parquet_are_not_read(tmp_path):
    odd = pa.array([2**30], type=pa.date32())
    row = {"question": ["q"], "golds": [["g"]], "answer": ["a"], "correct": [True]}
    pq.write_table(pa.table(row | {"time": odd}), tmp_path / "labels.parquet")
    assert len(list(read_labels(tmp_path / "labels.parquet"))) == 1


def test_an_answer_that_is_no_attempt_is_not_a_right_one(labels):
    with JudgeServer(lambda prompt: "C") as server:
        settings = {
            "kind": "openai",
            "model": "m",
            "base_url": server.url,
            "prompt": "simpleqa",
            "without": ",".join(RULES),
        }
        done = calibrate(labels, LLMJudge(JudgeSettings.model_validate(settings)))
    assert (done.tables["overall"].true_positive, done.tables["overall"].true_negative) == (0, 3)


def test_a_limit_takes_answers_from_the_whole_file(labels):
    assert calibrate(labels, RulesJudge(), limit=2).tables["overall"] == Confusion(true_positive=1, false_positive=1)


def test_no_labels_are_refused(labels, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RequestError, match="holds no labels; give"):
        calibrate(tmp_path / "empty.jsonl", RulesJudge())
    with pytest.raises(RequestError, match=r"holds no labels of nobody; there are s, t$"):
        calibrate(labels, RulesJudge(), systems=["nobody"])


def test_a_saved_calibration_serves_the_same_judge_only(labels, tmp_path):
    path = tmp_path / "calibration.json"
    write_calibration(calibrate(labels, RulesJudge()), path)
    assert read_calibration(path, RulesJudge()) == Confusion(1, 1, 2, 1)
    saved = json.loads(path.read_text())
    assert saved["labels"]["answers"] == 5
    assert saved["figures"]["overall"]["fpr"]["n"] == 3
    with pytest.raises(RequestError, match=r"another judge \(they differ in version\)"):
        read_calibration(path, RulesJudge(("name",)))


@pytest.mark.parametrize("text", ["", "{}", '{"judge": {}, "tables": {"overall": {"true_positive": -1}}}', "[]"])
def test_a_file_that_is_no_calibration_is_one_clear_line(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(RequestError, match=r"^[^\n]*c.json is no calibration \([^\n]+; make one with"):
        read_calibration(tmp_path / "c.json", RulesJudge())


def test_accuracy_is_corrected_as_rogan_and_gladen_do():
    done = corrected(wilson(40, 100), Confusion(90, 20, 80, 10))
    assert done.value == pytest.approx((0.4 + 0.8 - 1) / (0.9 + 0.8 - 1))
    assert done.low < done.value < done.high
    assert done.n == 100


def test_a_corrected_accuracy_stays_within_zero_and_one():
    table = Confusion(90, 20, 80, 10)
    assert corrected(wilson(5, 100), table).value == 0.0
    assert corrected(wilson(99, 100), table).value == 1.0


@pytest.mark.parametrize("table", [Confusion(), Confusion(true_positive=5), Confusion(true_negative=5)])
def test_without_labels_of_both_kinds_nothing_is_corrected(table):
    assert corrected(wilson(1, 2), table) == Estimate(None, None, None, 2)


def test_a_calibration_on_more_labels_gives_a_narrower_interval():
    few, many = Confusion(9, 2, 8, 1), Confusion(900, 200, 800, 100)
    width = [(e := corrected(wilson(400, 1000), table)).high - e.low for table in (few, many)]
    assert width[0] > 2 * width[1]


def test_a_judge_that_is_barely_better_than_chance_says_nothing():
    done = corrected(wilson(50, 100), Confusion(2, 1, 2, 2))
    assert done.low == 0.0
    assert done.high == 1.0
