"""The C side of the arena: what ring.pyx calls in ring_kernel.c, ring_segment.c, ring_census.c."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "ring_kernel.h" nogil:
    enum: RING_VERSION, RING_LEASES, RING_CLASSES, RING_SLOTS
    const uint64_t RING_MAGIC, RING_GENERATIONS
    enum: RING_OK, RING_STALE, RING_CROWDED, RING_FULL
    enum: RING_NOT_ARENA, RING_OTHER_VERSION, RING_BAD_LAYOUT, RING_TRUNCATED, RING_EXPOSED
    enum: RING_OTHER_NAMESPACE, RING_ORPHAN, RING_ERRNO
    enum: RING_TRANSIT, RING_HELD
    enum ring_tally_kind "ring_tally": RING_WAITS, RING_MISSES, RING_STALES, RING_RECLAIMED

    struct ring_class:
        uint64_t slot_nbytes, stride, data_offset
        uint32_t first, count

    struct ring_header:
        uint64_t magic, total_nbytes, control_nbytes, arena_id, owner, pid_namespace
        uint32_t version, page_nbytes, n_classes, n_slots
        ring_class classes[16]

    struct ring_t "ring":
        ring_header header
        unsigned char *data
        uint32_t holder
        bint writable

    struct ring_counts:
        uint32_t free, loaned, committed, leases

    struct ring_reaped:
        uint32_t processes, leases, slots

    unsigned ring_forks
    int ring_crash_at
    const char *ring_point_name(int point)

    int ring_layout(ring_header *header)
    int ring_create(ring_t *ring, const char *path, bint prefault)
    int ring_inspect(const char *path, ring_header *header)
    int ring_attach(ring_t *ring, const char *path, bint writable, bint prefault)
    void ring_unmap(ring_t *ring)
    uint64_t ring_free_nbytes()
    int ring_self(ring_header *header)
    void ring_gather(unsigned char *dst, const unsigned char *src, int ndim,
                     const Py_ssize_t *shape, const Py_ssize_t *strides, size_t itemsize)

    const ring_class *ring_class_of(const ring_t *ring, uint32_t slot)
    uint64_t ring_offset(const ring_t *ring, uint32_t slot)
    uint64_t ring_generation(const ring_t *ring, uint32_t slot)
    uint64_t ring_payload(const ring_t *ring, uint32_t slot)
    int64_t ring_loan(ring_t *ring, uint64_t nbytes)
    int ring_commit(ring_t *ring, uint32_t slot, uint64_t generation, uint64_t nbytes,
                    uint32_t readers)
    void ring_abandon(ring_t *ring, uint32_t slot, uint64_t generation)
    int ring_adopt(ring_t *ring, uint32_t slot, uint64_t generation, uint32_t holder,
                   int kind)
    int ring_share(ring_t *ring, uint32_t slot, uint64_t generation, uint32_t readers)
    bint ring_release(ring_t *ring, uint32_t slot, uint64_t generation, int ticket, int kind)
    uint32_t ring_freed(const ring_t *ring)
    void ring_mark_waiting(ring_t *ring, bint waiting)
    int ring_wait(ring_t *ring, uint32_t seen, int64_t timeout_ns)
    void ring_wake(ring_t *ring)
    void ring_leave(ring_t *ring)
    void ring_forge_death(ring_t *ring)
    void ring_reap(ring_t *ring, ring_reaped *reaped)
    void ring_tally(ring_t *ring, ring_tally_kind what, uint64_t n)
    uint64_t ring_tallied(const ring_t *ring, ring_tally_kind what)
    void ring_count(const ring_t *ring, const ring_class *size, ring_counts *counts)
    uint32_t ring_count_processes(const ring_t *ring)
    const char *ring_check(const ring_t *ring, uint32_t *slot)
