"""Answers that arrive one at a time and are judged together."""

import asyncio
import threading

import pytest

from closedbook.harness.errors import WorkError
from closedbook.harness.judge import Grade, JudgeFailure, JudgeSettings, RulesJudge, Triple
from closedbook.harness.judge.arrivals import Arrivals, arrivals_of

WAIT = 30  # seconds


def about(answer):
    return Triple("who wrote hamlet", ("Shakespeare",), answer)


class Slow(RulesJudge):
    """Keeps its batches and the threads that they came in; holds the first one until it is let go."""

    def __init__(self):
        super().__init__()
        self.batches, self.threads, self.go = [], set(), threading.Event()

    def grade(self, triples, **more):
        self.batches.append([triple.answer for triple in triples])
        self.threads.add(threading.get_ident())
        assert self.go.wait(WAIT)
        return super().grade(triples, **more)


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.001)


async def first_and_then(arrivals, *later):
    """Grade an answer, and others while that is under way; tasks in order of arrival."""
    tasks = [asyncio.ensure_future(arrivals.grade(about("Marlowe")))]
    await until(lambda: arrivals.judge.batches)
    tasks += [asyncio.ensure_future(arrivals.grade(about(answer))) for answer in later]
    await asyncio.sleep(0.01)
    return tasks


def test_what_arrives_while_a_batch_is_judged_is_the_next_batch():
    judge = Slow()

    async def run():
        tasks = await first_and_then(Arrivals(judge), "Shakespeare", "Kyd", "shakespeare")
        judge.go.set()
        return await asyncio.gather(*tasks)

    right, wrong = Grade.CORRECT, Grade.INCORRECT
    assert asyncio.run(run()) == [wrong, right, wrong, right]
    assert judge.batches == [["Marlowe"], ["Shakespeare", "Kyd", "shakespeare"]]
    assert len(judge.threads - {threading.get_ident()}) == 1


def test_an_answer_that_nobody_waits_for_any_more_is_not_judged():
    judge = Slow()

    async def run():
        first, gone, last = await first_and_then(Arrivals(judge), "Kyd", "Shakespeare")
        gone.cancel()
        await asyncio.sleep(0.01)
        judge.go.set()
        return await asyncio.gather(first, last)

    assert asyncio.run(run()) == [Grade.INCORRECT, Grade.CORRECT]
    assert judge.batches == [["Marlowe"], ["Shakespeare"]]


def test_a_failure_is_returned():
    class Down(RulesJudge):
        def grade(self, triples, **_):
            return [JudgeFailure("server", "503") for _ in triples]

    assert asyncio.run(Arrivals(Down()).grade(about("Kyd"))) == JudgeFailure("server", "503")


def test_a_judge_that_cannot_work_is_raised_to_all_who_wait_and_tried_again_by_the_next():
    class Waking(RulesJudge):
        asleep = True

        def grade(self, triples, *, preflight=False, quiet=False):
            if preflight and self.asleep:
                raise WorkError("asleep")
            return super().grade(triples)

    judge = Waking()
    arrivals = Arrivals(judge)

    async def run():
        refused = await asyncio.gather(*(arrivals.grade(about("Kyd")) for _ in range(3)), return_exceptions=True)
        judge.asleep = False
        return refused, await arrivals.grade(about("Kyd"))

    refused, later = asyncio.run(run())
    assert [str(error) for error in refused] == ["asleep"] * 3
    assert later is Grade.INCORRECT


def test_a_judge_that_says_too_little_leaves_nobody_waiting():
    class Terse(RulesJudge):
        def grade(self, triples, **_):
            return []

    with pytest.raises(ValueError, match="zip"):
        asyncio.run(asyncio.wait_for(Arrivals(Terse()).grade(about("Kyd")), WAIT))


def test_a_judge_that_says_too_little_has_said_what_it_said():
    class Short(RulesJudge):
        def grade(self, triples, **_):
            return [Grade.CORRECT] if len(triples) > 1 else super().grade(triples)

    judge = Slow()
    arrivals = Arrivals(judge)

    async def run():
        tasks = await first_and_then(arrivals, "Kyd", "Bacon")
        arrivals.judge = Short()
        judge.go.set()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT)

    _, second, third = asyncio.run(run())
    assert second is Grade.CORRECT
    assert isinstance(third, ValueError)


def test_a_judge_that_ends_in_any_way_leaves_nobody_waiting():
    class Ends(BaseException):
        """As what asyncio cancels, it is no Exception."""

    class Ending(RulesJudge):
        def grade(self, triples, **_):
            raise Ends

    with pytest.raises(Ends):
        asyncio.run(asyncio.wait_for(Arrivals(Ending()).grade(about("Kyd")), WAIT))


def test_a_batch_is_judged_without_a_bar():
    class Watched(RulesJudge):
        quiet = False

        def grade(self, triples, *, preflight=False, quiet=False):
            self.quiet = quiet
            return super().grade(triples)

    judge = Watched()
    asyncio.run(Arrivals(judge).grade(about("Kyd")))
    assert judge.quiet


def test_the_preflight_is_the_judges():
    class Absent(RulesJudge):
        def preflight(self):
            raise WorkError("no judge there")

    with pytest.raises(WorkError, match="no judge there"):
        asyncio.run(Arrivals(Absent()).preflight())


def test_one_judge_serves_one_event_loop_after_another():
    arrivals = Arrivals(RulesJudge())
    assert [asyncio.run(arrivals.grade(about("Shakespeare"))) for _ in range(2)] == [Grade.CORRECT] * 2


def test_equal_settings_are_one_judge_in_one_thread():
    assert arrivals_of(JudgeSettings(kind="rules")) is arrivals_of(JudgeSettings(kind="rules"))
    assert arrivals_of(JudgeSettings(kind="rules")) is not arrivals_of(JudgeSettings(kind="rules", prompt="simpleqa"))


def test_what_else_uses_the_judge_runs_in_its_thread():
    judge = Slow()
    judge.go.set()
    arrivals = Arrivals(judge)

    async def run():
        await arrivals.grade(about("Kyd"))
        return await arrivals.call(threading.get_ident)

    assert {asyncio.run(run())} == judge.threads
