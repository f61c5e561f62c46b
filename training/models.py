"""The model of a run: loaded from a folder or the hub, and written as a folder that lm-eval scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from closedbook.harness.errors import RequestError, Unfinished, one_line
from closedbook.harness.small_model import model_path
from closedbook.training.recipe_fields import Recipe
from closedbook.training.trl_config import lora_arguments, model_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer.

    Raises:
        RequestError: One of them cannot be read, or the tokenizer has no token that ends or pads a text.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, where = model_path(recipe.model), f"recipe {recipe.name}: model"
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=recipe.trust_remote_code, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(path, **model_arguments(recipe))
    except Exception as error:  # each class fails in its own way when files are missing or broken
        raise RequestError(f"{where}: cannot load {path}: {one_line(error)}; name a model folder or hub id") from error
    if tokenizer.eos_token is None:
        raise RequestError(f"{where}: the tokenizer of {path} has no token that ends a text; set its eos_token")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def adapters(recipe: Recipe) -> dict[str, Any]:
    """Low-rank adapters as an argument of TRL's trainers; none where all weights are trained."""
    arguments = lora_arguments(recipe)
    if arguments is None:
        return {}
    from peft import LoraConfig

    return {"peft_config": LoraConfig(**arguments)}


def write_model(recipe: Recipe, checkpoint: Path, folder: Path) -> None:
    """Write the model of a checkpoint, with its tokenizer, to a folder; adapters are merged into it.

    With mixed precision it is written in bfloat16, in which the policy drew its rollouts and was validated: whoever
    loads the folder as it is then asks the policy that was trained. The checkpoint keeps the weights in float32.

    Raises:
        Unfinished: It cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any
    try:
        if recipe.lora is None:
            model = AutoModelForCausalLM.from_pretrained(checkpoint, **model_arguments(recipe))
        else:
            from peft import PeftModel

            model = PeftModel.from_pretrained(load_model(recipe)[0], checkpoint).merge_and_unload()
        if recipe.precision == "mixed":
            model = model.to(torch.bfloat16)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=recipe.trust_remote_code).save_pretrained(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise Unfinished(f"cannot write the model to {folder}: {one_line(error)}; free space") from error
