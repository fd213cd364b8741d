"""Engines by the real builder of TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from gpu_kit import builders
from onnx import TensorProto, helper

from vdag import _native as native
from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.comparison import disagreement
from vdag.engines.onnx import OnnxEngine
from vdag.engines.tensorrt import flavour
from vdag.engines.tensorrt.build_process import Settings
from vdag.engines.tensorrt.builder import BuildOrder, InputRange, Target, build, model_digest
from vdag.engines.tensorrt.builds import Limits, run_build
from vdag.engines.tensorrt.cache import EngineCache
from vdag.engines.tensorrt.network import prepare
from vdag.engines.tensorrt.profiles import card_beside, order_for, profiles_of
from vdag.errors import ConfigError, EngineBuildError, EngineUnavailable, ModelError
from vdag.kinship import child_environment

pytestmark = pytest.mark.slow  # as a whole

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel here")

MODELS = ["blazeface", "centerface", "facemesh", "helmet", "nanodet"]
TARGET = Target("", (8, 6))
RTX = flavour.find(["tensorrt-rtx"])


def ignore(part: float, phase: str) -> None:
    """Progress that nobody looks at."""


def order_of(model: Path, *, precision: str = "") -> BuildOrder:
    with OnnxEngine(EngineSpec(model, device="cpu")) as opened:
        return order_for(
            model,
            opened.inputs,
            label=opened.name,
            library=(RTX.name, RTX.version),
            target=TARGET,
            precision=precision,
        )


def save_relu(path: Path, shape: list[int | str]) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "relu", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


@pytest.fixture
def relu(tmp_path: Path) -> BuildOrder:
    return order_of(save_relu(tmp_path / "relu.onnx", [1, 4]))


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_zoo_builds_with_its_profiles(name: str, precision: str):
    parts: list[float] = []
    order = order_of(zoo.card(name).path, precision=precision)
    engine = build(order, RTX, lambda part, phase: parts.append(part))
    assert len(order.profiles) == len(zoo.card(name).profiles)
    assert len(engine) > zoo.card(name).nbytes
    assert parts[0] == 0
    assert parts[-1] == 1
    assert all(0 <= part <= 1 for part in parts)


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_stays_within_the_card(name: str):
    card = zoo.card(name)
    random = np.random.default_rng(3)
    size = card.input.tensor_size(320, 240, 320)
    frames = [random.integers(0, 256, (240, 320, 3), dtype=np.uint8)]
    tensor = np.empty((1, 3, *size[::-1]), np.float32)
    spec = card.input
    norm = native.Normalization(
        scale=spec.scale, mean=spec.mean, std=spec.std, rgb=spec.colour == "RGB"
    )
    native.preprocess.fill_batch(frames, tensor, norm, mode=spec.resize)
    found = {
        precision: run_model(prepare(card.path, precision), {spec.name: tensor})
        for precision in ("model", "float32", "float16")
    }
    assert disagreement(found["model"], found["float16"], card.agreement) == ""
    for output, values in found["model"].items():
        np.testing.assert_array_equal(found["float32"][output], values)


def run_model(model: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_prepared_models_keep_no_cast_of_a_weight(precision: str):
    proto = onnx.load_from_string(prepare(zoo.card("centerface").path, precision))
    weights = {tensor.name for tensor in proto.graph.initializer}
    casts = [node for node in proto.graph.node if node.op_type == "Cast"]
    assert not [node for node in casts if node.input[0] in weights]
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    assert kinds == {TensorProto.FLOAT16 if precision == "float16" else TensorProto.FLOAT}
    onnx.checker.check_model(proto, full_check=True)


def test_a_quantised_model_builds_as_it_is_and_no_other_way(tmp_path: Path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.float32(0.1), "scale"),
        onnx.numpy_helper.from_array(np.int8(0), "zero"),
    ]
    graph = helper.make_graph(nodes, "q", values[:1], values[1:], constants)
    path = tmp_path / "quantised.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    assert build(order_of(path, precision="model"), RTX, ignore)
    with pytest.raises(ModelError) as caught:
        build(order_of(path), RTX, ignore)
    assert str(caught.value) == (f"{path} is quantised: its precision must be model, not float16")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path):
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    with pytest.raises(ModelError, match=r"text.onnx is not an ONNX model"):
        prepare(path, "float32")


def test_a_dynamic_model_without_a_card_is_refused(tmp_path: Path):
    path = save_relu(tmp_path / "relu.onnx", ["N", 4])
    with pytest.raises(ConfigError) as caught:
        order_of(path)
    assert str(caught.value) == (
        "input 'x' of relu.onnx has shape (any, 4): "
        "a card relu.toml with [[profiles]] must say which"
    )


def test_a_card_of_another_file_is_refused(tmp_path: Path):
    path = save_relu(tmp_path / "relu.onnx", ["N", 4])
    (tmp_path / "relu.toml").write_text(
        'name = "r"\nversion = "1"\nfile = "other.onnx"\n'
        '[input]\nname = "x"\ncolour = "RGB"\nresize = "stretch"\n[decode]\nkind = "binary"\n'
    )
    with pytest.raises(ConfigError, match=r"card relu.toml is of the file other.onnx"):
        card_beside(path)


def test_profiles_are_those_of_the_card():
    card = zoo.card("centerface")
    with OnnxEngine(EngineSpec(card.path, device="cpu")) as opened:
        (large,), (small,) = profiles_of(card, opened.inputs, model=card.path)
    assert large == InputRange("images", (1, 3, 64, 64), (1, 3, 736, 1280), (4, 3, 1280, 1280))
    assert small.most == (16, 3, 640, 640)
    assert small.covers((16, 3, 64, 640))
    assert not small.covers((17, 3, 64, 640))
    assert not small.covers((16, 64, 640))


def test_a_range_that_does_not_rise_is_refused():
    with pytest.raises(ConfigError, match=r"input 'x': \(1,\), \(4,\), \(2,\) do not rise"):
        InputRange("x", (1,), (4,), (2,))


def test_a_device_that_it_builds_nothing_for_is_named(relu: BuildOrder):
    with pytest.raises(EngineBuildError) as caught:
        build(replace(relu, target=Target("", (9, 0))), RTX, ignore)
    assert f"builds nothing for compute capability 9.0, only for {RTX.capabilities()[0]}" in str(
        caught.value
    )


def test_another_version_or_a_changed_file_is_refused(relu: BuildOrder):
    with pytest.raises(EngineBuildError, match=r"is here, tensorrt-rtx 0\.1 was asked for"):
        build(replace(relu, library=("tensorrt-rtx", "0.1")), RTX, ignore)
    save_relu(relu.model, [1, 5])
    with pytest.raises(ModelError, match=r"is not the file that was asked for: it has changed"):
        build(relu, RTX, ignore)


def test_the_parser_s_reason_is_in_the_error(tmp_path: Path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Unheard", ["x"], ["y"], domain="elsewhere")], "u", values[:1], values[1:]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    path = tmp_path / "unheard.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    order = BuildOrder(
        "unheard", path, model_digest(path), (RTX.name, RTX.version), TARGET, (), "float32"
    )
    with pytest.raises(EngineBuildError, match=r"unheard: the parser refuses the model: .*Unheard"):
        build(order, RTX, ignore)


def test_the_key_changes_with_everything_that_an_engine_depends_on(relu: BuildOrder):
    ranges = ((InputRange("x", (1, 4), (1, 4), (2, 4)),),)
    others = [
        replace(relu, digest="0" * 64),
        replace(relu, library=("tensorrt", RTX.version)),
        replace(relu, library=(RTX.name, "0.1")),
        replace(relu, target=Target("GPU", (8, 6))),
        replace(relu, target=Target("", (8, 9))),
        replace(relu, profiles=ranges),
        replace(relu, precision="float32"),
    ]
    assert len({relu.key, *(order.key for order in others)}) == 8
    assert replace(relu, label="x", model=Path("elsewhere")).key == relu.key


# ---- in a process of its own ----


def test_a_process_builds_into_the_cache(relu: BuildOrder, tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    seen: list[tuple[float, str]] = []
    run_build(relu, cache, progress=lambda part, phase: seen.append((part, phase)))
    assert cache.load(relu)
    assert seen[-1][0] == 1
    assert builders() == []


def test_a_build_that_fails_says_why(relu: BuildOrder, tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    with pytest.raises(EngineBuildError, match=r"builds nothing for compute capability 9\.0"):
        run_build(replace(relu, target=Target("", (9, 0))), cache)
    assert cache.load(relu) is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(timeout_s=0.0), r"the build took more than 0 s"),
        (Limits(memory_nbytes=1 << 20), r"the build took \d+ MiB of memory, more than 1 MiB"),
    ],
)
def test_a_build_beyond_its_limits_is_ended(
    relu: BuildOrder, tmp_path: Path, limits: Limits, reason: str
):
    with pytest.raises(EngineBuildError, match=reason):
        run_build(relu, EngineCache(tmp_path / "engines"), limits=limits)
    assert builders() == []


def test_a_build_is_ended_when_it_is_not_wanted_any_more(relu: BuildOrder, tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    stop = threading.Event()
    with cache.building(relu), pytest.raises(EngineBuildError, match="the build was stopped"):
        run_build(relu, cache, stop=stop, progress=lambda part, phase: stop.set())


def test_a_killed_builder_is_reported(relu: BuildOrder, tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")

    def kill(part: float, phase: str) -> None:
        for child in builders():
            child.kill()

    with (
        cache.building(relu),
        pytest.raises(EngineBuildError, match="the build ended by itself: killed by signal 9"),
    ):
        run_build(relu, cache, progress=kill)
    run_build(relu, cache)
    assert cache.load(relu)


def test_of_two_builds_at_once_the_second_finds_the_first_s_engine(
    relu: BuildOrder, tmp_path: Path
):
    cache = EngineCache(tmp_path / "engines")
    phases: list[list[str]] = [[], []]

    def note(number: int) -> Callable[[float, str], None]:
        return lambda part, phase: phases[number].append(phase)

    threads = [
        threading.Thread(target=run_build, args=(relu, cache), kwargs={"progress": note(number)})
        for number in range(2)
    ]
    with cache.building(relu):  # so that both are there before one begins
        for thread in threads:
            thread.start()
        waited = threading.Event()
        while not all(phases):
            waited.wait(0.01)
    for thread in threads:
        thread.join()
    assert sorted("reading the model" in names for names in phases) in (
        [False, True],
        [False, False],
    )
    assert cache.load(relu)


def test_a_builder_dies_with_its_parent(relu: BuildOrder, tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    program = (
        "import sys, msgspec\n"
        "from pathlib import Path\n"
        "from vdag.engines.tensorrt.build_process import Settings, _read_path\n"
        "from vdag.engines.tensorrt.builds import run_build\n"
        "from vdag.engines.tensorrt.cache import EngineCache\n"
        "told = msgspec.json.decode(sys.argv[1], type=Settings, dec_hook=_read_path)\n"
        "run_build(told.order, EngineCache(Path(told.folder)),\n"
        "          progress=lambda part, phase: print(phase, flush=True))\n"
    )
    told = msgspec.json.encode(Settings(0, str(cache.folder), relu, 1 << 30), enc_hook=str).decode()
    with (
        cache.building(relu),
        subprocess.Popen(
            [sys.executable, "-c", program, told], stdout=subprocess.PIPE, env=child_environment()
        ) as parent,
    ):
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"waiting for another build\n"
        (builder,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
        builder.wait(30)


def test_without_any_tensorrt_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(flavour, "MODULES", (("tensorrt_that_is_not_there", "tensorrt"),))
    with pytest.raises(EngineUnavailable) as caught:
        flavour.find()
    assert str(caught.value) == (
        "tensorrt is not installed: pip install '.[tensorrt]' in the checkout, "
        "or '.[rtx]' for RTX cards"
    )
    assert flavour.libraries() == []
