"""Addresses inside a process, and the outbox that finds them."""

from __future__ import annotations

import os

import pytest
import zmq

from vdag.errors import TransportError
from vdag.transport import inside
from vdag.transport.outbox import Outbox

HOME = "ipc:///nowhere/job-1"


@pytest.fixture
def taken():
    parts: list[bytes] = []
    inside.register(HOME, lambda part: len(parts) < 2 and not parts.append(part))
    yield parts
    inside.forget(HOME)


def test_an_address_is_found_until_it_is_forgotten(taken):
    take = inside.find(HOME)
    assert take is not None
    assert take(b"x")
    assert taken == [b"x"]
    inside.forget(HOME)
    inside.forget(HOME)
    assert inside.find(HOME) is None


def test_an_address_is_somebody_s(taken):
    with pytest.raises(TransportError, match=rf"^address {HOME} is taken in this process$"):
        inside.register(HOME, taken.append)


def test_a_forked_child_finds_nobody(taken):
    child = os.fork()
    if child == 0:
        os._exit(inside.find(HOME) is not None)
    assert os.waitpid(child, 0)[1] == 0
    assert inside.find(HOME) is not None


def test_an_outbox_calls_who_is_inside_and_passes_on_that_it_is_full(taken):
    context = zmq.Context()
    outbox = Outbox(context)
    assert not outbox.send(HOME, b"early")
    outbox.open(HOME)
    outbox.open(HOME)
    assert HOME in outbox
    assert [outbox.send(HOME, part) for part in (b"a", b"b", b"c")] == [True, True, False]
    assert taken == [b"a", b"b"]
    outbox.shut(HOME)
    assert HOME not in outbox
    assert not outbox.send(HOME, b"late")
    outbox.open(HOME)
    outbox.close()
    assert HOME not in outbox
    context.term()
