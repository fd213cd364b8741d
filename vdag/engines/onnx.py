"""ONNX Runtime, on the CPU or through CUDA.

A call costs what `InferenceSession.run` costs: the arrays of `buffer` are bound to the session
once for each shape, so that no call looks at its inputs twice. Outputs are bound to memory that
ONNX Runtime takes from its arena for every call, since a binding that is run again writes into
the outputs of the run before; the arrays returned are views of that memory and keep it alive.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from vdag.engines.base import EngineSpec, EngineStats, InputBuffers, TensorSpec
from vdag.errors import ConfigError, EngineError, EngineUnavailable, ModelError, VdagError

__all__ = ["TENSORRT", "OnnxEngine", "check_file", "onnxruntime", "open_cuda", "reason", "tensor"]

_log = logging.getLogger(__name__)

TENSORRT = "TensorrtExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
#: Errors.
LOGGED_SEVERITY = 3

#: Is no array, so that None among the inputs is not taken for one that is bound.
_UNBOUND = object()

#: ONNX Runtime's names of the element types that numpy has too.
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({dtype})": np.dtype(dtype) for dtype in ("int8", "int16", "int32", "int64")},
    **{f"tensor({dtype})": np.dtype(dtype) for dtype in ("uint8", "uint16", "uint32", "uint64")},
}

#: The exceptions that mean a broken file; others mean a model that this version cannot run.
_BROKEN = frozenset({"InvalidArgument", "InvalidProtobuf"})

#: What ONNX Runtime writes before the reason: its error code, its source file, the path again.
_PREAMBLE = re.compile(
    r"^.*Status Message: |^\[ONNXRuntimeError\] : \d+ : \w+ : |^Error in execution: "
    r"|^Load model from .*? failed: ?|^\S+\.(?:cc|h):\d+ (?:.*?\) (?=[A-Z]))?",
    re.DOTALL,
)


class OnnxEngine:
    """A model in ONNX Runtime; `vdag.engines.Engine` says who owns which array.

    Raises:
        EngineUnavailable: onnxruntime is not installed, or has no CUDA where CUDA is asked for.
        ModelError: the file is missing, broken, or has inputs or outputs that are not tensors of
            numbers.
    """

    def __init__(self, spec: EngineSpec) -> None:
        ort = onnxruntime()
        self.name = spec.label
        self.device, self._session = _open(ort, spec)
        self.inputs = tuple(tensor(spec, "input", node) for node in self._session.get_inputs())
        self.outputs = tuple(tensor(spec, "output", node) for node in self._session.get_outputs())
        self._binding = self._session.io_binding()
        self._bind_outputs()
        self._buffers = InputBuffers(self.inputs, max_shapes=spec.max_shapes)
        # With CUDA, binding an input is what copies it to the device: nothing stays bound there.
        self._keeps_bound = self.device == "cpu"
        self._bound: dict[str, NDArray[Any]] = {}
        self._stats = EngineStats()
        self._closed = False
        self._lock = threading.Lock()

    @staticmethod
    def probe() -> tuple[str, tuple[str, ...]]:
        """Return ONNX Runtime's version and its devices, best first; see `EngineClass.probe`."""
        ort = onnxruntime()
        return str(ort.__version__), ("cuda", "cpu") if _has_cuda(ort) else ("cpu",)

    def buffer(self, name: str, shape: Sequence[int]) -> NDArray[Any]:
        """Return the engine's own array for an input, to be filled; see `Engine.buffer`."""
        with self._lock:
            self._refuse_closed()
            return self._buffers.get(name, shape)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once; see `Engine.infer`."""
        with self._lock:
            start_ns = time.perf_counter_ns()
            outputs = self._run(inputs)
            elapsed_ns = time.perf_counter_ns() - start_ns
            self._stats = self._stats.plus(self._items(inputs), elapsed_ns)
            return outputs

    def warm_up(self, shapes: Iterable[Mapping[str, Sequence[int]]]) -> None:
        """Run once for each set of input shapes; see `Engine.warm_up`."""
        for wanted in shapes:
            inputs = {name: self.buffer(name, shape) for name, shape in wanted.items()}
            with self._lock:
                self._run(inputs)

    def stats(self) -> EngineStats:
        """Return what the engine has done so far."""
        return self._stats

    def close(self) -> None:
        """Give the session and the buffers back; outputs handed out stay valid."""
        with self._lock:
            self._closed = True
            self._binding = self._session = None
            self._bound.clear()
            self._buffers.clear()

    def __enter__(self) -> OnnxEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Bind, run and collect; the lock is held."""
        self._refuse_closed()
        try:
            # Bound by address: the arrays have to live until the run is over.
            held = self._bind_inputs(inputs)
            self._session.run_with_iobinding(self._binding)
            del held
            values = self._binding.get_outputs()
            return {
                spec.name: value.numpy() for spec, value in zip(self.outputs, values, strict=True)
            }
        except VdagError:
            raise
        except Exception as err:  # onnxruntime's exceptions have no base of their own
            raise EngineError(f"{self.name} failed: {reason(err)}") from err
        finally:
            self._bind_outputs()

    def _bind_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Bind what is not bound yet; return the arrays whose addresses are in the binding."""
        if len(inputs) != len(self.inputs):
            self._refuse_names(inputs)
        held = []
        for spec in self.inputs:
            if spec.name not in inputs:
                self._refuse_names(inputs)
            array = inputs[spec.name]
            if array is self._bound.get(spec.name, _UNBOUND):
                continue
            spec.check(array)
            held.append(self._bind_input(spec, array))
        return held

    def _bind_input(self, spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
        # By address and not by `bind_cpu_input`, which would keep the array until the next call:
        # a view of a shared slot held that long is a lease that does not come back.
        self._bound.pop(spec.name, None)
        whole = np.require(array, requirements=("C_CONTIGUOUS", "ALIGNED"))
        self._binding.bind_input(
            spec.name, "cpu", 0, spec.dtype.type, whole.shape, whole.ctypes.data
        )
        if self._keeps_bound and self._buffers.owns(spec.name, array):
            self._bound[spec.name] = array
        return whole

    def _bind_outputs(self) -> None:
        """Ask for fresh memory in the next run, and let go of what the last one wrote."""
        for spec in self.outputs:
            self._binding.bind_output(spec.name, "cpu")

    def _items(self, inputs: Mapping[str, NDArray[Any]]) -> int:
        if not self.inputs or not self.inputs[0].shape:
            return 1
        return int(inputs[self.inputs[0].name].shape[0])

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EngineError(f"{self.name} is closed")

    def _refuse_names(self, inputs: Mapping[str, NDArray[Any]]) -> NoReturn:
        names = [spec.name for spec in self.inputs]
        for name in inputs:
            if name not in names:
                raise ConfigError(f"{self.name} has no input {name!r}; it takes {', '.join(names)}")
        missing = ", ".join(name for name in names if name not in inputs)
        raise ConfigError(f"{self.name} misses input {missing}; it takes {', '.join(names)}")


def onnxruntime() -> Any:
    """Import the library.

    Raises:
        EngineUnavailable: it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as err:
        raise EngineUnavailable(
            "onnxruntime is not installed: pip install '.[onnx]' in the checkout, "
            "or '.[gpu]' for CUDA"
        ) from err


def _has_cuda(ort: Any) -> bool:
    return _CUDA in ort.get_available_providers()


def check_file(spec: EngineSpec) -> None:
    """Look at the model before any library does.

    Raises:
        ModelError: it is no file, or an empty one.
    """
    if not spec.model.is_file():
        problem = "not a file" if spec.model.exists() else "no such file"
        raise ModelError(f"{spec.model} is not an ONNX model: {problem}")
    if not spec.model.stat().st_size:  # versions of onnxruntime differ in what they call it
        raise ModelError(f"{spec.model} is not an ONNX model: the file is empty")


def _open(ort: Any, spec: EngineSpec) -> tuple[str, Any]:
    """Return the device that `spec` comes to, and a session on it."""
    check_file(spec)
    if spec.device == "cpu" or (spec.device == "auto" and not _has_cuda(ort)):
        return "cpu", _open_cpu(ort, spec)
    if not _has_cuda(ort):
        raise EngineUnavailable(
            f"device {spec.device} is not in this onnxruntime: "
            "pip install '.[gpu]' in the checkout, in place of '.[onnx]'"
        )
    index = spec.device.partition(":")[2] or "0"
    session, problem = open_cuda(ort, spec, index)
    if session is not None:
        return f"cuda:{index}", session
    fallback = _open_cpu(ort, spec)  # raises if the model is to blame and not the device
    if spec.device != "auto":
        raise EngineUnavailable(f"device {spec.device} could not be opened: {problem}")
    _log.warning("%s runs on the CPU, CUDA could not be opened: %s", spec.label, problem)
    return "cpu", fallback


def _open_cpu(ort: Any, spec: EngineSpec) -> Any:
    try:
        return _session(ort, spec, [_CPU])
    except Exception as err:  # onnxruntime's exceptions have no base of their own
        broken = type(err).__name__ in _BROKEN
        verdict = (
            "is not an ONNX model" if broken else f"does not run in onnxruntime {ort.__version__}"
        )
        raise ModelError(f"{spec.model} {verdict}: {reason(err)}") from err


def open_cuda(
    ort: Any,
    spec: EngineSpec,
    index: str,
    *,
    stream: int | None = None,
    above: Sequence[tuple[str, Mapping[str, str]]] = (),
) -> tuple[Any, str]:
    """Return a session on CUDA device `index`, or None and the reason why there is none.

    Args:
        ort: the library.
        spec: what to load.
        index: number of the device.
        stream: a `CUstream` that all its work goes to; one of its own if None.
        above: other providers on the same device that are asked before CUDA, with their options.
    """
    # Exhaustive search, the default, tries every convolution for seconds at every new shape.
    options = {"device_id": index, "cudnn_conv_algo_search": "HEURISTIC"}
    common = {"device_id": index}
    _preload(ort)
    # Warnings of the library as a whole: two for every session on CUDA that mean nothing here.
    ort.set_default_logger_severity(LOGGED_SEVERITY)
    if stream is not None:
        options["user_compute_stream"] = common["user_compute_stream"] = str(stream)
    first = [(name, {**common, **others}) for name, others in above]
    try:
        session = _session(ort, spec, [*first, (_CUDA, options), _CPU])
    except Exception as err:  # onnxruntime's exceptions have no base of their own
        return None, reason(err)
    missing = {_CUDA, *(name for name, _ in above)} - set(session.get_providers())
    if not missing:
        return session, ""
    if _CUDA not in missing:
        return None, f"onnxruntime finds no libraries that it can use for {missing.pop()}"
    # What is listed as available is what was compiled in. Without the driver or cuDNN,
    # ONNX Runtime carries on with the CPU, and says so on stderr only.
    return None, "onnxruntime finds no CUDA driver, CUDA libraries or cuDNN that it can use"


@functools.cache  # what other threads print meanwhile is lost: not at every session
def _preload(ort: Any) -> None:
    """Load CUDA's libraries from their packages, where `pip install` has put them."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it does not find
            preload()
        _log.debug("onnxruntime: %s", said.getvalue())


def _session(ort: Any, spec: EngineSpec, providers: list[Any]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin between frames burn three times the CPU that the model needs at 40 fps.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Fatal only: every error reaches the caller as an exception, once.
    options.log_severity_level = 4
    # Its own fallback to the CPU prints to stdout, and retries failed runs on another device.
    return ort.InferenceSession(str(spec.model), options, providers=providers, enable_fallback=0)


def tensor(spec: EngineSpec, kind: str, node: Any) -> TensorSpec:
    """Describe one input or output as ONNX Runtime reports it.

    Raises:
        ModelError: it is no tensor of numbers.
    """
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ModelError(
            f"{kind} {node.name!r} of {spec.model} is {node.type}, not a tensor of numbers"
        )
    # A tensor of unknown rank is reported like a scalar; models for cameras have no such inputs.
    shape = (dim if isinstance(dim, int) and dim > 0 else None for dim in node.shape)
    return TensorSpec(node.name, dtype, tuple(shape))


def reason(err: Exception) -> str:
    """Return what ONNX Runtime says, on one line, without its preamble and full stop."""
    text = str(err).strip()
    while (shorter := _PREAMBLE.sub("", text, count=1)) != text:
        text = shorter
    text = " ".join(text.split()).rstrip(".")
    # A sentence starts small here, a name as it is spelled.
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
