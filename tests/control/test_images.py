from __future__ import annotations

import base64
import json
import re
import tracemalloc
from contextlib import suppress

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag import _native as native
from vdag.control.service import images
from vdag.control.service.images import Bounds
from vdag.errors import ImageError, VdagError

BOUNDS = Bounds(max_pixels=64 * 64, max_pictures=4, max_nbytes=1 << 16)
PICTURE = np.random.default_rng(7).integers(0, 256, (5, 7, 3), np.uint8)
GRAY = np.ascontiguousarray(PICTURE[..., 0])
JPEG = bytes(native.jpeg.encode(PICTURE, quality=95))
PNG = cv2.imencode(".png", PICTURE)[1].tobytes()


def pixels(picture):
    out = np.empty((picture.height, picture.width, 3), np.uint8)
    picture.write(out)
    return out


def look(read, value, bounds):
    """Read and decode."""
    found = read(value, bounds)
    for picture in found if isinstance(found, list) else [found]:
        pixels(picture)


def text(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "form",
    [
        native.literal.encode(JPEG),
        base64.b64encode(JPEG).decode(),
        f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}",
    ],
    ids=["literal", "base64", "url"],
)
def test_a_jpeg_is_read_from_each_text_form(form):
    expected = native.jpeg.decode(JPEG)
    assert np.array_equal(pixels(images.from_text(form, BOUNDS)), expected)
    assert np.array_equal(pixels(images.from_json(text(form), BOUNDS)), expected)
    assert np.array_equal(
        pixels(images.from_msgpack(msgspec.msgpack.encode(form), BOUNDS)), expected
    )


def test_a_png_is_read_as_it_is():
    picture = images.encoded(PNG, BOUNDS)
    assert (picture.width, picture.height) == (7, 5)
    assert np.array_equal(pixels(picture), PICTURE)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n ", ":")])
def test_nested_lists_are_read_whatever_their_blanks(separators):
    value = json.dumps(PICTURE.tolist(), separators=separators).encode()
    assert np.array_equal(pixels(images.from_json(value, BOUNDS)), PICTURE)


def test_lists_of_two_levels_are_a_gray_picture():
    found = pixels(images.from_json(text(GRAY.tolist()), BOUNDS))
    assert np.array_equal(found, np.repeat(GRAY[..., None], 3, axis=2))


def test_lists_longer_than_a_block_are_read(monkeypatch):
    monkeypatch.setattr("vdag.control.service.json_lists.BLOCK_NBYTES", 16)
    assert np.array_equal(pixels(images.from_json(text(PICTURE.tolist()), BOUNDS)), PICTURE)


def test_messagepack_carries_the_file_or_the_pixels():
    for value in (JPEG, {"shape": [5, 7, 3], "data": PICTURE.tobytes()}):
        picture = images.from_msgpack(msgspec.msgpack.encode(value), BOUNDS)
        assert (picture.width, picture.height) == (7, 5)
    assert np.array_equal(pixels(picture), PICTURE)


def test_a_list_of_pictures_keeps_its_order():
    forms = [native.literal.encode(JPEG), base64.b64encode(PNG).decode()]
    found = images.list_from_json(text(forms), BOUNDS)
    assert np.array_equal(pixels(found[1]), PICTURE)
    found = images.list_from_json(text([GRAY.tolist(), PICTURE.tolist()]), BOUNDS)
    assert np.array_equal(pixels(found[1]), PICTURE)
    found = images.list_from_msgpack(msgspec.msgpack.encode([JPEG, PNG]), BOUNDS)
    assert np.array_equal(pixels(found[1]), PICTURE)
    assert images.list_from_json(b"[ ]", BOUNDS) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"3", "picture is neither a string nor nested lists"),
        (b"[]", "picture is an empty list"),
        (b"[[]]", "picture of 0 x 1 pixels is not within 1 to 16384"),
        (b"[1, 2]", "picture is not made of lists alone"),
        (b"[[1], 2]", "picture is not made of lists alone"),
        (b"[[1, 2], [3]]", "row 1 of the picture has 1 pixels, row 0 2"),
        (b"[[256]]", "row 0 of the picture: [0]: expected int <= 255"),
        (b"[[-1]]", "row 0 of the picture: [0]: expected int >= 0"),
        (b"[[1.5]]", "row 0 of the picture: [0]: expected int, got float"),
        (b"[[true]]", "row 0 of the picture: [0]: expected int, got bool"),
        (b"[[[1, 2]]]", "row 0 of the picture: [0]: expected array of length 3"),
        (b'[["]"]]', "picture is not made of lists alone"),
        (text([[0] * 100] * 100), "picture of 100 x 100 pixels exceeds max_pixels 4096"),
        (b'"data:text/html,x"', "picture is a data URL, but not data:image/...;base64,"),
        (text("A" * 90_000), "picture of 90000 characters exceeds limit 65536"),
        (text(base64.b64encode(b"GIF89a").decode()), "picture is neither JPEG nor PNG: "
         "it begins with b'GIF89a'"),
        (text("b'abc'"), "picture is neither JPEG nor PNG: it begins with b'abc'"),
        (text("b'\\\\x4'"), r"character 2: \x and not two hex digits"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(value, message):
    if "hex" in message:
        with pytest.raises(ImageError):
            images.from_json(value, BOUNDS)
        return
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        pixels(images.from_json(value, BOUNDS))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b'"x"', "pictures are not in a list"),
        (text([native.literal.encode(JPEG), 3]), "list has an item that is no string"),
        (text([[[1]]] * 5), "list has more than 4 pictures"),
        (text([native.literal.encode(JPEG)] * 5), "list has more than 4 pictures"),
    ],
)
def test_what_is_no_list_of_pictures_is_refused(value, message):
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        images.list_from_json(value, BOUNDS)


def test_a_list_of_messagepack_that_lies_about_its_length_costs_nothing():
    with pytest.raises(ImageError, match=r"^list of 4294967295 pictures exceeds limit 4$"):
        images.list_from_msgpack(b"\xdd\xff\xff\xff\xff", BOUNDS)


def test_shape_and_data_must_agree():
    value = msgspec.msgpack.encode({"shape": [5, 7, 3], "data": b"123"})
    with pytest.raises(ImageError, match=r"^picture of shape \[5, 7, 3\] has 3 bytes$"):
        images.from_msgpack(value, BOUNDS)


def test_a_jpeg_cut_short_is_refused_when_it_is_decoded():
    picture = images.encoded(JPEG[: len(JPEG) // 2], BOUNDS)
    with pytest.raises(ImageError):
        pixels(picture)


def test_a_png_that_is_broken_is_refused_when_it_is_decoded():
    picture = images.encoded(PNG[:40], BOUNDS)
    with pytest.raises(ImageError, match=r"^picture is a PNG of 40 bytes with a chunk up to \d+$"):
        pixels(picture)
    picture = images.encoded(PNG.replace(b"IDAT", b"IDAX"), BOUNDS)
    with pytest.raises(ImageError, match=r"^picture is no PNG that OpenCV can decode$"):
        pixels(picture)
    with pytest.raises(ImageError, match=r"^picture is a PNG without a header$"):
        images.encoded(PNG[:20], BOUNDS)


@pytest.mark.parametrize("length", [b"\x00\x01\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"])
def test_a_png_is_refused_before_memory_is_taken_that_a_chunk_announces(length):
    place = PNG.index(b"IDAT") - 4
    picture = images.encoded(PNG[:place] + length + PNG[place + 4 :], BOUNDS)
    end = place + 12 + int.from_bytes(length, "big")
    message = rf"^picture is a PNG of {len(PNG)} bytes with a chunk up to {end}$"
    with pytest.raises(ImageError, match=message):
        pixels(picture)


def test_a_png_of_countless_chunks_is_refused():
    place = PNG.index(b"IDAT") - 4
    many = PNG[:place] + b"\0\0\0\0teST\0\0\0\0" * 16_384 + PNG[place:]
    picture = images.encoded(many, Bounds())
    with pytest.raises(ImageError, match=r"^picture is a PNG with more than 16384 chunks$"):
        pixels(picture)


def test_a_picture_larger_than_allowed_is_refused_by_its_header():
    large = bytes(native.jpeg.encode(np.zeros((65, 64, 3), np.uint8)))
    with pytest.raises(ImageError, match="exceeds max_pixels 4096"):
        images.encoded(large, BOUNDS)
    with pytest.raises(ImageError, match=r"^picture of 70000 bytes exceeds limit 65536$"):
        images.encoded(bytes(70_000), BOUNDS)


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b"[]," * 300_000 + b"[]]",
        b"[" * 900_000 + b"]" * 900_000,
        b"[[" + b"[0,0,0]," * 100_000 + b"[0,0,0]]]",
        b"[" + b'"",' * 300_000 + b'""]',
        b"[[" + b"0," * 400_000 + b"0]]",
    ],
    ids=["rows", "depth", "row", "strings", "numbers"],
)
def test_hostile_lists_cost_no_more_than_a_small_multiple_of_their_length(value):
    bounds = Bounds()
    tracemalloc.start()
    try:
        for read in (images.from_json, images.list_from_json):
            with pytest.raises(ImageError):
                look(read, value, bounds)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * len(value)


@given(st.binary(max_size=400))
def test_whatever_bytes_come_the_answer_is_a_picture_or_an_error(data):
    for read in (images.encoded, images.from_msgpack, images.list_from_msgpack):
        with suppress(VdagError):
            look(read, data, BOUNDS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
)


@given(JSON)
def test_whatever_json_comes_the_answer_is_a_picture_or_an_error(value):
    encoded = msgspec.json.encode(value)
    for read in (images.from_json, images.list_from_json):
        with suppress(VdagError):
            look(read, encoded, BOUNDS)


@given(st.lists(st.text(), max_size=4))
def test_strings_are_split_as_a_parser_would(texts):
    from vdag.control.service.json_lists import split_strings

    value = memoryview(json.dumps(texts, separators=(" , ", ":")).encode())
    assert [json.loads(bytes(item)) for item in split_strings(value)] == texts
