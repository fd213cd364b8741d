"""What time it is at the controller, as a node may know it: within what its answers allow."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.agent.clock import WINDOW, WINDOW_NS, EpochClock
from vdag.transport.roundtrip import DRIFT

EPOCH_NS = 1_795_302_130_000_000_000
MS, S = 1_000_000, 1_000_000_000


@dataclass
class There:
    """The other clock: off by so much, and running so much faster."""

    offset_ns: int = EPOCH_NS
    rate: float = 0.0

    def at(self, real_ns: int) -> int:
        return real_ns + self.offset_ns + round(real_ns * self.rate)


def ask(
    clock: EpochClock, there: There, at_ns: int, out_ns: int, back_ns: int, held_ns: int = 0
) -> int:
    """Ask at a time; return when the answer is there."""
    heard_ns = at_ns + out_ns
    now_ns = heard_ns + held_ns + back_ns
    clock.observe(at_ns, there.at(heard_ns), there.at(heard_ns + held_ns), now_ns)
    return now_ns


def wrong_by(clock: EpochClock, there: There, now_ns: int) -> int:
    return abs(clock.there(now_ns, now_ns=now_ns) - there.at(now_ns))


def test_one_answer_tells_the_time_within_half_of_its_round_trip():
    clock, there = EpochClock(), There()
    assert not clock.is_known
    now_ns = ask(clock, there, 7 * S, 3 * MS, 1 * MS, held_ns=400 * MS)
    assert clock.is_known
    assert wrong_by(clock, there, now_ns) == 1 * MS
    assert 2 * MS <= clock.slack_ns(now_ns) < 2.1 * MS


def test_the_shortest_round_trip_counts_until_drift_makes_it_worse():
    clock, there = EpochClock(), There()
    ask(clock, there, 0, 10_000, 10_000)
    now_ns = ask(clock, there, S, 9 * MS, 1 * MS)
    assert wrong_by(clock, there, now_ns) == 0
    # After 55 s the first may be wrong by more than five ms, and this one by less.
    now_ns = ask(clock, there, 55 * S, 6 * MS, 4 * MS)
    assert wrong_by(clock, there, now_ns) == 1 * MS
    assert clock.resets == 0


def test_a_clock_that_was_set_is_followed_at_once():
    clock, there = EpochClock(), There()
    for second in range(5):
        ask(clock, there, second * S, 50_000, 50_000)
    there.offset_ns -= 3600 * S
    now_ns = ask(clock, there, 6 * S, 5 * MS, 3 * MS)
    assert clock.resets == 1
    assert wrong_by(clock, there, now_ns) == 1 * MS


@pytest.mark.parametrize(
    "answer",
    [
        (10, 20, 19, 30),  # answered before it was heard
        (10, 20, 50, 30),  # held for longer than the whole
        (30, 20, 21, 10),  # answered before it was asked
        (10, 1 << 63, 1 << 63, 30),
    ],
)
def test_an_answer_that_cannot_be_honest_is_passed_over(answer):
    clock = EpochClock()
    clock.observe(*answer)
    assert not clock.is_known


def test_another_clock_begins_anew():
    clock, there = EpochClock(), There()
    ask(clock, there, 0, 1, 1)
    clock.forget()
    assert not clock.is_known
    assert clock.resets == 0


TRIP = st.tuples(
    st.integers(0, 30 * S),  # since the one before
    st.integers(0, 500 * MS),
    st.integers(0, 500 * MS),
    st.integers(0, 1000 * MS),
)
RATE = st.floats(-0.9 * DRIFT, 0.9 * DRIFT)


@given(st.lists(TRIP, min_size=1, max_size=80), RATE, st.integers(0, 600 * S))
def test_it_is_never_wrong_by_more_than_it_says(trips, rate, later_ns):
    clock, there = EpochClock(), There(rate=rate)
    now_ns = 0
    for gap_ns, out_ns, back_ns, held_ns in trips:
        now_ns = ask(clock, there, now_ns + gap_ns, out_ns, back_ns, held_ns)
        assert wrong_by(clock, there, now_ns) <= clock.slack_ns(now_ns)
    assert clock.resets == 0
    now_ns += later_ns
    assert wrong_by(clock, there, now_ns) <= clock.slack_ns(now_ns)


#: More than any of these trips, old or new, allows.
FAR = st.integers(10 * S, 10_000 * S).flatmap(lambda far_ns: st.sampled_from([far_ns, -far_ns]))


@given(st.lists(st.tuples(st.lists(TRIP, min_size=1, max_size=8), FAR), max_size=6), RATE)
def test_nor_after_any_of_many_jumps(stretches, rate):
    clock, there = EpochClock(), There(rate=rate)
    now_ns = 0
    for count, (trips, jump_ns) in enumerate(stretches):
        for gap_ns, out_ns, back_ns, held_ns in trips:
            now_ns = ask(clock, there, now_ns + gap_ns, out_ns, back_ns, held_ns)
            assert wrong_by(clock, there, now_ns) <= clock.slack_ns(now_ns)
        assert clock.resets <= count
        there.offset_ns += jump_ns


@given(st.lists(TRIP, max_size=20), st.integers(-2 * S, 2 * S), RATE)
def test_a_jump_that_nobody_could_notice_is_over_after_a_window(trips, jump_ns, rate):
    clock, there = EpochClock(), There(rate=rate)
    now_ns = 0
    for gap_ns, out_ns, back_ns, held_ns in trips:
        now_ns = ask(clock, there, now_ns + gap_ns, out_ns, back_ns, held_ns)
    there.offset_ns += jump_ns
    for _ in range(WINDOW):
        now_ns = ask(clock, there, now_ns + WINDOW_NS // WINDOW, 5 * MS, MS)
    assert wrong_by(clock, there, now_ns) <= clock.slack_ns(now_ns)
