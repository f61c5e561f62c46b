"""Chunks of training rows are compared on as many processes as there are processors.

What surprises: no worker outlives the main process, even one that is killed. And a worker saves what it found itself
and hands back a number only: a larger message takes several writes, and a worker that is ended between two of them
would leave the main process waiting for the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from itertools import islice
from threading import RLock, Thread
from typing import TYPE_CHECKING

from tqdm import tqdm

from closedbook.harness.dedup.own_matching import Matcher
from closedbook.harness.dedup.own_parts import Parts
from closedbook.harness.dedup.own_rows import Row
from closedbook.harness.errors import WorkError
from closedbook.harness.questions import Question

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MOST_WORKERS = 8  # each holds the test questions, some hundred megabytes

Numbered = tuple[int, list[Row]]

_matcher: Matcher | None = None  # of a worker process


def _start_worker(questions: Sequence[Question], alive: Connection) -> None:
    """Make a worker ready, and have it end when the main process lets go of its end of the pipe, or is killed."""
    global _matcher
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one decides

    def end_with_main() -> None:
        try:
            alive.recv()
        except (EOFError, OSError):
            os._exit(1)

    Thread(target=end_with_main, daemon=True).start()
    tqdm.set_lock(RLock())  # not one for all processes: ended as above, a worker would leave it and a warning behind
    _matcher = Matcher(questions)


def _work(parts: Parts, at: int, rows: list[Row]) -> int:
    assert _matcher is not None  # _start_worker ran
    parts.save(at, _matcher.compare(rows))
    return at


def compared(
    todo: Iterator[Numbered], questions: Sequence[Question], parts: Parts, workers: int
) -> Generator[int, None, None]:
    """Compare numbered chunks and save what is found; by this process alone where there is one worker.

    Yields:
        The number of each chunk, once it is saved.

    Raises:
        WorkError: A part cannot be saved, or a worker was ended from outside, as happens where memory is short.
    """
    if workers < 2:
        matcher = cache(lambda: Matcher(questions))  # not made where nothing is to do
        for at, rows in todo:
            parts.save(at, matcher().compare(rows))
            yield at
        return
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, _start_worker, (questions, theirs))
    try:
        yield from _shared_out(executor, todo, parts, 2 * workers)
        executor.shutdown()
    except BrokenProcessPool as error:
        raise WorkError("a worker process was ended, short of memory? The same command again goes on") from error
    finally:
        ours.close()  # ends workers that are still busy, where an error or Ctrl-C ends this
        executor.shutdown(cancel_futures=True)


def _shared_out(executor: ProcessPoolExecutor, todo: Iterator[Numbered], parts: Parts, most: int) -> Iterator[int]:
    """Give chunks to the workers, no more at once than `most`, and hand on which are done."""
    pending: set[Future[int]] = set()
    while True:
        pending.update(executor.submit(_work, parts, at, rows) for at, rows in islice(todo, most - len(pending)))
        if not pending:
            return
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def workers_for(todo: int) -> int:
    """Processes for so many chunks; starting them takes longer than comparing one chunk."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, MOST_WORKERS, todo)
