"""Annotated frames as an H.264 video."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from vdag.drawing import BASE_HEIGHT, render
from vdag.errors import ConfigError, SinkError
from vdag.extras import opencv, pyav
from vdag.frame import UInt8Image
from vdag.results import Result
from vdag.sampling import check_fps
from vdag.sinks.base import PartialFile, Sink
from vdag.wording import reason

if TYPE_CHECKING:
    from av import Packet, VideoStream
    from av.container import OutputContainer

__all__ = ["VideoSink"]

logger = logging.getLogger(__name__)

#: FFmpeg's formats by the suffix of the file.
FORMATS: Mapping[str, str] = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}

#: Unit of the video's times; divides the common rates exactly.
_CLOCK_HZ = 90_000

#: Rate that is assumed where neither the caller nor the source knows one.
_ASSUMED_FPS = 25.0

#: ITU-R BT.709, for matrix, primaries and transfer (ITU-T H.273); players take it for granted.
_BT709 = 1


class VideoSink(Sink):
    """Writes frames with what was found in them; see `Sink`.

    The first frame fixes the size: rounded up to even, as 4:2:0 wants it. Frames of another size,
    after a plan changed the resolution, are resized to it. The file appears under its name when
    the sink is closed.

    Args:
        path: ends in `.mp4`, `.mov` or `.mkv`.
        fps: rate of the video; None keeps the times of the source, so that a sampled video plays
            as long as the original.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        preset: of x264, `ultrafast` to `placebo`.
        labels: class number to name.
        min_height: smaller frames are enlarged by a whole factor to at least this many rows.

    Raises:
        ConfigError: an argument has no meaning.
        SinkError: the file cannot be written.
        DependencyMissing: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | None = None,
        *,
        crf: int = 20,
        preset: str = "veryfast",
        labels: Mapping[int, str] | None = None,
        min_height: int = BASE_HEIGHT,
    ) -> None:
        if fps is not None:
            check_fps("fps", fps)
        if not 0 <= crf <= 51:
            raise ConfigError(f"crf is {crf}, expected 0 to 51")
        self._file = PartialFile(path)
        self._fps, self._labels, self._min_height = fps, labels, min_height
        self._options = {"crf": str(crf), "preset": preset}
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._rate = Fraction(_ASSUMED_FPS)
        self._written = 0
        self._last_tick = -1
        self._first_s: float | None = None
        try:
            self._container = self._open()
        except BaseException:
            self._file.discard()
            raise

    def write(self, result: Result) -> None:
        """Draw and encode one frame.

        Raises:
            SinkError: the disk is full, the result has no frame, or the sink is closed.
        """
        if self._container is None:
            raise SinkError(f"{self._file.path}: is closed")
        pixels = render(result, labels=self._labels, min_height=self._min_height)
        try:
            if self._stream is None:
                self._stream = self._add_stream(self._container, pixels, result)
            frame = self._av.VideoFrame.from_ndarray(self._fitted(pixels), format="bgr24")
            frame.pts = self._tick(result)
            frame.time_base = Fraction(1, _CLOCK_HZ)
            yuv = frame.reformat(format="yuv420p", dst_colorspace="itu709")
            self._mux(self._stream.encode(yuv))
        except (self._av.FFmpegError, OSError, ValueError) as err:
            self.abort()
            raise self._error(err) from err

    def close(self) -> None:
        """Encode what waits inside x264, complete the file and give it its name.

        Without a single frame there is no video to complete: a warning says so.

        Raises:
            SinkError: the disk is full; the video is removed.
        """
        if self._container is None:
            return
        if self._stream is None:
            self.abort()
            logger.warning("%s: no frame was written, so there is no video", self._file.path)
            return
        try:
            self._mux(self._stream.encode(None))
            container, self._container = self._container, None
            container.close()
        except (self._av.FFmpegError, OSError, ValueError) as err:
            self.abort()
            raise self._error(err) from err
        self._file.commit()

    def abort(self) -> None:
        """Remove the video."""
        container, self._container = self._container, None
        if container is not None:
            # It may be impossible to complete, and is removed anyway.
            with contextlib.suppress(self._av.FFmpegError, OSError, ValueError):
                container.close()
        self._file.discard()

    def _open(self) -> OutputContainer:
        self._av = pyav()
        suffix = self._file.path.suffix.lower()
        if suffix not in FORMATS:
            known = ", ".join(FORMATS)
            raise ConfigError(f"{self._file.path}: a video ends in {known}")
        # Players on the web start before they have the whole file.
        options = {"movflags": "faststart"} if suffix != ".mkv" else {}
        try:
            opened: OutputContainer = self._av.open(
                str(self._file.partial), "w", format=FORMATS[suffix], container_options=options
            )
        except (self._av.FFmpegError, OSError, ValueError) as err:
            raise self._error(err) from err
        return opened

    def _add_stream(
        self, container: OutputContainer, pixels: UInt8Image, result: Result
    ) -> VideoStream:
        source_fps = result.frame.fps if result.frame is not None else 0.0
        self._rate = Fraction(self._fps or source_fps or _ASSUMED_FPS).limit_denominator(1001)
        stream: VideoStream = container.add_stream(
            "libx264", rate=self._rate, options=self._options
        )
        stream.width, stream.height = (side + side % 2 for side in pixels.shape[1::-1])
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK_HZ)
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        return stream

    def _fitted(self, pixels: UInt8Image) -> UInt8Image:
        """Return the pixels at the size of the video."""
        assert self._stream is not None
        wide, high = self._stream.width - pixels.shape[1], self._stream.height - pixels.shape[0]
        if wide == 0 and high == 0:
            return pixels
        if 0 <= wide <= 1 and 0 <= high <= 1:
            padded = np.pad(pixels, ((0, high), (0, wide), (0, 0)), mode="edge")
            return padded.astype(np.uint8, copy=False)
        cv2 = opencv()
        fitted: UInt8Image = cv2.resize(
            pixels, (self._stream.width, self._stream.height), interpolation=cv2.INTER_AREA
        )
        return fitted

    def _tick(self, result: Result) -> int:
        """Return when the frame is shown, in ticks; always later than the one before."""
        if self._fps is None and result.pts_s is not None:
            if self._first_s is None:
                self._first_s = result.pts_s
            shown_s = result.pts_s - self._first_s
        else:
            shown_s = float(self._written / self._rate)
        self._written += 1
        self._last_tick = max(round(shown_s * _CLOCK_HZ), self._last_tick + 1)
        return self._last_tick

    def _mux(self, packets: list[Packet[Any]]) -> None:
        assert self._container is not None
        self._container.mux(packets)

    def _error(self, err: Exception) -> SinkError:
        return SinkError(f"{self._file.path}: cannot be written: {reason(err)}")
