from __future__ import annotations

import importlib
import math
import struct
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vdag._native import reference_header
from vdag.errors import FrameFormatError

KERNELS = ("header", "reference_header")
FRAME: dict[str, Any] = {
    "kind": 2,
    "dtype": 1,
    "shape": (1080, 1920, 3),
    "link_nbytes": 0x80000001,
    "hop": 2,
    "plan": 17,
    "stream": 2**64 - 1,
    "seq": 41,
    "cam_frame_id": 57,
    "capture_ns": 0x0102030405060708,
    "deadline_ns": 0x1112131415161718,
    "pts_ns": -2,
    "payload_nbytes": 1080 * 1920 * 3,
    "route_nbytes": 300,
    "context_nbytes": 4096,
    "arena": 0x0123456789ABCDEF,
    "slot": 3,
    "generation": 2**63,
    "offset": 1 << 40,
}
FRAME_BYTES = bytes.fromhex(
    "56444147 0100 8800 01000080 02 01 03 02"
    "1100000000000000 ffffffffffffffff 2900000000000000 3900000000000000"
    "0807060504030201 1817161514131211 feffffffffffffff"
    "38040000 80070000 03000000 00000000"
    "efcdab8967452301 0000000000000080 0000000000010000 00ec5e0000000000"
    "03000000 2c010000 00100000 00000000"
)


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"vdag._native.{request.param}")


def both() -> tuple[ModuleType, ModuleType]:
    compiled, reference = (importlib.import_module(f"vdag._native.{name}") for name in KERNELS)
    return compiled, reference


def fields_of(header: Any) -> dict[str, Any]:
    return {name: getattr(header, name) for name in FRAME}


def outcome(kernel: ModuleType, data: bytes) -> dict[str, Any] | str:
    """The fields that come out, or the text of the only error that may."""
    try:
        return fields_of(kernel.unpack(data))
    except FrameFormatError as err:
        return str(err)


def item_nbytes(code: int) -> int:
    return np.dtype(reference_header.DTYPES[code]).itemsize if code else 0


@st.composite
def valid_fields(draw: st.DrawFn) -> dict[str, Any]:
    unsigned32, unsigned64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
    signed = st.integers(-(2**63), 2**63 - 1)
    kind = draw(st.integers(0, 4))
    with_shape = kind in (1, 2) or (kind in (3, 4) and draw(st.booleans()))
    shape = tuple(draw(st.lists(st.integers(0, 90), min_size=1, max_size=4))) if with_shape else ()
    dtype = draw(st.integers(1, 11)) if with_shape else 0
    nbytes = math.prod(shape) * item_nbytes(dtype)
    if kind in (3, 4):
        nbytes = draw(st.integers(0, 1 << 30))
    return {
        "kind": kind,
        "dtype": dtype,
        "shape": shape,
        "link_nbytes": draw(unsigned32),
        "hop": draw(st.integers(0, 64)),
        **{name: draw(unsigned64) for name in ("plan", "stream", "seq", "cam_frame_id")},
        **{name: draw(signed) for name in ("capture_ns", "deadline_ns")},
        "pts_ns": draw(st.none() | st.integers(-(2**63) + 1, 2**63 - 1)),
        "payload_nbytes": nbytes,
        "route_nbytes": draw(st.integers(0, 1 << 16)),
        "context_nbytes": draw(st.integers(0, 1 << 24)),
        "arena": draw(unsigned64),
        "slot": draw(unsigned32),
        "generation": draw(unsigned64),
        "offset": draw(st.integers(0, 1 << 40)),
    }


def test_every_field_lies_where_the_table_says(kernel: ModuleType) -> None:
    header = kernel.Header(**FRAME)
    assert kernel.pack(header) == FRAME_BYTES
    assert fields_of(kernel.unpack(FRAME_BYTES)) == FRAME
    assert len(FRAME_BYTES) == kernel.HEADER_NBYTES == 136


def test_both_kernels_have_the_same_constants() -> None:
    compiled, reference = both()
    names = [name for name in reference.__all__ if name.isupper()]
    assert len(names) == 17
    for name in names:
        assert getattr(compiled, name) == getattr(reference, name), name


def test_every_dtype_code_has_numpys_size(kernel: ModuleType) -> None:
    for code, name in enumerate(kernel.DTYPES[1:], start=1):
        nbytes = 6 * np.dtype(name).itemsize
        header = kernel.Header(kind=1, dtype=code, shape=(2, 3), payload_nbytes=nbytes)
        assert header.payload_nbytes == nbytes


def test_an_empty_header_is_valid_and_has_no_payload(kernel: ModuleType) -> None:
    header = kernel.Header()
    assert fields_of(header) == {**dict.fromkeys(FRAME, 0), "shape": (), "pts_ns": None}
    assert header.ndim == 0
    assert kernel.unpack(kernel.pack(header)) == header


@settings(deadline=None)
@given(values=valid_fields())
def test_what_is_packed_comes_back(values: dict[str, Any]) -> None:
    compiled, reference = both()
    data = reference.pack(reference.Header(**values))
    assert compiled.pack(compiled.Header(**values)) == data
    for kernel in (compiled, reference):
        header = kernel.unpack(data)
        assert fields_of(header) == values
        assert header == kernel.Header(**values)
        assert header.ndim == len(values["shape"])


@settings(deadline=None, max_examples=400)
@given(data=st.binary(max_size=300) | st.binary(min_size=128).map(FRAME_BYTES[:8].__add__))
@example(data=b"")
@example(data=FRAME_BYTES[:-1])
def test_random_bytes_are_a_header_or_one_error(data: bytes) -> None:
    compiled, reference = both()
    assert outcome(compiled, data) == outcome(reference, data)


@settings(deadline=None, max_examples=30)
@given(values=valid_fields(), mask=st.integers(1, 255))
@example(values=FRAME, mask=1)
@example(values=FRAME, mask=128)
def test_a_flipped_byte_is_a_valid_header_or_one_error(values: dict[str, Any], mask: int) -> None:
    compiled, reference = both()
    data = bytearray(reference.pack(reference.Header(**values)))
    for at in range(len(data)):
        data[at] ^= mask
        result = outcome(compiled, bytes(data))
        assert result == outcome(reference, bytes(data))
        if isinstance(result, dict):  # what was read is what would be sent
            assert compiled.pack(compiled.Header(**result)) == data
        data[at] ^= mask


WIRE_ERRORS = [
    (0, b"XDAG", "magic b'XDAG' is not b'VDAG'"),
    (0, b"VD\0G", "magic b'VD\\x00G' is not b'VDAG'"),
    (4, b"\2\0", "version 2 is not 1"),
    (6, b"\x89\0", "header_nbytes 137 is not 136"),
    (132, b"\0\0\0\1", "padding 16777216 is not 0"),
    (14, b"\5", "ndim 5 exceeds limit 4"),
    (84, b"\7", "shape[3] 7 is not 0 with ndim 3"),
    (12, b"\5", "kind 5 exceeds limit 4"),
    (13, b"\x0c", "dtype 12 exceeds limit 11"),
    (15, b"\x41", "hop 65 exceeds limit 64"),
    (104, b"\1", "offset 1099511627777 exceeds limit 1099511627776"),
    (112, struct.pack("<Q", 2**30 + 1), "payload_nbytes 1073741825 exceeds limit 1073741824"),
    (112, b"\xff" * 8, f"payload_nbytes {2**64 - 1} exceeds limit 1073741824"),
    (124, b"\1\0\1\0", "route_nbytes 65537 exceeds limit 65536"),
    (128, b"\1\0\0\1", "context_nbytes 16777217 exceeds limit 16777216"),
    (13, b"\0", "ndim 3 does not go with dtype none"),
    (12, b"\0", "dtype uint8 does not go with kind none"),
    (12, b"\1\x0b", "payload_nbytes 6220800 is not 49766400, "
     "the size of shape (1080, 1920, 3) of float64"),
    (72, b"\xff" * 12, "shape (4294967295, 4294967295, 4294967295) of uint8 "
     "exceeds limit 1073741824 bytes"),
    (72, b"\0\0\0\0" + b"\xff" * 8, "shape (0, 4294967295, 4294967295) of uint8 "
     "exceeds limit 1073741824 bytes"),
    (72, b"\0\0\0\0", "payload_nbytes 6220800 is not 0, the size of shape (0, 1920, 3) of uint8"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "patch", "message"), WIRE_ERRORS)
def test_a_wrong_field_is_named_with_its_value(
    kernel: ModuleType, at: int, patch: bytes, message: str
) -> None:
    data = FRAME_BYTES[:at] + patch + FRAME_BYTES[at + len(patch) :]
    assert outcome(kernel, data) == message


CONSTRUCTOR_ERRORS = [
    ({"plan": -1}, "plan -1 outside 0..18446744073709551615"),
    ({"seq": 2**64}, "seq 18446744073709551616 outside 0..18446744073709551615"),
    ({"slot": 2**32}, "slot 4294967296 outside 0..4294967295"),
    ({"link_nbytes": np.int64(-3)}, "link_nbytes -3 outside 0..4294967295"),
    ({"hop": 256}, "hop 256 outside 0..255"),
    ({"hop": 65}, "hop 65 exceeds limit 64"),
    ({"capture_ns": 2**63}, f"capture_ns {2**63} outside {-(2**63)}..{2**63 - 1}"),
    ({"pts_ns": -(2**63)}, f"pts_ns {-(2**63)} outside {-(2**63) + 1}..{2**63 - 1}"),
    ({"shape": (1, 2, 3, 4, 5)}, "ndim 5 exceeds limit 4"),
    ({"shape": (3, -1)}, "shape[1] -1 outside 0..4294967295"),
    ({"shape": (3,)}, "ndim 1 does not go with dtype none"),
    ({"dtype": 1}, "ndim 0 does not go with dtype uint8"),
    ({"kind": 1}, "dtype none does not go with kind inline"),
    ({"kind": 2}, "dtype none does not go with kind slot"),
    ({"payload_nbytes": 4}, "payload_nbytes 4 exceeds limit 0 of kind none"),
    (
        {"kind": 1, "dtype": 4, "shape": (5,), "payload_nbytes": 9},
        "payload_nbytes 9 is not 10, the size of shape (5,) of int16",
    ),
    (
        {"kind": 3, "dtype": 1, "shape": (2**15, 2**15, 3)},
        "shape (32768, 32768, 3) of uint8 exceeds limit 1073741824 bytes",
    ),
]


@pytest.mark.parametrize(("values", "message"), CONSTRUCTOR_ERRORS)
def test_a_header_that_could_not_be_read_cannot_be_made(
    kernel: ModuleType, values: dict[str, Any], message: str
) -> None:
    for make in (kernel.Header, kernel.Header().replace):
        with pytest.raises(FrameFormatError) as caught:
            make(**values)
        assert str(caught.value) == message


def test_the_largest_of_everything_is_allowed(kernel: ModuleType) -> None:
    header = kernel.Header(
        kind=2,
        dtype=1,
        shape=(2**15, 2**15),
        hop=64,
        payload_nbytes=2**30,
        route_nbytes=2**16,
        context_nbytes=2**24,
        offset=2**40,
    )
    assert kernel.unpack(kernel.pack(header)) == header


def test_a_scalar_has_shape_one(kernel: ModuleType) -> None:
    header = kernel.Header(kind=1, dtype=10, shape=(1,), payload_nbytes=4)
    assert (header.ndim, header.shape) == (1, (1,))


def test_an_encoded_picture_may_hide_its_shape(kernel: ModuleType) -> None:
    for kind in (kernel.KIND_JPEG, kernel.KIND_H264):
        header = kernel.Header(kind=kind, payload_nbytes=517_000)
        assert kernel.unpack(kernel.pack(header)).payload_nbytes == 517_000
        known = header.replace(dtype=1, shape=(1080, 1920, 3))
        assert known.shape == (1080, 1920, 3)


@pytest.mark.parametrize("bad", [1.5, "1", np.float64(2.0)])
def test_a_number_that_is_not_whole_is_a_type_error(kernel: ModuleType, bad: object) -> None:
    with pytest.raises(TypeError):
        kernel.Header(capture_ns=bad)
    with pytest.raises(TypeError):
        kernel.Header(shape=(bad,))
    for name in FRAME:
        with pytest.raises(TypeError):
            kernel.Header().replace(**{name: (bad,) if name == "shape" else bad})


def test_numpy_integers_are_numbers(kernel: ModuleType) -> None:
    size = np.array([4], np.int32)[0]
    header = kernel.Header(kind=1, dtype=1, shape=(size,), payload_nbytes=np.uint64(4))
    assert header == kernel.Header(kind=1, dtype=1, shape=(4,), payload_nbytes=4)
    assert type(header.payload_nbytes) is int


def test_unknown_fields_are_a_type_error(kernel: ModuleType) -> None:
    with pytest.raises(TypeError, match="colour"):
        kernel.Header(colour=1)
    with pytest.raises(TypeError, match="colour"):
        kernel.Header().replace(colour=1)
    with pytest.raises(TypeError):
        kernel.Header(1)


def test_a_header_is_immutable(kernel: ModuleType) -> None:
    header = kernel.Header(**FRAME)
    for name in FRAME:
        with pytest.raises(AttributeError):
            setattr(header, name, 0)
    assert fields_of(header) == FRAME


def test_a_header_that_fails_to_be_made_again_stays_as_it_was(kernel: ModuleType) -> None:
    header = kernel.Header()
    with pytest.raises(FrameFormatError):
        header.replace(hop=65)
    assert header == kernel.Header()


def test_replace_changes_only_what_it_names(kernel: ModuleType) -> None:
    header = kernel.Header(**FRAME)
    assert fields_of(header.replace(hop=3, seq=42)) == {**FRAME, "hop": 3, "seq": 42}
    assert fields_of(header) == FRAME


def test_headers_compare_by_value(kernel: ModuleType) -> None:
    header = kernel.Header(**FRAME)
    same = kernel.unpack(kernel.pack(header))
    assert header == same
    assert hash(header) == hash(same)
    assert header != header.replace(pts_ns=None)
    assert header != FRAME_BYTES
    assert len({header, same}) == 1


def test_repr_can_be_read_back(kernel: ModuleType) -> None:
    text = repr(kernel.Header(**FRAME))
    assert text == "Header(" + ", ".join(f"{k}={v!r}" for k, v in FRAME.items()) + ")"


def test_unpack_reads_at_an_offset_of_any_buffer(kernel: ModuleType) -> None:
    message = b"abc" + FRAME_BYTES + b"route"
    for buffer in (message, bytearray(message), memoryview(message)):
        assert fields_of(kernel.unpack(buffer, 3)) == FRAME
    array = np.frombuffer(message[3:139], np.float32)
    assert fields_of(kernel.unpack(array)) == FRAME


@pytest.mark.parametrize(
    ("nbytes", "offset"), [(0, 0), (135, 0), (136, 1), (300, -1), (300, 165), (300, 2**62)]
)
def test_a_buffer_without_room_is_refused(kernel: ModuleType, nbytes: int, offset: int) -> None:
    message = f"buffer of {nbytes} bytes has no header of 136 at offset {offset}"
    with pytest.raises(FrameFormatError) as caught:
        kernel.unpack(bytes(nbytes), offset)
    assert str(caught.value) == message
    target = bytearray(nbytes)
    with pytest.raises(FrameFormatError) as caught:
        kernel.pack_into(kernel.Header(), target, offset)
    assert str(caught.value) == message
    assert target == bytes(nbytes)


def test_pack_into_writes_its_bytes_and_no_others(kernel: ModuleType) -> None:
    target = bytearray(b"\xaa" * 200)
    kernel.pack_into(kernel.Header(**FRAME), target, 5)
    assert target == b"\xaa" * 5 + FRAME_BYTES + b"\xaa" * 59


def test_buffers_of_the_wrong_kind_are_refused(kernel: ModuleType) -> None:
    header = kernel.Header()
    read_only = np.zeros(136, np.uint8)
    read_only.flags.writeable = False
    for target in (bytes(136), read_only, np.zeros(300, np.uint8)[::2]):
        with pytest.raises(FrameFormatError) as caught:
            kernel.pack_into(header, target)
        assert str(caught.value) == "buffer is not contiguous and writable"
    for source in (memoryview(bytes(300))[::2], np.zeros(300, np.uint8)[::2]):
        with pytest.raises(FrameFormatError) as caught:
            kernel.unpack(source)
        assert str(caught.value) == "buffer is not contiguous"


def test_what_is_no_buffer_or_header_is_a_type_error(kernel: ModuleType) -> None:
    with pytest.raises(TypeError):
        kernel.unpack("VDAG")
    with pytest.raises(TypeError):
        kernel.pack_into(kernel.Header(), "VDAG")


def test_unpack_does_not_refer_to_the_buffer(kernel: ModuleType) -> None:
    buffer = bytearray(FRAME_BYTES)
    header = kernel.unpack(buffer)
    buffer.clear()  # raises while something exports the buffer
    assert fields_of(header) == FRAME


def test_compiled_pack_takes_only_headers() -> None:
    compiled, reference = both()
    for other in (None, b"", reference.Header()):
        with pytest.raises(TypeError):
            compiled.pack(other)
