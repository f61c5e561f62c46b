"""What runs in a worker of a Ray cluster, run here; the cluster itself is in tests/integration/test_ray.py."""

import asyncio
import sys
from functools import partial
from types import MappingProxyType

import pytest

from closedbook.harness import cli
from closedbook.harness.cluster import START, Actor, AsyncActor, _check_same, _Place
from closedbook.harness.cluster_engine import EngineWorker
from closedbook.harness.dedup.own_cluster import Chunk, Comparer
from closedbook.harness.dedup.own_matching import Matcher
from closedbook.harness.dedup.own_rows import Columns, row_of
from closedbook.harness.drawing import Ask
from closedbook.harness.engines import make_engine
from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.judge.chat import ChatServer, Offer
from closedbook.harness.judge.cluster_model import Asked, Client, Loaded, cluster_judge
from closedbook.harness.manifests import load_questions
from closedbook.harness.sampling import Sampling
from closedbook.harness.testing import JudgeServer

PROMPT = [{"role": "user", "content": "is it right?"}]


class Fails:
    """Builds, and cannot work."""

    identity = MappingProxyType({"fails": True})

    def work(self, item):
        raise WorkError(f"{item} cannot be had; the same command goes on")


def no_module():
    raise ModuleNotFoundError("No module named 'zorb'", name="zorb")


def no_model():
    raise RequestError("cannot load zorb: nothing there; name a model folder or hub id")


def test_an_error_of_the_work_is_handed_back_and_not_raised():
    actor = Actor()
    assert actor.start(Fails) == {"fails": True}
    said = actor.work("zorb")
    assert isinstance(said, WorkError)
    assert str(said) == "zorb cannot be had; the same command goes on"


@pytest.mark.parametrize(
    ("make", "says"), [(no_module, "zorb is not installed there; install"), (no_model, "cannot load zorb: nothing")]
)
def test_why_a_worker_cannot_be_built_is_handed_back(make, says):
    said = Actor().start(make)
    assert isinstance(said, RequestError)
    assert str(said).startswith(says)


def test_an_engine_in_a_worker_draws_what_it_draws_here(tiny_policy):
    make = partial(make_engine, "hf", str(tiny_policy), "direct", "auto", Sampling(max_new_tokens=4))
    actor, here = Actor(), make()
    assert actor.start(partial(EngineWorker, make)) == here.identity
    ask = Ask(load_questions("worldfacts", "test")[:3], 4, 2)
    assert actor.work(ask) == here.sample(*ask)


def test_a_comparer_in_a_worker_finds_what_it_finds_here():
    questions = load_questions("worldfacts", "test")[:40]
    rows = [row_of(n, {"q": q.question, "a": q.answers[0]}, Columns("q", "a")) for n, q in enumerate(questions[:9], 1)]
    actor = Actor()
    actor.start(partial(Comparer, questions))
    found = actor.work(Chunk(7, rows))
    assert found == (7, Matcher(questions).compare(rows))
    assert len(found.part.matches) >= 9


def client(server, **settings):
    stated = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0} | settings
    return Client(ChatServer(JudgeSettings.model_validate(stated), Offer(choices=("1.0", "0.0"))))


async def asked(worker, count):
    """What an actor with that worker says to so many prompts at once."""
    actor = AsyncActor()
    actor.start(lambda: worker)
    try:
        return await asyncio.gather(*(actor.work(Asked(at, [PROMPT])) for at in range(count)))
    finally:
        await worker.close()


def test_a_client_in_a_worker_has_calls_under_way_at_once():
    with JudgeServer(lambda prompt: "1.0", latency=0.2) as server:
        said = asyncio.run(asked(client(server), 4))
        assert server.most_at_once == 4
    assert [(each.first, each.outcomes[0].text) for each in said] == [(at, "1.0") for at in range(4)]


def test_a_client_in_a_worker_says_that_no_call_can_succeed():
    with JudgeServer(lambda prompt: 401) as server:
        (said,) = asyncio.run(asked(client(server), 1))
    assert said.outcomes[0].reason == "refused"
    assert "401" in said.refusal


def test_a_vllm_engine_that_cannot_load_is_told_when_its_worker_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    said = Actor().start(partial(Loaded, JudgeSettings(kind="vllm", model="m"), Offer(choices=("1.0", "0.0"))))
    assert isinstance(said, RequestError)
    assert "vllm is not installed" in str(said)


HERE = _Place("", "0.2.0", "3.11.4")


@pytest.mark.parametrize(
    "other", [_Place("10.0.0.2", "0.3.0", "3.11.4"), _Place("10.0.0.2", "0.2.0", "3.12.4")], ids=["package", "python"]
)
def test_a_node_with_another_package_or_python_is_refused(other):
    with pytest.raises(RequestError, match=rf"10\.0\.0\.2 has closedbook {other.closedbook} on Python {other.python}"):
        _check_same(other, HERE)


def test_a_node_may_have_another_patch_of_python():
    _check_same(_Place("10.0.0.2", "0.2.0", "3.11.9"), HERE)  # raises where it is refused


def test_rules_need_no_cluster():
    with pytest.raises(RequestError, match="rules ask nobody"), cluster_judge(JudgeSettings(kind="rules"), None):
        pass


def complaint(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["closedbook", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--engine", "zorb"], "--engine is here or ray, not 'zorb'"),
        (["--address", "auto"], "--address and --workers go with --engine ray"),
        (["--workers", "2"], "--address and --workers go with --engine ray"),
    ],
)
def test_a_cluster_is_asked_for_by_its_engine(flags, says, monkeypatch, capsys):
    assert complaint(monkeypatch, capsys, "judge", "grade", "my.jsonl", *flags) == f"closedbook: {says}"


@pytest.mark.parametrize("flags", [["--worker-engine", "hf"], ["--engine", "ray", "--worker-engine", "openai"]])
def test_the_engine_of_a_worker_is_hf_or_vllm_and_goes_with_ray(flags, monkeypatch, capsys):
    said = complaint(monkeypatch, capsys, "sample", "smollm2", *flags)
    assert said == "closedbook: --worker-engine is hf or vllm, and goes with --engine ray"


def test_a_cluster_is_joined_and_none_is_begun(monkeypatch, capsys, tmp_path):
    (tmp_path / "my.jsonl").write_text('{"question": "who is zorb", "answer": "smolt"}\n')
    arguments = ["dedup", "run", "--train", str(tmp_path / "my.jsonl"), "--against", "worldfacts", "--engine", "ray"]
    said = complaint(monkeypatch, capsys, *arguments, "--address", "local", "--out", str(tmp_path / "out"))
    assert said.startswith("closedbook: --address local: there is no Ray cluster to join (")
    assert said.endswith(START)


def test_without_ray_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    (tmp_path / "my.jsonl").write_text('{"question": "who is zorb", "answer": "smolt"}\n')
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["dedup", "run", "--train", str(tmp_path / "my.jsonl"), "--against", "worldfacts", "--engine", "ray"]
    said = complaint(monkeypatch, capsys, *arguments, "--out", str(tmp_path / "out"))
    assert said == "closedbook: ray is not installed; pip install 'closedbook[ray]'"
