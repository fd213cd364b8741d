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
        uint32_t link_nbytes
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
    INLINE_LIMIT = 4096

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
MAX_INLINE_NBYTES = INLINE_LIMIT
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
    ("kind", 8), ("dtype", 8), ("shape", 32), ("link_nbytes", 32), ("hop", 8), ("plan", 64),
    ("stream", 64), ("seq", 64), ("cam_frame_id", 64), ("capture_ns", 0), ("deadline_ns", 0),
    ("pts_ns", 0), ("payload_nbytes", 64), ("route_nbytes", 32), ("context_nbytes", 32),
    ("arena", 64), ("slot", 32), ("generation", 64), ("offset", 64),
)


@cython.final
@cython.freelist(64)
cdef class Header:
    """Header(*, kind=0, dtype=0, shape=(), link_nbytes=0, hop=0, plan=0, stream=0, seq=0, \
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
    def __init__(self, *, kind=0, dtype=0, shape=(), link_nbytes=0, hop=0, plan=0, stream=0, seq=0,
                 cam_frame_id=0, capture_ns=0, deadline_ns=0, pts_ns=None, payload_nbytes=0,
                 route_nbytes=0, context_nbytes=0, arena=0, slot=0, generation=0, offset=0):
        cdef vdag_header raw
        sizes = tuple(shape)
        _blank(&raw)
        try:
            raw.kind = _int(kind)
            raw.dtype = _int(dtype)
            _set_shape(&raw, sizes)
            raw.link_nbytes = _int(link_nbytes)
            raw.hop = _int(hop)
            raw.plan = _int(plan)
            raw.stream = _int(stream)
            raw.seq = _int(seq)
            raw.cam_frame_id = _int(cam_frame_id)
            raw.capture_ns = _int(capture_ns)
            raw.deadline_ns = _int(deadline_ns)
            _set_pts(&raw, pts_ns)
            raw.payload_nbytes = _int(payload_nbytes)
            raw.route_nbytes = _int(route_nbytes)
            raw.context_nbytes = _int(context_nbytes)
            raw.arena = _int(arena)
            raw.slot = _int(slot)
            raw.generation = _int(generation)
            raw.offset = _int(offset)
        except OverflowError as err:
            raise _out_of_range((
                kind, dtype, sizes, link_nbytes, hop, plan, stream, seq, cam_frame_id, capture_ns,
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
    def link_nbytes(self):
        return self.raw.link_nbytes

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
        cdef Header header = Header.__new__(Header)
        header.raw = self.raw
        try:
            for name, value in changes.items():
                _set(&header.raw, name, value)
        except OverflowError as err:
            values = {name: getattr(self, name) for name, _ in INTEGERS} | changes
            raise _out_of_range(tuple(values.values())) from err
        _check_fields(&header.raw)
        return header

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


def pack(Header header not None, *, route_nbytes=None, context_nbytes=None):
    """Return the header's `HEADER_NBYTES` bytes, with other lengths if they are given.

    Raises:
        FrameFormatError: a length is out of its range.
    """
    cdef vdag_header raw
    if route_nbytes is None and context_nbytes is None:
        return PyBytes_FromStringAndSize(<const char *>&header.raw, NBYTES)
    raw = header.raw
    if route_nbytes is not None:
        raw.route_nbytes = _length("route_nbytes", route_nbytes, ROUTE_LIMIT)
    if context_nbytes is not None:
        raw.context_nbytes = _length("context_nbytes", context_nbytes, CONTEXT_LIMIT)
    return PyBytes_FromStringAndSize(<const char *>&raw, NBYTES)


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
    cdef Header header = Header.__new__(Header)
    _read(&header.raw, buffer, offset, "buffer")
    return header


def unpack_message(parts):
    """Read the header of a descriptor's message, and compare the lengths of all parts with it.

    Args:
        parts: the message as it was received: contiguous buffers, of which nothing is trusted.

    Raises:
        FrameFormatError: the first part does not begin with a valid header, or the parts are not
            those that it announces. What lies between header and payload is not looked at.
    """
    cdef Header header = Header.__new__(Header)
    cdef Py_ssize_t count = len(parts), first
    if count == 0:
        raise FrameFormatError("a message of no parts is no descriptor")
    first = _read(&header.raw, parts[0], 0, "part")
    _check_lengths(&header.raw, count, first, _nbytes(parts[1]) if count == 2 else 0)
    return header


cdef Py_ssize_t _read(
    vdag_header *raw, object buffer, Py_ssize_t offset, str what
) except -1:
    """Read and check a header; return how long the buffer is."""
    cdef Py_buffer view
    cdef Py_ssize_t nbytes
    try:
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    except (BufferError, ValueError) as err:
        raise FrameFormatError(f"{what} is not contiguous") from err
    try:
        nbytes = view.len
        _check_room(nbytes, offset)
        # Copied before it is checked: the writer of a shared buffer may still be at work.
        memcpy(raw, <const char *>view.buf + offset, NBYTES)
    finally:
        PyBuffer_Release(&view)
    _check_frame(raw)
    _check_fields(raw)
    return nbytes


cdef Py_ssize_t _nbytes(object part) except -1:
    cdef Py_buffer view
    cdef Py_ssize_t nbytes
    try:
        PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
    except (BufferError, ValueError) as err:
        raise FrameFormatError("part is not contiguous") from err
    nbytes = view.len
    PyBuffer_Release(&view)
    return nbytes


include "header_fields.pxi"
include "header_checks.pxi"
