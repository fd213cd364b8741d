from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import vdag.engines
from vdag import engines
from vdag.engines import EngineInfo, EngineSpec, TensorSpec
from vdag.engines.base import MAX_THREADS
from vdag.errors import ConfigError, EngineUnavailable


@pytest.fixture
def model(tmp_path: Path) -> Path:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "relu", [value("x")], [value("y")]
    )
    path = tmp_path / "relu.v2.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path)
    return path


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The registry, put back after the test."""
    copy = dict(vdag.engines._TARGETS)
    monkeypatch.setattr(vdag.engines, "_TARGETS", copy)
    return copy


class Doubler:
    """The least that `register` asks for, apart from running models."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @staticmethod
    def probe() -> tuple[str, tuple[str, ...]]:
        return "2.0", ("cpu",)


def test_load_takes_a_spec_a_path_or_a_string(model: Path) -> None:
    for spec in (EngineSpec(model), model, str(model)):
        with engines.load(spec) as engine:
            assert engine.name == "relu.v2"
            assert engine.infer({"x": np.array([-1, 3], np.float32)})["y"].tolist() == [0, 3]


def test_overrides_replace_fields_of_the_spec(model: Path) -> None:
    spec = EngineSpec(Path("elsewhere.onnx"), device="cuda:3", name="first")
    with engines.load(spec, model=model, device="cpu", name="second") as engine:
        assert (engine.name, engine.device) == ("second", "cpu")
    assert spec == EngineSpec(Path("elsewhere.onnx"), device="cuda:3", name="first")


def test_load_refuses_an_unknown_override(model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        engines.load(model, thread=2)
    assert str(caught.value) == (
        "an engine spec has no field 'thread'; "
        "its fields are model, engine, device, threads, name, max_shapes"
    )


def test_load_refuses_an_unknown_engine(model: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^engine 'torch' is none of onnx, onnx-cuda, onnx-tensorrt, tensorrt$"
    ):
        engines.load(model, engine="torch")


def test_an_engine_that_is_not_installed_is_named(model: Path, targets: dict[str, str]) -> None:
    targets["ghost"] = "vdag.engines.ghost:GhostEngine"
    with pytest.raises(EngineUnavailable) as caught:
        engines.load(model, engine="ghost")
    assert str(caught.value) == (
        "engine ghost is not part of this installation: no module named 'vdag.engines.ghost'"
    )
    assert caught.value.status == 503


def test_tensorrt_is_unavailable_without_its_library(model: Path) -> None:
    info = {info.name: info for info in engines.available()}["tensorrt"]
    if info.available:
        pytest.skip("TensorRT is installed here")
    with pytest.raises(EngineUnavailable, match=r"tensorrt|pycuda|CUDA") as caught:
        engines.load(model, engine="tensorrt")
    assert str(caught.value) == info.problem


def test_a_target_without_the_class_is_unavailable(model: Path, targets: dict[str, str]) -> None:
    targets["wrong"] = "vdag.engines.base:Missing"
    with pytest.raises(EngineUnavailable) as caught:
        engines.load(model, engine="wrong")
    assert str(caught.value) == (
        "engine wrong is not part of this installation: "
        "module 'vdag.engines.base' has no attribute 'Missing'"
    )


def test_available_names_every_engine_and_its_devices() -> None:
    infos = {info.name: info for info in engines.available()}
    assert list(infos)[:4] == ["onnx", "onnx-cuda", "onnx-tensorrt", "tensorrt"]
    import onnxruntime

    assert infos["onnx"].version == onnxruntime.__version__
    assert infos["onnx"].devices[-1] == "cpu"
    assert infos["onnx"].problem is None


def test_available_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert engines.available()[0] == EngineInfo(
        "onnx",
        available=False,
        version=None,
        devices=(),
        problem="onnxruntime is not installed: pip install '.[onnx]' in the checkout, "
        "or '.[gpu]' for CUDA",
    )


def test_an_engine_of_your_own_can_be_registered(
    model: Path, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "doubler", sys.modules[__name__])
    engines.register("doubler", "doubler:Doubler")
    loaded: Any = engines.load(model, engine="doubler", threads=3)
    assert isinstance(loaded, Doubler)
    assert loaded.spec == EngineSpec(model, "doubler", threads=3)
    assert engines.available()[-1] == EngineInfo("doubler", True, "2.0", ("cpu",))


@pytest.mark.parametrize("target", ["", "module", "module:", ":Class", "module:a b"])
def test_register_refuses_a_target_of_another_form(targets: dict[str, str], target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        engines.register("mine", target)
    assert str(caught.value) == f"engine target {target!r} is not of the form module:Class"
    assert "mine" not in targets


def test_register_refuses_a_name_that_is_taken(targets: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        engines.register("onnx", "mine:Engine")
    assert str(caught.value) == (
        "engine 'onnx' is registered already, as vdag.engines.onnx:OnnxEngine"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' is none of auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:"}, "device 'cuda:' is none of auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:-1"}, "device 'cuda:-1' is none of auto, cpu, cuda, cuda:N"),
        ({"threads": 0}, f"threads 0 is not within 1..{MAX_THREADS}"),
        ({"threads": 100_000}, f"threads 100000 is not within 1..{MAX_THREADS}"),
        ({"max_shapes": 0}, "max_shapes 0 is below 1"),
    ],
)
def test_a_spec_without_meaning_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineSpec(Path("model.onnx"), **fields)
    assert str(caught.value) == message


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_a_spec_takes_every_device(device: str) -> None:
    assert EngineSpec(Path("model.onnx"), device=device).device == device


def test_a_tensor_is_described_for_people() -> None:
    dtype = np.dtype(np.float32)
    assert TensorSpec("x", dtype, (None, 3, None, 640)).layout() == "(any, 3, any, 640)"
    assert TensorSpec("x", dtype, (5,)).layout() == "(5,)"
    assert TensorSpec("x", dtype, ()).layout() == "()"


def test_importing_the_engines_imports_no_library() -> None:
    script = (
        "import sys, vdag.engines, vdag.engines.onnx, vdag.engines.batching\n"
        "print([name for name in ('onnxruntime', 'onnx', 'tensorrt') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "[]\n"
