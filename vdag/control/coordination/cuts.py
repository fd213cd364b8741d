"""Cuts: a placement becomes a blueprint per node, with a pair of tx and rx for each way between.

What one output gives to handlers on one other node goes there once: the links share a pair. A pair
that the service has written out is used again, with its numbers, address and port, as long as its
ends are where they were; others get the next free number and port.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from vdag.control.coordination.types import HANDLER_TYPES, RX, TX, HandlerType, with_defaults
from vdag.control.coordination.values import Cut, HandlerSpec, Link, Node, Service
from vdag.errors import PlanError

__all__ = ["FIRST_PORT", "Blueprint", "blueprints", "crossing"]

#: Where the documents' sample has its rx.
FIRST_PORT = 9002
MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What one node runs of a service.

    Attributes:
        node_id: of the node.
        handlers: by their numbers.
        links: between them; none goes to another node.
    """

    node_id: int
    handlers: tuple[HandlerSpec, ...]
    links: tuple[Link, ...]

    def document(self, types: Mapping[int, HandlerType] = HANDLER_TYPES) -> dict[str, Any]:
        """Return the `blueprint` of the documented `init`, without parameters it does not know."""
        return {
            "handlers": [
                {
                    "handler_id": each.handler_id,
                    "handler_name": each.name,
                    "handler_type": each.kind,
                    "params": {
                        name: value
                        for name, value in each.params.items()
                        if not types[each.kind].params[name].own
                    },
                }
                for each in self.handlers
            ],
            "links": [
                {
                    "source_handler": each.source_handler,
                    "source_output": each.source_output,
                    "target_handler": each.target_handler,
                    "target_input": each.target_input,
                }
                for each in self.links
            ],
        }


def crossing(service: Service, placed: Mapping[int, int]) -> tuple[Link, ...]:
    """Return the links that go from one node to another."""
    return tuple(
        link for link in service.links if placed[link.source_handler] != placed[link.target_handler]
    )


def blueprints(
    service: Service,
    placed: Mapping[int, int],
    nodes: Iterable[Node],
    *,
    taken: Mapping[int, Collection[int]] | None = None,
    first_port: int = FIRST_PORT,
) -> tuple[Blueprint, ...]:
    """Return what each node runs, those that receive before those that send to them.

    Where nodes send to each other that cannot be; the node of the first handler then comes last.

    Args:
        service: that is placed.
        placed: node of each handler, by their numbers.
        nodes: that it is placed on.
        taken: ports of a node that others have.
        first_port: from which on ports are given to rx.

    Raises:
        PlanError: a handler is on no node, a port that is written out is taken, or none is left.
    """
    known = {node.node_id: node for node in nodes}
    for spec in service.handlers:
        if placed.get(spec.handler_id) not in known:
            raise PlanError(f"{spec} is placed on node {placed.get(spec.handler_id)}, unknown")
    pairs = _pairs(service, placed, known, _Ports(known, taken or {}, first_port))
    handlers = _by_node(service, placed)
    for pair in {id(pair): pair for pair in pairs.values()}.values():
        handlers[pair.sender].append(pair.tx)
        handlers[pair.receiver].append(pair.rx)
    links = _links(service, placed, pairs)
    return tuple(
        Blueprint(
            node_id,
            tuple(sorted(specs, key=lambda each: each.handler_id)),
            tuple(links.get(node_id, ())),
        )
        for node_id, specs in handlers.items()
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tx on one node and its rx on another."""

    sender: int
    receiver: int
    tx: HandlerSpec
    rx: HandlerSpec


class _Ports:
    """The ports of nodes; nodes of one address share theirs.

    Args:
        nodes: by their numbers.
        taken: ports of a node that others have.
        first: that is given away.
    """

    def __init__(
        self, nodes: Mapping[int, Node], taken: Mapping[int, Collection[int]], first: int
    ) -> None:
        self._nodes = nodes
        self._first = first
        self._taken: dict[str, set[int]] = {}
        for node in nodes.values():
            ports = self._taken.setdefault(node.addr, set())
            ports.update((node.port, *taken.get(node.node_id, ())))

    def take(self, node_id: int, port: int) -> None:
        """Take a port that is written out."""
        ports = self._taken[self._nodes[node_id].addr]
        if port in ports:
            raise PlanError(f"port {port} of node {node_id} {self._nodes[node_id].name} is taken")
        ports.add(port)

    def next(self, node_id: int) -> int:
        """Take the next one that is free."""
        ports = self._taken[self._nodes[node_id].addr]
        for port in range(self._first, MAX_PORT + 1):
            if port not in ports:
                ports.add(port)
                return port
        raise PlanError(
            f"node {node_id} {self._nodes[node_id].name} has no port left "
            f"from {self._first} to {MAX_PORT}"
        )


def _by_node(service: Service, placed: Mapping[int, int]) -> dict[int, list[HandlerSpec]]:
    """Return the handlers of each node, the node of the last one first, of the first one last."""
    found: dict[int, list[HandlerSpec]] = {}
    for spec in reversed(service.order):
        found.setdefault(placed[spec.handler_id], []).append(spec)
    source = placed[service.order[0].handler_id]
    found[source] = found.pop(source)
    return found


def _pairs(
    service: Service, placed: Mapping[int, int], nodes: Mapping[int, Node], ports: _Ports
) -> dict[Link, _Pair]:
    """Return the pair of each link that goes from node to node.

    Those that are written out come first, so that no other is given their port.
    """
    found: dict[Link, _Pair] = {}
    for cut in service.cuts:
        found.update(_kept(cut, placed, ports))
    taken = {each.handler_id for each in service.handlers}
    taken.update(end.handler_id for cut in service.cuts for end in (cut.tx, cut.rx))
    numbers = (number for number in count() if number not in taken)
    shared: dict[tuple[int, int, int], _Pair] = {}
    for link in crossing(service, placed):
        if link not in found:
            key = link.source_handler, link.source_output, placed[link.target_handler]
            if key not in shared:
                receiver = nodes[placed[link.target_handler]]
                port = ports.next(receiver.node_id)
                shared[key] = _new(placed[link.source_handler], receiver, port, numbers)
            found[link] = shared[key]
    return found


def _kept(cut: Cut, placed: Mapping[int, int], ports: _Ports) -> dict[Link, _Pair]:
    """Return the links of a written pair that go from its one node to its other."""
    sender, receiver = cut.tx.node_id, cut.rx.node_id
    if sender is None or receiver is None:
        return {}
    links = [
        link
        for link in cut.links
        if (placed[link.source_handler], placed[link.target_handler]) == (sender, receiver)
    ]
    if links:
        ports.take(receiver, with_defaults(HANDLER_TYPES[RX], cut.rx.params)["port"])
    return dict.fromkeys(links, _Pair(sender, receiver, cut.tx, cut.rx))


def _new(sender: int, receiver: Node, port: int, numbers: Iterator[int]) -> _Pair:
    where = {"port": port, "protocol": "udp"}
    tx = HandlerSpec(next(numbers), "tx", TX, {"addr": receiver.addr, **where}, sender)
    rx = HandlerSpec(next(numbers), "rx", RX, {"addr": "", **where}, receiver.node_id)
    return _Pair(sender, receiver.node_id, tx, rx)


def _links(
    service: Service, placed: Mapping[int, int], pairs: Mapping[Link, _Pair]
) -> Mapping[int, list[Link]]:
    """Return the links of each node, those to its tx and from its rx among them."""
    found: dict[int, list[Link]] = {}
    fed: set[int] = set()
    for link in service.links:
        pair = pairs.get(link)
        here = found.setdefault(placed[link.source_handler], [])
        if pair is None:
            here.append(link)
            continue
        if pair.tx.handler_id not in fed:
            fed.add(pair.tx.handler_id)
            here.append(Link(link.source_handler, link.source_output, pair.tx.handler_id, 0))
        there = found.setdefault(pair.receiver, [])
        there.append(Link(pair.rx.handler_id, 0, link.target_handler, link.target_input))
    return found
