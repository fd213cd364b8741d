"""The real devices, where there are some; `benchmarks/bench_gpu.py` looks closer."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vdag import _native as native
from vdag._native.ring import Arena
from vdag.engines.gpu import driver_calls
from vdag.engines.gpu.device import Device, device_number, open_device
from vdag.engines.gpu.pages import LockedPages
from vdag.engines.gpu.pictures import ITEM, Launch, Preparation, place
from vdag.errors import EngineError, EngineUnavailable


@pytest.fixture(params=[0, 1])
def device(request: pytest.FixtureRequest) -> Device:
    try:
        return open_device(request.param)
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


@pytest.mark.gpu
def test_slots_that_may_only_be_read_are_locked_once_and_go_up_from_there(device: Device):
    data = np.random.default_rng(2).integers(0, 256, 3 << 20, dtype=np.uint8)
    with Arena.create("cuda", [(4 << 20, 4)]) as arena, Arena.attach(arena.name) as reader:
        before, ref = arena.put(data), arena.put(data)
        assert before is not None
        assert ref is not None
        assert ref.offset > before.offset  # within the range, not at its begin
        first, second = LockedPages(device), LockedPages(device)
        assert first.lock(*reader.mapping)
        assert second.lock(*reader.mapping)
        first.close()
        with reader.acquire(ref.slot, ref.generation) as view:
            slot = np.frombuffer(view, np.uint8)
            assert second.hold(slot)
            assert not first.hold(slot)
            found = np.zeros_like(slot)
            with device.active():
                memory, stream = device.allocate(slot.nbytes), device.stream()
                start, _ = reader.mapping  # it is locked still
                assert device.mapped(slot.ctypes.data) - device.mapped(start) == (
                    ref.offset - reader.control_nbytes
                )
                device.upload(memory.address, slot, stream)
                device.download(found, memory.address, stream)
                stream.synchronize()
                memory.close()
            np.testing.assert_array_equal(found, data)
            second.close()
            with device.active(), pytest.raises(EngineError, match="device address of host memory"):
                device.mapped(slot.ctypes.data)
            del slot


@pytest.mark.gpu
def test_a_stream_waits_for_the_event_of_another(device: Device):
    with device.active():
        nbytes = 64 << 20
        source, memory = device.page_locked(nbytes), device.allocate(nbytes)
        back = device.page_locked(nbytes)
        source[:] = 7
        first, second, event = device.stream(), device.stream(), device.event()
        for _ in range(8):
            device.upload(memory.address, source, first)
        event.record(first)
        second.wait_for_event(event)
        device.download(back, memory.address, second)
        second.synchronize()
        assert event.query()
        assert (back == 7).all()
        memory.close()


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
