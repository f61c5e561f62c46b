"""The sampler beside real lm-eval, on the small real model: the same tokens in, the same answers out."""

import pytest

from closedbook.harness.files import tasks_dir
from closedbook.harness.manifests import load_questions
from closedbook.harness.sampling import Sampler, Sampling, encode_prompts

pytestmark = pytest.mark.model
LIMIT = 6
TOKENS = 12


@pytest.fixture(scope="module")
def lm(small_model):
    """lm-eval's own hf backend with the small model."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(small_model), device="cpu", dtype="float32", batch_size=LIMIT)


@pytest.fixture
def evaluated(lm, monkeypatch):
    """Runs lm-eval on worldfacts; returns the token ids that the model was fed, without padding, and the answers."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    def run(chat):
        fed = []
        generate = lm._model_generate

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


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_and_greedy_answers_are_those_of_lm_eval(lm, evaluated, chat):
    fed, answers = evaluated(chat)
    questions = load_questions("worldfacts", "test")[:LIMIT]
    prompts = encode_prompts(lm.tokenizer, questions, "direct", chat, 256)
    assert sorted(prompts) == sorted(fed)
    assert len(prompts) == LIMIT
    for batch in (LIMIT, 4):
        assert Sampler(lm.model, lm.tokenizer, batch=batch).greedy(prompts, TOKENS) == answers
    assert any(answer.strip() for answer in answers)


def test_a_real_models_samples_are_the_same_in_any_company(lm):
    questions = load_questions("worldfacts", "test")[:3]
    prompts = encode_prompts(lm.tokenizer, questions, "direct", True, 256)
    keys = [question.id for question in questions]
    settings = Sampling(max_new_tokens=6)
    together = Sampler(lm.model, lm.tokenizer).sample(prompts, keys, 3, settings)
    one = Sampler(lm.model, lm.tokenizer, batch=2).sample(prompts[1:2], keys[1:2], 4, settings)
    assert one[0][:3] == together[1]
    assert len({text for texts in together for text in texts}) > 3
