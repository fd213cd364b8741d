"""What a controller is told at its start, and what it says of itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vdag.control.controller.chronicle import ChronicleStats
from vdag.control.controller.switchboard import SwitchboardStats
from vdag.control.scheduling.scheduler import SchedulerSettings

__all__ = ["ControllerSettings", "ControllerStats"]


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What a controller is told at its start.

    Attributes:
        channel: address of the plan channel; beyond loopback with keys only.
        policy: of queries that name none.
        policies: that queries may name, beside those built in.
        scheduler: its times.
        report_s: how often nodes are to report.
        hold_s: how long their question for orders is held back.
        service_port: where nodes that speak only the documented REST do tasks.
        profile: file of the knowledge base to begin with; None for the one of the package.
        kept: where it is kept with what was learned, to go on with it; None for nowhere.
        spared: tasks that nodes have been ordered to do before, and go on with.
    """

    channel: str = "tcp://127.0.0.1:5010"
    policy: str = "golden"
    policies: Collection[str] = ()
    scheduler: SchedulerSettings = SchedulerSettings()  # noqa: RUF009 - it is frozen
    report_s: float = 0.5
    hold_s: float = 1.0
    service_port: int = 5500
    profile: Path | None = None
    kept: Path | None = None
    spared: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ControllerStats:
    """How a controller is.

    Attributes:
        channel: what nodes have said.
        queries: that it has.
        inbox: wishes that wait.
        late: events that came too late to mean anything.
        faults: wishes and messages that failed in a way nobody thought of; see the log.
        malformed: results that make no sense.
        refused_nodes: connections of nodes that are not trusted.
        chronicle: what nodes have had for the records.
    """

    channel: SwitchboardStats
    queries: int
    inbox: int
    late: int
    faults: int
    malformed: int
    refused_nodes: int
    chronicle: ChronicleStats
