"""Orders: numbered, repeated until there is a receipt, at most one per job."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vdag.control import wire
from vdag.control.controller import orders as orders_module
from vdag.control.controller.orders import OrderBook
from vdag.errors import FrameFormatError
from vdag.plan import Placement, Plan, ResourceLimit, VideoConf


def plan(number: int) -> Plan:
    return Plan(number, VideoConf("480p", 10.0), {"car_detection": Placement("10.0.0.1")})


def job(uid: str, number: int = 1) -> wire.StartJob:
    return wire.StartJob(1, uid, 0, b'{"flow":["car_detection"]}', b"", plan(number))


@pytest.fixture
def book() -> OrderBook:
    return OrderBook()


def test_an_order_is_repeated_until_there_is_a_receipt(book):
    book.start(job("a"))
    book.stop("b", "stopped")
    assert [order.number for order in book.batch()] == [1, 2]
    assert [order.number for order in book.batch()] == [1, 2]
    book.receipt(1)
    assert book.batch() == [wire.StopJob(2, "b", "stopped")]
    book.receipt(2)
    assert (book.batch(), len(book), book.last) == ([], 0, 2)


def test_a_plan_for_a_job_that_is_not_started_yet_starts_it(book):
    book.start(job("a", 1))
    book.replan("a", plan(2), {"car_detection": "tcp://10.0.0.2:5020"}, {})
    (order,) = book.batch()
    assert isinstance(order, wire.StartJob)
    assert (order.number, order.plan) == (2, plan(2))
    assert order.routes == {"car_detection": "tcp://10.0.0.2:5020"}


def test_only_the_latest_plan_waits(book):
    for number in range(1, 5):
        book.replan("a", plan(number), {}, {})
    assert book.batch() == [wire.SendPlan(4, "a", plan(4))]


def test_no_lost_node_is_forgotten_with_the_plan_that_told_of_it(book):
    a, b = "tcp://10.0.0.2:5020", "tcp://10.0.0.3:5020"
    book.replan("a", plan(1), {}, {}, (a, b))
    book.replan("a", plan(2), {"car_detection": b}, {}, ())
    assert book.batch() == [wire.SendPlan(2, "a", plan(2), {"car_detection": b}, {}, [a])]


def test_a_job_that_is_to_be_ended_gets_no_plan(book):
    book.stop("a", "deleted")
    book.replan("a", plan(2), {}, {})
    assert book.batch() == [wire.StopJob(1, "a", "deleted")]


def test_an_order_that_cannot_travel_leaves_the_others_as_they_are(book):
    book.start(job("a"))
    with pytest.raises(FrameFormatError, match=r"^Orders cannot travel: "):
        book.stop("b", "\ud800")
    assert [order.job_uid for order in book.batch()] == ["a"]
    book.stop("b", "well")
    assert [order.number for order in book.batch()] == [1, 2]


def test_many_orders_travel_in_several_batches(book, monkeypatch):
    monkeypatch.setattr(orders_module, "BATCH_NBYTES", 1000)
    for number in range(40):
        book.start(job(f"job-{number}"))
    seen = []
    while batch := book.batch():
        assert len(wire.encode(wire.Orders(batch))) <= 1000
        seen += [order.job_uid for order in batch]
        book.receipt(batch[-1].number)
    assert seen == [f"job-{number}" for number in range(40)]


def test_a_limit_waits_beside_the_jobs_and_only_the_latest(book):
    book.start(job("number"))
    book.limit("number", ResourceLimit(0.5))
    book.limit("other", ResourceLimit(0.25))
    book.limit("number", None)
    assert book.batch()[1:] == [
        wire.LimitTask(3, "other", ResourceLimit(0.25)),
        wire.LimitTask(4, "number", None),
    ]
    book.receipt(3)
    assert [order.number for order in book.batch()] == [4]


class AnyOrders(RuleBasedStateMachine):
    """A node that gets some answers, and carries out what is new, ends up where it should."""

    def __init__(self) -> None:
        super().__init__()
        self.book = OrderBook()
        self.wanted: dict[str, int] = {}  # job to plan, as it was ordered
        self.found: dict[str, int] = {}  # as the node has it
        self.limits: dict[str, ResourceLimit | None] = {}  # likewise, by task
        self.bound: dict[str, ResourceLimit | None] = {}
        self.last = self.number = 0

    jobs = st.sampled_from("abc")

    @rule(uid=jobs)
    def start(self, uid: str) -> None:
        self.number += 1
        self.book.start(job(uid, self.number))
        self.wanted[uid] = self.number

    @rule(uid=jobs)
    def replan(self, uid: str) -> None:
        if uid in self.wanted:
            self.number += 1
            self.book.replan(uid, plan(self.number), {}, {})
            self.wanted[uid] = self.number

    @rule(uid=jobs)
    def stop(self, uid: str) -> None:
        self.book.stop(uid, "stopped")
        self.wanted.pop(uid, None)

    @rule(task=jobs, limit=st.none() | st.builds(ResourceLimit, st.sampled_from([0.25, 0.5])))
    def limit(self, task: str, limit: ResourceLimit | None) -> None:
        self.book.limit(task, limit)
        self.limits[task] = limit

    @rule(is_lost=st.booleans(), is_doubled=st.booleans())
    def ask(self, is_lost: bool, is_doubled: bool) -> None:
        self.book.receipt(self.last)
        batch = self.book.batch()
        for _ in range(0 if is_lost else 1 + is_doubled):
            self.obey(batch)

    def obey(self, batch: list[wire.Order]) -> None:
        for order in batch:
            if order.number <= self.last:
                continue
            self.last = order.number
            if isinstance(order, wire.LimitTask):
                self.bound[order.task] = order.limit
            elif isinstance(order, wire.StopJob):
                self.found.pop(order.job_uid, None)
            else:
                assert isinstance(order, wire.StartJob) or order.job_uid in self.found
                assert order.plan is not None
                self.found[order.job_uid] = order.plan.number

    @invariant()
    def numbers_rise(self) -> None:
        numbers = [order.number for order in self.book.batch()]
        assert numbers == sorted(set(numbers))
        assert len(self.book) <= 6

    def teardown(self) -> None:
        self.ask(is_lost=False, is_doubled=True)
        assert self.found == self.wanted
        assert self.bound == self.limits
        self.book.receipt(self.last)
        assert len(self.book) == 0


TestAnyOrders = AnyOrders.TestCase
