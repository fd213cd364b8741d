"""An ONNX model as a strongly typed network wants it: the precision is in the file.

The zoo's weights are float16 with a `Cast` to float32 behind each, which ONNX Runtime folds. A
strongly typed network would take each for a computed tensor: newer parsers fold it too, older ones
refuse it as a kernel. So for `float32` the casts are carried out here, and for `float16` they go
and everything behind them becomes half precision.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vdag.errors import EngineUnavailable, ModelError

__all__ = ["PRECISIONS", "prepare"]

#: `model` leaves the types of the file alone, for files that carry quantisation (Q/DQ).
PRECISIONS = ("float16", "float32", "model")
#: What half precision would spoil: sums of squares leave it, exponents lose their digits.
WIDE = frozenset({"ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "Exp", "Pow", "Softmax"})
#: Inputs that are float32 by definition, by operator.
FLOAT32_INPUTS = {"Resize": (1, 2), "Upsample": (1,), "QuantizeLinear": (1,)}
FLOAT, FLOAT16 = 1, 10  # TensorProto.DataType


def prepare(model: Path, precision: str) -> bytes:
    """Return a model in a precision, its inputs and outputs as they were.

    Args:
        model: the ONNX file, of at most 2 GiB, weights included.
        precision: one of `PRECISIONS`.

    Raises:
        EngineUnavailable: the package onnx is missing.
        ModelError: the file is no model, or is quantised and asked for in another precision.
    """
    onnx = _onnx()
    try:
        proto = onnx.load(str(model))
    except Exception as err:  # protobuf's own, which differs between its versions
        raise ModelError(f"{model} is not an ONNX model: {str(err).strip()}") from err
    if precision == "model":
        return bytes(proto.SerializeToString())
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node):
        raise ModelError(f"{model} is quantised: its precision must be model, not {precision}")
    _fold_casts(onnx, proto.graph, FLOAT if precision == "float32" else FLOAT16)
    if precision == "float16":
        _halve(onnx, proto)
    return bytes(proto.SerializeToString())


def _onnx() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError as err:
        raise EngineUnavailable(
            "onnx is not installed, which prepares models for TensorRT: "
            "pip install '.[tensorrt]' in the checkout"
        ) from err


def _fold_casts(onnx: Any, graph: Any, dtype: int) -> None:
    """Replace each weight in float16 and the cast behind it by the weight in `dtype`."""
    halves = {t.name: t for t in graph.initializer if t.data_type == FLOAT16}
    casts = [
        node
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in halves and _attribute(node, "to") == FLOAT
    ]
    outputs = {value.name for value in graph.output}
    replaced = []
    for node in casts:
        if node.output[0] in outputs:
            continue
        values = onnx.numpy_helper.to_array(halves[node.input[0]])
        wanted = values.astype(np.float32 if dtype == FLOAT else np.float16)
        replaced.append(onnx.numpy_helper.from_array(wanted, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input} | outputs
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *replaced])


def _halve(onnx: Any, proto: Any) -> None:
    """Make every float32 of the inside a float16, with casts at the doors and around `WIDE`."""
    graph = proto.graph
    inferred = onnx.shape_inference.infer_shapes(_widened(onnx, proto)).graph
    floats = {
        value.name
        for value in (*inferred.input, *inferred.output, *inferred.value_info)
        if value.type.tensor_type.elem_type == FLOAT
    } | {t.name for t in graph.initializer if t.data_type in (FLOAT, FLOAT16)}
    keep = {
        node.input[index]
        for node in graph.node
        for index in FLOAT32_INPUTS.get(node.op_type, ())
        if index < len(node.input)
    }
    nodes = [*_doors_in(onnx, graph)]
    _halve_constants(onnx, graph, keep)
    for node in graph.node:
        nodes.extend(_halved(onnx, node, floats - keep))
    nodes.extend(_doors_out(onnx, graph, nodes))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]


def _widened(onnx: Any, proto: Any) -> Any:
    """Return a copy whose weights are all float32, so that types can be inferred in it."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.data_type == FLOAT16:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    return copy


def _doors_in(onnx: Any, graph: Any) -> Iterator[Any]:
    """Yield a cast behind each float32 input, and have all nodes read that."""
    weights = {t.name for t in graph.initializer}
    for value in graph.input:
        if value.type.tensor_type.elem_type != FLOAT or value.name in weights:
            continue
        inner = f"{value.name}/half"
        _rename_inputs(graph.node, value.name, inner)
        yield onnx.helper.make_node("Cast", [value.name], [inner], to=FLOAT16)


def _doors_out(onnx: Any, graph: Any, nodes: list[Any]) -> list[Any]:
    """Return a cast in front of each float32 output, and have its maker write to that."""
    doors = []
    for value in graph.output:
        if value.type.tensor_type.elem_type != FLOAT:
            continue
        inner = f"{value.name}/half"
        _rename_inputs(nodes, value.name, inner)
        for node in nodes:
            for index, name in enumerate(node.output):
                if name == value.name:
                    node.output[index] = inner
        doors.append(onnx.helper.make_node("Cast", [inner], [value.name], to=FLOAT))
    return doors


def _halve_constants(onnx: Any, graph: Any, keep: set[str]) -> None:
    tensors = [t for t in graph.initializer if t.name not in keep]
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in keep:
            tensors.extend(a.t for a in node.attribute if a.name == "value")
    for tensor in tensors:
        if tensor.data_type == FLOAT:
            with np.errstate(over="ignore"):  # a bound of a Clip may be beyond: to infinity
                half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))


def _halved(onnx: Any, node: Any, floats: set[str]) -> Iterator[Any]:
    """Yield a node of the inside: in half precision, or between casts if it is one of `WIDE`."""
    if node.op_type == "Cast" and _attribute(node, "to") == FLOAT:
        for attribute in node.attribute:
            attribute.i = FLOAT16
    if node.op_type not in WIDE:
        yield node
        return
    for index, name in enumerate(node.input):
        if name.removesuffix("/half") in floats:
            wide = f"{name}/{node.output[0]}/wide"
            yield onnx.helper.make_node("Cast", [name], [wide], to=FLOAT)
            node.input[index] = wide
    wide = f"{node.output[0]}/wide"
    half, node.output[0] = node.output[0], wide
    yield node
    yield onnx.helper.make_node("Cast", [wide], [half], to=FLOAT16)


def _rename_inputs(nodes: Any, name: str, to: str) -> None:
    for node in nodes:
        for index, used in enumerate(node.input):
            if used == name:
                node.input[index] = to


def _attribute(node: Any, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)
