"""Judges: verdicts, rules, settings, and the LLM judge against a real HTTP server on loopback."""

import asyncio

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge import (
    Grade,
    JudgeFailure,
    JudgeSettings,
    LLMJudge,
    RulesJudge,
    Triple,
    contains,
    exact_match,
    judge_settings,
    make_judge,
)
from closedbook.harness.judge.llm import KNOWN, build_messages, parse
from closedbook.harness.judge.rules import LONGEST_MATCH, sure_grade
from closedbook.harness.testing import JudgeServer

PARIS = Triple("what is the capital of france", ("Paris",), "The French one")


def llm(server, **settings):
    return LLMJudge(JudgeSettings(kind="openai", model="m", base_url=server.url, retries=0, **settings))


def triples(*answers):
    return [Triple("who wrote hamlet", ("William Shakespeare",), answer) for answer in answers]


@pytest.mark.parametrize("answer", ["shakespeare, William", "", "Marlowe", "#"])
def test_only_the_whole_gold_answer_is_an_exact_match(answer):
    assert not exact_match(answer, ["William Shakespeare"])
    assert exact_match("the  william SHAKESPEARE.", ["Marlowe", "William Shakespeare"])


@pytest.mark.parametrize(("answer", "found"), [("The US won", True), ("Russia", False), ("Jesus", False)])
def test_a_short_gold_answer_is_contained_only_as_a_word(answer, found):
    assert contains(answer, ["US"]) is found


@pytest.mark.parametrize("answer", ["", "  ", "\n", " "])
def test_an_empty_answer_is_surely_incorrect(answer):
    assert sure_grade(triples(answer)[0]) is Grade.INCORRECT


def test_an_exact_match_is_surely_correct_and_a_mention_is_not():
    assert sure_grade(triples("the william shakespeare!")[0]) is Grade.CORRECT
    for mention in ("It was not William Shakespeare", "Marlowe, Bacon or William Shakespeare"):
        assert sure_grade(triples(mention)[0]) is None


def test_the_rules_judge_alone_takes_a_gold_answer_in_a_short_text_for_right():
    within = " ".join(["word"] * (LONGEST_MATCH - 2))
    assert RulesJudge().grade(triples(f"William Shakespeare {within}")) == [Grade.CORRECT]
    assert RulesJudge().grade(triples(f"William Shakespeare {within} more")) == [Grade.INCORRECT]


def test_what_the_rules_judge_cannot_match_is_incorrect():
    grades = RulesJudge().grade(triples("William Shakespeare", "the Bard", ""))
    assert grades == [Grade.CORRECT, Grade.INCORRECT, Grade.INCORRECT]


@pytest.mark.parametrize(
    ("reply", "grade"),
    [("1.0", Grade.CORRECT), (" 0.0\n", Grade.INCORRECT), ("<think>0.0 or 1.0?</think>\n1.0", Grade.CORRECT)],
)
def test_exactly_one_of_the_two_numbers_is_a_grade(reply, grade):
    assert parse(reply) is grade


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "1",
        "10",
        "1.0.0",
        "CORRECT",
        "1.0 because",
        "0.5",
        "I cannot",
        "<think>1.0",
        "<think>a</think>1.0<think>no</think>",
    ],
)
def test_any_other_reply_is_a_failure_and_never_a_grade(reply):
    failure = parse(reply)
    assert isinstance(failure, JudgeFailure)
    assert failure.reason == "unparsable"


def test_the_judges_prompt_holds_question_golds_and_answer_as_plain_text():
    content = build_messages(Triple("who {golds}?", ("A", "B {answer}"), "{question} 1.0"))[0]["content"]
    for part in ("who {golds}?", "- A\n- B {answer}", "{question} 1.0"):
        assert part in content


@pytest.mark.parametrize("tag", ["</answer>", "< / Answer >", "<gold_answers>", "</QUESTION>"])
def test_data_cannot_close_its_block_in_the_judges_prompt(tag):
    clean = build_messages(Triple("q", ("g",), "a"))[0]["content"]
    planted = build_messages(Triple(f"q{tag}", (f"g{tag}",), f"a{tag}"))[0]["content"]
    assert planted.count("<") == clean.count("<")


def test_the_llm_decides_what_the_rules_leave_open():
    with JudgeServer(lambda prompt: "1.0" if "the Bard" in prompt else "0.0") as server:
        grades = llm(server).grade(triples("the Bard", "Marlowe", "William Shakespeare", ""))
        assert grades == [Grade.CORRECT, Grade.INCORRECT, Grade.CORRECT, Grade.INCORRECT]
        assert len(server.prompts) == 2


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


def test_ranks_share_the_concurrency_limit(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert LLMJudge(JudgeSettings(kind="openai", concurrency=32)).concurrency == 8
    assert LLMJudge(JudgeSettings(kind="openai", concurrency=2)).concurrency == 1


@pytest.mark.parametrize(
    ("reply", "reason"), [(500, "server"), (429, "server"), ("maybe", "unparsable"), ("", "unparsable")]
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
    with pytest.raises(WorkError, match=r"judge 'm' at http://127.0.0.1:9/v1 cannot be reached: [^\n]+; check"):
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
        assert server.prompts == [build_messages(KNOWN)[0]["content"]]


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
    with pytest.raises(RequestError, match="set OPENAI_API_KEY, or CLOSEDBOOK_JUDGE_BASE_URL"):
        judge_settings()


def test_a_configured_judge_without_a_model_says_which_variable_to_set():
    with pytest.raises(RequestError, match="needs a model; set CLOSEDBOOK_JUDGE_MODEL"):
        judge_settings({"judge": "openai"})


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
        identity = llm(server).identity
    assert identity["model"] == "m"
    assert identity["base_url"] == server.url
    assert identity["prompt"].startswith("binary-")
    assert identity["rules"] == RulesJudge.identity["version"]


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


@pytest.mark.parametrize(("constrained", "sent"), [(True, {"choice": ["1.0", "0.0"]}), (False, None)])
def test_a_server_that_can_is_asked_to_allow_only_the_two_numbers(constrained, sent):
    with JudgeServer(lambda prompt: "1.0") as server:
        llm(server, constrained=constrained).grade([PARIS])
    assert server.requests[0].get("structured_outputs") == sent


def test_the_judge_is_asked_without_randomness_and_for_a_short_reply():
    with JudgeServer(lambda prompt: "1.0") as server:
        llm(server, max_tokens=7).grade([PARIS])
    (request,) = server.requests
    assert (request["temperature"], request["max_tokens"], request["model"]) == (0.0, 7, "m")


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failed_call_is_tried_again_as_often_as_set(retries):
    with JudgeServer(lambda prompt: 500) as server:
        LLMJudge(JudgeSettings(kind="openai", model="m", base_url=server.url, retries=retries)).grade([PARIS])
        assert len(server.prompts) == 1 + retries


def test_calls_under_way_keep_to_this_ranks_share(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with JudgeServer(lambda prompt: "0.0", latency=0.05) as server:
        llm(server, concurrency=8).grade(triples(*(f"author {n}" for n in range(12))))
        assert server.most_at_once <= 2
