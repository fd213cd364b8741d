# distutils: sources = vdag/_native/ring_segment.c vdag/_native/ring_census.c
"""`Arena`: the shared memory of a node, where pixels lie while descriptors travel.

A producer loans a slot, writes into it and commits it; what it gets is a `SlotRef`, a handful of
numbers that travel as a descriptor. Whoever receives them acquires a read-only `View` of the very
same memory. The slot is free again when its last lease is released, or when the owner has reaped
the dead process that held it. ring_kernel.h says how; reference_ring.py says what.
Every call holds the GIL but for copies of 64 KiB and more, waiting, and mapping. Loans, views and
references may be used from any thread, one thread at a time each.
"""

import os
import re
from dataclasses import dataclass
from time import monotonic_ns

from vdag.errors import ChannelClosed, ConfigError, FrameFormatError, StaleFrame, TransportError

cimport cython
from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_FillInfo, PyBuffer_Release
from cpython.buffer cimport PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, ENOSPC, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport unlink

__all__ = [
    "CRASH_POINTS", "MAX_LEASES", "Arena", "ArenaStats", "ClassStats", "Loan", "ReapReport",
    "SlotRef", "View", "sweep",
]

include "ring_records.pxi"
include "ring_door.pxi"


cdef class Arena


include "ring_leases.pxi"


@cython.final
@cython.no_gc
cdef class Arena:
    """The shared memory of a node: slots of a few sizes, made once, reused for ever.

    The process that creates an arena owns it: it alone reaps the dead and removes the file. Others
    attach by name. A process that dies loses its loans and leases; its slots come back when the
    owner reaps. Arenas do not survive a fork: attach again in the child.

    Attributes:
        name: of the file in /dev/shm.
        arena_id: number drawn for this arena, for descriptors.
        nbytes: size of the file; `control_nbytes` of it, at its front, are not slots.
        owner: whether this attachment created it.
        writable: whether slots can be loaned here.
    """

    cdef ring_t _ring
    cdef bytes _path
    cdef readonly str name
    cdef readonly uint64_t arena_id, nbytes, control_nbytes
    cdef readonly bint owner, writable
    cdef unsigned _forks
    cdef bint _open, _gone
    cdef int _live, _waiting

    def __init__(self):
        raise TypeError("use Arena.create or Arena.attach")

    @staticmethod
    def create(str node, classes, *, bint prefault=True):
        """Make the arena of a node, after removing what dead owners left under its name.

        Args:
            node: name of the node; the arena is called `vdag-<node>-<random>`.
            classes: pairs of slot size in bytes and number of slots, 1 to 16 of different sizes.
            prefault: map all pages now, so that no frame pays for it.

        Returns:
            The arena, its file taken in full, mode 0600. Close it to remove the file.

        Raises:
            ConfigError: the name or the classes have no meaning.
            TransportError: the memory cannot be had.
        """
        if not _NODE(node):
            raise ConfigError(f"node name {node!r} is not 1 to 64 of A-Z a-z 0-9 . _ -")
        cdef Arena arena = Arena.__new__(Arena)
        cdef int status, error
        _lay_out(&arena._ring.header, classes)
        sweep(f"vdag-{node}-")
        arena.name = f"vdag-{node}-{arena._ring.header.arena_id:016x}"
        arena.owner = True
        arena._path = _path_of(arena.name)
        cdef char *path = arena._path
        with nogil:
            status = ring_create(&arena._ring, path, prefault)
            error = errno
        return arena._opened(status, error)

    @staticmethod
    def attach(str name, *, bint writable=False, bint prefault=True):
        """Join the arena of another process.

        Args:
            name: what the owner's `name` says.
            writable: map the slots' data so that it can be written; without it `loan` is refused
                and a stray write ends the process instead of spoiling a picture.
            prefault: map all pages now.

        Raises:
            FrameFormatError: the file is no arena of this version, or contradicts itself.
            TransportError: there is none, it may not be used from here, its owner is dead, or 64
                processes are attached.
        """
        cdef Arena arena = Arena.__new__(Arena)
        cdef int status, error
        arena.name = name
        arena._path = _path_of(name)
        cdef char *path = arena._path
        with nogil:
            status = ring_attach(&arena._ring, path, writable, prefault)
            error = errno
        return arena._opened(status, error)

    cdef Arena _opened(self, int status, int error):
        if status != RING_OK:
            raise _refusal(self.name, status, error, self._ring.header.total_nbytes)
        self.arena_id = self._ring.header.arena_id
        self.nbytes = self._ring.header.total_nbytes
        self.control_nbytes = self._ring.header.control_nbytes
        self.writable = self._ring.writable
        self._forks = ring_forks
        self._open = True
        return self

    @property
    def mapping(self):
        """Address and length of the pages that all slots lie in, from `control_nbytes` on."""
        self._require_open()
        return <size_t> self._ring.data, self.nbytes - self.control_nbytes

    def loan(self, Py_ssize_t nbytes, double timeout_s=0.0):
        """Take a slot to write into: the smallest that fits, or one of the next size.

        Args:
            nbytes: what it has to hold.
            timeout_s: how long to wait for a slot, 0 to 86400 seconds. The GIL is released.

        Returns:
            A `Loan` of exactly `nbytes` bytes, or None if no slot came free in time.

        Raises:
            ConfigError: `nbytes` or `timeout_s` is out of range.
            TransportError: this attachment is read-only.
        """
        self._require_open()
        if not self._ring.writable:
            raise TransportError(f"arena {self.name} is attached read-only")
        cdef int64_t timeout_ns = _nanoseconds(timeout_s)
        cdef Loan loan = Loan.__new__(Loan)
        cdef int64_t slot = RING_CROWDED if nbytes < 1 else ring_loan(&self._ring, nbytes)
        if slot == RING_CROWDED:
            most = self._ring.header.classes[self._ring.header.n_classes - 1].slot_nbytes
            raise ConfigError(f"nbytes of {nbytes} is not between 1 and {most}")
        if slot < 0 and timeout_ns > 0:
            slot = self._wait_for(nbytes, timeout_ns)
        if slot < 0:
            ring_tally(&self._ring, RING_MISSES, 1)
            return None
        loan.slot = <uint32_t> slot
        loan.nbytes = nbytes
        loan._use = ring_generation(&self._ring, loan.slot)
        loan._arena = self
        loan._open = True
        self._live += 1
        return loan

    cdef int64_t _wait_for(self, Py_ssize_t nbytes, int64_t timeout_ns) except? -1:
        cdef int64_t slot, left = timeout_ns, end = monotonic_ns() + timeout_ns
        cdef uint32_t seen
        cdef int error
        ring_tally(&self._ring, RING_WAITS, 1)
        self._live += 1
        self._waiting += 1
        ring_mark_waiting(&self._ring, True)
        try:
            while True:
                seen = ring_freed(&self._ring)
                slot = ring_loan(&self._ring, nbytes)
                if slot >= 0 or left <= 0:
                    return slot
                with nogil:
                    error = ring_wait(&self._ring, seen, left)
                if error == EINTR:
                    PyErr_CheckSignals()
                self._require_open()
                left = end - monotonic_ns()
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                ring_mark_waiting(&self._ring, False)
            self._let_go()

    def put(self, data, readers=1, double timeout_s=0.0):
        """Copy an array into a slot and commit it; the array may have any strides.

        Args:
            data: any buffer, such as a numpy array; copied in C order.
            readers: as in `Loan.commit`.
            timeout_s: as in `loan`.

        Returns:
            A `SlotRef`, or None if no slot came free in time.
        """
        cdef Py_buffer source
        cdef Loan loan
        cdef unsigned char *at
        _readers(readers)
        PyObject_GetBuffer(data, &source, PyBUF_STRIDED_RO)
        try:
            loan = self.loan(source.len, timeout_s)
            if loan is None:
                return None
            at = self._data(loan.slot)
            if source.len < _COPY_WITHOUT_GIL_NBYTES:
                _copy(at, &source)
            else:
                with nogil:
                    _copy(at, &source)
        finally:
            PyBuffer_Release(&source)
        return loan.commit(None, readers)

    def acquire(self, int64_t slot, uint64_t generation):
        """Make a lease in flight ours; slot and generation are those of the descriptor.

        Returns:
            A read-only `View` that holds the lease.

        Raises:
            FrameFormatError: the arena has no such slot.
            StaleFrame: the slot was reused, or that lease was taken, dropped or reaped.
        """
        cdef View view = View.__new__(View)
        view._ticket = self._adopt(slot, generation, RING_HELD)
        view.slot = <uint32_t> slot
        view.generation = generation >> 16 << 16 | self._ring.holder
        view._arena = self
        view._open = view._wanted = True
        self._live += 1
        view.nbytes = ring_payload(&self._ring, view.slot)
        if not 0 <= view.nbytes <= <int64_t> ring_class_of(&self._ring, view.slot).slot_nbytes:
            raise FrameFormatError(f"payload of {view.nbytes} bytes exceeds slot {slot}")
        return view

    def adopt(self, int64_t slot, uint64_t generation):
        """Answer for a lease in flight from now on, without looking at it: to send it on.

        Errors are those of `acquire`; returns the `SlotRef` to send.
        """
        self._adopt(slot, generation, RING_TRANSIT)
        return _reference(self, <uint32_t> slot, generation >> 16)

    def drop(self, int64_t slot, uint64_t generation):
        """End a lease in flight that nobody shall acquire; False if it was not in flight."""
        cdef int ticket = self._take(slot, generation, RING_HELD)
        return ticket >= 0 and ring_release(
            &self._ring, <uint32_t> slot, generation >> 16, ticket, RING_HELD)

    def share(self, int64_t slot, uint64_t generation, readers=1):
        """Add `readers` leases in flight, ours until adopted, to a slot still in this use.

        Returns:
            The `SlotRef` to send to each of the new readers.

        Raises:
            StaleFrame: the slot is free or reused; nothing was added.
            TransportError: the slot would have more than 56 leases; nothing was added.
        """
        self._require_slot(slot)
        cdef uint32_t n = _readers(readers)
        cdef int status = ring_share(&self._ring, <uint32_t> slot, generation >> 16, n)
        if status == RING_CROWDED:
            raise TransportError(f"{readers} more readers exceed the {MAX_LEASES} of slot {slot}")
        if status != RING_OK:
            raise _stale(self, slot, generation)
        return _reference(self, <uint32_t> slot, generation >> 16)

    def reap(self):
        """Take the leases of dead processes back; safe beside whatever the living do.

        About 20 microseconds per attached process: once in a second is often enough.

        Raises:
            TransportError: this process is not the owner.
        """
        cdef ring_reaped reaped
        self._require_open()
        if not self.owner:
            raise TransportError(f"arena {self.name} is reaped by its owner only")
        ring_reap(&self._ring, &reaped)
        return ReapReport(reaped.processes, reaped.leases, reaped.slots)

    def stats(self):
        """Count; consistent while nobody is at work, close to it otherwise."""
        self._require_open()
        sizes = [_class_stats(&self._ring, k) for k in range(self._ring.header.n_classes)]
        sums = [sum(getattr(size, key) for size in sizes) for key in ClassStats.__slots__[1:]]
        sums.append(ring_count_processes(&self._ring))
        sums += [ring_tallied(&self._ring, <ring_tally_kind> k) for k in range(4)]
        return ArenaStats(*sums, tuple(sizes))

    def check(self):
        """Verify that every slot is in exactly one place; call it while nobody is at work.

        Raises:
            TransportError: the first slot that is not, and why.
        """
        cdef uint32_t slot
        self._require_open()
        cdef const char *fault = ring_check(&self._ring, &slot)
        if fault != NULL:
            raise TransportError(f"slot {slot} {fault.decode()}")

    def close(self):
        """Leave the arena; the owner's file goes at once. Harmless when called again.

        Leases in flight that nobody has adopted are taken back. Loans and views that still exist
        keep this attachment and its mappings until they end.
        """
        if self._open:
            self._close()

    def _die(self):
        """Look like a process that was killed, to all others. For tests."""
        self._require_open()
        ring_forge_death(&self._ring)
        self._gone = True
        self._close()

    cdef void _close(self) noexcept:
        self._open = False
        if self._is_ours():
            if self.owner:
                unlink(self._path)
            ring_wake(&self._ring)
        self._live += 1
        self._let_go()

    cdef void _let_go(self) noexcept:
        self._live -= 1
        if self._live == 0 and not self._open:
            if self._is_ours():
                ring_leave(&self._ring)
            ring_unmap(&self._ring)

    cdef bint _is_ours(self) noexcept:
        return self._forks == ring_forks and not self._gone

    cdef unsigned char *_data(self, uint32_t slot) noexcept:
        cdef uint64_t offset = ring_offset(&self._ring, slot)
        return self._ring.data + (offset - self._ring.header.control_nbytes)

    cdef int _require_open(self) except -1:
        if not self._open:
            raise ChannelClosed(f"arena {self.name} is closed")
        if not self._is_ours():
            raise TransportError(f"arena {self.name} was opened before a fork: attach again")

    cdef int _require_slot(self, int64_t slot) except -1:
        self._require_open()
        if not 0 <= slot < self._ring.header.n_slots:
            raise FrameFormatError(f"slot {slot} is none of the {self._ring.header.n_slots}")

    cdef int _take(self, int64_t slot, uint64_t generation, int kind) except? -1:
        self._require_slot(slot)
        cdef uint32_t holder = generation & 0xFFFF
        return ring_adopt(&self._ring, <uint32_t> slot, generation >> 16, holder, kind)

    cdef int _adopt(self, int64_t slot, uint64_t generation, int kind) except -1:
        cdef int ticket = self._take(slot, generation, kind)
        if ticket < 0:
            raise _stale(self, slot, generation)
        return ticket

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        return f"<Arena {self.name}, {self.nbytes} bytes, {'open' if self._open else 'closed'}>"

    def __dealloc__(self):
        if self._open:
            self._close()
