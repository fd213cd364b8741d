"""Short ways to use an arena in tests."""

from __future__ import annotations

from typing import Any

import numpy as np

CLASSES = [(100, 4), (5000, 2), (20000, 1)]


def assert_all_free(arena: Any) -> None:
    arena.check()
    stats = arena.stats()
    assert (stats.free, stats.leases) == (stats.slots, 0)


def commit(arena: Any, value: int = 7, nbytes: int = 100, readers: int = 1) -> Any:
    loan = arena.loan(nbytes)
    np.asarray(loan)[:] = value
    return loan.commit(readers=readers)


def acquire(arena: Any, ref: Any) -> Any:
    return arena.acquire(ref.slot, ref.generation)
