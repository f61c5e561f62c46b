"""`closedbook sample`: a model's answers to a task's questions are drawn, graded, added to, and never mixed."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from closedbook.harness import cli
from closedbook.harness.cluster import Cluster
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import alone
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.manifests import load_questions
from closedbook.harness.pass_at_k import passes
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.sampling import Sampling
from closedbook.harness.study.sample import Request, asked_by, sample
from closedbook.harness.testing import JudgeServer

RULES = JudgeSettings(kind="rules")
SHORT = Sampling(max_new_tokens=4)


@pytest.fixture
def request_of(tiny_policy, tmp_path):
    """Makes a request for the tiny model."""
    return lambda n=4, out="run", **more: Request(
        str(tiny_policy), n=n, out=tmp_path / out, **{"sampling": SHORT, "limit": 6} | more
    )


def drawn(request, judging=RULES):
    return sample(request, judging, progress=False)


def test_every_question_of_the_task_has_its_samples(request_of):
    done = drawn(request_of())
    assert [line.id for line in done.samples] == [question.id for question in load_questions("worldfacts", "test")[:6]]
    assert {line.drawn for line in done.samples} == {4}
    assert done.counts.samples == 24
    assert [point.k for point in done.passes] == [1, 2, 4]


def test_a_larger_n_draws_only_what_is_missing_and_ends_as_if_drawn_at_once(request_of):
    few = drawn(request_of(2))
    many = drawn(request_of(5))
    assert [line.among(0, 2) for line in many.samples] == list(few.samples)
    assert many.samples == drawn(request_of(5, out="once")).samples


def test_what_is_not_graded_today_is_graded_by_the_same_command_another_day(request_of):
    ungraded = drawn(request_of(), None)
    assert ungraded.counts.ungraded == 24
    assert ungraded.passes == ()
    assert drawn(request_of()).samples == drawn(request_of(out="once")).samples


def test_the_head_names_all_that_a_sample_depends_on(request_of, tiny_policy):
    drawn(request_of())
    settings = SampleStore(request_of().folder).head().settings
    assert settings["task"].keys() == {"benchmark", "split", "manifest"}
    assert settings["sampling"]["max_new_tokens"] == 4
    assert settings["engine"] == {"engine": "transformers", "dtype": "float32"}
    assert settings["chat"] is True
    assert len(settings["model"]) == 64


OTHERS = [{"split": "validation"}, {"sampling": Sampling(max_new_tokens=4, seed=1)}, {"chat": False}]


@pytest.mark.parametrize("change", OTHERS)
def test_other_samples_are_refused_in_one_line(request_of, change):
    drawn(request_of())
    with pytest.raises(RequestError, match=r"holds samples of other settings: .* choose another folder$"):
        drawn(request_of(**change))


@pytest.mark.parametrize("task", ["gorlim_dedup", "worldfacts", "worldfacts_dedup_dedup", "arc_easy"])
def test_a_task_that_is_none_of_ours_is_refused(task):
    with pytest.raises(RequestError):
        asked_by(task)
    assert asked_by("popqa_dedup_cot") == ("popqa", "cot")


def test_a_server_draws_with_a_seed_for_each_sample(tmp_path):
    with JudgeServer(lambda prompt: "Paris") as server:
        request = Request("m", n=3, out=tmp_path / "run", engine="openai", base_url=server.url, limit=2, sampling=SHORT)
        done = drawn(request)
    assert [said.text for line in done.samples for said in line.samples] == ["Paris", "Paris"]
    probe, *asked = server.requests
    assert len({body["seed"] for body in asked}) == 6
    assert all(body["max_tokens"] == 4 and body["temperature"] == 1.0 for body in asked)
    assert probe["max_tokens"] == 1


def test_a_server_that_stands_elsewhere_goes_on_and_its_address_is_not_written(tmp_path):
    request = Request("m", n=2, out=tmp_path / "run", engine="openai", limit=2, sampling=SHORT)
    for n, asked in ((2, 5), (3, 3)):
        with JudgeServer(lambda prompt: "Paris") as server:
            drawn(replace(request, n=n, base_url=server.url))
        assert len(server.requests) == asked
        assert "127.0.0.1" not in (tmp_path / "run" / "samples.json").read_text()


def test_samples_with_and_without_neutral_settings_are_not_mixed(tmp_path):
    request = Request("m", n=2, out=tmp_path / "run", engine="openai", limit=2, sampling=SHORT)
    with JudgeServer(lambda prompt: "Paris") as server:
        drawn(replace(request, base_url=server.url))
    knows_less = JudgeServer(reply_to_request=lambda body: 400 if "min_p" in body else "Paris")
    with knows_less as server, pytest.raises(RequestError, match=r"engine\.neutral_settings was 'stated' and is 'ref"):
        drawn(replace(request, n=3, base_url=server.url))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, RequestError), (404, RequestError), *((status, WorkError) for status in (408, 409, 429, 503))],
)
def test_a_server_that_cannot_answer_is_one_line_and_keeps_what_was_drawn(tmp_path, status, kind, monkeypatch):
    monkeypatch.setattr("closedbook.harness.engines.RETRIES", 0)
    with JudgeServer(lambda prompt: status) as server:
        request = Request("m", n=2, out=tmp_path / "run", engine="openai", base_url=server.url, limit=2)
        with pytest.raises(kind, match=rf"^model 'm' at {server.url} .*{status}") as refused:
            drawn(request)
    assert "\n" not in str(refused.value)


def test_a_server_that_is_down_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("closedbook.harness.engines.RETRIES", 0)
    request = Request("m", n=2, out=tmp_path / "run", engine="openai", base_url="http://127.0.0.1:9/v1", limit=2)
    with pytest.raises(WorkError, match=r"cannot be reached: .*; start it, or check --base-url"):
        drawn(request)


NOWHERE = Cluster("127.0.0.1:9")


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "openai"},
        {"base_url": "http://127.0.0.1:9/v1"},
        {"base_url": "http://127.0.0.1:9/v1", "cluster": NOWHERE},
    ],
)
def test_an_address_goes_with_a_server_and_only_with_it(request_of, change):
    with pytest.raises(RequestError, match="--base-url goes with --engine openai"):
        drawn(request_of(**change))


def test_a_model_that_cannot_be_loaded_is_one_line(request_of, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"^cannot load ") as refused:
        drawn(Request(str(tmp_path / "empty"), n=1, out=tmp_path / "run"))
    assert "\n" not in str(refused.value)


def test_passes_stop_at_what_every_question_has():
    assert passes([], 8) == []


def test_the_command_prints_figures_and_the_folder(tiny_policy, tmp_path):
    command = [sys.executable, "-m", "closedbook.harness.cli", "sample", str(tiny_policy), "-n", "2", "--limit", "3",
               "--max-new-tokens", "3", "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["counts"]["samples"] == 6
    assert [point["k"] for point in shown["pass_at_k"]] == [1, 2]


@pytest.mark.parametrize("flags", [("--temperature", "0"), ("--temperature", "nan"), ("--temperature", "inf"),
                                   ("--top-p", "nan")])  # fmt: skip
def test_what_no_sample_can_be_drawn_with_is_refused(closedbook, flags):
    code, _, said = closedbook("sample", "smollm2", *flags)
    assert code == 2
    assert "for greedy answers use `eval`" in said


def test_a_lone_surrogate_of_a_server_is_kept_as_a_question_mark(tmp_path):
    with JudgeServer(lambda prompt: "Paris \ud800") as server:
        request = Request("m", n=2, out=tmp_path / "run", engine="openai", base_url=server.url, limit=1, sampling=SHORT)
        done = drawn(request)
    assert [said.text for line in done.samples for said in line.samples] == ["Paris ?"]


def test_a_folder_that_is_being_drawn_into_is_left_alone(request_of, tmp_path):
    request = request_of()
    with alone(request.folder), pytest.raises(RequestError, match="another run writes to"):
        drawn(request)


def test_the_command_ends_with_exit_code_1_where_the_judge_failed_on_too_much(tiny_policy, tmp_path):
    with JudgeServer(lambda prompt: "1.0" if "of France" in prompt else "gorlim") as server:
        judge = ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--judge-set", "retries=0"]
        few = ["--limit", "2", "--judge-set", "constrained=off"]
        words = ["sample", str(tiny_policy), "-n", "2", "--max-new-tokens", "4", "--out", str(tmp_path / "run")]
        done = CliRunner().invoke(cli.program(), [*words, *judge, *few])
    assert isinstance(done.exception, WorkError)
    assert "the same command again asks for the rest" in str(done.exception)
    assert SampleStore(tmp_path / "run").read()
