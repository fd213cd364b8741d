"""Sessions on nodes that speak only the documented messages, in real servers."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
from coordinator_kit import TIMEOUT_S, Bench, capture, handler, link, node, service
from documented_kit import DocumentedNode

from vdag.control.coordination.types import RX, TX
from vdag.control.coordination.values import Node
from vdag.control.coordinator.foreign import ForeignNodes
from vdag.control.coordinator.states import Patience
from vdag.control.coordinator.values import SessionRequest
from vdag.errors import PlanError


@pytest.fixture
def nodes(stack: ExitStack) -> list[DocumentedNode]:
    found = [DocumentedNode() for _ in range(2)]
    for each in found:
        stack.callback(each.close)
    return found


#: capture, encode on one node, decode, resize on the other.
CHAIN = service(
    [
        capture(node_id=1),
        handler(1, 5, node_id=1),
        handler(2, 6, node_id=2),
        handler(3, 4, node_id=2, width=320, height=240),
    ],
    [link(0, 1), link(1, 2), link(2, 3)],
    algorithm="static",
)


@pytest.fixture
def bench(stack: ExitStack, nodes: list[DocumentedNode], tmp_path: Any) -> Bench:
    files = [
        node(number, f"n{number}", port=each.port, speaks="http")
        for number, each in enumerate(nodes, 1)
    ]
    files.append(node(3, "ours", port=5001))
    return stack.enter_context(
        Bench(tmp_path, files, [CHAIN], patience=Patience(init_s=2.0, start_s=1.0, stop_s=2.0))
    )


def test_a_session_goes_through_its_life_by_the_documented_messages(bench, nodes):
    session = bench.create(SessionRequest(0))
    view = bench.settled(session)
    assert (view.state, view.speaks) == ("initialized", "http")
    assert [each.states for each in nodes] == [{session: "initialized"}] * 2
    for wish, state, theirs in (("start", "running", "running"), ("stop", "stopped", "terminated")):
        bench.wish(session, wish)
        assert bench.settled(session).state == state
        assert [each.states for each in nodes] == [{session: theirs}] * 2
    bench.wish(session, "delete")
    bench.wait(lambda: bench.sessions.get(session) is None)
    assert [each.states for each in nodes] == [{}, {}]
    assert [each.asked for each in nodes] == [["init", "start", "stop", "delete"]] * 2
    assert bench.store.log.sessions()[-1].state == "deleted"


def test_blueprints_are_cut_where_nodes_meet(bench, nodes):
    session = bench.create(SessionRequest(0))
    assert bench.settled(session).state == "initialized"
    sender, receiver = (each.blueprints[session] for each in nodes)
    assert [each["handler_type"] for each in sender["handlers"]] == [2, 5, TX]
    assert sorted(each["handler_type"] for each in receiver["handlers"]) == [RX, 4, 6]
    tx = next(each for each in sender["handlers"] if each["handler_type"] == TX)
    rx = next(each for each in receiver["handlers"] if each["handler_type"] == RX)
    assert tx["params"]["port"] == rx["params"]["port"]
    assert tx["params"]["addr"] == "127.0.0.1"
    # Other sessions get other ports of the same node, also if they are created at one time.
    wishes = [bench.sessions.create(SessionRequest(0)) for _ in range(3)]
    ports = {rx["params"]["port"]}
    for wish in wishes:
        other = wish.result(TIMEOUT_S)
        assert bench.settled(other).state == "initialized"
        more = nodes[1].blueprints[other]["handlers"]
        ports.update(each["params"]["port"] for each in more if each["handler_type"] == RX)
    assert len(ports) == 4


def test_nodes_are_asked_at_the_same_time(bench, nodes):
    for each in nodes:
        each.hold["init"] = threading.Event()
    session = bench.create(SessionRequest(0))
    for each in nodes:  # a pair of tx and rx over TCP waits for both
        assert each.arrived.acquire(timeout=TIMEOUT_S)
    for each in nodes:
        each.hold["init"].set()
    assert bench.settled(session).state == "initialized"


def test_one_that_refuses_to_init_has_the_other_delete(bench, nodes):
    nodes[1].refusal["init"] = "ParseError: Handler id duplicated."
    session = bench.create(SessionRequest(0, start=True))
    view = bench.settled(session)
    assert (view.state, view.reason) == ("failed", "node 2: ParseError: Handler id duplicated.")
    assert nodes[0].states == {}
    assert [each.asked for each in nodes] == [["init", "delete"]] * 2


def test_one_that_refuses_to_start_has_all_stop_and_delete(bench, nodes):
    nodes[1].refusal["start"] = "Restart session is not supported."
    session = bench.create(SessionRequest(0, start=True))
    view = bench.settled(session)
    assert (view.state, view.reason) == ("failed", "node 2: Restart session is not supported.")
    assert [each.states for each in nodes] == [{}, {}]
    assert nodes[0].asked == ["init", "start", "stop", "delete"]


def test_one_that_drops_the_connection_has_failed(bench, nodes):
    nodes[0].drops.add("init")
    session = bench.create(SessionRequest(0))
    view = bench.settled(session)
    assert view.state == "failed"
    place = f"127.0.0.1:{nodes[0].port}"
    assert view.reason == (
        f"node 1: {place} does not answer /: Remote end closed connection without response"
    )
    assert nodes[0].asked.count("init") == 1  # what may have arrived is not sent again


def test_one_that_is_slow_has_failed_in_time(bench, nodes):
    nodes[0].hold["init"] = threading.Event()
    session = bench.create(SessionRequest(0))
    view = bench.wait(lambda: (v := bench.sessions.get(session)) and v.state == "failed" and v)
    assert view.reason in (
        "node 1: no answer within 2 s",
        f"node 1: 127.0.0.1:{nodes[0].port} does not answer / in time",
    )
    nodes[0].hold["init"].set()
    assert bench.settled(session).state == "failed"
    assert "delete" in nodes[1].asked


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b'{"result": 1}', "it answers 200 '{\"result\": 1}', which is no result"),
        (b"<html>", "reply is no JSON object: JSON is malformed: invalid character (byte 0)"),
        (b'{"result": "Failed"}', "it has failed, and does not say why"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(bench, nodes, said, reason):
    nodes[0].nonsense["init"] = said
    session = bench.create(SessionRequest(0))
    assert bench.settled(session).reason == f"node 1: {reason}"


def test_a_session_lies_on_nodes_of_one_make(bench):
    with pytest.raises(PlanError, match="packets do not go between the two"):
        bench.create(SessionRequest(0, pins={3: 3}))


def test_a_node_without_a_port_cannot_be_told_anything():
    with ForeignNodes() as foreign:
        silent = Node(1, "n1", "server", "127.0.0.1", 0)
        future: Future[str] = foreign.order(silent, 1, "start", timeout_s=1.0)
        assert future.result(TIMEOUT_S) == "node 1 n1 has no node_port to send orders to"


def test_what_is_under_way_fails_when_the_nodes_are_closed(nodes):
    nodes[0].hold["init"] = threading.Event()
    foreign = ForeignNodes()
    place = Node(1, "n1", "server", "127.0.0.1", nodes[0].port)
    future = foreign.order(place, 1, "init", timeout_s=60.0, blueprint={})
    assert nodes[0].arrived.acquire(timeout=TIMEOUT_S)
    foreign.close()
    assert future.result(TIMEOUT_S)
