"""Folding: which tx and rx of a template are a pair, and what is said of those that are none."""

from __future__ import annotations

import pytest
from coordination_kit import node

from vdag.control.coordination.documents import Link, service_of
from vdag.errors import ConfigError


def link(source, target, target_input=0):
    return {
        "source_handler": source,
        "source_output": 0,
        "target_handler": target,
        "target_input": target_input,
    }


def handler(number, kind, params=None, **fields):
    return {
        "handler_id": number,
        "handler_name": f"h{number}",
        "handler_type": kind,
        "params": params or {},
        **fields,
    }


def end(number, kind, port, addr=""):
    return handler(number, kind, {"addr": addr, "port": port})


def parts(*blueprints, nodes=(0, 1, 2)):
    return {
        "service_id": 0,
        "service_name": "cut",
        "template": [
            {"node_id": number, "blueprint": {"handlers": handlers, "links": links}}
            for number, (handlers, links) in zip(nodes, blueprints, strict=False)
        ],
    }


SENDING = [handler(0, 2), end(1, 0, 9002, "192.0.2.2")], [link(0, 1)]
RECEIVING = [end(2, 1, 9002), handler(3, 3)], [link(2, 3)]
THREE = [node(0), node(1), node(2)]


def test_a_pair_is_found_by_the_address_of_the_receiver():
    third = [end(4, 1, 9002, "192.0.2.77"), handler(5, 3)], [link(4, 5)]
    second = (
        [handler(6, 2), end(7, 0, 9002, "192.0.2.77"), *RECEIVING[0]],
        [link(6, 7), *RECEIVING[1]],
    )
    found = service_of(parts(SENDING, second, third), THREE)
    assert found.links == (Link(0, 0, 3, 0), Link(6, 0, 5, 0))
    assert [(cut.tx.handler_id, cut.rx.handler_id) for cut in found.cuts] == [(1, 2), (7, 4)]


def test_a_pair_without_nodes_is_found_by_its_port():
    found = service_of(parts(SENDING, RECEIVING, nodes=(None, None)), THREE)
    assert found.links == (Link(0, 0, 3, 0),)
    assert found.algorithm == "min_delay"


@pytest.mark.parametrize(
    ("blueprints", "error"),
    [
        ((SENDING,), "handler 1 h1: udp 192.0.2.2:9002 is no rx"),
        (
            (SENDING, ([end(2, 1, 9003), handler(3, 3)], [link(2, 3)])),
            "handler 1 h1: udp 192.0.2.2:9002 is no rx",
        ),
        (
            (([handler(0, 2)], []), RECEIVING),
            "handler 2 h2: no tx sends to port 9002",
        ),
        (
            (SENDING, ([end(2, 1, 9002)], [])),
            "handler 2 h2: output 0 has no link",
        ),
        (
            (([handler(0, 2), end(1, 0, 0)], [link(0, 1)]), RECEIVING),
            "handler 1 h1: port is 0, expected 1 to 65535",
        ),
        (
            (
                ([handler(0, 2), end(1, 0, 9002, "203.0.113.1")], [link(0, 1)]),
                RECEIVING,
                ([end(4, 1, 9002), handler(5, 3)], [link(4, 5)]),
            ),
            "handler 1 h1: udp 203.0.113.1:9002 could be handlers 2 and 4",
        ),
        (
            (
                SENDING,
                RECEIVING,
                ([handler(4, 2), end(5, 0, 9002, "192.0.2.2")], [link(4, 5)]),
            ),
            "handlers 1 and 5 both send to handler 2 h2",
        ),
        (
            (SENDING, ([end(2, 1, 9002), end(3, 0, 9003)], [link(2, 3)])),
            "handler 3 sends on what handler 2 receives, with none between them",
        ),
        (
            (SENDING, ([end(2, 1, 9002), handler(3, 3, node_id=0)], [link(2, 3)])),
            "handler 3: node_id is 0, and 1 in template[1]",
        ),
    ],
)
def test_a_tx_and_an_rx_that_are_no_pair_are_refused(blueprints, error):
    with pytest.raises(ConfigError) as caught:
        service_of(parts(*blueprints), THREE)
    assert str(caught.value) == f"service: {error}"


def test_a_cycle_over_nodes_is_found():
    first = (
        [end(0, 1, 9003), handler(1, 4), end(2, 0, 9002, "192.0.2.2")],
        [link(0, 1), link(1, 2)],
    )
    second = (
        [end(3, 1, 9002), handler(4, 4), end(5, 0, 9003, "192.0.2.1")],
        [link(3, 4), link(4, 5)],
    )
    with pytest.raises(ConfigError) as caught:
        service_of(parts(first, second), THREE)
    assert str(caught.value) == "service: links form a cycle: 1 -> 4 -> 1"
