"""The shared-memory arena in plain Python: what `ring.pyx` must do.

`Arena` here serves one process: attachments stand for processes, and one "dies" by `_die`. It is
the oracle of the compiled one, call for call; only that it cannot see who looks at its memory, so
`View.release` gives the lease back at once, and waiting is pointless with nobody to wait for.

The bytes are in `ring_layout`, the reasons in ring_kernel.h.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vdag._native.reference_ring_leases import (
    MAX_LEASES,
    Loan,
    Shared,
    Slot,
    SlotRef,
    View,
    check_readers,
)
from vdag._native.ring_layout import (
    COMMITTED,
    FREE,
    HELD,
    LOANED,
    MAX_PROCESSES,
    TRANSIT,
    Snapshot,
    lay_out,
)
from vdag.errors import ChannelClosed, ConfigError, FrameFormatError, StaleFrame, TransportError

__all__ = [
    "MAX_LEASES",
    "Arena",
    "ArenaStats",
    "ClassStats",
    "Loan",
    "ReapReport",
    "SlotRef",
    "View",
    "sweep",
]

MAX_CLASSES = 16
MAX_SLOTS = 65536


@dataclass(slots=True, frozen=True)
class ClassStats:
    """Slots of one size: `slots` = `free` + `loaned` + `committed`."""

    slot_nbytes: int
    slots: int
    free: int
    loaned: int
    committed: int
    leases: int


@dataclass(slots=True, frozen=True)
class ArenaStats:
    """An arena at a glance, as `ring.ArenaStats`."""

    slots: int
    free: int
    loaned: int
    committed: int
    leases: int
    processes: int
    waits: int
    misses: int
    stale: int
    reclaimed: int
    classes: tuple[ClassStats, ...]


@dataclass(slots=True, frozen=True)
class ReapReport:
    """What `Arena.reap` took from the dead: processes, their leases, and slots that came free."""

    processes: int
    leases: int
    slots: int


_ARENAS: dict[str, Shared] = {}


def sweep(prefix: str = "vdag-") -> list[str]:
    """Remove arenas of dead owners: here they die with the process, so there are none."""
    return []


def _check_classes(classes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    sizes = sorted(classes)
    if not 1 <= len(sizes) <= MAX_CLASSES:
        raise ConfigError(f"{len(sizes)} slot classes are not between 1 and {MAX_CLASSES}")
    for nbytes, count in sizes:
        if not (0 < nbytes <= 1 << 36 and 0 < count <= MAX_SLOTS):
            raise ConfigError(f"{count} slots of {nbytes} bytes exceed 1 to 65536 of 1 to 2^36")
    repeats = len({nbytes for nbytes, _ in sizes}) < len(sizes)
    if repeats or sum(count for _, count in sizes) > MAX_SLOTS:
        raise ConfigError(f"slot classes {sizes} repeat a size or exceed {MAX_SLOTS} slots")
    return sizes


class Arena:
    """An attachment to an arena of this process, as `ring.Arena`."""

    def __init__(self, shared: Shared, *, owner: bool, writable: bool) -> None:
        free = [i for i in range(MAX_PROCESSES) if i not in shared.alive]
        if not free:
            raise TransportError(f"arena {shared.name} has no entry left for another process")
        shared.alive[free[0]] = True
        shared.incarnations[free[0]] = (shared.incarnations[free[0]] + 1) & 0x3FF
        self._holder = shared.incarnations[free[0]] << 6 | free[0]
        self._shared = shared
        self._open, self._gone, self._live = True, False, 0
        self.owner, self.writable = owner, writable
        self.name, self.arena_id, self.nbytes = shared.name, shared.arena_id, shared.nbytes
        self.control_nbytes = shared.records[0][2]

    @staticmethod
    def create(
        node: str,
        classes: Iterable[tuple[int, int]],
        *,
        prefault: bool = True,
        arena_id: int | None = None,
    ) -> Arena:
        """Make an arena that this attachment owns; `arena_id` is drawn unless given."""
        number = int.from_bytes(os.urandom(8), "little") if arena_id is None else arena_id
        records, _, nbytes = lay_out(_check_classes(classes), os.sysconf("SC_PAGESIZE"))
        data = np.zeros(nbytes - records[0][2], np.uint8)
        starts = [
            (record[2] - records[0][2] + index * record[1], record[0])
            for record in records
            for index in range(record[5])
        ]
        slots = [
            Slot(1 + (number & 0xFFFFFFFF), data[start : start + length])
            for start, length in starts
        ]
        name = f"vdag-{node}-{number:016x}"
        shared = Shared(name, number, records, nbytes, data, slots, [-1] * len(records))
        _ARENAS[name] = shared
        return Arena(shared, owner=True, writable=True)

    @staticmethod
    def attach(name: str, *, writable: bool = False, prefault: bool = True) -> Arena:
        """Join an arena of this process as if from another."""
        if name not in _ARENAS:
            raise TransportError(f"arena {name}: no such file or directory")
        return Arena(_ARENAS[name], owner=False, writable=writable)

    @property
    def mapping(self) -> tuple[int, int]:
        """Address and length of the pages that all slots lie in, from `control_nbytes` on."""
        self._require_open()
        return self._shared.data.ctypes.data, self._shared.data.nbytes

    def loan(self, nbytes: int, timeout_s: float = 0.0) -> Loan | None:
        """Take the smallest free slot that fits, or one of the next size, or None."""
        self._require_open()
        if not self.writable:
            raise TransportError(f"arena {self.name} is attached read-only")
        if not 0.0 <= timeout_s <= 86400.0:
            raise ConfigError(f"timeout_s of {timeout_s} is not between 0 and 86400")
        records = self._shared.records
        fits = [k for k, record in enumerate(records) if record[0] >= nbytes]
        if nbytes < 1 or not fits:
            raise ConfigError(f"nbytes of {nbytes} is not between 1 and {records[-1][0]}")
        for k in fits[:2]:
            first, count = records[k][4:]
            for i in (self._shared.hot[k], *range(count)):
                if i >= 0 and self._shared.slots[first + i].phase == FREE:
                    self._shared.slots[first + i].phase = LOANED
                    self._shared.slots[first + i].aux = self._holder
                    return Loan(self, first + i, nbytes, writable=True)
        self._shared.tallies[0] += timeout_s > 0
        self._shared.tallies[1] += 1
        return None

    def put(self, data: Any, readers: int = 1, timeout_s: float = 0.0) -> SlotRef | None:
        """Copy an array of any strides into a slot and commit it, or None."""
        check_readers(readers)
        source = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        loan = self.loan(source.nbytes, timeout_s)
        if loan is None:
            return None
        np.asarray(loan)[:] = source
        return loan.commit(None, readers)

    def acquire(self, slot: int, generation: int) -> View:
        """Make a lease in flight ours, or raise StaleFrame."""
        return View(self, slot, self._adopt(slot, generation, HELD))

    def adopt(self, slot: int, generation: int) -> SlotRef:
        """Answer for a lease in flight from now on, to send it on."""
        self._adopt(slot, generation, TRANSIT)
        return SlotRef(self, slot, generation >> 16)

    def drop(self, slot: int, generation: int) -> bool:
        """End a lease in flight; False if it was not in flight."""
        ticket = self._find(slot, generation)
        if ticket is None:
            return False
        del self._shared.slots[slot].tickets[ticket]
        self._shared.free_if_unused(slot)
        return True

    def share(self, slot: int, generation: int, readers: int = 1) -> SlotRef:
        """Add leases in flight, ours until adopted, to a slot still in this use."""
        self._require_slot(slot)
        check_readers(readers)
        shared = self._shared.slots[slot]
        if shared.generation != generation >> 16 or shared.phase != COMMITTED:
            raise self._stale(slot, generation)
        free = [i for i in range(MAX_LEASES) if i not in shared.tickets][:readers]
        if len(free) < readers:
            raise TransportError(f"{readers} more readers exceed the {MAX_LEASES} of slot {slot}")
        shared.tickets.update((i, (self._holder, TRANSIT)) for i in free)
        shared.aux = max(shared.aux, free[-1] + 1)
        return SlotRef(self, slot, generation >> 16)

    def reap(self) -> ReapReport:
        """Take the leases of dead attachments back."""
        self._require_open()
        if not self.owner:
            raise TransportError(f"arena {self.name} is reaped by its owner only")
        dead = sorted(entry for entry, alive in self._shared.alive.items() if not alive)
        taken = [self._shared.dismiss(entry) for entry in dead]
        leases, slots = sum(n for n, _ in taken), sum(n for _, n in taken)
        self._shared.tallies[3] += leases
        return ReapReport(len(dead), leases, slots)

    def stats(self) -> ArenaStats:
        """Count."""
        self._require_open()
        sizes = tuple(self._count(record) for record in self._shared.records)
        waits, misses, stale, reclaimed = self._shared.tallies
        return ArenaStats(
            slots=sum(size.slots for size in sizes),
            free=sum(size.free for size in sizes),
            loaned=sum(size.loaned for size in sizes),
            committed=sum(size.committed for size in sizes),
            leases=sum(size.leases for size in sizes),
            processes=len(self._shared.alive),
            waits=waits,
            misses=misses,
            stale=stale,
            reclaimed=reclaimed,
            classes=sizes,
        )

    def _count(self, record: tuple[int, ...]) -> ClassStats:
        slots = self._shared.slots[record[4] : record[4] + record[5]]
        phases = [slot.phase for slot in slots]
        return ClassStats(
            slot_nbytes=record[0],
            slots=record[5],
            free=phases.count(FREE),
            loaned=phases.count(LOANED),
            committed=phases.count(COMMITTED),
            leases=sum(len(slot.tickets) for slot in slots),
        )

    def snapshot(self) -> Snapshot:
        """What `ring_layout.read` would find in the compiled arena's file."""
        shared = self._shared
        holders = tuple(shared.incarnations[i] << 6 | i for i in sorted(shared.alive))
        slots = tuple(
            (s.generation, s.phase, s.aux, tuple((i, *s.tickets[i]) for i in sorted(s.tickets)))
            for s in shared.slots
        )
        free = tuple(
            tuple(i for i in range(count) if shared.slots[first + i].phase == FREE)
            for *_, first, count in shared.records
        )
        return Snapshot(holders, slots, free, tuple(shared.hot))

    def check(self) -> None:
        """Verify that every slot is in exactly one place: here they cannot be elsewhere."""
        self._require_open()

    def close(self) -> None:
        """Leave the arena; the owner's name goes at once, the leases with the last claim."""
        if self._open:
            self._open = False
            if self.owner and not self._gone:
                _ARENAS.pop(self.name)
            self._live += 1
            self._let_go()

    def _die(self) -> None:
        self._require_open()
        self._shared.alive[self._holder & 63] = False
        self._gone = True
        self.close()

    def _let_go(self) -> None:
        self._live -= 1
        if self._live == 0 and not self._open and not self._gone:
            self._shared.dismiss(self._holder & 63)

    def _require_open(self) -> None:
        if not self._open:
            raise ChannelClosed(f"arena {self.name} is closed")

    def _require_slot(self, slot: int) -> None:
        self._require_open()
        if not 0 <= slot < len(self._shared.slots):
            raise FrameFormatError(f"slot {slot} is none of the {len(self._shared.slots)}")

    def _find(self, slot: int, generation: int) -> int | None:
        self._require_slot(slot)
        shared = self._shared.slots[slot]
        if shared.generation != generation >> 16 or shared.phase != COMMITTED:
            return None
        wanted = (generation & 0xFFFF, TRANSIT)
        return min((i for i, ticket in shared.tickets.items() if ticket == wanted), default=None)

    def _adopt(self, slot: int, generation: int, kind: int) -> int:
        ticket = self._find(slot, generation)
        if ticket is None:
            raise self._stale(slot, generation)
        self._shared.slots[slot].tickets[ticket] = (self._holder, kind)
        return ticket

    def _stale(self, slot: int, generation: int) -> StaleFrame:
        self._shared.tallies[2] += 1
        reused = self._shared.slots[slot].generation != generation >> 16
        reason = "is over" if reused else "has no lease in flight"
        return StaleFrame(f"generation {generation} of slot {slot} {reason}")

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
