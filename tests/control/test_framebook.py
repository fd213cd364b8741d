"""Frames that have left their jobs, as they travel: exactly what was measured, in columns."""

from __future__ import annotations

import math
import select

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control import wire
from vdag.control.agent import framebook
from vdag.control.agent.framebook import FrameBook, frames_of
from vdag.control.wire_log import (
    MAX_FRAMES,
    frame_count,
    frame_nbytes,
    read_columns,
    write_columns,
)
from vdag.errors import FrameFormatError
from vdag.frame import Frame
from vdag.graph import Edge, Graph
from vdag.results import Result, TaskParts

RUN = "0123456789abcdef"
UID = "GLOBAL_ID_1"
IMAGE = (Edge("image", "SingleFrameGenerator", "image"),)
BOXES = (Edge("bbox", "car_detection", "bbox"),)
CHAIN = Graph(
    "SingleFrameGenerator",
    ("car_detection", "helmet_detection"),
    {"car_detection": IMAGE, "helmet_detection": BOXES},
)
SIDE_BY_SIDE = Graph("SingleFrameGenerator", ("faces", "cars"), {"faces": IMAGE, "cars": IMAGE})
PARTS = {
    "car_detection": TaskParts(0.25, 0.125, 0.5, 7, 40_000),
    "helmet_detection": TaskParts(0.0625, 0.0, 0.25, 8),
}
PIXELS = np.zeros((2, 2, 3), np.uint8)


def frame(seq: int, captured_ns: int = 1000) -> Frame:
    return Frame(PIXELS, seq=seq, capture_ns=captured_ns)


def result(seq: int, captured_ns: int = 1000, *, plan: int = 1, parts=PARTS) -> Result:
    found = Result("cam", seq, seq, None, 2, 2, {}, 1.5, plan=plan, parts=parts)
    found.frame = frame(seq, captured_ns)
    return found


@pytest.fixture
def book():
    book = FrameBook(RUN)
    yield book
    book.close()


def travelling(book: FrameBook, offset_ns: int = 0) -> list[wire.Frames]:
    return list(frames_of(book.take(), book.run, lambda here_ns: here_ns + offset_ns))


def test_frames_of_a_plan_travel_together_with_where_its_tasks_were(book):
    track = book.open(UID, CHAIN)
    track.follow(1, {})
    track.follow(2, {"helmet_detection": "tcp://10.0.0.1:5020"})
    for seq, plan in enumerate((1, 2, 1, 2)):
        track.deliver(result(seq, 1000 * seq, plan=plan))
    first, second = travelling(book, 5)
    assert (first.job_uid, first.run, first.routes) == (UID, RUN, {})
    assert second.routes == {"helmet_detection": "tcp://10.0.0.1:5020"}
    assert first.branches == [["car_detection", "helmet_detection"]]
    columns = read_columns(second)
    assert columns.sequences.tolist() == [1, 3]
    assert columns.captured_ns.tolist() == [1005, 3005]
    assert columns.wholes_s.tolist() == [1.5, 1.5]
    assert columns.lengths_s.tolist() == [[0.25, 0.125, 0.5, 0.0625, 0.0, 0.25]] * 2
    assert columns.sizes.tolist() == [[40_000, 0]] * 2
    assert travelling(book) == []


def test_a_frame_that_was_lost_has_what_came_home_of_it(book):
    track = book.open(UID, SIDE_BY_SIDE)
    track.lose(frame(7), 3, {"cars": TaskParts(0.25, 0.5, 1.0)})
    (found,) = travelling(book)
    assert found.branches == [["faces"], ["cars"]]
    columns = read_columns(found)
    assert math.isnan(columns.wholes_s[0])
    assert [math.isnan(each) for each in columns.lengths_s[0]] == [True] * 3 + [False] * 3


def test_what_nobody_takes_is_bounded_and_counted():
    book = FrameBook(RUN, limit=10)
    track = book.open(UID, CHAIN)
    for seq in range(25):
        track.deliver(result(seq))
    assert book.lost == 15
    (found,) = travelling(book)
    assert read_columns(found).sequences.tolist() == list(range(15, 25))
    book.close()


def test_many_frames_are_several_pieces(book):
    track = book.open(UID, CHAIN)
    for seq in range(1000):
        track.deliver(result(seq))
    pieces = travelling(book)
    assert sum(map(frame_count, pieces)) == 1000
    most = framebook.MAX_COLUMNS_NBYTES
    assert all(len(piece.columns) <= most for piece in pieces)
    assert [seq for piece in pieces for seq in read_columns(piece).sequences] == list(range(1000))


def test_the_end_of_a_job_rings(book):
    track = book.open(UID, CHAIN)
    track.deliver(result(0))
    assert select.select([book.bell.fileno()], [], [], 0)[0] == []
    track.end()
    assert select.select([book.bell.fileno()], [], [], 0)[0] == [book.bell.fileno()]


LENGTH = st.one_of(st.floats(0, 1e5, width=32), st.just(math.nan))
ROW = st.tuples(
    st.integers(0, (1 << 31) - 1),
    st.integers(0, (1 << 63) - 1),
    LENGTH,
    st.lists(LENGTH, min_size=6, max_size=6),
    st.lists(st.integers(0, (1 << 33)), min_size=2, max_size=2),
)


@given(st.lists(ROW, min_size=1, max_size=20))
def test_columns_come_back_as_they_were(rows):
    columns = write_columns(*zip(*rows, strict=True))
    frames = wire.Frames(UID, RUN, [["a", "b"]], {}, columns)
    assert len(columns) == len(rows) * frame_nbytes(frames.branches)
    found = read_columns(frames)
    assert frame_count(frames) == len(rows)
    for (sequence, captured_ns, whole_s, lengths_s, sizes), *read in zip(rows, *found, strict=True):
        assert (read[0], read[1]) == (sequence, captured_ns)
        np.testing.assert_array_equal(read[2], np.float32(whole_s))
        np.testing.assert_array_equal(read[3], np.float32(lengths_s))
        assert read[4].tolist() == [min(size, (1 << 32) - 1) for size in sizes]


GOOD = write_columns([1], [1], [1.0], [[0.0] * 3], [[0]])


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (b"", r"columns of 0 bytes are not those of frames of 1 tasks"),
        (GOOD[:-1], r"columns of 31 bytes are not those of frames of 1 tasks"),
        (GOOD * (MAX_FRAMES + 1), r"columns of 131104 bytes are not those of frames of 1 tasks"),
        (write_columns([-1], [1], [1.0], [[0.0] * 3], [[0]]), r"columns have a number below 0"),
        (write_columns([1], [-1], [1.0], [[0.0] * 3], [[0]]), r"columns have a number below 0"),
        (
            write_columns([1], [1], [2e6], [[0.0] * 3], [[0]]),
            r"columns have a length beyond 1e\+06 s",
        ),
        (
            write_columns([1], [1], [1.0], [[0.0, math.inf, 0.0]], [[0]]),
            r"columns have a length beyond 1e\+06 s",
        ),
    ],
)  # fmt: skip
def test_columns_that_make_no_sense_are_refused(columns, reason):
    with pytest.raises(FrameFormatError, match=f"^{reason}$"):
        read_columns(wire.Frames(UID, RUN, [["a"]], {}, columns))
