"""The converters behind the zoo, on graphs of a few nodes, against numpy's own arithmetic."""

from __future__ import annotations

import base64
import itertools
import json
import math
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")
TOOLS = Path(__file__).parents[2] / "tools" / "zoo"
sys.path.insert(0, str(TOOLS))

from checkpoint import MAGIC, PROTOCOL, read_checkpoint  # noqa: E402  (found beside the checkout)
from graph import GraphWriter  # noqa: E402  (likewise)
from lowering import Lowering  # noqa: E402  (likewise)
from onnx import TensorProto  # noqa: E402  (only where it is installed)
from tfjs import Node, TfGraph, load  # noqa: E402  (likewise)

Array = NDArray[Any]
RNG = np.random.default_rng(11)
PICTURE = RNG.integers(-8, 9, (2, 8, 12, 3)).astype(np.float32)
SQUARE = {"strides": [1, 1, 1, 1], "padding": "SAME"}


def values(*shape: int) -> Array:
    """Small quarters: exact in float16, and their sums exact in float32."""
    return (RNG.integers(-8, 9, shape) / 4).astype(np.float32)


def convert(
    nodes: list[Node], weights: dict[str, Array], rank: int = 4
) -> tuple[Any, onnxruntime.InferenceSession]:
    """Convert a graph whose last node is the output, and open it."""
    picture = Node("x", "Placeholder")
    writer = GraphWriter()
    lowering = Lowering(
        TfGraph({node.name: node for node in [picture, *nodes]}, weights), writer, size=(8, 12)
    )
    writer.add("Identity", [lowering.value(nodes[-1].name).name], name="y")
    dims = [f"y{axis}" for axis in range(rank)]
    model = writer.model(
        "test", {"images": ("n", 3, "h", "w")}, {"y": (TensorProto.FLOAT, dims)}, doc=""
    )
    options = onnxruntime.SessionOptions()
    # The graph as written: the optimizer of 1.31 folds zeros into a pool's padding, which is lower.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return model, session


def run(nodes: list[Node], weights: dict[str, Array], picture: Array = PICTURE) -> Array:
    """Run a converted graph on an NHWC batch; the answer is NHWC again."""
    _, session = convert(nodes, weights)
    result: Array = session.run(None, {"images": picture.transpose(0, 3, 1, 2)})[0]
    return result.transpose(0, 2, 3, 1)


def same_padding(size: int, taps: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + taps - size, 0)
    return total // 2, total - total // 2


def convolve(
    x: Array, kernel: Array, stride: int, padding: str, *, depthwise: bool = False
) -> Array:
    """TensorFlow's convolution of NHWC with HWIO (or HWIM), from its definition."""
    height, width, channels, count = kernel.shape
    if padding == "SAME":
        sides = (same_padding(x.shape[1], height, stride), same_padding(x.shape[2], width, stride))
        x = np.pad(x, ((0, 0), *sides, (0, 0)))
    rows, columns = ((x.shape[1] - height) // stride + 1, (x.shape[2] - width) // stride + 1)
    out = np.zeros((x.shape[0], rows, columns, channels * count if depthwise else count))
    for i, j in itertools.product(range(height), range(width)):
        tap = x[:, i : i + rows * stride : stride, j : j + columns * stride : stride]
        if depthwise:
            out += (tap[..., None] * kernel[i, j]).reshape(out.shape)
        else:
            out += tap @ kernel[i, j]
    return out


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("taps", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_convolution_pads_as_tensorflow_does(taps: int, stride: int, padding: str) -> None:
    kernel, bias = values(taps, taps, 3, 4), values(4)
    node = Node("y", "_FusedConv2D", ("x", "k", "b"), {
        "strides": [1, stride, stride, 1], "padding": padding, "fused_ops": ["BiasAdd", "Relu6"],
    })  # fmt: skip
    expected = np.clip(convolve(PICTURE, kernel, stride, padding) + bias, 0, 6)
    np.testing.assert_allclose(run([node], {"k": kernel, "b": bias}), expected, atol=1e-4)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_keeps_the_order_of_channels(stride: int, multiplier: int) -> None:
    kernel = values(3, 3, 3, multiplier)
    node = Node("y", "DepthwiseConv2dNative", ("x", "k"),
                {"strides": [1, stride, stride, 1], "padding": "SAME"})  # fmt: skip
    expected = convolve(PICTURE, kernel, stride, "SAME", depthwise=True)
    np.testing.assert_allclose(run([node], {"k": kernel}), expected, atol=1e-4)


def test_a_bias_added_later_becomes_the_convolutions_own() -> None:
    kernel, bias = values(3, 3, 3, 4), values(4)
    nodes = [Node("c", "Conv2D", ("x", "k"), SQUARE), Node("y", "AddV2", ("c", "b"))]
    model, _ = convert(nodes, {"k": kernel, "b": bias})
    assert "Add" not in {node.op_type for node in model.graph.node}
    expected = convolve(PICTURE, kernel, 1, "SAME") + bias
    np.testing.assert_allclose(run(nodes, {"k": kernel, "b": bias}), expected, atol=1e-4)


def test_a_convolution_read_twice_keeps_its_values_without_the_bias() -> None:
    kernel, bias = values(1, 1, 3, 4), values(4)
    nodes = [Node("c", "Conv2D", ("x", "k"), SQUARE), Node("a", "AddV2", ("c", "b")),
             Node("y", "Add", ("a", "c"))]  # fmt: skip
    expected = 2 * convolve(PICTURE, kernel, 1, "SAME") + bias
    np.testing.assert_allclose(run(nodes, {"k": kernel, "b": bias}), expected, atol=1e-4)


def test_padding_before_a_window_is_folded_into_it() -> None:
    kernel, table = values(3, 3, 3, 4), np.array([[0, 0], [1, 0], [0, 2], [0, 0]], np.int32)
    valid = {"strides": [1, 2, 2, 1], "padding": "VALID"}
    nodes = [Node("p", "Pad", ("x", "t")), Node("y", "Conv2D", ("p", "k"), valid)]
    model, _ = convert(nodes, {"k": kernel, "t": table})
    assert "Pad" not in {node.op_type for node in model.graph.node}
    expected = convolve(np.pad(PICTURE, table), kernel, 2, "VALID")
    np.testing.assert_allclose(run(nodes, {"k": kernel, "t": table}), expected, atol=1e-4)


@pytest.mark.parametrize(("fill", "folded"), [(np.finfo(np.float32).min, True), (0.0, False)])
def test_a_pool_folds_only_padding_that_is_below_everything(fill: float, folded: bool) -> None:
    table = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    pool = {"strides": [1, 2, 2, 1], "padding": "VALID", "ksize": [1, 3, 3, 1]}
    weights = {"t": table, "f": np.array(fill, np.float32)}
    nodes = [Node("p", "PadV2", ("x", "t", "f")), Node("y", "MaxPool", ("p",), pool)]
    model, _ = convert(nodes, weights)
    assert ("Pad" not in {node.op_type for node in model.graph.node}) is folded
    padded = np.pad(PICTURE, table, constant_values=fill)
    expected = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(run(nodes, weights), expected.max(axis=(4, 5)))


def test_channels_are_padded_for_a_residual() -> None:
    table = np.array([[0, 0], [0, 0], [0, 0], [0, 2]], np.int32)
    kernel = values(1, 1, 3, 5)
    nodes = [Node("p", "Pad", ("x", "t")), Node("c", "Conv2D", ("x", "k"), SQUARE),
             Node("y", "AddV2", ("p", "c"))]  # fmt: skip
    expected = np.pad(PICTURE, table) + convolve(PICTURE, kernel, 1, "SAME")
    np.testing.assert_allclose(run(nodes, {"t": table, "k": kernel}), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("op", "attributes", "function"),
    [
        ("Relu", {}, lambda x: np.maximum(x, 0)),
        ("Relu6", {}, lambda x: np.clip(x, 0, 6)),
        ("LeakyRelu", {"alpha": 0.125}, lambda x: np.where(x < 0, x / 8, x)),
        ("Sigmoid", {}, lambda x: 1 / (1 + np.exp(-x))),
        ("Prelu", {}, lambda x: np.where(x < 0, x * [0.5, -1, 2], x)),
    ],
)
def test_activations(op: str, attributes: dict[str, Any], function: Any) -> None:
    slope = np.array([[[0.5, -1, 2]]], np.float32)
    inputs = ("x", "s") if op == "Prelu" else ("x",)
    result = run([Node("y", op, inputs, attributes)], {"s": slope})
    np.testing.assert_allclose(result, function(PICTURE), atol=1e-6)


def test_squeeze_and_excitation_scales_channels_and_keeps_the_size_for_resizing() -> None:
    weights = {"axes": np.array([1, 2], np.int32), "size": np.array([16, 24], np.int32)}
    nodes = [
        Node("m", "Mean", ("x", "axes"), {"keep_dims": True}),
        Node("s", "Mul", ("m", "x")),
        Node("y", "ResizeBilinear", ("s", "size"), {"half_pixel_centers": True}),
    ]
    assert run(nodes, weights).shape == (2, 16, 24, 3)
    expected = PICTURE * PICTURE.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(run(nodes[:2], weights), expected, rtol=1e-5, atol=1e-5)


def resize(x: Array, scale: float, shift: float) -> Array:
    """Interpolate along height and width; `shift` is 0.5 for centred pixels."""
    for axis in (1, 2):
        size = x.shape[axis]
        places = np.clip((np.arange(int(size * scale)) + shift) / scale - shift, 0, size - 1)
        low = np.floor(places).astype(int)
        part = (places - low).reshape([-1 if a == axis else 1 for a in range(4)])
        high = np.minimum(low + 1, size - 1)
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("scale", [2, 0.5])
def test_resizing_follows_the_input_at_another_size(scale: float, centred: bool) -> None:
    target = np.array([8 * scale, 12 * scale], np.int32)
    node = Node("y", "ResizeBilinear", ("x", "size"), {"half_pixel_centers": centred})
    larger = RNG.normal(size=(1, 16, 20, 3)).astype(np.float32)
    for picture in (PICTURE, larger):
        expected = resize(picture, scale, 0.5 if centred else 0.0)
        np.testing.assert_allclose(run([node], {"size": target}, picture), expected, atol=1e-5)


def test_channels_are_split_and_joined() -> None:
    weights = {"sizes": np.array([1, 2], np.int32), "axis": np.array(3, np.int32)}
    nodes = [Node("s", "SplitV", ("x", "sizes", "axis")),
             Node("y", "ConcatV2", ("s:1", "s", "axis"))]  # fmt: skip
    np.testing.assert_array_equal(run(nodes, weights), PICTURE[..., [1, 2, 0]])


def test_reshaping_sees_tensorflows_order_and_any_batch() -> None:
    weights = {"shape": np.array([1, 0, 0], np.int32), "add": np.array([0, 96, 3], np.int32)}
    nodes = [Node("target", "AddV2", ("shape", "add")), Node("y", "Reshape", ("x", "target"))]
    _, session = convert(nodes, weights, rank=3)
    (result,) = session.run(None, {"images": PICTURE.transpose(0, 3, 1, 2)})
    np.testing.assert_array_equal(result, PICTURE.reshape(2, 96, 3))


def test_transposes_between_layouts_cost_nothing() -> None:
    weights = {"nchw": np.array([0, 3, 1, 2], np.int32), "nhwc": np.array([0, 2, 3, 1], np.int32),
               "axis": np.array(1, np.int32)}  # fmt: skip
    nodes = [Node("a", "Transpose", ("x", "nchw")), Node("b", "ConcatV2", ("a", "a", "axis")),
             Node("y", "Transpose", ("b", "nhwc"))]  # fmt: skip
    model, _ = convert(nodes, weights)
    assert [node.op_type for node in model.graph.node] == ["Concat", "Identity"]
    np.testing.assert_array_equal(run(nodes, weights), np.tile(PICTURE, (1, 1, 1, 2)))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("y", "FFT", ("x",)), "operator FFT of y is not supported"),
        (Node("y", "Mean", ("x", "i"), {"keep_dims": True}),
         "y averages axes [2], expected 2 and 3, kept"),
        (Node("y", "ResizeBilinear", ("x", "i"), {"align_corners": True}),
         "y aligns corners, which a fixed scale cannot"),
        (Node("y", "MaxPool", ("x",), {"padding": "EXPLICIT", "ksize": [1, 2, 2, 1]}),
         "y pads EXPLICIT on NHWC, expected SAME or VALID on NHWC"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_named(node: Node, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is compared whole)
        convert([node], {"i": np.array([1], np.int32)})
    assert str(caught.value) == message


def test_a_weight_beyond_float16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^weight of 70000\.0 exceeds float16's 65504\.0$"):
        GraphWriter().weight(np.full(64, 7e4, np.float32))


def write_model(folder: Path, entries: list[dict[str, Any]], blob: bytes) -> Path:
    name = base64.b64encode(b"SAME").decode()
    node = {"name": "y", "op": "MaxPool", "input": ["x", "^late"], "attr": {
        "strides": {"list": {"i": ["1", "2", "2", "1"]}}, "padding": {"s": name},
        "shape": {"shape": {"dim": [{"size": "-1"}, {"size": "8"}]}},
    }}  # fmt: skip
    manifest = [{"paths": ["w.bin"], "weights": entries}]
    document = {"modelTopology": {"node": [node]}, "weightsManifest": manifest}
    (folder / "m.json").write_text(json.dumps(document))
    (folder / "w.bin").write_bytes(blob)
    return folder / "m.json"


def test_a_graph_model_is_read_with_its_weights(tmp_path: Path) -> None:
    entries = [
        {"name": "a", "shape": [2, 1], "dtype": "float32",
         "quantization": {"dtype": "float16", "original_dtype": "float32"}},
        {"name": "b", "shape": [], "dtype": "int32"},
    ]  # fmt: skip
    blob = np.array([0.5, -2], "<f2").tobytes() + np.array(7, "<i4").tobytes()
    graph = load(write_model(tmp_path, entries, blob))
    expected = {"strides": [1, 2, 2, 1], "padding": "SAME", "shape": [-1, 8]}
    assert graph.nodes["y"] == Node("y", "MaxPool", ("x",), expected)
    assert (graph.weights["a"].dtype, graph.weights["b"]) == (np.float16, 7)
    np.testing.assert_array_equal(graph.weights["a"], [[0.5], [-2]])


def test_weights_that_do_not_fill_their_file_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path, [{"name": "a", "shape": [1], "dtype": "int32"}], bytes(5))
    with pytest.raises(ValueError, match=r"^weights take 4 bytes of 5$"):
        load(path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    entry = {"name": "a", "shape": [1], "dtype": "float32",
             "quantization": {"dtype": "uint8", "scale": 0.1, "min": 0}}  # fmt: skip
    with pytest.raises(ValueError, match=r"^weight a is quantised to uint8$"):
        load(write_model(tmp_path, [entry], bytes(1)))


STORAGE = object()


class Stored:
    """Pickles as a tensor (3, 2) that views a storage from element 1 on."""

    offset = 1

    def __reduce__(self) -> Any:
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (STORAGE, self.offset, (3, 2), (1, 2), False, OrderedDict())


class Wide(Stored):
    """Reaches beyond the six elements of the storage."""

    offset = 2


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> Any:
        kind = sys.modules["torch"].FloatStorage
        return ("storage", kind, "0", "cpu", 6, None) if value is STORAGE else None


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names to pickle by, so that a checkpoint can be written without PyTorch."""
    torch, parts = ModuleType("torch"), ModuleType("torch._utils")
    storage = type("FloatStorage", (), {"__module__": "torch"})

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    torch.FloatStorage, parts._rebuild_tensor_v2 = storage, _rebuild_tensor_v2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", parts)


def write_checkpoint(path: Path, tensors: object, count: int = 6) -> Path:
    with path.open("wb") as file:
        for value in (MAGIC, PROTOCOL, {}, tensors, ["0"]):
            Pickler(file, 2).dump(value)
        file.write(count.to_bytes(8, "little"))
        file.write(np.arange(6, dtype="<f4").tobytes())
    return path


@pytest.mark.usefixtures("fake_torch")
def test_a_checkpoint_is_read_with_its_strides(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pth", OrderedDict(w=Stored()))
    with pytest.raises(ValueError, match=r"^tensor of shape \(3, 2\) reaches .* its storage$"):
        read_checkpoint(write_checkpoint(tmp_path / "b.pth", OrderedDict(w=Wide())))
    np.testing.assert_array_equal(read_checkpoint(path)["w"], [[1, 3], [2, 4], [3, 5]])


@pytest.mark.usefixtures("fake_torch")
def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pth", OrderedDict(w=Path("x")))
    with pytest.raises(ValueError, match=r"^checkpoint holds pathlib.*, expected tensors alone$"):
        read_checkpoint(path)


@pytest.mark.usefixtures("fake_torch")
def test_a_checkpoint_of_other_length_than_promised_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pth", OrderedDict(w=Stored()), count=7)
    with pytest.raises(ValueError, match=r"^storage 0 has 7 elements, expected 6$"):
        read_checkpoint(path)
