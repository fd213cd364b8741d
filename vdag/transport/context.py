"""What the tasks found in a frame, as bytes: the context of a descriptor.

A context is `{task: {field: value}}`. Values are numpy arrays, None, bools, 64-bit integers,
floats, strings, bytes, and lists and string-keyed dicts of these; tuples arrive as lists, numpy
scalars as Python numbers. The format:

    u32 plain_nbytes, u32 arrays       little-endian
    plain                              MessagePack: the dict, an extension in each array's place
    padding, data                      once per array, in order: zeros up to a multiple of 8, then
                                       the items in C order, little-endian

An array's extension has type 1 and says u8 dtype, u8 ndim, then a u32 per axis; the dtype is an
index into `DTYPES`. An empty context has no bytes at all. As the context starts at a multiple of 8
in its message, the arrays of a received context are views of the message.

With the items inside the extensions it would take as long for ten faces' boxes, but larger arrays
would have to be copied to be aligned.

Nothing is believed: an array is made only when its bytes are there, and the part that becomes
Python objects is bounded by `MAX_PLAIN_NBYTES`, since a byte of it may become an empty dict of 64.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vdag._native import header
from vdag.errors import FrameFormatError

__all__ = ["DTYPES", "Context", "pack", "unpack"]

Context = dict[str, dict[str, Any]]
#: Task and field, for the text of an error; they become text only there.
Where = tuple[str, str]

#: Most bytes of a context that are not items of arrays.
MAX_PLAIN_NBYTES = 1 << 18
MAX_ARRAYS = 4096
MAX_NDIM = 8
#: Lists and dicts inside each other, below a field.
MAX_DEPTH = 8

#: Names of the dtypes by code: those of payloads, and bool.
DTYPES = (*header.DTYPES, "bool")

#: Arrays up to this size are copied when they are packed: dearer to refer to than to copy.
COPY_NBYTES = 4096

_ARRAY = 1
_ALIGNMENT = 8
_FRONT = struct.Struct("<II")
_HEADS = tuple(struct.Struct(f"<BB{ndim}I") for ndim in range(MAX_NDIM + 1))
_ITEMS = {
    code: np.dtype(name).newbyteorder("<") for code, name in enumerate(DTYPES) if name != "none"
}
_CODES = {dtype: code for code, dtype in _ITEMS.items()}
_BOOL = _ITEMS[DTYPES.index("bool")]
_ZEROS = bytes(_ALIGNMENT)
_PLAIN: frozenset[type] = frozenset({type(None), bool, int, float, str, bytes})
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(dict[str, dict[str, Any]])


def pack(context: Mapping[str, Mapping[str, Any]]) -> list[bytes | memoryview]:
    """Write a context as pieces that belong one after the other.

    Args:
        context: see above. Arrays of any layout; views of C-ordered ones are among the pieces, so
            they must not change until the pieces have been copied or sent.

    Raises:
        FrameFormatError: a value has no form on the wire, or a limit is exceeded; the text says
            where.
    """
    if not context:
        return []
    writer = _Writer()
    tree = {
        task: {name: writer.plain(value, (task, name)) for name, value in fields.items()}
        for task, fields in context.items()
    }
    try:
        plain = _ENCODER.encode(tree)
    except (OverflowError, TypeError, UnicodeEncodeError) as err:
        raise FrameFormatError(f"context cannot travel: {err}") from err
    _check_limits(len(plain), writer.arrays)
    return [
        _FRONT.pack(len(plain), writer.arrays),
        plain,
        _ZEROS[: -len(plain) % _ALIGNMENT],
        *writer.pieces,
    ]


def unpack(view: memoryview) -> Context:
    """Read a context.

    Args:
        view: its bytes, all of them and no more. The arrays of the result are read-only: views of
            it, which keep its memory alive, where their alignment permits, else copies.

    Raises:
        FrameFormatError: the bytes are no context, or a limit is exceeded.
    """
    if not view.nbytes:
        return {}
    if view.nbytes < _FRONT.size:
        raise FrameFormatError(f"context of {view.nbytes} bytes is shorter than {_FRONT.size}")
    plain_nbytes, arrays = _FRONT.unpack_from(view)
    _check_limits(plain_nbytes, arrays)
    end = _FRONT.size + plain_nbytes
    if end > view.nbytes:
        raise FrameFormatError(
            f"context of {view.nbytes} bytes ends within its {plain_nbytes} bytes of plain values"
        )
    try:
        context: Context = _DECODER.decode(view[_FRONT.size : end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"context is malformed: {err}") from err
    reader = _Reader(view, end)
    for task, fields in context.items():
        for name, value in fields.items():
            if type(value) is msgspec.msgpack.Ext:
                fields[name] = reader.array(value, (task, name))
            elif type(value) not in _PLAIN:
                fields[name] = reader.value(value, (task, name))
    reader.finish(arrays)
    return context


class _Writer:
    """Turns values into what MessagePack knows, and collects the items of the arrays."""

    __slots__ = ("arrays", "pieces")

    def __init__(self) -> None:
        self.arrays = 0
        self.pieces: list[bytes | memoryview] = []

    def plain(self, value: Any, where: Where, depth: int = 0) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        if type(value) in _PLAIN:
            return value
        if isinstance(value, np.generic):
            return self.plain(value.item(), where, depth)
        if depth == MAX_DEPTH:
            raise FrameFormatError(f"{_place(where)} is nested deeper than {MAX_DEPTH}")
        if isinstance(value, (list, tuple)):
            if _PLAIN.issuperset(map(type, value)):
                return value
            return [self.plain(item, where, depth + 1) for item in value]
        if isinstance(value, Mapping):
            if not all(type(key) is str for key in value):
                raise FrameFormatError(f"{_place(where)} has a key that is no string")
            return {key: self.plain(item, where, depth + 1) for key, item in value.items()}
        raise FrameFormatError(f"{_place(where)} is a {type(value).__name__}, which cannot travel")

    def _array(self, array: NDArray[Any], where: Where) -> msgspec.msgpack.Ext:
        code = _CODES.get(array.dtype)
        if code is None:
            raise FrameFormatError(
                f"{_place(where)} is an array of {array.dtype}, which cannot travel"
            )
        if array.ndim > MAX_NDIM:
            raise FrameFormatError(f"{_place(where)}: ndim {array.ndim} exceeds limit {MAX_NDIM}")
        nbytes = array.nbytes
        if not 0 < nbytes <= header.MAX_CONTEXT_NBYTES:
            _check_shape(array.shape, array.itemsize, f"{_place(where)}: ")
        self.arrays += 1
        if nbytes <= COPY_NBYTES or not array.flags.c_contiguous:
            self.pieces.append(array.tobytes())
        else:
            self.pieces.append(array.data.cast("B"))
        if nbytes % _ALIGNMENT:
            self.pieces.append(_ZEROS[: -nbytes % _ALIGNMENT])
        return _write_head(code, array.shape)


class _Reader:
    """Puts arrays back into their places, and refuses what no `_Writer` would have made."""

    __slots__ = ("_arrays", "_end", "_view")

    def __init__(self, view: memoryview, end: int) -> None:
        self._view = view
        self._end = end
        self._arrays = 0

    def value(self, value: Any, where: Where, depth: int = 0) -> Any:
        kind = type(value)
        if kind is msgspec.msgpack.Ext:
            return self.array(value, where)
        if kind in _PLAIN:
            return value
        if depth == MAX_DEPTH:
            raise FrameFormatError(f"{_place(where)} is nested deeper than {MAX_DEPTH}")
        if kind is list:
            for index, item in enumerate(value):
                if type(item) not in _PLAIN:
                    value[index] = self.value(item, where, depth + 1)
            return value
        if kind is not dict:
            raise FrameFormatError(f"{_place(where)} is a {kind.__name__}, which cannot travel")
        for key, item in value.items():
            if type(key) is not str:
                raise FrameFormatError(f"{_place(where)} has a key that is no string")
            value[key] = self.value(item, where, depth + 1)
        return value

    def finish(self, arrays: int) -> None:
        """Check that all that was announced is there, and nothing else."""
        if self._arrays != arrays:
            raise FrameFormatError(f"context announces {arrays} arrays and has {self._arrays}")
        self.skip()
        if self._end != self._view.nbytes:
            raise FrameFormatError(
                f"context of {self._view.nbytes} bytes is not {self._end} bytes long"
            )

    def skip(self) -> None:
        """Go on to the next multiple of 8."""
        start, self._end = self._end, self._end + -self._end % _ALIGNMENT
        if any(self._view[start : self._end]):
            raise FrameFormatError(f"context has no zeros at offset {start}")

    def array(self, ext: msgspec.msgpack.Ext, where: Where) -> NDArray[Any]:
        """Return the next array, which `ext` announces."""
        if ext.code != _ARRAY:
            raise FrameFormatError(f"{_place(where)} has the unknown extension {ext.code}")
        try:
            item, shape, nbytes = _read_head(bytes(ext.data))
        except FrameFormatError as err:
            raise FrameFormatError(f"{_place(where)}: {err}") from err
        self._arrays += 1
        if self._end % _ALIGNMENT:
            self.skip()
        start, self._end = self._end, self._end + nbytes
        if self._end > self._view.nbytes:
            left = max(self._view.nbytes - start, 0)
            raise FrameFormatError(
                f"{_place(where)} of {nbytes} bytes exceeds the {left} that are left"
            )
        array: NDArray[Any] = np.ndarray(shape, item, self._view, start if nbytes else 0)
        if item is _BOOL and nbytes and array.view(np.uint8).max() > 1:
            raise FrameFormatError(f"{_place(where)} has items that are neither true nor false")
        if not array.flags.aligned:
            array = array.copy()
            array.flags.writeable = False
        return array


# Both directions of an array's head are remembered: the shapes of a stream repeat.
@lru_cache(maxsize=1024)
def _write_head(code: int, shape: tuple[int, ...]) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_ARRAY, _HEADS[len(shape)].pack(code, len(shape), *shape))


@lru_cache(maxsize=1024)
def _read_head(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and size in bytes of an array, of which nothing exists yet."""
    ndim = head[1] if len(head) > 1 else 0
    if ndim > MAX_NDIM:
        raise FrameFormatError(f"ndim {ndim} exceeds limit {MAX_NDIM}")
    if len(head) != _HEADS[ndim].size:
        raise FrameFormatError(f"array head of {len(head)} bytes with ndim {ndim}")
    code, _, *shape = _HEADS[ndim].unpack(head)
    if code not in _ITEMS:
        raise FrameFormatError(f"unknown dtype {code}")
    return _ITEMS[code], tuple(shape), _check_shape(tuple(shape), _ITEMS[code].itemsize)


def _check_shape(shape: tuple[int, ...], item_nbytes: int, place: str = "") -> int:
    """Return the bytes of an array; zeros do not hide other axes from the limit."""
    limit = header.MAX_CONTEXT_NBYTES
    if item_nbytes * math.prod(size or 1 for size in shape) > limit:
        raise FrameFormatError(f"{place}shape {shape} exceeds limit {limit} bytes")
    return 0 if 0 in shape else item_nbytes * math.prod(shape)


def _place(where: Where) -> str:
    """Name a field in an error; the names come from outside, and may be long."""
    task, name = where
    return f"{task:.80}.{name:.80}"


def _check_limits(plain_nbytes: int, arrays: int) -> None:
    if plain_nbytes > MAX_PLAIN_NBYTES:
        raise FrameFormatError(
            f"plain values of {plain_nbytes} bytes exceed limit {MAX_PLAIN_NBYTES}"
        )
    if arrays > MAX_ARRAYS:
        raise FrameFormatError(f"context of {arrays} arrays exceeds limit {MAX_ARRAYS}")
