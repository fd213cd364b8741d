"""The shared-memory arena against what a user would write with `multiprocessing.shared_memory`.

Measured: one frame's way through a slot, in one process, so that neither wake-ups nor a socket are
in it: take a slot, make it readable, look at it from the other side, give it back. Outside: making
the segments, and the two processes' messages, which `bench_transport` measures.

The other side, `Slots`, is the usual recipe: one `SharedMemory`, a table of states in it, and a
`multiprocessing.Lock` around every change. It counts readers and generations, so that it answers
the same questions; it does not survive the death of whoever holds the lock, nor of a reader.
Control case: `ring.copy_in`, where both sides copy a 1080p frame and nobody can beat memcpy.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from vdag._native import ring

SHAPE = (1080, 1920, 3)
NBYTES = 1080 * 1920 * 3
COUNT = 8
FREE, WRITING, READABLE = 0, 1, 2


class Slots:
    """`COUNT` slots for frames in one `SharedMemory`; columns state, generation, readers."""

    def __init__(self) -> None:
        self.lock = multiprocessing.Lock()
        self.memory = SharedMemory(create=True, size=4096 + COUNT * NBYTES)
        self.table = np.ndarray((COUNT, 3), np.int64, self.memory.buf)
        self.table[:] = 0

    def loan(self) -> int:
        """Take a free slot."""
        with self.lock:
            slot = int(np.argmin(self.table[:, 0]))
            if self.table[slot, 0] != FREE:
                raise RuntimeError("no slot is free")
            self.table[slot, 0] = WRITING
            return slot

    def pixels(self, slot: int) -> np.ndarray:
        """The memory of a slot, as a picture."""
        return np.ndarray(SHAPE, np.uint8, self.memory.buf, 4096 + slot * NBYTES)

    def commit(self, slot: int, readers: int) -> int:
        """Make a slot readable; its generation."""
        with self.lock:
            self.table[slot, 0] = READABLE
            self.table[slot, 2] = readers
            return int(self.table[slot, 1])

    def acquire(self, slot: int, generation: int) -> np.ndarray:
        """The picture of a slot that has not been reused."""
        with self.lock:
            if self.table[slot, 1] != generation:
                raise LookupError("stale")
        return self.pixels(slot)

    def release(self, slot: int) -> None:
        """One reader less; the last one frees the slot."""
        with self.lock:
            self.table[slot, 2] -= 1
            if self.table[slot, 2] == 0:
                self.table[slot, 0] = FREE
                self.table[slot, 1] += 1

    def close(self) -> None:
        """Remove the segment."""
        del self.table
        self.memory.close()
        self.memory.unlink()


@pytest.fixture
def arena() -> Iterator[ring.Arena]:
    with ring.Arena.create("bench", [(NBYTES, COUNT)]) as arena:
        yield arena


@pytest.fixture
def slots() -> Iterator[Slots]:
    slots = Slots()
    yield slots
    slots.close()


@pytest.mark.parametrize("readers", [1, 3])
def bench_loan_cycle(compare, arena: ring.Arena, slots: Slots, readers: int) -> None:
    def ours() -> int:
        loan = arena.loan(NBYTES)
        pixels = np.ndarray(SHAPE, np.uint8, loan)
        pixels[0, 0, 0] = 7
        ref = loan.commit(readers=readers)
        seen = 0
        for _ in range(readers):
            view = arena.acquire(ref.slot, ref.generation)
            frame = np.ndarray(SHAPE, np.uint8, view)
            seen += int(frame[0, 0, 0])
            del frame
            view.release()
        return seen

    def theirs() -> int:
        slot = slots.loan()
        slots.pixels(slot)[0, 0, 0] = 7
        generation = slots.commit(slot, readers)
        seen = 0
        for _ in range(readers):
            seen += int(slots.acquire(slot, generation)[0, 0, 0])
            slots.release(slot)
        return seen

    assert ours() == theirs() == 7 * readers
    name = "ring.loan_cycle" if readers == 1 else f"ring.fan_out_{readers}"
    compare(
        name,
        subject=("vdag", ours),
        against=("multiprocessing.shared_memory + Lock", theirs),
        unit="us",
    )
    arena.check()


def bench_copy_in(compare, arena: ring.Arena, slots: Slots) -> None:
    source = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)

    def ours() -> None:
        ref = arena.put(source)
        arena.acquire(ref.slot, ref.generation).release()

    def theirs() -> None:
        slot = slots.loan()
        np.copyto(slots.pixels(slot), source)
        slots.acquire(slot, slots.commit(slot, 1))
        slots.release(slot)

    compare(
        "ring.copy_in",
        subject=("vdag", ours),
        against=("multiprocessing.shared_memory + Lock", theirs),
    )
    arena.check()
