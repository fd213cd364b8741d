"""What a node knows of the jobs whose frames travel, and what became of them: values of `Peers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vdag.transport.messages import Join

if TYPE_CHECKING:
    from vdag.transport.departures import EdgeStats
    from vdag.transport.landing import LandingStats
    from vdag.transport.peer import Lane

__all__ = ["Guest", "PeersStats", "Voyage"]


@dataclass(frozen=True, slots=True)
class PeersStats:
    """The traffic with other nodes.

    Attributes:
        landing: what came in.
        edges: per address and lane what went out.
        guests: jobs of other nodes that are known here.
        refused: messages of other nodes that were not for an exchange, or one too many.
    """

    landing: LandingStats
    edges: Mapping[str, Mapping[Lane, EdgeStats]]
    guests: int
    refused: int


@dataclass(frozen=True, slots=True)
class Guest:
    """A job of another node: what it said, whose key it came with, and when that was, last.

    `ways` are the addresses that its frames go on to, or went: some may still be under way.
    """

    join: Join
    key: str
    heard_s: float
    ways: frozenset[str] = frozenset()


@dataclass(slots=True)
class Voyage:
    """A job of this node, and what the nodes that its frames visit are told, by address."""

    joins: dict[str, Join] = field(default_factory=dict)
