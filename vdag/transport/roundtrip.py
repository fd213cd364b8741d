"""What round trips tell a sender: how much may be on its way, and what time it is over there.

Both are rules without a clock of their own: times come in as arguments, in ns.
"""

from __future__ import annotations

from vdag.errors import ConfigError

__all__ = ["RemoteClock", "Window"]

#: Clocks of two hosts may drift apart by this much until proven otherwise.
DRIFT = 100e-6
#: Beyond this, what the other side says is no time.
MAX_OFFSET_NS = 1 << 61


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


class RemoteClock:
    """The monotonic clock of another host, from questions and answers that carry its readings.

    The offset is the middle of what one round trip allows, as in NTP (RFC 5905, section 8). The
    shortest round trip is the best, until drift may have made it worse than a newer one. Two clocks
    that agree within what the round trip can tell are taken for one clock, as those of two
    processes of one host are.
    """

    def __init__(self) -> None:
        self._round_trip_ns: int | None = None
        self._at_ns = 0
        self.offset_ns = 0

    @property
    def is_known(self) -> bool:
        """Whether there was an answer yet."""
        return self._round_trip_ns is not None

    def observe(self, asked_ns: int, heard_ns: int, answered_ns: int, now_ns: int) -> None:
        """Learn from an answer.

        Args:
            asked_ns: when we asked, by our clock.
            heard_ns: when the question came, by the other clock.
            answered_ns: when the answer left, by the other clock.
            now_ns: when it came, by our clock.
        """
        round_trip_ns = (now_ns - asked_ns) - (answered_ns - heard_ns)
        offset_ns = ((heard_ns - asked_ns) + (answered_ns - now_ns)) // 2
        if asked_ns > now_ns or round_trip_ns < 0 or abs(offset_ns) > MAX_OFFSET_NS:
            return  # no honest answer to a question of ours
        if self._round_trip_ns is not None:
            drift_ns = int((now_ns - self._at_ns) * DRIFT)
            if round_trip_ns // 2 > self._round_trip_ns // 2 + drift_ns:
                return
        self._round_trip_ns, self._at_ns = round_trip_ns, now_ns
        self.offset_ns = 0 if abs(offset_ns) <= round_trip_ns // 2 else offset_ns

    def there(self, here_ns: int) -> int:
        """Return what the other clock says when ours says `here_ns`."""
        return here_ns + self.offset_ns
