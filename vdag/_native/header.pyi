"""The descriptor header: 136 bytes in front of a frame's route, context and inline payload.

`reference_header` has the table of the bytes. Little-endian, naturally aligned, in this order:
magic `VDAG`, version u16, header_nbytes u16, link_nbytes u32, kind u8, dtype u8, ndim u8, hop u8,
plan u64, stream u64, seq u64, cam_frame_id u64, capture_ns i64, deadline_ns i64, pts_ns i64, shape
4 u32, arena u64, generation u64, offset u64, payload_nbytes u64, slot u32, route_nbytes u32,
context_nbytes u32, padding u32.
"""

from collections.abc import Sequence
from typing import Any, final

from typing_extensions import Buffer

MAGIC: bytes
VERSION: int
HEADER_NBYTES: int
MAX_HOP: int
MAX_NDIM: int
MAX_INLINE_NBYTES: int
MAX_OFFSET: int
MAX_PAYLOAD_NBYTES: int
MAX_ROUTE_NBYTES: int
MAX_CONTEXT_NBYTES: int
KIND_NONE: int
KIND_INLINE: int
KIND_SLOT: int
KIND_JPEG: int
KIND_H264: int
KINDS: tuple[str, ...]
DTYPES: tuple[str, ...]

@final
class Header:
    """The fixed part of a descriptor; immutable, comparable, hashable, and always valid.

    Attributes:
        kind: where the payload is and how it is coded, an index into `KINDS`.
        dtype: of the payload's items, an index into `DTYPES`.
        shape: of the payload as an array, up to 4 entries; `ndim` is its length.
        link_nbytes: bits of the transport layer.
        hop: position on the route.
        plan: number of the plan that made the route.
        stream: id of the video stream.
        seq: number among the frames processed.
        cam_frame_id: position in the source.
        capture_ns: when the picture was read, monotonic time of that host.
        deadline_ns: when its result is worth nothing, 0 for none.
        pts_ns: presentation time in the source, None without one.
        payload_nbytes: of the payload, wherever it is.
        route_nbytes: of the route that follows the header.
        context_nbytes: of the context that follows the route.
        arena: id of the shared memory.
        slot: number in the arena.
        generation: of the slot.
        offset: of the payload in the arena, in bytes.

    Raises:
        FrameFormatError: a field is out of its range or limit, or two contradict each other.
    """

    def __init__(
        self,
        *,
        kind: int = 0,
        dtype: int = 0,
        shape: tuple[int, ...] = (),
        link_nbytes: int = 0,
        hop: int = 0,
        plan: int = 0,
        stream: int = 0,
        seq: int = 0,
        cam_frame_id: int = 0,
        capture_ns: int = 0,
        deadline_ns: int = 0,
        pts_ns: int | None = None,
        payload_nbytes: int = 0,
        route_nbytes: int = 0,
        context_nbytes: int = 0,
        arena: int = 0,
        slot: int = 0,
        generation: int = 0,
        offset: int = 0,
    ) -> None: ...
    @property
    def kind(self) -> int: ...
    @property
    def dtype(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def link_nbytes(self) -> int: ...
    @property
    def hop(self) -> int: ...
    @property
    def plan(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def cam_frame_id(self) -> int: ...
    @property
    def capture_ns(self) -> int: ...
    @property
    def deadline_ns(self) -> int: ...
    @property
    def pts_ns(self) -> int | None: ...
    @property
    def payload_nbytes(self) -> int: ...
    @property
    def route_nbytes(self) -> int: ...
    @property
    def context_nbytes(self) -> int: ...
    @property
    def arena(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def offset(self) -> int: ...
    def replace(self, **changes: Any) -> Header: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def pack(
    header: Header, *, route_nbytes: int | None = None, context_nbytes: int | None = None
) -> bytes: ...
def pack_into(header: Header, buffer: Buffer, offset: int = 0) -> None: ...
def unpack(buffer: Buffer, offset: int = 0) -> Header: ...
def unpack_message(parts: Sequence[Buffer]) -> Header: ...
