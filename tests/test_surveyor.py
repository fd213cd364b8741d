"""Which links a node has measured, and under which names it tells of them."""

from __future__ import annotations

import logging
import queue
import threading

import pytest

from vdag.control.cluster import NodeView, ServiceView
from vdag.errors import ConfigError
from vdag.node import surveyor
from vdag.node.surveyor import MAX_PROBED, Surveyor
from vdag.transport.meter import LinkStats

TIMEOUT_S = 30.0
OWN = "tcp://10.0.0.1:5020"
TASK = {"face_detection": ServiceView()}


def node(number: int, role: str = "edge", **fields: object) -> NodeView:
    address = f"10.0.0.{number}"
    values = {
        "services": TASK,
        "landing": f"tcp://{address}:5020",
        "name": f"node{number}",
        "node_addr": f"{address}:5001",
    } | fields
    return NodeView(address, 5500, role, **values)


class Cluster:
    def __init__(self, *nodes: NodeView) -> None:
        self._nodes = nodes

    def nodes(self) -> tuple[NodeView, ...]:
        return self._nodes


class Ways:
    """In place of `Peers`: notes who is probed, and refuses some."""

    address = OWN

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        self.probed: queue.Queue[tuple[str, str, float]] = queue.Queue()
        self.done: set[str] = set()
        self.refused = refused

    def probe(self, address: str, name: str = "", *, after_s: float) -> bool:
        if address in self.refused:
            self.probed.put((address, name, after_s))
            raise ConfigError(f"node {name} is not trusted")
        if address in self.done:
            return False
        self.done.add(address)
        self.probed.put((address, name, after_s))
        return True

    def links(self) -> dict[str, LinkStats]:
        return {
            "tcp://10.0.0.2:5020": LinkStats(1e6, 0.01, 5),
            "tcp://10.0.0.3:5020": LinkStats(None, 0.01, 0),
            "tcp://10.0.0.9:5020": LinkStats(2e6, 0.01, 5),
        }


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    monkeypatch.setattr(surveyor, "STEP_S", 0.001)
    yield
    assert not [each for each in threading.enumerate() if each.name == "vdag-surveyor"]


def take(ways: Ways, count: int) -> list[str]:
    return [ways.probed.get(timeout=TIMEOUT_S)[0] for _ in range(count)]


def test_what_was_measured_is_told_under_the_names_of_the_nodes():
    cluster = Cluster(node(1, landing=""), node(2), node(3), node(4), node(9, node_addr=""))
    with Surveyor(Ways(), cluster, 0.0) as found:
        assert found.bandwidth() == {"10.0.0.2:5001": 1e6}


def test_nodes_that_do_tasks_are_probed_the_servers_first():
    ways = Ways()
    cluster = Cluster(
        node(1, landing=OWN),  # this one
        node(2),
        node(3, landing="http://10.0.0.3:5500"),  # frames go there another way
        node(4, services={}),
        node(5, landing=""),
        node(6, role="cloud"),
        node(7),
    )
    with Surveyor(ways, cluster, 7.0):
        first = ways.probed.get(timeout=TIMEOUT_S)
        assert first == ("tcp://10.0.0.6:5020", "node6", 7.0)
        assert take(ways, 2) == ["tcp://10.0.0.2:5020", "tcp://10.0.0.7:5020"]
    assert ways.probed.empty()


def test_of_many_nodes_so_many_are_probed_as_one_may_look_at():
    ways = Ways(refused=(f"tcp://10.0.0.{MAX_PROBED + 1}:5020",))
    cluster = Cluster(*(node(number) for number in range(2, 3 * MAX_PROBED)))
    with Surveyor(ways, cluster, 1.0):
        # The last one is refused each time that it is its turn, and no other follows.
        assert len({*take(ways, MAX_PROBED + 3)}) == MAX_PROBED


def test_a_node_that_cannot_be_probed_is_told_of_once_and_holds_up_no_other(caplog):
    caplog.set_level(logging.INFO, logger="vdag.node.surveyor")
    refused = "tcp://10.0.0.2:5020"
    ways = Ways(refused=(refused,))
    with Surveyor(ways, Cluster(node(2), node(3)), 1.0):
        assert "tcp://10.0.0.3:5020" in take(ways, 2)
        assert set(take(ways, 5)) == {refused}
    assert caplog.messages == ["link to 10.0.0.2:5001 is not measured: node node2 is not trusted"]


def test_no_link_is_probed_unless_the_settings_say_so():
    ways = Ways()
    with Surveyor(ways, Cluster(node(2)), 0.0):
        assert not [each for each in threading.enumerate() if each.name == "vdag-surveyor"]
    assert ways.probed.empty()
