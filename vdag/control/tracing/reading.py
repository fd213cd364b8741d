"""A session's roster, from what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from vdag.control.records import Handler, NodeRecord, Packet
from vdag.control.records.inspection import Extent, Subject
from vdag.control.tracing.roster import Roster, links_of, roster_of

__all__ = ["Look", "read_roster"]

#: Sequences that are looked at for what nobody has recorded.
SAMPLE = 200


class Look(Protocol):
    """Where a session is read from: an `Inspection`, or a `SharedSession`."""

    def handlers(self, session_id: int) -> list[Handler]:
        """Return the handlers of a session by their numbers."""

    def nodes(self) -> list[NodeRecord]:
        """Return all nodes by their numbers."""

    def extent(self, session_id: int) -> Extent | None:
        """Return how much is recorded of a session's packets; None for nothing."""

    def packets(
        self, session_id: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[Packet]:
        """Yield the rows of packets of a session, by their sequence and in no other order."""


def read_roster(look: Look, subject: Subject, extent: Extent | None) -> Roster:
    """Return the roster of a session.

    Args:
        look: at the records.
        subject: the session.
        extent: of its packets; None for none.
    """
    number, session = subject.session_id, subject.session
    handlers = look.handlers(number)
    sample: list[Packet] = []
    if extent is not None:
        last = extent.first + SAMPLE - 1
        sample = list(look.packets(number, first=extent.first, last=last))
    is_query = session is not None and session.query_id is not None
    # As the sessions are numbered that queries get by themselves; those of services have types.
    is_own = is_query and len(handlers) > 1 and all(each.kind is None for each in handlers)
    return roster_of(
        handlers,
        look.nodes(),
        # Jobs do tasks that a service has beside one another one after the other, some of them.
        links=() if is_query or session is None else links_of(session.blueprint),
        ends=(handlers[0].handler_id, handlers[-1].handler_id) if is_own else None,
        sample=sample,
    )
