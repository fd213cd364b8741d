"""`HostDevice`: a stand-in for a GPU, with which everything above `Device` runs on a CPU.

Its memory is the host's, its streams work while they are given the work, and its kernel is
`pictures.cu`, compiled for the CPU by the compiler that builds vdag. What it cannot show is what
only a GPU can: that calls are accepted, and that streams overlap.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray

from vdag.engines.base import Engine, EngineSpec, TensorSpec
from vdag.engines.gpu.engine import LaneEngine, page_locked
from vdag.engines.gpu.lane import DeviceTensor
from vdag.engines.gpu.lanes import Lanes
from vdag.engines.gpu.pages import Registrations
from vdag.engines.gpu.pictures import BLOCK, KERNELS, Launch, source
from vdag.engines.onnx import OnnxEngine, tensor
from vdag.engines.tensorrt import flavour
from vdag.engines.tensorrt.builder import Target
from vdag.errors import EngineError

#: Of the process that builds an engine.
BUILDER = "vdag.engines.tensorrt.build_process"


def builders() -> list[psutil.Process]:
    """Return the processes of this one that build engines; other tests may have children too."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE or BUILDER in child.cmdline():
                found.append(child)
    return found


#: What the file takes from CUDA, for a CPU: the two kernels are called thread by thread.
PRELUDE = """
#include <string.h>
#define __device__
#define __global__
#define __forceinline__ inline
struct dim { unsigned x, y, z; };
static thread_local dim blockIdx, blockDim, threadIdx;  // as on a GPU, each its own
typedef unsigned short u16;
static u16 vdag_half(float value)
{
    _Float16 half = (_Float16)value;
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
}
"""
LOOP = """
extern "C" void run_{name}(const vdag_item *items, void *out, const int *n, const float *f,
                           const unsigned *grid, const unsigned *block)
{{
    blockDim = {{block[0], block[1], 1}};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
    for (threadIdx.y = 0; threadIdx.y < block[1]; threadIdx.y++)
    for (threadIdx.x = 0; threadIdx.x < block[0]; threadIdx.x++)
        {name}(items, ({sample} *)out, n[0], n[1], n[2], f[0], f[1], f[2], f[3], f[4], f[5],
               f[6], f[7], f[8]);
}}
"""
SAMPLES = {"float32": "float", "float16": "u16"}


def compile_kernels(folder: Path) -> ctypes.CDLL:
    """Compile `pictures.cu` for this CPU."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "a C++ compiler is needed"
    loops = "".join(
        LOOP.format(name=name, sample=SAMPLES[dtype]) for dtype, name in KERNELS.items()
    )
    text = folder / "pictures.cpp"
    text.write_text(PRELUDE + source() + loops)
    library = folder / "pictures.so"
    flags = ["-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-function"]
    subprocess.run([compiler, *flags, "-o", library, text], check=True)
    return ctypes.CDLL(str(library))


class HostStream:
    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.recording: list[Callable[[], None]] | None = None

    def give(self, work: Callable[[], None]) -> None:
        """Do the work, or put it into the graph that is being captured."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def synchronize(self) -> None:
        assert self.recording is None, "a stream cannot be waited for during a capture"

    def wait_for_event(self, event: HostEvent) -> None:
        assert event.at is not None, "nothing was recorded"


class HostEvent:
    clock = itertools.count()

    def __init__(self) -> None:
        self.at: int | None = None

    def record(self, stream: HostStream) -> HostEvent:
        self.at = next(self.clock)
        return self

    def synchronize(self) -> HostEvent:
        return self

    def query(self) -> bool:
        return True

    def time_since(self, earlier: HostEvent) -> float:
        assert self.at is not None
        assert earlier.at is not None
        return float(self.at - earlier.at)


class HostMemory:
    def __init__(self, device: HostDevice, nbytes: int) -> None:
        self._device = device
        self._array = np.full(nbytes + 256, 0xA5, np.uint8)
        self.address = -(-self._array.ctypes.data // 256) * 256
        self.nbytes = nbytes
        device.allocated[self.address] = nbytes

    def close(self) -> None:
        del self._device.allocated[self.address]


class HostGraph:
    def __init__(self, work: list[Callable[[], None]]) -> None:
        self._work = work
        self.launches = 0

    def launch(self, stream: HostStream) -> None:
        self.launches += 1
        for work in self._work:
            stream.give(work)

    def close(self) -> None:
        self._work = []


class HostDevice:
    """The stand-in; `allocated` and `registered` say what has not been given back."""

    index = 0
    name = "host"
    compute_capability = (8, 7)
    nbytes = 1 << 30

    def __init__(self, library: ctypes.CDLL, *, integrated: bool = False) -> None:
        self._library = library
        self.integrated = integrated
        self.allocated: dict[int, int] = {}
        self.registered: dict[int, int] = {}
        self.locked: list[tuple[int, int]] = []
        self.uploads: list[tuple[int, int]] = []
        self.refusal = ""
        self.registrations = Registrations(self.register, self.unregister)
        self._active = threading.local()
        self._handles = itertools.count(1)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._active.depth = getattr(self._active, "depth", 0) + 1
        try:
            yield
        finally:
            self._active.depth -= 1

    def check_active(self) -> None:
        assert getattr(self._active, "depth", 0), "the device is not active in this thread"

    def stream(self) -> HostStream:
        self.check_active()
        return HostStream(next(self._handles))

    def event(self, *, timed: bool = False) -> HostEvent:
        self.check_active()
        return HostEvent()

    def free_nbytes(self) -> int:
        self.check_active()
        return self.nbytes - sum(self.allocated.values())

    def allocate(self, nbytes: int) -> HostMemory:
        self.check_active()
        return HostMemory(self, nbytes)

    def page_locked(self, nbytes: int) -> NDArray[Any]:
        self.check_active()
        array = np.full(nbytes, 0x5A, np.uint8)
        self.locked.append((array.ctypes.data, nbytes))
        return array

    def register(self, address: int, nbytes: int) -> None:
        self.check_active()
        if self.refusal:
            raise EngineError(self.refusal)
        assert address not in self.registered, "a driver takes a range once"
        self.registered[address] = nbytes

    def unregister(self, address: int) -> None:
        self.check_active()
        del self.registered[address]

    def mapped(self, address: int) -> int:
        ranges = (*self.registered.items(), *self.locked)
        assert any(at <= address < at + nbytes for at, nbytes in ranges), "is not page-locked"
        return address

    def upload(self, target: int, source: NDArray[Any], stream: HostStream) -> None:
        self.check_active()
        assert source.flags.c_contiguous
        self.uploads.append((source.ctypes.data, source.nbytes))
        address = source.ctypes.data
        stream.give(lambda: ctypes.memmove(target, address, source.nbytes) and None)

    def download(self, target: NDArray[Any], source: int, stream: HostStream) -> None:
        self.check_active()
        stream.give(lambda: ctypes.memmove(target.ctypes.data, source, target.nbytes) and None)

    def fill_pictures(self, launch: Launch, stream: HostStream) -> None:
        self.check_active()
        run = getattr(self._library, f"run_{KERNELS[launch.dtype]}")
        factors = launch.factors()
        arguments = (
            ctypes.c_uint64(launch.items),
            ctypes.c_uint64(launch.target),
            (ctypes.c_int * 3)(*launch.numbers()),
            (ctypes.c_float * 9)(*factors),
            (ctypes.c_uint * 3)(*launch.grid),
            (ctypes.c_uint * 2)(*BLOCK),
        )
        stream.give(lambda: run(*arguments) and None)

    def capture(self, stream: HostStream, work: Callable[[], None]) -> HostGraph:
        self.check_active()
        stream.recording = []
        try:
            work()
            return HostGraph(stream.recording)
        finally:
            stream.recording = None


def array_at(item: DeviceTensor) -> NDArray[Any]:
    """Return what is in the memory of a `HostDevice`, as a view."""
    raw = (ctypes.c_uint8 * item.nbytes).from_address(item.address)
    return np.frombuffer(raw, item.spec.dtype).reshape(item.shape)


class HostCompute:
    """Stands in for a model on the GPU: the same model in ONNX Runtime on the CPU."""

    def __init__(self, model: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        spec = EngineSpec(model)
        self.inputs: tuple[TensorSpec, ...] = tuple(
            tensor(spec, "input", node) for node in self._session.get_inputs()
        )
        self.outputs: tuple[TensorSpec, ...] = tuple(
            tensor(spec, "output", node) for node in self._session.get_outputs()
        )
        self.is_closed = False

    def enqueue(self, inputs: list[DeviceTensor], stream: HostStream) -> list[DeviceTensor]:
        feeds = {item.spec.name: array_at(item) for item in inputs}
        found = self._session.run([spec.name for spec in self.outputs], feeds)
        return [
            DeviceTensor(spec, array.shape, array.ctypes.data, array)
            for spec, array in zip(self.outputs, found, strict=True)
        ]

    def close(self) -> None:
        self.is_closed = True


class HostPlatform:
    """Stands in for TensorRT on a GPU: engines are built by the real builder of TensorRT for RTX.

    What it opens is checked to be the engine that was built, and runs as a `HostCompute`: nothing
    here can run the engine itself.
    """

    device = "cuda:0"

    def __init__(self, library: ctypes.CDLL, *, fallback_on_device: bool = False) -> None:
        found = flavour.find(["tensorrt-rtx"])
        self.library = (found.name, found.version)
        self.target = Target("", (8, 6))
        self.host = HostDevice(library)
        self.opened: list[bytes] = []
        self.wrap: Callable[[HostCompute], Any] = lambda compute: compute
        self._fallback_on_device = fallback_on_device

    def fallback(self, spec: EngineSpec) -> Engine:
        if self._fallback_on_device:
            return self._lanes(spec, lambda stream: HostCompute(spec.model))
        return OnnxEngine(replace(spec, device="cpu", engine="onnx"))

    def open(self, spec: EngineSpec, data: bytes) -> LaneEngine:
        self.opened.append(data)
        return self._lanes(spec, lambda stream: self.wrap(HostCompute(spec.model)))

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        with self.host.active():
            return page_locked(self.host, shape, dtype)

    def _lanes(self, spec: EngineSpec, compute: Callable[[Any], Any]) -> LaneEngine:
        return LaneEngine(spec.label, Lanes(self.host, compute))


class HostEngine(LaneEngine):
    """An engine on `host`, to be registered as `gpu_kit:HostEngine`."""

    host: HostDevice

    def __init__(self, spec: EngineSpec) -> None:
        lanes = Lanes(self.host, lambda stream: HostCompute(spec.model))
        super().__init__(spec.label, lanes, max_shapes=spec.max_shapes)
