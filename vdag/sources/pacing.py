"""When the frames of a file are due, so that it plays like a camera."""

from __future__ import annotations

__all__ = ["Pacer"]

#: How far a late consumer may fall behind and still catch up.
MAX_LAG_NS = 500_000_000


class Pacer:
    """Turns presentation times into dead-lines on the monotonic clock; no clock inside.

    All dead-lines count from one origin, so waits that end a little late do not add up. A consumer
    that is late gets the frames it missed at once, but never more than half a second of them: when
    it is further behind, the origin moves, and the video goes on from there at its own pace. No
    frame is left out.
    """

    __slots__ = ("_origin_ns",)

    def __init__(self) -> None:
        self._origin_ns: int | None = None

    def due_ns(self, pts_s: float, now_ns: int) -> int:
        """Return when the frame is due; in the past when it is late. The first is due now.

        Args:
            pts_s: presentation time in seconds, not smaller than that of the frame before.
            now_ns: reading of the monotonic clock.
        """
        pts_ns = round(pts_s * 1e9)
        if self._origin_ns is None:
            self._origin_ns = now_ns - pts_ns
        self._origin_ns = max(self._origin_ns, now_ns - pts_ns - MAX_LAG_NS)
        return self._origin_ns + pts_ns
