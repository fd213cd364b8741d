"""`OurNodes`: sessions on nodes of the plan channel: one job of the node that captures.

To init is to have every node open the tasks of its handlers, with workers that serve; to start is
to submit the job with a plan; to stop is to stop it; to delete is to let the tasks go. What takes
time is answered by a `Probe`: nothing yet, an empty text for that it is done, or the reason.

Steps of nodes that do not capture are done as soon as they are ordered: a session starts and stops
where its frames come from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import TypeVar

from vdag.control.controller import Controller
from vdag.control.controller.conductor import Conductor
from vdag.control.coordination.types import HandlerType
from vdag.control.coordination.values import Node, Service
from vdag.control.coordinator.costs import Situation
from vdag.control.coordinator.graphs import Chart, conf_of, plan_of
from vdag.control.coordinator.placer import POLICY, split_algorithm
from vdag.control.coordinator.roster import Roster, video_of
from vdag.control.coordinator.routes import route_of
from vdag.control.coordinator.values import Deployment
from vdag.control.desk import QueryRequest, QueryView
from vdag.control.records import Cast, Store, read_query_id
from vdag.control.scheduling.events import QueryState
from vdag.control.scheduling.surroundings import Survey
from vdag.plan import Constraint, Plan
from vdag.tasks.base import model_task

__all__ = ["OurNodes", "Probe"]

#: Says what has become of a step; None for nothing yet.
Probe = Callable[[], "str | None"]
#: For what the controller's thread does at once.
TIMEOUT_S = 5.0

_T = TypeVar("_T")


class OurNodes:
    """See above; for one thread.

    Args:
        controller: that nodes join.
        store: its records.
        types: of handlers.
    """

    def __init__(
        self, controller: Controller, store: Store, types: Mapping[int, HandlerType]
    ) -> None:
        self._controller, self._store, self._types = controller, store, types

    def roster(self, nodes: Iterable[Node]) -> Roster:
        """Return which nodes have joined."""
        return Roster(nodes, self._controller.nodes())

    def situation(
        self, service: Service, chart: Chart | None, roster: Roster, query_id: str = ""
    ) -> Situation:
        """Return how the nodes are, for a session that has that query, or none yet."""
        tasks = {} if chart is None else {n: model_task(t) for n, t in chart.tasks.items()}
        resolution = conf_of(service, self._types).resolution

        def look(conductor: Conductor) -> tuple[Survey, dict[tuple[int, str], float]]:
            survey = conductor.survey(query_id)
            known = {
                (number, node.node_addr): conductor.cost_of(task, resolution, node)
                for number, task in tasks.items()
                for node in survey.nodes
            }
            return survey, {key: cost for key, cost in known.items() if cost is not None}

        survey, profiled = self._ask(look)
        numbers = {node.node_addr: roster.number(node.node_addr) for node in survey.nodes}
        found = {name: number for name, number in numbers.items() if number is not None}
        return Situation(
            {found[node.node_addr]: node for node in survey.nodes if node.node_addr in found},
            {
                (found[sender], found[receiver]): bandwidth
                for sender, links in survey.links.items()
                for receiver, bandwidth in links.items()
                if sender in found and receiver in found
            },
            {
                (number, found[name]): cost
                for (number, name), cost in profiled.items()
                if name in found
            },
            route=() if chart is None else route_of(chart),
        )

    def expect(
        self, deployment: Deployment, costs: Mapping[tuple[int, int], float], roster: Roster
    ) -> None:
        """Tell policies what a session's handlers are expected to take.

        Args:
            deployment: of the session.
            costs: seconds of a packet, by handler and node.
            roster: of the nodes.
        """
        chart = deployment.chart
        assert chart is not None, "it is on our nodes"
        named = {
            (chart.tasks[number], known.node_addr): seconds
            for (number, node_id), seconds in costs.items()
            if number in chart.tasks and (known := roster.known(node_id)) is not None
        }
        resolution = conf_of(deployment.service, self._types).resolution
        self._ask(lambda conductor: conductor.expect(named, resolution))

    def init(
        self,
        deployment: Deployment,
        node_addr: str,
        tasks: Collection[str],
        *,
        with_trial: bool = False,
    ) -> Probe:
        """Have a node open tasks.

        Args:
            deployment: of the session that wants them.
            node_addr: of the node.
            tasks: which.
            with_trial: whether they are tried on a picture of the capture's size, if they are not
                open already; see `trials`.
        """
        size = conf_of(deployment.service, self._types).size if with_trial else None
        holder = _holder(deployment)
        self._ask(lambda conductor: conductor.hiring.hold(node_addr, tasks, holder, size))
        return lambda: self._ask(lambda conductor: conductor.hiring.answer(node_addr, tasks))

    def trials(self, node_addr: str, tasks: Collection[str]) -> dict[str, float]:
        """Return what tasks took at a node when they were tried, in seconds; of those that were."""
        return self._ask(lambda conductor: conductor.hiring.trials(node_addr, tasks))

    def start(self, deployment: Deployment, roster: Roster) -> Probe:
        """Submit the session's job to the node that captures."""
        chart = deployment.chart
        assert chart is not None, "it is on our nodes"
        host = roster.addr(deployment.home)
        known = roster.known(deployment.home)
        assert known is not None, "it has an address"
        source = deployment.service.by_id[chart.capture].params.get("source", 0)
        name, policy = split_algorithm(deployment.service.algorithm)
        is_planned = name != POLICY
        request = QueryRequest(
            host,
            video_of(known, source),
            chart.graph,
            Constraint(video_conf=conf_of(deployment.service, self._types)),
            "kept" if is_planned else policy,
            self._plan(deployment, roster) if is_planned else None,
        )
        submitted = self._controller.submit(request)
        return lambda: self._started(deployment, submitted)

    def stop(self, deployment: Deployment, roster: Roster) -> Probe:
        """Stop the session's job."""
        query_id = deployment.query_id
        if not query_id:
            return lambda: ""
        host = roster.addr(deployment.home)
        stopped = self._controller.stop(query_id)

        def probe() -> str | None:
            if not stopped.done():
                return None
            stopped.result()
            is_waiting = self._ask(lambda conductor: conductor.has_orders(host, query_id))
            return None if is_waiting else ""

        return probe

    def let_go(self, deployment: Deployment, roster: Roster, nodes: Iterable[int] = ()) -> None:
        """Have nodes close the tasks that the session does not need any more.

        Args:
            deployment: of the session.
            roster: of the nodes.
            nodes: that keep the tasks which the placement has them do.
        """
        kept = {
            known.node_addr: deployment.tasks_on(node_id)
            for node_id in nodes
            if (known := roster.known(node_id)) is not None
        }
        self._ask(lambda conductor: conductor.hiring.let_go(_holder(deployment), kept))

    def hold(self, deployment: Deployment, roster: Roster) -> None:
        """Have nodes go on with the tasks that the placement has them do."""
        for node_id in deployment.nodes:
            known = roster.known(node_id)
            if known is not None:
                self.init(deployment, known.node_addr, deployment.tasks_on(node_id))

    def switch(self, deployment: Deployment, roster: Roster) -> Probe:
        """Have the job follow the placement that the session moves to."""
        plan = self._plan(deployment, roster)
        host, query_id = roster.addr(deployment.home), deployment.query_id
        preferred = self._controller.prefer_plan(query_id, plan.to_documents())

        def probe() -> str | None:
            if not preferred.done():
                return None
            if not preferred.result():
                return "its job is over"
            view = self._controller.query(query_id)
            if view is None or placed_by(view) != _addrs(plan):
                return None
            is_waiting = self._ask(lambda conductor: conductor.has_orders(host, query_id))
            return None if is_waiting else ""

        return probe

    def adopt(self, deployment: Deployment) -> None:
        """Have the packets of the session's job recorded as the session's."""
        chart = deployment.chart
        assert chart is not None, "it is on our nodes"
        cast = Cast(deployment.session_id, chart.capture, chart.handlers, None)
        self._store.journal.adopt(read_query_id(deployment.query_id), cast)

    def look(self, deployment: Deployment) -> QueryView | None:
        """Return how the session's job is; None if it is not here any more."""
        return self._controller.query(deployment.query_id) if deployment.query_id else None

    def _started(self, deployment: Deployment, submitted: Future[str]) -> str | None:
        if not submitted.done():
            return None
        if not deployment.query_id:
            deployment.query_id = submitted.result()
            self.adopt(deployment)
        view = self._controller.query(deployment.query_id)
        if view is None or view.state < QueryState.RUNNING:
            return None
        if view.state == QueryState.FAILED:
            return view.reason or "its job has failed"
        return ""  # it may be over already: that is seen afterwards

    def _plan(self, deployment: Deployment, roster: Roster) -> Plan:
        chart = deployment.chart
        assert chart is not None, "it is on our nodes"
        placed = (deployment.target or deployment.placement).nodes
        addrs = {number: roster.addr(node_id) for number, node_id in placed.items()}
        return plan_of(chart, conf_of(deployment.service, self._types), addrs)

    def _ask(self, work: Callable[[Conductor], _T]) -> _T:
        """Have something done by the controller's thread, which does not wait."""
        return self._controller.call(lambda conductor, _: work(conductor)).result(TIMEOUT_S)


def placed_by(view: QueryView) -> dict[str, str]:
    """Return the names of the nodes that a query's plan has its tasks done on."""
    mapping = {} if view.plan is None else view.plan.get("flow_mapping", {})
    return {task: each.get("node_addr", "") for task, each in mapping.items()}


def _addrs(plan: Plan) -> dict[str, str]:
    return {task: each.node_addr for task, each in plan.flow_mapping.items()}


def _holder(deployment: Deployment) -> str:
    return f"session {deployment.session_id}"
