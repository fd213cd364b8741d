"""`Sniffer`: what a job has seen lately, the documents' run-time context.

Each frame that comes home is seen once, and goes into three windows of frames of one plan:

    context    goes with the frame itself: the latest 51 frames, as the documents' did
    reported   goes to the scheduler: the latest 512 frames or 10 s. It moves on with the frames,
               so that it is worth as much however often somebody reports. It begins anew when
               delays change at once, so that it never mixes what was with what is
    asked      the documents' `get_runtime`: the frames since it was last asked for, so bounded too

A frame without objects is an ordinary one: it counts as 0 of no size.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from vdag.control.sniffing.motion import Scene
from vdag.control.sniffing.sightings import Objects, Sighting, objects_in
from vdag.control.sniffing.window import Window
from vdag.results import Result

__all__ = ["Objects", "Sighting", "Sniffer", "objects_in"]

#: Frames and seconds of the windows that are reported and asked for.
MAX_FRAMES, MAX_SECONDS = 512, 10.0
#: Frames that the context beside each of them looks back on.
CONTEXT_FRAMES = 51


class Sniffer:
    """See above; the caller holds a lock where several threads use it.

    Args:
        rate: frames per second of a video without times; 0 if it is not known.
        frames: of the windows that are reported and asked for.
        seconds: of all windows.
    """

    def __init__(
        self, rate: float = 0.0, *, frames: int = MAX_FRAMES, seconds: float = MAX_SECONDS
    ) -> None:
        self._rate, self._frames, self._seconds = rate, frames, seconds
        self._scene = Scene()
        self._context = Window(CONTEXT_FRAMES, seconds)
        self._reported = Window(frames, seconds, shifts=True)
        self._asked: deque[Sighting] = deque(maxlen=frames)
        self._asked_before: Sighting | None = None
        self._answer: dict[str, Any] = {}
        self._has_news = False

    @property
    def has_news(self) -> bool:
        """Whether a frame has come since `report`."""
        return self._has_news

    def observe(self, result: Result, now_s: float) -> Sighting:
        """Take a frame in.

        Args:
            result: of the frame; its boxes are looked at again with the next one.
            now_s: `time.monotonic()`.
        """
        objects = objects_in(result.outputs.values())
        time_s = result.pts_s
        if time_s is None and self._rate:
            time_s = result.cam_frame_id / self._rate
        size = result.width, result.height
        speed, is_cut = self._scene.look(objects, size, time_s)
        if objects is not None:  # the boxes are the scene's: no window needs them
            objects = Objects(objects.n, objects.size)
        sighting = Sighting.of(result, now_s, objects, speed, is_cut)
        self._context.add(sighting)
        self._reported.add(sighting)
        if len(self._asked) == self._frames:
            self._asked_before = self._asked[0]
        self._asked.append(sighting)
        self._has_news = True
        return sighting

    def context(self) -> dict[str, Any]:
        """Return the context of the latest frames, for the last of them; see `Window.describe`.

        It has no quantiles of tasks, which the documents do not have beside a frame.
        """
        return self._context.describe(tails=False)

    def report(self) -> dict[str, Any]:
        """Return the context for the scheduler; `{}` before the first frame."""
        self._has_news = False
        return self._reported.describe()

    def answer(self) -> dict[str, Any]:
        """Return the context of the frames since the last call, and begin a new window.

        Without new frames what was returned last; `{}` if there never were any.
        """
        if self._asked:
            window = Window(self._frames, self._seconds)
            if self._asked_before is not None:
                window.add(self._asked_before)
                window.restart()
            for sighting in self._asked:
                window.add(sighting)
            self._asked_before = self._asked[-1]
            self._asked.clear()
            self._answer = window.describe()
        return dict(self._answer)
