"""What a run shows, keeps and stops for, one rule at a time; a whole run is in test_train."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState
from trl.trainer.utils import RepeatSampler

from closedbook.harness.errors import Unfinished
from closedbook.training.monitor import Monitor, log_line
from closedbook.training.recipes import load_recipe
from closedbook.training.rewards import JudgeUnreliable, Reward
from closedbook.training.trainers import EpochSampler, RolledOut, _Patient
from closedbook.training.validation import ACCURACY, FAILED


@pytest.fixture
def monitored(tmp_path):
    """Makes the monitor of a run of 8 steps that is validated at each; `gather` is what several processes do."""

    def make(accuracies=(), *overrides, gather=lambda asked: asked):
        stated = ["validation={every: 1}", "save={every: 1}", f"output_dir={tmp_path}", *overrides]
        given = iter(accuracies)
        accelerator = SimpleNamespace(device="cpu", gather=gather)
        trainer: Any = SimpleNamespace(extra={}, accelerator=accelerator, figures=None)
        return Monitor(load_recipe("grpo_cpu", stated), trainer, lambda: {ACCURACY: next(given), FAILED: 0.5})

    return make


def after(monitor, steps):
    state = TrainerState(max_steps=8)
    for step in range(1, steps + 1):
        state.global_step = step
        monitor.on_step_end(None, state, TrainerControl())
    return state


def test_a_tie_goes_to_the_earlier_checkpoint(monitored):
    state = after(monitored((0.25, 0.5, 0.5, 0.25)), 4)
    assert (state.best_global_step, state.best_metric) == (2, 0.5)


def test_a_validation_that_is_not_known_is_no_zero_and_never_the_best(monitored, capsys):
    state = after(monitored((math.nan, 0.0, math.nan)), 3)
    assert (state.best_global_step, state.best_metric) == (2, 0.0)
    assert after(monitored((math.nan,)), 1).best_metric is None
    assert "step 1: validation is not known, since the judge failed on 50.0%" in capsys.readouterr().err


def test_the_last_step_is_saved_whether_or_not_it_is_validated(monitored):
    monitor, control = monitored(), TrainerControl()
    monitor.validate = None
    monitor.on_step_end(None, TrainerState(max_steps=8, global_step=8), control)
    assert control.should_save


def test_a_signal_that_comes_while_processes_agree_counts_for_all_of_them_at_the_next_step(monitored):
    def gather(asked):
        monitor.stop = "ended by SIGTERM"
        return torch.cat([asked, torch.tensor([False])])

    monitor = monitored((0.1, 0.1), gather=gather)
    control = TrainerControl()
    monitor.on_step_end(None, TrainerState(max_steps=8, global_step=1), control)
    assert not control.should_training_stop
    monitor.on_step_end(None, TrainerState(max_steps=8, global_step=2), control)
    assert control.should_training_stop


def test_what_any_process_was_asked_ends_this_one_too(monitored):
    monitor = monitored((0.1,), gather=lambda asked: torch.tensor([False, True]))
    control = TrainerControl()
    monitor.on_step_end(None, TrainerState(max_steps=8, global_step=1), control)
    assert control.should_training_stop
    assert "another process was asked to end" in monitor.stop


def test_the_watch_knows_the_steps_from_before_a_resume_and_how_many_rounds_there_are(monitored):
    figures = {"reward": 0.5, "answers/contains": 0.5, "answers/exact_match": 0.5, "answers/commonest": 0.1, "loss": 1}
    monitor = monitored((), "generation_steps=2", "save={every: 2}", "validation={every: 2}")
    lines = [{"step": step} | figures for step in (1, 2, 3)]
    monitor.log_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monitor.on_train_begin(None, TrainerState(max_steps=80, global_step=2), TrainerControl())
    monitor.close()
    assert len(monitor._steps) == 2
    assert monitor._window == 13


def test_the_log_is_json_that_every_reader_takes():
    line = log_line(3, {"loss": math.nan, "entropy": math.inf, "reward": 0.5, "step_time": 1.23456})
    assert json.loads(json.dumps(line, allow_nan=False)) == {
        "step": 3, "loss": None, "entropy": None, "reward": 0.5, "seconds": 1.235,
    }  # fmt: skip


def sampler(seed, epoch=0):
    like = RepeatSampler(list(range(64)), 1, batch_size=8, repeat_count=1, shuffle=True, seed=seed)
    return list(EpochSampler(like, lambda: epoch))


def test_the_order_of_questions_depends_on_the_seed_and_on_the_epoch():
    assert sampler(1) == sampler(1)
    assert len({str(sampler(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_reward_that_gives_up_gives_no_reward_until_all_processes_know():
    class GivesUp(Reward):
        def __call__(self, *args, **named):
            raise JudgeUnreliable("mend the judge")

    patient = _Patient(GivesUp("contains"))
    assert patient(["a", "b"]) == [None, None]
    assert "mend the judge" in str(patient.problem)


class Scripted:
    """TRL's part of a trainer: the rewards of this process."""

    def _calculate_rewards(self, *args, **named):
        return torch.tensor([[1.0]])


class Rolled(RolledOut, Scripted):
    def __init__(self, problem, gathered):
        self.reward_funcs = [SimpleNamespace(problem=problem)]
        self.accelerator = SimpleNamespace(device="cpu", gather=lambda stopped: torch.tensor(gathered))
        self.saved = 0

    def save(self):
        self.saved += 1


@pytest.mark.parametrize(("problem", "gathered", "said"), [(JudgeUnreliable("mend the judge"), [True, False], "mend"),
                                                           (None, [False, True], "for another process")])  # fmt: skip
def test_a_judge_that_fails_for_one_process_ends_all_of_them_with_a_checkpoint(problem, gathered, said):
    trainer = Rolled(problem, gathered)
    with pytest.raises(Unfinished, match=said):
        trainer._calculate_rewards()
    assert trainer.saved == 1
    assert Rolled(None, [False, False])._calculate_rewards().tolist() == [[1.0]]
