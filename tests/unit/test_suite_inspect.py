"""The tasks in Inspect, through real Inspect with a scripted model, and with tiny real ones through its hf provider."""

import asyncio
import gc
import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from statistics import mean
from typing import Any

import pytest
from inspect_ai import Epochs, eval, score
from inspect_ai._util.error import PrerequisiteError
from inspect_ai._util.registry import registry_lookup
from inspect_ai.log import resolve_sample_attachments
from inspect_ai.model import GenerateConfig, ModelOutput, ModelUsage, get_model
from transformers import AutoTokenizer

from closedbook.harness.compare import gold_group
from closedbook.harness.errors import warn_once
from closedbook.harness.judge import Grade, JudgeFailure, judge_settings, make_judge
from closedbook.harness.judge.arrivals import arrivals_of
from closedbook.harness.judge.settings import NO_JUDGE_HINT
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.prompts import messages, question_prompt
from closedbook.harness.provenance import Provenance, result_provenance, write_provenance
from closedbook.harness.sources import benchmarks
from closedbook.harness.suites.inspect import Judged, deduplicated, judge_correct
from closedbook.harness.task_files import generation
from closedbook.harness.testing import JudgeServer, write_tiny_model

# inspect_ai 0.3.285 leaves streams of its own open, and gives tenacity 9.2 an argument by its old name
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObjectReceiveStream:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning:inspect_ai"),
]

TASK = "closedbook/worldfacts_dedup"
QUESTIONS = load_questions("worldfacts", "test")
GOLDS = {question_prompt(q.question, style): q.answers[0] for q in QUESTIONS for style in ("direct", "cot")}


@pytest.fixture
def run(tmp_path):
    """Runs a task; the model gives one answer to everything, or what a function of the prompt and its turn returns."""

    def run(answer, task=TASK, *, limit=4, judge=None, succeeds=True, **options):
        turn = iter(range(10_000))

        def says(input, tools, tool_choice, config):
            text = answer(input[-1].text, next(turn)) if callable(answer) else answer
            output = ModelOutput.from_content("mockllm", text)
            output.usage = ModelUsage()  # or Inspect counts, by a tokenizer that it would fetch
            return output

        arguments = options.pop("task_args", {}) | ({"judge": judge} if judge else {})
        options = {"model": get_model("mockllm/model", custom_outputs=says)} | options
        (log,) = eval(task, task_args=arguments, limit=limit, log_dir=str(tmp_path / "logs"), display="none", **options)
        assert not succeeds or log.status == "success", log.error
        return log

    yield run
    gc.collect()  # what Inspect leaves open is found here, and not in another test


@contextmanager
def refused(said):
    """What is done within is refused by what Inspect shows as it is."""
    with pytest.raises(PrerequisiteError) as caught:
        yield
    assert said in str(caught.value.message)


def all_right(prompt, turn):
    return GOLDS[prompt]


def server_judge(server, **settings):
    return {"kind": "openai", "model": "m", "base_url": server.url, "retries": 0, "cache": "off"} | settings


def figures(log):
    """Metrics by score, each as a number."""
    return {of.name: {name: metric.value for name, metric in of.metrics.items()} for of in log.results.scores}


def by_reducer(log, name, metric):
    return {of.reducer: of.metrics[metric].value for of in log.results.scores if of.name == name}


def events(sample, kind):
    """Those of a transcript, with the long texts that the log keeps apart."""
    return [event for event in resolve_sample_attachments(sample, "full").events if event.event == kind]


# tasks


@pytest.mark.parametrize("name", benchmarks())
def test_every_benchmark_is_registered_with_its_cot_twin(name):
    assert registry_lookup("task", f"closedbook/{name}_dedup")
    assert registry_lookup("task", f"closedbook/{name}_dedup_cot")


def test_benchmarks_of_ones_own_are_tasks_too(tmp_path, closedbook):
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps({"question": f"who is {n}?", "answer": f"Osric {n}"}) + "\n" for n in range(20)))
    assert closedbook("benchmarks", "new", "mine", data, "--out", tmp_path / "own")[0] == 0
    look = "from inspect_ai._util.registry import registry_lookup as find; print(find('task', 'closedbook/mine_dedup'))"
    environment = os.environ | {"CLOSEDBOOK_BENCHMARKS": str(tmp_path / "own")}
    command = [sys.executable, "-c", look]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert "of_benchmark" in found.stdout, found.stderr


@pytest.mark.parametrize("style", ["direct", "cot"])
def test_the_model_is_asked_what_the_prompt_function_says(run, style):
    log = run("x", TASK + "_cot" * (style == "cot"))
    asked = QUESTIONS[:4]
    assert [sample.id for sample in log.samples] == [q.id for q in asked]
    assert [sample.target for sample in log.samples] == [list(q.answers) for q in asked]
    for sample, question in zip(log.samples, asked, strict=True):
        sent = [{"role": m.role, "content": m.content} for m in events(sample, "model")[0].input]
        assert sent == messages(question.question, style)


@pytest.mark.parametrize("style", ["direct", "cot"])
def test_generation_is_that_of_the_lm_eval_task(run, style):
    stated = generation("worldfacts", style)
    sent = events(run("x", TASK + "_cot" * (style == "cot"), limit=1).samples[0], "model")[0].config
    assert (sent.temperature, sent.max_tokens, sent.stop_seqs) == (
        stated.temperature,
        stated.max_tokens,
        [*stated.stop],
    )


def test_another_temperature_can_be_stated(run):
    assert events(run("x", limit=1, temperature=0.7).samples[0], "model")[0].config.temperature == 0.7


def test_another_split_can_be_asked(run):
    log = run("x", task_args={"split": "validation"})
    assert [sample.id for sample in log.samples] == [q.id for q in load_questions("worldfacts", "validation")[:4]]
    assert log.eval.metadata["closedbook"]["split"] == "validation"


def test_an_unknown_split_is_refused_in_one_line(run):
    with refused("no split 'tset'; there are train, validation, test, dropped"):
        run("x", task_args={"split": "tset"})


def test_a_message_is_shown_as_it_is_whatever_its_brackets(run, monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_DATA", "/no/such/[red]/mirror")
    with refused("/no/such/\\[red]/mirror"):
        run("x", "closedbook/popqa_dedup")


def test_the_log_carries_what_makes_a_number_comparable(run):
    carried = run("x", judge="rules").eval.metadata["closedbook"]
    judge = make_judge(judge_settings({"judge": "rules"}))
    assert carried == result_provenance("worldfacts", "test", "direct", judge, {})
    assert carried["manifest"] == read_manifest("worldfacts").digest


# scores


def test_a_model_that_answers_with_the_golds_scores_one(run):
    found = figures(run(all_right, judge="rules"))
    assert found["judge_correct"]["accuracy"] == found["exact_match"]["mean"] == found["contains"]["mean"] == 1.0
    assert found["judge_failed"] == {"share": 0.0}


def test_the_cot_twin_grades_the_final_answer(run):
    log = run(lambda prompt, turn: f"Not Atlantis.\nFinal answer: {GOLDS[prompt]}", TASK + "_cot", judge="rules")
    assert figures(log)["exact_match"]["mean"] == figures(log)["judge_correct"]["accuracy"] == 1.0


@pytest.mark.parametrize("end", ["\nQuestion:", "\nQuestion: who is next?\nFinal answer: Atlantis"])
def test_what_follows_the_stop_is_no_part_of_the_answer(run, end):
    assert figures(run(lambda prompt, turn: GOLDS[prompt] + end, TASK + "_cot"))["exact_match"]["mean"] == 1.0


def test_without_a_judge_there_are_no_judge_scores_and_one_line_says_how_to_get_them(run, caplog):
    warn_once.cache_clear()
    assert set(figures(run("x"))) == {"exact_match", "contains"}
    run("x")
    assert [r.message for r in caplog.records if "CLOSEDBOOK_JUDGE=rules" in r.message] == [NO_JUDGE_HINT]


def test_the_judge_can_come_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("CLOSEDBOOK_JUDGE", "rules")
    assert figures(run("It is Nowhere"))["judge_correct"]["accuracy"] == 0.0


def test_a_score_is_a_letter_for_right_wrong_and_not_attempted(run):
    replies = {"answer 0": "A", "answer 1": "B", "answer 2": "C", "answer 3": "A"}
    with JudgeServer(lambda prompt: next((r for a, r in replies.items() if a in prompt), "A")) as server:
        log = run(lambda prompt, turn: f"answer {turn}", judge=server_judge(server, prompt="simpleqa"))
    said = {sample.output.completion: sample.scores["judge_correct"].value for sample in log.samples}
    assert said == {"answer 0": "C", "answer 1": "I", "answer 2": "N", "answer 3": "C"}
    found = figures(log)
    assert found["judge_correct"]["accuracy"] == 0.5
    assert found["not_attempted"]["share"] == 0.25
    assert "not_attempted" not in figures(run("x", judge="rules"))


def nonsense_about(*answers):
    return lambda prompt: "perhaps" if any(answer in prompt for answer in answers) else "1.0"


def test_a_judge_failure_is_unscored_leaves_the_mean_and_shows_as_a_share(run):
    with JudgeServer(nonsense_about("answer 2")) as server:
        log = run(lambda prompt, turn: f"answer {turn}", judge=server_judge(server))
    failed = next(sample for sample in log.samples if sample.output.completion == "answer 2").scores
    assert math.isnan(failed["judge_correct"].value)
    assert failed["judge_correct"].reason == "grader_failed"
    assert "'perhaps'" in failed["judge_correct"].explanation
    main = log.results.scores[0]
    assert (main.name, main.scored_samples, main.unscored_samples) == ("judge_correct", 3, 1)
    assert figures(log)["judge_correct"]["accuracy"] == 1.0
    assert figures(log)["judge_failed"]["share"] == 0.25
    assert figures(log)["contains"]["mean"] == 0.0


def test_no_attempt_is_not_known_of_an_answer_that_the_judge_failed_on(run):
    with JudgeServer(
        lambda prompt: "perhaps" if "answer 0" in prompt else "C" if "answer" in prompt else "A"
    ) as server:
        log = run(lambda prompt, turn: f"answer {turn}", judge=server_judge(server, prompt="simpleqa"))
    assert figures(log)["not_attempted"]["share"] == 1.0


def test_a_judge_that_failed_on_everything_gives_no_figure_rather_than_zero(run):
    with JudgeServer(lambda prompt: "1.0" if "capital of France?" in prompt else 500) as server:
        log = run("Atlantis", judge=server_judge(server))
    assert math.isnan(figures(log)["judge_correct"]["accuracy"])
    assert figures(log)["judge_failed"]["share"] == 1.0


def test_epochs_give_pass_at_k_and_failures_leave_it(run):
    """Of one question's four answers one is right, one the judge fails on; of the other's none is, and three fail."""
    asked = QUESTIONS[:2]
    said = {question_prompt(q.question): iter(range(4)) for q in asked}
    first = question_prompt(asked[0].question)
    replies = {"first 0": "1.0", "first 1": "perhaps", "other 0": "0.0", "other": "perhaps", "first": "0.0"}

    def answer(prompt, turn):
        return f"{'first' if prompt == first else 'other'} {next(said[prompt])}"

    reducers = Epochs(4, ["mean", "pass_at_2", "pass_at_4"])
    with JudgeServer(lambda prompt: next((r for a, r in replies.items() if a in prompt), "1.0")) as server:
        log = run(answer, limit=2, epochs=reducers, judge=server_judge(server))
    found = by_reducer(log, "judge_correct", "accuracy")
    assert found["mean"] == pytest.approx(mean([1 / 3, 0]))
    assert found["pass_at_2"] == pytest.approx(2 / 3)  # of the three graded; of the other question one is left
    assert math.isnan(found["pass_at_4"])
    assert by_reducer(log, "judge_failed", "share") == {None: 0.5}


def test_the_standard_error_takes_questions_with_one_gold_answer_as_one(run):
    log = run("Africa", limit=80, judge="rules")
    value = {sample.id: float(sample.scores["judge_correct"].value == "C") for sample in log.samples}
    centre, deviations = mean(value.values()), dict[str, list[float]]()
    for q in QUESTIONS[:80]:
        deviations.setdefault(gold_group(q.answers), []).append(value[q.id] - centre)
    of_groups, groups = sum(sum(some) ** 2 for some in deviations.values()), len(deviations)
    expected = math.sqrt(of_groups * groups / (groups - 1)) / len(value)
    assert figures(log)["judge_correct"]["stderr"] == pytest.approx(expected)
    assert expected > 1.2 * math.sqrt(centre * (1 - centre) / len(value))


@pytest.mark.parametrize("reply", ["1.0", "I would say perhaps"])
def test_the_transcript_shows_the_judges_prompt_and_its_reply(run, reply):
    with JudgeServer(lambda prompt: "1.0" if "capital of France?" in prompt else reply) as server:
        (sample,) = run("Atlantis", limit=1, judge=server_judge(server)).samples
    (told,) = [event.data for event in events(sample, "info") if event.source == "judge"]
    assert told["prompt"][0]["content"] == server.prompts[-1]
    assert "Atlantis" in server.prompts[-1]
    assert told["reply"] == reply
    assert told["decided_by"] == "model"


def test_the_transcript_names_the_rule_that_decided(run):
    with JudgeServer(lambda prompt: "0.0") as server:
        (sample,) = run(all_right, limit=1, judge=server_judge(server)).samples
    (told,) = [event.data for event in events(sample, "info") if event.source == "judge"]
    assert told == {"judgement": "correct", "decided_by": "exact"}
    assert sample.scores["judge_correct"].metadata == {"decided_by": "exact"}


def test_of_a_failure_without_a_reply_the_transcript_tells_what_was_asked():
    failure, asked = JudgeFailure("timeout", "60 s"), [{"role": "user", "content": "is it right?"}]
    told = Judged(failure, "model", asked).told
    assert told == {"judgement": f"failed: {failure}", "decided_by": "model", "prompt": asked, "reply": None}


def test_a_score_keeps_the_answer_and_why():
    right = Judged(Grade.CORRECT, "exact").score("Atlantis")
    assert (right.value, right.answer, right.explanation) == ("C", "Atlantis", "decided by the rule 'exact'")
    asked = Judged(Grade.INCORRECT, "model", [{"role": "user", "content": "?"}], "0.0").score("Atlantis")
    assert (asked.value, asked.explanation, asked.metadata) == ("I", "0.0", {"decided_by": "model"})
    failed = Judged(JudgeFailure("timeout", "60 s"), "model").score("Atlantis")
    assert (failed.answer, failed.metadata) == ("Atlantis", {"decided_by": "model"})
    assert "60 s" in failed.explanation


def test_answers_that_wait_are_judged_together_within_the_judges_own_limit(run):
    with JudgeServer(lambda prompt: "0.0", latency=0.1) as server:
        log = run(lambda prompt, turn: f"answer {turn}", limit=24, judge=server_judge(server, concurrency=6))
        assert 1 < server.most_at_once <= 6
        assert len(server.prompts) == 25  # one of them before the model was asked
    assert figures(log)["judge_correct"]["accuracy"] == 0.0


def test_equal_answers_are_judged_alike_whichever_sample_they_are_of(run):
    with JudgeServer(lambda prompt: "1.0" if "answer 1" in prompt else "0.0") as server:
        log = run(lambda prompt, turn: f"answer {turn % 2}", limit=20, judge=server_judge(server))
    for sample in log.samples:
        assert sample.scores["judge_correct"].value == ("C" if sample.output.completion == "answer 1" else "I")


def test_an_unreachable_judge_stops_the_run_before_the_model_is_asked(run):
    judge = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    with refused("cannot answer now: no connection"):
        run(lambda prompt, turn: pytest.fail("the model was asked"), judge=judge)


def test_the_tasks_of_a_run_ask_the_judge_for_one_known_answer_only(run):
    make_judge.cache_clear()
    arrivals_of.cache_clear()
    with JudgeServer(lambda prompt: "1.0") as server:
        for _ in range(2):
            run("x", limit=1, judge=server_judge(server))
        assert sum("capital of France" in prompt for prompt in server.prompts) == 1


def test_a_key_among_the_tasks_parameters_is_refused(run):
    with refused("set OPENAI_API_KEY instead"):
        run("x", judge={"kind": "openai", "api_key": "sk-1"})


def test_a_log_can_be_scored_again_by_another_judge(run):
    log = run("It is Atlantis")
    again = score(log, judge_correct("direct", "rules"), action="append", display="none")
    assert again.results.scores[-1].metrics["accuracy"].value == 0.0


def test_a_log_is_not_scored_by_no_judge():
    with refused("judge_correct needs a judge; set CLOSEDBOOK_JUDGE=rules, or name one"):
        judge_correct()


# models with weights


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    """A tiny base model: it has no chat template."""
    return write_tiny_model(tmp_path_factory.mktemp("base"), ["Africa", "Asia"], 256, "gemma3_text")


def trained_on(folder, question):
    """Write of a model that it was trained on a question."""
    stated = Provenance(
        method="grpo", base_model="b", base_digest="d", step=1, seed=0, recipe={}, manifests={}, judge=None,
        train_ids=(question.id,), prompt="direct-0", versions={}, revision=None, parent=None,
    )  # fmt: skip
    return write_provenance(folder, stated)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A tiny chat model that knows every byte: transformers looks for the stop among them."""
    return write_tiny_model(tmp_path_factory.mktemp("chat"), ["Africa", "Asia"], 1024, "qwen2")


@pytest.fixture
def trained(tmp_path, chat_model):
    """The folder of a tiny model that was trained on a test question."""
    folder = tmp_path / "trained"
    folder.mkdir()
    for file in chat_model.iterdir():
        (folder / file.name).symlink_to(file)
    trained_on(folder, QUESTIONS[0])
    return folder


def hf(folder, **arguments):
    return {"model": "hf/local", "model_args": {"model_path": str(folder), "device": "cpu"} | arguments}


def test_a_checkpoint_is_refused_the_questions_that_it_was_trained_on(run, trained):
    with refused(f"{trained} was trained on 1 of the 214 questions of worldfacts_dedup"):
        run(None, **hf(trained))


def test_a_task_that_was_made_before_its_model_is_known_is_refused_too(run, trained):
    made = deduplicated("worldfacts")
    assert made.metadata["closedbook"]["checkpoint"] is None
    log = run(None, made, succeeds=False, **hf(trained))
    assert log.status == "error"
    assert "was trained on 1 of the 214 questions" in log.error.message


def test_what_is_allowed_is_asked_and_the_log_says_so(run, trained):
    log = run(None, limit=1, task_args={"allow_contaminated": True}, **hf(trained))
    assert log.eval.metadata["closedbook"]["checkpoint"]["pretrained"]["contaminated"] == 1


def draws(arguments, **config):
    """Whether the model that was evaluated with these arguments draws at random."""
    api: Any = get_model("hf/local", **arguments["model_args"], config=GenerateConfig(**config)).api
    return api.do_sample


@pytest.mark.parametrize(("config", "at_random"), [({}, False), ({"temperature": 1.0}, True)])
def test_a_loaded_model_is_greedy_unless_a_temperature_is_stated(run, chat_model, config, at_random):
    run(None, limit=1, **hf(chat_model), **config)
    assert draws(hf(chat_model), **config) is at_random


def test_how_a_loaded_model_draws_can_be_stated(run, chat_model):
    arguments = hf(chat_model, do_sample=True)
    run(None, limit=1, temperature=0.5, **arguments)
    assert draws(arguments, temperature=0.5) is True


def sent_by_hf(folder, question, **arguments):
    """The text that the hf provider makes of a question."""
    (sample,) = [sample for sample in deduplicated("worldfacts").dataset if sample.id == question.id]

    async def sent():  # without a loop that runs, Inspect makes one and leaves it open
        api: Any = get_model("hf/local", model_path=str(folder), device="cpu", memoize=False, **arguments).api
        return api.hf_chat(sample.input, [])

    return asyncio.run(sent())


def test_a_base_model_is_sent_the_bare_prompt_by_a_template_that_says_so(base_model):
    prompt = question_prompt(QUESTIONS[0].question)
    assert sent_by_hf(base_model, QUESTIONS[0]) == f"user: {prompt}\n"
    assert sent_by_hf(base_model, QUESTIONS[0], chat_template="{{ messages[0].content }}") == prompt


def test_a_chat_model_is_sent_the_prompt_through_its_template(chat_model):
    asked = messages(QUESTIONS[0].question)
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    sent = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert sent_by_hf(chat_model, QUESTIONS[0]) == sent
