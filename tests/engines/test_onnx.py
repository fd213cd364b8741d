"""ONNX Runtime's own matters: dtypes, several inputs and outputs, broken files, devices."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from vdag.engines import EngineSpec, TensorSpec
from vdag.engines.onnx import OnnxEngine
from vdag.errors import ConfigError, EngineError, EngineUnavailable, ModelError

Value = tuple[str, int, Sequence[int | str] | None]


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[Value],
    outputs: list[Value],
    *,
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def _open(path: Path, *, device: str = "cpu", threads: int = 1) -> OnnxEngine:
    return OnnxEngine(EngineSpec(path, device=device, threads=threads))


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    values: list[list[Value]] = [[(name, TensorProto.FLOAT, ["N", 4])] for name in ("x", "y")]
    return _save(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"])], *values)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """Two inputs, two outputs: `a @ b` and where it is not zero."""
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["ab"]),
        helper.make_node("NonZero", ["ab"], ["where"]),
    ]
    inputs: list[Value] = [
        ("a", TensorProto.FLOAT, ["N", "K"]),
        ("b", TensorProto.FLOAT, ["K", 2]),
    ]
    outputs: list[Value] = [
        ("ab", TensorProto.FLOAT, ["N", 2]),
        ("where", TensorProto.INT64, [2, "found"]),
    ]
    return _save(tmp_path / "product.onnx", nodes, inputs, outputs)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.INT8, "int8"),
        (TensorProto.INT16, "int16"),
        (TensorProto.INT32, "int32"),
        (TensorProto.INT64, "int64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.UINT16, "uint16"),
        (TensorProto.UINT32, "uint32"),
        (TensorProto.UINT64, "uint64"),
    ],
)
def test_numbers_of_every_dtype_pass_unchanged(tmp_path: Path, element: int, dtype: str) -> None:
    path = _save(
        tmp_path / "same.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", element, ["N", 3])],
        [("y", element, ["N", 3])],
    )
    with _open(path) as engine:
        assert engine.inputs == (TensorSpec("x", np.dtype(dtype), (None, 3)),)
        foreign = np.arange(6).reshape(2, 3).astype(dtype)
        bound = engine.buffer("x", (2, 3))
        bound[:] = foreign
        for array in (foreign, bound, bound):
            output = engine.infer({"x": array})["y"]
            assert output.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(output, foreign)


def test_height_and_width_may_change_from_call_to_call(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "pool.onnx",
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])],
        [("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [("y", TensorProto.FLOAT, ["N", 3, "h", "w"])],
    )
    with _open(path) as engine:
        assert engine.inputs[0].shape == (None, 3, None, None)
        for count, height, width in ((1, 8, 8), (2, 4, 6), (1, 8, 8), (4, 2, 2)):
            pixels = engine.buffer("x", (count, 3, height, width))
            pixels[:] = np.arange(pixels.size, dtype=np.float32).reshape(pixels.shape)
            output = engine.infer({"x": pixels})["y"]
            assert output.shape == (count, 3, height // 2, width // 2)
            np.testing.assert_array_equal(output, pixels[:, :, 1::2, 1::2])


def test_several_inputs_and_outputs_are_matched_by_name(product: Path) -> None:
    a = np.array([[1, 2, 3], [0, 0, 0]], np.float32)
    b = np.array([[1, 0], [1, 0], [1, 1]], np.float32)
    with _open(product) as engine:
        outputs = engine.infer({"b": b, "a": a})
        assert list(outputs) == ["ab", "where"]
        np.testing.assert_array_equal(outputs["ab"], [[6, 3], [0, 0]])
        np.testing.assert_array_equal(outputs["where"], [[0, 0], [0, 1]])


def test_outputs_may_have_a_shape_that_depends_on_the_pixels(product: Path) -> None:
    with _open(product) as engine:
        a, b = engine.buffer("a", (2, 3)), engine.buffer("b", (3, 2))
        assert engine.infer({"a": a, "b": b})["where"].shape == (2, 0)
        a[:], b[:] = 1, 1
        assert engine.infer({"a": a, "b": b})["where"].shape == (2, 4)
        a[0] = 0
        assert engine.infer({"a": a, "b": b})["where"].tolist() == [[1, 1], [0, 1]]


def test_one_input_may_be_bound_while_another_changes(product: Path) -> None:
    with _open(product) as engine:
        b = engine.buffer("b", (3, 2))
        b[:] = 2
        for factor in range(1, 5):
            a = np.full((2, 3), factor, np.float32)
            np.testing.assert_array_equal(engine.infer({"a": a, "b": b})["ab"], 6 * factor)


def test_the_message_names_every_input_that_is_missing(product: Path) -> None:
    with _open(product) as engine:
        with pytest.raises(ConfigError, match=r"^product misses input a, b; it takes a, b$"):
            engine.infer({})
        a = np.ones((1, 3), np.float32)
        with pytest.raises(ConfigError, match=r"^product misses input b; it takes a, b$"):
            engine.infer({"a": a})
        with pytest.raises(ConfigError, match=r"^product has no input 'c'; it takes a, b$"):
            engine.infer({"a": a, "c": a})


def test_a_run_that_fails_is_an_engine_error_and_the_next_one_works(
    product: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ones = np.ones((2, 3), np.float32)
    with _open(product) as engine:
        with pytest.raises(EngineError, match=r"^product failed: [^\n]*mismatch[^\n]*$") as caught:
            engine.infer({"a": ones, "b": np.ones((2, 2), np.float32)})
        assert caught.value.__cause__ is not None
        assert not isinstance(caught.value, ModelError)
        assert engine.stats().calls == 0
        assert engine.infer({"a": ones, "b": ones.reshape(3, 2)})["ab"].tolist() == [[3, 3]] * 2
    assert capfd.readouterr() == ("", "")


def test_scalar_inputs_count_as_one_item(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "scalar.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [])],
        [("y", TensorProto.FLOAT, [])],
    )
    with _open(path) as engine:
        assert engine.inputs == (TensorSpec("x", np.dtype(np.float32), ()),)
        assert engine.infer({"x": np.full((), 3, np.float32)})["y"] == -3
        assert engine.stats().items == 1


def test_axes_without_a_length_are_open(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "open.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [-1, 2])],
        [("y", TensorProto.FLOAT, ["N", 2])],
    )
    with _open(path) as engine:
        assert engine.inputs[0].shape == (None, 2)


def test_a_model_that_takes_text_is_refused(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "text.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, ["N"])],
        [("y", TensorProto.STRING, ["N"])],
    )
    with pytest.raises(ModelError) as caught:
        _open(path)
    assert str(caught.value) == f"input 'x' of {path} is tensor(string), not a tensor of numbers"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"not a model", "protobuf parsing failed"),
        (b"", "the file is empty"),
    ],
    ids=["missing", "text", "empty"],
)
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_file_that_is_no_model_is_named_in_one_line(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    content: bytes | None,
    reason: str,
    device: str,
) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        _open(path, device=device)
    assert str(caught.value) == f"{path} is not an ONNX model: {reason}"
    assert caught.value.status == 422
    assert capfd.readouterr() == ("", "")


def test_a_truncated_model_is_refused(relu: Path) -> None:
    relu.write_bytes(relu.read_bytes()[:60])
    with pytest.raises(ModelError, match=r"is not an ONNX model: [^\n]+[^.]$"):
        _open(relu)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        _open(tmp_path)
    assert str(caught.value) == f"{tmp_path} is not an ONNX model: not a file"


@pytest.mark.parametrize(("operator", "opset"), [("Relu", 99), ("NoSuchOperator", 17)])
def test_a_model_of_the_future_says_that_this_version_cannot_run_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], operator: str, opset: int
) -> None:
    path = _save(
        tmp_path / "future.onnx",
        [helper.make_node(operator, ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [1])],
        opset=opset,
    )
    with pytest.raises(ModelError) as caught:
        _open(path)
    verdict = f"{path} does not run in onnxruntime {onnxruntime.__version__}: "
    assert str(caught.value).startswith(verdict)
    assert "\n" not in str(caught.value)
    assert ".h:" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_sessions_neither_spin_nor_log_nor_take_more_threads(relu: Path) -> None:
    with _open(relu, threads=2) as engine:
        options = engine._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
        assert options.intra_op_num_threads == 2
        assert options.inter_op_num_threads == 1
        assert options.log_severity_level == 4
        assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        everything = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        assert options.graph_optimization_level == everything


def test_closing_under_load_fails_no_call_that_has_begun(relu: Path) -> None:
    engine = _open(relu)
    begun = threading.Semaphore(0)
    refusals: list[str] = []
    array = np.full((2, 4), 5, np.float32)

    def work() -> int:
        done = 0
        while True:
            try:
                output = engine.infer({"x": array})["y"]
            except EngineError as err:
                refusals.append(str(err))
                return done
            assert (output == array).all()
            done += 1
            begun.release()

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work) for _ in range(3)]
        for _ in range(30):
            assert begun.acquire(timeout=30)
        engine.close()
        assert sum(worker.result(timeout=30) for worker in workers) == engine.stats().calls
    assert refusals == ["relu is closed"] * 3


def test_a_missing_onnxruntime_says_what_to_install(
    relu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable) as caught:
        _open(relu)
    assert str(caught.value) == (
        "onnxruntime is not installed: pip install '.[onnx]' in the checkout, or '.[gpu]' for CUDA"
    )
    assert isinstance(caught.value.__cause__, ImportError)


no_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime has CUDA",
)


@no_cuda
def test_auto_is_the_cpu_where_onnxruntime_has_no_cuda(relu: Path) -> None:
    with _open(relu, device="auto") as engine:
        assert engine.device == "cpu"
    assert OnnxEngine.probe() == (onnxruntime.__version__, ("cpu",))


@no_cuda
def test_cuda_that_was_not_compiled_in_is_unavailable(relu: Path) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        _open(relu, device="cuda:1")
    assert str(caught.value) == (
        "device cuda:1 is not in this onnxruntime: "
        "pip install '.[gpu]' in the checkout, in place of '.[onnx]'"
    )


@pytest.fixture
def claims_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime as on a machine whose build has CUDA and whose driver is missing."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)


@no_cuda
@pytest.mark.usefixtures("claims_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_cuda_without_a_driver_is_unavailable_when_asked_for(relu: Path) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        _open(relu, device="cuda")
    assert str(caught.value) == (
        "device cuda could not be opened: "
        "onnxruntime finds no CUDA driver, CUDA libraries or cuDNN that it can use"
    )


@no_cuda
@pytest.mark.usefixtures("claims_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_auto_goes_on_with_the_cpu_and_says_so(
    relu: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), _open(relu, device="auto") as engine:
        assert engine.device == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "relu runs on the CPU, CUDA could not be opened: "
        "onnxruntime finds no CUDA driver, CUDA libraries or cuDNN that it can use"
    ]


@no_cuda
@pytest.mark.usefixtures("claims_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_a_broken_model_is_to_blame_before_the_device(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"is not an ONNX model: protobuf parsing failed$"):
        _open(path, device="cuda")
