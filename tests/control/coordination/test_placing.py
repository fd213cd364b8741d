"""Placing: `min_delay` is the best there is, and what all algorithms keep to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from coordination_kit import (
    CAPTURE,
    DRAW,
    RENDER,
    RESIZE,
    chain,
    costs,
    delay_of,
    every_placement,
    node,
    seeds,
    services,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.coordination.documents import HandlerSpec, Link, Service
from vdag.control.coordination.placing import (
    ALGORITHMS,
    CostTable,
    greedy,
    min_delay,
    place,
    static,
)
from vdag.errors import PlanError

NODES = [node(0), node(1), node(2)]
CLOSE = {"rel": 1e-9, "abs": 1e-12}


@st.composite
def cases(draw):
    count = draw(seeds).choice([1, 2, 3, 3])
    service = draw(services(nodes=count))
    return service, NODES[:count], draw(costs(service, nodes=count))


def best_of(service, nodes, table):
    return min(delay_of(service, table, placed) for placed in every_placement(service, nodes))


def found_by(algorithm, *case, **options):
    try:
        return algorithm(*case, **options)
    except PlanError:
        return None


@settings(max_examples=300)
@given(cases())
def test_min_delay_is_what_trying_everything_finds(case):
    service, nodes, table = case
    best_s = best_of(service, nodes, table)
    found = found_by(min_delay, service, nodes, table)
    if found is None:
        assert math.isinf(best_s)
        return
    assert found.delay_s == pytest.approx(best_s, **CLOSE)
    assert delay_of(service, table, found.nodes) == pytest.approx(best_s, **CLOSE)
    assert found.bound_s == found.delay_s
    assert found.overloads == ()


@settings(max_examples=300)
@given(cases())
def test_greedy_is_possible_and_never_better_than_min_delay(case):
    service, nodes, table = case
    found = found_by(greedy, service, nodes, table)
    if found is None:
        return
    assert found.delay_s == pytest.approx(delay_of(service, table, found.nodes), **CLOSE)
    assert min_delay(service, nodes, table).delay_s <= found.delay_s


@settings(max_examples=200)
@given(cases(), st.data())
def test_static_is_as_written_and_never_better_than_min_delay(case, data):
    service, nodes, table = case
    numbers = st.integers(0, len(nodes) - 1)
    tied = tuple(replace(spec, node_id=data.draw(numbers)) for spec in service.handlers)
    found = static(replace(service, handlers=tied), nodes, table)
    assert found.nodes == {spec.handler_id: spec.node_id for spec in tied}
    assert found.alternatives == ()
    possible = not math.isinf(delay_of(service, table, found.nodes))
    assert possible == (found.overloads == ())
    if possible:
        loose = replace(service, handlers=tuple(replace(spec, node_id=None) for spec in tied))
        assert min_delay(loose, nodes, table).delay_s <= found.delay_s
        again = min_delay(replace(service, handlers=tied), nodes, table)
        assert (again.nodes, again.delay_s) == (found.nodes, found.delay_s)


@settings(max_examples=200)
@given(cases(), st.sampled_from([greedy, min_delay]))
def test_handlers_stay_where_they_are_tied_and_go_where_their_type_is(case, algorithm):
    service, nodes, table = case
    nodes = [node(0, handlers=frozenset({CAPTURE, RESIZE})), *nodes[1:]]
    offered = {each.node_id: each for each in nodes}
    service = replace(
        service,
        handlers=tuple(
            replace(spec, node_id=None)
            if spec.node_id is not None and not offered[spec.node_id].offers(spec.kind)
            else spec
            for spec in service.handlers
        ),
    )
    found = found_by(algorithm, service, nodes, table)
    if found is None:
        return
    for spec in service.handlers:
        assert spec.node_id in (None, found.nodes[spec.handler_id])
        assert offered[found.nodes[spec.handler_id]].offers(spec.kind)


@settings(max_examples=200)
@given(cases(), st.sampled_from([greedy, min_delay]))
def test_parts_and_alternatives_say_what_is_so(case, algorithm):
    service, nodes, table = case
    found = found_by(algorithm, service, nodes, table)
    if found is None:
        return
    assert sum(part.seconds for part in found.parts) == pytest.approx(found.delay_s, **CLOSE)
    assert all(found.nodes[part.handler_id] == part.node_id for part in found.parts)
    told = [each.handler_id for each in found.alternatives]
    loose = [spec for spec in service.order if spec.node_id is None]
    assert told == ([spec.handler_id for spec in loose] if len(nodes) > 1 else [])
    for each in found.alternatives:
        others = [
            delay_of(service, table, {**found.nodes, each.handler_id: other.node_id})
            for other in nodes
            if other.node_id != found.nodes[each.handler_id]
        ]
        assert each.delay_s == pytest.approx(min(others), **CLOSE)


@settings(max_examples=200)
@given(cases(), st.integers(0, 4))
def test_a_search_that_is_cut_short_says_how_far_off_it_may_be(case, max_labels):
    service, nodes, table = case
    found = found_by(min_delay, service, nodes, table, max_labels=max_labels)
    if found is None:
        return
    best_s = best_of(service, nodes, table)
    assert delay_of(service, table, found.nodes) == pytest.approx(found.delay_s, **CLOSE)
    assert found.bound_s <= best_s * (1 + 1e-9) <= found.delay_s * (1 + 1e-8)
    proven = "the least there is"
    assert (proven in found.why) == (found.bound_s == found.delay_s)


def test_what_one_output_gives_to_a_node_goes_there_once():
    """A capture whose packets two handlers take, over a link that bears them once only."""
    service = Service(
        0,
        "shared",
        tuple(HandlerSpec(i, f"h{i}", kind) for i, kind in enumerate((CAPTURE, RESIZE, RESIZE))),
        (Link(0, 0, 1, 0), Link(0, 0, 2, 0)),
        "min_delay",
    )
    service = replace(
        service,
        handlers=tuple(
            replace(spec, node_id=at) for spec, at in zip(service.handlers, (0, 1, 1), strict=True)
        ),
    )
    table = CostTable(
        10.0,
        dict.fromkeys([(0, 0), (1, 1), (2, 1)], 0.001),
        dict.fromkeys(service.links, 1e5),
        {(0, 1): 1.1e6},
    )
    assert static(service, NODES, table).overloads == ()
    thin = replace(table, bandwidths={(0, 1): 1e6})
    assert static(service, NODES, thin).overloads == (
        "the link from node 0 n0 to node 1 n1 would have 1 of 0.98 MB/s",
    )


# What is said.

SERVICE = chain(CAPTURE, RESIZE, RENDER, nodes={0: 0, 2: 0})
TABLE = CostTable(
    20.0,
    {(0, 0): 0.002, (1, 0): 0.04, (1, 1): 0.01, (2, 0): 0.002},
    {Link(0, 0, 1, 0): 1e5, Link(1, 0, 2, 0): 0.0},
    {(0, 1): 1.25e7},
    {(0, 1): 0.004, (1, 0): 0.004},
)


def test_a_placement_says_what_it_comes_to_and_what_else_there_was():
    found = min_delay(SERVICE, NODES[:2], TABLE)
    assert found.nodes == {0: 0, 1: 1, 2: 0}
    assert found.why == (
        "min_delay: 26.2 ms (compute 14.0 ms, transfer 12.1 ms, wait 0.2 ms), "
        "the least there is (labels: 1)"
    )
    (other,) = found.alternatives
    assert (other.handler_id, other.node_id) == (1, 0)
    assert other.why == "handler 1 h1 on node 0 n0: 53.0 ms, 26.8 ms more"
    assert [(part.what, part.handler_id, part.node_id) for part in found.parts] == [
        ("wait", 0, 0), ("compute", 0, 0),
        ("transfer", 1, 1), ("wait", 1, 1), ("compute", 1, 1),
        ("transfer", 2, 0), ("wait", 2, 0), ("compute", 2, 0),
    ]  # fmt: skip


def test_greedy_takes_what_is_nearest_and_pays_for_it_later():
    service = chain(CAPTURE, RESIZE, RESIZE, nodes={0: 0})
    table = CostTable(
        1.0,
        {(0, 0): 0.0, (1, 0): 0.01, (1, 1): 0.01, (2, 0): 0.5, (2, 1): 0.01},
        {link: 1e6 for link in service.links},
        {(0, 1): 1e8},
        {(0, 1): 0.01},
        {1: 0.015},
    )
    assert greedy(service, NODES[:2], table).nodes == {0: 0, 1: 0, 2: 1}
    assert min_delay(service, NODES[:2], table).nodes == {0: 0, 1: 0, 2: 1}
    near = replace(table, compute={**table.compute, (1, 0): 0.02, (1, 1): 0.002})
    full = replace(near, capacities={1: 0.011})
    assert greedy(service, NODES[:2], full).nodes == {0: 0, 1: 1, 2: 0}
    assert min_delay(service, NODES[:2], full).nodes == {0: 0, 1: 0, 2: 1}


@pytest.mark.parametrize("algorithm", [greedy, min_delay])
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"capacities": {0: 0.05}},
            "node 0 n0 would have 0.08 of 0.05 busy seconds per second by what has to be there",
        ),
        (
            {"compute": {**TABLE.compute, (1, 0): 0.06, (1, 1): 0.05}},
            "handler 1 h1 keeps up with 20 fps nowhere: "
            "it takes 60 ms on node 0 n0, 50 ms on node 1 n1",
        ),
    ],
)
def test_what_has_to_be_and_cannot_is_named(algorithm, changes, error):
    with pytest.raises(PlanError) as caught:
        algorithm(SERVICE, NODES[:2], replace(TABLE, **changes))
    assert str(caught.value) == error


LEFT = (
    "handler 1 h1 is left without room: "
    "node 0 n0 would have 0.88 of 0.5 busy seconds per second, "
    "the link from node 0 n0 to node 1 n1 would have 2 of 0.98 MB/s"
)


@pytest.mark.parametrize(
    ("algorithm", "error"),
    [
        (greedy, LEFT),
        (
            min_delay,
            "no placement found that nodes and links can bear (labels: 2); by greedy " + LEFT,
        ),
    ],
)
def test_a_handler_that_fits_nowhere_is_named_and_what_stands_against_each_node(algorithm, error):
    table = replace(TABLE, capacities={0: 0.5}, bandwidths={(0, 1): 1e6})
    with pytest.raises(PlanError) as caught:
        algorithm(SERVICE, NODES[:2], table)
    assert str(caught.value) == error


@pytest.mark.parametrize("algorithm", [greedy, min_delay])
def test_a_node_that_is_not_there_and_a_type_that_no_node_has_are_named(algorithm):
    with pytest.raises(PlanError) as caught:
        algorithm(SERVICE, [node(1)], TABLE)
    assert str(caught.value) == "handler 0 h0 has to be on node 0, which is not there"
    with pytest.raises(PlanError) as caught:
        algorithm(chain(CAPTURE, DRAW), [node(1, handlers=frozenset({CAPTURE}))], TABLE)
    assert str(caught.value) == "handler 1 h1 is of type 16, which no node has"


def test_static_keeps_to_what_is_written_and_says_what_does_not_keep_up():
    service = chain(CAPTURE, RESIZE, nodes={0: 0, 1: 1})
    table = replace(TABLE, compute={(0, 0): 0.03, (1, 1): 0.06}, capacities={0: 0.5, 1: 1.0})
    found = static(service, NODES, table)
    assert found.nodes == {0: 0, 1: 1}
    assert found.delay_s == math.inf
    assert found.why == (
        "static: without end (compute 90.0 ms, transfer 10.1 ms, wait without end), "
        "as written in the service"
    )
    assert found.overloads == (
        "handler 1 h1 does not keep up with 20 fps: it takes 60 ms on node 1 n1",
        "node 0 n0 would have 0.6 of 0.5 busy seconds per second",
        "node 1 n1 would have 1.2 of 1 busy seconds per second",
    )


def test_static_wants_every_handler_to_have_its_node():
    with pytest.raises(PlanError) as caught:
        static(chain(CAPTURE, RESIZE, nodes={0: 0}), NODES, TABLE)
    assert str(caught.value) == "handler 1 h1 has no node_id, which static wants"


def test_a_service_names_its_algorithm():
    assert place(SERVICE, NODES[:2], TABLE).algorithm == "min_delay"
    assert place(replace(SERVICE, algorithm="greedy"), NODES[:2], TABLE).algorithm == "greedy"
    assert set(ALGORITHMS) == {"static", "greedy", "min_delay"}
    with pytest.raises(PlanError) as caught:
        place(replace(SERVICE, algorithm="policy"), NODES, TABLE)
    assert str(caught.value) == "algorithm 'policy' is none of static, greedy, min_delay"


def test_a_chain_without_capacities_takes_no_more_labels_than_positions_and_nodes():
    """The dynamic program: 20 handlers on 8 nodes, each with its own costs."""
    service = chain(CAPTURE, *[RESIZE] * 19)
    nodes = [node(number) for number in range(8)]
    table = CostTable(
        10.0,
        {(h, n): 0.001 * (1 + (7 * h + 5 * n) % 11) for h in range(20) for n in range(8)},
        {link: 1e4 * (1 + link.source_handler % 3) for link in service.links},
        {(a, b): 1e7 for a in range(8) for b in range(8) if a != b},
    )
    found = min_delay(service, nodes, table, max_labels=20 * 8 + 1)
    assert found.bound_s == found.delay_s
    earliest = {n: sum(_stay(table, 0, n)) for n in range(8)}
    for h in range(1, 20):
        link = service.links[h - 1]
        earliest = {
            n: min(earliest[m] + _hop(table, link, m, n) for m in range(8))
            + sum(_stay(table, h, n))
            for n in range(8)
        }
    assert found.delay_s == pytest.approx(min(earliest.values()))


def _stay(table, handler, number):
    alone = chain(CAPTURE, nodes={0: number})
    costs = replace(table, compute={(0, number): table.compute_s(handler, number)})
    return [delay_of(alone, costs, {0: number})]


def _hop(table, link, sender, receiver):
    pair = chain(CAPTURE, RESIZE)
    costs = replace(
        table,
        compute={(0, sender): 0.0, (1, receiver): 0.0},
        sizes={pair.links[0]: table.nbytes(link)},
    )
    return delay_of(pair, costs, {0: sender, 1: receiver})
