"""ONNX Runtime's TensorRT provider: what it is told; it runs where there is a TensorRT."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vdag import engines
from vdag.engines import zoo
from vdag.engines.gpu.onnx_tensorrt import provider_options
from vdag.errors import EngineUnavailable, ModelError

FOLDER = Path("/var/cache/engines")
CACHES = {
    "trt_engine_cache_enable": "True",
    "trt_engine_cache_path": "/var/cache/engines",
    "trt_timing_cache_enable": "True",
    "trt_timing_cache_path": "/var/cache/engines",
}


def test_a_model_without_a_card_is_built_as_its_shapes_come():
    assert provider_options(None, FOLDER) == CACHES


def test_the_profiles_of_a_card_become_one_that_covers_them():
    card = zoo.card("centerface")
    assert len(card.profiles) > 1
    options = provider_options(card, FOLDER)
    shapes = {}
    for name in ("min", "opt", "max"):
        label, _, text = options.pop(f"trt_profile_{name}_shapes").partition(":")
        assert label == card.input.name
        shapes[name] = [int(length) for length in text.split("x")]
    assert options == {**CACHES, "trt_fp16_enable": "True"}
    for profile in card.profiles:
        for index, lengths in ((0, profile.batch), (2, profile.height), (3, profile.width)):
            assert shapes["min"][index] <= lengths[0] <= lengths[2] <= shapes["max"][index]
    first = card.profiles[0]
    assert shapes["opt"] == [first.batch[1], 3, first.height[1], first.width[1]]
    assert [shapes[name][1] for name in shapes] == [3, 3, 3]


def test_a_card_without_profiles_has_none_and_its_precision_is_kept():
    card = msgspec.structs.replace(zoo.card("centerface"), profiles=(), precision="float32")
    assert provider_options(card, FOLDER) == CACHES


def test_without_what_it_needs_it_says_what_is_missing(tmp_path: Path):
    model = zoo.card("blazeface").path
    with pytest.raises(EngineUnavailable, match="engine onnx-tensorrt runs on no CPU"):
        engines.load(model, engine="onnx-tensorrt", device="cpu")
    with pytest.raises(ModelError, match="no such file"):
        engines.load(tmp_path / "none.onnx", engine="onnx-tensorrt", device="cuda")
    (info,) = (each for each in engines.available() if each.name == "onnx-tensorrt")
    if not info.available:
        with pytest.raises(EngineUnavailable):
            engines.load(model, engine="onnx-tensorrt", device="cuda")
