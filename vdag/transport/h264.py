"""H.264 of one stream: an encoder that sends a picture as soon as it has it, and its decoder.

Both are PyAV's, on FFmpeg: libx264 without look-ahead and without B pictures, so that one picture
in is one packet out, and FFmpeg's own decoder, one packet in, one picture out. FFmpeg works
without the GIL. Pictures refer to the one before them, back to a key frame: a decoder that missed
one goes on at the next key frame, not earlier.

A coded picture has even sides. One of odd sides is sent with its last row or column doubled.

Levels stay what they were, hop after hop: colours are those of ITU-R BT.601 in the narrow range, in
both directions and as the stream says, and are rounded, not cut off. FFmpeg's swscale rounds only
where it is told to, and there takes eight times as long as OpenCV for the way back.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vdag.errors import ConfigError, FrameFormatError, ImageError, TransportError
from vdag.extras import opencv, pyav
from vdag.wording import reason

if TYPE_CHECKING:
    from av import VideoCodecContext, VideoFrame

    from vdag.frame import UInt8Image

__all__ = ["Decoder", "Encoder", "Packet"]

MIN_BITRATE, MAX_BITRATE = 10_000, 1_000_000_000
MAX_SIDE = 16_384
#: A key frame this often even if nobody asks, in seconds.
KEY_INTERVAL_S = 10
#: What a key frame may exceed the bit rate by, in seconds of it: a thin link is not swamped.
BURST_S = 0.5
#: SWS_BILINEAR, _FULL_CHR_H_INT, _FULL_CHR_H_INP and _ACCURATE_RND of libswscale/swscale.h.
SCALING = 0x2 | 0x2000 | 0x4000 | 0x40000
#: Of `SwsContext` and of `AVColorSpace`, and AVCOL_RANGE_MPEG of libavutil/pixfmt.h.
SWS_BT601, AVCOL_BT601, NARROW = 5, 6, 1
#: FFmpeg pads a picture by up to so many pixels before it compares its area with `max_pixels`.
DECODER_MARGIN = 128


class Packet(NamedTuple):
    """One coded picture.

    Attributes:
        data: in the byte stream format of ITU-T H.264, annex B; a key frame brings its parameters.
        is_key: nothing before it is needed to decode it.
    """

    data: bytes
    is_key: bool


class Encoder:
    """Encodes the pictures of one stream, all of one size.

    Args:
        width: of the pictures.
        height: likewise.
        bitrate: bits per second to aim at, at `fps`.
        fps: pictures per second the bit rate is meant for.
        threads: threads that encode a picture; each makes a slice of it.

    Raises:
        ConfigError: an option has no meaning.
        DependencyMissing: PyAV is not installed.
        TransportError: its FFmpeg has no libx264, or libx264 refuses the options.
    """

    def __init__(
        self, width: int, height: int, *, bitrate: int, fps: float = 25.0, threads: int = 1
    ) -> None:
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise ConfigError(f"picture of {width} x {height} has a side outside 1..{MAX_SIDE}")
        if not MIN_BITRATE <= bitrate <= MAX_BITRATE:
            raise ConfigError(f"bitrate of {bitrate} is outside {MIN_BITRATE}..{MAX_BITRATE}")
        if not 0.0 < fps <= 1000.0:
            raise ConfigError(f"fps of {fps} is outside 0..1000")
        self.width, self.height = width, height
        self._av = pyav()
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._count = 0
        self._wants_key = True
        self._codec: VideoCodecContext | None = self._open(bitrate, fps, threads)

    def want_key(self) -> None:
        """Make the next picture a key frame."""
        self._wants_key = True

    def encode(self, pixels: UInt8Image) -> Packet:
        """Encode the next picture.

        Args:
            pixels: uint8 `(H, W, 3)`, BGR, rows at any stride. Read only, and only until this
                returns.

        Raises:
            ImageError: the picture is not of the size the encoder is for.
            TransportError: libx264 failed, or the encoder is closed.
        """
        if self._codec is None:
            raise TransportError("the encoder is closed")
        frame = self._frame(pixels)
        frame.pts = self._count
        if self._wants_key:
            frame.pict_type = self._av.video.frame.PictureType.I
        try:
            packets = self._codec.encode(frame)
        except (self._av.FFmpegError, OSError, ValueError) as err:
            raise TransportError(f"libx264 failed: {reason(err)}") from err
        if len(packets) != 1:
            raise TransportError(f"libx264 made {len(packets)} packets of a picture")
        self._count += 1
        self._wants_key = False
        return Packet(bytes(packets[0]), packets[0].is_keyframe)

    def close(self) -> None:
        """Give up the encoder's memory; may be called again."""
        self._codec = None

    def _frame(self, pixels: UInt8Image) -> VideoFrame:
        if pixels.shape != (self.height, self.width, 3) or pixels.dtype != np.uint8:
            raise ImageError(
                f"pixels of {pixels.dtype} {pixels.shape} do not fit an encoder for "
                f"{self.width} x {self.height}"
            )
        if self.width % 2 or self.height % 2:
            pixels = np.pad(pixels, ((0, self.height % 2), (0, self.width % 2), (0, 0)), "edge")
        elif pixels.strides[1:] != (3, 1):
            pixels = np.ascontiguousarray(pixels)
        frame = self._av.VideoFrame.from_numpy_buffer(pixels, format="bgr24")
        planes: VideoFrame = self._reformatter.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=SWS_BT601,
            dst_color_range=NARROW,
            interpolation=SCALING,
        )
        return planes

    def _open(self, bitrate: int, fps: float, threads: int) -> VideoCodecContext:
        try:
            codec: VideoCodecContext = self._av.CodecContext.create("libx264", "w")
        except ValueError as err:
            raise TransportError("this FFmpeg has no libx264 to encode H.264 with") from err
        rate = Fraction(fps).limit_denominator(1001)
        codec.width = self.width + self.width % 2
        codec.height = self.height + self.height % 2
        codec.pix_fmt = "yuv420p"
        codec.colorspace, codec.color_range = AVCOL_BT601, NARROW
        codec.framerate, codec.time_base = rate, 1 / rate
        codec.bit_rate = bitrate
        codec.gop_size = max(round(fps * KEY_INTERVAL_S), 1)
        codec.max_b_frames = 0
        codec.thread_count = threads
        codec.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "forced-idr": "1",
            "maxrate": str(bitrate),
            "bufsize": str(int(bitrate * BURST_S)),
            "x264-params": "scenecut=0",  # a key frame nobody asked for costs a thin link dearly
        }
        try:
            codec.open()
        except (self._av.FFmpegError, OSError, ValueError) as err:
            raise TransportError(
                f"libx264 refuses {self.width} x {self.height}: {reason(err)}"
            ) from err
        return codec


class Decoder:
    """Decodes the packets of one `Encoder`, from a key frame on, without a gap.

    Args:
        width: of the pictures; others are refused, and no memory is taken for much larger ones.
        height: likewise.

    Raises:
        ConfigError: a side is out of range.
        DependencyMissing: PyAV or OpenCV is not installed.
    """

    def __init__(self, width: int, height: int) -> None:
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise ConfigError(f"picture of {width} x {height} has a side outside 1..{MAX_SIDE}")
        self.width, self.height = width, height
        self._av, self._cv2 = pyav(), opencv()
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._codec: VideoCodecContext | None = self._av.CodecContext.create("h264", "r")
        self._codec.thread_count = 1  # several would each hold a picture back
        sides = (-(-side // 16) * 16 + DECODER_MARGIN for side in (width, height))
        self._codec.options = {
            "flags": "+low_delay",
            "max_pixels": str(int(np.prod([*sides]))),
            "err_detect": "explode",
            "ec": "0",  # a picture that was guessed is worse than none
        }

    def decode(self, data: bytes | memoryview) -> VideoFrame:
        """Decode the next packet; `copy_pixels` has the picture's pixels.

        Raises:
            FrameFormatError: it is none, or refers to what is not there, or its picture is not of
                the decoder's size. What follows is then only good from a key frame on.
        """
        if self._codec is None:
            raise FrameFormatError("the decoder is closed")
        if not data:  # to FFmpeg, the end of the stream
            raise FrameFormatError("packet of 0 bytes is no H.264")
        try:
            frames = self._codec.decode(self._av.Packet(data))
        except (self._av.FFmpegError, OSError, ValueError) as err:
            raise FrameFormatError(f"packet is no H.264: {reason(err)}") from err
        if len(frames) != 1:
            raise FrameFormatError(f"packet holds {len(frames)} pictures, expected 1")
        width, height = self.width + self.width % 2, self.height + self.height % 2
        if (frames[0].width, frames[0].height) != (width, height):
            raise FrameFormatError(
                f"picture of {frames[0].width} x {frames[0].height} is not {width} x {height}"
            )
        return frames[0]

    def copy_pixels(self, frame: VideoFrame, out: UInt8Image) -> None:
        """Convert a decoded picture.

        Args:
            frame: from `decode`.
            out: uint8 `(height, width, 3)`, written in full, BGR; the caller's.
        """
        # What other encoders may have made, such as colours at full resolution, is made ours first.
        planes = self._reformatter.reformat(frame, format="yuv420p").to_ndarray()
        code, even = self._cv2.COLOR_YUV2BGR_I420, (frame.height, frame.width, 3)
        if out.shape == even and out.flags.c_contiguous:
            self._cv2.cvtColor(planes, code, dst=out)
        else:
            pixels = self._cv2.cvtColor(planes, code)
            np.copyto(out, pixels[: out.shape[0], : out.shape[1]])

    def close(self) -> None:
        """Give up the decoder's memory; may be called again."""
        self._codec = None
