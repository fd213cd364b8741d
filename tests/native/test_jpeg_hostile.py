"""JPEGs that are broken, or lie about their size."""

from __future__ import annotations

import contextlib
import importlib
import threading
import tracemalloc
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdag._native import reference_jpeg as reference
from vdag.errors import ImageError

compiled = importlib.import_module("vdag._native.jpeg")
SMALL = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
LARGE = cv2.resize(SMALL, (64, 64))


def frame_header(
    width: int,
    height: int,
    *,
    factors: tuple[int, ...] = (0x22, 0x11, 0x11),
    precision: int = 8,
    code: int = 0xC0,
) -> bytes:
    """A JPEG that ends after its frame header."""
    components = b"".join(bytes([i + 1, factor, 0]) for i, factor in enumerate(factors))
    body = (
        bytes([precision])
        + height.to_bytes(2, "big")
        + width.to_bytes(2, "big")
        + bytes([len(factors)])
        + components
    )
    return b"\xff\xd8\xff" + bytes([code]) + (len(body) + 2).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "data does not start with the JPEG marker ffd8"),
        (b"\x89PNG\r\n", "data does not start with the JPEG marker ffd8"),
        (b"\xff\xd8", "data of 2 bytes ends before its frame header"),
        (b"\xff\xd8\xff\xff\xff", "data of 5 bytes ends before its frame header"),
        (b"\xff\xd8\x00\x00\x00", "byte 2 is no JPEG marker"),
        (b"\xff\xd8\xff\xe0\x00\x01\x00", "data of 7 bytes ends before its frame header"),
        (b"\xff\xd8\xff\xe0\xff\xff\x00", "data of 7 bytes ends before its frame header"),
        (b"\xff\xd8\xff\xd9\x00\x00", "marker ffd9 comes before the frame header"),
        (b"\xff\xd8\xff\xda\x00\x02", "marker ffda comes before the frame header"),
        (b"\xff\xd8\xff\xc0\x00\x02", "frame header has 2 bytes"),
        (frame_header(16, 16)[:-1], "data of 20 bytes ends before its frame header"),
        (frame_header(0, 16), "picture of 0 x 16 pixels is empty"),
        (frame_header(16, 0), "picture of 16 x 0 pixels is empty"),
        (frame_header(65501, 1), "picture of 65501 x 1 pixels exceeds side 65500"),
        (frame_header(60000, 60000),
         "picture of 60000 x 60000 pixels exceeds max_pixels 67108864"),
        (frame_header(8, 8, precision=12), "samples have 12 bits, not 8"),
        (frame_header(8, 8, factors=(0x11, 0x11)), "picture has 2 components, not 1, 3 or 4"),
        (frame_header(8, 8, factors=(0x51,)), "sampling factors 5 x 1 are outside 1..4"),
        (frame_header(8, 8, factors=(0x22, 0x10, 0x11)),
         "sampling factors 1 x 0 are outside 1..4"),
        (frame_header(8, 8, code=0xC3), "coding process ffc3 is not supported"),
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused_before_memory_is_taken(
    codec: ModuleType, data: bytes, message: str
) -> None:
    tracemalloc.start()  # numpy reports its memory there
    try:
        for call in (codec.read_header, codec.decode):
            with pytest.raises(ImageError) as error:
                call(data)
            assert str(error.value) == message
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("factors", "components", "subsampling"),
    [
        ((0x11, 0x11, 0x11), 3, "444"),
        ((0x22, 0x22, 0x22), 3, "444"),
        ((0x21, 0x11, 0x11), 3, "422"),
        ((0x22, 0x11, 0x11), 3, "420"),
        ((0x22, 0x12, 0x12), 3, "422"),
        ((0x12, 0x11, 0x11), 3, "440"),
        ((0x41, 0x11, 0x11), 3, "411"),
        ((0x14, 0x11, 0x11), 3, "441"),
        ((0x22, 0x21, 0x11), 3, "unknown"),
        ((0x32, 0x22, 0x22), 3, "unknown"),
        ((0x44, 0x11, 0x11), 3, "unknown"),
        ((0x22,), 1, "gray"),
        ((0x11, 0x11, 0x11, 0x11), 4, "unknown"),
    ],
)
def test_headers_tell_the_subsampling(
    codec: ModuleType, factors: tuple[int, ...], components: int, subsampling: str
) -> None:
    data = frame_header(60, 40, factors=factors)
    assert codec.read_header(data) == (60, 40, components, subsampling)


def test_the_limit_of_pixels_is_exact(codec: ModuleType) -> None:
    data = codec.encode(SMALL)
    assert codec.decode(data, max_pixels=600).shape == (20, 30, 3)
    for call in (codec.decode, codec.read_header):
        with pytest.raises(ImageError) as error:
            call(data, max_pixels=599)
        assert str(error.value) == "picture of 30 x 20 pixels exceeds max_pixels 599"


def test_cmyk_is_refused(codec: ModuleType) -> None:
    with pytest.raises(ImageError, match=r"^picture has 4 components: CMYK is not supported$"):
        codec.decode(frame_header(8, 8, factors=(0x11,) * 4))


def test_a_picture_cut_off_anywhere_is_refused(codec: ModuleType) -> None:
    data = codec.encode(SMALL[:18, :24], quality=60)
    whole = codec.decode(data)
    for nbytes in range(len(data)):
        with pytest.raises(ImageError):
            codec.decode(data[:nbytes])
        assert (codec.decode(data) == whole).all()  # nothing of the failure is left


def test_a_cut_off_picture_is_completed_when_that_is_asked_for(codec: ModuleType) -> None:
    data = codec.encode(LARGE)
    whole = codec.decode(data)
    part = codec.decode(data[: len(data) * 3 // 4], strict=False)
    assert part.shape == whole.shape
    assert (part[:16] == whole[:16]).all()
    assert not (part == whole).all()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    strict=st.booleans(),
)
def test_damaged_pictures_are_decoded_to_the_size_they_claim_or_refused(
    codec: ModuleType, edits: list[tuple[int, int]], strict: bool
) -> None:
    data = bytearray(reference.encode(np.tile(np.arange(24, dtype=np.uint8), (18, 1))))
    for at, value in edits:
        data[at % len(data)] = value
    try:
        info = codec.read_header(bytes(data), max_pixels=1 << 22)
        picture = codec.decode(bytes(data), strict=strict, max_pixels=1 << 22)
    except ImageError:
        return
    assert picture.shape == (info.height, info.width, 3)


@settings(max_examples=500, deadline=None)
@given(
    segments=st.lists(
        st.tuples(
            st.sampled_from([0x00, 0x01, 0xC0, 0xC2, 0xC3, 0xC4, 0xD8, 0xD9, 0xDA, 0xE0, 0xFF]),
            st.one_of(st.binary(max_size=24), st.just(frame_header(60, 40)[6:])),
        ),
        max_size=4,
    ),
    cut=st.integers(0, 60),
)
def test_both_readers_of_headers_agree(segments: list[tuple[int, bytes]], cut: int) -> None:
    data = b"\xff\xd8"
    for code, body in segments:
        data += bytes([0xFF, code]) + (len(body) + 2).to_bytes(2, "big") + body
    data = data[: len(data) - cut] if cut % 3 else data

    def told_by(module: ModuleType) -> object:
        try:
            return module.read_header(data)
        except ImageError as err:
            return str(err)

    assert told_by(compiled) == told_by(reference)


def test_a_picture_of_too_many_scans_is_refused(codec: ModuleType) -> None:
    if codec is reference:
        pytest.skip("OpenCV has no limit of scans")
    data = cv2.imencode(".jpg", SMALL, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    first = data.index(b"\xff\xda")
    following = data.index(b"\xff\xc4", first)  # the tables of the second scan
    bomb = data[:following] + data[first:following] * 600 + data[following:]
    with pytest.raises(ImageError, match=r"more than 500 scans"):
        codec.decode(bomb, strict=False)


def test_data_that_change_meanwhile_never_overrun_the_picture() -> None:
    if not compiled.available():
        pytest.skip("there is no libturbojpeg")
    data = bytearray(reference.encode(SMALL))
    size = data.index(b"\xff\xc0") + 5
    honest, lie = data[size : size + 4], bytes([1, 0, 1, 0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            data[size : size + 4] = lie
            data[size : size + 4] = honest

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            guarded = np.full((60, 30, 3), 7, np.uint8)
            with contextlib.suppress(ImageError):
                compiled.decode(data, guarded[20:40])
            assert (guarded[:20] == 7).all()
            assert (guarded[40:] == 7).all()
    finally:
        stop.set()
        writer.join(10)
