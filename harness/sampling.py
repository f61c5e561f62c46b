"""Answers of a model that is loaded here: greedy ones, as lm-eval would get them, and random ones that can be repeated.

A random answer depends on the seed, the question's id and the number of the sample, and on nothing else: the first five
samples of a question are the same whether 5 or 40 are drawn, in whatever company the question stands, and samples 6 to
40 can be drawn another day. Each row therefore has noise of its own: the token with the largest logit plus Gumbel noise
is an exact draw from the softmax (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030), so decoding is greedy over noisy
logits. What would surprise:

- Nothing here touches the global random numbers, on which the course of a training run depends.
- The noise comes from 53-bit numbers. Of 24-bit ones, in a vocabulary of 150,000, one is exactly 0 every hundred steps,
  and its token would be drawn however unlikely it is.
- Equal answers need equal arithmetic. A GPU, or bfloat16, adds up a batch in another order than a single question, and
  a near tie can then go the other way.
- The greedy answer keeps the repetition penalty that some models bring (Qwen2.5: 1.05), since lm-eval does; samples
  are drawn without, since TRL's are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from closedbook.harness.errors import RequestError
from closedbook.harness.prompts import Style, messages, question_prompt
from closedbook.harness.questions import Question

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache

STOP = "\nQuestion:"  # where the tasks end an answer: a base model that goes on to a next question
BATCH = 64  # sequences at once
PIECE = 1 << 20  # numbers of noise at once: 64 rows of Gemma's 262,144 tokens would take five times as much memory


@dataclass(frozen=True, slots=True)
class Sampling:
    """How random answers are drawn.

    Attributes:
        temperature: Above 0; divides the logits.
        top_p: Share of the probability that is drawn from, likeliest tokens first; 1 for all.
        top_k: Number of the likeliest tokens that are drawn from; 0 for all.
        max_new_tokens: Longest answer.
        seed: Another seed gives other answers.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 64
    seed: int = 0


def uses_chat(tokenizer: PreTrainedTokenizerBase, chat: bool | Literal["auto"]) -> bool:
    """Whether to ask through the chat template; "auto" for yes if there is one.

    Raises:
        RequestError: A template is asked for and there is none.
    """
    has = bool(getattr(tokenizer, "chat_template", None))
    if chat is True and not has:
        raise RequestError("chat: the tokenizer has no chat template; use chat=false or chat=auto")
    return has if chat == "auto" else chat


def encode_prompt(tokenizer: PreTrainedTokenizerBase, question: str, style: Style, chat: bool) -> list[int]:
    """Token ids of a question's prompt, as lm-eval's hf backend feeds them; `chat` for --apply_chat_template.

    A prompt that opens with the token for the beginning, as many templates do, is not given a second one.
    """
    text = question_prompt(question, style)
    if chat:
        text = str(tokenizer.apply_chat_template(messages(question, style), tokenize=False, add_generation_prompt=True))
    opened = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(text, **({"add_special_tokens": False} if opened else {}))["input_ids"]
    return ids


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], style: Style, chat: bool, longest: int
) -> list[list[int]]:
    """Token ids of each question's prompt, none longer than `longest`.

    Raises:
        RequestError: One is longer; nothing is ever cut.
    """
    prompts = [encode_prompt(tokenizer, question.question, style, chat) for question in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) > longest:
            raise RequestError(
                f"question {question.id}: its prompt has {len(prompt)} tokens and max_prompt_tokens allows {longest}; "
                f"use max_prompt_tokens={len(prompt)}, or leave the question out"
            )
    return prompts


def sample_seed(seed: int, key: str, number: int) -> int:
    """The seed of one sample's noise: 63 bits of SHA-256 over all that the sample may depend on."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{key}\n{number}".encode()).digest()[:8], "big") >> 1


class Sampler:
    """Answers of one model, many at once.

    While it works the model is in evaluation mode and needs no gradients; afterwards it is as it was.

    Args:
        model: A causal language model, on its device.
        tokenizer: Its tokenizer.
        batch: Sequences at once, at most.
        stop: Text at which an answer ends and is cut; "" for none.
        together: Whether several processes share the model and ask it at the same time, as many prompts each.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch: int = BATCH,
        stop: str = STOP,
        together: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.batch, self.stop, self.together = model, tokenizer, batch, stop, together
        self._ends = _end_ids(model, tokenizer)
        pad = tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else min(self._ends, default=0)

    @property
    def identity(self) -> dict[str, str]:
        """What an answer depends on besides the model's weights, as far as it changes the arithmetic."""
        return {"engine": "transformers", "dtype": str(self.model.dtype).removeprefix("torch.")}

    def greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """The likeliest continuation of each prompt, token by token.

        Args:
            prompts: Token ids of each, as `encode_prompts` gives them.
            max_new_tokens: Longest answer.
        """
        return self._answers(prompts, max_new_tokens, lambda rows: [], {})

    def sample(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], n: int, settings: Sampling, *, first: int = 0
    ) -> list[list[str]]:
        """Random continuations of each prompt, `n` of each, in the order of their numbers.

        Args:
            prompts: Token ids of each, as `encode_prompts` gives them.
            keys: What tells the prompts apart: the question's id.
            n: Samples of each prompt.
            settings: How they are drawn.
            first: Number of the first one, where some are drawn already.
        """
        rows = [prompt for prompt in prompts for _ in range(n)]
        seeds = [sample_seed(settings.seed, key, first + number) for key in keys for number in range(n)]
        # stated, or the model's own generation_config would come in
        plain = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}

        def processors(at: Sequence[int]) -> list[Any]:
            return [*_warpers(settings), GumbelNoise([seeds[row] for row in at])]

        answers = self._answers(rows, settings.max_new_tokens, processors, plain)
        return [answers[at : at + n] for at in range(0, len(rows), n)] if n else [[] for _ in prompts]

    def _answers(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        processors: Callable[[Sequence[int]], list[Any]],
        options: dict[str, Any],
    ) -> list[str]:
        """A continuation of each prompt; `processors` makes those of the prompts with these numbers."""
        order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))  # the largest batch first
        answers = [""] * len(prompts)
        with _undisturbed(self.model):
            for start in range(0, len(order), self.batch):
                rows = order[start : start + self.batch]
                tokens = self._generate([prompts[at] for at in rows], max_new_tokens, processors(rows), options)
                for at, new in zip(rows, tokens, strict=True):
                    answers[at] = self._text(new)
        return answers

    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, processors: list[Any], options: dict[str, Any]
    ) -> list[list[int]]:
        """New tokens of each prompt of one batch."""
        import torch

        width = max(map(len, prompts))
        device = self.model.device
        ids = [[self._pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        generate: Any = self.model.generate  # its type says little
        input_ids, attention_mask = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
        generated = generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=self._read_once(input_ids, attention_mask),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=1.0,  # these three are for sampling; where a model brings others it would be warned of
            top_p=1.0,
            top_k=50,
            eos_token_id=self._ends or None,
            pad_token_id=self._pad,
            use_cache=True,
            cache_implementation=None,  # a model may ask for one of its own, and generate takes only one of the two
            logits_processor=processors,
            stopping_criteria=[_Stop(self.tokenizer, self.stop, width)] if self.stop else [],
            return_dict_in_generate=False,
            synced_gpus=self.together,  # or a process whose answers end early would leave the others waiting
            **options,
        )
        tokens: list[list[int]] = generated[:, width:].tolist()
        return tokens

    def _read_once(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Cache | None:
        """Keys and values of all but the last token of each prompt, computed once for prompts that stand in many rows.

        None where no prompt does, or where they have one token.
        """
        import torch

        unique, row_of = torch.unique(input_ids, dim=0, return_inverse=True)
        if len(unique) == len(input_ids) or input_ids.shape[1] == 1:
            return None
        of = torch.stack([(row_of == row).nonzero()[0, 0] for row in range(len(unique))])
        mask = attention_mask[of, :-1]
        read = self.model(
            input_ids=input_ids[of, :-1],
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        cache: Cache = read.past_key_values
        cache.reorder_cache(row_of)  # the one way to copy rows that every kind of layer has
        return cache

    def _text(self, tokens: list[int]) -> str:
        """The text up to the first token that ends an answer, or to the stop."""
        end = next((at + 1 for at, token in enumerate(tokens) if token in self._ends), len(tokens))
        text = str(self.tokenizer.decode(tokens[:end], skip_special_tokens=True))
        return text.split(self.stop)[0] if self.stop else text


class GumbelNoise:
    """A logits processor that adds Gumbel noise, so that the largest sum is a draw from the softmax.

    Args:
        seeds: Of each row's noise.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) with noise, in float64; what has no probability keeps none."""
        import torch

        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        noisy = torch.empty(scores.shape, dtype=torch.float64, device=scores.device)
        generators, size = iter(self._generators), max(1, PIECE // scores.shape[-1])
        for some, rows in zip(scores.split(size), noisy.split(size), strict=True):
            for row in rows:
                row.uniform_(generator=next(generators))
            # -log(-log(1 - u)), in place; finite where u is 0
            rows.clamp_min_(2.0**-54).neg_().log1p_().neg_().log_()
            torch.sub(some, rows, out=rows)
        return noisy


def _warpers(settings: Sampling) -> list[Any]:
    """What changes the distribution that is drawn from, in the order of transformers and vLLM."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    return [
        *([TemperatureLogitsWarper(float(settings.temperature))] if settings.temperature != 1 else []),
        *([TopKLogitsWarper(settings.top_k)] if settings.top_k else []),
        *([TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []),
    ]


class _Stop:
    """A stopping criterion: the stop stands among a row's last tokens. It saves time; the text is cut all the same."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: str, width: int) -> None:
        self.tokenizer, self.stop, self.width = tokenizer, stop, width
        self.window = len(tokenizer(stop, add_special_tokens=False)["input_ids"]) + 2

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        tails = input_ids[:, max(self.width, input_ids.shape[1] - self.window) :].tolist()
        done = [self.stop in str(self.tokenizer.decode(tail)) for tail in tails]
        return torch.tensor(done, device=input_ids.device)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the model's, of which chat models have several, and the tokenizer's."""
    stated = model.generation_config.eos_token_id if model.generation_config else None
    several = stated if isinstance(stated, list) else [stated]
    return sorted({end for end in (*several, tokenizer.eos_token_id) if end is not None})


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients and without notices of transformers; each part is put back as it was."""
    import torch

    log = logging.getLogger("transformers")
    level, modes = log.level, [(part, part.training) for part in model.modules()]
    log.setLevel(logging.ERROR)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        log.setLevel(level)
        for part, training in modes:
            part.training = training
