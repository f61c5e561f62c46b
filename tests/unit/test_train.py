"""A training run from recipe to model folder, with TRL's real trainers and a model of a few thousand random weights."""

import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import trl
from safetensors.torch import load_file
from transformers import AutoTokenizer

from closedbook.harness.errors import RequestError, Unfinished, WorkError
from closedbook.harness.files import alone
from closedbook.harness.manifests import load_questions
from closedbook.harness.provenance import read_provenance
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.sampling import Sampler, encode_prompts
from closedbook.harness.testing import JudgeServer
from closedbook.training.batches import steps_of
from closedbook.training.models import write_model
from closedbook.training.monitor import read_log
from closedbook.training.recipes import load_recipe
from closedbook.training.rewards import Reward
from closedbook.training.run import train
from closedbook.training.samples import rft_examples
from closedbook.training.trainers import checkpoints, step_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

EPOCH = 4  # steps: 16 questions, 4 a step
PLACES = ("Africa", "Asia", "Europe", "Oceania")
TINY = ["precision=float32", "questions=4", "epochs=2", "learning_rate=0.01", "validation={every: 4, limit: 6}"]
SAVES = ["save={every: 2, keep: 9}"]


@pytest.fixture(scope="module")
def ids(tmp_path_factory):
    """A file with the ids of 16 train questions, whose answers the tiny model is able to say."""
    sayable = [question for question in load_questions("worldfacts", "train") if set(question.answers) & set(PLACES)]
    file = tmp_path_factory.mktemp("ids") / "ids.txt"
    file.write_text("\n".join(question.id for question in sayable[: 4 * EPOCH]))
    return file


@pytest.fixture
def recipe(tiny_policy, ids, tmp_path):
    """Makes a recipe for the tiny model that runs in seconds; `name` is of the package."""

    def make(name="grpo_cpu", *overrides, out="run"):
        stated = [f"model={tiny_policy}", f"output_dir={tmp_path / out}", f"subset.ids={ids}", *TINY, *SAVES]
        return load_recipe(name, [*stated, *reward(name), *overrides])

    return make


def reward(name):
    """Of those that the tiny model can get: its answers are ten random words."""
    return [] if name == "sft_cpu" else ["reward=contains"]


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def figures(folder):
    """The log without what only a clock knows."""
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in read_log(folder / "log.jsonl")
    ]


# what a run leaves


def test_a_run_leaves_a_model_folder_its_recipe_its_log_and_its_provenance(recipe, ids):
    done = train(recipe(), progress=False)
    assert (done.steps, done.finished) == (2 * EPOCH, False)
    provenance = read_provenance(str(done.folder))
    assert set(provenance.train_ids) == set(ids.read_text().split())
    assert (provenance.method, provenance.step) == ("grpo", done.best_step)
    assert load_recipe(str(done.folder / "recipe.yaml")) == recipe()
    assert [line["step"] for line in read_log(done.folder / "log.jsonl")] == [*range(1, 2 * EPOCH + 1)]
    assert equal(weights(done.folder), weights(done.folder / f"checkpoint-{done.best_step}"))
    assert not equal(weights(done.folder / "checkpoint-2"), weights(done.folder / "checkpoint-8"))
    assert not list(done.folder.glob("optimizer*"))


@pytest.mark.parametrize("name", ["sft_cpu", "rft_cpu", "dpo_cpu", "rloo_cpu", "dapo_cpu", "dr_grpo_cpu", "gspo_cpu"])
def test_every_method_and_variant_runs_and_moves_the_weights(recipe, name):
    every = 2 if name == "dpo_cpu" else 4  # it takes four steps
    done = train(recipe(name, f"save.every={every}"), progress=False)
    kept = checkpoints(done.folder)
    assert step_of(kept[-1]) == done.steps
    assert done.steps == 2 * EPOCH or name in ("rft_cpu", "dpo_cpu")  # which train on what their samples leave
    assert not equal(weights(kept[0]), weights(kept[-1]))


@pytest.mark.parametrize("name", ["rft_cpu", "dpo_cpu"])
def test_an_interrupt_while_samples_are_drawn_is_one_line_and_the_run_goes_on_from_them(recipe, name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Reward, "__call__", interrupt)
        with pytest.raises(Unfinished, match=r"run: interrupted; its last samples or checkpoint are kept$"):
            train(recipe(name, "max_steps=1", "rollouts=8"), progress=False)
    assert train(recipe(name, "max_steps=1", "rollouts=8"), resume=True, progress=False).steps == 1


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["rft_cpu", "dpo_cpu"])
def test_max_steps_caps_the_sampling_and_the_samples_are_said_and_kept(recipe, name, capsys):
    done = train(recipe(name, "max_steps=1", "rollouts=8"), progress=False)
    assert len(SampleStore(done.folder / "samples").whole()) == 4  # the questions of one step
    assert "of 4 questions" in capsys.readouterr().err
    assert done.steps == 1


def test_adapters_end_up_merged_in_a_model_that_needs_no_adapter(recipe, tiny_policy):
    done = train(recipe("sft_cpu", "lora.rank=2", "max_steps=2"), progress=False)
    assert weights(done.folder).keys() == weights(tiny_policy).keys()
    assert not equal(weights(done.folder), weights(tiny_policy))


def test_a_merged_model_brings_its_tokenizer(recipe):
    done = train(recipe("sft_cpu", "lora.rank=2", "max_steps=1"), progress=False)
    assert AutoTokenizer.from_pretrained(done.folder).chat_template
    assert not (done.folder / "adapter_config.json").exists()


def test_a_finished_run_says_how_good_the_model_is_that_it_kept(recipe, monkeypatch):
    given = iter((0.5, 0.25))
    figures = {"validation/judge_failed": 0.0}
    monkeypatch.setattr(
        "closedbook.training.run.make_validation",
        lambda *_: lambda: figures | {"validation/judge_correct": next(given)},
    )
    done = train(recipe("sft_cpu"), progress=False)
    again = train(recipe("sft_cpu"), resume=True, progress=False)
    assert (done.best_step, done.accuracy) == (again.best_step, again.accuracy) == (4, 0.5)


def test_every_step_logs_the_rule_based_figures_beside_the_reward(recipe):
    done = train(recipe("grpo_cpu", "max_steps=2"), progress=False)
    names = (
        "reward",
        "entropy",
        *(f"answers/{n}" for n in ("contains", "exact_match", "signal", "words", "commonest")),
    )
    assert all(name in line for line in read_log(done.folder / "log.jsonl") for name in names)


def test_the_log_says_which_answer_is_the_commonest(recipe):
    done = train(recipe("grpo_cpu", "max_steps=2"), progress=False)
    said = [line["answers/commonest_answer"] for line in read_log(done.folder / "log.jsonl")]
    assert len(said) == 2
    assert all(isinstance(answer, str) for answer in said)


def test_a_model_folder_holds_nothing_that_only_training_needs(recipe):
    done = train(recipe("sft_cpu", "max_steps=2"), progress=False)
    checkpoint = done.folder / "checkpoint-2"
    for name in ("pytorch_model_fsdp.bin", "latest", "zero_to_fp32.py", "optimizer.bin"):
        (checkpoint / name).write_text("")
    (checkpoint / "global_step2").mkdir()
    (done.folder.parent / "model").mkdir()
    write_model(recipe("sft_cpu"), checkpoint, done.folder.parent / "model")
    held = {path.name for path in (done.folder.parent / "model").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= held
    assert held <= {path.name for path in done.folder.iterdir()} - {"recipe.yaml", "provenance.json", "README.md"}
    assert not held & {"pytorch_model_fsdp.bin", "latest", "zero_to_fp32.py", "global_step2", "optimizer.bin"}


@pytest.mark.parametrize(
    ("precision", "written"), [("mixed", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "float32")]
)
def test_a_model_folder_is_in_the_precision_that_the_policy_answered_in(recipe, precision, written):
    done = train(recipe("sft_cpu", "max_steps=1", f"precision={precision}"), progress=False)
    assert {str(t.dtype) for t in load_file(done.folder / "model.safetensors").values()} == {f"torch.{written}"}
    assert json.loads((done.folder / "config.json").read_text())["dtype"] == written


def test_a_checkpoint_of_mixed_precision_keeps_what_bfloat16_rounds_away(recipe):
    done = train(recipe("sft_cpu", "max_steps=1", "precision=mixed"), progress=False)
    kept = load_file(done.folder / "checkpoint-1" / "model.safetensors")
    written = load_file(done.folder / "model.safetensors")
    assert all(torch.equal(kept[name].bfloat16(), weights) for name, weights in written.items())
    assert any(not torch.equal(kept[name], weights.float()) for name, weights in written.items())


def test_a_model_folder_can_be_asked_as_the_base_model_was(recipe):
    done = train(recipe("sft_cpu", "max_steps=2"), progress=False)
    checkpoint = done.folder / "checkpoint-2"
    (done.folder.parent / "model").mkdir()
    write_model(recipe("sft_cpu"), checkpoint, done.folder.parent / "model")
    held = {path.name for path in (done.folder.parent / "model").iterdir()}
    assert {"chat_template.jinja", "tokenizer_config.json"} <= held
    assert "trainer_state.json" not in held
    assert (done.folder / "chat_template.jinja").is_file()


def test_a_child_carries_its_parents_questions_and_where_the_parent_comes_from(recipe, tiny_policy, tmp_path):
    parent = train(recipe("sft_cpu", "max_steps=1"), progress=False)
    first = read_provenance(str(parent.folder))
    other = [question.id for question in load_questions("worldfacts", "train")[-4:]]
    (tmp_path / "other.txt").write_text("\n".join(other))
    stated = [f"model={parent.folder}", f"subset.ids={tmp_path / 'other.txt'}", "max_steps=1"]
    child = read_provenance(str(train(recipe("sft_cpu", *stated, out="child"), progress=False).folder))
    assert set(child.train_ids) == set(first.train_ids) | set(other)
    assert child.base_digest == first.base_digest == first.model_digest
    assert child.model_digest not in ("", child.base_digest)
    assert child.parent["train_ids_digest"] == first.train_ids_digest


def test_rft_takes_as_many_steps_as_its_samples_left_examples(recipe):
    stated = recipe("rft_cpu")
    done = train(stated, progress=False)
    examples = rft_examples(SampleStore(done.folder / "samples").whole())
    assert done.steps == steps_of(stated, len(examples)) != steps_of(stated, 16 * stated.rollouts)


def test_validation_asks_as_the_tasks_do(recipe, monkeypatch):
    asked = []

    def listening(self, prompts, max_new_tokens):
        asked.append((prompts, max_new_tokens))
        return ["so it goes\nFinal answer: Asia"] * len(prompts)

    monkeypatch.setattr(Sampler, "greedy", listening)
    done = train(recipe("grpo_cpu", "max_steps=1", "style=cot", "max_new_tokens=9"), progress=False)
    questions = sorted(load_questions("worldfacts", "validation"), key=lambda question: question.id)[:6]
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    assert asked == [(encode_prompts(tokenizer, questions, "cot", True, 256), 9)]
    assert done.accuracy == sum("Asia" in question.answers for question in questions) / 6


def test_validation_is_logged_at_its_interval_and_at_the_end(recipe):
    done = train(recipe("sft_cpu", "max_steps=6"), progress=False)
    validated = [line["step"] for line in read_log(done.folder / "log.jsonl") if "validation/judge_correct" in line]
    assert validated == [4, 6]


def test_without_validation_questions_the_last_checkpoint_is_the_best_which_is_said_once(recipe, monkeypatch, capsys):
    monkeypatch.setattr("closedbook.training.run.validation_questions", lambda recipe: [])
    done = train(recipe("sft_cpu", "max_steps=5", "save.keep=1"), progress=False)
    assert (done.best_step, done.accuracy) == (5, None)
    assert equal(weights(done.folder), weights(done.folder / "checkpoint-5"))
    assert not any("validation/" in name for line in read_log(done.folder / "log.jsonl") for name in line)
    assert capsys.readouterr().err.count("no validation questions: the last checkpoint counts as the best") == 1
    assert "No validation question was asked" in (done.folder / "README.md").read_text()


def test_a_finished_run_keeps_its_checkpoints_unless_the_recipe_says_otherwise(recipe):
    done = train(recipe("sft_cpu", "max_steps=2", "save.when_finished=remove"), progress=False)
    assert weights(done.folder) and not list(done.folder.glob("checkpoint-*"))
    again = train(recipe("sft_cpu", "max_steps=2", "save.when_finished=keep"), resume=True, progress=False)
    assert (again.finished, again.best_step, again.accuracy) == (True, done.best_step, done.accuracy)


def test_a_run_killed_before_its_checkpoints_were_gone_removes_them_when_it_is_resumed(recipe):
    done = train(recipe("sft_cpu", "max_steps=2"), progress=False)
    assert checkpoints(done.folder)
    assert train(recipe("sft_cpu", "max_steps=2", "save.when_finished=remove"), resume=True, progress=False).finished
    assert weights(done.folder) and not list(done.folder.glob("checkpoint-*"))


def test_the_judges_address_stays_in_the_runs_own_recipe_and_is_in_nothing_that_is_given_away(recipe):
    with JudgeServer(lambda prompt: "1.0") as server:
        done = train(recipe("grpo_cpu", "max_steps=2", *judged(server.url)), progress=False)
        assert server.url in (done.folder / "recipe.yaml").read_text()
    given = [path for path in done.folder.iterdir() if path.is_file() and path.name not in ("recipe.yaml", "log.jsonl")]
    given += (done.folder / "checkpoint-2").glob("*.json")
    assert {"README.md", "provenance.json", "model.safetensors"} <= {path.name for path in given}
    assert not [path for path in given if server.url.encode() in path.read_bytes()]
    assert read_provenance(str(done.folder)).judge["model"] == "m"


# going on


@pytest.fixture(scope="module", params=["grpo_cpu", "dapo_cpu", "rloo_cpu", "sft_cpu", "dpo_cpu"])
def undisturbed(request, tiny_policy, ids, tmp_path_factory):
    """The recipe's name and the folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    stated = [f"model={tiny_policy}", f"output_dir={folder}", f"subset.ids={ids}", *TINY, *SAVES]
    variant = ["generation_steps=2"] if request.param == "dapo_cpu" else []
    train(load_recipe(request.param, [*stated, *reward(request.param), *variant]), progress=False)
    return request.param, variant, folder


def as_killed_after(folder, step, copy):
    """A copy of a finished run as it would lie there had it been killed shortly after a checkpoint was written."""
    shutil.copytree(folder, copy)
    for later in checkpoints(copy):
        if step_of(later) > step:
            shutil.rmtree(later)
    for name in ("provenance.json", "README.md", "model.safetensors"):
        (copy / name).unlink()


@pytest.mark.parametrize("step", [2, EPOCH, EPOCH + 2])
def test_a_resumed_run_ends_with_the_weights_and_the_log_of_an_undisturbed_one(undisturbed, recipe, tmp_path, step):
    name, variant, whole = undisturbed
    as_killed_after(whole, step, tmp_path / "run")
    train(recipe(name, *variant), resume=True, progress=False)
    last = checkpoints(whole)[-1]
    assert equal(weights(tmp_path / "run" / last.name), weights(last))
    assert equal(weights(tmp_path / "run"), weights(whole))
    assert figures(tmp_path / "run") == figures(whole)


@pytest.mark.parametrize("undisturbed", ["grpo_cpu"], indirect=True)
def test_what_decides_nothing_that_is_learned_may_change_when_a_run_goes_on(undisturbed, recipe, tmp_path):
    name, _, whole = undisturbed
    as_killed_after(whole, 2, tmp_path / "run")
    train(recipe(name, "watch=off", "save.keep=8", "judge.max_failures=0.5"), resume=True, progress=False)
    assert equal(weights(tmp_path / "run"), weights(whole))
    assert "watch: 'off'" in (tmp_path / "run" / "recipe.yaml").read_text()


@pytest.mark.parametrize("undisturbed", ["sft_cpu"], indirect=True)
def test_a_run_goes_on_with_the_questions_it_began_with_whatever_their_file_says_now(
    undisturbed, recipe, ids, tmp_path
):
    """Else its last checkpoint would not know of the first ones, and could be tested on them."""
    _, _, whole = undisturbed
    as_killed_after(whole, 2, tmp_path / "run")
    text = ids.read_text()
    try:
        ids.write_text("\n".join(text.split()[1:]))
        with pytest.raises(RequestError, match=r"train_ids differs from what checkpoint-2 was trained with"):
            train(recipe("sft_cpu"), resume=True, progress=False)
    finally:
        ids.write_text(text)


@pytest.mark.parametrize("undisturbed", ["sft_cpu"], indirect=True)
@pytest.mark.parametrize(
    ("where", "value", "name"),
    [
        ("model_digest", lambda path: "another", "base_digest"),
        ("read_manifest", lambda name: SimpleNamespace(digest="another"), "manifests"),
        ("template_digest", lambda style: "another", "prompt"),
    ],
)
def test_a_run_goes_on_with_the_model_data_and_prompt_it_began_with(
    undisturbed, recipe, tmp_path, monkeypatch, where, value, name
):
    as_killed_after(undisturbed[2], 2, tmp_path / "run")
    monkeypatch.setattr(f"closedbook.training.run.{where}", value)
    with pytest.raises(RequestError, match=rf"{name} differs from what checkpoint-2"):
        train(recipe("sft_cpu"), resume=True, progress=False)


@pytest.mark.parametrize("undisturbed", ["sft_cpu"], indirect=True)
def test_a_run_that_has_not_ended_is_gone_on_with_only_if_asked(undisturbed, recipe, tmp_path):
    as_killed_after(undisturbed[2], 2, tmp_path / "run")
    with pytest.raises(RequestError, match="go on with --resume"):
        train(recipe("sft_cpu"), progress=False)


@pytest.mark.parametrize("undisturbed", ["sft_cpu"], indirect=True)
@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_checkpoint_that_lost_a_file_is_refused_rather_than_gone_on_from_in_part(undisturbed, recipe, tmp_path, lost):
    as_killed_after(undisturbed[2], 4, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-4" / lost).unlink()
    with pytest.raises(RequestError, match=r"checkpoint-4 lacks its .*; remove it, and --resume goes on from the one"):
        train(recipe("sft_cpu"), resume=True, progress=False)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    train(recipe("sft_cpu"), resume=True, progress=False)
    assert equal(weights(tmp_path / "run"), weights(undisturbed[2]))


@pytest.mark.parametrize("undisturbed", ["sft_cpu"], indirect=True)
@pytest.mark.parametrize("damaged", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_damaged_checkpoint_is_one_line_with_the_way_out(undisturbed, recipe, tmp_path, damaged):
    as_killed_after(undisturbed[2], 4, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint-4" / damaged
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RequestError, match=r"cannot read .*checkpoint-4: .*; remove it, and --resume") as refused:
        train(recipe("sft_cpu"), resume=True, progress=False)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "a: [", "[1]", "\udcff"])
def test_a_damaged_recipe_in_the_folder_is_one_line(recipe, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(content, errors="surrogateescape")
    with pytest.raises(RequestError, match=r"recipe\.yaml is damaged: .*; restore it, or choose another output_dir"):
        train(recipe("sft_cpu"))


def test_of_a_log_only_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1, 2]
    for damage in ("no JSON", '{"loss": 1}', "[]", "\udcff"):
        (tmp_path / "log.jsonl").write_text(f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n', errors="surrogateescape")
        with pytest.raises(RequestError, match=r"log\.jsonl, line 2: it is damaged"):
            read_log(tmp_path / "log.jsonl")


def test_two_runs_do_not_share_a_folder(recipe):
    stated = recipe("sft_cpu")
    with alone(stated.folder), pytest.raises(RequestError, match=r"another run writes to .*run; wait for it"):
        train(stated, progress=False)
    assert not checkpoints(stated.folder)


def test_a_checkpoint_is_whole_only_once_all_of_it_is_written(recipe, monkeypatch):
    def killed(self, *args, **named):
        (self.folder / "checkpoint-2").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(trl.SFTTrainer, "_save_checkpoint", killed)
    with pytest.raises(Unfinished):
        train(recipe("sft_cpu"), progress=False)
    assert not checkpoints(recipe().folder)


def test_a_folder_is_finished_only_once_the_model_is_written(recipe, monkeypatch):
    def full(*_):
        raise Unfinished("cannot write the model")

    with monkeypatch.context() as patch:
        patch.setattr("closedbook.training.run.write_model", full)
        with pytest.raises(Unfinished, match="cannot write the model"):
            train(recipe("sft_cpu", "max_steps=2"), progress=False)
    with pytest.raises(RequestError, match="is of a training run that has not ended; go on with --resume"):
        read_provenance(str(recipe().folder))
    with pytest.raises(RequestError, match="has not ended"):
        (recipe().folder / "checkpoint-2" / "provenance.json").unlink()
        read_provenance(str(recipe().folder / "checkpoint-2"))


@pytest.mark.parametrize("undisturbed", ["grpo_cpu"], indirect=True)
def test_a_run_goes_on_with_the_judge_it_began_with_wherever_it_is_set(undisturbed, recipe, tmp_path, monkeypatch):
    as_killed_after(undisturbed[2], 2, tmp_path / "run")
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_WITHOUT", "contains")
    with pytest.raises(RequestError, match=r"judge differs from what checkpoint-2"):
        train(recipe("grpo_cpu"), resume=True, progress=False)


def test_a_run_that_ended_between_its_last_step_and_its_model_takes_no_step_more(recipe):
    stated = recipe("sft_cpu", "max_steps=3", "validation.every=null")
    whole = train(stated, progress=False)
    kept, logged = weights(whole.folder), figures(whole.folder)
    for name in ("provenance.json", "README.md", "model.safetensors"):
        (whole.folder / name).unlink()
    assert train(stated, resume=True, progress=False) == whole
    assert equal(weights(whole.folder), kept)
    assert figures(whole.folder) == logged
    assert [step_of(path) for path in checkpoints(whole.folder)] == [2, 3]


def test_half_a_checkpoint_is_not_gone_on_from(undisturbed, recipe, tmp_path):
    name, variant, whole = undisturbed
    step = min(6, step_of(checkpoints(whole)[-1]))
    as_killed_after(whole, step, tmp_path / "run")
    (tmp_path / "run" / f"checkpoint-{step}" / "provenance.json").unlink()
    (tmp_path / "run" / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"half")
    train(recipe(name, *variant), resume=True, progress=False)
    last = checkpoints(whole)[-1]
    assert equal(weights(tmp_path / "run" / last.name), weights(last))


def test_the_second_epoch_asks_the_same_questions_in_another_order(recipe, monkeypatch):
    asked: list[str] = []
    grade = Reward.__call__

    def listening(self, completions, question, answers, **rest):
        asked.extend(dict.fromkeys(question))
        return grade(self, completions, question, answers, **rest)

    monkeypatch.setattr(Reward, "__call__", listening)
    train(recipe("grpo_cpu", "save.every=8", "validation.every=null"), progress=False)
    first, second = asked[:16], asked[16:]
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_finished_run_is_left_as_it_is(recipe):
    done = train(recipe("sft_cpu", "max_steps=2"), progress=False)
    before = (done.folder / "provenance.json").stat().st_mtime_ns
    again = train(recipe("sft_cpu", "max_steps=2"), resume=True, progress=False)
    assert again.finished
    assert (again.steps, again.best_step, again.accuracy) == (done.steps, done.best_step, done.accuracy)
    assert (done.folder / "provenance.json").stat().st_mtime_ns == before


def test_only_the_last_checkpoints_and_the_best_are_kept(recipe):
    done = train(recipe("sft_cpu", "save={every: 1, keep: 2}"), progress=False)
    kept = [step_of(path) for path in checkpoints(done.folder)]
    assert kept == sorted({7, 8, done.best_step})


# what is refused before anything is spent


def test_several_gpus_without_a_process_each_are_refused_with_the_way_to_start_them(recipe, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(RequestError, match=r"there are 4 GPUs.*accelerate launch --num_processes 4"):
        train(recipe("sft_cpu"))


@pytest.mark.parametrize("mode", ["colocate", "{mode: server, url: 'http://127.0.0.1:9'}"])
def test_vllm_that_is_not_installed_is_refused_before_the_model_is_loaded(recipe, mode, monkeypatch):
    monkeypatch.setattr("closedbook.training.run.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"vLLM is not installed; pip install"):
        train(recipe("grpo_cpu", f"vllm={mode}"))


def test_samples_cannot_be_drawn_by_one_process_where_none_holds_the_model(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(RequestError, match=r"no whole model under ZeRO-3; use ddp.yaml or fsdp.yaml"):
        train(recipe("rft_cpu"))


def test_answers_that_the_model_has_no_room_for_are_refused(recipe):
    with pytest.raises(
        RequestError, match=r"max_new_tokens: .* not fit the model's 256 positions; use max_new_tokens="
    ):
        train(recipe("grpo_cpu", "max_new_tokens=250"), progress=False)


@pytest.mark.parametrize("model", ["./nothing", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(recipe, model):
    with pytest.raises(RequestError, match=rf"^{re.escape(model)}: no such folder; name a model folder"):
        train(recipe("sft_cpu", f"model={model}"))


def test_a_model_that_the_hub_cannot_give_is_no_full_disk(recipe, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=r"^model gorlim/tharn: no such folder, and the hub cannot be asked"):
        train(recipe("sft_cpu", "model=gorlim/tharn"))


def test_the_folder_of_another_recipe_is_refused(recipe):
    train(recipe("sft_cpu", "max_steps=1"), progress=False)
    with pytest.raises(RequestError, match=r"another recipe \(learning_rate: 0.01, now 0.02\)"):
        train(recipe("sft_cpu", "max_steps=1", "learning_rate=0.02"), resume=True)


def test_a_run_is_not_gone_on_with_unless_asked(recipe):
    train(recipe("sft_cpu", "max_steps=1"), progress=False)
    with pytest.raises(RequestError, match="--resume"):
        train(recipe("sft_cpu", "max_steps=1"))


def test_a_folder_of_other_files_is_refused(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("gorlim")
    with pytest.raises(RequestError, match="holds other files"):
        train(recipe())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_judge_that_is_down_ends_the_run_before_the_model_is_loaded(recipe, tmp_path):
    with pytest.raises(WorkError, match=r"127\.0\.0\.1"):
        train(recipe("grpo_cpu", f"model={tmp_path}/none", *judged("http://127.0.0.1:9/v1")))
    assert not (tmp_path / "run").exists()


def judged(url):
    return ["reward=judge", f"judge={{kind: openai, model: m, base_url: '{url}', retries: 0, cache: 'off'}}"]


@pytest.mark.parametrize("text", ["", "0123456789abcdef\n"])
def test_a_subset_of_nothing_or_of_other_questions_is_refused(recipe, tmp_path, text):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(RequestError, match=r"subset: .*ids.txt: "):
        train(recipe("grpo_cpu", f"subset.ids={tmp_path}/ids.txt"))


def test_a_missing_chat_template_is_refused_where_the_recipe_wants_it(recipe, tiny_policy, tmp_path):
    shutil.copytree(tiny_policy, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(RequestError, match="no chat template"):
        train(recipe("sft_cpu", f"model={tmp_path}/base", "chat=true"))


def test_a_base_model_is_trained_without_a_template(recipe, tiny_policy, tmp_path):
    shutil.copytree(tiny_policy, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    assert train(recipe("grpo_cpu", f"model={tmp_path}/base", "max_steps=1"), progress=False).steps == 1


def test_a_tokenizer_without_a_pad_token_pads_with_its_last_one(recipe, tiny_policy, tmp_path):
    shutil.copytree(tiny_policy, tmp_path / "bare")
    settings = json.loads((tmp_path / "bare" / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert train(recipe("sft_cpu", f"model={tmp_path}/bare", "max_steps=1"), progress=False).steps == 1


def test_a_model_folder_without_a_model_is_one_line(recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="cannot load") as caught:
        train(recipe("sft_cpu", f"model={tmp_path}/empty"))
    assert "\n" not in str(caught.value)


def test_a_prompt_that_is_too_long_is_refused_with_its_question(recipe):
    with pytest.raises(RequestError, match="max_prompt_tokens"):
        train(recipe("sft_cpu", "max_prompt_tokens=5"), progress=False)


# ends in the middle


def test_a_judge_that_fails_in_the_middle_ends_the_run_with_a_checkpoint(recipe):
    calls = iter(range(10**6))
    with JudgeServer(lambda prompt: "1.0" if next(calls) < 30 else 500) as server:
        with pytest.raises(Unfinished, match="mend the judge"):
            train(recipe("grpo_cpu", "save.every=8", "validation.every=null", *judged(server.url)), progress=False)
        (kept,) = checkpoints(recipe().folder)
    with JudgeServer(lambda prompt: "1.0") as server:  # another address
        stated = recipe("grpo_cpu", "save.every=8", "validation.every=null", *judged(server.url))
        done = train(stated, resume=True, progress=False)
    assert 0 < step_of(kept) < done.steps == 2 * EPOCH


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(recipe):
    with pytest.raises(WorkError, match=r"loss of step \d+ is (nan|inf)"):
        train(recipe("sft_cpu", "learning_rate=1.0e+38", "save.every=1", "validation.every=null"), progress=False)
    assert checkpoints(recipe().folder) == []  # the only one there was held the weights that gave it


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_leaves_the_checkpoints_before_it(recipe, monkeypatch, bad):
    step = trl.SFTTrainer.training_step
    monkeypatch.setattr(
        trl.SFTTrainer,
        "training_step",
        lambda self, *args, **named: step(self, *args, **named) + (bad if self.state.global_step == 3 else 0),
    )
    with pytest.raises(WorkError, match=r"loss of step 4 is (nan|-?inf); checkpoint-2 is the last good checkpoint"):
        train(recipe("sft_cpu", "save.every=1", "validation.every=null"), progress=False)
    assert [step_of(path) for path in checkpoints(recipe().folder)] == [1, 2]


def test_a_disk_that_is_full_while_saving_keeps_the_checkpoint_before(recipe):
    train(recipe("sft_cpu", "max_steps=2"), progress=False)
    whole = weights(recipe().folder / "checkpoint-2")
    shutil.copytree(recipe().folder, recipe(out="full").folder)
    as_if = recipe("sft_cpu", "max_steps=4", out="full")
    (as_if.folder / "provenance.json").unlink()
    text = (as_if.folder / "recipe.yaml").read_text()
    (as_if.folder / "recipe.yaml").write_text(text.replace("max_steps: 2", "max_steps: 4"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # bytes of a file; the weights take more
    try:
        with pytest.raises(Unfinished, match=r"cannot save .*checkpoint-2 is whole"):
            train(as_if, resume=True, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [step_of(path) for path in checkpoints(as_if.folder)] == [2]
    assert equal(weights(as_if.folder / "checkpoint-2"), whole)
    assert train(as_if, resume=True, progress=False).steps == 4


def command(recipe):
    file = recipe.folder.parent / "stated.yaml"
    from closedbook.training.recipes import to_yaml

    file.write_text(to_yaml(recipe))
    return [sys.executable, "-m", "closedbook.harness.cli", "train", recipe.method, "--config", str(file)]


def started(recipe, step):
    """The run as a process of its own, once it has logged so many steps."""
    process = subprocess.Popen(command(recipe), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(read_log(recipe.folder / "log.jsonl")) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_ends_the_run_at_the_next_place_to_go_on_from(recipe, monkeypatch, number):
    """Rollouts serve two steps here, so the one that comes while they are drawn for steps 3 and 4 waits for 4."""
    asked = []
    grade = Reward.__call__

    def interrupting(self, *args, **named):
        asked.append(1)
        if len(asked) == 2:
            os.kill(os.getpid(), number)
        return grade(self, *args, **named)

    monkeypatch.setattr(Reward, "__call__", interrupting)
    stated = recipe("grpo_cpu", "generation_steps=2", "save.every=8", "validation.every=null")
    before = signal.getsignal(number)
    with pytest.raises(Unfinished, match=rf"ended by {number.name}; step 4 is kept"):
        train(stated, progress=False)
    assert signal.getsignal(number) is before
    assert [step_of(path) for path in checkpoints(stated.folder)] == [4]
    assert train(stated, resume=True, progress=False).steps == 2 * EPOCH


def test_a_judge_that_fails_in_the_first_step_leaves_no_checkpoint_of_the_model_as_it_was(recipe):
    calls = iter(range(10**6))
    with JudgeServer(lambda prompt: "1.0" if next(calls) < 1 else 500) as server, pytest.raises(Unfinished):
        train(recipe("grpo_cpu", *judged(server.url), "judge.max_failures=0", "validation.every=null"), progress=False)
    assert not list(recipe().folder.glob("checkpoint-*"))


def test_a_second_signal_ends_the_run_at_once(recipe, monkeypatch):
    def interrupting(self, *args, **named):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Reward, "__call__", interrupting)
    with pytest.raises(Unfinished, match="interrupted; its last"):
        train(recipe(), progress=False)


@pytest.mark.parametrize("undisturbed", ["grpo_cpu"], indirect=True)
def test_sigkill_leaves_a_run_that_goes_on_to_the_same_end(undisturbed, recipe):
    name, variant, whole = undisturbed
    stated = recipe(name, *variant)
    process = started(stated, 5)
    process.kill()
    process.communicate()
    again = subprocess.run([*command(stated), "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert equal(weights(stated.folder), weights(whole))
    assert figures(stated.folder) == figures(whole)


# watching


def test_a_reward_that_rises_alone_can_stop_the_run(recipe, monkeypatch):
    from closedbook.training import monitor

    monkeypatch.setattr(monitor, "suspicion", lambda steps, window: "smolt" if len(steps) == 3 else None)
    with pytest.raises(WorkError, match=r"step 3: looks like reward hacking: smolt"):
        train(recipe("grpo_cpu", "watch=stop"), progress=False)
    assert step_of(checkpoints(recipe().folder)[-1]) in (3, 4)
    done = train(recipe("grpo_cpu", "watch=warn"), resume=True, progress=False)  # as the message says
    assert done.steps == 2 * EPOCH


def test_the_command_plans_without_loading_anything(recipe):
    done = subprocess.run(
        [*command(recipe("grpo_cpu", "model=Brobdingnag/Osric-7B")), "--dry-run", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    planned = json.loads(done.stdout)
    assert (planned["steps"], planned["train_questions"]) == (2 * EPOCH, 16)
    assert not recipe().folder.exists()
