# How Python's values become fields, and fields values. Part of header.pyx.


cdef inline object _int(object value):
    # Cython by itself would cut a float off.
    return value if isinstance(value, int) else index(value)


cdef void _blank(vdag_header *raw) noexcept:
    memset(raw, 0, NBYTES)
    memcpy(raw.magic, b"VDAG", 4)
    raw.version = 1
    raw.header_nbytes = NBYTES
    raw.pts_ns = INT64_MIN


cdef int _set_shape(vdag_header *raw, tuple sizes) except -1:
    cdef Py_ssize_t axis, ndim = len(sizes)
    if ndim > NDIM_LIMIT:
        raise FrameFormatError(f"ndim {ndim} exceeds limit {NDIM_LIMIT}")
    raw.ndim = <uint8_t>ndim
    for axis in range(NDIM_LIMIT):
        raw.shape[axis] = _int(sizes[axis]) if axis < ndim else 0
    return 0


cdef int _set_pts(vdag_header *raw, object pts_ns) except -1:
    cdef int64_t value = INT64_MIN if pts_ns is None else _int(pts_ns)
    if value == INT64_MIN and pts_ns is not None:
        raise OverflowError("this value stands for none")
    raw.pts_ns = value
    return 0


# One line per field; those that change from hop to hop come first.
cdef int _set(vdag_header *raw, str name, object value) except -1:
    if name == "hop":
        raw.hop = _int(value)
    elif name == "generation":
        raw.generation = _int(value)
    elif name == "context_nbytes":
        raw.context_nbytes = _int(value)
    elif name == "kind":
        raw.kind = _int(value)
    elif name == "dtype":
        raw.dtype = _int(value)
    elif name == "shape":
        _set_shape(raw, tuple(value))
    elif name == "payload_nbytes":
        raw.payload_nbytes = _int(value)
    elif name == "arena":
        raw.arena = _int(value)
    elif name == "slot":
        raw.slot = _int(value)
    elif name == "offset":
        raw.offset = _int(value)
    elif name == "route_nbytes":
        raw.route_nbytes = _int(value)
    elif name == "link_nbytes":
        raw.link_nbytes = _int(value)
    elif name == "plan":
        raw.plan = _int(value)
    elif name == "stream":
        raw.stream = _int(value)
    elif name == "seq":
        raw.seq = _int(value)
    elif name == "cam_frame_id":
        raw.cam_frame_id = _int(value)
    elif name == "capture_ns":
        raw.capture_ns = _int(value)
    elif name == "deadline_ns":
        raw.deadline_ns = _int(value)
    elif name == "pts_ns":
        _set_pts(raw, value)
    else:
        raise TypeError(f"a header has no field {name!r}")
    return 0


cdef tuple _shape(const vdag_header *raw):
    return tuple([raw.shape[axis] for axis in range(raw.ndim)])
