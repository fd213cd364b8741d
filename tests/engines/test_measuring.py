"""What batches take, measured: the numbers belong together, whatever the machine."""

from __future__ import annotations

from typing import Any

import gpu_kit
import numpy as np
import pytest

from vdag import _native as native
from vdag import engines
from vdag.engines import measuring, zoo
from vdag.engines.base import EngineSpec
from vdag.engines.gpu.pictures import Preparation
from vdag.engines.measuring import measure
from vdag.errors import ConfigError, ModelError

CARD = zoo.card("blazeface")
PREPARATION = Preparation("images", (256, 256), native.Normalization(), "letterbox")
PICTURE = np.full((90, 120, 3), 77, np.uint8)
ON_CPU = EngineSpec(CARD.path, device="cpu")


def test_sizes_come_in_order_and_once():
    costs = list(measure(ON_CPU, PREPARATION, PICTURE, (4, 1, 4), calls=5))
    assert [cost.batch for cost in costs] == [1, 4]
    for cost in costs:
        assert cost.mean_s > 0
        assert cost.p95_s > 0
        assert cost.rate > 0
        assert cost.device_nbytes == 0


def test_on_a_device_pictures_go_up_and_its_memory_is_told(host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_kit.HostEngine, "host", host, raising=False)
    monkeypatch.setitem(engines._TARGETS, "stand-in", "gpu_kit:HostEngine")
    monkeypatch.setattr(measuring, "open_device", lambda index: host)
    spec = EngineSpec(CARD.path, "stand-in", device="cuda")
    costs = list(measure(spec, PREPARATION, PICTURE, (1, 3), calls=4))
    tensor = 3 * 256 * 256 * 4
    # Both lanes have the tensor and the pictures of their batch.
    for cost in costs:
        assert cost.device_nbytes >= 2 * cost.batch * (tensor + PICTURE.nbytes)
    assert {nbytes for _, nbytes in host.uploads} == {PICTURE.nbytes, 40, 120}
    assert host.allocated == {}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"batches": (0,)}, "batch of 0 is not 1 to 256"),
        ({"batches": (1, 257)}, "batch of 257 is not 1 to 256"),
        ({"batches": (1,), "calls": 0}, "calls of 0 is not 1 to 10000"),
    ],
)
def test_numbers_without_a_meaning_are_refused(options: dict[str, Any], problem: str):
    with pytest.raises(ConfigError) as caught:
        list(measure(ON_CPU, PREPARATION, PICTURE, **options))
    assert str(caught.value) == problem


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        list(measure(EngineSpec(tmp_path / "x.onnx", device="cpu"), PREPARATION, PICTURE, (1,)))
