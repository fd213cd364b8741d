"""A small writer of ONNX graphs, shared by the converters of the zoo.

Weights are stored as float16 and widened by one `Cast` each, which every runtime folds away when
it loads the model: half the bytes on disk, float32 arithmetic, no change of the graph's interface.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OPSET", "GraphWriter", "halve_weights"]

#: New enough for Resize by scales and Clip with inputs, old enough for TensorRT 8.
OPSET = 13

#: Smaller tensors (biases of a few channels, shapes) are not worth a `Cast`.
SMALLEST_HALVED = 64


class GraphWriter:
    """Collects nodes and weights, then makes a checked model of them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._names: Counter[str] = Counter()

    def _unique(self, stem: str) -> str:
        self._names[stem] += 1
        return stem if self._names[stem] == 1 else f"{stem}_{self._names[stem]}"

    def add(self, op: str, inputs: Sequence[str], *, name: str = "", **attributes: Any) -> str:
        """Append one single-output node and return the name of its output."""
        return self.add_many(op, inputs, 1, name=name, **attributes)[0]

    def add_many(
        self, op: str, inputs: Sequence[str], count: int, *, name: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node with `count` outputs and return their names."""
        name = self._unique(name or op.lower())
        outputs = [name] if count == 1 else [f"{name}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs

    def constant(self, value: NDArray[np.generic], *, stem: str = "const") -> str:
        """Store an array as it is and return its name."""
        name = self._unique(stem)
        self.weights.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def weight(self, value: NDArray[np.floating], *, stem: str = "weight") -> str:
        """Store a weight as float16 and return the name of its float32 copy.

        Raises:
            ValueError: a value does not fit float16.
        """
        if value.size < SMALLEST_HALVED:
            return self.constant(value.astype(np.float32), stem=stem)
        return self.add("Cast", [self.constant(half(value), stem=f"{stem}_f16")],
                        name=stem, to=TensorProto.FLOAT)  # fmt: skip

    def producer(self, output: str) -> onnx.NodeProto | None:
        """Return the node that makes `output`, or None for an input or a weight."""
        return next((node for node in reversed(self.nodes) if output in node.output), None)

    def remove(self, node: onnx.NodeProto) -> None:
        """Take back a node that the caller has folded into its only consumer."""
        self.nodes.remove(node)

    def model(
        self,
        name: str,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, tuple[int, Sequence[int | str]]],
        *,
        doc: str,
    ) -> onnx.ModelProto:
        """Make the model, checked and with all shapes inferred.

        Args:
            name: of the graph.
            inputs: float32 inputs and their dimensions; a string names a dynamic one.
            outputs: tensor name to element type and dimensions.
            doc: where the model comes from and under which licence.
        """
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, dims)
             for key, dims in inputs.items()],
            [helper.make_tensor_value_info(key, kind, dims)
             for key, (kind, dims) in outputs.items()],
            self.weights,
            doc_string=doc,
        )  # fmt: skip
        return finish(graph)


def finish(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Wrap a graph as a model of `OPSET`, without unused weights, and check it strictly."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    # IR 8 is what opset 13 to 17 readers expect; a newer one would be refused by older runtimes.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="vdag"
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return model


def half(value: NDArray[np.floating]) -> NDArray[np.float16]:
    """Round to float16.

    Raises:
        ValueError: a value does not fit.
    """
    limit = float(np.finfo(np.float16).max)
    if value.size and float(np.abs(value).max()) > limit:
        raise ValueError(f"weight of {float(np.abs(value).max())} exceeds float16's {limit}")
    return value.astype(np.float16)


def halve_weights(graph: onnx.GraphProto) -> None:
    """Store the float32 weights of an existing graph as float16 with a `Cast` each, in place."""
    casts = []
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.size < SMALLEST_HALVED:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half(value), f"{name}_f16"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], name=name, to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
