"""The search for a plan: all at once is as one by one, and finds what trying all finds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_kit import CHAIN, CLOUD, EDGE, HOST, MBIT, Around, node, question

from vdag.control.prediction import (
    FULL,
    Aim,
    Calibration,
    Candidate,
    Outlook,
    Tables,
    accuracy_of,
    predict_on,
    quality,
    search,
    search_closest,
)
from vdag.control.profile import Cost
from vdag.control.profile.costs import BatchPoint
from vdag.control.scheduling.surroundings import TaskLoad
from vdag.graph import Graph


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
