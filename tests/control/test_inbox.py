"""What other threads want of one: done in order, answered, refused when it is too much."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from vdag.control.controller.inbox import Inbox
from vdag.errors import ChannelClosed, PlanError, Saturated, VdagError

TIMEOUT_S = 30.0


@pytest.fixture
def inbox():
    inbox = Inbox("the clerk", 3)
    yield inbox
    inbox.close()


def test_what_is_put_in_is_done_in_order_when_the_thread_gets_to_it(inbox):
    done = []
    inbox.tell(lambda now_ns: done.append(("a", now_ns)))
    found = inbox.call(lambda now_ns: done.append(("b", now_ns)) or "said")
    assert (done, found.done(), len(inbox)) == ([], False, 2)
    inbox.run(7)
    assert done == [("a", 7), ("b", 7)]
    assert found.result(0) == "said"
    assert not found.cancel()


def test_what_takes_a_while_elsewhere_is_finished_here(inbox):
    elsewhere: Future[str] = Future()
    done = []
    found = inbox.call(lambda now_ns: elsewhere, lambda result, now_ns: done.append(result))
    inbox.run(1)
    thread = threading.Thread(target=elsewhere.set_result, args=("written",))
    thread.start()
    thread.join(TIMEOUT_S)
    assert (done, found.done()) == ([], False)
    inbox.run(2)
    assert (done, found.result(0)) == (["written"], "written")


def test_errors_reach_who_is_to_blame(inbox, caplog):
    def plan(now_ns: int) -> None:
        raise PlanError("no plan")

    def odd(now_ns: int) -> None:
        raise ZeroDivisionError

    elsewhere: Future[str] = Future()
    elsewhere.set_exception(Saturated("full"))
    found = [inbox.call(each) for each in (plan, odd, lambda now_ns: elsewhere)]
    inbox.run(1)
    inbox.run(2)
    inbox.tell(odd)
    inbox.run(3)
    errors = [str(each.exception(0)) for each in found]
    assert errors == ["no plan", "the clerk has failed at this", "full"]
    assert type(found[1].exception(0)) is VdagError
    assert inbox.faults == 2
    assert "ZeroDivisionError" in caplog.text


def test_too_much_is_refused_but_not_what_follows_from_what_was_taken(inbox):
    elsewhere: Future[str] = Future()
    found = inbox.call(lambda now_ns: elsewhere)
    inbox.run(1)
    for _ in range(3):
        inbox.tell(lambda now_ns: None)
    text = r"^3 requests wait for the clerk$"
    with pytest.raises(Saturated, match=text):
        inbox.tell(lambda now_ns: None)
    with pytest.raises(Saturated, match=text):
        inbox.call(lambda now_ns: None).result(0)
    elsewhere.set_result("written")
    inbox.run(2)
    assert found.result(0) == "written"


def test_who_waits_when_it_closes_hears_so(inbox):
    elsewhere: Future[str] = Future()
    begun = inbox.call(lambda now_ns: elsewhere)
    inbox.run(1)
    waiting = inbox.call(lambda now_ns: "never")
    inbox.close()
    elsewhere.set_result("too late")
    inbox.run(2)
    for found in (begun, waiting, inbox.call(lambda now_ns: "after")):
        with pytest.raises(ChannelClosed, match=r"^the clerk is closed$"):
            found.result(0)
    inbox.close()
