"""Rewards: the harness's metric of one answer, one value a completion, in the form that TRL asks for."""

import math
import random
import re
import threading
from typing import Any

import numpy as np
import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge import Grade, JudgeFailure, JudgeSettings, LLMJudge, RulesJudge, Triple
from closedbook.harness.metrics import Answer, metrics
from closedbook.harness.task import CotFilter, DirectFilter
from closedbook.harness.testing import JudgeServer
from closedbook.training.rewards import (
    WINDOW,
    JudgeUnreliable,
    Reward,
    RewardName,
    completion_text,
    judge_reward,
    make_reward,
)

HAMLET = "who wrote hamlet"
BARD = ["William Shakespeare"]


def llm(server, **settings):
    stated = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0, "cache": "off"} | settings
    return LLMJudge(JudgeSettings.model_validate(stated))


def chat(text):
    return [{"role": "assistant", "content": text}]


def step(reward, completions, questions, answers, **more):
    """What TRL would get, given all that it gives: the columns of the data set and things of its own."""
    n = len(completions)
    its_own = {"prompts": ["p"] * n, "completion_ids": [[1]] * n, "trainer_state": None}
    return reward(completions=completions, question=questions, answers=answers, id=["x"] * n, **its_own | more)


def rewards_of(reward, completions, question=HAMLET, golds=BARD, **more):
    """The same for completions of one question."""
    return step(reward, completions, [question] * len(completions), [golds] * len(completions), **more)


def test_a_reward_is_a_metric_of_the_answer():
    completions = ["William Shakespeare", "It was William Shakespeare.", "Marlowe", ""]
    assert rewards_of(make_reward("exact_match"), completions) == [1, 0, 0, 0]
    assert rewards_of(make_reward("contains"), completions) == [1, 1, 0, 0]
    assert rewards_of(make_reward("judge", judging=JudgeSettings(kind="rules")), completions) == [1, 1, 0, 0]


def test_a_reward_carries_its_name_to_trls_log():
    assert Reward("judge", judge=RulesJudge()).__name__ == "judge"


def test_the_judge_rewards_what_only_a_reader_can_tell():
    with JudgeServer(lambda prompt: "1.0" if "Bard" in prompt else "0.0") as server:
        assert rewards_of(Reward("judge", judge=llm(server)), ["the Bard", "Marlowe"]) == [1, 0]


def test_a_chat_models_completion_is_read_as_a_base_models_is():
    texts = ["\nWilliam Shakespeare\nand more", "no"]
    reward = make_reward("exact_match")
    assert rewards_of(reward, texts) == rewards_of(reward, [chat(text) for text in texts]) == [1, 0]
    assert completion_text("a") == completion_text(chat("a")) == "a"
    assert completion_text([{"role": "assistant", "content": "a"}, *chat("b")]) == "b"


def test_the_answer_is_taken_out_as_the_prompts_style_wants_it():
    completion = "It is a play.\nFinal answer: William Shakespeare"
    assert rewards_of(make_reward("exact_match", "cot"), [completion]) == [1]
    assert rewards_of(make_reward("exact_match", "direct"), [completion]) == [0]
    assert make_reward("exact_match").style == Reward("exact_match").style == "direct"


def test_each_answer_of_a_step_is_judged_once():
    with JudgeServer(lambda prompt: "1.0") as server:
        reward = Reward("judge", judge=llm(server))
        same = ["the Bard", " the Bard", "the Bard\nof Avon", "the Swan"]
        assert rewards_of(reward, same * 3) == [1] * 12
        assert len(server.prompts) == 2
        assert rewards_of(reward, ["the Bard"], question="who wrote macbeth") == [1]
        assert rewards_of(reward, ["the Bard"], golds=["Kyd"]) == [1]
        assert len(server.prompts) == 4


def test_the_judge_object_is_given_each_triple_once_and_in_order():
    given = []

    class Recorder(RulesJudge):
        def grade(self, triples, **_):
            given.extend(triples)
            return super().grade(triples)

    rewards_of(Reward("judge", judge=Recorder()), ["b", "a", "b"])
    assert given == [Triple(HAMLET, tuple(BARD), answer) for answer in ("b", "a")]


def test_the_answers_of_a_step_are_judged_at_the_same_time():
    together = threading.Barrier(8, timeout=20)

    def reply(prompt):
        together.wait()
        return "1.0"

    with JudgeServer(reply) as server:
        assert rewards_of(Reward("judge", judge=llm(server)), [f"Bard {n}" for n in "abcdefgh"]) == [1] * 8


def test_a_reward_shows_no_progress_bar_of_the_judges(capsys):
    with JudgeServer(lambda prompt: "1.0") as server:
        rewards_of(Reward("judge", judge=llm(server)), ["the Bard"])
    assert capsys.readouterr().err == ""


def test_a_failure_of_the_judge_is_no_reward():
    with JudgeServer(lambda prompt: 500 if "Marlowe" in prompt else "1.0") as server:
        reward = Reward("judge", judge=llm(server))
        assert rewards_of(reward, ["the Bard", "Marlowe", "Marlowe"]) == [1, None, None]
        assert reward.figures.failed == pytest.approx(2 / 3)
        assert reward.figures.reward == 1


def test_an_answer_that_declines_is_not_rewarded():
    with JudgeServer(lambda prompt: "C") as server:
        assert rewards_of(Reward("judge", judge=llm(server, prompt="simpleqa")), ["I do not know that"]) == [0]


class Scripted(RulesJudge):
    """A judge that fails on the answers that say so."""

    def grade(self, triples, **_):
        return [JudgeFailure("timeout", "60 s") if "fail" in t.answer else Grade.CORRECT for t in triples]


def test_failures_stop_the_run_when_they_pass_the_limit_of_the_window():
    reward = Reward("judge", judge=Scripted(), max_failures=0.01)
    assert WINDOW == 1000
    assert rewards_of(reward, ["fail"] * 10) == [None] * 10
    with pytest.raises(
        JudgeUnreliable,
        match=r"^reward: 11 of 12 answers could not be graded \(timeout: 60 s\), and max_failures allows 10 of 1000; "
        r"mend the judge$",
    ):
        rewards_of(reward, ["ok", "fail"])
    assert reward.figures.failed == 0.5
    assert issubclass(JudgeUnreliable, WorkError)


def test_failures_that_lie_back_more_than_a_window_are_forgotten():
    reward = Reward("judge", judge=Scripted(), max_failures=0.01)
    rewards_of(reward, ["fail"] * 10)
    rewards_of(reward, ["ok"] * (WINDOW - 1))
    assert rewards_of(reward, ["fail"]) == [None]
    assert rewards_of(reward, ["ok"] * WINDOW) == [1] * WINDOW
    assert rewards_of(reward, ["fail"] * 10) == [None] * 10


def test_the_window_is_a_whole_step_where_a_step_is_longer():
    reward = Reward("judge", judge=Scripted(), max_failures=0.01)
    assert rewards_of(reward, ["fail"] * 20 + ["ok"] * 1980)[:21] == [None] * 20 + [1]
    with pytest.raises(JudgeUnreliable, match=r"21 of 2000 .* allows 20 of 2000"):
        rewards_of(reward, ["fail"] * 21 + ["ok"] * 1979)


def test_a_limit_of_nothing_stops_at_the_first_failure():
    reward = Reward("judge", judge=Scripted(), max_failures=0)
    assert rewards_of(reward, ["ok"]) == [1]
    with pytest.raises(JudgeUnreliable):
        rewards_of(reward, ["fail"])


def test_a_limit_of_all_never_stops():
    reward = Reward("judge", judge=Scripted(), max_failures=1)
    assert rewards_of(reward, ["fail"] * (2 * WINDOW)) == [None] * 2 * WINDOW
    assert math.isnan(reward.figures.reward)


def test_the_limit_is_that_of_the_settings():
    with JudgeServer(lambda prompt: 500) as server:
        settings = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0, "max_failures": 0.002}
        reward = make_reward("judge", judging=JudgeSettings.model_validate(settings))
        assert rewards_of(reward, ["a", "b"]) == [None, None]
        with pytest.raises(JudgeUnreliable, match="allows 2 of 1000"):
            rewards_of(reward, ["c"])
    assert Reward("judge", judge=RulesJudge()).max_failures == JudgeSettings(kind="rules").max_failures


def test_the_figures_of_a_step_stand_beside_its_rewards():
    reward = Reward("judge", judge=RulesJudge())
    questions, answers = [HAMLET] * 3 + ["capital of france"] * 3, [BARD] * 3 + [["Paris"]] * 3
    completions = ["Marlowe", "It was William Shakespeare.", "marlowe!", "Paris", "paris", "The  Paris"]
    assert step(reward, completions, questions, answers) == [0, 1, 0, 1, 1, 1]
    figures = reward.figures
    assert figures.reward == pytest.approx(4 / 6)
    assert figures.exact_match == pytest.approx(3 / 6)
    assert figures.contains == pytest.approx(4 / 6)
    assert figures.failed == 0
    assert figures.signal == 1 / 2
    assert figures.words == pytest.approx((1 + 4 + 1 + 1 + 1 + 2) / 6)
    assert (figures.commonest, figures.commonest_answer) == (3 / 6, "paris")


def test_there_are_no_figures_before_the_first_step():
    assert make_reward("contains").figures is None


def test_the_figures_are_those_of_the_last_step():
    reward = make_reward("exact_match")
    rewards_of(reward, ["William Shakespeare"])
    rewards_of(reward, ["no"])
    assert reward.figures.exact_match == reward.figures.reward == 0


def test_groups_of_different_size_have_signal_of_their_own():
    reward = make_reward("exact_match")
    step(reward, ["1", "1", "0", "1"], ["a", "b", "a", "c"], [["1"]] * 4)
    assert reward.figures.signal == pytest.approx(1 / 3)
    # the same words in two benchmarks
    assert step(reward, ["1", "1"], ["a", "a"], [["1"], ["2"]]) == [1, 0]
    assert reward.figures.signal == 0


def test_empty_answers_are_an_answer_that_can_take_over():
    reward = make_reward("contains")
    rewards_of(reward, ["", "\n", "Marlowe"])
    assert (reward.figures.commonest, reward.figures.commonest_answer) == (2 / 3, "")
    assert reward.figures.words == pytest.approx(1 / 3)


def test_the_figures_are_logged_where_trl_offers_a_log():
    logged: dict[str, float] = {}
    rewards_of(make_reward("contains"), ["William Shakespeare", "he"], log_metric=logged.__setitem__)
    assert logged == {
        "answers/exact_match": 0.5,
        "answers/contains": 0.5,
        "answers/failed": 0,
        "answers/signal": 1,
        "answers/words": 1.5,
        "answers/commonest": 0.5,
    }


def test_columns_of_other_lengths_are_refused():
    reward = make_reward("contains")
    said = r"^reward: want one question and its answers a completion; there are 2 completions, 1 questions, 2 answers$"
    with pytest.raises(RequestError, match=said):
        step(reward, ["a", "b"], ["one"], [BARD, BARD])
    with pytest.raises(RequestError, match="there are 1 completions, 1 questions, 0 answers"):
        step(reward, ["a"], ["one"], [])


def test_a_step_without_completions_is_refused():
    with pytest.raises(RequestError, match="there are 0 completions, 0 questions, 0 answers"):
        rewards_of(make_reward("contains"), [])


def test_a_judge_that_grades_too_few_is_refused():
    class Short(RulesJudge):
        def grade(self, triples, **_):
            return super().grade(triples)[1:]

    with pytest.raises(WorkError, match=r"^reward: the judge gave 1 judgements of 2 answers$"):
        rewards_of(Reward("judge", judge=Short()), ["a", "b"])


def test_a_judges_reward_needs_a_judge():
    said = (
        r"^reward: judge needs one; set CLOSEDBOOK_JUDGE to rules, openai or vllm, or choose exact_match or contains$"
    )
    with pytest.raises(RequestError, match=said):
        make_reward("judge")


def test_another_reward_is_refused():
    with pytest.raises(RequestError, match=r"^reward: no reward 'bleu'; there are judge, exact_match, contains$"):
        make_reward("bleu")  # type: ignore[arg-type]


def environment(monkeypatch, server, **more):
    """Names a server's judge as the environment does."""
    named = {"": "openai", "_MODEL": "m", "_BASE_URL": server.url, "_RETRIES": "0", "_CACHE": "off"}
    for name, value in (named | more).items():
        monkeypatch.setenv(f"CLOSEDBOOK_JUDGE{name}", value)


def test_the_plain_function_rewards_by_rules_where_the_environment_names_no_judge():
    texts = ["It was William Shakespeare.\nand more", "Marlowe", ""]
    assert rewards_of(judge_reward, texts) == rewards_of(judge_reward, [chat(text) for text in texts]) == [1, 0, 0]
    assert judge_reward.__name__ == "judge_reward"  # in TRL's log


def test_the_plain_function_asks_the_judge_of_the_environment_and_leaves_its_failures_out(monkeypatch):
    with JudgeServer(lambda prompt: 500 if "Marlowe" in prompt else "1.0") as server:
        environment(monkeypatch, server)
        assert rewards_of(judge_reward, [chat("the Bard"), chat("Marlowe")]) == [1, None]


def test_the_plain_function_tries_its_judge_at_the_first_call_only(monkeypatch):
    with JudgeServer(lambda prompt: "1.0") as server:
        environment(monkeypatch, server)
        rewards_of(judge_reward, ["the Bard"])
        assert len(server.prompts) == 2
        rewards_of(judge_reward, ["the Swan"])
        assert len(server.prompts) == 3


def test_the_plain_function_stops_the_run_when_failures_pass_the_limit(monkeypatch):
    with JudgeServer(lambda prompt: "1.0" if "capital of France" in prompt else 500) as server:
        environment(monkeypatch, server, _MAX_FAILURES="0.002")
        assert rewards_of(judge_reward, ["a", "b"]) == [None, None]
        with pytest.raises(JudgeUnreliable, match=r"3 of 3 answers could not be graded .* allows 2 of 1000"):
            rewards_of(judge_reward, ["c"])


def test_the_plain_function_refuses_a_judge_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE", "openai")
    with pytest.raises(RequestError, match=r"^judge: openai needs a model"):
        rewards_of(judge_reward, ["a"])


@pytest.mark.parametrize("absent", ["question", "answers"])
def test_a_data_set_without_a_column_is_refused_by_its_name(absent):
    columns: dict[str, Any] = {"question": [HAMLET], "answers": [BARD]}
    del columns[absent]
    said = f"^judge_reward: the data set has no column '{absent}'; it needs prompt, question and answers"
    with pytest.raises(RequestError, match=said):
        judge_reward(completions=["a"], prompts=["p"], **columns)


@pytest.mark.parametrize("golds", ["William Shakespeare", [], None, [None]])
def test_gold_answers_that_are_no_list_of_texts_are_refused(golds):
    with pytest.raises(RequestError, match=r"^judge_reward: answers holds .*; give each row a list of texts"):
        rewards_of(judge_reward, ["William Shakespeare"], golds=golds)


def test_a_question_that_is_no_text_is_refused():
    with pytest.raises(RequestError, match=r"^judge_reward: question holds None; give each row a text"):
        rewards_of(judge_reward, ["William Shakespeare"], question=None)


PIECES = [
    "William Shakespeare", "william  shakespeare", "Shakespeare", "Marlowe", "Paris", "1,000", "1000", "5 May 1992",
    "May 5, 1992", "The The", "the", "I don't know", "not", "or", "and", "is", "Final answer:", "**Final answer:**",
    "\n", "\n\n", " ", ".", ",", "?", "¿", "é", "e\u0301", "\u3000", "#", "*", "<b>", "1.0", "0.0", "CORRECT",
]  # fmt: skip
GOLDS = [["William Shakespeare", "Shakespeare"], ["Paris"], ["1,000"], ["5 May 1992"], ["The The"], ["é"], ["#"]]
QUESTIONS = ["who wrote hamlet", "where is it", "how many are there", "when was it", "which band", "what letter", ""]


def generated(n, seed):
    """Responses with questions and golds, made of pieces that trip parsers."""
    draws = random.Random(seed)
    for _ in range(n):
        golds = draws.choice(GOLDS)
        pieces = PIECES + golds * draws.choice([0, 0, 50])
        response = "".join(draws.choice(["", " "]) + draws.choice(pieces) for _ in range(draws.randint(0, 6)))
        yield response, draws.choice(QUESTIONS), golds


def metrics_of(row, style, judge):
    """What the task reports of one response: its filter, the judge, the metrics."""
    response, question, golds = row
    task_filter = {"direct": DirectFilter, "cot": CotFilter}[style]()
    ((answer,),) = task_filter.apply([[response]], [])
    judgements = judge.grade([Triple(question, tuple(golds), answer)])
    return metrics([Answer(answer, judgements[0])], golds)


NAMES: dict[RewardName, str] = {"judge": "judge_correct", "exact_match": "exact_match", "contains": "contains"}


@pytest.mark.parametrize("style", ["direct", "cot"])
@pytest.mark.parametrize("form", [str, chat])
def test_thousands_of_answers_have_the_metric_as_their_reward(style, form):
    rows = list(generated(3000, seed=style))
    responses, questions, answers = zip(*rows, strict=True)
    expected = [metrics_of(row, style, RulesJudge()) for row in rows]
    for name, metric in NAMES.items():
        reward = make_reward(name, style, JudgeSettings(kind="rules"))
        given = step(reward, list(map(form, responses)), questions, answers)
        assert given == [values[metric] for values in expected]
        assert 0.02 < np.mean(given) < 0.98


def test_an_llm_judges_grades_and_failures_are_the_reward_too():
    def reply(prompt):
        return ["1.0", "0.0", "dunno", 500][sum(map(ord, re.sub(r"\W", "", prompt))) % 4]

    with JudgeServer(reply) as server:
        rows = list(generated(120, seed=1))
        responses, questions, answers = zip(*rows, strict=True)
        reward = Reward("judge", judge=llm(server), max_failures=1)
        given = step(reward, responses, questions, answers)
        judge = llm(server)
        expected = [metrics_of(row, "direct", judge)["judge_correct"] for row in rows]
    assert np.array_equal([math.nan if value is None else value for value in given], expected, equal_nan=True)
    assert {None, 0, 1} == set(given)
