"""What of an engine needs a GPU: loading what was built, and the best that serves until then."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdag.engines.base import Engine, EngineSpec
from vdag.engines.gpu.device import Stream, device_number, open_device
from vdag.engines.gpu.engine import LaneEngine, page_locked
from vdag.engines.gpu.lanes import Lanes
from vdag.engines.gpu.onnx import OnnxCudaEngine
from vdag.engines.onnx import OnnxEngine
from vdag.engines.tensorrt import flavour
from vdag.engines.tensorrt.builder import Target
from vdag.engines.tensorrt.compute import LoadedEngine, TensorRTCompute
from vdag.errors import EngineUnavailable

__all__ = ["Platform", "RealPlatform"]

logger = logging.getLogger(__name__)


class Platform(Protocol):
    """A GPU with a TensorRT.

    Attributes:
        library: name and version of the TensorRT.
        target: what engines are built for.
        device: `cuda:N`.
    """

    library: tuple[str, str]
    target: Target
    device: str

    def fallback(self, spec: EngineSpec) -> Engine:
        """Open the model in ONNX Runtime.

        Raises:
            ModelError: it is not a model of ONNX Runtime.
            EngineUnavailable: ONNX Runtime is missing.
        """

    def open(self, spec: EngineSpec, data: bytes) -> LaneEngine:
        """Load a built engine.

        Raises:
            EngineError: it does not load here.
        """

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return zeros in memory that the device reads fast."""


class RealPlatform:
    """pycuda and an installed TensorRT; see `Platform`.

    Args:
        spec: whose `device` it is.

    Raises:
        EngineUnavailable: TensorRT, pycuda or the device is missing.
    """

    def __init__(self, spec: EngineSpec) -> None:
        if spec.device == "cpu":
            raise EngineUnavailable("engine tensorrt runs on no CPU: engine onnx does")
        self._flavour = flavour.find()
        self._device = open_device(device_number(spec.device))
        self.library = (self._flavour.name, self._flavour.version)
        self.target = Target(
            self._flavour.device(self._device.name), self._device.compute_capability
        )
        self.device = f"cuda:{self._device.index}"

    def fallback(self, spec: EngineSpec) -> Engine:
        """Open the model in ONNX Runtime, on this GPU if that can be."""
        try:
            return OnnxCudaEngine(spec)
        except EngineUnavailable as err:
            logger.info("%s starts on the CPU: %s", spec.label, err)
            return OnnxEngine(spec_on_cpu(spec))

    def open(self, spec: EngineSpec, data: bytes) -> LaneEngine:
        """Load a built engine, with a context in every lane."""
        with self._device.active():
            loaded = LoadedEngine(self._flavour, data, self._device)

        def compute(stream: Stream) -> TensorRTCompute:
            return TensorRTCompute(loaded, stream)

        return LaneEngine(spec.label, Lanes(self._device, compute), max_shapes=spec.max_shapes)

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return zeros in page-locked memory."""
        with self._device.active():
            return page_locked(self._device, shape, dtype)


def spec_on_cpu(spec: EngineSpec) -> EngineSpec:
    """Return the same on the CPU."""
    return EngineSpec(
        spec.model,
        "onnx",
        device="cpu",
        threads=spec.threads,
        name=spec.name,
        max_shapes=spec.max_shapes,
    )
