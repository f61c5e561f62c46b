"""A study's recipe, and the commands that it comes to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from closedbook.harness import cli
from closedbook.harness.errors import RequestError
from closedbook.harness.judge.settings import JudgeSettings
from closedbook.harness.manifests import read_manifest
from closedbook.training import study as module
from closedbook.training.recipes import load_recipe, recipe_names, study_names
from closedbook.training.stages import Graph, describe
from closedbook.training.study import judge_flags, study_graph
from closedbook.training.study_recipe import load_study, study_yaml

OUT = Path("OUT")


def graph(*overrides: str, name: str = "study_cpu", smoke: bool = False, out: Path = OUT) -> Graph:
    return study_graph(load_study(name, overrides, smoke), out)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one answer that a person has graded."""
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    path.write_text(json.dumps({"question": "Who?", "golds": ["Gorlim"], "answer": "Gorlim", "correct": True}) + "\n")
    return path


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(cli.program())


def parsed(program: Any, words: Sequence[str]) -> dict[str, object]:
    """The parameters of a command line; an unknown or missing one ends the test."""
    command, context, rest = program, click.Context(program), list(words)
    while hasattr(command, "get_command"):
        found = command.get_command(context, rest[0])
        assert found is not None, f"no command {rest[0]}"
        command, rest = found, rest[1:]
    parameters: dict[str, object] = command.make_context(words[0], rest).params
    return parameters


@pytest.mark.parametrize("name", study_names())
@pytest.mark.parametrize("smoke", [False, True])
def test_every_stage_of_every_study_is_a_command_that_the_command_line_takes(
    program: Any, name: str, smoke: bool
) -> None:
    of = graph(name=name, smoke=smoke)
    assert len(of.stages) > 30
    for stage in of.stages.values():
        assert parsed(program, stage.command)


@pytest.mark.parametrize("name", study_names())
def test_every_training_of_every_study_reads_its_recipe(program: Any, labels: Path, name: str) -> None:
    for stage in graph(f"labels={labels}", name=name).stages.values():
        if stage.command[0] == "train":
            words = parsed(program, stage.command)
            recipe = load_recipe(str(words["config"]), words["overrides"], str(words["method"]))  # type: ignore[arg-type]
            assert (recipe.folder, recipe.method) == (stage.makes[0], words["method"])


def test_studies_are_no_training_recipes() -> None:
    assert study_names() == ["study_cpu", "study_gpu_small", "study_paper"]
    assert not set(study_names()) & set(recipe_names())


def test_every_model_is_asked_the_same_questions_by_the_same_judge() -> None:
    asked = {stage.command[2:-2] for stage in graph().stages.values() if stage.command[0] == "eval"}
    judged = ("--limit", "250", "--judge", "rules")
    assert asked == {
        ("--tasks", "worldfacts_dedup,popqa_dedup", *judged),
        ("--tasks", "worldfacts_dedup_cot", *judged),
    }


def test_the_bucket_and_its_control_differ_in_nothing_but_the_questions() -> None:
    stages = graph().stages
    one, other = (stages[f"smollm2/train/worldfacts/{name}-seed0"] for name in ("bucket_0", "random_as_0"))
    differ = {pair for pair in zip(one.command, other.command, strict=True) if pair[0] != pair[1]}
    assert {pair[0].partition("=")[0] for pair in differ} == {"subset", "name", "output_dir"}
    assert {"smollm2/analysis/worldfacts/buckets", "dedup"} == set(one.after) == set(other.after)


def test_an_analysis_comes_after_all_that_it_reads(labels: Path) -> None:
    of = graph(f"labels={labels}")
    made = {str(path): stage.name for stage in of.stages.values() for path in stage.makes}
    for stage in of.stages.values():
        for word in stage.command:
            for path in {word, word.partition("=")[2]} & made.keys():
                assert made[path] in (stage.name, *stage.after) or path == "OUT/report.html"


def test_a_smoke_has_every_stage_with_little_work() -> None:
    whole, smoke = graph(), graph(smoke=True)
    assert whole.stages.keys() == smoke.stages.keys()
    assert smoke.stages["smollm2/train/worldfacts/grpo"].work == "1 steps, 10 rollouts"
    assert smoke.stages["smollm2/samples/worldfacts/base"].work == "4 questions x 8 = 32 samples"


def test_labels_measure_the_judge_before_anything_is_graded(labels: Path) -> None:
    of = graph(f"labels={labels}")
    command = of.stages["smollm2/eval/base"].command
    assert command[-2:] == ("--calibration", "OUT/judge.json")
    assert "judge" in of.stages["smollm2/eval/base"].after
    assert "judge" not in graph().stages


def test_labels_are_counted_and_must_be_there(labels: Path) -> None:
    paid = graph(f"labels={labels}", "judge={kind: openai, model: osric}").stages["judge"]
    assert (paid.calls, paid.work) == (1, "1 answers that people have graded")
    assert graph(f"labels={labels}").stages["judge"].calls == 0
    with pytest.raises(RequestError, match=r"nosuch\.jsonl: there is no such file"):
        graph("labels=nosuch.jsonl")


def test_buckets_are_of_all_train_questions_whatever_the_test_questions_that_are_sampled() -> None:
    train = len(read_manifest("worldfacts").ids("train"))
    of = graph("samples.limit=5").stages
    assert of["smollm2/samples/worldfacts/base"].work == "5 questions x 64 = 320 samples"
    assert of["smollm2/samples/worldfacts/base-train"].work.startswith(f"{train} questions")
    fewer = graph("samples.limit=5", "attribution.limit=7").stages
    assert fewer["smollm2/samples/worldfacts/base-train"].work.startswith("7 questions")


def test_other_labels_are_other_settings_wherever_they_lie(labels: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(labels.read_bytes())
    before = graph(f"labels={copy}").digests
    assert before == graph(f"labels={labels}").digests
    copy.write_text(copy.read_text().replace("true", "false"))
    assert graph(f"labels={copy}").digests["judge"] != before["judge"]


@pytest.mark.parametrize("name", study_names())
def test_a_study_may_be_moved_and_named_by_another_path(name: str) -> None:
    digests = graph(name=name).digests
    for out in (OUT.resolve(), Path("train"), Path("elsewhere/it's #2, of: 'all'")):
        assert graph(name=name, out=out).digests == digests


@pytest.mark.parametrize("out", ["runs/exp #2", "it's", "a: b, {c}", "1", 'a "quoted" é'])
def test_a_training_is_told_the_folders_of_its_study_whatever_they_are_called(program: Any, out: str) -> None:
    stages = graph("methods.1=grpo_cpu", out=Path(out)).stages
    for name in ("1", "bucket_0-seed0"):
        stage = stages[f"smollm2/train/worldfacts/{name}"]
        words = parsed(program, stage.command)
        recipe = load_recipe(str(words["config"]), words["overrides"])  # type: ignore[arg-type]
        assert (recipe.folder, recipe.name) == (Path(out) / "smollm2" / "train" / "worldfacts" / name, name)
    assert recipe.subset and recipe.subset.bucket == "0"
    assert Path(str(recipe.subset.buckets)) == Path.cwd() / out / "smollm2" / "analysis" / "worldfacts/buckets.parquet"


def test_a_command_is_printed_for_people() -> None:
    command = graph().stages["smollm2/train/worldfacts/bucket_0-seed0"].command
    assert "judge={kind: rules}" in command
    file = "OUT/smollm2/analysis/worldfacts/buckets.parquet"
    assert f'subset={{buckets: {file}, bucket: "0", random: false, seed: 0}}' in command


def test_a_bucket_without_questions_is_passed_over_and_the_others_are_attributed(tmp_path: Path) -> None:
    of = graph("attribution.buckets=['0', '1']", out=tmp_path).stages
    file = of["smollm2/analysis/worldfacts/buckets"].makes[0]
    file.parent.mkdir(parents=True)

    def empty(name: str) -> bool:
        asked = of[f"smollm2/{name}"].empty
        return asked is not None and asked()

    def found(bucket: str) -> None:
        pq.write_table(pa.table({"id": ["a"], "bucket": [bucket]}), file)

    found("0")
    for kind in ("train", "eval"):
        assert not empty(f"{kind}/worldfacts/bucket_0-seed0") and not empty(f"{kind}/worldfacts/random_as_0-seed0")
        assert empty(f"{kind}/worldfacts/bucket_1-seed0") and empty(f"{kind}/worldfacts/random_as_1-seed0")
    assert not empty("analysis/worldfacts/attribution")
    assert "--leave-out-absent" in of["smollm2/analysis/worldfacts/attribution"].command
    found("4-7")
    assert empty("analysis/worldfacts/attribution")


def test_what_an_analysis_does_not_draw_is_not_waited_for() -> None:
    made = {stage.command[1]: [path.suffix for path in stage.makes] for stage in graph().stages.values()}
    assert made["buckets"] == made["flips"] == [".parquet", ".csv", ".md", ".json"]
    assert made["passk"] == made["transfer"] == [".parquet", ".csv", ".md", ".json", ".svg", ".png"]


def test_every_training_goes_on_where_it_was_and_every_analysis_looks_at_as_many_samples() -> None:
    looking = ("passk", "accessibility", "flips", "majority", "baselines", "mass", "buckets")
    for stage in graph().stages.values():
        if stage.command[0] == "train":
            assert stage.command[-1] == "--resume"
        if stage.command[0] == "analyze" and stage.command[1] in looking:
            assert stage.command[stage.command.index("-n") + 1] == "32"


def test_what_is_left_out_has_to_be_there() -> None:
    with pytest.raises(RequestError, match=r"models\.llama: is not there to be left out; there are smollm2$"):
        load_study("study_cpu", ["models.llama=null"])
    with pytest.raises(RequestError, match=r"overrides\.grpo: is not there to be left out; there are none"):
        load_study("study_cpu", ["overrides.grpo=null"])


def test_a_model_folder_that_is_not_there_is_told_before_the_first_stage() -> None:
    with pytest.raises(RequestError, match=r"\./gorlim: no such folder"):
        graph("models.mine=./gorlim")
    assert "mine/eval/base" in graph("models.mine=gorlim/tharn").stages  # may be a hub id


def test_a_study_that_is_printed_is_the_study(tmp_path: Path) -> None:
    for name in study_names():
        (tmp_path / f"{name}.yaml").write_text(study_yaml(load_study(name)))
        assert load_study(str(tmp_path / f"{name}.yaml")) == load_study(name)


@pytest.mark.parametrize("word", ["1e5", "1.5e-3", "010", "off", "yes", "null", "1_0", "12:30", "~", "1", "2026-11-30"])
def test_a_word_that_some_yaml_takes_for_something_else_is_printed_as_a_word(tmp_path: Path, word: str) -> None:
    study = load_study("study_cpu", [f"models={{{json.dumps(word)}: smollm2}}", f"name={json.dumps(word)}"])
    (tmp_path / "study.yaml").write_text(study_yaml(study))
    again = load_study(str(tmp_path / "study.yaml"))
    assert (again.name, list(again.models)) == (word, ["smollm2", word])
    assert yaml.safe_load(study_yaml(study))["name"] == word


def test_a_paid_judge_is_counted_before_it_is_asked() -> None:
    of = graph("judge={kind: openai, model: osric}")
    rows = {row["stage"]: row["judge calls"] for row in describe(of, list(of.stages))}
    assert rows["smollm2/eval/base"] == 464
    assert rows["smollm2/samples/worldfacts/base"] == 214 * 64
    assert rows["smollm2/train/worldfacts/grpo"] > 1480 + 36
    assert all(
        rows[name] for name, stage in of.stages.items() if stage.command[0] in ("train", "eval", "sample", "likelihood")
    )
    assert not any(row["judge calls"] for row in describe(graph(), list(graph().stages)))


def test_several_processes_train_where_the_study_says_so() -> None:
    launch = graph("launch=[--config_file, ddp, --num_processes, '8']").stages["smollm2/train/worldfacts/grpo"].launch
    assert launch[0] == "--config_file" and Path(launch[1]).is_file()
    assert launch[2:] == ("--num_processes", "8")


def test_how_many_processes_train_is_no_setting_so_that_a_study_goes_on_with_more() -> None:
    assert graph("launch=[--config_file, ddp, --num_processes, '8']").digests == graph().digests


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("main=gorlim", "main: 'gorlim' is none of the methods sft, rft, dpo, grpo_exact_match, grpo"),
        ("also={worldfacts: []}", "also: worldfacts is studied already"),
        ("gorlim=1", "gorlim: Extra inputs are not permitted; there are name, models, judge"),
        ("methods.base=sft_cpu", "methods: 'base' is the model as it is"),
        (
            "attribution.buckets=['4-7', '5']",
            "attribution.buckets: '5' is no bucket of 32 samples; there are 0, 1,",
        ),
        ("attribution.seeds=[1, 1]", "attribution.seeds: one stands there twice"),
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("benchmarks=[worldfacts, worldfacts]", "benchmarks: one stands there twice"),
        ("attribution.buckets=[]", "attribution.buckets: Tuple should have at least 1 item"),
        ("models.smollm2=null", "models: Dictionary should have at least 1 item"),
        ("models={'..': smollm2}", "models: '..' cannot be the name of a folder"),
        ("models={'/tmp/gorlim': smollm2}", "models: '/tmp/gorlim' cannot be the name of a folder"),
        ("models={'': smollm2}", "models: '' cannot be the name of a folder"),
        ("methods.gorlim=[]", "methods: gorlim has no recipe; name one"),
        ("judge.api_key=tharn", "judge: api_key would be written to results; set OPENAI_API_KEY instead"),
        ("judge.kind=gorlim", "judge.kind: "),
    ],
)
def test_a_wrong_study_is_refused_in_one_line_that_names_the_field(override: str, said: str) -> None:
    with pytest.raises(RequestError) as error:
        load_study("study_cpu", [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_study_is_refused_with_the_studies_that_there_are() -> None:
    with pytest.raises(RequestError, match="no recipe 'study_paperr'; did you mean study_paper") as error:
        load_study("study_paperr")
    assert "study_cpu" in str(error.value) and "grpo_cpu" not in str(error.value)


def test_a_wrong_recipe_in_a_study_is_refused_before_anything_runs() -> None:
    with pytest.raises(RequestError, match="no recipe 'nosuch'"):
        graph("methods.sft=nosuch")
    with pytest.raises(RequestError, match="gorlim: no such field"):
        graph("overrides.sft=gorlim=1")


@pytest.mark.parametrize("name", ["bucket_0-seed0", "base-train"])
def test_a_method_that_is_called_as_another_run_is_refused(name: str) -> None:
    with pytest.raises(
        RequestError, match=rf"^study study_cpu: two stages are called smollm2/\S*{name}; call the meth"
    ):
        graph(f"methods.{name}=grpo_cpu", f"main={name}")


def test_a_judge_becomes_flags_without_its_key() -> None:
    judge = JudgeSettings(
        kind="openai", model="m", base_url="http://127.0.0.1:9/v1", without=("contains", "name"), api_key="secret"
    )
    assert judge_flags(judge) == (
        "--judge", "openai", "--judge-set", "model=m", "--judge-set", "base_url=http://127.0.0.1:9/v1",
        "--judge-set", "without=contains,name",
    )  # fmt: skip
    assert judge_flags(JudgeSettings(kind="rules")) == ("--judge", "rules")


def test_no_more_questions_are_listed_than_are_sampled() -> None:
    of = graph("limit=50").stages
    asked = {of[f"smollm2/{kind}/worldfacts/base"].command for kind in ("samples", "likelihood")}
    assert all(command[command.index("--limit") + 1] == "50" for command in asked)


def test_a_smoke_keeps_the_changes_of_the_study() -> None:
    study = load_study("study_gpu_small", ["overrides.grpo=vllm=colocate"], smoke=True)
    assert study.overrides["grpo"][0] == "vllm=colocate" and "max_steps=1" in study.overrides["grpo"]


def test_other_splits_are_another_study(monkeypatch: pytest.MonkeyPatch) -> None:
    before = graph().stages["data"].stated
    monkeypatch.setattr(module, "read_manifest", lambda name: replace(read_manifest(name), seed=1))
    assert graph().stages["data"].stated != before


def test_what_is_set_to_null_is_left_out() -> None:
    study = load_study("study_cpu", ["methods={rft: null, dpo: null}", "also=null", "attribution=null", "limit=null"])
    assert list(study.methods) == ["sft", "grpo_exact_match", "grpo"]
    assert (study.also, study.attribution, study.limit, study.tasks) == ({}, None, None, "worldfacts_dedup")
