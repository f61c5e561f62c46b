"""Models of a few thousand random weights, for what has to run a real trainer and not a real model."""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = ["<pad>", "<eos>", "<unk>", "who", "wrote", "hamlet", "Shakespeare", "Marlowe", "Kyd", "Bacon"]
CHAT = "{% for message in messages %}{{ message.content }} {% endfor %}"


# the policy's, so that some of its answers to worldfacts are right
PLACES = ["<pad>", "<eos>", "<unk>", "Africa", "Asia", "Europe", "Oceania", "Euro", "Dollar", "Franc"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that says ten words at random, with its tokenizer and a chat template."""
    return tiny(tmp_path_factory.mktemp("tiny-model"), WORDS, 64)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other words, and room for the tasks' prompts."""
    return tiny(tmp_path_factory.mktemp("tiny-policy"), PLACES, 256)


def tiny(folder: Path, words: list[str], positions: int) -> Path:
    """Write a model that knows these words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", chat_template=CHAT
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.5,  # so that its words differ in probability
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
