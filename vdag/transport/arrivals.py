"""What a landing does with a frame: checks it, and puts its pixels into a slot of this node.

Sizes are compared with the slots before anything is taken: a picture that fits no slot, a JPEG
whose header says otherwise than the frame's, or H.264 of another size is dropped and costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from vdag import _native as native
from vdag._native import header as native_header
from vdag.errors import DependencyMissing, FrameFormatError, ImageError
from vdag.sparing import SparingLog
from vdag.transport import h264, link
from vdag.transport.codec import INLINE_NBYTES

if TYPE_CHECKING:
    from av import VideoFrame
    from numpy.typing import NDArray

    from vdag._native.header import Header
    from vdag._native.ring import Arena, Loan, SlotRef
    from vdag.transport.codec import Head
    from vdag.transport.link import Stamp

__all__ = ["Arrivals", "Reason", "Unloaded"]

logger = logging.getLogger(__name__)

Reason = Literal["arena_full", "oversize", "corrupt", "decoder", "gap", "order", "refused"]
#: H.264 decoders of a landing; beyond, the one unused for longest is given up.
MAX_STREAMS = 64
#: A key frame is asked for at most this often per stream.
ASK_INTERVAL_NS = 250_000_000
_UINT8 = native_header.DTYPES.index("uint8")


class Unloaded(NamedTuple):
    """What became of a frame.

    Attributes:
        message: first part of its descriptor on this node, of kind slot, none or inline; None if
            the frame was dropped.
        ref: lease in flight on the slot, if there is one.
        reason: why it was dropped.
        wants_key: the stream needs a key frame, and it is time to say so.
    """

    message: bytes | None = None
    ref: SlotRef | None = None
    reason: Reason | None = None
    wants_key: bool = False


@dataclass(slots=True)
class _Stream:
    """One stream's decoding; `decoder` is None until the next key frame."""

    decoder: h264.Decoder | None = None
    picture: int = 0
    asked_ns: int = -ASK_INTERVAL_NS

    def stop(self) -> None:
        """Wait for a key frame."""
        if self.decoder is not None:
            self.decoder.close()
            self.decoder = None


class Arrivals:
    """Slots for what comes in; for one thread.

    Args:
        arena: attached writable; the caller's.
        loan_timeout_s: how long a frame may hold up those behind it when no slot is free.
    """

    def __init__(self, arena: Arena, loan_timeout_s: float = 0.0) -> None:
        self._arena = arena
        self._timeout_s = loan_timeout_s
        self._log = SparingLog(logger)
        self._largest = max(size.slot_nbytes for size in arena.stats().classes)
        self._streams: OrderedDict[tuple[Any, str, int], _Stream] = OrderedDict()

    @property
    def decoders(self) -> int:
        """H.264 streams being decoded."""
        return sum(stream.decoder is not None for stream in tuple(self._streams.values()))

    def unload(
        self, source: object, first: memoryview, head: Head, payload: memoryview, stamp: Stamp
    ) -> Unloaded:
        """Put one frame into a slot.

        Args:
            source: who sends it; streams of different sources are not mixed up.
            first: first part of the message; `head` was read from it.
            head: of its descriptor.
            payload: wherever that is; empty for kind none. Read only until this returns.
            stamp: of its header.

        Returns:
            The descriptor to go on with. The lease of its slot is in flight, the caller's to pass
            on or to drop.
        """
        header = head.header
        if header.kind == native_header.KIND_JPEG:
            return self._unload_jpeg(first, header, payload)
        if header.kind == native_header.KIND_H264:
            return self._unload_h264(
                (source, head.job, header.stream), first, header, payload, stamp
            )
        if header.payload_nbytes <= INLINE_NBYTES:
            local = header.replace(arena=0, generation=0, slot=0, offset=0)
            carried = None if header.kind == native_header.KIND_NONE else payload
            return Unloaded(bytes(link.repack(first, local, carried)[0]))
        return self._unload_raw(first, header, payload)

    def close(self) -> None:
        """Give up the decoders."""
        while self._streams:
            self._streams.popitem()[1].stop()

    def _unload_raw(self, first: memoryview, header: Header, payload: memoryview) -> Unloaded:
        if header.payload_nbytes > self._largest:
            return Unloaded(reason="oversize")
        loan = self._arena.loan(header.payload_nbytes, self._timeout_s)
        if loan is None:
            return Unloaded(reason="arena_full")
        with loan:
            np.copyto(np.asarray(loan), np.frombuffer(payload, np.uint8))
            return _commit(loan, first, header)

    def _unload_jpeg(self, first: memoryview, header: Header, payload: memoryview) -> Unloaded:
        if _picture_nbytes(header) > self._largest:
            return Unloaded(reason="oversize")
        height, width, _ = header.shape
        try:
            info = native.jpeg.read_header(payload, max_pixels=width * height)
        except ImageError:
            return Unloaded(reason="corrupt")
        if (info.height, info.width) != (height, width):
            return Unloaded(reason="corrupt")
        loan = self._arena.loan(width * height * 3, self._timeout_s)
        if loan is None:
            return Unloaded(reason="arena_full")
        with loan:
            try:
                native.jpeg.decode(payload, _pixels(loan, header), max_pixels=width * height)
            except ImageError:
                return Unloaded(reason="corrupt")
            return _commit(loan, first, header)

    def _unload_h264(
        self,
        key: tuple[Any, str, int],
        first: memoryview,
        header: Header,
        payload: memoryview,
        stamp: Stamp,
    ) -> Unloaded:
        if _picture_nbytes(header) > self._largest:
            return Unloaded(reason="oversize")
        stream = self._stream(key)
        picture = self._decode(stream, header, payload, stamp)
        if isinstance(picture, str):
            return Unloaded(reason=picture, wants_key=_may_ask(stream))
        height, width, _ = header.shape
        loan = self._arena.loan(width * height * 3, self._timeout_s)
        if loan is None:
            return Unloaded(reason="arena_full")
        assert stream.decoder is not None
        with loan:
            stream.decoder.copy_pixels(picture, _pixels(loan, header))
            return _commit(loan, first, header)

    def _decode(
        self, stream: _Stream, header: Header, payload: memoryview, stamp: Stamp
    ) -> VideoFrame | Literal["corrupt", "decoder", "gap"]:
        """Decode the next picture of a stream, or say why it cannot be shown."""
        height, width, _ = header.shape
        if stamp.since_key == 0:
            decoder = stream.decoder
            if decoder is not None and (decoder.width, decoder.height) != (width, height):
                stream.stop()
            try:
                stream.decoder = stream.decoder or h264.Decoder(width, height)
            except DependencyMissing as err:
                self._log.warning("h264", "a frame of an h264 link cannot be read: %s", err)
                return "decoder"
        elif stream.decoder is None or stamp.picture != stream.picture:
            stream.stop()
            return "gap"
        try:
            picture = stream.decoder.decode(payload)
        except FrameFormatError:
            stream.stop()
            return "corrupt"
        stream.picture = (stamp.picture + 1) % link.PICTURES
        return picture

    def _stream(self, key: tuple[Any, str, int]) -> _Stream:
        stream = self._streams.pop(key, None) or _Stream()
        self._streams[key] = stream
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)[1].stop()
        return stream


def _picture_nbytes(header: Header) -> float:
    """Return the size of a coded picture once decoded; without end if it is not one of ours."""
    shape = header.shape
    if header.dtype != _UINT8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        return float("inf")
    sides_fit = max(shape[:2]) <= h264.MAX_SIDE
    return shape[0] * shape[1] * 3 if sides_fit else float("inf")


def _pixels(loan: Loan, header: Header) -> NDArray[np.uint8]:
    return np.asarray(loan).reshape(header.shape)


def _commit(loan: Loan, first: memoryview, header: Header) -> Unloaded:
    ref = loan.commit()
    local = header.replace(
        kind=native_header.KIND_SLOT,
        payload_nbytes=ref.nbytes,
        arena=ref.arena_id,
        slot=ref.slot,
        generation=ref.generation,
        offset=ref.offset,
    )
    return Unloaded(bytes(link.repack(first, local)[0]), ref)


def _may_ask(stream: _Stream) -> bool:
    now_ns = time.monotonic_ns()
    if now_ns - stream.asked_ns < ASK_INTERVAL_NS:
        return False
    stream.asked_ns = now_ns
    return True
