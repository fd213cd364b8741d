"""`LiveView`: what a job sees, as pictures for people who look on; never at the job's expense.

The job hands over each result and goes on. Only the newest waits to be drawn and encoded, by a
thread that there is while somebody looks on, and of the pictures each viewer gets the newest when
he has taken the one before. So a slow viewer sees fewer pictures, and the job never waits.

Who takes H.264 has an encoder of his own, and a picture is only coded for him when he has taken the
one before: each refers to the last that he got, and none may be left out.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag import drawing
from vdag.control.viewing.pace import Coding
from vdag.control.viewing.pieces import MAX_PIXELS, Kind, Piece
from vdag.errors import DependencyMissing, Saturated, VdagError
from vdag.results import Result
from vdag.sparing import SparingLog
from vdag.threads import wait_ended
from vdag.transport import h264

__all__ = ["JPEG_QUALITY", "LiveView", "Watcher"]

logger = logging.getLogger(__name__)

#: The documents' side channels take what OpenCV takes when it is not told.
JPEG_QUALITY = 95
#: Bits per pixel at which H.264 looks as that does; it never takes more.
BITS_PER_PIXEL = 0.15
MAX_WATCHERS = 64
END_TIMEOUT_S = 10.0

_count = itertools.count()


class Watcher:
    """Somebody who looks on; `take` and `code_as` are his, the rest is the view's.

    Args:
        overlay: what the tasks have found is drawn into his pictures.
        wake: called by the view's thread when there is a newer picture, or none will ever come.

    Attributes:
        offered: pictures there have been, whether he took them or not.
    """

    def __init__(self, overlay: bool, wake: Callable[[], None]) -> None:
        self.overlay, self._wake = overlay, wake
        self.offered = 0
        self._lock = threading.Lock()
        self._piece: Piece | None = None
        self._coding: Coding | None = None
        # Of the view's thread.
        self._encoder: h264.Encoder | None = None
        self._coded_as: Coding | None = None

    def take(self) -> Piece | None:
        """Return the newest picture, None if there is none since the last call."""
        with self._lock:
            piece, self._piece = self._piece, None
        return piece

    def code_as(self, coding: Coding | None) -> None:
        """Want pictures as H.264 from now on, beginning with a key frame; None for JPEG."""
        with self._lock:
            self._coding = coding

    def wake(self) -> None:
        """Have him look again."""
        self._wake()

    def give(self, pixels: NDArray[np.uint8], jpeg: Callable[[], bytes]) -> None:
        """Offer him a picture.

        Args:
            pixels: uint8 `(H, W, 3)`, BGR, C-contiguous; only read, and not kept.
            jpeg: returns them as JPEG.

        Raises:
            VdagError: it cannot be encoded.
        """
        self.offered += 1
        with self._lock:
            coding, waits = self._coding, self._piece is not None
        height, width = pixels.shape[:2]
        if coding is None or width * height > MAX_PIXELS:
            self._encoder = None
            piece = Piece(Kind.JPEG, jpeg(), width, height)
        elif waits:
            return
        else:
            packet = self._encode(coding, pixels)
            piece = Piece(Kind.KEY if packet.is_key else Kind.DELTA, packet.data, width, height)
        with self._lock:
            self._piece = piece
        self.wake()

    def _encode(self, coding: Coding, pixels: NDArray[np.uint8]) -> h264.Packet:
        height, width = pixels.shape[:2]
        encoder, most = self._encoder, round(width * height * coding.fps * BITS_PER_PIXEL)
        is_same = encoder is not None and (encoder.width, encoder.height) == (width, height)
        if encoder is None or not is_same or self._coded_as != coding:
            bitrate = max(min(coding.bitrate, most), h264.MIN_BITRATE)
            encoder = h264.Encoder(width, height, bitrate=bitrate, fps=coding.fps)
            self._encoder, self._coded_as = encoder, coding
        try:
            return encoder.encode(pixels)
        except VdagError:
            self._encoder = None  # the next picture begins anew
            raise


class LiveView:
    """See above; any thread may call it. Closed by `close`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watchers: list[Watcher] = []
        self._waiting: Result | None = None
        self._log = SparingLog(logger)
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
        """Look on, until `leave`; at first in JPEG.

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
            wait_ended(thread, timeout_s=END_TIMEOUT_S)
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
                self._log.warning("picture", "%s cannot be shown: %s", result.stream, err)
            finally:
                result.drop_frame()
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.drop_frame()


def _give(result: Result, watchers: tuple[Watcher, ...]) -> None:
    """Encode a result in the ways that are wanted; as JPEG once each."""
    for overlay in {watcher.overlay for watcher in watchers}:
        if overlay:
            pixels = drawing.render(result)
        else:
            assert result.frame is not None, "the view has it"
            pixels = np.ascontiguousarray(result.frame.pixels)
        jpeg = _Once(pixels)
        for watcher in watchers:
            if watcher.overlay == overlay:
                _offer(watcher, pixels, jpeg)


def _offer(watcher: Watcher, pixels: NDArray[np.uint8], jpeg: _Once) -> None:
    try:
        watcher.give(pixels, jpeg)
    except DependencyMissing as err:  # what every node can make is JPEG
        logger.warning("pictures are shown as JPEG: %s", err)
        watcher.code_as(None)


class _Once:
    """A picture as JPEG, encoded when somebody asks first."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self._found: bytes | None = None

    def __call__(self) -> bytes:
        if self._found is None:
            self._found = native.jpeg.encode(self._pixels, quality=JPEG_QUALITY)
        return self._found
