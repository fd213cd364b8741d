"""Which node of the files is which of those that have joined."""

from __future__ import annotations

from dataclasses import replace

import pytest
from coordinator_kit import node

from vdag.control.coordinator.roster import Roster, video_of
from vdag.control.desk import KnownNode, KnownVideo
from vdag.errors import NotFound, PlanError


def known(addr: str, name: str = "", **fields: object) -> KnownNode:
    return KnownNode(addr, name=name, **fields)  # type: ignore[arg-type]


def test_nodes_are_known_by_address_and_port_then_name_then_address():
    files = [
        node(1, "a", port=5001),
        node(2, "b", port=9000),
        replace(node(3, "c", port=9000), addr="10.0.0.3"),
        replace(node(4, "d", port=9000), addr="gate.example"),
    ]
    roster = Roster(
        files,
        [
            known("127.0.0.1:5001", "b"),  # its port says more than its name
            known("127.0.0.1:5500", "b"),
            known("10.0.0.3:5500", "whatever"),
            known("192.0.2.9:5500", "d"),
            known("192.0.2.10:5500", "nobody"),
        ],
    )
    assert [roster.addr(number) for number in (1, 2, 3, 4)] == [
        "127.0.0.1:5001",
        "127.0.0.1:5500",
        "10.0.0.3:5500",
        "192.0.2.9:5500",
    ]
    assert roster.number("192.0.2.9:5500") == 4
    assert roster.number("192.0.2.10:5500") is None
    assert roster.numbers({7: "127.0.0.1:5001"}) == {7: 1}
    assert roster.numbers({7: "192.0.2.10:5500"}) is None


def test_two_nodes_at_one_address_are_not_told_apart_by_it():
    roster = Roster([node(1, "a", port=1)], [known("127.0.0.1:2"), known("127.0.0.1:3")])
    with pytest.raises(PlanError, match="node 1 a has not joined"):
        roster.addr(1)


def test_of_one_that_was_started_under_another_port_the_living_counts():
    gone = known("127.0.0.1:2", "a", is_alive=False)
    roster = Roster([node(1, "a", port=1)], [gone, known("127.0.0.1:3", "a")])
    assert roster.addr(1) == "127.0.0.1:3"


def test_who_speaks_http_is_never_known_and_always_there():
    roster = Roster([node(1, "a", port=1, speaks="http")], [known("127.0.0.1:1", "a")])
    assert roster.known(1) is None
    assert roster.is_there(1)
    assert not roster.is_there(2)
    with pytest.raises(NotFound, match="node 2 is of no node file"):
        roster.node(2)


@pytest.mark.parametrize(("source", "number"), [(3, 3), ("3", 3), ("street", 4)])
def test_a_source_is_a_number_or_what_a_video_shows(source, number):
    videos = {3: KnownVideo("hall"), 4: KnownVideo("street"), 5: KnownVideo("hall")}
    assert video_of(known("127.0.0.1:1", videos=videos), source) == number


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (1, "node 127.0.0.1:1 has no video 1"),
        ("faces.mp4", "node 127.0.0.1:1 has no videos of type 'faces.mp4'"),
        ("hall", "node 127.0.0.1:1 has 2 videos of type 'hall'"),
    ],
)
def test_a_source_that_is_no_video_is_refused(source, error):
    videos = {3: KnownVideo("hall"), 5: KnownVideo("hall")}
    with pytest.raises(PlanError) as raised:
        video_of(known("127.0.0.1:1", videos=videos), source)
    assert str(raised.value) == error
