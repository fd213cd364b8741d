"""Batches cut into sizes: nothing is lost, whatever is ready."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.engines.gpu.sizes import cut, sizes_to

READY = st.sets(st.sampled_from([4, 16, 64, 256]))


@given(st.integers(1, 2000), READY)
def test_pieces_come_to_the_batch_in_sizes_that_are_ready_the_largest_first(count, ready):
    pieces = cut(count, ready | {1})
    assert sum(pieces) == count
    assert set(pieces) <= ready | {1}
    assert pieces == sorted(pieces, reverse=True)
    sizes = sorted(ready | {1})
    for size, next_size in pairwise(sizes):  # what is left below a size does not fill it
        assert sum(piece for piece in pieces if piece <= size) < next_size


@given(st.integers(1, 2000), READY)
def test_without_size_1_less_than_the_smallest_is_left(count, ready):
    left = count - sum(cut(count, ready))
    assert left >= 0
    assert left < min(ready, default=count + 1)


@given(st.integers(1, 2000))
def test_sizes_are_powers_of_four_up_to_the_batch(count):
    sizes = sizes_to(count)
    assert sizes == tuple(4**power for power in range(len(sizes)))
    assert sizes[-1] <= count < 4 * sizes[-1]


@pytest.mark.parametrize(
    ("count", "pieces"), [(7, [4, 1, 1, 1]), (16, [16]), (23, [16, 4, 1, 1, 1]), (3, [1, 1, 1])]
)
def test_a_batch_of_so_many_is_cut_into_these(count, pieces):
    assert cut(count, sizes_to(count)) == pieces
