"""`CudaDevice`: the GPU by pycuda, and by cuda-python where pycuda has no call that works.

pycuda does memory, copies, streams, events and kernels. It cannot do three things, which
cuda-python does (`driver_calls`): it has no CUDA graphs; its `register_host_memory` gives the
array that it returns a second base, which numpy refuses, and takes no read-only pages, as a
worker's slots are; and it compiles kernels with `nvcc` only, which a server seldom has.

The context is the device's primary one: ONNX Runtime and TensorRT work in it too, so addresses and
streams mean the same to all of them.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.engines.gpu import driver_calls
from vdag.engines.gpu.device import Device, Event, Graph, Stream
from vdag.engines.gpu.pages import Registrations
from vdag.engines.gpu.pictures import BLOCK, KERNELS, Launch
from vdag.errors import EngineError, EngineUnavailable

__all__ = ["CudaDevice", "open_device"]

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
#: Kernel arguments: two addresses, three ints, nine floats.
ARGUMENTS = "PP" + "i" * 3 + "f" * 9

_lock = threading.Lock()
_devices: dict[int, CudaDevice] = {}
#: Pages are locked for all devices at once.
_registrations = Registrations(driver_calls.register, driver_calls.unregister)
# A context that is let go after the driver has shut down ends the process with a message.
atexit.register(_devices.clear)


def open_device(index: int) -> Device:
    """Return GPU `index`, opened by the first who asks.

    Raises:
        ImportError: pycuda or the driver's library is missing.
        EngineUnavailable: there is no such device.
    """
    with _lock:
        if index not in _devices:
            _devices[index] = CudaDevice(index)
        return _devices[index]


class Memory:
    """Device memory; see `DeviceMemory`."""

    __slots__ = ("_allocation", "address", "nbytes")

    def __init__(self, allocation: Any, nbytes: int) -> None:
        self._allocation = allocation
        self.address = int(allocation)
        self.nbytes = nbytes

    def close(self) -> None:
        """Give it back; the device is active."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            allocation.free()


class _Block:
    """The base of arrays on page-locked memory; the memory goes with it."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, array: NDArray[Any]) -> None:
        self.__array_interface__ = array.__array_interface__


class CudaDevice:
    """One GPU; `Device` says what everything does.

    Raises:
        ImportError: pycuda or the driver's library is missing.
        EngineUnavailable: there is no such device.
    """

    def __init__(self, index: int) -> None:
        self._pycuda = pycuda = _import_pycuda()
        try:
            pycuda.init()
            count = pycuda.Device.count()
            if index >= count:
                raise EngineUnavailable(f"device cuda:{index} is not there: {count} found")
            device = pycuda.Device(index)
            self._context = device.retain_primary_context()
        except pycuda.Error as err:
            raise EngineUnavailable(f"device cuda:{index} cannot be opened: {err}") from err
        self.index = index
        self.name = str(device.name())
        self.compute_capability = tuple(device.compute_capability())
        self.nbytes = int(device.total_memory())
        self.integrated = bool(device.get_attribute(self._pycuda.device_attribute.INTEGRATED))
        self.registrations = _registrations
        self._kernels: dict[str, Any] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the device this thread's current one; may be nested."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""
        stream: Stream = self._pycuda.Stream(NON_BLOCKING)
        return stream

    def event(self, *, timed: bool = False) -> Event:
        """Make an event. Waiting for it sleeps: a core that spins is missed elsewhere."""
        flags = int(self._pycuda.event_flags.BLOCKING_SYNC)
        if not timed:
            flags |= int(self._pycuda.event_flags.DISABLE_TIMING)
        event: Event = self._pycuda.Event(flags)
        return event

    def free_nbytes(self) -> int:
        """Return how much of its memory nobody has taken, in this process or another."""
        return int(self._pycuda.mem_get_info()[0])

    def allocate(self, nbytes: int) -> Memory:
        """Take device memory."""
        with self._failing(f"{nbytes} bytes of device memory"):
            return Memory(self._pycuda.mem_alloc(max(nbytes, 1)), nbytes)

    def page_locked(self, nbytes: int) -> NDArray[Any]:
        """Return page-locked host memory, which every device can reach."""
        flags = int(self._pycuda.host_alloc_flags.PORTABLE) | int(
            self._pycuda.host_alloc_flags.DEVICEMAP
        )
        with self._failing(f"{nbytes} bytes of page-locked memory"):
            array = self._pycuda.pagelocked_empty(max(nbytes, 1), np.uint8, mem_flags=flags)
        block = _Block(array)
        weakref.finalize(block, self._free_host, array.base).atexit = False
        return np.asarray(block)[:nbytes]

    def register(self, address: int, nbytes: int) -> None:
        """Lock pages of this process that exist already."""
        driver_calls.register(address, nbytes)

    def unregister(self, address: int) -> None:
        """Undo `register`."""
        driver_calls.unregister(address)

    def mapped(self, address: int) -> int:
        """Return the device's own address of page-locked host memory."""
        return driver_calls.mapped(address)

    def upload(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy a C-contiguous array to device memory."""
        with self._failing(f"copy of {source.nbytes} bytes to the device"):
            self._pycuda.memcpy_htod_async(target, source, stream)

    def download(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy device memory to a C-contiguous array."""
        with self._failing(f"copy of {target.nbytes} bytes from the device"):
            self._pycuda.memcpy_dtoh_async(target, source, stream)

    def fill_pictures(self, launch: Launch, stream: Stream) -> None:
        """Run the kernel of `pictures.cu`."""
        kernel = self._kernel(KERNELS[launch.dtype])
        arguments = (launch.items, launch.target, *launch.numbers(), *launch.factors())
        with self._failing(f"kernel for {launch.count} pictures"):
            kernel.prepared_async_call(launch.grid, (*BLOCK, 1), stream, *arguments)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what `work` gives to `stream`."""
        return driver_calls.capture(stream.handle, work)

    def _free_host(self, allocation: Any) -> None:
        # The last reference may go in any thread; pycuda frees only in one where its context is.
        with self.active():
            allocation.free()

    def _kernel(self, name: str) -> Any:
        if not self._kernels:
            with self._failing("kernels"):
                module = self._pycuda.module_from_buffer(
                    driver_calls.compile_pictures(*self._target())
                )
                kernels = {entry: module.get_function(entry) for entry in KERNELS.values()}
                for kernel in kernels.values():
                    kernel.prepare(ARGUMENTS)
                self._kernels = kernels
        return self._kernels[name]

    def _target(self) -> tuple[int, int]:
        major, minor = self.compute_capability
        return major, minor

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._pycuda.Error as err:
            raise EngineError(f"cuda:{self.index}: {what}: {_reason(err)}") from err


def _import_pycuda() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing driver, before it raises for that
        return importlib.import_module("pycuda.driver")


def _reason(err: Exception) -> str:
    """Return the driver's words on one line: pycuda puts the call in front."""
    return " ".join(str(err).split())
