"""Message parts that we have not sent: they are refused, whatever is in them."""

from __future__ import annotations

import re
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from codec_kit import KIND_JPEG, Header, assert_same, descriptor, descriptors, with_payload
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vdag._native import header as native_header
from vdag.errors import FrameFormatError
from vdag.transport.codec import decode, decode_head, decode_header, encode


def with_route(section: bytes, **fields: Any) -> bytes:
    header = Header(kind=0, route_nbytes=len(section), **fields)
    return native_header.pack(header) + section


def route_section(value: Any) -> bytes:
    text = msgspec.msgpack.encode(value)
    return struct.pack("<I", len(text)) + text + bytes(-(4 + len(text)) % 8)


GOOD = route_section(["job", "cam", [["t", "ipc://x"]]])


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], "a message of no parts is no descriptor"),
        ([b"VDAG"], "buffer of 4 bytes has no header of 136 at offset 0"),
        ([with_route(GOOD)[:-1]], "first part of 167 bytes is not 168 bytes long"),
        ([with_route(GOOD) + b"x"], "first part of 169 bytes is not 168 bytes long"),
        ([with_route(GOOD), b""], "message of 2 parts with a payload of 0 bytes"),
        ([with_route(GOOD), b"", b""], "message of 3 parts with a payload of 0 bytes"),
        ([encode(with_payload(bytes(5000)))[0]], "message of 1 parts with a payload of 5000 bytes"),
        (
            [encode(with_payload(bytes(5000)))[0], bytes(4999)],
            "second part of 4999 bytes is not 5000 bytes long",
        ),
        ([with_route(GOOD[:-1])], "route_nbytes 31 is not a multiple of 8"),
        ([with_route(b"")], "route of 0 bytes is shorter than 4"),
        ([with_route(b"\xff" * 8)], "route of 8 bytes does not end after 4294967299"),
        ([with_route(GOOD + bytes(8))], "route of 40 bytes does not end after 25"),
        ([with_route(GOOD[:-1] + b"x")], "route of 32 bytes does not end after 25"),
        ([with_route(GOOD, hop=2)], "hop 2 exceeds the 1 hops of the route"),
        (
            [with_route(route_section(["job", "cam"]))],
            "route is malformed: Expected `array` of length 3, got 2",
        ),
        (
            [with_route(route_section([1, "cam", []]))],
            "route is malformed: Expected `str`, got `int` - at `$[0]`",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ftp://x"]]]))],
            "route[0].endpoint 'ftp://x' is no address",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ipc://x", 100]]]))],
            "route[0].model 100 is not between 0 and 99",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ipc://x", "large"]]]))],
            "route is malformed: Expected `int | null`, got `str` - at `$[2][0][2]`",
        ),
        (
            [with_route(route_section(["job", "cam", [["t", "ipc://x"]] * 65]))],
            "route of 65 hops exceeds limit 64",
        ),
        (
            [with_route(struct.pack("<I", 4) + b"\x93\xa1\xff\xa0" + bytes(0))],
            "route is malformed: 'utf-8' codec can't decode byte 0xff in position 0: "
            "invalid start byte",
        ),
        ([np.zeros((200, 2), np.uint8)[:, 0]], "part is not contiguous"),
    ],
)
def test_parts_that_are_no_descriptor_are_refused(parts, text):
    for read in (decode, decode_head):
        with pytest.raises(FrameFormatError, match=f"^{re.escape(text)}$"):
            read(parts)


def test_a_receiver_of_pixels_does_not_look_at_route_and_context():
    (part,) = encode(descriptor())
    start = native_header.HEADER_NBYTES
    broken = bytearray(part)
    broken[start:] = b"\xff" * (len(part) - start)
    assert decode_header([broken]) == decode_header([part])
    with pytest.raises(FrameFormatError, match=r"^first part of \d+ bytes is not \d+ bytes long$"):
        decode_header([broken[:-1]])


@pytest.mark.parametrize("field", ["route_nbytes", "context_nbytes", "payload_nbytes"])
def test_lengths_are_compared_with_the_bytes_before_memory_is_taken(field):
    limits = {"route_nbytes": 1 << 16, "context_nbytes": 1 << 24, "payload_nbytes": 1 << 30}
    header = Header(**{"kind": KIND_JPEG, field: limits[field]})
    tracemalloc.start()
    try:
        with pytest.raises(FrameFormatError):
            decode([native_header.pack(header)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8192


@given(descriptors(), st.data())
@settings(max_examples=300)
def test_a_changed_message_is_read_or_refused(sent, data):
    parts = [bytearray(part) for part in encode(sent)]
    part = data.draw(st.sampled_from(parts))
    assume(part)
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(0, len(part) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del part[data.draw(st.integers(0, len(part))) :]
    try:
        arrived = decode(parts)
    except FrameFormatError:
        return
    assert_same(arrived, decode(encode(arrived)))


@given(st.lists(st.binary(max_size=400), max_size=3))
def test_any_parts_are_read_or_refused(parts):
    with pytest.raises(FrameFormatError):
        decode(parts)
