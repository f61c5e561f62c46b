"""What a run would take, told before it starts: steps, samples, tokens, judge calls, money, memory, files."""

import json
from pathlib import Path

import pytest

from closedbook.harness.errors import RequestError
from closedbook.harness.small_model import MODELS
from closedbook.training.plan import ModelSize, model_size, plan
from closedbook.training.recipes import load_recipe, recipe_names

JUDGED = ["judge={kind: openai, model: m, base_url: 'http://127.0.0.1:1/v1', price_in: 1.0, price_out: 2.0}"]


def planned(name, *overrides, questions=300, devices=1, **options):
    return plan(load_recipe(name, overrides), questions, devices, **options)


# steps and samples


def test_the_paper_takes_eight_epochs_of_640_rollouts_a_step():
    paper = planned("grpo_paper", questions=10_000, devices=8)
    assert (paper.steps, paper.rollouts) == (8 * 78, 8 * 78 * 640)


def test_each_question_of_the_paper_gets_40_rollouts_in_all():
    assert planned("grpo_paper", questions=9_984, devices=8).rollouts == 9_984 * 40


def test_the_cpu_recipe_takes_37_steps():
    cpu = planned("grpo_cpu")
    assert (cpu.steps, cpu.rollouts) == (37, 37 * 40)


def test_max_steps_caps_steps_and_rollouts():
    capped = planned("grpo_cpu", "max_steps=2")
    assert (capped.steps, capped.rollouts) == (2, 80)


def test_a_round_of_rollouts_is_drawn_whole_even_if_the_last_steps_need_less():
    assert planned("gspo_cpu", "max_steps=5").rollouts == 2 * 4 * 40


@pytest.mark.parametrize("name", ["rft_cpu", "dpo_cpu"])
def test_max_steps_also_caps_the_sampling_before_training(name):
    assert planned(name).rollouts == 300 * 5
    assert planned(name, "max_steps=2").rollouts == 2 * 8 * 5
    assert planned(name, "max_steps=1000").rollouts == 300 * 5


def test_sft_draws_nothing():
    sft = planned("sft_cpu")
    assert (sft.rollouts, sft.tokens_sampled, sft.steps) == (0, 0, 38)


def test_the_steps_of_rft_are_at_most_those_of_every_sample_being_kept():
    assert planned("rft_cpu").steps == -(-300 * 5 // 8)
    assert planned("rft_cpu", "examples=1").steps == -(-300 // 8)
    assert planned("rft_cpu", "examples=99").steps == -(-300 * 5 // 8)


def test_a_question_makes_at_most_as_many_pairs_as_it_has_right_times_wrong_samples():
    assert planned("dpo_cpu").steps == -(-300 // 8)
    assert planned("dpo_cpu", "examples=null").steps == -(-300 * 2 * 3 // 8)


def test_only_what_depends_on_the_samples_is_a_bound():
    bounds = {name: planned(name).steps_at_most for name in ("grpo_cpu", "sft_cpu", "rft_cpu", "dpo_cpu")}
    assert bounds == {"grpo_cpu": False, "sft_cpu": False, "rft_cpu": True, "dpo_cpu": True}


def test_tokens_are_bounded_by_the_longest_prompt_and_answer():
    cpu = planned("grpo_cpu")
    assert cpu.tokens_sampled == cpu.tokens_trained == 37 * 40 * (256 + 16)
    short = planned("grpo_cpu", prompt_tokens=50)
    assert short.tokens_sampled == short.tokens_trained == 37 * 40 * (50 + 16)


def test_texts_are_as_many_however_long_they_are():
    assert planned("grpo_cpu").texts_trained == planned("grpo_cpu", prompt_tokens=50).texts_trained == 37 * 40
    assert planned("dpo_cpu").texts_trained == 300 * 2


def test_a_pair_is_two_answers_and_an_example_one():
    assert planned("sft_cpu").tokens_trained == 300 * 272
    assert planned("dpo_cpu").tokens_trained == 300 * 2 * 272
    assert planned("sft_cpu", "max_steps=2").tokens_trained == 16 * 272


@pytest.mark.parametrize(("questions", "devices"), [(0, 1), (5, 1), (300, 3)])
def test_what_cannot_be_run_is_refused_by_the_plan_too(questions, devices):
    with pytest.raises(RequestError):
        planned("grpo_cpu", questions=questions, devices=devices)


# the judge


@pytest.mark.parametrize("name", ["grpo_cpu", "sft_cpu", "rft_cpu", "dpo_cpu"])
def test_rules_need_no_calls(name):
    by_rules = planned(name, validation_questions=36)
    assert (by_rules.judge_calls, by_rules.dollars) == (0, 0.0)


def test_a_model_is_asked_at_most_once_a_rollout_and_once_to_try_it():
    assert planned("grpo_cpu", *JUDGED).judge_calls == 37 * 40 + 1


def test_validation_is_judged_whatever_the_reward_is():
    # after steps 12, 24 and 36, and at the end
    asked = 4 * 36 + 1
    assert planned("grpo_cpu", *JUDGED, "reward=exact_match", validation_questions=36).judge_calls == asked
    assert planned("sft_cpu", *JUDGED, validation_questions=36).judge_calls == asked
    assert planned("grpo_cpu", *JUDGED, validation_questions=36).judge_calls == asked + 37 * 40


def test_validation_asks_no_more_than_its_limit():
    few = planned("sft_cpu", *JUDGED, "validation.limit=10", validation_questions=36)
    assert few.judge_calls == 4 * 10 + 1


def test_a_last_step_with_a_validation_has_only_one():
    once = planned("sft_cpu", *JUDGED, "max_steps=12", validation_questions=36)
    assert once.judge_calls == 36 + 1


def test_cost_is_told_where_prices_are_and_only_there():
    assert planned("grpo_cpu", *JUDGED, "judge.price_in=0", "judge.price_out=0").dollars is None
    cheap, dear = planned("grpo_cpu", *JUDGED), planned("grpo_cpu", *JUDGED, "judge.price_in=10", "judge.price_out=20")
    assert dear.dollars == pytest.approx(10 * cheap.dollars)
    assert 0.05 < cheap.dollars < 5.0


# memory

TINY = ModelSize(parameters=1_000_000, layers=10, hidden=64, kv_width=32, intermediate=128)


def memory(name, *overrides, devices=1):
    return planned(name, *overrides, questions=1000, devices=devices, size=TINY).memory


def test_adam_in_float32_takes_sixteen_bytes_a_parameter_and_two_for_the_copies_it_computes_with():
    mixed = memory("grpo_cpu")
    assert (mixed.weights, mixed.gradients, mixed.optimizer) == (6_000_000, 4_000_000, 8_000_000)
    assert memory("grpo_cpu", "precision=float32").weights == 4_000_000
    pure = memory("grpo_cpu", "precision=bfloat16")
    assert (pure.weights, pure.gradients, pure.optimizer) == (2_000_000, 2_000_000, 4_000_000)


def test_a_reference_model_is_held_where_there_is_a_kl_term_and_for_dpo():
    assert memory("grpo_cpu").reference == 0
    assert memory("grpo_cpu", "beta=0.1").reference == memory("dpo_cpu").reference == 4_000_000
    assert memory("sft_cpu").reference == 0


def test_adapters_leave_no_gradients_for_the_weights_and_are_their_own_reference():
    lora = memory("grpo_cpu", "lora.rank=4", "beta=0.1")
    assert lora.reference == 0
    assert lora.weights == memory("grpo_cpu").weights
    assert 0 < lora.optimizer < memory("grpo_cpu").optimizer / 10


def test_more_at_once_takes_more_and_checkpointing_takes_less():
    small, large = memory("sft_cpu", "micro_batch=1"), memory("sft_cpu", "micro_batch=8")
    assert large.working == 8 * small.working
    assert memory("sft_cpu", "gradient_checkpointing=true").working < memory("sft_cpu").working / 2


def test_rollouts_are_drawn_all_at_once_so_their_cache_counts():
    few, many = memory("grpo_cpu", "micro_batch=1"), memory("grpo_cpu", "micro_batch=1", "questions=800")
    assert many.working > few.working
    assert memory("grpo_cpu", "micro_batch=1", "questions=160", devices=100).working <= few.working


def test_a_server_draws_its_rollouts_elsewhere():
    at_home = memory("grpo_cpu", "micro_batch=1", "questions=800")
    assert memory("grpo_cpu", "micro_batch=1", "questions=800", "vllm={mode: server, url: 'http://a'}").working < (
        at_home.working
    )


def test_the_total_is_the_sum():
    parts = memory("grpo_cpu", "beta=0.1")
    assert parts.total == parts.weights + parts.gradients + parts.optimizer + parts.reference + parts.working


def test_a_model_of_unknown_size_has_no_estimate():
    unknown = planned("grpo_cpu", "model=some/unknown")
    assert unknown.memory is None
    assert any("memory" in line and "unknown" in line for line in unknown.describe())


# the size of a model


def test_packaged_models_are_known_before_they_are_there():
    assert model_size("smollm2").parameters == 134_515_008
    sizes = {name: model_size(name) for name in MODELS}
    assert all(size.parameters > 1e8 and size.layers for size in sizes.values())
    assert len({size.parameters for size in sizes.values()}) == len(MODELS)


def test_a_folder_tells_its_size(tmp_path):
    config = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49152,
              "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    read, known = model_size(str(tmp_path)), model_size("smollm2")
    assert abs(read.parameters / known.parameters - 1) < 0.001
    assert (read.layers, read.hidden, read.kv_width) == (known.layers, known.hidden, known.kv_width) == (30, 576, 192)


def test_a_7b_model_has_its_parameters(tmp_path):
    config = {"hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944, "vocab_size": 152064,
              "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert abs(model_size(str(tmp_path)).parameters / 7_615_616_512 - 1) < 0.001


@pytest.mark.parametrize("text", ["{}", "no json", "[]", '{"hidden_size": "wide"}'])
def test_a_config_that_says_too_little_gives_no_size(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert model_size(str(tmp_path)) is None


@pytest.mark.parametrize(("name", "parameters"), [("Qwen/Qwen2.5-7B-Instruct", 7e9), ("a/b-0.5B", 5e8), ("a/b", None)])
def test_a_model_on_the_hub_that_is_not_here_is_sized_by_its_name(name, parameters):
    size = model_size(name)
    assert size is None if parameters is None else size.parameters == parameters


def test_a_model_in_the_hubs_cache_is_sized_by_its_config(tmp_path, monkeypatch):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                                  "intermediate_size": 16, "vocab_size": 10}))  # fmt: skip
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda model, name: str(config))
    assert model_size("a/b-7B").layers == 2


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "a/b/c"])
def test_a_folder_that_is_not_there_has_no_size(name):
    assert model_size(name) is None


def test_a_size_by_name_says_that_the_working_memory_is_missing():
    paper = planned("grpo_paper", questions=10_000, devices=8)
    assert paper.memory.working is None
    assert any("by its name, without activations" in line for line in paper.describe())


# files


def written(name, *overrides):
    return [output.path for output in planned(name, *overrides).outputs]


def test_everything_is_written_below_the_folder_of_the_run():
    for name in ("grpo_cpu", "sft_cpu", "rft_cpu", "dpo_cpu"):
        paths = written(name, "output_dir=here")
        assert all(path.is_relative_to("here") for path in paths)
        assert Path("here/recipe.yaml") in paths


def test_only_methods_that_sample_before_training_keep_samples():
    kept = {name for name in ("grpo_cpu", "sft_cpu", "rft_cpu", "dpo_cpu")
            if any(path.name == "samples" for path in written(name))}  # fmt: skip
    assert kept == {"rft_cpu", "dpo_cpu"}


def test_a_judges_replies_are_kept_in_its_cache(tmp_path):
    cache = tmp_path / "replies.sqlite"
    assert cache in written("grpo_cpu", *JUDGED, f"judge.cache={cache}")
    assert not [path for path in written("grpo_cpu", *JUDGED, "judge.cache=off") if path.suffix == ".sqlite"]


# for people


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_has_a_plan_that_can_be_read(name):
    lines = planned(name, questions=9_500, devices=1, validation_questions=500).describe()
    text = "\n".join(lines)
    for word in (name, "steps", "tokens", "judge", "memory", "recipe.yaml"):
        assert word in text
    assert not any("\n" in line or len(line) > 200 for line in lines)
    assert "None" not in text


def test_the_plan_names_the_numbers():
    text = "\n".join(planned("grpo_cpu", *JUDGED).describe())
    for number in ("37 optimiser steps", "1,480 rollouts", "1,481 calls", "$"):
        assert number in text


def test_a_plan_becomes_json_without_the_judges_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    text = json.dumps(planned("grpo_cpu", *JUDGED).as_dict(), allow_nan=False)
    read = json.loads(text)
    assert (read["steps"], read["batch"]["step"], read["recipe"]["questions"]) == (37, 40, 8)
    assert read["memory"]["total"] > 1e9
    assert "sk-secret" not in text
    assert "api_key" not in text


def test_checkpoints_say_how_large_they_are():
    (line,) = (line for line in planned("grpo_cpu").describe() if "checkpoint-N" in line)
    assert "about 1.6 GB" in line  # weights and two averages of each, in float32
