"""`Surroundings`: the nodes as the policy of one query sees them, with what others take of them.

Policies of ours get the scheduler's own books to look into: nothing is copied, and what is asked
after costs the same with ten nodes as with ten thousand, but for what lists all of them. Policies
in a process of their own get a `Snapshot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from vdag.control.profile import Profile
from vdag.control.scheduling.events import NodeInfo

__all__ = ["COUNT", "NO_LOAD", "Snapshot", "Surroundings", "Survey", "TaskLoad"]

#: Nodes of each kind that `candidates` returns.
COUNT = 4


class TaskLoad(NamedTuple):
    """What other queries take of a task on a node.

    Attributes:
        queries: how many of them.
        busy: workers that they keep busy, on average: seconds of work per second.
    """

    queries: int
    busy: float


NO_LOAD = TaskLoad(0, 0.0)


class Survey(NamedTuple):
    """The live nodes at one moment, for whoever places more than one query's tasks.

    Attributes:
        nodes: in the order in which they joined.
        links: `node_addr` to `node_addr` to bytes per second, as far as measured.
        busy: `node_addr` to the workers that queries keep busy there, on average.
    """

    nodes: tuple[NodeInfo, ...]
    links: Mapping[str, Mapping[str, float]]
    busy: Mapping[str, float]


@runtime_checkable
class Surroundings(Protocol):
    """See the module. What it returns is for reading."""

    @property
    def host(self) -> NodeInfo:
        """The node that owns the video."""

    @property
    def profile(self) -> Profile:
        """What tasks cost, and what they are worth."""

    def nodes(self) -> tuple[NodeInfo, ...]:
        """Return all live nodes, the host first; O(nodes)."""

    def get(self, node_addr: str) -> NodeInfo | None:
        """Return a live node, None if it is not."""

    def candidates(
        self, task: str, model_id: int | None = None, count: int = COUNT
    ) -> list[NodeInfo]:
        """Return nodes that the host may have a task run on, each once.

        The host if it offers the task, then the node of the plan in force, then the `count` servers
        and the `count` other nodes with the most room.
        """

    def resource_info(self) -> Mapping[str, Any]:
        """Return the documents' `resource_info`; O(nodes)."""

    def node_state(self) -> Mapping[str, Mapping[str, Any]]:
        """Return `node_addr` to the latest `device_state`; O(nodes)."""

    def bandwidth(self) -> Mapping[str, Mapping[str, float]]:
        """Return `node_addr` to `node_addr` to bytes per second, as far as measured; O(nodes)."""

    def bandwidth_between(self, sender: str, receiver: str) -> float | None:
        """Return bytes per second from one node to another, None if it was not measured.

        The other direction stands in where only that is known.
        """

    def load(self, node_addr: str, task: str) -> TaskLoad:
        """Return what other queries take of a task on a node."""

    def node_busy(self, node_addr: str) -> float:
        """Return how many workers of any task other queries keep busy on a node."""

    def node_queries(self, node_addr: str) -> int:
        """Return how many other queries have any task on a node."""

    def sent_by(self, node_addr: str) -> TaskLoad:
        """Return how many other queries send frames from a node to others, and bytes per second."""

    def snapshot(self) -> Snapshot:
        """Return them as they are now, to be sent to another process; O(nodes)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`Surroundings` at one moment, to be sent to another process.

    Attributes:
        around: all live nodes, the host first.
        resources: see `resource_info`.
        states: see `node_state`.
        links: see `bandwidth`.
        loads: `node_addr` to task to what other queries take.
        sent: `node_addr` to how many other queries send frames from there, and bytes per second.
        knowledge: see `profile`, null for none; it does not travel with the rest.
    """

    around: tuple[NodeInfo, ...]
    resources: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    loads: Mapping[str, Mapping[str, TaskLoad]] = field(default_factory=dict)
    sent: Mapping[str, TaskLoad] = field(default_factory=dict)
    knowledge: Profile | None = field(default=None, compare=False, repr=False)

    @property
    def host(self) -> NodeInfo:
        """See `Surroundings.host`."""
        return self.around[0]

    @property
    def profile(self) -> Profile:
        """See `Surroundings.profile`; an empty one for none."""
        return Profile() if self.knowledge is None else self.knowledge

    def nodes(self) -> tuple[NodeInfo, ...]:
        """See `Surroundings.nodes`."""
        return self.around

    def get(self, node_addr: str) -> NodeInfo | None:
        """See `Surroundings.get`; O(nodes)."""
        return next((node for node in self.around if node.node_addr == node_addr), None)

    def candidates(
        self, task: str, model_id: int | None = None, count: int = COUNT
    ) -> list[NodeInfo]:
        """See `Surroundings.candidates`; the node of the plan in force is one among equals."""
        host = self.host
        able = [
            node
            for node in self.around
            if node.offers(task, model_id)
            and (node is host or node.landing or host.dialect != "channel")
        ]
        able.sort(key=lambda node: share_taken(node, task, self.load(node.node_addr, task)))
        own = [node for node in able if node is host]
        servers = [node for node in able if node.role == "cloud" and node is not host]
        others = [node for node in able if node.role != "cloud" and node is not host]
        return own + servers[:count] + others[:count]

    def resource_info(self) -> Mapping[str, Any]:
        """See `Surroundings.resource_info`."""
        return self.resources

    def node_state(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Surroundings.node_state`."""
        return self.states

    def bandwidth(self) -> Mapping[str, Mapping[str, float]]:
        """See `Surroundings.bandwidth`."""
        return self.links

    def bandwidth_between(self, sender: str, receiver: str) -> float | None:
        """See `Surroundings.bandwidth_between`."""
        return between(self.links, sender, receiver)

    def load(self, node_addr: str, task: str) -> TaskLoad:
        """See `Surroundings.load`."""
        return self.loads.get(node_addr, {}).get(task, NO_LOAD)

    def node_busy(self, node_addr: str) -> float:
        """See `Surroundings.node_busy`."""
        return sum(load.busy for load in self.loads.get(node_addr, {}).values())

    def node_queries(self, node_addr: str) -> int:
        """See `Surroundings.node_queries`; the least that it can be, by the tasks."""
        return max((load.queries for load in self.loads.get(node_addr, {}).values()), default=0)

    def sent_by(self, node_addr: str) -> TaskLoad:
        """See `Surroundings.sent_by`."""
        return self.sent.get(node_addr, NO_LOAD)

    def snapshot(self) -> Snapshot:
        """Return itself."""
        return self


def between(links: Mapping[str, Mapping[str, float]], sender: str, receiver: str) -> float | None:
    """Return the bytes per second of a link, of its other direction if only that is known."""
    there = links.get(sender, {}).get(receiver)
    return links.get(receiver, {}).get(sender) if there is None else there


def share_taken(node: NodeInfo, task: str, load: TaskLoad) -> float:
    """Return which share of a task's workers on a node others keep busy; queries break ties."""
    service = node.services.get(task)
    workers = service.workers if service is not None else 1
    return (load.busy + 1e-6 * load.queries) / max(workers, 1)
