"""What placing costs: what is measured goes before what is estimated."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from coordinator_kit import capture, handler, link, node, service

from vdag.control.coordination.types import HANDLER_TYPES
from vdag.control.coordination.values import Link
from vdag.control.coordinator.costs import Situation, costs_of
from vdag.control.coordinator.graphs import chart_of, conf_of, plan_of
from vdag.control.coordinator.learned import Learned
from vdag.control.coordinator.measured import Parts, delay_of, learn, measured_parts
from vdag.control.coordinator.placer import Placer
from vdag.control.coordinator.routes import luggage, route_of, routed
from vdag.control.coordinator.values import Deployment
from vdag.control.desk import QueryView
from vdag.control.prediction.ways import HOP_S
from vdag.control.scheduling.infos import NodeInfo
from vdag.errors import GraphError

NODES = (node(1, "camera", port=1), node(2, "near", port=2), node(3, "far", port=3))
#: capture -> encode -> decode -> detect, and capture, detect -> draw.
FORKED = service(
    [
        capture(node_id=1, width=640, height=480, fps=10),
        handler(1, 5),
        handler(2, 6),
        handler(3, 8, with_crop=False),
        handler(4, 16, node_id=1),
    ],
    [link(0, 1), link(1, 2), link(2, 3), link(0, 4), link(3, 4, 1)],
)
CHART = chart_of(FORKED, HANDLER_TYPES, 1)
ROUTE = route_of(CHART)


def info(number: int, *ratios: float) -> NodeInfo:
    return NodeInfo(f"127.0.0.1:{number}", "127.0.0.1", resources={"cpu_ratio": list(ratios)})


def costs(learned: Learned | None = None, types: Any = HANDLER_TYPES, **situation: Any):
    found = Situation(route=ROUTE, **situation)
    return costs_of(routed(FORKED, ROUTE), NODES, types, learned or Learned(), found)


# The way of a frame.


def test_a_frame_visits_one_handler_after_the_other_where_the_service_forks():
    assert ROUTE == ((0, 1, 2, 3, 4),)
    assert routed(FORKED, ROUTE).links == FORKED.links  # each step is a link already


def test_branches_that_nothing_joins_go_their_own_ways():
    apart = service([capture(), handler(1, 4), handler(2, 8)], [link(0, 1), link(0, 2)])
    assert route_of(chart_of(apart, HANDLER_TYPES, 1)) == ((0, 1), (0, 2))


def test_steps_that_are_no_links_are_added():
    pair = service(
        [capture(), handler(1, 4), handler(2, 8), handler(3, 16)],
        [link(0, 1), link(0, 2), link(1, 3), link(2, 3, 1)],
    )
    route = route_of(chart_of(pair, HANDLER_TYPES, 1))
    assert route == ((0, 1, 2, 3),)
    assert set(routed(pair, route).links) - set(pair.links) == {Link(1, 0, 2, 0)}
    # What the first has made is carried past the second, and the frame to both.
    assert luggage(pair, route, {0: 1.0, 1: 10.0, 2: 100.0}.__getitem__) == {
        (0, 1): 1.0,
        (1, 2): 11.0,
        (2, 3): 110.0,
    }


# Seconds.


def test_seconds_are_those_of_earlier_packets_then_those_of_others():
    detect = FORKED.by_id[3]
    guess = costs().compute_s(3, 2)
    learned = Learned()
    learned.add(detect, 2, 0.040)
    learned.add(detect, 1, 0.060)
    found = costs(learned)
    assert found.compute_s(3, 2) == pytest.approx(0.040 + HOP_S)
    assert found.compute_s(3, 3) == pytest.approx(0.050 + HOP_S)
    assert guess != found.compute_s(3, 2)


def test_the_profile_is_made_right_by_what_was_measured_elsewhere():
    profiled = {(3, 1): 0.010, (3, 2): 0.020, (3, 3): 0.030}
    assert costs(profiled=profiled).compute_s(3, 3) == pytest.approx(0.030 + HOP_S)
    learned = Learned()
    learned.add(FORKED.by_id[3], 2, 0.040)
    found = costs(learned, profiled=profiled)
    assert found.compute_s(3, 3) == pytest.approx(0.060 + HOP_S)


def test_a_handler_file_goes_before_an_estimate():
    types = {**HANDLER_TYPES, 8: replace(HANDLER_TYPES[8], compute_s=0.123, nbytes=7.0)}
    found = costs(types=types)
    assert found.compute_s(3, 2) == pytest.approx(0.123 + HOP_S)


def test_averages_follow_what_is_measured_and_skip_what_makes_no_sense():
    learned, spec = Learned(), FORKED.by_id[3]
    for seconds in (0.1, math.nan, -1.0, math.inf, 0.2):
        learned.add(spec, 1, seconds)
    assert learned.at(spec, 1) == pytest.approx(0.13)
    assert learned.at(spec, 2) is None
    other = replace(spec, handler_id=9, name="another")
    assert learned.at(other, 1) == learned.at(spec, 1)
    assert learned.at(replace(spec, params={}), 1) is None


# Bytes, links and cores.


def test_bytes_are_of_all_that_a_frame_has_with_it():
    found = costs()
    pixels = 640 * 480
    # The draw at the end needs the frame of the capture, which every node gets encoded.
    assert found.nbytes(link(0, 1)) == pytest.approx(pixels * 0.12)
    assert found.nbytes(link(1, 2)) == pytest.approx(2 * pixels * 0.12)
    assert found.nbytes(link(2, 3)) == pytest.approx(pixels * 3.12)
    assert found.nbytes(link(3, 4, 1)) == pytest.approx(pixels * 0.12 + 300)
    assert found.nbytes(link(0, 4)) == 0  # it comes along with the boxes
    learned = Learned()
    learned.add_nbytes(FORKED.by_id[2], 12_345)
    assert costs(learned).nbytes(link(1, 2)) == 12_345


def test_the_way_is_what_was_measured_in_either_direction():
    learned = Learned()
    learned.add_step(1, 1, 0.001)
    learned.add_step(1, 2, 0.006)
    found = costs(learned)
    assert found.rtt_s(1, 2) == found.rtt_s(2, 1) == pytest.approx(0.010)
    assert found.rtt_s(1, 3) > 0


def test_a_node_has_left_what_its_cores_do_not_do_and_the_session_itself():
    infos = {1: info(1, 50, 100), 2: info(2, 0, 0)}
    found = costs(infos=infos, own={1: 0.25})
    assert found.capacity(1) == pytest.approx(0.75)
    assert found.capacity(2) == 2
    assert found.capacity(3) == math.inf  # nobody knows


def test_a_service_is_placed_also_where_nothing_is_left():
    infos = {1: info(1, 100, 100), 2: info(2, 100, 100), 3: info(3, 0, 0)}
    situation = Situation(infos=infos, route=ROUTE)
    found = Placer(HANDLER_TYPES).place(FORKED, NODES, situation)
    assert found.nodes[3] == 3
    assert "node 1 camera would have" in found.overloads[-1]
    found = Placer(HANDLER_TYPES).place(
        FORKED, NODES, Situation(infos=dict.fromkeys((1, 2, 3), info(1, 100, 100)), route=ROUTE)
    )
    assert set(found.nodes) == {0, 1, 2, 3, 4}


def test_a_handler_that_keeps_up_nowhere_is_placed_all_the_same():
    learned = Learned()
    for node_id in (1, 2, 3):
        learned.add(FORKED.by_id[3], node_id, 0.5)
    placer = Placer(HANDLER_TYPES)
    placer.learned = learned
    found = placer.place(FORKED, NODES, Situation(route=ROUTE))
    assert found.nodes.keys() == {0, 1, 2, 3, 4}
    assert "handler 3 haar_detect_face keeps up with 10 fps nowhere" in found.overloads[-1]


def test_a_node_that_is_gone_gets_nothing():
    for gone, rest in ((2, {1, 3}), (3, {1, 2})):
        found = Placer(HANDLER_TYPES).place(
            FORKED, NODES, Situation(infos={1: info(1, 99, 99)}, route=ROUTE), without=[gone]
        )
        assert set(found.nodes.values()) <= rest


# What a job says.


def view(**runtime: Any) -> QueryView:
    return QueryView("GLOBAL_ID_1", "127.0.0.1:1", 0, CHART.graph, {}, runtime=runtime)


def parts_of(**changes: Any) -> dict[str, Any]:
    tasks = CHART.handlers
    found = {
        name: dict.fromkeys(tasks, seconds)
        for name, seconds in (
            ("transfer_delay", 0.001),
            ("queue_delay", 0.002),
            ("process_delay", 0.010),
        )
    }
    return {**found, **changes}


def test_the_delay_is_that_of_all_steps_of_the_way():
    found = measured_parts(view(plan_result=parts_of()), CHART)
    assert found[3] == Parts(0.001, 0.002, 0.010, None)
    assert delay_of(found, CHART) == pytest.approx(4 * 0.013)


@pytest.mark.parametrize(
    "runtime",
    [{}, {"plan_result": None}, {"plan_result": parts_of(queue_delay=3)},
     {"plan_result": parts_of(process_delay={"x": 1})}],
)  # fmt: skip
def test_what_a_node_does_not_say_or_says_wrong_is_not_measured(runtime: Any):
    assert measured_parts(view(**runtime), CHART) == {}


def test_lessons_are_about_the_placement_that_is_followed():
    placement = Placer(HANDLER_TYPES).tell(
        FORKED, {0: 1, 1: 1, 2: 2, 3: 2, 4: 1}, NODES, Situation(route=ROUTE)
    )
    deployment = Deployment(1, "s", FORKED, "vdag", placement, chart=CHART)
    sizes = {CHART.tasks[2]: 30_000.0, CHART.tasks[4]: 60_000.0}
    found = measured_parts(view(plan_result=parts_of(), data_trans_size=sizes), CHART)
    learned = Learned()
    learn(learned, deployment, found, {(1, 2): 60e6})
    assert learned.at(FORKED.by_id[3], 2) == pytest.approx(0.012)
    assert learned.at(FORKED.by_id[3], 1) is None
    assert learned.nbytes(FORKED.by_id[2]) == 30_000
    assert learned.nbytes(FORKED.by_id[3]) is None  # it did not travel
    assert learned.hop_s(1.0) == pytest.approx(0.001)
    assert learned.way_s(1, 2, 1.0) == pytest.approx(0.001 - 0.0005 - 0.001)


# A service as a job.


def test_a_placement_becomes_a_plan():
    addrs = {0: "10.0.0.1:5001", 1: "10.0.0.1:5001", 2: "10.0.0.2:5500", 3: "10.0.0.2:5500",
             4: "10.0.0.1:5001"}  # fmt: skip
    plan = plan_of(CHART, conf_of(FORKED, HANDLER_TYPES), addrs)
    assert {task: p.node_addr for task, p in plan.flow_mapping.items()} == {
        CHART.tasks[number]: addrs[number] for number in (1, 2, 3, 4)
    }
    assert plan.flow_mapping[CHART.tasks[1]].node_role == "host"
    assert (plan.video_conf.resolution, plan.video_conf.fps) == ("640x480", 10.0)


def test_two_captures_are_no_job():
    twice = service([capture(), handler(1, 2)], [])
    with pytest.raises(GraphError, match="service 0 chain has 2 handlers that capture, expected 1"):
        conf_of(twice, HANDLER_TYPES)
