"""`Pace`: how pictures are sent to somebody, by what the way to him has taken lately. Pure.

JPEG costs the node least and shows every picture at its best, so it is used where it fits: where
the way takes at least `ENOUGH` of the pictures that there are. Where it does not, for two windows,
the way is thin: then H.264 is sent, of a bit rate below what the way has taken. If less gets
through than was thought, the rate falls at once; if all gets through for a while, it rises. A link
may get better, too: now and then, ever more rarely, JPEG is tried again.

What a way takes shows only while more is sent than it takes, that is when sending had to wait. So a
window begins with a wait, and what was counted at its end has gone through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Coding", "Pace", "Wanted"]

#: What somebody asks for.
Wanted = Literal["auto", "mjpeg", "h264"]

WINDOW_NS = 1_000_000_000
#: Sending that took longer than this had to wait for the way.
WAIT_NS = 5_000_000
#: Share of the pictures that has to get through: as JPEG, and as H.264.
ENOUGH, ENOUGH_CODED = 0.6, 0.85
#: Of what a way has taken, to be used by H.264: the rest is for what else goes there.
SHARE = 0.75
MIN_BITRATE, MAX_BITRATE = 40_000, 50_000_000
#: The rate rises by so much, after this long without a wait.
RISE, RISE_NS = 1.5, 10_000_000_000
#: JPEG is tried again after this long, and then after twice as long each time.
RETRY_NS, MAX_RETRY_NS = 60_000_000_000, 960_000_000_000
USUAL_FPS, MAX_FPS = 10.0, 60.0


@dataclass(frozen=True, slots=True)
class Coding:
    """How H.264 is made: at most so many bits per second, at so many pictures per second."""

    bitrate: int
    fps: float


@dataclass(slots=True)
class _Window:
    """What has happened since a moment: pieces sent, their bytes, and pictures there were."""

    begin_ns: int
    offered: int
    has_waits: bool = False
    pieces: int = 0
    nbytes: int = 0


class Pace:
    """See above.

    Args:
        wanted: what is asked for.
        now_ns: the time.

    Attributes:
        coding: how H.264 is to be made; None for JPEG.
    """

    def __init__(self, wanted: Wanted, now_ns: int) -> None:
        self._wanted = wanted
        self._window = _Window(now_ns, 0)
        self._last_nbytes = 0
        self._thin_ns = 0  # how long JPEG has not fitted
        self._quiet_since_ns = now_ns
        self._retry_at_ns, self._retry_ns = now_ns, RETRY_NS
        self.coding = Coding(MAX_BITRATE, USUAL_FPS) if wanted == "h264" else None

    def sent(self, now_ns: int, waited_ns: int, *, nbytes: int, offered: int) -> None:
        """Take note of a piece that was sent.

        Args:
            now_ns: when it had been sent.
            waited_ns: how long that took.
            nbytes: of the piece.
            offered: pictures there have been since the beginning, sent or not.
        """
        if self._wanted == "mjpeg":
            return
        has_waited, window = waited_ns > WAIT_NS, self._window
        if has_waited:
            self._quiet_since_ns = now_ns
        if has_waited and not window.has_waits:
            self._window = window = _Window(now_ns, offered, has_waits=True)
        else:
            window.pieces += 1
            window.nbytes += self._last_nbytes  # this one is still on its way
        self._last_nbytes = nbytes
        if now_ns - window.begin_ns >= WINDOW_NS:
            self._window = _Window(now_ns, offered, has_waited)
            self._conclude(now_ns, window, offered - window.offered)

    def _conclude(self, now_ns: int, window: _Window, offered: int) -> None:
        """Draw conclusions from a window in which there were so many pictures."""
        elapsed_ns = now_ns - window.begin_ns
        fps = min(max(offered * 1e9 / elapsed_ns, 1.0), MAX_FPS)
        enough = ENOUGH if self.coding is None else ENOUGH_CODED
        is_short = window.has_waits and window.pieces < enough * offered
        usable = SHARE * window.nbytes * 8e9 / elapsed_ns
        if self.coding is None:
            self._thin_ns = self._thin_ns + elapsed_ns if is_short else 0
            if self._thin_ns >= 2 * WINDOW_NS:
                self._set(usable, fps)
                self._retry_at_ns = now_ns + self._retry_ns
                self._retry_ns = min(2 * self._retry_ns, MAX_RETRY_NS)
        elif is_short:
            self._set(min(usable, SHARE * self.coding.bitrate), fps)
        elif now_ns - self._quiet_since_ns >= RISE_NS:
            self._improve(now_ns, self.coding, fps)

    def _improve(self, now_ns: int, coding: Coding, fps: float) -> None:
        """Use more of a way on which nothing has waited for a while."""
        self._quiet_since_ns = now_ns
        if self._wanted == "auto" and now_ns >= self._retry_at_ns:
            self.coding, self._thin_ns = None, 0
        else:
            self._set(RISE * coding.bitrate, fps)

    def _set(self, bitrate: float, fps: float) -> None:
        self.coding = Coding(round(min(max(bitrate, MIN_BITRATE), MAX_BITRATE)), fps)
