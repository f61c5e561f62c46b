"""From a recipe to TRL: keyword arguments for its configuration classes, and nothing else.

Whatever changes the mathematics is stated here although TRL may have it as its default, because defaults change from
release to release. Where TRL 1.16 differs from the paper: its loss is dapo's, it has no KL term, it draws 8 rollouts,
its learning rate falls to 0, and it multiplies the KL term with the probability ratio (`use_bias_correction_kl`, of
DeepSeek-V3.2), which GRPO (arXiv 2402.03300) does not. What surprises: TRL's own evaluation stays off, since it would
score sampled answers; validation asks greedily and is ours.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from closedbook.training.batches import Batch
from closedbook.training.recipe_fields import Recipe

if TYPE_CHECKING:
    from transformers import TrainingArguments

PATIENCE = 7 * 24 * 3600  # seconds for which processes wait for each other: for samples that the first one draws
SERVER_STARTS = 1800  # seconds for which training waits for a vLLM server that is started beside it
NEWER = {"gradient_checkpointing": "activation_checkpointing"}  # newer than the transformers that vLLM works with
SCALE = {"group_std": "group", "batch_std": "batch", "unscaled": "none"}


def trl_name(recipe: Recipe) -> Literal["GRPO", "RLOO", "SFT", "DPO"]:
    """What TRL calls the method: `GRPO` for GRPOConfig and GRPOTrainer. RFT is SFT on samples of one's own."""
    if recipe.method == "grpo":
        return "RLOO" if recipe.loss_type == "rloo" else "GRPO"
    return "DPO" if recipe.method == "dpo" else "SFT"


def trl_arguments(recipe: Recipe, batch: Batch, steps: int, *, cpu: bool = False) -> dict[str, Any]:
    """Keyword arguments of the configuration class that `trl_name` names.

    Args:
        recipe: Any.
        batch: How a step is shared, as `resolve` gives it.
        steps: Optimiser steps, as `steps_of` gives it; TRL is given the number, so that it counts as we do.
        cpu: Train on the CPU, although there may be a GPU.
    """
    special = {"GRPO": _grpo, "RLOO": _rloo, "SFT": _sft, "DPO": _dpo}[trl_name(recipe)]
    return _common(recipe, batch, steps, cpu) | special(recipe, batch)


def trl_config(recipe: Recipe, batch: Batch, steps: int, *, cpu: bool = False) -> TrainingArguments:
    """TRL's configuration object, GRPOConfig, RLOOConfig, SFTConfig or DPOConfig; arguments as for `trl_arguments`."""
    import trl

    kind = getattr(trl, f"{trl_name(recipe)}Config")
    known = {field.name for field in fields(kind)}
    made: TrainingArguments = kind(**renamed(trl_arguments(recipe, batch, steps, cpu=cpu), known))
    return made


def renamed(arguments: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    """Arguments under the newer names of transformers, as far as those are known, where the older ones warn."""
    return {NEWER[name] if NEWER.get(name) in known else name: value for name, value in arguments.items()}


def model_arguments(recipe: Recipe) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`."""
    dtype = "bfloat16" if recipe.precision == "bfloat16" else "float32"
    return {"dtype": dtype, "trust_remote_code": recipe.trust_remote_code}


def lora_arguments(recipe: Recipe) -> dict[str, Any] | None:
    """Keyword arguments of PEFT's LoraConfig; None where all weights are trained."""
    if recipe.lora is None:
        return None
    modules = list(recipe.lora.target_modules)
    return {
        "r": recipe.lora.rank,
        "lora_alpha": recipe.lora.alpha,
        "lora_dropout": recipe.lora.dropout,
        "target_modules": "all-linear" if modules == ["all-linear"] else modules,
        "task_type": "CAUSAL_LM",
    }


def _common(recipe: Recipe, batch: Batch, steps: int, cpu: bool) -> dict[str, Any]:
    """What transformers' TrainingArguments takes."""
    return {
        "output_dir": str(recipe.folder),
        "max_steps": steps,
        "num_train_epochs": recipe.epochs,  # max_steps decides; kept for the record
        "per_device_train_batch_size": batch.micro_batch,
        "gradient_accumulation_steps": batch.accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_schedule,
        "warmup_steps": recipe.warmup_steps,
        "optim": "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": recipe.precision == "mixed",  # autocast; pure bfloat16 is the weights' own type
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "seed": recipe.seed,
        "trust_remote_code": recipe.trust_remote_code,
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": recipe.save.every,
        "save_total_limit": None,  # older checkpoints are removed by us, once a new one is whole
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen
        "report_to": list(recipe.report_to) or "none",
        "use_cpu": cpu,
        "dataloader_pin_memory": not cpu,
        "ddp_timeout": PATIENCE,
    }


def _rollouts(recipe: Recipe, batch: Batch) -> dict[str, Any]:
    """What GRPO and RLOO have in common: sampling, clipping, and who draws the samples."""
    arguments: dict[str, Any] = {
        "num_generations": recipe.rollouts,
        "steps_per_generation": batch.accumulation * batch.generation_steps,
        "num_iterations": 1,
        "max_completion_length": recipe.max_new_tokens,
        "temperature": recipe.temperature,
        "top_p": recipe.top_p,
        "top_k": recipe.top_k,
        "min_p": None,
        "repetition_penalty": 1.0,
        "beta": recipe.beta,
        "epsilon": recipe.epsilon,
        "epsilon_high": recipe.epsilon_high,
        "mask_truncated_completions": recipe.mask_truncated,
        "shuffle_dataset": True,
        "remove_unused_columns": False,  # rewards read the question's id and gold answers
        "use_vllm": recipe.vllm.mode != "none",
    }
    if recipe.vllm.mode == "colocate":
        arguments |= {
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": recipe.vllm.memory_share,
            "vllm_max_model_length": recipe.max_prompt_tokens + recipe.max_new_tokens,
        }
    elif recipe.vllm.mode == "server":
        arguments |= {
            "vllm_mode": "server",
            "vllm_server_base_url": recipe.vllm.url,
            "vllm_server_timeout": SERVER_STARTS,
        }
    return arguments


def _grpo(recipe: Recipe, batch: Batch) -> dict[str, Any]:
    return _rollouts(recipe, batch) | {
        "loss_type": recipe.loss_type,
        "scale_rewards": SCALE[recipe.advantages],
        "importance_sampling_level": recipe.importance,
        "use_bias_correction_kl": False,
        # vLLM's probabilities differ a little from the trainer's; of effect with vLLM only
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "sequence_mask",
        "vllm_importance_sampling_clip_max": 3.0,
    }


def _rloo(recipe: Recipe, batch: Batch) -> dict[str, Any]:
    """RLOO's KL term is part of the reward, and its ratio is that of whole answers; neither can be set."""
    return _rollouts(recipe, batch) | {"normalize_advantages": False, "reward_clip_range": None}


def _sft(recipe: Recipe, batch: Batch) -> dict[str, Any]:
    return {
        "max_length": None,  # nothing is cut: the prompts are checked, and answers are short
        "completion_only_loss": True,
        "packing": False,
        "loss_type": "nll",
    }


def _dpo(recipe: Recipe, batch: Batch) -> dict[str, Any]:
    return {
        "beta": recipe.beta,
        "loss_type": ["sigmoid"],
        "label_smoothing": 0.0,
        "max_length": None,
    }
