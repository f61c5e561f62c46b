"""A pool of workers on a stand-in for Ray, which does what a test says; with Ray: tests/integration/test_ray.py."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from closedbook.harness import cluster
from closedbook.harness.cluster import Actor, Cluster, Pool, _Place
from closedbook.harness.errors import RequestError, WorkError


@dataclass(eq=False)
class Worker:
    """A process of the stand-in: its calls are done in order, when they are asked for."""

    ray: "StandIn"
    place: str
    actor: Actor = field(default_factory=Actor)
    dead: bool = False

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *what: self.ray.call(self, name, what))

    def does(self, name, what):
        if name == "hello":
            return _Place(self.place, *cluster._place("")[1:])
        return getattr(self.actor, name)(*what)


class StandIn:
    """What a pool uses of Ray; calls come back one at a time, in the order of `pick`."""

    def __init__(self, processors=2, gpus=0):
        self.there = [{"Alive": True, "Resources": {"CPU": processors, "GPU": gpus}}]
        self.workers, self.calls, self.killed = [], {}, []
        self.numbers = itertools.count()
        self.pick = min  # the call that was made first
        self.most = 0  # items under way at once
        self.asked = []
        self.options = []
        self.dies = lambda worker, item: False

    def nodes(self):
        return self.there

    def remote(self, sort):
        def options(**stated):
            self.options.append(stated)
            return SimpleNamespace(remote=self.hire)

        return SimpleNamespace(options=options)

    def hire(self):
        self.workers.append(Worker(self, f"10.0.0.{len(self.workers) + 1}"))
        return self.workers[-1]

    def call(self, worker, name, what):
        ref = next(self.numbers)
        self.calls[ref] = (worker, name, what)
        if name == "work":
            self.asked.append(what[0])
            self.most = max(self.most, sum(1 for _, name, _ in self.calls.values() if name == "work"))
        return ref

    def wait(self, refs, num_returns, timeout):
        return [self.pick(refs)], []

    def get(self, ref):
        worker, name, what = self.calls.pop(ref)
        if name == "work" and self.dies(worker, what[0]):
            worker.dead = True
        if worker.dead:
            raise ActorDiedError
        return worker.does(name, what)

    def last(self, refs):
        """The item that was given out last, once all workers are ready."""
        return max(refs, key=lambda ref: (self.calls[ref][1] != "work", ref))

    def kill(self, worker):
        worker.dead = True
        self.killed.append(worker)


class Doubles:
    identity = {"doubles": True}  # noqa: RUF012

    def work(self, item):
        if item == "wrong":
            raise RequestError("nothing is there; ask for another one")
        return 2 * item


def told(items, taken):
    """The items, each noted as it is taken."""
    for item in items:
        taken.append(item)
        yield item


@pytest.fixture
def ray(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr(cluster, "_connected", lambda address: stand_in)
    monkeypatch.setattr(cluster, "LOOK", 0.0)
    monkeypatch.setattr(cluster, "TICK", 0.001)
    return stand_in


def doubled(count):
    return [(number, 2 * number) for number in range(count)]


def test_every_item_has_its_result_once_whatever_comes_first(ray):
    ray.pick = ray.last
    with Pool(Cluster(), Doubles) as pool:
        assert sorted(pool.map(range(20))) == doubled(20)
    assert ray.asked == list(range(20))


def test_results_are_put_in_the_order_of_the_items(ray):
    ray.pick = ray.last
    with Pool(Cluster(), Doubles) as pool:
        assert list(pool.ordered(range(20), 3)) == [2 * number for number in range(20)]
        assert list(pool.ordered(range(2), 3)) == [0, 2]


def test_items_are_taken_as_workers_become_free(ray):
    taken: list[int] = []
    with Pool(Cluster(workers=2), Doubles) as pool:
        for number, _ in pool.map(told(range(20), taken)):
            assert len(taken) <= number + 3
    assert ray.most == 2


def test_results_are_taken_while_items_take_their_time(ray):
    """As where a rate limit makes them wait: what came meanwhile is kept, and counts against a budget."""
    found: list[Any] = []

    def slow():
        for at in range(12):
            time.sleep(0.002)  # more than TICK
            assert len(found) >= at - 2
            yield at

    with Pool(Cluster(workers=2), Doubles, at_once=8) as pool:
        for result in pool.map(slow()):
            found.append(result)
    assert sorted(found) == doubled(12)


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_items_are_begun_beyond_a_late_one_than_are_allowed(ray, ahead):
    def pick(refs):  # item 0 is late for as long as anything else can be had
        late = [ref for ref in refs if ray.calls[ref][1:] == ("work", (0,))]
        return max((ref for ref in refs if ref not in late), default=refs[0])

    ray.pick = pick
    taken: list[int] = []
    with Pool(Cluster(workers=2), Doubles) as pool:
        for number, _ in pool.map(told(range(50), taken), ahead):
            if number == 0:
                break
    assert len(taken) == 2 * ahead


def test_what_a_lost_worker_had_under_way_is_given_to_another_one(ray):
    ray.dies = lambda worker, item: item == 3 and worker is ray.workers[0]
    with Pool(Cluster(workers=1), Doubles) as pool:
        assert sorted(pool.map(range(6))) == doubled(6)
        assert pool.ready == 1
    assert ray.asked == [0, 1, 2, 3, 3, 4, 5]
    assert ray.killed == ray.workers
    assert len(ray.workers) == 2


def test_a_lost_worker_is_replaced_at_once(ray, monkeypatch):
    monkeypatch.setattr(cluster, "LOOK", 60.0)
    ray.dies = lambda worker, item: item == 3 and worker is ray.workers[0]
    with Pool(Cluster(workers=1, patience=0.1), Doubles) as pool:
        assert sorted(pool.map(range(6))) == doubled(6)


def test_of_a_lost_worker_with_many_items_each_is_given_again_and_it_is_one_loss(ray):
    ray.dies = lambda worker, item: item == 3 and worker is ray.workers[0]
    with Pool(Cluster(workers=1), Doubles, at_once=4) as pool:
        assert sorted(pool.map(range(6))) == doubled(6)
        assert pool._lost == 0
    assert ray.killed == ray.workers
    assert len(ray.workers) == 2


def test_an_item_that_ends_every_worker_ends_the_work_and_results_in_between_begin_the_count_anew(ray):
    ray.dies = lambda worker, item: item == "ends"
    with Pool(Cluster(workers=1), Doubles) as pool, pytest.raises(WorkError, match=r"^6 workers ended one after the"):
        list(pool.map(["ends"]))
    unseen = set(range(20))

    def dies(worker, item):
        first = item in unseen
        unseen.discard(item)
        return first

    ray.dies = dies
    with Pool(Cluster(workers=1), Doubles) as pool:
        assert sorted(pool.map(range(20))) == doubled(20)


def test_what_goes_wrong_with_an_item_is_raised_after_the_results_beside_it(ray):
    ray.wait = lambda refs, num_returns, timeout: (refs, [])
    found: list[Any] = []
    with Pool(Cluster(workers=2), Doubles) as pool, pytest.raises(RequestError, match=r"^nothing is there; ask for"):
        found.extend(pool.map(["wrong", 1]))
        pytest.fail("it was not raised")
    assert [worker.dead for worker in ray.workers] == [True, True]


def test_no_more_than_so_many_items_are_under_way_over_all_workers(ray):
    ray.pick = ray.last
    with Pool(Cluster(workers=2), Doubles, at_once=5) as pool:
        assert sorted(pool.map(range(40))) == doubled(40)
        assert ray.most == 5
        ray.most = 0  # with both at work from the beginning
        assert sorted(pool.map(range(40))) == doubled(40)
    assert ray.most == 5
    assert all(stated["max_concurrency"] == 7 for stated in ray.options)


def test_there_are_no_more_workers_than_items_at_once(ray):
    with Pool(Cluster(workers=9), Doubles, at_once=3) as pool:
        assert pool.size == 3


@pytest.mark.parametrize(
    ("per", "gpus", "size", "takes"),
    [("gpu", 3, 3, (0, 1)), ("gpu", 0, 2, (1, 0)), ("cpu", 3, 2, (1, 0)), ("node", 3, 1, (1, 0))],
)
def test_a_worker_takes_what_it_is_made_for(ray, caplog, per, gpus, size, takes):
    ray.there[0]["Resources"]["GPU"] = gpus
    ray.there.append({"Alive": False, "Resources": {"CPU": 8, "GPU": 8}})
    ray.there.append({"Alive": True, "Resources": {"memory": 1}})
    with Pool(Cluster(), Doubles, per) as pool:
        assert pool.size == size
        list(pool.map([1]))
    assert {(stated["num_cpus"], stated["num_gpus"]) for stated in ray.options} == {takes}
    assert {stated["max_restarts"] for stated in ray.options} == {0}  # a restarted one would have nothing to work with
    assert ["has no GPU now" in record.message for record in caplog.records] == [True] * (per == "gpu" and not gpus)


def test_a_node_that_joins_late_gets_work(ray):
    with Pool(Cluster(), Doubles) as pool:
        for _ in pool.map(range(20)):
            if len(ray.there) == 1:
                ray.there.append(ray.there[0])
    assert len(ray.workers) == 4


def test_a_map_that_was_not_read_to_its_end_leaves_nothing_to_the_next(ray):
    with Pool(Cluster(workers=2), Doubles) as pool:
        next(pool.map(range(100, 120)))
        assert sorted(pool.map(range(9))) == doubled(9)
    with Pool(Cluster(workers=1), Doubles, at_once=4) as pool:
        next(pool.map(range(100, 120)))
        ray.calls, ray.most = {}, 0
        assert sorted(pool.map(range(9))) == doubled(9)
        assert ray.most == 4


def test_workers_that_differ_are_refused(ray):
    identities: Iterator[dict[str, Any]] = iter([{"model": "a"}, {"model": "b"}])

    class Other(Doubles):
        def __init__(self):
            self.identity = next(identities)

    with (
        Pool(Cluster(workers=2), Other) as pool,
        pytest.raises(RequestError, match=r"^the workers differ: model is 'b' on 10.0.0.2 and 'a' on the others; put"),
    ):
        list(pool.map(range(20)))


def test_why_a_worker_cannot_start_is_said_with_its_place(ray):
    def none():
        raise RequestError("no model; name another one")

    with Pool(Cluster(workers=1), none) as pool, pytest.raises(RequestError, match=r"^worker on 10.0.0.1: no model; n"):
        list(pool.map([1]))
    with Pool(Cluster(workers=1), none) as pool, pytest.raises(RequestError, match=r"^worker on 10.0.0.2: no model; n"):
        assert pool.identity


def test_the_identity_is_that_of_the_first_worker(ray):
    with Pool(Cluster(), Doubles) as pool:
        assert pool.identity == {"doubles": True}


def test_a_cluster_without_room_is_told_once_and_given_up_after_a_while(ray, monkeypatch, caplog):
    ray.wait = lambda refs, num_returns, timeout: ([], [])
    clock = itertools.count(1000)
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: float(next(clock)), sleep=lambda _: None))
    said = r"^no worker for 40 s: the Ray cluster at there:1 has no node with room \(1 CPU\); add one with"
    there = Cluster("there:1", workers=1, patience=40)
    with Pool(there, Doubles) as pool, pytest.raises(WorkError, match=said):
        list(pool.map([1]))
    assert [record.message[:36] for record in caplog.records] == ["waiting for the Ray cluster at there"]


def test_a_worker_that_was_there_begins_the_waiting_and_what_is_told_of_it_anew(ray, monkeypatch, caplog):
    now, waits = [1000.0], [3]

    def wait(refs, num_returns, timeout):
        if not waits[0]:
            return [min(refs)], []
        waits[0], now[0] = waits[0] - 1, now[0] + 12
        return [], []

    def dies(worker, item):
        if item == 1 and worker is ray.workers[0]:
            waits[0] = 3
            return True
        return False

    ray.wait, ray.dies = wait, dies
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None))
    with Pool(Cluster(workers=1, patience=40), Doubles) as pool:
        assert sorted(pool.map(range(3))) == doubled(3)
    assert len(caplog.records) == 2


def test_no_items_need_no_worker(ray):
    with Pool(Cluster(), Doubles) as pool:
        assert list(pool.map([])) == []
