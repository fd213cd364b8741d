"""A session's records over REST: what a cloud tells of a query, and who asks for it.

A reply has the rows of a number of sequences; `next` is the one to go on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vdag.control.records import Handler, NodeRecord, Packet, SessionRecord
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
        status: 0, as of all replies.
    """

    query_id: str
    session: SessionRecord
    handlers: list[Handler]
    nodes: list[NodeRecord]
    extent: Extent | None
    packets: list[Packet]
    next: int | None
    status: int = 0


def share(
    inspection: Inspection,
    name: str,
    *,
    first: int,
    last: int | None,
    max_sequences: int = MAX_SEQUENCES,
) -> Shared:
    """Return what is recorded of a query's newest session.

    Args:
        inspection: of the records.
        name: the query's id.
        first: sequence of the first packet.
        last: likewise, of the last one; None for no end.
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
    here = min(end, first + max_sequences - 1)
    return Shared(
        name,
        subject.session,
        inspection.handlers(number),
        inspection.nodes(),
        extent,
        list(inspection.packets(number, first=first, last=here)),
        here + 1 if here < end else None,
    )


class SharedSession:
    """A session as a cloud tells it; a `Look`.

    Args:
        ask: returns a reply, as JSON that was read, for the first and the last sequence.

    Raises:
        TransportError: as of `ask`, or the reply is none; as of all methods.
    """

    def __init__(self, ask: Callable[[int, int | None], Any]) -> None:
        self._ask = ask
        # All but the packets, of which there are none before the first.
        self._told = self._read(0, 0)
        self.subject = Subject(self._told.session.session_id, self._told.session)

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
        self, session_id: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[Packet]:
        """Yield the rows of packets of the session, by their sequence and in no other order."""
        following: int | None = first
        while following is not None:
            reply = self._read(following, last)
            yield from reply.packets
            if reply.next is not None and reply.next <= following:
                raise TransportError(f"reply goes on with {reply.next} after {following}")
            following = reply.next

    def _read(self, first: int, last: int | None) -> Shared:
        try:
            return msgspec.convert(self._ask(first, last), Shared)
        except msgspec.ValidationError as err:
            raise TransportError(f"reply cannot be read: {err}") from err
