"""What round trips tell a sender: how much may be on its way, and what time it is over there.

These are rules without a clock of their own: times come in as arguments, in ns.
"""

from __future__ import annotations

from typing import NamedTuple

from vdag.errors import ConfigError

__all__ = ["DRIFT", "RemoteClock", "RoundTrip", "Window"]

#: Clocks of two hosts drift apart by no more: twice what crystals are allowed.
DRIFT = 100e-6
#: Beyond this, what the other side says is no time.
MAX_READING_NS = 1 << 62


class Window:
    """How many frames may be on their way at once, so that none of them queues for long.

    A frame's round trip is that of the link, plus what it waited behind other frames of ours. So
    long as this wait stays below `spare_s` and the window is what holds frames back, the window
    grows by one per receipt; above, it shrinks by one. With one frame at a time none waits, so its
    round trip is the link's own, whatever that has become. This is the idea of TCP Vegas (Brakmo
    and Peterson, 1995), counted in frames.

    Args:
        largest: most frames.
        spare_s: how long a frame may wait on the link behind others; None for no limit: the
            window is then always the largest.
    """

    def __init__(self, largest: int, spare_s: float | None) -> None:
        if spare_s is not None and not 0.0 <= spare_s <= 60.0:
            raise ConfigError(f"spare_s of {spare_s} is not in 0..60")
        self._largest = largest
        self._spare_ns = None if spare_s is None else int(spare_s * 1e9)
        self._base_ns: int | None = None
        self.size = largest if spare_s is None else 1

    def confirm(self, round_trip_ns: int, *, alone: bool, was_full: bool) -> None:
        """Learn from a frame that has come.

        Args:
            round_trip_ns: from sending it to its receipt.
            alone: nothing else was on its way when it was sent.
            was_full: as much was on its way as the window lets.
        """
        if self._spare_ns is None:
            return
        if alone or self._base_ns is None:
            self._base_ns = round_trip_ns
        self._base_ns = min(self._base_ns, round_trip_ns)
        if round_trip_ns > self._base_ns + self._spare_ns:
            self.size = max(self.size - 1, 1)
        elif was_full:
            self.size = min(self.size + 1, self._largest)

    def lose(self) -> None:
        """Learn that a frame got lost: the link may be another one from now on."""
        if self._spare_ns is not None:
            self.size = 1


class RoundTrip(NamedTuple):
    """What a question and its answer, which carries readings of another clock, tell of that clock.

    Its offset is no more and no less than the times allow, as in NTP (RFC 5905, section 8),

        offset = ((heard - asked) + (answered - now)) / 2      within half of the way there and back

    so the shortest trip tells most; but clocks drift, and what a trip has told is worth less the
    older it is.

    Attributes:
        at_ns: when it was over, by our clock.
        offset_ns: the other clock minus ours.
        length_ns: of the way there and back, without the time that the answer took.
        slack_ns: by how much the offset may be wrong when the trip is over.
    """

    at_ns: int
    offset_ns: int
    length_ns: int
    slack_ns: int

    @classmethod
    def of(cls, asked_ns: int, heard_ns: int, answered_ns: int, now_ns: int) -> RoundTrip | None:
        """Return what an answer tells; None if it is no honest one to a question of ours.

        Args:
            asked_ns: when we asked, by our clock.
            heard_ns: when the question came, by the other clock.
            answered_ns: when the answer left, by the other clock.
            now_ns: when it came, by our clock.
        """
        length_ns = (now_ns - asked_ns) - (answered_ns - heard_ns)
        # What they drift while the question is under way, and rounding.
        drift_ns = int((now_ns - asked_ns) * 2 * DRIFT) + 2
        if now_ns < asked_ns or answered_ns < heard_ns or length_ns < -drift_ns:
            return None
        if answered_ns > MAX_READING_NS:
            return None
        offset_ns = ((heard_ns - asked_ns) + (answered_ns - now_ns)) // 2
        length_ns = max(length_ns, 0)
        return cls(now_ns, offset_ns, length_ns, length_ns // 2 + drift_ns)

    def slack_at(self, now_ns: int) -> int:
        """Return by how much the offset may be wrong by now."""
        return self.slack_ns + int(abs(now_ns - self.at_ns) * DRIFT)


class RemoteClock:
    """The monotonic clock of another host, from questions and answers that carry its readings.

    It is told by the best trip so far, the one that allows least at the moment. Two clocks that
    agree within what the trip can tell are taken for one clock, as those of two processes of one
    host are.

    Attributes:
        offset_ns: the other clock minus ours; 0 before it is known.
    """

    def __init__(self) -> None:
        self._best: RoundTrip | None = None
        self.offset_ns = 0

    @property
    def is_known(self) -> bool:
        """Whether there was an answer yet."""
        return self._best is not None

    def observe(self, asked_ns: int, heard_ns: int, answered_ns: int, now_ns: int) -> None:
        """Learn from an answer; see `RoundTrip.of`."""
        trip = RoundTrip.of(asked_ns, heard_ns, answered_ns, now_ns)
        if trip is None:
            return
        if self._best is not None and trip.slack_ns > self._best.slack_at(now_ns):
            return
        self._best = trip
        self.offset_ns = 0 if abs(trip.offset_ns) <= trip.length_ns // 2 else trip.offset_ns

    def there(self, here_ns: int) -> int:
        """Return what the other clock says when ours says `here_ns`."""
        return here_ns + self.offset_ns
