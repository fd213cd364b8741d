"""`World`: what the scheduler's orders act upon, and what it hears from: nodes and their jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from vdag.control.scheduling.events import Event, NodeInfo
from vdag.control.simulation.outcome import Books, Window
from vdag.control.simulation.scenario import Step
from vdag.plan import Plan

__all__ = ["Record", "World"]


class Record(NamedTuple):
    """What a world knows of a query in the end."""

    windows: Sequence[Window]
    books: Books


class World(Protocol):
    """A model of the nodes; two of them there are: of frames, and of flows."""

    #: Frames that were simulated so far.
    frames: int

    def infos(self) -> Mapping[str, NodeInfo]:
        """Return `node_addr` to the node as it describes itself when it joins."""

    def is_up(self, node_addr: str) -> bool:
        """Whether a node is there."""

    def start(self, query_id: str, plan: Plan) -> None:
        """Begin a job, or go on with it under another plan."""

    def give_up(self, query_id: str, node_addrs: Collection[str]) -> None:
        """Wait no more for frames that have tasks on nodes that are lost."""

    def stop(self, query_id: str, reason: str) -> None:
        """End a job."""

    def report(self, node_addr: str) -> Sequence[Event]:
        """Return what a node reports now: itself, then its jobs."""

    def change(self, step: Step) -> None:
        """Let something change."""

    def record(self, query_id: str) -> Record:
        """Return what came of a query."""
