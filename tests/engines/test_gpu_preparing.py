"""The thread that prepares: order, bounds, failures, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from vdag.engines.gpu import preparing
from vdag.engines.gpu.preparing import Preparer

DEADLINE_S = 30.0


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


def wait_for(event: threading.Event) -> None:
    assert event.wait(DEADLINE_S)


def held(preparer: Preparer, gate: threading.Event) -> None:
    """Have the preparer at work until the gate is open."""
    begun = threading.Event()

    def work() -> None:
        begun.set()
        wait_for(gate)

    assert preparer.ask(work)
    wait_for(begun)


def test_work_is_done_in_order_and_again_after_a_pause():
    preparer, done = Preparer("model"), list[int]()
    for number in range(3):
        assert preparer.ask(lambda number=number: done.append(number))
    assert preparer.settle(DEADLINE_S)
    assert preparer.ask(lambda: done.append(3))
    assert preparer.settle(DEADLINE_S)
    assert done == [0, 1, 2, 3]
    assert preparer.close()


def test_no_more_than_so_much_waits(gate):
    preparer, done = Preparer("model"), list[int]()
    held(preparer, gate)
    for number in range(preparing.MAX_WAITING):
        assert preparer.ask(lambda number=number: done.append(number))
    assert not preparer.ask(lambda: done.append(-1))
    gate.set()
    assert preparer.settle(DEADLINE_S)
    assert done == list(range(preparing.MAX_WAITING))


def test_what_fails_is_logged_and_the_next_is_done(caplog):
    preparer, done = Preparer("model"), threading.Event()

    def fail() -> None:
        raise ValueError("no")

    preparer.ask(fail)
    preparer.ask(done.set)
    assert preparer.settle(DEADLINE_S)
    assert done.is_set()
    assert [record.getMessage() for record in caplog.records] == ["model: not prepared"]


def test_what_waits_at_the_end_is_dropped_and_nothing_more_is_taken(gate):
    preparer, done = Preparer("model"), list[int]()
    held(preparer, gate)
    preparer.ask(lambda: done.append(1))
    closed = threading.Thread(target=preparer.close)
    closed.start()
    while preparer.ask(lambda: done.append(2)):
        pass  # until close has come so far, or the queue is full
    gate.set()
    closed.join(DEADLINE_S)
    assert not closed.is_alive()
    assert not preparer.ask(lambda: done.append(3))
    assert 3 not in done
    assert preparer.close()


def test_work_that_does_not_end_is_left_and_said(gate, caplog):
    preparer = Preparer("model")
    held(preparer, gate)
    assert not preparer.settle(0.01)
    assert not preparer.close(0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "model: what is prepared did not end within 0.01 s"
    ]
    gate.set()
    assert preparer.settle(DEADLINE_S)


def test_a_process_ends_after_what_is_at_work():
    program = (
        "import threading\n"
        "from vdag.engines.gpu.preparing import Preparer\n"
        "preparer, begun = Preparer('model'), threading.Event()\n"
        "def work():\n"
        "    begun.set()\n"
        "    threading.Event().wait(0.2)\n"
        "    print('done', flush=True)\n"
        "preparer.ask(work)\n"
        "begun.wait(30)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"done\n", b"")


def test_all_engines_of_a_process_are_waited_for(gate):
    first, second = Preparer("first"), Preparer("second")
    held(second, gate)
    assert not preparing.settle(0.01)
    gate.set()
    assert preparing.settle(DEADLINE_S)
    assert first.settle(0)
