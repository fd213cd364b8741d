"""An arena of a few slots, and an exchange that does what the test says."""

from __future__ import annotations

import gc

import pytest
from job_kit import (
    HEIGHT,
    SLOTS,
    WIDTH,
    Post,
)

from vdag._native.ring import Arena


@pytest.fixture
def arena():
    with Arena.create("test-job", [(WIDTH * HEIGHT * 3, SLOTS)]) as arena:
        yield arena
        gc.collect()
        arena.check()
        assert arena.stats().free == SLOTS


@pytest.fixture
def post(tmp_path, arena):
    post = Post(tmp_path, arena)
    yield post
    post.close()
    assert not list(tmp_path.glob("job-*"))
