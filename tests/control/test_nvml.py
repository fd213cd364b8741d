"""GPUs by way of NVML, whose library stands in as a small fake with the same names."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from vdag.control.resources.gpu import GpuState
from vdag.control.resources.nvml import NvmlGpus


class FakeNvml:
    """A driver with GPUs that can fall off the bus and come back."""

    class NVMLError(Exception):
        """As in pynvml."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, count: int = 2, driver: bool = True) -> None:
        self.count = count
        self.driver = driver
        self.lost: set[int] = set()
        self.unsupported: set[str] = set()
        self.calls: list[str] = []
        self.epoch = 0

    def _check(self, name: str, handle: tuple[int, int]) -> int:
        index, epoch = handle
        if index in self.lost or epoch != self.epoch:
            raise self.NVMLError("GPU is lost")
        if name in self.unsupported:
            raise self.NVMLError("Not Supported")
        return index

    def nvmlInit(self) -> None:
        self.calls.append("init")
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        self.calls.append("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[int, int]:
        if index in self.lost:
            raise self.NVMLError("GPU is lost")
        return index, self.epoch

    def nvmlDeviceGetMemoryInfo(self, handle: tuple[int, int]) -> Any:
        index = self._check("memory", handle)
        return SimpleNamespace(used=(index + 1) * 2**30, total=16 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: tuple[int, int]) -> Any:
        index = self._check("utilization", handle)
        return SimpleNamespace(gpu=7 + index, memory=3)

    def nvmlDeviceGetClockInfo(self, handle: tuple[int, int], clock: int) -> int:
        self._check("clock", handle)
        assert clock == self.NVML_CLOCK_SM
        return 1500

    def nvmlDeviceGetPowerUsage(self, handle: tuple[int, int]) -> int:
        self._check("power", handle)
        return 43_210

    def nvmlDeviceGetTemperature(self, handle: tuple[int, int], sensor: int) -> int:
        self._check("temperature", handle)
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 41


FIRST = GpuState(0, 1 / 16, 7, 3, 1500, 43.21, 41)
SECOND = GpuState(1, 2 / 16, 8, 3, 1500, 43.21, 41)


def test_every_gpu_is_read_in_the_units_of_the_record_tables():
    assert NvmlGpus(FakeNvml()).read() == (FIRST, SECOND)


def test_nvml_is_started_once_and_only_when_it_is_first_read():
    nvml = FakeNvml()
    gpus = NvmlGpus(nvml)
    assert nvml.calls == []
    gpus.read()
    gpus.read()
    gpus.close()
    gpus.close()
    assert gpus.read() == ()
    assert nvml.calls == ["init", "shutdown"]


def test_a_gpu_that_falls_off_the_bus_leaves_a_gap_and_may_come_back(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    nvml = FakeNvml()
    gpus = NvmlGpus(nvml)
    gpus.read()
    nvml.lost = {0}
    assert gpus.read() == gpus.read() == (SECOND,)
    # A reset makes every handle invalid: GPU 1 is missed once, and both are back after that.
    nvml.lost, nvml.epoch = set(), 1
    assert gpus.read() == (FIRST,)
    assert gpus.read() == (FIRST, SECOND)
    assert [record.message for record in caplog.records] == [
        "GPU 0 does not answer any more",
        "GPU 0 answers again",
        "GPU 1 does not answer any more",
        "GPU 1 answers again",
    ]


@pytest.mark.parametrize(
    ("question", "missing"),
    [
        ("memory", {"mem_ratio"}),
        ("utilization", {"utilization", "mem_utilization"}),
        ("clock", {"clock_mhz"}),
        ("power", {"power_w"}),
        ("temperature", {"temperature_c"}),
    ],
)
def test_what_a_gpu_does_not_support_is_none_and_the_rest_is_there(
    question: str, missing: set[str]
):
    nvml = FakeNvml(count=1)
    nvml.unsupported = {question}
    (state,) = NvmlGpus(nvml).read()
    for name in GpuState.__slots__:
        assert getattr(state, name) == (None if name in missing else getattr(FIRST, name))


def test_a_machine_without_a_driver_has_no_gpus_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    nvml = FakeNvml(driver=False)
    gpus = NvmlGpus(nvml)
    assert gpus.read() == gpus.read() == ()
    gpus.close()
    assert nvml.calls == ["init"]
    assert [record.message for record in caplog.records] == [
        "no GPU is reported: Driver Not Loaded"
    ]


def test_a_machine_without_the_module_has_no_gpus_and_says_what_brings_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    gpus = NvmlGpus()
    assert gpus.read() == gpus.read() == ()
    assert [record.message for record in caplog.records] == [
        "no GPU is reported: pynvml is not installed, it comes with '.[node]'"
    ]
