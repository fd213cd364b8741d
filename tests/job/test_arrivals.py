"""Who is woken by what comes home, and that nothing is left lying."""

from __future__ import annotations

import threading
import time

import pytest

from vdag.job.arrivals import Arrivals, Latch
from vdag.transport import messages

WAIT_S = 20.0
DESCRIPTOR = b"VDAG and more"
GRANT = messages.encode(messages.Grant("faces", 1))


def is_set(latch: Latch) -> bool:
    """Whether a wait returns at once; resets the latch."""
    return latch._lock.acquire(blocking=False)


def test_a_latch_set_before_the_wait_ends_it_at_once_and_only_once():
    latch = Latch()
    latch.set()
    latch.set()
    latch.wait(WAIT_S)
    assert not is_set(latch)


def test_a_latch_wakes_the_thread_that_waits():
    latch, woken = Latch(), threading.Event()
    thread = threading.Thread(target=lambda: (latch.wait(WAIT_S), woken.set()))
    thread.start()
    latch.set()
    assert woken.wait(WAIT_S)
    thread.join()


def test_a_wait_ends_when_its_time_is_up():
    Latch().wait(0.0)
    Latch().wait(0.001)


@pytest.mark.parametrize(
    ("awaited", "part", "woken"),
    [
        (("caller", "source"), DESCRIPTOR, "caller"),
        (("caller",), GRANT, "caller"),
        (("source",), DESCRIPTOR, "source"),
        ((), GRANT, "keeper"),
        ((), DESCRIPTOR, None),
    ],
)
def test_one_thread_is_woken_and_only_if_it_matters(awaited, part, woken):
    arrivals = Arrivals(4)
    for name in awaited:
        getattr(arrivals, name).is_awaited = True
    assert arrivals.put(part)
    found = [n for n in ("caller", "source", "keeper") if is_set(getattr(arrivals, n))]
    assert found == ([] if woken is None else [woken])
    assert arrivals.take()[1] == [part]
    assert not arrivals


def test_nobody_is_woken_while_somebody_looks():
    arrivals = Arrivals(4)
    arrivals.caller.is_awaited = arrivals.is_watched = True
    arrivals.put(GRANT)
    assert not is_set(arrivals.caller)
    assert arrivals


def test_messages_keep_their_order_and_the_time_they_came():
    arrivals = Arrivals(4)
    before_ns = time.monotonic_ns()
    for part in (b"a", b"b"):
        arrivals.lay_down([part])
    first, second = arrivals.take(), arrivals.take()
    assert (first[1], second[1]) == ([b"a"], [b"b"])
    assert before_ns <= first[0] <= second[0] <= time.monotonic_ns()


def test_no_more_messages_are_taken_than_may_lie():
    arrivals = Arrivals(2)
    assert [arrivals.put(b"x") for _ in range(3)] == [True, True, False]
    arrivals.take()
    assert arrivals.put(b"x")
