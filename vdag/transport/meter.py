"""How much a link to another node carries: from what is sent over it anyway; no I/O, no clock.

A link is taken for a queue that empties at its rate, and then for a way that takes the same time
for every byte. When a message of some bytes was given to it is known here, and when its last byte
came over there, by the clock of the other host. The difference of the two is least for a message
that finds the link empty and is small: so much is way, and difference of clocks; what is more of a
message is its wait in the queue and its own length. Neither the clocks need agree nor the way back
be quick for that, and what the other side does with a message once it is there does not count.

So a message that came tells until when the link was busy. It began to be when the message was sent,
or when the one before had come, whatever was later. Bytes by busy time are the rate: a link that
nobody uses is not taken for a slow one. All edges to a node share a meter, as they share the link.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

__all__ = ["LinkStats", "Meter"]

_NS = 1e9
#: What is older says nothing of the link as it is now, if there is anything newer.
WINDOW_NS = 2_000_000_000
#: Fewer bytes at once are on their way for too short a time to be measured.
MIN_NBYTES = 16 << 10
#: A message up to this size tells the round trip.
SMALL_NBYTES = 4 << 10
#: What has been on its way for so long is lost, or the link was away.
LOST_NS = 5_000_000_000
#: From when on what has not come yet says that the link has become slow.
LATE_NS = 250_000_000
#: How long the least difference of the clocks is believed: twice this at most.
BASE_NS = 15_000_000_000
#: No link is faster, in bytes per second.
MAX_RATE = 12.5e9
#: Messages of an edge that are remembered until they have come.
MAX_OPEN = 4_096
#: Samples that are kept; of more, the latest.
MAX_SAMPLES = 1_024
#: Share of the latest round trip in the smoothed one, as in RFC 6298.
SMOOTHING = 1 / 8


class LinkStats(NamedTuple):
    """What is known of a link.

    Attributes:
        rate: bytes per second; None before anything was measured.
        round_trip_s: of a small message, smoothed; None likewise.
        measured_ns: `time.monotonic_ns()` when the rate was measured last; 0 for never.
    """

    rate: float | None
    round_trip_s: float | None
    measured_ns: int


class _Open(NamedTuple):
    """A message on its way."""

    number: int
    sent_ns: int
    nbytes: int


class _Sample(NamedTuple):
    """What came at once, and how long the link was busy with it."""

    at_ns: int
    nbytes: int
    busy_ns: int


class Meter:
    """See above; any thread may call its methods. Times are in ns, by the clock of this host."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, deque[_Open]] = {}
        self._samples: deque[_Sample] = deque(maxlen=MAX_SAMPLES)
        self._busy_until_ns = 0
        self._bases: tuple[int | None, int | None] = None, None  # of this period, of the one before
        self._period_ns = 0
        self._round_trip_ns: float | None = None
        self._measured_ns = 0

    def sent(self, edge: int, number: int, nbytes: int, now_ns: int) -> None:
        """Note that an edge is about to send a message.

        Args:
            edge: which.
            number: of the message, higher than all before of this edge.
            nbytes: of it.
            now_ns: when.
        """
        with self._lock:
            known = self._open.get(edge)
            if known is None:
                known = self._open[edge] = deque(maxlen=MAX_OPEN)
            known.append(_Open(number, now_ns, nbytes))

    def came(self, edge: int, number: int, arrived_ns: int, held_ns: int, now_ns: int) -> None:
        """Note that a message has come, and with it all that the edge had sent before.

        Args:
            edge: which.
            number: of the message.
            arrived_ns: when it came, by the clock of the other host.
            held_ns: how long the other host took to say so.
            now_ns: when it was heard.
        """
        with self._lock:
            waiting = self._open.get(edge) or deque()
            came: list[_Open] = []
            while waiting and waiting[0].number <= number:
                came.append(waiting.popleft())
            came = [each for each in came if now_ns - each.sent_ns < LOST_NS]
            if not came:
                return
            self._note_round_trip(came, held_ns, now_ns)
            base_ns = self._note_base(arrived_ns - came[-1].sent_ns, now_ns)
            self._note_busy(came, arrived_ns - base_ns, now_ns)

    def gone(self, edge: int, now_ns: int) -> None:
        """Note that an edge's link has broken: what is on its way will not be heard of.

        It counts as if it came now, for it was no faster.
        """
        with self._lock:
            lost = self._open.pop(edge, None)
            if lost:
                self._note_busy(list(lost), now_ns, now_ns)
            self._bases = None, None  # it may be another host by now

    def forget(self, edge: int) -> None:
        """Forget an edge that is closed."""
        with self._lock:
            self._open.pop(edge, None)

    def stats(self, now_ns: int) -> LinkStats:
        """Return what is known."""
        with self._lock:
            nbytes = sum(sample.nbytes for sample in self._samples)
            busy_ns = sum(sample.busy_ns for sample in self._samples)
            rate = None
            if nbytes:
                rate = min(nbytes * _NS / max(busy_ns, 1), MAX_RATE, self._limit(now_ns))
            trip_ns = self._round_trip_ns
            return LinkStats(rate, None if trip_ns is None else trip_ns / _NS, self._measured_ns)

    def _note_round_trip(self, came: list[_Open], held_ns: int, now_ns: int) -> None:
        trip_ns = now_ns - came[-1].sent_ns - held_ns
        if len(came) > 1 or came[0].nbytes > SMALL_NBYTES or trip_ns < 0:
            return
        if self._round_trip_ns is None:
            self._round_trip_ns = float(trip_ns)
        self._round_trip_ns += SMOOTHING * (trip_ns - self._round_trip_ns)

    def _note_base(self, difference_ns: int, now_ns: int) -> int:
        """Return the least difference of late, with the latest."""
        latest, before = self._bases
        if now_ns - self._period_ns > BASE_NS:
            self._period_ns, latest, before = now_ns, None, latest
        latest = difference_ns if latest is None else min(latest, difference_ns)
        self._bases = latest, before
        return latest if before is None else min(latest, before)

    def _note_busy(self, came: list[_Open], until_ns: int, now_ns: int) -> None:
        """Note until when the link was busy with what came at once."""
        since_ns = max(came[0].sent_ns, self._busy_until_ns)
        # Nothing comes before it was sent, nor after it was heard of.
        until_ns = min(max(until_ns, since_ns), max(now_ns, since_ns))
        self._busy_until_ns = until_ns
        nbytes = sum(each.nbytes for each in came)
        if nbytes < MIN_NBYTES:
            return
        self._samples.append(_Sample(now_ns, nbytes, until_ns - since_ns))
        while now_ns - self._samples[0].at_ns > WINDOW_NS:
            self._samples.popleft()
        self._measured_ns = now_ns

    def _limit(self, now_ns: int) -> float:
        """Return what the link carries at most, for more would have come by now."""
        waiting = [each for known in self._open.values() for each in known]
        nbytes = sum(each.nbytes for each in waiting)
        if nbytes < MIN_NBYTES:
            return MAX_RATE
        since_ns = max(min(each.sent_ns for each in waiting), self._busy_until_ns)
        late_ns = now_ns - since_ns - (self._round_trip_ns or 0.0)
        return nbytes * _NS / late_ns if late_ns > LATE_NS else MAX_RATE
