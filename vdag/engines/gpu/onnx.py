"""ONNX Runtime on CUDA, in lanes: the engine `onnx-cuda`.

`vdag.engines.onnx` works on CUDA too, and needs nothing but ONNX Runtime: the tensor is made on
the CPU and copied while the call waits. Here sessions work on the stream of their lane, on inputs
that are on the device already, and hand their outputs over there.

Since ONNX Runtime 1.20 every convolution keeps cuDNN's plan for the last shape alone, and a plan
takes up to seconds. So a lane has a session for each shape: see `shaped`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from vdag.engines.base import EngineSpec
from vdag.engines.gpu.device import Stream, device_number, open_device
from vdag.engines.gpu.lane import DeviceTensor
from vdag.engines.gpu.shaped import ShapedEngine
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
#: ONNX Runtime does not say that sessions may be opened by several threads at once.
_opening = threading.Lock()


class OnnxCudaEngine(ShapedEngine):
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

        def session(stream: Stream) -> OnnxCompute:
            return OnnxCompute(ort, spec, device.index, stream)

        super().__init__(
            spec.label, device, session, max_shapes=spec.max_shapes, lanes=lanes, timed=timed
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
    """A session on a lane's stream, which is a `Session`; `above` as for `open_cuda`."""

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
        with _opening:
            session, problem = open_cuda(ort, spec, str(index), stream=stream.handle, above=above)
        if session is None:
            raise EngineUnavailable(f"device cuda:{index} could not be opened: {problem}")
        self._session = session
        self._stream = stream
        self._unclean = 0
        self._binding = session.io_binding()
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(*RUN_ENTRY)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self.inputs = tuple(tensor(spec, "input", node) for node in inputs)
        self.outputs = tuple(tensor(spec, "output", node) for node in outputs)
        self.is_batched = _is_batched([node.shape for node in (*inputs, *outputs)])

    @property
    def is_clean(self) -> bool:
        """Whether it can be closed without a last run."""
        return not self._unclean

    def enqueue(
        self, inputs: Sequence[DeviceTensor], stream: Stream, *, waits: bool = False
    ) -> list[DeviceTensor]:
        """Give a run to the stream that the session was made with; see `Session.enqueue`."""
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
            self._run(waits=waits)
            values = self._binding.get_outputs()
        except Exception as err:  # onnxruntime's exceptions have no base of their own
            raise EngineError(f"{self._name} failed: {reason(err)}") from err
        return [
            DeviceTensor(spec, tuple(value.shape()), value.data_ptr(), value)
            for spec, value in zip(self.outputs, values, strict=True)
        ]

    def close(self) -> None:
        """Give the session back, after a last run that cleans up; its inputs are still there."""
        if self._session is None:
            return
        if self._unclean:
            with contextlib.suppress(Exception):  # of a model that has failed before
                self._session.run_with_iobinding(self._binding)
        # A run that waits cleans up in a callback, which has the allocator until it is over.
        self._stream.synchronize()
        self._binding = self._session = None

    def _run(self, *, waits: bool) -> None:
        self._unclean += 1
        if waits or self._unclean >= RUNS_BETWEEN_WAITS:
            self._session.run_with_iobinding(self._binding)
            self._unclean = 0
        else:
            self._session.run_with_iobinding(self._binding, self._options)


def _is_batched(shapes: Sequence[Sequence[int | str | None]]) -> bool:
    """Say whether all these shapes begin with the same axis, by its name, of any length.

    An axis without a name may be anything, such as how many objects were found.
    """
    first = {shape[0] if len(shape) else None for shape in shapes}
    return len(first) == 1 and isinstance(first.pop(), str)
