"""How likely a model is to give an answer, computed and not sampled: an answer that is given, or all likely ones.

An answer is what the tasks take for one: the first line of a reply that is not empty. It is complete when a token
follows that ends a reply or begins a new line, so its probability is that of its tokens times the sum over these ends.
What would surprise:

- "All likely answers" is exact and no beam search: a prefix that is less likely than `least` has no continuation that
  is likelier, so looking at every other prefix misses none. There are at most 1 / `least` of them at each length.
- One text can be said in several tokens. An answer that is given is looked at in its usual tokens, with and without a
  space before it; other tokens of the same text are found by listing only.
- A token can hold a full stop and a line break. It then belongs to the answer, and completes it.
- The arithmetic is the checkpoint's own: the logits of a model in bfloat16 are rounded, as they are when it answers.

    Likelihood(Sampler(model, tokenizer)).likeliest([prompt], least=0.002, max_tokens=64)[0].answers[0].text
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.prompts import first_line
from closedbook.harness.sampling import Sampler, undisturbed

if TYPE_CHECKING:
    import torch
    from transformers.cache_utils import Cache

POSITIONS = 1024  # of which the probabilities of a whole vocabulary are held at once


class Scored(NamedTuple):
    """An answer that was given, scored.

    Attributes:
        text: The answer.
        log_prob: Natural logarithm of its probability, the end included.
        tokens: How many it has in its likelier form, the end included.
    """

    text: str
    log_prob: float
    tokens: int


class Complete(NamedTuple):
    """A complete answer that was found.

    Attributes:
        tokens: Without the end.
        text: Its line.
        probability: With the end.
    """

    tokens: tuple[int, ...]
    text: str
    probability: float


class Listing(NamedTuple):
    """All complete answers with a probability of at least `least`, the likeliest first.

    Attributes:
        answers: Each in its own tokens; a text may stand here twice.
        unlisted: Probability of all others together.
    """

    answers: tuple[Complete, ...]
    unlisted: float

    def texts(self) -> dict[str, float]:
        """The probability of each text, the likeliest first."""
        sums: dict[str, float] = {}
        for answer in self.answers:
            sums[answer.text] = sums.get(answer.text, 0.0) + answer.probability
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


class Likelihood:
    """The probabilities of one model's answers.

    While it works the model is in evaluation mode and needs no gradients; afterwards it is as it was.

    Args:
        sampler: The model with its tokenizer, which says where a reply ends.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.model, self.tokenizer = sampler, sampler.model, sampler.tokenizer

    def log_probs(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[str]]) -> list[list[Scored]]:
        """The log-probability of each answer to its prompt, in the order of the answers.

        Args:
            prompts: Token ids of each, as `encode_prompts` gives them; all are read at once.
            answers: Lines of text, any number of each prompt.
        """
        rows = [
            (at, number, tokens)
            for at, texts in enumerate(answers)
            for number, text in enumerate(texts)
            for tokens in self._forms(text)
        ]
        if not rows:
            return [[] for _ in prompts]
        rows.sort(key=lambda row: len(row[2]))
        found: dict[tuple[int, int], list[tuple[float, int]]] = {}
        with undisturbed(self.model):
            cache, mask, last = self._read(prompts)
            for some in _batches(rows):
                owners, tokens = [row[0] for row in some], [row[2] for row in some]
                scores = self._score(deepcopy(cache), mask, last, owners, tokens)
                for (at, number, of), score in zip(some, scores, strict=True):
                    found.setdefault((at, number), []).append((score, len(of) + 1))
        return [
            [_together(text, found[at, number]) for number, text in enumerate(texts)]
            for at, texts in enumerate(answers)
        ]

    def likeliest(self, prompts: Sequence[Sequence[int]], least: float, max_tokens: int) -> list[Listing]:
        """All complete answers to each prompt with a probability of at least `least`.

        Args:
            prompts: Token ids of each, as `encode_prompts` gives them; all are read at once, and up to 1 / `least`
                prefixes of each.
            least: Above 0 and at most 1.
            max_tokens: Longest answer, without its end.

        Raises:
            ValueError: `least` is none.
        """
        import torch

        if not 0 < least <= 1:
            raise ValueError(f"a probability of at least {least} is no bound")
        if not prompts:
            return []
        found: list[list[Complete]] = [[] for _ in prompts]
        prefixes = [_Prefix(owner, (), 0.0, False) for owner in range(len(prompts))]
        with undisturbed(self.model):
            cache, mask, feed = self._read(prompts)
            for _ in range(max_tokens + 1):
                mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
                following = self._forward(cache, mask, feed)[:, 0].float().log_softmax(-1)
                complete, longer = self._grown(prefixes, following, math.log(least))
                for answer in complete:
                    if len(answer.tokens) <= max_tokens:
                        found[answer.owner].append(self._complete(answer))
                if not longer:
                    break
                rows: Any = torch.tensor([row for row, _ in longer], device=mask.device)
                prefixes = [prefix for _, prefix in longer]
                cache.reorder_cache(rows)
                mask, feed = mask[rows], torch.tensor([[p.tokens[-1]] for p in prefixes], device=mask.device)
        return [_listing(answers) for answers in found]

    def _grown(
        self, prefixes: Sequence[_Prefix], following: torch.Tensor, floor: float
    ) -> tuple[list[_Prefix], list[tuple[int, _Prefix]]]:
        """What becomes of prefixes with a further token, as far as it is likely enough.

        Args:
            prefixes: Any.
            following: Log-probabilities of what may follow each, of shape (prefixes, vocabulary).
            floor: The smallest log-probability that is likely enough.

        Returns:
            The answers that are complete, with the probability of their ends; and the longer prefixes, each with the
            row that it came from.
        """
        import torch

        begun = torch.tensor([prefix.begun for prefix in prefixes], device=following.device)[:, None]
        so_far = torch.tensor([prefix.log_prob for prefix in prefixes], device=following.device)[:, None]
        ends = torch.where(begun, self._kinds.ends, self._kinds.stops)
        ended = following.masked_fill(~ends, -math.inf).logsumexp(-1).tolist()
        complete = [
            prefix._replace(log_prob=prefix.log_prob + end) for prefix, end in zip(prefixes, ended, strict=True)
        ]
        longer: list[tuple[int, _Prefix]] = []
        at = ((following >= floor - so_far) & ~ends).nonzero(as_tuple=True)
        last = torch.where(begun, self._kinds.closes, self._kinds.settles)
        for row, token, step, is_last in zip(*(x.tolist() for x in (*at, following[at], last[at])), strict=True):
            prefix = self._longer(prefixes[row], token, step)
            if is_last:
                complete.append(prefix)
            else:
                longer.append((row, prefix))
        return [answer for answer in complete if answer.log_prob >= floor], longer

    def _longer(self, prefix: _Prefix, token: int, step: float) -> _Prefix:
        tokens = (*prefix.tokens, token)
        begun = prefix.begun or bool(self._text(tokens).strip())
        return _Prefix(prefix.owner, tokens, prefix.log_prob + step, begun)

    def _complete(self, answer: _Prefix) -> Complete:
        return Complete(answer.tokens, first_line(self._text(answer.tokens)), math.exp(answer.log_prob))

    def _text(self, tokens: Sequence[int]) -> str:
        return self.sampler.text(list(tokens))

    def _forms(self, text: str) -> list[tuple[int, ...]]:
        """The tokens of an answer without and with a space before it, where they differ."""
        spelled = [text, f" {text}"] if text else [text]
        return list(dict.fromkeys(tuple(self.tokenizer(one, add_special_tokens=False)["input_ids"]) for one in spelled))

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[Cache, torch.Tensor, torch.Tensor]:
        """Keys and values of all but the last token of each prompt, which of them are there, and the last tokens.

        Prompts are padded on the left. The mask is of shape (prompts, longest - 1), the tokens of shape (prompts, 1).
        """
        import torch
        from transformers.cache_utils import DynamicCache

        device, width = self.model.device, max(map(len, prompts)) - 1
        pad = self.sampler.pad
        ids = [[pad] * (width + 1 - len(prompt)) + list(prompt) for prompt in prompts]
        there = [[0] * (width + 1 - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        tokens, mask = torch.tensor(ids, device=device), torch.tensor(there, device=device)[:, :-1]
        cache: Cache = DynamicCache(config=self.model.config)
        if width:
            self._forward(cache, mask, tokens[:, :-1], logits_to_keep=1)
        return cache, mask, tokens[:, -1:]

    def _forward(self, cache: Cache, mask: torch.Tensor, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        """Logits after each of some more tokens, which join the cache, of shape (rows, tokens, vocabulary).

        The mask is of what is in the cache and of these tokens.
        """
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        read = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        logits: torch.Tensor = read.logits
        return logits

    def _score(
        self,
        cache: Cache,
        mask: torch.Tensor,
        last: torch.Tensor,
        owners: Sequence[int],
        answers: Sequence[Sequence[int]],
    ) -> list[float]:
        """Log-probabilities of answers with their ends; of each, the number of its prompt. Answers are padded right."""
        import torch

        device, width = mask.device, max(map(len, answers))
        rows: Any = torch.tensor(list(owners), device=device)
        lengths = torch.tensor([len(answer) for answer in answers], device=device)
        cache.reorder_cache(rows)
        pads = [[self.sampler.pad] * (width - len(answer)) for answer in answers]
        tokens = [[*answer, *pad] for answer, pad in zip(answers, pads, strict=True)]
        padded = torch.tensor(tokens, dtype=torch.long, device=device)
        at = torch.arange(width + 1, device=device)
        mask = torch.cat([mask[rows], (at <= lengths[:, None]).long()], dim=1)
        logits = self._forward(cache, mask, torch.cat([last[rows], padded], dim=1)).float()
        whole = logits.logsumexp(-1)  # a log-softmax of all would take as much memory again
        said = (logits[:, :-1].gather(-1, padded[..., None])[..., 0] - whole[:, :-1]).double()
        said = said.masked_fill(at[:-1] >= lengths[:, None], 0.0).sum(-1)
        begun = torch.tensor([bool(self._text(answer).strip()) for answer in answers], device=device)[:, None]
        ends = torch.where(begun, self._kinds.ends, self._kinds.stops)
        at_end = torch.arange(len(answers), device=device), lengths
        closing = logits[at_end].masked_fill(~ends, -math.inf).logsumexp(-1) - whole[at_end]
        scores: list[float] = (said + closing.double()).tolist()
        return scores

    @cached_property
    def _kinds(self) -> _Kinds:
        """What each token of the vocabulary does to an answer."""
        import torch

        size = self.model.get_output_embeddings().weight.shape[0]
        known = min(size, len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[token] for token in range(known)], skip_special_tokens=True)
        stops = torch.zeros(size, dtype=torch.bool)
        stops[[end for end in self.sampler.ends if end < size]] = True
        ends, closes, settles = stops.clone(), torch.zeros_like(stops), torch.zeros_like(stops)
        for token, text in enumerate(texts):
            lines = f"{text}x".splitlines()  # the x shows a break at the end
            if len(lines) > 1 and not stops[token]:
                (closes if lines[0].strip() else ends)[token] = True
                settles[token] = any(line.strip() for line in lines[:-1])
        return _Kinds(*(kind.to(self.model.device) for kind in (stops, ends, closes, settles)))


class _Prefix(NamedTuple):
    """The beginning of an answer: whose, its tokens, its log-probability, and whether its line has begun."""

    owner: int
    tokens: tuple[int, ...]
    log_prob: float
    begun: bool


class _Kinds(NamedTuple):
    """Which tokens of the vocabulary do what; boolean, of its size.

    Attributes:
        stops: End any reply.
        ends: End an answer that has begun: these, and those that begin a new line.
        closes: Are the last of an answer that has begun: text and then a line break.
        settles: Are an answer of their own where none has begun.
    """

    stops: torch.Tensor
    ends: torch.Tensor
    closes: torch.Tensor
    settles: torch.Tensor


def _batches(rows: Sequence[tuple[int, int, tuple[int, ...]]]) -> list[list[tuple[int, int, tuple[int, ...]]]]:
    """Rows in order of length, as many at once as POSITIONS has room for; at least one."""
    batches: list[list[tuple[int, int, tuple[int, ...]]]] = []
    for row in rows:
        if not batches or (len(batches[-1]) + 1) * (len(row[2]) + 1) > POSITIONS:
            batches.append([])
        batches[-1].append(row)
    return batches


def _together(text: str, forms: Sequence[tuple[float, int]]) -> Scored:
    """Several forms of an answer as one; they exclude each other."""
    best = max(forms)
    if best[0] == -math.inf:
        return Scored(text, *best)
    return Scored(text, best[0] + math.log(math.fsum(math.exp(score - best[0]) for score, _ in forms)), best[1])


def _listing(answers: Sequence[Complete]) -> Listing:
    ordered = sorted(answers, key=lambda answer: (-answer.probability, answer.tokens))
    return Listing(tuple(ordered), max(0.0, 1 - math.fsum(answer.probability for answer in ordered)))
