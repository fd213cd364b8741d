"""ONNX Runtime on CUDA, in lanes: the engine `onnx-cuda`.

`vdag.engines.onnx` works on CUDA too, and needs nothing but ONNX Runtime: the tensor is made on
the CPU and copied while the call waits. Here a session works on the stream of its lane, on inputs
that are on the device already, and hands its outputs over there. Each lane has a session, with
the model's weights once more, since a session belongs to one stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from vdag.engines.base import EngineSpec
from vdag.engines.gpu.device import Stream, device_number, open_device
from vdag.engines.gpu.engine import LaneEngine
from vdag.engines.gpu.lane import DeviceTensor
from vdag.engines.gpu.lanes import Lanes
from vdag.engines.onnx import check_file, onnxruntime, open_cuda, reason, tensor
from vdag.errors import EngineError, EngineUnavailable

__all__ = ["OnnxCompute", "OnnxCudaEngine"]

#: Do not wait for the stream at the end of a run: the lane does, after its copies.
RUN_ENTRY = ("disable_synchronize_execution_providers", "1")
# A run that does not wait does not clean up either: what it has page-locked for its small copies
# stays with the session's stream. If the session goes with that, its allocator goes last, inside
# a callback of CUDA, where its memory cannot be given back, and ONNX Runtime ends the process
# (1.31). So every so many runs one waits, and so does one before the end.
RUNS_BETWEEN_WAITS = 64


class OnnxCudaEngine(LaneEngine):
    """A model in ONNX Runtime on a GPU.

    Raises:
        EngineUnavailable: ONNX Runtime has no CUDA, or pycuda or the device is missing.
        ModelError: the file is missing, broken, or has inputs or outputs that are not tensors of
            numbers.
    """

    def __init__(self, spec: EngineSpec, *, lanes: int = 2, timed: bool = False) -> None:
        if spec.device == "cpu":
            raise EngineUnavailable("engine onnx-cuda runs on no CPU: engine onnx does")
        check_file(spec)
        ort = onnxruntime()
        device = open_device(device_number(spec.device))

        def compute(stream: Stream) -> OnnxCompute:
            return OnnxCompute(ort, spec, device.index, stream)

        super().__init__(
            spec.label,
            Lanes(device, compute, count=lanes, timed=timed),
            max_shapes=spec.max_shapes,
        )

    @staticmethod
    def probe() -> tuple[str, tuple[str, ...]]:
        """Return ONNX Runtime's version and `cuda`; see `EngineClass.probe`."""
        ort = onnxruntime()
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise EngineUnavailable(
                "this onnxruntime has no CUDA: pip install '.[gpu]' in the checkout, "
                "in place of '.[onnx]'"
            )
        open_device(0)
        return str(ort.__version__), ("cuda",)


class OnnxCompute:
    """A session on a lane's stream; `above` as for `open_cuda`."""

    def __init__(
        self,
        ort: Any,
        spec: EngineSpec,
        index: int,
        stream: Stream,
        *,
        above: Sequence[tuple[str, Mapping[str, str]]] = (),
    ) -> None:
        self._name = spec.label
        self._index = index
        session, problem = open_cuda(ort, spec, str(index), stream=stream.handle, above=above)
        if session is None:
            raise EngineUnavailable(f"device cuda:{index} could not be opened: {problem}")
        self._session = session
        self._stream = stream
        self._unclean = 0
        self._binding = session.io_binding()
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(*RUN_ENTRY)
        self.inputs = tuple(tensor(spec, "input", node) for node in session.get_inputs())
        self.outputs = tuple(tensor(spec, "output", node) for node in session.get_outputs())

    def enqueue(self, inputs: Sequence[DeviceTensor], stream: Stream) -> list[DeviceTensor]:
        """Give a run to the stream that the session was made with; see `Compute.enqueue`."""
        assert stream is self._stream, "a session belongs to one stream"
        try:
            for item in inputs:
                self._binding.bind_input(
                    item.spec.name,
                    "cuda",
                    self._index,
                    item.spec.dtype.type,
                    item.shape,
                    item.address,
                )
            for spec in self.outputs:
                # Bound anew: a binding that is run again writes into the outputs of before.
                self._binding.bind_output(spec.name, "cuda", self._index)
            self._run()
            values = self._binding.get_outputs()
        except Exception as err:  # onnxruntime's exceptions have no base of their own
            raise EngineError(f"{self._name} failed: {reason(err)}") from err
        return [
            DeviceTensor(spec, tuple(value.shape()), value.data_ptr(), value)
            for spec, value in zip(self.outputs, values, strict=True)
        ]

    def close(self) -> None:
        """Give the session back, after a last run that cleans up; the inputs are still there."""
        if self._session is not None and self._unclean:
            with contextlib.suppress(Exception):  # of a model that has failed before
                self._session.run_with_iobinding(self._binding)
            self._stream.synchronize()
        self._binding = self._session = None

    def _run(self) -> None:
        self._unclean += 1
        if self._unclean < RUNS_BETWEEN_WAITS:
            self._session.run_with_iobinding(self._binding, self._options)
        else:
            self._session.run_with_iobinding(self._binding)
            self._unclean = 0
