"""Any story at all: nodes that carry out orders, policies that answer anything, in any order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scheduler_kit import CLOUD, CONF, EDGE, HOST, TASKS, S, node, query
from scheduler_model_kit import NODES, PERIOD_NS, Known, Model

from vdag.control.scheduling.events import (
    ConstraintChanged,
    DispatchFailed,
    JobInfo,
    JobReported,
    NodeJoined,
    NodeLeft,
    NodeReported,
    PlanProposed,
    PlanTaken,
    PolicyFailed,
    QueryDeleted,
    QueryRestored,
    QueryState,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
    ServiceInfo,
)
from vdag.control.scheduling.instructions import AskPolicy
from vdag.control.scheduling.scheduler import Scheduler
from vdag.plan import Constraint, ResourceLimit

addresses = st.sampled_from(NODES)
everything = {task: ServiceInfo() for task in TASKS}
services = st.sampled_from([everything, everything, {TASKS[0]: ServiceInfo()}])
states = st.sampled_from([*[QueryState.READY, QueryState.RUNNING] * 4, *QueryState])
ports = st.sampled_from([5020, 6020, 0])
shares = st.sampled_from([0.25, 0.5, 1.0])
#: As plans have them: null for as before, or by task.
limit = st.fixed_dictionaries({"cpu_util_limit": shares, "mem_util_limit": shares})
limits = st.none() | st.fixed_dictionaries(
    {TASKS[0]: limit, TASKS[1]: st.none() | limit},
)
#: As nodes have them, whoever ordered them.
held_limits = st.dictionaries(
    st.sampled_from(TASKS), st.builds(ResourceLimit, st.sampled_from([0.25, 0.5]), shares)
)
refusals = st.dictionaries(st.sampled_from(TASKS), st.sampled_from(["no rights", "too late", ""]))
placements = st.fixed_dictionaries(
    {
        task: st.one_of(
            st.builds(lambda addr: {"node_ip": addr.partition(":")[0]}, addresses),
            st.sampled_from([{"node_role": "cloud"}, {"node_ip": "10.9.9.9"}, None]),
        )
        for task in TASKS
    }
)


class Stories(Model, RuleBasedStateMachine):
    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Model.__init__(self)

    @initialize(dialect=st.sampled_from(["channel", "push", "pull"]), first=limits)
    def begin(self, dialect: str, first: Any) -> None:
        self.dialect = dialect  # of one node; the others are on the channel
        for name in NODES:
            self.join(name, everything, False, 5020)
            self.submit(name)
        self.settle(HOST, CLOUD, 30, first)

    # Nodes.

    @rule(
        name=addresses,
        offered=services,
        is_anew=st.booleans(),
        port=st.sampled_from([5020, 6020, 0]),
        held=st.none() | held_limits,
    )
    def join(
        self,
        name: str,
        offered: dict[str, ServiceInfo],
        is_anew: bool,
        port: int,
        held: dict[str, ResourceLimit] | None = None,
    ) -> None:
        if is_anew or name not in self.daemons:
            self.sessions += 1
            self.jobs[name], self.limits[name] = {}, {}
        elif held is not None:  # orders to it were lost, or somebody else's
            self.limits[name] = dict(held)
        jobs = tuple(
            JobInfo(query_id, number, QueryState.RUNNING)
            for query_id, number in self.jobs[name].items()
        )
        self.daemons[name] = node(
            name,
            dialect=self.dialect if name == EDGE else "channel",
            services=offered,
            session=f"{self.sessions}",
            landing=f"tcp://{name.partition(':')[0]}:{port}" if port else "",
            jobs=jobs,
            limits=dict(self.limits[name]),
        )
        self.tell(NodeJoined(self.now_ns, self.daemons[name]))

    @rule()
    def recover(self) -> None:
        """All that a node does not offer, or is not there for, comes back."""
        for name in NODES:
            if not self.scheduler.is_alive(name):
                self.join(name, everything, False, 5020)

    @rule(name=addresses, offered=st.none() | services)
    def report(self, name: str, offered: dict[str, ServiceInfo] | None) -> None:
        self.tell(NodeReported(self.now_ns, name, {"mem_ratio": 0.5}, offered, None))

    @rule(name=addresses, refused=refusals)
    def refuse(self, name: str, refused: dict[str, str]) -> None:
        self.tell(NodeReported(self.now_ns, name, refusals=refused))

    @rule(name=addresses, kind=st.sampled_from([NodeLeft, DispatchFailed]))
    def lose(self, name: str, kind: type[Any]) -> None:
        fields = ("refused",) if kind is DispatchFailed else ()
        self.tell(kind(self.now_ns, name, *fields))
        assert not self.scheduler.is_alive(name)

    # Users.

    @precondition(lambda self: len(self.known) < 5)
    @rule(name=addresses)
    def submit(self, name: str) -> None:
        self.count += 1
        info = query(f"GLOBAL_ID_{self.count}", name)
        self.known[info.query_id] = Known(info)
        self.tell(QuerySubmitted(self.now_ns, info))

    @rule(delay=st.sampled_from([0.1, 0.3]))
    def constrain(self, delay: float) -> None:
        constraint = Constraint.from_document({"delay": delay})
        for query_id in self.live():
            self.tell(ConstraintChanged(self.now_ns, query_id, constraint))

    @precondition(lambda self: len(self.live()) > 2)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        query_id = data.draw(st.sampled_from(sorted(self.known)))
        self.tell(QueryStopped(self.now_ns, query_id))
        assert self.known[query_id].state.is_final

    @precondition(lambda self: len(self.known) > 2)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        query_id = data.draw(st.sampled_from(sorted(self.known)))
        before = self.known.pop(query_id)
        self.tell(QueryDeleted(self.now_ns, query_id))
        assert (
            before.info.node_addr not in self.daemons or self.scheduler.state_of(query_id) is None
        )

    # What jobs say, perhaps late, perhaps of queries that are over.

    @precondition(lambda self: self.count)
    @rule(data=st.data(), state=states, name=addresses)
    def job(self, data: st.DataObject, state: QueryState, name: str) -> None:
        query_id = f"GLOBAL_ID_{data.draw(st.integers(1, self.count))}"
        self.tell(JobReported(self.now_ns, query_id, name, state, "because"))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def runtime(self, data: st.DataObject) -> None:
        query_id = f"GLOBAL_ID_{data.draw(st.integers(1, self.count))}"
        known = self.known.get(query_id)
        number = data.draw(st.sampled_from([0, *(known.numbers if known else [])]))
        self.tell(RuntimeReported(self.now_ns, query_id, {"delay": 0.2}, number))
        if known is not None and known.plan is not None and not known.suspended:
            known.has_news |= number in (0, known.plan.number)
        self.tell(PlanTaken(self.now_ns, query_id, number))

    # Policies.

    @precondition(lambda self: self.asked())
    @rule(data=st.data(), placed=placements, fps=st.integers(1, 30), limit=limits)
    def propose(self, data: st.DataObject, placed: Any, fps: int, limit: Any) -> None:
        query_id = data.draw(st.sampled_from(self.asked()))
        conf, number = {**CONF, "fps": fps}, self.known[query_id].round
        self.answer(PlanProposed(self.now_ns, query_id, number, conf, placed, limit))

    @rule(first=addresses, second=addresses, fps=st.integers(1, 30), limit=limits)
    def settle(self, first: str, second: str, fps: int, limit: Any) -> None:
        """Answer all that is open, by plans that may well be possible."""
        placed = {TASKS[0]: {"node_addr": first}, TASKS[1]: {"node_addr": second}}
        for query_id in self.asked():
            conf, number = {**CONF, "fps": fps}, self.known[query_id].round
            self.answer(PlanProposed(self.now_ns, query_id, number, conf, placed, limit))

    @precondition(lambda self: self.count)
    @rule(data=st.data(), fps=st.sampled_from([5, "many"]))
    def propose_late(self, data: st.DataObject, fps: Any) -> None:
        placed = {task: {"node_ip": "10.0.0.9"} for task in TASKS}
        conf = {**CONF, "fps": fps}
        self.answer(PlanProposed(self.now_ns, *self.draw_round(data), conf, placed))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.answer(PolicyFailed(self.now_ns, *self.draw_round(data), "ValueError"))

    # Time, and the controller's own end.

    @rule(passed_ns=st.sampled_from([1, S // 10, S, 3 * S, 70 * S]), is_silent=st.booleans())
    def tick(self, passed_ns: int, is_silent: bool) -> None:
        self.now_ns += passed_ns
        for name in () if is_silent else NODES:
            self.report(name, None)
        expected = {query_id for query_id, known in self.known.items() if self.is_due(known)}
        out = self.pass_time()
        asked = {each.query_id for each in out if isinstance(each, AskPolicy)}
        # However many policies hang or fail, those that do not are asked when they are due.
        alive = {name for name in NODES if self.scheduler.is_alive(name)}
        for query_id in expected - asked:
            assert self.known[query_id].info.node_addr not in alive
        for known in self.known.values():  # what had no news is looked at again in a period
            if known.answered_ns is not None and self.now_ns >= known.answered_ns + PERIOD_NS:
                known.answered_ns = self.now_ns

    @rule(is_behind=st.booleans())
    def restart(self, is_behind: bool) -> None:
        """Start again from what was recorded, perhaps without the latest plans."""
        self.scheduler = Scheduler()
        for known in self.known.values():
            known.open_since_ns, known.answered_ns, known.has_news = None, None, False
            known.round = 0
            if is_behind and known.plan is not None and known.plan.number > 1:
                known.plan = known.plan.numbered(known.plan.number - 1)
            number = 1 if known.plan is None else known.plan.number + 1
            restored = QueryRestored(self.now_ns, known.info, known.state, known.plan, number)
            self.tell(restored)

    # What must always be true.

    @invariant()
    def nothing_is_wrong_inside(self) -> None:
        assert self.scheduler.check() == []

    @invariant()
    def states_are_as_they_were_recorded(self) -> None:
        for query_id, known in self.known.items():
            assert self.scheduler.state_of(query_id) == known.state
            assert self.scheduler.plan_of(query_id) == known.plan

    @invariant()
    def live_nodes_limit_their_tasks_to_what_the_plans_say(self) -> None:
        for name in NODES:
            alive = self.scheduler.node(name)
            if alive is None or alive.dialect != "channel":
                continue
            expected = {}
            for task in TASKS:
                each = [limit for _, limit in self.users(name, task)]
                if not each or None in each:
                    continue
                cpu = max(limit.cpu_util_limit for limit in each)
                memory = max(limit.mem_util_limit for limit in each)
                if (cpu, memory) != (1.0, 1.0):
                    expected[task] = ResourceLimit(cpu, memory)
            assert self.limits[name] == expected

    @invariant()
    def jobs_know_where_their_peers_are(self) -> None:
        for query_id in self.live():
            known = self.known[query_id]
            held = self.jobs[known.info.node_addr].get(query_id)
            if known.suspended or known.plan is None or held != known.plan.number:
                continue
            where = {
                task: self.scheduler.node(placement.node_addr)
                for task, placement in known.plan.flow_mapping.items()
            }
            if all(node and node.landing and node.offers(task) for task, node in where.items()):
                away = {
                    task: node.landing
                    for task, node in where.items()
                    if node.node_addr != known.info.node_addr
                }
                assert self.routes[query_id] == away

    def teardown(self) -> None:
        """Once all is well again, every query that lives runs under its plan, on live nodes."""
        if not hasattr(self, "dialect"):
            return
        for name in NODES:
            self.join(name, everything, False, 5020)
        for _ in range(4):
            self.now_ns += 70 * S
            for name in NODES:
                self.report(name, None)
            self.pass_time()
            for query_id in self.live():
                known = self.known[query_id]
                if known.open_since_ns is not None:
                    host = known.info.node_addr.partition(":")[0]
                    placed = {task: {"node_ip": host} for task in TASKS}
                    self.answer(PlanProposed(self.now_ns, query_id, known.round, CONF, placed))
        for query_id in self.live():
            known = self.known[query_id]
            assert known.plan is not None
            assert not known.suspended
            assert self.jobs[known.info.node_addr][query_id] == known.plan.number
            assert all(self.scheduler.is_alive(name) for name in known.plan.nodes())

    # What is drawn.

    def draw_round(self, data: st.DataObject) -> tuple[str, int]:
        query_id = f"GLOBAL_ID_{data.draw(st.integers(1, self.count))}"
        known = self.known.get(query_id)
        number = 1 if known is None else known.round
        return query_id, max(1, number - data.draw(st.sampled_from([0, 1, 2])))


Stories.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestAnyStory = Stories.TestCase


class ManyStories(Stories):
    """The same, for longer."""


ManyStories.TestCase.settings = settings(
    Stories.TestCase.settings, max_examples=3000, stateful_step_count=60
)
TestManyStories = pytest.mark.slow(ManyStories.TestCase)
