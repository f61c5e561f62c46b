"""Answers of a model: greedy ones as `generate` gives them, and random ones that depend on seed, question, number."""

from collections import Counter
from functools import wraps
from typing import get_args

import pytest
import torch
import yaml
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer

from closedbook.harness import sampling
from closedbook.harness.errors import RequestError
from closedbook.harness.files import tasks_dir
from closedbook.harness.prompts import question_prompt
from closedbook.harness.questions import make_question
from closedbook.harness.sampling import (
    STOP,
    Draw,
    Sampler,
    Sampling,
    _warpers,
    encode_prompt,
    encode_prompts,
    sample_seed,
    uniforms,
    uses_chat,
)
from closedbook.harness.testing import Family, write_tiny_model

WORDS = ["who", "wrote", "hamlet", "Shakespeare", "Marlowe", "Kyd", "Bacon"]

PROMPTS = [[3, 4, 5], [3], [5, 5, 4, 3, 3], [4, 3]]
KEYS = ["q1", "q2", "q3", "q4"]
SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def folder(request, tiny_model, tmp_path_factory):
    """A tiny Llama; of the family that a test asks for, where it asks for one."""
    family: Family = getattr(request, "param", "llama")
    return tiny_model if family == "llama" else write_tiny_model(tmp_path_factory.mktemp(family), WORDS, 64, family)


every_family = pytest.mark.parametrize("folder", get_args(Family), indirect=True)


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def sampler(model, tokenizer):
    return Sampler(model, tokenizer)


def generated(model, tokenizer, prompt, **options):
    """What transformers itself makes of one prompt."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, **options)
    return tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)


def with_template(tokenizer, template, bos=None):
    tokenizer.chat_template = template
    tokenizer.bos_token = bos
    return tokenizer


# prompts


@every_family
def test_a_base_model_reads_the_prompt_as_plain_text(tokenizer):
    assert encode_prompt(tokenizer, "who wrote hamlet", "direct", False) == tokenizer.encode(
        question_prompt("who wrote hamlet")
    )


def test_a_chat_model_reads_it_in_its_template_with_its_own_turn_opened(tokenizer):
    template = "{% for m in messages %}who {{ m.content }}{% endfor %}{% if add_generation_prompt %} Bacon{% endif %}"
    ids = encode_prompt(with_template(tokenizer, template), "hamlet", "direct", True)
    assert (ids[0], ids[-1]) == tuple(tokenizer.convert_tokens_to_ids(["who", "Bacon"]))


def test_a_prompt_opens_with_one_token_for_the_beginning(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="Kyd $A", special_tokens=[("Kyd", 8)])
    template = "{{ bos_token }} {{ messages[0].content }}"
    kyd = tokenizer.convert_tokens_to_ids("Kyd")
    opened = encode_prompt(with_template(tokenizer, template, "Kyd"), "who", "direct", True)
    assert opened[0] == kyd != opened[1]
    plain = encode_prompt(with_template(tokenizer, "{{ messages[0].content }}", "Kyd"), "who", "direct", True)
    assert plain[0] == kyd != plain[1]
    assert encode_prompt(tokenizer, "who", "direct", False)[0] == kyd


def test_the_template_is_used_where_there_is_one_unless_stated(tokenizer):
    assert [uses_chat(tokenizer, chat) for chat in ("auto", True, False)] == [True, True, False]
    tokenizer.chat_template = None
    assert [uses_chat(tokenizer, chat) for chat in ("auto", False)] == [False, False]
    with pytest.raises(RequestError, match="has no chat template; use chat=false"):
        uses_chat(tokenizer, True)


def test_a_prompt_that_is_too_long_is_refused_and_never_cut(tokenizer):
    questions = [make_question("nq", question, ["Kyd"]) for question in ("who", "who wrote hamlet " * 5)]
    lengths = [len(prompt) for prompt in encode_prompts(tokenizer, questions, "direct", False, 1000)]
    assert lengths[1] > lengths[0]
    assert len(encode_prompts(tokenizer, questions, "direct", False, lengths[1])) == 2
    with pytest.raises(RequestError) as refused:
        encode_prompts(tokenizer, questions, "direct", False, lengths[1] - 1)
    assert questions[1].id in str(refused.value)
    assert f"use max_prompt_tokens={lengths[1]}" in str(refused.value)
    assert "\n" not in str(refused.value)


# greedy answers


@every_family
def test_a_greedy_answer_is_what_generate_gives(model, tokenizer):
    for batch in (1, 3, 64):
        answers = Sampler(model, tokenizer, batch=batch).greedy(PROMPTS, 6)
        assert answers == [generated(model, tokenizer, prompt) for prompt in PROMPTS]
    assert any(answers)


def test_no_prompts_have_no_answers(sampler):
    assert sampler.greedy([], 5) == []
    assert sampler.sample([], [], 3, SHORT) == []
    assert sampler.sample(PROMPTS[:2], KEYS[:2], 0, SHORT) == [[], []]


def test_an_answer_ends_at_each_token_that_ends_one(model, tokenizer):
    whole = Sampler(model, tokenizer).greedy(PROMPTS[:1], 6)[0].split()
    assert len(set(whole)) > 1
    end = next(word for word in whole if word != whole[0])
    model.generation_config.eos_token_id = [1, tokenizer.convert_tokens_to_ids(end)]
    assert Sampler(model, tokenizer).greedy(PROMPTS[:1], 6)[0].split() == whole[: whole.index(end) + 1]


def test_the_tokenizers_end_counts_where_the_model_states_none(model, tokenizer):
    model.generation_config.eos_token_id = None
    whole = Sampler(model, tokenizer).sample(PROMPTS, KEYS, 20, SHORT)
    assert len({len(text.split()) for texts in whole for text in texts}) > 2


def test_a_tokenizer_without_padding_pads_with_its_end(model, tokenizer):
    with_padding = Sampler(model, tokenizer).greedy(PROMPTS, 6)
    tokenizer.pad_token = None
    model.generation_config.pad_token_id = None
    assert Sampler(model, tokenizer).greedy(PROMPTS, 6) == with_padding


def test_an_answer_is_cut_at_the_stop_and_generation_ends_there(model, tokenizer):
    plain = Sampler(model, tokenizer, stop="")
    whole = plain.greedy(PROMPTS[:1], 30)[0].split()
    stop = whole[2]
    assert whole.index(stop) > 0
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    assert Sampler(model, tokenizer, stop=stop).greedy(PROMPTS[:1], 30)[0].split() == whole[: whole.index(stop)]
    assert len(steps) < 10


def test_a_stop_in_the_prompt_ends_nothing(model, tokenizer):
    stop = tokenizer.decode(PROMPTS[0][-1:])
    plain = Sampler(model, tokenizer, stop="").greedy(PROMPTS[:1], 2)[0]
    assert Sampler(model, tokenizer, stop=stop).greedy(PROMPTS[:1], 2)[0] == plain.split(stop)[0] != ""


def test_the_stop_is_that_of_the_tasks():
    for style in ("direct", "cot"):
        text = (tasks_dir() / f"_{style}_yaml").read_text(encoding="utf-8").replace("!function", "")
        assert yaml.safe_load(text)["generation_kwargs"]["until"] == [STOP]


# random answers


@every_family
def test_samples_are_the_same_whatever_stands_beside_them(model, tokenizer):
    together = Sampler(model, tokenizer).sample(PROMPTS, KEYS, 5, SHORT)
    for batch in (1, 2, 7):
        backwards = Sampler(model, tokenizer, batch=batch).sample(PROMPTS[::-1], KEYS[::-1], 5, SHORT)
        assert backwards[::-1] == together
    for prompt, key, texts in zip(PROMPTS, KEYS, together, strict=True):
        assert Sampler(model, tokenizer).sample([prompt], [key], 5, SHORT) == [texts]


@every_family
def test_a_prompt_is_read_once_for_all_its_samples(model, tokenizer, monkeypatch):
    """The model sees each prompt but its last token once, then one token a row and step."""
    seen = []
    forward = model.forward

    @wraps(forward)  # transformers looks at its signature
    def watched(*args, **named):
        seen.append(tuple(named["input_ids"].shape))
        return forward(*args, **named)

    monkeypatch.setattr(model, "forward", watched)
    shared = Sampler(model, tokenizer).sample(PROMPTS, KEYS, 5, SHORT)
    assert seen[0] == (len(PROMPTS), max(map(len, PROMPTS)) - 1)
    assert set(seen[1:]) == {(5 * len(PROMPTS), 1)}
    monkeypatch.setattr(Sampler, "_read_once", lambda self, ids, mask: None)
    assert Sampler(model, tokenizer).sample(PROMPTS, KEYS, 5, SHORT) == shared


def test_a_prompt_that_opens_with_the_padding_is_not_taken_for_a_shorter_one(sampler):
    texts = sampler.sample([[sampler.pad, 3, 4], [3, 4]], KEYS[:2], 8, SHORT)
    assert texts == [
        sampler.sample([prompt], [key], 8, SHORT)[0] for prompt, key in (([sampler.pad, 3, 4], "q1"), ([3, 4], "q2"))
    ]


@every_family
@pytest.mark.parametrize("lengths", [(3, 1, 5), (7, 8, 9, 12), (31, 20, 9)])
def test_prompts_shorter_and_longer_than_a_window_are_read_once_and_answered_as_if_alone(
    model, tokenizer, lengths, monkeypatch
):
    """Of the tiny Gemma's layers one sees 8 tokens back; its answers leave the prompt behind."""
    prompts = [[3 + at * at % 7 for at in range(length)] for length in lengths]
    drawn = Sampler(model, tokenizer).sample(prompts, KEYS[: len(prompts)], 4, Sampling(max_new_tokens=12))
    monkeypatch.setattr(Sampler, "_read_once", lambda self, ids, mask: None)
    for prompt, key, texts in zip(prompts, KEYS, drawn, strict=False):
        alone = Sampler(model, tokenizer, batch=1).sample([prompt], [key], 4, Sampling(max_new_tokens=12))
        assert alone == [texts]
    assert len({text for texts in drawn for text in texts}) > len(drawn)


def test_a_model_that_asks_for_a_cache_of_its_own_is_sampled_all_the_same(model, tokenizer):
    before = Sampler(model, tokenizer).sample(PROMPTS, KEYS, 3, SHORT)
    model.generation_config.cache_implementation = "static"
    assert Sampler(model, tokenizer).sample(PROMPTS, KEYS, 3, SHORT) == before


def test_the_first_samples_are_the_same_however_many_are_drawn(sampler):
    many = sampler.sample(PROMPTS, KEYS, 40, SHORT)
    few = sampler.sample(PROMPTS, KEYS, 5, SHORT)
    rest = sampler.sample(PROMPTS, KEYS, 35, SHORT, first=5)
    assert [texts[:5] for texts in many] == few
    assert [one + other for one, other in zip(few, rest, strict=True)] == many


def test_seed_question_and_number_each_make_another_sample(sampler):
    def texts(key="q1", seed=0, first=0):
        return sampler.sample(PROMPTS[:1], [key], 8, Sampling(max_new_tokens=6, seed=seed), first=first)

    assert len({str(drawn) for drawn in (texts(), texts("q2"), texts(seed=1), texts(first=8))}) == 4
    assert len(set(texts()[0])) > 1
    assert len({sample_seed(*parts) for parts in ((0, "a", 1), (0, "a1", 0), (1, "a", 0), (0, "a", 0))}) == 4
    assert 0 <= sample_seed(0, "a", 0) < 2**63


LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def drawn(settings=Sampling(), rows=6000):  # noqa: B008 it is frozen
    """How often each token of a fixed distribution is drawn, the second of two draws a row."""
    scores = LOGITS.repeat(rows, 1)
    for warper in _warpers(settings):
        scores = warper(None, scores)
    draw = Draw([sample_seed(settings.seed, "q", row) for row in range(rows)], tokens=2, width=3)
    second = torch.zeros((rows, 4), dtype=torch.long)
    tokens = draw(second, scores).argmax(-1)
    return torch.bincount(tokens, minlength=len(LOGITS)).numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_draws_follow_the_softmax_at_the_temperature(temperature):
    counts = drawn(Sampling(temperature=temperature))
    expected = torch.softmax(LOGITS.double() / temperature, -1).numpy() * counts.sum()
    assert chisquare(counts, expected).pvalue > 0.001


def test_the_nucleus_is_that_of_the_distribution_at_its_temperature():
    """At temperature 3 the logits are closer together, and 70 % of the probability takes more tokens."""
    settings = Sampling(temperature=3.0, top_p=0.7)
    scores = LOGITS[None]
    for warp in _warpers(settings):
        scores = warp(torch.zeros((1, 1), dtype=torch.long), scores)
    probabilities = torch.softmax(LOGITS / 3, -1).sort(descending=True).values
    wanted = int((probabilities.cumsum(-1) < 0.7).sum()) + 1
    assert int(scores.isfinite().sum()) == wanted > 2


def test_random_numbers_have_53_bits_and_each_token_has_its_own():
    assert len(uniforms(1, 100_000).unique()) == 100_000  # of 24-bit numbers some 300 would be drawn twice
    draw = Draw([1], tokens=50, width=0)
    scores = torch.zeros((1, 100_000))
    tokens = [int(draw(torch.zeros((1, step), dtype=torch.long), scores).argmax()) for step in range(50)]
    assert tokens == (uniforms(1, 50) * 100_000).long().tolist()


def test_processes_that_share_a_model_take_every_step_together(model, tokenizer, monkeypatch):
    asked = []

    generate = model.generate

    def watched(max_new_tokens, synced_gpus, **named):
        asked.append((max_new_tokens, synced_gpus))
        return generate(max_new_tokens=max_new_tokens, synced_gpus=False, **named)

    monkeypatch.setattr(model, "generate", watched)
    monkeypatch.setattr(sampling, "STRIDE", 2)
    alone = Sampler(model, tokenizer, stop="").greedy(PROMPTS, 3)
    assert asked == [(2, False), (1, False)]
    assert Sampler(model, tokenizer, stop="", together=True).greedy(PROMPTS, 3) == alone
    assert asked[2:] == [(3, True)]


def test_draws_keep_to_the_likeliest_tokens():
    assert (drawn(Sampling(top_k=3))[3:] == 0).all()
    assert (drawn(Sampling(top_k=3))[:3] > 0).all()
    # the shares are 0.55, 0.20, 0.12, 0.07, 0.03, 0.00: a nucleus of 0.7 takes two
    assert (drawn(Sampling(top_p=0.7))[2:] == 0).all()
    assert (drawn(Sampling(top_p=0.7))[:2] > 0).all()
    counts = drawn(Sampling(top_k=2))
    expected = torch.softmax(LOGITS[:2].double(), -1).numpy() * counts.sum()
    assert chisquare(counts[:2], expected).pvalue > 0.001


@pytest.mark.parametrize("folder", ["llama", "gemma3_text"], indirect=True)  # a byte of Qwen's is no text
def test_the_first_tokens_of_a_models_samples_follow_its_softmax(model, tokenizer):
    sampler = Sampler(model, tokenizer, batch=500)
    texts = sampler.sample(PROMPTS[:1], KEYS[:1], 3000, Sampling(max_new_tokens=1))[0]
    with torch.no_grad():
        shares = torch.softmax(model(torch.tensor(PROMPTS[:1])).logits[0, -1].double(), -1)
    counts = Counter(texts)
    words = tokenizer.convert_ids_to_tokens(range(len(shares)))
    expected: dict[str, float] = {}
    for word, share in zip(words, shares.tolist(), strict=True):
        said = "" if word in tokenizer.all_special_tokens else word
        expected[said] = expected.get(said, 0.0) + share * 3000
    assert counts.keys() <= expected.keys()
    assert chisquare([counts[word] for word in expected], list(expected.values())).pvalue > 0.001


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}])
def test_without_chance_a_sample_is_the_greedy_answer(sampler, settings):
    sampled = sampler.sample(PROMPTS, KEYS, 2, Sampling(max_new_tokens=6, **settings))
    assert sampled == [[answer] * 2 for answer in sampler.greedy(PROMPTS, 6)]


@pytest.mark.parametrize("piece", [1, 300, 10_000])
def test_draws_in_pieces_are_those_of_each_row(monkeypatch, piece):
    monkeypatch.setattr(sampling, "PIECE", piece)
    scores = torch.linspace(-9, 9, 7 * 101).reshape(7, 101)[:, torch.randperm(101, generator=torch.Generator())]
    nothing = torch.zeros((7, 0), dtype=torch.long)
    together = Draw(range(7), 1, 0)(nothing, scores)
    alone = [Draw([row], 1, 0)(nothing[:1], scores[row : row + 1])[0] for row in range(7)]
    assert torch.equal(together, torch.stack(alone))
    assert (together.isfinite().sum(-1) == 1).all()


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_what_has_no_probability_is_never_drawn(monkeypatch, number):
    monkeypatch.setattr(sampling, "uniforms", lambda seed, n: torch.tensor([number], dtype=torch.float64))
    never = -torch.inf
    for size in (1, 3, 10, 1000):  # ten times 0.1 is less than 1
        scores = torch.tensor([[never, *[0.1] * size, never, never]])
        token = int(Draw([0], 1, 0)(torch.zeros((1, 0), dtype=torch.long), scores).argmax())
        assert token == (1 if number == 0 else size)


def test_a_token_that_is_rarer_than_32_bits_can_tell_is_drawn_as_often_as_it_says(monkeypatch):
    scores = torch.tensor([[0.0, -21.0, -21.0]])  # 7.6e-10 each
    drawn = []
    for number in (1 - 2e-9, 1 - 1e-9, 1 - 4e-10):
        monkeypatch.setattr(sampling, "uniforms", lambda seed, n, u=number: torch.tensor([u], dtype=torch.float64))
        drawn.append(int(Draw([0], 1, 0)(torch.zeros((1, 0), dtype=torch.long), scores).argmax()))
    assert drawn == [0, 1, 2]


def test_an_answer_that_has_ended_costs_no_further_steps(model, tokenizer, monkeypatch):
    """Rows leave the batch once they have ended, and say what they would have said in any case."""
    long = Sampling(max_new_tokens=24)
    rows = []
    model.register_forward_pre_hook(lambda _, __, named: rows.append(len(named["input_ids"])), with_kwargs=True)
    whole = Sampler(model, tokenizer, together=True)
    monkeypatch.setattr(
        model, "generate", lambda generate=model.generate, **named: generate(**named | {"synced_gpus": False})
    )
    waited = whole.sample(PROMPTS, KEYS, 8, long)
    steps, at_once = len(rows) - 1, rows[1]
    rows.clear()
    assert Sampler(model, tokenizer).sample(PROMPTS, KEYS, 8, long) == waited
    assert rows[1] == at_once
    assert rows[1:] == sorted(rows[1:], reverse=True)
    assert sum(rows[1:]) < 0.9 * steps * at_once


@every_family
def test_samples_do_not_know_what_the_model_says_of_sampling(model, tokenizer):
    before = Sampler(model, tokenizer).sample(PROMPTS, KEYS, 3, SHORT)
    model.generation_config.update(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=9.0, no_repeat_ngram_size=1, num_beams=2
    )
    assert Sampler(model, tokenizer).sample(PROMPTS, KEYS, 3, SHORT) == before


COUNTED = [
    {"min_new_tokens": 4},
    {"begin_suppress_tokens": [6, 7, 8]},
    {"forced_eos_token_id": 1},
    {"exponential_decay_length_penalty": (1, 9.0)},
]


@pytest.mark.parametrize("stated", COUNTED)
def test_what_a_model_counts_from_the_first_token_is_not_counted_anew_where_rows_leave_the_batch(
    model, tokenizer, stated, monkeypatch
):
    model.generation_config.update(**stated)
    said = []
    for stride in (2, 100):
        monkeypatch.setattr(sampling, "STRIDE", stride)
        asked = Sampler(model, tokenizer)
        said.append((asked.greedy(PROMPTS, 6), asked.sample(PROMPTS, KEYS, 8, SHORT)))
    assert said[0] == said[1]
    assert said[0][0] == [generated(model, tokenizer, prompt) for prompt in PROMPTS]


def test_greedy_answers_keep_the_models_repetition_penalty(model, tokenizer):
    before = Sampler(model, tokenizer).greedy(PROMPTS, 6)
    model.generation_config.repetition_penalty = 9.0
    penalised = Sampler(model, tokenizer).greedy(PROMPTS, 6)
    assert penalised == [generated(model, tokenizer, prompt) for prompt in PROMPTS] != before


# what stays as it was


def test_the_global_random_numbers_are_not_touched(sampler):
    before = torch.get_rng_state()
    sampler.greedy(PROMPTS, 6)
    sampler.sample(PROMPTS, KEYS, 3, SHORT)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_in_training_answers_as_in_evaluation_and_trains_on(model, tokenizer):
    sampler = Sampler(model, tokenizer)
    before = sampler.greedy(PROMPTS, 6)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    model.lm_head.eval()
    assert sampler.greedy(PROMPTS, 6) == before
    assert model.training and model.model.layers[0].training and not model.lm_head.training
    assert torch.is_grad_enabled()
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_model_trains_on_after_an_answer_that_failed(model, tokenizer, monkeypatch):
    def fail(**_):
        raise MemoryError

    model.train()
    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(MemoryError):
        Sampler(model, tokenizer).greedy(PROMPTS, 6)
    assert model.training
