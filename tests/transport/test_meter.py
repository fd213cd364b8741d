"""How much a link carries, by the rule alone: messages of a link that is a queue, and its clock."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.transport.meter import MAX_RATE, Meter

S, MS = 1_000_000_000, 1_000_000
EDGE = 7
MBIT = 125_000.0


class Link:
    """A link that is a queue of a rate, and then a way; the other host's clock is another one."""

    def __init__(self, rate: float, *, way_s: float = 0.005, skew_s: float = 0.0) -> None:
        self.meter = Meter()
        self.rate, self.way_ns, self.skew_ns = rate, int(way_s * S), int(skew_s * S)
        self.now_ns = 1000 * S
        self._free_ns = 0
        self._number = 0
        self.held_ns = 0

    def send(self, nbytes: int, edge: int = EDGE) -> tuple[int, int, int]:
        """Send now; return what the receipt will be about."""
        self._number += 1
        self.meter.sent(edge, self._number, nbytes, self.now_ns)
        self._free_ns = max(self._free_ns, self.now_ns) + int(nbytes / self.rate * S)
        return edge, self._number, self._free_ns + self.way_ns

    def hear(self, sent: tuple[int, int, int]) -> None:
        """Hear that it has come, when it has; the way back takes as long."""
        edge, number, came_ns = sent
        self.now_ns = max(self.now_ns, came_ns + self.held_ns + self.way_ns)
        self.meter.came(edge, number, came_ns + self.skew_ns, self.held_ns, self.now_ns)

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * S)

    def greet(self) -> None:
        self.hear(self.send(100))

    @property
    def measured(self) -> float:
        rate = self.meter.stats(self.now_ns).rate
        assert rate is not None
        return rate


def test_nothing_is_known_before_anything_was_sent():
    assert Meter().stats(S) == (None, None, 0)
    link = Link(10 * MBIT)
    link.greet()
    assert link.meter.stats(link.now_ns).rate is None


@pytest.mark.parametrize("skew_s", [0.0, -500.0, 1e6])
@pytest.mark.parametrize("mbit", [1, 10, 100, 1000])
def test_frames_one_at_a_time_tell_the_rate_whatever_the_way_and_the_clocks(mbit, skew_s):
    link = Link(mbit * MBIT, way_s=0.03, skew_s=skew_s)
    link.held_ns = 20 * MS  # what the other side does with a frame is not the link's
    link.greet()
    for _ in range(10):
        link.hear(link.send(100_000))
        link.wait(0.1)  # nothing is sent: an idle link is not a slow one
    assert link.measured == pytest.approx(mbit * MBIT, rel=0.01)
    assert link.meter.stats(link.now_ns).measured_ns > 0


def test_frames_one_behind_another_tell_the_rate():
    link = Link(10 * MBIT)
    link.greet()
    for _ in range(5):
        for sent in [link.send(50_000) for _ in range(6)]:
            link.hear(sent)
    assert link.measured == pytest.approx(10 * MBIT, rel=0.01)


def test_edges_that_share_a_link_have_its_rate_together():
    link = Link(10 * MBIT)
    link.greet()
    for _ in range(5):
        for sent in [link.send(50_000, edge) for edge in (1, 2, 3)]:
            link.hear(sent)
        link.wait(0.05)
    assert link.measured == pytest.approx(10 * MBIT, rel=0.01)


def test_one_receipt_may_tell_of_many_messages():
    link = Link(10 * MBIT)
    link.greet()
    link.hear([link.send(40_000) for _ in range(8)][-1])
    assert link.measured == pytest.approx(10 * MBIT, rel=0.01)


def test_small_messages_say_nothing_of_the_rate_and_all_of_the_round_trip():
    link = Link(10 * MBIT, way_s=0.02)
    for _ in range(20):
        link.greet()
        link.wait(1.0)
    stats = link.meter.stats(link.now_ns)
    assert stats.rate is None
    assert stats.round_trip_s == pytest.approx(0.04, rel=0.01)


@pytest.mark.parametrize(("before", "after"), [(100, 10), (10, 100), (100, 1), (1000, 100)])
def test_a_new_rate_is_known_within_two_seconds_while_frames_flow(before, after):
    link = Link(before * MBIT)
    link.greet()
    for _ in range(50):
        link.hear(link.send(100_000))
        link.wait(0.04)
    link.rate = after * MBIT
    changed_ns = link.now_ns
    while link.now_ns < changed_ns + 2.5 * S:
        link.hear(link.send(100_000))
        link.wait(0.04)
    assert link.measured == pytest.approx(after * MBIT, rel=0.05)


def test_a_frame_that_does_not_come_says_how_slow_the_link_is_at_best():
    link = Link(100 * MBIT)
    link.greet()
    link.hear(link.send(1_000_000))
    link.send(1_000_000)
    link.wait(0.2)
    assert link.measured == pytest.approx(100 * MBIT, rel=0.01)
    link.wait(1.8)
    assert link.measured == pytest.approx(500_000, rel=0.05)
    link.wait(2.0)
    assert link.measured == pytest.approx(250_000, rel=0.05)


def test_what_a_broken_link_has_lost_counts_as_if_it_had_come_at_last():
    link = Link(100 * MBIT)
    link.greet()
    link.hear(link.send(1_000_000))
    link.send(1_000_000)
    link.wait(4.0)
    link.meter.gone(EDGE, link.now_ns)
    assert link.measured <= 260_000
    # Behind the link may be another host by now, with another clock.
    link.skew_ns = 77 * S
    link._free_ns = 0
    link.greet()
    for _ in range(30):
        link.hear(link.send(200_000))
        link.wait(0.1)
    assert link.measured == pytest.approx(100 * MBIT, rel=0.01)


def test_a_message_that_was_away_for_long_does_not_count():
    link = Link(100 * MBIT)
    link.greet()
    link.hear(link.send(1_000_000))
    sent = link.send(200_000)
    link.wait(100.0)
    link.hear((sent[0], sent[1], link.now_ns))
    assert link.measured == pytest.approx(100 * MBIT, rel=0.01)


def test_a_longer_way_is_not_taken_for_a_slower_link_for_ever():
    link = Link(100 * MBIT, way_s=0.005)
    link.greet()
    for way_ns in (5 * MS, 105 * MS):
        link.way_ns = way_ns
        for _ in range(45):
            link.greet()
            link.hear(link.send(250_000))
            link.wait(1.0)
    assert link.measured == pytest.approx(100 * MBIT, rel=0.02)


def test_no_link_is_without_end_fast_and_receipts_of_nothing_are_passed_over():
    meter = Meter()
    meter.came(EDGE, 5, 10, 0, 20)
    meter.sent(EDGE, 1, 100, 0)
    meter.came(EDGE, 1, 50, 0, 100)
    meter.sent(EDGE, 2, 10_000_000, 200)
    meter.came(EDGE, 2, 250, 0, 300)
    meter.came(EDGE, 2, 250, 0, 400)
    assert meter.stats(500).rate == MAX_RATE
    meter.sent(EDGE, 3, 10_000_000, 600)
    meter.forget(EDGE)
    assert meter.stats(9 * S).rate == MAX_RATE


times = st.integers(-(2**63), 2**63)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["sent", "came", "gone", "forget"]),
            st.integers(0, 1 << 30),
            times,
            st.integers(0, 3 * S),
        ),
        max_size=40,
    )
)
def test_whatever_the_other_host_says_a_rate_is_a_rate(steps):
    meter, now_ns = Meter(), 0
    for number, (edge, what, nbytes, there_ns, passed_ns) in enumerate(steps, 1):
        now_ns += passed_ns
        if what == "sent":
            meter.sent(edge, number, nbytes, now_ns)
        elif what == "came":
            meter.came(edge, number, there_ns, there_ns, now_ns)
        else:
            getattr(meter, what)(*((edge, now_ns) if what == "gone" else (edge,)))
        rate, round_trip_s, measured_ns = meter.stats(now_ns)
        assert rate is None or 0.0 < rate <= MAX_RATE
        assert round_trip_s is None or round_trip_s >= 0.0
        assert 0 <= measured_ns <= now_ns


def test_threads_share_a_meter():
    meter = Meter()

    def use(edge: int) -> None:
        for number in range(1, 500):
            meter.sent(edge, number, 20_000, number * MS)
            meter.came(edge, number, number * MS + 500, 0, number * MS + 1000)
            meter.stats(number * MS)

    threads = [threading.Thread(target=use, args=(edge,)) for edge in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.stats(S).rate is not None
