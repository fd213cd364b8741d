"""Where the nodes are that plans of the documented REST name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vdag.control.cluster import NodeView, ServiceView
from vdag.control.jobs.places import PlacesOfPlans
from vdag.errors import ConfigError
from vdag.plan import Placement, Plan, VideoConf

MINE = NodeView("10.0.0.7", 5500, "edge")
SERVER = NodeView("10.0.0.8", 5500, "cloud", landing="tcp://10.0.0.8:5020", name="cloud")
DEAF = NodeView("10.0.0.9", 5500, "edge")


class Known:
    def __init__(self, *others: NodeView) -> None:
        self._others = others
        self.mine = MINE

    def nodes(self) -> tuple[NodeView, ...]:
        return (self.mine, *self._others)


def find(
    ip: str, role: str = "cloud", *others: NodeView, mine: str = "10.0.0.7"
) -> tuple[object, object]:
    places = PlacesOfPlans(mine, Known(*others), service_port=5511)
    routes, names = places(Plan(1, VideoConf("480p", 25), {"t": Placement(ip, role)}))
    return routes.get("t"), dict(names)


@pytest.mark.parametrize(
    ("ip", "role"),
    [("10.0.0.7", "host"), ("10.0.0.7", "cloud"), ("", "host"), ("192.168.0.1", "host")],
)
def test_this_node_is_meant(ip, role):
    assert find(ip, role, SERVER) == (None, {})


@pytest.mark.parametrize("role", ["cloud", "edge", "host"])
def test_a_node_that_is_known_gets_frames_at_its_landing(role):
    assert find("10.0.0.8", role, SERVER) == ("tcp://10.0.0.8:5020", {SERVER.landing: "cloud"})


@pytest.mark.parametrize(
    ("ip", "endpoint"),
    [
        ("10.0.0.8", "http://10.0.0.8:5511"),
        ("gate-3.example", "http://gate-3.example:5511"),
        ("fe80::1", "http://[fe80::1]:5511"),
    ],
)
def test_a_node_that_is_not_known_is_a_service(ip, endpoint):
    assert find(ip) == (endpoint, {})
    assert find(ip, "edge", DEAF) == (endpoint, {})


def test_a_node_without_a_landing_is_a_service():
    assert find("10.0.0.9", "edge", DEAF) == ("http://10.0.0.9:5511", {})


def test_of_two_nodes_at_one_address_the_role_tells():
    cloud = NodeView("127.0.0.1", 5500, "cloud", landing="tcp://127.0.0.1:1")
    edge = NodeView("127.0.0.1", 5501, "edge", landing="tcp://127.0.0.1:2")
    found = [find("127.0.0.1", role, edge, cloud, mine="127.0.0.1")[0] for role in
             ("host", "cloud", "edge")]  # fmt: skip
    assert found == [None, cloud.landing, edge.landing]
    assert find("127.0.0.1", "cloud", edge, cloud)[0] == cloud.landing
    assert find("127.0.0.1", "edge", edge, cloud)[0] == edge.landing


def test_an_address_may_be_written_in_many_ways():
    assert find("FE80:0::1", "cloud", mine="fe80::1") == (None, {})


def test_what_is_no_address_is_refused():
    with pytest.raises(ConfigError, match=r"^flow_mapping\.t: 'a/b:5511' is not HOST:PORT$"):
        find("a/b")


def fitted(model: int, placement: Placement, *others: NodeView) -> int:
    services = {"t": ServiceView(models=(0, 2))}
    known = Known(*others)
    known.mine = replace(MINE, services=services)
    places = PlacesOfPlans("10.0.0.7", known)
    conf = VideoConf("480p", 25)
    plan = Plan(1, conf, {"t": replace(placement, model_id=model)}, document={"flow_mapping": {}})
    found = places.fit(plan)
    assert found == replace(plan, flow_mapping=found.flow_mapping)
    assert found.document == plan.document
    assert replace(found.flow_mapping["t"], model_id=0) == replace(placement, model_id=0)
    return found.flow_mapping["t"].model_id


@pytest.mark.parametrize(("wanted", "found"), [(0, 0), (1, 0), (2, 2), (9, 2)])
@pytest.mark.parametrize("placement", [Placement("", "host"), Placement("10.0.0.7", "cloud")])
def test_in_place_of_a_model_that_is_not_here_goes_the_next_larger_one(wanted, found, placement):
    assert fitted(wanted, placement) == found


def test_without_a_larger_one_goes_the_largest_there_is():
    services = {"t": ServiceView(models=(1, 2))}
    server = replace(SERVER, services=services)
    assert fitted(0, Placement("10.0.0.8", "cloud"), server) == 1


@pytest.mark.parametrize("services", [{}, {"t": ServiceView()}])
def test_a_node_that_does_not_say_gets_the_model_that_the_plan_names(services):
    server = replace(SERVER, services=services)
    assert fitted(1, Placement("10.0.0.8", "cloud"), server) == 1
    assert fitted(1, Placement("10.0.0.99", "cloud")) == 1
