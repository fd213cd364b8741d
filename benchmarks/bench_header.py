"""The descriptor header against `struct`.

The other side is what one would write by hand: one precompiled `struct.Struct` and a `NamedTuple`.
It checks nothing but the magic, while vdag checks every field. Measured, per frame and hop:
reading a header and the fields that a hop looks at; writing a header that exists; making one from
its fields and writing it; changing what changes from hop to hop. The bytes of both sides are equal,
which is asserted first.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vdag import _native as native

LAYOUT = struct.Struct("<4sHHI4B4Q3q4I4Q4I")
FIELDS = {
    "kind": 2,
    "dtype": 1,
    "shape": (1080, 1920, 3),
    "hop": 1,
    "plan": 17,
    "stream": 2**63 + 5,
    "seq": 1041,
    "cam_frame_id": 2082,
    "capture_ns": 123_456_789_000_000,
    "pts_ns": 41_640_000_000,
    "payload_nbytes": 1080 * 1920 * 3,
    "route_nbytes": 300,
    "context_nbytes": 2048,
    "arena": 2**62 + 9,
    "slot": 3,
    "generation": 77,
    "offset": 18_874_368,
}


class Plain(NamedTuple):
    """The header's parts in their order on the wire."""

    magic: bytes = b"VDAG"
    version: int = 1
    header_nbytes: int = LAYOUT.size
    link_nbytes: int = 0
    kind: int = 0
    dtype: int = 0
    ndim: int = 0
    hop: int = 0
    plan: int = 0
    stream: int = 0
    seq: int = 0
    cam_frame_id: int = 0
    capture_ns: int = 0
    deadline_ns: int = 0
    pts_ns: int = -(2**63)
    height: int = 0
    width: int = 0
    channels: int = 0
    fourth: int = 0
    arena: int = 0
    generation: int = 0
    offset: int = 0
    payload_nbytes: int = 0
    slot: int = 0
    route_nbytes: int = 0
    context_nbytes: int = 0
    padding: int = 0


PLAIN_FIELDS = {name: value for name, value in FIELDS.items() if name != "shape"}
PLAIN_FIELDS |= {"ndim": 3, "height": 1080, "width": 1920, "channels": 3}


def bench_unpack(compare):
    data = native.header.pack(native.header.Header(**FIELDS))
    unpack, plain_unpack = native.header.unpack, LAYOUT.unpack_from

    def ours():
        header = unpack(data)
        return header.hop, header.seq, header.shape, header.slot, header.generation, header.offset

    def theirs():
        header = Plain._make(plain_unpack(data))
        if header.magic != b"VDAG":
            raise ValueError(header.magic)
        shape = (header.height, header.width, header.channels)
        return header.hop, header.seq, shape, header.slot, header.generation, header.offset

    assert ours() == theirs()
    compare("header.unpack", subject=("vdag", ours), against=("struct", theirs), unit="us")


def bench_pack(compare):
    header, plain = native.header.Header(**FIELDS), Plain(**PLAIN_FIELDS)
    pack, plain_pack = native.header.pack, LAYOUT.pack

    def ours():
        return pack(header)

    def theirs():
        return plain_pack(*plain)

    assert ours() == theirs()
    compare("header.pack", subject=("vdag", ours), against=("struct", theirs), unit="us")


def bench_make_and_pack(compare):
    make, pack, plain_pack = native.header.Header, native.header.pack, LAYOUT.pack

    def ours():
        return pack(make(**FIELDS))

    def theirs():
        return plain_pack(*Plain(**PLAIN_FIELDS))

    assert ours() == theirs()
    compare("header.make_and_pack", subject=("vdag", ours), against=("struct", theirs), unit="us")


def bench_replace(compare):
    header, plain = native.header.Header(**FIELDS), Plain(**PLAIN_FIELDS)

    def ours():
        return header.replace(hop=2, generation=78, context_nbytes=4096)

    def theirs():
        return plain._replace(hop=2, generation=78, context_nbytes=4096)

    assert native.header.pack(ours()) == LAYOUT.pack(*theirs())
    compare("header.replace", subject=("vdag", ours), against=("_replace", theirs), unit="us")
