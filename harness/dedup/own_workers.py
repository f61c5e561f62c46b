"""Chunks of training rows are compared on as many processes as there are processors.

What surprises: rows and results never pass between processes. Each worker reads the file itself, takes the chunks that
are its share, saves what it found, and tells their numbers on a connection that is its alone. So a worker that is ended
at any moment, by Ctrl-C or for want of memory, leaves nobody waiting; a pool, whose workers share their queues, cannot
promise that. And no worker outlives the main process, even one that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from threading import RLock, Thread, current_thread, main_thread
from typing import TYPE_CHECKING, NamedTuple, cast

from tqdm import tqdm

from closedbook.harness.dedup.own_matching import Matcher
from closedbook.harness.dedup.own_parts import Parts
from closedbook.harness.dedup.own_rows import Columns, read_chunks
from closedbook.harness.errors import ClosedbookError, WorkError
from closedbook.harness.questions import Question

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

MOST_WORKERS = 8  # each holds the test questions, some hundred megabytes


class Work(NamedTuple):
    """Rows of a file to compare with questions, and where to save what is found."""

    train: Path
    columns: Columns
    questions: Sequence[Question]
    parts: Parts


def compare_here(work: Work, wanted: Collection[int]) -> Iterator[int]:
    """Compare the chunks of these numbers and save what is found.

    Yields:
        The number of each chunk, once it is saved.

    Raises:
        RequestError: The file cannot be read.
        WorkError: A part cannot be saved.
    """
    matcher = Matcher(work.questions)
    for at, rows in read_chunks(work.train, work.columns, wanted):
        work.parts.save(at, matcher.compare(rows))
        yield at


def compare(work: Work, wanted: Sequence[int]) -> Generator[int, None, None]:
    """The same on several processes, where there are processors and chunks for them; these end with the generator.

    Raises:
        WorkError: As above, or a worker was ended from outside, as happens where memory is short.
    """
    count = workers_for(len(wanted))
    if count < 2:
        yield from compare_here(work, wanted) if wanted else ()
        return
    with _workers(count) as workers:
        for nth, connection in enumerate(workers):
            with suppress(ConnectionError):  # it was ended already, which is noticed below
                connection.send((work, wanted[nth::count]))
        busy = set(workers)
        while busy:
            for connection in cast("list[Connection]", wait(busy)):
                at = _told(connection, workers[connection])
                if at is None:
                    busy.remove(connection)
                else:
                    yield at


def workers_for(chunks: int) -> int:
    """Processes for so many chunks; starting them takes longer than comparing one chunk."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, MOST_WORKERS, chunks)


@contextmanager
def _workers(count: int) -> Iterator[dict[Connection, BaseProcess]]:
    """Worker processes, each with the connection to it; busy or not, they are killed in the end: parts are whole."""
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    try:
        with _ctrl_c_held_back():
            for _ in range(count):
                ours, theirs = context.Pipe()
                worker: BaseProcess = context.Process(target=_work, args=(theirs,), daemon=True)
                worker.start()
                theirs.close()  # the worker's copy is the only one left, and ends with it
                workers[ours] = worker
        yield workers
    finally:
        for connection, worker in workers.items():
            worker.kill()
            worker.join()
            connection.close()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the context, and never reach processes that start in it.

    A blocked signal is inherited, so that a worker shows no traceback however early it comes. But it is blocked in this
    thread alone, and one that another thread receives would still interrupt a start halfway.
    """
    resource_tracker.ensure_running()  # else the first start does it, and lets Ctrl-C through again
    came: list[int] = []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    heeds = current_thread() is main_thread()  # no other may set a handler, or is interrupted
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if heeds else None
    try:
        yield
    finally:
        if heeds:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number in came[:1]:
            signal.raise_signal(number)


def _told(connection: Connection, worker: BaseProcess) -> int | None:
    """The number of a chunk that a worker has saved; None once it is through with its share.

    Raises:
        ClosedbookError: What went wrong there.
    """
    try:
        told = connection.recv()
    except (EOFError, OSError):
        worker.join()
        if worker.exitcode:
            raise WorkError(
                f"a worker process was ended (exit code {worker.exitcode}), short of memory? The same command again "
                "goes on"
            ) from None
        return None
    if isinstance(told, ClosedbookError):
        raise told
    return cast("int", told)


def _work(main: Connection) -> None:
    """A worker process: does its share and tells of each chunk that is saved, or of what went wrong."""
    Thread(target=_end_with_main, daemon=True).start()
    tqdm.set_lock(RLock())  # not one for all processes: a worker that is killed would leave it and a warning behind
    with suppress(EOFError, ConnectionError):  # the main process is gone
        work, share = main.recv()
        try:
            for at in compare_here(work, share):
                main.send(at)
        except ClosedbookError as error:
            main.send(error)


def _end_with_main() -> None:
    if main := multiprocessing.parent_process():
        main.join()
        os._exit(1)
