# What is made of an arena's slots: references, loans and views. Part of ring.pyx.

@cython.final
@cython.no_gc
@cython.freelist(32)
cdef class SlotRef:
    """One or more leases in flight: what a descriptor has to say about its pixels.

    A reference is a number plate, not an owner: losing it returns nothing. The leases belong to the
    process that made it until somebody acquires, adopts or drops them, or that process dies.

    Attributes:
        slot: number of the slot in its arena.
        generation: says which use of the slot and whose lease; opaque, below 2^56. The same slot
            has another in its next use, and for leases that another process answers for.
        nbytes: length of the payload.
        offset: where it begins, in bytes from the start of the arena's file.
        arena_id: number of the arena.
    """

    cdef readonly uint32_t slot
    cdef readonly uint64_t generation, nbytes, offset, arena_id
    cdef Arena _arena

    def share(self, readers=1):
        """Add leases in flight for more readers, see `Arena.share`."""
        return self._arena.share(self.slot, self.generation, readers)

    def drop(self):
        """Take one of these leases back, see `Arena.drop`."""
        return self._arena.drop(self.slot, self.generation)

    def _key(self):
        return self.arena_id, self.slot, self.generation

    def __eq__(self, other):
        return isinstance(other, SlotRef) and self._key() == (<SlotRef> other)._key()

    def __hash__(self):
        return hash(self._key())

    def __repr__(self):
        return f"SlotRef(slot={self.slot}, generation={self.generation}, nbytes={self.nbytes})"


cdef object _stale(Arena arena, int64_t slot, uint64_t generation):
    ring_tally(&arena._ring, RING_STALES, 1)
    reused = ring_generation(&arena._ring, <uint32_t> slot) != generation >> 16
    reason = "is over" if reused else "has no lease in flight"
    return StaleFrame(f"generation {generation} of slot {slot} {reason}")


cdef SlotRef _reference(Arena arena, uint32_t slot, uint64_t use):
    cdef SlotRef ref = SlotRef.__new__(SlotRef)
    ref.slot = slot
    ref.generation = use << 16 | arena._ring.holder
    ref.nbytes = ring_payload(&arena._ring, slot)
    ref.offset = ring_offset(&arena._ring, slot)
    ref.arena_id = arena._ring.header.arena_id
    ref._arena = arena
    return ref


@cython.final
@cython.no_gc
@cython.freelist(32)
cdef class Loan:
    """A slot that is ours to write: a writable buffer of `nbytes` bytes.

    `np.frombuffer(loan, np.uint8)` writes straight into shared memory. The loan belongs to whoever
    has this object: it ends with `commit`, with `abandon`, or when the object is lost. Its bytes
    are whatever was there before. Arrays over a loan that has ended still point to the slot: they
    are not to be read or written any more, for the pixels belong to the readers now.
    """

    cdef readonly uint32_t slot
    cdef readonly Py_ssize_t nbytes
    cdef uint64_t _use
    cdef Arena _arena
    cdef bint _open
    cdef int _exports

    def commit(self, nbytes=None, readers=1):
        """Make what was written readable and end the loan.

        Args:
            nbytes: length of the payload if it is shorter than the loan, as with encoded pictures.
            readers: how many leases go into flight, one for each who will acquire.

        Returns:
            A `SlotRef` that stands for these leases.

        Raises:
            ConfigError: a number is out of range; the loan stays open.
            ChannelClosed: the arena was closed, or this loan has ended.
            StaleFrame: the slot was taken away, because this process was believed dead.
        """
        self._arena._require_open()
        if not self._open:
            raise ChannelClosed(f"loan of slot {self.slot} has ended")
        cdef Py_ssize_t length = self.nbytes if nbytes is None else nbytes
        if not 0 <= length <= self.nbytes:
            raise ConfigError(f"nbytes of {length} is not between 0 and {self.nbytes}")
        cdef int status = ring_commit(
            &self._arena._ring, self.slot, self._use, length, _readers(readers)
        )
        self._end()
        if status != RING_OK:
            raise StaleFrame(f"loan of slot {self.slot} was taken back")
        return _reference(self._arena, self.slot, self._use)

    def abandon(self):
        """Give the slot back without anybody having seen it; harmless when the loan has ended."""
        if self._open:
            self._give_back()

    cdef void _give_back(self) noexcept:
        if self._arena._is_ours():
            ring_abandon(&self._arena._ring, self.slot, self._use)
        self._end()

    cdef void _end(self) noexcept:
        self._open = False
        if self._exports == 0:
            self._arena._let_go()

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if not self._open:
            raise BufferError(f"loan of slot {self.slot} has ended")
        PyBuffer_FillInfo(buffer, self, self._arena._data(self.slot), self.nbytes, False, flags)
        self._exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self._exports -= 1
        if self._exports == 0 and not self._open:
            self._arena._let_go()

    def __len__(self):
        return self.nbytes

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.abandon()

    def __dealloc__(self):
        if self._open:
            self._give_back()


@cython.final
@cython.no_gc
@cython.freelist(32)
cdef class View:
    """A lease on a committed slot: a read-only buffer of `nbytes` bytes.

    `np.frombuffer(view, np.uint8)` reads shared memory. The lease ends when `release` was called or
    the object is lost, but never while an array or memoryview over it lives: nobody's pixels
    change under them.
    """

    cdef readonly uint32_t slot
    cdef readonly uint64_t generation
    cdef readonly Py_ssize_t nbytes
    cdef Arena _arena
    cdef bint _open, _wanted
    cdef int _exports, _ticket

    def release(self):
        """End the lease, now or with the last array over it; harmless when called again."""
        self._wanted = False
        if self._exports == 0:
            self._end()

    def share(self, readers=1):
        """Add leases in flight, to send the same pixels on; see `Arena.share`."""
        return self._arena.share(self.slot, self.generation, readers)

    cdef void _end(self) noexcept:
        if self._open:
            self._open = False
            if self._arena._is_ours():
                ring_release(
                    &self._arena._ring, self.slot, self.generation >> 16, self._ticket, RING_HELD
                )
            self._arena._let_go()

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if not self._wanted:
            raise BufferError(f"view of slot {self.slot} has been released")
        PyBuffer_FillInfo(buffer, self, self._arena._data(self.slot), self.nbytes, True, flags)
        self._exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self._exports -= 1
        if self._exports == 0 and not self._wanted:
            self._end()

    def __len__(self):
        return self.nbytes

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.release()

    def __dealloc__(self):
        self._end()
