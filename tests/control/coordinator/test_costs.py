"""What placing costs: what is measured goes before what is estimated."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from coordinator_kit import capture, handler, link, node, service

from vdag.control.coordination.types import HANDLER_TYPES
from vdag.control.coordination.values import Link
from vdag.control.coordinator.costs import COPY_S, HANDOVER_S, Situation, costs_of
from vdag.control.coordinator.graphs import chart_of, conf_of, plan_of
from vdag.control.coordinator.learned import Learned, like
from vdag.control.coordinator.measured import (
    Parts,
    delay_of,
    foretold_parts,
    learn,
    measured_parts,
    slowest_way,
)
from vdag.control.coordinator.placer import Placer
from vdag.control.coordinator.routes import luggage, route_of, routed
from vdag.control.coordinator.values import Deployment
from vdag.control.desk import QueryView
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
    assert found.compute_s(3, 2) == pytest.approx(0.040)
    assert found.compute_s(3, 3) == pytest.approx(0.050)
    assert guess != found.compute_s(3, 2)


def test_a_node_is_as_much_slower_at_a_handler_as_it_is_at_what_it_has_done():
    learned = Learned()
    encode, decode, detect = (FORKED.by_id[number] for number in (1, 2, 3))
    for node_id, times in ((2, 1.0), (3, 3.0)):
        learned.add(encode, node_id, times * 0.001)
        learned.add(decode, node_id, times * 0.002)
    learned.add(detect, 2, 0.010)
    assert costs(learned).compute_s(3, 3) == pytest.approx(0.030)
    learned.add(detect, 1, 0.050)  # nobody knows how fast that node is
    assert costs(learned).compute_s(3, 3) == pytest.approx(0.040)
    learned.add(encode, 1, 0.0)  # as good as nothing
    assert costs(learned).compute_s(3, 3) == pytest.approx(0.040)


def test_what_was_tried_counts_until_the_same_is_measured():
    learned, detect = Learned(), FORKED.by_id[3]
    learned.add_trial(detect, 2, 0.030)
    assert costs(learned).compute_s(3, 2) == pytest.approx(0.030)
    assert costs(learned).compute_s(3, 3) == pytest.approx(0.030)
    learned.add(detect, 1, 0.040)
    assert costs(learned).compute_s(3, 2) == pytest.approx(0.030)
    assert costs(learned).compute_s(3, 3) == pytest.approx(0.040)
    learned.add(detect, 2, 0.020)
    assert costs(learned).compute_s(3, 2) == pytest.approx(0.020)
    assert Learned(learned.changes()).tried(detect, 2) == 0.030


def test_what_was_measured_elsewhere_goes_before_the_profile():
    profiled = {(3, 1): 0.010, (3, 2): 0.020, (3, 3): 0.030}
    assert costs(profiled=profiled).compute_s(3, 3) == pytest.approx(0.030)
    learned = Learned()
    learned.add(FORKED.by_id[3], 2, 0.040)
    assert costs(learned, profiled=profiled).compute_s(3, 3) == pytest.approx(0.040)


def test_a_handler_file_goes_before_an_estimate():
    types = {**HANDLER_TYPES, 8: replace(HANDLER_TYPES[8], compute_s=0.123, nbytes=7.0)}
    found = costs(types=types)
    assert found.compute_s(3, 2) == pytest.approx(0.123)


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
    learned.add_step(1, 2, 0.006)
    found = costs(learned)
    assert found.rtt_s(1, 2) == found.rtt_s(2, 1) == pytest.approx(0.012)
    assert found.rtt_s(1, 3) > 0


def test_what_handlers_have_made_is_copied_within_a_node_and_the_frame_is_not():
    found, pixels = costs(), 640 * 480
    jpeg_s, picture_s = COPY_S * pixels * 0.12, COPY_S * pixels * 3
    assert found.handover_s(link(0, 1), 2) == pytest.approx(HANDOVER_S)
    assert found.handover_s(link(1, 2), 2) == pytest.approx(HANDOVER_S + jpeg_s)
    assert found.handover_s(link(2, 3), 2) == pytest.approx(HANDOVER_S + picture_s)
    assert found.handover_s(link(3, 4, 1), 2) == pytest.approx(HANDOVER_S + COPY_S * 300)
    learned = Learned()
    learned.add_step(2, 2, 0.003)
    found = costs(learned)
    assert found.handover_s(link(2, 3), 2) == pytest.approx(0.003 + picture_s)
    assert found.handover_s(link(0, 1), 1) == pytest.approx(0.003)  # as on other nodes


def test_pixels_stay_on_a_node_where_copying_them_is_all_that_differs():
    table = costs()
    placed = Placer(HANDLER_TYPES).tell(
        FORKED, {0: 1, 1: 1, 2: 1, 3: 1, 4: 1}, NODES, Situation(route=ROUTE)
    )
    transfers = sum(part.seconds for part in placed.parts if part.what == "transfer")
    steps = [link(0, 1), link(1, 2), link(2, 3), link(3, 4, 1)]
    assert transfers == pytest.approx(sum(table.handover_s(each, 1) for each in steps))
    assert placed.delay_s == pytest.approx(sum(part.seconds for part in placed.parts))


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


def foretold(number: int, tasks: Any) -> QueryView:
    explanation = {"predicted": {"delay": 9.0, "tasks": tasks}}
    decision = {"number": number, "explanation": explanation}
    return replace(view(), plan={"number": 4}, decision=decision)


SAID = {"node": "127.0.0.1:1", "transfer": 0.001, "queue": 0.002, "compute": 0.010}


def test_what_a_policy_foretells_is_read_of_the_plan_in_force():
    tasks = dict.fromkeys(CHART.handlers, SAID)
    found = foretold_parts(foretold(4, tasks), CHART)
    assert found[3] == Parts(0.001, 0.002, 0.010, None)
    # Without the way home: the last handler's end is a packet's.
    assert delay_of(found, CHART) == pytest.approx(4 * 0.013)
    assert slowest_way(found, CHART) == [1, 2, 3, 4]
    assert foretold_parts(foretold(3, tasks), CHART) == {}
    assert foretold_parts(view(), CHART) == {}


@pytest.mark.parametrize(
    "tasks",
    [None, [], {}, dict.fromkeys(CHART.handlers, 3), dict.fromkeys(list(CHART.handlers)[1:], SAID),
     {**dict.fromkeys(CHART.handlers, SAID), CHART.tasks[3]: {**SAID, "compute": math.inf}},
     {**dict.fromkeys(CHART.handlers, SAID), CHART.tasks[3]: {**SAID, "queue": "0.1"}}],
)  # fmt: skip
def test_what_a_policy_of_somebody_else_says_may_be_anything(tasks: Any):
    assert foretold_parts(foretold(4, tasks), CHART) == {}


def test_lessons_are_about_the_placement_that_is_followed():
    placement = Placer(HANDLER_TYPES).tell(
        FORKED, {0: 1, 1: 1, 2: 2, 3: 2, 4: 1}, NODES, Situation(route=ROUTE)
    )
    deployment = Deployment(1, "s", FORKED, "vdag", placement, chart=CHART)
    sizes = {CHART.tasks[2]: 30_000.0, CHART.tasks[4]: 60_000.0}
    found = measured_parts(view(plan_result=parts_of(), data_trans_size=sizes), CHART)
    learned = Learned()
    learn(learned, deployment, found, {(1, 2): 60e6}, {(2, 3): 0.001 / COPY_S})
    assert learned.at(FORKED.by_id[3], 2) == pytest.approx(0.010)
    assert learned.at(FORKED.by_id[3], 1) is None
    assert learned.nbytes(FORKED.by_id[2]) == 30_000
    assert learned.nbytes(FORKED.by_id[3]) is None  # it did not travel
    assert learned.hop_s(1, 1.0) == pytest.approx(0.003)  # to wake up is part of it
    assert learned.hop_s(2, 1.0) == pytest.approx(0.002)  # without what copying takes
    assert learned.hop_s(3, 1.0) == pytest.approx(0.0025)
    assert learned.way_s(1, 2, 1.0) == pytest.approx(0.003 - 0.0005)


def test_a_queue_is_a_handler_s_own_beyond_a_wake_up_and_not_beyond_its_work():
    placement = Placer(HANDLER_TYPES).tell(
        FORKED, dict.fromkeys(range(5), 1), NODES, Situation(route=ROUTE)
    )
    deployment = Deployment(1, "s", FORKED, "vdag", placement, chart=CHART)
    learned = Learned()
    found = {3: Parts(0.001, 0.006, 0.010, None), 4: Parts(0.001, 0.5, 0.010, None)}
    learn(learned, deployment, found, {}, {})
    assert learned.at(FORKED.by_id[3], 1) == pytest.approx(0.014)
    assert learned.at(FORKED.by_id[4], 1) == pytest.approx(0.020)
    assert learned.hop_s(1, 1.0) == pytest.approx(0.003)


def test_what_was_learned_is_written_down_and_read_again():
    learned, detect = Learned(), FORKED.by_id[3]
    learned.add(detect, 2, 0.040)
    learned.add_step(1, 1, 0.001)
    learned.add_step(1, 2, 0.006)
    learned.add_nbytes(detect, 7.0)
    lessons = learned.changes()
    assert learned.changes() == []
    again = Learned(lessons)
    assert again.at(detect, 2) == 0.040
    assert (again.hop_s(1, 9.0), again.way_s(2, 1, 9.0)) == (0.001, 0.006)
    assert again.nbytes(detect) == 7.0
    assert again.changes() == []  # it is written down
    broken = [replace(each, value=math.nan) for each in lessons]
    assert Learned(broken).at(detect, 2) is None


def test_what_is_forgotten_is_not_read_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vdag.control.coordinator.learned.MAX_LEARNED", 2)
    learned, detect = Learned(), FORKED.by_id[3]
    for node_id in (1, 2, 3):
        learned.add(detect, node_id, 0.1)
    values = {each.topic.node_id: each.value for each in learned.changes()}
    assert values == {1: None, 2: 0.1, 3: 0.1}


def test_handlers_with_more_parameters_than_are_told_are_told_apart():
    long = replace(FORKED.by_id[3], params={"labels": "a" * 1_000})
    other = replace(long, params={"labels": "a" * 999 + "b"})
    assert len(like(long)) <= 255
    assert like(long) != like(other)
    assert like(long) == like(replace(long, handler_id=9))


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
