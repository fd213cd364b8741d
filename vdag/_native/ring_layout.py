"""The bytes of an arena's file: where `ring.pyx` keeps what, and how to read it from outside.

The file, little-endian, every number naturally aligned; "words" are u64 and change atomically:

    header, constant              offset  type    meaning
    ----------------------------  ------  ------  ---------------------------------------------
                                       0  u64     magic b"VDGRING1"
                                       8  2 u32   version 1; page size in bytes
                                      16  u64     total_nbytes: size of the file
                                      24  u64     control_nbytes: where the data begins
                                      32  u64     slots_offset: where the slots' words begin
                                      40  u64     arena_id, drawn at random
                                      48  u64     owner: pid | start time in clock ticks << 22
                                      56  u64     inode of the owner's pid namespace
                                      64  2 u32   number of classes, of slots
                                      72  16 of   class: u64 slot_nbytes, stride, data_offset,
                                          40 B      index_offset; u32 first slot, count
    control                          768  u32     freed: a futex, counts when somebody waits
                                     776  word    waiting: one bit per process entry
                                     832  4 words tallies: waits, misses, stale, reclaimed
                                     896  64 of   process: identity (as owner, 0: free entry),
                                          2 words   incarnation
    index, per class            at index  words   1 + position of the slot freed last, 0: none;
                                                    then one bit per slot, 1: may be free
    slots                       at slots  512 B   state {generation:40, phase:2, aux:22}, nbytes,
                                          each      6 reserved, 56 tickets {generation:40,
                                                    holder:16, kind:8}; high bits first
    data                        at data           slots of a class, `stride` bytes apart

Phases are 1 free, 2 loaned (aux = holder), 3 committed (aux = {high:6, version:16}); kinds of
tickets are 1 pending, 2 in transit, 3 held. A holder is {incarnation:10, entry:6}. A ticket whose
generation is not its slot's does not exist. What descriptors and this interface call generation is
{generation:40, holder:16}: which use of a slot, and whose lease.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = [
    "COMMITTED",
    "FREE",
    "HELD",
    "LOANED",
    "PENDING",
    "TRANSIT",
    "Snapshot",
    "lay_out",
    "read",
]

MAX_PROCESSES = 64
FREE, LOANED, COMMITTED = 1, 2, 3
PENDING, TRANSIT, HELD = 1, 2, 3

_HEADER = struct.Struct("<8s2I6Q2I")
_CLASS = struct.Struct("<4Q2I")
_PROCESSES_AT, _CONTROL_NBYTES, _SLOT_NBYTES = 896, 1920, 512


@dataclass(slots=True, frozen=True)
class Snapshot:
    """What can be read off an arena's control region, without what only guides the search.

    Attributes:
        holders: holder numbers of the process entries in use.
        slots: per slot its generation, phase, aux without the version, and its tickets as
            (position, holder, kind).
        free: per class the positions that the index calls free.
        hot: per class the position freed last, -1 for none.
    """

    holders: tuple[int, ...]
    slots: tuple[tuple[int, int, int, tuple[tuple[int, int, int], ...]], ...]
    free: tuple[tuple[int, ...], ...]
    hot: tuple[int, ...]


def round_up(n: int, step: int) -> int:
    """Return the first multiple of `step` that is not below `n`."""
    return -(-n // step) * step


def lay_out(classes: list[tuple[int, int]], page: int) -> tuple[list[tuple[int, ...]], int, int]:
    """Place the parts of an arena: class records, slots_offset and total_nbytes.

    Args:
        classes: slot sizes in bytes, ascending, with their counts.
        page: size of a page in bytes.
    """
    index_at = _CONTROL_NBYTES
    records: list[tuple[int, ...]] = []
    for nbytes, count in classes:
        records.append((nbytes, round_up(nbytes, page if nbytes >= page else 64), index_at, count))
        index_at += round_up(8 * (1 + -(-count // 64)), 64)
    n_slots = sum(count for _, count in classes)
    data_at = round_up(index_at + n_slots * _SLOT_NBYTES, page)
    first = 0
    for k, (nbytes, stride, at, count) in enumerate(records):
        records[k] = (nbytes, stride, data_at, at, first, count)
        data_at = round_up(data_at + count * stride, page)
        first += count
    return records, index_at, data_at


def read(data: bytes) -> Snapshot:
    """Read the control region of a compiled arena by the table above."""
    n_classes, slots_at = _HEADER.unpack_from(data)[-2], _HEADER.unpack_from(data)[5]
    records = [_CLASS.unpack_from(data, 72 + _CLASS.size * k) for k in range(n_classes)]
    entries = struct.unpack_from(f"<{2 * MAX_PROCESSES}Q", data, _PROCESSES_AT)
    holders = (entries[2 * i + 1] << 6 | i for i in range(MAX_PROCESSES) if entries[2 * i])
    free, hot = [], []
    for _, _, _, index_at, _, count in records:
        words = struct.unpack_from(f"<{1 + -(-count // 64)}Q", data, index_at)
        hot.append(words[0] - 1)
        free.append(tuple(i for i in range(count) if words[1 + i // 64] >> i % 64 & 1))
    n_slots = records[-1][4] + records[-1][5]
    slots = (_read_slot(data, slots_at + _SLOT_NBYTES * slot) for slot in range(n_slots))
    return Snapshot(tuple(holders), tuple(slots), tuple(free), tuple(hot))


def _read_slot(data: bytes, at: int) -> tuple[int, int, int, tuple[tuple[int, int, int], ...]]:
    state, *words = struct.unpack_from("<64Q", data, at)
    generation, phase, aux = state >> 24, state >> 22 & 3, state & 0x3FFFFF
    tickets = (
        (i, word >> 8 & 0xFFFF, word & 0xFF)
        for i, word in enumerate(words[7:])
        if word and word >> 24 == generation
    )
    return generation, phase, aux >> 16 if phase == COMMITTED else aux, tuple(tickets)
