"""`packets_of`: the way of a frame through its tasks, as rows of `packet_info`.

A result says where its time went, as lengths; rows say when. The way begins at the capture and goes
on from task to task; at each, the frame is on its way (`transfer_s`), waits (`queue_s`) and is
worked on (`compute_s`). So with handlers A and B in this order:

    capture start = end      sent?   recv?  start  end    sent?   recv?  start  end    sent?  recv?
                     |-------transfer---|-queue-|compute|---transfer--|-queue-|compute|---home---|
    handler          source             A                             B                       sink

`sent` and `recv` are there where the frame went to another node: they are the begin and the end of
the transfer, encoding and decoding included. All times are counted from the one of the capture, by
one clock: no part is negative, and the parts of a way add up to the whole of it.

Tasks that need nothing of each other are done at the same time, on *branches*: each begins at the
capture, and the sink is reached when the last of them is home. A frame that was lost has the rows
of what is known of it, and none of the sink.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vdag.control.records.reports import Packet, PacketRow
from vdag.errors import ConfigError

__all__ = ["Leg", "Stop", "packets_of", "rows_of"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a frame comes by.

    Attributes:
        handler_id: of the handler, within its session.
        node_id: where it is.
    """

    handler_id: int
    node_id: int


class Parts(Protocol):
    """Where a frame's time at one task went: a `vdag.results.TaskParts`."""

    @property
    def transfer_s(self) -> float:
        """On its way to the task."""

    @property
    def queue_s(self) -> float:
        """In the queue of the task."""

    @property
    def compute_s(self) -> float:
        """In a worker."""


#: Of a branch: where a task was done, the three parts of its time in seconds, and the bytes that
#: travelled there; None if that is not known.
Leg = tuple[Stop, float, float, float, int | None]


def packets_of(
    parts: Mapping[str, Parts],
    *,
    captured_s: float,
    session_id: int,
    sequence: int,
    source: Stop,
    tasks: Mapping[str, Stop],
    sink: Stop | None = None,
    home_s: float = 0.0,
    sizes: Mapping[str, int] | None = None,
    branches: Sequence[Sequence[str]] | None = None,
) -> list[Packet]:
    """Return the rows of a frame, in the order of their times if it has one branch.

    Args:
        parts: where its time went, by task in the order of its way: `Result.parts`.
        captured_s: of the frame, seconds since the epoch.
        session_id: of the session.
        sequence: of the frame: `Result.seq`.
        source: what has captured it.
        tasks: where each task was done.
        sink: where the result went; None if that is not recorded, or the frame was lost.
        home_s: of the way there from the last task: `Result.home_s`.
        sizes: bytes that travelled to a task, by its name; of those that are known.
        branches: the tasks that are done one after the other; None for one branch of them all.

    Raises:
        ConfigError: a task of `parts` is not in `tasks`.
    """
    if unknown := [task for task in parts if task not in tasks]:
        raise ConfigError(f"task {unknown[0]} has no handler")
    sizes = sizes or {}
    legs: list[list[Leg]] = [
        [
            (tasks[task], part.transfer_s, part.queue_s, part.compute_s, sizes.get(task))
            for task in branch
            if (part := parts.get(task)) is not None
        ]
        for branch in ([list(parts)] if branches is None else branches)
    ]
    longest_s = max((sum(map(_length, branch)) for branch in legs), default=0.0)
    whole_s = longest_s + max(home_s, 0.0)
    rows = rows_of(session_id, sequence, captured_s, source, legs, sink, whole_s)
    return [Packet(*row) for row in rows]


def rows_of(
    session_id: int,
    sequence: int,
    captured_s: float,
    source: Stop,
    branches: Sequence[Sequence[Leg]],
    sink: Stop | None,
    whole_s: float,
) -> list[PacketRow]:
    """Return the rows of a frame as plain tuples; see `packets_of`.

    Args:
        session_id: of the session.
        sequence: of the frame.
        captured_s: of the frame, seconds since the epoch.
        source: what has captured it.
        branches: its legs, in their order.
        sink: where the result went; None for nowhere.
        whole_s: from the capture until it was there; at least what the longest branch takes.
    """
    # In one piece: it is done for every frame of every job, ten rows each.
    origin, capturer = source.node_id, source.handler_id
    found: list[PacketRow] = [
        (captured_s, session_id, capturer, sequence, "start", None, origin),
        (captured_s, session_id, capturer, sequence, "end", None, origin),
    ]
    home_s, is_received = captured_s + whole_s, False
    lasts: list[tuple[float, int, int]] = []
    for branch in branches:
        at_s, node, handler = captured_s, origin, capturer
        for stop, transfer_s, queue_s, compute_s, size in branch:
            there, next_handler = stop.node_id, stop.handler_id
            is_far = there != node
            if is_far:
                found.append((at_s, session_id, handler, sequence, "sent", size, node))
            # Lengths of two clocks may come out below nothing, which is measured inexactly, not so.
            if transfer_s > 0.0:
                at_s += transfer_s
            node, handler = there, next_handler
            if is_far:
                found.append((at_s, session_id, handler, sequence, "recv", size, node))
            if queue_s > 0.0:
                at_s += queue_s
            found.append((at_s, session_id, handler, sequence, "start", None, node))
            if compute_s > 0.0:
                at_s += compute_s
            found.append((at_s, session_id, handler, sequence, "end", None, node))
        lasts.append((at_s, node, handler))
        if at_s > home_s:
            home_s = at_s
    if sink is not None:
        there, last = sink.node_id, sink.handler_id
        for at_s, node, handler in lasts:
            if node != there:
                found.append((at_s, session_id, handler, sequence, "sent", None, node))
                is_received = True
        if is_received:
            found.append((home_s, session_id, last, sequence, "recv", None, there))
        found.append((home_s, session_id, last, sequence, "start", None, there))
        found.append((home_s, session_id, last, sequence, "end", None, there))
    return found if len(branches) < 2 else _merged(found)


def _merged(rows: list[PacketRow]) -> list[PacketRow]:
    """Return rows of which no two are the same event: what a frame sends on two branches is one."""
    found: dict[tuple[float, int, str], PacketRow] = {}
    for row in rows:
        at_s, _, handler, _, event, size, _ = row
        before = found.get((at_s, handler, event))
        if before is not None:
            both = (size or 0) + (before[5] or 0)
            row = (*before[:5], both or None, before[6])
        found[at_s, handler, event] = row
    return list(found.values())


def _length(leg: Leg) -> float:
    """Return how long a leg takes, in seconds."""
    return max(leg[1], 0.0) + max(leg[2], 0.0) + max(leg[3], 0.0)
