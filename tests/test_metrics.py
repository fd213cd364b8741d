from __future__ import annotations

import statistics

from hypothesis import given
from hypothesis import strategies as st

from vdag.metrics import Histogram

durations = st.lists(st.integers(1_000, 10**12), min_size=1, max_size=200)


@given(durations, st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_two_percent_of_the_exact_one(values, q):
    rank = max(int(-(-q * len(values) // 1)), 1)
    exact = sorted(values)[rank - 1]
    assert exact <= Histogram(values).quantile_s(q) * 1e9 * (1 + 1e-9)
    assert Histogram(values).quantile_s(q) * 1e9 <= exact * 1.02 + 1


@given(durations)
def test_mean_count_and_maximum_are_exact(values):
    summary = Histogram(values).summary()
    assert summary.count == len(values)
    assert summary.max_s == max(values) / 1e9
    assert abs(summary.mean_s - statistics.fmean(values) / 1e9) <= 1e-9 * summary.mean_s


def test_an_empty_histogram_is_all_zero():
    assert Histogram().summary().p99_s == 0.0


def test_durations_outside_the_range_are_counted_at_its_ends():
    summary = Histogram([-5, 0, 10**15]).summary()
    assert summary.count == 3
    assert summary.max_s == 10**6
    assert summary.p50_s <= 1e-6
