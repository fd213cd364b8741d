"""Which node a report is of, by the address it comes from."""

from __future__ import annotations

import pytest

from vdag.control.collector import Senders
from vdag.control.records import NodeRecord
from vdag.errors import ConfigError, NotFound


def node(number: int, addr: str) -> NodeRecord:
    return NodeRecord(number, f"n{number}", "server", addr, 9000)


SENDERS = Senders(
    [node(0, "192.0.2.1"), node(1, "192.0.2.2"), node(2, "192.0.2.2"), node(3, "2001:DB8::0:1")]
)


@pytest.mark.parametrize(
    ("host", "asked", "number"),
    [
        ("192.0.2.1", None, 0),
        ("192.0.2.1", 0, 0),
        ("::ffff:192.0.2.1", None, 0),
        ("192.0.2.2", 2, 2),
        ("2001:db8::1", None, 3),
    ],
)
def test_a_sender_is_found_by_its_address(host, asked, number):
    assert SENDERS.knows(host)
    assert SENDERS.find(host, asked).node_id == number


@pytest.mark.parametrize(
    ("host", "asked", "error"),
    [
        ("192.0.2.9", None, "no node has the address 192.0.2.9"),
        ("", None, "no node has the address "),
        ("192.0.2.1", 1, "no node 1 has the address 192.0.2.1"),
        ("192.0.2.2", None, "nodes 1, 2 have the address 192.0.2.2: the report has no node_id"),
    ],
)
def test_a_sender_that_is_not_known_is_refused(host, asked, error):
    with pytest.raises(NotFound) as caught:
        SENDERS.find(host, asked)
    assert str(caught.value) == error


def test_a_host_is_known_by_all_its_addresses():
    senders = Senders([node(5, "localhost")])
    assert senders.find("127.0.0.1").node_id == 5


def test_a_host_that_nobody_knows_is_named():
    with pytest.raises(ConfigError) as caught:
        Senders([node(5, "no such host")])
    assert str(caught.value) == (
        "node 5: node_addr no such host is no address, nor a host that is known"
    )
