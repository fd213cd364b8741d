"""A session's records over REST: what a cloud tells of a query, and who asks for it.

A reply has the rows of a number of sequences; `next` is the one to go on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vdag.control.records import Handler, NodeRecord, Packet, QueryRecord, SessionRecord
from vdag.control.records.inspection import Extent, Inspection, Subject
from vdag.errors import ConfigError, TransportError

__all__ = ["MAX_SEQUENCES", "SharedSession", "share"]

#: Of a reply: some 30,000 rows, two megabytes.
MAX_SEQUENCES = 2000


class Shared(msgspec.Struct, frozen=True):
    """A reply.

    Attributes:
        query_id: that it is of.
        session: of the query, the newest.
        handlers: of the session.
        nodes: all that are recorded.
        extent: of the session's packets; None for none.
        packets: rows, by sequence.
        next: sequence that the next reply is to begin with; None if there are no more.
        query: as it is recorded.
        status: 0, as of all replies.
    """

    query_id: str
    session: SessionRecord
    handlers: list[Handler]
    nodes: list[NodeRecord]
    extent: Extent | None
    packets: list[Packet]
    next: int | None
    query: QueryRecord | None = None
    status: int = 0


def share(
    inspection: Inspection,
    name: str,
    *,
    first: int,
    last: int | None,
    step: int = 1,
    max_sequences: int = MAX_SEQUENCES,
) -> Shared:
    """Return what is recorded of a query's newest session.

    Args:
        inspection: of the records.
        name: the query's id.
        first: sequence of the first packet.
        last: likewise, of the last one; None for no end.
        step: from one sequence to the next.
        max_sequences: whose rows are in one reply.

    Raises:
        ConfigError: it has no session.
    """
    subject = inspection.subject(name)
    if subject.session is None:
        raise ConfigError(f"{name} has no session")
    number = subject.session_id
    extent = inspection.extent(number)
    end = extent.last if extent is not None else -1
    end = end if last is None else min(last, end)
    following = first + max_sequences * step
    return Shared(
        name,
        subject.session,
        inspection.handlers(number),
        inspection.nodes(),
        extent,
        list(inspection.packets(number, first=first, last=min(end, following - 1), step=step)),
        following if following <= end else None,
        subject.query,
    )


class SharedSession:
    """A session as a cloud tells it; a `Look`.

    Args:
        ask: returns a reply, as JSON that was read, for the first and the last sequence and how
            many it is from one to the next.

    Raises:
        TransportError: as of `ask`, or the reply is none; as of all methods.
    """

    def __init__(self, ask: Callable[[int, int | None, int], Any]) -> None:
        self._ask = ask
        # All but the packets, of which there are none before the first.
        told = self._told = self._read(0, 0, 1)
        self.subject = Subject(told.session.session_id, told.session, told.query)

    def handlers(self, session_id: int) -> list[Handler]:
        """Return the handlers of the session by their numbers."""
        return self._told.handlers

    def nodes(self) -> list[NodeRecord]:
        """Return all nodes by their numbers."""
        return self._told.nodes

    def extent(self, session_id: int) -> Extent | None:
        """Return how much is recorded of the session's packets; None for nothing."""
        return self._told.extent

    def packets(
        self, session_id: int, *, first: int = 0, last: int | None = None, step: int = 1
    ) -> Iterator[Packet]:
        """Yield the rows of packets of the session, by their sequence and in no other order."""
        following: int | None = first
        while following is not None:
            reply = self._read(following, last, step)
            yield from reply.packets
            if reply.next is not None and reply.next <= following:
                raise TransportError(f"reply goes on with {reply.next} after {following}")
            following = reply.next

    def _read(self, first: int, last: int | None, step: int) -> Shared:
        try:
            return msgspec.convert(self._ask(first, last, step), Shared)
        except msgspec.ValidationError as err:
            raise TransportError(f"reply cannot be read: {err}") from err
