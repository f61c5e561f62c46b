"""Our advantages against TRL's own, and TRL's loss against a hand computation: an upgrade that changes them shows here.

TRL's trainers run for real, on the model of a few thousand random weights that conftest.py makes; only the rewards are
scripted, and the model's answers are ignored.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from closedbook.training.advantages import Form, advantages, has_signal

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

TRAINERS: dict[Form, tuple[type, type, dict[str, str | float]]] = {
    "group_std": (GRPOTrainer, GRPOConfig, {"scale_rewards": "group", "beta": 0.0}),
    "unscaled": (GRPOTrainer, GRPOConfig, {"scale_rewards": "none", "beta": 0.0}),
    "batch_std": (GRPOTrainer, GRPOConfig, {"scale_rewards": "batch", "beta": 0.0}),
    "leave_one_out": (RLOOTrainer, RLOOConfig, {"beta": 0.0}),
}
LENGTH = 3
TEMPERATURE = 0.7
TOLERANCE = 1e-5


class Scripted:
    """A reward function that gives what it was told to."""

    __name__ = "scripted"

    def __init__(self):
        self.rewards = []

    def __call__(self, completions, **_):
        return [self.rewards.pop(0) for _ in completions]


@pytest.fixture(scope="module")
def make_trainer(tiny_model, tmp_path_factory):
    """Makes a trainer with rewards to be scripted; it is in training mode, since TRL's evaluation has other groups."""

    def make(trainer_class, config_class, n=5, **settings):
        config = config_class(
            output_dir=str(tmp_path_factory.mktemp("out")),
            num_generations=n,
            per_device_train_batch_size=n,
            max_completion_length=LENGTH,
            temperature=TEMPERATURE,
            gradient_checkpointing=False,
            disable_tqdm=True,
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
            **settings,
        )
        trainer = trainer_class(
            model=str(tiny_model),
            reward_funcs=Scripted(),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "who wrote hamlet"}] * 2),
        )
        trainer.model.train()
        return trainer

    return make


@pytest.fixture(scope="module", params=itertools.product(TRAINERS, [2, 5]), ids=lambda it: f"{it[0]}-{it[1]}")
def form_and_trainer(request, make_trainer):
    form, n = request.param
    trainer_class, config_class, settings = TRAINERS[form]
    return form, make_trainer(trainer_class, config_class, n, **settings)


def roll_out(trainer, rewards):
    """What TRL makes of rewards in the shape (groups, n), NaN where missing: everything that its loss is given."""
    trainer.reward_funcs[0].rewards = [None if math.isnan(reward) else reward for reward in rewards.flat]
    return trainer._generate_and_score_completions([{"prompt": "who wrote hamlet"}] * rewards.size)


def of_trl(trainer, rewards):
    return roll_out(trainer, rewards)["advantages"].reshape(rewards.shape).numpy()


def random_rewards(seed, n):
    """Rewards in [-10, 10], of which up to half are missing."""
    draws = np.random.default_rng(seed)
    rewards = draws.uniform(-10, 10, (draws.integers(1, 9), n))
    rewards[draws.random(rewards.shape) < draws.choice([0, 0.1, 0.5])] = math.nan
    return rewards


def not_nearly_constant(rewards):
    """Groups whose rewards are well apart, or fewer than two; in others float32 is not able to tell."""
    lowest = np.where(np.isnan(rewards), np.inf, rewards).min(axis=1)
    highest = np.where(np.isnan(rewards), -np.inf, rewards).max(axis=1)
    return (highest - lowest >= 1) | (highest <= lowest)


@pytest.mark.parametrize("seed", range(20))
def test_random_rewards_have_trls_advantages(form_and_trainer, seed):
    form, trainer = form_and_trainer
    rewards = random_rewards(seed, trainer.num_generations)
    compared = not_nearly_constant(rewards)
    ours, theirs = advantages(rewards, form)[compared], of_trl(trainer, rewards)[compared]
    assert np.abs(ours - theirs).max(initial=0) < TOLERANCE


def test_every_group_of_right_wrong_and_missing_has_trls_advantages(form_and_trainer):
    form, trainer = form_and_trainer
    rewards = np.array(list(itertools.product([0.0, 1.0, math.nan], repeat=trainer.num_generations)))
    theirs = of_trl(trainer, rewards)
    assert np.abs(advantages(rewards, form) - theirs).max() < TOLERANCE
    assert np.array_equal(has_signal(rewards), theirs.any(axis=1))


def test_a_step_without_any_reward_has_trls_advantages(form_and_trainer):
    form, trainer = form_and_trainer
    rewards = np.full((2, trainer.num_generations), math.nan)
    assert np.array_equal(advantages(rewards, form), of_trl(trainer, rewards))


def test_trls_share_of_groups_without_deviation_leaves_out_those_without_two_rewards(make_trainer):
    trainer = make_trainer(GRPOTrainer, GRPOConfig, 2, beta=0.0)
    rewards = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, math.nan], [math.nan, math.nan]])
    of_trl(trainer, rewards)
    assert trainer._metrics["train"]["frac_reward_zero_std"] == [0.25]
    assert has_signal(rewards).tolist() == [True, False, False, False]


def logps_by_hand(model, batch):
    """Log probabilities of the tokens of the completions, from logits; shape (rows, LENGTH)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        # without the patch by which TRL's models give log probabilities themselves
        logits = model(input_ids=ids, attention_mask=mask).logits / TEMPERATURE
    every = logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return every[:, -batch["completion_ids"].shape[1] :].numpy().astype(np.float64)


@pytest.fixture
def toy():
    """Two prompts of one length and four completions, of which two end early."""
    completions = torch.tensor([[6, 1, 0], [7, 8, 1], [9, 6, 7], [1, 0, 0]])
    return {
        "prompt_ids": torch.tensor([[3, 4, 5]] * 4),
        "prompt_mask": torch.ones(4, 3, dtype=torch.long),
        "completion_ids": completions,
        "completion_mask": torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]]),
        "num_items_in_batch": torch.tensor(9.0),
    }


def loss_of_trl(trainer, batch, rewards, old, ref):
    given = {"advantages": rewards, "old_per_token_logps": old, "ref_per_token_logps": ref}
    loss = trainer._compute_loss(
        trainer.model, batch | {name: torch.tensor(value, dtype=torch.float32) for name, value in given.items()}
    )
    return loss.item(), trainer._metrics["train"]["kl"][-1]


def per_token_by_hand(logps, old, ref, advantage, corrected, beta=0.1, epsilon=0.2):
    """The clipped surrogate plus beta times the estimate e^d - d - 1 of the KL divergence, d = log ref - log policy.

    Corrected, the estimate is multiplied by the ratio of policy and old policy (DeepSeek-V3.2, arXiv 2512.02556).
    """
    ratio = np.exp(logps - old)
    surrogate = np.minimum(ratio * advantage[:, None], np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage[:, None])
    divergence = (np.exp(ref - logps) - (ref - logps) - 1) * (ratio if corrected else 1)
    return beta * divergence - surrogate, divergence


MEANS = {
    "grpo": lambda loss, mask: ((loss * mask).sum(axis=1) / mask.sum(axis=1)).mean(),
    "bnpo": lambda loss, mask: (loss * mask).sum() / mask.sum(),
    "dr_grpo": lambda loss, mask: (loss * mask).sum() / (len(loss) * LENGTH),
    "dapo": lambda loss, mask: (loss * mask).sum() / mask.sum(),
}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "corrected"])
def penalised(request, make_trainer):
    """A GRPO trainer with a KL term, as GRPO has it or corrected; its policy has moved away from its reference."""
    settings = {"loss_type": "grpo", "beta": 0.1, "epsilon": 0.2, "use_bias_correction_kl": request.param}
    trainer = make_trainer(GRPOTrainer, GRPOConfig, **settings)
    trainer.current_gradient_accumulation_steps = 1  # as its loop sets it
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weight in trainer.model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return trainer


def test_the_loss_of_a_toy_is_what_one_writes_down(penalised, toy):
    """Every ratio is 1.5, clipped to 1.2 where that lowers the objective; every d is log 2, so e^d - d - 1 = 1 - log 2.

    Neither depends on the token, so means over tokens change nothing; two advantages are 1 and two are -1.
    """
    logps = logps_by_hand(penalised.model, toy)
    old, ref = logps - math.log(1.5), logps + math.log(2)
    loss, divergence = loss_of_trl(penalised, toy, np.array([1.0, -1, 1, -1]), old, ref)
    expected = (1 - math.log(2)) * (1.5 if penalised.args.use_bias_correction_kl else 1)
    assert divergence == pytest.approx(expected, abs=TOLERANCE)
    assert loss == pytest.approx((-1.2 + 1.5 - 1.2 + 1.5) / 4 + 0.1 * expected, abs=TOLERANCE)


def test_trl_corrects_the_kl_term_unless_told_not_to(tmp_path):
    assert GRPOConfig(str(tmp_path), use_cpu=True, bf16=False).use_bias_correction_kl


@pytest.mark.parametrize("loss_type", MEANS)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_clipped_surrogate_with_its_kl_term(penalised, toy, loss_type, seed, monkeypatch):
    monkeypatch.setattr(penalised, "loss_type", loss_type)
    draws = np.random.default_rng(seed)
    logps, mask = logps_by_hand(penalised.model, toy), toy["completion_mask"].numpy()
    old, ref = logps + draws.normal(0, 0.3, logps.shape), logps + draws.normal(0, 0.5, logps.shape)
    advantage = advantages(draws.integers(0, 2, (2, 2)) + draws.normal(0, 0.1, (2, 2))).ravel()
    by_hand, divergence = per_token_by_hand(logps, old, ref, advantage, penalised.args.use_bias_correction_kl)
    loss, mean_divergence = loss_of_trl(penalised, toy, advantage, old, ref)
    assert loss == pytest.approx(MEANS[loss_type](by_hand, mask), abs=TOLERANCE)
    assert mean_divergence == pytest.approx((divergence * mask).sum() / mask.sum(), abs=TOLERANCE)


def test_the_reference_is_the_model_that_training_began_with(penalised, tiny_model):
    rolled = roll_out(penalised, np.array([[1.0, 0, 0, 0, 0]]))
    begun = LlamaForCausalLM.from_pretrained(tiny_model)
    mask = rolled["completion_mask"].bool().numpy()
    by_hand, given = logps_by_hand(begun, rolled), rolled["ref_per_token_logps"].numpy()
    assert np.abs(by_hand - given)[mask].max() < TOLERANCE
    assert np.abs(by_hand - logps_by_hand(penalised.model, rolled))[mask].max() > 0.01


def test_rloo_takes_its_kl_term_from_the_reward(make_trainer, tiny_model):
    trainer = make_trainer(RLOOTrainer, RLOOConfig, beta=0.5)
    with torch.no_grad():
        trainer.model.lm_head.weight[6] += 1
    rewards = np.array([[1.0, 0, 0, 1, math.nan], [0, 1, 0, 0, 0]])
    rolled = roll_out(trainer, rewards)
    drift = logps_by_hand(trainer.model, rolled) - logps_by_hand(LlamaForCausalLM.from_pretrained(tiny_model), rolled)
    penalty = 0.5 * (drift * rolled["completion_mask"].numpy()).sum(axis=1).reshape(rewards.shape)
    assert np.abs(penalty).max() > 0.01
    theirs = rolled["advantages"].reshape(rewards.shape).numpy()
    assert np.abs(advantages(rewards - penalty, "leave_one_out") - theirs).max() < TOLERANCE
