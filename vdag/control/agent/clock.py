"""`EpochClock`: what time it is where the records are, from questions that are answered with it.

Frames are timed by a node's monotonic clock, which nobody sets; what is recorded is in seconds
since the epoch, by the controller's clock, which somebody may. Each round trip tells the distance
of the two, within what it allows; several are kept, and the best is the one that allows least at
the moment.

Two trips whose allowances have nothing in common tell of two different clocks: the controller's was
set, or another controller answers. What was known before is then forgotten. This is the agreement
of Marzullo's algorithm, with the newest trip always in it.
"""

from __future__ import annotations

from collections import deque

from vdag.transport.roundtrip import RoundTrip

__all__ = ["EpochClock"]

#: Trips that are kept, and for how long: a node asks every half a second.
WINDOW = 32
WINDOW_NS = 60_000_000_000


class EpochClock:
    """See above; for one thread, and without a clock of its own. All times are in ns.

    Attributes:
        resets: how often the other clock was another one.
    """

    def __init__(self) -> None:
        self._trips: deque[RoundTrip] = deque(maxlen=WINDOW)
        self.resets = 0

    @property
    def is_known(self) -> bool:
        """Whether there was an answer yet."""
        return bool(self._trips)

    def observe(self, asked_ns: int, heard_ns: int, answered_ns: int, now_ns: int) -> None:
        """Learn from an answer, see `RoundTrip.of`; one that cannot be honest is passed over."""
        trip = RoundTrip.of(asked_ns, heard_ns, answered_ns, now_ns)
        if trip is None:
            return
        if any(not _agree(trip, each) for each in self._trips):
            self._trips.clear()
            self.resets += 1
        while self._trips and now_ns - self._trips[0].at_ns > WINDOW_NS:
            self._trips.popleft()
        self._trips.append(trip)

    def forget(self) -> None:
        """Begin anew: another clock answers."""
        self._trips.clear()

    def there(self, here_ns: int, *, now_ns: int) -> int:
        """Return what the other clock said, or will say, when ours says `here_ns`.

        Args:
            here_ns: the moment, by our clock.
            now_ns: the present, likewise, for which the best trip is chosen.
        """
        return here_ns + self._best(now_ns).offset_ns

    def slack_ns(self, now_ns: int) -> int:
        """Return by how much `there` may be wrong, if they drift no more than `roundtrip.DRIFT`."""
        return self._best(now_ns).slack_at(now_ns)

    def _best(self, now_ns: int) -> RoundTrip:
        assert self._trips, "the caller looks whether it is known"
        return min(self._trips, key=lambda trip: trip.slack_at(now_ns))


def _agree(newest: RoundTrip, before: RoundTrip) -> bool:
    """Say whether one clock can have told both."""
    slack_ns = newest.slack_ns + before.slack_at(newest.at_ns)
    return abs(newest.offset_ns - before.offset_ns) <= slack_ns
