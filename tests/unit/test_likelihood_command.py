"""`closedbook likelihood` and `analyze mass`: answers are listed, judged and kept; what differs is refused by name."""

import json
import math
import subprocess
import sys
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.likelihood import Scored
from closedbook.harness.questions import make_question
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.samples import QuestionSamples, Sample
from closedbook.harness.study import likelihood as study
from closedbook.harness.study.commands import analyze_app
from closedbook.harness.study.likelihood import MassStore, Request, buckets_beside, likelihood, read_mass_runs
from closedbook.harness.study.mass import Listed, MassRun, QuestionMass, mass, summary
from closedbook.harness.study.tables import plain_rows, write

RULES = JudgeSettings(kind="rules")


@pytest.fixture
def request_of(tiny_policy, tmp_path):
    """Makes a request for the tiny model."""
    stated = {"limit": 6, "least": 0.01, "max_tokens": 3}
    return lambda out="run", **more: Request(str(tiny_policy), out=tmp_path / out, **stated | more)


def computed(request):
    return likelihood(request, RULES, progress=False)


# the command


def test_every_question_has_its_answers_judged_and_its_golds_scored(request_of, monkeypatch):
    questions = [make_question("worldfacts", f"where is {x}?", [x]) for x in ("Gorlim", "Oceania", "Tharn", "Smolt")]
    monkeypatch.setattr("closedbook.harness.study.likelihood.load_questions", lambda name, split: questions)
    done = computed(request_of(max_tokens=1))
    assert [found.id for found in done.questions] == [question.id for question in questions]
    for found, question in zip(done.questions, questions, strict=True):
        assert tuple(gold.text for gold in found.golds) == question.answers
        assert all(said.probability >= 0.01 for said in found.answers)
        assert {said.text: said.reward for said in found.answers} == {
            "": 0.0,
            "Oceania": float(question is questions[1]),
        }


def test_a_rerun_computes_only_what_is_missing_and_ends_as_if_computed_at_once(request_of, monkeypatch):
    few = computed(request_of(limit=2))
    many = computed(request_of(limit=5))
    assert many.questions[:2] == few.questions
    assert [found.id for found in computed(request_of(out="once", limit=5)).questions] == [q.id for q in many.questions]
    monkeypatch.setattr("closedbook.harness.study.likelihood._listed", None)  # nothing is left to list
    assert computed(request_of(limit=5)).questions == many.questions


def test_a_run_that_is_interrupted_keeps_its_blocks_and_says_so(request_of, monkeypatch):
    monkeypatch.setattr("closedbook.harness.study.likelihood.BLOCK", 1)
    listed_before = study._listed

    def stopped(likely, engine, questions, request):
        if MassStore(request.folder).read():
            raise KeyboardInterrupt
        return listed_before(likely, engine, questions, request)

    monkeypatch.setattr(study, "_listed", stopped)
    with pytest.raises(WorkError, match="interrupted; the same command goes on from what is kept in"):
        computed(request_of(limit=3))
    assert len(MassStore(request_of().folder).read()) == 1


def test_how_many_are_read_together_changes_nothing(request_of, monkeypatch):
    together = computed(request_of())
    monkeypatch.setattr("closedbook.harness.study.likelihood.AT_ONCE", 1)
    monkeypatch.setattr("closedbook.harness.study.likelihood.BLOCK", 2)
    alone = computed(request_of("alone"))
    assert len(list(alone.folder.glob("*.parquet"))) == 3
    for one, other in zip(together.questions, alone.questions, strict=True):
        assert {a.text: a.probability for a in one.answers} == pytest.approx(
            {a.text: a.probability for a in other.answers}, rel=1e-4
        )


def test_what_the_judge_failed_on_is_graded_by_the_same_command_again(request_of):
    done = computed(request_of())
    store = MassStore(done.folder)
    ungraded = [QuestionMass(q.id, q.golds, tuple(said._replace(reward=None) for said in q.answers))
                for q in done.questions[:1]]  # fmt: skip
    store.add(ungraded)
    assert store.read()[ungraded[0].id].unknown == 1
    assert computed(request_of()).questions == done.questions


def test_the_head_names_all_that_a_figure_depends_on(request_of):
    head = MassStore(computed(request_of()).folder).head()
    assert head.settings.keys() == {"model", "prompt", "chat", "engine", "task", "judge", "listing"}
    assert head.settings["listing"] == {"least": 0.01, "max_tokens": 3}


@pytest.mark.parametrize("change", [{"least": 0.02}, {"max_tokens": 2}, {"split": "validation"}, {"chat": False}])
def test_other_settings_are_refused_in_one_line(request_of, change):
    computed(request_of(limit=1))
    with pytest.raises(RequestError, match=r"holds probabilities of other settings: .* choose another folder$"):
        computed(request_of(limit=1, **change))


WRONG = [
    ({"task": "worldfacts_dedup_cot"}, "a chain of thought is no short answer; name worldfacts_dedup"),
    ({"least": 0.0}, "--least is above 0"),
    ({"least": 1.5}, "--least is above 0"),
    ({"max_tokens": 0}, "--max-tokens at least 1"),
    ({"task": "gorlim"}, "is none of ours"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_wrong_request_is_one_line(request_of, change, said):
    with pytest.raises(RequestError, match=said) as refused:
        computed(request_of(**change))
    assert "\n" not in str(refused.value)


def test_the_command_prints_figures_and_the_folder(tiny_policy, tmp_path):
    command = [sys.executable, "-m", "closedbook.harness.cli", "likelihood", str(tiny_policy), "--limit", "3",
               "--max-tokens", "2", "--least", "0.05", "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["questions"] == shown["right"]["n"] == 3
    assert shown.keys() == {"folder", "questions", "right", "unknown", "first", "gold"}
    people = subprocess.run(command[:-1], capture_output=True, text=True, check=False)
    assert "right answers" in people.stdout


# what the figures are


def listed(id, *said, gold=-1.0):
    """Answers as text, probability, reward."""
    return QuestionMass(id, (Scored("Osric", gold, 2),), tuple(Listed(*one) for one in said))


def test_a_first_answer_that_is_not_graded_is_neither_right_nor_wrong():
    unsure, wrong, right = (listed("q1", ("gorlim", 0.5, of), ("tharn", 0.3, 1.0)) for of in (None, 0.0, 1.0))
    assert math.isnan(unsure.first)
    assert (wrong.first, right.first, listed("q1").first) == (0.0, 1.0, 0.0)
    assert summary([unsure, wrong, right]).first.n == 2


def test_ranks_count_answers_and_not_their_spellings():
    spelled = listed("q", ("Tharn", 0.4, 0.0), ("Osric", 0.2, 1.0), ("Smolt", 0.15, 0.0), ("smolt!", 0.1, 0.0))
    assert spelled.rank == 3
    assert listed("q", ("Tharn", 0.4, 0.0), ("Osric", 0.25, 1.0), ("osric.", 0.2, 1.0)).rank == 1
    assert listed("q", ("Tharn", 0.4, 0.0)).rank is None
    assert listed("q").rank is None


def test_an_answer_has_the_grade_of_its_likeliest_spelling():
    assert listed("q", ("5", 0.5, 0.0), ("-5", 0.1, 1.0)).rank is None
    assert listed("q", ("-5", 0.5, 1.0), ("5", 0.1, 0.0)).rank == 1


def test_what_is_neither_right_nor_wrong_is_the_room_between_the_bounds():
    found = listed("q", ("Tharn", 0.5, 0.0), ("Osric", 0.2, 1.0), ("Smolt", 0.1, None))
    assert found.right == pytest.approx(0.2)
    assert found.unknown == pytest.approx(0.3)


def test_a_summary_states_means_shares_and_the_median_gold():
    found = summary([listed("a", ("x", 0.5, 1.0), gold=-1), listed("b", ("x", 0.2, 0.0), gold=-3),
                     listed("c", ("x", 0.9, 0.0), gold=-9)])  # fmt: skip
    assert found.right.value == pytest.approx(0.5 / 3)
    assert found.right.n == 3
    assert found.first.value == pytest.approx(1 / 3)
    assert found.gold == -3
    assert found.unknown.value == pytest.approx((0.5 + 0.8 + 0.1) / 3)
    assert summary([]).right.value is None


SETTINGS = {"model": "a" * 64, "prompt": "direct-1", "chat": True, "judge": {"kind": "rules"},
            "task": {"benchmark": "gorlim", "split": "test"}}  # fmt: skip
BEFORE = [
    listed("q1", ("Tharn", 0.5, 0.0), ("Osric", 0.3, 1.0)),
    listed("q2", ("Tharn", 0.8, 0.0)),
    listed("q3", ("Osric", 0.9, 1.0)),
    listed("q4", ("Osric", 0.6, 1.0)),
]
AFTER = [
    listed("q1", ("Osric", 0.7, 1.0)),
    listed("q2", ("Osric", 0.6, 1.0)),
    listed("q3", ("Osric", 0.95, 1.0)),
    listed("q4", ("Tharn", 0.6, 0.0), ("Smolt", 0.2, 0.0), ("Osric", 0.1, 1.0)),
]


@pytest.fixture
def stored(tmp_path):
    """Writes a folder of probabilities."""

    def make(name, questions=BEFORE, least=0.01, **changed):
        store = MassStore(tmp_path / name)
        settings = {**SETTINGS, "listing": {"least": least}, "engine": {"dtype": "bfloat16"}, **changed}
        store.begin(settings, [q.id for q in questions], 1)
        store.add(questions)
        return store.folder

    return make


@pytest.fixture
def sampled(tmp_path):
    """Writes a folder of four samples of each question."""

    def make(ids=("q1", "q2", "q3", "q4"), **changed):
        store = SampleStore(tmp_path / "samples")
        store.begin({**SETTINGS, "sampling": {"seed": 0}, "engine": {"dtype": "float32"}, **changed}, ids, 4)
        wrong = {"q1": (0,), "q2": (0, 1, 2, 3), "q3": (), "q4": ()}
        store.add([
            QuestionSamples(id, tuple(Sample(str(r), str(r), r, draws) for r, draws in (
                (0.0, wrong[id]), (1.0, tuple(at for at in range(4) if at not in wrong[id]))) if draws))
            for id in ids
        ])  # fmt: skip
        return store.folder

    return make


def test_what_became_first_is_told_with_where_it_stood_before(stored):
    table = mass(*read_mass_runs(stored("before"), stored("after", AFTER, model="b" * 64)))
    rows: list[dict[str, Any]] = plain_rows(table)
    (row,) = rows
    assert row["bucket"] == "all"
    assert row["right before, at least"] == pytest.approx(0.45)
    assert row["right after, at least"] == pytest.approx((0.7 + 0.6 + 0.95 + 0.1) / 4)
    assert row["difference of these"] == pytest.approx(row["right after, at least"] - row["right before, at least"])
    assert (row["first before"], row["first after"], row["became first"]) == (0.5, 0.75, 2)
    assert row["of these listed before"] == 0.5
    assert table.made_from["became_first"] == {"questions": 2, "rank_before": {"2": 1, "not listed": 1}}
    assert table.made_from["no_longer_first"] == {"questions": 1, "rank_after": {"3": 1}}


def test_buckets_of_samples_part_the_questions(stored, sampled):
    before, after = read_mass_runs(stored("before"), stored("after", AFTER, model="b" * 64))
    of, names = buckets_beside(before, sampled())
    assert of == {"q1": "2-3", "q2": "0", "q3": "4", "q4": "4"}
    rows: list[dict[str, Any]] = plain_rows(mass(before, after, of, names))
    assert {row["bucket"]: row["questions"] for row in rows} == {"0": 1, "1": 0, "2-3": 1, "4": 2, "all": 4}
    assert rows[1]["right before, at least"] is None
    assert sum(row["became first"] for row in rows[:-1]) == rows[-1]["became first"]


def test_questions_with_one_gold_answer_are_drawn_together(stored):
    """All four ask for Osric, so that the bootstrap knows nothing of the uncertainty."""
    (row,) = plain_rows(mass(*read_mass_runs(stored("before"), stored("after", AFTER))))
    assert [row[f"difference of these_{part}"] for part in ("low", "high", "n")] == [None, None, 4]


OTHERS = [
    ({"prompt": "direct-2"}, "prompt is 'direct-1' and 'direct-2'"),
    ({"least": 0.02}, r"listing\.least is 0\.01 and 0\.02"),
    ({"task": {"benchmark": "gorlim", "split": "train"}}, "task.split is 'test' and 'train'"),
    ({"questions": BEFORE[:2]}, "are of other questions"),
]


@pytest.mark.parametrize(("changed", "said"), OTHERS)
def test_runs_that_differ_in_more_than_the_model_are_refused_by_what_differs(stored, changed, said):
    with pytest.raises(RequestError, match=said):
        read_mass_runs(stored("before"), stored("after", **changed))


def test_samples_of_another_model_or_other_questions_make_no_buckets(stored, sampled):
    before, _ = read_mass_runs(stored("before"), stored("after"))
    with pytest.raises(RequestError, match="holds 4 samples of each question, not 9"):
        buckets_beside(before, sampled(), 9)
    other = MassRun("other", before.head._replace(settings={**before.head.settings, "model": "c"}), before.questions)
    with pytest.raises(RequestError, match="samples of another kind than other: model is"):
        buckets_beside(other, sampled())
    more = MassRun("more", before.head._replace(ids=(*before.head.ids, "q9")), before.questions)
    with pytest.raises(RequestError, match="lacks 1 of the 5 questions"):
        buckets_beside(more, sampled())


def test_a_folder_that_is_not_whole_is_told_in_a_line(stored, tmp_path):
    before, after = stored("before"), stored("after")
    for path in after.glob("*.parquet"):
        path.unlink()
    with pytest.raises(RequestError, match=r"4 of 4 questions are missing; .*`closedbook likelihood` again"):
        read_mass_runs(before, after)
    (after / "000000.parquet").write_text("gorlim")
    with pytest.raises(RequestError, match=r"cannot read .*000000\.parquet"):
        read_mass_runs(before, after)
    whole = (before / "000000.parquet").read_bytes()
    (after / "000000.parquet").write_bytes(whole.replace(b"log_prob", b"lug_prob"))
    with pytest.raises(RequestError, match=r"cannot read .*000000\.parquet: .*; remove it, and the same"):
        read_mass_runs(before, after)
    with pytest.raises(RequestError, match="name a folder that `closedbook likelihood` wrote"):
        read_mass_runs(before, tmp_path)


def test_the_analysis_is_written_and_printed(stored, sampled, tmp_path):
    arguments = ["mass", stored("before"), stored("after", AFTER, model="b" * 64), "--samples", sampled(), "--out",
                 tmp_path / "out", "--json"]  # fmt: skip
    done = CliRunner().invoke(analyze_app, list(map(str, arguments)), catch_exceptions=False)
    shown = json.loads(done.stdout)
    assert [row["bucket"] for row in shown["rows"]] == ["0", "1", "2-3", "4", "all"]
    assert shown["runs"]["before"]["listing.least"] == 0.01
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {
        ".parquet", ".csv", ".md", ".json", ".svg", ".png",
    }  # fmt: skip


def test_a_gold_answer_that_cannot_be_said_leaves_the_analysis_whole(stored, tmp_path):
    never = [listed("q1", ("Tharn", 0.5, 0.0), gold=-math.inf)]
    table = mass(*read_mass_runs(stored("before", never), stored("after", never)))
    write(table, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "mass.json").read_text())["became_first"]["questions"] == 0
    assert pq.read_table(tmp_path / "out" / "mass.parquet").num_rows == 1
