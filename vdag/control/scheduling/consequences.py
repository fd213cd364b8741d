"""What an event about a node, or the time, means for one query: events inside of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from vdag.control.scheduling.events import JobInfo

__all__ = [
    "CheckDue",
    "Consequence",
    "HostBack",
    "HostLost",
    "PeerBack",
    "PeriodDue",
    "PushDue",
    "Reconsider",
]


@dataclass(frozen=True, slots=True)
class HostLost:
    """The node that owns the video is away."""

    now_ns: int
    query_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostBack:
    """The node that owns the video has joined; `job` is what it has of the query, None for none."""

    now_ns: int
    query_id: str
    job: JobInfo | None


@dataclass(frozen=True, slots=True)
class PeerBack:
    """A node that the plan needs has joined again, and may take frames at another landing.

    Attributes:
        lost: the landing whose frames will not come home, for it is another process; else empty.
    """

    now_ns: int
    query_id: str
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Reconsider:
    """The nodes have changed in a way that matters to the plan; `cause` says how."""

    now_ns: int
    query_id: str
    cause: str


@dataclass(frozen=True, slots=True)
class PeriodDue:
    """It is time to look whether a new plan is called for."""

    now_ns: int
    query_id: str


@dataclass(frozen=True, slots=True)
class PushDue:
    """It is time to repeat the plan to a node that never asks."""

    now_ns: int
    query_id: str


@dataclass(frozen=True, slots=True)
class CheckDue:
    """Nodes that the plan needs have had time enough to come back."""

    now_ns: int
    query_id: str


Consequence = HostLost | HostBack | PeerBack | Reconsider | PeriodDue | PushDue | CheckDue
