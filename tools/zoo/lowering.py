"""Lower TensorFlow operations to ONNX.

TensorFlow works on NHWC tensors, ONNX on NCHW. Every rank-4 tensor is kept NCHW here and carries
the layout it has in the TensorFlow graph. A TensorFlow `Transpose` between the two then costs
nothing, and a real one is written only where the order of the elements shows: before a `Reshape`.

Only the operators of small convolutional networks are known; any other raises. Each method follows
the operator's definition in TensorFlow's API reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from graph import GraphWriter
from numpy.typing import NDArray
from onnx import numpy_helper
from tfjs import Node, TfGraph, stem

__all__ = ["Lowering", "Value"]

Array = NDArray[Any]

#: Axes of an NHWC tensor in ONNX's NCHW order, and the permutations that lead there and back.
ONNX_AXIS = (0, 2, 3, 1)
TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

#: A max-pool's own padding is below every value; anything as low as this counts as that.
LOWEST = -1e30


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the ONNX graph.

    Attributes:
        name: in the ONNX graph.
        layout: TensorFlow's view of a rank-4 tensor, "NHWC" or "NCHW"; "" for other ranks.
        channels: number of channels of a rank-4 tensor.
        height: at the nominal input size; decides paddings and scales, never a shape.
        width: likewise.
    """

    name: str
    layout: str = ""
    channels: int = 0
    height: int = 0
    width: int = 0

    def axis(self, index: int) -> int:
        """Translate an axis of the TensorFlow tensor to the ONNX tensor."""
        return ONNX_AXIS[index] if self.layout == "NHWC" else index


class Lowering:
    """Writes what a TensorFlow tensor is computed from into a `GraphWriter`.

    Args:
        graph: what to convert.
        writer: where the ONNX nodes go; more may be added after.
        size: nominal height and width of the input picture. The result runs at other sizes too, as
            long as they are even wherever the nominal ones are.
        images: name of the ONNX input.
    """

    def __init__(
        self, graph: TfGraph, writer: GraphWriter, *, size: tuple[int, int], images: str = "images"
    ) -> None:
        self._graph = graph
        self._writer = writer
        self._size = size
        self._images = images
        self._seen: set[str] = set()
        self._values: dict[str, Value] = {}
        self._uses = graph.count_uses()

    def value(self, tensor: str) -> Value:
        """Return the ONNX tensor of TensorFlow's `tensor`, writing what it needs.

        Raises:
            ValueError: an operator, or a way to use one, that is not known here.
        """
        for node in self._graph.ancestors(stem(tensor), self._seen):
            method = METHODS.get(node.op)
            if method is None:
                raise ValueError(f"operator {node.op} of {node.name} is not supported")
            result = method(self, node)
            for port, value in enumerate(result if isinstance(result, list) else [result]):
                self._values[f"{node.name}:{port}"] = value
        return self._values[tensor if ":" in tensor else f"{tensor}:0"]

    def placeholder(self, node: Node) -> Value:
        """Take the picture; its channels stand second in models from an NCHW framework."""
        channels_first = node.attributes.get("shape", [])[1:2] == [3]
        return Value(self._images, "NCHW" if channels_first else "NHWC", 3, *self._size)

    def identity(self, node: Node) -> Value:
        """Pass a tensor on."""
        return self.value(node.inputs[0])

    def conv(self, node: Node) -> Value:
        """Convolve, plain or depthwise, with what TensorFlow fused behind it."""
        source = self.value(node.inputs[0])
        kernel = self._graph.constant(node.inputs[1])
        height, width, channels, count = kernel.shape
        depthwise = "Depthwise" in node.op
        if depthwise:  # HWIM -> (I*M, 1, H, W)
            kernel = kernel.transpose(2, 3, 0, 1).reshape(channels * count, 1, height, width)
        else:  # HWIO -> (O, I, H, W)
            kernel = kernel.transpose(3, 2, 0, 1)
        inputs = [source.name, self._writer.weight(kernel)]
        fused, operands = list(node.attributes.get("fused_ops", ())), list(node.inputs[2:])
        if "BiasAdd" in fused:
            fused.remove("BiasAdd")
            inputs.append(self._writer.weight(self._graph.constant(operands.pop(0)), stem="bias"))
        result = replace(
            self._window(node, source, inputs, (height, width),
                         op="Conv", group=channels if depthwise else 1),
            channels=kernel.shape[0],
        )  # fmt: skip
        for kind in fused:
            result = self._activate(kind, result, operands, node)
        return result

    def max_pool(self, node: Node) -> Value:
        """Take the maximum of each window."""
        source = self.value(node.inputs[0])
        kernel = node.attributes["ksize"][1:3]
        return self._window(node, source, [source.name], kernel, op="MaxPool", kernel_shape=kernel)

    def _window(
        self,
        node: Node,
        source: Value,
        inputs: list[str],
        kernel: Sequence[int],
        *,
        op: str,
        **attributes: Any,
    ) -> Value:
        """Write what slides a window with strides and padding."""
        padding = node.attributes["padding"]
        if source.layout != "NHWC" or padding not in {"SAME", "VALID"}:
            found = f"{padding} on {source.layout}"
            raise ValueError(f"{node.name} pads {found}, expected SAME or VALID on NHWC")
        strides = node.attributes["strides"][1:3]
        dilations = (node.attributes.get("dilations") or [1, 1, 1, 1])[1:3]
        sizes, starts, ends = [], [], []
        for size, taps, stride, dilation in zip(
            (source.height, source.width), kernel, strides, dilations, strict=True
        ):
            reach = (taps - 1) * dilation + 1
            total = 0
            if padding == "SAME":  # as many outputs as strides begin inside
                total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            sizes.append((size + total - reach) // stride + 1)
            starts.append(total // 2)
            ends.append(total - total // 2)  # the odd one goes last: bottom and right
        pads = starts + ends
        if padding == "VALID":
            pads = self._fold_padding(node, inputs, 0.0 if op == "Conv" else LOWEST)
        if max(dilations) > 1:
            attributes["dilations"] = dilations
        name = self._writer.add(op, inputs, strides=strides, pads=pads, **attributes)
        return Value(name, "NHWC", source.channels, *sizes)

    def _fold_padding(self, node: Node, inputs: list[str], fill: float) -> list[int]:
        """Make a `Pad` that only this window reads the window's own padding.

        Returns:
            Top, left, bottom, right; `inputs[0]` then names the unpadded tensor.
        """
        pad = self._writer.producer(inputs[0])
        if pad is None or pad.op_type != "Pad" or self._uses[node.inputs[0]] != 1:
            return [0, 0, 0, 0]
        pads, value = self._written(pad.input[1]), float(self._written(pad.input[2]))
        if pads[[0, 1, 4, 5]].any() or not (value == fill or value < fill == LOWEST):
            return [0, 0, 0, 0]
        inputs[0] = pad.input[0]
        self._writer.remove(pad)
        return [int(pads[axis]) for axis in (2, 3, 6, 7)]

    def _written(self, name: str) -> Array:
        weights = self._writer.weights
        return next(numpy_helper.to_array(item) for item in weights if item.name == name)

    def pad(self, node: Node) -> Value:
        """Pad any axes with a constant."""
        source = self.value(node.inputs[0])
        amounts = np.zeros((4, 2), np.int64)
        for axis, amount in enumerate(self._graph.constant(node.inputs[1])):
            amounts[source.axis(axis)] = amount
        value = self._graph.constant(node.inputs[2]) if len(node.inputs) > 2 else 0
        pads = self._writer.constant(amounts.T.reshape(-1), stem="pads")
        fill = self._writer.constant(np.array(value, np.float32), stem="fill")
        _, channels, height, width = (int(total) for total in amounts.sum(axis=1))
        return Value(
            self._writer.add("Pad", [source.name, pads, fill], mode="constant"),
            source.layout, source.channels + channels, source.height + height, source.width + width,
        )  # fmt: skip

    def binary(self, node: Node) -> Value:
        """Add or multiply two tensors, or a tensor and a constant on either side."""
        op = {"AddV2": "Add", "BiasAdd": "Add"}.get(node.op, node.op)
        fixed = [self._graph.is_constant(item) for item in node.inputs]
        source = self.value(node.inputs[fixed.index(False)])
        if any(fixed):
            operand = self._graph.constant(node.inputs[fixed.index(True)])
            if op == "Add" and self._add_bias(node.inputs[fixed.index(False)], source, operand):
                return source
            other = self._writer.constant(_aligned(operand, source), stem="operand")
        else:
            second = self.value(node.inputs[1])
            if (second.layout, second.channels) != (source.layout, source.channels):
                raise ValueError(f"{node.name} broadcasts {second} against {source}")
            other = second.name
            if second.height > source.height:  # one weight a channel stands first
                return replace(second, name=self._writer.add(op, [source.name, other]))
        return replace(source, name=self._writer.add(op, [source.name, other]))

    def _add_bias(self, tensor: str, source: Value, operand: Array) -> bool:
        """Make a constant per channel the bias of the convolution before it, where it can be."""
        conv = self._writer.producer(source.name)
        if conv is None or conv.op_type != "Conv" or len(conv.input) != 2:
            return False
        per_channel = source.layout == "NHWC" and operand.shape == (source.channels,)
        if not per_channel or self._uses[tensor] != 1:
            return False
        self._writer.remove(conv)
        conv.input.append(self._writer.weight(operand, stem="bias"))
        self._writer.nodes.append(conv)  # after the bias, for a graph is in order
        return True

    def activation(self, node: Node) -> Value:
        """Apply a function to each element."""
        return self._activate(node.op, self.value(node.inputs[0]), list(node.inputs[1:]), node)

    def _activate(self, kind: str, source: Value, operands: list[str], node: Node) -> Value:
        write = self._writer
        if kind == "Relu6":
            limits = [write.constant(np.array(limit, np.float32), stem="limit") for limit in (0, 6)]
            return replace(source, name=write.add("Clip", [source.name, *limits]))
        if kind == "Prelu":  # one slope a channel: (1, 1, C) -> (C, 1, 1)
            slope = self._graph.constant(operands.pop(0)).reshape(source.channels, 1, 1)
            return replace(
                source, name=write.add("PRelu", [source.name, write.weight(slope, stem="slope")])
            )
        if kind == "LeakyRelu":
            alpha = float(node.attributes.get("alpha", 0.2))
            return replace(source, name=write.add("LeakyRelu", [source.name], alpha=alpha))
        if kind not in {"Relu", "Sigmoid"}:
            raise ValueError(f"activation {kind} of {node.name} is not supported")
        return replace(source, name=write.add(kind, [source.name]))

    def mean(self, node: Node) -> Value:
        """Average over height and width."""
        source = self.value(node.inputs[0])
        axes = {source.axis(int(axis)) for axis in np.ravel(self._graph.constant(node.inputs[1]))}
        if axes != {2, 3} or not node.attributes.get("keep_dims"):
            raise ValueError(f"{node.name} averages axes {sorted(axes)}, expected 2 and 3, kept")
        name = self._writer.add("GlobalAveragePool", [source.name])
        return replace(source, name=name, height=1, width=1)

    def resize(self, node: Node) -> Value:
        """Interpolate by a fixed scale: at other input sizes the target size follows."""
        source = self.value(node.inputs[0])
        if node.attributes.get("align_corners"):
            raise ValueError(f"{node.name} aligns corners, which a fixed scale cannot")
        height, width = (int(size) for size in self._graph.constant(node.inputs[1]))
        mode = "half_pixel" if node.attributes.get("half_pixel_centers") else "asymmetric"
        scales = np.array([1, 1, height / source.height, width / source.width], np.float32)
        name = self._writer.add(
            "Resize", [source.name, "", self._writer.constant(scales, stem="scales")],
            mode="linear", coordinate_transformation_mode=mode,
        )  # fmt: skip
        return replace(source, name=name, height=height, width=width)

    def concat(self, node: Node) -> Value:
        """Join along one axis."""
        parts = [self.value(item) for item in node.inputs[:-1]]
        first = parts[0]
        index = int(self._graph.constant(node.inputs[-1]))
        axis = first.axis(index % 4) if first.layout else index
        if first.layout and axis != 1:
            raise ValueError(f"{node.name} joins along axis {axis}, expected channels")
        name = self._writer.add("Concat", [part.name for part in parts], axis=axis)
        return replace(first, name=name, channels=sum(part.channels for part in parts))

    def split(self, node: Node) -> list[Value]:
        """Cut the channels into parts."""
        source = self.value(node.inputs[0])
        sizes = self._graph.constant(node.inputs[1]).astype(np.int64)
        if source.axis(int(self._graph.constant(node.inputs[2])) % 4) != 1:
            raise ValueError(f"{node.name} splits other than channels")
        lengths = self._writer.constant(sizes, stem="lengths")
        names = self._writer.add_many("Split", [source.name, lengths], len(sizes), axis=1)
        return [
            replace(source, name=name, channels=int(size))
            for name, size in zip(names, sizes, strict=True)
        ]

    def transpose(self, node: Node) -> Value:
        """Change the layout on paper, or a tensor of another rank in truth."""
        source = self.value(node.inputs[0])
        order = tuple(int(axis) for axis in self._graph.constant(node.inputs[1]))
        if (source.layout, order) == ("NCHW", TO_NHWC):
            return replace(source, layout="NHWC")
        if (source.layout, order) == ("NHWC", TO_NCHW):
            return replace(source, layout="NCHW")
        if source.layout or order[0] != 0:
            raise ValueError(f"{node.name} permutes {source.layout} by {order}")
        return Value(self._writer.add("Transpose", [source.name], perm=order))

    def reshape(self, node: Node) -> Value:
        """Reshape to another rank; the batch stays whatever it is."""
        source = self.value(node.inputs[0])
        shape = [int(size) for size in self._graph.constant(node.inputs[1])]
        if len(shape) > 3 or shape[0] not in {1, -1}:
            raise ValueError(f"{node.name} reshapes to {shape}, expected at most rank 3 of batch 1")
        name = source.name
        if source.layout == "NHWC":
            name = self._writer.add("Transpose", [name], perm=TO_NHWC)
        target = self._writer.constant(np.array([0, *shape[1:]], np.int64), stem="shape")
        return Value(self._writer.add("Reshape", [name, target]))


def _aligned(operand: Array, source: Value) -> Array:
    """Shape a constant so that ONNX broadcasts it as TensorFlow did: along the last axes."""
    operand = operand.astype(np.float32)
    if operand.size == 1 or source.layout != "NHWC":
        return operand.reshape(()) if operand.size == 1 else operand
    full: Array = operand.reshape((1,) * (4 - operand.ndim) + operand.shape)
    return np.transpose(full, TO_NCHW)


METHODS: Mapping[str, Callable[[Lowering, Node], Value | list[Value]]] = {
    "Add": Lowering.binary,
    "AddV2": Lowering.binary,
    "BiasAdd": Lowering.binary,
    "ConcatV2": Lowering.concat,
    "Conv2D": Lowering.conv,
    "DepthwiseConv2dNative": Lowering.conv,
    "FusedDepthwiseConv2dNative": Lowering.conv,
    "Identity": Lowering.identity,
    "LeakyRelu": Lowering.activation,
    "MaxPool": Lowering.max_pool,
    "Mean": Lowering.mean,
    "Mul": Lowering.binary,
    "Pad": Lowering.pad,
    "PadV2": Lowering.pad,
    "Placeholder": Lowering.placeholder,
    "Prelu": Lowering.activation,
    "Relu": Lowering.activation,
    "Relu6": Lowering.activation,
    "Reshape": Lowering.reshape,
    "ResizeBilinear": Lowering.resize,
    "Sigmoid": Lowering.activation,
    "SplitV": Lowering.split,
    "Transpose": Lowering.transpose,
    "_FusedConv2D": Lowering.conv,
}
