"""A built engine in a lane: `execute_async_v3` on the lane's stream."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from vdag.engines.base import TensorSpec
from vdag.engines.gpu.device import Device, DeviceMemory, Graph, Stream
from vdag.engines.gpu.lane import DeviceTensor
from vdag.engines.tensorrt.builder import InputRange
from vdag.engines.tensorrt.flavour import Flavour
from vdag.errors import EngineError

__all__ = ["LoadedEngine", "TensorRTCompute"]

#: Graphs of a lane that are kept; one more, and the longest unused goes.
MAX_GRAPHS = 16


class LoadedEngine:
    """A deserialised engine: the weights, shared by the contexts of all lanes.

    Args:
        flavour: whose it is.
        data: the serialised engine, as it came out of the cache.
        device: it is for; active.

    Raises:
        EngineError: this TensorRT does not load it here.
    """

    def __init__(self, flavour: Flavour, data: bytes, device: Device) -> None:
        trt = flavour.module
        self.flavour, self.device = flavour, device
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self.engine = self._runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise EngineError(f"{flavour.name} {flavour.version} does not load the engine here")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(
            self._spec(name) for name in names if modes[name] == trt.TensorIOMode.INPUT
        )
        self.outputs = tuple(
            self._spec(name) for name in names if modes[name] == trt.TensorIOMode.OUTPUT
        )
        self.profiles = [
            tuple(self._range(spec.name, index) for spec in self.inputs)
            for index in range(self.engine.num_optimization_profiles)
        ]

    def profile(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return the number of the tightest profile that covers the inputs' shapes.

        Raises:
            EngineError: none does.
        """
        fitting = [
            (math.prod(length for item in ranges for length in item.most), index)
            for index, ranges in enumerate(self.profiles)
            if all(item.covers(shape) for item, shape in zip(ranges, shapes, strict=True))
        ]
        if not fitting:
            raise EngineError(f"no profile of the engine covers {list(shapes)}")
        return min(fitting)[1]

    def close(self) -> None:
        """Let it go, after all contexts."""
        self.engine = self._runtime = None

    def _spec(self, name: str) -> TensorSpec:
        dtype = np.dtype(self.flavour.module.nptype(self.engine.get_tensor_dtype(name)))
        shape = tuple(self.engine.get_tensor_shape(name))
        return TensorSpec(name, dtype, tuple(axis if axis >= 0 else None for axis in shape))

    def _range(self, name: str, profile: int) -> InputRange:
        least, usual, most = self.engine.get_tensor_profile_shape(name, profile)
        return InputRange(name, tuple(least), tuple(usual), tuple(most))


class TensorRTCompute:
    """An execution context on a lane's stream.

    From the second batch of the same shapes on, the work is a CUDA graph. A graph holds addresses:
    it is good as long as the lane's memory is where it was.
    """

    def __init__(self, loaded: LoadedEngine, stream: Stream) -> None:
        self._loaded = loaded
        self._context, self._has_own_graphs = loaded.flavour.context(loaded.engine)
        if self._context is None:
            raise EngineError(f"{loaded.flavour.name}: no memory for an execution context")
        self._profile = 0
        self._outputs: dict[str, DeviceMemory] = {}
        self._graphs: OrderedDict[tuple[Any, ...], Graph | None] = OrderedDict()
        self.inputs, self.outputs = loaded.inputs, loaded.outputs

    def enqueue(self, inputs: Sequence[DeviceTensor], stream: Stream) -> list[DeviceTensor]:
        """Give the work to the stream; see `Compute.enqueue`."""
        self._choose(self._loaded.profile([item.shape for item in inputs]), stream)
        for item in inputs:
            if not self._context.set_input_shape(item.spec.name, item.shape):
                raise EngineError(f"input {item.spec.name!r} cannot have shape {item.shape}")
            self._context.set_tensor_address(item.spec.name, item.address)
        outputs = [self._output(spec) for spec in self.outputs]
        key = tuple((item.shape, item.address) for item in (*inputs, *outputs))
        self._launch((self._profile, *key), stream)
        return outputs

    def close(self) -> None:
        """Free the context, its graphs and its outputs."""
        while self._graphs:
            graph = self._graphs.popitem()[1]
            if graph is not None:
                graph.close()
        for memory in self._outputs.values():
            memory.close()
        self._outputs.clear()
        self._context = None

    def _choose(self, profile: int, stream: Stream) -> None:
        if profile == self._profile:
            return
        if not self._context.set_optimization_profile_async(profile, stream.handle):
            raise EngineError(f"profile {profile} cannot be chosen")
        self._profile = profile

    def _output(self, spec: TensorSpec) -> DeviceTensor:
        """Return where an output will be, and tell the context."""
        shape = tuple(self._context.get_tensor_shape(spec.name))
        if min(shape, default=1) < 0:
            raise EngineError(
                f"output {spec.name!r} has shape {shape}, which depends on its values"
            )
        nbytes = math.prod(shape) * spec.dtype.itemsize
        memory = self._outputs.get(spec.name)
        if memory is None or memory.nbytes < nbytes:
            if memory is not None:
                memory.close()
            memory = self._outputs[spec.name] = self._loaded.device.allocate(nbytes)
        self._context.set_tensor_address(spec.name, memory.address)
        return DeviceTensor(spec, shape, memory.address, memory)

    def _launch(self, key: tuple[Any, ...], stream: Stream) -> None:
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            graph.launch(stream)
            return
        if self._has_own_graphs or key not in self._graphs:
            self._execute(stream)  # the first run of a shape allocates, which no capture may
            self._note(key, None)
            return
        try:
            graph = self._loaded.device.capture(stream, lambda: self._execute(stream))
        except EngineError:
            # A layer that cannot be captured costs a launch each time, and nothing else.
            self._has_own_graphs = True
            self._execute(stream)
            return
        self._note(key, graph)
        graph.launch(stream)

    def _note(self, key: tuple[Any, ...], graph: Graph | None) -> None:
        self._graphs[key] = graph
        if len(self._graphs) > MAX_GRAPHS:
            old = self._graphs.popitem(last=False)[1]
            if old is not None:
                with contextlib.suppress(EngineError):
                    old.close()

    def _execute(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream.handle):
            raise EngineError("the engine did not run: execute_async_v3 failed")
