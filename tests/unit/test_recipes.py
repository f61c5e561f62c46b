"""Recipes: what a file may say, how recipes build on each other, and how a step's batch is shared among devices."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from closedbook.harness.errors import RequestError
from closedbook.harness.judge import JudgeSettings
from closedbook.training.batches import MICRO_BATCH, is_main, resolve, steps_of
from closedbook.training.batches import devices as processes
from closedbook.training.recipes import (
    Recipe,
    changes,
    check_recipe,
    judge_of,
    load_recipe,
    published,
    recipe_names,
    recipes_dir,
    to_yaml,
)

GRPO = {
    "name": "small",
    "method": "grpo",
    "model": "smollm2",
    "benchmarks": "worldfacts",
    "questions": 8,
    "learning_rate": 2.0e-5,
    "epochs": 1,
    "max_new_tokens": 16,
    "beta": 0.0,
}
SHIPPED = recipe_names()


@pytest.fixture
def written(tmp_path):
    """Writes a recipe file from its text; returns its path as text."""

    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def refusal(*arguments, **options):
    """The one line that refuses a recipe."""
    with pytest.raises(RequestError) as caught:
        load_recipe(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refused(**changes):
    """The one line that refuses the small recipe with these fields; None takes a field away."""
    stated = {name: value for name, value in (GRPO | changes).items() if name not in changes or value is not None}
    with pytest.raises(RequestError) as caught:
        check_recipe(stated)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def made(**changes):
    return check_recipe(GRPO | changes)


# the shipped ones


def test_every_promised_recipe_ships():
    twins = {f"{method}_{where}" for method in ("grpo", "sft", "rft", "dpo") for where in ("paper", "cpu", "gpu_small")}
    variants = {f"{name}_{where}" for name in ("dr_grpo", "dapo", "gspo", "rloo") for where in ("paper", "cpu")}
    assert twins | variants == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_valid_and_says_what_it_is(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    text = (recipes_dir() / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    method = name.partition("_")[0]
    assert recipe.method == (method if method in ("sft", "rft", "dpo") else "grpo")


def test_the_paper_recipe_is_the_papers_configuration():
    paper = load_recipe("grpo_paper")
    assert (paper.questions, paper.rollouts, paper.epochs, paper.max_steps) == (128, 5, 8, None)
    assert (paper.learning_rate, paper.beta, paper.epsilon, paper.epsilon_high) == (1e-6, 0.001, 0.2, None)
    assert (paper.temperature, paper.top_p, paper.top_k) == (1.0, 1.0, 0)
    assert (paper.loss_type, paper.advantages, paper.importance, paper.generation_steps) == (
        "grpo", "group_std", "token", 1,
    )  # fmt: skip
    assert (paper.reward, paper.judge.kind, paper.judge.model) == ("judge", "openai", "Qwen/Qwen2.5-72B-Instruct")
    assert (paper.style, paper.vllm.mode, paper.lora) == ("direct", "colocate", None)


def test_the_paper_recipe_states_every_number_of_the_paper_itself():
    text = (recipes_dir() / "grpo_paper.yaml").read_text()
    assert "base:" not in text
    for field in ("questions", "rollouts", "learning_rate", "epochs", "beta", "epsilon", "temperature", "top_p"):
        assert re.search(rf"^{field}: ", text, re.MULTILINE)


def test_the_cpu_recipe_holds_what_was_measured():
    cpu = load_recipe("grpo_cpu")
    assert (cpu.model, cpu.benchmarks) == ("smollm2", ("worldfacts",))
    assert (cpu.questions, cpu.rollouts, cpu.max_new_tokens) == (8, 5, 16)
    assert (cpu.learning_rate, cpu.lr_schedule, cpu.beta) == (2e-5, "constant", 0.0)
    assert (cpu.precision, cpu.gradient_checkpointing, cpu.vllm.mode) == ("mixed", False, "none")
    assert cpu.judge.kind == "rules"


@pytest.mark.parametrize("where", ["paper", "cpu", "gpu_small"])
def test_methods_share_questions_prompts_and_epochs(where):
    recipes = [load_recipe(f"{method}_{where}") for method in ("grpo", "sft", "rft", "dpo")]
    shared = ("model", "benchmarks", "style", "chat", "questions", "epochs", "seed", "subset", "max_prompt_tokens",
              "judge", "validation")  # fmt: skip
    for field in shared:
        assert len({repr(getattr(recipe, field)) for recipe in recipes}) == 1, field


@pytest.mark.parametrize("where", ["paper", "cpu", "gpu_small"])
def test_rft_and_dpo_may_draw_as_many_samples_as_grpo_draws_rollouts(where):
    grpo, rft, dpo = (load_recipe(f"{method}_{where}") for method in ("grpo", "rft", "dpo"))
    assert rft.rollouts == dpo.rollouts == grpo.rollouts * grpo.epochs


@pytest.mark.parametrize("variant", ["dr_grpo", "dapo", "gspo", "rloo"])
def test_a_variant_differs_in_what_makes_it_one_and_in_nothing_else(variant):
    algorithm = {"beta", "epsilon", "epsilon_high", "loss_type", "advantages", "importance", "mask_truncated",
                 "generation_steps"}  # fmt: skip
    for where in ("paper", "cpu"):
        base, changed = (load_recipe(f"{name}_{where}").model_dump() for name in ("grpo", variant))
        differing = {field for field in base if base[field] != changed[field]} - {"name"}
        assert differing
        assert differing <= algorithm


def test_the_variants_are_what_their_papers_say():
    dr_grpo, dapo, gspo, rloo = (load_recipe(f"{name}_paper") for name in ("dr_grpo", "dapo", "gspo", "rloo"))
    assert (dr_grpo.loss_type, dr_grpo.advantages) == ("dr_grpo", "unscaled")
    assert (dapo.loss_type, dapo.epsilon_high, dapo.beta, dapo.mask_truncated) == ("dapo", 0.28, 0.0, True)
    assert (gspo.importance, gspo.epsilon, gspo.epsilon_high, gspo.beta) == ("sequence", 3e-4, 4e-4, 0.0)
    assert (rloo.loss_type, rloo.advantages) == ("rloo", "leave_one_out")


@pytest.mark.parametrize("name", ["dapo_paper", "gspo_paper"])
def test_where_clipping_is_the_point_rollouts_serve_several_steps(name):
    assert load_recipe(name).generation_steps > 1


# files, names and overrides


def test_a_recipe_is_found_by_name_and_by_path(written):
    path = written("base: grpo_cpu\nquestions: 4\n")
    assert load_recipe("grpo_cpu").questions == 8
    assert (load_recipe(path).questions, load_recipe(path).name) == (4, "mine")


def test_a_base_may_be_a_file_beside_the_recipe(written):
    written("base: grpo_cpu\nquestions: 4\n", "lower.yaml")
    assert load_recipe(written("base: lower.yaml\nseed: 7\n")).questions == 4


def test_overrides_win_and_may_be_nested():
    recipe = load_recipe("grpo_cpu", ["max_steps=2", "judge.concurrency=4", "output_dir=some/folder", "lora.rank=4"])
    assert (recipe.max_steps, recipe.judge.concurrency, recipe.lora.rank) == (2, 4, 4)
    assert recipe.folder == Path("some/folder")


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001", "1E-5"])
def test_a_number_may_be_written_as_people_write_it(text):
    assert load_recipe("grpo_cpu", [f"learning_rate={text}"]).learning_rate == 1e-5


def test_off_is_a_word():
    recipe = load_recipe("grpo_cpu", ["judge.cache=off", "judge.constrained=off", "gradient_checkpointing=true"])
    assert (recipe.judge.cache, recipe.judge.constrained, recipe.gradient_checkpointing) == ("off", "off", True)


def test_a_later_override_wins():
    assert load_recipe("grpo_cpu", ["seed=1", "seed=2"]).seed == 2


def test_null_takes_away_what_the_base_has(written):
    path = written("base: grpo_cpu\nlora: {rank: 4}\nmax_steps: 9\n")
    assert load_recipe(path).lora.rank == 4
    assert load_recipe(path, ["lora=null", "max_steps=null"]).lora is None


def test_one_word_stands_for_a_section():
    recipe = load_recipe("grpo_cpu", ["vllm=colocate", "vllm.memory_share=0.5", "judge=rules"])
    assert (recipe.vllm.mode, recipe.vllm.memory_share, recipe.judge.kind) == ("colocate", 0.5, "rules")


def test_one_word_stands_for_a_list():
    recipe = load_recipe("grpo_cpu", ["benchmarks=popqa", "report_to=wandb", "lora.target_modules=q_proj"])
    assert (recipe.benchmarks, recipe.report_to, recipe.lora.target_modules) == (("popqa",), ("wandb",), ("q_proj",))


def test_a_bucket_may_be_named_by_a_number_and_have_a_control():
    subset = load_recipe("grpo_cpu", ["subset={buckets: b.jsonl, bucket: 0, random: true, seed: 3}"]).subset
    assert (subset.bucket, subset.random, subset.seed) == ("0", True, 3)


def test_one_word_replaces_the_section_of_the_base():
    assert load_recipe("grpo_paper", ["judge=rules"]).judge == JudgeSettings(kind="rules")


def test_a_recipe_is_called_like_its_file_unless_it_says_otherwise(written):
    assert load_recipe(written("base: grpo_cpu\n")).name == "mine"
    assert load_recipe(written("base: grpo_cpu\nname: special\n")).name == "special"
    assert load_recipe("grpo_cpu", ["name=special"]).name == "special"


def test_the_folder_is_named_after_the_recipe_unless_stated():
    assert load_recipe("grpo_cpu").folder == Path("runs/grpo_cpu")


def test_a_resolved_recipe_can_be_saved_and_read_again(written):
    for name in SHIPPED:
        recipe = load_recipe(name, ["seed=3"])
        assert load_recipe(written(to_yaml(recipe), "resolved.yaml")) == recipe


def test_a_saved_recipe_lists_what_its_method_reads_and_nothing_else():
    text = to_yaml(load_recipe("sft_cpu"))
    assert "learning_rate: 2.0e-05" in text
    assert not re.search(r"^(rollouts|beta|epsilon|temperature|advantages|reward|vllm):", text, re.MULTILINE)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        setattr(load_recipe("grpo_cpu"), "seed", 3)  # noqa: B010 a type checker would object before the recipe does


# wrong requests


def test_an_unknown_recipe_names_the_nearest_and_all():
    message = refusal("grpo_cpuu")
    assert "did you mean grpo_cpu?" in message
    assert all(name in message for name in SHIPPED)


def test_a_missing_file_is_named():
    assert "nosuch.yaml" in refusal("nosuch.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "just words", "\x00", "seed: 1\nseed: 2\n"])
def test_a_file_that_is_no_mapping_is_refused(written, text):
    assert "mine.yaml" in refusal(written(text))


def test_a_key_that_is_stated_twice_is_named(written):
    assert "seed" in refusal(written("base: grpo_cpu\nseed: 1\nseed: 2\n"))


def test_bases_that_go_round_are_refused(written):
    written("base: two.yaml\n", "one.yaml")
    assert "one.yaml" in refusal(written("base: one.yaml\n", "two.yaml"))


@pytest.mark.parametrize("override", ["seed", "=3", "seed=[", "judge..model=x"])
def test_an_override_is_key_equals_value(override):
    assert override in refusal("grpo_cpu", [override])


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ("learnin_rate=1", "learning_rate"),
        ("learning-rate=1", "learning_rate"),
        ("lr=1", "learning_rate"),
        ("num_generations=8", "rollouts"),
        ("batch_size=8", "questions"),
        ("judge.modle=x", "judge.model"),
        ("validation.evry=3", "validation.every"),
    ],
)
def test_an_unknown_key_is_named_with_the_one_that_was_meant(stated, meant):
    message = refusal("grpo_cpu", [stated])
    assert stated.partition("=")[0] in message
    assert f"did you mean {meant}?" in message


def test_an_unknown_key_like_no_other_gets_the_list():
    message = refusal("grpo_cpu", ["zzzz=1"])
    assert "zzzz" in message
    assert "learning_rate" in message


@pytest.mark.parametrize(
    "override",
    ["questions=many", "questions=true", "questions=8.5", "questions=0", "learning_rate=fast", "learning_rate=-1",
     "learning_rate=.inf", "epochs=null", "method=ppo", "loss_type=bnpo", "chat=maybe", "top_p=0", "top_p=1.5",
     "seed=-1", "subset=half", "judge.concurrency=0", "lora.rank=0", "temperature=0", "model=''", "report_to=paper",
     "precision=int8", "validation.every=0", "style=long"],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_field(override):
    field, _, _ = override.partition("=")
    assert refusal("grpo_cpu", [override]).startswith(f"recipe grpo_cpu: {field}: ")


def test_a_wrong_value_is_shown_beside_what_the_field_is():
    message = refusal("grpo_cpu", ["questions=many"])
    assert "'many'" in message
    assert "Questions an optimiser step" in message


def test_a_word_where_a_section_is_due_gets_the_fields_of_the_section():
    assert "ids, buckets, bucket" in refusal("grpo_cpu", ["subset=half"])


def test_a_missing_field_is_named():
    assert refused(learning_rate=None).startswith("recipe small: learning_rate: ")


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    message = refused(benchmarks=["popqua"])
    assert "did you mean popqa?" in message


@pytest.mark.parametrize("benchmarks", [[], ["popqa", "popqa"]])
def test_benchmarks_are_at_least_one_and_each_once(benchmarks):
    assert refused(benchmarks=benchmarks).startswith("recipe small: benchmarks: ")


def test_a_judges_key_is_refused_and_not_repeated():
    message = refused(judge={"kind": "openai", "model": "m", "api_key": "sk-secret"})
    assert "OPENAI_API_KEY" in message
    assert "sk-secret" not in message


def test_a_password_in_the_judges_address_is_not_repeated():
    assert "hunter2" not in refused(judge={"kind": "openai", "model": "m", "base_url": "http://me:hunter2@host/v1"})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rollouts": 1}, "rollouts"),
        ({"beta": None}, "beta"),
        ({"advantages": "leave_one_out"}, "advantages"),
        ({"loss_type": "rloo"}, "loss_type"),
        ({"loss_type": "rloo", "advantages": "leave_one_out"}, "importance"),
        ({"vllm": {"mode": "server"}}, "vllm.url"),
        ({"vllm": {"mode": "colocate", "url": "http://a"}}, "vllm.url"),
        ({"subset": {}}, "subset"),
        ({"subset": {"ids": "a.txt", "buckets": "b.jsonl", "bucket": "0"}}, "subset"),
        ({"subset": {"buckets": "b.jsonl"}}, "subset.bucket"),
        ({"subset": {"ids": "a.txt", "bucket": "0"}}, "subset.bucket"),
        ({"generation_steps": 4, "save": {"every": 6}}, "save.every"),
        ({"validation": {"every": 6}, "save": {"every": 4}}, "validation.every"),
        ({"examples": 1}, "examples"),
    ],
)
def test_an_impossible_combination_is_refused_with_its_field(changes, field):
    assert refused(**changes).startswith(f"recipe small: {field}: ")


SFT = {"method": "sft", "beta": None}


@pytest.mark.parametrize("field", ["rollouts", "temperature", "advantages", "epsilon", "reward", "vllm"])
def test_a_field_that_the_method_does_not_read_is_refused(field):
    message = refused(**SFT, **{field: GRPO.get(field, 1)})
    assert message.startswith(f"recipe small: {field}: sft ")
    assert "remove" in message


def test_a_variant_with_another_method_leaves_behind_what_that_does_not_read(written):
    assert load_recipe(written("base: grpo_cpu\nmethod: sft\n")).method == "sft"
    assert load_recipe("grpo_cpu", ["method=sft"]).questions == 8


def test_a_variant_with_another_method_states_its_own_beta(written):
    message = refusal(written("base: grpo_paper\nmethod: dpo\n"))
    assert message.startswith("recipe mine: beta: ")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "dpo", "beta": 0.0}, "beta"),
        ({"method": "dpo", "beta": 0.1, "rollouts": 1}, "rollouts"),
        ({"method": "sft", "beta": None, "style": "cot"}, "style"),
    ],
)
def test_each_method_has_its_own_impossible_values(changes, field):
    assert refused(**changes).startswith(f"recipe small: {field}: ")


def test_a_recipe_of_another_method_is_refused_with_the_command_that_fits():
    message = refusal("sft_cpu", method="grpo")
    assert "closedbook train sft" in message
    assert load_recipe("sft_cpu", method="sft").method == "sft"


# the judge


def test_the_judge_is_the_recipes_and_the_environment_adds_where_it_is_silent(monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE", "openai")
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_MODEL", "another")
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_BASE_URL", "http://127.0.0.1:8000/v1")
    settings = judge_of(load_recipe("grpo_paper"))
    assert (settings.model, settings.base_url) == ("Qwen/Qwen2.5-72B-Instruct", "http://127.0.0.1:8000/v1")
    assert judge_of(load_recipe("grpo_cpu")).kind == "rules"


def test_a_judge_without_address_or_key_is_refused():
    with pytest.raises(RequestError, match="OPENAI_API_KEY"):
        judge_of(load_recipe("grpo_paper"))


def test_a_recipe_has_every_setting_of_a_judge_but_the_key():
    for name, field in JudgeSettings.model_fields.items():
        if name not in ("api_key", "kind"):
            assert made(judge={"kind": "rules", name: field.get_default()})


# sharing a step among devices


@pytest.mark.parametrize("devices", [1, 2, 4, 5, 8, 16, 64, 128, 640])
def test_a_step_of_the_paper_is_640_rollouts_on_any_number_of_devices_that_divides_them(devices):
    batch = resolve(load_recipe("grpo_paper"), devices)
    assert batch.micro_batch * batch.accumulation * devices == batch.step == 640


def test_a_stated_micro_batch_is_kept():
    batch = resolve(load_recipe("grpo_paper", ["micro_batch=16"]), 8)
    assert (batch.micro_batch, batch.accumulation) == (16, 5)


def test_methods_without_rollouts_share_examples():
    assert resolve(load_recipe("sft_paper"), 8).step == 128


def test_rollouts_that_serve_several_steps_do_not_change_a_step():
    batch = resolve(load_recipe("gspo_paper"), 8)
    assert (batch.step, batch.generated) == (640, 640 * 4)


def wrong_batch(name, devices, *overrides):
    with pytest.raises(RequestError) as caught:
        resolve(load_recipe(name, overrides), devices)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_devices_that_do_not_divide_a_step_are_refused_with_numbers_that_would():
    message = wrong_batch("grpo_paper", 3)
    assert message.startswith("recipe grpo_paper: devices: ")
    assert "640" in message
    assert "use 2 or 4 devices, or questions=126 or questions=129" in message


def test_a_micro_batch_that_does_not_divide_is_refused_with_numbers_that_would():
    message = wrong_batch("grpo_paper", 8, "micro_batch=7")
    assert message.startswith("recipe grpo_paper: micro_batch: ")
    assert "micro_batch=5 or micro_batch=8" in message


def test_a_micro_batch_above_a_devices_share_is_refused():
    assert "micro_batch=8" in wrong_batch("sft_cpu", 1, "micro_batch=9")


def test_what_a_step_holds_is_said_in_the_methods_words():
    assert "640 rollouts a step (128 questions x 5)" in wrong_batch("grpo_paper", 3)
    assert "128 examples a step" in wrong_batch("sft_paper", 3)
    assert "16 rollouts a step (8 questions x 2)" in wrong_batch("grpo_cpu", 3, "rollouts=2")


def test_the_largest_micro_batch_that_is_not_stated_may_be_reached():
    assert resolve(load_recipe("sft_paper"), 4).micro_batch == MICRO_BATCH


@pytest.mark.parametrize(
    ("changes", "examples", "message"),
    [
        ([], 0, "subset: leaves nothing to train on; widen it, or set subset=null"),
        ([], 5, "questions: 8 are asked at once, and there are 5; use questions=5"),
        (
            ["generation_steps=4", "validation.every=null"],
            9,
            "questions: 32 are asked at once, and there are 9; use questions=2",
        ),
        (
            ["generation_steps=4", "validation.every=null"],
            3,
            "questions: 32 are asked at once, and there are 3; use generation_steps=1",
        ),
    ],
)
def test_too_few_questions_are_refused_with_a_number_that_would_do(changes, examples, message):
    with pytest.raises(RequestError, match=rf"^recipe grpo_cpu: {message}$"):
        steps_of(load_recipe("grpo_cpu", changes), examples)


@pytest.mark.parametrize(
    ("environment", "found"),
    [({}, (1, True)), ({"WORLD_SIZE": "8", "RANK": "3"}, (8, False)), ({"WORLD_SIZE": "8", "RANK": "0"}, (8, True))],
)
def test_the_launcher_says_how_many_processes_there_are_and_which_one_speaks(monkeypatch, environment, found):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (processes(), is_main()) == found


def test_what_goes_with_a_checkpoint_is_the_saved_recipe_without_addresses_and_local_folders():
    stated = [
        "judge={kind: openai, model: smolt, base_url: 'http://gorlim/v1', cache: /home/osric/replies}",
        "vllm={mode: server, url: 'http://tharn'}",
        "subset={buckets: /home/osric/buckets.parquet, bucket: 0}",
        "output_dir=/home/osric/run",
    ]
    recipe = load_recipe("grpo_cpu", stated)
    saved, given = yaml.safe_load(to_yaml(recipe)), published(recipe)
    assert saved["judge"].pop("base_url") == "http://gorlim/v1"
    assert saved["vllm"].pop("url") == "http://tharn"
    assert (saved.pop("output_dir"), saved["judge"].pop("cache")) == ("/home/osric/run", "/home/osric/replies")
    assert saved["subset"].pop("buckets") == "/home/osric/buckets.parquet"
    assert given["subset"].pop("buckets") == "buckets.parquet"
    assert given == saved
    assert published(load_recipe("sft_cpu"))["judge"] == {"kind": "rules"}


def test_a_saved_recipe_has_its_fields_in_their_order_and_only_what_was_stated_of_the_judge():
    recipe = load_recipe("grpo_cpu", ["model=tharné"])
    saved = yaml.safe_load(to_yaml(recipe))
    assert list(saved) == [name for name in Recipe.model_fields if name in saved]
    assert "tharné" in to_yaml(recipe)
    assert "concurrency" not in saved["judge"]


def test_two_samples_are_enough_to_compare():
    assert load_recipe("grpo_cpu", ["rollouts=2"]).rollouts == 2


def test_the_unknown_field_is_named_before_the_wrong_value():
    with pytest.raises(RequestError, match="lerning_rate: no such field; did you mean learning_rate"):
        load_recipe("grpo_cpu", ["seed=-1", "lerning_rate=1"])


def test_a_path_may_end_in_yml_and_hold_an_equals_sign_in_a_value(tmp_path):
    (tmp_path / "mine.yml").write_text("base: grpo_cpu\nname: osric\n")
    assert load_recipe(str(tmp_path / "mine.yml"), ["model=a=b"]).model == "a=b"


@pytest.mark.parametrize("devices", [0, -1])
def test_there_is_at_least_one_device(devices):
    assert "devices" in wrong_batch("grpo_cpu", devices)


def test_every_field_says_what_it_is():
    assert all(field.description for field in Recipe.model_fields.values())


def test_a_recipe_names_every_form_of_advantages_and_rewards_that_there_is():
    from closedbook.training.advantages import Form
    from closedbook.training.rewards import RewardName

    for field, kind in (("advantages", Form), ("reward", RewardName)):
        assert set(get_args(Recipe.model_fields[field].annotation)) == set(get_args(kind))


@pytest.mark.parametrize(
    "text",
    [
        *("max_steps=010", "max_steps=1:30", "seed=4294967296", "questions=1000001"),
        *("name=..", "name=a/b"),
    ],
)
def test_what_looks_like_another_number_or_a_path_is_refused_by_its_field(text):
    with pytest.raises(RequestError, match=rf"recipe .*{text.partition('=')[0]}: "):
        load_recipe("grpo_cpu", [text])


def test_a_path_in_a_recipe_is_relative_to_its_folder_and_on_the_command_line_to_the_current_one(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.yaml").write_text("base: grpo_cpu\nsubset: {ids: ids.txt}\n")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("there/mine.yaml")
    assert recipe.subset is not None
    assert recipe.subset.ids == str(tmp_path / "there" / "ids.txt")
    stated = load_recipe("grpo_cpu", ["subset.ids=ids.txt"]).subset
    assert stated is not None
    assert stated.ids == str(tmp_path / "ids.txt")


def test_a_run_goes_on_when_its_file_of_buckets_was_moved_and_not_with_another_bucket():
    before, moved, other = (
        yaml.safe_load(to_yaml(load_recipe("grpo_cpu", [f"subset={{buckets: {file}, bucket: {bucket}}}"])))
        for file, bucket in (("/a/buckets.parquet", 0), ("/b/buckets.parquet", 0), ("/a/buckets.parquet", 1))
    )
    assert changes(before, moved) == []
    assert changes(before, other) == ["subset.bucket: 0, now 1"]
