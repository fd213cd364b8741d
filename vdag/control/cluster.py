"""What the documents' overviews say of the nodes: which there are, their state, their services.

The replies are made from `NodeView`s, one per node, and do not know where these come from:

    Alone     a node by itself knows only itself
    Fleet     the controller's node knows all that have joined
    Hearsay   any other node knows what the controller has told it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from vdag.control import wire
from vdag.errors import FrameFormatError

__all__ = [
    "Alone",
    "Cluster",
    "Fleet",
    "Hearsay",
    "NodeView",
    "Role",
    "ServiceView",
    "cluster_info",
    "execute_urls",
    "offers_of",
    "resource_info",
    "state_of",
    "system_status",
    "view_of_card",
]

#: Controllers answer several times within this, and say who is gone.
VIEW_TIMEOUT_S = 3.0
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
        models: the `model_id`s that plans can choose among; empty for not said.
    """

    n_process: int = 1
    cpu_util_limit: float = 1.0
    mem_util_limit: float = 1.0
    bandwidth: float = 1.0
    models: tuple[int, ...] = ()


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
        landing: address that frames for it are sent to; empty if it takes none, or for this node.
        name: under which keys know it; likewise.
        node_addr: `ip:port`, which names it; likewise.
    """

    address: str
    port: int
    role: Role = "cloud"
    device: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    services: Mapping[str, ServiceView] = field(default_factory=dict)
    landing: str = ""
    name: str = ""
    node_addr: str = ""

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


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes that have joined the controller of this node.

    Attributes:
        view: says how this node is now; returns at once.
        joined: returns the others, and perhaps this one as it was a moment ago; likewise.
    """

    view: Callable[[], NodeView]
    joined: Callable[[], Sequence[NodeView]]

    def nodes(self) -> Sequence[NodeView]:
        """Return this node and all that have joined and are alive."""
        return _with_mine(self.view(), self.joined())


class Hearsay:
    """What the controller says of the nodes; any thread may ask.

    Who is told nothing any more knows no others: the controller is out of reach, and whether they
    are is anybody's guess.

    Args:
        view: says how this node is now; returns at once.
        timeout_s: what was said is believed for so long.
        clock: of this host, in ns.
    """

    def __init__(
        self,
        view: Callable[[], NodeView],
        *,
        timeout_s: float = VIEW_TIMEOUT_S,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._view, self._timeout_ns, self._clock = view, int(timeout_s * 1e9), clock
        self._cards: dict[str, wire.Card] = {}
        self._heard_ns: int | None = None
        self._others: tuple[NodeView, ...] = ()
        self.version = 0

    def hear(self, view: wire.View | None) -> None:
        """Note what the controller says, None for no news; for one thread."""
        self._heard_ns = self._clock()
        if view is None:
            return
        self._cards.update((card.node_addr, card) for card in view.cards)
        alive = set(view.alive)
        self._cards = {name: card for name, card in self._cards.items() if name in alive}
        self._others = tuple(view_of_card(card) for card in self._cards.values())
        self.version = view.version

    def forget(self) -> None:
        """Know nothing, as before another controller says something."""
        self._cards, self._others, self.version = {}, (), 0

    def nodes(self) -> Sequence[NodeView]:
        """Return this node and those that the controller lately said are alive."""
        heard_ns, mine = self._heard_ns, self._view()
        if heard_ns is None or self._clock() - heard_ns > self._timeout_ns:
            return (mine,)
        return _with_mine(mine, self._others)


def _with_mine(mine: NodeView, others: Sequence[NodeView]) -> tuple[NodeView, ...]:
    return (mine, *(other for other in others if other.place != mine.place))


def view_of_card(card: wire.Card) -> NodeView:
    """Return a node as the controller tells of it; a state that makes no sense is left out."""
    try:
        state = wire.read_document(card.state)
    except FrameFormatError:
        state = {}
    device, summary = state.get("device_state"), state.get("summary")
    return NodeView(
        card.node_addr.rpartition(":")[0].strip("[]"),
        card.port,
        card.role,
        device if isinstance(device, dict) else {},
        summary if isinstance(summary, dict) else {},
        {
            task: ServiceView(
                offer.workers,
                offer.cpu_util_limit,
                offer.mem_util_limit,
                models=tuple(offer.models),
            )
            for task, offer in card.services.items()
        }
        if card.port
        else {},
        card.landing,
        card.name,
        card.node_addr,
    )


def offers_of(view: NodeView) -> dict[str, wire.Offer]:
    """Return what a node offers, as it tells the controller."""
    return {
        task: wire.Offer(
            service.n_process,
            list(service.models),
            service.cpu_util_limit,
            service.mem_util_limit,
        )
        for task, service in view.services.items()
    }


def state_of(view: NodeView) -> bytes:
    """Return the state of a node's machine, as it tells the controller; see `view_of_card`."""
    return wire.write_document({"device_state": dict(view.device), "summary": dict(view.summary)})


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
                "models": list(service.models),
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
