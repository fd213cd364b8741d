"""What the book of sessions is told, and what it wants done: values.

An event says what has happened and when, on the coordinator's monotonic clock. An instruction is an
order: whoever carries it out says what became of it by an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Answered",
    "Began",
    "Event",
    "Forget",
    "Instruction",
    "Lost",
    "MoveWanted",
    "Moved",
    "Note",
    "Order",
    "Over",
    "Step",
    "SwitchOver",
    "Tick",
    "Wanted",
    "Wish",
]

#: What a node is ordered, by the documents' words.
Step = Literal["init", "start", "stop", "delete"]
#: What a user may want of a session that is there.
Wish = Literal["start", "stop", "delete"]


@dataclass(frozen=True, slots=True)
class Began:
    """A session is recorded and placed.

    Attributes:
        now_ns: when.
        session_id: its number.
        nodes: that it is placed on.
        is_running: it has gone on since before the coordinator was started.
    """

    now_ns: int
    session_id: int
    nodes: tuple[int, ...]
    is_running: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A user wants something of a session."""

    now_ns: int
    session_id: int
    wish: Wish


@dataclass(frozen=True, slots=True)
class Answered:
    """A node has done what it was ordered, or says why not."""

    now_ns: int
    session_id: int
    node_id: int
    step: Step
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """A node of a session is gone."""

    now_ns: int
    session_id: int
    node_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Over:
    """What a session does has come to its end by itself."""

    now_ns: int
    session_id: int
    reason: str
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class MoveWanted:
    """A session shall be placed otherwise.

    Attributes:
        now_ns: when.
        session_id: which.
        cause: why.
        gains: nodes that are to init handlers which they did not have.
    """

    now_ns: int
    session_id: int
    cause: str
    gains: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """A session has changed over, to these nodes; or it has not, for a reason."""

    now_ns: int
    session_id: int
    nodes: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; worth saying at `SessionBook.next_due_ns`."""

    now_ns: int


Event = Began | Wanted | Answered | Lost | Over | MoveWanted | Moved | Tick


@dataclass(frozen=True, slots=True)
class Order:
    """Have a node take a step; say `Answered`."""

    session_id: int
    node_id: int
    step: Step


@dataclass(frozen=True, slots=True)
class SwitchOver:
    """Have a session follow its new placement, all of which is ready; say `Moved`."""

    session_id: int


@dataclass(frozen=True, slots=True)
class Forget:
    """A move is over: have nodes forget the handlers that they have no longer.

    Attributes:
        session_id: of the session.
        nodes: that it is placed on now; None if the move is given up and it stays where it is.
        cause: of the move.
    """

    session_id: int
    nodes: tuple[int, ...] | None
    cause: str


@dataclass(frozen=True, slots=True)
class Note:
    """Show and record how a session stands."""

    session_id: int
    state: str
    reason: str


Instruction = Order | SwitchOver | Forget | Note
