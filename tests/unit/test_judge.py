"""Judges: verdicts, rules, settings, and the LLM judge against a real HTTP server on loopback."""

import asyncio
import json
import re
import time
from collections.abc import Iterator

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge import (
    Grade,
    JudgeFailure,
    JudgeSettings,
    LLMJudge,
    RulesJudge,
    Triple,
    judge_settings,
    make_judge,
)
from closedbook.harness.judge.asker import Spending
from closedbook.harness.judge.cascade import KNOWN, VERDICT_TOKENS
from closedbook.harness.judge.reply_cache import Call, reply_key
from closedbook.harness.judge.rubrics import RUBRICS, build_messages
from closedbook.harness.judge.rules import RULES
from closedbook.harness.testing import JudgeServer, Reply

PARIS = Triple("what is the capital of france", ("Paris",), "The French one")


def llm(server, **settings):
    """A judge at that server; settings as a user writes them."""
    stated = {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0} | settings
    return LLMJudge(JudgeSettings.model_validate(stated))


def triples(*answers):
    return [Triple("who wrote hamlet", ("William Shakespeare",), answer) for answer in answers]


def test_the_llm_decides_what_the_rules_leave_open():
    with JudgeServer(lambda prompt: "1.0" if "the Bard" in prompt else "0.0") as server:
        grades = llm(server).grade(triples("the Bard", "Marlowe", "William Shakespeare", ""))
        assert grades == [Grade.CORRECT, Grade.INCORRECT, Grade.CORRECT, Grade.INCORRECT]
        assert len(server.prompts) == 2


def test_what_decided_an_answer_is_a_rule_or_the_model():
    with JudgeServer(lambda prompt: "1.0") as server:
        judge = llm(server)
        assert [judge.decided_by(triple) for triple in triples("the Bard", "William Shakespeare")] == ["model", "exact"]
        assert llm(server, without=list(RULES)).decided_by(*triples("William Shakespeare")) == "model"


def test_what_the_model_was_asked_and_replied_can_be_seen_and_is_nothing_where_a_rule_decided():
    with JudgeServer(lambda prompt: "Verdict: 1.0") as server:
        judge = llm(server)
        asked, ruled = triples("the Bard", "William Shakespeare")
        assert judge.exchange(asked) == (build_messages(asked, RUBRICS["binary"]), None)
        judge.grade([asked, ruled])
        assert judge.exchange(asked) == (build_messages(asked, RUBRICS["binary"]), "Verdict: 1.0")
        assert judge.exchange(ruled) is None


def test_a_failure_carries_all_of_the_reply_and_is_no_other_failure_for_it():
    said = "perhaps, " * 30
    with JudgeServer(lambda prompt: said) as server:
        (failure,) = llm(server).grade([PARIS])
    assert isinstance(failure, JudgeFailure)
    assert failure.reply == said
    assert failure == JudgeFailure(failure.reason, failure.detail)


def test_a_reply_is_remembered_in_the_file_that_the_settings_name(tmp_path):
    with JudgeServer(lambda prompt: "1.0") as server:
        for _ in range(2):
            assert llm(server, cache=str(tmp_path / "cache.sqlite")).grade([PARIS]) == [Grade.CORRECT]
        assert len(server.prompts) == 1


def test_a_reply_that_states_nothing_is_not_kept_and_one_that_was_is_asked_for_again():
    with JudgeServer(lambda prompt: "who knows") as server:
        judge = llm(server)
        key = reply_key(judge.identity, build_messages(PARIS, judge.rubric))
        assert isinstance(judge.grade([PARIS])[0], JudgeFailure)
        assert judge.asker.cache.get(key) is None
        judge.asker.cache.add(Call("m", server.url, 1, 1, 0.0), key, "who knows")
        assert judge.asker.cache.get(key) == "who knows"
    with JudgeServer(lambda prompt: "1.0") as server:
        judge.asker.model = llm(server).asker.model
        assert judge.grade([PARIS]) == [Grade.CORRECT]


def test_grading_asks_no_more_than_its_answers_unless_told_to_try_the_judge_first():
    with JudgeServer(lambda prompt: "1.0") as server:
        assert list(llm(server).stream([PARIS])) == [Grade.CORRECT]
        assert len(server.prompts) == 1


def test_the_progress_bar_counts_every_answer_once(capsys):
    with JudgeServer(lambda prompt: "1.0") as server:
        llm(server).grade([*triples("the Bard", "Marlowe", "William Shakespeare"), *triples("Marlowe")])
    assert re.search(r"judging: 100%.* 4/4 .*answer", capsys.readouterr().err)


def test_identical_triples_are_judged_once():
    with JudgeServer(lambda prompt: "1.0") as server:
        assert llm(server).grade([PARIS] * 50) == [Grade.CORRECT] * 50
        assert len(server.prompts) == 1


def test_no_triple_needs_no_server():
    assert LLMJudge(JudgeSettings(kind="openai", model="m", base_url="http://127.0.0.1:9/v1")).grade([]) == []


def test_answers_are_judged_concurrently_up_to_the_limit():
    with JudgeServer(lambda prompt: "0.0", latency=0.05) as server:
        llm(server, concurrency=8).grade(triples(*(f"author {n}" for n in range(32))))
        assert 4 <= server.most_at_once <= 8


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(500, "server"), (408, "server"), (429, "server"), ("maybe", "unparsable"), ("", "unparsable")],
)
def test_a_failed_call_is_a_failure_of_its_own_triple_only(reply, reason):
    with JudgeServer(lambda prompt: reply if "Bacon" in prompt else "0.0") as server:
        marlowe, bacon = llm(server).grade(triples("Marlowe", "Bacon"))
        assert marlowe is Grade.INCORRECT
        assert isinstance(bacon, JudgeFailure)
        assert bacon.reason == reason


def test_a_slow_judge_is_a_timeout_not_a_wrong_answer():
    with JudgeServer(lambda prompt: "1.0", latency=1.0) as server:
        (judged,) = llm(server, timeout=0.1).grade([PARIS])
        assert isinstance(judged, JudgeFailure)
        assert judged.reason == "timeout"


def test_judging_works_inside_a_running_event_loop():
    async def notebook(judge):
        return judge.grade([PARIS])

    with JudgeServer(lambda prompt: "1.0") as server:
        assert asyncio.run(notebook(llm(server))) == [Grade.CORRECT]


def test_an_unreachable_judge_is_found_out_before_the_model_runs():
    settings = JudgeSettings(kind="openai", model="m", base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(
        WorkError, match=r"judge 'm' at http://127.0.0.1:9/v1 cannot answer now: no connection: [^\n]+; start it"
    ):
        make_judge(settings).preflight()


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_judge_that_refuses_is_found_out_before_the_model_runs(status):
    with JudgeServer(lambda prompt: status) as server, pytest.raises(RequestError, match=f"refused a call: {status}"):
        llm(server).preflight()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_judge_that_cannot_answer_now_is_work_that_failed(status):
    with JudgeServer(lambda prompt: status) as server, pytest.raises(WorkError, match=f"cannot answer now: {status}"):
        llm(server).preflight()


def test_a_judge_that_talks_instead_of_grading_is_found_out_before_the_model_runs():
    said = r"replied 'It seems right', not 1\.0 or 0\.0; choose a model"
    with JudgeServer(lambda prompt: "It seems right") as server, pytest.raises(RequestError, match=said):
        llm(server).preflight()


def test_preflight_grades_one_known_answer():
    with JudgeServer(lambda prompt: "1.0") as server:
        llm(server).preflight()
        assert server.prompts == [build_messages(KNOWN, RUBRICS["binary"])[0]["content"]]


def test_without_a_configured_judge_there_is_none():
    assert judge_settings() is None
    assert judge_settings({"judge": {}}) is None


def test_metadata_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE", "openai")
    assert judge_settings({"judge": "rules"}).kind == "rules"
    assert judge_settings({"judge": {"kind": "rules"}}) == JudgeSettings(kind="rules")


def test_a_key_in_metadata_is_refused_because_metadata_is_written_to_results():
    with pytest.raises(RequestError, match="'api_key' in metadata would be written to results; set OPENAI_API_KEY"):
        judge_settings({"judge": {"kind": "openai", "api_key": "sk-secret"}})


def test_a_configured_judge_without_its_key_says_which_variable_to_set(monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE", "openai")
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_MODEL", "m")
    with pytest.raises(RequestError, match="set OPENAI_API_KEY, or name a local server"):
        judge_settings()


def test_a_configured_judge_without_a_model_says_which_variable_to_set():
    with pytest.raises(
        RequestError,
        match=r"needs a model; give --judge-model \(in a recipe judge.model\) or set CLOSEDBOOK_JUDGE_MODEL",
    ):
        judge_settings({"judge": "openai"})


def test_a_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_CONCURENCY", "3")
    with pytest.raises(RequestError, match="no variable CLOSEDBOOK_JUDGE_CONCURENCY; there are CLOSEDBOOK_JUDGE, "):
        judge_settings()


@pytest.mark.parametrize("stated", [{"model": "m"}, {"base_url": "http://127.0.0.1:9/v1"}])
@pytest.mark.parametrize("default", [None, "rules"])
def test_a_model_without_a_kind_of_judge_is_refused(stated, default):
    with pytest.raises(RequestError, match=f"{next(iter(stated))} is set and no kind of judge"):
        judge_settings({"judge": stated}, default)


def test_rules_may_be_asked_for_where_a_model_is_configured(monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_MODEL", "m")
    assert judge_settings({"judge": "rules"}).kind == "rules"


@pytest.mark.parametrize(("prompt", "grade"), [("binary", Grade.INCORRECT), ("simpleqa", Grade.NOT_ATTEMPTED)])
def test_an_answer_that_says_nothing_gets_the_grade_of_the_prompt_from_rules_too(prompt, grade):
    judge = make_judge(JudgeSettings(kind="rules", prompt=prompt))
    assert judge.grade([Triple("q", ("Paris",), "..."), Triple("q", ("Paris",), "Rome")]) == [grade, Grade.INCORRECT]


def test_only_a_call_that_is_needed_tries_the_judge_first():
    triples = [
        Triple("q", ("Paris",), "Paris"),
        Triple("q", ("Paris",), "..."),
        Triple("who wrote it", ("Some Body",), "One Else"),
    ]
    with JudgeServer(lambda prompt: "1.0") as server:
        judge = llm(server)
        assert judge.grade(triples[:2], preflight=True) == [Grade.CORRECT, Grade.INCORRECT]
        assert server.prompts == []
        assert judge.grade(triples, preflight=True)[2] is Grade.CORRECT
        assert judge.grade(triples, preflight=True)[2] is Grade.CORRECT
        assert len(server.prompts) == 2
    with pytest.raises(WorkError, match="cannot answer now"):
        llm(server).grade([Triple("who wrote it", ("Some Body",), "another")], preflight=True)


@pytest.mark.parametrize(
    "judge", ["oracle", 5, ["rules"], {"kind": "rules", "concurrency": 0}, {"kind": "rules", "temprature": 1}]
)
def test_an_unknown_judge_or_setting_is_refused_in_one_line(judge):
    with pytest.raises(RequestError, match=r"^judge: [^\n]+(; got |, not )"):
        judge_settings({"judge": judge})


def test_a_key_never_shows(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    settings = judge_settings({"judge": {"kind": "openai", "model": "m"}})
    judge = LLMJudge(settings)
    assert settings.api_key.get_secret_value() == "sk-secret"
    assert (
        "sk-secret" not in f"{settings!r} {settings} {settings.model_dump()} {judge.identity} {judge!r} {vars(judge)}"
    )


def test_a_judges_identity_names_model_server_prompt_and_rules():
    with JudgeServer(lambda prompt: "1.0") as server:
        identity = llm(server, max_tokens=7).identity
    assert identity["kind"] == "openai"
    assert identity["sampling"] == "greedy-7-auto"
    assert identity["model"] == "m"
    assert identity["server"] == server.url
    assert identity["prompt"].startswith("binary-")
    assert identity["rules"] == RulesJudge().identity["version"]


@pytest.mark.parametrize("url", ["http://u:pw@h/v1", "http://h/v1?token=pw", "ftp://h", "h/v1", "http://h:99999/v1"])
def test_an_address_that_holds_a_secret_or_is_none_is_refused_without_showing_it(url):
    with pytest.raises(RequestError, match=r"^judge: base_url: ") as error:
        judge_settings({"judge": {"kind": "openai", "model": "m", "base_url": url}})
    assert "pw" not in str(error.value)


def test_a_key_that_the_server_echoes_does_not_show(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with JudgeServer(lambda prompt: 401, says="no such key: sk-secret") as server:
        judge = LLMJudge(
            judge_settings({"judge": {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0}})
        )
        (judged,) = judge.grade([PARIS])
        with pytest.raises(RequestError, match=r"refused a call: 401") as error:
            judge.preflight()
    assert isinstance(judged, JudgeFailure)
    assert "no such key" in judged.detail
    assert "sk-secret" not in f"{judged} {error.value}"


def test_a_reply_that_trickles_is_a_timeout():
    with JudgeServer(lambda prompt: "1.0", trickle=0.2) as server:
        (judged,) = llm(server, timeout=0.5).grade([PARIS])
    assert isinstance(judged, JudgeFailure)
    assert judged.reason == "timeout"


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"choices": []}', b"\xff\xfe", b'{"choices": [{"message": {}}]}']
)
def test_a_server_that_is_no_judge_is_found_out_and_never_grades(body):
    with JudgeServer(lambda prompt: body) as server:
        with pytest.raises(RequestError, match=r"^judge 'm' at "):
            llm(server).preflight()
        (judged,) = llm(server).grade([PARIS])
    assert isinstance(judged, JudgeFailure)


@pytest.mark.parametrize(
    ("accepted", "sent"),
    [("structured_outputs", "structured_outputs"), ("response_format", "response_format"), (None, None)],
)
def test_the_first_constraint_that_a_server_takes_is_found_out_once_and_kept(accepted, sent):
    def reply(request):
        named = [name for name in ("structured_outputs", "response_format") if name in request]
        return 400 if named and named != [accepted] else "1.0"

    with JudgeServer(reply_to_request=reply) as server:
        judge = llm(server)
        judge.preflight()
        judge.preflight()
        detecting = len(server.requests)
        assert judge.grade(triples("the Bard", "Marlowe")) == [Grade.CORRECT] * 2
    for request in server.requests[detecting:]:
        assert [n for n in ("structured_outputs", "response_format") if n in request] == ([sent] if sent else [])
    assert detecting <= 3


@pytest.mark.parametrize(
    ("constrained", "sent"), [("choice", "structured_outputs"), ("schema", "response_format"), ("off", None)]
)
def test_a_constraint_can_be_chosen(constrained, sent):
    with JudgeServer(lambda prompt: "1.0") as server:
        llm(server, constrained=constrained).grade([PARIS])
    (request,) = server.requests
    assert [n for n in ("structured_outputs", "response_format") if n in request] == ([sent] if sent else [])
    if constrained == "choice":
        assert request["structured_outputs"] == {"choice": ["1.0", "0.0"]}
    if constrained == "schema":
        schema = request["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["verdict"]["enum"] == ["1.0", "0.0"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_that_would_meet_every_call_ends_the_work_at_once(status):
    with JudgeServer(lambda prompt: status) as server:
        judged = llm(server, concurrency=2).grade(triples(*(f"author {n}" for n in range(50))))
        assert len(server.requests) <= 2
    assert {judgement.reason for judgement in judged} == {"refused"}
    assert all(f"refused a call: {status}" in judgement.detail for judgement in judged)


def test_a_prompt_that_is_too_long_for_the_model_is_refused_by_itself():
    said = "This model's maximum context length is 2048 tokens."
    with JudgeServer(lambda prompt: 400 if "Bacon" in prompt else "0.0", says=said) as server:
        judge = llm(server, concurrency=1)
        judge.preflight()
        marlowe, bacon, kyd = judge.grade(triples("Marlowe", "Bacon", "Kyd"))
    assert (marlowe, kyd) == (Grade.INCORRECT, Grade.INCORRECT)
    assert (bacon.reason, said in bacon.detail) == ("refused", True)


@pytest.mark.parametrize("where", ["status", "content", "refusal"])
def test_a_key_that_the_server_echoes_anywhere_does_not_show(where):
    key = "sk-" + "x" * 40
    bodies = {
        name: json.dumps({"choices": [{"message": {name: f"key: {key}"}}]}).encode() for name in ("content", "refusal")
    }
    reply = bodies.get(where, 401)
    with JudgeServer(lambda prompt: reply, says="x" * 290 + key) as server:
        judge = llm(server, api_key=key)
        (judged,) = judge.grade([PARIS])
        with pytest.raises(RequestError) as error:
            llm(server, api_key=key).preflight()
    assert "sk-" not in f"{judged.detail} {error.value}"


@pytest.mark.parametrize(
    "usage",
    [
        '{"prompt_tokens": 1e30}',
        '{"prompt_tokens": -5}',
        '{"prompt_tokens": null}',
        '"12"',
        "[]",
        "NaN",
        '{"prompt_tokens": 1' + "0" * 30 + "}",
    ],
)
def test_a_grade_is_not_lost_over_odd_counts_of_tokens_and_is_paid(usage):
    body = f'{{"choices": [{{"message": {{"content": "1.0"}}}}], "usage": {usage}}}'
    with JudgeServer(lambda prompt: body.encode()) as server:
        judge = llm(server, price_in=1.0)
        assert judge.grade([PARIS]) == [Grade.CORRECT]
        assert len(server.requests) == 1
    assert 100 < judge.spending.prompt_tokens < 1000


def test_a_budget_holds_under_a_rate_limit():
    with JudgeServer(lambda prompt: "1.0") as server:
        judge = llm(server, price_in=1e6, budget=3.0, concurrency=16, requests_per_minute=300)
        judge.grade(triples(*(f"author {n}" for n in range(40))))
        assert len(server.requests) <= 5


@pytest.mark.parametrize("size", ["", "abc", "0"])
def test_a_world_size_that_is_none_counts_as_one_process(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    with JudgeServer(lambda prompt: "1.0") as server:
        assert llm(server).grade([PARIS]) == [Grade.CORRECT]


def test_the_newline_behind_a_key_is_dropped_and_a_key_that_cannot_be_sent_is_refused(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1\n")
    assert judge_settings({"judge": {"kind": "openai", "model": "m"}}).api_key.get_secret_value() == "sk-1"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ü")
    with pytest.raises(RequestError, match=r"^judge: api_key: [^\n]*no header can carry$"):
        judge_settings({"judge": {"kind": "openai", "model": "m"}})


def test_a_long_stream_is_judged_window_by_window(monkeypatch):
    monkeypatch.setattr("closedbook.harness.judge.cascade.WINDOW", 3)
    asked = triples(*(f"author {n % 7}" for n in range(10)), "William Shakespeare")
    with JudgeServer(lambda prompt: "0.0") as server:
        judged = llm(server).grade(asked)
        assert len(server.requests) == 7
    assert judged == [Grade.INCORRECT] * 10 + [Grade.CORRECT]


def test_what_preflight_asked_is_not_kept():
    with JudgeServer(lambda prompt: "0.0") as server:
        judge = llm(server)
        judge.preflight()
        assert judge.grade([KNOWN]) == [Grade.CORRECT]


def test_a_judge_that_calls_a_known_answer_wrong_is_warned_of(caplog):
    with JudgeServer(lambda prompt: "0.0") as server:
        llm(server).preflight()
    assert "calls 'It is Paris' wrong; calibrate it" in caplog.text


def test_a_declined_or_cut_off_reply_is_paid_all_the_same():
    declined = b'{"choices": [{"finish_reason": "content_filter", "message": {}}], "usage": {"prompt_tokens": 7}}'
    with JudgeServer(lambda prompt: declined) as server:
        judge = llm(server, price_in=1e6, budget=10, concurrency=1)
        reasons = [failure.reason for failure in judge.grade(triples("a", "b", "c"))]
    assert reasons == ["refused", "refused", "budget"]
    assert judge.spending.dollars == 14.0


def test_ranks_share_the_budget(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with JudgeServer(lambda prompt: "1.0") as server:
        judged = llm(server, price_in=1e6, budget=4.0, concurrency=1).grade(triples("a", "b", "c"))
    assert judged == [Grade.CORRECT, Grade.CORRECT, JudgeFailure("budget", "the judge's budget of $4 is spent")]


def test_a_rate_limit_holds_over_several_batches():
    with JudgeServer(lambda prompt: "0.0") as server:
        judge = llm(server, requests_per_minute=600)
        start = time.monotonic()
        for n in range(8):
            judge.grade(triples(f"author {n}"))
        assert time.monotonic() - start > 0.6


def test_a_model_that_declines_is_a_failure_and_the_others_go_on():
    declined = b'{"choices": [{"finish_reason": "content_filter", "message": {"content": "1.0"}}]}'
    with JudgeServer(lambda prompt: declined if "Bacon" in prompt else "0.0") as server:
        marlowe, bacon = llm(server).grade(triples("Marlowe", "Bacon"))
    assert marlowe is Grade.INCORRECT
    assert (bacon.reason, "declined" in bacon.detail) == ("refused", True)


def test_a_reply_that_was_cut_off_is_a_failure_even_if_it_starts_with_a_verdict():
    cut = b'{"choices": [{"finish_reason": "length", "message": {"content": "1.0"}}], "usage": null}'
    with JudgeServer(lambda prompt: cut) as server:
        (judged,) = llm(server).grade([PARIS])
    assert (judged.reason, "cut off" in judged.detail) == ("unparsable", True)


def test_a_garbled_body_is_asked_for_again():
    bodies: Iterator[Reply] = iter([b"<html>", b"{", "1.0"])
    with JudgeServer(lambda prompt: next(bodies)) as server:
        assert llm(server, retries=2).grade([PARIS]) == [Grade.CORRECT]


def test_the_simpleqa_prompt_knows_answers_that_are_no_attempt():
    with JudgeServer(lambda prompt: "C") as server:
        grades = llm(server, prompt="simpleqa").grade(triples("I would rather not say", "", "William Shakespeare"))
    assert grades == [Grade.NOT_ATTEMPTED, Grade.NOT_ATTEMPTED, Grade.CORRECT]


def test_a_rule_that_is_switched_off_leaves_the_answer_to_the_model():
    with JudgeServer(lambda prompt: "0.0") as server:
        assert llm(server).grade(triples("William Shakespeare")) == [Grade.CORRECT]
        off = llm(server, without="exact,contains,spelling,name")
        assert off.grade(triples("William Shakespeare")) == [Grade.INCORRECT]
        assert off.identity != llm(server).identity


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(RequestError, match="no rule 'luck'; there are exact, "):
        make_judge(JudgeSettings(kind="rules", without=("luck",)))


def test_equal_settings_share_one_judge_so_that_tasks_share_a_budget():
    settings = JudgeSettings(kind="openai", model="m", base_url="http://127.0.0.1:9/v1", cache="off")
    assert make_judge(settings) is make_judge(settings.model_copy())


def test_every_call_is_paid_even_if_its_reply_cannot_be_read():
    with JudgeServer(lambda prompt: "maybe") as server:
        judge = llm(server, price_in=1e6, price_out=2e6)
        judge.grade([PARIS])
    assert (judge.spending.calls, judge.spending.dollars) == (1, 3.0)


def test_a_spent_budget_stops_the_calls_and_keeps_what_was_judged():
    with JudgeServer(lambda prompt: "1.0") as server:
        judge = llm(server, price_in=1e6, budget=3.0, concurrency=1)
        judged = judge.grade(triples(*(f"author {n}" for n in range(10))))
        assert judged[:3] == [Grade.CORRECT] * 3
        assert {failure.reason for failure in judged[3:]} == {"budget"}
        assert len(server.requests) == 3


def test_a_budget_without_prices_is_refused():
    with pytest.raises(RequestError, match=r"^judge: budget: .*a budget needs prices: set price_in and price_out"):
        judge_settings({"judge": {"kind": "openai", "model": "m", "budget": 1}})


def test_a_plan_counts_calls_and_makes_none():
    with JudgeServer(lambda prompt: "0.0") as server:
        judge = llm(server, price_in=1.0)
        judge.grade(triples("Marlowe"))
        plan = judge.plan(triples("Marlowe", "Bacon", "Bacon", "William Shakespeare"))
        assert (plan.answers, plan.repeated, plan.cached, plan.by_rule, plan.calls) == (4, 1, 1, 1, 1)
        assert plan.dollars == pytest.approx(plan.prompt_tokens / 1e6)
        assert len(server.requests) == 1


def test_a_plan_adds_up_what_needs_no_call_and_what_the_replies_will_cost():
    with JudgeServer(lambda prompt: "0.0") as server:
        judge = llm(server, price_in=1.0, price_out=1000.0)
        judge.grade(triples("Marlowe", "Bacon"))
        plan = judge.plan(triples("Marlowe", "Bacon", "William Shakespeare", "...", "Kyd", "Greene"))
        assert (plan.cached, plan.by_rule, plan.calls) == (2, 2, 2)
        assert plan.dollars == pytest.approx((plan.prompt_tokens + 2 * VERDICT_TOKENS * 1000) / 1e6)


def test_the_cost_of_a_judge_without_prices_is_unknown():
    with JudgeServer(lambda prompt: "0.0") as server:
        assert llm(server).plan(triples("Marlowe")).dollars is None


def test_spending_adds_up_over_calls():
    spent = Spending()
    spent.pay(Call("m", "s", 10, 2, 0.5))
    spent.pay(Call("m", "s", 5, 1, 0.25))
    assert (spent.calls, spent.prompt_tokens, spent.completion_tokens, spent.dollars) == (2, 15, 3, 0.75)


def test_a_judge_that_calls_a_right_answer_wrong_is_warned_of(caplog):
    with JudgeServer(lambda prompt: "0.0") as server:
        llm(server).preflight()
        assert caplog.messages == [
            f"judge 'm' at {server.url} calls {KNOWN.answer!r} wrong; calibrate it before you trust it"
        ]


@pytest.mark.parametrize(("setting", "value"), [("requests_per_minute", 600), ("tokens_per_minute", 120_000)])
def test_calls_keep_to_the_rate_limit(setting, value):
    with JudgeServer(lambda prompt: "0.0") as server:
        start = time.monotonic()
        llm(server, **{setting: value}).grade(triples(*(f"author {n}" for n in range(30))))
        assert time.monotonic() - start > 1.0
        assert len(server.requests) == 30


def test_the_judge_is_asked_without_randomness_and_for_a_short_reply():
    with JudgeServer(lambda prompt: "1.0") as server:
        llm(server, max_tokens=7).grade([PARIS])
    (request,) = server.requests
    assert (request["temperature"], request["max_tokens"], request["model"]) == (0.0, 7, "m")


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failed_call_is_tried_again_as_often_as_set(retries):
    with JudgeServer(lambda prompt: 500) as server:
        llm(server, retries=retries).grade([PARIS])
        assert len(server.prompts) == 1 + retries


def test_calls_under_way_keep_to_this_ranks_share(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with JudgeServer(lambda prompt: "0.0", latency=0.05) as server:
        llm(server, concurrency=8).grade(triples(*(f"author {n}" for n in range(12))))
        assert server.most_at_once <= 2
