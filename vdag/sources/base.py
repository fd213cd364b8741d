"""What a source is, and the seam below it: a reader of one kind of video.

A *reader* decodes; it knows nothing of sampling, sizes or pace. A *source* hands out frames; the
generators of `vdag.sources.generator` are sources over any reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from vdag.errors import ConfigError, SourceError
from vdag.frame import Frame, UInt8Image
from vdag.sampling import MAX_SIDE

__all__ = [
    "OpenOptions",
    "Picture",
    "Reader",
    "Reconnect",
    "Source",
    "SourceStats",
    "StreamInfo",
    "check_size",
]


@dataclass(frozen=True, slots=True)
class SourceStats:
    """What became of a source's pictures.

    decoded = read + skipped + late_dropped, plus at most one that waits, plus those that proved
    damaged when they were converted.

    Attributes:
        read: frames handed to the consumer.
        decoded: pictures decoded.
        skipped: pictures left out by the sampling rule; they were not converted.
        late_dropped: pictures of a live source that were due, but a newer one came before the
            consumer asked.
        reconnects: times a live source was opened again.
        errors: damaged packets or pictures, and failed attempts to connect.
    """

    read: int = 0
    decoded: int = 0
    skipped: int = 0
    late_dropped: int = 0
    reconnects: int = 0
    errors: int = 0


@runtime_checkable
class Source(Protocol):
    """Where frames come from: iterate it, or call `read` until it returns None.

    One thread reads; any thread may call `close` and `stats`.

    Attributes:
        name: what the frames' `stream` says.
        fps: rate of the source before sampling, 0.0 when unknown.
        frame_count: pictures of the source before sampling, None when endless or unknown.
        width: of the source's pictures before resizing, in pixels, 0 when unknown.
        height: likewise.
        live: pictures come at their own time, and those not read in time are lost.
    """

    name: str
    fps: float
    frame_count: int | None
    width: int
    height: int
    live: bool

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """Return the next frame, or None at the end or after `close`.

        Raises:
            SourceTimeout: no frame came within `timeout_s`; reading may go on.
            SourceError: the source failed; it is at its end.
        """

    def __iter__(self) -> Iterator[Frame]: ...

    def stats(self) -> SourceStats:
        """Return what became of the pictures up to now."""

    def close(self) -> None:
        """End threads and give up memory; a waiting `read` returns None. May be called again."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a reader knows about its video before the first picture.

    Attributes:
        name: short, without credentials; for messages and as the default stream name.
        fps: rate in frames per second, 0 when unknown.
        width: in pixels, 0 when unknown.
        height: likewise.
        frame_count: pictures in all, None when endless or unknown.
        live: pictures come at their own time.
    """

    name: str
    fps: Fraction = Fraction(0)
    width: int = 0
    height: int = 0
    frame_count: int | None = None
    live: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture that has not been converted yet, so that skipping it costs nothing.

    Attributes:
        index: position in the source, from 0.
        pts_s: presentation time in seconds from the start, None when the source has none.
        decoded_ns: `time.monotonic_ns()` when it was decoded.
        pixels: returns it as uint8 `(H, W, 3)` BGR, rows of any stride; call it at most once, the
            array is the caller's. Raises ImageError for a damaged picture.
        superseded: pictures before this one that nobody read in time.
    """

    index: int
    pts_s: float | None
    decoded_ns: int
    pixels: Callable[[], UInt8Image] = field(repr=False)
    superseded: int = 0


class Reader(Protocol):
    """Decodes one kind of video. Used by one thread at a time; `pixels` of a picture by another."""

    @property
    def info(self) -> StreamInfo:
        """What is known about the video."""

    @property
    def decoded(self) -> int:
        """Pictures decoded so far."""

    @property
    def errors(self) -> int:
        """Damaged packets left out, and connections lost, so far."""

    @property
    def reconnects(self) -> int:
        """Times it was opened again."""

    def read(self, timeout_s: float | None = None) -> Picture | None:
        """Return the next picture, None at the end.

        Raises:
            SourceTimeout: nothing came within `timeout_s`, or within the dead-line it was opened
                with.
            SourceError: the video cannot be read further.
        """

    def close(self) -> None:
        """Give up everything; may be called again."""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """When a live source that fell silent is opened again, and when it is given up.

    The wait before attempt `n` (from 0) is `initial_s * 2**n`, at most `max_s`, less a random
    share of up to `jitter`: many sources that lost the same camera do not come back at once.

    Attributes:
        attempts: failed attempts in a row until it is given up; 0 never reconnects.
        outage_s: seconds without a picture until it is given up.
        initial_s: first wait in seconds.
        max_s: longest wait in seconds.
        jitter: share of the wait that is random, 0 to 1.
    """

    attempts: int = 30
    outage_s: float = 300.0
    initial_s: float = 0.25
    max_s: float = 10.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        for name in ("attempts", "outage_s", "initial_s", "max_s"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"{name} of reconnect is {value}, expected at least 0")
        if not 0.0 <= self.jitter <= 1.0:
            raise ConfigError(f"jitter of reconnect is {self.jitter}, expected 0 to 1")

    def delay_s(self, attempt: int, random: float) -> float:
        """Return the wait before `attempt`, for a `random` number between 0 and 1."""
        wait_s = min(self.initial_s * 2.0 ** min(attempt, 64), self.max_s)
        return wait_s * (1.0 - self.jitter * random)


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How a video is opened.

    Attributes:
        read_timeout_s: longest wait for a connection, and for each picture of it.
        cam_fps: rate that replaces what the source says, None to believe it.
        live: whether pictures come at their own time, None to find out.
        loop: start again at the end.
        reconnect: for live sources.
        ffmpeg: options for FFmpeg's demuxer and protocol, on top of those chosen here.
    """

    read_timeout_s: float = 10.0
    cam_fps: float | None = None
    live: bool | None = None
    loop: bool = False
    reconnect: Reconnect = Reconnect()
    ffmpeg: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def check_size(name: str, width: int, height: int) -> None:
    """Raise SourceError when a picture of `name` has no pixels or a side over `MAX_SIDE`."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise SourceError(f"{name}: picture of {width}x{height} has a side outside 1 to {MAX_SIDE}")
