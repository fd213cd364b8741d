"""The real device, where there is one; `benchmarks/bench_gpu.py` looks closer."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vdag import _native as native
from vdag.engines.gpu import driver_calls
from vdag.engines.gpu.device import Device, device_number, open_device
from vdag.engines.gpu.pictures import ITEM, Launch, Preparation, place
from vdag.errors import EngineUnavailable


@pytest.fixture
def device() -> Device:
    try:
        return open_device(0)
    except EngineUnavailable as err:
        pytest.skip(str(err))


@pytest.mark.gpu
def test_the_kernel_on_the_device_computes_what_the_cpu_computes(device: Device):
    random = np.random.default_rng(1)
    picture = random.integers(0, 256, (270, 480, 3), dtype=np.uint8)
    preparation = Preparation("x", (320, 192), native.Normalization(), "letterbox")
    expected = np.empty((3, 192, 320), np.float32)
    native.preprocess.letterbox(picture, expected)
    items = np.zeros(1, ITEM)
    place(items[0], 480, 270, preparation)
    found = np.full_like(expected, np.nan)
    with device.active():
        memories = [device.allocate(n) for n in (picture.nbytes, items.nbytes, found.nbytes)]
        source, table, target = (memory.address for memory in memories)
        items[0]["src"], items[0]["stride"] = source, 480 * 3
        stream = device.stream()
        device.upload(source, picture.reshape(-1), stream)
        device.upload(table, items.view(np.uint8), stream)
        device.fill_pictures(Launch(table, target, 1, "float32", preparation), stream)
        device.download(found, target, stream)
        stream.synchronize()
        for memory in memories:
            memory.close()
    assert np.abs(found - expected).max() * 255 <= 1


def test_the_kernels_compile_for_old_and_new_devices():
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    assert driver_calls.compile_pictures(9, 0)[:4] == b"\x7fELF"
    assert b".entry vdag_pictures_float16" in driver_calls.compile_pictures(99, 0)


def test_without_pycuda_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(EngineUnavailable, match=r"pip install '\.\[cuda\]' in the checkout"):
        open_device(98)


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_devices_are_numbered_as_they_are_named(name: str, number: int):
    assert device_number(name) == number
