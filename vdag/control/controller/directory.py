"""`Directory`: the nodes that have joined, of either kind, as they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vdag.control import wire
from vdag.control.controller.foreigners import Foreigners
from vdag.control.controller.membership import Member, Membership
from vdag.control.desk import KnownNode, KnownVideo
from vdag.control.scheduling.events import NodeInfo, VideoInfo

__all__ = ["Directory"]


class Directory:
    """See above; for one thread.

    Args:
        members: nodes of the plan channel.
        foreigners: nodes that speak only the documented REST.
        is_alive: says of one of these whether it is there.
    """

    def __init__(
        self, members: Membership, foreigners: Foreigners, is_alive: Callable[[str], bool]
    ) -> None:
        self._members, self._foreigners, self._is_alive = members, foreigners, is_alive
        self._key: tuple[int, int, list[bool]] | None = None
        self._nodes: tuple[KnownNode, ...] = ()

    def nodes(self) -> tuple[KnownNode, ...]:
        """Return all of them, without their jobs; the same object if unchanged."""
        alive = [self._is_alive(node.node_addr) for node in self._foreigners]
        key = (self._members.version, self._foreigners.version, alive)
        if key != self._key:
            self._key = key
            self._nodes = (
                *(_of_member(member) for member in self._members),
                *map(_of_foreigner, self._foreigners, alive),
            )
        return self._nodes


def _of_member(member: Member) -> KnownNode:
    join, videos = member.join, _known(member.join.videos)
    return KnownNode(join.node_addr, join.role, join.name, "channel", member.is_alive, videos)


def _of_foreigner(node: NodeInfo, is_alive: bool) -> KnownNode:
    videos = _known(node.videos)
    return KnownNode(node.node_addr, node.role, node.name, node.dialect, is_alive, videos)


def _known(videos: Mapping[int, VideoInfo | wire.Video]) -> dict[int, KnownVideo]:
    return {
        number: KnownVideo(video.type, video.width, video.height, video.fps)
        for number, video in videos.items()
    }
