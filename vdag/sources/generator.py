"""The documents' generators: sources that sample, resize and pace what a reader decodes."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

from vdag.errors import ConfigError, ImageError, SourceError, SourceTimeout
from vdag.extras import opencv
from vdag.frame import Frame, Lease, UInt8Image
from vdag.sampling import FrameSampler, check_fps, parse_resolution
from vdag.sources.address import Video, open_reader
from vdag.sources.base import OpenOptions, Picture, Reconnect, SourceStats
from vdag.sources.pacing import Pacer

__all__ = ["Allocate", "Keep", "SingleFrameGenerator"]

#: Gives memory for a picture of (width, height): uint8 `(height, width, 3)`, and its lease if any.
Allocate = Callable[[int, int], tuple[UInt8Image, Lease | None]]

#: Damaged pictures in a row after which a source is given up.
MAX_CONSECUTIVE_ERRORS = 100

_NS = 1_000_000_000


class Keep(enum.Enum):
    """Says that `reconfigure` leaves a setting as it is."""

    KEEP = enum.auto()


class SingleFrameGenerator:
    """Yields the frames of a video one at a time: sampled, resized, in BGR; see `Source`.

    Pictures that the rate leaves out are decoded, because later ones may refer to them, and not
    converted. Frames have `seq` from 0 without gaps, and `cam_frame_id` with the gaps that
    sampling left. `capture_ns` is when the picture was decoded, or was due by its pace.

    Args:
        video: an address (`vdag.sources.address` lists them) or an iterable of arrays.
        fps: frames per second to yield, None for all; never more than the source has. Live
            sources are sampled by time, others by position.
        resolution: name, `WIDTHxHEIGHT`, or `native` and None for the source's own size; the
            aspect ratio is not preserved.
        pace: `asap` as fast as they are read, or `realtime` by the presentation times; a live
            source has its own pace.
        loop: start a finite video again at its end.
        stream: name of the frames' stream; by default that of the video.
        cam_fps: rate of the source, where it does not know its own or is wrong about it.
        read_timeout_s: how long a stream may be silent before it counts as lost.
        reconnect: when a lost live stream is opened again, and when it is given up.
        live: whether pictures come at their own time; by default found out.
        options: more options for FFmpeg, such as `{"rtsp_transport": "udp"}`.
        allocate: gives the memory that frames are written into; by default each has its own.

    Attributes:
        allocate: the same, from the next frame that is read; any thread may set it. A pipeline with
            workers puts its shared memory here for as long as it runs, unless there is something.

    Raises:
        ConfigError: an argument has no meaning.
        SourceError: the video cannot be opened.
        DependencyMissing: a package it needs is not installed.
    """

    def __init__(
        self,
        video: Video,
        *,
        fps: float | None = None,
        resolution: str | None = None,
        pace: Literal["asap", "realtime"] = "asap",
        loop: bool = False,
        stream: str | None = None,
        cam_fps: float | None = None,
        read_timeout_s: float = 10.0,
        reconnect: Reconnect | None = None,
        live: bool | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
        allocate: Allocate | None = None,
    ) -> None:
        _check_arguments(pace, read_timeout_s, fps=fps, cam_fps=cam_fps)
        self._fps = self._sampled_fps = fps
        self._size = parse_resolution(resolution or "native")
        self.allocate = allocate
        self._timeout_s = read_timeout_s
        reconnect = Reconnect() if reconnect is None else reconnect
        self._reader = open_reader(
            video, OpenOptions(read_timeout_s, cam_fps, live, loop, reconnect, options)
        )
        info = self._reader.info
        self.name = info.name if stream is None else stream
        self.fps = float(info.fps)
        self.frame_count = info.frame_count
        self.width, self.height = info.width, info.height
        self.live = info.live
        # Of a live source some pictures never get here, so positions say nothing about time.
        self._sampler = FrameSampler(fps, cam_fps=0 if info.live else info.fps)
        self._pacer = Pacer() if pace == "realtime" and not info.live else None
        self._reading = threading.Lock()
        self._closed = threading.Event()
        self._ended = False
        self._pending: Picture | None = None
        self._seq = self._skipped = self._late = self._errors = self._consecutive_errors = 0

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of the frames from the next one on, in pixels; 0 when unknown."""
        return self._size or (self.width, self.height)

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """Return the next frame, None at the end or after `close`.

        Args:
            timeout_s: longest wait for a live picture, or for a paced frame to be due; None waits
                as long as the source itself does.

        Raises:
            SourceTimeout: no frame came within `timeout_s`, and reading may go on; or a file on
                the web fell silent for `read_timeout_s`, and is at its end.
            SourceError: the video cannot be read further; from then on it is at its end.
        """
        deadline_ns = None if timeout_s is None else time.monotonic_ns() + round(timeout_s * _NS)
        with self._reading:
            try:
                return self._read(deadline_ns)
            except SourceTimeout:
                raise
            except SourceError:
                self._ended = True
                raise

    def reconfigure(
        self,
        *,
        fps: float | Keep | None = Keep.KEEP,
        resolution: str | Keep | None = Keep.KEEP,
    ) -> None:
        """Change rate or size, from the next frame that is read; any thread may call it.

        Raises:
            ConfigError: a value has no meaning; nothing has changed.
        """
        size = self._size
        if not isinstance(resolution, Keep):
            size = parse_resolution(resolution or "native")
        if not isinstance(fps, Keep):
            if fps is not None:
                check_fps("fps", fps)
            self._fps = fps
        self._size = size

    def stats(self) -> SourceStats:
        """Return what became of the pictures up to now."""
        reader = self._reader
        return SourceStats(
            read=self._seq,
            decoded=reader.decoded,
            skipped=self._skipped,
            late_dropped=self._late,
            reconnects=reader.reconnects,
            errors=reader.errors + self._errors,
        )

    def close(self) -> None:
        """End threads and close the video; a waiting `read` returns None. May be called again.

        It takes as long as a read that is under way: moments for a file, at most `read_timeout_s`
        and a second for a stream that is silent.
        """
        self._closed.set()
        if self.live:
            self._reader.close()  # wakes a read; its own thread closes the connection
            return
        if self._reading.acquire(timeout=self._timeout_s + 1.0):
            try:
                self._pending = None
                self._reader.close()
            finally:
                self._reading.release()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> SingleFrameGenerator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self, deadline_ns: int | None) -> Frame | None:
        while not (self._closed.is_set() or self._ended):
            picture = self._next_due(deadline_ns)
            if picture is None:
                break
            capture_ns = self._wait_due(picture, deadline_ns)
            if self._closed.is_set():
                break
            self._pending = None
            try:
                frame = self._frame(picture, capture_ns)
            except ImageError as err:
                self._count_error(err)
                continue
            self._consecutive_errors = 0
            return frame
        return None

    def _next_due(self, deadline_ns: int | None) -> Picture | None:
        """Return the next picture that the rate lets through, None at the end."""
        while self._pending is None:
            timeout_s = None if deadline_ns is None else _seconds_until(deadline_ns)
            picture = self._reader.read(timeout_s)
            if picture is None:
                self._ended = True
                return None
            if self._fps != self._sampled_fps:
                self._sampler.fps = self._sampled_fps = self._fps
            if self._sampler.take(picture.index, picture.pts_s):
                late = min(picture.superseded, self._sampler.passed_over)
                self._late += late
                self._skipped += picture.superseded - late
                self._pending = picture
            else:
                self._skipped += 1 + picture.superseded
            if self._closed.is_set():
                return None
        return self._pending

    def _wait_due(self, picture: Picture, deadline_ns: int | None) -> int:
        """Wait until the picture is due by its pace; return its time of capture in ns.

        Raises:
            SourceTimeout: it is due after `deadline_ns`, which is then reached; it stays pending.
        """
        if self._pacer is None:
            return picture.decoded_ns
        if picture.pts_s is None:
            raise SourceError(f"{self.name}: has no times to pace by, pass cam_fps")
        now_ns = time.monotonic_ns()
        due_ns = self._pacer.due_ns(picture.pts_s, now_ns)
        if deadline_ns is not None and due_ns > max(deadline_ns, now_ns):
            self._closed.wait(_seconds_until(deadline_ns))
            raise SourceTimeout(f"{self.name}: the next frame is not due yet")
        self._closed.wait(_seconds_until(due_ns))
        return time.monotonic_ns()

    def _frame(self, picture: Picture, capture_ns: int) -> Frame:
        pixels, lease = self._sized(picture.pixels())
        seq = self._seq
        self._seq += 1
        return Frame(
            pixels,
            stream=self.name,
            seq=seq,
            cam_frame_id=picture.index,
            capture_ns=capture_ns,
            pts_s=picture.pts_s,
            fps=self.fps,
            lease=lease,
        )

    def _sized(self, pixels: UInt8Image) -> tuple[UInt8Image, Lease | None]:
        """Return the pixels at the wanted size, in the memory of `allocate` if there is one."""
        height, width = pixels.shape[:2]
        size = self._size or (width, height)
        allocate = self.allocate
        if allocate is None:
            return (pixels if size == (width, height) else _resize(pixels, size)), None
        target, lease = allocate(*size)
        try:
            if size == (width, height):
                np.copyto(target, pixels)
            else:
                _resize(pixels, size, target)
        except BaseException:
            if lease is not None:
                lease.release()
            raise
        return target, lease

    def _count_error(self, err: ImageError) -> None:
        self._errors += 1
        self._consecutive_errors += 1
        if self._consecutive_errors > MAX_CONSECUTIVE_ERRORS:
            count = self._consecutive_errors
            raise SourceError(f"{self.name}: {count} damaged pictures in a row: {err}") from err


def _check_arguments(pace: str, read_timeout_s: float, **rates: float | None) -> None:
    if pace not in ("asap", "realtime"):
        raise ConfigError(f"pace is {pace!r}, expected asap or realtime")
    if not 0.0 < read_timeout_s <= 3600.0:
        raise ConfigError(f"read_timeout_s is {read_timeout_s}, expected above 0 to 3600")
    for name, fps in rates.items():
        if fps is not None:
            check_fps(name, fps)


def _seconds_until(deadline_ns: int) -> float:
    return max(deadline_ns - time.monotonic_ns(), 0) / _NS


def _resize(
    pixels: UInt8Image, size: tuple[int, int], target: UInt8Image | None = None
) -> UInt8Image:
    """Return the picture at `size`, written into `target` if there is one."""
    cv2 = opencv()
    resized: UInt8Image = cv2.resize(pixels, size, dst=target, interpolation=cv2.INTER_LINEAR)
    if target is not None and resized is not target:  # OpenCV took memory that it liked better
        np.copyto(target, resized)
    return resized
