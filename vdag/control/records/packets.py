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
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdag.control.records.reports import Packet
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from vdag.results import TaskParts

__all__ = ["Stop", "packets_of"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a frame comes by.

    Attributes:
        handler_id: of the handler, within its session.
        node_id: where it is.
    """

    handler_id: int
    node_id: int


def packets_of(
    parts: Mapping[str, TaskParts],
    *,
    captured_s: float,
    session_id: int,
    sequence: int,
    source: Stop,
    tasks: Mapping[str, Stop],
    sink: Stop | None = None,
    home_s: float = 0.0,
    sizes: Mapping[str, int] | None = None,
) -> list[Packet]:
    """Return the rows of a frame, in the order of their times.

    Args:
        parts: where its time went, by task in the order of its way: `Result.parts`.
        captured_s: of the frame, seconds since the epoch.
        session_id: of the session.
        sequence: of the frame: `Result.seq`.
        source: what has captured it.
        tasks: where each task was done.
        sink: where the result went; None if that is not recorded.
        home_s: of the way there from the last task: `Result.home_s`.
        sizes: bytes that travelled to a task, by its name; of those that are known.

    Raises:
        ConfigError: a task of `parts` is not in `tasks`.
    """
    if unknown := [task for task in parts if task not in tasks]:
        raise ConfigError(f"task {unknown[0]} has no handler")
    way = _Way(session_id, sequence, captured_s, source)
    found = [way.row("start"), way.row("end")]
    for task, part in parts.items():
        found += way.go_to(tasks[task], part.transfer_s, (sizes or {}).get(task))
        found.append(way.row("start", after_s=part.queue_s))
        found.append(way.row("end", after_s=part.compute_s))
    if sink is not None:
        found += way.go_to(sink, home_s, None)
        found += [way.row("start"), way.row("end")]
    return found


@dataclass(slots=True)
class _Way:
    """A frame at a stop at a time."""

    session_id: int
    sequence: int
    at_s: float
    stop: Stop

    def row(self, event: str, *, after_s: float = 0.0, size: int | None = None) -> Packet:
        """Let time pass; return what happens then."""
        # Lengths of two clocks may come out below nothing, which is measured inexactly, not so.
        self.at_s += max(0.0, after_s)
        return Packet(
            self.at_s,
            self.session_id,
            self.stop.handler_id,
            self.sequence,
            event,
            size,
            self.stop.node_id,
        )

    def go_to(self, stop: Stop, transfer_s: float, size: int | None) -> Iterator[Packet]:
        """Go on to the next stop; yield what the network has to do with it."""
        is_far = stop.node_id != self.stop.node_id
        if is_far:
            yield self.row("sent", size=size)
        self.stop = stop
        arrived = self.row("recv", after_s=transfer_s, size=size)
        if is_far:
            yield arrived
