"""What a study would cost on GPUs: counted work, assumptions, and what follows from them."""

import json

import pytest

from closedbook.harness.errors import RequestError
from closedbook.harness.judge.cascade import KNOWN, VERDICT_TOKENS
from closedbook.harness.judge.chat import estimated_tokens
from closedbook.harness.judge.rubrics import RUBRICS, build_messages
from closedbook.training.cost import (
    ASSUMED,
    GPUS,
    Seconds,
    assumptions,
    call_tokens,
    cases,
    cost,
    makespan,
    report,
    seconds,
    total,
)
from closedbook.training.recipes import load_recipe
from closedbook.training.stages import Amount, Stage
from closedbook.training.study import study_graph
from closedbook.training.study_recipe import load_study

# what makes a machine's work plain: a text of 10 tokens, 4 GPUs at 10 tokens a second each, waits of 1 + 2 + 3 seconds
PLAIN = {
    "sampling": 10.0, "training": 5.0, "judging": 1e9, "client": 100.0, "prompt": 6.0, "answer": 4.0, "asked": 0.5,
    "token_seconds": 0.25, "round_trip": 2.0, "update": 3.0, "judge_gpus": 4.0, "price": 2.0,
}  # fmt: skip


def stage(name, *after, **amount):
    return Stage(name, ("x",), tuple(after), amount=Amount(**amount))


def counted(tmp_path, *overrides):
    return list(study_graph(load_study("study_paper", overrides), tmp_path).stages.values())


# the work


def test_a_training_is_counted_as_its_plan_has_it(tmp_path):
    listed = {stage.name: stage.amount for stage in counted(tmp_path, "benchmarks=nq", "attribution=null")}
    questions = 10_000
    paper = listed["qwen/train/nq/grpo"]
    rounds = 8 * (questions // 128)
    assert (paper.rounds, paper.samples, paper.trained) == (rounds, rounds * 640, rounds * 640)
    sft = listed["qwen/train/nq/sft"]
    assert (sft.samples, sft.rounds) == (0, 0)
    assert sft.trained == load_recipe("sft_paper").epochs * questions


def test_samples_and_answers_are_counted(tmp_path):
    listed = {stage.name: stage.amount for stage in counted(tmp_path, "benchmarks=nq", "attribution=null")}
    assert listed["llama/samples/nq/base"] == Amount(samples=2000 * 1024, calls=2000 * 1024)
    assert listed["llama/eval/base"].samples == listed["llama/eval/base"].calls == 3146


def test_all_buckets_of_one_seed_are_one_training_on_all_questions(tmp_path):
    listed = {stage.name: stage.amount for stage in counted(tmp_path, "benchmarks=nq")}
    of_a_seed = [
        amount for name, amount in listed.items() if name.startswith("qwen/train/nq/bucket_") and name.endswith("seed1")
    ]
    assert len(of_a_seed) == 10
    assert sum(amount.samples for amount in of_a_seed) == pytest.approx(listed["qwen/train/nq/grpo"].samples)


def test_the_whole_work_is_the_sum_of_all_stages():
    assert total([stage("a", samples=1, rounds=2), stage("b", samples=10, calls=3)]) == Amount(11, 0, 2, 3)


# how long


def test_phases_share_the_gpus_that_the_judge_leaves():
    assert seconds(Amount(samples=40), PLAIN) == Seconds(rollouts=40 * 10 / (10 * 4))
    assert seconds(Amount(trained=40), PLAIN) == Seconds(training=40 * 10 / (5 * 4))
    assert seconds(Amount(samples=40), PLAIN | {"judge_gpus": 6.0}).rollouts == 20
    assert seconds(Amount(rounds=10), PLAIN) == Seconds(waits=10 * (1 + 2 + 3))


def test_a_judge_is_as_fast_as_its_gpus_or_as_its_client():
    calls = Amount(calls=1000)
    assert seconds(calls, PLAIN).judge == 1000 * 0.5 / 100
    slow = PLAIN | {"judging": 10.0}
    assert seconds(calls, slow).judge == 1000 * 0.5 * call_tokens(slow) / (10 * 4)


def test_a_call_to_the_judge_holds_the_answer_and_the_verdict():
    asked = estimated_tokens(build_messages(KNOWN, RUBRICS["binary"]))
    assert call_tokens(PLAIN) == asked + 4 + VERDICT_TOKENS


def test_waits_are_the_same_on_any_number_of_machines():
    work = Amount(samples=640, trained=640, rounds=1, calls=640)
    one, many = seconds(work, PLAIN), seconds(work, PLAIN, 8)
    assert many == pytest.approx((one.rollouts / 8, one.judge / 8, one.training / 8, one.waits))


@pytest.mark.parametrize(("machines", "gpus"), [(1, 4), (2, 8), (8, 32), (64, 160), (1000, 640)])
def test_a_step_uses_no_more_gpus_than_it_can_be_shared_among(machines, gpus):
    assert seconds(Amount(samples=640), PLAIN, machines, step=640).rollouts == pytest.approx(640 * 10 / (10 * gpus))


def test_stages_that_need_each_other_follow_each_other():
    times = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 1.0}
    after = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    assert [makespan(times, after, machines) for machines in (1, 2, 9)] == [8, 6, 6]


def test_the_longest_way_goes_first():
    times = {"short": 1.0, "also": 1.0, "begin": 1.0, "long": 9.0}
    assert makespan(times, {"short": (), "also": (), "begin": (), "long": ("begin",)}, 1) == 12
    assert makespan(times, {"short": (), "also": (), "begin": (), "long": ("begin",)}, 2) == 10
    # also among those that had to wait
    times = {"begin": 1.0, "also": 1.0, "short": 1.0, "long": 9.0}
    assert makespan(times, {"begin": (), "also": ("begin",), "short": ("begin",), "long": ("begin",)}, 2) == 10
    # of what two stages wait for, the longer one counts
    later = {"short": (), "also": (), "begin": (), "long": ("begin",), "end": ("begin",)}
    assert makespan({"short": 2.0, "also": 2.0, "begin": 1.0, "long": 9.0, "end": 0.5}, later, 2) == 10


# what it costs


def test_machines_are_paid_for_from_begin_to_end():
    pair = [stage("a", samples=14_400), stage("b", "a", samples=14_400)]  # an hour each
    alone, two = cost(pair, PLAIN, 1), cost(pair, PLAIN, 2)
    assert (alone.hours, alone.gpu_hours, alone.dollars) == (2, 2 * GPUS, 2 * GPUS * 2.0)
    assert (two.hours, two.gpu_hours, two.shares["idle"]) == (2, 4 * GPUS, 0.5)
    assert alone.bottleneck == "rollouts"


def test_the_bottleneck_is_what_takes_the_most():
    assert cost([stage("a", samples=40, rounds=10)], PLAIN, 1).bottleneck == "waits"
    assert cost([stage("a", calls=10_000, samples=40)], PLAIN, 1).bottleneck == "judge"
    assert cost([stage("a", trained=40, samples=40)], PLAIN, 1).bottleneck == "training"
    assert cost([stage("a", samples=40)], PLAIN, 3).bottleneck == "idle"


def test_nothing_costs_nothing():
    free = cost([stage("a")], PLAIN, 2)
    assert (free.hours, free.dollars, sum(free.shares.values()), free.bottleneck) == (0, 0, 0, "nothing")


def test_a_part_of_the_stages_can_be_asked_for():
    assert cost([stage("b", "a", samples=40)], PLAIN, 1).hours == 10 / 3600


def test_the_figures_are_those_of_the_work_in_both_cases():
    work = [stage("a", samples=1000, trained=300, rounds=1, calls=100)]
    stated = ["prompt=6", "answer=4", "asked=0.5..1", "update=0.001..1000", "token_seconds=0.001", "round_trip=0.001"]
    assumed = assumptions([*stated, "sampling=10", "training=1000"])
    found = report(work, load_recipe("grpo_paper"), assumed, [1])
    best, worst = cases(assumed)
    assert found["work"] == Amount(1000, 300, 1, 100)._asdict() | {
        "tokens_drawn": [10_000, 10_000],
        "tokens_trained": [3000, 3000],
        "calls_asked": [50, 100],
        "tokens_judged": [50 * call_tokens(best), 100 * call_tokens(worst)],
    }
    assert found["study"][0]["bottleneck"] == ["rollouts", "waits"]


def test_a_study_that_asks_no_judge_has_no_judge_in_its_round():
    (row,) = report([stage("a", samples=1)], load_recipe("grpo_paper"), ASSUMED, [1])["round"]
    assert row["judge"] == [0, 0]
    assert min(row["rollouts"]) > 0


def test_a_round_is_shared_among_all_machines_as_far_as_its_step_goes():
    one, many = report([stage("a", samples=1)], load_recipe("grpo_paper"), ASSUMED, [1, 1000])["round"]
    assert one["rollouts"] == pytest.approx([640 / 4 * of for of in many["rollouts"]])


# assumptions


def test_every_assumption_says_where_it_is_from_and_which_end_is_the_better():
    better_when_high = {"sampling", "judging", "training", "client"}
    for name, of in ASSUMED.items():
        assert of.source and of.unit
        assert of.best >= of.worst if name in better_when_high else of.best <= of.worst


def test_an_assumption_is_replaced_by_a_number_or_by_two():
    assumed = assumptions(["price=3", "sampling=9000..500.5"])
    assert (assumed["price"].best, assumed["price"].worst, assumed["price"].source) == (3, 3, "stated")
    assert assumed["sampling"][:2] == (9000, 500.5)
    assert assumed["judging"] == ASSUMED["judging"]
    best, worst = cases(assumed)
    assert (best["sampling"], worst["sampling"], best["price"]) == (9000, 500.5, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("prize=3", "no assumption 'prize'; did you mean price"),
        ("price", "give a number from 1e-09 to 1e"),
        ("price=0", "give a number from 1e-09 to 1e"),
        ("price=-1", "give a number from 1e-09 to 1e"),
        ("price=1..", "give a number from 1e-09 to 1e"),
        ("price=1..0", "give a number from 1e-09 to 1e"),
        ("price=0..1", "give a number from 1e-09 to 1e"),
        (f"price={'9' * 400}", "give a number from 1e-09 to 1e"),
        (f"price=0.{'0' * 300}1", "give a number from 1e-09 to 1e"),
        ("price=nan", "give a number from 1e-09 to 1e"),
        ("asked=0.5..1.5", "a share is at most 1"),
        ("judge_gpus=0.5", "leave the judge 1 to 7"),
        ("judge_gpus=4..8", "leave the judge 1 to 7"),
        ("judge_gpus=8..4", "leave the judge 1 to 7"),
        ("asked=2", "a share is at most 1"),
        ("judge_gpus=8", "leave the judge 1 to 7"),
        ("judge_gpus=1.5", "leave the judge 1 to 7"),
    ],
)
def test_an_assumption_that_cannot_be_is_refused(change, said):
    with pytest.raises(RequestError, match=rf"^--assume {change}: .*{said}"):
        assumptions([change])


@pytest.mark.parametrize("change", ["asked=1", "judge_gpus=1", "judge_gpus=7"])
def test_the_last_that_an_assumption_can_be_is_taken(change):
    name, _, number = change.partition("=")
    assert assumptions([change])[name].worst == float(number)


# the command


def test_a_number_of_machines_that_no_float_holds_is_refused(closedbook):
    code, _, said = closedbook("reproduce", "--cost", "--machines", "9" * 400)
    assert (code, "1000000" in said) == (2, True)


def test_the_best_case_is_better_than_the_worst_on_any_number_of_machines(tmp_path):
    stages = counted(tmp_path, "benchmarks=popqa")
    found = report(stages, load_recipe("grpo_paper"), ASSUMED, [1, 8, 64])
    for row in found["study"]:
        for name in ("hours", "gpu_hours", "dollars"):
            assert row[name][0] < row[name][1]
        for shares in row["shares"]:
            assert sum(shares.values()) == pytest.approx(1)
    for at in (0, 1):
        hours = [row["hours"][at] for row in found["study"]]
        assert hours == sorted(hours, reverse=True)


def test_the_command_prints_cost_and_sources_and_makes_nothing(closedbook, tmp_path):
    words = (
        "reproduce",
        "--config",
        "study_paper",
        "benchmarks=nq",
        "attribution=null",
        "--cost",
        "--out",
        tmp_path / "out",
    )
    code, shown, _ = closedbook(*words)
    assert code == 0
    for text in ("takes most of the time", "nvidia.github.io", "not measured on a GPU here"):
        assert text in " ".join(shown.split())
    code, text, _ = closedbook(*words, "--machines", 2, "--machines", 1, "--assume", "price=1", "--json")
    found = json.loads(text)
    assert [row["machines"] for row in found["study"]] == [1, 2]
    assert found["study"][0]["dollars"] == found["study"][0]["gpu_hours"]
    assert not (tmp_path / "out").exists()


def test_assumptions_are_no_request_without_cost(closedbook):
    code, _, said = closedbook("reproduce", "--assume", "price=1")
    assert (code, "--machines and --assume change what --cost prints" in said) == (2, True)
