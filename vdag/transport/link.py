"""What the two ends of a link between nodes tell each other; no I/O.

An `edge` sends frames to the `landing` of another node. Everything it sends carries a number, from
1 on, and the landing reports by `Receipt` which numbers have come. What is lost inside a broken
connection is thus known at the side that can tell the frame's home. One tcp port per node is
enough: a landing's answers go to the landing of the edge's own node, which passes them on.

    edge -> landing      frames, stamped; Hello; Notice; Probe
    landing -> edge      Receipt, KeyFrameWanted

A frame on a link is a descriptor with its payload behind it, of kind none, inline, jpeg or h264.
In these kinds the header's fields about slots have no meaning, and hold the stamp:

    arena         id of the edge, drawn at random, never 0
    generation    number on the link
    slot          h264: number of the picture in its stream's coding, modulo 2^32
    offset        h264: pictures since the key frame, 0 for the key frame itself

On the node that it comes to, its `link_nbytes` are the bytes of the message, while it stays.

The other messages are one part: `MAGIC`, then the MessagePack of an array whose first item names
the kind. All comes from the network: sizes and ranges are checked while it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import msgspec

from vdag._native import header as native_header
from vdag.errors import FrameFormatError
from vdag.transport.codec import INLINE_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from vdag._native.header import Header

__all__ = [
    "MAGIC",
    "MAX_NOTICE_NBYTES",
    "MAX_RANGES",
    "Answer",
    "Hello",
    "Inbox",
    "KeyFrameWanted",
    "LinkMessage",
    "Notice",
    "Numbers",
    "Probe",
    "Receipt",
    "Stamp",
    "decode",
    "encode",
    "is_link_message",
    "repack",
    "stamp_of",
    "stamped",
]

MAGIC = b"VLNK"
#: Most bytes of a `Notice`'s body, and of any of these messages.
MAX_NOTICE_NBYTES = 65_536
MAX_NBYTES = MAX_NOTICE_NBYTES + 1_024
#: Most ranges of a `Receipt`; the oldest are left out.
MAX_RANGES = 64
#: Numbers of pictures, modulo.
PICTURES = 1 << 32

EdgeId = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[int, msgspec.Meta(ge=1)]
#: Readings of `time.monotonic_ns()`.
Time = Annotated[int, msgspec.Meta(ge=0)]


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hello"):
    """An edge introduces itself, or asks again for a `Receipt`.

    Attributes:
        edge: its id.
        number: on the link; so its receipt settles every frame before it.
        inbox: address of the landing of its node, for the answers.
        now_ns: its clock.
    """

    edge: EdgeId
    number: Number
    inbox: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    now_ns: Time


class Notice(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="notice"
):
    """A message for the exchange over there, as it is; it may get lost."""

    edge: EdgeId
    number: Number
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_NOTICE_NBYTES)]


class Probe(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="probe"):
    """Bytes that are sent to see how long they take."""

    edge: EdgeId
    number: Number
    filling: Annotated[bytes, msgspec.Meta(max_length=MAX_NOTICE_NBYTES)]


class Receipt(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="receipt"
):
    """Everything that has come of an edge, so that a lost receipt is made good by the next.

    Attributes:
        edge: whose.
        ranges: first and last number, ascending, without overlaps; at most `MAX_RANGES`, the
            latest.
        hello_ns: `now_ns` of its latest `Hello`, 0 if none has come.
        heard_ns: when that came, by the landing's clock.
        now_ns: the landing's clock.
        last_ns: when the latest message of the edge came, by that clock; 0 for not said.
    """

    edge: EdgeId
    ranges: Annotated[list[tuple[Number, Number]], msgspec.Meta(max_length=MAX_RANGES)]
    hello_ns: Time
    heard_ns: Time
    now_ns: Time
    last_ns: Time = 0


class KeyFrameWanted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="key"
):
    """A stream's pictures cannot be decoded before its next key frame.

    Attributes:
        edge: that sends the stream.
        job: of the stream.
        stream: its number.
    """

    edge: EdgeId
    job: Annotated[str, msgspec.Meta(max_length=255)]
    stream: Annotated[int, msgspec.Meta(ge=0)]


Answer = KeyFrameWanted | Receipt
LinkMessage = Hello | KeyFrameWanted | Notice | Probe | Receipt

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(LinkMessage)


class Stamp(NamedTuple):
    """Where a frame is on its link; `picture` and `since_key` are 0 unless it is h264."""

    edge: int
    number: int
    picture: int = 0
    since_key: int = 0


def stamped(header: Header, stamp: Stamp) -> Header:
    """Return the header of a frame with its stamp; its kind is not slot."""
    return header.replace(
        arena=stamp.edge,
        generation=stamp.number,
        slot=stamp.picture % PICTURES,
        offset=stamp.since_key,
    )


def stamp_of(header: Header) -> Stamp:
    """Read the stamp of a frame.

    Raises:
        FrameFormatError: it has none: it was not sent by an edge, or it lies in a slot over there.
    """
    if header.kind == native_header.KIND_SLOT or not (header.arena and header.generation):
        kind = native_header.KINDS[header.kind]
        raise FrameFormatError(f"frame of kind {kind} has no stamp of an edge")
    return Stamp(header.arena, header.generation, header.slot, header.offset)


def repack(
    first: Buffer, header: Header, payload: Buffer | None = None
) -> list[bytes | memoryview]:
    """Put another header, and another payload, to the route and the context of a descriptor.

    Args:
        first: its first part.
        header: the new one; its `route_nbytes` and `context_nbytes` are those of `first`.
        payload: contiguous, `header.payload_nbytes` long, for the kinds that carry one.

    Returns:
        One part, or two if the payload is longer than `INLINE_NBYTES`: the second is the payload
        itself, not a copy.
    """
    start = native_header.HEADER_NBYTES
    end = start + header.route_nbytes + header.context_nbytes
    pieces: list[Buffer] = [native_header.pack(header), memoryview(first)[start:end]]
    if payload is None:
        return [b"".join(pieces)]
    if header.payload_nbytes <= INLINE_NBYTES:
        return [b"".join([*pieces, payload])]
    return [b"".join(pieces), memoryview(payload)]


def is_link_message(part: Buffer) -> bool:
    """Say whether a received part is one of these messages, rather than a descriptor."""
    return bytes(memoryview(part)[: len(MAGIC)]) == MAGIC


def encode(message: LinkMessage) -> bytes:
    """Write a message."""
    return MAGIC + _ENCODER.encode(message)


def decode(part: Buffer) -> LinkMessage:
    """Read a message.

    Raises:
        FrameFormatError: it is none, or a limit is exceeded.
    """
    view = memoryview(part)
    if view.nbytes > MAX_NBYTES:
        raise FrameFormatError(f"message of {view.nbytes} bytes exceeds limit {MAX_NBYTES}")
    if not is_link_message(view):
        raise FrameFormatError(f"magic {bytes(view[: len(MAGIC)])!r} is not {MAGIC!r}")
    try:
        message: LinkMessage = _DECODER.decode(view[len(MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise FrameFormatError(f"message is malformed: {err}") from err
    if isinstance(message, Receipt):
        _check_ranges(message.ranges)
    return message


def _check_ranges(ranges: list[tuple[int, int]]) -> None:
    end = 0
    for first, last in ranges:
        if not end < first <= last:
            raise FrameFormatError(f"range {first}..{last} of a receipt follows {end}")
        end = last


class Inbox(Protocol):
    """Where the answers for the edges of a node come in: its `landing.Landing`."""

    @property
    def address(self) -> str:
        """What the other nodes connect to."""

    def register(self, edge: int, hear: Callable[[Answer, str], None]) -> None:
        """Pass on the answers for an edge, with the public key of who sent them if it is known."""

    def forget(self, edge: int) -> None:
        """Pass on no more answers for an edge."""


class Numbers:
    """The numbers that have come over a link, as ranges; the latest `MAX_RANGES`."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    @property
    def last(self) -> int:
        """The highest number, 0 before the first."""
        return self._ranges[-1][1] if self._ranges else 0

    def add(self, number: int) -> bool:
        """Note a number; False if it has come before, or is too old to tell."""
        ranges = self._ranges
        index = len(ranges)
        while index and ranges[index - 1][0] > number:
            index -= 1
        if index and ranges[index - 1][1] >= number:
            return False
        if index == 0 and len(ranges) == MAX_RANGES:
            return False
        joins_left = index > 0 and ranges[index - 1][1] == number - 1
        joins_right = index < len(ranges) and ranges[index][0] == number + 1
        first = ranges[index - 1][0] if joins_left else number
        last = ranges[index][1] if joins_right else number
        ranges[index - joins_left : index + joins_right] = [(first, last)]
        del ranges[:-MAX_RANGES]
        return True

    def ranges(self) -> list[tuple[int, int]]:
        """Return them as a `Receipt` has them."""
        return list(self._ranges)
