"""`Pass`: the rows of one packet from the source on, sorted into stays at handlers and hops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from vdag.control.records import EVENTS, Packet
from vdag.control.tracing.roster import Role, Roster, in_order, in_our_words

__all__ = ["Hop", "Pass", "Stay", "passes_of"]


@dataclass(slots=True)
class Stay:
    """What is known of a packet at a handler; times are None where rows are missing."""

    handler_id: int
    node_id: int | None
    first_s: float
    done_s: float
    last_event: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Hop:
    """A packet that has come from another node.

    Attributes:
        source: handler that it was with before; None if that is not known.
        source_node: where.
        sent_s: when; None if that was not recorded.
        target: handler that it came to.
        target_node: where.
        recv_s: when.
        nbytes: that travelled; None if that is not known.
    """

    source: int | None
    source_node: int | None
    sent_s: float | None
    target: int
    target_node: int | None
    recv_s: float
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Pass:
    """See above; hops are by the time they arrived.

    Attributes:
        stays: one per handler.
        hops: that have arrived at one.
        last: its last row.
        ignored: rows that were passed over.
    """

    stays: Sequence[Stay]
    hops: Sequence[Hop]
    last: Packet
    ignored: int


def passes_of(rows: Iterable[Packet], roster: Roster) -> Iterator[Pass]:
    """Yield the passes of one sequence, by time; rows may be in any order."""
    for found, ignored in _split(rows, roster):
        yield _Sorter(roster).sort(found, ignored)


def _split(rows: Iterable[Packet], roster: Roster) -> Iterator[tuple[list[Packet], int]]:
    """Yield the rows of each pass: what a pass begins with comes again when another begins."""
    first: tuple[int, str] | None = None
    found: list[Packet] = []
    seen: set[tuple[int, str, float]] = set()
    ignored = 0
    for row in sorted(_told(rows, roster), key=in_order):
        key = (row.handler_id, row.event, row.timestamp)
        if key in seen:
            ignored += 1
            continue
        seen.add(key)
        if key[:2] == first:
            yield found, ignored
            found, ignored = [], 0
        elif first is None:
            first = key[:2]
        found.append(row)
    if found:
        yield found, ignored


def _told(rows: Iterable[Packet], roster: Roster) -> Iterator[Packet]:
    """Yield the rows that tell something."""
    for row in map(in_our_words, rows):
        own = row.event in ("start", "end") and roster.role(row.handler_id) is Role.RX
        if row.event in EVENTS and not own:
            yield row


@dataclass(slots=True)
class _Sorter:
    """Sorts the rows of a pass, once."""

    roster: Roster
    stays: dict[int, Stay] = field(default_factory=dict)
    sent: list[Packet] = field(default_factory=list)
    came: list[Packet] = field(default_factory=list)
    ignored: int = 0

    def sort(self, rows: Sequence[Packet], ignored: int) -> Pass:
        """Return the pass that rows are of.

        Args:
            rows: at least one, by time.
            ignored: rows of it that were passed over before.
        """
        self.ignored = ignored
        for row in rows:
            if row.event == "sent":
                self.sent.append(row)
            elif row.event == "recv":
                self.came.append(row)
            if self.roster.role(row.handler_id) not in (Role.TX, Role.RX):
                self._stay(row)
        hops = [hop for row in self.came if (hop := self._hop(row)) is not None]
        return Pass(list(self.stays.values()), hops, rows[-1], self.ignored)

    def _stay(self, row: Packet) -> None:
        stay = self.stays.get(row.handler_id)
        if stay is None:
            stay = Stay(row.handler_id, row.node_id, row.timestamp, row.timestamp, row.event)
            self.stays[row.handler_id] = stay
        if stay.node_id is None:
            stay.node_id = row.node_id
        if row.event == "start" and stay.start is None:
            stay.start = row.timestamp
        elif row.event == "end" and stay.end is None:
            stay.end = row.timestamp
        elif row.event in ("start", "end"):
            self.ignored += 1
            return
        # When it is sent on, or sent again, does not make the handler's own work longer.
        if row.event != "sent" or stay.end is None:
            stay.done_s, stay.last_event = row.timestamp, row.event

    def _hop(self, came: Packet) -> Hop | None:
        target = self._target(came)
        if target is None:
            return None
        sent = self._sent(came)
        source = None if sent is None else self._source(sent)
        return Hop(
            source,
            None if sent is None else sent.node_id,
            None if sent is None else sent.timestamp,
            target.handler_id,
            target.node_id,
            came.timestamp,
            came.size if sent is None or sent.size is None else sent.size,
        )

    def _target(self, came: Packet) -> Stay | None:
        """Return the stay that a packet has come to: for an rx, the next one on its node."""
        if came.handler_id in self.stays:
            return self.stays[came.handler_id]
        after = [
            stay
            for stay in self.stays.values()
            if stay.node_id == came.node_id and stay.first_s >= came.timestamp
        ]
        return min(after, key=lambda stay: stay.first_s, default=None)

    def _sent(self, came: Packet) -> Packet | None:
        """Take what was sent to arrive so: of the same size if that tells, the latest before."""
        away = [row for row in self.sent if row.node_id is None or row.node_id != came.node_id]
        feeding = self.roster.before.get(came.handler_id)
        if feeding:
            # What is sent to several at once is one row.
            there = [row for row in away if row.handler_id in feeding]
            mine = [row for row in there if row.timestamp <= came.timestamp]
            return mine[-1] if mine else None
        beside = self.roster.beside
        away = [row for row in away if (row.handler_id, came.handler_id) not in beside] or away
        if came.size is not None and any(row.size == came.size for row in away):
            away = [row for row in away if row.size == came.size]
        if not away:
            return None
        # A clock that is ahead makes a packet arrive before it is sent.
        before = [row for row in away if row.timestamp <= came.timestamp]
        found = before[-1] if before else away[0]
        if self.roster.role(found.handler_id) is Role.TX:
            self.sent.remove(found)
        return found

    def _source(self, sent: Packet) -> int | None:
        """Return the handler that had a packet before it was sent: for a tx, the last one there."""
        if sent.handler_id in self.stays:
            return sent.handler_id
        there = [
            stay
            for stay in self.stays.values()
            if stay.node_id == sent.node_id and stay.done_s <= sent.timestamp
        ]
        found = max(there, key=lambda stay: stay.done_s, default=None)
        return None if found is None else found.handler_id
