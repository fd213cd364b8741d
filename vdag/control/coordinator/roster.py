"""`Roster`: the nodes of the files, and which of those that have joined each of them is.

A node file says where a node is. A node of ours dials in, and says its address, the port of one of
its roles, and its name. Those of one file are looked for by address and port, then by address and
name, then by name, which keys vouch for, then by address alone, if only one has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence

from vdag.control.coordination.values import Node
from vdag.control.desk import KnownNode, KnownVideo
from vdag.errors import NotFound, PlanError

__all__ = ["Roster", "video_of"]


class Roster:
    """See above; a snapshot, for one moment.

    Args:
        nodes: of the files.
        known: that have joined.
    """

    def __init__(self, nodes: Iterable[Node], known: Sequence[KnownNode]) -> None:
        self._nodes = {node.node_id: node for node in nodes}
        channel = [each for each in known if each.dialect == "channel"]
        self._known: dict[int, KnownNode] = {}
        self._numbers: dict[str, int] = {}
        for rule in (_is_at, _is_named_there, _is_named, _is_alone):
            for node in self._nodes.values():
                if node.speaks == "vdag" and node.node_id not in self._known:
                    free = [each for each in channel if each.node_addr not in self._numbers]
                    self._match(node, [each for each in free if rule(node, each)])

    def _match(self, node: Node, found: Sequence[KnownNode]) -> None:
        # After a restart under another port the node is there twice, once away.
        alive = [each for each in found if each.is_alive] or list(found)
        if len(alive) == 1:
            self._known[node.node_id] = alive[0]
            self._numbers[alive[0].node_addr] = node.node_id

    def node(self, node_id: int) -> Node:
        """Return a node of the files.

        Raises:
            NotFound: there is none of that number.
        """
        node = self._nodes.get(node_id)
        if node is None:
            raise NotFound(f"node {node_id} is of no node file")
        return node

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes of the files, by their numbers."""
        return tuple(self._nodes.values())

    def known(self, node_id: int) -> KnownNode | None:
        """Return what has joined as a node; None if nothing has, or it speaks http."""
        return self._known.get(node_id)

    def addr(self, node_id: int) -> str:
        """Return the name of a node on the plan channel.

        Raises:
            PlanError: it has not joined.
        """
        known = self._known.get(node_id)
        if known is None:
            node = self.node(node_id)
            raise PlanError(f"node {node_id} {node.name} has not joined")
        return known.node_addr

    def number(self, node_addr: str) -> int | None:
        """Return the number of a node that has joined; None if it is of no file."""
        return self._numbers.get(node_addr)

    def is_there(self, node_id: int) -> bool:
        """Say whether a node can be counted on: of one that speaks http, nobody knows."""
        node, known = self._nodes.get(node_id), self._known.get(node_id)
        if node is None:
            return False
        return node.speaks == "http" or (known is not None and known.is_alive)

    def numbers(self, node_addrs: Mapping[int, str]) -> dict[int, int] | None:
        """Return the numbers of nodes for their names; None if one is of no file."""
        found = {key: self._numbers.get(name) for key, name in node_addrs.items()}
        if None in found.values():
            return None
        return {key: number for key, number in found.items() if number is not None}


def video_of(node: KnownNode, source: int | str) -> int:
    """Return the number of the video that a handler captures.

    Args:
        node: that owns it.
        source: its number, or what it shows, as the node's settings say it.

    Raises:
        PlanError: there is no such video, or not one alone.
    """
    text = str(source)
    if text.isascii() and text.isdecimal():
        if int(text) in node.videos:
            return int(text)
        raise PlanError(f"node {node.node_addr} has no video {text}")
    found = [number for number, video in node.videos.items() if _shows(video, text)]
    if len(found) != 1:
        raise PlanError(f"node {node.node_addr} has {len(found) or 'no'} videos of type {text!r}")
    return found[0]


def _shows(video: KnownVideo, text: str) -> bool:
    return video.type == text


def _ip(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        return address.lower()


def _split(node_addr: str) -> tuple[str, int]:
    host, _, port = node_addr.rpartition(":")
    return _ip(host), int(port)


_Rule = Callable[[Node, KnownNode], bool]


def _is_at(node: Node, known: KnownNode) -> bool:
    return (_ip(node.addr), node.port) == _split(known.node_addr)


def _is_named_there(node: Node, known: KnownNode) -> bool:
    return _is_named(node, known) and _is_alone(node, known)


def _is_named(node: Node, known: KnownNode) -> bool:
    return bool(known.name) and node.name == known.name


def _is_alone(node: Node, known: KnownNode) -> bool:
    return _ip(node.addr) == _split(known.node_addr)[0]
