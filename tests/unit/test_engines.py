"""The engines behind `closedbook sample`: what a server is asked, and what with when it knows less than vLLM."""

import pytest

from closedbook.harness.engines import NEUTRAL, ServerEngine, load_sampler
from closedbook.harness.errors import RequestError
from closedbook.harness.questions import make_question
from closedbook.harness.sampling import STOP, Sampling
from closedbook.harness.testing import JudgeServer

QUESTIONS = [make_question("nq", f"where is {place}", ["Gorlim"]) for place in ("tharn", "smolt")]
OPENAIS = {"model", "messages", "temperature", "top_p", "max_tokens", "stop", "seed"}


def drawn(server, sampling=Sampling(), n=2):  # noqa: B008 it is frozen
    return ServerEngine(server.url, "osric", "direct", True, sampling).sample(QUESTIONS, n, 0)


def only_openais(request):
    """A server that refuses whatever is no part of OpenAI's interface."""
    return 400 if request.keys() - OPENAIS else "Gorlim"


def test_a_server_is_told_to_draw_from_the_models_own_distribution():
    with JudgeServer(lambda prompt: "Gorlim") as server:
        assert drawn(server) == [["Gorlim"] * 2] * 2
    for body in server.requests[1:]:
        assert body.items() >= NEUTRAL.items()
        assert (body["temperature"], body["top_p"], body["stop"]) == (1.0, 1.0, [STOP])
    assert len({body["seed"] for body in server.requests[1:]}) == 4


def test_what_is_asked_for_is_stated_and_not_the_neutral_value():
    with JudgeServer(lambda prompt: "Gorlim") as server:
        drawn(server, Sampling(top_k=5, top_p=0.5))
    assert {(body["top_k"], body["top_p"]) for body in server.requests} == {(5, 0.5)}


def test_a_server_that_knows_less_is_asked_without():
    with JudgeServer(reply_to_request=only_openais) as server:
        assert drawn(server, n=8) == [["Gorlim"] * 8] * 2
        asked = len(server.requests)
        engine = ServerEngine(server.url, "osric", "direct", True, Sampling(), concurrency=1)
        assert engine.sample(QUESTIONS, 8, 0) == [["Gorlim"] * 8] * 2
        assert engine.identity["engine"] == {"engine": "server", "neutral_settings": "refused"}
    assert len(server.requests) - asked == 18  # one call was refused, and one more showed why


def test_a_server_that_changes_its_mind_is_not_asked_in_two_ways():
    replies = iter(["Gorlim"])
    changed = JudgeServer(reply_to_request=lambda body: next(replies, 400))
    with changed as server, pytest.raises(RequestError, match="refused a call: 400"):
        drawn(server)
    assert all(body.items() >= NEUTRAL.items() for body in server.requests)


def test_a_top_k_that_a_server_refuses_is_not_left_out():
    with JudgeServer(reply_to_request=only_openais) as server, pytest.raises(RequestError, match="refused a call: 400"):
        drawn(server, Sampling(top_k=5))


@pytest.mark.parametrize("url", ["http://u:pw@h/v1", "http://h/v1?token=pw", "ftp://h/pw", "pw", "http://u:pw@h:x"])
def test_an_address_that_holds_a_secret_or_is_none_is_refused_without_showing_it(url):
    with pytest.raises(RequestError, match=r"^--base-url: ") as error:
        ServerEngine(url, "osric", "direct", True, Sampling())
    assert "pw" not in str(error.value)


def test_a_model_is_loaded_by_its_folder_and_what_is_none_is_refused_by_its_name(tiny_policy, tmp_path):
    sampler = load_sampler(str(tiny_policy), batch=3)
    assert (sampler.batch, sampler.identity) == (3, {"engine": "transformers", "dtype": "float32"})
    assert sampler.text([*sampler.tokenizer("Asia")["input_ids"], *sampler.ends]) == "Asia"
    with pytest.raises(RequestError, match=r"^cannot load .*; name a model folder or hub id$"):
        load_sampler(str(tmp_path))
