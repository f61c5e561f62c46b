"""Chunks of training rows are compared on the workers of a Ray cluster, as `own_workers` does on one machine.

What differs: the file is read here alone, and what is found is saved here alone. The nodes need neither the file nor
the folder, and a node that is lost has lost the chunks that it was comparing.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from closedbook.harness.cluster import Cluster, Pool
from closedbook.harness.dedup.own_matching import Matcher
from closedbook.harness.dedup.own_parts import Part
from closedbook.harness.dedup.own_rows import Row, read_chunks
from closedbook.harness.dedup.own_workers import Work
from closedbook.harness.questions import Question


class Chunk(NamedTuple):
    """Rows that are compared together, and which ones of the file they are."""

    at: int
    rows: Sequence[Row]


class Found(NamedTuple):
    """What a chunk of rows holds."""

    at: int
    part: Part


class Comparer:
    """The test questions, indexed, in a worker's process."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._matcher = Matcher(questions)
        self.identity: Mapping[str, Any] = {}  # the version of closedbook, which is compared anyway

    def work(self, chunk: Chunk) -> Found:
        """What a chunk holds."""
        return Found(chunk.at, self._matcher.compare(chunk.rows))


def compare_on(cluster: Cluster, work: Work, wanted: Collection[int]) -> Generator[int, None, None]:
    """Compare the chunks of these numbers on a cluster and save what is found; its workers end with the generator.

    Yields:
        The number of each chunk, once it is saved, in any order.

    Raises:
        RequestError: The file cannot be read, or there is no such cluster.
        WorkError: A part cannot be saved, or no worker is left.
    """
    if not wanted:
        return
    with Pool(cluster, partial(Comparer, work.questions)) as pool:
        chunks = (Chunk(at, rows) for at, rows in read_chunks(work.train, work.columns, wanted))
        for _, found in pool.map(chunks):
            work.parts.save(found.at, found.part)
            yield found.at
