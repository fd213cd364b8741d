"""`Control`: the real scheduler over a simulated world, in the place of a controller."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter

from vdag.control.policies import Policy
from vdag.control.profile import Profile
from vdag.control.profile.refining import Refinement
from vdag.control.scheduling.events import (
    Event,
    NodeJoined,
    NodeReported,
    PlanProposed,
    PolicyFailed,
    QueryInfo,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
    Tick,
)
from vdag.control.scheduling.instructions import (
    AskPolicy,
    Instruction,
    RecordFault,
    RecordPlan,
    SendPlan,
    StartJob,
    StopJob,
)
from vdag.control.scheduling.scheduler import Scheduler, SchedulerSettings
from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.outcome import Cost, PlanChange
from vdag.control.simulation.scenario import QuerySpec, Scenario, Step
from vdag.control.simulation.world import World
from vdag.errors import InvalidTransition, PlanError

__all__ = ["Control"]

logger = logging.getLogger(__name__)

_NS = 1_000_000_000


class Control:
    """What the controller does, on a virtual clock: events to the scheduler, orders to nodes.

    Policies are called where they are asked, and their answers come `answer_ms` later; orders take
    `order_ms` to a node. What both take is measured, and has no influence on anything: by the wall
    clock, for asking after CPU time may take longer than what is measured, and it is told times the
    share of a CPU that the whole run has got.

    Args:
        scenario: what happens.
        policy: who plans all queries.
        world: what the orders act upon.
        agenda: the time.
        profile: what policies know; what jobs report refines it.

    Attributes:
        plans: query to its plans: when each came into force, and what it is.
        faults: query to the questions that its policy had no answer to.
    """

    def __init__(
        self, scenario: Scenario, policy: Policy, world: World, agenda: Agenda, profile: Profile
    ) -> None:
        self._scenario, self._policy, self._world, self._agenda = scenario, policy, world, agenda
        settings = SchedulerSettings(period_s=scenario.period_s)
        self.scheduler = Scheduler(settings, profile)
        self._refinement = Refinement(profile, self.scheduler)
        self._landings = {info.landing: addr for addr, info in world.infos().items()}
        self._addresses = scenario.addresses()
        self._tick_ns: int | None = None
        self.plans: dict[str, list[PlanChange]] = {q.name: [] for q in scenario.queries}
        self.faults: Counter[str] = Counter()
        self._questions = 0
        self._scheduler_s = self._policy_s = self._nodes_s = 0.0
        self._round_s: dict[int, float] = {}
        self._began_s = (0.0, 0.0)

    def begin(self) -> None:
        """Have all nodes join, and put down what the scenario says."""
        self._began_s = (time.perf_counter(), time.thread_time())
        infos, agenda = self._world.infos(), self._agenda
        for info in infos.values():
            self._tell(NodeJoined(0, info))
        report_ns = round(self._scenario.report_s * _NS)
        for index, node_addr in enumerate(infos):
            # Nodes do not report in step.
            first_ns = report_ns * (index + 1) // len(infos)
            agenda.at(first_ns, self._hear, node_addr, report_ns)
        for step in self._scenario.steps:
            agenda.at(round(step.at_s * _NS), self._change, step)
        videos: Counter[str] = Counter()
        for query in self._scenario.queries:
            agenda.at(round(query.arrives_s * _NS), self._submit, query, videos[query.node])
            videos[query.node] += 1
            if query.leaves_s is not None:
                agenda.at(round(query.leaves_s * _NS), self._stop, query.name)

    def cost(self) -> Cost:
        """Return what scheduling took so far."""
        wall_s, cpu_s = (
            time.perf_counter() - self._began_s[0],
            time.thread_time() - self._began_s[1],
        )
        share = min(cpu_s / wall_s, 1.0) if wall_s > 0 else 1.0
        ranked = sorted(share * took_s for took_s in self._round_s.values())
        index = max(math.ceil(0.95 * len(ranked)) - 1, 0)
        return Cost(
            len(ranked),
            self._questions,
            sum(map(len, self.plans.values())),
            share * self._scheduler_s,
            share * self._policy_s,
            share * self._nodes_s,
            ranked[index] if ranked else 0.0,
            ranked[-1] if ranked else 0.0,
        )

    def _submit(self, query: QuerySpec, video_id: int) -> None:
        info = QueryInfo(
            query.name,
            self._addresses[query.node],
            video_id,
            query.graph,
            query.constraint,
            self._policy.name,
            Scenario.plan_of(query, self._addresses),
        )
        self._tell(QuerySubmitted(self._agenda.now_ns, info))

    def _stop(self, query_id: str) -> None:
        self._tell(QueryStopped(self._agenda.now_ns, query_id))

    def _change(self, step: Step) -> None:
        self._world.change(step)
        if step.node is not None and step.up:
            addr, now_ns = self._addresses[step.node], self._agenda.now_ns
            self._tell(NodeJoined(now_ns, self._world.infos()[addr]))

    def _hear(self, node_addr: str, again_ns: int) -> None:
        """Take the report of a node, and wait for its next."""
        self._agenda.after(again_ns, self._hear, node_addr, again_ns)
        if not self._world.is_up(node_addr):
            return
        if not self.scheduler.is_alive(node_addr):
            self._tell(NodeJoined(self._agenda.now_ns, self._world.infos()[node_addr]))
        for event in self._world.report(node_addr):
            if isinstance(event, RuntimeReported):
                self._learn(event)
            self._tell(event)

    def _learn(self, event: RuntimeReported) -> None:
        """Refine what is known of tasks and nodes, as a controller does."""
        start_s = time.perf_counter()
        plan = self.scheduler.plan_of(event.query_id)
        if plan is not None and event.plan_number in (0, plan.number):
            self._refinement.learn(plan, event.runtime)
        self._scheduler_s += time.perf_counter() - start_s

    def _tell(self, event: Event) -> None:
        """Tell the scheduler of an event, and see to what it wants done."""
        start_s = time.perf_counter()
        try:
            instructions = self.scheduler.handle(event)
        except InvalidTransition as err:
            logger.debug("too late: %s", err)
            return
        finally:
            took_s = time.perf_counter() - start_s
            if isinstance(event, (NodeJoined, NodeReported)):
                self._nodes_s += took_s
            else:
                self._scheduler_s += took_s
            self._count(took_s)
        for instruction in instructions:
            self._carry_out(instruction)
        due_ns = self.scheduler.next_due_ns()
        if due_ns is not None and (self._tick_ns is None or due_ns < self._tick_ns):
            self._tick_ns = max(due_ns, self._agenda.now_ns)
            self._agenda.at(self._tick_ns, self._tick, self._tick_ns)

    def _tick(self, due_ns: int) -> None:
        if due_ns == self._tick_ns:
            self._tick_ns = None
            self._tell(Tick(self._agenda.now_ns))

    def _carry_out(self, order: Instruction) -> None:
        delay_ns = round(self._scenario.order_ms * 1e6)
        if isinstance(order, AskPolicy):
            self._ask(order)
        elif isinstance(order, (StartJob, SendPlan)):
            self._agenda.after(delay_ns, self._world.start, order.query_id, order.plan)
            if isinstance(order, SendPlan) and order.lost:
                lost = frozenset(self._landings[landing] for landing in order.lost)
                self._agenda.after(delay_ns, self._world.give_up, order.query_id, lost)
        elif isinstance(order, StopJob):
            self._agenda.after(delay_ns, self._world.stop, order.query_id, order.reason)
        elif isinstance(order, RecordPlan):
            now_s = self._agenda.now_ns / _NS
            self.plans[order.query_id].append(PlanChange.of(now_s, order.plan))
        elif isinstance(order, RecordFault):
            logger.info("%s: %s", order.query_id, order.what)
            self.faults[order.query_id] += 1

    def _ask(self, order: AskPolicy) -> None:
        self._questions += 1
        due_ns = self._agenda.now_ns + round(self._scenario.answer_ms * 1e6)
        start_s = time.perf_counter()
        event: Event
        try:
            answer = self._policy.answer(order.question)
            event = PlanProposed(due_ns, order.query_id, order.round, *answer)
        except PlanError as err:
            event = PolicyFailed(due_ns, order.query_id, order.round, str(err))
        except Exception as err:  # it may be somebody's code
            logger.warning("policy %s on %s", self._policy.name, order.query_id, exc_info=True)
            reason = f"{type(err).__name__}: {err}"
            event = PolicyFailed(due_ns, order.query_id, order.round, reason)
        took_s = time.perf_counter() - start_s
        self._policy_s += took_s
        self._count(took_s)
        self._agenda.at(due_ns, self._tell, event)

    def _count(self, took_s: float) -> None:
        """Add to the round: to the period that is now."""
        index = int(self._agenda.now_ns / _NS / self._scenario.period_s)
        self._round_s[index] = self._round_s.get(index, 0.0) + took_s
