"""Contexts as bytes: everything that may travel arrives, everything else says why not."""

from __future__ import annotations

import math
import re
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vdag.errors import FrameFormatError
from vdag.transport.context import DTYPES, MAX_ARRAYS, MAX_PLAIN_NBYTES, pack, unpack

EXT = msgspec.msgpack.Ext
FLOAT32 = DTYPES.index("float32")
UINT8 = DTYPES.index("uint8")
BOOL = DTYPES.index("bool")

FACES = {
    "face_detection": {
        "bbox": np.arange(40, dtype=np.float32).reshape(10, 4),
        "prob": np.linspace(0, 1, 10, dtype=np.float32),
    },
    "face_alignment": {"head_pose": np.zeros((10, 3), np.float32)},
}

dtypes = st.sampled_from([name for name in DTYPES if name != "none"])
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=4))
plains = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(),
    st.binary(max_size=40),
)
values = st.recursive(
    st.one_of(plains, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)
contexts = st.dictionaries(
    st.text(), st.dictionaries(st.text(), values, max_size=3), min_size=1, max_size=3
)


def joined(context: Any) -> bytes:
    return b"".join(pack(context))


def same(one: Any, other: Any) -> bool:
    """Equal in type, dtype, shape and value, where not-a-number is equal to itself."""
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


def handmade(tree: Any, *data: bytes, arrays: int | None = None) -> memoryview:
    """Bytes of the format around any tree, honest lengths unless told otherwise."""
    plain = msgspec.msgpack.encode(tree)
    body = (
        plain + bytes(-len(plain) % 8) + b"".join(piece + bytes(-len(piece) % 8) for piece in data)
    )
    front = struct.pack("<II", len(plain), len(data) if arrays is None else arrays)
    return memoryview(front + body)


def array_head(code: int, *shape: int, ndim: int | None = None) -> EXT:
    ndim = len(shape) if ndim is None else ndim
    return EXT(1, struct.pack(f"<BB{len(shape)}I", code, ndim, *shape))


@given(contexts)
def test_any_context_arrives_as_it_was(context):
    assert same(unpack(memoryview(joined(context))), context)


def test_an_empty_context_has_no_bytes():
    assert pack({}) == []
    assert unpack(memoryview(b"")) == {}


def test_the_format_is_what_the_document_says():
    packed = joined({"t": {"x": np.array([[1, 2, 3]], np.uint16)}})
    plain = b"\x81\xa1t\x81\xa1x\xc7\x0a\x01" + struct.pack("<BBII", 3, 2, 1, 3)
    padding = bytes(-len(plain) % 8)
    assert packed == (
        struct.pack("<II", len(plain), 1)
        + plain
        + padding
        + struct.pack("<HHH", 1, 2, 3)
        + bytes(2)
    )


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "none"])
def test_received_arrays_are_read_only_views_of_the_message(name):
    message = joined({"t": {"first": np.ones(3, np.uint8), "x": np.ones((2, 3), name)}})
    array = unpack(memoryview(message))["t"]["x"]
    assert not array.flags.writeable
    assert not array.flags.owndata
    assert np.shares_memory(array, np.frombuffer(message, np.uint8))


def test_arrays_at_odd_addresses_are_copied_so_that_they_are_aligned():
    odd = memoryview(b"x" + joined(FACES))[1:]
    bbox = unpack(odd)["face_detection"]["bbox"]
    assert bbox.flags.aligned
    assert not bbox.flags.writeable
    assert np.array_equal(bbox, FACES["face_detection"]["bbox"])


def test_views_keep_the_message_alive():
    bbox = unpack(memoryview(bytearray(joined(FACES))).toreadonly())["face_detection"]["bbox"]
    assert bbox[9, 3] == 39


def test_large_arrays_are_referred_to_and_not_copied():
    crops = np.zeros((4, 112, 112, 3), np.uint8)
    assert any(
        isinstance(piece, memoryview) and np.shares_memory(np.asarray(piece), crops)
        for piece in pack({"t": {"faces": crops}})
    )


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(20000)[::2],
        np.asfortranarray(np.ones((100, 200), np.float32)),
        np.broadcast_to(np.float32(7), (50, 60)),
    ],
    ids=["transposed", "strided", "fortran", "broadcast"],
)
def test_arrays_of_any_layout_arrive_in_c_order(array):
    arrived = unpack(memoryview(joined({"t": {"x": array}})))["t"]["x"]
    assert arrived.flags.c_contiguous
    assert np.array_equal(arrived, array)


def test_tuples_arrive_as_lists_and_numpy_numbers_as_python_numbers():
    sent = {"t": {"size": (1, np.float32(2.5)), "count": np.int64(3), "flag": np.bool_(True)}}
    assert unpack(memoryview(joined(sent))) == {"t": {"size": [1, 2.5], "count": 3, "flag": True}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "t.x is a object, which cannot travel"),
        ({1}, "t.x is a set, which cannot travel"),
        ([[{"k": 1j}]], "t.x is a complex, which cannot travel"),
        ({1: 2}, "t.x has a key that is no string"),
        (np.array(["a"]), "t.x is an array of <U1, which cannot travel"),
        (np.array([None]), "t.x is an array of object, which cannot travel"),
        (np.array([1], ">i4"), "t.x is an array of >i4, which cannot travel"),
        (np.array([1j]), "t.x is an array of complex128, which cannot travel"),
        (np.ones((1,) * 9), "t.x: ndim 9 exceeds limit 8"),
        (
            np.broadcast_to(np.uint8(0), (1 << 13, 1 << 12)),
            "t.x: shape (8192, 4096) exceeds limit 16777216 bytes",
        ),
        (
            np.broadcast_to(np.uint8(0), (0, 1 << 40)),
            "t.x: shape (0, 1099511627776) exceeds limit 16777216 bytes",
        ),
        ([np.zeros(0)] * (MAX_ARRAYS + 1), "context of 4097 arrays exceeds limit 4096"),
        ("x" * MAX_PLAIN_NBYTES, "plain values of 262155 bytes exceed limit 262144"),
    ],
)
def test_what_cannot_travel_is_refused_before_it_leaves(value, text):
    with pytest.raises(FrameFormatError, match=f"^{re.escape(text)}$"):
        pack({"t": {"x": value}})


def test_long_names_are_cut_in_the_text_of_an_error():
    with pytest.raises(FrameFormatError, match=f"^{'t' * 80}.{'x' * 80} is a set, which cannot"):
        pack({"t" * 90: {"x" * 90: {1}}})


def nested(depth: int) -> Any:
    value: Any = np.zeros(1)
    for _ in range(depth):
        value = [value]
    return value


def test_values_may_be_nested_eight_deep_and_no_deeper():
    context = {"t": {"x": nested(8)}}
    assert same(unpack(memoryview(joined(context))), context)
    with pytest.raises(FrameFormatError, match=r"^t\.x is nested deeper than 8$"):
        pack({"t": {"x": nested(9)}})


@pytest.mark.parametrize("value", [2**64, "\ud800"], ids=["integer", "surrogate"])
def test_values_that_message_pack_cannot_hold_are_refused(value):
    with pytest.raises(FrameFormatError, match=r"^context cannot travel: "):
        pack({"t": {"x": value}})


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (memoryview(b"1234567"), "context of 7 bytes is shorter than 8"),
        (
            memoryview(struct.pack("<II", 9, 0) + b"\x80"),
            "context of 9 bytes ends within its 9 bytes of plain values",
        ),
        (
            memoryview(struct.pack("<II", MAX_PLAIN_NBYTES + 1, 0)),
            "plain values of 262145 bytes exceed limit 262144",
        ),
        (
            memoryview(struct.pack("<II", 0, MAX_ARRAYS + 1)),
            "context of 4097 arrays exceeds limit 4096",
        ),
        (handmade({}, arrays=1), "context announces 1 arrays and has 0"),
        (memoryview(bytes(handmade({})) + bytes(8)), "context of 24 bytes is not 16 bytes long"),
        (memoryview(bytes(handmade({}))[:-1]), "context of 15 bytes is not 16 bytes long"),
        (memoryview(bytes(handmade({}))[:-1] + b"x"), "context has no zeros at offset 9"),
        (handmade({"t": {"x": EXT(2, b"")}}), "t.x has the unknown extension 2"),
        (handmade({"t": {"x": EXT(1, b"")}}), "t.x: array head of 0 bytes with ndim 0"),
        (handmade({"t": {"x": array_head(0)}}), "t.x: unknown dtype 0"),
        (handmade({"t": {"x": array_head(200)}}), "t.x: unknown dtype 200"),
        (handmade({"t": {"x": array_head(UINT8, ndim=9)}}), "t.x: ndim 9 exceeds limit 8"),
        (
            handmade({"t": {"x": array_head(UINT8, 1, ndim=2)}}),
            "t.x: array head of 6 bytes with ndim 2",
        ),
        (
            handmade({"t": {"x": array_head(FLOAT32, *[0xFFFFFFFF] * 8)}}),
            f"t.x: shape {(0xFFFFFFFF,) * 8} exceeds limit 16777216 bytes",
        ),
        (
            handmade({"t": {"x": array_head(FLOAT32, 0, 0xFFFFFFFF)}}),
            "t.x: shape (0, 4294967295) exceeds limit 16777216 bytes",
        ),
        (
            handmade({"t": {"x": array_head(FLOAT32, 1000)}}, bytes(8)),
            "t.x of 4000 bytes exceeds the 8 that are left",
        ),
        (
            handmade({"t": {"x": array_head(BOOL, 2)}}, b"\x01\x02"),
            "t.x has items that are neither true nor false",
        ),
        (handmade({"t": {"x": {1: 2}}}), "t.x has a key that is no string"),
        (
            handmade({"t": {"x": [EXT(-1, bytes(4)), array_head(UINT8)]}}, b"1"),
            "t.x is a datetime, which cannot travel",
        ),
        (handmade({"t": {"x": [[[[[[[[[{}]]]]]]]]]}}), "t.x is nested deeper than 8"),
        (
            memoryview(struct.pack("<II", 8, 0) + b"\xdf\xff\xff\xff\xff\0\0\0"),
            "context is malformed: Expected `str`, got `int` - at `key` in `$`",
        ),
        (handmade([1]), "context is malformed: Expected `object`, got `array`"),
        (
            handmade({"t": 1}),
            "context is malformed: Expected `object`, got `int` - at `$[...]`",
        ),
    ],
)
def test_bytes_that_are_no_context_are_refused(view, text):
    with pytest.raises(FrameFormatError, match=f"^{re.escape(text)}$"):
        unpack(view)


@pytest.mark.parametrize(
    ("plain", "text"),
    [
        (b"\x81\xa1\xff\x80", "context is malformed: 'utf-8' codec can't decode byte 0xff"),
        (b"\x81\xa1t\x81\xa1x" + b"\x91" * 5000, "context is malformed: maximum recursion depth"),
        (
            b"\x81\xa1t\x81\xa1x\xdd\xff\xff\xff\xff",
            "context is malformed: Input data was truncated",
        ),
    ],
    ids=["utf-8", "deep", "count"],
)
def test_malformed_message_pack_is_refused(plain, text):
    view = memoryview(struct.pack("<II", len(plain), 0) + plain + bytes(-len(plain) % 8))
    with pytest.raises(FrameFormatError, match=f"^{re.escape(text)}"):
        unpack(view)


HOSTILE = {
    "empty dicts": b"\xdd\x00\x01\x00\x00" + b"\x80" * 0x10000,
    "empty lists": b"\xdd\x00\x01\x00\x00" + b"\x90" * 0x10000,
    "promised items": b"\xdc\xff\xff" * 900 + bytes(0x10000),
    "promised map": b"\xdf\xff\xff\xff\xff" + bytes(0x10000),
    "promised string": b"\xdb\xff\xff\xff\xff",
    "empty arrays": b"\xdc\x10\x00" + b"\xc7\x06\x01\x01\x01\x00\x00\x00\x00" * 0x1000,
    "zero-dimensional": b"\xdc\x10\x00" + b"\xd5\x01\x01\x00" * 0x1000,
}


@pytest.mark.parametrize("plain", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_take_a_bounded_multiple_of_their_length(plain):
    plain = b"\x81\xa1t\x81\xa1x" + plain
    view = memoryview(struct.pack("<II", len(plain), 0x1000) + plain)
    tracemalloc.start()
    try:
        with pytest.raises(FrameFormatError):
            unpack(view)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80 * view.nbytes + 65536


@given(contexts, st.data())
@settings(max_examples=300)
def test_a_changed_context_is_read_or_refused(context, data):
    message = bytearray(joined(context))
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(message) - 1))
        message[index] = data.draw(st.sampled_from([0, 1, 8, 0x7F, 0x80, 0xC7, 0xDD, 0xFF]))
    cut = data.draw(st.integers(0, len(message)))
    for view in (memoryview(message), memoryview(message)[:cut]):
        try:
            unpack(view)
        except FrameFormatError:
            continue


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        context = unpack(
            memoryview(struct.pack("<II", len(data), 0) + data + bytes(-len(data) % 8))
        )
    except FrameFormatError:
        return
    assert same(unpack(memoryview(joined(context))), context)
