"""`Nodes`: the nodes that are alive, and what the documents say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from vdag.control.scheduling.events import NodeInfo, NodeReported, ServiceInfo
from vdag.control.scheduling.rooms import Rooms
from vdag.control.scheduling.surroundings import TaskLoad, between
from vdag.plan import Placement

__all__ = ["Nodes"]


#: Nodes that were lost and may come back.
MAX_LEFT = 4096


class Nodes:
    """The live nodes, in the order in which they joined."""

    def __init__(self) -> None:
        self._alive: dict[str, NodeInfo] = {}
        self._seen_ns: dict[str, int] = {}
        self._by_ip: dict[str, dict[str, None]] = {}
        self._landings: Counter[str] = Counter()
        self._shares: dict[str, dict[str, Any]] = {}
        self._bandwidth: dict[str, Mapping[str, float]] = {}
        self._left: dict[str, str] = {}  # sessions of nodes that were lost
        self._rooms = Rooms()
        #: Rises whenever a plan might be made differently: nodes came or went, tasks did.
        self.version = 0

    def __len__(self) -> int:
        return len(self._alive)

    def __contains__(self, node_addr: object) -> bool:
        return node_addr in self._alive

    def get(self, node_addr: str) -> NodeInfo | None:
        """Return a live node, None if it is not."""
        return self._alive.get(node_addr)

    def alive(self) -> tuple[NodeInfo, ...]:
        """Return all of them."""
        return tuple(self._alive.values())

    def has_landing(self, landing: str) -> bool:
        """Whether a live node takes frames there."""
        return landing in self._landings

    def is_started_anew(self, node: NodeInfo) -> bool:
        """Whether a node that wants to join is another process than when it was here last."""
        known = self._alive.get(node.node_addr)
        session = self._left.get(node.node_addr) if known is None else known.session
        return session is not None and session != node.session

    def join(self, node: NodeInfo, now_ns: int) -> NodeInfo | None:
        """Take a node, in place of what was known of it; return that if it was alive."""
        known = self._alive.get(node.node_addr)
        if known is not None and known.ip != node.ip:
            self._forget_ip(known)
        self._by_ip.setdefault(node.ip, {})[node.node_addr] = None
        self._keep(node)
        self._seen_ns[node.node_addr] = now_ns
        self.version += 1
        return known

    def lose(self, node_addr: str) -> None:
        """Forget a live node."""
        node = self._alive.pop(node_addr)
        self._forget_ip(node)
        self._forget_landing(node)
        self._left.pop(node_addr, None)
        self._left[node_addr] = node.session
        if len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]
        del self._seen_ns[node_addr], self._shares[node_addr]
        self._rooms.forget(node_addr)
        self._bandwidth.pop(node_addr, None)
        self.version += 1

    def report(self, event: NodeReported) -> tuple[NodeInfo, NodeInfo] | None:
        """Take in how a live node is; return it before and after if it offers something else."""
        before = self._alive[event.node_addr]
        self._seen_ns[event.node_addr] = event.now_ns
        if event.bandwidth is not None:
            self._bandwidth[event.node_addr] = event.bandwidth
        node = before
        if event.resources is not None:
            node = replace(node, resources=event.resources)
        if event.services is not None and event.services != node.services:
            node = replace(node, services=event.services)
        if node is not before:
            self._keep(node)
        if _models(before.services) == _models(node.services):
            return None
        self.version += 1
        return before, node

    def seen_ns(self, node_addr: str) -> int:
        """Return when a live node was last heard of."""
        return self._seen_ns[node_addr]

    def named_by(self, placement: Placement, host: str) -> list[NodeInfo]:
        """Return the live nodes that a placement may mean, the likeliest first.

        `node_addr` says it all; else `node_ip`, and the role where several share one; else the
        role alone. Among equals the host comes first, and then the servers.

        Args:
            placement: as a policy or a user wrote it.
            host: the node that owns the query's video.
        """
        names: Iterable[str] = self._alive
        if placement.node_addr:
            names = (placement.node_addr,)
        elif placement.node_ip:
            names = self._by_ip.get(placement.node_ip, ())
        nodes = [self._alive[name] for name in names if name in self._alive]
        if not (placement.node_addr or placement.node_ip):
            nodes = [node for node in nodes if has_role(node, placement.node_role, host)]
        return sorted(
            nodes,
            key=lambda node: (
                not has_role(node, placement.node_role, host),
                node.node_addr != host,
                node.role != "cloud",
            ),
        )

    def around(self, host: str) -> tuple[NodeInfo, ...]:
        """Return all live nodes, the query's own first."""
        own = self._alive[host]
        return (own, *(node for node in self._alive.values() if node is not own))

    def states(self) -> dict[str, Mapping[str, Any]]:
        """Return each node's latest `device_state`."""
        return {name: node.resources for name, node in self._alive.items()}

    def bandwidth(self) -> dict[str, Mapping[str, float]]:
        """Return what each node measured towards others."""
        return dict(self._bandwidth)

    def resource_info(self, host: str) -> dict[str, dict[str, Any]]:
        """Return the documents' `resource_info` for a query whose video is on `host`.

        The documents' policies take the first address under `cloud` without looking whether there
        is one: where there is no server, the host stands in.
        """
        found: dict[str, dict[str, Any]] = {"host": {}, "cloud": {}, "edge": {}}
        for name, node in self._alive.items():
            roles = ("host",) if name == host else ()
            if node.role == "cloud":
                roles = (*roles, "cloud")
            for role in roles or ("edge",):
                shares, known = self._shares[name], found[role].get(node.ip)
                found[role][node.ip] = shares if known is None else {**known, **shares}
        found["cloud"] = found["cloud"] or dict(found["host"])
        return found

    def bandwidth_between(self, sender: str, receiver: str) -> float | None:
        """Return bytes per second from one node to another, None if nobody has measured it."""
        return between(self._bandwidth, sender, receiver)

    def set_taken(self, node_addr: str, task: str, load: TaskLoad) -> None:
        """Note what queries take of a task on a node, alive or not."""
        self._rooms.set_taken(self._alive.get(node_addr), node_addr, task, load)

    def roomiest(self, task: str, *, servers: bool) -> Iterator[NodeInfo]:
        """Yield the live servers, or the other nodes, that offer a task, least taken first."""
        for node_addr in self._rooms.roomiest(task, servers=servers):
            yield self._alive[node_addr]

    def _keep(self, node: NodeInfo) -> None:
        known = self._alive.get(node.node_addr)
        self._alive[node.node_addr] = node
        if known is None or known.landing != node.landing:
            self._landings[node.landing] += 1
            if known is not None:
                self._forget_landing(known)
        if known is None or known.services != node.services or known.role != node.role:
            self._rooms.keep(node)
        self._shares[node.node_addr] = {
            task: {
                "n_process": service.workers,
                "cpu_ratio": service.cpu_util_limit,
                "mem_ratio": service.mem_util_limit,
            }
            for task, service in node.services.items()
        }

    def _forget_ip(self, node: NodeInfo) -> None:
        names = self._by_ip[node.ip]
        del names[node.node_addr]
        if not names:
            del self._by_ip[node.ip]

    def _forget_landing(self, node: NodeInfo) -> None:
        self._landings[node.landing] -= 1
        if not self._landings[node.landing]:
            del self._landings[node.landing]


def has_role(node: NodeInfo, role: str, host: str) -> bool:
    """Whether a node is `host`, `edge` or `cloud` to a query whose video is on `host`."""
    if role == "host":
        return node.node_addr == host
    if role == "cloud":
        return node.role == "cloud"
    return role == "edge" and node.role != "cloud" and node.node_addr != host


def _models(services: Mapping[str, ServiceInfo]) -> dict[str, tuple[int, ...]]:
    return {task: service.models for task, service in services.items()}
