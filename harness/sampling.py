"""Answers of a model that is loaded here: greedy ones, as lm-eval would get them, and random ones that can be repeated.

A random answer depends on the seed, the question's id and the number of the sample, and on nothing else: the first five
samples of a question are the same whether 5 or 40 are drawn, in whatever company the question stands, and samples 6 to
40 can be drawn another day. Each row therefore has random numbers of its own, one a token, and the token is where the
number falls in the cumulated softmax (inverse transform sampling: Devroye 1986, section II.2). What would surprise:

- Nothing here touches the global random numbers, on which the course of a training run depends.
- The random numbers have 53 bits and are cumulated in float64: of 24-bit ones, tokens rarer than 1 in 17 million would
  never be drawn, or too often.
- What has ended leaves the batch every few tokens: answers are short, and the longest of 64 would be waited for.
- Equal answers need equal arithmetic. A GPU, or bfloat16, adds up a batch in another order than a single question, and
  a near tie can then go the other way.
- The greedy answer keeps the repetition penalty that some models bring (Qwen2.5: 1.05), since lm-eval does; samples
  are drawn without, since TRL's are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
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
STRIDE = 6  # tokens after which what has ended leaves the batch: each time costs about as much as a token
# what a model may ask of generate that counts from where a call begins, or is kept in between
COUNTED = (
    "min_new_tokens",
    "begin_suppress_tokens",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "guidance_scale",
)
PIECE = 1 << 20  # logits that are cumulated at once: 64 rows of Gemma's 262,144 tokens take 130 MB in float64


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

    Attributes:
        ends: Tokens that end an answer.
        pad: The token before shorter prompts.
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
        self.ends = frozenset(_end_ids(model, tokenizer))
        pad = tokenizer.pad_token_id
        self.pad: int = pad if pad is not None else min(self.ends, default=0)

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
        return self._answers(prompts, max_new_tokens, lambda rows, width: [], {})

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

        def processors(at: Sequence[int], width: int) -> list[Any]:
            return [*_warpers(settings), Draw([seeds[row] for row in at], settings.max_new_tokens, width)]

        answers = self._answers(rows, settings.max_new_tokens, processors, plain)
        return [answers[at : at + n] for at in range(0, len(rows), n)] if n else [[] for _ in prompts]

    def _answers(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        processors: Callable[[Sequence[int], int], list[Any]],
        options: dict[str, Any],
    ) -> list[str]:
        """A continuation of each prompt; `processors` makes those of the prompts with these numbers and this width."""
        order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))  # the largest batch first
        answers = [""] * len(prompts)
        with undisturbed(self.model):
            for start in range(0, len(order), self.batch):
                some = {at: prompts[at] for at in order[start : start + self.batch]}
                for at, tokens in self._batch(some, max_new_tokens, processors, options).items():
                    answers[at] = self.text(tokens)
        return answers

    def _batch(
        self,
        prompts: Mapping[int, Sequence[int]],
        max_new_tokens: int,
        processors: Callable[[Sequence[int], int], list[Any]],
        options: dict[str, Any],
    ) -> dict[int, list[int]]:
        """New tokens of each prompt of one batch, by their numbers."""
        import torch

        width = max(map(len, prompts.values()))
        device = self.model.device
        padding = {at: width - len(prompt) for at, prompt in prompts.items()}
        ids = torch.tensor([[self.pad] * padding[at] + list(prompts[at]) for at in prompts], device=device)
        mask = torch.tensor([[0] * padding[at] + [1] * len(prompts[at]) for at in prompts], device=device)
        cache = self._read_once(ids, mask)
        stops = [_Stop(self.tokenizer, self.stop, width)] if self.stop else []
        # processes that share a model take as many steps each, and answers of one may all have ended
        stride = max_new_tokens if self.together or self._counts() else STRIDE
        tokens: dict[int, list[int]] = {}
        live = list(prompts)
        while live and (some := min(stride, width + max_new_tokens - ids.shape[1])):
            now = {"max_new_tokens": some, "logits_processor": processors(live, width), "stopping_criteria": stops}
            ids, cache = self._generate(ids, mask, cache, now | options)
            tokens |= zip(live, ids[:, width:].tolist(), strict=True)
            going: Any = torch.tensor(
                [at for at, row in enumerate(live) if not self._ended(tokens[row])], device=device
            )
            live = [live[at] for at in going]
            if live:
                ids, mask = ids[going], torch.nn.functional.pad(mask[going], (0, ids.shape[1] - mask.shape[1]), value=1)
                cache.reorder_cache(going)  # the one way to choose rows that every kind of layer has
        return tokens

    def _generate(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Cache | None, options: Mapping[str, Any]
    ) -> tuple[torch.Tensor, Cache]:
        """All tokens with the new ones, and the keys and values of all but the last."""
        generate: Any = self.model.generate  # its type says little
        made = generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            do_sample=False,
            num_beams=1,
            temperature=1.0,  # these three are for sampling; where a model brings others it would be warned of
            top_p=1.0,
            top_k=50,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=self.pad,
            use_cache=True,
            cache_implementation=None,  # a model may ask for one of its own, and generate takes only one of the two
            return_dict_in_generate=True,
            synced_gpus=self.together,  # or a process whose answers end early would leave the others waiting
            **options,
        )
        return made.sequences, made.past_key_values

    def _read_once(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Cache | None:
        """Keys and values of all but the last token of each prompt, computed once for prompts that stand in many rows.

        None where no prompt does, or where they have one token.
        """
        import torch

        # a prompt may begin with the token that another one is padded with
        unique, row_of = torch.unique(torch.cat([input_ids, attention_mask], 1), dim=0, return_inverse=True)
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
        cache.reorder_cache(row_of)
        return cache

    def _counts(self) -> bool:
        """Whether the model asks for what one call of generate only can do."""
        return any(getattr(self.model.generation_config, name, None) is not None for name in COUNTED)

    def _ended(self, tokens: list[int]) -> bool:
        """Whether an answer is whole."""
        return not self.ends.isdisjoint(tokens) or bool(self.stop and self.stop in self.tokenizer.decode(tokens))

    def text(self, tokens: list[int]) -> str:
        """The text up to the first token that ends an answer, or to the stop."""
        end = next((at + 1 for at, token in enumerate(tokens) if token in self.ends), len(tokens))
        text = str(self.tokenizer.decode(tokens[:end], skip_special_tokens=True))
        return text.split(self.stop)[0] if self.stop else text


class Draw:
    """A logits processor that draws each row's next token: it alone keeps a score.

    Args:
        seeds: Of each row's random numbers, of which there is one a token.
        tokens: New tokens of a row, at most.
        width: Tokens of the prompts, after which the first is drawn.
    """

    def __init__(self, seeds: Sequence[int], tokens: int, width: int) -> None:
        self.width, self.numbers = width, [uniforms(seed, tokens) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) of 0 for the token that is drawn from their softmax and of -inf for all others."""
        import torch

        numbers = torch.stack(self.numbers)[:, input_ids.shape[1] - self.width, None].to(scores.device)
        drawn, size = torch.full_like(scores, -torch.inf), max(1, PIECE // scores.shape[-1])
        for some, at, into in zip(scores.split(size), numbers.split(size), drawn.split(size), strict=True):
            cumulated = some.softmax(-1, dtype=torch.float64).cumsum(-1)
            # right: a token without probability is never where a number falls, not even 0
            tokens = torch.searchsorted(cumulated, at * cumulated[:, -1:], right=True)
            into.scatter_(1, tokens, 0.0)
        return drawn


def uniforms(seed: int, n: int) -> torch.Tensor:
    """The first n random numbers of a seed, in [0, 1), of 53 bits each, the same on every device."""
    import torch

    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
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
