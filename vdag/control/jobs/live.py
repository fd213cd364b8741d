"""`LiveView`: what a job sees, as pictures for people who look on; never at the job's expense.

The job hands over each result and goes on. Only the newest waits to be drawn and encoded, by a
thread that there is while somebody looks on, and of the pictures each viewer gets the newest when
he has taken the one before. So a slow viewer sees fewer pictures, and the job never waits.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from vdag import _native as native
from vdag import drawing
from vdag.errors import Saturated, VdagError
from vdag.results import Result

__all__ = ["LiveView", "Watcher"]

logger = logging.getLogger(__name__)

#: The documents' side channels take what OpenCV takes when it is not told.
JPEG_QUALITY = 95
MAX_WATCHERS = 64
END_TIMEOUT_S = 10.0

_count = itertools.count()


@dataclass(eq=False)
class Watcher:
    """Somebody who looks on.

    Attributes:
        overlay: what the tasks have found is drawn into his pictures.
        wake: called by the view's thread when there is a newer picture, or none will ever come.
    """

    overlay: bool
    wake: Callable[[], None]
    _picture: bytes | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self) -> bytes | None:
        """Return the newest picture as JPEG, None if there is none since the last call."""
        with self._lock:
            picture, self._picture = self._picture, None
        return picture

    def give(self, picture: bytes) -> None:
        """Put a picture in the place of the one before."""
        with self._lock:
            self._picture = picture
        self.wake()


class LiveView:
    """See above; any thread may call it. Closed by `close`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watchers: list[Watcher] = []
        self._waiting: Result | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def is_over(self) -> bool:
        """Whether no picture will come any more."""
        return self._closing

    def show(self, result: Result) -> None:
        """Take a result, with its frame if anybody looks on; called by the job, never waits."""
        if not self._watchers:
            return
        taken = replace(result)
        with self._changed:
            if self._closing or not self._watchers:
                return
            result.frame = None  # it is the view's now
            before, self._waiting = self._waiting, taken
            self._changed.notify()
        if before is not None:
            before.drop_frame()

    def watch(self, wake: Callable[[], None], *, overlay: bool = False) -> Watcher:
        """Look on, until `leave`.

        Raises:
            Saturated: too many do.
        """
        watcher = Watcher(overlay, wake)
        with self._changed:
            if len(self._watchers) >= MAX_WATCHERS:
                raise Saturated(f"{MAX_WATCHERS} viewers look on already")
            self._watchers.append(watcher)
            if self._thread is None and not self._closing:
                name = f"vdag-live-{next(_count)}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Look on no more; harmless when repeated."""
        with self._changed:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
            self._changed.notify()

    def close(self) -> None:
        """Show nothing any more, and tell those who look on; may be called again."""
        with self._changed:
            self._closing = True
            thread, watchers = self._thread, tuple(self._watchers)
            self._changed.notify()
        if thread is not None:
            thread.join(END_TIMEOUT_S)
        self._drop_waiting()
        for watcher in watchers:
            watcher.wake()

    def _run(self) -> None:
        """Body of the thread; it ends when nobody looks on."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._waiting is not None or not self._watchers
                )
                if self._closing or not self._watchers:
                    self._thread = None
                    break
                result, self._waiting = self._waiting, None
                watchers = tuple(self._watchers)
            assert result is not None, "it was waited for"
            try:
                _give(result, watchers)
            except VdagError as err:
                logger.warning("a picture of %s cannot be shown: %s", result.stream, err)
            finally:
                result.drop_frame()
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.drop_frame()


def _give(result: Result, watchers: tuple[Watcher, ...]) -> None:
    """Encode a result in the ways that are wanted, once each."""
    for overlay in {watcher.overlay for watcher in watchers}:
        if overlay:
            pixels = drawing.render(result)
        else:
            assert result.frame is not None, "the view has it"
            pixels = np.ascontiguousarray(result.frame.pixels)
        jpeg = native.jpeg.encode(pixels, quality=JPEG_QUALITY)
        for watcher in watchers:
            if watcher.overlay == overlay:
                watcher.give(jpeg)
