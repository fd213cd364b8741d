"""The text form of bytes that the JSON fields carry: what `repr` writes and `eval` used to read.

A text is read by a strict parser of one bytes literal, so nothing in it can run. Loops are chosen
at run time; all give the same results and the same errors as `reference_literal`, which says what
is accepted.
"""

import os

from vdag._native.literal_terms import (
    LEVELS, check_ascii, check_max_nbytes, fault_error, view_of,
)
from vdag.errors import ConfigError, ImageError

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint8_t

__all__ = ["decode", "decode_into", "encode", "simd"]


cdef extern from "Python.h":
    Py_buffer *PyMemoryView_GET_BUFFER(object view) noexcept
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *nbytes) except NULL
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 max_character)
    void *PyUnicode_DATA(object text) noexcept
    # Raw pointers: an object that is still to be resized has one reference, held here.
    PyObject *PyBytes_FromStringAndSize(const char *text, Py_ssize_t nbytes) except NULL
    char *PyBytes_AS_STRING(PyObject *bytes_object) noexcept
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t nbytes) except -1


cdef extern from "literal_kernel.h" nogil:
    ctypedef int vdag_literal_fault

    ctypedef struct vdag_literal:
        const uint8_t *text
        size_t nbytes
        uint8_t *out
        size_t room
        size_t at
        size_t written

    ctypedef struct vdag_literal_size:
        size_t nbytes

    ctypedef struct vdag_literal_level:
        const char *name
        vdag_literal_size (*measure)(const uint8_t *data, size_t nbytes) noexcept nogil

    bint vdag_literal_encode(
        const vdag_literal_level *level, const uint8_t *data, size_t nbytes,
        vdag_literal_size size, uint8_t *text,
    ) noexcept
    vdag_literal_fault vdag_literal_decode(
        const vdag_literal_level *level, vdag_literal *literal
    ) noexcept
    const vdag_literal_level *vdag_literal_find_level(const char *name) noexcept


# Shorter texts are done before another thread would have got the GIL.
cdef enum:
    LONG_NBYTES = 32768

cdef const vdag_literal_level *level = NULL  # chosen when first needed


def encode(data):
    """Write bytes as the text of their literal: `repr(bytes(data))`.

    Args:
        data: contiguous buffer of any shape and format, whose bytes count. Read only.

    Returns:
        ASCII text, at most four characters per byte and three more.

    Raises:
        ImageError: `data` is not contiguous, or somebody changed it meanwhile.
    """
    cdef const vdag_literal_level *chosen = current_level()
    view = view_of(data, "data")
    cdef const uint8_t *source = <const uint8_t *>PyMemoryView_GET_BUFFER(view).buf
    cdef size_t nbytes = PyMemoryView_GET_BUFFER(view).len
    cdef vdag_literal_size size
    cdef uint8_t *written
    cdef bint fits
    if nbytes < LONG_NBYTES:
        size = chosen.measure(source, nbytes)
    else:
        with nogil:
            size = chosen.measure(source, nbytes)
    text = PyUnicode_New(size.nbytes, 127)
    written = <uint8_t *>PyUnicode_DATA(text)
    if nbytes < LONG_NBYTES:
        fits = vdag_literal_encode(chosen, source, nbytes, size, written)
    else:
        with nogil:
            fits = vdag_literal_encode(chosen, source, nbytes, size, written)
    if not fits:
        raise ImageError("data changed while it was encoded")
    return text


def decode(text, *, max_nbytes):
    """Read the bytes that a literal stands for.

    Args:
        text: one bytes literal: `str`, or a contiguous buffer of ASCII. Read only.
        max_nbytes: of the result; no more memory than this is taken.

    Returns:
        What `ast.literal_eval` would, for every text that is accepted.

    Raises:
        ImageError: `text` is not ASCII, not one bytes literal, or stands for too many bytes; the
            message says at which character.
        ConfigError: `max_nbytes` is negative.
    """
    cdef vdag_literal literal
    cdef vdag_literal_fault fault
    cdef PyObject *result
    check_max_nbytes(max_nbytes)
    _held = open_text(&literal, text)
    # Every byte has a character of its own, but for the b and a quote: so this is enough, whatever
    # the text is. Pages that are not written cost nothing.
    literal.room = min(max_nbytes, max(<Py_ssize_t>literal.nbytes - 2, 0))
    result = PyBytes_FromStringAndSize(NULL, literal.room)
    literal.out = <uint8_t *>PyBytes_AS_STRING(result)
    try:
        fault = read(&literal)
        if fault:
            raise error_at(&literal, fault, f"max_nbytes {max_nbytes}")
        _PyBytes_Resize(&result, literal.written)
        return <bytes>result
    finally:
        if result != NULL:
            Py_DECREF(<object>result)


def decode_into(text, out):
    """Read the bytes that a literal stands for into memory of the caller.

    Args:
        text: as for `decode`. Read only; must not overlap `out`.
        out: writable contiguous buffer of any shape and format. Written from its first byte on.

    Returns:
        How many bytes were written.

    Raises:
        ImageError: as for `decode`, the limit being the size of `out`, or `out` is read-only or
            not contiguous. What `out` holds after a fault of the text is undefined.
    """
    cdef vdag_literal literal
    cdef vdag_literal_fault fault
    _held = open_text(&literal, text)
    view = view_of(out, "out", writable=True)
    literal.out = <uint8_t *>PyMemoryView_GET_BUFFER(view).buf
    literal.room = PyMemoryView_GET_BUFFER(view).len
    fault = read(&literal)
    if fault:
        raise error_at(&literal, fault, f"out of {literal.room} bytes")
    return literal.written


cdef object open_text(vdag_literal *literal, text):
    """Point at the characters of a text; they stay while the returned object lives."""
    cdef Py_ssize_t nbytes
    if isinstance(text, str):
        check_ascii(text)
        literal.text = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, &nbytes)
        literal.nbytes = nbytes
        return text
    view = view_of(text, "text")
    literal.text = <const uint8_t *>PyMemoryView_GET_BUFFER(view).buf
    literal.nbytes = PyMemoryView_GET_BUFFER(view).len
    return view


cdef vdag_literal_fault read(vdag_literal *literal) except? -1:
    cdef const vdag_literal_level *chosen = current_level()
    cdef vdag_literal_fault fault
    if literal.nbytes < LONG_NBYTES:
        return vdag_literal_decode(chosen, literal)
    with nogil:
        fault = vdag_literal_decode(chosen, literal)
    return fault


cdef object error_at(const vdag_literal *literal, vdag_literal_fault fault, str limit):
    cdef size_t at = literal.at
    around = <bytes>literal.text[at:min(at + 2, literal.nbytes)]
    return fault_error(fault, at, around, limit)


cdef const vdag_literal_level *current_level() except NULL:
    if level == NULL:
        _set_simd(os.environ.get("VDAG_SIMD") or None)
    return level


def simd():
    """Name the instruction set in use: `avx512`, `avx2` or `plain`.

    The best that this CPU has the loops for, and no better than what the environment variable
    `VDAG_SIMD` names when a function of this module is first called.

    Raises:
        ConfigError: `VDAG_SIMD` is unknown.
    """
    return current_level().name.decode()


def _set_simd(name):
    """Use the best level up to the one of that name, or the best of all for None. For tests."""
    global level
    if name is not None and name not in LEVELS:
        raise ConfigError(f"VDAG_SIMD {name!r} is not one of {', '.join(LEVELS)}")
    highest = len(LEVELS) if name is None else LEVELS.index(name) + 1
    best = [usable for usable in LEVELS[:highest] if usable in _simd_levels()].pop()
    level = vdag_literal_find_level(best.encode())


def _simd_levels():
    """The levels that this CPU can run, the lowest first. For tests."""
    return [name for name in LEVELS if vdag_literal_find_level(name.encode()) != NULL]
