"""The model card: what the hub reads in it, what people read in it, and what must not be in it."""

import json
import math
import shlex
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from closedbook.harness.sources import benchmarks
from closedbook.harness.statistics import wilson
from closedbook.training.card import model_card
from closedbook.training.recipes import check_recipe, load_recipe, to_yaml

LOG = [
    {"step": 0, "validation/judge_correct": 0.1, "validation/exact_match": 0.0, "validation/judge_failed": 0.0},
    {"step": 4, "loss": 0.2, "reward": 0.3},
    {"step": 8, "loss": 0.1, "reward": 0.4},
    {"step": 8, "validation/judge_correct": 0.25, "validation/exact_match": 0.2, "validation/judge_failed": 0.2},
]
N = 50


@dataclass(frozen=True)
class Stated:
    """As the provenance of a checkpoint, with made-up values."""

    method: str = "grpo"
    base_model: str = "aurora/boreal-1b"
    base_digest: str = "aurora/boreal-1b@0123abc"
    step: int = 8
    seed: int = 7
    recipe: dict[str, Any] = field(default_factory=dict)
    manifests: dict[str, Any] = field(default_factory=lambda: {"popqa": "f" * 64})
    train_ids: tuple[str, ...] = ("popqa-1", "popqa-2", "popqa-3")
    train_ids_digest: str = "d1gest"
    judge: dict[str, Any] | None = field(default_factory=lambda: {"kind": "openai", "model": "assessor-9b"})
    prompt: str = "direct-0123456789ab"
    versions: dict[str, Any] = field(default_factory=lambda: {"torch": "2.0", "transformers": "5.0"})
    revision: str | None = "abc123+dirty"
    parent: dict[str, Any] | None = None


STATED: Any = Stated()


def made(log=LOG, overrides=(), **changes):
    """The card of a small run."""
    recipe = load_recipe("grpo_cpu", ["model=aurora/boreal-1b", "benchmarks=popqa", *overrides])
    return model_card(recipe, replace(STATED, **changes), log, N)


def read(text, tmp_path):
    """The card as the hub's own library reads it from a file."""
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return ModelCard.load(tmp_path / "README.md")


def values(card):
    """Metric by name, as read back."""
    return {result.metric_name: result.metric_value for result in card.data.eval_results}


def test_the_hub_reads_back_the_metrics_of_the_checkpoints_own_step(tmp_path):
    card = read(made(), tmp_path)
    assert values(card) == {"judge_correct": 0.25, "exact_match": 0.2, "judge_failed": 0.2}
    assert {result.task_type for result in card.data.eval_results} == {"question-answering"}
    assert card.data.model_name == "grpo_cpu"
    first = card.data.eval_results[0]
    assert (first.dataset_type, first.dataset_split) == ("akariasai/PopQA", "validation")
    assert first.dataset_args == {"manifests": {"popqa": "f" * 64}}


def test_the_hub_reads_what_the_model_is(tmp_path):
    data = read(made(), tmp_path).data
    assert data.base_model == "aurora/boreal-1b"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.datasets == ["akariasai/PopQA"]
    assert {"closedbook", "grpo"} <= set(data.tags)


def test_a_benchmark_that_ships_with_the_package_is_no_data_set_of_the_hub(tmp_path):
    card = read(made(overrides=["benchmarks=worldfacts"], manifests={"worldfacts": "a" * 64}), tmp_path)
    assert card.data.datasets is None
    assert {result.dataset_type for result in card.data.eval_results} == {"worldfacts"}


def test_a_mean_over_several_benchmarks_is_no_figure_of_one_of_them(tmp_path):
    card = read(made(overrides=["benchmarks=[nq, popqa]"], manifests={"nq": "a" * 64, "popqa": "b" * 64}), tmp_path)
    assert card.data.datasets == ["google-research-datasets/nq_open", "akariasai/PopQA"]
    assert {result.dataset_type for result in card.data.eval_results} == {"closedbook"}


def test_intervals_are_wilsons_over_the_questions_that_a_metric_rests_on(tmp_path):
    text = made()
    card = read(text, tmp_path)
    arguments = {result.metric_name: result.metric_args for result in card.data.eval_results}
    exact, graded = wilson(10, 50), wilson(10, 40)
    assert arguments["exact_match"] == {"n": 50, "low": exact.low, "high": exact.high, "step": 8}
    assert arguments["judge_correct"] == {"n": 40, "low": graded.low, "high": graded.high, "step": 8}
    assert f"| 8 | {exact} | {graded} | {wilson(10, 50)} |" in text


@pytest.mark.parametrize("unknown", [math.nan, None, math.inf, "0.5", True, 1.5])
def test_a_figure_that_is_not_known_is_left_out(unknown, tmp_path):
    line = {"step": 8, "validation/judge_correct": unknown, "validation/exact_match": 0.2}
    text = made([line])
    assert values(read(text, tmp_path)) == {"exact_match": 0.2}
    assert "judge_correct" not in text.split("## Validation")[1].split("##")[0]


def test_figures_of_another_step_are_not_the_checkpoints(tmp_path):
    card = read(made(step=4), tmp_path)
    assert not card.data.eval_results
    assert "model_name" not in card.data.to_dict()
    assert "model-index" not in str(card)


def test_without_validation_the_card_says_so(tmp_path):
    text = made([])
    assert not read(text, tmp_path).data.eval_results
    assert "No validation question was asked" in text


def test_of_a_step_that_was_taken_twice_the_later_figures_count(tmp_path):
    again = {"step": 8, "validation/judge_correct": 0.5, "validation/judge_failed": 0.0}
    assert values(read(made([*LOG, again]), tmp_path))["judge_correct"] == 0.5


def test_a_local_base_model_stays_out_of_the_metadata(tmp_path):
    for base in ("/home/somebody/models/boreal", "models/boreal", "~/models/boreal"):
        text = made(overrides=[f"model={base}"], base_model=base, base_digest="c" * 64)
        assert read(text, tmp_path).data.base_model is None
        assert "boreal`" in text
        assert "/home" not in text
        assert "~/" not in text


def test_a_model_trained_from_a_trained_one_has_the_hubs_model_as_its_base(tmp_path):
    parent = {"base_model": "aurora/boreal-1b", "base_digest": "aurora/boreal-1b@0123abc", "parent": None}
    text = made(base_model="runs/first", base_digest="c" * 64, parent=parent)
    assert read(text, tmp_path).data.base_model == "aurora/boreal-1b"


@pytest.mark.parametrize(
    ("name", "hub_id", "licence"),
    [
        ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("gemma-270m", "google/gemma-3-270m", "gemma"),
        ("qwen-0.5b", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "apache-2.0"),
    ],
)
def test_a_packaged_model_has_its_licence_and_others_have_none(tmp_path, name, hub_id, licence):
    small = read(made(overrides=[f"model={name}"], base_model=name, base_digest="e" * 64), tmp_path).data
    assert (small.base_model, small.license) == (hub_id, licence)
    assert read(made(), tmp_path).data.license is None


def test_no_machines_path_is_in_the_card():
    text = made(
        overrides=["output_dir=/scratch/somebody/runs/first", "subset.ids=/scratch/somebody/ids.txt"],
        judge={"kind": "vllm", "model": "/scratch/somebody/assessor"},
        versions={"torch": "/scratch/wheels/torch"},
        parent={"base_model": "/scratch/old", "base_digest": "c" * 64},
    )
    assert "/scratch" not in text
    assert "ids.txt" in text
    assert "pretrained=first" in text


def test_no_servers_address_is_in_the_card():
    judge = "judge={kind: openai, model: assessor-9b, base_url: 'http://gorlim:8000/v1'}"
    text = made(overrides=[judge, "vllm={mode: server, url: 'http://smolt:8000'}"])
    assert "gorlim" not in text and "smolt" not in text
    assert "assessor-9b" in text and "mode: server" in text


def test_the_recipe_in_the_card_is_a_recipe():
    text = made()
    block = text.split("```yaml\n")[1].split("\n```")[0]
    recipe = check_recipe(yaml.safe_load(block))
    assert to_yaml(recipe) == to_yaml(load_recipe("grpo_cpu", ["model=aurora/boreal-1b", "benchmarks=popqa"]))


@pytest.mark.parametrize("style", ["direct", "cot"])
def test_the_commands_name_tasks_that_there_are(style):
    text = made(overrides=[f"style={style}", "benchmarks=[nq, popqa]"], manifests={"nq": "a" * 64, "popqa": "b" * 64})
    tasks = "nq_dedup,popqa_dedup" if style == "direct" else "nq_dedup_cot,popqa_dedup_cot"
    assert f"lm_eval --model hf --model_args pretrained=grpo_cpu --tasks {tasks} --apply_chat_template" in text
    assert f"closedbook eval grpo_cpu --tasks {tasks}" in text


@pytest.mark.parametrize(("chat", "theirs", "ours"), [("true", True, "--chat"), ("false", False, "--no-chat")])
def test_the_commands_ask_as_the_training_asked(chat, theirs, ours):
    text = made(overrides=[f"chat={chat}"])
    assert ("--apply_chat_template" in text) == theirs
    assert f"--tasks popqa_dedup {ours}\n" in text


def test_a_folder_with_spaces_is_quoted_in_the_commands():
    text = made(overrides=["output_dir=runs/my first; run"])
    line = next(line for line in text.splitlines() if line.startswith("lm_eval"))
    assert "pretrained=my first; run" in shlex.split(line)


def test_the_card_says_what_the_model_must_not_be_asked():
    text = made()
    assert "3 questions" in text
    assert "d1gest" in text
    assert "--allow-contaminated" in text


def test_the_parents_questions_are_told_apart():
    assert "its parents' included" in made(parent={"base_model": "x/y", "base_digest": "x/y@1"})
    assert "its parents' included" not in made()


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"kind": "openai", "model": "assessor-9b"}, "assessor-9b"),
        ({"kind": "rules"}, "rules"),
        (None, "no judge"),
    ],
)
def test_the_card_says_who_judged(judge, said):
    limits = made(judge=judge).split("## Limits")[1]
    assert said in limits
    assert "docs/judge.md" in limits


@pytest.mark.parametrize(("reward", "rewarded"), [("judge", True), ("exact_match", False)])
def test_the_judges_errors_are_in_the_training_only_where_it_rewarded(reward, rewarded):
    assert ("in what was rewarded" in made(overrides=[f"reward={reward}"])) == rewarded


def outline(text):
    """Headings below the title, and blocks of code, as a Markdown parser sees them."""
    tokens = MarkdownIt().parse(text)
    headings = [(token.tag, after.content) for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert headings[0][0] == "h1"
    return headings[1:], [token.info for token in tokens if token.type == "fence"]


HOSTILE = ["a: b\n---\n# title", "x` | y ```", "---", "'\"{[&*!|>%@", "evil: [", "é\u2028\x85 zażółć", "\x00\x1b[31m"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_break_neither_the_yaml_nor_the_page(name, tmp_path):
    overrides = [f"name={json.dumps(name)}", "output_dir=runs/plain"]
    changes = {"base_model": name, "base_digest": f"{name}@1", "revision": name, "judge": {"kind": "openai", "m": name}}
    text = made(overrides=overrides, **changes, versions={name: name})
    card = read(text, tmp_path)
    assert values(card)["judge_correct"] == 0.25
    assert card.data.model_name == " ".join("".join(c if c.isprintable() else " " for c in name).split())
    assert card.data.base_model is None
    assert outline(card.text) == outline(read(made(overrides=["output_dir=runs/plain"]), tmp_path).text)


@pytest.mark.parametrize("name", benchmarks())
def test_every_benchmark_is_cited(name):
    assert benchmarks()[name].citation.strip() in made(overrides=[f"benchmarks={name}"], manifests={name: "a" * 64})


@pytest.mark.parametrize("method", ["sft", "rft", "dpo"])
def test_every_method_has_a_card(method, tmp_path):
    recipe = load_recipe(f"{method}_cpu")
    text = model_card(recipe, replace(STATED, method=method, manifests={"worldfacts": "a" * 64}), LOG, N)
    assert read(text, tmp_path).data.tags[1] == method
