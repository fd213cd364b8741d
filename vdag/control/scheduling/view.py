"""`LiveSurroundings`: the scheduler's books as one query's policy may look into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from vdag.control.profile import Profile
from vdag.control.scheduling.cases import Case
from vdag.control.scheduling.events import NodeInfo
from vdag.control.scheduling.loads import Loads
from vdag.control.scheduling.nodes import Nodes
from vdag.control.scheduling.surroundings import COUNT, Snapshot, TaskLoad

__all__ = ["LiveSurroundings"]


class LiveSurroundings:
    """`Surroundings` of a query whose host is alive, as they are whenever they are looked at.

    Args:
        case: the query.
        nodes: the live nodes.
        loads: what queries take of them.
        profile: what tasks cost.
    """

    def __init__(self, case: Case, nodes: Nodes, loads: Loads, profile: Profile) -> None:
        self._case, self._nodes, self._loads, self._profile = case, nodes, loads, profile

    @property
    def host(self) -> NodeInfo:
        """See `Surroundings.host`."""
        host = self._nodes.get(self._case.host)
        assert host is not None, "questions are asked while the host is there"
        return host

    @property
    def profile(self) -> Profile:
        """See `Surroundings.profile`."""
        return self._profile

    def nodes(self) -> tuple[NodeInfo, ...]:
        """See `Surroundings.nodes`."""
        return self._nodes.around(self._case.host)

    def get(self, node_addr: str) -> NodeInfo | None:
        """See `Surroundings.get`."""
        return self._nodes.get(node_addr)

    def candidates(
        self, task: str, model_id: int | None = None, count: int = COUNT
    ) -> list[NodeInfo]:
        """See `Surroundings.candidates`."""
        found: dict[str, NodeInfo] = {}
        present = None if self._case.plan is None else self._case.plan.flow_mapping.get(task)
        for name in (self._case.host, present.node_addr if present is not None else ""):
            node = self._nodes.get(name)
            if node is not None and self._is_fit(node, task, model_id):
                found[name] = node
        for servers in (True, False):
            fit = self._fit(task, model_id, servers, found)
            found.update((node.node_addr, node) for node in [*islice(fit, count)])
        return list(found.values())

    def resource_info(self) -> Mapping[str, Any]:
        """See `Surroundings.resource_info`."""
        return self._nodes.resource_info(self._case.host)

    def node_state(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Surroundings.node_state`."""
        return self._nodes.states()

    def bandwidth(self) -> Mapping[str, Mapping[str, float]]:
        """See `Surroundings.bandwidth`."""
        return self._nodes.bandwidth()

    def bandwidth_between(self, sender: str, receiver: str) -> float | None:
        """See `Surroundings.bandwidth_between`."""
        return self._nodes.bandwidth_between(sender, receiver)

    def load(self, node_addr: str, task: str) -> TaskLoad:
        """See `Surroundings.load`."""
        return self._loads.of_others(self._case.query_id, node_addr, task)

    def node_busy(self, node_addr: str) -> float:
        """See `Surroundings.node_busy`."""
        return self._loads.node_busy(self._case.query_id, node_addr)

    def node_queries(self, node_addr: str) -> int:
        """See `Surroundings.node_queries`."""
        return self._loads.node_queries(self._case.query_id, node_addr)

    def sent_by(self, node_addr: str) -> TaskLoad:
        """See `Surroundings.sent_by`."""
        return self._loads.sent_by(self._case.query_id, node_addr)

    def snapshot(self) -> Snapshot:
        """Return them as they are now, to be sent to another process; O(nodes)."""
        query_id = self._case.query_id
        return Snapshot(
            self.nodes(),
            self.resource_info(),
            self.node_state(),
            self.bandwidth(),
            self._loads.by_node(query_id),
            self._loads.sent(query_id),
            self._profile,
        )

    def _fit(
        self, task: str, model_id: int | None, servers: bool, known: Mapping[str, NodeInfo]
    ) -> Iterator[NodeInfo]:
        for node in self._nodes.roomiest(task, servers=servers):
            if node.node_addr not in known and self._is_fit(node, task, model_id):
                yield node

    def _is_fit(self, node: NodeInfo, task: str, model_id: int | None) -> bool:
        """Whether it offers the task, and frames of the host can be sent there."""
        if not node.offers(task, model_id):
            return False
        is_host = node.node_addr == self._case.host
        return is_host or bool(node.landing) or self.host.dialect != "channel"
