from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.graph import Edge, Graph
from vdag.itinerary import plan_itinerary
from vdag.job.parts import Times, parts_of
from vdag.results import TaskParts

HERE, THERE, ELSEWHERE = "tcp://10.0.0.1:1", "tcp://10.0.0.2:1", "tcp://10.0.0.3:1"
S = 1_000_000_000


def itinerary(**placement: str):
    """The routes of a chain of tasks, each at its place."""
    tasks = tuple(placement)
    edges = {task: () for task in tasks[:1]}
    for before, task in pairwise(tasks):
        edges[task] = (Edge("found", before, "found"),)
    away = {task: at for task, at in placement.items() if at != HERE}
    graph = Graph("SingleFrameGenerator", tasks, edges)
    return plan_itinerary(graph, exchange=HERE, home=HERE, placement=away)


def test_on_one_node_every_part_is_what_its_clock_says():
    times = {
        "a": Times(12 * S, 15 * S, 7, 11 * S),
        "b": Times(18 * S, 20 * S, 8, 16 * S),
    }
    parts, home_s = parts_of(itinerary(a=HERE, b=HERE), times, 10 * S, 24 * S)
    assert parts == {"a": TaskParts(1.0, 1.0, 3.0, 7), "b": TaskParts(1.0, 2.0, 2.0, 8)}
    assert home_s == 4.0


@pytest.mark.parametrize("skew_s", [-1000, 0, 1000])
def test_the_ways_to_another_node_and_back_are_what_its_clock_does_not_explain(skew_s):
    off = (2000 + skew_s) * S
    times = {
        "a": Times(12 * S, 15 * S, 7, 11 * S),
        "b": Times(off + 2 * S, off + 5 * S, 8, off),
    }
    # 3 s of queue and work over there in 9 s: 2 s are left for each way.
    parts, home_s = parts_of(itinerary(a=HERE, b=THERE), times, 10 * S, 24 * S)
    assert parts["b"] == TaskParts(2.0, 2.0, 3.0, 8)
    assert home_s == 2.0


def test_the_bytes_of_a_message_are_those_of_the_first_task_that_it_reaches():
    times = {
        "a": Times(11 * S, 12 * S),
        "b": Times(11 * S, 12 * S, 0, 11 * S, 5000),
        "c": Times(13 * S, 14 * S, 0, 13 * S, 5000),
        "d": Times(15 * S, 16 * S, 0, 15 * S, 300),
        "e": Times(17 * S, 18 * S, 0, 17 * S, -1),
    }
    routes = itinerary(a=HERE, b=THERE, c=THERE, d=HERE, e=ELSEWHERE)
    parts, _ = parts_of(routes, times, 10 * S, 24 * S)
    assert [parts[task].nbytes for task in "abcde"] == [0, 5000, 0, 300, 0]


@pytest.mark.parametrize(("told", "batch"), [(1, 1), (4, 4), (0, 1), (-3, 1), (10**9, 256)])
def test_frames_of_one_batch_share_what_it_took_of_the_worker(told, batch):
    times = {"a": Times(12 * S, 16 * S, 7, 11 * S, 0, told)}
    parts, _ = parts_of(itinerary(a=HERE), times, 10 * S, 20 * S)
    assert parts["a"] == TaskParts(1.0, 1.0, 4.0, 7, 0, batch)
    assert parts["a"].total_s == 6.0, "it waits for the whole batch"
    assert parts["a"].busy_s == 4.0 / batch


def test_tasks_after_each_other_on_another_node_share_its_clock():
    off = 500 * S
    times = {
        "a": Times(off, off + S, 0, off),
        "b": Times(off + 3 * S, off + 4 * S, 0, off + 2 * S),
    }
    parts, home_s = parts_of(itinerary(a=THERE, b=THERE), times, 0, 10 * S)
    assert parts == {"a": TaskParts(3.0, 0.0, 1.0), "b": TaskParts(1.0, 1.0, 1.0)}
    assert home_s == 3.0


def test_a_worker_that_does_not_say_when_its_frame_came_has_no_queue():
    parts, _ = parts_of(itinerary(a=HERE), {"a": Times(2 * S, 3 * S)}, 0, 3 * S)
    assert parts == {"a": TaskParts(2.0, 0.0, 1.0)}


def test_of_branches_that_travel_apart_the_longest_way_home_counts():
    graph = Graph("SingleFrameGenerator", ("a", "b"), {"a": (), "b": ()})
    routes = plan_itinerary(graph, exchange=HERE, home=HERE)
    times = {"a": Times(S, 2 * S, 0, S), "b": Times(S, 4 * S, 0, S)}
    assert parts_of(routes, times, 0, 5 * S)[1] == 3.0


places = st.sampled_from([HERE, THERE, ELSEWHERE])
spans = st.integers(0, 10**9)


@given(st.lists(st.tuples(places, spans, spans, spans), min_size=1, max_size=6), spans)
def test_the_parts_and_the_way_home_sum_up_to_the_whole(visits, back):
    """Whatever the clocks of the nodes say, as long as each runs as fast as ours."""
    clock_of = {HERE: 0, THERE: 10**15, ELSEWHERE: 5}
    now, times, placement = 0, {}, {}
    for index, (place, way, queue, compute) in enumerate(visits):
        now += way
        off = clock_of[place] + now + 1
        task = f"t{index}"
        times[task] = Times(off + queue, off + queue + compute, 1, off)
        placement[task] = place
        now += queue + compute
    home_ns = now + 1 + back
    parts, home_s = parts_of(itinerary(**placement), times, 1, home_ns)
    whole_s = (home_ns - 1) / 1e9
    assert sum(part.total_s for part in parts.values()) + home_s == pytest.approx(whole_s)
    assert min(part.transfer_s for part in parts.values()) >= 0
