from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vdag.sources.pacing import MAX_LAG_NS, Pacer

MS = 1_000_000


def test_the_first_frame_is_due_at_once_and_the_others_by_their_times() -> None:
    pacer = Pacer()
    assert pacer.due_ns(2.0, 100) == 100
    assert pacer.due_ns(2.04, 150) == 100 + 40 * MS
    assert pacer.due_ns(3.0, 160) == 100 + 1000 * MS


def test_waits_that_end_late_do_not_add_up() -> None:
    pacer = Pacer()
    now_ns = 0
    for number in range(1000):
        due_ns = pacer.due_ns(number / 25, now_ns)
        assert due_ns == number * 40 * MS
        now_ns = due_ns + 5 * MS


def test_a_consumer_half_a_second_late_catches_up_and_one_later_does_not() -> None:
    pacer = Pacer()
    pacer.due_ns(0.0, 0)
    assert pacer.due_ns(1.0, 1500 * MS) == 1000 * MS
    assert pacer.due_ns(2.0, 9000 * MS) == 8500 * MS  # the origin moved
    assert pacer.due_ns(3.0, 9000 * MS) == 9500 * MS


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20_000 * MS)), min_size=1))
def test_no_frame_is_due_more_than_the_allowed_lag_ago(steps: list[tuple[float, int]]) -> None:
    pacer = Pacer()
    pts_s, now_ns, before_ns = 0.0, 0, -MAX_LAG_NS
    for advance_s, passed_ns in steps:
        pts_s += advance_s
        now_ns += passed_ns
        due_ns = pacer.due_ns(pts_s, now_ns)
        assert due_ns >= now_ns - MAX_LAG_NS
        assert due_ns >= before_ns
        before_ns = due_ns
