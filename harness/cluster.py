"""Workers on a Ray cluster: a pool that is given items and hands back their results, each once.

A worker is a process on any node that builds what it works with once, such as a model, and keeps it. The items stay
here until their results are here, so nothing needs to be kept on the nodes, and only this process writes.

What surprises:

- A worker that is gone is replaced, and what it had under way is given to another one. A node that joins late gets
  work at once: workers that found no room wait for it, or are added.
- What builds a worker is sent in a call, not in the actor's definition. Ray keeps definitions in the cluster's store,
  and a judge's key is part of what builds its client; calls go from process to process.
- An error that a person can act on comes back as a value, and is raised here as it was there.
- Ray Data is not used, although `map_batches` with a pool of actors looks like this. Tried (2.60), its actors end with
  each data set, so that a judge's clients or a model would be started anew for every batch of answers; an error of the
  work arrives as twenty lines; and its rows come from a list or from files, where ours come from a generator that stops
  when the money is spent.

A worker may be as small as this:

    >>> class Doubles:
    ...     identity = {"doubles": True}
    ...     def work(self, item: int) -> int:
    ...         return 2 * item
    >>> actor = Actor()  # on a cluster `Pool(Cluster(), Doubles).map(range(10))` makes them
    >>> actor.start(Doubles)
    {'doubles': True}
    >>> actor.work(21)
    42
"""

from __future__ import annotations

import logging
import math
import platform
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from closedbook.harness.errors import ClosedbookError, RequestError, WorkError, one_line
from closedbook.harness.fields import difference

log = logging.getLogger(__name__)

I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

TICK = 0.5  # seconds after which a pool looks around, where no result comes
LOOK = 2.0  # seconds between two looks for nodes that joined
NOTICE = 10.0  # seconds without any worker after which people are told
START = "start one with `ray start --head`, and on every other machine `ray start --address=HEAD:6379`"

Per = Literal["gpu", "cpu", "node"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster, and how much of it.

    Attributes:
        address: Such as 10.0.0.1:6379; auto for the one that this machine is part of.
        workers: How many; None for as many as there is room for, those of nodes that join among them.
        patience: Seconds to wait for a first worker, or for another one where none is left.
    """

    address: str = "auto"
    workers: int | None = None
    patience: float = 600.0


class Worker(Protocol[I_contra, R_co]):
    """What is built once in a worker's process."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same in all of them, such as the digest of a model."""
        ...

    def work(self, item: I_contra) -> R_co | Awaitable[R_co]:
        """The result of an item; a coroutine where several are under way at once."""
        ...


class _Place(NamedTuple):
    """Where a worker is, and with which code."""

    node: str
    closedbook: str
    python: str


class Actor:
    """What Ray runs: one item at a time."""

    def hello(self) -> _Place:
        """Where it is."""
        import ray

        address: Any = ray.util.get_node_ip_address  # it has no types
        return _place(address())

    def start(self, make: Callable[[], Worker[Any, Any]]) -> Mapping[str, Any] | ClosedbookError:
        """Build the worker; its identity, or why there is none."""
        try:
            self._worker = make()
            return self._worker.identity
        except ClosedbookError as error:
            return error
        except ModuleNotFoundError as error:
            return RequestError(f"{error.name} is not installed there; install on every node what is installed here")

    def work(self, item: Any) -> Any:
        """The result of an item, or why there is none."""
        try:
            return self._worker.work(item)
        except ClosedbookError as error:
            return error


class AsyncActor(Actor):
    """What Ray runs: many items at once."""

    async def work(self, item: Any) -> Any:
        """The result of an item, or why there is none."""
        try:
            return await self._worker.work(item)
        except ClosedbookError as error:
            return error


def _place(node: str) -> _Place:
    return _Place(node, version("closedbook"), platform.python_version())


def _check_same(said: _Place, here: _Place) -> None:
    """Refuse a node with another package or another Python, but for its patches.

    Raises:
        RequestError: It is one.
    """
    if said.closedbook != here.closedbook or said.python.split(".")[:2] != here.python.split(".")[:2]:
        raise RequestError(
            f"the node {said.node} has closedbook {said.closedbook} on Python {said.python}, this machine "
            f"{here.closedbook} on {here.python}; install the same on every node"
        )


@dataclass(eq=False, slots=True)
class _Hand:
    """A worker as it is seen from here: without a place it waits for room, and then until it is ready."""

    actor: Any
    place: str = ""
    ready: bool = False
    busy: int = 0


class _Call(NamedTuple):
    """Something that a worker was asked: an item with its number, or one of its two first calls."""

    hand: _Hand
    kind: Literal["hello", "start", "work"]
    number: int = -1
    item: Any = None


class Pool(Generic[I, R]):
    """Workers of one kind; they end with the context, and the cluster stays.

    Args:
        cluster: Where.
        make: Builds a worker there: a function of a module, or a partial one, that can be pickled.
        per: What one worker takes: a GPU (a processor where the cluster has none when the pool is made), or a
            processor; with "node" there are as many workers as nodes.
        at_once: Items under way, over all workers; None for one a worker, and then `work` is no coroutine.

    Raises:
        RequestError: There is no such cluster.
    """

    def __init__(
        self, cluster: Cluster, make: Callable[[], Worker[I, R]], per: Per = "cpu", at_once: int | None = None
    ) -> None:
        self._ray = _connected(cluster.address)
        self._cluster, self._make, self._per, self._at_once = cluster, make, per, at_once
        self._hands: list[_Hand] = []
        self._calls: dict[Any, _Call] = {}
        self._identity: Mapping[str, Any] | None = None
        self._lost = 0  # workers in a row, without a result in between
        self._looked = -math.inf
        self._alone: float | None = None  # since when there is no worker
        self._told = False
        self._failed: Exception | None = None  # what is raised once the results beside it are taken
        gpus = self._room("GPU") if per == "gpu" else 0
        if per == "gpu" and not gpus:
            log.warning(
                "the Ray cluster has no GPU now, so each worker takes a processor; "
                "start nodes with GPUs before the command"
            )
        self._takes = {"num_cpus": 0 if gpus else 1, "num_gpus": 1 if gpus else 0}

    def __enter__(self) -> Pool[I, R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for hand in self._hands:
            self._ray.kill(hand.actor)
        self._hands, self._calls = [], {}

    @property
    def identity(self) -> Mapping[str, Any]:
        """What is the same in all workers; waits for the first one.

        Raises:
            ClosedbookError: There is none, or what went wrong there.
        """
        while self._identity is None:
            self._settled()
        return self._identity

    def map(self, items: Iterable[I], ahead: int | None = None) -> Iterator[tuple[int, R]]:
        """The number and the result of each item, as they come; a pool has one map at a time.

        Args:
            items: Taken one by one, as workers become free.
            ahead: Items a worker that may be begun beyond the first that has no result yet; None for any number.

        Raises:
            RequestError, WorkError: What went wrong with an item, or with all workers.
        """
        source, taken, under_way = enumerate(items), 0, set[int]()
        again: deque[tuple[int, I]] = deque()  # of workers that are gone
        # of a map that was not read to its end; its items may still be at work
        self._calls = {ref: call for ref, call in self._calls.items() if call.kind != "work"}
        for each in self._hands:
            each.busy = 0
        exhausted = False
        while True:
            looked, late = time.monotonic(), False
            while not late and (hand := self._free()) is not None:
                most = math.inf if ahead is None else min(under_way, default=taken) + ahead * max(1, len(self._hands))
                if not again and not exhausted and taken < most:
                    # two steps: the items may take their time, and are told when they are wanted
                    found = next(source, None)
                    exhausted = found is None
                    if found is not None:
                        again.append(found)
                        taken += 1
                if not again:
                    break
                number, item = again.popleft()
                under_way.add(number)
                self._ask(hand, "work", hand.actor.work.remote(item), number, item)
                late = time.monotonic() > looked + TICK  # the items take their time, as where a rate limit holds
            if exhausted and not under_way and not again:
                return
            for call, result in self._settled(0 if late else TICK):
                if isinstance(result, _Gone):
                    again.append((call.number, call.item))
                else:
                    under_way.discard(call.number)
                    yield call.number, result

    def ordered(self, items: Iterable[I], ahead: int) -> Iterator[R]:
        """The results in the order of the items; at most so many a worker are begun before the first is done."""
        held: dict[int, R] = {}
        wanted = 0
        for number, result in self.map(items, ahead):
            held[number] = result
            while wanted in held:
                yield held.pop(wanted)
                wanted += 1

    @property
    def ready(self) -> int:
        """Workers that have built what they work with."""
        return sum(hand.ready for hand in self._hands)

    @property
    def size(self) -> int:
        """Workers that are wanted now."""
        return min(self._cluster.workers or max(1, self._capacity()), self._at_once or sys.maxsize)

    def _capacity(self) -> int:
        return self._room({"gpu": "GPU" if self._takes["num_gpus"] else "CPU", "cpu": "CPU", "node": ""}[self._per])

    def _room(self, resource: str) -> int:
        """How much of a resource the nodes have that are there; "" for the nodes themselves."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not resource:
            return sum(1 for has in alive if has.get("CPU", 0) >= 1)
        return sum(int(has.get(resource, 0)) for has in alive)

    def _free(self) -> _Hand | None:
        """The least busy worker that can take an item; None where there is none."""
        ready = [hand for hand in self._hands if hand.ready]
        most = 1 if self._at_once is None else math.ceil(self._at_once / max(1, len(ready)))
        hand = min(ready, key=lambda hand: hand.busy, default=None)
        if hand is None or hand.busy >= most:
            return None
        under_way = sum(hand.busy for hand in ready)
        return None if self._at_once is not None and under_way >= self._at_once else hand

    def _hire(self) -> None:
        """Have as many workers as are wanted, those that wait for room among them."""
        now = time.monotonic()
        if now < self._looked + LOOK:
            return
        self._looked = now
        sort = Actor if self._at_once is None else AsyncActor
        threads = {} if self._at_once is None else {"max_concurrency": self._at_once + 2}
        for _ in range(self.size - len(self._hands)):
            options = {**self._takes, **threads, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
            hand = _Hand(self._ray.remote(sort).options(**options).remote())
            self._hands.append(hand)
            self._ask(hand, "hello", hand.actor.hello.remote())

    def _ask(self, hand: _Hand, kind: Literal["hello", "start", "work"], ref: Any, *what: Any) -> None:
        self._calls[ref] = _Call(hand, kind, *what)
        hand.busy += kind == "work"

    def _settled(self, wait: float = TICK) -> list[tuple[_Call, Any]]:
        """The calls with an item that came back, each with its result or with the sign that its worker is gone.

        Args:
            wait: Seconds to wait for one.
        """
        if self._failed:
            raise self._failed
        self._hire()
        self._be_patient()
        refs = list(self._calls)
        if not refs:
            time.sleep(TICK)
            return []
        done, _ = self._ray.wait(refs, num_returns=1, timeout=wait)
        if done:
            done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        settled: list[tuple[_Call, Any]] = []
        for ref in done:
            call = self._calls.pop(ref)
            call.hand.busy -= call.kind == "work"
            try:
                said = self._said(ref, call)
                if call.kind == "work":
                    settled.append((call, said))
                elif not isinstance(said, _Gone):
                    self._welcome(call, said)
            except Exception as error:
                self._failed = error
        return settled

    def _said(self, ref: Any, call: _Call) -> Any:
        """What a call came to.

        Raises:
            ClosedbookError: What went wrong there.
        """
        from ray.exceptions import RayError, RayTaskError

        try:
            said = self._ray.get(ref)
        except RayTaskError as error:
            if call.kind == "work":
                raise  # not ours to explain: its text holds the traceback
            raise WorkError(f"a worker on {call.hand.place or 'a node'} cannot start: {_last_line(error)}") from error
        except RayError as error:
            self._lose(call.hand, error)
            return _Gone()
        if isinstance(said, ClosedbookError):
            raise type(said)(f"worker on {call.hand.place}: {said}") if call.kind == "start" else said
        if call.kind == "work":
            self._lost = 0
        return said

    def _lose(self, hand: _Hand, error: Exception) -> None:
        """Do without a worker; its other calls will tell the same.

        Raises:
            WorkError: They all end, one after the other.
        """
        if hand not in self._hands:
            return
        self._hands.remove(hand)
        self._ray.kill(hand.actor)  # it may be only out of reach
        self._lost += 1
        self._looked = -math.inf
        log.info("a worker on %s is gone: %s", hand.place, one_line(error))
        if self._lost > 3 + 2 * self.size:
            raise WorkError(
                f"{self._lost} workers ended one after the other, the last on {hand.place or 'a node'}, short of "
                f"memory, or without closedbook? It says: {_last_line(error)}; the same command goes on"
            )

    def _welcome(self, call: _Call, said: Any) -> None:
        """Go on with a worker that is there, or that is ready.

        Raises:
            RequestError: It is not like the others.
        """
        hand = call.hand
        if call.kind == "hello":
            hand.place = said.node
            _check_same(said, _place(""))
            self._ask(hand, "start", hand.actor.start.remote(self._make))
            return
        if self._identity is not None and (found := difference(self._identity, said)):
            raise RequestError(
                f"the workers differ: {found.name} is {found.second!r} on {hand.place} and {found.first!r} on the "
                "others; put the same files on every node"
            )
        self._identity, hand.ready = said, True

    def _be_patient(self) -> None:
        """Tell people where there is no worker, and give up after a while.

        Raises:
            WorkError: That.
        """
        now = time.monotonic()
        if any(hand.place for hand in self._hands):
            self._alone = None
            self._told = False
            return
        self._alone = self._alone or now
        waited, patience = now - self._alone, self._cluster.patience
        if waited > patience:
            raise WorkError(
                f"no worker for {patience:.0f} s: the Ray cluster at {self._cluster.address} has no node with room "
                f"({self._needs}); add one with `ray start --address=...`, and the same command goes on"
            )
        if waited > min(NOTICE, patience / 2) and not self._told:
            self._told = True
            log.warning(
                "waiting for the Ray cluster at %s to have room for a worker (%s); `ray start --address=...` adds a "
                "node; giving up after %.0f s",
                self._cluster.address,
                self._needs,
                patience,
            )

    @property
    def _needs(self) -> str:
        return "1 GPU" if self._takes["num_gpus"] else "1 CPU"


class _Gone:
    """In the place of a result: the worker is gone."""


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(RuntimeError(lines[-1] if lines else type(error).__name__))


def _connected(address: str) -> Any:
    """Ray, with this process part of the cluster.

    Raises:
        RequestError: There is no such cluster.
    """
    import ray
    from ray._private import worker

    if not ray.is_initialized():
        try:
            _require_listening(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # it fails in as many ways as there are networks
            raise RequestError(
                f"--address {address}: there is no Ray cluster to join ({one_line(error)}); {START}"
            ) from error
        # what Ray says of nodes that are gone it prints on standard output, which is the command's
        worker.print_to_stdstream = lambda data, **_: log.info("Ray: %s", data)
    return ray


def _require_listening(address: str) -> None:
    """Find out in seconds that nothing is at an address; Ray would try for a minute.

    Raises:
        OSError, ValueError: Nothing is, or the address is none.
    """
    if address == "local":
        raise ValueError("local begins one of this machine alone")
    host, _, port = address.rpartition(":")
    if host and "//" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
