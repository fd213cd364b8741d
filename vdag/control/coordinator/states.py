"""How sessions stand: values of the book, and how long nodes are waited for."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from vdag.control.coordinator.steps import Step, Wish

__all__ = ["AFTER", "DURING", "TAKES", "Move", "Patience", "Session", "State"]


class State(str, enum.Enum):
    """How far a session is; the values are shown and recorded."""

    CREATED = "created"
    INITIALISING = "initialising"
    INITIALIZED = "initialized"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    DELETING = "deleting"
    DELETED = "deleted"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


#: What a step is called while it is under way.
DURING: Mapping[Step, State] = {
    "init": State.INITIALISING,
    "start": State.STARTING,
    "stop": State.STOPPING,
    "delete": State.DELETING,
}
#: And when it has succeeded.
AFTER: Mapping[Step, State] = {
    "init": State.INITIALIZED,
    "start": State.RUNNING,
    "stop": State.STOPPED,
    "delete": State.DELETED,
}
#: What may be wished for, and when.
TAKES: Mapping[Wish, frozenset[State]] = {
    "start": frozenset({State.INITIALISING, State.INITIALIZED}),
    "stop": frozenset({State.STARTING, State.RUNNING}),
    "delete": frozenset(State) - {State.DELETED},
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the nodes of a session may take for a step, seconds.

    Attributes:
        init_s: to load what its handlers need.
        start_s: to begin.
        stop_s: to end; documented nodes take ten seconds for it.
        delete_s: to forget it.
        move_s: to change over.
    """

    init_s: float = 60.0
    start_s: float = 15.0
    stop_s: float = 20.0
    delete_s: float = 10.0
    move_s: float = 15.0

    def of(self, step: Step) -> float:
        """Return it, seconds."""
        return {
            "init": self.init_s,
            "start": self.start_s,
            "stop": self.stop_s,
            "delete": self.delete_s,
        }[step]


@dataclass(slots=True)
class Move:
    """A move under way; `nodes` are yet to answer, none when it is time to change over."""

    cause: str
    due_ns: int
    nodes: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Session:
    """A session in the book.

    Attributes:
        session_id: its number.
        state: see `State`.
        reason: why it has failed or stopped, or what the latest move failed of.
        nodes: that have to do with it.
        step: that is under way; None for none.
        waiting: nodes that have not answered that.
        due_ns: when they have to have.
        todo: steps that follow.
        ordered: nodes that were told to init, and not to delete since.
        is_leaving: it is to be deleted as soon as nothing else has to be done.
        move: under way.
    """

    session_id: int
    nodes: tuple[int, ...]
    state: State = State.CREATED
    reason: str = ""
    step: Step | None = None
    waiting: set[int] = field(default_factory=set)
    due_ns: int = 0
    todo: list[Step] = field(default_factory=list)
    ordered: set[int] = field(default_factory=set)
    is_leaving: bool = False
    move: Move | None = None

    @property
    def is_settled(self) -> bool:
        """Whether no step is under way, nor one to undo what has failed."""
        return self.step is None
