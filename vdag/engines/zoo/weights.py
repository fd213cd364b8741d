"""Widen the float16 weights of a model file to float32, without the onnx package.

The zoo stores a weight as a float16 initialiser and a `Cast` to float32, which ONNX Runtime folds
when it loads the model. TensorRT's parser takes such a weight for a computed tensor, which older
versions refuse as a kernel and newer ones run on a slower path. `widen` gives it float32 weights.

A model is a Protocol Buffers message (onnx.proto): ModelProto has its graph in field 7; GraphProto
nodes in 1 and initialisers in 5; NodeProto inputs in 1, outputs in 2, type in 4, attributes in 5;
TensorProto element type in 2, name in 8, raw bytes in 9. All else is passed on as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from vdag.errors import ModelError

__all__ = ["widen"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FLOAT, FLOAT16 = 1, 10
GRAPH = 7
NODE, INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE = 1, 2, 4, 5
TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 2, 8, 9


def widen(model: bytes) -> bytes:
    """Return the model with each `Cast` of a float16 weight replaced by the float32 weight.

    Args:
        model: a serialised ONNX model; other casts and weights in it stay as they are.

    Raises:
        ModelError: the bytes are not such a message.
    """
    try:
        parts = [_graph(body) if field == GRAPH else whole for field, body, whole in _fields(model)]
    except (IndexError, ValueError) as err:
        raise ModelError(f"model of {len(model)} bytes is not ONNX") from err
    return b"".join(parts)


def _graph(graph: bytes) -> bytes:
    fields = list(_fields(graph))
    halves = {
        _first(body, TENSOR_NAME): body
        for field, body, _ in fields
        if field == INITIALIZER and _first(body, TENSOR_TYPE) == _varint(FLOAT16)
    }
    nodes = [body for field, body, _ in fields if field == NODE]
    uses = Counter(
        name for node in nodes for field, name, _ in _fields(node) if field == NODE_INPUT
    )
    casts = {
        name: _first(node, NODE_OUTPUT)
        for node in nodes
        if _is_widening(node, halves) and uses[name := _first(node, NODE_INPUT)] == 1
    }
    parts = []
    for field, body, whole in fields:
        if field == INITIALIZER and (name := _first(body, TENSOR_NAME)) in casts:
            whole = _field(INITIALIZER, _widened(body, casts[name]))
        elif field == NODE and _first(body, NODE_INPUT) in casts:  # read by its cast alone
            continue
        parts.append(whole)
    return _field(GRAPH, b"".join(parts))


def _is_widening(node: bytes, halves: dict[bytes, bytes]) -> bool:
    # AttributeProto {name "to", i 1, type INT}, as every writer of ONNX serialises it.
    target = any(
        field == NODE_ATTRIBUTE and _first(body, 1) == b"to" and _first(body, 3) == _varint(FLOAT)
        for field, body, _ in _fields(node)
    )
    return target and _first(node, NODE_TYPE) == b"Cast" and _first(node, NODE_INPUT) in halves


def _widened(tensor: bytes, name: bytes) -> bytes:
    parts = []
    for field, body, whole in _fields(tensor):
        if field == TENSOR_TYPE:
            whole = _varint(TENSOR_TYPE << 3 | VARINT) + _varint(FLOAT)
        elif field == TENSOR_NAME:
            whole = _field(TENSOR_NAME, name)
        elif field == TENSOR_RAW:
            whole = _field(TENSOR_RAW, np.frombuffer(body, "<f2").astype("<f4").tobytes())
        parts.append(whole)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, content and whole encoding of each field of a message.

    The content of a number is its own varint.
    """
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        kind = key & 7
        if kind == VARINT:
            inner = position
            _, position = _read_varint(message, position)
        elif kind == BYTES:
            length, inner = _read_varint(message, position)
            position = inner + length
        elif kind in {FIXED32, FIXED64}:
            inner = position
            position = inner + (4 if kind == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind} is not known")
        if position > len(message):
            raise ValueError("field reaches beyond its message")
        yield key >> 3, message[inner:position], message[start:position]


def _first(message: bytes, number: int) -> bytes:
    return next((body for field, body, _ in _fields(message) if field == number), b"")


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("number of more than 64 bits")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(body)) + body
