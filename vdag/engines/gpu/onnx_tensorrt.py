"""ONNX Runtime's TensorRT provider, in lanes: the engine `onnx-tensorrt`.

ONNX Runtime builds the engine itself, in this process, when it first sees a shape: a worker without
a cached one is not ready before that, which takes up to minutes. The engine `tensorrt` serves
meanwhile; this one is for models that TensorRT runs in part only, whose other parts stay on CUDA.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path

from vdag.engines.base import EngineSpec
from vdag.engines.gpu.device import Stream, device_number, open_device
from vdag.engines.gpu.engine import LaneEngine
from vdag.engines.gpu.lanes import Lanes
from vdag.engines.gpu.onnx import OnnxCompute
from vdag.engines.onnx import TENSORRT, check_file, onnxruntime
from vdag.engines.tensorrt.cache import default_folder
from vdag.engines.tensorrt.profiles import card_beside
from vdag.engines.zoo.card import Card
from vdag.errors import EngineUnavailable

__all__ = ["OnnxTensorRTEngine", "provider_options"]

#: Below the folder of engines; ONNX Runtime names and checks these files itself.
FOLDER = "onnxruntime"


class OnnxTensorRTEngine(LaneEngine):
    """A model in ONNX Runtime's TensorRT provider on a GPU.

    Raises:
        EngineUnavailable: ONNX Runtime has no TensorRT or finds none, or pycuda or the device is
            missing.
        ModelError: the file is missing, broken, or has inputs or outputs that are not tensors of
            numbers.
        ConfigError: the card beside the model is wrong.
    """

    def __init__(self, spec: EngineSpec, *, lanes: int = 2) -> None:
        if spec.device == "cpu":
            raise EngineUnavailable("engine onnx-tensorrt runs on no CPU: engine onnx does")
        check_file(spec)
        self.probe()
        ort, device = onnxruntime(), open_device(device_number(spec.device))
        with contextlib.suppress(ImportError):  # its libraries may be in the loader's path instead
            importlib.import_module("tensorrt")
        folder = default_folder() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        options = provider_options(card_beside(spec.model), folder)

        def compute(stream: Stream) -> OnnxCompute:
            return OnnxCompute(ort, spec, device.index, stream, above=((TENSORRT, options),))

        super().__init__(
            spec.label, Lanes(device, compute, count=lanes), max_shapes=spec.max_shapes
        )

    @staticmethod
    def probe() -> tuple[str, tuple[str, ...]]:
        """Return ONNX Runtime's version and `cuda`; see `EngineClass.probe`."""
        ort = onnxruntime()
        if TENSORRT not in ort.get_available_providers():
            raise EngineUnavailable(
                "this onnxruntime has no TensorRT: pip install '.[gpu]' in the checkout, "
                "in place of '.[onnx]'"
            )
        open_device(0)
        return str(ort.__version__), ("cuda",)


def provider_options(card: Card | None, folder: Path) -> dict[str, str]:
    """Return what the provider is told, but for the device and the stream.

    Args:
        card: of the model. Its profiles become one that covers all of them: without any, ONNX
            Runtime builds anew for each shape that it has not seen.
        folder: for engines that were built.
    """
    options = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }
    if card is None:
        return options
    if card.precision == "float16":
        options["trt_fp16_enable"] = "True"
    if not card.profiles:
        return options
    sides = [(profile.batch, (3, 3, 3), profile.height, profile.width) for profile in card.profiles]
    shapes = {
        "min": [min(lengths[0] for lengths in axis) for axis in zip(*sides, strict=True)],
        "opt": [lengths[1] for lengths in sides[0]],
        "max": [max(lengths[2] for lengths in axis) for axis in zip(*sides, strict=True)],
    }
    for name, shape in shapes.items():
        text = "x".join(map(str, shape))
        options[f"trt_profile_{name}_shapes"] = f"{card.input.name}:{text}"
    return options
