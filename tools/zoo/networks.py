"""Make the zoo's networks of converted layers: their inputs, outputs and decoding in the graph.

What depends on the size of the picture is left to the tasks. What is the same for every cell is
done in the graph, where it runs on the model's device and shrinks what is copied back from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from checkpoint import read_checkpoint
from efficientnet import FEATURES, SIZE, write_features
from graph import GraphWriter, finish, halve_weights
from lowering import Lowering
from numpy.typing import NDArray
from onnx import TensorProto, version_converter
from tfjs import load

__all__ = ["backbone", "blazeface", "centerface", "facemesh", "helmet", "nanodet"]

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32

#: Cells that NanoDet hands over, best first. Every input of 128 x 128 or more has as many.
CANDIDATES = 256
#: Each side of a box is a distribution over 0 to 10 strides (Generalized Focal Loss, 2020).
BINS = 11
#: Class probabilities `(N, 80, cells)` and box distributions `(N, 44, cells)` of strides 8, 16, 32.
NANODET_SCORES = tuple(f"PartitionedCall/onnx_tf_prefix_Reshape_{n}" for n in (156, 167, 178))
NANODET_SIDES = tuple(f"PartitionedCall/onnx_tf_prefix_Reshape_{n}" for n in (159, 170, 181))

#: BlazeFace's input, and its anchors: 2 in each cell of stride 16, 6 in each of stride 32.
BLAZEFACE_SIZE = 256
BLAZEFACE_ANCHORS = 896

#: CenterFace's own names of its tensors, and ours.
CENTERFACE_NAMES = {
    "input.1": "images", "537": "heat", "538": "size", "539": "offset", "540": "landmarks",
}  # fmt: skip


def nanodet(sources: Sequence[Path], doc: str) -> onnx.ModelProto:
    """Convert NanoDet-g, and pick the best cells of its three levels in the graph.

    A non-maximum suppression afterwards sees the same boxes as if it had seen all cells, as long as
    fewer than `CANDIDATES` of them are above its threshold.
    """
    writer = GraphWriter()
    layers = Lowering(load(sources[0]), writer, size=(416, 416))
    scores = writer.add("Concat", [layers.value(name).name for name in NANODET_SCORES], axis=2)
    sides = writer.add("Concat", [layers.value(name).name for name in NANODET_SIDES], axis=2)
    best = writer.add("ReduceMax", [scores], axes=[1], keepdims=0)
    count = writer.constant(np.array([CANDIDATES]), stem="candidates")
    score, cells = writer.add_many("TopK", [best, count], 2, axis=1)
    label = writer.add("ArgMax", [_gather(writer, scores, cells, 80)], axis=1, keepdims=0)
    distance = _expectation(writer, _gather(writer, sides, cells, 4 * BINS))
    _rename(writer, score, "score")
    writer.add("Cast", [label], name="label", to=INT32)
    writer.add("Cast", [cells], name="cell", to=INT32)
    writer.add("Transpose", [distance], name="distance", perm=[0, 2, 1])
    outputs = {
        "score": (FLOAT, ("batch", CANDIDATES)),
        "label": (INT32, ("batch", CANDIDATES)),
        "cell": (INT32, ("batch", CANDIDATES)),
        "distance": (FLOAT, ("batch", CANDIDATES, 4)),
    }
    return writer.model("nanodet", {"images": ("batch", 3, "height", "width")}, outputs, doc=doc)


def _gather(writer: GraphWriter, rows: str, cells: str, channels: int) -> str:
    """Take columns `cells` (N, K) of `rows` (N, channels, cells)."""
    axis = writer.constant(np.array([1]), stem="axis")
    shape = writer.constant(np.array([1, channels, 1]), stem="shape")
    wide = writer.add("Expand", [writer.add("Unsqueeze", [cells, axis]), shape])
    return writer.add("GatherElements", [rows, wide], axis=2)


def _expectation(writer: GraphWriter, bins: str) -> str:
    """Turn four distributions a candidate into their four means, in strides."""
    shape = writer.constant(np.array([0, 4, BINS, CANDIDATES]), stem="shape")
    odds = writer.add("Softmax", [writer.add("Reshape", [bins, shape])], axis=2)
    values = np.arange(BINS, dtype=np.float32).reshape(1, 1, BINS, 1)
    weighed = writer.add("Mul", [odds, writer.constant(values, stem="bins")])
    return writer.add(
        "ReduceSum", [weighed, writer.constant(np.array([2]), stem="axis")], keepdims=0
    )


def _rename(writer: GraphWriter, tensor: str, name: str) -> None:
    """Give a node's output the name of a graph output."""
    for node in writer.nodes:
        for names in (node.input, node.output):
            names[:] = [name if item == tensor else item for item in names]


def blazeface(sources: Sequence[Path], doc: str) -> onnx.ModelProto:
    """Convert BlazeFace, and join its two levels; boxes stay relative to the anchors."""
    writer = GraphWriter()
    layers = Lowering(load(sources[0]), writer, size=(BLAZEFACE_SIZE, BLAZEFACE_SIZE))
    logits = [layers.value(name).name for name in ("Identity", "Identity_1")]
    boxes = [layers.value(name).name for name in ("Identity_2", "Identity_3")]
    shape = writer.constant(np.array([0, BLAZEFACE_ANCHORS]), stem="shape")
    flat = writer.add("Reshape", [writer.add("Concat", logits, axis=1), shape])
    writer.add("Sigmoid", [flat], name="score")
    writer.add("Concat", boxes, axis=1, name="boxes")
    outputs = {
        "score": (FLOAT, ("batch", BLAZEFACE_ANCHORS)),
        "boxes": (FLOAT, ("batch", BLAZEFACE_ANCHORS, 16)),
    }
    inputs = {"images": ("batch", 3, BLAZEFACE_SIZE, BLAZEFACE_SIZE)}
    return writer.model("blazeface", inputs, outputs, doc=doc)


def facemesh(sources: Sequence[Path], doc: str) -> onnx.ModelProto:
    """Convert FaceMesh with its mesh and its presence flag; the contours are left out."""
    writer = GraphWriter()
    layers = Lowering(load(sources[0]), writer, size=(192, 192))
    shape = writer.constant(np.array([0, 468, 3]), stem="shape")
    writer.add("Reshape", [layers.value("Identity_2").name, shape], name="mesh")
    _rename(writer, layers.value("Identity_1").name, "presence")
    outputs = {"mesh": (FLOAT, ("batch", 468, 3)), "presence": (FLOAT, ("batch", 1))}
    return writer.model("facemesh", {"images": ("batch", 3, 192, 192)}, outputs, doc=doc)


def centerface(sources: Sequence[Path], doc: str) -> onnx.ModelProto:
    """Modernise CenterFace, which is ONNX already: names, dynamic sizes, opset, float16 weights."""
    model = onnx.load_from_string(sources[0].read_bytes())
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]
    _set_dims(graph.input[0], ("batch", 3, "height", "width"))
    for value, channels in zip(graph.output, (1, 2, 2, 10), strict=True):
        _set_dims(value, ("batch", channels, "rows", "columns"))
    graph = version_converter.convert_version(model, 13).graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [CENTERFACE_NAMES.get(name, name) for name in names]
    for value in (*graph.input, *graph.output):
        value.name = CENTERFACE_NAMES[value.name]
    halve_weights(graph)
    graph.name, graph.doc_string = "centerface", doc
    return finish(graph)


def _set_dims(value: onnx.ValueInfoProto, dims: Sequence[int | str]) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
        dim.Clear()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size


def helmet(
    sources: Sequence[Path], doc: str, direction: NDArray[np.float64], bias: float
) -> onnx.ModelProto:
    """Join EfficientNet-Lite0's features and a logistic head.

    The head is `sigmoid(features . direction / |features| + bias)`.

    Args:
        sources: the checkpoint.
        doc: where the model comes from.
        direction: float64 `(1280,)`.
        bias: of the head.
    """
    writer = GraphWriter()
    features = write_features(writer, read_checkpoint(sources[0]))
    # The head stays float32: it is 5 KiB, and its terms cancel.
    column = writer.constant(direction.astype(np.float32).reshape(FEATURES, 1), stem="direction")
    projected = writer.add("MatMul", [features, column])
    norm = writer.add("ReduceL2", [features], axes=[1], keepdims=1)
    scaled = writer.add("Div", [projected, norm])
    offset = writer.constant(np.array([bias], np.float32), stem="head_bias")
    writer.add("Sigmoid", [writer.add("Add", [scaled, offset])], name="prob")
    outputs = {"prob": (FLOAT, ("batch", 1))}
    return writer.model("helmet", {"images": ("batch", 3, SIZE, SIZE)}, outputs, doc=doc)


def backbone(sources: Sequence[Path], doc: str) -> onnx.ModelProto:
    """Make the feature extractor alone, with the same rounded weights, for training the head."""
    writer = GraphWriter()
    write_features(writer, read_checkpoint(sources[0]))
    outputs = {"features": (FLOAT, ("batch", FEATURES))}
    return writer.model("backbone", {"images": ("batch", 3, SIZE, SIZE)}, outputs, doc=doc)
