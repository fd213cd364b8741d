"""How pictures travel to a cloud: pieces, and the multipart of nodes of other makes."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.viewing.multipart import PartReader, boundary_of
from vdag.control.viewing.pieces import HEAD, MAX_NBYTES, Kind, Piece, PieceReader, write
from vdag.errors import FrameFormatError

SIDES = st.integers(1, 2880)
PIECES = st.builds(Piece, st.sampled_from(Kind), st.binary(max_size=200), SIDES, SIDES)
#: JPEG, as far as its ends are concerned; inside of one there are no delimiters.
JPEGS = st.binary(max_size=50).map(
    lambda data: b"\xff\xd8" + data.replace(b"-", b"+").replace(b"\xff", b"\xfe") + b"\xff\xd9"
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


@given(st.lists(PIECES, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_pieces_arrive_as_they_were_however_they_are_cut(pieces, places):
    data = b"".join(write(piece) for piece in pieces)
    reader = PieceReader()
    assert [piece for part in cut(data, places) for piece in reader.read(part)] == pieces


@given(st.binary(max_size=100))
def test_anything_is_pieces_or_an_error(data):
    try:
        for piece in PieceReader().read(data):
            assert len(piece.data) <= len(data)
    except FrameFormatError:
        pass


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ((b"XL", 1, 1, 8, 8, 1), r"piece begins with b'XL\x01', expected b'VL\x01'"),
        ((b"VL", 2, 1, 8, 8, 1), r"piece begins with b'VL\x02', expected b'VL\x01'"),
        ((b"VL", 1, 4, 8, 8, 1), "piece of kind 4 is none of 0 to 3"),
        (
            (b"VL", 1, 1, 8, 8, MAX_NBYTES + 1),
            f"piece of {MAX_NBYTES + 1} bytes exceeds limit {MAX_NBYTES}",
        ),
        ((b"VL", 1, 2, 0, 8, 1), "piece of 0 x 8 is outside 1..8294400 pixels"),
        ((b"VL", 1, 3, 3841, 2160, 1), "piece of 3841 x 2160 is outside 1..8294400 pixels"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused_before_anything_is_kept(head, text):
    with pytest.raises(FrameFormatError, match=f"^{re.escape(text)}$"):
        next(PieceReader().read(HEAD.pack(*head)))


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/x-mixed-replace; boundary=frame", "frame"),
        ('multipart/x-mixed-replace;boundary="--frame"', "--frame"),
        ("Multipart/X-Mixed-Replace; charset=x; Boundary=a_b", "a_b"),
        ("multipart/x-mixed-replace", ""),
        ("application/json; boundary=frame", ""),
    ],
)
def test_the_boundary_is_read_as_programs_write_it(content_type: str, expected: str):
    assert boundary_of(content_type) == expected


@given(
    st.lists(JPEGS, max_size=5),
    st.lists(st.integers(0, 10_000), max_size=8),
    st.booleans(),
    st.sampled_from([b"\r\n", b"\r\n\r\n"]),
)
def test_parts_are_found_however_they_are_cut(jpegs, places, has_length, end):
    data = b""
    for jpeg in jpegs:
        length = b"Content-Length: %d\r\n" % len(jpeg) if has_length else b""
        data += b"--frame\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n" + jpeg + end
    reader = PartReader("frame")
    found = [piece.data for part in cut(data, places) for piece in reader.read(part)]
    assert found == jpegs


def test_a_picture_is_there_before_the_next_one_begins():
    reader = PartReader("frame")
    head = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    assert [piece.data for piece in reader.read(head + b"\xff\xd8one\xff\xd9\r\n\r\n")] == [
        b"\xff\xd8one\xff\xd9"
    ]


def test_parts_without_an_end_are_refused():
    reader = PartReader("frame")
    with pytest.raises(FrameFormatError, match=r"^head of a part exceeds 4096 bytes$"):
        list(reader.read(b"--frame\r\n" + b"x" * 5000))
    reader = PartReader("frame")
    list(reader.read(b"--frame\r\nContent-Length: 999999999\r\n"))
    with pytest.raises(FrameFormatError, match=f"^picture exceeds {MAX_NBYTES} bytes$"):
        list(reader.read(b"\r\n"))
    reader = PartReader("frame")
    list(reader.read(b"--frame\r\n\r\n"))
    for _ in range(MAX_NBYTES >> 20):
        list(reader.read(b"x" * (1 << 20)))
    with pytest.raises(FrameFormatError, match=f"^picture exceeds {MAX_NBYTES} bytes$"):
        list(reader.read(b"x" * (1 << 20)))


def test_what_is_no_part_is_not_kept():
    reader = PartReader("frame")
    for _ in range(100):
        assert not list(reader.read(b"x" * (1 << 16)))
    assert len(reader._buffer) < 100
