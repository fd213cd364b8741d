"""What frames come to: percentiles that are values which were there, the slowest, the lost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packet_kit import HANDLERS, own_frames, rows_of

from vdag.control.tracing import Tally, figures_of, frames_of, roster_of

OWN = roster_of(HANDLERS, links=[(0, 1), (1, 2), (2, 3)], ends=(0, 3))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_percentiles_are_values_that_so_many_do_not_exceed(lengths: list[float]):
    figures = figures_of(lengths)
    assert figures.frames == len(lengths)
    assert math.isclose(figures.mean_s, sum(lengths) / len(lengths), abs_tol=1e-9)
    assert figures.max_s == max(lengths)
    for percent, value in ((50, figures.p50_s), (95, figures.p95_s), (99, figures.p99_s)):
        assert value in lengths
        assert sum(each <= value for each in lengths) * 100 >= percent * len(lengths)
        assert sum(each < value for each in lengths) * 100 < percent * len(lengths)


def test_frames_add_up():
    truths = own_frames(100, lost=[5, 6, 50])
    tally = Tally()
    for frame in frames_of(rows_of(truths), OWN):
        tally.add(frame)
    found = tally.summary()
    whole = sorted(truth.delay_s for truth in truths if truth.lost_at is None)
    assert (found.frames, found.whole, found.skewed, found.ignored) == (100, 97, 0, 0)
    assert found.delay is not None
    assert found.delay.p95_s == pytest.approx(whole[math.ceil(97 * 0.95) - 1], abs=1e-6)
    assert [key.delay_s for key in found.slowest] == pytest.approx(whole[:-6:-1], abs=1e-6)
    for key in found.slowest:
        assert key.delay_s == pytest.approx(truths[key.sequence].delay_s, abs=1e-6)
    assert found.typical is not None
    assert found.typical.delay_s == pytest.approx(whole[48], abs=1e-6)
    assert found.unfinished == {truths[n].lost_at: 1 for n in (5, 6, 50)}
    for key, figures in found.parts.items():
        lengths = [truth.parts.get(key, 0.0) for truth in truths if truth.lost_at is None]
        assert figures.mean_s == pytest.approx(sum(lengths) / 97, abs=1e-6)
    assert found.since_s == truths[0].born_s
    assert sum(f.mean_s for f in found.parts.values()) == pytest.approx(found.delay.mean_s)


def test_of_no_frames_there_is_nothing():
    found = Tally().summary()
    assert (found.frames, found.delay, found.slowest, found.typical) == (0, None, [], None)
    assert (found.since_s, found.until_s, found.parts) == (0.0, 0.0, {})
