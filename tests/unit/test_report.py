"""The report: from folders of runs to one page; what is damaged is refused by name, and texts of models stay texts."""

import base64
import csv
import hashlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from closedbook.harness.errors import RequestError
from closedbook.harness.report.blocks import clean, heat_map, table
from closedbook.harness.report.commands import report_command
from closedbook.harness.report.page import glance, render
from closedbook.harness.report.reading import read_study
from closedbook.harness.report.sections import headline, sections
from closedbook.harness.statistics import Estimate, number
from closedbook.harness.study.tables import Analysis, write

MADE = runpy.run_path(str(Path(__file__).with_name("report_study.py")))
HOSTILE, HOSTILE_RUN = MADE["HOSTILE"], MADE["HOSTILE_RUN"]
TASK, OTHER, values = MADE["TASK"], MADE["OTHER"], MADE["values"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A made-up study, not to be changed."""
    return MADE["write_study"](tmp_path_factory.mktemp("report") / "smolt")


@pytest.fixture
def study(whole, tmp_path):
    """A copy of the study, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "smolt"))


class Elements(HTMLParser):
    """Every element of a page, its attributes, and its text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(whole):
    """The page of the study."""
    study = read_study([whole])
    return render(study, sections(study), "Smolt", "closedbook report smolt")


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def invoke(*words):
    """Standard output of `closedbook report`."""
    app = typer.Typer()
    app.command()(report_command)
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def part(whole, id, **options):
    return next(part for part in sections(read_study([whole]), **options) if part.id == id)


def texts(block):
    """The cells of a table."""
    return [[shown.text for shown in row] for row in block.rows]


def test_a_study_is_found_below_its_folder_the_base_model_first(whole):
    study = read_study([whole])
    assert [run.name for run in study.evaluations] == ["base", HOSTILE_RUN, "grpo"]
    assert [run.name for run in study.samples] == ["base", "grpo"]
    assert [(run.name, run.steps, run.tokens) for run in study.training] == [("grpo", 37, 33300)]
    assert study.training[0].seconds == pytest.approx(37 * 27.5)
    names = [
        "accessibility", "attribution", "baselines", "flips", "gorlim", "majority", "mass", "passk", "transfer",
    ]  # fmt: skip
    assert [one.stored.analysis.name for one in study.analyses] == names
    assert (len(study.calibrations), study.evaluations[0].seconds) == (1, 93.5)


def test_a_single_run_or_analysis_is_a_report_too(whole):
    assert [run.name for run in read_study([whole / "eval" / "grpo"]).evaluations] == ["grpo"]
    assert len(read_study([whole / "analysis" / "passk.json"]).analyses) == 1
    twice = read_study([whole / "eval", whole / "eval" / "base"])
    assert len(twice.evaluations) == 3


def test_runs_of_several_benchmarks_are_told_apart_by_their_paths(whole, tmp_path):
    for name in ("nq", "popqa"):
        shutil.copytree(whole / "eval" / "grpo", tmp_path / "out" / "tharn" / "eval" / name / "grpo")
        shutil.copytree(whole / "analysis", tmp_path / "out" / "tharn" / "analysis" / name)
    shutil.copytree(whole / "eval" / "base", tmp_path / "out" / "tharn" / "eval" / "base")
    study = read_study([tmp_path / "out"])
    assert [run.name for run in study.evaluations] == ["base", "nq/grpo", "popqa/grpo"]
    assert {one.of for one in study.analyses} == {"nq", "popqa"}
    found = next(part for part in sections(study) if part.id == "passk")
    assert [block.caption.rpartition(": ")[2] for block in found.blocks if block.kind == "table"] == ["nq", "popqa"]


def test_a_run_that_has_not_ended_is_named_and_left_out(study):
    (study / "eval" / "grpo" / "figures.json").unlink()
    (study / "train" / "grpo" / "provenance.json").unlink()
    found = read_study([study])
    assert [name.rpartition("/")[2] for name in found.unfinished] == ["grpo", "grpo"]
    assert [run.name for run in found.evaluations] == ["base", HOSTILE_RUN]
    assert "eval/grpo has not ended" in render(found, [], "t", "c")


DAMAGED: dict[str, tuple[Any, str]] = {
    "eval/base/run.json": (lambda text: text[:40], r"run\.json: Invalid JSON"),
    "eval/base/figures.json": (lambda text: text.replace('"n": 60', '"n": "many"'), r"figures\.json: .*n: Input"),
    "eval/base/model/results_2026-01-01T00-00-00.0.json": (lambda text: text[:5], r"results_.*\.json"),
    "samples/base/samples.json": (lambda text: text[:40], r"samples\.json"),
    "eval/grpo/model/samples_worldfacts_dedup_2026-01-01T00-00-00.0.jsonl": (b"\xff", r"cannot read .*samples_.*jsonl"),
    "train/grpo/provenance.json": (lambda text: text.replace('"seed": 7', '"seed": "x"'), r"provenance\.json.*seed"),
    "train/grpo/log.jsonl": (lambda text: text.replace('"step": 3,', '"step": "x",'), r"log\.jsonl, line 3"),
    "analysis/passk.json": (lambda text: text[:40], r"passk\.json"),
    "analysis/flips.parquet": (None, r"flips\.parquet"),
    "samples/grpo/000000.parquet": (None, r"000000\.parquet"),
    "analysis/passk.svg": (lambda text: text[:400], r"passk\.svg"),
}


@pytest.mark.parametrize(
    "change",
    [('"judge_correct": 1.0', '"judge_correct": 0.4'), ('["Osric Tharn wo0009"', '[{"a": 1}'), ('"wo0009"', "9")],
)
def test_a_row_that_lm_eval_did_not_write_is_refused_by_its_line(study, change):
    path = next((study / "eval" / "grpo" / "model").glob("samples_worldfacts*"))
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(RequestError, match=r"samples_.*, line \d+: not a sample of lm-eval"):
        sections(read_study([study]))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_by_its_name_in_one_line(study, name):
    damage, said = DAMAGED[name]
    path = study / name
    whole = path.read_bytes()
    if isinstance(damage, bytes):
        path.write_bytes(whole[:2000] + damage + whole[2001:])
    else:
        path.write_bytes(damage(whole.decode()).encode() if damage else whole[:-30])
    with pytest.raises(RequestError, match=said) as refused:
        sections(read_study([study]))
    assert "\n" not in str(refused.value)


def test_what_holds_nothing_to_report_is_refused(tmp_path, study):
    with pytest.raises(RequestError, match="nosuch is not there; name folders of closedbook eval"):
        read_study([tmp_path / "nosuch"])
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "other.json", tmp_path / "empty"):
        with pytest.raises(RequestError, match="holds nothing to report"):
            read_study([nothing])
    shutil.rmtree(study / "eval" / "base" / "model")
    with pytest.raises(RequestError, match="holds no answers"):
        read_study([study])
    (tmp_path / "empty" / "calibration.json").write_text("{")
    with pytest.raises(RequestError, match=r"calibration\.json: .*closedbook judge calibrate"):
        read_study([tmp_path / "empty"])


def test_what_is_not_installed_is_said_in_one_line(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(RequestError, match=r"jinja2 is not installed; pip install 'closedbook\[report\]'"):
        render(read_study([whole / "eval" / "base"]), [], "t", "c")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RequestError, match="matplotlib is not installed"):
        sections(read_study([whole / "eval"]))


def test_each_part_is_there_where_its_data_is(whole):
    def ids(folder):
        return [part.id for part in sections(read_study([folder]))]

    assert ids(whole) == [
        "accuracy", "passk", "accessibility", "attribution", "transfer", "mass", "baselines", "majority",
        "other8-gorlim", "flips", "judge", "contamination", "cost", "provenance",
    ]  # fmt: skip
    assert ids(whole / "eval" / "base") == ["accuracy", "judge", "contamination", "cost", "provenance"]
    assert ids(whole / "train") == ["cost", "provenance"]
    assert ids(whole / "analysis" / "gorlim.json") == ["other0-gorlim"]


def test_the_headline_is_what_compare_finds_and_its_numbers_link_to_their_run(whole):
    (figure, found) = part(whole, "accuracy").blocks
    assert (figure.kind, found.head) == ("figure", True)
    row = next(row for row in found.rows if (row[0].text, row[1].text) == (TASK, "grpo"))
    assert row[2].link == row[3].link == "run-e3"
    before, after = values(1, 0.3), values(2, 0.75)
    before[: len(HOSTILE)], after[: len(HOSTILE)] = [0.0] * len(HOSTILE), [1.0] * len(HOSTILE)
    assert row[2].sort == sum(after) / 60
    assert row[3].sort == pytest.approx((sum(after) - sum(before)) / 60)
    assert (row[3].tone, row[3].text[0]) == ("up", "+")
    assert found.source.command.startswith("closedbook analyze accuracy ")
    assert [anchor for _, _, anchor in found.source.inputs] == ["run-e1", "run-e2", "run-e3"]


def test_evaluations_of_other_questions_stand_in_a_table_of_their_own(tmp_path):
    write = MADE["write_evaluation"]
    write(tmp_path / "base", {TASK: values(1, 0.3)})
    write(tmp_path / "more", {TASK: values(2, 0.3), OTHER: values(2, 0.3)})
    write(tmp_path / "short", {TASK: values(3, 0.3)[:20]})
    found = headline(read_study([tmp_path]).evaluations)
    assert [one.of for one in found] == ["beside base", "beside short"]
    assert [[row[1] for row in one.stored.analysis.rows] for one in found] == [["base", "more"], ["short"]]


def test_without_a_judge_what_contains_the_answer_is_right(tmp_path):
    MADE["write_evaluation"](tmp_path / "base", {TASK: values(1, 0.3)}, judge=None)
    (one,) = headline(read_study([tmp_path]).evaluations)
    assert one.stored.command.endswith("--metric contains")
    assert any("Without a judge" in fact for fact in part(tmp_path, "judge").facts)


def test_a_run_is_told_from_another_one_with_the_same_answers(tmp_path):
    for name in ("base", "grpo"):
        MADE["write_evaluation"](tmp_path / name, {TASK: values(1, 0.3)}, answers=["Osric"] * 60)
    found = part(tmp_path, "accuracy").blocks[1]
    assert {digest for _, digest, _ in found.source.inputs} == {read_study([tmp_path]).evaluations[0].digest}
    assert [row[1].link for row in found.rows] == ["run-e1", "run-e2"]


def test_an_analysis_may_have_any_name(study):
    for name in ("judge", "main", "run-e1", "judge-table", "a b", "a_b"):
        write(Analysis(name, "Odd", ("k",), [[1]], {}), study / "analysis")
    found = read_study([study])
    page = Elements(render(found, sections(found), "t", "c"))
    ids = [of["id"] for _, of in page.found if "id" in of]
    assert len(ids) == len(set(ids))


def test_facts_beside_the_tables_are_said_in_sentences(whole):
    said = " ".join(fact for id in ("accessibility", "flips", "mass") for fact in part(whole, id).facts)
    assert re.search(r"Of the \d+ questions that no sample and no greedy answer got right, [\d.]+ % \[", said)
    assert re.search(r"8 further samples find a right answer to [\d.]+ % \[.*\] of the \d+ questions with 0 of 8", said)
    assert re.search(r"Of 60 questions \d+ became right and \d+ were lost", said)
    assert "20 right answers became the likeliest; before training they stood at rank 2 (20)." in said


def test_what_failures_of_the_judge_hide_is_said(study):
    made = {
        "n": 8,
        "left_out_as_ungraded": 3,
        "recheck": {
            "more": 8,
            "found": asdict(Estimate(0.2, 0.1, 0.4, 20)),
            "missed_if_rare": 0.3,
            "hidden_by_failures": 2,
        },
    }
    write(Analysis("accessibility", "t", ("bucket",), [["0"]], made), study / "failures")
    said = part(study / "failures", "accessibility").facts
    assert "A failure of the judge may hide a right answer to 2 of the others." in said
    assert "3 questions are in no bucket, since answers that the judge failed on could change which." in said


def test_an_analysis_says_which_run_it_is_of(whole):
    found = part(whole, "baselines").blocks[0].source
    assert [(name, anchor) for name, _, anchor in found.inputs] == [("base", "run-s1")]
    assert (found.decides["sampling.seed"], found.decides["n"]) == ("0", "16")
    listed = part(whole, "mass").blocks[1].source.inputs
    assert [anchor for _, _, anchor in listed] == ["run-l1", "run-l2"]


def test_samples_that_are_not_all_there_are_said_before_any_number(study):
    path = study / "samples" / "base" / "samples.json"
    path.write_text(path.read_text().replace('"n": 16', '"n": 32'))
    assert "The samples base hold 960 of 1,920 that were asked for." in render(read_study([study]), [], "t", "c")


def test_a_run_named_before_is_the_model_before(tmp_path):
    for name in ("after", "before"):
        MADE["write_evaluation"](tmp_path / name, {TASK: values(1, 0.3)})
    assert [run.name for run in read_study([tmp_path]).evaluations] == ["before", "after"]


def test_a_long_table_is_folded(study):
    rows = [[f"q{at}", "0"] for at in range(41)]
    write(Analysis("buckets", "The bucket of each question", ("id", "bucket"), rows, {}), study / "analysis")
    found = read_study([study / "analysis" / "buckets.json"])
    assert "The bucket of each question: show all 41 rows</summary>" in render(found, sections(found), "t", "c")


def test_transfer_is_a_heat_map_with_its_figure_to_take_away(whole):
    heat, found = part(whole, "transfer").blocks
    assert (heat.kind, heat.columns) == ("heat", ["popqa", "worldfacts"])
    assert [name for name, _ in heat.rows] == ["worldfacts", "popqa"]
    assert max(abs(cell.strength) for _, cells in heat.rows for cell in cells) == 1
    assert [file.label for file in heat.downloads] == ["SVG", "PNG"]
    assert len(found.rows) == 4


def test_the_judge_stands_beside_plain_matching_people_and_the_corrected_figure(whole):
    judge = part(whole, "judge")
    names = [column.name for column in judge.blocks[0].columns]
    assert names == ["run", "task", "judged right", "corrected", "contains", "exact match", "judge failed"]
    assert texts(judge.blocks[1])[0] == ["overall", "92.0", "4.0", "12.0", "84.0"]
    assert judge.facts[0].startswith("Judge: kind rules, version judge-rules-2, empty incorrect (base, ")


def test_contamination_says_what_was_dropped_and_who_was_asked_what_it_was_trained_on(study):
    found = part(study, "contamination")
    assert texts(found.blocks[0])[0][:4] == ["worldfacts", "214", "34", "34 contained by fact"]
    assert ["grpo", OTHER, "grpo", "0", "2", "no"] in texts(found.blocks[1])
    assert not found.warnings
    path = study / "eval" / "grpo" / "run.json"
    path.write_text(path.read_text().replace('"contaminated": 0', '"contaminated": 5').replace(
        '"allow_contaminated": false', '"allow_contaminated": true'))  # fmt: skip
    found = part(study, "contamination")
    assert f"grpo was asked 5 questions of {TASK} that it was trained on." in found.warnings
    assert "Questions that were trained on were allowed in: grpo." in found.facts


def test_a_manifest_that_has_changed_since_is_said(study):
    path = next((study / "eval" / "base" / "model").glob("results_*.json"))
    stated = {"configs": {TASK: {"metadata": {"closedbook": {"manifest": "old"}}}}}
    path.write_text(json.dumps(stated))
    said = f"base was asked {TASK} by another manifest than the one that is counted here."
    assert part(study, "contamination").warnings == [said]
    assert read_study([study]).evaluations[0].seconds is None


def test_the_address_of_a_server_is_on_no_page(tmp_path):
    url = "http://gorlim:8000/v1"
    MADE["write_evaluation"](
        tmp_path / "base", {TASK: values(1, 0.3)}, model="smolt", identity=f"smolt@{url}",
        backend="local-chat-completions", arguments={"model": "smolt", "base_url": url, "num_concurrent": 4},
    )  # fmt: skip
    cells = texts(part(tmp_path, "provenance").blocks[0])[0]
    wanted = f"closedbook eval smolt --tasks {TASK} --backend local-chat-completions --model-args num_concurrent=4"
    assert cells[2:4] == [f"{wanted} --judge rules", "smolt"]


def test_cost_and_provenance_have_every_run(whole, study):
    cost, provenance = part(whole, "cost").blocks[0], part(whole, "provenance").blocks[0]
    assert texts(cost)[0] == ["grpo", "train grpo", "37 steps", "33,300", "17"]
    assert [row[0].link for row in cost.rows] == [
        "run-t1",
        "run-s1",
        "run-s2",
        "run-l1",
        "run-l2",
        "run-e1",
        "run-e2",
        "run-e3",
    ]
    assert list(provenance.anchors) == ["run-e1", "run-e2", "run-e3", "run-s1", "run-s2", "run-l1", "run-l2", "run-t1"]
    commands = [row[2].text for row in provenance.rows]
    assert commands[0] == f"closedbook eval runs/base --tasks {TASK},{OTHER} --judge rules"
    assert commands[3].startswith(
        "closedbook sample MODEL --task worldfacts_dedup --split test -n 16 --temperature 1.0"
    )
    assert commands[5] == "closedbook likelihood MODEL --task worldfacts_dedup --split test"
    assert provenance.rows[7][5].text == "7"
    stage = {"command": f"closedbook sample tharn --out '{study}/samples/base'", "digest": "d", "seconds": 90.0}
    (study / "stages").mkdir()
    (study / "stages" / "sample.json").write_text(json.dumps(stage))
    assert texts(part(study, "cost").blocks[0])[1][4] == "1.5"
    assert texts(part(study, "provenance").blocks[0])[3][2] == "closedbook sample tharn"


def test_the_commands_of_a_study_are_read_once_however_many_runs_it_has(study, monkeypatch):
    said: list[str] = []
    split = shlex.split

    def counted(text):
        said.append(text)
        return split(text)

    monkeypatch.setattr(shlex, "split", counted)
    for folder in ("samples", "eval", "likelihood"):
        for at in range(20):
            stage = {"command": f"closedbook {folder} {at}", "digest": "d", "seconds": 90.0}
            (study / "stages" / folder).mkdir(parents=True, exist_ok=True)
            (study / "stages" / folder / f"{at}.json").write_text(json.dumps(stage))
    sections(read_study([study]))
    assert len(said) == len(set(said)) == 60


@pytest.mark.parametrize("quoted", [str, json.dumps])
def test_a_run_of_training_has_the_command_of_its_stage(study, quoted):
    (study / "train" / "grpo").rename(study / "train" / "exp-#2 a")
    words = ["closedbook", "train", "grpo", f"output_dir={quoted(str(study / 'train' / 'exp-#2 a'))}"]
    (study / "stages").mkdir()
    for name, seconds in (("grpo", 6000.0), ("later", 9.0)):
        stage = {"command": shlex.join(words), "digest": "d", "seconds": seconds}
        (study / "stages" / f"{name}.json").write_text(json.dumps(stage))
    (study / "stages" / "odd.json").write_text('{"command": "an \'open quote", "digest": "d", "seconds": 1}')
    assert texts(part(study, "cost").blocks[0])[0][4] == "100"
    assert texts(part(study, "provenance").blocks[0])[7][2].startswith("closedbook train grpo ")


def test_the_page_runs_no_script_but_its_own_and_asks_nothing_of_a_network(page, elements):
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[-1].encode()).digest()).decode()
    policy = next(of["content"] for tag, of in elements.found if of.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert len([tag for tag, _ in elements.found if tag == "script"]) == 1
    handlers = {name for _, of in elements.found for name in of if name.startswith("on")}
    addresses = {value.partition(":")[0].partition("#")[0] for _, of in elements.found for name, value in of.items()
                 if name in ("href", "src", "action", "xlink:href", "srcset")}  # fmt: skip
    assert (handlers, addresses) == (set(), {"data", ""})
    assert "img" not in {tag for tag, _ in elements.found}


@pytest.mark.parametrize("answer", HOSTILE)
def test_an_answer_of_a_model_stays_text(elements, answer):
    shown = clean(answer)[:300]
    assert sum(shown in text for text in elements.text) >= 1


def test_a_name_of_a_run_stays_text_also_in_figures(page, elements):
    assert HOSTILE_RUN in elements.text
    assert "<img" not in re.sub(r'(href|aria-label)="[^"]*"', "", page)
    assert '"&gt;&lt;img src=x' in page or "&#34;&gt;&lt;img src=x" in page


def test_every_id_is_there_once_and_every_link_leads_somewhere(elements):
    ids = [of["id"] for _, of in elements.found if "id" in of]
    links = {of["href"][1:] for _, of in elements.found if of.get("href", "").startswith("#")}
    assert len(ids) == len(set(ids))
    assert links <= set(ids)
    assert {of[name] for _, of in elements.found for name in ("aria-labelledby", "aria-controls") if name in of} <= {
        *ids
    }


def test_tables_and_figures_can_be_taken_away_as_files(elements):
    files = {of["download"]: of["href"] for _, of in elements.found if "download" in of}
    assert {"passk.csv", "passk.md", "passk.svg", "passk.png", "flips.csv", "transfer.png", "runs.csv"} <= files.keys()
    held = {name: base64.b64decode(data.partition("base64,")[2]) for name, data in files.items()}
    assert held["passk.png"].startswith(b"\x89PNG") and b"<svg" in held["passk.svg"]
    rows = list(csv.DictReader(io.StringIO(held["flips.csv"].decode(), newline="")))
    assert rows[0]["before"] == HOSTILE[0]
    assert not any(cell.startswith("=") for row in rows for cell in row.values())
    assert "<script" not in held["flips.md"].decode()


def test_a_page_for_others_shows_no_question_and_no_answer(whole):
    study = read_study([whole])
    page = render(study, sections(study, texts=False), "Smolt", "c")
    decoded = [base64.b64decode(data).decode("utf-8", "replace") for data in re.findall(r"base64,([\w+/=]+)", page)]
    assert not [text for text in [page, *decoded] if "Who wrote book" in text or "says Osric" in text]
    assert "wo0001" in page and "gained" in page
    columns = [column.name for column in part(whole, "accessibility", texts=False).blocks[1].columns]
    assert {"before", "after"} <= set(columns)


def test_what_the_page_does_not_know_brings_no_text_to_a_page_for_others(study):
    secret = "<b>Who wrote Hamlet?</b>"
    columns = ("run", "response", "prompt", "k", "share of it")
    rows: list[list[Any]] = [["base", secret, secret, 1, 0.25], ["grpo", secret, None, 2, 0.5]]
    for name in ("unheard", "passk"):
        figure = (lambda axes: axes.set_title(secret)) if name == "unheard" else None
        odd = Analysis(name, secret if figure else "T", columns, rows, {"why": secret} if figure else {}, figure)
        write(odd, study / "analysis", "closedbook analyze it")
    found = read_study([study])
    page = render(found, sections(found, texts=False), "Smolt", "c")
    decoded = [base64.b64decode(data).decode("utf-8", "replace") for data in re.findall(r"base64,([\w+/=]+)", page)]
    assert not [text for text in [page, *decoded] if "Hamlet" in text]
    for part in (part for part in sections(found, texts=False) if part.id.endswith(("unheard", "passk"))):
        shown: Any = part.blocks[-1]
        assert [column.name for column in shown.columns] == ["run", "k", "share of it"]
        assert texts(shown) == [["base", "1", "25.0 %"], ["grpo", "2", "50.0 %"]]
        assert shown.source.command == "closedbook analyze it"


def test_the_same_study_gives_the_same_page(whole, page):
    study = read_study([whole])
    assert render(study, sections(study), "Smolt", "closedbook report smolt") == page


def test_the_command_writes_the_page_and_says_what_it_read(whole, tmp_path):
    out = tmp_path / "new" / "page.html"
    said = json.loads(invoke(whole, "--out", out, "--title", "A & B", "--json"))
    assert said["evaluations"] == ["base", HOSTILE_RUN, "grpo"]
    assert (said["file"], said["bytes"]) == (str(out), out.stat().st_size)
    assert said["analyses"][0] == "accessibility" and said["sections"][0] == "accuracy"
    page = out.read_text()
    assert "<title>A &amp; B</title>" in page
    assert str(whole.parent) not in page
    assert invoke(whole / "train", "--out", out, "--no-texts") == ""
    assert "<title>train</title>" in out.read_text()


def test_a_limit_is_said_before_any_number(tmp_path):
    MADE["write_evaluation"](tmp_path / "base", {TASK: values(1, 0.3)}, limit=60)
    assert "at most 60 of each task" in render(read_study([tmp_path]), [], "t", "c")


def test_numbers_are_shown_as_their_column_says():
    said = [number(0.0004, "p (Holm)"), number(0.25, "share"), number(1.5, "pass"), number(1234, "p"), number(-2.0)]
    assert said == ["< 0.001", "25.0 %", "1.5", "1234.000", "-2"]
    rows: list[list[Any]] = [["smolt", Estimate(-0.2, -0.3, -0.1, 9)], ["osric", Estimate(None, None, None, 0)]]
    cells = table(Analysis("t", "t", ("run", "difference"), rows, {}), "t", head=True).rows
    assert (cells[0][1].tone, cells[0][1].text) == ("down", "\N{MINUS SIGN}20.0")
    assert list(cells[0][1].place) == pytest.approx([0.0, 33.33, 66.67, 100.0])
    assert (cells[1][1].text, cells[1][1].sort) == ("\N{EN DASH}", None)


def test_a_difference_that_its_own_test_leaves_to_chance_has_no_colour(whole):
    rows: list[list[Any]] = [["smolt", Estimate(0.2, 0.1, 0.3, 9), p] for p in (0.2, 0.05, 0.04, None)]
    found = table(Analysis("t", "t", ("run", "difference", "p (Holm)"), rows, {}), "t")
    assert [row[1].tone for row in found.rows] == ["", "", "up", "up"]
    study = read_study([whole])
    tiles = glance(sections(study))
    assert [tile.what for tile in tiles] == [f"{OTHER}: grpo", f"{TASK}: grpo"]
    assert tiles[1].more.endswith("beside base, p (Holm) < 0.001; the largest of 2 changes")


def test_the_tiles_show_the_largest_change_of_each_task_up_or_down_and_say_how_many_are_left_out(tmp_path):
    columns = ("task", "run", "accuracy", "difference", "p (Holm)")
    rows: list[list[Any]] = []
    for at in range(8):
        base, up, down = Estimate(0.5, 0.4, 0.6, 99), Estimate(0.02, -0.01, 0.05, 99), Estimate(-0.1, -0.12, -0.08, 99)
        rows += [[f"t{at}", "base", base, None, None], [f"t{at}", "up", Estimate(0.52, 0.4, 0.6, 99), up, 0.5]]
        rows += [[f"t{at}", "a: b", Estimate(0.4, 0.3, 0.5, 99), down, 0.0001]]
    write(Analysis("accuracy", "Accuracy", columns, rows, {}), tmp_path)
    study = read_study([tmp_path])
    tiles = glance(sections(study))
    assert [tile.what for tile in tiles] == [f"t{at}: a: b" for at in range(8)]
    more = "\u221210.0 points [\u221212.0, \u22128.0] beside base, p (Holm) < 0.001; the largest of 2 changes"
    assert tiles[0][1:] == ("50.0 \u2192 40.0 %", more, "accuracy-1-table")
    page = render(study, sections(study), "t", "c")
    assert (page.count('class="big"'), "6 of 8 tasks" in page) == (6, True)
    write(Analysis("accuracy", "Accuracy", columns, rows[:18], {}), tmp_path)
    study = read_study([tmp_path])
    assert "of 6 tasks" not in render(study, sections(study), "t", "c")


def test_a_heat_map_wants_its_columns():
    names = ("trained on", "asked", "gain")
    assert heat_map(Analysis("t", "t", ("trained on", "gain"), [["a", 1]], {}), "t", *names) is None
    rows: list[list[Any]] = [["a", "b", None], ["b", "b", Estimate(-0.5, -0.6, -0.4, 9)]]
    found = heat_map(Analysis("t", "t", names, rows, {}), "t", *names)
    cells = [cells for _, cells in found.rows]
    assert cells == [[None], [("\N{MINUS SIGN}50.0", "[\N{MINUS SIGN}60.0, \N{MINUS SIGN}40.0]", -1.0)]]


def test_a_table_says_what_columns_mean_whose_names_do_not_tell():
    rows: list[list[Any]] = [["smolt", Estimate(0.1, 0.0, 0.2, 9), 0.2, None]]
    made = table(Analysis("a", "A", ("run", "detectable, unadjusted", "p (Holm)", "seed"), rows, {}), "a")
    assert [name for name, _ in made.meanings] == ["detectable, unadjusted", "p (Holm)"]
    shares = ("share of the gain", "share of the whole gain")
    told = dict(table(Analysis("b", "B", shares, [[0.1, 0.2]], {}), "b").meanings)
    assert "bucket" in told[shares[0]] and "all questions" in told[shares[1]]
