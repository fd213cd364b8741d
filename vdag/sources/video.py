"""Video files, streams and cameras, decoded with FFmpeg through PyAV.

Pictures are converted at their own size and then, if asked, resized by OpenCV. Letting swscale do
both in one pass was measured: the same time for smaller sizes, a third slower for larger ones.
Converting and then resizing also gives the samples that OpenCV's users get, and OpenCV can write
straight into memory that the caller chose.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from vdag.errors import SourceError, SourceTimeout
from vdag.extras import pyav
from vdag.frame import UInt8Image
from vdag.sources.base import OpenOptions, Picture, StreamInfo, check_size
from vdag.wording import reason

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter

__all__ = ["VideoReader"]

logger = logging.getLogger(__name__)

#: Damaged packets in a row after which a video is given up; about a group of pictures.
MAX_CONSECUTIVE_ERRORS = 100

#: Formats without times of their own; FFmpeg makes some up from a guessed 25 fps.
CLOCKLESS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc"})

#: A text file is a video of a terminal to FFmpeg.
NOT_VIDEO = frozenset({"tty"})


class VideoReader:
    """Decodes one stream of pictures that FFmpeg can open; see `Reader`.

    Args:
        url: what FFmpeg opens.
        name: for messages; without credentials.
        options: how to open it; `live` None means: live unless FFmpeg knows its duration.
        container: FFmpeg's name of the format, None to find out.
        ffmpeg: options for FFmpeg; those in `options` win.
        local: `url` is a file, whose reads take no dead-line.

    Raises:
        DependencyMissing: PyAV is not installed.
        SourceTimeout: no connection, or no stream in it, within the dead-line.
        SourceError: it cannot be opened, holds no video, or its pictures are too large.
    """

    def __init__(
        self,
        url: str,
        name: str,
        options: OpenOptions,
        *,
        container: str | None = None,
        ffmpeg: dict[str, str] | None = None,
        local: bool = False,
    ) -> None:
        self._av = pyav()
        self.errors = self.decoded = self.reconnects = 0
        self._name = name
        self._timeout_s = None if local else options.read_timeout_s
        self._consecutive_errors = 0
        self._ended = False
        self._first_pts: int | None = None
        self._waiting: deque[VideoFrame] = deque()
        self._reformatter: VideoReformatter = self._av.video.reformatter.VideoReformatter()
        self._container: InputContainer | None = self._open(
            url, container, dict(ffmpeg or {}) | dict(options.ffmpeg)
        )
        try:
            self._stream = self._pick_stream(self._container)
            self._info = self._describe(self._container, options, local)
        except BaseException:
            self.close()
            raise
        self._packets: Iterator[Packet[VideoStream]] = self._container.demux(self._stream)

    @property
    def info(self) -> StreamInfo:
        """What FFmpeg knows about the stream."""
        return self._info

    def read(self, timeout_s: float | None = None) -> Picture | None:
        """Return the next picture, None at the end; `timeout_s` is that of opening."""
        del timeout_s
        while not self._waiting:
            if self._ended:
                return None
            self._decode_packet()
        frame = self._waiting.popleft()
        check_size(self._name, frame.width, frame.height)
        picture = Picture(
            self.decoded,
            self._pts_s(frame),
            time.monotonic_ns(),
            functools.partial(self._pixels, frame),
        )
        self.decoded += 1
        return picture

    def close(self) -> None:
        """Close the container; pictures handed out stay valid."""
        container, self._container = self._container, None
        self._ended = True
        self._waiting.clear()
        if container is not None:
            self._packets = iter(())
            container.close()

    def _open(self, url: str, container: str | None, ffmpeg: dict[str, str]) -> InputContainer:
        start_ns = time.monotonic_ns()
        try:
            opened: InputContainer = self._av.open(
                url,
                mode="r",
                format=container,
                options=ffmpeg,
                timeout=self._timeout_s,
                metadata_errors="replace",
            )
        except (self._av.FFmpegError, OSError, ValueError) as err:
            raise self._translate(err, "cannot be opened", start_ns) from err
        if opened.format.name in NOT_VIDEO:
            opened.close()
            raise SourceError(f"{self._name}: cannot be opened: not a video")
        return opened

    def _pick_stream(self, container: InputContainer) -> VideoStream:
        if not container.streams.video:
            raise SourceError(f"{self._name}: has no video stream")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None:  # FFmpeg knows the container, but not what is inside
            raise SourceError(f"{self._name}: no decoder for its video stream")
        check_size(self._name, codec.width, codec.height)
        return stream

    def _describe(self, container: InputContainer, options: OpenOptions, local: bool) -> StreamInfo:
        stream = self._stream
        live = options.live
        if live is None:
            live = not local and container.duration is None
        # Several pictures at a time decode faster, but each then waits for those after it.
        stream.thread_type = "SLICE" if live else "AUTO"
        rate = stream.average_rate or (None if live else stream.guessed_rate)
        if options.cam_fps is not None:
            rate = Fraction(options.cam_fps).limit_denominator(1001)
        self._has_clock = not (live and container.format.name in CLOCKLESS)
        width, height = stream.codec_context.width, stream.codec_context.height
        count = None if live else stream.frames or None
        return StreamInfo(self._name, rate or Fraction(0), width, height, count, live)

    def _decode_packet(self) -> None:
        """Read one packet and decode it; a damaged one is counted and left out."""
        start_ns = time.monotonic_ns()
        try:
            packet = next(self._packets, None)
            if packet is None:
                self._end()
                return
            self._waiting.extend(packet.decode())
            self._consecutive_errors = 0
        except self._av.error.InvalidDataError as err:
            self._count_error(err, start_ns)
        except self._av.error.EOFError:  # PyAV before 18 says so when it flushes a cut file
            self._end()
        except (self._av.FFmpegError, OSError, ValueError) as err:
            self._ended = True
            raise self._translate(err, self._progress("failed"), start_ns) from err

    def _count_error(self, err: Exception, start_ns: int) -> None:
        self.errors += 1
        self._consecutive_errors += 1
        if self._consecutive_errors > MAX_CONSECUTIVE_ERRORS:
            self._ended = True
            what = self._progress(f"{self._consecutive_errors} damaged packets in a row")
            raise self._translate(err, what, start_ns) from err
        assert self._container is not None
        # A generator that raised is finished; FFmpeg itself goes on with the next packet.
        self._packets = self._container.demux(self._stream)

    def _end(self) -> None:
        self._ended = True
        count = self._info.frame_count
        if count is not None and self.decoded + self.errors < count:
            self.errors += 1
            logger.warning("%s: ends after %d of %d pictures", self._name, self.decoded, count)

    def _pts_s(self, frame: VideoFrame) -> float | None:
        if frame.pts is None or frame.time_base is None or not self._has_clock:
            rate = self._info.fps
            return float(self.decoded / rate) if rate and self._has_clock else None
        if self._first_pts is None:
            self._first_pts = frame.pts
        return float((frame.pts - self._first_pts) * frame.time_base)

    def _pixels(self, frame: VideoFrame) -> UInt8Image:
        """Convert to BGR, over the memory that FFmpeg converted into."""
        converted = self._reformatter.reformat(frame, format="bgr24")
        plane: Any = converted.planes[0]  # a buffer, which its stub does not say
        pixels: UInt8Image = np.ndarray(
            (converted.height, converted.width, 3),
            dtype=np.uint8,
            buffer=plane,
            strides=(plane.line_size, 3, 1),
        )
        if converted is frame:  # it was BGR already, and the decoder may still refer to it
            pixels = pixels.copy()
        return _upright(pixels, getattr(frame, "rotation", 0))

    def _progress(self, what: str) -> str:
        return f"{what} after {self.decoded} pictures"

    def _translate(self, err: Exception, what: str, start_ns: int) -> SourceError:
        """Return the error to raise; FFmpeg reports a dead-line in several ways."""
        waited_s = (time.monotonic_ns() - start_ns) / 1e9
        if self._timeout_s is not None and waited_s >= self._timeout_s:
            return SourceTimeout(f"{self._name}: {what}: nothing for {self._timeout_s:g} s")
        return SourceError(f"{self._name}: {what}: {reason(err)}")


def _upright(pixels: UInt8Image, rotation: int) -> UInt8Image:
    """Turn a picture the way its display matrix says, as a view.

    Args:
        pixels: as decoded.
        rotation: degrees counter-clockwise, as FFmpeg gives them; other than multiples of 90 are
            left alone.
    """
    if rotation % 360 == 0 or rotation % 90:
        return pixels
    # A copy, because the samples of a row of a frame are contiguous.
    return np.ascontiguousarray(np.rot90(pixels, rotation // 90))
