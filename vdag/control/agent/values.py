"""What a node says of itself once, and how its agent is: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vdag.control import wire
from vdag.control.agent.spool import SpoolStats

__all__ = ["AgentStats", "Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a node says of itself once.

    Attributes:
        node_addr: `ip:port`, which names it.
        name: of its configuration, by which other nodes' keys know it.
        landing: address that frames for it are sent to, empty for none.
        videos: that it owns, by number.
    """

    node_addr: str
    name: str
    landing: str = ""
    videos: Mapping[int, wire.Video] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentStats:
    """How an agent is.

    Attributes:
        is_joined: the controller knows this node.
        joins: how often it has joined.
        reports: that were answered.
        orders: that were carried out, or could not be.
        failures: questions that were not answered, or badly.
        results: that were acknowledged.
        spool: those that were not.
        offset_ns: the controller's clock minus this one's, as far as it is known.
        round_trip_ns: of the latest report, without the time it took to be answered; 0 before.
    """

    is_joined: bool
    joins: int
    reports: int
    orders: int
    failures: int
    results: int
    spool: SpoolStats
    offset_ns: int
    round_trip_ns: int
