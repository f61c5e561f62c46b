"""Baselines at inference: each method answers the same questions, beside the greedy answer, with what it costs."""

import json
import math
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from closedbook.harness.compare import Answered, read_run
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import alone, model_digest
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.likelihood import Scored
from closedbook.harness.manifests import load_questions
from closedbook.harness.sample_store import Head, SampleStore
from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.sampling import Sampling
from closedbook.harness.study.analyses import SampleRun, answers_beside, read_sample_runs
from closedbook.harness.study.baselines import Cost, baselines, cost_of, judged_equal
from closedbook.harness.study.commands import analyze_app
from closedbook.harness.study.sample import Request, sample
from closedbook.harness.study.scores import scores_of
from closedbook.harness.study.tables import plain_rows, write

SETTINGS = {"model": "a" * 64, "prompt": "direct-1", "chat": True, "judge": {"kind": "rules"},
            "task": {"benchmark": "gorlim", "split": "test"}, "engine": {"engine": "transformers"}}  # fmt: skip


def question(id, *texts, right=()):
    """Samples in their order."""
    draws = {text: tuple(at for at, said in enumerate(texts) if said == text) for text in texts}
    return QuestionSamples(id, tuple(Sample(t, t, float(t in right), of) for t, of in draws.items()))


def run_of(*questions, **changed):
    head = Head({**SETTINGS, **changed}, questions[0].drawn, tuple(q.id for q in questions))
    return SampleRun("base", head, list(questions))


def answered(value, answer="Tharn", gold="Osric", response=None):
    return Answered(f"who found {gold}?", (gold,), answer, value, response)


SAMPLES = [
    question("q1", *["Osric"] * 5, *["Tharn"] * 3, right=["Osric"]),
    question("q2", *["Tharn"] * 3, *["Ann Osric"] * 2, "It was Ann Osric.", "Ann Osric!", "Smolt",
             right=["Ann Osric", "It was Ann Osric.", "Ann Osric!"]),
    question("q3", *["Tharn"] * 8),
]  # fmt: skip
GREEDY = {"q1": answered(0.0, gold="1"), "q2": answered(0.0, gold="2"), "q3": answered(1.0, gold="3")}


def rows_of(table):
    rows: list[dict[str, Any]] = plain_rows(table)
    return {(row["method"], row["samples"]): row for row in rows}


def test_every_method_stands_beside_the_greedy_answer():
    rows = rows_of(baselines(run_of(*SAMPLES), GREEDY, {id: answered(1.0) for id in GREEDY}))
    assert list(rows) == [
        ("greedy", None), ("majority", 8), ("majority, equal by the judge", 8), ("chain of thought", None)
    ]  # fmt: skip
    assert rows["greedy", None]["accuracy"] == pytest.approx(1 / 3)
    assert rows["greedy", None]["difference"] is None
    assert rows["chain of thought", None]["difference"] == pytest.approx(2 / 3)
    assert rows["chain of thought", None]["changed"] == "+2 -0"
    assert (rows["majority", 8]["changed"], rows["majority", 8]["difference"]) == ("+1 -1", 0)


def test_a_judge_joins_answers_that_the_key_keeps_apart():
    said = question("q1", "Tharn", "Tharn", "Tharn", "Ann Osric", "Ann Osric", "It was Ann Osric.", "It is Ann Osric",
                    "Smolt", right=["Ann Osric"])  # fmt: skip
    rows = rows_of(baselines(run_of(said), {"q1": answered(0.0)}))
    assert (rows["majority", 8]["accuracy"], rows["majority, equal by the judge", 8]["accuracy"]) == (0.0, 1.0)


def test_no_answer_equals_an_empty_one():
    same = judged_equal("who found Tharn?")
    assert not same("", "Osric") and not same("Osric", "")
    assert same("Ann Osric", "It was Ann Osric.") and same("It was Ann Osric.", "Ann Osric")


def test_of_more_samples_than_a_group_every_group_answers():
    said = question("q1", *["Osric"] * 8, *["Tharn"] * 24, right=["Osric"])
    rows = rows_of(baselines(run_of(said), {"q1": answered(0.0)}))
    assert rows["majority", 8]["accuracy"] == 0.25
    assert rows["majority", 8]["p (Holm)"] is rows["majority", 8]["changed"] is None
    assert rows["majority", 32]["accuracy"] == 0.0
    assert rows["majority", 32]["p (Holm)"] == 1.0


def test_the_likeliest_answer_is_that_with_the_largest_score_in_sum_or_per_token():
    said = question("q1", *["Tharn"] * 6, "Ann Osric", "Smolt", right=["Ann Osric"])
    scores = {"Tharn": Scored("Tharn", -2.0, 2), "Ann Osric": Scored("Ann Osric", -2.5, 5),
              "Smolt": Scored("Smolt", -9.0, 2)}  # fmt: skip
    rows = rows_of(baselines(run_of(said), {"q1": answered(0.0)}, scores={"q1": scores}))
    assert (rows["likeliest", 8]["accuracy"], rows["likeliest per token", 8]["accuracy"]) == (0.0, 1.0)


def test_of_a_few_samples_all_vote():
    rows = rows_of(baselines(run_of(question("q1", "Osric", "Osric", "Tharn")), {"q1": answered(0.0)}))
    assert ("majority", 3) in rows


def test_tokens_are_those_of_prompts_and_texts_and_ends():
    cost = Cost(lambda text: len(text.split()) + 1, lambda text, style: 100 if style == "cot" else 10)
    said = question("q1", *["Osric"] * 4, *["It was Ann Osric"] * 4)
    told = {"q1": answered(0.0, "Ann Osric", response="Ann Osric\nand more")}
    thought = {"q1": answered(0.0, "Osric", response="I think.\nFinal answer: Osric")}
    rows = rows_of(baselines(run_of(said), told, thought, cost=cost))
    found = {name: (row["prompt tokens"], row["generated tokens"]) for (name, _), row in rows.items()}
    assert found["greedy"] == (10, 3)  # the line that was graded
    assert found["majority"] == (10, 4 * 2 + 4 * 5)
    assert found["chain of thought"] == (100, 6)  # all that was said
    silent = rows_of(baselines(run_of(said), told, {"q1": answered(0.0)}, cost=cost))
    assert silent["chain of thought", None]["generated tokens"] is None


def test_votes_over_chains_of_thought_pay_the_longer_prompt():
    cost = Cost(lambda text: 1, lambda text, style: 100 if style == "cot" else 10)
    rows = rows_of(baselines(run_of(*SAMPLES, prompt="cot-1"), GREEDY, cost=cost))
    assert rows["majority", 8]["prompt tokens"] == 100


def test_what_the_judge_failed_on_leaves_mean_and_n():
    ungraded = QuestionSamples("q1", (Sample("Osric", "Osric", None, tuple(range(8))),))
    rows = rows_of(baselines(run_of(ungraded, *SAMPLES[1:]), {**GREEDY, "q3": answered(math.nan, gold="3")}))
    assert rows["majority", 8]["accuracy_n"] == 2
    assert rows["majority", 8]["difference_n"] == 1
    assert rows["greedy", None]["accuracy_n"] == 2


def test_questions_with_one_gold_answer_are_drawn_together():
    greedy = {id: answered(value) for id, value in (("q1", 0.0), ("q2", 0.0), ("q3", 1.0))}
    rows = rows_of(baselines(run_of(*SAMPLES), greedy))
    assert rows["majority", 8]["accuracy_low"] is None  # one group: nothing is known of the uncertainty


# evaluations beside samples


@pytest.fixture
def evaluated(write_run, tmp_path):
    """Writes an evaluation that says of what it is."""

    def make(values, task="gorlim_dedup", name="eval", **changed):
        folder = write_run(tmp_path / name, values, task=task)
        stated = {"backend": "hf", "identity": "a" * 64, "judge": {"kind": "rules"}, "chat": True, "split": "test"}
        (folder / "run.json").write_text(json.dumps({**stated, **changed}))
        return folder

    return make


ALL = {"q1": 1.0, "q2": 0.0, "q3": 0.0}


def test_answers_are_those_of_the_sampled_questions(evaluated):
    found = answers_beside(evaluated({**ALL, "q9": 1.0}), run_of(*SAMPLES))
    assert {id: answered.value for id, answered in found.items()} == ALL


OTHERS = [
    ({"identity": "b" * 64}, r"model is 'b+' and 'a+'; evaluate what was sampled"),
    ({"judge": {"kind": "openai"}}, "judge.kind is 'openai' and 'rules'"),
    ({"chat": False}, "chat is False and True"),
    ({"split": "train"}, "task.split is 'train' and 'test'"),
]


@pytest.mark.parametrize(("changed", "said"), OTHERS)
def test_an_evaluation_of_something_else_is_refused_by_what_differs(evaluated, changed, said):
    with pytest.raises(RequestError, match=said):
        answers_beside(evaluated(ALL, **changed), run_of(*SAMPLES))


def test_a_servers_model_is_not_compared_by_digest(evaluated):
    folder = evaluated(ALL, identity="m@http://127.0.0.1/v1", backend="local-completions")
    assert answers_beside(folder, run_of(*SAMPLES)).keys() == ALL.keys()
    served = run_of(*SAMPLES, engine={"engine": "server"}, model="m")
    assert answers_beside(evaluated(ALL), served).keys() == ALL.keys()


def test_direct_answers_and_chains_of_thought_are_told_apart(evaluated, write_run):
    folder = evaluated(ALL)
    with pytest.raises(RequestError, match=r"answers gorlim_dedup; evaluate the task for --cot: one that ends in _cot"):
        answers_beside(folder, run_of(*SAMPLES), cot=True)
    write_run(folder, dict.fromkeys(ALL, 1.0), task="gorlim_dedup_cot")
    assert {a.value for a in answers_beside(folder, run_of(*SAMPLES), cot=True).values()} == {1.0}
    assert answers_beside(folder, run_of(*SAMPLES))["q2"].value == 0.0


def test_other_questions_and_a_damaged_head_are_refused_in_a_line(evaluated):
    with pytest.raises(RequestError, match="answers 1 of the 3 questions that were sampled"):
        answers_beside(evaluated({"q1": 1.0}), run_of(*SAMPLES))
    folder = evaluated(ALL)
    for damage in ("{", "[]", "{}"):
        (folder / "run.json").write_text(damage)
        with pytest.raises(RequestError, match=r"^cannot read .*run\.json: .*; score again$"):
            answers_beside(folder, run_of(*SAMPLES))
    (folder / "run.json").unlink()
    assert answers_beside(folder, run_of(*SAMPLES))


def test_a_run_tells_all_that_was_said_where_it_was_logged(write_run, tmp_path):
    folder = write_run(tmp_path / "eval", {"q1": 1.0})
    assert read_run(folder)["gorlim_dedup"]["q1"].response is None
    (path,) = folder.rglob("samples_*.jsonl")
    path.write_text(json.dumps({**json.loads(path.read_text()), "resps": [["I think.\nOsric"]]}))
    assert read_run(folder)["gorlim_dedup"]["q1"].response == "I think.\nOsric"


# with a model


@pytest.fixture
def sampled(tiny_policy, tmp_path):
    """Eight samples of the tiny model to each of three questions, and their texts."""
    request = Request(str(tiny_policy), n=8, out=tmp_path / "samples", sampling=Sampling(max_new_tokens=3), limit=3)
    sample(request, JudgeSettings(kind="rules"), progress=False)
    (run,) = read_sample_runs([tmp_path / "samples"])
    return run, {q.id: q.question for q in load_questions("worldfacts", "test")[:3]}


def test_every_sampled_answer_is_scored_once_and_kept(sampled, tiny_policy, tmp_path, monkeypatch):
    run, asked = sampled
    scores = scores_of(run, asked, str(tiny_policy), tmp_path / "out", progress=False)
    assert {id: set(some) for id, some in scores.items()} == {
        q.id: {said.answer for said in q.samples} for q in run.samples
    }
    assert all(score.log_prob < 0 and score.tokens > 0 for some in scores.values() for score in some.values())
    monkeypatch.setattr("closedbook.harness.study.scores.load_sampler", None)  # nothing is left to score
    assert scores_of(run, asked, str(tiny_policy), tmp_path / "out", progress=False) == scores


def test_scoring_that_is_interrupted_says_that_it_goes_on(sampled, tiny_policy, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    run, asked = sampled
    monkeypatch.setattr("closedbook.harness.study.scores.load_sampler", stopped)
    with pytest.raises(WorkError, match="interrupted; the same command goes on from what is kept in"):
        scores_of(run, asked, str(tiny_policy), tmp_path / "out", progress=False)


def test_two_analyses_do_not_keep_scores_in_one_folder_at_once(sampled, tiny_policy, tmp_path):
    run, asked = sampled
    scores_of(run, asked, str(tiny_policy), tmp_path / "out", progress=False)
    (folder,) = (tmp_path / "out").iterdir()
    with alone(folder), pytest.raises(RequestError, match="another run writes to"):
        scores_of(run, asked, str(tiny_policy), tmp_path / "out", progress=False)


@pytest.mark.parametrize(("changed", "said"), [({"model": "b"}, "model 'b'"), ({"prompt": "cot-1"}, "prompt 'cot-1'")])
def test_samples_of_another_model_or_prompt_are_not_scored(sampled, tiny_policy, tmp_path, changed, said):
    run, asked = sampled
    other = run._replace(head=run.head._replace(settings={**run.head.settings, **changed}))
    with pytest.raises(RequestError, match=rf"^--model: samples was sampled with {re.escape(said)}, not "):
        scores_of(other, asked, str(tiny_policy), tmp_path / "out", progress=False)


def test_tokens_are_counted_with_the_models_tokenizer(tiny_policy, tmp_path):
    cost = cost_of(str(tiny_policy), True)
    assert cost.said("Asia Europe") == 3
    assert cost.said("") == 1
    assert cost.asked("what is Asia?", "direct") > 10
    with pytest.raises(RequestError, match=r"^cannot load "):
        cost_of(str(tmp_path), True)


def test_the_command_writes_its_table_and_scores_once(sampled, tiny_policy, write_run, tmp_path):
    _, asked = sampled
    greedy = write_run(tmp_path / "eval", dict.fromkeys(asked, 0.0))
    thought = write_run(tmp_path / "cot", dict.fromkeys(asked, 1.0), task="gorlim_dedup_cot")
    arguments = ["baselines", tmp_path / "samples", "--greedy", greedy, "--cot", thought, "--model", tiny_policy,
                 "--out", tmp_path / "out", "--json"]  # fmt: skip
    first, second = (
        CliRunner().invoke(analyze_app, list(map(str, arguments)), catch_exceptions=False) for _ in range(2)
    )
    shown = json.loads(first.stdout)
    assert json.loads(second.stdout)["rows"] == shown["rows"]
    assert [row["method"] for row in shown["rows"]] == [
        "greedy", "majority", "majority, equal by the judge", "likeliest", "likeliest per token", "chain of thought",
    ]  # fmt: skip
    assert shown["rows"][1]["generated tokens"] > shown["rows"][0]["generated tokens"] > 1
    assert shown["run"]["model"] == model_digest(str(tiny_policy))
    read = json.loads((tmp_path / "out" / "baselines.json").read_text())["inputs"]
    assert [one["folder"].rpartition("/")[2] for one in read] == ["samples", "eval", "cot", tiny_policy.name]
    assert read[-1]["digest"] == shown["run"]["model"][:16]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".parquet", ".csv", ".md", ".json", ".svg"}


def test_without_a_model_there_are_votes_and_no_tokens(tmp_path, evaluated):
    store = SampleStore(tmp_path / "samples")
    store.begin(SETTINGS, list(ALL), 8)
    store.add(SAMPLES)
    (run,) = read_sample_runs([store.folder])
    table = baselines(run, answers_beside(evaluated(ALL), run))
    assert {row[-1] for row in table.rows} == {None}
    assert len(write(table, tmp_path / "out")) == 6
