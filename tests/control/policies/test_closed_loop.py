"""The adaptive policies in a closed loop with a plant: steps, noise, limit cycles, sharing."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from policy_kit import CLOUD, EDGE, HOST, MBIT, TASKS, Loop, Plant, node

from vdag.control.scheduling.surroundings import TaskLoad

#: By their modules, for the package has functions of the same names.
DECIDE = {
    name: importlib.import_module(f"vdag.control.policies.{name}").decide
    for name in ("predictive", "pid")
}
BOUND_S = 0.3
FAST = {HOST: {CLOUD: 100 * MBIT, EDGE: 100 * MBIT}}
THIN = {HOST: {CLOUD: 6 * MBIT, EDGE: 6 * MBIT}}


@pytest.fixture(params=["predictive", "pid"])
def decide(request):
    return DECIDE[request.param]


def is_inside(loop: Loop, delays: list[float], within_s: float = 10.0) -> bool:
    """Whether the bound is kept from so long after a step on."""
    late = [delay for delay in delays[round(within_s / 2) :] if delay > BOUND_S]
    return len(late) <= 0.01 * len(delays)


def test_a_plan_that_does_well_is_left_alone(decide):
    loop = Loop(decide, Plant(links=FAST))
    assert is_inside(loop, loop.run(60))
    settled_s = loop.now_s
    assert is_inside(loop, loop.run(600), 0)
    assert loop.changed_in(settled_s) <= 1


def test_a_link_that_gets_thin_and_thick_again(decide):
    plant = Plant(links=FAST)
    loop = Loop(decide, plant)
    loop.run(60)
    before, step_s = loop.plan, loop.now_s
    assert before.flow_mapping[TASKS[0]].node_addr == CLOUD
    plant.around.change(links=THIN)
    assert is_inside(loop, loop.run(120))
    if decide is DECIDE["predictive"]:
        assert loop.changed_in(step_s) <= 3
    step_s = loop.now_s
    plant.around.change(links=FAST)
    assert is_inside(loop, loop.run(120))
    if decide is DECIDE["predictive"]:
        assert loop.changed_in(step_s) <= 3
        assert loop.plan.flow_mapping[TASKS[0]].node_addr == CLOUD
        assert loop.plan.video_conf.resolution == before.video_conf.resolution


def test_a_link_of_which_nobody_says_that_it_has_got_thin(decide):
    plant = Plant(links=FAST)
    loop = Loop(decide, plant)
    loop.run(60)
    step_s = loop.now_s
    plant.links = {(HOST, CLOUD): 6 * MBIT, (HOST, EDGE): 6 * MBIT}
    assert is_inside(loop, loop.run(40))
    if decide is DECIDE["predictive"]:
        assert loop.changed_in(step_s) <= 3


def test_a_host_that_gets_slow_and_fast_again(decide):
    # The links are too thin for anything, so that all is done at the host.
    plant = Plant(links={HOST: {CLOUD: 0.2 * MBIT, EDGE: 0.2 * MBIT}})
    loop = Loop(decide, plant)
    loop.run(60)
    before, step_s = loop.plan, loop.now_s
    assert {each.node_addr for each in before.flow_mapping.values()} == {HOST}
    plant.speed = {HOST: 2.5}
    assert is_inside(loop, loop.run(60))
    if decide is DECIDE["predictive"]:
        assert loop.changed_in(step_s) <= 3
    plant.speed = {}
    assert is_inside(loop, loop.run(300))
    assert loop.plan.video_conf.fps >= before.video_conf.fps
    assert loop.plan.video_conf.size >= before.video_conf.size


@pytest.mark.parametrize("learns", [False, True])
def test_tasks_leave_a_node_that_gets_slow_and_come_back_when_it_is_fast_again(learns):
    """Whether or not the profile is told, and although nobody measures a node that is not used."""
    links = {HOST: {EDGE: 50 * MBIT}}
    plant = Plant(1, node(HOST, 2), node(EDGE, 2), learns=learns, links=links)
    loop = Loop(DECIDE["predictive"], plant)
    loop.run(60)
    assert {each.node_addr for each in loop.plan.flow_mapping.values()} == {HOST}
    plant.speed, step_s = {HOST: 6.0}, loop.now_s
    assert is_inside(loop, loop.run(50))
    assert EDGE in {each.node_addr for each in loop.plan.flow_mapping.values()}
    assert loop.changed_in(step_s) <= 3
    plant.speed = {}
    assert is_inside(loop, loop.run(600))
    assert {each.node_addr for each in loop.plan.flow_mapping.values()} == {HOST}


def test_a_scene_with_three_times_the_objects_and_back(decide):
    plant = Plant(links={HOST: {CLOUD: 2 * MBIT, EDGE: 2 * MBIT}})
    loop = Loop(decide, plant, accuracy=0.8)
    loop.run(60)
    step_s = loop.now_s
    plant.objects = 3.0
    assert is_inside(loop, loop.run(60))
    if decide is DECIDE["predictive"]:
        assert loop.changed_in(step_s) <= 3
    plant.objects, step_s = 1.0, loop.now_s
    assert is_inside(loop, loop.run(120))
    if decide is DECIDE["predictive"]:
        assert loop.changed_in(step_s) <= 4


def test_others_that_come_get_their_share_and_what_they_leave_is_taken_again():
    plant = Plant(1, node(HOST, 4, cores=8))
    loop = Loop(DECIDE["predictive"], plant, accuracy=0.7)
    loop.run(60)
    alone = loop.plan.video_conf
    others = {HOST: {task: TaskLoad(1, 2.0) for task in TASKS}}
    plant.around.change(loads=others)
    loop.run(20)
    shared = loop.plan.video_conf
    cost = plant.truth.cost(TASKS[0], loop.plan.flow_mapping[TASKS[0]].model_id,
                            shared.resolution, node(HOST))  # fmt: skip
    assert shared.fps * cost.compute_s <= 1.2 * 0.8 * 4 / 2
    plant.around.change(loads={})
    loop.run(200)
    assert loop.plan.video_conf.size >= shared.size
    assert loop.plan.video_conf == alone


def test_where_nothing_keeps_the_bound_the_query_says_so_and_rests():
    plant = Plant(links=THIN)
    loop = Loop(DECIDE["predictive"], plant, delay=0.004)
    loop.run(120)
    settled_s = loop.now_s
    loop.run(600)
    assert loop.changed_in(settled_s) <= 3
    bound = loop.answers[-1].explanation["bound"]
    assert bound["what"] in ("delay", "capacity")
    assert bound["short_by"] == pytest.approx(abs(bound["best"] - bound["limit"]), abs=1e-5)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    seed=st.integers(0, 1000),
    speeds=st.tuples(*(st.floats(0.4, 4.0) for _ in range(3))),
    mbits=st.tuples(*(st.sampled_from((1.0, 5.0, 20.0, 100.0)) for _ in range(2))),
    hidden=st.sampled_from((0.3, 1.0, 1.5)),
    delay=st.sampled_from((0.05, 0.1, 0.2, 0.4)),
    accuracy=st.sampled_from((0.6, 0.8, 0.9)),
    name=st.sampled_from(("predictive", "pid")),
    learns=st.booleans(),
)
def test_no_limit_cycle_whatever_the_profile_has_wrong(
    seed, speeds, mbits, hidden, delay, accuracy, name, learns
):
    """Ten minutes in which nothing happens but that the profile errs about all of it."""
    links = {HOST: {CLOUD: mbits[0] * MBIT, EDGE: mbits[1] * MBIT}}
    plant = Plant(seed, learns=learns, links=links)
    plant.speed = dict(zip((HOST, EDGE, CLOUD), speeds, strict=True))
    plant.links = {(HOST, a): each * hidden for a, each in links[HOST].items()}
    loop = Loop(DECIDE[name], plant, delay=delay, accuracy=accuracy)
    loop.run(180)
    settled_s = loop.now_s
    loop.run(600)
    # The controller climbs back rung by rung; each fall keeps it down for twice as long.
    assert loop.changed_in(settled_s) <= (12 if name == "predictive" else 24)
    # Ever more rarely: the second half has no more than the first.
    assert loop.changed_in(settled_s + 300) <= max(loop.changed_in(settled_s) / 2 + 1, 3)
