"""The sampling stage of RFT and DPO: what it adds to drawing samples into a folder."""

import hashlib
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from closedbook.harness.errors import RequestError
from closedbook.harness.judge import JudgeFailure, JudgeSettings, LLMJudge, RulesJudge
from closedbook.harness.questions import make_question
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.sampling import Sampling
from closedbook.harness.testing import JudgeServer
from closedbook.training.recipes import load_recipe
from closedbook.training.rewards import JudgeUnreliable, Reward, make_reward
from closedbook.training.sampled import drawn, sampled_rows, sampling_of, settings_of

SAID = ["Shakespeare", "Marlowe", "Kyd"]
QUESTIONS = [make_question("worldfacts", f"who wrote play {n}", ["Shakespeare"]) for n in range(300)]


class Scripted:
    """An engine whose samples are a function of question and number."""

    at_once = 1

    def __init__(self, model="digest"):
        self.identity, self.asked = {"model": model}, []

    def sample(self, questions, n, first):
        self.asked += [question.id for question in questions]
        numbers = range(first, first + n)
        return [[self._say(f"{question.id} {number}") for number in numbers] for question in questions]

    def _say(self, key):
        return SAID[hashlib.sha256(key.encode()).digest()[0] % len(SAID)]


class Failing(Reward):
    """A reward whose judge fails on Kyd as long as it is told to; keeps what it was asked."""

    def __init__(self, failing=True, **more):
        outer = self

        class Judge(RulesJudge):
            def grade(self, triples, **_):
                grades = super().grade(triples)
                fails = [outer.failing and triple.answer == "Kyd" for triple in triples]
                return [JudgeFailure("timeout") if fail else grade for fail, grade in zip(fails, grades, strict=True)]

        super().__init__("judge", judge=Judge(), **{"max_failures": 1} | more)
        self.failing, self.graded = failing, []

    def __call__(self, completions, question, answers, log_metric=None, **_):
        self.graded += zip(question, completions, strict=True)
        return super().__call__(completions, question, answers)


@pytest.fixture
def recipe(tmp_path):
    """Makes a recipe of a run in a folder of its own."""

    def make(*overrides, out="run"):
        name = "dpo_cpu" if "method=dpo" in overrides else "rft_cpu"
        return load_recipe(name, ["rollouts=8", "examples=null", f"output_dir={tmp_path / out}", *overrides])

    return make


def stage(recipe, reward=None, engine=None, questions=QUESTIONS[:20]):
    return drawn(recipe, questions, engine or Scripted(), reward or Failing(False), progress=False)


def test_a_stage_that_is_done_is_not_graded_again_so_that_what_is_trained_on_stays(recipe):
    lines = stage(recipe(), Failing())
    assert any(line.failed for line in lines)
    again, engine = Failing(False), Scripted()
    assert stage(recipe(), again, engine) == lines
    assert (again.graded, engine.asked) == ([], [])


def test_what_the_judge_failed_on_is_graded_again_as_long_as_samples_are_missing(recipe):
    stage(recipe("rollouts=3"), Failing())
    assert stage(recipe(), Failing(False)) == stage(recipe(out="whole"))


def test_a_judge_that_fails_too_often_stops_the_stage_and_what_was_graded_is_kept(recipe):
    """Blocks of 128 questions; some 40 answers of each are Kyd's, once each question, and 60 failures are allowed."""
    with pytest.raises(JudgeUnreliable, match="mend the judge"):
        stage(recipe(), Failing(max_failures=0.2), questions=QUESTIONS)
    kept = SampleStore(recipe().folder / "samples").read()
    assert 0 < len(kept) < len(QUESTIONS)
    assert stage(recipe(), questions=QUESTIONS) == stage(recipe(out="whole"), questions=QUESTIONS)


@pytest.mark.parametrize(
    ("engine", "reward", "said"),
    [
        (Scripted("other"), None, "model was 'digest' and is 'other'"),
        (None, make_reward("contains"), "judge.empty was"),
        (None, Reward("judge", judge=RulesJudge(without=["name"])), "judge.version was"),
    ],
)
def test_samples_of_another_model_reward_or_judge_are_refused(recipe, engine, reward, said):
    stage(recipe())
    with pytest.raises(RequestError, match=said):
        stage(recipe(), reward, engine)


def test_what_samples_do_not_depend_on_may_change(recipe):
    lines, engine = stage(recipe()), Scripted()
    assert stage(recipe("learning_rate=1.0e-3", "epochs=3", "examples=1"), engine=engine) == lines
    assert engine.asked == []


def rows_of(recipe, questions=QUESTIONS[:20]):
    """What TRL is given, by an engine whose model lies nowhere."""
    engine: Any = Scripted()
    engine.chat, engine.sampler = False, SimpleNamespace(model=SimpleNamespace(device="cpu", to=lambda device: None))
    config: Any = SimpleNamespace(device="cpu", main_process_first=lambda local: nullcontext())
    return sampled_rows(recipe, questions, engine, config, Failing(False), progress=False), engine


def test_of_a_pair_the_right_answer_is_the_chosen_one(recipe):
    dpo, _ = rows_of(recipe("rollouts=8", "method=dpo", "beta=0.1"))
    assert len(dpo) > 1
    assert {row["chosen"] for row in dpo} == {" Shakespeare"}
    assert {row["rejected"] for row in dpo} == {" Marlowe", " Kyd"}


def test_rft_trains_on_right_answers_and_as_many_as_the_recipe_says(recipe):
    rows, _ = rows_of(recipe())
    assert {row["completion"] for row in rows} == {" Shakespeare"}
    pairs, _ = rows_of(recipe("method=dpo", "beta=0.1", out="pairs"))
    fewer, _ = rows_of(recipe("method=dpo", "beta=0.1", "examples=1", out="fewer"))
    others, _ = rows_of(recipe("method=dpo", "beta=0.1", "examples=1", "seed=3", out="others"))
    assert len(fewer) == len({row["prompt"] for row in pairs}) < len(pairs)
    assert fewer != others


def test_max_steps_takes_questions_by_their_ids_so_that_none_of_the_benchmarks_comes_first(recipe):
    _, engine = rows_of(recipe("max_steps=1", "questions=4"))
    assert sorted(set(engine.asked)) == sorted(question.id for question in QUESTIONS[:20])[:4]


def test_the_settings_hold_the_judge_and_no_key():
    with JudgeServer(lambda prompt: "1.0") as server:
        settings = JudgeSettings(kind="openai", model="m", base_url=server.url, api_key="secret", cache="off")
        stated = settings_of(Scripted(), Reward("judge", judge=LLMJudge(settings)))
    assert stated["judge"]["model"] == "m"
    assert "secret" not in str(stated)


def test_a_recipes_samples_are_drawn_as_it_says(recipe):
    stated = recipe("temperature=0.7", "top_p=0.9", "top_k=7", "max_new_tokens=9", "seed=3")
    assert sampling_of(stated) == Sampling(temperature=0.7, top_p=0.9, top_k=7, max_new_tokens=9, seed=3)
