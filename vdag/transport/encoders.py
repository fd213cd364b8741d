"""How an edge puts pixels on the wire: as they are, as JPEG, or as H.264.

Only colour pictures, uint8 `(H, W, 3)`, are encoded; other arrays go as they are, whatever the
edge's encoder is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vdag import _native as native
from vdag._native import header as native_header
from vdag.errors import FrameFormatError
from vdag.transport import h264

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vdag._native.header import Header
    from vdag._native.ring import View
    from vdag.transport.departures import Parcel

__all__ = ["H264", "Coded", "Encoder", "Encoders", "Jpeg", "Raw", "pixels_of"]

#: H.264 encoders of an edge; beyond, the one unused for longest is given up.
MAX_STREAMS = 64


@dataclass(frozen=True, slots=True)
class Raw:
    """Pixels as they are, sent from where they lie."""


@dataclass(frozen=True, slots=True)
class Jpeg:
    """Each picture by itself; `quality` is libjpeg's, 1 to 100."""

    quality: int = 90


@dataclass(frozen=True, slots=True)
class H264:
    """Each picture as the difference to the one before.

    Attributes:
        bitrate: bits per second to aim at.
        fps: pictures per second that this is meant for.
        threads: threads that encode one picture.
    """

    bitrate: int = 2_000_000
    fps: float = 25.0
    threads: int = 1


Encoder = Raw | Jpeg | H264


class Coded(NamedTuple):
    """A frame as it goes on the wire, but for its stamp.

    Attributes:
        header: of kind none, inline, jpeg or h264.
        payload: what follows; None for nothing.
        picture: h264: its number in the stream's coding.
        since_key: h264: pictures since the key frame.
        is_pixels: the payload is the frame's own memory, which must not change until it was sent.
    """

    header: Header
    payload: bytes | memoryview | None
    picture: int = 0
    since_key: int = 0
    is_pixels: bool = False


@dataclass(slots=True)
class _Stream:
    """One stream's coding: which picture is next, and where the last key frame was."""

    encoder: h264.Encoder
    settings: H264
    picture: int = 0
    key: int = 0


class Encoders:
    """The encoders of one edge; for one thread."""

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[str, int], _Stream] = OrderedDict()

    @staticmethod
    def check(encoder: Encoder) -> None:
        """Make sure that an encoder can be used.

        Raises:
            ConfigError: an option has no meaning.
            DependencyMissing: PyAV is not installed.
            NativeUnavailable: libturbojpeg is not found.
            TransportError: FFmpeg has no libx264.
        """
        if isinstance(encoder, Jpeg):
            native.jpeg.encode(np.zeros((1, 1, 3), np.uint8), quality=encoder.quality)
        elif isinstance(encoder, H264):
            _open(encoder, 16, 16).close()

    def encode(self, encoder: Encoder, parcel: Parcel) -> Coded:
        """Encode a frame.

        Raises:
            FrameFormatError: the pixels do not fit the descriptor.
            ImageError: they cannot be encoded.
            TransportError: likewise; the stream's coding then starts afresh.
        """
        header, pixels = parcel.head.header, parcel.pixels
        if pixels is None:
            return _as_it_is(header, parcel.message)
        is_picture = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        if isinstance(encoder, Raw) or not is_picture:
            return _raw(header, pixels)
        if isinstance(encoder, H264):
            return self._encode_h264(encoder, parcel, pixels)
        jpeg = native.jpeg.encode(pixels, quality=encoder.quality)
        return Coded(_coded(header, native_header.KIND_JPEG, pixels, len(jpeg)), jpeg)

    def want_key(self, job: str, stream: int) -> None:
        """Make the stream's next picture a key frame, if it is coded as H.264."""
        if (found := self._streams.get((job, stream))) is not None:
            found.encoder.want_key()

    def close(self) -> None:
        """Give up all encoders."""
        while self._streams:
            self._streams.popitem()[1].encoder.close()

    def _encode_h264(self, settings: H264, parcel: Parcel, pixels: NDArray[Any]) -> Coded:
        key = parcel.head.job, parcel.head.header.stream
        stream = self._stream(key, settings, pixels.shape[1], pixels.shape[0])
        try:
            packet = stream.encoder.encode(pixels)
        except BaseException:
            self._streams.pop(key).encoder.close()
            raise
        if packet.is_key:
            stream.key = stream.picture
        picture, stream.picture = stream.picture, stream.picture + 1
        header = _coded(parcel.head.header, native_header.KIND_H264, pixels, len(packet.data))
        return Coded(header, packet.data, picture, picture - stream.key)

    def _stream(self, key: tuple[str, int], settings: H264, width: int, height: int) -> _Stream:
        found = self._streams.pop(key, None)
        if found is not None:
            encoder = found.encoder
            if (found.settings, encoder.width, encoder.height) != (settings, width, height):
                encoder.close()
                found = _Stream(_open(settings, width, height), settings, found.picture)
        else:
            found = _Stream(_open(settings, width, height), settings)
        self._streams[key] = found
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)[1].encoder.close()
        return found


def pixels_of(header: Header, view: View) -> NDArray[Any]:
    """Return what a slot holds as the array that the header of its frame describes.

    Raises:
        FrameFormatError: the header is of no array, or of one larger than the slot's use.
    """
    data = np.asarray(view)
    if header.kind != native_header.KIND_SLOT or header.payload_nbytes > data.nbytes:
        kind = native_header.KINDS[header.kind]
        raise FrameFormatError(
            f"frame of kind {kind} with {header.payload_nbytes} bytes is not in a slot of "
            f"{data.nbytes} bytes"
        )
    dtype = native_header.DTYPES[header.dtype]
    return data[: header.payload_nbytes].view(dtype).reshape(header.shape)


def _open(settings: H264, width: int, height: int) -> h264.Encoder:
    return h264.Encoder(
        width, height, bitrate=settings.bitrate, fps=settings.fps, threads=settings.threads
    )


def _as_it_is(header: Header, message: bytes) -> Coded:
    """Send what the descriptor carries itself, if anything."""
    if header.kind == native_header.KIND_NONE:
        return Coded(header, None)
    start = native_header.HEADER_NBYTES + header.route_nbytes + header.context_nbytes
    return Coded(header, memoryview(message)[start:])


def _raw(header: Header, pixels: NDArray[Any]) -> Coded:
    if pixels.dtype.name not in native_header.DTYPES or pixels.dtype.byteorder == ">":
        raise FrameFormatError(f"pixels of {pixels.dtype} have no form on the wire")
    if not pixels.size:
        raise FrameFormatError(f"pixels of shape {pixels.shape} are none")
    pixels = np.ascontiguousarray(pixels)
    header = header.replace(
        kind=native_header.KIND_INLINE,
        dtype=native_header.DTYPES.index(pixels.dtype.name),
        shape=pixels.shape,
        payload_nbytes=pixels.nbytes,
    )
    return Coded(header, pixels.data.cast("B"), is_pixels=True)


def _coded(header: Header, kind: int, pixels: NDArray[Any], nbytes: int) -> Header:
    return header.replace(
        kind=kind,
        dtype=native_header.DTYPES.index("uint8"),
        shape=pixels.shape,
        payload_nbytes=nbytes,
    )
