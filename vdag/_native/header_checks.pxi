# What a header must obey, and the errors that name what does not. Part of header.pyx.


cdef int _check_room(Py_ssize_t nbytes, Py_ssize_t offset) except -1:
    if offset < 0 or nbytes - offset < NBYTES:
        raise FrameFormatError(
            f"buffer of {nbytes} bytes has no header of {NBYTES} at offset {offset}"
        )
    return 0


cdef int _check_frame(const vdag_header *raw) except -1:
    cdef int axis
    if memcmp(raw.magic, b"VDAG", 4) != 0:
        raise FrameFormatError(f"magic {raw.magic[:4]!r} is not {MAGIC!r}")
    if raw.version != 1:
        raise FrameFormatError(f"version {raw.version} is not {VERSION}")
    if raw.header_nbytes != NBYTES:
        raise FrameFormatError(f"header_nbytes {raw.header_nbytes} is not {NBYTES}")
    if raw.padding != 0:
        raise FrameFormatError(f"padding {raw.padding} is not 0")
    _check_limit("ndim", raw.ndim, NDIM_LIMIT)
    for axis in range(raw.ndim, NDIM_LIMIT):
        if raw.shape[axis] != 0:
            raise FrameFormatError(f"shape[{axis}] {raw.shape[axis]} is not 0 with ndim {raw.ndim}")
    return 0


cdef int _check_lengths(
    const vdag_header *raw, Py_ssize_t count, Py_ssize_t first, Py_ssize_t second
) except -1:
    """Compare the number of parts and their lengths with what the header announces."""
    cdef bint is_carried = raw.kind != CODE_NONE and raw.kind != CODE_SLOT
    cdef Py_ssize_t carried = <Py_ssize_t>raw.payload_nbytes if is_carried else 0
    cdef bint is_long = carried > INLINE_LIMIT
    cdef Py_ssize_t due = NBYTES + <Py_ssize_t>raw.route_nbytes + <Py_ssize_t>raw.context_nbytes
    if not is_long:
        due += carried
    if first != due:
        raise FrameFormatError(f"first part of {first} bytes is not {due} bytes long")
    if count != (2 if is_long else 1):
        raise FrameFormatError(f"message of {count} parts with a payload of {carried} bytes")
    if is_long and second != carried:
        raise FrameFormatError(f"second part of {second} bytes is not {carried} bytes long")
    if raw.route_nbytes % 8:
        raise FrameFormatError(f"route_nbytes {raw.route_nbytes} is not a multiple of 8")
    return 0


cdef uint32_t _length(str name, object value, uint64_t limit) except? 0xFFFFFFFF:
    cdef uint32_t length
    try:
        length = _int(value)
    except OverflowError as err:
        raise FrameFormatError(f"{name} {index(value)} outside 0..{0xFFFFFFFF}") from err
    _check_limit(name, length, limit)
    return length


cdef inline int _check_limit(str name, uint64_t value, uint64_t limit) except -1:
    if value > limit:
        raise FrameFormatError(f"{name} {value} exceeds limit {limit}")
    return 0


cdef int _check_fields(const vdag_header *raw) except -1:
    _check_limit("kind", raw.kind, LAST_KIND)
    _check_limit("dtype", raw.dtype, LAST_DTYPE)
    _check_limit("hop", raw.hop, HOP_LIMIT)
    _check_limit("offset", raw.offset, OFFSET_LIMIT)
    _check_limit("payload_nbytes", raw.payload_nbytes, PAYLOAD_LIMIT)
    _check_limit("route_nbytes", raw.route_nbytes, ROUTE_LIMIT)
    _check_limit("context_nbytes", raw.context_nbytes, CONTEXT_LIMIT)
    return _check_together(raw)


cdef int _check_together(const vdag_header *raw) except -1:
    cdef bint is_raw = raw.kind == CODE_INLINE or raw.kind == CODE_SLOT
    cdef uint64_t nbytes
    if (raw.dtype == 0) != (raw.ndim == 0):
        raise FrameFormatError(f"ndim {raw.ndim} does not go with dtype {DTYPES[raw.dtype]}")
    if (raw.kind == CODE_NONE and raw.dtype != 0) or (is_raw and raw.dtype == 0):
        raise FrameFormatError(f"dtype {DTYPES[raw.dtype]} does not go with kind {KINDS[raw.kind]}")
    if raw.kind == CODE_NONE and raw.payload_nbytes != 0:
        raise FrameFormatError(f"payload_nbytes {raw.payload_nbytes} exceeds limit 0 of kind none")
    nbytes = _array_nbytes(raw)
    if nbytes > PAYLOAD_LIMIT:
        raise FrameFormatError(
            f"shape {_shape(raw)} of {DTYPES[raw.dtype]} exceeds limit {PAYLOAD_LIMIT} bytes"
        )
    if is_raw and raw.payload_nbytes != nbytes:
        raise FrameFormatError(
            f"payload_nbytes {raw.payload_nbytes} is not {nbytes}, "
            f"the size of shape {_shape(raw)} of {DTYPES[raw.dtype]}"
        )
    return 0


cdef uint64_t _array_nbytes(const vdag_header *raw) noexcept:
    """Bytes of the array, or any number above the limit as soon as its sizes exceed that."""
    cdef uint64_t nbytes = ITEM_NBYTES[raw.dtype]
    cdef bint empty = False
    cdef int axis
    for axis in range(raw.ndim):
        if raw.shape[axis] == 0:
            empty = True
            continue
        nbytes *= raw.shape[axis]  # at most 2**30 times less than 2**32: no overflow
        if nbytes > PAYLOAD_LIMIT:
            return nbytes
    return 0 if empty else nbytes


cdef object _out_of_range(tuple values):
    """Find the field that did not fit, for the message."""
    for (name, bits), value in zip(INTEGERS, values, strict=True):
        low, high = (0, (1 << bits) - 1) if bits else (-(1 << 63), (1 << 63) - 1)
        if name == "pts_ns":
            low, value = low + 1, 0 if value is None else value
        for axis, item in enumerate(value if name == "shape" else (value,)):
            if not low <= index(item) <= high:
                label = f"shape[{axis}]" if name == "shape" else name
                return FrameFormatError(f"{label} {index(item)} outside {low}..{high}")
    return FrameFormatError("a field is out of its range")
