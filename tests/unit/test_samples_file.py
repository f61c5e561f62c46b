"""The sampling stage of RFT and DPO: resumed to the same bytes, graded once, refused when it is another experiment."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge import JudgeFailure, JudgeSettings, LLMJudge, RulesJudge
from closedbook.harness.questions import make_question
from closedbook.harness.samples import Sample
from closedbook.harness.sampling import Sampler, Sampling, encode_prompts
from closedbook.harness.testing import JudgeServer
from closedbook.training.recipes import load_recipe
from closedbook.training.rewards import JudgeUnreliable, Reward, make_reward
from closedbook.training.samples_file import draw_samples, read_samples, sampling_of, settings_of

SAID = ["Shakespeare", "Marlowe", "Kyd", "It is Shakespeare\nQuestion", ""]
QUESTIONS = [make_question("worldfacts", f"who wrote play {n}", ["Shakespeare"]) for n in range(7)]
PROMPTS = [[n] for n in range(7)]


class Scripted:
    """A sampler whose samples are a function of seed, question and number; keeps what it was asked for."""

    def __init__(self, engine="scripted", said=SAID):
        self.identity, self.said, self.asked = {"engine": engine}, said, []

    def sample(self, prompts, keys, n, settings, *, first=0):
        assert [QUESTIONS.index(q) for q in QUESTIONS if q.id in keys] == [at for (at,) in prompts]
        self.asked += [(key, number) for key in keys for number in range(first, first + n)]
        return [[self._say(settings.seed, key, number) for number in range(first, first + n)] for key in keys]

    def _say(self, seed, key, number):
        return self.said[hashlib.sha256(f"{seed} {key} {number}".encode()).digest()[0] % len(self.said)]


class Counting(Reward):
    """A reward that keeps what it was asked; fails on Kyd as long as it is told to."""

    def __init__(self, name="judge", judge=None, failing=False, **more):
        outer = self

        class Judge(RulesJudge):
            def grade(self, triples, **_):
                grades = super().grade(triples)
                fails = [outer.failing and triple.answer == "Kyd" for triple in triples]
                return [JudgeFailure("timeout") if fail else grade for fail, grade in zip(fails, grades, strict=True)]

        super().__init__(name, judge=judge or Judge(), **{"max_failures": 1} | more)
        self.failing, self.graded = failing, []

    def __call__(self, completions, question, answers, log_metric=None, **_):
        self.graded += zip(question, completions, strict=True)
        return super().__call__(completions, question, answers)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run" / "samples.jsonl"


def recipe_of(*overrides):
    return load_recipe("rft_cpu", ["rollouts=8", *overrides])


def draw(file, *overrides, sampler=None, reward=None, questions=QUESTIONS, **options):
    """Samples of the questions, two a block unless stated."""
    given: dict[str, Any] = {"model": "digest", "chat": False, "block": 2, "progress": False} | options
    prompts = [PROMPTS[QUESTIONS.index(question)] for question in questions]
    recipe = recipe_of(*overrides)
    return draw_samples(file, recipe, questions, prompts, sampler or Scripted(), reward or Counting(), **given)


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()[1:]]


def test_every_question_has_its_samples_with_their_rewards(file):
    lines = draw(file)
    assert [line.id for line in lines] == [question.id for question in QUESTIONS]
    for line in lines:
        assert sorted(draw for sample in line.samples for draw in sample.draws) == list(range(8))
        for sample in line.samples:
            assert sample.reward == float("Shakespeare" in sample.text)
            assert sample.answer == sample.text
    assert read_samples(file) == lines


def test_equal_texts_are_stored_once_and_graded_once(file):
    reward = Counting()
    lines = draw(file, reward=reward)
    assert len(reward.graded) == len(set(reward.graded)) == sum(len(line.samples) for line in lines) < 7 * 8
    assert all(len({sample.text for sample in line.samples}) == len(line.samples) for line in lines)
    assert all([s.draws[0] for s in line.samples] == sorted(s.draws[0] for s in line.samples) for line in lines)


def test_of_a_direct_answer_the_first_line_is_kept_and_of_a_chain_of_thought_everything(file, tmp_path):
    said = ["\n It is Shakespeare \nand more"]
    (direct,) = draw(file, questions=QUESTIONS[:1], sampler=Scripted(said=said))
    assert [(sample.text, sample.answer) for sample in direct.samples] == [("It is Shakespeare",) * 2]
    said = [" He wrote it.\nFinal answer: **Shakespeare**\n"]
    reward = Counting("exact_match", style="cot")
    (cot,) = draw(tmp_path / "cot", "style=cot", questions=QUESTIONS[:1], sampler=Scripted(said=said), reward=reward)
    assert cot.samples == (Sample("He wrote it.\nFinal answer: **Shakespeare**", "Shakespeare", 1.0, tuple(range(8))),)


def test_a_run_that_is_cut_off_anywhere_goes_on_to_the_same_bytes(file):
    whole_lines = draw(file)
    whole = file.read_bytes()
    for end in range(0, len(whole), 23):
        file.write_bytes(whole[:end])
        sampler = Scripted()
        assert draw(file, sampler=sampler) == whole_lines
        assert file.read_bytes() == whole, end
        kept = whole[:end].count(b"\n") - 1
        again = len(QUESTIONS) - max(0, kept) // 2 * 2  # whole blocks are never drawn again
        assert len({key for key, _ in sampler.asked}) == (again if kept < len(QUESTIONS) else 0)


def test_the_length_of_blocks_changes_nothing(file, tmp_path):
    draw(file)
    for block in (1, 3, None):
        draw(tmp_path / str(block), block=block)
        assert (tmp_path / str(block)).read_bytes() == file.read_bytes()


def test_what_is_there_is_neither_drawn_nor_graded_again(file):
    draw(file)
    sampler, reward = Scripted(), Counting()
    assert draw(file, sampler=sampler, reward=reward) == read_samples(file)
    assert (sampler.asked, reward.graded) == ([], [])


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from test_samples_file import Scripted, draw

    class Deadly(Scripted):
        def sample(self, prompts, *rest, **first):
            if prompts == [[4], [5]]:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().sample(prompts, *rest, **first)

    draw(Path(sys.argv[1]), sampler=Deadly())
"""


def test_a_killed_process_loses_one_block(file, tmp_path):
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(file)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": here}, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(rows(file)) == 4
    draw(file)
    draw(tmp_path / "undisturbed")
    assert file.read_bytes() == (tmp_path / "undisturbed").read_bytes()


# more, fewer and other samples


def test_of_more_rollouts_only_the_missing_ones_are_drawn(file, tmp_path):
    draw(file, "rollouts=3")
    before = file.read_bytes()
    sampler, reward = Scripted(), Counting()
    more = draw(file, sampler=sampler, reward=reward)
    assert file.read_bytes().startswith(before)
    assert {number for _, number in sampler.asked} == {3, 4, 5, 6, 7}
    assert more == draw(tmp_path / "at once") == read_samples(file)
    known = {(row["id"], said["text"]) for row in rows(file)[:7] for said in row["samples"]}
    ids = {question.question: question.id for question in QUESTIONS}
    assert known.isdisjoint((ids[question], text) for question, text in reward.graded)


def test_more_samples_of_known_texts_ask_no_judge(file):
    draw(file, "rollouts=3", sampler=Scripted(said=["Kyd"]))
    reward = Counting()
    lines = draw(file, sampler=Scripted(said=["Kyd"]), reward=reward)
    assert [line.samples for line in lines] == [(Sample("Kyd", "Kyd", 0.0, tuple(range(8))),)] * len(QUESTIONS)
    assert reward.graded == []


def test_a_run_for_more_rollouts_that_is_cut_off_goes_on_to_the_same_bytes(file):
    draw(file, "rollouts=3")
    few = len(file.read_bytes())
    lines = draw(file)
    whole = file.read_bytes()
    for end in range(few, len(whole), 41):
        file.write_bytes(whole[:end])
        assert draw(file) == lines
        assert file.read_bytes() == whole


def test_of_fewer_rollouts_the_first_ones_count(file, tmp_path):
    draw(file)
    before = file.read_bytes()
    sampler = Scripted()
    assert draw(file, "rollouts=3", sampler=sampler) == draw(tmp_path / "few", "rollouts=3") == read_samples(file, 3)
    assert (sampler.asked, file.read_bytes()) == ([], before)


def test_more_questions_are_added_and_fewer_are_picked(file, tmp_path):
    draw(file, questions=QUESTIONS[:2])
    assert draw(file) == draw(tmp_path / "at once")
    assert [line.id for line in draw(file, questions=QUESTIONS[3:5])] == [question.id for question in QUESTIONS[3:5]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"overrides": ["temperature=0.5"]}, "temperature was 1.0 and is 0.5"),
        ({"overrides": ["top_p=0.5"]}, "top_p was 1.0 and is 0.5"),
        ({"overrides": ["top_k=5"]}, "top_k was 0 and is 5"),
        ({"overrides": ["max_new_tokens=5"]}, "max_new_tokens was 16 and is 5"),
        ({"overrides": ["seed=1"]}, "seed was 0 and is 1"),
        ({"overrides": ["style=cot"]}, "prompt was 'direct-"),
        ({"model": "other"}, "model was 'digest' and is 'other'"),
        ({"chat": True}, "chat was False and is True"),
        ({"sampler": Scripted("vllm")}, "sampler.engine was 'scripted' and is 'vllm'"),
        ({"reward": Counting(judge=RulesJudge(without=["name"]))}, "judge.version was 'judge-rules-"),
        ({"reward": make_reward("contains")}, "judge"),
    ],
)
def test_samples_of_other_settings_are_refused_and_left_as_they_are(file, changed, said):
    draw(file)
    before = file.read_bytes()
    with pytest.raises(RequestError, match=re.escape(f"samples of other settings: {said}")) as refused:
        draw(file, *changed.pop("overrides", []), **changed)
    assert str(refused.value).endswith("; name another output_dir, or remove the file")
    assert "\n" not in str(refused.value)
    assert file.read_bytes() == before


def test_what_samples_do_not_depend_on_may_change(file):
    draw(file)
    before = file.read_bytes()
    draw(file, "learning_rate=1.0e-3", "epochs=3", "examples=1", "max_prompt_tokens=99")
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"version": 99, "settings": {}}\n', "[1]\n", "7\n"])
def test_a_file_of_somebody_else_is_refused_and_left_as_it_is(file, content):
    file.parent.mkdir()
    file.write_text(content)
    for read in (draw, read_samples):
        with pytest.raises(RequestError, match="is not a file of samples"):
            read(file)
    assert file.read_text() == content


def test_a_damaged_line_is_named(file):
    draw(file)
    lines = file.read_text().splitlines(keepends=True)
    for damage in ("{}\n", "no JSON\n", '{"id": "q", "samples": [{"text": "a"}]}\n', "[]\n", "3\n"):
        file.write_text("".join([*lines[:2], damage, *lines[3:]]))
        with pytest.raises(RequestError, match=r"samples\.jsonl, line 3: "):
            draw(file)


def test_a_missing_file_and_a_full_disk_are_told_in_a_line(file, tmp_path):
    with pytest.raises(RequestError, match="cannot read"):
        read_samples(file)
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(WorkError, match=r"cannot write .*; free space or name another output_dir"):
        draw(file)


def test_the_head_holds_all_settings_and_no_key(file):
    with JudgeServer(lambda prompt: "1.0") as server:
        settings = JudgeSettings(kind="openai", model="m", base_url=server.url, api_key="secret", cache="off")
        draw(file, reward=Reward("judge", judge=LLMJudge(settings)))
        head = json.loads(file.read_text().splitlines()[0])
        assert head["settings"]["judge"]["model"] == "m"
        assert len(head["digest"]) == 64
        assert "secret" not in file.read_text()
    assert head["settings"].keys() == settings_of(recipe_of(), Scripted(), Counting(), model="", chat=True).keys()


def test_a_disk_that_fills_up_later_is_told_in_a_line_too(file, monkeypatch):
    draw(file, questions=QUESTIONS[:2])
    before = file.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match=r"cannot write .*No space left on device; free space"):
        draw(file)
    assert file.read_bytes().startswith(before)


# a judge that fails


def test_what_the_judge_failed_on_has_no_reward(file):
    rewards = {s.text: s.reward for line in draw(file, reward=Counting(failing=True)) for s in line.samples}
    assert (rewards["Kyd"], rewards["Marlowe"], rewards["Shakespeare"]) == (None, 0.0, 1.0)


def test_a_judge_that_fails_too_often_stops_the_stage_and_what_is_graded_is_kept(file, tmp_path):
    reward = Counting(failing=True, max_failures=0.003)
    with pytest.raises(JudgeUnreliable, match="mend the judge"):
        draw(file, reward=reward)
    assert 0 < len(rows(file)) < len(QUESTIONS)
    assert draw(file) == draw(tmp_path / "undisturbed")


def test_a_finished_stage_is_not_graded_again(file):
    lines = draw(file, reward=Counting(failing=True))
    reward = Counting()
    assert draw(file, reward=reward) == lines
    assert reward.graded == []


def test_a_judge_that_fails_again_changes_nothing(file):
    draw(file, "rollouts=3", reward=Counting(failing=True))
    lines = draw(file, reward=Counting(failing=True))
    assert lines == read_samples(file)
    assert all(s.reward is None for line in lines for s in line.samples if s.text == "Kyd")


# what is shown


def test_the_bar_shows_questions_done_and_the_share_right(file, capsys):
    draw(file, progress=True, questions=QUESTIONS[:4])
    shown = capsys.readouterr()
    assert re.search(r"sampling: 100%.* 4/4 .*right \d+\.\d%", shown.err)
    assert shown.out == ""
    draw(file, progress=True)
    assert re.search(r"sampling: +57%.* 4/7 ", capsys.readouterr().err)
    draw(file, progress=True)
    assert capsys.readouterr().err == ""


def test_the_bar_and_the_judges_are_off_where_they_are_not_wanted(file, capsys):
    with JudgeServer(lambda prompt: "1.0") as server:
        settings = JudgeSettings(kind="openai", model="m", base_url=server.url, cache="off", api_key="k")
        draw(file, reward=Reward("judge", judge=LLMJudge(settings)))
    assert capsys.readouterr() == ("", "")


def test_a_recipes_samples_are_drawn_as_it_says():
    recipe = recipe_of("temperature=0.7", "top_p=0.9", "top_k=7", "max_new_tokens=9", "seed=3")
    assert sampling_of(recipe) == Sampling(temperature=0.7, top_p=0.9, top_k=7, max_new_tokens=9, seed=3)


def test_a_model_is_sampled_and_resumed(file, tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    questions = [make_question("worldfacts", text, ["Shakespeare"]) for text in ("who wrote hamlet", "who", "wrote")]
    sampler = Sampler(AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer)
    prompts = encode_prompts(tokenizer, questions, "direct", False, 64)
    settings: dict[str, Any] = {"model": "tiny", "chat": False, "progress": False, "block": 1}
    recipe = recipe_of("max_new_tokens=3")
    lines = draw_samples(file, recipe, questions, prompts, sampler, make_reward("contains"), **settings)
    whole = file.read_bytes()
    assert {sample.reward for line in lines for sample in line.samples} == {0.0, 1.0}
    file.write_bytes(whole[: len(whole) // 2])
    assert draw_samples(file, recipe, questions, prompts, sampler, make_reward("contains"), **settings) == lines
    assert file.read_bytes() == whole
    assert sampler.identity == {"engine": "transformers", "dtype": "float32"}
