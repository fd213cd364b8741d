"""JSON strings that hold long ASCII text, such as a bytes literal; see `reference_quoted`.

Loops are chosen at run time; all give the same results.
"""

import os

from vdag._native.literal_terms import LEVELS
from vdag._native.quoted_terms import check_start
from vdag.errors import ConfigError

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint8_t

__all__ = ["read", "simd"]


cdef extern from "Python.h":
    # Raw pointers: an object that is still to be resized has one reference, held here.
    PyObject *PyBytes_FromStringAndSize(const char *text, Py_ssize_t nbytes) except NULL
    char *PyBytes_AS_STRING(PyObject *bytes_object) noexcept
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t nbytes) except -1


cdef extern from "quoted_kernel.h" nogil:
    ctypedef struct vdag_quoted:
        const uint8_t *text
        size_t nbytes
        uint8_t *out
        size_t at
        size_t written

    ctypedef struct vdag_quoted_level:
        const char *name
        int (*read)(vdag_quoted *quoted) noexcept nogil

    const vdag_quoted_level *vdag_quoted_find_level(const char *name) noexcept


cdef const vdag_quoted_level *level = NULL  # chosen when first needed


def read(const uint8_t[::1] text, Py_ssize_t start):
    """Read a string that has no escapes but those of quotes and backslashes.

    Args:
        text: JSON, or what is taken for it, contiguous. Read only.
        start: place of the string's opening quote.

    Returns:
        The characters and the place behind the closing quote; None if the string has other escapes,
        control characters or more than ASCII, or does not end: a parser has to look at it.

    Raises:
        ConfigError: `start` is not the place of a quote.
    """
    cdef const vdag_quoted_level *chosen = current_level()
    cdef vdag_quoted quoted
    cdef PyObject *result
    cdef bint is_read
    check_start(0 <= start < text.shape[0] and text[start] == c'"', start)
    quoted.text = &text[0]
    quoted.nbytes = text.shape[0]
    quoted.at = start + 1
    quoted.written = 0
    # Pages that are not written cost nothing.
    result = PyBytes_FromStringAndSize(NULL, text.shape[0] - start)
    quoted.out = <uint8_t *>PyBytes_AS_STRING(result)
    try:
        with nogil:
            is_read = chosen.read(&quoted)
        if not is_read:
            return None
        _PyBytes_Resize(&result, quoted.written)
        return <bytes>result, quoted.at
    finally:
        if result != NULL:
            Py_DECREF(<object>result)


cdef const vdag_quoted_level *current_level() except NULL:
    if level == NULL:
        _set_simd(os.environ.get("VDAG_SIMD") or None)
    return level


def simd():
    """Name the instruction set in use: `avx512` or `plain`.

    The best that this CPU has a loop for, and no better than what the environment variable
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
    level = vdag_quoted_find_level(best.encode())


def _simd_levels():
    """The levels that this CPU can run, the lowest first. For tests."""
    return [name for name in LEVELS if vdag_quoted_find_level(name.encode()) != NULL]
