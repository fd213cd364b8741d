"""`Foreigners`: nodes of other makes, which speak only the documented REST.

They register one video at a time, say nothing of their tasks, and never leave. Those that ask for
their work are heard of each time (`pull`); the others are called (`push`), by whoever dispatches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vdag.control.controller.membership import ip_of
from vdag.control.desk import Jobs, NodeJoining, QueryView
from vdag.control.scheduling.events import NodeInfo, VideoInfo
from vdag.errors import ConfigError

__all__ = ["Foreigners"]

MAX_NODES = 4_096
MAX_VIDEOS = 1_024


class Foreigners:
    """See above; for one thread.

    Args:
        service_port: where they do tasks, by `/execute_task`: what they have in place of a landing.

    Attributes:
        version: rises with every change of the nodes or their videos.
    """

    def __init__(self, service_port: int = 5500) -> None:
        self._service_port = service_port
        self.version = 0
        self._nodes: dict[str, NodeInfo] = {}
        self._given: dict[str, set[str]] = {}

    def __iter__(self) -> Iterator[NodeInfo]:
        return iter(self._nodes.values())

    def get(self, node_addr: str) -> NodeInfo | None:
        """Return a node, None if it is none of these."""
        return self._nodes.get(node_addr)

    def join(self, joining: NodeJoining) -> NodeInfo:
        """Register a video; return its node with all that it has registered.

        Raises:
            ConfigError: it has no address, or there are too many of nodes or videos.
        """
        host = f"[{joining.ip}]" if ":" in joining.ip else joining.ip
        node_addr = f"{host}:{joining.port}"
        ip = ip_of(node_addr)
        before = self._nodes.get(node_addr)
        if before is None and len(self._nodes) >= MAX_NODES:
            raise ConfigError(f"{len(self._nodes)} nodes have joined, which is the limit")
        videos = dict(before.videos) if before is not None else {}
        videos[joining.video_id] = VideoInfo(joining.video_type)
        if len(videos) > MAX_VIDEOS:
            raise ConfigError(f"{len(videos)} videos of {node_addr} exceed {MAX_VIDEOS}")
        landing = f"http://{host}:{self._service_port}"
        node = NodeInfo(node_addr, ip, "edge", "", joining.dialect, videos, landing=landing)
        self._nodes[node_addr] = node if before is None else replace(before, videos=videos)
        self.version += 1
        return self._nodes[node_addr]

    def remove(self, node_addr: str) -> None:
        """Forget a node, which speaks the plan channel from now on."""
        if self._nodes.pop(node_addr, None) is not None:
            self.version += 1
        self._given.pop(node_addr, None)

    def work(self, node_addr: str, queries: Sequence[QueryView]) -> Jobs:
        """Return what a node that asks is given, of the queries about its videos."""
        given = self._given.setdefault(node_addr, set())
        new = [query for query in queries if query.query_id not in given]
        self._given[node_addr] = {query.query_id for query in queries}
        return Jobs(new, [query for query in queries if query.plan is not None])
