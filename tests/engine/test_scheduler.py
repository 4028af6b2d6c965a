"""Admission, groups, and conservation of rows. No torch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.engine.canvas import EngineLimits, Generation, Verdict
from dgq.engine.errors import EngineError
from dgq.engine.request import Request, SamplingConfig
from dgq.engine.scheduler import MERGE_ROWS, Scheduler, group_by_width

LIMITS = EngineLimits(100, 64, 4096, frozenset({1}), 1, SamplingConfig())


def generation(number, width=64, max_new_tokens=None):
    request = Request((5,), max_new_tokens or width, seed=0, canvas_length=width)
    return Generation.begin(number, request, LIMITS)


def in_flight(plan):
    return sorted(g.number for group in plan.groups for g in group)


def converge(scheduler, running, ids=None):
    running.encoded()
    running.needs_start = False
    verdict = running.finish_canvas(ids or [9] * running.width, 1, 0.0, True)
    scheduler.resize(running)
    return verdict


def test_admits_in_order_within_both_budgets():
    scheduler = Scheduler(max_canvases=3, max_rows=128)
    waiting = [generation(0, 48), generation(1, 64), generation(2, 32), generation(3, 16)]
    for one in waiting:
        scheduler.add(one)
    plan = scheduler.schedule()
    assert in_flight(plan) == [0, 1]  # 2 does not fit, and 3 must not overtake it
    assert [g.number for g in plan.encode] == [g.number for g in plan.start] == [0, 1]
    assert scheduler.rows_in_use == 112
    assert converge(scheduler, waiting[0]) is Verdict.FINISHED
    assert in_flight(scheduler.schedule()) == [1, 2, 3]
    assert scheduler.rows_in_use == 112


def test_number_of_canvases_is_bounded():
    scheduler = Scheduler(max_canvases=2, max_rows=10_000)
    for i in range(3):
        scheduler.add(generation(i, 16))
    assert in_flight(scheduler.schedule()) == [0, 1]


def test_a_narrowed_canvas_gives_rows_back():
    scheduler = Scheduler(max_canvases=4, max_rows=128)
    long, waits = generation(0, 64, max_new_tokens=80), generation(1, 64)
    wider = generation(2, 48)
    for one in (long, waits, wider):
        scheduler.add(one)
    assert in_flight(scheduler.schedule()) == [0, 1]
    assert converge(scheduler, long) is Verdict.COMMIT
    assert scheduler.rows_in_use == 64 + 16
    plan = scheduler.schedule()
    assert in_flight(plan) == [0, 1, 2]
    assert {g.number for g in plan.encode} >= {0, 2}
    scheduler.check()


def test_a_canvas_wider_than_the_budget_runs_alone():
    scheduler = Scheduler(4, 128)
    for i, width in enumerate([16, 64, 16]):
        scheduler.add(generation(i, width))
    scheduler.max_rows = 32
    for expected in ([0], [1], [2]):
        plan = scheduler.schedule()
        scheduler.check()
        assert in_flight(plan) == expected
        converge(scheduler, plan.groups[0][0])
    assert scheduler.is_idle


def test_what_is_put_back_comes_first_and_the_largest_at_the_head():
    scheduler = Scheduler(4, 64)
    for i, width in enumerate([16, 16, 32, 16]):
        scheduler.add(generation(i, width))
    assert in_flight(scheduler.schedule()) == [0, 1, 2]
    assert (scheduler.num_running, scheduler.num_waiting) == (3, 1)
    taken = scheduler.take_back()
    assert [g.number for g in taken] == [0, 1, 2]
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.rows_in_use) == (0, 1, 0)
    scheduler.put_back(taken)
    scheduler.max_rows = 16
    order = []
    while not scheduler.is_idle:
        running = scheduler.schedule().groups[0][0]
        order.append(running.number)
        converge(scheduler, running)
    assert order == [2, 0, 1, 3]


def test_what_was_cancelled_while_waiting_takes_no_rows():
    scheduler = Scheduler(2, 128, may_start=lambda g: g.number != 0)
    scheduler.add(generation(0))
    scheduler.add(generation(1))
    assert in_flight(scheduler.schedule()) == [1]
    assert scheduler.rows_in_use == 64


def test_check_finds_lost_rows():
    scheduler = Scheduler(2, 128)
    scheduler.add(generation(0))
    scheduler.schedule()
    scheduler.rows_in_use -= 16
    with pytest.raises(EngineError, match="row accounting is off: 48 booked, 64 in use"):
        scheduler.check()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 200), st.booleans()), min_size=1, max_size=30
    ),
    st.randoms(use_true_random=False),
)
def test_rows_are_conserved(requests, random):
    """Whatever order canvases finish in, budgets hold, everyone gets in, and all rows return."""
    scheduler = Scheduler(max_canvases=5, max_rows=160)
    for i, (widths, tokens, _) in enumerate(requests):
        scheduler.add(generation(i, 16 * widths, tokens))
    finished = set()
    while not scheduler.is_idle:
        plan = scheduler.schedule()
        scheduler.check()
        running = [g for group in plan.groups for g in group]
        assert len(running) <= 5 and sum(g.width for g in running) <= 160
        assert running
        leaves = random.choice(running)
        stops = requests[leaves.number][2]
        ids = [1] * leaves.width if stops else None
        if converge(scheduler, leaves, ids) is Verdict.FINISHED:
            finished.add(leaves.number)
    scheduler.check()
    assert scheduler.rows_in_use == 0
    assert finished == set(range(len(requests)))


def widths_of(groups):
    return [[g.width for g in group] for group in groups]


def test_groups_of_one_width():
    generations = [generation(i, width) for i, width in enumerate([16, 64, 16, 64, 16])]
    assert widths_of(group_by_width(generations)) == [[64, 64], [16, 16, 16]]
    assert [g.number for g in group_by_width(generations)[1]] == [0, 2, 4]


def test_a_few_narrow_canvases_join_the_next_wider():
    assert MERGE_ROWS == 32
    generations = [generation(i, width) for i, width in enumerate([48, 64, 48])]
    assert widths_of(group_by_width(generations)) == [[64, 48, 48]]
    generations.append(generation(3, 48))
    assert widths_of(group_by_width(generations)) == [[64], [48, 48, 48]]
    assert group_by_width([]) == []
