"""What holds for every cost: no time below its bounds, and twice the work is twice the cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closedbook.training.cost import ASSUMED, GPUS, HOUR, cases, cost, makespan, seconds
from closedbook.training.stages import Amount, Stage

amounts = st.builds(Amount, *[st.integers(0, 10**6)] * 4)
numbers = st.integers(1, 100)
rates = st.sampled_from(cases(ASSUMED))


@st.composite
def graphs(draw):
    """Times of stages, and what each needs of those before it."""
    times = draw(st.lists(st.floats(0, 1000), min_size=1, max_size=12))
    names = [str(number) for number in range(len(times))]
    after = {name: sorted(draw(st.sets(st.sampled_from(names[:at])))) if at else [] for at, name in enumerate(names)}
    return dict(zip(names, times, strict=True)), after


def longest(times, after):
    """The longest chain of stages that need each other."""
    until: dict[str, float] = {}
    for name in times:
        until[name] = times[name] + max((until[before] for before in after[name]), default=0)
    return max(until.values())


@given(graphs(), numbers)
def test_stages_take_no_less_than_the_longest_chain_and_than_all_machines_at_work(graph, machines):
    times, after = graph
    wall = makespan(times, after, machines)
    assert wall >= max(longest(times, after), sum(times.values()) / machines) * (1 - 1e-9)


@given(graphs(), numbers)
def test_stages_take_no_more_than_grahams_bound(graph, machines):
    times, after = graph
    bound = sum(times.values()) / machines + (1 - 1 / machines) * longest(times, after)
    assert makespan(times, after, machines) <= bound * (1 + 1e-9)


@given(graphs())
def test_one_machine_takes_the_sum_and_enough_machines_the_longest_chain(graph):
    times, after = graph
    assert makespan(times, after, 1) == pytest.approx(sum(times.values()))
    assert makespan(times, after, len(times)) == pytest.approx(longest(times, after))


@given(amounts, st.integers(1, 50), rates, numbers)
def test_time_is_linear_in_the_work(amount, times, case, machines):
    more = Amount(*(times * number for number in amount))
    expected = [times * second for second in seconds(amount, case, machines)]
    assert list(seconds(more, case, machines)) == pytest.approx(expected)


@given(amounts, rates, numbers, numbers)
def test_more_machines_never_take_longer_for_one_training(amount, case, few, more):
    slow, fast = (seconds(amount, case, number, step=640) for number in sorted((few, few + more)))
    assert all(there <= here * (1 + 1e-9) for here, there in zip(slow, fast, strict=True))


@given(st.lists(amounts, min_size=1, max_size=6), rates, numbers)
def test_no_study_is_faster_than_its_slowest_stage_or_cheaper_than_its_work(parts, case, machines):
    stages = [Stage(str(at), ("x",), amount=amount) for at, amount in enumerate(parts)]
    found = cost(stages, case, machines)
    each = [sum(seconds(amount, case)) for amount in parts]
    assert found.hours * HOUR >= max(each) * (1 - 1e-9)
    assert found.gpu_hours >= GPUS * sum(each) / HOUR * (1 - 1e-9)
    assert found.dollars == pytest.approx(found.gpu_hours * case["price"])
    assert all(0 <= share <= 1 + 1e-9 for share in found.shares.values())


@given(st.lists(amounts, min_size=1, max_size=6), rates)
def test_a_worse_rate_never_costs_less(parts, case):
    stages = [Stage(str(at), ("x",), amount=amount) for at, amount in enumerate(parts)]
    before = cost(stages, case, 1).gpu_hours  # on more, the order of the stages may change, for the better
    for name, slower in (("sampling", 0.5), ("judging", 0.5), ("training", 0.5), ("update", 2), ("answer", 2)):
        assert cost(stages, case | {name: case[name] * slower}, 1).gpu_hours >= before * (1 - 1e-9)
