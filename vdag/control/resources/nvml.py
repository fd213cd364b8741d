"""NVIDIA GPUs by way of NVML, the library beneath `nvidia-smi`.

The module is `pynvml` of the package nvidia-ml-py, imported when first read. Functions, units and
errors are those of the NVML API reference.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast

from vdag.control.resources.gpu import GpuState

__all__ = ["Nvml", "NvmlGpus"]

_LOG = logging.getLogger(__name__)


class Nvml(Protocol):
    """The few names of `pynvml` that are used; a handle is opaque."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: D102
    @property
    def NVML_CLOCK_SM(self) -> int: ...  # noqa: D102
    @property
    def NVML_TEMPERATURE_GPU(self) -> int: ...  # noqa: D102

    def nvmlInit(self) -> None: ...  # noqa: D102
    def nvmlShutdown(self) -> None: ...  # noqa: D102
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: D102
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: D102
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: D102
    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> int: ...  # noqa: D102
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: D102
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: D102


class NvmlGpus:
    """Every GPU that NVML knows; none, said once in the log, where there is no driver.

    NVML is started once, at the first `read`, and never again: a driver that is loaded later is
    seen by the next start of the node. Not thread-safe.
    """

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._given = nvml
        self._nvml: Nvml | None = None
        self._started = False
        self._count = 0
        self._handles: dict[int, Any] = {}
        self._silent: set[int] = set()

    def read(self) -> tuple[GpuState, ...]:
        """Return the GPUs that answer; one that has fallen off the bus is left out."""
        if not self._started:
            self._started = True
            self._start()
        states = (self._gpu(index) for index in range(self._count))
        return tuple(state for state in states if state is not None)

    def close(self) -> None:
        """Shut NVML down, once; later reads find no GPU."""
        nvml, self._nvml = self._nvml, None
        self._started, self._count = True, 0
        self._handles.clear()
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError as err:
                _LOG.debug("NVML did not shut down: %s", err)

    def _start(self) -> None:
        try:
            nvml = self._given or cast(Nvml, importlib.import_module("pynvml"))
        except ImportError:
            _LOG.info("no GPU is reported: pynvml is not installed, it comes with '.[node]'")
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as err:
            _LOG.info("no GPU is reported: %s", err)
            return
        self._nvml = nvml
        self._count = self._ask(nvml.nvmlDeviceGetCount) or 0

    def _gpu(self, index: int) -> GpuState | None:
        state = self._state(index)
        if state == GpuState(index):
            # A handle does not outlive the fall of its GPU; a new one is asked for next time.
            self._handles.pop(index, None)
            if index not in self._silent:
                self._silent.add(index)
                _LOG.warning("GPU %s does not answer any more", index)
            return None
        if index in self._silent:
            self._silent.discard(index)
            _LOG.info("GPU %s answers again", index)
        return state

    def _state(self, index: int) -> GpuState:
        nvml = self._nvml
        assert nvml is not None
        handle = self._handles.get(index)
        if handle is None:
            handle = self._ask(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            return GpuState(index)
        self._handles[index] = handle
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        return GpuState(
            index,
            mem_ratio=memory.used / memory.total if memory is not None and memory.total else None,
            utilization=int(rates.gpu) if rates is not None else None,
            mem_utilization=int(rates.memory) if rates is not None else None,
            clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            power_w=power_mw / 1000 if power_mw is not None else None,
            temperature_c=self._ask(
                nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
            ),
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what NVML answers, None for any of its errors: few GPUs support every question."""
        nvml = self._nvml
        assert nvml is not None
        try:
            return function(*arguments)
        except nvml.NVMLError as err:
            _LOG.debug("%s failed: %s", getattr(function, "__name__", "NVML"), err)
            return None
