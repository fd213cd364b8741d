"""The descriptor header, compiled; `reference_header` has its table and is the specification.

A `Header` holds its 136 bytes as they travel: packing copies them, unpacking copies and checks
them, and a field becomes a Python object only when somebody asks for it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from operator import index

from vdag.errors import FrameFormatError


cdef extern from "header_kernel.h":
    ctypedef struct vdag_header:
        char magic[4]
        uint16_t version, header_nbytes
        uint32_t flags
        uint8_t kind, dtype, ndim, hop
        uint64_t plan, stream, seq, cam_frame_id
        int64_t capture_ns, deadline_ns, pts_ns
        uint32_t shape[4]
        uint64_t arena, generation, offset, payload_nbytes
        uint32_t slot, route_nbytes, context_nbytes, padding


cdef enum:
    NBYTES = 136
    CODE_NONE = 0
    CODE_INLINE = 1
    CODE_SLOT = 2
    LAST_KIND = 4
    LAST_DTYPE = 11
    HOP_LIMIT = 64
    NDIM_LIMIT = 4

cdef uint64_t OFFSET_LIMIT = 1 << 40
cdef uint64_t PAYLOAD_LIMIT = 1 << 30
cdef uint64_t ROUTE_LIMIT = 1 << 16
cdef uint64_t CONTEXT_LIMIT = 1 << 24
cdef uint64_t[12] ITEM_NBYTES = [0, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8]

MAGIC = b"VDAG"
VERSION = 1
HEADER_NBYTES = NBYTES
MAX_HOP = HOP_LIMIT
MAX_NDIM = NDIM_LIMIT
MAX_OFFSET = OFFSET_LIMIT
MAX_PAYLOAD_NBYTES = PAYLOAD_LIMIT
MAX_ROUTE_NBYTES = ROUTE_LIMIT
MAX_CONTEXT_NBYTES = CONTEXT_LIMIT
KIND_NONE, KIND_INLINE, KIND_SLOT, KIND_JPEG, KIND_H264 = range(5)
KINDS = ("none", "inline", "slot", "jpeg", "h264")
DTYPES = ("none", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
          "float16", "float32", "float64")

# The constructor's fields with the bits of their unsigned integers; 0 is a signed one of 64.
cdef tuple INTEGERS = (
    ("kind", 8), ("dtype", 8), ("shape", 32), ("flags", 32), ("hop", 8), ("plan", 64),
    ("stream", 64), ("seq", 64), ("cam_frame_id", 64), ("capture_ns", 0), ("deadline_ns", 0),
    ("pts_ns", 0), ("payload_nbytes", 64), ("route_nbytes", 32), ("context_nbytes", 32),
    ("arena", 64), ("slot", 32), ("generation", 64), ("offset", 64),
)


@cython.final
@cython.freelist(64)
cdef class Header:
    """Header(*, kind=0, dtype=0, shape=(), flags=0, hop=0, plan=0, stream=0, seq=0, \
cam_frame_id=0, capture_ns=0, deadline_ns=0, pts_ns=None, payload_nbytes=0, route_nbytes=0, \
context_nbytes=0, arena=0, slot=0, generation=0, offset=0)
--

    The fixed part of a descriptor; immutable, comparable, hashable, and always valid.

    The attributes are the constructor's keywords, described in the stub and in the reference.

    Raises:
        FrameFormatError: a field is out of its range or limit, or two contradict each other.
    """

    cdef vdag_header raw

    def __cinit__(self):
        _blank(&self.raw)

    # 19 fields are longer than a screen; splitting them would only spread them out.
    def __init__(self, *, kind=0, dtype=0, shape=(), flags=0, hop=0, plan=0, stream=0, seq=0,
                 cam_frame_id=0, capture_ns=0, deadline_ns=0, pts_ns=None, payload_nbytes=0,
                 route_nbytes=0, context_nbytes=0, arena=0, slot=0, generation=0, offset=0):
        cdef vdag_header raw
        cdef Py_ssize_t axis, ndim
        sizes = tuple(shape)
        ndim = len(sizes)
        _blank(&raw)
        try:
            raw.kind = _int(kind)
            raw.dtype = _int(dtype)
            if ndim > NDIM_LIMIT:
                raise FrameFormatError(f"ndim {ndim} exceeds limit {NDIM_LIMIT}")
            raw.ndim = <uint8_t>ndim
            for axis in range(ndim):
                raw.shape[axis] = _int(sizes[axis])
            raw.flags = _int(flags)
            raw.hop = _int(hop)
            raw.plan = _int(plan)
            raw.stream = _int(stream)
            raw.seq = _int(seq)
            raw.cam_frame_id = _int(cam_frame_id)
            raw.capture_ns = _int(capture_ns)
            raw.deadline_ns = _int(deadline_ns)
            if pts_ns is not None:
                raw.pts_ns = _int(pts_ns)
                if raw.pts_ns == INT64_MIN:
                    raise OverflowError("this value stands for none")
            raw.payload_nbytes = _int(payload_nbytes)
            raw.route_nbytes = _int(route_nbytes)
            raw.context_nbytes = _int(context_nbytes)
            raw.arena = _int(arena)
            raw.slot = _int(slot)
            raw.generation = _int(generation)
            raw.offset = _int(offset)
        except OverflowError as err:
            raise _out_of_range((
                kind, dtype, sizes, flags, hop, plan, stream, seq, cam_frame_id, capture_ns,
                deadline_ns, pts_ns, payload_nbytes, route_nbytes, context_nbytes, arena, slot,
                generation, offset,
            )) from err
        _check_fields(&raw)
        self.raw = raw  # only now, so that a header is valid at any time

    @property
    def kind(self):
        return self.raw.kind

    @property
    def dtype(self):
        return self.raw.dtype

    @property
    def shape(self):
        return _shape(&self.raw)

    @property
    def ndim(self):
        return self.raw.ndim

    @property
    def flags(self):
        return self.raw.flags

    @property
    def hop(self):
        return self.raw.hop

    @property
    def plan(self):
        return self.raw.plan

    @property
    def stream(self):
        return self.raw.stream

    @property
    def seq(self):
        return self.raw.seq

    @property
    def cam_frame_id(self):
        return self.raw.cam_frame_id

    @property
    def capture_ns(self):
        return self.raw.capture_ns

    @property
    def deadline_ns(self):
        return self.raw.deadline_ns

    @property
    def pts_ns(self):
        return None if self.raw.pts_ns == INT64_MIN else self.raw.pts_ns

    @property
    def payload_nbytes(self):
        return self.raw.payload_nbytes

    @property
    def route_nbytes(self):
        return self.raw.route_nbytes

    @property
    def context_nbytes(self):
        return self.raw.context_nbytes

    @property
    def arena(self):
        return self.raw.arena

    @property
    def slot(self):
        return self.raw.slot

    @property
    def generation(self):
        return self.raw.generation

    @property
    def offset(self):
        return self.raw.offset

    def replace(self, **changes):
        """Return a header with some fields changed; this one stays as it is.

        Raises:
            FrameFormatError: the result would not be valid.
            TypeError: there is no such field.
        """
        values = {name: getattr(self, name) for name, _ in INTEGERS}
        values.update(changes)
        return Header(**values)

    def __eq__(self, other):
        # Equal fields are equal bytes: what is unused is zero.
        if type(other) is not Header:
            return NotImplemented
        return memcmp(&self.raw, &(<Header>other).raw, NBYTES) == 0

    def __hash__(self):
        return hash(pack(self))

    def __repr__(self):
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name, _ in INTEGERS)
        return f"Header({values})"


def pack(Header header not None):
    """Return the header's `HEADER_NBYTES` bytes."""
    return PyBytes_FromStringAndSize(<const char *>&header.raw, NBYTES)


def pack_into(Header header not None, buffer, Py_ssize_t offset=0):
    """Write the header's `HEADER_NBYTES` bytes into `buffer`, which the caller owns.

    Raises:
        FrameFormatError: the buffer is read-only, not contiguous or too short from `offset` on.
            It is then untouched.
    """
    cdef Py_buffer view
    try:
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    except (BufferError, ValueError) as err:
        raise FrameFormatError("buffer is not contiguous and writable") from err
    try:
        _check_room(view.len, offset)
        memcpy(<char *>view.buf + offset, &header.raw, NBYTES)
    finally:
        PyBuffer_Release(&view)


def unpack(buffer, Py_ssize_t offset=0):
    """Read a header; the buffer is not referred to afterwards.

    Args:
        buffer: contiguous bytes from anywhere: nothing in them is trusted. Read only.
        offset: where the header starts.

    Raises:
        FrameFormatError: the bytes are not a valid header of this version; the message names the
            field, its value and the limit.
    """
    cdef Py_buffer view
    cdef Header header = Header.__new__(Header)
    try:
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    except (BufferError, ValueError) as err:
        raise FrameFormatError("buffer is not contiguous") from err
    try:
        _check_room(view.len, offset)
        # Copied before it is checked: the writer of a shared buffer may still be at work.
        memcpy(&header.raw, <const char *>view.buf + offset, NBYTES)
    finally:
        PyBuffer_Release(&view)
    _check_frame(&header.raw)
    _check_fields(&header.raw)
    return header


cdef inline object _int(object value):
    # Cython by itself would cut a float off.
    return value if isinstance(value, int) else index(value)


cdef void _blank(vdag_header *raw) noexcept:
    memset(raw, 0, NBYTES)
    memcpy(raw.magic, b"VDAG", 4)
    raw.version = 1
    raw.header_nbytes = NBYTES
    raw.pts_ns = INT64_MIN


cdef tuple _shape(const vdag_header *raw):
    return tuple([raw.shape[axis] for axis in range(raw.ndim)])


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
