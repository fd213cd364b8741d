"""What the ends of a link tell each other, and what their round trips teach."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag._native import header as native_header
from vdag.errors import ConfigError, FrameFormatError
from vdag.transport import link
from vdag.transport.codec import Descriptor, Hop, decode, decode_head, encode
from vdag.transport.roundtrip import RemoteClock, Window

Header = native_header.Header
MS = 1_000_000
U64 = st.integers(1, 2**64 - 1)
CLOCK = st.integers(0, 2**63 - 1)


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    bounds = sorted(draw(st.sets(st.integers(1, 2**63), max_size=20)))
    return list(zip(bounds[::2], bounds[1::2], strict=False))


messages = st.one_of(
    st.builds(link.Hello, U64, U64, st.text(min_size=1, max_size=99), CLOCK),
    st.builds(link.Notice, U64, U64, st.binary(max_size=200)),
    st.builds(link.Probe, U64, U64, st.binary(max_size=200)),
    st.builds(link.Receipt, U64, ranges(), CLOCK, CLOCK, CLOCK, CLOCK),
    st.builds(link.KeyFrameWanted, U64, st.text(max_size=99), st.integers(0, 2**64 - 1)),
)


@given(messages)
def test_what_is_written_is_read(message: link.LinkMessage):
    part = link.encode(message)
    assert link.is_link_message(part)
    assert link.decode(part) == message


@given(messages, st.data())
def test_a_damaged_message_is_refused_or_another_message(message: link.LinkMessage, data):
    part = bytearray(link.encode(message))
    at = data.draw(st.integers(0, len(part) - 1))
    part[at] = data.draw(st.integers(0, 255))
    del part[data.draw(st.integers(0, len(part))) :]
    try:
        assert isinstance(link.decode(bytes(part)), link.LinkMessage)
    except FrameFormatError:
        return


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (b"VDAG", r"^magic b'VDAG' is not b'VLNK'$"),
        (b"VLNK", r"^message is malformed: Input data was truncated$"),
        (b"VLNK" + bytes(67_000), r"^message of 67004 bytes exceeds limit 66560$"),
        (link.encode(link.Receipt(1, [(3, 4), (4, 5)], 0, 0, 0)), r"^range 4\.\.5 of a receipt "),
        (link.encode(link.Receipt(1, [(1, 1)] * 65, 0, 0, 0)), r"^message is malformed: .*<= 64"),
        (link.encode(link.Hello(0, 1, "x", 0)), r"^message is malformed: Expected `int` >= 1"),
        (link.encode(link.Notice(1, 1, bytes(65_537))), r"^message is malformed: .*<= 65536"),
    ],
)
def test_what_is_no_message_is_refused(part: bytes, error: str):
    with pytest.raises(FrameFormatError, match=error):
        link.decode(part)


@given(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1), st.integers(0, 2**40))
def test_a_stamp_is_read_from_where_it_was_put(edge: int, number: int, picture: int):
    header = Header(kind=native_header.KIND_H264, payload_nbytes=3, seq=5)
    stamp = link.Stamp(edge, number, picture, picture % 1000)
    found = link.stamp_of(link.stamped(header, stamp))
    assert found == stamp._replace(picture=picture % 2**32)


def test_a_frame_that_no_edge_sent_has_no_stamp():
    for header in (Header(), Header(arena=1), Header(generation=1)):
        with pytest.raises(FrameFormatError, match=r"^frame of kind none has no stamp of an edge$"):
            link.stamp_of(header)


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 4097])
def test_another_header_and_payload_leave_route_and_context_as_they_are(nbytes: int):
    route = (Hop("face_detection", "tcp://127.0.0.1:7000"),)
    descriptor = Descriptor(Header(seq=3), "job", "cam", route, {"face_detection": {"n": 2}})
    (first,) = encode(descriptor)
    payload = bytes(range(256)) * 17
    header = decode_head([first]).header.replace(
        kind=native_header.KIND_JPEG, payload_nbytes=nbytes, hop=1
    )
    parts = link.repack(first, header, payload[:nbytes])
    found = decode(parts)
    assert len(parts) == (2 if nbytes > 4096 else 1)
    assert (found.job, found.route, found.context) == ("job", route, descriptor.context)
    assert (found.header, bytes(found.payload or b"")) == (header, payload[:nbytes])


@given(st.lists(st.integers(1, 150), max_size=200))
def test_numbers_are_kept_as_ranges(numbers: list[int]):
    kept, seen = link.Numbers(), set()
    for number in numbers:
        assert kept.add(number) is (number not in seen)
        seen.add(number)
    found = kept.ranges()
    assert {n for first, last in found for n in range(first, last + 1)} == seen
    assert all(later[0] > first[1] + 1 for first, later in pairwise(found))
    assert kept.last == max(seen, default=0)


def test_only_the_latest_ranges_are_kept():
    kept = link.Numbers()
    assert all(kept.add(number) for number in range(2, 402, 2))
    assert kept.ranges() == [(n, n) for n in range(402 - 2 * link.MAX_RANGES, 402, 2)]
    assert not kept.add(3)


# Round trips


def test_a_window_grows_while_frames_do_not_wait_on_the_link():
    window = Window(4, 0.1)
    sizes = []
    for _ in range(5):
        window.confirm(20 * MS, alone=window.size == 1, was_full=True)
        sizes.append(window.size)
    assert sizes == [2, 3, 4, 4, 4]


def test_a_window_that_is_not_used_up_does_not_grow():
    window = Window(4, 0.1)
    window.confirm(20 * MS, alone=True, was_full=False)
    assert window.size == 1


def test_a_window_shrinks_when_frames_wait_and_never_below_one():
    window = Window(4, 0.1)
    for _ in range(3):
        window.confirm(20 * MS, alone=False, was_full=True)
    sizes = []
    for _ in range(4):
        window.confirm(121 * MS, alone=False, was_full=True)
        sizes.append(window.size)
    assert sizes == [3, 2, 1, 1]


def test_a_link_that_has_become_longer_is_learnt_from_a_frame_that_travels_alone():
    window = Window(4, 0.1)
    window.confirm(20 * MS, alone=True, was_full=True)
    window.confirm(300 * MS, alone=False, was_full=True)
    assert window.size == 1
    window.confirm(300 * MS, alone=True, was_full=True)
    assert window.size == 2


def test_a_loss_starts_with_one_frame_again():
    window = Window(4, 0.1)
    for _ in range(3):
        window.confirm(20 * MS, alone=False, was_full=True)
    window.lose()
    assert window.size == 1


def test_a_window_without_a_limit_of_delay_is_always_the_largest():
    window = Window(4, None)
    window.confirm(9_000 * MS, alone=False, was_full=True)
    window.lose()
    assert window.size == 4


@given(st.lists(st.tuples(st.integers(0, 10**12), st.booleans(), st.booleans())))
def test_a_window_stays_within_its_bounds(trips: list[tuple[int, bool, bool]]):
    window = Window(5, 0.1)
    for round_trip_ns, alone, was_full in trips:
        window.confirm(round_trip_ns, alone=alone, was_full=was_full)
        assert 1 <= window.size <= 5


def test_a_window_of_no_time_is_refused():
    with pytest.raises(ConfigError, match=r"^spare_s of 61\.0 is not in 0\.\.60$"):
        Window(4, 61.0)


@given(
    st.integers(-(2**60), 2**60),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
def test_a_clock_is_known_within_the_round_trip(offset, there, wait, back):
    clock, asked = RemoteClock(), 2**61
    now = asked + there + wait + back
    clock.observe(asked, asked + there + offset, now - back + offset, now)
    assert clock.is_known
    assert abs(clock.there(now) - (now + offset)) <= there + back + 1


def test_one_clock_is_taken_for_one():
    clock = RemoteClock()
    clock.observe(1000 * MS, 1030 * MS, 1031 * MS, 1041 * MS)
    assert clock.there(5) == 5


def test_the_shortest_round_trip_counts_until_drift_may_have_made_it_worse():
    clock = RemoteClock()
    far = 10**15
    clock.observe(0, far + 5 * MS, far + 5 * MS, 10 * MS)
    clock.observe(100 * MS, far + 300 * MS, far + 300 * MS, 310 * MS)  # queued on the way there
    assert clock.offset_ns == far
    much_later = 1_000_000 * MS
    clock.observe(
        much_later, far + much_later + 15 * MS, far + much_later + 15 * MS, much_later + 20 * MS
    )
    assert clock.offset_ns == far + 5 * MS


@pytest.mark.parametrize(
    ("asked", "heard", "answered", "now"),
    [(11, 5, 5, 10), (0, 5, 50, 10), (0, 2**62 + 5, 2**62 + 5, 10)],
)
def test_answers_that_cannot_be_true_are_ignored(asked, heard, answered, now):
    clock = RemoteClock()
    clock.observe(asked, heard, answered, now)
    assert not clock.is_known
