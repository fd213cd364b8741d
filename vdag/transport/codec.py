"""A frame's descriptor as message parts, and back; no I/O.

The first part is, one after the other,

    header     `HEADER_NBYTES`, with the lengths of the rest; a multiple of 8
    route      `route_nbytes`, a multiple of 8: u32 length, then MessagePack of
               [job, name of the stream, [[task, endpoint, model], ...]], of a hop that names no
               model [task, endpoint], then zeros up to a multiple of 8
    context    `context_nbytes`, see `context`
    payload    `payload_nbytes`, for the kinds inline, jpeg and h264, if it is at most
               `INLINE_NBYTES` long

A longer payload is the second part, so that it is sent without being copied; there is never a
third. The route stays the same from hop to hop: only `hop` in the header moves on. So whoever sends
many frames the same way writes its route once, as an `Envelope`; whoever receives them remembers
the routes of late; an exchange, which needs nothing else, reads a `Head`, and whoever only wants
the pixels the header.

Everything may come from the network. Whatever is not exactly what `encode` writes raises
`FrameFormatError`, and nothing is allocated before its size was compared with the bytes at hand.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from vdag._native import header as native_header
from vdag.errors import FrameFormatError
from vdag.transport import context as wire_context

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vdag._native.header import Header
    from vdag.transport.context import Context

__all__ = [
    "INLINE_NBYTES",
    "Descriptor",
    "Envelope",
    "Head",
    "Hop",
    "advance",
    "decode",
    "decode_head",
    "decode_header",
    "encode",
]

#: Payloads up to this size travel in the first part.
INLINE_NBYTES = native_header.MAX_INLINE_NBYTES
MAX_NAME_NBYTES = 255
MAX_ENDPOINT_NBYTES = 255
#: The documents have models 0 to 2; tasks of the user's own may have more.
MAX_MODEL = 99
#: Routes longer than this are not remembered.
MAX_KNOWN_ROUTE_NBYTES = 2048

_HEADER_NBYTES = native_header.HEADER_NBYTES
_CARRIED = frozenset({native_header.KIND_INLINE, native_header.KIND_JPEG, native_header.KIND_H264})
_LENGTH = struct.Struct("<I")
_ENDPOINT = re.compile(r"(http|inproc|ipc|tcp|shm)://[!-~]+", re.ASCII)


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """One step of a route.

    Attributes:
        task: what is done there; the last hop of a route is usually the job's home.
        endpoint: address of the exchange, `inproc://`, `ipc://`, `tcp://` or `shm://`; or `http://`
            of a node that does tasks only by the documented REST.
        model: which of the task's models; None for the one that each worker has loaded.
    """

    task: str
    endpoint: str
    model: int | None = None


class Head(msgspec.Struct, frozen=True):
    """What an exchange needs to know of a descriptor to pass it on.

    Attributes:
        header: the fixed fields.
        job: id of the job the frame belongs to.
        name: the stream's name; its number is in the header.
        route: every hop, those behind the frame included.
    """

    header: Header
    job: str
    name: str
    route: tuple[Hop, ...]

    @property
    def here(self) -> Hop | None:
        """The hop the frame has to go to, or None behind the last one."""
        return self.route[self.header.hop] if self.header.hop < len(self.route) else None


class Descriptor(msgspec.Struct, frozen=True, eq=False):
    """One frame on its way. Immutable; `advance` makes the next one.

    Attributes:
        header: the fixed fields: stream, seq, plan, times, kind and shape of the payload, its slot
            in shared memory, and `hop`, the position on the route. Its `route_nbytes` and
            `context_nbytes` are filled in by `encode`; before that they mean nothing.
        job: id of the job the frame belongs to.
        name: the stream's name; its number is in the header.
        route: every hop, those behind the frame included.
        context: what the tasks have found: `{task: {field: value}}`, see `vdag.transport.context`
            for the values. Arrays of a decoded descriptor are read-only, most of them views of
            the received part, which they keep alive.
        payload: the bytes of the kinds inline, jpeg and h264, `header.payload_nbytes` long; None
            for the others. That of a decoded descriptor is a view of the received part.
    """

    header: Header
    job: str = ""
    name: str = ""
    route: tuple[Hop, ...] = ()
    context: Context = msgspec.field(default_factory=dict)
    payload: bytes | memoryview | None = None

    @property
    def here(self) -> Hop | None:
        """The hop the frame has to go to, or None behind the last one."""
        return self.route[self.header.hop] if self.header.hop < len(self.route) else None


class Envelope:
    """What the descriptors of one way have in common: written once, put around every frame.

    Args:
        job: id of the job the frames belong to.
        name: the stream's name.
        route: every hop, the last of them usually the job's home.

    Raises:
        FrameFormatError: a name, an address or the whole exceeds its limit.
    """

    __slots__ = ("_part", "job", "name", "route")

    def __init__(self, job: str, name: str, route: tuple[Hop, ...]) -> None:
        self.job, self.name, self.route = job, name, route
        self._part = _write_route(job, name, route)

    def seal(self, header: Header) -> bytes:
        """Write the descriptor of a frame in which nothing was found yet: a message of one part.

        Args:
            header: of the kind slot or none; what it says about route and context is ignored.

        Raises:
            FrameFormatError: the payload would have to travel too, or the hop exceeds the route.
        """
        if header.kind in _CARRIED:
            _check_payload(header, None)
        _check_hop(header.hop, len(self.route))
        part = self._part
        return native_header.pack(header, route_nbytes=len(part), context_nbytes=0) + part


def encode(descriptor: Descriptor) -> list[bytes | memoryview]:
    """Write a descriptor.

    Returns:
        The message: one part, or two if a payload longer than `INLINE_NBYTES` travels. The second
        part is the payload itself, not a copy: it must not change until it has been sent.

    Raises:
        FrameFormatError: the payload is not what the header says, the context holds something that
            cannot travel, or a limit is exceeded.
    """
    header, payload = descriptor.header, descriptor.payload
    payload_nbytes = _check_payload(header, payload)
    route = _write_route(descriptor.job, descriptor.name, descriptor.route)
    _check_hop(header.hop, len(descriptor.route))
    context = wire_context.pack(descriptor.context)
    context_nbytes = sum(map(len, context)) if context else 0
    front = native_header.pack(header, route_nbytes=len(route), context_nbytes=context_nbytes)
    pieces = [front, route, *context]
    if payload is None:
        return [b"".join(pieces)]
    if payload_nbytes <= INLINE_NBYTES:
        return [b"".join([*pieces, payload])]
    return [b"".join(pieces), payload]


def decode(parts: Sequence[Buffer]) -> Descriptor:
    """Read a descriptor.

    Args:
        parts: the message as it was received: contiguous buffers, which must not change as long
            as the descriptor is in use.

    Raises:
        FrameFormatError: the parts are not exactly a descriptor of this version.
    """
    head = decode_head(parts)
    header = head.header
    start = _HEADER_NBYTES + header.route_nbytes
    end = start + header.context_nbytes
    payload: memoryview | None = None
    if header.kind in _CARRIED:
        payload = _bytes_of(parts[0])[end:] if len(parts) == 1 else _bytes_of(parts[1])
    context = wire_context.unpack(_bytes_of(parts[0])[start:end]) if end > start else {}
    return Descriptor(header, head.job, head.name, head.route, context, payload)


def decode_head(parts: Sequence[Buffer]) -> Head:
    """Read what an exchange needs; of the context, only the length is checked.

    Raises:
        FrameFormatError: the parts are not a descriptor of this version, as far as that shows.
    """
    header = native_header.unpack_message(parts)
    first = parts[0]
    if type(first) is not bytes:
        first = _bytes_of(first)
    section = bytes(first[_HEADER_NBYTES : _HEADER_NBYTES + header.route_nbytes])
    known = len(section) <= MAX_KNOWN_ROUTE_NBYTES
    job, name, route = _read_known_route(section) if known else _read_route(section)
    _check_hop(header.hop, len(route))
    return Head(header, job, name, route)


def decode_header(parts: Sequence[Buffer]) -> Header:
    """Read what a receiver needs that only wants the pixels; of the rest, the lengths are checked.

    Raises:
        FrameFormatError: the header is none of this version, or the parts are not as long as it
            says.
    """
    return native_header.unpack_message(parts)


def advance(descriptor: Descriptor, outputs: dict[str, Any]) -> Descriptor:
    """Add what the task at the present hop has found, and go on to the next hop.

    Args:
        descriptor: of the frame the task worked on; it stays as it is.
        outputs: field to value; replaces what a task of the same name has found before.

    Returns:
        The frame at its next hop, with the same payload. If its pixels are elsewhere from here on,
        `msgspec.structs.replace` its `header` and `payload`.

    Raises:
        FrameFormatError: the frame is at the end of its route.
    """
    here, header = descriptor.here, descriptor.header
    if here is None:
        raise FrameFormatError(f"hop {header.hop} is the end of the route")
    return Descriptor(
        header.replace(hop=header.hop + 1),
        descriptor.job,
        descriptor.name,
        descriptor.route,
        {**descriptor.context, here.task: outputs},
        descriptor.payload,
    )


def _bytes_of(part: Buffer) -> memoryview:
    """Return a read-only view of the bytes of a part."""
    view = memoryview(part)
    if not view.c_contiguous:
        raise FrameFormatError("part is not contiguous")
    return (view if view.format == "B" and view.ndim == 1 else view.cast("B")).toreadonly()


def _check_payload(header: Header, payload: bytes | memoryview | None) -> int:
    kind = native_header.KINDS[header.kind]
    if (payload is not None) != (header.kind in _CARRIED):
        what = "no payload" if payload is None else "a payload"
        raise FrameFormatError(f"{what} does not go with kind {kind}")
    if payload is None:
        return 0
    nbytes = memoryview(payload).nbytes
    if nbytes != header.payload_nbytes:
        raise FrameFormatError(
            f"payload of {nbytes} bytes is not {header.payload_nbytes} bytes long"
        )
    return nbytes


def _check_hop(hop: int, length: int) -> None:
    if hop > length:
        raise FrameFormatError(f"hop {hop} exceeds the {length} hops of the route")


_RouteFields = tuple[str, str, tuple[Hop, ...]]
_ROUTE_DECODER = msgspec.msgpack.Decoder(_RouteFields)


@lru_cache(maxsize=256)
def _write_route(job: str, name: str, route: tuple[Hop, ...]) -> bytes:
    _check_route(job, name, route)
    hops = [(hop.task, hop.endpoint, hop.model)[: 2 + (hop.model is not None)] for hop in route]
    text = msgspec.msgpack.encode((job, name, hops))
    return b"".join((_LENGTH.pack(len(text)), text, bytes(-(_LENGTH.size + len(text)) % 8)))


def _read_route(section: bytes) -> _RouteFields:
    if len(section) < _LENGTH.size:
        raise FrameFormatError(f"route of {len(section)} bytes is shorter than {_LENGTH.size}")
    end = _LENGTH.size + _LENGTH.unpack_from(section)[0]
    if end + -end % 8 != len(section) or any(section[end:]):
        raise FrameFormatError(f"route of {len(section)} bytes does not end after {end}")
    try:
        fields: _RouteFields = _ROUTE_DECODER.decode(memoryview(section)[_LENGTH.size : end])
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise FrameFormatError(f"route is malformed: {err}") from err
    _check_route(*fields)
    return fields


_read_known_route = lru_cache(maxsize=256)(_read_route)


def _check_route(job: str, name: str, route: tuple[Hop, ...]) -> None:
    if len(route) > native_header.MAX_HOP:
        raise FrameFormatError(f"route of {len(route)} hops exceeds limit {native_header.MAX_HOP}")
    _check_name("job", job)
    _check_name("name", name)
    for index, hop in enumerate(route):
        _check_name(f"route[{index}].task", hop.task)
        if not hop.task:
            raise FrameFormatError(f"route[{index}].task is empty")
        if len(hop.endpoint) > MAX_ENDPOINT_NBYTES:
            raise FrameFormatError(
                f"route[{index}].endpoint of {len(hop.endpoint)} characters "
                f"exceeds limit {MAX_ENDPOINT_NBYTES}"
            )
        if not _ENDPOINT.fullmatch(hop.endpoint):
            raise FrameFormatError(f"route[{index}].endpoint {hop.endpoint!r} is no address")
        if hop.model is not None and not 0 <= hop.model <= MAX_MODEL:
            raise FrameFormatError(
                f"route[{index}].model {hop.model} is not between 0 and {MAX_MODEL}"
            )


def _check_name(field: str, name: str) -> None:
    try:
        nbytes = len(name.encode())
    except UnicodeEncodeError as err:
        raise FrameFormatError(f"{field} {name!r} is not valid text") from err
    if nbytes > MAX_NAME_NBYTES:
        raise FrameFormatError(f"{field} of {nbytes} bytes exceeds limit {MAX_NAME_NBYTES}")
