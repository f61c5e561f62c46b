"""Samples in a folder: drawn once, graded once, gone on with after any end, refused where something else is there."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closedbook.harness.drawing import draw
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.questions import make_question
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import QuestionSamples, Sample

SAID = ["Shakespeare", "Marlowe", "Kyd", "It is Shakespeare\nQuestion", ""]
QUESTIONS = [make_question("worldfacts", f"who wrote play {n}", ["Shakespeare"]) for n in range(7)]
IDS = [question.id for question in QUESTIONS]


class Scripted:
    """An engine whose samples are a function of question and number; keeps what it was asked for."""

    at_once = 2

    def __init__(self, said=SAID, seed=0):
        self.identity, self.said, self.seed, self.asked = {"engine": "scripted", "seed": seed}, said, seed, []

    def sample(self, questions, n, first):
        self.asked += [(question.id, number) for question in questions for number in range(first, first + n)]
        return [[self._say(question.id, number) for number in range(first, first + n)] for question in questions]

    def _say(self, id, number):
        return self.said[hashlib.sha256(f"{self.seed} {id} {number}".encode()).digest()[0] % len(self.said)]


class Grading:
    """Right where Shakespeare is named; fails on Kyd as long as it is told to; keeps what it was asked."""

    def __init__(self, failing=False):
        self.failing, self.graded = failing, []

    def __call__(self, asked):
        self.graded += [(question.id, text) for question, text in asked]
        return [None if self.failing and text == "Kyd" else float("Shakespeare" in text) for _, text in asked]


def settings_of(engine, judge="rules"):
    return dict(engine.identity) | {"judge": judge}


def drawn(folder, n=8, engine=None, grade=None, questions=QUESTIONS, judge="rules", **options):
    """Samples of the questions, two a block unless stated."""
    engine, store = engine or Scripted(), SampleStore(folder)
    store.begin(settings_of(engine, judge), [question.id for question in questions], n)
    given = {"block": 2, "progress": False} | options
    return draw(store, questions, n, engine, grade if grade or judge is None else Grading(), **given)


def test_every_question_has_its_samples_with_their_rewards(tmp_path):
    lines = drawn(tmp_path)
    assert [line.id for line in lines] == IDS
    for line in lines:
        assert sorted(number for said in line.samples for number in said.draws) == list(range(8))
        assert all(said.reward == float("Shakespeare" in said.text) for said in line.samples)
    assert SampleStore(tmp_path).read() == {line.id: line for line in lines}
    assert SampleStore(tmp_path).whole() == sorted(lines, key=lambda line: line.id)


def test_equal_texts_are_stored_once_and_graded_once(tmp_path):
    grade = Grading()
    lines = drawn(tmp_path, grade=grade)
    assert len(grade.graded) == len(set(grade.graded)) == sum(len(line.samples) for line in lines) < 7 * 8
    rows = [row for part in tmp_path.glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert len(rows) == len(grade.graded)


def test_of_a_direct_answer_the_first_line_is_kept_and_of_a_chain_of_thought_everything(tmp_path):
    (direct,) = drawn(tmp_path / "a", 2, Scripted(["\n It is Shakespeare \nand more"]), questions=QUESTIONS[:1])
    assert [(said.text, said.answer) for said in direct.samples] == [("It is Shakespeare",) * 2]
    said = ["He wrote it.\nFinal answer: **Shakespeare**\n"]
    (cot,) = drawn(tmp_path / "b", 2, Scripted(said), questions=QUESTIONS[:1], style="cot")
    assert cot.samples == (Sample(said[0].strip(), "Shakespeare", 1.0, (0, 1)),)


def test_what_is_there_is_neither_drawn_nor_graded_again(tmp_path):
    lines = drawn(tmp_path)
    engine, grade = Scripted(), Grading()
    assert drawn(tmp_path, engine=engine, grade=grade) == lines
    assert (engine.asked, grade.graded) == ([], [])


@pytest.mark.parametrize("missing", range(4))
def test_a_file_that_is_gone_is_drawn_again_and_nothing_else(tmp_path, missing):
    lines = drawn(tmp_path)
    (tmp_path / f"{missing:06d}.parquet").unlink()
    with pytest.raises(RequestError, match=r"of 7 questions have fewer than 8 samples; .* draws what is missing"):
        SampleStore(tmp_path).whole()
    engine = Scripted()
    assert drawn(tmp_path, engine=engine) == lines
    assert {id for id, _ in engine.asked} == set(IDS[2 * missing : 2 * missing + 2])


@pytest.mark.parametrize("missing", range(8))
def test_a_gap_in_a_folder_that_was_added_to_is_filled(tmp_path, missing):
    drawn(tmp_path, 3)
    lines = drawn(tmp_path, 8)
    (tmp_path / f"{missing:06d}.parquet").unlink()
    engine = Scripted()
    assert drawn(tmp_path, 8, engine) == lines
    assert SampleStore(tmp_path).whole()
    assert {number for _, number in engine.asked} >= set(range(3) if missing < 4 else range(3, 8))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(first=st.integers(1, 12), more=st.integers(0, 12), block=st.integers(1, 8))
def test_further_samples_are_those_that_one_run_would_have_drawn(tmp_path_factory, first, more, block):
    folder = tmp_path_factory.mktemp("drawn")
    drawn(folder / "steps", first, block=block)
    engine = Scripted()
    assert drawn(folder / "steps", first + more, engine) == drawn(folder / "once", first + more)
    assert {number for _, number in engine.asked} == set(range(first, first + more))


def test_fewer_samples_than_there_are_is_a_matter_of_looking_away(tmp_path):
    eight = drawn(tmp_path)
    engine = Scripted()
    assert drawn(tmp_path, 3, engine) == [line.among(0, 3) for line in eight]
    assert engine.asked == []
    assert SampleStore(tmp_path).whole() == sorted((line.among(0, 3) for line in eight), key=lambda line: line.id)


def test_what_the_judge_failed_on_is_graded_again_and_not_drawn_again(tmp_path):
    failed = drawn(tmp_path, grade=Grading(failing=True))
    assert any(line.failed for line in failed)
    engine, grade = Scripted(), Grading()
    assert drawn(tmp_path, engine=engine, grade=grade) == drawn(tmp_path / "whole")
    assert engine.asked == []
    assert {text for _, text in grade.graded} == {"Kyd"}


def test_samples_may_be_drawn_today_and_judged_another_day(tmp_path):
    drawn(tmp_path, judge=None)
    with pytest.raises(RequestError, match=r"holds samples without verdicts; run `closedbook sample` with a judge"):
        SampleStore(tmp_path).whole()
    engine = Scripted()
    assert drawn(tmp_path, engine=engine) == drawn(tmp_path / "whole")
    assert engine.asked == []


OTHERS = [
    (Scripted(seed=1), "rules", "seed was 0 and is 1"),
    (Scripted(), "another", "judge was 'rules' and is 'another'"),
    (Scripted(), None, "judge was 'rules' and is None"),
]


@pytest.mark.parametrize(("engine", "judge", "said"), OTHERS)
def test_samples_of_other_settings_are_refused_by_what_differs(tmp_path, engine, judge, said):
    drawn(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RequestError, match=re.escape(said)):
        drawn(tmp_path, engine=engine, judge=judge)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("gorlim")
    with pytest.raises(RequestError, match="holds other files; choose another folder"):
        drawn(tmp_path)


def test_a_run_that_was_killed_while_it_wrote_the_head_goes_on(tmp_path):
    (tmp_path / ".samples.json.7.7.tmp").write_text('{"version"')
    assert drawn(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": 1}', '{"version": 2, "settings": {}}', "\udcff"])
def test_a_head_that_is_none_of_ours_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "samples.json").write_text(content, errors="surrogateescape")
    with pytest.raises(RequestError, match=r"samples\.json.*name a folder that `closedbook sample` wrote$"):
        SampleStore(tmp_path).head()


def test_a_head_that_was_edited_is_noticed(tmp_path):
    drawn(tmp_path)
    path = tmp_path / "samples.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    with pytest.raises(RequestError, match="was changed"):
        SampleStore(tmp_path).whole()


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_file_is_one_line_with_the_way_out(tmp_path, keep):
    lines = drawn(tmp_path)
    part = tmp_path / "000001.parquet"
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(
        RequestError, match=r"^cannot read .*000001\.parquet: .*; remove it, and .* draws what it held$"
    ):
        drawn(tmp_path)
    part.unlink()
    assert drawn(tmp_path) == lines


def test_more_samples_than_were_asked_for_are_refused(tmp_path):
    drawn(tmp_path)
    with pytest.raises(RequestError, match=r"holds 8 samples of each question, not 9; draw more with -n"):
        SampleStore(tmp_path).whole(9)


def test_a_disk_that_is_full_keeps_the_blocks_before(tmp_path, monkeypatch):
    add = SampleStore.add

    def full(self, lines):
        if len(list(tmp_path.glob("*.parquet"))) == 2:
            monkeypatch.setattr("pyarrow.parquet.write_table", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
        add(self, lines)

    with monkeypatch.context() as patch, pytest.raises(WorkError, match=r"cannot write .*000002\.parquet: full"):
        patch.setattr(SampleStore, "add", full)
        drawn(tmp_path)
    monkeypatch.undo()
    engine = Scripted()
    drawn(tmp_path, engine=engine)
    assert {id for id, _ in engine.asked} == set(IDS[4:])


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from test_drawing import Scripted, drawn

    class Deadly(Scripted):
        def sample(self, questions, n, first):
            if len(self.asked) >= 32:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().sample(questions, n, first)

    drawn(Path(sys.argv[1]), engine=Deadly())
"""


def test_sigkill_leaves_whole_blocks_and_the_run_ends_with_the_same_set(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path / "run"], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "run").glob("*.parquet"))) == 2
    assert drawn(tmp_path / "run") == drawn(tmp_path / "whole")


def test_the_head_says_what_was_asked_for(tmp_path):
    drawn(tmp_path, 3, questions=QUESTIONS[:2])
    head = SampleStore(tmp_path).head()
    assert (head.n, list(head.ids)) == (3, IDS[:2])
    assert json.loads((tmp_path / "samples.json").read_text())["digest"] == head.digest
    drawn(tmp_path, 4)
    assert SampleStore(tmp_path).head().digest == head.digest
    assert (SampleStore(tmp_path).head().n, list(SampleStore(tmp_path).head().ids)) == (4, IDS)


def test_samples_of_questions_that_were_not_asked_for_are_not_looked_at(tmp_path):
    drawn(tmp_path)
    drawn(tmp_path, questions=QUESTIONS[:2])
    assert [line.id for line in SampleStore(tmp_path).whole()] == sorted(IDS[:2])


def test_a_record_that_adds_a_grade_draws_nothing():
    store_lines = [
        QuestionSamples("q", (Sample("Kyd", "Kyd", None, (0,)),)),
        QuestionSamples("q", (Sample("Kyd", "Kyd", 0.0, ()),)),
    ]
    from closedbook.harness.samples import joined

    assert joined(store_lines) == QuestionSamples("q", (Sample("Kyd", "Kyd", 0.0, (0,)),))


def test_the_bar_shows_questions_done_and_the_share_right(tmp_path, capsys):
    drawn(tmp_path, progress=True, questions=QUESTIONS[:4])
    shown = capsys.readouterr()
    assert re.search(r"sampling: 100%.* 4/4 .*right \d+\.\d%", shown.err)
    assert shown.out == ""
    drawn(tmp_path, progress=True)
    assert re.search(r"sampling: +57%.* 4/7 ", capsys.readouterr().err)
    drawn(tmp_path, progress=True)
    assert capsys.readouterr().err == ""
