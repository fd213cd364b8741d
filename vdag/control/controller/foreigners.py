"""`Foreigners`: nodes of other makes, which speak only the documented REST.

They register one video at a time, say nothing of their tasks, and never leave. Those that ask for
their work are heard of each time (`pull`); the others are called (`push`), by whoever dispatches.

Most of them register when they start, and never again. So they are recorded, with the work that
they were given, and known again after a restart; whether they are still there, an order will show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from vdag.control.controller.membership import Member, ip_of
from vdag.control.desk import Jobs, NodeJoining, QueryView
from vdag.control.records import ForeignNode
from vdag.control.scheduling.events import Dialect, NodeInfo, VideoInfo
from vdag.errors import ConfigError

__all__ = ["Foreigners", "links_of"]

logger = logging.getLogger(__name__)

MAX_NODES = 4_096
MAX_VIDEOS = 1_024
#: The documents' units of a bandwidth, to bytes per second.
UNITS: Mapping[str, float] = {"bps": 0.125, "kbps": 125.0, "Mbps": 125e3, "kB/s": 1e3, "MB/s": 1e6}
#: A faster link is none.
MAX_RATE = 1e11


class Book(Protocol):
    """Where they are recorded; see `Recorder`."""

    def foreigner(self, node: ForeignNode) -> None:
        """Record a node."""

    def forget_foreigner(self, node_addr: str) -> None:
        """Record it no more."""


class Foreigners:
    """See above; for one thread.

    Args:
        service_port: where they do tasks, by `/execute_task`: what they have in place of a landing.
        book: they are recorded there; None to forget them with this object.

    Attributes:
        version: rises with every change of the nodes or their videos.
    """

    def __init__(self, service_port: int = 5500, book: Book | None = None) -> None:
        self._service_port, self._book = service_port, book
        self.version = 0
        self._nodes: dict[str, NodeInfo] = {}
        self._given: dict[str, frozenset[str]] = {}

    def __iter__(self) -> Iterator[NodeInfo]:
        return iter(self._nodes.values())

    def get(self, node_addr: str) -> NodeInfo | None:
        """Return a node, None if it is none of these."""
        return self._nodes.get(node_addr)

    def join(self, joining: NodeJoining) -> NodeInfo:
        """Register a video; return its node with all that it has registered.

        One that is registered already says that the node was started anew: it has no work then.

        Raises:
            ConfigError: it has no address, or there are too many of nodes or videos.
        """
        host = f"[{joining.ip}]" if ":" in joining.ip else joining.ip
        node_addr = f"{host}:{joining.port}"
        before = self._nodes.get(node_addr)
        if before is None and len(self._nodes) >= MAX_NODES:
            raise ConfigError(f"{len(self._nodes)} nodes have joined, which is the limit")
        videos = dict(before.videos) if before is not None else {}
        videos[joining.video_id] = VideoInfo(joining.video_type)
        if len(videos) > MAX_VIDEOS:
            raise ConfigError(f"{len(videos)} videos of {node_addr} exceed {MAX_VIDEOS}")
        new = self._node(node_addr, joining.dialect, videos)
        node = new if before is None else replace(before, videos=videos)
        is_anew = before is not None and joining.video_id in before.videos
        given = self._given.pop(node_addr, None) if is_anew else None
        if node != before:
            self._nodes[node_addr] = node
            self.version += 1
        if node != before or given:
            self._keep(node_addr)
        return node

    def restore(self, records: Iterable[ForeignNode]) -> Iterator[NodeInfo]:
        """Take up nodes that were recorded, and yield them; broken records are passed over."""
        for record in records:
            videos = {number: VideoInfo(text) for number, text in record.videos.items()}
            try:
                node = self._node(record.node_addr, _dialect(record.dialect), videos)
            except ConfigError as err:
                logger.warning("node %s is forgotten: %s", record.node_addr, err)
                continue
            self._nodes[node.node_addr] = node
            self._given[node.node_addr] = frozenset(record.given)
            self.version += 1
            yield node

    def remove(self, node_addr: str) -> None:
        """Forget a node, which speaks the plan channel from now on."""
        self._given.pop(node_addr, None)
        if self._nodes.pop(node_addr, None) is not None:
            self.version += 1
            if self._book is not None:
                self._book.forget_foreigner(node_addr)

    def work(self, node_addr: str, queries: Sequence[QueryView]) -> Jobs:
        """Return what a node that asks is given, of the queries about its videos."""
        before = self._given.get(node_addr, frozenset())
        new = [query for query in queries if query.query_id not in before]
        given = self._given[node_addr] = frozenset(query.query_id for query in queries)
        if given != before:
            self._keep(node_addr)
        return Jobs(new, [query for query in queries if query.plan is not None])

    def _node(self, node_addr: str, dialect: Dialect, videos: Mapping[int, VideoInfo]) -> NodeInfo:
        ip = ip_of(node_addr)
        landing = f"http://{node_addr.rpartition(':')[0]}:{self._service_port}"
        return NodeInfo(node_addr, ip, "edge", "", dialect, videos, landing=landing)

    def _keep(self, node_addr: str) -> None:
        node = self._nodes.get(node_addr)
        if self._book is not None and node is not None:
            videos = {number: video.type for number, video in node.videos.items()}
            given = self._given.get(node_addr, frozenset())
            self._book.foreigner(ForeignNode(node_addr, node.dialect, videos, given))


def _dialect(text: str) -> Dialect:
    if text not in ("push", "pull"):
        raise ConfigError(f"dialect {text!r} is not push or pull")
    return "push" if text == "push" else "pull"


def links_of(bandwidth: Any, members: Iterable[Member]) -> dict[str, float] | None:
    """Return the links that a node says it has measured to here, in bytes per second.

    It knows one address of the cloud only: the servers are taken to be where that is.

    Args:
        bandwidth: as it says it, by unit.
        members: the nodes of the plan channel.
    """
    if not isinstance(bandwidth, Mapping):
        return None
    for unit, factor in UNITS.items():
        value = bandwidth.get(unit)
        if isinstance(value, (int, float)) and 0.0 < value * factor <= MAX_RATE:
            servers = (each for each in members if each.is_alive and each.join.role == "cloud")
            return {server.node_addr: float(value * factor) for server in servers}
    return None
