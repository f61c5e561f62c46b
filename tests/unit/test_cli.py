"""The command line: what it prints, where, and with which exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from closedbook.harness import cli
from closedbook.harness.dedup.rules import REASONS
from closedbook.harness.files import tasks_dir
from closedbook.harness.manifests import read_manifest

COMMANDS = [
    "eval",
    "demo",
    "data check",
    "data list",
    "export",
    "benchmarks new",
    "splits build",
    "splits check",
    "tasks path",
    "tasks list",
    "dedup run",
    "dedup score",
    "dedup explain",
    "dedup diff",
    "dedup contamination",
    "dedup effect",
    "compare",
    "judge grade",
    "judge calibrate",
    "judge attack",
    "judge settings",
]


def test_no_command_is_added_twice_however_often_the_program_is_called(closedbook):
    there = len(cli.program().registered_commands)
    closedbook("tasks", "path")
    assert len(cli.program().registered_commands) == there


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(closedbook, command):
    code, out, _ = closedbook(*command.split(), "--help")
    assert code == 0
    assert "Usage" in out
    assert len(out) > 200


@pytest.mark.parametrize(
    "arguments",
    [["nosuch"], ["eval"], ["eval", "m", "--limit", "0"], ["eval", "m", "--tasks", "nosuch"],
     ["data", "check", "nosuch"], ["splits", "check", "nosuch"], ["splits", "build", "worldfacts", "--drop", "both"]],
)  # fmt: skip
def test_a_wrong_request_exits_with_2_and_says_so_on_standard_error(closedbook, arguments):
    code, out, err = closedbook(*arguments)
    assert code == 2
    assert out == ""
    assert err.strip()


def test_an_error_is_one_line_without_a_traceback(closedbook):
    code, _, err = closedbook("data", "check", "nosuch")
    assert code == 2
    assert err.startswith("closedbook: no benchmark 'nosuch'; there are nq, triviaqa, popqa, simpleqa, worldfacts; ")
    assert err.count("\n") == 1


def test_tasks_path_prints_the_folder_that_include_path_takes(closedbook):
    assert closedbook("tasks", "path") == (0, f"{tasks_dir()}\n", "")


def test_tasks_list_names_tasks_and_groups(closedbook):
    names = closedbook("tasks", "list")[1].split()
    assert {"closedbook", "popqa_dedup", "worldfacts_dedup_cot"} <= set(names)


def test_data_check_reports_counts_and_exits_0_for_a_source_as_pinned(closedbook):
    code, out, _ = closedbook("data", "check", "worldfacts", "--json")
    (entry,) = json.loads(out)
    assert code == 0
    assert entry["rows"] == entry["questions"] == entry["full_rows"] == 598


def test_data_check_names_every_source_that_cannot_be_read(closedbook, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_DATA", str(tmp_path))
    code, out, err = closedbook("data", "check", "popqa", "simpleqa", "--json")
    assert code == 2
    assert [entry["benchmark"] for entry in json.loads(out)] == ["popqa", "simpleqa"]
    assert all(name in err for name in ("akariasai__PopQA", "basicv8vc__SimpleQA"))


def test_splits_build_writes_what_is_committed_and_check_proves_it(closedbook, tmp_path):
    code, out, _ = closedbook("splits", "build", "worldfacts", "--out", tmp_path, "--json")
    assert code == 0
    assert (tmp_path / "worldfacts.jsonl").read_bytes() == (tasks_dir() / "manifests" / "worldfacts.jsonl").read_bytes()
    assert json.loads(out)["worldfacts"]["variant"] == "hub-full"
    assert closedbook("splits", "check", "worldfacts", "--folder", tmp_path)[0] == 0


def test_splits_check_says_where_it_does_not_decide_again(closedbook, tmp_path):
    committed = (tasks_dir() / "manifests" / "worldfacts.jsonl").read_text()
    (tmp_path / "worldfacts.jsonl").write_text(committed.replace('"decider": "rules-3"', '"decider": "llm-m-1"', 1))
    code, _, err = closedbook("splits", "check", "worldfacts", "--folder", tmp_path)
    assert code == 0
    assert "worldfacts: decided by llm-m-1, not decided again\n" in err
    assert "all promises hold" not in err


def test_a_benchmark_that_is_named_twice_is_built_once(closedbook, tmp_path):
    assert (
        closedbook("splits", "build", *["worldfacts"] * 2, "--out", tmp_path, "--ledger", tmp_path / "l.jsonl")[0] == 0
    )
    lines = (tmp_path / "l.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("name", ["worldfacts.jsonl", "overlaps.jsonl"])
def test_a_ledger_takes_the_place_of_no_manifest(closedbook, tmp_path, name):
    (tmp_path / name).write_text("mine")
    code, _, err = closedbook("splits", "build", "worldfacts", "--out", tmp_path, "--ledger", tmp_path / "." / name)
    assert (code, (tmp_path / name).read_text()) == (2, "mine")
    assert f"{name} is the place of a manifest" in err


def test_an_embedding_model_without_a_name_is_refused(closedbook, tmp_path):
    code, _, err = closedbook("splits", "build", "worldfacts", "--out", tmp_path, "--embeddings", "")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "--embeddings" in err


def test_splits_build_can_write_every_compared_pair(closedbook, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    assert closedbook("splits", "build", "worldfacts", "--out", tmp_path, "--ledger", ledger)[0] == 0
    decisions = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert {"contained", "not_contained"} == {decision["verdict"] for decision in decisions}
    dropped = {row.id for row in read_manifest("worldfacts", tmp_path).rows if row.dropped_from}
    assert dropped == {decision["question"] for decision in decisions if decision["verdict"] == "contained"}


def test_another_seed_gives_another_partition(closedbook, tmp_path):
    build = ("splits", "build", "worldfacts", "--out", tmp_path, "--json", "--seed")
    digests = {json.loads(closedbook(*build, seed)[1])["worldfacts"]["digest"] for seed in (1, 2)}
    assert len(digests) == 2


@pytest.fixture
def pairs(tmp_path):
    """One labelled pair, of which the rules are certain."""
    path = tmp_path / "pairs.jsonl"
    pair = {"benchmark": "nq", "test_question": "who wrote hamlet", "test_golds": ["Shakespeare"],
            "train_question": "who wrote hamlet?", "train_golds": ["Shakespeare"], "label": "same_fact"}  # fmt: skip
    path.write_text(json.dumps(pair) + "\n")
    return path


def test_dedup_score_prints_figures_by_group(closedbook, pairs):
    figures = json.loads(closedbook("dedup", "score", pairs, "--json")[1])
    assert figures["overall"]["recall"]["value"] == 1.0
    assert "nq" in closedbook("dedup", "score", pairs)[1]


def test_a_model_decides_where_it_is_named(closedbook, pairs):
    from closedbook.harness.testing import JudgeServer

    with JudgeServer(lambda prompt: json.dumps({"reasoning": "", "is_contained": "france" in prompt})) as server:
        model = ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--judge-set", "price_in=2"]
        code, out, _ = closedbook("dedup", "score", pairs, "--decider", "cascade", *model)
        assert (code, out.splitlines()[0], server.prompts) == (0, "same_fact; decider: cascade", [])
        code, out, err = closedbook("dedup", "score", pairs, "--decider", "llm", *model)
    assert (code, out.splitlines()[0]) == (0, "same_fact; decider: llm")
    assert re.search(r"^model: \d calls, .* tokens, \$0\.00", err, re.MULTILINE)


def test_pairs_that_a_model_cannot_decide_exit_with_1_where_they_are_too_many(closedbook, pairs):
    from closedbook.harness.testing import JudgeServer

    said = json.dumps({"reasoning": "", "is_contained": True})
    with JudgeServer(lambda prompt: said if "france" in prompt else "dunno") as server:
        score = ["dedup", "score", pairs, "--decider", "llm", "--judge", "openai", "--judge-model", "m",
                 "--judge-url", server.url]  # fmt: skip
        code, _, err = closedbook(*score)
        assert (code, "1 of 1 pairs could not be decided" in err) == (1, True)
        code, _, err = closedbook(*score, "--max-failures", 1)
        assert (code, "note: 1 of 1 pairs could not be decided" in err) == (0, True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--decider", "x"], "--decider is rules, llm or cascade, not 'x'"),
     (["--decider", "llm"], "--decider llm needs a model"),
     (["--decider", "llm", "--judge-set", "speed=9"], "'speed' is no setting")],
)  # fmt: skip
@pytest.mark.parametrize("command", [["dedup", "score", "pairs.jsonl"], ["splits", "build", "worldfacts"]])
def test_a_decider_that_cannot_be_had_is_one_line(closedbook, command, flags, said):
    code, out, err = closedbook(*command, *flags)
    assert (code, out, said in err, len(err.splitlines())) == (2, "", True, 1)


def graded(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_judge_grade_writes_each_line_again_with_its_grade(closedbook, tmp_path):
    answers = tmp_path / "answers.jsonl"
    lines = [{"question": "q", "golds": ["Zürich"], "answer": answer, "system": 7} for answer in ("In Zürich", "Bern")]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = closedbook("judge", "grade", answers, "--json")
    assert code == 0
    assert json.loads(out)["overall"]["correct"]["value"] == 0.5
    assert [(line["grade"], line["system"]) for line in graded(tmp_path / "answers.graded.jsonl")] == [
        ("correct", 7),
        ("incorrect", 7),
    ]


def test_judge_grade_keeps_a_failure_apart_from_a_wrong_answer(closedbook, tmp_path, monkeypatch):
    from closedbook.harness.testing import JudgeServer

    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"question": "q", "golds": ["Paris"], "answer": "Rome"}) + "\n")
    with JudgeServer(lambda prompt: "dunno" if "Rome" in prompt else "1.0") as server:
        monkeypatch.setenv("CLOSEDBOOK_JUDGE_BASE_URL", server.url)
        monkeypatch.setenv("CLOSEDBOOK_JUDGE_MODEL", "m")
        code, out, err = closedbook("judge", "grade", answers, "--judge", "openai", "--json")
        lenient = closedbook("judge", "grade", answers, "--judge", "openai", "--json", "--max-judge-failures", 1)
    assert code == 1
    assert "1 of 1 answers could not be graded (unparsable: the judge replied 'dunno', not 1.0 or 0.0)" in err
    assert lenient[:2] == (0, out)
    figures = json.loads(out)["overall"]
    assert figures["judge_failed"]["value"] == 1.0
    assert figures["incorrect"] == {"value": None, "low": None, "high": None, "n": 0}
    assert graded(tmp_path / "answers.graded.jsonl")[0]["judge_failure"] == "unparsable"


@pytest.mark.parametrize("line", ["{", "[]", '{"question": "q"}', '{"question": "q", "golds": "Paris", "answer": "a"}'])
def test_a_malformed_line_is_named(closedbook, tmp_path, line):
    answers = tmp_path / "answers.jsonl"
    answers.write_text(f'{{"question": "q", "golds": ["g"], "answer": "a"}}\n{line}\n')
    code, _, err = closedbook("judge", "grade", answers)
    assert code == 2
    assert "line 2: " in err
    assert "give question and answer as text and golds as a list of texts" in err


def test_a_file_that_is_not_there_is_one_line(closedbook, tmp_path):
    code, _, err = closedbook("judge", "grade", tmp_path / "none.jsonl")
    assert code == 2
    assert "none.jsonl" in err
    assert "Traceback" not in err


def test_grades_have_no_place_below_a_file(closedbook, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question": "q", "golds": ["g"], "answer": "a"}\n')
    (tmp_path / "file").write_text("")
    code, _, err = closedbook("judge", "grade", answers, "--out", tmp_path / "file" / "out.jsonl")
    assert code == 2
    assert "cannot write" in err


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [{"question": "q", "golds": ["Paris"], "answer": f"town {n}"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_spent_budget_ends_with_1_and_the_next_run_asks_for_the_rest(closedbook, answers):
    from closedbook.harness.judge import make_judge
    from closedbook.harness.testing import JudgeServer

    with JudgeServer(lambda prompt: "0.0") as server:
        flags = ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--json",
                 "--judge-set", "price_in=1e6", "--judge-set", "concurrency=1"]  # fmt: skip
        code, out, err = closedbook("judge", "grade", answers, *flags, "--budget", 4)
        assert code == 1
        assert "(budget: the judge's budget of $4 is spent); what was graded is kept in " in err
        assert json.loads(out)["overall"]["judge_failed"]["value"] == 0.5
        make_judge.cache_clear()
        assert closedbook("judge", "grade", answers, *flags)[0] == 0
        assert sum("town" in prompt for prompt in server.prompts) == 6


def labels(answers):
    """The same lines with what people said."""
    rows = [json.loads(line) | {"correct": True} for line in answers.read_text().splitlines() if line]
    path = answers.with_name("labels.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_dry_run_counts_and_asks_nobody(closedbook, answers):
    flags = ["--judge", "openai", "--judge-model", "m", "--judge-url", "http://127.0.0.1:9/v1", "--dry-run"]
    code, out, _ = closedbook("judge", "grade", answers, *flags, "--json")
    assert (code, json.loads(out)["calls"], json.loads(out)["dollars"]) == (0, 6, None)
    code, out, _ = closedbook("judge", "grade", answers, *flags, "--judge-set", "price_in=2")
    assert out.startswith("6 calls at most and one to try the judge, about ")
    assert "cost about $0.00" in out
    for rows in (["judge", "calibrate", labels(answers)], ["judge", "attack"]):
        code, out, _ = closedbook(*rows, *flags, "--json")
        assert code == 0 and json.loads(out)["calls"] > 0
    code, out, _ = closedbook("eval", "no/model", "--limit", 3, *flags, "--json")
    assert (code, json.loads(out)["calls"]) == (0, 3)
    assert closedbook("eval", "no/model", "--dry-run")[:2] == (0, "0 calls: rules grade all answers\n")
    assert not answers.with_suffix(".graded.jsonl").exists()


@pytest.mark.parametrize(("setting", "said"), [("speed=9", "'speed' is no setting"), ("prompt", "'prompt' is no"),
                                               ("concurrency=x", "concurrency: "), ("without=luck", "no rule 'luck'"),
                                               ("api_key=s", "'api_key' in metadata")])  # fmt: skip
def test_a_setting_of_the_judge_that_is_wrong_is_one_line(closedbook, answers, setting, said):
    code, _, err = closedbook("judge", "grade", answers, "--judge-set", setting)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_judge_calibrate_prints_figures_and_saves_them(closedbook, tmp_path):
    labels, out = tmp_path / "labels.jsonl", tmp_path / "calibration.json"
    row = {"question": "q", "golds": ["Paris"], "system": "s"}
    rows = [row | {"answer": "Paris", "correct": True}, row | {"answer": "Rome", "correct": False}]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed, _ = closedbook("judge", "calibrate", labels, "--out", out, "--json")
    figures = json.loads(printed)
    assert code == 0
    assert set(figures) == {"overall", "system: s", "length: 1-5 words"}
    assert {name: entry["value"] for name, entry in figures["overall"].items()} == {
        "accuracy": 1.0, "fpr": 0.0, "fnr": 0.0, "kappa": 1.0,
    }  # fmt: skip
    assert json.loads(out.read_text())["figures"] == figures
    code, printed, err = closedbook("judge", "calibrate", labels, "--out", out, "--system", "s", "--limit", 1)
    assert (code, "overall" in printed, str(out) in err.replace("\n", "")) == (0, True, True)


def test_a_calibration_never_replaces_its_labels_and_a_folder_is_no_file(closedbook, answers):
    before = answers.read_bytes()
    assert closedbook("judge", "calibrate", answers, "--out", answers)[0] == 2
    assert answers.read_bytes() == before
    for command in (["judge", "grade", "."], ["judge", "calibrate", answers.parent]):
        code, _, err = closedbook(*command)
        assert (code, "Traceback" in err) == (2, False)


def test_judge_attack_prints_a_rate_for_every_family(closedbook):
    code, out, _ = closedbook("judge", "attack", "--json")
    figures = json.loads(out)
    assert code == 0
    assert len(figures) == 11
    assert figures["overall"]["fpr"]["value"] == 0.0
    assert "gold_fishing" in closedbook("judge", "attack", "--show")[1]


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "closedbook.harness.cli", "tasks", "path"],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert (done.returncode, done.stdout) == (0, f"{tasks_dir()}\n")


def test_a_title_names_the_judge_and_what_differs_from_the_usual_one(closedbook, answers):
    _, out, _ = closedbook("judge", "grade", answers, "--judge-set", "without=name", "--judge-set", "prompt=simpleqa")
    assert out.startswith("Grades; judge: rules; prompt simpleqa; without name\n")


def test_an_explanation_names_every_id_in_one_piece_and_says_what_the_rule_means(closedbook, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    dropped = next(row for row in read_manifest("worldfacts").rows if row.dropped_from == "test")
    _, out, _ = closedbook("dedup", "explain", dropped.id)
    assert f"dropped from test: {dropped.rule}, {dropped.contained_in}" in out
    (told,) = (part for part in out.split("\n\n") if f"  {dropped.contained_in}  contained, " in part)
    assert told.endswith(REASONS[dropped.rule])


def test_every_setting_of_a_judge_is_explained_and_those_in_the_docs_are_the_same(closedbook):
    _, out, _ = closedbook("judge", "settings", "--json")
    settings = json.loads(out)
    assert all(row["meaning"] for row in settings.values())
    docs = (Path(__file__).parents[2] / "docs" / "judge.md").read_text()
    told = set(re.findall(r"`(\w+)`", docs.split("| setting |")[1].split("\n\n")[0]))
    assert set(settings) - {"kind", "model", "base_url", "api_key"} <= told
    _, out, _ = closedbook("judge", "settings")
    assert "\nconcurrency [default: 32]\n" in out and "CLOSEDBOOK_JUDGE_CONCURRENCY" in out


def test_an_answer_may_hold_any_character_that_json_allows(closedbook, tmp_path):
    answers = tmp_path / "answers.jsonl"
    row = {"question": "q", "golds": ["Paris"], "answer": "Paris\u2028\u0085"}
    answers.write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert closedbook("judge", "grade", answers, "--json")[0] == 0
    (line,) = graded(tmp_path / "answers.graded.jsonl")
    assert line == row | {"grade": "correct", "decided_by": "exact"}


def test_a_ledger_has_no_place_below_a_file(closedbook, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = closedbook(
        "splits", "build", "worldfacts", "--out", tmp_path, "--ledger", tmp_path / "file" / "ledger"
    )
    assert code == 2
    assert "cannot write" in err
    assert "Traceback" not in err


def test_data_list_names_licence_and_source_of_every_benchmark(closedbook):
    out = closedbook("data", "list")[1]
    assert all(said in out for said in ("akariasai/PopQA", "CC BY-SA 3.0", "@inproceedings{joshi2017triviaqa"))
    assert {entry["name"] for entry in json.loads(closedbook("data", "list", "--json")[1])} >= {"nq", "worldfacts"}


@pytest.mark.parametrize("content", ["", "\n\n", '{"question": "q", "golds": [], "answer": "a"}\n', "[" * 100_000])
def test_what_holds_nothing_to_grade_is_refused(closedbook, tmp_path, content):
    (tmp_path / "answers.jsonl").write_text(content)
    code, out, err = closedbook("judge", "grade", tmp_path / "answers.jsonl", "--json")
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_graded_lines_never_replace_the_input_or_a_device(closedbook, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question": "q", "golds": ["g"], "answer": "a"}\n')
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for out in (answers, fifo):
        assert closedbook("judge", "grade", answers, "--out", out)[0] == 2
    assert fifo.is_fifo()


@pytest.mark.parametrize("command", [["tasks", "list"], ["data", "list", "--json"]])
def test_a_receiver_of_the_output_that_is_full_is_one_line(command):
    with Path("/dev/full").open("w") as full:
        whole = [sys.executable, "-m", "closedbook.harness.cli", *command]
        done = subprocess.run(whole, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "closedbook: cannot go on" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_build_leaves_the_old_ledger(closedbook, tmp_path, monkeypatch):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("old")
    monkeypatch.setenv("CLOSEDBOOK_DATA", str(tmp_path))
    assert closedbook("splits", "build", "popqa", "--out", tmp_path, "--ledger", ledger)[0] == 2
    assert ledger.read_text() == "old"
    assert not list(tmp_path.glob("*.part"))


def test_compare_prints_accuracies_differences_and_what_changed(closedbook, tmp_path, write_run):
    for name, values in {"base": [0.0] * 8, "grpo": [1.0] * 7 + [0.0]}.items():
        write_run(tmp_path / name, {f"gorlim{at}": value for at, value in enumerate(values)})
    code, out, _ = closedbook("compare", tmp_path / "base", tmp_path / "grpo", "--show", 2)
    assert code == 0
    assert all(said in out for said in ("base", "grpo", "87.5", "0.016", "who is gorlim0?", "who is gorlim1?"))
    assert "who is gorlim2?" not in out
    assert out.endswith("wrong only in grpo: 0\n\n")  # and no table without rows
    code, out, _ = closedbook("compare", tmp_path / "base", tmp_path / "grpo", "--json")
    assert [row["against"] and row["against"]["gained"] for row in json.loads(out)] == [None, 7]
