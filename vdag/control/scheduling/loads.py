"""`Loads`: what the queries in force take of the workers of each task on each node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vdag.control.profile import Cost, Profile
from vdag.control.profile.costs import MAX_BATCH
from vdag.control.scheduling.branching import branches_of
from vdag.control.scheduling.cases import Case
from vdag.control.scheduling.events import NodeInfo
from vdag.control.scheduling.nodes import Nodes
from vdag.control.scheduling.surroundings import NO_LOAD, TaskLoad

__all__ = ["Loads"]

#: A node and a task.
Place = tuple[str, str]
#: Workers that one query may claim of a task: what is more is no measurement.
MOST = 1e3
#: Bytes per second that one query may claim of an uplink.
MOST_SENT = 1e11
#: Of a task that nobody has measured anywhere.
UNKNOWN = Cost(0.05, 0.05)
#: What rounding leaves where nothing is taken.
LEAST = 1e-9
#: Measured costs that are kept; beyond, they are asked for anew.
MAX_PRIORS = 20_000


class Loads:
    """Worker-seconds per second, by node and task; O(tasks of the query) for each change.

    A query takes its plan's frames per second times the seconds of a worker that each takes: those
    that its job has measured under the plan, before that those of the profile. Frames that are
    worked on together share the seconds of their batch, and count as in the best batch that the
    profile knows: a worker that is not full works on fewer at a time, and has that much room left.

    Args:
        nodes: the live nodes.
        profile: what tasks cost.
    """

    def __init__(self, nodes: Nodes, profile: Profile) -> None:
        self._nodes, self._profile = nodes, profile
        #: What the profile has measured, of one version of it; by task, model, resolution, place.
        self._priors: dict[tuple[str, int, str, tuple[str, ...]], Cost | None] = {}
        self._version = profile.version
        #: Query to (node, task) to what it takes.
        self._claims: dict[str, dict[tuple[str, str], float]] = {}
        self._busy: dict[tuple[str, str], float] = {}
        self._queries: dict[tuple[str, str], int] = {}
        self._node_busy: dict[str, float] = {}
        self._node_queries: Counter[str] = Counter()
        #: Query to what it sends to other nodes: by sender, bytes per second.
        self._sends: dict[str, dict[str, float]] = {}
        self._sent: dict[str, float] = {}
        self._senders: Counter[str] = Counter()

    def update(self, case: Case) -> None:
        """Count anew what a query takes: its plan or its runtime has changed."""
        if case.plan is None or case.state.is_final or case.suspended:
            self.remove(case.query_id)
            return
        before = self._claims.get(case.query_id, {})
        claims = self._claims[case.query_id] = {
            (placement.node_addr, task): self._claim(case, task)
            for task, placement in case.plan.flow_mapping.items()
        }
        # In one step each: what has hardly changed leaves the nodes in their order.
        for place, busy in before.items():
            if place not in claims:
                self._add(place, -busy, -1)
        for place, busy in claims.items():
            self._add(place, busy - before.get(place, 0.0), int(place not in before))
        if claims.keys() != before.keys():
            self._count(before, claims)
        self._send(case.query_id, self._traffic(case))

    def remove(self, query_id: str) -> None:
        """Count a query no longer."""
        claims = self._claims.pop(query_id, {})
        for place, busy in claims.items():
            self._add(place, -busy, -1)
        self._count(claims, {})
        self._send(query_id, {})

    def of_others(self, query_id: str, node_addr: str, task: str) -> TaskLoad:
        """Return what all queries but one take of a task on a node."""
        place = (node_addr, task)
        queries = self._queries.get(place, 0)
        own = self._claims.get(query_id, {}).get(place)
        if own is None:
            return TaskLoad(queries, self._busy.get(place, 0.0)) if queries else NO_LOAD
        return TaskLoad(queries - 1, max(self._busy[place] - own, 0.0)) if queries > 1 else NO_LOAD

    def total(self, node_addr: str, task: str) -> TaskLoad:
        """Return what all queries take of a task on a node."""
        place = (node_addr, task)
        return TaskLoad(self._queries.get(place, 0), self._busy.get(place, 0.0))

    def node_busy(self, query_id: str, node_addr: str) -> float:
        """Return what all queries but one take of a node, tasks together."""
        own = sum(
            busy for (name, _), busy in self._claims.get(query_id, {}).items() if name == node_addr
        )
        rest = self._node_busy.get(node_addr, 0.0) - own
        return rest if rest > LEAST else 0.0

    def node_queries(self, query_id: str, node_addr: str) -> int:
        """Return how many queries but one have any task on a node."""
        own = any(name == node_addr for name, _ in self._claims.get(query_id, ()))
        return self._node_queries[node_addr] - own

    def sent_by(self, query_id: str, node_addr: str) -> TaskLoad:
        """Return how many queries but one send frames from a node, and their bytes per second."""
        own = self._sends.get(query_id, {}).get(node_addr)
        queries = self._senders[node_addr] - (own is not None)
        if not queries:
            return NO_LOAD
        return TaskLoad(queries, max(self._sent[node_addr] - (own or 0.0), 0.0))

    def sent(self, query_id: str) -> dict[str, TaskLoad]:
        """Return all that others send, by sender; O(nodes)."""
        found = {name: self.sent_by(query_id, name) for name in self._senders}
        return {name: load for name, load in found.items() if load.queries}

    def by_node(self, query_id: str) -> dict[str, dict[str, TaskLoad]]:
        """Return all that others take, by node and task; O(places)."""
        found: dict[str, dict[str, TaskLoad]] = {}
        for node_addr, task in self._queries:
            load = self.of_others(query_id, node_addr, task)
            if load.queries:
                found.setdefault(node_addr, {})[task] = load
        return found

    def _claim(self, case: Case, task: str) -> float:
        assert case.plan is not None, "only a plan claims anything"
        conf, placement = case.plan.video_conf, case.plan.flow_mapping[task]
        what = task, placement.model_id, conf.resolution
        node = self._nodes.get(placement.node_addr)
        seconds = _measured(case.runtime, "process_delay", task) if case.is_measured else None
        if seconds is None:
            cost = (self._profile.cost(*what, node) if node is not None else None) or UNKNOWN
            busy_s = cost.busy_at(cost.mean_s(_number(case.runtime.get("obj_n")) or 0.0))
        else:
            batch = _measured(case.runtime, "batch", task) or 1.0
            cost = self._batching(*what, node) if node is not None else UNKNOWN
            busy_s = cost.busy_at(seconds, min(max(batch, 1.0), MAX_BATCH))
        return min(conf.fps * busy_s, MOST)

    def _batching(self, task: str, model_id: int, resolution: str, node: NodeInfo) -> Cost:
        """Return a cost whose batches are those of a node, whatever its seconds.

        The report that is counted has just taught the profile something, so what it keeps of the
        node's costs is void. What was measured before is not, and says all of batches.
        """
        profile = self._profile
        if self._version != profile.version or len(self._priors) >= MAX_PRIORS:
            self._priors.clear()
            self._version = profile.version
        key = (task, model_id, resolution, profile.place(node))
        if key not in self._priors:
            self._priors[key] = profile.prior(task, model_id, resolution, node)
        return self._priors[key] or UNKNOWN

    def _count(self, before: Mapping[Place, float], claims: Mapping[Place, float]) -> None:
        """Count a query once at each node where it has a task."""
        for name in {name: None for name, _ in before}:
            self._node_queries[name] -= 1
            if not self._node_queries[name]:
                del self._node_queries[name]
        for name in {name: None for name, _ in claims}:
            self._node_queries[name] += 1

    def _traffic(self, case: Case) -> dict[str, float]:
        """Return what a query sends from node to node: by sender, bytes per second."""
        plan, found = case.plan, dict[str, float]()
        assert plan is not None, "only a plan sends anything"
        if all(place.node_addr == case.host for place in plan.flow_mapping.values()):
            return found
        conf = plan.video_conf
        known = case.runtime.get("data_trans_size") if case.is_measured else None
        known = known if isinstance(known, Mapping) else {}
        tasks = tuple(plan.flow_mapping)
        for branch in branches_of(tasks, case.dag):
            sender = case.host
            for index in branch:
                receiver = plan.flow_mapping[tasks[index]].node_addr
                if receiver != sender:
                    nbytes = _number(known.get(tasks[index]))
                    if not nbytes:
                        nbytes = self._profile.frame_nbytes(conf.resolution, conf.encoder)
                    found[sender] = found.get(sender, 0.0) + min(conf.fps * nbytes, MOST_SENT)
                sender = receiver
        return found

    def _send(self, query_id: str, traffic: dict[str, float]) -> None:
        before = self._sends.pop(query_id, {})
        for sender, nbytes in before.items():
            self._senders[sender] -= 1
            self._sent[sender] -= nbytes
            if not self._senders[sender]:
                del self._senders[sender], self._sent[sender]
        if traffic:
            self._sends[query_id] = traffic
        for sender, nbytes in traffic.items():
            self._senders[sender] += 1
            self._sent[sender] = self._sent.get(sender, 0.0) + nbytes

    def _add(self, place: tuple[str, str], busy: float, queries: int) -> None:
        node_addr = place[0]
        left = self._queries.get(place, 0) + queries
        if left:
            self._queries[place] = left
            self._busy[place] = self._busy.get(place, 0.0) + busy
        else:
            del self._queries[place]
            self._busy.pop(place, None)  # with what rounding has left of it
        self._node_busy[node_addr] = self._node_busy.get(node_addr, 0.0) + busy
        if self._node_busy[node_addr] < LEAST:
            del self._node_busy[node_addr]
        self._nodes.set_taken(node_addr, place[1], self.total(*place))


def _measured(runtime: Mapping[str, Any], what: str, task: str) -> float | None:
    result = runtime.get("plan_result")
    values = result.get(what) if isinstance(result, Mapping) else None
    return _number(values.get(task)) if isinstance(values, Mapping) else None


def _number(value: Any) -> float | None:
    """Return a measurement as it can be used, None if it is none: it comes from a node."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
