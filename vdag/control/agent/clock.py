"""`EpochClock`: what time it is where the records are, from questions that are answered with it.

Frames are timed by a node's monotonic clock, which nobody sets; what is recorded is in seconds
since the epoch, by the controller's clock, which somebody may. Each round trip tells the distance
of the two: no more and no less than the answer's times allow, as in NTP (RFC 5905, section 8),

    offset = ((heard - asked) + (answered - now)) / 2      within half of the round trip

so the shortest round trip tells most. Meanwhile the clocks drift, by `DRIFT` at most: what a trip
has told is worth less the older it is, and the best is the one that allows least at the moment.

Two trips whose allowances have nothing in common tell of two different clocks: the controller's was
set, or another controller answers. What was known before is then forgotten. This is the agreement
of Marzullo's algorithm, with the newest trip always in it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["DRIFT", "EpochClock"]

#: Clocks of two hosts drift apart by no more: twice what crystals are allowed.
DRIFT = 100e-6
#: Trips that are kept, and for how long: a node asks every half a second.
WINDOW = 32
WINDOW_NS = 60_000_000_000
#: Beyond this, what the other side says is no time.
MAX_EPOCH_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class _Trip:
    """What a round trip has told.

    Attributes:
        at_ns: when it was over, by our clock.
        offset_ns: the other clock minus ours.
        slack_ns: by how much the offset may be wrong.
    """

    at_ns: int
    offset_ns: int
    slack_ns: int

    def slack_at(self, now_ns: int) -> int:
        """Return by how much the offset may be wrong by now."""
        return self.slack_ns + int(abs(now_ns - self.at_ns) * DRIFT)


class EpochClock:
    """See above; for one thread, and without a clock of its own. All times are in ns.

    Attributes:
        resets: how often the other clock was another one.
    """

    def __init__(self) -> None:
        self._trips: deque[_Trip] = deque(maxlen=WINDOW)
        self.resets = 0

    @property
    def is_known(self) -> bool:
        """Whether there was an answer yet."""
        return bool(self._trips)

    def observe(self, asked_ns: int, heard_ns: int, answered_ns: int, now_ns: int) -> None:
        """Learn from an answer; one that cannot be honest is passed over.

        Args:
            asked_ns: when we asked, by our clock.
            heard_ns: when the question came, by the other clock.
            answered_ns: when the answer left, by the other clock.
            now_ns: when it came, by our clock.
        """
        round_trip_ns = (now_ns - asked_ns) - (answered_ns - heard_ns)
        # What they drift while the question is under way, and rounding.
        drift_ns = int((now_ns - asked_ns) * 2 * DRIFT) + 2
        if now_ns < asked_ns or answered_ns < heard_ns or round_trip_ns < -drift_ns:
            return
        if max(heard_ns, answered_ns) > MAX_EPOCH_NS:
            return
        offset_ns = ((heard_ns - asked_ns) + (answered_ns - now_ns)) // 2
        trip = _Trip(now_ns, offset_ns, max(round_trip_ns, 0) // 2 + drift_ns)
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
        """Return by how much `there` may be wrong, if the clocks drift no more than `DRIFT`."""
        return self._best(now_ns).slack_at(now_ns)

    def _best(self, now_ns: int) -> _Trip:
        assert self._trips, "the caller looks whether it is known"
        return min(self._trips, key=lambda trip: trip.slack_at(now_ns))


def _agree(newest: _Trip, before: _Trip) -> bool:
    """Say whether one clock can have told both."""
    slack_ns = newest.slack_ns + before.slack_at(newest.at_ns)
    return abs(newest.offset_ns - before.offset_ns) <= slack_ns
