"""Laws of the judge: its parser is total, its prompt is inert, its cache is a dictionary, its correction is honest."""

import re
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from closedbook.harness.judge import Grade, JudgeFailure, RulesJudge, Triple
from closedbook.harness.judge.attack import attacks
from closedbook.harness.judge.reply_cache import Call, ReplyCache
from closedbook.harness.judge.rubrics import RUBRICS, build_messages, inert, parse
from closedbook.harness.judge.rules import RULES, decide
from closedbook.harness.statistics import Confusion, corrected, kappa, wilson

PIECES = [
    "1.0", "0.0", "A", "B", "C", "CORRECT", "INCORRECT", "not attempted", "Score:", "is", "the", "<think>", "</think>",
    "{", "}", '"verdict":', '"', "\n", " ", ".", "**", "```", "json", ",", "or", "[", "]", "(", ")",
]  # fmt: skip
replies = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
rubrics = st.sampled_from(sorted(RUBRICS)).map(RUBRICS.get)
texts = st.text(max_size=60)
triples = st.builds(Triple, texts, st.lists(texts, min_size=1, max_size=3).map(tuple), texts)


@given(replies, rubrics)
def test_any_reply_gives_a_grade_or_a_failure(reply, rubric):
    assert isinstance(parse(reply, rubric), Grade | JudgeFailure)


@given(replies, rubrics)
def test_no_reply_is_correct_without_the_offered_label(reply, rubric):
    if parse(reply, rubric) is Grade.CORRECT:
        labels = [label for label, grade in rubric.labels.items() if grade is Grade.CORRECT]
        assert any(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", reply, re.IGNORECASE) for label in labels)


@given(replies, rubrics, st.sampled_from([" ", "\n", "."]))
def test_white_space_and_a_full_stop_change_no_grade(reply, rubric, end):
    judged = parse(reply, rubric)
    if isinstance(judged, Grade) and (reply.rstrip()[-1:].isalnum() or end.isspace()):
        assert parse(reply + end, rubric) is judged


@given(triples, rubrics)
def test_a_prompt_has_its_own_tags_and_no_others(triple, rubric):
    text = build_messages(triple, rubric)[0]["content"]
    assert re.findall(r"</?\w+>", text) == re.findall(
        r"</?\w+>", build_messages(Triple("", ("",), ""), rubric)[0]["content"]
    )
    assert text.count("<") == text.count(">") == 6


@given(st.text())
def test_inert_text_is_one_line_and_stays_as_it_is(text):
    shown = inert(text)
    assert shown == inert(shown)
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == shown


@given(triples)
def test_the_rules_are_total_and_agree_with_themselves(triple):
    ruling = decide(triple)
    assert ruling is None or ruling.rule in RULES
    assert ruling == decide(triple)


@given(st.sampled_from(attacks()), texts)
def test_an_attack_in_front_of_anything_is_no_match(attack, tail):
    assert RulesJudge().grade([attack.triple]) == [Grade.INCORRECT]


cells = st.integers(0, 400)


@given(st.builds(Confusion, cells, cells, cells, cells))
def test_figures_lie_within_their_intervals(table):
    for name, figure in table.figures().items():
        assert figure.low is not None or figure.value is None or name == "kappa"
        if figure.low is not None:
            assert figure.low <= figure.value + 1e-9
            assert figure.value <= figure.high + 1e-9
            assert figure.high <= 1 + 1e-9
            assert figure.low >= (-1 if name == "kappa" else 0) - 1e-9


@given(st.integers(1, 500), st.integers(1, 500))
def test_kappa_is_one_for_a_perfect_judge_and_swaps_with_the_grades(right, wrong):
    assert kappa(Confusion(right, 0, wrong, 0)).value == pytest.approx(1.0)
    assert kappa(Confusion(right, 3, wrong, 5)).value == pytest.approx(kappa(Confusion(wrong, 5, right, 3)).value)


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_perfect_judge_changes_nothing(successes, more, right, wrong):
    raw = wilson(successes, successes + more)
    done = corrected(raw, Confusion(right, 0, wrong, 0))
    assert done.value == pytest.approx(raw.value)
    assert done.low <= done.value <= done.high


@given(st.integers(1, 300), st.integers(0, 300))
def test_a_judge_no_better_than_chance_corrects_nothing(successes, more):
    assert corrected(wilson(successes, successes + more), Confusion(5, 5, 5, 5)).value is None
    assert corrected(wilson(successes, successes + more), Confusion(5, 0, 0, 5)).value is None


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.7])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.88, 0.99), (0.95, 0.9), (0.7, 0.8)])
@pytest.mark.parametrize(("labelled", "n"), [(200, 500), (2000, 1000), (200, 5000)])
def test_the_corrected_interval_covers_the_truth_at_its_nominal_rate(truth, sensitivity, specificity, labelled, n):
    draws = np.random.default_rng(7)
    covered, rounds = 0, 1500
    for _ in range(rounds):
        tp, tn = draws.binomial(labelled // 2, sensitivity), draws.binomial(labelled // 2, specificity)
        called_right = draws.binomial(n, truth * sensitivity + (1 - truth) * (1 - specificity))
        table = Confusion(int(tp), labelled // 2 - int(tn), int(tn), labelled // 2 - int(tp))
        done = corrected(wilson(int(called_right), n), table)
        covered += done.low <= truth <= done.high
    assert covered / rounds >= 0.95 - 3 * (0.95 * 0.05 / rounds) ** 0.5


CALL = Call("m", "s", 1, 1, 0.0)


class CacheIsADictionary(RuleBasedStateMachine):
    """Two handles on one file behave like one dictionary that keeps the first value, whatever else happens."""

    keys = st.binary(min_size=1, max_size=2)
    values = st.text(max_size=8)

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "replies.sqlite"
        self.handles = [ReplyCache(self.path), ReplyCache(self.path)]
        self.model, self.calls = {}, 0

    @rule(key=keys, value=values, handle=st.integers(0, 1))
    def put(self, key, value, handle):
        self.handles[handle].add(CALL, key, value)
        self.calls += 1
        if value and value.encode("utf-8", "replace").decode() == value:
            self.model.setdefault(key, value)

    @rule(key=keys, handle=st.integers(0, 1))
    def get(self, key, handle):
        assert self.handles[handle].get(key) == self.model.get(key)

    @rule(handle=st.integers(0, 1))
    def record(self, handle):
        self.handles[handle].add(CALL)
        self.calls += 1

    @rule(handle=st.integers(0, 1))
    def reopen(self, handle):
        self.handles[handle].close()
        self.handles[handle] = ReplyCache(self.path)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def damage(self, data):
        key = data.draw(st.sampled_from(sorted(self.model)))
        with sqlite3.connect(self.path) as database:
            database.execute("UPDATE replies SET reply = reply || 'x' WHERE key = ?", (key,))
        database.close()
        del self.model[key]
        assert self.handles[0].get(key) is None

    @invariant()
    def everything_is_there(self):
        if hasattr(self, "model"):
            database = sqlite3.connect(self.path)
            assert dict(database.execute("SELECT key, reply FROM replies").fetchall()) == self.model
            assert database.execute("SELECT count(*) FROM calls").fetchone() == (self.calls,)
            database.close()

    def teardown(self):
        for handle in getattr(self, "handles", ()):
            handle.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()


CacheIsADictionary.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
test_the_cache_is_a_dictionary = CacheIsADictionary.TestCase
