"""What is made of a reference arena's slots: references, loans and views; and what they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vdag._native.ring_layout import COMMITTED, FREE, LOANED, MAX_PROCESSES, TRANSIT
from vdag.errors import ChannelClosed, ConfigError

if TYPE_CHECKING:
    from vdag._native.reference_ring import Arena

__all__ = ["MAX_LEASES", "Loan", "Shared", "Slot", "SlotRef", "View", "check_readers"]

MAX_LEASES = 56


@dataclass(slots=True)
class Slot:
    """One slot: its state word, its tickets by position as (holder, kind), and its pixels."""

    generation: int
    pixels: NDArray[np.uint8]
    phase: int = FREE
    aux: int = 0
    nbytes: int = 0
    tickets: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Shared:
    """What the processes of an arena share."""

    name: str
    arena_id: int
    records: list[tuple[int, ...]]
    nbytes: int
    data: NDArray[np.uint8]
    slots: list[Slot]
    hot: list[int]
    alive: dict[int, bool] = field(default_factory=dict)  # process entry: it lives
    incarnations: list[int] = field(default_factory=lambda: [0] * MAX_PROCESSES)
    tallies: list[int] = field(default_factory=lambda: [0] * 4)

    def class_of(self, slot: int) -> int:
        """Return the number of the class that a slot belongs to."""
        return max(k for k, record in enumerate(self.records) if record[4] <= slot)

    def free(self, number: int) -> None:
        """Make a slot free: nothing said about it before is true any more."""
        slot, k = self.slots[number], self.class_of(number)
        slot.generation += 1
        slot.phase, slot.aux = FREE, 0
        slot.tickets.clear()
        self.hot[k] = number - self.records[k][4]

    def free_if_unused(self, number: int) -> int:
        """Free a committed slot without leases; how many that were."""
        if self.slots[number].phase != COMMITTED or self.slots[number].tickets:
            return 0
        self.free(number)
        return 1

    def dismiss(self, entry: int) -> tuple[int, int]:
        """Take back everything of a process; how many leases and slots that were."""
        leases = slots = 0
        for number, slot in enumerate(self.slots):
            if slot.phase == LOANED and slot.aux & 63 == entry:
                leases, slots = leases + 1, slots + 1
                self.free(number)
            mine = [i for i, (holder, _) in slot.tickets.items() if holder & 63 == entry]
            for i in mine:
                del slot.tickets[i]
            leases += len(mine)
            slots += self.free_if_unused(number) if mine else 0
        del self.alive[entry]
        return leases, slots


class SlotRef:
    """One or more leases in flight, as `ring.SlotRef`; losing it returns nothing."""

    def __init__(self, arena: Arena, slot: int, use: int) -> None:
        self._arena = arena
        self.slot = slot
        self.generation = use << 16 | arena._holder
        self.nbytes = arena._shared.slots[slot].nbytes
        record = arena._shared.records[arena._shared.class_of(slot)]
        self.offset = record[2] + (slot - record[4]) * record[1]
        self.arena_id = arena.arena_id

    def share(self, readers: int = 1) -> SlotRef:
        """Add leases in flight for more readers."""
        return self._arena.share(self.slot, self.generation, readers)

    def drop(self) -> bool:
        """Take one of these leases back; False if none is in flight."""
        return self._arena.drop(self.slot, self.generation)

    def _key(self) -> tuple[int, int, int]:
        return self.arena_id, self.slot, self.generation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotRef) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class _Claim:
    """A loan or a view: a claim that ends once, and memory that numpy can look at."""

    def __init__(self, arena: Arena, slot: int, nbytes: int, *, writable: bool) -> None:
        self._arena = arena
        self._use = arena._shared.slots[slot].generation
        self._open = True
        self._pixels = arena._shared.slots[slot].pixels[:nbytes]
        self._pixels.flags.writeable = writable
        self.slot = slot
        self.nbytes = nbytes
        arena._live += 1

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if not self._open:
            raise AttributeError("__array_interface__")
        return self._pixels.__array_interface__

    def _end(self) -> None:
        self._open = False
        self._arena._let_go()

    def __len__(self) -> int:
        return self.nbytes


class Loan(_Claim):
    """A slot that is ours to write, as `ring.Loan`."""

    def commit(self, nbytes: int | None = None, readers: int = 1) -> SlotRef:
        """Make what was written readable for `readers` and end the loan."""
        self._arena._require_open()
        if not self._open:
            raise ChannelClosed(f"loan of slot {self.slot} has ended")
        length = self.nbytes if nbytes is None else nbytes
        if not 0 <= length <= self.nbytes:
            raise ConfigError(f"nbytes of {length} is not between 0 and {self.nbytes}")
        check_readers(readers)
        slot = self._arena._shared.slots[self.slot]
        slot.nbytes, slot.phase, slot.aux = length, COMMITTED, readers
        slot.tickets = {i: (self._arena._holder, TRANSIT) for i in range(readers)}
        self._end()
        return SlotRef(self._arena, self.slot, self._use)

    def abandon(self) -> None:
        """Give the slot back unseen; harmless when the loan has ended."""
        if self._open:
            if not self._arena._gone:
                self._arena._shared.free(self.slot)
            self._end()

    def __enter__(self) -> Loan:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abandon()

    def __del__(self) -> None:
        self.abandon()


class View(_Claim):
    """A lease on a committed slot, as `ring.View`."""

    def __init__(self, arena: Arena, slot: int, ticket: int) -> None:
        super().__init__(arena, slot, arena._shared.slots[slot].nbytes, writable=False)
        self._ticket = ticket
        self.generation = self._use << 16 | arena._holder

    def release(self) -> None:
        """End the lease; harmless when called again."""
        if self._open:
            if not self._arena._gone:
                del self._arena._shared.slots[self.slot].tickets[self._ticket]
                self._arena._shared.free_if_unused(self.slot)
            self._end()

    def share(self, readers: int = 1) -> SlotRef:
        """Add leases in flight, to send the same pixels on."""
        return self._arena.share(self.slot, self.generation, readers)

    def __enter__(self) -> View:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def check_readers(readers: int) -> None:
    """Raise ConfigError unless so many leases fit a slot."""
    if not 1 <= readers <= MAX_LEASES:
        raise ConfigError(f"readers of {readers} is not between 1 and {MAX_LEASES}")
