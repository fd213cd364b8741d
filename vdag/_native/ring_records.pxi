# What an arena tells about itself: plain values. Part of ring.pyx.

@dataclass(frozen=True)
class ClassStats:
    """Slots of one size: `slots` = `free` + `loaned` + `committed` when nobody is at work."""

    __slots__ = ("slot_nbytes", "slots", "free", "loaned", "committed", "leases")
    slot_nbytes: int
    slots: int
    free: int
    loaned: int
    committed: int
    leases: int


@dataclass(frozen=True)
class ArenaStats:
    """An arena at a glance; every counter counts for all of its processes, since creation.

    Attributes:
        slots: all slots; `free`, `loaned` (being written) and `committed` (readable) add up to it.
        leases: claims on committed slots, in flight or held.
        processes: attachments that are registered, dead ones that were not reaped yet included.
        waits: loans that had to wait for a slot.
        misses: loans that ended without one.
        stale: descriptors that came too late, see `StaleFrame`.
        reclaimed: leases that `reap` took from the dead.
        classes: the same by size, smallest first.
    """

    __slots__ = (
        "slots", "free", "loaned", "committed", "leases", "processes", "waits", "misses", "stale",
        "reclaimed", "classes",
    )
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
    classes: tuple


@dataclass(frozen=True)
class ReapReport:
    """What `Arena.reap` took from the dead: processes, their leases, and slots that came free."""

    __slots__ = ("processes", "leases", "slots")
    processes: int
    leases: int
    slots: int
