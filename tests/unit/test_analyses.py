"""From folders of samples and evaluations to tables and figures; runs that cannot be compared are refused by name."""

import json
import math
import re
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from closedbook.harness.compare import Answered
from closedbook.harness.errors import RequestError
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.statistics import Estimate
from closedbook.harness.study.analyses import accessibility, bucketed, flips, passk, read_sample_runs, voting
from closedbook.harness.study.commands import analyze_app
from closedbook.harness.study.tables import Analysis, markdown, plain_rows, write

SETTINGS = {"model": "a" * 64, "prompt": "direct-1", "judge": {"kind": "rules"}, "sampling": {"seed": 0},
            "engine": {"engine": "server", "neutral_settings": "stated"}}  # fmt: skip


def question(id, rewards):
    draws = {reward: tuple(at for at, given in enumerate(rewards) if given == reward) for reward in set(rewards)}
    return QuestionSamples(id, tuple(Sample(f"said {r}", f"said {r}", r, of) for r, of in draws.items()))


BEFORE = {"q1": [0, 0, 0, 0, 1, 0, 0, 0], "q2": [1, 0, 0, 0, 0, 0, 0, 0], "q3": [1] * 8, "q4": [0] * 8}
AFTER = {"q1": [1, 1, 0, 0, 1, 0, 0, 0], "q2": [1] * 8, "q3": [1] * 8, "q4": [0] * 8}


@pytest.fixture
def stored(tmp_path):
    """Writes a folder of samples."""

    def make(name, rewards=BEFORE, n=8, **changed):
        store = SampleStore(tmp_path / name)
        store.begin({**SETTINGS, **changed}, sorted(rewards), n)
        store.add([question(id, list(map(float, given[:n]))) for id, given in rewards.items()])
        return store.folder

    return make


def test_runs_that_differ_in_the_model_alone_are_laid_beside_each_other(stored):
    runs = read_sample_runs([stored("before"), stored("after", AFTER, model="b" * 64)])
    assert [run.name for run in runs] == ["before", "after"]
    assert [[line.id for line in run.samples] for run in runs] == [["q1", "q2", "q3", "q4"]] * 2


OTHERS = [
    ({"prompt": "cot-1"}, "prompt is 'direct-1' and 'cot-1'"),
    ({"sampling": {"seed": 1}}, "sampling.seed is 0 and 1"),
    ({"judge": {"kind": "openai"}}, "judge.kind is 'rules' and 'openai'"),
]


@pytest.mark.parametrize(("changed", "said"), OTHERS)
def test_runs_of_other_prompts_settings_or_judges_are_refused_by_what_differs(stored, changed, said):
    with pytest.raises(RequestError, match=re.escape(said)):
        read_sample_runs([stored("before"), stored("after", **changed)])


def test_runs_of_other_questions_are_refused(stored):
    few = {id: BEFORE[id] for id in ("q1", "q2")}
    with pytest.raises(RequestError, match="are of other questions"):
        read_sample_runs([stored("before"), stored("after", few)])


def test_of_runs_with_other_numbers_of_samples_the_smaller_number_counts(stored):
    runs = read_sample_runs([stored("before"), stored("after", AFTER, 4)])
    assert {line.drawn for run in runs for line in run.samples} == {4}
    with pytest.raises(RequestError, match="holds 4 samples of each question, not 5"):
        read_sample_runs([stored("after", AFTER, 4)], 5)


def greedy(values):
    return [
        {
            id: Answered(f"who is {id}?", (id,), "Kyd", float(value))
            for id, value in zip(sorted(BEFORE), given, strict=True)
        }
        for given in values
    ]


def test_passk_says_which_k_of_the_first_run_reaches_the_second_ones_greedy_accuracy(stored):
    runs = read_sample_runs([stored("before"), stored("after", AFTER, model="b" * 64)])
    table = passk(runs, greedy([(0, 0, 1, 0), (0, 1, 1, 0)]))
    rows: dict[Any, Any] = {(row["run"], row["k"]): row for row in plain_rows(table)}
    assert [k for run, k in rows if run == "before"] == [1, 2, 4, 8]
    assert rows["before", 8]["pass@k"] == 0.75
    assert rows["after", 1]["greedy"] == 0.5
    reached = rows["after", 1]["k of the first run for that"]
    assert {row["if failures hide"] for row in rows.values()} == {None}
    assert reached == min(k for k in (1, 2, 4, 8) if rows["before", k]["pass@k"] >= 0.5)


def test_failures_of_the_judge_are_shown_as_what_they_could_hide(stored):
    rewards = {"q1": [1, 0], "q2": [0, 0]}
    folder = stored("run", rewards, 2)
    store = SampleStore(folder)
    store.begin({**SETTINGS}, ["q1", "q2"], 4)
    store.add([QuestionSamples(id, (Sample("Kyd", "Kyd", None, (2, 3)),)) for id in rewards])
    rows = passk(read_sample_runs([folder])).rows
    assert [row[1] for row in rows] == [1, 2]
    assert [row[3] for row in rows] == ["12.5 to 62.5", "25.0 to 91.7"]


def test_accessibility_puts_each_question_where_its_samples_do_and_rechecks_with_the_others(stored):
    (run,) = read_sample_runs([stored("before")])
    before, after = greedy([(0, 0, 1, 0), (1, 1, 1, 0)])
    table = accessibility(run, before, after, 4)
    rows = {row[0]: row for row in table.rows}
    assert {name: row[1] for name, row in rows.items()} == {"0": 2, "1": 1, "2-3": 0, "4": 1, "all": 4}
    assert [estimate(rows[name][8]).value for name in ("0", "1", "4", "all")] == [0.5, 0.5, 0.0, 1.0]
    assert [rows[name][7] for name in ("0", "all")] == [1.0, 1.0]
    assert [estimate(cell).value for cell in rows["all"][2:5]] == [0.25, 0.75, 0.5]
    assert (rows["all"][5:7], table.made_from["left_out_as_ungraded"]) == ([2, 0], 0)
    assert table.made_from["repair_rate_of_0"]["value"] == 0.5
    assert table.made_from["recheck"]["found"] == pytest.approx(
        {"value": 0.5, "n": 2, "low": 0.0945, "high": 0.9055}, abs=1e-3
    )


def test_questions_with_one_gold_answer_are_one_piece_of_evidence(stored):
    rewards = {f"q{at}": [at % 2, 0] for at in range(12)}
    (run,) = read_sample_runs([stored("before", rewards, 2)])
    for shared in (False, True):
        before, after = (
            {id: Answered(f"who is {id}?", ("Osric" if shared else id,), "Kyd", value) for id in rewards}
            for value in (0.0, 1.0)
        )
        assert {estimate(row[2]).low is None for row in passk([run], [before]).rows} == {shared}
        *_, whole = accessibility(run, before, after).rows
        assert (whole[5], whole[7] == 1) == (12, shared)


def test_a_bucket_without_questions_is_no_test_that_the_others_are_adjusted_for(stored):
    rewards = {f"q{at}": [0, 0] for at in range(8)}  # of 0, 1 and 2 right samples two have no question
    (run,) = read_sample_runs([stored("before", rewards, 2)])
    before, after = ({id: Answered("who?", (id,), "Kyd", value) for id in rewards} for value in (0.0, 1.0))
    assert [row[7] for row in accessibility(run, before, after).rows] == [2 * 2 / 2**8, None, None, 2 * 2 / 2**8]


def test_what_has_no_grade_is_left_out_and_counted(stored):
    (run,) = read_sample_runs([stored("before")])
    run = run._replace(samples=[question("q1", [0.0, None]), question("q2", [1.0, 1.0]), question("q3", [0.0, 1.0])])
    asked = {id: Answered("who?", (id,), "Kyd", 0.0) for id in ("q1", "q2", "q3")}
    assert bucketed(run).rows == [["q3", "1"], ["q2", "2"]]
    for table in (bucketed(run), accessibility(run, asked, asked)):
        assert table.made_from["left_out_as_ungraded"] == 1
    assert estimate(voting([run]).rows[0][3]).value == pytest.approx((0 + 1 + 0.5) / 3)


def estimate(cell):
    assert isinstance(cell, Estimate)
    return cell


def test_majority_stands_beside_the_mean_sample(stored):
    runs = read_sample_runs([stored("before")])
    rows = plain_rows(voting(runs))
    assert [row["votes"] for row in rows] == [1, 2, 4, 8]
    assert rows[0]["majority"] == rows[0]["mean sample"] == pytest.approx((1 / 8 + 1 / 8 + 1) / 4)
    assert rows[3]["majority"] == 0.25


def asked(folder, **changed):
    """Says of a run how it was asked and graded."""
    stated = {
        "identity": "a" * 64,
        "backend": "hf",
        "chat": True,
        "split": "test",
        "judge": {"kind": "rules"},
        **changed,
    }
    (folder / "run.json").write_text(json.dumps(stated))
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"judge": {"kind": "tharn"}}, "judge.kind is 'rules' and 'tharn'"), ({"split": "train"}, "split is")],
)
@pytest.mark.parametrize("command", ["accuracy", "flips", "attribution", "transfer", "accessibility"])
def test_evaluations_that_were_graded_or_asked_otherwise_are_refused_by_what_differs(
    stored, write_run, tmp_path, command, changed, said
):
    one, other = (write_run(tmp_path / name, dict.fromkeys(BEFORE, 0.0)) for name in ("one", "other"))
    asked(one), asked(other, **changed)
    words = {
        "accuracy": [one, other],
        "flips": [one, other],
        "attribution": [one, one, "--part", f"bucket_0={other}"],
        "transfer": [one, "--trained", f"popqa={other}"],
        "accessibility": [stored("before"), "--before", one, "--after", other],
    }
    with pytest.raises(RequestError, match=f"cannot be laid beside each other: {said}"):
        invoke(command, *words[command], "--out", tmp_path / "out")


def test_plain_matching_may_be_compared_whatever_the_judge_and_models_may_be_asked_in_their_own_way(
    write_run, tmp_path
):
    one, other = (write_run(tmp_path / name, dict.fromkeys(BEFORE, 0.0)) for name in ("one", "other"))
    asked(one), asked(other, judge={"kind": "tharn"}, chat=False)
    found = json.loads(invoke("accuracy", one, other, "--metric", "exact_match", "--out", tmp_path / "out", "--json"))
    assert [row["run"] for row in found["rows"]] == ["one", "other"]


def test_greedy_answers_are_the_sampled_models_own(stored, write_run, tmp_path):
    other = asked(write_run(tmp_path / "other", dict.fromkeys(BEFORE, 0.0)), identity="b" * 64)
    here = stored("before", engine={"engine": "transformers"})
    with pytest.raises(RequestError, match="the samples cannot be laid beside each other: model is"):
        invoke("passk", here, "--greedy", other, "--out", tmp_path / "out")


def answered(values, says):
    return {id: Answered(f"who is {id}?", ("Osric",), f"{says} {id}", value) for id, value in values.items()}


def test_flips_are_the_questions_that_changed_sides_the_least_accessible_first():
    before = answered({"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0, "e": math.nan, "f": 0.0}, "old")
    after = answered({"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0, "e": 1.0, "f": 0.0}, "new")
    table = flips(before, after, {"a": "4-7", "b": "0", "c": "128"})
    assert [(row[0], row[1], row[2]) for row in table.rows] == [
        ("gained", "0", "b"), ("gained", "4-7", "a"), ("lost", "128", "c"),
    ]  # fmt: skip
    assert table.rows[0][3:] == ["who is b?", "old b", "new b", "Osric"]
    assert table.made_from == {"questions": 5, "gained": 2, "lost": 1}
    assert [row[1] for row in flips(before, after).rows] == [None] * 3
    assert [row[2] for row in flips(before, after, {"b": "4-7"}).rows] == ["b", "a", "c"]
    assert flips(after, before).made_from == {"questions": 5, "gained": 1, "lost": 2}


TABLE = Analysis(
    "gorlim",
    "What Gorlim knows",
    ("run", "accuracy", "k"),
    [["a|b", Estimate(0.5, 0.25, 0.75, 8), 1], ["c", None, None]],
    {"runs": {"a": {"digest": "d"}}},
    lambda axes: axes.plot([1, 2], [3, 4]),
)


def test_an_analysis_is_written_for_programs_and_for_people(tmp_path):
    files = write(TABLE, tmp_path)
    assert [path.name for path in files] == [f"gorlim.{end}" for end in ("parquet", "csv", "md", "json", "svg", "png")]
    rows = pq.read_table(tmp_path / "gorlim.parquet").to_pylist()
    assert rows[0] == {
        "run": "a|b",
        "accuracy": 0.5,
        "accuracy_low": 0.25,
        "accuracy_high": 0.75,
        "accuracy_n": 8,
        "k": 1,
    }
    assert rows[1]["accuracy"] is None
    assert (tmp_path / "gorlim.csv").read_text().splitlines()[1] == "a|b,0.5,0.25,0.75,8,1"
    assert "| a\\|b | 50.0 [25.0, 75.0] | 1 |" in (tmp_path / "gorlim.md").read_text()
    assert json.loads((tmp_path / "gorlim.json").read_text())["runs"] == {"a": {"digest": "d"}}
    assert (tmp_path / "gorlim.svg").read_text().startswith("<?xml")
    assert (tmp_path / "gorlim.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_analysis_gives_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        write(TABLE, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_nothing_of_an_analysis_names_a_server(stored, tmp_path):
    table = passk(read_sample_runs([stored("before")]))
    write(table, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if b"gorlim" in path.read_bytes()]
    assert "| before | 1 |" in markdown(table)
    assert not any(math.isnan(value) for row in plain_rows(table) for value in row.values() if isinstance(value, float))


def invoke(*arguments):
    """Standard output and exit code of `closedbook analyze`."""
    done = CliRunner().invoke(analyze_app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_the_commands_write_their_tables_and_print_json_for_scripts(stored, write_run, tmp_path):
    before, after = stored("before"), stored("after", AFTER, model="b" * 64)
    told = [write_run(tmp_path / f"{value}", dict.fromkeys(BEFORE, value)) for value in (0.0, 1.0)]
    out = ("--out", tmp_path / "out", "--json")
    passed = json.loads(invoke("passk", before, after, "--greedy", told[0], "--greedy", told[1], *out))
    assert {row["greedy"] for row in passed["rows"]} == {0.0, 1.0}
    bucketed = json.loads(invoke("accessibility", before, "--before", told[0], "--after", told[1], "-n", 4, *out))
    assert bucketed["repair_rate_of_0"]["value"] == 1.0
    assert [row["votes"] for row in json.loads(invoke("majority", before, *out))["rows"]] == [1, 2, 4, 8]
    changed = json.loads(invoke("flips", *told, "--samples", before, *out))
    assert (changed["gained"], changed["lost"]) == (4, 0)
    assert {row["bucket"] for row in changed["rows"]} == {"0", "1", "8"}
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"passk", "accessibility", "majority", "flips"}
    assert "gained" in invoke("flips", *told, "--out", tmp_path / "out")


def test_an_evaluation_for_each_run_or_none(stored, write_run, tmp_path):
    with pytest.raises(RequestError, match="--greedy: 1 evaluations for 2 runs"):
        invoke("passk", stored("before"), stored("after"), "--greedy", tmp_path)
    first = write_run(tmp_path / "a", {"q1": 1.0})
    with pytest.raises(RequestError, match="answer other questions: 0 in both"):
        invoke("flips", first, write_run(tmp_path / "b", {"q2": 1.0}))


def test_accuracy_attribution_and_transfer_read_folders_of_evaluations(write_run, tmp_path):
    wrong, right = ({f"q{at}": value for at in range(30)} for value in (0.0, 1.0))
    half = {name: float(at < 15) for at, name in enumerate(wrong)}
    base, full, part = (
        write_run(tmp_path / name, of) for name, of in (("base", wrong), ("full", right), ("part", half))
    )
    out = ("--out", tmp_path / "out", "--json")
    rows = json.loads(invoke("accuracy", base, full, part, *out))["rows"]
    assert [(row["run"], row["accuracy"], row["gained"]) for row in rows] == [
        ("base", 0.0, None), ("full", 1.0, 30), ("part", 0.5, 15),
    ]  # fmt: skip
    shares = json.loads(invoke("attribution", base, full, "--part", f"bucket_0={part}", *out))["rows"]
    assert shares[1]["trained on"] == "bucket_0"
    assert shares[1]["share of the whole gain"] == 0.5
    (moved,) = json.loads(invoke("transfer", base, "--trained", f"popqa={full}", *out))["rows"]
    assert (moved["trained on"], moved["gain"], moved["left out"]) == ("popqa", 1.0, 0)


def test_a_part_that_is_not_there_is_left_out_only_if_that_was_asked_for(write_run, tmp_path):
    base, full = (write_run(tmp_path / f"{value}", {"q1": value, "q2": value}) for value in (0.0, 1.0))
    absent = ("--part", f"bucket_1={tmp_path / 'absent'}")
    words = ("attribution", base, full, *absent, "--out", tmp_path / "out", "--json")
    there = ("--part", f"bucket_0={full}")
    with pytest.raises(RequestError, match="absent"):
        invoke(*words, *there)
    rows = json.loads(invoke(*words, *there, "--leave-out-absent"))["rows"]
    assert [row["trained on"] for row in rows] == ["all", "bucket_0"]
    with pytest.raises(RequestError, match="--part: no folder of a part is there"):
        invoke(*words, "--leave-out-absent")


@pytest.mark.parametrize(("task", "known"), [("gorlim_dedup", False), ("nq_dedup", True)])
def test_transfer_says_of_which_benchmarks_nothing_could_be_left_out(write_run, tmp_path, task, known):
    base = write_run(tmp_path / "base", {"q1": 0.0}, task=task)
    words = ["transfer", str(base), "--trained", f"popqa={base}", "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(analyze_app, words).stderr
    assert ("note: what others state of gorlim, and it of others, is not known" in said) is not known


def test_a_part_without_a_name_and_a_task_that_nobody_answered_are_refused(write_run, tmp_path):
    base = write_run(tmp_path / "base", {"q1": 0.0})
    with pytest.raises(RequestError, match="is no NAME=FOLDER"):
        invoke("attribution", base, base, "--part", base)
    with pytest.raises(RequestError, match="holds no answers to 'gorlim'; it has"):
        invoke("accuracy", base, "--task", "gorlim")


def test_buckets_are_what_a_recipe_trains_on(stored, tmp_path):
    found = json.loads(invoke("buckets", stored("before"), "-n", 8, "--out", tmp_path / "out", "--json"))
    assert found["questions"]["0"] == sum(row["bucket"] == "0" for row in found["rows"]) > 0
    kept = pq.read_table(tmp_path / "out" / "buckets.parquet").to_pylist()
    assert kept == found["rows"]
    assert set(kept[0]) == {"id", "bucket"}


def test_more_samples_than_there_are_cannot_make_buckets(stored, write_run, tmp_path):
    here, told = stored("before"), write_run(tmp_path / "told", dict.fromkeys(BEFORE, 0.0))
    for words in (
        ["accessibility", here, "--before", told, "--after", told],
        ["buckets", here],
        ["flips", told, told, "--samples", here],
    ):
        with pytest.raises(RequestError, match="before holds 8 samples of each question, not 9; draw more with -n"):
            invoke(*words, "-n", 9, "--out", tmp_path / "out")


def test_the_buckets_of_flips_are_of_the_model_before(stored, write_run, tmp_path):
    here = stored("before", engine={"engine": "transformers"})
    other = asked(write_run(tmp_path / "other", dict.fromkeys(BEFORE, 0.0)), identity="b" * 64)
    with pytest.raises(RequestError, match="the samples cannot be laid beside each other: model is"):
        invoke("flips", other, other, "--samples", here, "--out", tmp_path / "out")


def test_a_question_that_two_tasks_ask_is_compared_for_one_of_them(write_run, tmp_path):
    base, after = tmp_path / "base", tmp_path / "after"
    for folder, direct in ((base, 0.0), (after, 1.0)):
        write_run(folder, dict.fromkeys(BEFORE, direct), task="popqa_dedup")
        write_run(folder, dict.fromkeys(BEFORE, 0.0), task="popqa_dedup_cot")
    out = ("--out", tmp_path / "out", "--json")
    for words in (["flips", base, after], ["attribution", base, after, "--part", f"a={after}"]):
        with pytest.raises(RequestError, match="ask the same questions; choose one with --task"):
            invoke(*words, *out)
    assert json.loads(invoke("flips", base, after, "--task", "popqa_dedup", *out))["gained"] == 4
    rows = json.loads(invoke("transfer", base, "--trained", f"popqa={after}", *out))["rows"]
    assert {row["asked"]: row["gained"] for row in rows} == {"popqa": 4, "popqa_cot": 0}


@pytest.mark.parametrize(
    ("trained", "said"), [(["pop_qa"], "no benchmark 'pop_qa'; there are"), (["nq", "nq"], "nq stands there twice")]
)
def test_transfer_names_each_benchmark_once_and_as_it_is_called(write_run, tmp_path, trained, said):
    base = write_run(tmp_path / "base", {"q1": 0.0})
    words = [word for name in trained for word in ("--trained", f"{name}={base}")]
    with pytest.raises(RequestError, match=said):
        invoke("transfer", base, *words)


def test_samples_that_a_killed_run_left_without_verdicts_are_not_analysed(stored):
    folder = stored("run")
    store = SampleStore(folder)
    ids = [f"q{at}" for at in range(5, 9)]
    store.begin(SETTINGS, [*BEFORE, *ids], 8)
    store.add([QuestionSamples(id, (Sample("Kyd", "Kyd", None, tuple(range(8))),)) for id in ids])
    with pytest.raises(RequestError, match=r"4 of 8 questions have no verdict on any sample; the same .* grades them"):
        read_sample_runs([folder])


def test_two_texts_for_one_sample_are_refused(stored):
    folder = stored("run")
    SampleStore(folder).add([QuestionSamples("q1", (Sample("Kyd", "Kyd", 1.0, (0,)),))])
    with pytest.raises(RequestError, match="1 questions have two texts for one sample"):
        read_sample_runs([folder])
