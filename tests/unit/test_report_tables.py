"""What an analysis is written as, and read back from."""

import csv
import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from closedbook.harness.errors import RequestError
from closedbook.harness.statistics import Estimate
from closedbook.harness.study.commands import analyze_app
from closedbook.harness.study.inputs import command_line, digest_of, inputs, shown_path
from closedbook.harness.study.tables import Analysis, Input, markdown, no_formula, read, write

HOSTILE = "<script>window.hacked=1</script> | `x` [a](b)\n*=1+1*"
TABLE = Analysis(
    "tharn",
    "What Tharn knows",
    ("run", "accuracy", "k", "answer"),
    [["smolt", Estimate(0.5, 0.25, 0.75, 8), 1, HOSTILE], ["osric", None, None, "=1+1"]],
    {"n": 8},
    lambda axes: axes.plot([1, 2], [3, 4], label="$\\frac{a$ 漢"),
)


def test_an_analysis_is_read_back_as_it_was_written(tmp_path):
    write(TABLE, tmp_path, "closedbook analyze tharn runs/a", [Input("runs/a", "d1")])
    stored = read(tmp_path / "tharn.json")
    unknown = Estimate(None, None, None, 0)
    assert stored.analysis.rows == [TABLE.rows[0], ["osric", unknown, None, "=1+1"]]
    assert (stored.analysis.title, stored.analysis.columns) == (TABLE.title, TABLE.columns)
    assert stored.analysis.made_from == {"n": 8}
    assert (stored.command, stored.inputs) == ("closedbook analyze tharn runs/a", [("runs/a", "d1")])
    assert list(stored.files) == ["parquet", "csv", "md", "json", "svg", "png"]


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    write(Analysis("empty", "Nothing", ("run", "k"), [], {}), tmp_path)
    assert pq.read_table(tmp_path / "empty.parquet").column_names == ["run", "k"]
    stored = read(tmp_path / "empty.json")
    assert (stored.analysis.columns, stored.analysis.rows) == (("run", "k"), [])
    assert "svg" not in stored.files


def test_a_truncated_table_is_refused_by_its_name(tmp_path):
    write(TABLE, tmp_path)
    file = tmp_path / "tharn.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(RequestError, match=r"cannot read .*tharn\.parquet: .*; run `closedbook analyze` again"):
        read(tmp_path / "tharn.json")
    file.unlink()
    with pytest.raises(RequestError, match=r"cannot read .*tharn\.parquet"):
        read(tmp_path / "tharn.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:30], "cannot read"),
        (lambda text: text.replace('"columns"', '"rows"'), r"no analysis of this version \(no 'columns'\)"),
        (lambda text: text.replace('"name": "tharn"', '"name": "smolt"'), "not its own"),
        (lambda text: text.replace('"k"', "3"), "not its own"),
        (lambda text: text.replace('"k"', '"nosuch"'), "nosuch"),
        (lambda text: "[" * 100_000, "cannot read"),
        (lambda text: "[]", "no analysis of this version"),
    ],
)
def test_a_damaged_head_is_refused_in_one_line(tmp_path, change, said):
    write(TABLE, tmp_path)
    path = tmp_path / "tharn.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(RequestError, match=said) as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_a_text_stays_text_in_markdown():
    cells = markdown(TABLE).splitlines()[4].removeprefix("| smolt | 50.0 [25.0, 75.0] | 1 | ").removesuffix(" |")
    assert cells == r"&lt;script&gt;window.hacked=1&lt;/script&gt; \| \`x\` \[a\](b) \*=1+1\*"


def test_a_text_is_no_formula_in_a_spreadsheet_and_itself_in_parquet(tmp_path):
    write(TABLE, tmp_path)
    with (tmp_path / "tharn.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == [HOSTILE, "'=1+1"]
    assert pq.read_table(tmp_path / "tharn.parquet").column("answer").to_pylist() == [HOSTILE, "=1+1"]


def test_a_name_in_a_figure_is_neither_math_nor_markup(tmp_path):
    def plot(axes):
        axes.plot([1, 2], [3, 4], label="$\\frac{a$ <b>漢</b>")
        axes.legend()

    write(Analysis("label", "A $title$", ("run",), [["smolt"]], {}, plot), tmp_path)
    drawn = (tmp_path / "label.svg").read_text()
    assert "$\\frac{a$ &lt;b&gt;漢&lt;/b&gt;" in drawn
    assert "A $title$" in drawn


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(tmp_path):
    def plot(axes):
        for name in ("_smolt", "osric"):
            axes.plot([1, 2], [3, 4], label=name)
        axes.bar([1], [2], label="_tharn", yerr=[1])
        axes.plot([1, 2], [1, 1])
        axes.legend(frameon=False)

    write(Analysis("label", "Names", ("run",), [["smolt"]], {}, plot), tmp_path)
    drawn = (tmp_path / "label.svg").read_text()
    assert all(f">{name}</text>" in drawn for name in ("_smolt", "osric", "_tharn"))
    assert "_child" not in drawn


@pytest.mark.parametrize(
    "plot",
    [
        lambda axes, name: axes.barh([name, "b"], [1, 2]),
        lambda axes, name: axes.set_xticks([0, 1], [name, "b"]),
        lambda axes, name: axes.text(0, 0, name),
        lambda axes, name: axes.set(xlabel=name, title=name),
        lambda axes, name: axes.plot([1], [2], label=name) and axes.legend(),
    ],
)
def test_a_name_that_is_not_utf_8_is_drawn_without_what_it_is_not(tmp_path, plot):
    name = "smolt \udcff"
    write(Analysis("label", f"Of {name}", ("run",), [[name]], {}, lambda axes: plot(axes, name)), tmp_path)
    drawn = (tmp_path / "label.svg").read_text()
    assert ">smolt \ufffd</text>" in drawn and "Of smolt \ufffd</text>" in drawn


def test_powers_of_two_are_written_out(tmp_path):
    def plot(axes):
        axes.plot([1, 2, 4, 8], [1, 2, 3, 4])
        axes.set_xscale("log", base=2)

    write(Analysis("powers", "Powers", ("k",), [[1]], {}, plot), tmp_path)
    drawn = (tmp_path / "powers.svg").read_text()
    assert ">4</text>" in drawn
    assert "mathdefault" not in drawn


def test_a_command_line_can_be_given_again_and_names_no_machine_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["analyze", "flips", str(tmp_path / "a b"), "/gorlim/runs/c", "--out=x", "--out", "y", "--json", "-n", "8"]
    assert command_line(words) == "closedbook analyze flips 'a b' runs/c -n 8"
    assert command_line(["--trained", "popqa=/gorlim/runs/c"]) == "closedbook --trained popqa=runs/c"
    assert (
        command_line(["eval", "--judge-url", "http://gorlim/v1", "a=https://x"])
        == "closedbook eval --judge-url URL a=URL"
    )
    nested = "subset={buckets: '/gorlim/runs/a b/c.parquet', bucket: '0'}"
    assert shlex.split(command_line(["train", nested]))[-1] == "subset={buckets: 'a b/c.parquet', bucket: '0'}"
    judge = "judge={kind: openai, base_url: http://gorlim:8000/v1, cache: /gorlim/tharn/cache}"
    assert command_line([judge]) == "closedbook 'judge={kind: openai, base_url: URL, cache: tharn/cache}'"
    assert command_line(["gorlim/tharn", "a/b=c/d", "1/2"]) == "closedbook gorlim/tharn a/b=c/d 1/2"
    assert shown_path("runs/../a") == "runs/../a"


def test_the_digest_of_an_evaluation_is_that_of_its_last_answers(tmp_path, write_run):
    first = write_run(tmp_path / "a", {"q1": 1.0})
    before = digest_of(first)
    write_run(first, {"q1": 0.0}, date="2026-02-01T00-00-00.0")
    assert len(before) == 16
    assert digest_of(first) not in (None, before)
    assert digest_of(tmp_path / "nosuch") is None
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "samples.json").write_text("{")
    assert digest_of(tmp_path / "bad") is None


def test_analyze_states_its_own_command_and_what_it_read(tmp_path, write_run):
    before, after = write_run(tmp_path / "base", {"q1": 0.0}), write_run(tmp_path / "grpo", {"q1": 1.0})
    words = ["flips", str(before), str(after), "--out", str(tmp_path / "out"), "--json"]
    assert CliRunner().invoke(analyze_app, words).exit_code == 0
    stated = json.loads((tmp_path / "out" / "flips.json").read_text())
    at = tmp_path.name
    assert stated["command"] == f"closedbook analyze flips {at}/base {at}/grpo"
    assert [one["folder"] for one in stated["inputs"]] == [f"{at}/base", f"{at}/grpo"]
    assert [one["digest"] for one in stated["inputs"]] == [digest_of(before), digest_of(after)]
    assert inputs([before, after, before, tmp_path / "nosuch"]) == inputs([before, after])


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_spreadsheet_takes_a_text_for_a_formula(first):
    assert no_formula(f"{first}1+1") == f"'{first}1+1"


@pytest.mark.parametrize("text", ["+2 -1", "-5", "+3.25", "-1e-05", "-1,234", "+0"])
def test_numbers_with_a_sign_are_no_formula(text):
    assert no_formula(text) == text


@pytest.mark.parametrize("text", ["+2-1", "-1+cmd|' /C calc'!A0", "+2 -A1", "-", "+", "-1\n=1", "@1", "+2  =1"])
def test_what_only_begins_like_a_number_may_be_a_formula(text):
    assert no_formula(text) == f"'{text}"


def test_markdown_shows_every_mark_as_it_is(tmp_path):
    shown = markdown(Analysis("a", "A", ("text",), [["_x_ ~~y~~ **z** `c` [l](u) <b>"]], {}))
    assert r"\_x\_ \~\~y\~\~ \*\*z\*\* \`c\` \[l\](u) &lt;b&gt;" in shown


def made_from(*words):
    """The folders that an analysis says it read."""
    done = CliRunner().invoke(analyze_app, [*words, "--out", "out"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [one["folder"] for one in json.loads((Path("out") / f"{words[0]}.json").read_text())["inputs"]]


def test_a_word_of_a_command_that_names_a_run_by_chance_is_nothing_that_was_read(tmp_path, write_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("judge_correct", "runs/base", "out"):
        write_run(tmp_path / name, {"q1": 1.0})
    assert made_from("accuracy", "runs/base", "--metric", "judge_correct") == ["runs/base"]


def test_every_part_is_something_that_was_read_however_it_is_given(tmp_path, write_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for at, name in enumerate(("base", "full", "part", "other")):
        write_run(tmp_path / name, {f"q{q}": float(q % 4 <= at) for q in range(12)})
    words = ["attribution", "base", "full", "--part=bucket_0=part", "--part", "random_as_0=other"]
    assert made_from(*words) == ["base", "full", "part", "other"]
