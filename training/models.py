"""The model of a run: loaded from a folder or the hub, and written as a folder that lm-eval scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from closedbook.harness.errors import RequestError, Unfinished, one_line
from closedbook.harness.provenance import PROVENANCE_FILE
from closedbook.harness.small_model import model_path
from closedbook.training.recipe_fields import Recipe
from closedbook.training.trl_config import lora_arguments, model_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a model folder is made of. A checkpoint holds more, to go on from: FSDP and ZeRO-3 add the model once again.
OF_A_MODEL = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py")
OF_A_RUN = ("trainer_state.json", PROVENANCE_FILE, "zero_to_fp32.py")


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

    Raises:
        Unfinished: It cannot be written.
    """
    from safetensors import SafetensorError

    try:
        if recipe.lora is None:
            for file in sorted(checkpoint.iterdir()):
                if any(map(file.match, OF_A_MODEL)) and file.name not in OF_A_RUN:
                    shutil.copy2(file, folder / file.name)
        else:
            from peft import PeftModel
            from transformers import AutoTokenizer

            model, _ = load_model(recipe)
            PeftModel.from_pretrained(model, checkpoint).merge_and_unload().save_pretrained(folder)
            AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise Unfinished(f"cannot write the model to {folder}: {one_line(error)}; free space") from error
