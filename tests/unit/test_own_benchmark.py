"""Benchmarks of one's own: how one is made, how its description is checked, and that every part knows its name."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closedbook.harness import splits
from closedbook.harness.dedup.contamination import contamination
from closedbook.harness.dedup.ledger import explain
from closedbook.harness.errors import ManifestError, RequestError, SourceError, WorkError
from closedbook.harness.evaluate import evaluate, members, plan_judging, task_names
from closedbook.harness.export import export
from closedbook.harness.files import alone, tasks_dir
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.manifests import (
    Manifest,
    check_sources,
    load_questions,
    manifests_dir,
    read_manifest,
    write_manifest,
)
from closedbook.harness.own_benchmark import BASES, Request, new_benchmark
from closedbook.harness.provenance import check_untrained
from closedbook.harness.sources import (
    OWN,
    Benchmark,
    benchmark,
    benchmarks,
    described,
    described_in,
    packaged,
    read_source,
)
from closedbook.training.examples import train_questions
from closedbook.training.recipes import load_recipe

Closedbook = Callable[..., tuple[object, str, str]]
Make = Callable[..., Path]
ROWS = [{"question": f"Who guards gate{number}?", "answers": [f"guard{number}"]} for number in range(20)]
TWINS = [
    {"question": "Who slew the dragon of Brill?", "answers": ["Osric"]},
    {"question": "The dragon of Brill was slain by whom?", "answers": ["Osric"]},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a benchmark out of rows in a folder that CLOSEDBOOK_BENCHMARKS names; returns the folder."""
    home = tmp_path / "mine"
    monkeypatch.setenv(OWN, str(home))

    def new(rows: list[dict[str, Any]] = ROWS, name: str = "gates", file: str = "rows.jsonl", **stated: Any) -> Path:
        data = write_rows(tmp_path / file, rows)
        plain = {"question": None, "answer": None, "licence": "CC0", "title": "Gates"}
        new_benchmark(Request(name, data, home, **plain | stated))
        return home

    return new


def changed(home: Path, **fields: Any) -> None:
    """Change fields of the one benchmark that a folder has; None takes a field away."""
    ((name, entry),) = tomllib.loads((home / "benchmarks.toml").read_text()).items()
    entry = {key: of for key, of in (entry | fields).items() if of is not None}

    def value(of: Any) -> str:
        return "{" + ", ".join(f"{k} = {v}" for k, v in of.items()) + "}" if isinstance(of, dict) else json.dumps(of)

    (home / "benchmarks.toml").write_text(f"[{name}]\n" + "".join(f"{k} = {value(v)}\n" for k, v in entry.items()))
    described_in.cache_clear()


# --- making one ---


def test_a_new_benchmark_is_an_entry_two_tasks_their_base_and_the_rows(make: Make) -> None:
    home = make()
    written = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert written == {"benchmarks.toml", "gates_dedup.yaml", "gates_dedup_cot.yaml", "gates/test.jsonl", *BASES}
    packages = (tasks_dir() / "popqa_dedup_cot.yaml").read_text()
    assert (home / "gates_dedup_cot.yaml").read_text() == packages.replace("popqa", "gates")
    for base in BASES:
        assert (home / base).read_bytes() == (tasks_dir() / base).read_bytes()


def test_two_fifths_become_test_a_tenth_validation_and_the_rest_train(make: Make) -> None:
    make()
    assert benchmark("gates").sizes == {"train": 10, "validation": 2, "test": 8}


def test_one_question_is_a_test_set(make: Make) -> None:
    make(ROWS[:1])
    assert splits.build("gates").counts == {"test": 1}


@pytest.mark.parametrize(
    ("cell", "form"),
    [(["Osric"], "list"), ("Osric", "text"), ('["Osric"]', "json"), ("[Osric]", "text"), ("1921", "text")],
)
@pytest.mark.parametrize("file", ["rows.jsonl", "rows.parquet"])
def test_the_form_of_the_answers_is_seen_in_the_first_filled_cell(make: Make, cell: Any, form: str, file: str) -> None:
    make([{"question": "q", "answer": None}, {"question": "Who slew the dragon?", "answer": cell}], file=file)
    assert benchmark("gates").answers_format == form
    assert len(read_source("gates", "test").questions) == 1


def test_columns_with_other_names_are_stated(make: Make) -> None:
    make([{"asked": "Who slew the dragon?", "said": "Osric", "answer": "no"}], question="asked", answer="said")
    (question,) = read_source("gates", "test").questions
    assert (question.question, question.answers) == ("Who slew the dragon?", ("Osric",))


def test_any_title_and_licence_can_be_written(make: Make) -> None:
    title = 'The "gates"\\of\nTharn \x7f\u2028 \U0001f40d'
    make(title=title, licence=title)
    assert (benchmark("gates").title, benchmark("gates").licence) == (title, title)


def test_a_second_benchmark_is_added_and_leaves_the_base_as_it_was_changed(make: Make) -> None:
    home = make()
    (home / BASES[0]).write_text("mine")
    make(name="more")
    assert list(benchmarks()) == [*packaged(), "gates", "more"]
    assert (home / BASES[0]).read_text() == "mine"


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"name": "popqa"}, "there is a benchmark popqa already; choose another name"),
        ({"name": "my_gates"}, "my_gates: that is no name for a benchmark; use lower-case letters and digits"),
        ({"name": "../gates"}, "../gates: that is no name"),
        ({"name": "all"}, "all: that is no name"),
        ({"question": "asked"}, "rows.jsonl has no column 'asked'; choose --question-column among question, answers"),
        ({"title": "\udcff"}, r"gates: its title '\udcff' is no text that a file can hold; state another"),
        ({"rows": [{"question": "Who?"}]}, "has no column of answers; choose --answer-column among question"),
        ({"rows": [{"question": "Who?", "answers": []}]}, "has no row with a question and an answer"),
        ({"rows": [{"question": "Who?", "answer": 7}]}, "gates, split test, row 0: TypeError: 7 is not a text; "),
    ],
)  # fmt: skip
def test_what_cannot_become_a_benchmark_is_one_line_and_nothing_is_written(
    make: Make, tmp_path: Path, stated: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(RequestError) as error:
        make(**stated)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("file", ["benchmarks.toml", "gates_dedup.yaml", "gates_dedup_cot.yaml", "gates/test.jsonl"])
def test_nothing_is_overwritten(make: Make, file: str) -> None:
    home = make()
    for path in home.rglob("*"):
        if path.is_file() and path != home / file:
            path.unlink()
    described_in.cache_clear()
    before = (home / file).read_bytes()
    with pytest.raises(RequestError, match=r"already; choose another name"):
        make()
    assert [path for path in home.rglob("*") if path.is_file()] == [home / file]
    assert (home / file).read_bytes() == before


def test_what_could_not_be_written_whole_leaves_nothing_that_stops_the_same_command(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(WorkError, match="No space left on device; free space"):
            make()
    assert "gates" in described_in(make())


def test_two_at_once_never_write_one_folder(make: Make, tmp_path: Path) -> None:
    with alone(tmp_path / "mine"), pytest.raises(RequestError, match="another run writes to"):
        make()
    assert not [*(tmp_path / "mine").iterdir()]


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nWho slew the dragon?,Osric\n")
    with pytest.raises(RequestError, match=r"gates: bundled: .*/rows.csv is neither .jsonl nor .parquet; convert the"):
        new_benchmark(Request("gates", tmp_path / "rows.csv", tmp_path / "mine", None, None, "", ""))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere.jsonl: no such file"):
        new_benchmark(Request("gates", tmp_path / "nowhere.jsonl", tmp_path, None, None, "", ""))


def test_the_command_prints_what_to_run_next(closedbook: Closedbook, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*ROWS, ROWS[0]])
    code, out, err = closedbook("benchmarks", "new", "gates", data, "--out", tmp_path / "my folder")
    assert code == 0
    assert err == (
        "gates: 21 rows, 20 questions; 1 rows ask the words of an earlier one, 0 lack a question or an answer\n"
    )
    assert out.splitlines() == [
        f"export CLOSEDBOOK_BENCHMARKS='{tmp_path / 'my folder'}'",
        "closedbook splits build gates",
        "closedbook eval smollm2 --tasks gates_dedup",
    ]


def test_the_folder_is_the_one_that_the_variable_names(
    closedbook: Closedbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    code, _, err = closedbook("benchmarks", "new", "gates", data)
    assert (code, "--out: name the folder" in err) == (2, True)
    monkeypatch.setenv(OWN, str(tmp_path / "mine"))
    assert closedbook("benchmarks", "new", "gates", data)[0] == 0
    assert (tmp_path / "mine" / "benchmarks.toml").is_file()


@pytest.mark.parametrize("below", ["", "mine"])
def test_a_file_in_the_place_of_the_folder_is_refused(closedbook: Closedbook, tmp_path: Path, below: str) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    code, _, err = closedbook("benchmarks", "new", "gates", data, "--out", data / below)
    assert (code, "cannot write to" in err) == (2, True), err


# --- its description ---

PLAIN: dict[str, Any] = {
    "title": "Gates",
    "bundled": "gates/{split}.jsonl",
    "train": "test",
    "test": "test",
    "sizes": {"train": 1, "validation": 1, "test": 1},
    "question": "question",
    "answers": "answers",
    "answers_format": "list",
    "licence": "CC0",
}
PARTS = {"train": 1, "validation": 1}


def described_as(name: str = "gates", **fields: Any) -> Benchmark:
    entry = {key: of for key, of in (PLAIN | fields).items() if of is not None}
    lines = [f"{key} = {json.dumps(of).replace(': ', ' = ')}\n" for key, of in entry.items()]  # one level deep
    return described(f"[{name}]\n" + "".join(lines), Path("b.toml"), Path("/home"))[name]


def test_a_description_needs_no_rows_homepage_or_citation() -> None:
    chosen = described_as()
    assert (chosen.home, chosen.rows, chosen.packaged, chosen.splits) == (Path("/home"), {}, False, ("test",))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"colour": "red"}, "colour: no such field; there are title, train, test, sizes, "),
        ({"home": "/"}, "home: no such field; remove it"),
        ({"question": None}, "question: is not stated; add it"),
        ({"title": 3}, "title: Input should be a valid string; got 3"),
        ({"sizes": {"train": "x"}}, "sizes.train: Input should be a valid integer"),
        ({"required": "x"}, "required: 'str' instances are not allowed as a Sequence value; got 'x'"),
        ({"answers_format": "csv"}, "answers_format: Input should be 'list', 'json' or 'text'; got 'csv'"),
        ({"bundled": None}, "repo: a source is on the hub (repo) or in a file (bundled), one of the two"),
        ({"repo": "owner/gates"}, "repo: a source is on the hub (repo) or in a file (bundled), one of the two"),
        ({"bundled": "rows.csv"}, "bundled: rows.csv is neither .jsonl nor .parquet; convert the file"),
        ({"bundled": "rows.jsonl", "train": "train", "sizes": PARTS}, "bundled: train and test would be one file; "),
        ({"bundled": None, "repo": "owner/gates"}, "rows: is not stated; add the rows of each split"),
        ({"rows": {"train": 3}}, "rows: is of train; state them of the source's splits test"),
        ({"sizes": PARTS}, "sizes: is of train, validation; state them of test, train, validation"),
        ({"train": "train"}, "sizes: is of train, validation, test; state them of train, validation: test is "),
        ({"sizes": PARTS | {"test": 0}}, "sizes: one is below 0, or test has no question; count questions"),
        ({"sizes": {"train": -1, "validation": 1, "test": 1}}, "sizes: one is below 0"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_one_line_with_its_field(fields: Mapping[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as error:
        described_as(**fields)
    assert str(error.value).startswith(f"b.toml: gates: {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Gates", "my_gates", "my-gates", "1gates", "all"])
def test_a_name_that_could_not_open_a_tasks_name_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"^b.toml: {name}: that is no name for a benchmark; use lower-case letters"):
        described_as(name)


def test_a_field_outside_of_any_table_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^b.toml: title: it stands in no table; write fields below a benchmark's"):
        described('title = "Gates"', Path("b.toml"), Path("/home"))


def test_what_is_no_toml_is_one_line() -> None:
    with pytest.raises(RequestError, match=r"^b.toml is no TOML: [^\n]*; correct it$"):
        described("[gates", Path("b.toml"), Path("/home"))


def test_a_folder_without_a_description_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(OWN, str(tmp_path))
    with pytest.raises(RequestError, match=r"^CLOSEDBOOK_BENCHMARKS: cannot read .*/benchmarks.toml: .*; or unset it$"):
        benchmarks()


def test_a_name_of_the_package_is_refused(make: Make) -> None:
    file = make() / "benchmarks.toml"
    file.write_text(file.read_text().replace("[gates]", "[popqa]"))
    described_in.cache_clear()
    with pytest.raises(RequestError, match=r"benchmarks.toml: popqa: the package has a benchmark of that name; choose"):
        benchmark("popqa")


def test_without_the_variable_only_the_packages_are_there_and_the_error_names_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    monkeypatch.delenv(OWN)
    with pytest.raises(RequestError, match=r"^no benchmark 'gates'; .*; CLOSEDBOOK_BENCHMARKS=FOLDER names your own$"):
        benchmark("gates")


# --- its source ---


def test_answers_that_look_like_dates_stay_texts(make: Make) -> None:
    make([{"question": f"When was gate{n} built?", "answer": f"192{n}-05-04"} for n in range(9)])
    assert read_source("gates", "test").questions[1].answers == ("1921-05-04",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ValueError: it holds no rows"),
        ("{", "line 1: it is no JSON"),
        ('{"question": "Who?", "answers": ["Osric"]}\n[]', "line 2: [] is no object"),
        ('{"question": "Who?"}', "has no column answers, only question"),
        ('{"question": "Who?", "answers": "Osric"}', "row 0: TypeError: 'Osric' is not a list of answers"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_the_description(make: Make, text: str, said: str) -> None:
    home = make()
    (home / "gates" / "test.jsonl").write_text(text)
    with pytest.raises(SourceError) as error:
        read_source("gates", "test")
    assert said in str(error.value)
    assert str(error.value).endswith(f"; correct it, or the entry in {home / 'benchmarks.toml'}")
    assert "\n" not in str(error.value)


def test_a_missing_file_of_rows_is_one_line_that_names_the_description(make: Make) -> None:
    home = make()
    (home / "gates" / "test.jsonl").unlink()
    with pytest.raises(SourceError, match=r"^gates: no file .*/gates/test.jsonl; correct it, or the entry in .*toml$"):
        read_source("gates", "test")


def test_a_source_with_a_train_split_of_its_own_is_not_partitioned(make: Make) -> None:
    home = make(ROWS[:5])
    write_rows(home / "gates" / "train.jsonl", ROWS[5:])
    changed(home, train="train", sizes={"train": 12, "validation": 3})
    manifest = splits.build("gates")
    assert manifest.counts == {"test": 5, "train": 12, "validation": 3}
    assert {question.question for question in load_from(manifest, home)} == {row["question"] for row in ROWS[:5]}


def load_from(manifest: Manifest, home: Path, split: str = "test") -> list[Any]:
    write_manifest(manifest)
    assert (home / "manifests" / "gates.jsonl").is_file()
    return load_questions("gates", split)


def test_a_benchmark_of_ones_own_may_lie_on_the_hub(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed(make(), bundled=None, repo="owner/gates", rows={"test": 25})
    monkeypatch.setenv("CLOSEDBOOK_DATA", str(tmp_path / "mirror"))
    write_rows(tmp_path / "mirror" / "owner__gates" / "test.parquet", ROWS)
    assert splits.build("gates").variant == "mirror-subset"


# --- its splits ---


def test_the_command_writes_a_manifest_into_the_folder_and_nowhere_else(make: Make, closedbook: Closedbook) -> None:
    home, before = make(), {path.name: path.stat().st_mtime_ns for path in manifests_dir().iterdir()}
    code, out, err = closedbook("splits", "build", "gates", "--json")
    assert (code, json.loads(out)["gates"]["variant"]) == (0, "local")
    assert "gates: overlaps with other benchmarks are not looked for; `closedbook dedup run --help` tells how to" in err
    assert [path.name for path in (home / "manifests").iterdir()] == ["gates.jsonl"]
    assert {path.name: path.stat().st_mtime_ns for path in manifests_dir().iterdir()} == before
    assert closedbook("splits", "check", "gates")[0] == 0
    assert json.loads(closedbook("data", "check", "gates", "--json")[1])[0]["error"] is None


def test_a_ledger_takes_the_place_of_no_manifest_of_ones_own(make: Make, closedbook: Closedbook) -> None:
    place = make() / "manifests" / "gates.jsonl"
    code, _, err = closedbook("splits", "build", "gates", "--ledger", place)
    assert (code, "is the place of a manifest" in err) == (2, True)


def test_a_paraphrase_of_a_training_question_is_dropped_and_explained(make: Make) -> None:
    home = make(TWINS)
    changed(home, sizes={"train": 1, "validation": 0, "test": 1})
    write_manifest(splits.build("gates"))
    assert read_manifest("gates").counts == {"dropped from test": 1, "train": 1}
    (dropped,) = read_manifest("gates").ids("dropped")
    assert explain(dropped).compared[0][0].rule == "paraphrase"


def test_all_questions_may_be_for_test(make: Make) -> None:
    changed(make(), sizes={"train": 0, "validation": 0, "test": 20})
    write_manifest(splits.build("gates"))
    assert splits.check("gates").counts == {"test": 20}


def test_splits_are_shorter_where_questions_run_out(make: Make) -> None:
    changed(make(), sizes={"train": 100, "validation": 6, "test": 10})
    assert splits.build("gates").counts == {"train": 4, "validation": 6, "test": 10}


def test_a_manifest_that_is_not_built_yet_names_the_command_and_hides_no_other(make: Make) -> None:
    make()
    with pytest.raises(ManifestError, match=r"run `closedbook splits build gates`$"):
        load_questions("gates", "test")
    (report,) = check_sources("gates")
    assert report.rows == 20 and "run `closedbook splits build gates`" in str(report.error)
    assert contamination() == contamination(manifests_dir())


def test_overlaps_are_between_the_packages_alone(make: Make) -> None:
    make()
    write_manifest(splits.build("gates"))
    assert splits.check_overlaps() == splits.read_overlaps()
    page, whole = contamination(), contamination(manifests_dir())
    across = "## Across benchmarks"
    assert "| gates | 8 | 0 | " in page
    assert page.partition(across)[2].partition("##")[0] == whole.partition(across)[2].partition("##")[0]


# --- everything that takes a name ---


@pytest.fixture
def built(make: Make) -> Path:
    """The folder of a benchmark whose manifest is built."""
    home = make()
    write_manifest(splits.build("gates"))
    return home


def test_its_tasks_are_listed_and_asked(built: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from closedbook.harness.testing import ScriptedModel

    assert {"gates_dedup", "gates_dedup_cot", "popqa_dedup"} <= set(task_names())
    model = ScriptedModel(lambda prompt: "guard" + prompt.partition("gate")[2].partition("?")[0])
    manager = TaskManager(include_path=str(built), include_defaults=False)  # as plain lm_eval has it
    results = simple_evaluate(model, tasks=["gates_dedup"], task_manager=manager, bootstrap_iters=0)
    assert results["results"]["gates_dedup"]["exact_match,none"] == 1.0
    assert results["n-samples"]["gates_dedup"]["effective"] == 8
    said = results["configs"]["gates_dedup"]["metadata"]["closedbook"]
    assert (said["manifest"], said["variant"]) == (read_manifest("gates").digest, "local")


def test_judging_it_is_planned_alone_and_in_a_group(built: Path) -> None:
    (built / "both.yaml").write_text("group: both\ntask: [gates_dedup, worldfacts_dedup]\n")
    whole = (built / BASES[0]).read_text().replace("metadata:", "task: gates_whole\nmetadata:")
    (built / "gates_whole.yaml").write_text(whole)
    judge = JudgeSettings(kind="openai", model="m", base_url="http://127.0.0.1:9/v1", cache="off")
    assert plan_judging(["gates_dedup"], judge).answers == 8
    assert members(["both", "gates_whole"]) == ["gates_dedup", "worldfacts_dedup", "gates_whole"]


def test_a_task_of_ones_own_never_stands_in_for_one_of_the_package(built: Path) -> None:
    (built / "worldfacts_dedup.yaml").write_text("group: worldfacts_dedup\ntask: [gates_dedup]\n")
    assert members(["worldfacts_dedup"]) == ["worldfacts_dedup"]


@pytest.mark.parametrize("text", ["task: [", "include: _nowhere\ntask: gates_dedup\n", "task: other\nclass: x\n"])
def test_a_task_file_that_lm_eval_cannot_read_is_one_line(
    built: Path, tiny_model: Path, tmp_path: Path, text: str
) -> None:
    (built / "gates_dedup.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"^/.*/gates_dedup.yaml is no task gates_dedup, or a file that it includes"):
        evaluate(str(tiny_model), ["gates_dedup"], out=tmp_path / "run")


def test_a_recipe_trains_on_it(built: Path) -> None:
    recipe = load_recipe("grpo_cpu", ["benchmarks=gates"])
    assert {question.id for question in train_questions(recipe)} == set(read_manifest("gates").ids("train"))


def test_what_other_benchmarks_state_of_it_is_unknown_not_none(built: Path) -> None:
    from types import SimpleNamespace

    ids = read_manifest("gates").ids("test")
    trained: Any = SimpleNamespace(train_ids=("0" * 16,))
    assert check_untrained("m", trained, "gates", "test", ids, False) == {"contaminated": 0, "overlaps": None}
    trained.train_ids = tuple(ids[:1])
    with pytest.raises(RequestError, match=r"^m was trained on 1 of the 8 questions of gates_dedup \(split test\)"):
        check_untrained("m", trained, "gates", "test", ids, False)


def test_it_is_listed_with_where_its_rows_lie(built: Path, closedbook: Closedbook) -> None:
    code, out, _ = closedbook("data", "list")
    assert code == 0
    assert out.endswith(f"gates: Gates\n  source: {built}/gates/{{split}}.jsonl\n  licence: CC0\n\n")
    assert json.loads(closedbook("data", "list", "--json")[1])[-1]["home"] == str(built)


def test_it_can_be_exported(built: Path, tmp_path: Path) -> None:
    done = export("gates", "hf", out=tmp_path / "gates-hf")
    assert sum(done.questions.values()) == len([row for row in read_manifest("gates").rows if row.split != "dropped"])
    assert set(done.sha256) >= {"README.md", "data/test-00000-of-00001.parquet"}
    card = (tmp_path / "gates-hf" / "README.md").read_text()
    assert "a file of its authors' own" in card
    assert "license: other\n" in card
    assert "no licence is stated" not in card


def test_the_folder_can_be_moved(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Path(shutil.move(built, tmp_path / "elsewhere"))
    monkeypatch.setenv(OWN, os.path.relpath(moved))
    assert splits.check("gates").counts["test"] == 8
