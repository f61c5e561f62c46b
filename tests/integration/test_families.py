"""The sampler beside real lm-eval, on models of three families: the same tokens in, the same answers out.

The tiny models are random and always there. Of the real ones the small model is prepared where it is not yet; the
others are asked where they are in the cache already, since they are large.
"""

from typing import get_args

import pytest

from closedbook.harness.files import tasks_dir
from closedbook.harness.manifests import load_questions
from closedbook.harness.sampling import Sampler, Sampling, encode_prompt, encode_prompts, uses_chat
from closedbook.harness.small_model import MODELS, prepared
from closedbook.harness.testing import Family, write_tiny_model

TINY = get_args(Family)
REAL = [pytest.param(name, marks=pytest.mark.model) for name in MODELS]
LIMIT = 6
TOKENS = 12
LONGEST = 512


@pytest.fixture(scope="module")
def lm(request, tmp_path_factory):
    """lm-eval's own hf backend with a model."""
    from lm_eval.models.huggingface import HFLM

    name = request.param
    if name in TINY:
        places = ["Africa", "Asia", "Europe", "Oceania", "Euro", "Answer:"]
        folder = write_tiny_model(tmp_path_factory.mktemp(name), places, LONGEST, name)
    elif name == "smollm2":
        folder = request.getfixturevalue("small_model")
    elif (folder := prepared(name)) is None:
        pytest.skip(f"{name} is not in the cache: python -m closedbook.harness.small_model {name}")
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=LIMIT)


every_model = pytest.mark.parametrize("lm", [*TINY, *REAL], indirect=True)
every_real_model = pytest.mark.parametrize("lm", REAL, indirect=True)


@pytest.fixture
def evaluated(lm, monkeypatch):
    """Runs lm-eval on worldfacts; returns the token ids that the model was fed, without padding, and the answers."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    generate = lm._model_generate

    def run(chat):
        fed = []

        def recorded(context, max_length, stop, **options):
            for ids, mask in zip(context, options["attention_mask"], strict=True):
                fed.append(ids[mask.bool()].tolist())
            return generate(context, context.shape[1] + TOKENS, stop, **options)

        monkeypatch.setattr(lm, "_model_generate", recorded)
        manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata={"judge": "rules"})
        results = simple_evaluate(
            lm,
            tasks=["worldfacts_dedup"],
            limit=LIMIT,
            task_manager=manager,
            bootstrap_iters=0,
            apply_chat_template=chat,
            log_samples=True,
        )
        rows = sorted(results["samples"]["worldfacts_dedup"], key=lambda row: row["doc_id"])
        return fed, [row["resps"][0][0] for row in rows]

    return run


@every_model
def test_prompts_and_greedy_answers_are_those_of_lm_eval(lm, evaluated):
    """With the chat template, where there is one, and without."""
    questions = load_questions("worldfacts", "test")[:LIMIT]
    for chat in {uses_chat(lm.tokenizer, "auto"), False}:
        fed, answers = evaluated(chat)
        prompts = encode_prompts(lm.tokenizer, questions, "direct", chat, LONGEST)
        assert sorted(prompts) == sorted(fed)
        assert len(prompts) == LIMIT
        for batch in (LIMIT, 4):
            assert Sampler(lm.model, lm.tokenizer, batch=batch).greedy(prompts, TOKENS) == answers
        assert any(answer.strip() for answer in answers)


@every_real_model
def test_a_real_models_samples_are_the_same_in_any_company(lm):
    questions = load_questions("worldfacts", "test")[:3]
    prompts = encode_prompts(lm.tokenizer, questions, "direct", uses_chat(lm.tokenizer, "auto"), LONGEST)
    keys = [question.id for question in questions]
    settings = Sampling(max_new_tokens=6)
    together = Sampler(lm.model, lm.tokenizer).sample(prompts, keys, 3, settings)
    one = Sampler(lm.model, lm.tokenizer, batch=2).sample(prompts[1:2], keys[1:2], 4, settings)
    assert one[0][:3] == together[1]
    assert len({text for texts in together for text in texts}) > 3


@every_real_model
def test_a_real_model_out_of_its_packages_knows_a_capital(lm):
    """What went wrong in expanding the weights, a layer or a token, would show in the plainest of answers."""
    chat = uses_chat(lm.tokenizer, "auto")
    prompt = encode_prompt(lm.tokenizer, "What is the capital of France?", "direct", chat)
    assert "Paris" in Sampler(lm.model, lm.tokenizer).greedy([prompt], TOKENS)[0]
