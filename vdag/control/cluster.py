"""What the documents' overviews say of the nodes: which there are, their state, their services.

The replies are made from `NodeView`s, one per node, and do not know where these come from. A node
by itself knows only itself (`Alone`); whoever knows more puts another `Cluster` in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

__all__ = [
    "Alone",
    "Cluster",
    "NodeView",
    "Role",
    "ServiceView",
    "cluster_info",
    "execute_urls",
    "resource_info",
    "system_status",
]

Role = Literal["cloud", "edge", "host"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A task as one node offers it.

    Attributes:
        n_process: its workers.
        cpu_util_limit: share of all cores that they may use together.
        mem_util_limit: share of the memory.
        bandwidth: of the way to the node, relative to the best; 1 within it.
    """

    n_process: int = 1
    cpu_util_limit: float = 1.0
    mem_util_limit: float = 1.0
    bandwidth: float = 1.0


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as others see it.

    Attributes:
        address: its IP address or name, without a port.
        port: of its service.
        role: `cloud`, `edge` or `host`.
        device: the documents' `device_state`.
        summary: what older pages read beside it: `n_cpu`, and `cpu_ratio` in cores.
        services: by name of the task, in the node's own order.
    """

    address: str
    port: int
    role: Role = "cloud"
    device: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    services: Mapping[str, ServiceView] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """`address:port`, as it stands in a URL."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


class Cluster(Protocol):
    """Who knows the nodes."""

    def nodes(self) -> Sequence[NodeView]:
        """Return the nodes that are alive, this one first; returns at once."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A node that knows only itself.

    Attributes:
        view: says how this node is now; returns at once.
    """

    view: Callable[[], NodeView]

    def nodes(self) -> Sequence[NodeView]:
        """Return this node."""
        return (self.view(),)


def execute_urls(nodes: Sequence[NodeView], task: str) -> dict[str, Any]:
    """Return the reply of `get_execute_url`: where a task can be had, empty for nowhere."""
    return {
        node.place: {
            "bandwidth": service.bandwidth,
            "cpu": service.cpu_util_limit,
            "mem": service.mem_util_limit,
            "url": f"http://{node.place}/execute_task/{task}",
        }
        for node in nodes
        if (service := node.services.get(task)) is not None
    }


def cluster_info(nodes: Sequence[NodeView]) -> dict[str, Any]:
    """Return the reply of `get_cluster_info`, of the documents' shape and the web page's."""
    return {
        node.address: {"node_role": node.role, **node.summary, **_states(node)} for node in nodes
    }


def system_status(nodes: Sequence[NodeView]) -> dict[str, Any]:
    """Return the reply of `get_system_status`; the documents' roles are always there."""
    found: dict[str, dict[str, Any]] = {"cloud": {}, "host": {}}
    for node in nodes:
        found.setdefault(node.role, {})[node.address] = _states(node)
    return found


def resource_info(nodes: Sequence[NodeView]) -> dict[str, Any]:
    """Return the reply of `get_resource_info`: role to address to service to three numbers.

    Its callers take the first node of `cloud` and of `host`, whatever it is: where a role has no
    node, the first node there is stands in.
    """
    found: dict[str, dict[str, Any]] = {role: {} for role in ROLES}
    for node in nodes:
        found[node.role][node.address] = _shares(node)
    for role in ROLES:
        if nodes and not found[role]:
            found[role][nodes[0].address] = _shares(nodes[0])
    return found


def _states(node: NodeView) -> dict[str, Any]:
    return {
        "device_state": dict(node.device),
        "service_state": {
            task: {
                "cpu_util_limit": service.cpu_util_limit,
                "mem_util_limit": service.mem_util_limit,
            }
            for task, service in node.services.items()
        },
    }


def _shares(node: NodeView) -> dict[str, Any]:
    return {
        task: {
            "cpu_ratio": service.cpu_util_limit,
            "mem_ratio": service.mem_util_limit,
            "n_process": service.n_process,
        }
        for task, service in node.services.items()
    }
