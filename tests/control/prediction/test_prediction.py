"""Prediction: its formulas."""

from __future__ import annotations

import numpy as np
import pytest
from policy_kit import CHAIN, CLOUD, HOST, MBIT, TASKS, Around, candidate, node, nodes, question

from vdag.control.prediction import FULL, Outlook, Prediction, predict
from vdag.control.prediction.queueing import wait_at
from vdag.control.scheduling.surroundings import TaskLoad
from vdag.errors import PlanError
from vdag.graph import Graph


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


def test_a_candidate_on_a_node_that_is_gone_cannot_be_predicted():
    with pytest.raises(PlanError, match=r"^no live node 10\.9\.9\.9:5001$"):
        predict(candidate(at="10.9.9.9:5001"), question())
