"""Whoever has told threads to end waits for them, but not for ever."""

from __future__ import annotations

import threading

import pytest

from vdag.threads import wait_ended

TIMEOUT_S = 20.0


@pytest.fixture
def until():
    """What the threads of a test wait for; it comes at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def started(until: threading.Event, name: str) -> threading.Thread:
    thread = threading.Thread(target=until.wait, args=(TIMEOUT_S,), name=name)
    thread.start()
    return thread


def test_threads_that_end_are_waited_for_in_silence(until, caplog):
    threads = [started(until, "first"), started(until, "second")]
    until.set()
    assert wait_ended(*threads, timeout_s=TIMEOUT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not caplog.records


def test_the_log_names_those_that_do_not_end(until, caplog):
    ended = threading.Thread(target=print, name="ended")
    ended.start()
    ended.join(TIMEOUT_S)
    stuck = [started(until, "first"), started(until, "second")]
    assert not wait_ended(ended, *stuck, timeout_s=0.0)
    assert caplog.messages == ["not ended within 0 s: first, second"]


def test_a_thread_that_never_began_has_ended(caplog):
    assert wait_ended(threading.Thread(target=print), timeout_s=0.0)
    assert not caplog.records
