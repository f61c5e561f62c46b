"""Probabilities of answers: what is listed is what enumeration of all token sequences finds, and it adds up."""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from closedbook.harness.likelihood import Likelihood
from closedbook.harness.prompts import first_line
from closedbook.harness.sampling import Sampler
from closedbook.harness.testing import write_tiny_model

WORDS = ["Gorlim", "Tharn", "\n", ".\n", "\n\nOsric\n"]
LONGEST = 3
SEEDS = st.integers(0, 9)
PROMPTS = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=5), min_size=1, max_size=3)
LEAST = st.floats(0.003, 0.3)
few = settings(max_examples=15)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("tiny"), WORDS, 64))


def likelihood(tokenizer, seed):
    """Of a model with random weights; in double precision, so that ties are real ones."""
    return Likelihood(Sampler(_model(len(tokenizer), seed), tokenizer))


@cache
def _model(size, seed):
    config = LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.5, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).double().eval()


def log_probs_of(model, prompt, answers):
    """Of answers of one length: the log-probability of their tokens after a prompt, and of all that may follow."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens] for tokens in answers])).logits[:, len(prompt) - 1 :]
    following = logits.log_softmax(-1)
    steps = [[row[at, token].item() for at, token in enumerate(tokens)]
             for row, tokens in zip(following, answers, strict=True)]  # fmt: skip
    return [sum(row) for row in steps], following[:, -1]


def said(tokenizer, tokens):
    return tokenizer.decode(list(tokens), skip_special_tokens=True)


def settled(text):
    """Whether a line that is not empty has ended."""
    return any(line.strip() for line in f"{text}x".splitlines()[:-1])


def enumerated(likely, prompt, longest):
    """The probability of every complete answer, by its tokens."""
    tokenizer, found = likely.tokenizer, {}
    ends_with_break = [t for t in range(len(tokenizer)) if f"{said(tokenizer, [t])}x".splitlines()[0].strip() == ""
                       and settled(f"y{said(tokenizer, [t])}")]  # fmt: skip
    for length in range(longest + 1):
        every = list(product(range(len(tokenizer)), repeat=length))
        for tokens, before, following in zip(every, *log_probs_of(likely.model, prompt, every), strict=True):
            if 1 in tokens or settled(said(tokenizer, tokens[:-1])):
                continue
            if settled(said(tokenizer, tokens)):
                if not (tokens[-1] in ends_with_break and said(tokenizer, tokens[:-1]).strip()):
                    found[tokens] = math.exp(before)
            else:
                ends = [1, *(ends_with_break if said(tokenizer, tokens).strip() else [])]
                found[tokens] = math.exp(before) * following.exp()[ends].sum().item()
    return found


@few
@given(SEEDS, PROMPTS, LEAST)
def test_what_is_listed_is_what_enumeration_finds(tokenizer, seed, prompts, least):
    likely = likelihood(tokenizer, seed)
    for prompt, listing in zip(prompts, likely.likeliest(prompts, least, LONGEST), strict=True):
        every = enumerated(likely, prompt, LONGEST)
        listed = {answer.tokens: answer.probability for answer in listing.answers}
        near = {tokens for tokens, p in every.items() if math.isclose(p, least, rel_tol=1e-4)}
        assert {t for t, p in every.items() if p >= least} - near == listed.keys() - near
        assert listed == pytest.approx({tokens: every[tokens] for tokens in listed}, rel=1e-4)
        assert all(answer.text == first_line(said(tokenizer, answer.tokens)) for answer in listing.answers)
        assert sum(every.values()) <= 1 + 1e-6


@few
@given(SEEDS, PROMPTS, LEAST)
def test_what_is_listed_and_what_is_not_add_up_to_one(tokenizer, seed, prompts, least):
    for listing in likelihood(tokenizer, seed).likeliest(prompts, least, LONGEST):
        listed = [answer.probability for answer in listing.answers]
        assert listed == sorted(listed, reverse=True)
        assert len(listed) <= 1 / least + 1
        assert sum(listed) + listing.unlisted == pytest.approx(1)
        assert sum(listing.texts().values()) == pytest.approx(sum(listed))
        assert list(listing.texts().values()) == sorted(listing.texts().values(), reverse=True)


@few
@given(SEEDS, PROMPTS, LEAST, LEAST)
def test_a_smaller_bound_lists_more_in_the_same_order(tokenizer, seed, prompts, one, other):
    likely = likelihood(tokenizer, seed)
    many, some = (likely.likeliest(prompts, least, LONGEST) for least in sorted((one, other)))
    for longer, shorter in zip(many, some, strict=True):
        kept = [answer.tokens for answer in longer.answers if answer.probability >= max(one, other) * (1 + 1e-6)]
        assert kept == [answer.tokens for answer in shorter.answers][: len(kept)]
        assert len(longer.answers) >= len(shorter.answers)
        assert longer.unlisted <= shorter.unlisted + 1e-9


ANSWERS = st.lists(st.sampled_from(["Gorlim", "Tharn", "Gorlim Tharn", "", "Gorlim Gorlim Gorlim"]), max_size=4)


@few
@given(SEEDS, st.lists(st.tuples(st.lists(st.integers(2, 4), min_size=1, max_size=5), ANSWERS), max_size=4))
def test_the_log_probability_of_an_answer_is_the_sum_over_its_tokens_and_ends(tokenizer, seed, asked):
    likely = likelihood(tokenizer, seed)
    prompts, answers = [prompt for prompt, _ in asked], [texts for _, texts in asked]
    for prompt, texts, scores in zip(prompts, answers, likely.log_probs(prompts, answers), strict=True):
        assert [score.text for score in scores] == texts
        for text, score in zip(texts, scores, strict=True):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            (before,), (following,) = log_probs_of(likely.model, prompt, [tokens])
            ends = [1, *([tokenizer.convert_tokens_to_ids("\n")] if text else [])]
            ends += [tokenizer.convert_tokens_to_ids("\n\nOsric\n")] if text else []
            assert score.log_prob == pytest.approx(before + following[ends].logsumexp(-1).item(), rel=1e-4)
            assert score.tokens == len(tokens) + 1


@few
@given(SEEDS, PROMPTS, LEAST)
def test_who_else_is_asked_changes_nothing(tokenizer, seed, prompts, least):
    likely = likelihood(tokenizer, seed)
    answers = [["Gorlim", "Tharn Gorlim", ""]] * len(prompts)
    together = likely.log_probs(prompts, answers), likely.likeliest(prompts, least, LONGEST)
    for at, prompt in enumerate(prompts):
        alone = likely.log_probs([prompt], answers[:1])[0], likely.likeliest([prompt], least, LONGEST)[0]
        assert [s.log_prob for s in alone[0]] == pytest.approx([s.log_prob for s in together[0][at]], rel=1e-4)
        assert alone[1].texts() == pytest.approx(together[1][at].texts(), rel=1e-4)


@few
@given(SEEDS, PROMPTS)
def test_a_listed_text_is_as_likely_as_its_score_says(tokenizer, seed, prompts):
    likely = likelihood(tokenizer, seed)
    for prompt, listing in zip(prompts, likely.likeliest(prompts, 0.01, LONGEST), strict=True):
        spelled = {a.text: a.probability for a in listing.answers if said(tokenizer, a.tokens) == a.text and not
                   {*a.tokens} & {0, 1, 2}}  # fmt: skip
        scores = likely.log_probs([prompt], [list(spelled)])[0]
        assert [math.exp(score.log_prob) for score in scores] == pytest.approx(list(spelled.values()), rel=1e-4)


def test_no_prompts_and_no_answers_are_nothing_to_do(tokenizer):
    likely = likelihood(tokenizer, 0)
    assert likely.likeliest([], 0.1, 2) == []
    assert likely.log_probs([[2], [3]], [[], []]) == [[], []]


@pytest.mark.parametrize("least", [0.0, -1.0, 1.1, math.nan])
def test_a_bound_is_a_probability(tokenizer, least):
    with pytest.raises(ValueError, match="is no bound"):
        likelihood(tokenizer, 0).likeliest([[2]], least, 2)


def test_a_reply_without_any_end_lists_nothing_but_ends_by_lines(tokenizer):
    likely = likelihood(tokenizer, 0)
    likely.sampler.ends = frozenset()
    (listing,) = likely.likeliest([[3, 4]], 0.001, 2)
    assert listing.answers
    assert all(answer.tokens and answer.text for answer in listing.answers)
    assert likely.log_probs([[3, 4]], [[""]])[0][0].log_prob == -math.inf


def test_many_answers_are_scored_as_few_are(tokenizer, monkeypatch):
    likely, answers = likelihood(tokenizer, 3), [["Gorlim", "", "Tharn Gorlim Tharn"], ["Tharn", "Gorlim Tharn"]]
    at_once = likely.log_probs([[3], [4, 3, 3]], answers)
    monkeypatch.setattr("closedbook.harness.likelihood.POSITIONS", 1)
    one_by_one = likely.log_probs([[3], [4, 3, 3]], answers)
    for some, others in zip(at_once, one_by_one, strict=True):
        assert [s.log_prob for s in some] == pytest.approx([s.log_prob for s in others], rel=1e-4)


def test_the_model_is_left_as_it_was(tokenizer):
    likely = likelihood(tokenizer, 0)
    likely.model.train()
    likely.likeliest([[2]], 0.1, 2)
    assert likely.model.training
    likely.model.eval()


@pytest.fixture(scope="module", params=["qwen2", "gemma3_text"])
def other_family(request, tmp_path_factory):
    """Likelihoods of a tiny model of another family, in single precision as it lies there."""
    folder = write_tiny_model(tmp_path_factory.mktemp(request.param), ["Gorlim", "Tharn", "Osric"], 64, request.param)
    sampler = Sampler(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    sampler.model.double()
    return Likelihood(sampler)


def test_every_family_answers_as_in_whole_passes_also_beyond_a_sliding_window(other_family):
    tokenizer = other_family.tokenizer
    prompts = [tokenizer(text)["input_ids"] for text in ("Gorlim", "Tharn Osric " * 6, "Osric Gorlim Gorlim")]
    assert max(map(len, prompts)) > 8
    (end,) = other_family.sampler.ends
    listings = other_family.likeliest(prompts, 2e-4, 2)
    assert sum(len(listing.answers) for listing in listings) > 3
    for prompt, listing in zip(prompts, listings, strict=True):
        for tokens in {answer.tokens for answer in listing.answers}:
            (before,), (following,) = log_probs_of(other_family.model, prompt, [tokens])
            ends = other_family._kinds.ends if said(tokenizer, tokens).strip() else other_family._kinds.stops
            expected = math.exp(before + following[ends].logsumexp(-1).item())
            (found,) = [answer.probability for answer in listing.answers if answer.tokens == tokens]
            assert found == pytest.approx(expected, rel=1e-4)
            assert end not in tokens
    scores = other_family.log_probs(prompts, [["Tharn", "Gorlim Osric"]] * 3)
    for prompt, (one, other) in zip(prompts, scores, strict=True):
        for score in (one, other):
            forms = other_family._forms(score.text)
            sums = [log_probs_of(other_family.model, prompt, [form]) for form in forms]
            whole = [math.exp(before + following[other_family._kinds.ends].logsumexp(-1).item())
                     for (before,), (following,) in sums]  # fmt: skip
            assert math.exp(score.log_prob) == pytest.approx(sum(whole), rel=1e-4)
