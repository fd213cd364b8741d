"""The descriptor header in `struct`: the format, and what `header.pyx` must do.

A frame on its way is one ZeroMQ message part: this header, then the route, the context and, for
kinds that travel inline, the payload. All numbers are little-endian and naturally aligned:

    offset  size  type    field           meaning, limit
    ------  ----  ------  --------------  ------------------------------------------------------
         0     4  bytes   magic           b"VDAG"
         4     2  u16     version         1
         6     2  u16     header_nbytes   136
         8     4  u32     link_nbytes           bits of the transport layer, passed on as they are
        12     1  u8      kind            0 none, 1 inline, 2 slot, 3 jpeg, 4 h264
        13     1  u8      dtype           index into DTYPES, 0 none
        14     1  u8      ndim            entries of shape that count, 0..4
        15     1  u8      hop             position on the route, 0..64
        16     8  u64     plan            number of the plan that made the route
        24     8  u64     stream          id of the video stream
        32     8  u64     seq             number among the frames processed
        40     8  u64     cam_frame_id    position in the source
        48     8  i64     capture_ns      when the picture was read, monotonic on that host
        56     8  i64     deadline_ns     when its result is worth nothing, 0 none
        64     8  i64     pts_ns          presentation time in the source, -2**63 none
        72    16  4 u32   shape           array: (H, W, C); entries from ndim on are 0
        88     8  u64     arena           id of the shared memory
        96     8  u64     generation      of the slot, so that a reused slot is noticed
       104     8  u64     offset          of the payload in the arena, up to 1 TiB
       112     8  u64     payload_nbytes  up to 1 GiB
       120     4  u32     slot            number in the arena
       124     4  u32     route_nbytes    up to 64 KiB
       128     4  u32     context_nbytes  up to 16 MiB
       132     4  u32     padding         0
    ------  ----
       136

Rules across fields: `ndim` is 0 if and only if `dtype` is none. The kind none has neither, and no
payload. The kinds inline and slot are raw arrays in C order: the payload is as long as the shape
says. For jpeg and h264 the shape is that of the decoded picture, or unknown. No shape, with its
zeros left out, describes more than 1 GiB: numpy takes any of them without an overflow.

Payloads of all kinds but none and slot travel with the header: up to MAX_INLINE_NBYTES at the end
of the first part, a longer one as the second. `route_nbytes` is a multiple of 8.

A `Header` that exists obeys all of this, so `pack` has nothing to check, and `unpack` gives a
`Header` or raises. Slot, generation, offset and arena are the transport's to interpret.
"""

from __future__ import annotations

import operator
import struct
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from vdag.errors import FrameFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

__all__ = [
    "DTYPES",
    "HEADER_NBYTES",
    "KINDS",
    "KIND_H264",
    "KIND_INLINE",
    "KIND_JPEG",
    "KIND_NONE",
    "KIND_SLOT",
    "MAGIC",
    "MAX_CONTEXT_NBYTES",
    "MAX_HOP",
    "MAX_INLINE_NBYTES",
    "MAX_NDIM",
    "MAX_OFFSET",
    "MAX_PAYLOAD_NBYTES",
    "MAX_ROUTE_NBYTES",
    "VERSION",
    "Header",
    "pack",
    "pack_into",
    "unpack",
    "unpack_message",
]

MAGIC = b"VDAG"
VERSION = 1
HEADER_NBYTES = 136
MAX_HOP = 64
MAX_NDIM = 4
MAX_INLINE_NBYTES = 4096
MAX_OFFSET = 1 << 40
MAX_PAYLOAD_NBYTES = 1 << 30
MAX_ROUTE_NBYTES = 1 << 16
MAX_CONTEXT_NBYTES = 1 << 24

KIND_NONE, KIND_INLINE, KIND_SLOT, KIND_JPEG, KIND_H264 = range(5)
#: Names of the kinds, by code.
KINDS = ("none", "inline", "slot", "jpeg", "h264")

#: Names of the dtypes, by code, as numpy spells them; little-endian on the wire.
DTYPES = (
    "none",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)
_ITEM_NBYTES = (0, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8)

_LAYOUT = struct.Struct("<4sHHI4B4Q3q4I4Q4I")
#: Names of the numbers before and after the shape, without those that are always the same.
_FRONT = (
    *("link_nbytes", "kind", "dtype", "ndim", "hop", "plan", "stream", "seq", "cam_frame_id"),
    *("capture_ns", "deadline_ns", "pts_ns"),
)
_BACK = (
    *("arena", "generation", "offset", "payload_nbytes"),
    *("slot", "route_nbytes", "context_nbytes"),
)
_NO_PTS = -(2**63)

_U8, _U32, _U64 = ((0, 2**bits - 1) for bits in (8, 32, 64))
_I64 = (-(2**63), 2**63 - 1)
_RANGES = {
    "kind": _U8,
    "dtype": _U8,
    "link_nbytes": _U32,
    "hop": _U8,
    "plan": _U64,
    "stream": _U64,
    "seq": _U64,
    "cam_frame_id": _U64,
    "capture_ns": _I64,
    "deadline_ns": _I64,
    "pts_ns": (_NO_PTS + 1, 2**63 - 1),
    "payload_nbytes": _U64,
    "route_nbytes": _U32,
    "context_nbytes": _U32,
    "arena": _U64,
    "slot": _U32,
    "generation": _U64,
    "offset": _U64,
}
_LIMITS = {
    "kind": len(KINDS) - 1,
    "dtype": len(DTYPES) - 1,
    "hop": MAX_HOP,
    "offset": MAX_OFFSET,
    "payload_nbytes": MAX_PAYLOAD_NBYTES,
    "route_nbytes": MAX_ROUTE_NBYTES,
    "context_nbytes": MAX_CONTEXT_NBYTES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
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

    kind: int = 0
    dtype: int = 0
    shape: tuple[int, ...] = ()
    link_nbytes: int = 0
    hop: int = 0
    plan: int = 0
    stream: int = 0
    seq: int = 0
    cam_frame_id: int = 0
    capture_ns: int = 0
    deadline_ns: int = 0
    pts_ns: int | None = None
    payload_nbytes: int = 0
    route_nbytes: int = 0
    context_nbytes: int = 0
    arena: int = 0
    slot: int = 0
    generation: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        for name, value in _in_range({f.name: getattr(self, f.name) for f in fields(self)}).items():
            object.__setattr__(self, name, value)
        for name, limit in _LIMITS.items():
            if (value := getattr(self, name)) > limit:
                raise FrameFormatError(f"{name} {value} exceeds limit {limit}")
        _check_together(self)

    @property
    def ndim(self) -> int:
        """Entries of `shape`."""
        return len(self.shape)

    def replace(self, **changes: Any) -> Header:
        """Return a header with some fields changed; this one stays as it is.

        Raises:
            FrameFormatError: the result would not be valid.
            TypeError: there is no such field.
        """
        return replace(self, **changes)


def pack(
    header: Header, *, route_nbytes: int | None = None, context_nbytes: int | None = None
) -> bytes:
    """Return the header's `HEADER_NBYTES` bytes, with other lengths if they are given.

    Raises:
        FrameFormatError: a length is out of its range.
    """
    lengths = {"route_nbytes": route_nbytes, "context_nbytes": context_nbytes}
    given = {name: nbytes for name, nbytes in lengths.items() if nbytes is not None}
    if given:
        header = header.replace(**given)
    front = (_NO_PTS if (value := getattr(header, name)) is None else value for name in _FRONT)
    back = (getattr(header, name) for name in _BACK)
    shape = header.shape + (0,) * (MAX_NDIM - header.ndim)
    return _LAYOUT.pack(MAGIC, VERSION, HEADER_NBYTES, *front, *shape, *back, 0)


def pack_into(header: Header, buffer: Buffer, offset: int = 0) -> None:
    """Write the header's `HEADER_NBYTES` bytes into `buffer`, which the caller owns.

    Raises:
        FrameFormatError: the buffer is read-only, not contiguous or too short from `offset` on.
            It is then untouched.
    """
    view = memoryview(buffer)
    if view.readonly or not view.c_contiguous:
        raise FrameFormatError("buffer is not contiguous and writable")
    _check_room(view.nbytes, offset)
    view.cast("B")[offset : offset + HEADER_NBYTES] = pack(header)


def unpack(buffer: Buffer, offset: int = 0) -> Header:
    """Read a header; the buffer is not referred to afterwards.

    Args:
        buffer: contiguous bytes from anywhere: nothing in them is trusted. Read only.
        offset: where the header starts.

    Raises:
        FrameFormatError: the bytes are not a valid header of this version; the message names the
            field, its value and the limit.
    """
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise FrameFormatError("buffer is not contiguous")
    _check_room(view.nbytes, offset)
    magic, version, nbytes, *rest = _LAYOUT.unpack_from(view, offset)
    front, shape, back = rest[: len(_FRONT)], rest[len(_FRONT) : -len(_BACK) - 1], rest[:-1]
    values = dict(zip(_FRONT + _BACK, front + back[-len(_BACK) :], strict=True))
    ndim = values.pop("ndim")
    _check_frame(magic, version, nbytes, rest[-1])
    _check_shape(ndim, shape)
    if values["pts_ns"] == _NO_PTS:
        values["pts_ns"] = None
    return Header(shape=tuple(shape[:ndim]), **values)


def unpack_message(parts: Sequence[Buffer]) -> Header:
    """Read the header of a descriptor's message, and compare the lengths of all parts with it.

    Args:
        parts: the message as it was received: contiguous buffers, of which nothing is trusted.

    Raises:
        FrameFormatError: the first part does not begin with a valid header, or the parts are not
            those that it announces. What lies between header and payload is not looked at.
    """
    if not parts:
        raise FrameFormatError("a message of no parts is no descriptor")
    views = [memoryview(part) for part in parts[:2]]
    if not all(view.c_contiguous for view in views):
        raise FrameFormatError("part is not contiguous")
    header = unpack(views[0])
    is_carried = KINDS[header.kind] not in ("none", "slot")
    carried_nbytes = header.payload_nbytes if is_carried else 0
    is_long = carried_nbytes > MAX_INLINE_NBYTES
    due = HEADER_NBYTES + header.route_nbytes + header.context_nbytes
    due += 0 if is_long else carried_nbytes
    if views[0].nbytes != due:
        raise FrameFormatError(f"first part of {views[0].nbytes} bytes is not {due} bytes long")
    if len(parts) != (2 if is_long else 1):
        raise FrameFormatError(
            f"message of {len(parts)} parts with a payload of {carried_nbytes} bytes"
        )
    if is_long and views[1].nbytes != carried_nbytes:
        raise FrameFormatError(
            f"second part of {views[1].nbytes} bytes is not {carried_nbytes} bytes long"
        )
    if header.route_nbytes % 8:
        raise FrameFormatError(f"route_nbytes {header.route_nbytes} is not a multiple of 8")
    return header


def _check_room(nbytes: int, offset: int) -> None:
    if offset < 0 or nbytes - offset < HEADER_NBYTES:
        raise FrameFormatError(
            f"buffer of {nbytes} bytes has no header of {HEADER_NBYTES} at offset {offset}"
        )


def _check_frame(magic: bytes, version: int, nbytes: int, padding: int) -> None:
    if magic != MAGIC:
        raise FrameFormatError(f"magic {magic!r} is not {MAGIC!r}")
    if version != VERSION:
        raise FrameFormatError(f"version {version} is not {VERSION}")
    if nbytes != HEADER_NBYTES:
        raise FrameFormatError(f"header_nbytes {nbytes} is not {HEADER_NBYTES}")
    if padding:
        raise FrameFormatError(f"padding {padding} is not 0")


def _check_shape(ndim: int, shape: list[int]) -> None:
    if ndim > MAX_NDIM:
        raise FrameFormatError(f"ndim {ndim} exceeds limit {MAX_NDIM}")
    for axis in range(ndim, MAX_NDIM):
        if shape[axis]:
            raise FrameFormatError(f"shape[{axis}] {shape[axis]} is not 0 with ndim {ndim}")


def _in_range(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as plain ints, or raise for the first that its field cannot hold."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if name == "shape":
            plain[name] = shape = tuple(operator.index(size) for size in value)
            if len(shape) > MAX_NDIM:
                raise FrameFormatError(f"ndim {len(shape)} exceeds limit {MAX_NDIM}")
            for axis, size in enumerate(shape):
                _check_range(f"shape[{axis}]", size, _U32)
        elif name == "pts_ns" and value is None:
            plain[name] = None
        else:
            plain[name] = operator.index(value)
            _check_range(name, plain[name], _RANGES[name])
    return plain


def _check_range(name: str, value: int, bounds: tuple[int, int]) -> None:
    low, high = bounds
    if not low <= value <= high:
        raise FrameFormatError(f"{name} {value} outside {low}..{high}")


def _check_together(header: Header) -> None:
    kind, dtype = KINDS[header.kind], DTYPES[header.dtype]
    if (dtype == "none") != (header.ndim == 0):
        raise FrameFormatError(f"ndim {header.ndim} does not go with dtype {dtype}")
    if (kind == "none" and dtype != "none") or (kind in ("inline", "slot") and dtype == "none"):
        raise FrameFormatError(f"dtype {dtype} does not go with kind {kind}")
    payload_nbytes = header.payload_nbytes
    if kind == "none" and payload_nbytes:
        raise FrameFormatError(f"payload_nbytes {payload_nbytes} exceeds limit 0 of kind none")
    nbytes = _ITEM_NBYTES[header.dtype]
    for size in header.shape:
        nbytes *= size or 1
    if nbytes > MAX_PAYLOAD_NBYTES:
        raise FrameFormatError(
            f"shape {header.shape} of {dtype} exceeds limit {MAX_PAYLOAD_NBYTES} bytes"
        )
    nbytes = 0 if 0 in header.shape else nbytes
    if kind in ("inline", "slot") and payload_nbytes != nbytes:
        raise FrameFormatError(
            f"payload_nbytes {payload_nbytes} is not {nbytes}, "
            f"the size of shape {header.shape} of {dtype}"
        )
