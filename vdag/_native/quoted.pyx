"""JSON strings that hold long ASCII text, such as a bytes literal; see `reference_quoted`.

One pass without a branch per character, and without the GIL: of such a text every fourth character
is a backslash, so that a parser which branches on each mispredicts most of its time.
"""

from vdag._native.quoted_terms import check_start

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint8_t

__all__ = ["read"]


cdef extern from "Python.h":
    # Raw pointers: an object that is still to be resized has one reference, held here.
    PyObject *PyBytes_FromStringAndSize(const char *text, Py_ssize_t nbytes) except NULL
    char *PyBytes_AS_STRING(PyObject *bytes_object) noexcept
    int _PyBytes_Resize(PyObject **bytes_object, Py_ssize_t nbytes) except -1


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
    cdef Py_ssize_t length = text.shape[0], end, written = 0
    cdef PyObject *result
    cdef uint8_t *out
    check_start(0 <= start < length and text[start] == c'"', start)
    result = PyBytes_FromStringAndSize(NULL, length - start)
    out = <uint8_t *>PyBytes_AS_STRING(result)
    try:
        with nogil:
            end = scan(&text[0], length, start + 1, out, &written)
        if not end:
            return None
        _PyBytes_Resize(&result, written)
        return <bytes>result, end
    finally:
        if result != NULL:
            Py_DECREF(<object>result)


cdef Py_ssize_t scan(
    const uint8_t *text, Py_ssize_t length, Py_ssize_t at, uint8_t *out, Py_ssize_t *written
) noexcept nogil:
    """Return the place behind the closing quote, 0 if the string is not one for us."""
    cdef uint8_t *to = out
    cdef unsigned int is_escaped = 0, is_strange = 0, is_slash, is_quote
    cdef uint8_t character
    while at < length:
        character = text[at]
        at += 1
        is_slash = character == c'\\'
        is_quote = character == c'"'
        if is_quote and not is_escaped:
            written[0] = to - out
            return 0 if is_strange else at
        is_strange |= is_escaped & ~(is_slash | is_quote)
        is_strange |= <unsigned int>(<uint8_t>(character - 32) > 126 - 32)
        is_escaped = is_slash & ~is_escaped
        to[0] = character
        to += 1 - is_escaped  # the backslash that escapes is written over
    return 0
