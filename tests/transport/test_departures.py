"""The books of an edge: every frame is in one column, whatever happens."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vdag._native import header as native_header
from vdag.errors import ConfigError
from vdag.transport.codec import Head, Hop
from vdag.transport.departures import Departures, Drop, Parcel

SECOND = 1_000_000_000
ROUTE = (Hop("face_detection", "tcp://127.0.0.1:1"), Hop("home", "tcp://127.0.0.1:2"))
PIXELS = np.zeros(4, np.uint8)


def parcel(seq: int, stream: int = 1, hop: int = 0, *, is_result: bool = False) -> Parcel:
    kind = native_header.KIND_NONE if is_result else native_header.KIND_SLOT
    fields = {} if is_result else {"dtype": 1, "shape": (4,), "payload_nbytes": 4}
    header = native_header.Header(kind=kind, seq=seq, stream=stream, hop=hop, **fields)
    return Parcel(Head(header, "job", "cam", ROUTE), b"", None if is_result else PIXELS)


def dropped(drops: list[Drop] | None) -> list[tuple[int, str]]:
    return [(drop.head.header.seq, drop.reason) for drop in drops or ()]


def travel(departures: Departures, number: int, now_ns: int = 0, window: int = 4) -> None:
    assert departures.take() is not None
    departures.sent(number, now_ns, window)


def test_a_newer_frame_takes_the_place_of_the_one_that_waits():
    departures = Departures("latest", 4, 5.0)
    assert departures.offer(parcel(0, stream=1)) == []
    assert departures.offer(parcel(0, stream=2)) == []
    assert dropped(departures.offer(parcel(1, stream=1))) == [(0, "superseded")]
    first, second = departures.take(), departures.fail("encoder")
    assert first is not None
    assert (first.head.header.seq, first.head.header.stream) == (1, 1)
    assert second.reason == "encoder"


def test_the_frame_that_is_being_encoded_is_not_superseded():
    departures = Departures("latest", 4, 5.0)
    departures.offer(parcel(0))
    assert departures.take() is not None
    assert departures.offer(parcel(1)) == []
    assert departures.waiting == 2


@pytest.mark.parametrize("streams", [5, 12, 40])
def test_of_more_streams_than_there_is_room_for_each_gets_its_turns(streams):
    departures, turns, rounds, number = Departures("latest", 4, 5.0), Counter(), 400, 0
    for seq in range(rounds):
        for stream in range(streams):  # cameras in phase: always in this order
            departures.offer(parcel(seq, stream))
        for _ in range(3):  # fewer than wait
            taken = departures.take()
            assert taken is not None
            turns[taken.head.header.stream] += 1
            number += 1
            departures.sent(number, seq, 4)
    fair = rounds * 3 / streams
    assert len(turns) == streams
    assert fair * 0.8 <= min(turns.values()) <= max(turns.values()) <= fair * 1.2 + 2


def test_a_receipt_of_a_later_number_says_that_the_earlier_ones_are_lost():
    departures = Departures("block", 4, 5.0)
    for seq in range(4):
        departures.offer(parcel(seq))
        travel(departures, 10 + seq, now_ns=seq)
    receipts = departures.confirm([(1, 5), (11, 12)])
    assert [trip.head.header.seq for trip in receipts.arrived] == [1, 2]
    assert dropped(receipts.lost) == [(0, "link")]
    assert departures.travelling == 1


def test_a_trip_knows_whether_it_was_alone_and_whether_the_window_was_full():
    departures = Departures("block", 4, 5.0)
    for seq in range(3):
        departures.offer(parcel(seq))
        travel(departures, seq + 1, window=2)
    trips = departures.confirm([(1, 3)]).arrived
    assert [(trip.alone, trip.was_full) for trip in trips] == [
        (True, False),
        (False, True),
        (False, True),
    ]


def test_without_a_receipt_a_frame_is_given_up_in_time_and_may_come_late():
    departures = Departures("block", 4, 5.0)
    departures.offer(parcel(0))
    travel(departures, 1, now_ns=7)
    assert departures.due_ns() == 5 * SECOND + 7
    assert departures.expire(5 * SECOND + 6) == []
    assert dropped(departures.expire(5 * SECOND + 7)) == [(0, "link")]
    assert departures.due_ns() is None
    assert departures.confirm([(1, 1)]) == ([], [])
    stats = departures.stats()
    assert (stats.late, stats.arrived, stats.dropped, stats.balance) == (1, 0, {"link": 1}, 0)
    departures.confirm([(1, 1)])
    assert departures.stats().late == 1


def test_an_empty_receipt_says_nothing():
    departures = Departures("block", 4, 5.0)
    departures.offer(parcel(0))
    travel(departures, 1)
    assert departures.confirm([]) == ([], [])
    assert departures.travelling == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("fifo", 4, 5.0), "policy 'fifo' is none of latest, block"),
        (("latest", 0, 5.0), "depth of 0 is not between 1 and 16"),
        (("latest", 4, 3601.0), "confirm_timeout_s of 3601.0 is not in 0..3600"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, error):
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        Departures(*arguments)


class Books(RuleBasedStateMachine):
    """Frames are offered, sent, confirmed and lost in any order."""

    @initialize(policy=st.sampled_from(["latest", "block"]), depth=st.integers(1, 4))
    def start(self, policy, depth) -> None:
        self.depth, self.policy = depth, policy
        self.departures = Departures(policy, depth, 1.0)
        self.number = self.now_ns = self.accepted = 0
        self.ends: Counter[int] = Counter()  # how often each frame was said to have ended
        self.travels: dict[int, int] = {}
        self.loading: int | None = None

    def end(self, drops: list[Drop]) -> None:
        self.ends.update(drop.head.header.seq for drop in drops)

    @rule(stream=st.integers(1, 3), hop=st.integers(0, 1), is_result=st.booleans())
    def offer(self, stream, hop, is_result) -> None:
        drops = self.departures.offer(parcel(self.accepted, stream, hop, is_result=is_result))
        if drops is None:
            assert self.policy == "block"
            return
        self.accepted += 1
        self.end(drops)

    @precondition(lambda self: self.loading is None)
    @rule()
    def take(self) -> None:
        taken = self.departures.take()
        self.loading = None if taken is None else taken.head.header.seq

    @precondition(lambda self: self.loading is not None)
    @rule(is_good=st.booleans())
    def leave(self, is_good) -> None:
        assert self.loading is not None
        if is_good:
            self.number += 1
            self.departures.sent(self.number, self.now_ns, 4)
            self.travels[self.number] = self.loading
        else:
            self.end([self.departures.fail("encoder")])
        self.loading = None

    @rule(data=st.data())
    def confirm(self, data) -> None:
        numbers = range(1, self.number + 1)
        came = sorted(data.draw(st.sets(st.sampled_from(numbers))) if numbers else [])
        receipts = self.departures.confirm([(number, number) for number in came])
        self.end(receipts.lost)
        for trip in receipts.arrived:
            self.ends[trip.head.header.seq] += 1
            assert any(self.travels[number] == trip.head.header.seq for number in came)

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds) -> None:
        self.now_ns += int(seconds * SECOND)
        self.end(self.departures.expire(self.now_ns))

    @invariant()
    def every_frame_is_in_one_column(self) -> None:
        stats = self.departures.stats()
        assert (stats.balance, stats.accepted) == (0, self.accepted)
        assert set(self.ends.values()) <= {1}
        assert stats.arrived + sum(stats.dropped.values()) == sum(self.ends.values())
        assert stats.waiting <= self.depth + 1

    def teardown(self) -> None:
        self.end(self.departures.close())
        assert self.ends.keys() == set(range(self.accepted))
        assert self.departures.stats().balance == 0


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
