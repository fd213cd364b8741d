"""Links that nothing is sent over: probes between the peers of two nodes, on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vdag.errors import ConfigError
from vdag.transport import link
from vdag.transport.exchange import Exchange
from vdag.transport.keys import KeyFolder
from vdag.transport.line import Line
from vdag.transport.meter import Meter
from vdag.transport.peer import HOME_LANE, MAX_PROBE_NBYTES
from vdag.transport.peers import Peers
from vdag.transport.pouch import MAX_NOTICES, Pouch

TIMEOUT_S = 30.0
NOBODY = "tcp://127.0.0.1:9"


@pytest.fixture
def open_peers(tmp_path: Path) -> Iterator[Callable[..., Peers]]:
    with ExitStack() as stack:

        def open_peers(name: str, **options: object) -> Peers:
            exchange = stack.enter_context(Exchange(tmp_path / name, classes=[(4096, 2)]))
            return stack.enter_context(Peers(exchange, "tcp://127.0.0.1:0", **options))

        yield open_peers
    assert not [each.name for each in threading.enumerate() if each.name.startswith("vdag-")]


def wait_until_measured(peers: Peers, address: str, after_ns: int = 0) -> float:
    deadline_s, pause = time.monotonic() + TIMEOUT_S, threading.Event()
    while True:
        found = peers.links()[address]
        if found.rate is not None and found.measured_ns > after_ns:
            return found.rate
        assert time.monotonic() < deadline_s, "the link is not measured"
        pause.wait(0.01)


def test_a_link_that_nobody_uses_is_measured_when_it_is_time_to(open_peers):
    here, there = open_peers("here"), open_peers("there")
    assert here.links() == {}
    assert here.probe(there.address, after_s=60.0)
    assert not here.probe(there.address, after_s=60.0)
    assert wait_until_measured(here, there.address) > 0.0
    assert not here.probe(there.address, after_s=60.0)
    before_ns = time.monotonic_ns()
    assert here.probe(there.address, after_s=0.0)
    wait_until_measured(here, there.address, before_ns)
    assert here.links()[there.address].round_trip_s is not None
    stats = there.stats()
    assert (stats.landing.hostile, stats.landing.notices, stats.refused) == (0, 0, 0)
    sent = here.stats().edges[there.address][HOME_LANE].nbytes
    assert MAX_PROBE_NBYTES / 8 < sent < 2 * MAX_PROBE_NBYTES + 10_000


def test_a_probe_of_a_node_that_is_not_there_waits_for_it(open_peers):
    here = open_peers("here")
    assert here.probe(NOBODY, after_s=60.0)
    assert not here.probe(NOBODY, after_s=60.0)
    found = here.links()[NOBODY]
    assert (found.rate, found.measured_ns) == (None, 0)


def test_nodes_that_are_not_trusted_are_not_probed(open_peers, tmp_path):
    keys = KeyFolder(tmp_path / "keys")
    keys.new("here")
    here = open_peers("here", keys=keys)
    with pytest.raises(ConfigError, match=r"^node tcp://127\.0\.0\.1:9 has no name to look"):
        here.probe(NOBODY, after_s=1.0)
    with pytest.raises(ConfigError):
        here.probe(NOBODY, "stranger", after_s=1.0)
    assert here.links() == {}


def test_a_node_that_closes_is_not_probed(open_peers):
    here = open_peers("here")
    here.close()
    assert not here.probe(NOBODY, after_s=0.0)


def test_a_pouch_counts_the_notices_that_it_has_no_room_for(inbox):
    pouch = Pouch()
    with pytest.raises(ConfigError, match=r"^body of 65537 bytes exceeds limit 65536$"):
        pouch.put(bytes(link.MAX_NOTICE_NBYTES + 1))
    assert all(pouch.put(b"x") for _ in range(MAX_NOTICES))
    assert not pouch.put(b"x")
    assert (pouch.lost, pouch.has_notices, pouch.has_probe) == (1, True, False)
    line = Line(NOBODY, inbox=inbox.address, depth=1, curve=None, meter=Meter())
    pouch.probe_nbytes = 100_000
    try:  # nobody is connected: what is not sent stays
        assert not pouch.send_notice(line)
        assert not pouch.send_probe(line)
    finally:
        assert line.close() == 0
    assert (pouch.has_notices, pouch.probe_nbytes, line.nbytes) == (True, 100_000, 0)


def test_a_probe_travels_as_it_was_written():
    probe = link.Probe(7, 3, bytes(100))
    assert link.decode(link.encode(probe)) == probe
