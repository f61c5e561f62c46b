"""Samples that are drawn on a Ray cluster: each worker has an engine, and draws whole blocks of questions.

A block is what one process draws together with transformers, in the same batches, so that its samples are those of one
process to the bit wherever the machines do the same arithmetic. With vLLM a block is smaller here than in one process.
What surprises: the engine's identity is the workers', so that a
folder that one process began is gone on with on a cluster, and the other way round; workers whose model is another one
are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from closedbook.harness.cluster import Cluster, Pool
from closedbook.harness.drawing import BLOCK, Ask, Engine


class EngineWorker:
    """An engine in a worker's process.

    Args:
        make: Makes the engine.
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._engine = make()
        self.identity: Mapping[str, Any] = self._engine.identity

    def work(self, ask: Ask) -> list[list[str]]:
        """The samples that are asked for."""
        return self._engine.sample(*ask)


class ClusterEngine:
    """Engines on a cluster.

    Args:
        pool: Of workers with an engine each.
    """

    at_once = BLOCK  # of any engine: small enough that every worker has its share

    def __init__(self, pool: Pool[Ask, list[list[str]]]) -> None:
        self._pool = pool

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the workers' engines; waits for the first one."""
        return self._pool.identity

    def stream(self, asks: Iterable[Ask]) -> Generator[list[list[str]], None, None]:
        """The samples of each, in order; each worker has one under way."""
        # results that came early wait here for a late one, and are lost with this process
        yield from self._pool.ordered(asks, ahead=4)


@contextmanager
def cluster_engine(cluster: Cluster, make: Callable[[], Engine]) -> Iterator[ClusterEngine]:
    """Engines on a cluster, which end with the context.

    Args:
        cluster: Where.
        make: Makes one of them there; a partial function of a module.

    Raises:
        RequestError: There is no such cluster.
    """
    with Pool(cluster, partial(EngineWorker, make), per="gpu") as pool:
        yield ClusterEngine(pool)
