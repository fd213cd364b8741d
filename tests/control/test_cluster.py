"""Which nodes there are: alone, as the controller knows, and as it has told the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from channel_kit import TASK, view
from hypothesis import given
from hypothesis import strategies as st

from vdag.control import wire
from vdag.control.cluster import (
    Alone,
    Fleet,
    Hearsay,
    cluster_info,
    execute_urls,
    offers_of,
    resource_info,
    state_of,
    system_status,
    view_of_card,
)
from vdag.control.controller import membership as membership_module
from vdag.control.controller.membership import Membership, ip_of
from vdag.errors import ConfigError

MINE = view(address="10.0.0.7")
OTHER = replace(view("cloud", address="10.0.0.8"), node_addr="10.0.0.8:5001")
SESSION = "0123456789abcdef"


def card(name: str = "10.0.0.8:5001", **fields: object) -> wire.Card:
    values = {"port": 5500, "services": offers_of(OTHER), "state": state_of(OTHER), **fields}
    return wire.Card(name, "cloud", **values)


def join(name: str, state: bytes = b"") -> wire.Join:
    return wire.Join(name, SESSION, "n", "edge", 5500, services=offers_of(MINE), state=state)


class Clock:
    """Says what it is told."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


# Views


def test_a_node_comes_through_the_channel_as_it_is():
    assert view_of_card(card()) == OTHER


@pytest.mark.parametrize("state", [b"", b"[", b'{"device_state":3,"summary":[]}'])
def test_a_state_that_makes_no_sense_is_left_out(state: bytes):
    found = view_of_card(card(state=state))
    assert (found.device, found.summary) == ({}, {})
    assert found.services == OTHER.services


def test_a_node_without_a_service_offers_nothing_to_callers():
    assert execute_urls([view_of_card(card(port=0))], TASK) == {}


def test_an_address_of_ip_6_stands_in_brackets():
    found = view_of_card(card("[2001:db8::8]:5001"))
    assert (found.address, found.place) == ("2001:db8::8", "[2001:db8::8]:5500")


def test_the_overviews_have_all_nodes():
    nodes = (MINE, OTHER)
    assert list(execute_urls(nodes, TASK)) == ["10.0.0.7:5500", "10.0.0.8:5500"]
    assert {ip: found["node_role"] for ip, found in cluster_info(nodes).items()} == {
        "10.0.0.7": "edge",
        "10.0.0.8": "cloud",
    }
    assert list(system_status(nodes)["edge"]) == ["10.0.0.7"]
    resources = resource_info(nodes)
    assert resources["cloud"]["10.0.0.8"][TASK] == {
        "cpu_ratio": 0.5,
        "mem_ratio": 1.0,
        "n_process": 2,
    }
    assert list(resources["host"]) == ["10.0.0.7"]  # nobody is, so the first stands in


# Who knows


def test_a_node_alone_knows_itself():
    assert Alone(lambda: MINE).nodes() == (MINE,)


def test_the_controllers_node_knows_itself_first_and_all_others_once():
    stale = view("cloud", address="10.0.0.7")
    assert Fleet(lambda: MINE, lambda: [OTHER, stale]).nodes() == (MINE, OTHER)


def test_what_the_controller_says_is_believed_for_a_while():
    clock = Clock()
    hearsay = Hearsay(lambda: MINE, timeout_s=3.0, clock=clock)
    assert hearsay.nodes() == (MINE,)
    hearsay.hear(wire.View(4, ["10.0.0.7:5001", "10.0.0.8:5001"], [card()]))
    assert (hearsay.nodes(), hearsay.version) == ((MINE, OTHER), 4)
    clock.now_ns = 3_000_000_000
    hearsay.hear(None)  # nothing has changed
    clock.now_ns = 6_000_000_000
    assert hearsay.nodes() == (MINE, OTHER)
    clock.now_ns += 1
    assert hearsay.nodes() == (MINE,)
    hearsay.hear(None)
    assert hearsay.nodes() == (MINE, OTHER)


def test_who_is_not_alive_any_more_is_forgotten():
    hearsay = Hearsay(lambda: MINE, clock=Clock())
    hearsay.hear(wire.View(4, ["10.0.0.8:5001"], [card()]))
    hearsay.hear(wire.View(5, ["10.0.0.7:5001"]))
    assert hearsay.nodes() == (MINE,)
    hearsay.hear(wire.View(6, ["10.0.0.8:5001"]))  # its card has to come again
    assert hearsay.nodes() == (MINE,)
    hearsay.hear(wire.View(7, ["10.0.0.8:5001"], [card()]))
    hearsay.forget()
    assert (hearsay.nodes(), hearsay.version) == ((MINE,), 0)


# Members


@pytest.mark.parametrize("name", ["", "gate-3", "10.0.0.7", "10.0.0.7:", ":5001", "a:0", "a:65536"])
def test_a_name_that_is_no_place_is_refused(name: str):
    with pytest.raises(ConfigError, match=rf"^node_addr '{name}' is not IP:PORT$"):
        ip_of(name)


def test_a_name_is_kept_for_the_key_it_came_with_while_its_node_is_alive():
    members = Membership()
    first = members.join(join("10.0.0.7:5001"), "key-1", 0)
    error = "node_addr 10.0.0.7:5001 is that of a node with another key"
    with pytest.raises(ConfigError, match=f"^{error}$"):
        members.join(join("10.0.0.7:5001"), "key-2", 0)
    members.lose(first)
    members.join(join("10.0.0.7:5001"), "key-2", 0)
    assert members.speaker("10.0.0.7:5001", SESSION, "key-1") is None
    assert members.speaker("10.0.0.7:5001", SESSION, "key-2") is not None


def test_there_is_a_limit_to_members(monkeypatch):
    monkeypatch.setattr(membership_module, "MAX_MEMBERS", 1)
    members = Membership()
    members.join(join("10.0.0.7:5001"), "", 0)
    with pytest.raises(ConfigError, match=r"^1 nodes have joined, which is the limit$"):
        members.join(join("10.0.0.8:5001"), "", 0)
    members.join(join("10.0.0.7:5001"), "", 0)


def test_states_are_passed_on_now_and_then_and_services_at_once():
    members = Membership()
    member = members.join(join("10.0.0.7:5001"), "", 0)

    def report(now_ns: int, **fields: object) -> None:
        message = wire.Report("10.0.0.7:5001", SESSION, SESSION, 1, 0, 0, **fields)
        members.update(member, message, now_ns)

    version = members.version
    report(1, state=b'{"summary":{"n_cpu":1}}')
    assert members.version == version
    report(2, services={})
    assert (members.version, members.nodes()[0].services) == (version + 1, {})
    report(membership_module.STATE_INTERVAL_NS + 2, state=b'{"summary":{"n_cpu":2}}')
    assert members.nodes()[0].summary == {"n_cpu": 2}
    report(2 * membership_module.STATE_INTERVAL_NS + 2)
    assert members.version == version + 2


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["join", "lose", "hear"]), st.integers(1, 4)), max_size=30
    ),
    state_nbytes=st.integers(0, 700),
)
def test_who_hears_of_every_change_or_of_some_knows_the_same_in_the_end(steps, state_nbytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(membership_module, "VIEW_NBYTES", 1000)
        members = Membership()
        hearsay = Hearsay(lambda: MINE, clock=Clock())
        for number, (step, node) in enumerate(steps):
            name = f"10.0.1.{node}:5001"
            member = members.get(name)
            if step == "join":
                state = wire.write_document({"device_state": {"x": "y" * state_nbytes}})
                members.join(join(name, state), "", number)
            elif step == "lose" and member is not None and member.is_alive:
                members.lose(member)
            elif step == "hear":
                hearsay.hear(members.view(hearsay.version))
        for _ in range(6):  # a view that is too long comes in several
            hearsay.hear(members.view(hearsay.version))
        assert hearsay.version == members.version or len(members) == 0
        places = {each.place for each in hearsay.nodes()}
        assert places == {MINE.place, *(each.place for each in members.nodes())}
