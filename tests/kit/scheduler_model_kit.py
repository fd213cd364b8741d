"""What is true of queries and nodes, whatever a scheduler decides.

The model has nodes that do as they are told, and remembers what was recorded. It knows nothing of
how the scheduler decides; it only holds each instruction against what is true at that moment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from scheduler_kit import CLOUD, EDGE, HOST, S

from vdag.control.scheduling.events import (
    Event,
    NodeInfo,
    PlanProposed,
    PolicyFailed,
    QueryInfo,
    QueryState,
    Tick,
)
from vdag.control.scheduling.instructions import (
    AskPolicy,
    Instruction,
    LimitTask,
    RecordDecision,
    RecordFault,
    RecordPlan,
    RecordState,
    SendPlan,
    StartJob,
    StopJob,
)
from vdag.control.scheduling.scheduler import Scheduler
from vdag.plan import Plan, ResourceLimit

NODES = (HOST, EDGE, CLOUD)
REFUSED = re.compile(r"node (\S+) cannot limit task (\w+): (?:no rights|too late)")
TIMEOUT_NS, PERIOD_NS = S, 2 * S


@dataclass
class Known:
    """What the model remembers of a query."""

    info: QueryInfo
    state: QueryState = QueryState.UNSCHEDULED
    suspended: bool = False
    plan: Plan | None = None
    numbers: list[int] = field(default_factory=lambda: [0])
    round: int = 0
    open_since_ns: int | None = None
    #: When the last good answer came; None after a bad one.
    answered_ns: int | None = None
    has_news: bool = False


class Model:
    """A scheduler, nodes and records; time passes when a test says so."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.now_ns = 1
        self.known: dict[str, Known] = {}
        self.count = 0
        self.sessions = 0
        #: Daemons, whether the scheduler believes in them or not, and their jobs: id to number.
        self.daemons: dict[str, NodeInfo] = {}
        self.jobs: dict[str, dict[str, int]] = {name: {} for name in NODES}
        self.routes: dict[str, dict[str, str]] = {}
        self.limits: dict[str, dict[str, ResourceLimit]] = {name: {} for name in NODES}

    def users(self, name: str, task: str) -> list[tuple[str, ResourceLimit | None]]:
        """The live queries whose plans have a task done at a node, with their limits of it."""
        return [
            (query_id, plan.resource_limit.get(task))
            for query_id in self.live()
            if (plan := self.known[query_id].plan) is not None
            and plan.flow_mapping[task].node_addr == name
        ]

    def live(self) -> list[str]:
        return [query_id for query_id, known in self.known.items() if not known.state.is_final]

    def asked(self) -> list[str]:
        return [name for name in self.live() if self.known[name].open_since_ns is not None]

    def is_due(self, known: Known) -> bool:
        return (
            known.answered_ns is not None
            and known.has_news
            and known.open_since_ns is None
            and not (known.suspended or known.state.is_final)
            and self.now_ns >= known.answered_ns + PERIOD_NS
        )

    def pass_time(self) -> list[Instruction]:
        """Have the scheduler see what time it is; questions that are too old are closed."""
        for known in self.known.values():
            since_ns = known.open_since_ns
            if since_ns is not None and self.now_ns >= since_ns + TIMEOUT_NS:
                known.open_since_ns, known.answered_ns = None, None
        return self.tell(Tick(self.now_ns))

    def answer(self, event: PlanProposed | PolicyFailed) -> None:
        known = self.known.get(event.query_id)
        is_open = (
            known is not None and known.open_since_ns is not None and event.round == known.round
        )
        if is_open:
            known.open_since_ns = None
        was_suspended = known is not None and known.suspended
        out = self.tell(event)
        faults = [
            each
            for each in out
            if isinstance(each, RecordFault) and not REFUSED.fullmatch(each.what)
        ]
        assert is_open or not out, "an answer to no question"
        if is_open and not was_suspended:
            known.answered_ns = None if faults else self.now_ns

    def tell(self, event: Event) -> list[Instruction]:
        out = self.scheduler.handle(event)
        for each in out:
            getattr(self, f"do_{type(each).__name__}")(each)
        return out

    def do_AskPolicy(self, order: AskPolicy) -> None:
        known = self.known[order.query_id]
        assert not known.state.is_final
        assert known.open_since_ns is None, "two questions at once"
        assert order.round > known.round
        assert self.scheduler.is_alive(known.info.node_addr)
        known.round, known.open_since_ns = order.round, self.now_ns
        known.has_news = False
        assert order.question.previous == known.plan

    def do_RecordState(self, order: RecordState) -> None:
        known = self.known[order.query_id]
        assert not known.state.is_final, "what is over stays over"
        known.state, known.suspended = order.state, order.suspended
        if order.suspended:
            known.answered_ns = None  # its period begins anew when the host is back
        if order.state.is_final:
            known.open_since_ns = None

    def do_RecordDecision(self, order: RecordDecision) -> None:
        known = self.known[order.query_id]
        assert known.plan is not None
        assert order.number == known.plan.number
        assert order.is_change or order.explanation, "there is something to tell"

    def do_RecordPlan(self, order: RecordPlan) -> None:
        known = self.known[order.query_id]
        assert not known.state.is_final
        before = 0 if known.plan is None else known.plan.number
        held = self.jobs[known.info.node_addr].get(order.query_id, 0)
        assert order.plan.number > before
        # Even if we have lost count: what the host runs under has a lower number.
        assert order.plan.number > held or not self.scheduler.is_alive(known.info.node_addr)
        known.numbers.append(order.plan.number)
        known.plan = order.plan
        known.has_news = False

    def do_RecordFault(self, order: RecordFault) -> None:
        assert not self.known[order.query_id].state.is_final
        refused = REFUSED.fullmatch(order.what)
        if refused is None:
            self.known[order.query_id].answered_ns = None
            return
        name, task = refused.groups()
        assert self.scheduler.is_alive(name)
        limit = dict(self.users(name, task))[order.query_id]
        assert limit not in (None, ResourceLimit()), "it never wanted a limit there"

    def do_LimitTask(self, order: LimitTask) -> None:
        alive, held = self.scheduler.node(order.node_addr), self.limits[order.node_addr]
        assert alive is not None, "ordered from a lost node"
        assert alive.dialect == "channel"
        assert held.get(order.task) != order.limit, "an order that changes nothing"
        assert order.limit != ResourceLimit()
        if order.limit is None:
            del held[order.task]
        else:
            held[order.task] = order.limit

    def do_StartJob(self, order: StartJob) -> None:
        self.run(order)

    def do_SendPlan(self, order: SendPlan) -> None:
        assert order.query_id in self.jobs[order.node_addr], "there is no such job"
        self.run(order)

    def run(self, order: StartJob | SendPlan) -> None:
        known = self.known[order.query_id]
        host = self.scheduler.node(order.node_addr)
        assert host is not None, "sent to a lost node"
        assert order.node_addr == known.info.node_addr
        assert order.plan == known.plan, "not the plan in force"
        for task, placement in order.plan.flow_mapping.items():
            where = self.scheduler.node(placement.node_addr)
            assert where is not None, "a task on a lost node"
            assert where.offers(task)
            if where is not host and host.dialect == "channel":
                assert order.routes[task] == where.landing != ""
        assert order.plan.number >= self.jobs[order.node_addr].get(order.query_id, 0)
        self.jobs[order.node_addr][order.query_id] = order.plan.number
        self.routes[order.query_id] = dict(order.routes)

    def do_StopJob(self, order: StopJob) -> None:
        assert self.scheduler.is_alive(order.node_addr)
        known = self.known.get(order.query_id)
        # A job is stopped just before its query is recorded as over.
        if known is not None and not known.state.is_final:
            assert order.reason == "stopped" or known.info.node_addr != order.node_addr
        self.jobs[order.node_addr].pop(order.query_id, None)
