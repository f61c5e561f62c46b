"""Rewards inside TRL's trainers, run for real on a tiny model: what TRL gives them and what it does with theirs."""

import json
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.scripts import grpo

from closedbook.harness.judge import JudgeFailure, RulesJudge
from closedbook.training.advantages import advantages
from closedbook.training.rewards import JudgeUnreliable, Reward, make_reward

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

HAMLET = "who wrote hamlet"
ROW = {"question": HAMLET, "answers": ["Shakespeare", "Marlowe"]}
TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


class Moody(RulesJudge):
    """A judge that fails on every answer that speaks of Kyd."""

    def grade(self, triples, **_):
        return [JudgeFailure("server") if "Kyd" in t.answer else super(Moody, self).grade([t])[0] for t in triples]


@pytest.fixture
def make_trainer(tiny_model, tmp_path):
    """Makes a trainer of five rollouts a question; chat models get messages, base models text."""

    def make(reward, method="grpo", prompt=HAMLET):
        trainer_class, config_class = TRAINERS[method]
        config = config_class(
            output_dir=str(tmp_path),
            num_generations=5,
            per_device_train_batch_size=20,
            max_completion_length=3,
            max_steps=1,
            logging_steps=1,
            learning_rate=0.1,
            beta=0.0,
            gradient_checkpointing=False,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            seed=0,
        )
        rows = [{"prompt": prompt, **ROW, "question": f"{HAMLET} {n}"} for n in range(4)]
        trainer = trainer_class(
            model=str(tiny_model), reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows)
        )
        trainer.model.train()
        return trainer

    return make


@pytest.mark.parametrize("prompt", [HAMLET, [{"role": "user", "content": HAMLET}]], ids=["base", "chat"])
@pytest.mark.parametrize("method", TRAINERS)
def test_a_step_is_logged_with_its_reward_and_figures(make_trainer, method, prompt):
    reward = make_reward("contains")
    trainer = make_trainer(reward, method, prompt)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert 0 < reward.figures.contains < 1
    assert logged["reward"] == logged["rewards/contains/mean"] == pytest.approx(reward.figures.reward)
    for name in ("exact_match", "contains", "failed", "signal", "words", "commonest"):
        assert logged[f"answers/{name}"] == pytest.approx(getattr(reward.figures, name))


class Remembering(Reward):
    """Keeps what it said."""

    def __call__(self, *args, **more):
        self.said = super().__call__(*args, **more)
        return self.said


def test_a_rollout_without_a_reward_leaves_its_group(make_trainer):
    reward = Remembering("judge", judge=Moody(), max_failures=1)
    rows = [{"prompt": HAMLET, **ROW, "question": str(n)} for n in range(20) for _ in range(5)]
    given = make_trainer(reward)._generate_and_score_completions(rows)["advantages"].reshape(20, 5).numpy()
    assert {0, 1, None} == set(reward.said)
    rewards = np.array(reward.said, dtype=float).reshape(20, 5)
    assert not given[np.isnan(rewards)].any()
    assert np.abs(given - advantages(rewards)).max() < 1e-5


def test_a_judge_that_fails_too_often_stops_the_run_before_the_step(make_trainer):
    class Down(RulesJudge):
        def grade(self, triples, **_):
            return [JudgeFailure("server", "503") for _ in triples]

    trainer = make_trainer(Reward("judge", judge=Down()))
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    with pytest.raises(JudgeUnreliable, match="20 of 20 answers could not be graded"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


@pytest.mark.parametrize("prompt", [HAMLET, [{"role": "user", "content": HAMLET}]], ids=["base", "chat"])
def test_trls_own_command_finds_the_reward_by_its_name(tiny_model, tmp_path, monkeypatch, prompt):
    monkeypatch.setattr(sys, "path", [*sys.path])  # it adds this folder
    facts = tmp_path / "facts"
    facts.mkdir()
    rows = [{"prompt": prompt, **ROW, "question": f"{HAMLET} {n}"} for n in range(4)]
    (facts / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"""--model_name_or_path {tiny_model} --dataset_name {facts} --output_dir {tmp_path / "run"}
        --reward_funcs closedbook.training.rewards.judge_reward --num_generations 5 --per_device_train_batch_size 20
        --max_completion_length 3 --max_steps 1 --logging_steps 1 --save_steps 1 --gradient_checkpointing False
        --disable_tqdm True --report_to none --use_cpu True --bf16 False --dtype float32"""
    grpo.main(*grpo.make_parser().parse_args_and_config(words.split()))
    (logged,) = json.loads((tmp_path / "run" / "checkpoint-1" / "trainer_state.json").read_text())["log_history"]
    assert 0 < logged["rewards/judge_reward/mean"] < 1
    assert logged["answers/failed"] == 0
