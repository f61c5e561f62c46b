"""What of a recipe reaches TRL: every shipped recipe goes through TRL's own configuration classes."""

import pytest

from closedbook.harness.errors import RequestError
from closedbook.training.batches import resolve, steps_of
from closedbook.training.recipes import load_recipe, recipe_names
from closedbook.training.trl_config import (
    SERVER_STARTS,
    lora_arguments,
    model_arguments,
    renamed,
    trl_arguments,
    trl_config,
)

TRAIN = 9_500  # questions


def config(name, *overrides):
    """TRL's own configuration object, made on the CPU."""
    recipe = load_recipe(name, overrides)
    return trl_config(recipe, resolve(recipe, 1), steps_of(recipe, TRAIN), cpu=True)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_makes_a_configuration_of_trl(name, tmp_path):
    recipe = load_recipe(name)
    made = config(name, f"output_dir={tmp_path}")
    each = recipe.rollouts if recipe.method == "grpo" else 1
    step = made.per_device_train_batch_size * made.gradient_accumulation_steps * made.world_size
    assert step == recipe.questions * each
    assert made.learning_rate == recipe.learning_rate
    assert made.max_steps == steps_of(recipe, TRAIN)
    assert made.lr_scheduler_type == recipe.lr_schedule
    assert (made.bf16, made.gradient_checkpointing) == (True, recipe.gradient_checkpointing)
    assert made.output_dir == str(tmp_path)
    assert made.seed == recipe.seed
    assert made.report_to in ([], "none")


def test_the_papers_numbers_arrive():
    paper = config("grpo_paper")
    assert (paper.num_generations, paper.generation_batch_size, paper.learning_rate) == (5, 640, 1e-6)
    assert (paper.beta, paper.epsilon, paper.epsilon_high, paper.loss_type) == (0.001, 0.2, None, "grpo")
    assert (paper.temperature, paper.top_p, paper.top_k, paper.min_p) == (1.0, 1.0, 0, None)
    assert (paper.scale_rewards, paper.importance_sampling_level, paper.num_iterations) == ("group", "token", 1)
    assert (paper.repetition_penalty, paper.max_completion_length) == (1.0, 64)
    assert paper.steps_per_generation == paper.gradient_accumulation_steps
    assert (paper.use_vllm, paper.vllm_mode, paper.num_train_epochs) == (True, "colocate", 8)


def test_the_kl_term_is_grpos_own_and_not_trls_default():
    assert config("grpo_paper").use_bias_correction_kl is False


def test_a_step_of_the_paper_is_640_rollouts_on_eight_devices_too():
    recipe = load_recipe("grpo_paper")
    arguments = trl_arguments(recipe, resolve(recipe, 8), 1)
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * 8 == 640


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dr_grpo_paper", {"loss_type": "dr_grpo", "scale_rewards": "none"}),
        ("dapo_paper", {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0, "mask_truncated_completions": True}),
        ("gspo_paper", {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}),
        ("rloo_paper", {"beta": 0.001, "num_generations": 5, "normalize_advantages": False, "epsilon": 0.2}),
        ("dpo_paper", {"beta": 0.1, "loss_type": ["sigmoid"], "max_length": None}),
        ("sft_paper", {"completion_only_loss": True, "packing": False, "loss_type": "nll", "max_length": None}),
        ("rft_paper", {"completion_only_loss": True, "packing": False, "num_train_epochs": 8}),
    ],
)
def test_what_makes_a_variant_arrives(name, fields):
    made = config(name)
    assert {field: getattr(made, field) for field in fields} == fields


def test_rollouts_that_serve_several_steps_are_drawn_at_once():
    made = config("gspo_paper")
    assert made.generation_batch_size == 4 * 640
    assert made.steps_per_generation == 4 * made.gradient_accumulation_steps


def test_precision_is_the_weights_and_the_computing():
    kinds = {}
    for precision in ("float32", "mixed", "bfloat16"):
        recipe = load_recipe("grpo_cpu", [f"precision={precision}"])
        kinds[precision] = (model_arguments(recipe)["dtype"], config("grpo_cpu", f"precision={precision}").bf16)
    assert kinds == {"float32": ("float32", False), "mixed": ("float32", True), "bfloat16": ("bfloat16", False)}


def test_an_older_transformers_gets_the_older_name():
    assert renamed({"gradient_checkpointing": True, "seed": 1}, {"seed"}) == {"gradient_checkpointing": True, "seed": 1}
    assert renamed({"gradient_checkpointing": True}, {"activation_checkpointing"}) == {"activation_checkpointing": True}


def test_code_of_a_model_runs_only_if_asked_for():
    assert config("grpo_cpu").trust_remote_code is False
    assert model_arguments(load_recipe("sft_cpu"))["trust_remote_code"] is False
    assert config("grpo_cpu", "trust_remote_code=true").trust_remote_code is True


def test_a_server_is_named_to_trl():
    made = config("grpo_cpu", "vllm={mode: server, url: 'http://node1:8000'}")
    assert (made.use_vllm, made.vllm_mode, made.vllm_server_base_url) == (True, "server", "http://node1:8000")
    assert made.vllm_server_timeout == SERVER_STARTS  # TRL's 240 seconds are less than a large model takes to load


def test_the_optimizer_is_stated_and_not_left_to_trl():
    stated = trl_arguments(load_recipe("grpo_cpu"), resolve(load_recipe("grpo_cpu"), 1), 1)
    betas = stated["adam_beta1"], stated["adam_beta2"], stated["adam_epsilon"]
    assert betas == (0.9, 0.999, 1e-8)
    assert (stated["weight_decay"], stated["max_grad_norm"]) == (0.0, 1.0)
    assert stated["logging_nan_inf_filter"] is False
    assert stated["ddp_timeout"] > 24 * 3600
    dpo = trl_arguments(load_recipe("dpo_cpu"), resolve(load_recipe("dpo_cpu"), 1), 1)
    assert (dpo["loss_type"], dpo["label_smoothing"], dpo["beta"]) == (["sigmoid"], 0.0, 0.1)


def test_sampling_and_warm_up_arrive_as_they_are_stated():
    made = config("grpo_cpu", "temperature=0.7", "top_p=0.9", "top_k=7", "warmup_steps=3", "vllm=colocate",
                  "vllm.memory_share=0.2", "max_prompt_tokens=100", "max_new_tokens=20")  # fmt: skip
    assert (made.temperature, made.top_p, made.top_k, made.warmup_steps) == (0.7, 0.9, 7, 3)
    assert (made.vllm_gpu_memory_utilization, made.vllm_max_model_length) == (0.2, 120)


def test_what_is_done_about_vllms_other_probabilities_is_stated_and_not_left_to_trl():
    paper = trl_arguments(load_recipe("grpo_paper"), resolve(load_recipe("grpo_paper"), 8), 1)
    assert paper["vllm_importance_sampling_correction"] is True
    assert (paper["vllm_importance_sampling_mode"], paper["vllm_importance_sampling_clip_max"]) == ("sequence_mask", 3)


def test_report_to_reaches_trl():
    recipe = load_recipe("sft_cpu", ["report_to=tensorboard"])
    assert trl_arguments(recipe, resolve(recipe, 1), 1)["report_to"] == ["tensorboard"]


def test_every_tool_that_a_recipe_may_report_to_is_known_to_transformers():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    tools = ["clearml", "comet_ml", "mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb"]
    assert load_recipe("sft_cpu", [f"report_to={tools}"]).report_to == tuple(tools)
    assert set(tools) <= set(INTEGRATION_TO_CALLBACK)


def test_lora_reaches_peft():
    from peft import LoraConfig

    assert lora_arguments(load_recipe("grpo_cpu")) is None
    made = LoraConfig(**lora_arguments(load_recipe("grpo_cpu", ["lora={rank: 4, alpha: 8}"])))
    assert (made.r, made.lora_alpha, made.target_modules, made.task_type) == (4, 8, "all-linear", "CAUSAL_LM")
    named = lora_arguments(load_recipe("grpo_cpu", ["lora.target_modules=[q_proj, v_proj]"]))
    assert named["target_modules"] == ["q_proj", "v_proj"]


# steps


def sampler_length(questions, batch_size, repeats):
    from trl.trainer.utils import RepeatSampler

    return len(RepeatSampler(range(questions), mini_repeat_count=5, batch_size=batch_size, repeat_count=repeats))


@pytest.mark.parametrize("questions", [32, 33, 63, 300])
@pytest.mark.parametrize("overrides", [[], ["generation_steps=2"], ["generation_steps=4", "micro_batch=5"]])
def test_the_steps_of_grpo_are_those_of_trls_own_sampler(questions, overrides):
    recipe = load_recipe("grpo_cpu", ["epochs=3", *overrides])
    made = config("grpo_cpu", *overrides)
    sequences = sampler_length(questions, made.generation_batch_size // 5, made.steps_per_generation)
    # TRL's loader hands over steps_per_generation micro-batches at once
    micro_batches = sequences // (made.per_device_train_batch_size * made.steps_per_generation)
    assert steps_of(recipe, questions) == 3 * micro_batches // made.gradient_accumulation_steps


@pytest.mark.parametrize(("examples", "steps"), [(1, 1), (8, 1), (9, 2), (300, 38)])
def test_an_epoch_of_examples_ends_with_what_is_left(examples, steps):
    assert steps_of(load_recipe("sft_cpu"), examples) == steps
    assert steps_of(load_recipe("sft_cpu", ["epochs=3"]), examples) == 3 * steps


def test_max_steps_is_a_cap_and_never_more_epochs():
    assert steps_of(load_recipe("grpo_cpu", ["max_steps=2"]), 300) == 2
    assert steps_of(load_recipe("grpo_cpu", ["max_steps=1000"]), 300) == 37
    assert steps_of(load_recipe("sft_cpu", ["max_steps=1000"]), 300) == 38


def wrong(name, questions, *overrides):
    with pytest.raises(RequestError) as caught:
        steps_of(load_recipe(name, overrides), questions)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["grpo_cpu", "sft_cpu"])
def test_nothing_to_train_on_is_refused(name):
    assert wrong(name, 0).startswith(f"recipe {name}: subset: ")


def test_fewer_questions_than_a_step_are_refused_with_a_number_that_works():
    assert "questions=7" in wrong("grpo_cpu", 7)
    assert "questions=5" in wrong("gspo_cpu", 20)
    assert steps_of(load_recipe("gspo_cpu", ["questions=5"]), 20) == 4
    assert "generation_steps=1" in wrong("gspo_cpu", 3)
