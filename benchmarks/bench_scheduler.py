"""What the scheduler costs: 1,000 queries of two tasks each on 100 nodes, of which 10 are servers.

A query's share is all that is done for it between a request and an order: the event, the question
with its view of all nodes, the policy (`golden`, called as a controller calls it), the check of the
answer, and the order. It is CPU time, for nothing here waits, and it is held against the budget of
5 ms per query. In a round every job reports its runtime, every node its state, and every query is
asked about again; its policy finds nothing better, or something else every time. In a loss one
server goes, and each of its queries gets another.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from comparison import Comparison, quantile

from vdag.control.advisers import Advisers
from vdag.control.policies import BUILT_IN, Policy
from vdag.control.policies.golden import golden
from vdag.control.scheduling.events import (
    Event,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReported,
    QueryInfo,
    QuerySubmitted,
    RuntimeReported,
    ServiceInfo,
    Tick,
    VideoInfo,
)
from vdag.control.scheduling.instructions import AskPolicy, SendPlan, StartJob
from vdag.control.scheduling.scheduler import Scheduler
from vdag.graph import Graph
from vdag.plan import Constraint

QUERIES, NODES, SERVERS = 1_000, 100, 10
BUDGET_S = 0.005
ROUNDS = 5
NS = 1_000_000_000
GRAPH = Graph.chain("face_detection", "face_alignment")
TASKS = ("face_detection", "face_alignment", "car_detection", "helmet_detection")
RUNTIME = {
    "delay": 0.31, "obj_n": 20.75, "obj_size": 2335.9, "obj_stable": False,
    "plan_result": {"delay": {"face_detection": 0.2, "face_alignment": 0.11}},
}  # fmt: skip


def restless(job_uid, dag, nodes, video, previous):
    """Ask for another rate each time."""
    conf, mapping = golden(job_uid, dag, nodes, video, previous)
    odd = previous is not None and previous.number % 2
    return {**conf, "fps": 10 if odd else 20}, mapping


class Course:
    """A controller without its sockets and its database: events in, orders counted."""

    def __init__(self) -> None:
        self.scheduler, self.advisers = Scheduler(), Advisers()
        self.now_ns = 0
        self.orders = 0
        for number in range(NODES):
            self.handle(NodeJoined(0, node(number)))

    def handle(self, event: Event) -> None:
        """Do all that follows from an event, answers of policies included."""
        waiting = [event]
        while waiting:
            for order in self.scheduler.handle(waiting.pop()):
                if isinstance(order, AskPolicy):
                    waiting += self.advisers.ask(order, self.now_ns)
                elif isinstance(order, (StartJob, SendPlan)):
                    self.orders += 1

    def submit_all(self, policy: str = "golden") -> list[float]:
        """Return the seconds that each query took, from its submission to its order."""
        return [
            seconds(lambda number=number: self.handle(QuerySubmitted(0, query(number, policy))))
            for number in range(QUERIES)
        ]

    def round(self) -> float:
        """Return the seconds that a query took, of a period in which all of them are asked."""
        self.now_ns += 3 * NS

        def run() -> None:
            for number in range(NODES):
                self.handle(NodeReported(self.now_ns, addr(number), {"mem_ratio": 0.5}))
            for number in range(QUERIES):
                plan = self.scheduler.plan_of(f"GLOBAL_ID_{number}")
                self.handle(
                    RuntimeReported(self.now_ns, f"GLOBAL_ID_{number}", RUNTIME, plan.number)
                )
            self.handle(Tick(self.now_ns))

        return seconds(run) / QUERIES


def addr(number: int) -> str:
    return f"10.0.{number // 50}.{number % 50 + 1}:5001"


def node(number: int) -> NodeInfo:
    ip = addr(number).partition(":")[0]
    return NodeInfo(
        addr(number),
        ip,
        role="cloud" if number < SERVERS else "edge",
        # They are all in the round's first second, and silent for longer than a node should be.
        dialect="pull",
        videos={1: VideoInfo("people in meeting-room", 1920, 1080, 30)},
        services={task: ServiceInfo(2, (0, 1)) for task in TASKS},
        landing=f"tcp://{ip}:5020",
        session="1",
    )


def query(number: int, policy: str) -> QueryInfo:
    constraint = Constraint.from_document({"delay": 0.3, "accuracy": 0.9})
    host = addr(SERVERS + number % (NODES - SERVERS))
    return QueryInfo(f"GLOBAL_ID_{number}", host, 1, GRAPH, constraint, policy)


def seconds(function: Callable[[], None]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def line(name: str, subject: str, per_query_s: list[float]) -> Comparison:
    p50 = quantile(per_query_s, 0.5)
    return Comparison(
        f"scheduler.{name}", subject, "a budget of 5 ms", round(BUDGET_S / p50, 1),
        round(p50 * 1e3, 4), round(quantile(per_query_s, 0.99) * 1e3, 4), "ms", len(per_query_s),
    )  # fmt: skip


def bench_submission(record):
    course = Course()
    record(line("submission", "vdag, per query", course.submit_all()))
    assert course.orders == QUERIES
    assert course.scheduler.check() == []


@pytest.mark.parametrize("policy", ["golden", "restless"])
def bench_round(record, monkeypatch, policy):
    monkeypatch.setattr(
        "vdag.control.advisers.BUILT_IN", {**BUILT_IN, "restless": Policy("restless", restless)}
    )
    course = Course()
    course.submit_all(policy)
    before = course.advisers.stats().answered
    record(line(f"round_{policy}", "vdag, per query", [course.round() for _ in range(ROUNDS)]))
    assert course.advisers.stats().answered - before == ROUNDS * QUERIES
    assert course.orders == QUERIES * (1 + ROUNDS * (policy == "restless"))
    assert course.scheduler.check() == []


def bench_loss(record):
    course = Course()
    course.submit_all()
    per_query_s = []
    for number in range(ROUNDS):
        before = course.orders
        took_s = seconds(lambda number=number: course.handle(NodeLeft(course.now_ns, addr(number))))
        assert course.orders > before
        per_query_s.append(took_s / (course.orders - before))
    record(line("loss", "vdag, per query of a server", per_query_s))
    assert course.scheduler.stats().hungry == 0
