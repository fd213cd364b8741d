"""Cuts: blueprints of a placement are the service again, and pairs of tx and rx fold."""

from __future__ import annotations

from collections import Counter

import pytest
from coordination_kit import CAPTURE, RESIZE, chain, node, services
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.coordination.cuts import blueprints, crossing
from vdag.control.coordination.documents import HandlerSpec, Link, Service, service_of
from vdag.control.coordination.types import HANDLER_TYPES, RX, TX
from vdag.errors import PlanError

NODES = [node(0), node(1), node(2), node(3, addr="192.0.2.3")]  # the last two are one machine


@st.composite
def placements(draw):
    service = draw(services(nodes=1, most=7, tied=0))
    numbers = st.integers(0, len(NODES) - 1)
    return service, {spec.handler_id: draw(numbers) for spec in service.handlers}


def template(service, parts):
    """The documents' form of what nodes run."""
    return {
        "service_id": service.service_id,
        "service_name": service.name,
        "template": [{"node_id": each.node_id, "blueprint": each.document()} for each in parts],
    }


@settings(max_examples=200)
@given(placements())
def test_every_link_between_nodes_has_one_pair_and_no_other_is_there(case):
    service, placed = case
    parts = blueprints(service, placed, NODES)
    specs = {spec.handler_id: spec for part in parts for spec in part.handlers}
    links = [link for part in parts for link in part.links]
    assert sum(len(part.handlers) for part in parts) == len(specs)

    ends = {number: spec for number, spec in specs.items() if spec.kind in (TX, RX)}
    receivers = {
        (NODES[spec.node_id].addr, spec.params["port"]): spec
        for spec in ends.values()
        if spec.kind == RX
    }
    assert len(receivers) == len([spec for spec in ends.values() if spec.kind == RX])
    assert not {port for _, port in receivers} & {each.port for each in NODES}
    ways = []
    for sender in (spec for spec in ends.values() if spec.kind == TX):
        receiver = receivers.pop((sender.params["addr"], sender.params["port"]))
        (fed,) = [link for link in links if link.target_handler == sender.handler_id]
        given_on = [link for link in links if link.source_handler == receiver.handler_id]
        assert given_on
        ways += [
            Link(fed.source_handler, fed.source_output, link.target_handler, link.target_input)
            for link in given_on
        ]
    assert receivers == {}
    assert sorted(ways) == sorted(crossing(service, placed))
    within = [link for link in links if not {link.source_handler, link.target_handler} & set(ends)]
    assert sorted(ways + within) == sorted(service.links)


@settings(max_examples=200)
@given(placements())
def test_what_a_node_runs_is_valid_by_itself(case):
    service, placed = case
    for part in blueprints(service, placed, NODES):
        kinds = {spec.handler_id: HANDLER_TYPES[spec.kind] for spec in part.handlers}
        fed = Counter((link.target_handler, link.target_input) for link in part.links)
        assert fed == {
            (number, index): 1 for number, kind in kinds.items() for index in range(kind.inputs)
        }
        for link in part.links:
            assert link.source_output < kinds[link.source_handler].outputs
        assert all(
            each["params"].keys() <= kinds[each["handler_id"]].params.keys()
            for each in part.document()["handlers"]
        )


@settings(max_examples=200)
@given(placements())
def test_pairs_fold_into_the_links_they_stand_for_and_unfold_into_themselves(case):
    service, placed = case
    parts = blueprints(service, placed, NODES)
    again = service_of(template(service, parts), NODES)
    assert {spec.handler_id: spec.node_id for spec in again.handlers} == placed
    assert {(spec.handler_id, spec.kind) for spec in again.handlers} == {
        (spec.handler_id, spec.kind) for spec in service.handlers
    }
    assert sorted(again.links) == sorted(service.links)
    assert again.algorithm == "static"
    unfolded = {part.node_id: part for part in blueprints(again, placed, NODES)}
    assert unfolded.keys() == {part.node_id for part in parts}
    for part in parts:
        assert unfolded[part.node_id].document()["handlers"] == part.document()["handlers"]
        assert sorted(unfolded[part.node_id].links) == sorted(part.links)


def test_the_node_that_captures_comes_last():
    service = chain(CAPTURE, RESIZE, RESIZE)
    assert [part.node_id for part in blueprints(service, {0: 0, 1: 1, 2: 2}, NODES)] == [2, 1, 0]
    assert [part.node_id for part in blueprints(service, {0: 0, 1: 1, 2: 0}, NODES)] == [1, 0]


def test_numbers_and_ports_are_the_next_that_are_free():
    service = chain(CAPTURE, RESIZE, RESIZE)
    parts = blueprints(service, {0: 0, 1: 2, 2: 3}, NODES, taken={2: {9002}, 3: {9004}})
    found = {
        spec.handler_id: (spec.kind, spec.node_id, dict(spec.params))
        for part in parts
        for spec in part.handlers
        if spec.kind in (TX, RX)
    }
    assert found == {
        3: (TX, 0, {"addr": "192.0.2.3", "port": 9003, "protocol": "udp"}),
        4: (RX, 2, {"addr": "", "port": 9003, "protocol": "udp"}),
        5: (TX, 2, {"addr": "192.0.2.3", "port": 9005, "protocol": "udp"}),
        6: (RX, 3, {"addr": "", "port": 9005, "protocol": "udp"}),
    }


def test_what_one_output_gives_to_one_node_goes_there_once():
    specs = tuple(HandlerSpec(i, f"h{i}", kind) for i, kind in enumerate((CAPTURE, RESIZE, RESIZE)))
    service = Service(0, "fan", specs, (Link(0, 0, 1, 0), Link(0, 0, 2, 0)), "greedy")
    receiving, sending = blueprints(service, {0: 0, 1: 1, 2: 1}, NODES)
    assert [spec.kind for spec in sending.handlers] == [CAPTURE, TX]
    assert sending.links == (Link(0, 0, 3, 0),)
    assert receiving.links == (Link(4, 0, 1, 0), Link(4, 0, 2, 0))


def test_our_own_parameters_are_left_out_of_documented_messages():
    spec = HandlerSpec(1, "render", 3, {"fps": 5, "to": "faces.mp4"})
    service = Service(
        0, "shown", (HandlerSpec(0, "capture", 2), spec), (Link(0, 0, 1, 0),), "greedy"
    )
    (part,) = blueprints(service, {0: 0, 1: 0}, NODES)
    assert part.handlers[1].params == {"fps": 5, "to": "faces.mp4"}
    assert part.document()["handlers"][1] == {
        "handler_id": 1,
        "handler_name": "render",
        "handler_type": 3,
        "params": {"fps": 5},
    }


#: The documents' sample: data goes to an address that is no node's.
SAMPLE = {
    "service_id": 1,
    "service_name": "offload_detect",
    "template": [
        {
            "node_id": 0,
            "blueprint": {
                "handlers": [
                    {"handler_id": 0, "handler_name": "capture", "handler_type": 2,
                     "params": {"source": 0, "fps": 20, "width": 640, "height": 480}},
                    {"handler_id": 1, "handler_name": "encode", "handler_type": 5,
                     "params": {"quality": 80}},
                    {"handler_id": 2, "handler_name": "tx", "handler_type": 0,
                     "params": {"addr": "203.0.113.9", "port": 9002, "protocol": "udp"}},
                    {"handler_id": 7, "handler_name": "rx", "handler_type": 1,
                     "params": {"addr": "", "port": 9002, "protocol": "udp"}},
                    {"handler_id": 8, "handler_name": "draw", "handler_type": 17, "params": {}},
                    {"handler_id": 9, "handler_name": "render", "handler_type": 3, "params": {}},
                ],
                "links": [
                    {"source_handler": a, "source_output": 0, "target_handler": b,
                     "target_input": i}
                    for a, b, i in [(0, 1, 0), (1, 2, 0), (0, 8, 0), (7, 8, 1), (8, 9, 0)]
                ],
            },
        },
        {
            "node_id": 1,
            "blueprint": {
                "handlers": [
                    {"handler_id": 3, "handler_name": "rx", "handler_type": 1,
                     "params": {"addr": "", "port": 9002, "protocol": "udp"}},
                    {"handler_id": 4, "handler_name": "decode", "handler_type": 6, "params": {}},
                    {"handler_id": 5, "handler_name": "detect_object", "handler_type": 7,
                     "params": {"config": "yolov3-512.cfg", "weights": "yolov3.weights",
                                "targets": ["person"]}},
                    {"handler_id": 6, "handler_name": "tx", "handler_type": 0,
                     "params": {"addr": "192.0.2.1", "port": 9002, "protocol": "udp"}},
                ],
                "links": [
                    {"source_handler": a, "source_output": 0, "target_handler": b,
                     "target_input": 0}
                    for a, b in [(3, 4), (4, 5), (5, 6)]
                ],
            },
        },
    ],
}  # fmt: skip


def test_the_documents_sample_folds_and_unfolds_into_itself():
    service = service_of(SAMPLE, NODES)
    assert [spec.handler_id for spec in service.handlers] == [0, 1, 8, 9, 4, 5]
    assert Link(1, 0, 4, 0) in service.links
    assert Link(5, 0, 8, 1) in service.links
    assert [(cut.tx.handler_id, cut.rx.handler_id) for cut in service.cuts] == [(2, 3), (6, 7)]
    placed = {spec.handler_id: spec.node_id for spec in service.handlers}
    parts = {part.node_id: part for part in blueprints(service, placed, NODES)}
    for written in SAMPLE["template"]:
        found = parts[written["node_id"]].document()
        assert found["handlers"] == written["blueprint"]["handlers"]
        by_ends = [tuple(link.values()) for link in found["links"]]
        assert sorted(by_ends) == sorted(
            tuple(link.values()) for link in written["blueprint"]["links"]
        )


def test_a_written_pair_whose_end_has_moved_is_made_anew():
    service = service_of(SAMPLE, NODES)
    placed = {spec.handler_id: spec.node_id for spec in service.handlers}
    parts = blueprints(service, {**placed, 4: 2, 5: 2}, NODES)
    ends = sorted(
        (spec.handler_id, spec.node_id, spec.params["addr"], spec.params["port"])
        for part in parts
        for spec in part.handlers
        if spec.kind in (TX, RX)
    )
    assert ends == [
        (10, 2, "192.0.2.1", 9002),
        (11, 0, "", 9002),
        (12, 0, "192.0.2.3", 9002),
        (13, 2, "", 9002),
    ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"taken": {1: [9002]}}, "port 9002 of node 1 n1 is taken"),
    ],
)
def test_a_written_port_that_others_have_is_named(options, error):
    service = service_of(SAMPLE, NODES)
    placed = {spec.handler_id: spec.node_id for spec in service.handlers}
    with pytest.raises(PlanError) as caught:
        blueprints(service, placed, NODES, **options)
    assert str(caught.value) == error


def test_no_port_and_no_node_are_named():
    service = chain(CAPTURE, RESIZE)
    with pytest.raises(PlanError) as caught:
        blueprints(service, {0: 0, 1: 1}, NODES, first_port=65535, taken={1: {65535}})
    assert str(caught.value) == "node 1 n1 has no port left from 65535 to 65535"
    with pytest.raises(PlanError) as caught:
        blueprints(service, {0: 0}, NODES)
    assert str(caught.value) == "handler 1 h1 is placed on node None, unknown"
