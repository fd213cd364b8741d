# The way into an arena: names, arguments and refusals. Part of ring.pyx.

MAX_LEASES = RING_LEASES
CRASH_POINTS = {}
cdef int _point = 1
while ring_point_name(_point) != NULL:
    CRASH_POINTS[ring_point_name(_point).decode()] = _point
    _point += 1

cdef object _NAME = re.compile(r"vdag-[A-Za-z0-9._-]{1,128}").fullmatch
cdef object _NODE = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
cdef double _LONGEST_WAIT_S = 86400.0
cdef Py_ssize_t _COPY_WITHOUT_GIL_NBYTES = 1 << 16

cdef dict _MALFORMED = {
    RING_NOT_ARENA: "is not an arena",
    RING_OTHER_VERSION: "is of another version",
    RING_BAD_LAYOUT: "has a layout that contradicts itself",
    RING_TRUNCATED: "is shorter than it claims",
}
cdef dict _REFUSED = {
    RING_EXPOSED: "belongs to another user or is open to others",
    RING_OTHER_NAMESPACE: "belongs to another pid namespace",
    RING_ORPHAN: "has lost its owner",
    RING_CROWDED: "has no entry left for another process",
}


def sweep(prefix="vdag-"):
    """Remove the arenas of this user whose owner is dead.

    Processes that still have one mapped keep their memory; only its name goes.

    Args:
        prefix: beginning of the names to look at; names that do not begin with `vdag-` are never
            touched, nor are files that are no valid arena.

    Returns:
        Names of the arenas that were removed, in order.
    """
    cdef ring_header header
    removed = []
    for name in sorted(os.listdir("/dev/shm")):
        if not (name.startswith(prefix) and _NAME(name)):
            continue
        path = _path_of(name)
        if ring_inspect(path, &header) == RING_ORPHAN:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue  # another sweep was faster
            removed.append(name)
    return removed


def _crash_at(int point):
    """End this process without a farewell when it next comes to `point`; 0 disarms. For tests."""
    global ring_crash_at
    ring_crash_at = point


cdef bytes _path_of(str name):
    if not _NAME(name):
        raise ConfigError(f"arena name {name!r} is not vdag- and up to 128 of A-Z a-z 0-9 . _ -")
    return b"/dev/shm/" + name.encode()


cdef int64_t _nanoseconds(double timeout_s) except -1:
    if not 0.0 <= timeout_s <= _LONGEST_WAIT_S:
        raise ConfigError(f"timeout_s of {timeout_s} is not between 0 and {_LONGEST_WAIT_S:.0f}")
    return <int64_t> (timeout_s * 1e9)


cdef uint32_t _readers(long readers) except 0:
    if not 1 <= readers <= RING_LEASES:
        raise ConfigError(f"readers of {readers} is not between 1 and {RING_LEASES}")
    return <uint32_t> readers


cdef object _refusal(str name, int status, int error, uint64_t nbytes):
    if status in _MALFORMED:
        return FrameFormatError(f"arena {name} {_MALFORMED[status]}")
    if status in _REFUSED:
        return TransportError(f"arena {name} {_REFUSED[status]}")
    if error == ENOSPC:
        free = ring_free_nbytes()
        return TransportError(f"arena of {nbytes} bytes exceeds the {free} bytes free in /dev/shm")
    return TransportError(f"arena {name}: {os.strerror(error).lower()}")


cdef int _lay_out(ring_header *header, classes) except -1:
    sizes = sorted((int(nbytes), int(count)) for nbytes, count in classes)
    if not 1 <= len(sizes) <= RING_CLASSES:
        raise ConfigError(f"{len(sizes)} slot classes are not between 1 and {RING_CLASSES}")
    memset(header, 0, sizeof(ring_header))
    if ring_self(header) != 0:
        raise TransportError(f"/proc/self/stat: {os.strerror(errno).lower()}")
    header.magic = RING_MAGIC
    header.version = RING_VERSION
    header.page_nbytes = os.sysconf("SC_PAGESIZE")
    header.arena_id = int.from_bytes(os.urandom(8), "little")
    header.n_classes = len(sizes)
    for k, (nbytes, count) in enumerate(sizes):
        if not (0 < nbytes <= 1 << 36 and 0 < count <= RING_SLOTS):
            raise ConfigError(f"{count} slots of {nbytes} bytes exceed 1 to 65536 of 1 to 2^36")
        header.classes[k].slot_nbytes = nbytes
        header.classes[k].count = count
    if ring_layout(header) != 0:
        raise ConfigError(f"slot classes {sizes} repeat a size or exceed {RING_SLOTS} slots")


cdef void _copy(unsigned char *at, Py_buffer *source) noexcept nogil:
    ring_gather(
        at, <unsigned char *> source.buf, source.ndim, source.shape, source.strides,
        source.itemsize
    )


cdef object _class_stats(ring_t *ring, int k):
    cdef ring_counts counts
    cdef const ring_class *size = &ring.header.classes[k]
    ring_count(ring, size, &counts)
    return ClassStats(
        size.slot_nbytes, size.count, counts.free, counts.loaned, counts.committed, counts.leases
    )
