"""A judge for whoever has answers one at a time: what arrives while a batch is judged makes up the next batch.

A judge takes many answers at once and has its calls under way together, but it is no object for several threads: its
cache is one connection, and each batch has a concurrency of its own. So one thread judges, and asyncio waits.

    >>> import asyncio
    >>> from closedbook.harness.judge import RulesJudge
    >>> asyncio.run(Arrivals(RulesJudge()).grade(Triple("what is the capital of france", ("Paris",), "Paris")))
    <Grade.CORRECT: 'correct'>
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from queue import SimpleQueue
from typing import TypeVar

from closedbook.harness.judge import JudgeSettings, make_judge
from closedbook.harness.judge.verdicts import Judge, Judgement, Triple

T = TypeVar("T")


class Arrivals:
    """Grades answers as they come, from any event loop.

    Args:
        judge: Who grades them, in a thread of this object's own and nowhere else meanwhile.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._waiting: SimpleQueue[tuple[Triple, Future[Judgement]]] = SimpleQueue()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge")

    async def preflight(self) -> None:
        """Make sure that the judge can work.

        Raises:
            RequestError, WorkError: As the judge's own `preflight`.
        """
        await self.call(self.judge.preflight)

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives that uses the judge, in the judge's thread."""
        return await asyncio.wrap_future(self._thread.submit(function))

    async def grade(self, triple: Triple) -> Judgement:
        """The judgement of one answer; a failure is returned.

        Raises:
            RequestError, WorkError: The judge turned out not to work at all when it was needed first.
        """
        awaited: Future[Judgement] = Future()
        self._waiting.put((triple, awaited))
        self._thread.submit(self._grade_waiting)
        return await asyncio.wrap_future(awaited)

    def _grade_waiting(self) -> None:
        """Judge all that waits now; nothing does where the batch before took it along."""
        batch = []
        while not self._waiting.empty():  # only this thread takes
            triple, awaited = self._waiting.get()
            if awaited.set_running_or_notify_cancel():
                batch.append((triple, awaited))
        if not batch:
            return
        try:
            judged = self.judge.grade([triple for triple, _ in batch], preflight=True, quiet=True)
            for (_, awaited), judgement in zip(batch, judged, strict=True):
                awaited.set_result(judgement)
        except BaseException as error:  # for those who wait, who would do so forever
            for _, awaited in batch:
                if not awaited.done():
                    awaited.set_exception(error)


@cache
def arrivals_of(settings: JudgeSettings) -> Arrivals:
    """The judge of these settings for all of a process: equal settings are one judge, and it takes one thread."""
    return Arrivals(make_judge(settings))
