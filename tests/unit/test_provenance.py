"""What a checkpoint says of its training, and when a score on what it was trained on is refused."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from closedbook.harness.errors import RequestError, warn_once
from closedbook.harness.evaluate import evaluate
from closedbook.harness.files import tasks_dir
from closedbook.harness.manifests import read_manifest
from closedbook.harness.provenance import (
    ALLOW,
    PROVENANCE_FILE,
    Provenance,
    check_checkpoints,
    check_untrained,
    checkout_revision,
    code_revision,
    contaminated_allowed,
    installed_revision,
    read_provenance,
    to_text,
    write_provenance,
)
from closedbook.harness.questions import ids_digest
from closedbook.harness.splits import read_overlaps

TEST, TRAIN = (read_manifest("worldfacts").ids(split) for split in ("test", "train"))
REFUSED = (
    rf"was trained on 12 of the 214 questions of worldfacts_dedup \(split test\), such as {TEST[0]}: its score "
    r"would be memory of training; choose another checkpoint, or allow it with --allow-contaminated "
    r"\(CLOSEDBOOK_ALLOW_CONTAMINATED=1\)$"
)


def trained_on(ids, **changes):
    """A checkpoint's provenance, made up but for the ids."""
    return replace(
        Provenance(
            method="sft",
            base_model="somebody/tiny",
            base_digest="somebody/tiny@5555",
            step=7,
            seed=3,
            recipe={"method": "sft", "learning_rate": 1e-5, "judge": {"kind": "rules"}},
            manifests={"worldfacts": "d" * 64},
            train_ids=tuple(ids),
            judge=None,
            prompt="direct-0123456789ab",
            versions={"closedbook": "0.1.0"},
            revision=None,
        ),
        **changes,
    )


def checkpoint(folder, ids, **changes):
    """The name of a checkpoint that was trained on these ids."""
    write_provenance(folder, trained_on(ids, **changes))
    return str(folder)


@pytest.fixture(autouse=True)
def every_warning_is_said():
    warn_once.cache_clear()


# --- the file ---


def test_what_is_written_is_read(tmp_path):
    stated = trained_on(["b", "a"], parent=trained_on(["a"]).without_ids())
    assert write_provenance(tmp_path, stated) == tmp_path / PROVENANCE_FILE
    assert read_provenance(str(tmp_path)) == stated


def test_ids_are_a_set_whatever_their_order():
    assert trained_on(["b", "a", "b"]) == trained_on(["a", "b"])
    assert trained_on(["b", "a", "b"]).train_ids == ("a", "b")
    assert trained_on(["b", "a"]).train_ids_digest == ids_digest(["a", "b"])


def test_equal_provenances_are_equal_bytes_and_the_ids_come_last():
    turned = trained_on(["b", "a"], recipe={"judge": {"kind": "rules"}, "learning_rate": 1e-5, "method": "sft"})
    assert to_text(turned) == to_text(trained_on(["a", "b"]))
    assert list(json.loads(to_text(turned))) == [
        "method", "base_model", "base_digest", "step", "seed", "recipe", "manifests", "judge", "prompt", "versions",
        "revision", "parent", "model_digest", "train_ids_digest", "train_ids",
    ]  # fmt: skip


def test_results_and_children_carry_everything_but_the_ids():
    stated = trained_on(["a", "b"])
    assert stated.without_ids() | {"train_ids": ["a", "b"]} == json.loads(to_text(stated))


def test_a_model_without_the_file_has_no_provenance(tmp_path):
    assert read_provenance(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["nobody/nothing", "no such name", "/no/such/folder", "~/nothing", "", "a\0b"])
def test_a_name_that_is_no_folder_and_no_hub_offline_has_no_provenance(name):
    assert read_provenance(name) is None


def test_a_checkpoint_may_lie_in_a_folder_of_the_model(tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    name = checkpoint(tmp_path / "checkpoint-7", ["a"])
    assert read_provenance(str(tmp_path), subfolder="checkpoint-7") == read_provenance(name)


def test_a_checkpoint_of_the_hub_is_read_from_its_cache_at_the_revision_asked_for(tmp_path):
    commit, folder = "5" * 40, tmp_path / "hub" / "models--nobody--something"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    checkpoint(folder / "snapshots" / commit, ["a"])
    code = (
        "from closedbook.harness.provenance import read_provenance\n"
        f"for revision in (None, 'main', '{commit}', 'other'):\n"
        "    found = read_provenance('nobody/something', revision)\n"
        "    print(found and found.train_ids)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["('a',)"] * 3 + ["None"]


def without(name):
    return {key: value for key, value in json.loads(to_text(trained_on(["a"]))).items() if key != name}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (to_text(trained_on(["a"])).encode()[:-9], "delimiter|Expecting|Unterminated"),
        (b"\xff\xfe", "decode"),
        (b"[]", "it is no mapping"),
        (b"[" * 100_000, "recursion"),
        (json.dumps(without("method")).encode(), "method: Field required"),
        (json.dumps(without("train_ids")).encode(), "train_ids: Field required"),
        (json.dumps(without("train_ids_digest")).encode(), "train_ids are not those of train_ids_digest"),
        (json.dumps(without("") | {"train_ids": ["b"]}).encode(), "train_ids are not those of train_ids_digest"),
        (json.dumps(without("") | {"train_ids": "a"}).encode(), "train_ids: Input should be a valid"),
        (json.dumps(without("") | {"train_ids": [7]}).encode(), "train_ids.0: Input should be a valid string"),
        (json.dumps(without("") | {"step": "7"}).encode(), "step: Input should be a valid integer"),
        (json.dumps(without("") | {"step": True}).encode(), "step: Input should be a valid integer"),
        (json.dumps(without("") | {"recipe": []}).encode(), "recipe: Input should be an object"),
        (json.dumps(without("") | {"manifests": {"nq": 1}}).encode(), "manifests.nq: Input should be a valid string"),
        (json.dumps(without("") | {"train_ids": ["\ud800"]}).encode(), r"\(Invalid JSON"),
    ],
)
def test_a_file_that_is_not_whole_is_one_line_that_says_where_and_what_to_do(tmp_path, content, reason):
    (tmp_path / PROVENANCE_FILE).write_bytes(content)
    with pytest.raises(RequestError, match=rf"(?i)^[^\n]*provenance\.json[ :][^\n]*({reason})[^\n]*; copy [^\n]*$"):
        read_provenance(str(tmp_path))


def test_a_folder_of_that_name_is_no_provenance_that_can_be_read(tmp_path):
    (tmp_path / PROVENANCE_FILE).mkdir()
    with pytest.raises(RequestError, match="Is a directory"):
        read_provenance(str(tmp_path))


def test_a_field_of_a_later_version_does_not_hide_what_was_trained_on(tmp_path):
    (tmp_path / PROVENANCE_FILE).write_text(json.dumps(without("") | {"later": 1}))
    assert read_provenance(str(tmp_path)) == trained_on(["a"])


# --- the code's revision ---


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one commit, and what runs git in it."""

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    git("tag", "v1")
    return tmp_path, git


def test_a_checkout_is_named_by_its_commit_and_by_whether_tracked_files_differ(checkout):
    folder, git = checkout
    commit = git("rev-parse", "HEAD")
    (folder / "untracked").write_text("")
    assert checkout_revision(folder) == commit
    (folder / "file").write_text("2")
    assert checkout_revision(folder) == f"{commit}+dirty"


def test_another_repository_around_the_package_is_not_its_checkout(checkout):
    folder, _ = checkout
    (folder / "lib").mkdir()
    assert checkout_revision(folder / "lib") is None


def test_a_hook_of_another_repository_does_not_name_the_commit(checkout, tmp_path_factory, monkeypatch):
    folder, git = checkout
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other")))
    commit = checkout_revision(folder)
    monkeypatch.delenv("GIT_DIR")
    assert commit == git("rev-parse", "HEAD")


def test_where_git_is_missing_slow_or_refuses_there_is_no_revision(checkout, monkeypatch):
    folder, _ = checkout
    for error in (FileNotFoundError(), subprocess.TimeoutExpired("git", 1), subprocess.CalledProcessError(128, "git")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr("subprocess.run", fail)
        assert checkout_revision(folder) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"url": "u", "vcs_info": {"vcs": "git", "commit_id": "abc"}}', "abc"),
        ('{"url": "u", "dir_info": {"editable": true}}', None),
        ('{"vcs_info": 3}', None),
        ('{"vcs_info": {"commit_id": 3}}', None),
        ("[]", None),
        ("{", None),
        (None, None),
    ],
)
def test_an_installation_is_named_by_the_commit_that_it_was_installed_from(text, expected):
    assert installed_revision(text) == expected


def test_this_checkout_has_a_revision():
    revision = code_revision()
    assert revision is None or len(revision.removesuffix("+dirty")) == 40


# --- the refusal ---


def check(ids, allowed=False, split="test", asked=TEST):
    return check_untrained("runs/x", trained_on(ids), "worldfacts", split, asked, allowed)


def test_questions_that_were_trained_on_are_refused_by_number_and_name():
    with pytest.raises(RequestError, match=f"^runs/x {REFUSED}"):
        check([*TEST[:12], *TRAIN])


def test_one_question_that_was_trained_on_is_enough():
    with pytest.raises(RequestError, match=f"on 1 of the 214 questions .* such as {TEST[-1]}"):
        check([TEST[-1]])


def test_the_train_split_is_refused_to_a_checkpoint_that_was_trained_on_it():
    with pytest.raises(RequestError, match=r"on 3 of the \d+ questions of worldfacts_dedup \(split train\)"):
        check(TRAIN[:3], split="train", asked=TRAIN)


def test_where_it_is_allowed_a_warning_and_the_results_say_the_number(caplog):
    assert check(TEST[:12], allowed=True)["contaminated"] == 12
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "runs/x was trained on 12 of the 214 questions" in caplog.text


def test_a_checkpoint_trained_on_other_questions_passes_without_a_word(caplog):
    assert check(TRAIN) == {"contaminated": 0, "overlaps": 0}
    assert not caplog.records


def test_test_facts_that_another_benchmark_trains_on_are_counted_once_and_said_and_not_refused(caplog):
    stating = [o for o in read_overlaps() if o.test_benchmark == "worldfacts"]
    facts = {o.test_id for o in stating}
    assert len(facts) < len(stating)  # some are stated in two other benchmarks
    ids = [o.train_id for o in read_overlaps()]
    assert check(ids) == {"contaminated": 0, "overlaps": len(facts)}
    (record,) = caplog.records
    assert f"of {len(facts)} of the 214 questions of worldfacts_dedup" in record.message
    assert check([stating[0].train_id], asked=[stating[0].test_id])["overlaps"] == 1
    assert check([stating[0].train_id], asked=TEST[:0])["overlaps"] == 0


def test_of_other_splits_than_test_nobody_knows_the_overlaps():
    ids = [o.train_id for o in read_overlaps()]
    assert check(ids, split="validation", asked=["0"]) == {"contaminated": 0, "overlaps": None}


@pytest.mark.parametrize(("value", "allowed"), [("1", True), ("0", False), ("", False)])
def test_the_variable_allows_it(monkeypatch, value, allowed):
    monkeypatch.setenv(ALLOW, value)
    assert contaminated_allowed({}) is allowed
    assert contaminated_allowed({"allow_contaminated": True}) is True


@pytest.mark.parametrize("value", ["yes", "2", "true", " 1"])
def test_a_variable_that_is_neither_is_refused(monkeypatch, value):
    monkeypatch.setenv(ALLOW, value)
    with pytest.raises(RequestError, match=f"^CLOSEDBOOK_ALLOW_CONTAMINATED is 1 or 0, not '{value}'$"):
        contaminated_allowed({})


@pytest.mark.parametrize("value", ["yes", 1, "false"])
def test_metadata_that_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(RequestError, match="allow_contaminated is true or false, not "):
        contaminated_allowed({"allow_contaminated": value})


# --- the models that a backend's arguments name ---


@pytest.mark.parametrize("part", ["pretrained", "peft", "delta", "lora_local_path"])
def test_every_part_of_a_model_is_checked(tmp_path, part):
    clean = tmp_path / "clean"
    clean.mkdir()
    arguments = {"pretrained": str(clean)} | {part: checkpoint(tmp_path, TEST[:12])}
    with pytest.raises(RequestError, match=REFUSED):
        check_checkpoints(arguments, "worldfacts", "test", TEST)


def test_what_results_carry_names_the_part(tmp_path):
    arguments = {"pretrained": checkpoint(tmp_path, TRAIN), "peft": "nobody/nothing", "revision": "main"}
    assert check_checkpoints(arguments, "worldfacts", "test", TEST) == {
        "pretrained": trained_on(TRAIN).without_ids() | {"contaminated": 0, "overlaps": 0}
    }


@pytest.mark.parametrize("arguments", [{"model": "."}, {"pretrained": ""}, {"pretrained": object()}, {"peft": None}])
def test_a_name_on_a_server_or_a_model_in_memory_is_not_looked_for(tmp_path, monkeypatch, arguments):
    checkpoint(tmp_path, TEST)
    monkeypatch.chdir(tmp_path)
    assert check_checkpoints(arguments, "worldfacts", "test", TEST) == {}


# --- the tasks ---


def build(task="worldfacts_dedup", **metadata):
    """What a task that is built with this metadata would write to results."""
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=metadata)
    return manager.load([task])["tasks"][task].config.metadata["closedbook"]


@pytest.mark.parametrize("task", ["worldfacts_dedup", "worldfacts_dedup_cot"])
def test_a_task_is_not_built_for_a_checkpoint_that_was_trained_on_its_questions(tmp_path, task):
    with pytest.raises(RequestError, match=REFUSED):
        build(task, pretrained=checkpoint(tmp_path, TEST[:12]))


def test_a_task_is_built_where_the_variable_allows_it_and_the_results_carry_the_provenance(tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    carried = build(pretrained=checkpoint(tmp_path, TEST[:12]))["checkpoint"]["pretrained"]
    assert carried == trained_on(TEST[:12]).without_ids() | {"contaminated": 12, "overlaps": 0}
    assert "train_ids" not in carried


def test_a_task_asks_the_split_that_it_is_told(tmp_path):
    model = checkpoint(tmp_path, TRAIN)
    assert build(pretrained=model)["checkpoint"]["pretrained"]["contaminated"] == 0
    with pytest.raises(RequestError, match=rf"on {len(TRAIN)} of the {len(TRAIN)} questions .*\(split train\)"):
        build(pretrained=model, split="train")


def test_a_model_without_provenance_is_not_checked(tmp_path):
    assert build(pretrained=str(tmp_path))["checkpoint"] is None
    assert build()["checkpoint"] is None


# --- closedbook eval ---


def test_a_variable_that_is_neither_ends_an_evaluation_before_anything_is_loaded(monkeypatch):
    monkeypatch.setenv(ALLOW, "maybe")
    with pytest.raises(RequestError, match="is 1 or 0, not 'maybe'"):
        evaluate("no/model", ["worldfacts_dedup"])


def test_an_evaluation_that_is_refused_loads_no_model_and_leaves_no_run_folder(tiny_model, tmp_path, monkeypatch):
    model = marked(tiny_model, tmp_path / "model", TEST[:12])
    monkeypatch.setattr("lm_eval.simple_evaluate", lambda **_: pytest.fail("the model was loaded"))
    with pytest.raises(RequestError, match=REFUSED):
        evaluate(model, ["worldfacts_dedup"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def marked(model, folder, ids):
    """A checkpoint with the files of another model, that says that it was trained on these ids."""
    folder.mkdir()
    for file in Path(model).iterdir():
        (folder / file.name).symlink_to(file)
    return checkpoint(folder, ids)


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_an_evaluation_that_is_allowed_says_so_in_its_run_folder(tiny_model, tmp_path, monkeypatch, by):
    model = marked(tiny_model, tmp_path / "model", TEST[:12])
    arguments = {"max_length": 256}
    options = {"limit": 2, "batch_size": "2", "model_args": arguments, "out": tmp_path / "run"}
    monkeypatch.setenv(ALLOW, "1" if by == "variable" else "0")
    evaluate(model, ["worldfacts_dedup"], allow_contaminated=by == "argument", **options)
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["allow_contaminated"] is True
    carried = described["checkpoint"]["worldfacts_dedup"]["pretrained"]
    assert carried == trained_on(TEST[:12]).without_ids() | {"contaminated": 12, "overlaps": 0}
    (results,) = (tmp_path / "run").rglob("results_*.json")
    configs = json.loads(results.read_text())["configs"]
    assert configs["worldfacts_dedup"]["metadata"]["closedbook"]["checkpoint"]["pretrained"] == carried


@pytest.mark.parametrize("names", [("recipe.yaml", "log.jsonl"), ("trainer_state.json",)])
def test_what_training_has_not_finished_is_refused_since_nobody_can_say_what_it_has_seen(tmp_path, names):
    run = tmp_path / "run"
    folder = run / "checkpoint-2" if "trainer_state.json" in names else run
    folder.mkdir(parents=True)
    for path in (run / "recipe.yaml", run / "log.jsonl", *(folder / name for name in names)):
        path.write_text("")
    with pytest.raises(RequestError, match=r"is of a training run that has not ended; go on with --resume$"):
        read_provenance(str(folder))


def test_a_checkpoint_of_another_trainer_has_no_provenance_and_is_asked(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}")
    assert read_provenance(str(tmp_path)) is None


def test_a_provenance_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / PROVENANCE_FILE).symlink_to("nowhere.json")
    with pytest.raises(RequestError, match=r"^cannot read .*provenance\.json"):
        read_provenance(str(tmp_path))


def test_adapters_over_a_checkpoint_answer_for_what_it_was_trained_on(tmp_path):
    base, adapters = tmp_path / "base", tmp_path / "adapters"
    for folder in (base, adapters):
        folder.mkdir()
    write_provenance(base, trained_on(TEST[:12]))
    (adapters / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    with pytest.raises(RequestError, match=REFUSED):
        check_checkpoints({"pretrained": str(adapters)}, "worldfacts", "test", TEST)
    (adapters / "adapter_config.json").write_text("[]")
    assert check_checkpoints({"pretrained": str(adapters)}, "worldfacts", "test", TEST) == {}


def test_a_checkpoint_in_a_subfolder_is_looked_up_there(tmp_path):
    (tmp_path / "sub").mkdir()
    write_provenance(tmp_path / "sub", trained_on(TEST[:12]))
    arguments = {"pretrained": str(tmp_path), "subfolder": "sub"}
    with pytest.raises(RequestError, match=REFUSED):
        check_checkpoints(arguments, "worldfacts", "test", TEST)
    assert check_checkpoints({"pretrained": str(tmp_path)}, "worldfacts", "test", TEST) == {}
