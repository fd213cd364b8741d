"""Prediction: its formulas, that all at once is as one by one, and what is learned from reports."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_kit import (
    CLOUD,
    EDGE,
    HOST,
    MBIT,
    TASKS,
    Around,
    Plant,
    node,
    nodes,
    plan_of,
    question,
)

from vdag.control.prediction import (
    FULL,
    Aim,
    Calibration,
    Candidate,
    Measured,
    Outlook,
    Prediction,
    Tables,
    accuracy_of,
    calibrate,
    predict,
    predict_on,
    quality,
    search,
    search_closest,
)
from vdag.control.prediction.queueing import wait_at
from vdag.control.profile import Cost
from vdag.control.profile.costs import BatchPoint
from vdag.control.scheduling.surroundings import TaskLoad
from vdag.errors import PlanError
from vdag.graph import Graph
from vdag.plan import Plan

CHAIN = ("face_detection", "face_alignment", "car_detection")


def candidate(tasks=TASKS, at=HOST, resolution="480p", fps=10.0, encoder="JPEG", model=0):
    where = (at,) * len(tasks) if isinstance(at, str) else at
    return Candidate(
        resolution, fps, encoder, dict.fromkeys(tasks, model), dict(zip(tasks, where, strict=True))
    )


def every_candidate(outlook: Outlook):
    """All there are, without a thought."""
    tasks = outlook.tasks
    choices = [
        [(node.node_addr, m) for node in outlook.nodes for m in outlook.models(task, node)]
        for task in tasks
    ]
    for resolution, fps in product(outlook.resolutions, outlook.rates):
        for chosen in product(*choices):
            yield Candidate(
                resolution,
                fps,
                "JPEG",
                {task: m for task, (_, m) in zip(tasks, chosen, strict=True)},
                {task: addr for task, (addr, _) in zip(tasks, chosen, strict=True)},
            )


def worth(each: Candidate, outlook: Outlook, enough: float) -> tuple[int, float]:
    return quality(accuracy_of(each, outlook), enough), each.fps


@st.composite
def worlds(draw):
    """Small fleets under any load, with any links, constraint and corrections."""
    count = draw(st.integers(1, 3))
    fleet = [
        node(addr, draw(st.integers(1, 3)), cores=draw(st.integers(1, 8)))
        for addr in (HOST, EDGE, CLOUD)[:count]
    ]
    names = [each.node_addr for each in fleet]
    tasks = CHAIN[: draw(st.integers(1, 2 if count == 3 else 3))]
    loads = {
        name: {
            task: TaskLoad(draw(st.integers(1, 3)), draw(st.floats(0, 3)))
            for task in tasks
            if draw(st.booleans())
        }
        for name in names
    }
    links = {
        a: {b: draw(st.sampled_from((1, 5, 20, 100))) * MBIT for b in names if b != a}
        for a in names
    }
    graph = Graph.from_dag(
        {
            "flow": list(tasks),
            "input": {task: {"image": "SingleFrameGenerator.image"} for task in tasks},
        }
        if draw(st.booleans())
        else list(tasks)
    )
    sent = {
        name: TaskLoad(draw(st.integers(1, 3)), draw(st.floats(0, 30)) * MBIT)
        for name in names
        if draw(st.booleans())
    }
    around = Around(*fleet, links=links, loads=loads)
    around.change(sent=sent)
    for each, task in product(fleet, tasks):
        if draw(st.booleans()):
            took_s, batch = draw(st.floats(0.005, 0.5)), draw(st.sampled_from((1.0, 1.4, 3.5)))
            around.profile.observe(
                task, draw(st.integers(0, 1)), "480p", each, took_s, 1.3 * took_s, 20, batch=batch
            )
    if draw(st.booleans()):
        batches = (BatchPoint(4, 0.02),)
        around.profile.put_cost(tasks[0], 1, "480p", Cost(0.01, 0.012, batches=batches), CLOUD)
    asked = question(
        around,
        graph=graph,
        delay=draw(st.sampled_from((0.02, 0.05, 0.1, 0.2, 0.5))),
        accuracy=draw(st.sampled_from((0.5, 0.8, 0.9, 0.97))),
        video=replace(question().video, width=960, height=540, fps=draw(st.sampled_from((10, 25)))),
    )
    known = Calibration()
    for name, task in product(names, tasks):
        if draw(st.booleans()):
            known.learn_compute(task, name, draw(st.floats(0.3, 4)), 10)
            known.learn_queue(task, name, draw(st.floats(0.3, 4)), 10)
    for a, b in product(names, names):
        if draw(st.booleans()):
            known.learn_excess(a, b, draw(st.floats(-0.002, 0.02)), 10)
            if a != b:
                known.learn_link(a, b, links[a][b], draw(st.floats(0.5, 3)), 10)
    known.learn_spread(draw(st.floats(0.5, 2)), 10)
    return Outlook(asked, known)


def test_waits_are_those_of_a_single_server_where_they_are_known_exactly():
    # M/M/1 at half load: a frame waits as long as it is worked on.
    mean_s, var_s2 = wait_at(0.1, 0.01, 1, 1e-9, 0.5)
    assert mean_s == pytest.approx(0.1, rel=1e-3)
    assert var_s2 == pytest.approx(0.03, rel=1e-3)
    # M/D/1: half of that.
    assert wait_at(0.1, 0.0, 1, 1e-9, 0.5)[0] == pytest.approx(0.05, rel=1e-3)
    # A camera that is alone hardly ever waits for itself.
    assert wait_at(0.1, 0.0, 1, 0.5, 0.0)[0] < 0.005


def test_more_workers_wait_less_and_arrays_are_as_numbers():
    one, four = wait_at(0.1, 0.01, 1, 0.1, 0.6)[0], wait_at(0.1, 0.01, 4, 0.4, 2.4)[0]
    assert four < 0.4 * one
    both, _ = wait_at(*(np.array(pair) for pair in ((0.1, 0.1), (0.01, 0.01), (1, 4), (0.1, 0.4))),
                      np.array((0.6, 2.4)))  # fmt: skip
    assert both == pytest.approx([one, four])


def test_a_frame_that_stays_is_predicted_by_its_work_and_one_that_leaves_by_its_bytes_too():
    asked = question(Around(*nodes(), links={HOST: {CLOUD: 100 * MBIT}}))
    here, there = predict(candidate(), asked), predict(candidate(at=CLOUD), asked)
    known = asked.around.profile
    work_s = [known.cost(task, 0, "480p", node()).compute_s for task in TASKS]
    assert [each.compute_s for each in here.tasks.values()] == pytest.approx(work_s)
    assert here.delay_s == pytest.approx(sum(work_s) + 0.003, abs=0.002)
    assert here.links == {}
    nbytes = known.frame_nbytes("480p", "JPEG")
    assert there.links == {HOST: pytest.approx(10 * nbytes / (100 * MBIT))}
    assert there.tasks["face_detection"].transfer_s > nbytes / (100 * MBIT)
    assert there.tasks["face_alignment"].transfer_s < 0.002
    assert there.home_s > 0.002 > here.home_s


def test_branches_travel_at_the_same_time():
    image = {"image": "SingleFrameGenerator.image"}
    graph = Graph.from_dag({"flow": list(CHAIN), "input": dict.fromkeys(CHAIN, image)})
    apart = predict(candidate(CHAIN), question(graph=graph))
    chain = predict(candidate(CHAIN), question(tasks=CHAIN))
    slowest_s = max(each.compute_s for each in apart.tasks.values())
    assert slowest_s < apart.delay_s < slowest_s + 0.01
    assert chain.delay_s > sum(each.compute_s for each in chain.tasks.values())
    assert apart.accuracy > chain.accuracy


def test_inputs_that_are_not_written_out_make_a_chain():
    assert Outlook(question(tasks=CHAIN)).branches == ((0, 1, 2),)
    dag = {"flow": list(CHAIN), "input": {"car_detection": {"image": "SingleFrameGenerator.image"}}}
    assert Outlook(question(graph=Graph.from_dag(dag))).branches == ((0, 1), (2,))


def test_capacity_is_what_is_free_or_the_fair_share():
    def crowding(busy: float, queries: int) -> float:
        loads = {HOST: {"face_detection": TaskLoad(queries, busy)}}
        around = Around(node(workers=1, cores=8), loads=loads)
        asked = question(around, tasks=("face_detection",))
        each = candidate(("face_detection",), fps=5.0, resolution="1080p")
        assert 5 * around.profile.cost("face_detection", 0, "1080p", node()).compute_s == 0.4
        return predict(each, asked).crowding

    assert crowding(0.0, 0) == pytest.approx(0.4 / FULL)
    assert crowding(0.2, 1) == pytest.approx(0.4 / (FULL - 0.2))
    assert crowding(0.8, 1) == pytest.approx(1.0)  # the half, though nothing is free
    assert crowding(0.8, 3) == pytest.approx(2.0)


def test_cores_and_uplinks_have_a_capacity_as_well():
    around = Around(node(workers=4, cores=1), node(CLOUD, 4, cores=16))
    asked = question(around, tasks=CHAIN[:2])
    each = predict(candidate(CHAIN[:2], fps=10.0, resolution="1080p"), asked)
    assert each.nodes == {HOST: pytest.approx(1.4)}
    assert each.crowding == pytest.approx(1.4 / FULL)
    around.change(links={HOST: {CLOUD: 1 * MBIT}})
    away = predict(candidate(at=CLOUD, fps=10.0), asked)
    assert away.links[HOST] > 1
    assert not away.fits
    assert away.fps < 10


def test_an_uplink_is_shared_with_those_who_send_as_well():
    around = Around(links={HOST: {CLOUD: 10 * MBIT}})
    asked, each = question(around), candidate(at=CLOUD, fps=5.0, resolution="360p")
    alone = predict(each, asked)

    def shared(share: float, queries: int) -> Prediction:
        around.change(sent={HOST: TaskLoad(queries, share * 10 * MBIT)})
        return predict(each, asked)

    use = alone.links[HOST]
    assert 0.05 < use < 0.4
    light, full = shared(0.3, 1), shared(0.9, 1)
    assert light.delay_s > alone.delay_s
    assert light.links[HOST] == full.links[HOST] == use
    assert full.crowding == pytest.approx(max(use / (FULL / 2), alone.crowding))
    assert shared(0.9, 3).crowding == pytest.approx(max(use / (FULL / 4), alone.crowding))
    assert shared(0.0, 3).crowding == alone.crowding


def test_a_link_that_others_fill_is_not_taken_for_a_thin_one():
    around = Around(links={HOST: {CLOUD: 20 * MBIT}})
    around.change(sent={HOST: TaskLoad(2, 8 * MBIT)})
    asked, each = question(around), candidate(at=CLOUD, fps=5.0, resolution="720p")
    for ratio in (1.0, 1.3):
        slow = Calibration(at_s=asked.now_s)
        slow.learn_link(HOST, CLOUD, 20 * MBIT, ratio, 1e9)
        truth = predict_on(each, Outlook(asked, slow))
        ways_s = truth.tasks[TASKS[0]].transfer_s + truth.home_s
        parts = {
            "transfer_delay": {TASKS[0]: ways_s / 2, TASKS[1]: truth.tasks[TASKS[1]].transfer_s},
            "process_delay": {task: told.compute_s for task, told in truth.tasks.items()},
        }
        runtime = {"delay": truth.delay_s, "frames": 50, "fps": 5.0, "plan_result": parts}
        outlook = Outlook(replace(asked, runtime_info=runtime))
        known = calibrate(each, outlook)
        assert known.link_ratio(HOST, CLOUD, 20 * MBIT) == pytest.approx(ratio, rel=0.06)


def test_a_candidate_on_a_node_that_is_gone_cannot_be_predicted():
    with pytest.raises(PlanError, match=r"^no live node 10\.9\.9\.9:5001$"):
        predict(candidate(at="10.9.9.9:5001"), question())


@settings(max_examples=60, deadline=None)
@given(worlds(), st.data())
def test_all_at_once_is_as_one_by_one(outlook, data):
    tables = Tables(outlook)
    r = data.draw(st.integers(0, len(tables.resolutions) - 1))
    f = data.draw(st.integers(0, len(tables.rates) - 1))
    c = data.draw(st.integers(0, len(tables.combos) - 1))
    placed, delay, p95, use = tables.forecast.weigh((r, f, c), math.inf, free_only=False)
    for i in data.draw(st.lists(st.integers(0, len(placed) - 1), max_size=4)):
        predicted = predict_on(tables.candidate((r, f, c), placed[i]), outlook)
        assert predicted.delay_s == pytest.approx(delay[i])
        assert predicted.delay_p95_s == pytest.approx(p95[i])
        assert predicted.accuracy == pytest.approx(tables.accuracy[r, f, c])
        # Links that cannot be full are left out at once.
        assert max(predicted.crowding, FULL) == pytest.approx(max(use[i], FULL), rel=1e-6) or (
            use[i] <= predicted.crowding <= 1
        )


@settings(max_examples=40, deadline=None)
@given(worlds(), st.sampled_from((0.7, 0.9, 2.0)), st.booleans())
def test_the_search_finds_what_trying_all_finds(outlook, enough, fewest_moves):
    present = dict.fromkeys(outlook.tasks, HOST)
    aim = Aim(outlook.bound_s, enough, present=present, fewest_moves=fewest_moves)
    found = search(Tables(outlook), aim)
    fitting = [
        each
        for each in every_candidate(outlook)
        for predicted in (predict_on(each, outlook),)
        if predicted.crowding <= 1 and predicted.delay_p95_s <= outlook.bound_s
    ]
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert found.candidate in fitting
    best = max(worth(each, outlook, enough) for each in fitting)
    assert worth(found.candidate, outlook, enough) == best
    # And of its configuration the placement that moves least, or costs least.
    same = [
        each for each in fitting if replace(each, nodes={}) == replace(found.candidate, nodes={})
    ]

    def moves(each: Candidate) -> int:
        return sum(each.nodes[task] != HOST for task in each.nodes)

    assert moves(found.candidate) == min(map(moves, same))


@settings(max_examples=25, deadline=None)
@given(worlds())
def test_where_nothing_will_do_the_closest_is_found(outlook):
    tight = Outlook(replace(outlook.question), outlook.calibration)
    tight.bound_s = 0.004
    found = search_closest(Tables(tight), Aim(tight.bound_s))

    def off(each: Candidate) -> float:
        predicted = predict_on(each, tight)
        return max(predicted.delay_p95_s / tight.bound_s, predicted.crowding)

    slowest = [each for each in every_candidate(tight) if each.fps == tight.rates[0]]
    assert off(found.candidate) <= 1.06 * max(min(map(off, slowest)), 1.0)


def test_reports_teach_what_work_waits_and_ways_take():
    plant = Plant(learns=False, links={HOST: {CLOUD: 100 * MBIT}})
    plant.speed = {CLOUD: 2.0}
    plant.links = {(HOST, CLOUD): 50 * MBIT}
    asked = question(plant.around)
    each = candidate(at=CLOUD, resolution="720p", fps=10.0)
    plan = Plan.from_documents(
        TASKS, each.conf_document(), {t: {"node_addr": CLOUD} for t in TASKS}, number=1
    )
    known = Calibration()
    for _ in range(3):
        runtime = plant.report(plan, TASKS)
        outlook = Outlook(replace(asked, runtime_info=runtime, previous=plan, measured=1), known)
        known = calibrate(each, outlook)
    seen, predicted = outlook.measured, predict_on(each, outlook)
    assert predict(each, asked).delay_s < 0.8 * seen.delay_s
    assert predicted.delay_s == pytest.approx(seen.delay_s, rel=0.1)
    assert predicted.delay_p95_s == pytest.approx(seen.delay_p95_s, rel=0.15)
    # It holds for other plans through the same places, as far as they are alike.
    other = candidate(at=CLOUD, resolution="1080p", fps=5.0)
    truth = plant.report(plan_of(asked, Answering(other)), TASKS)
    assert predict_on(other, outlook).delay_s == pytest.approx(truth["delay"], rel=0.15)
    assert Calibration.read(known.to_document()).to_document() == known.to_document()


class Answering:
    """What a policy would have answered to ask for a candidate."""

    def __init__(self, each: Candidate) -> None:
        self.video_conf = each.conf_document()
        self.flow_mapping = {task: {"node_addr": addr} for task, addr in each.nodes.items()}
        self.resource_limit = None


def test_what_is_not_in_use_is_believed_less_and_less():
    known = Calibration(at_s=100.0)
    known.learn_compute("face_detection", EDGE, 4.0, 50)
    known.learn_excess(HOST, EDGE, 0.1, 50)
    assert known.compute_ratio("face_detection", EDGE) == pytest.approx(4.0)
    known.fade(160.0)
    assert known.compute_ratio("face_detection", EDGE) == pytest.approx(2.0)
    assert known.excess_s(HOST, EDGE) == pytest.approx(0.05)
    known.fade(1e9)
    assert known.compute == {}


def test_a_link_that_was_measured_anew_has_nothing_left_of_what_was_learned():
    known = Calibration()
    known.learn_link(HOST, CLOUD, 100 * MBIT, 8.0, 50)
    assert known.link_ratio(HOST, CLOUD, 100 * MBIT) == pytest.approx(8.0)
    # It carries 12.5 Mbit/s, whatever is reported, unless that is something else altogether.
    assert known.link_ratio(HOST, CLOUD, 50 * MBIT) == pytest.approx(4.0)
    assert known.link_ratio(HOST, CLOUD, 5 * MBIT) == 1.0
    assert known.link_ratio(HOST, CLOUD, 400 * MBIT) == 1.0
    # Nor is another link of that sender faster, as far as is known.
    assert known.link_ratio(HOST, EDGE, 25 * MBIT) == pytest.approx(2.0)
    known.learn_link(HOST, CLOUD, 5 * MBIT, 1.2, 5)
    assert known.link_ratio(HOST, CLOUD, 5 * MBIT) == pytest.approx(1.2)


@pytest.mark.parametrize("ratio", [0.0, 1e-12, 1e12, math.inf])
def test_no_report_counts_for_more_than_the_bounds(ratio):
    known = Calibration()
    known.learn_compute("face_detection", HOST, ratio, 1e9)
    known.learn_queue("face_detection", HOST, ratio, 1e9)
    known.learn_link(HOST, CLOUD, MBIT, ratio, 1e9)
    known.learn_spread(ratio, 1e9)
    known.learn_excess(HOST, CLOUD, ratio, 1e9)
    assert 1 / 8 - 1e-9 <= known.compute_ratio("face_detection", HOST) <= 8 + 1e-9
    assert 1 / 16 - 1e-9 <= known.link_ratio(HOST, CLOUD, MBIT) <= 16 + 1e-9
    assert 1 / 3 - 1e-9 <= known.spread_ratio <= 3 + 1e-9
    assert abs(known.excess_s(HOST, CLOUD)) <= 0.5


@pytest.mark.parametrize(
    "document",
    [None, 7, [], {"compute": 1}, {"compute": {"a@b": "x"}, "link": {"a>b": math.nan}},
     {"spread": math.inf, "at_s": 10**400, "hop": {1: 10**400}}],
)  # fmt: skip
def test_a_calibration_that_makes_no_sense_is_none(document):
    read = Calibration.read(document)
    assert read.to_document() == Calibration().to_document()


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (None, Measured()),
        ({"delay": math.nan, "delay_p95": -1, "obj_n": "many", "frames": True}, Measured()),
        ({"delay": 10**400, "obj_size": math.inf, "plan_result": [1]}, Measured()),
        ({"delay": 0.2, "delay_p95": 0.1}, Measured(0.2, 0.2, 0.2, 10.0)),
        ({"delay": 0.2, "frames": 3, "plan_result": {"process_delay": {"a": 0.1, 2: 1, "b": "x"}}},
         Measured(0.2, 0.2, 0.2, 3.0, compute_s={"a": 0.1})),
        ({"delay": 0.2, "frames": 3, "plan_result": {"batch": {
            "a": 2.5, "b": 0, "c": 1e4, "d": math.nan, "e": "4", "f": -3, "g": True}}},
         Measured(0.2, 0.2, 0.2, 3.0, batch={"a": 2.5, "b": 1.0, "c": 256.0})),
    ],
)  # fmt: skip
def test_of_a_runtime_only_what_can_be_believed_is_read(runtime, expected):
    assert Measured.read(runtime) == expected
