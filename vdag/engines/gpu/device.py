"""What a GPU does for an engine: memory on both sides, streams, events, one kernel, graphs.

`CudaDevice` is the implementation. The seam is here so that everything above it can be tested on
a machine without a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from vdag.errors import EngineUnavailable

if TYPE_CHECKING:
    from vdag.engines.gpu.pages import Registrations
    from vdag.engines.gpu.pictures import Launch

__all__ = ["Device", "DeviceMemory", "Event", "Graph", "Stream", "device_number", "open_device"]


class Stream(Protocol):
    """Work in the order in which it was given."""

    @property
    def handle(self) -> int:
        """The `CUstream`, for libraries that take one."""

    def synchronize(self) -> None:
        """Wait until all work given so far is done."""

    def wait_for_event(self, event: Any) -> None:
        """Have the work given from now on wait for an event of any stream."""


class Event(Protocol):
    """A point in a stream's work."""

    def record(self, stream: Stream) -> object:
        """Put the event behind the work given so far."""

    def synchronize(self) -> object:
        """Wait for the event without holding the GIL."""

    def query(self) -> bool:
        """Say whether the work before the event is done."""

    def time_since(self, earlier: Any) -> float:
        """Return milliseconds since another event; both were made with `timed`."""


class Graph(Protocol):
    """Work recorded once, given to a stream as one piece."""

    def launch(self, stream: Stream) -> None:
        """Give the work to a stream."""

    def close(self) -> None:
        """Free it."""


class DeviceMemory(Protocol):
    """Memory of the device."""

    address: int
    nbytes: int

    def close(self) -> None:
        """Give it back; nothing may be using it any more."""


class Device(Protocol):
    """One GPU, from this process.

    Everything but the attributes is called with the device `active` in the calling thread.
    Memory, streams and events belong to whoever asked for them.

    Attributes:
        index: as CUDA numbers devices.
        name: as the driver calls it.
        compute_capability: major and minor.
        nbytes: its memory.
        integrated: its memory is the host's, as on Jetson: pictures need not be copied to it.
        registrations: the pages of this process that are locked by `register`; of all devices.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    nbytes: int
    integrated: bool
    registrations: Registrations

    def active(self) -> AbstractContextManager[None]:
        """Make the device this thread's current one; may be nested."""

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""

    def event(self, *, timed: bool = False) -> Event:
        """Make an event; one that is not `timed` costs less."""

    def free_nbytes(self) -> int:
        """Return how much of its memory nobody has taken."""

    def allocate(self, nbytes: int) -> DeviceMemory:
        """Take device memory.

        Raises:
            EngineError: there is not enough.
        """

    def page_locked(self, nbytes: int) -> NDArray[Any]:
        """Return uint8 `(nbytes,)` of page-locked host memory, freed with the last reference.

        Raises:
            EngineError: there is not enough.
        """

    def register(self, address: int, nbytes: int) -> None:
        """Lock pages of this process that exist already, which may be read only.

        Raises:
            EngineError: the driver does not do it.
        """

    def unregister(self, address: int) -> None:
        """Undo `register`."""

    def mapped(self, address: int) -> int:
        """Return the device's own address of page-locked host memory.

        Raises:
            EngineError: it has none.
        """

    def upload(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy a C-contiguous array to device memory; it may not change until that is done."""

    def download(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy device memory to a C-contiguous array."""

    def fill_pictures(self, launch: Launch, stream: Stream) -> None:
        """Run the kernel of `pictures.cu`."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what `work` gives to `stream`, without running it.

        Raises:
            EngineError: it cannot be recorded. The stream is as before.
        """


def device_number(name: str) -> int:
    """Return the number in `cuda:N`; `auto` and `cuda` are the first device."""
    return int(name.partition(":")[2] or 0)


def open_device(index: int) -> Device:
    """Return GPU `index`; all callers in a process share it.

    Raises:
        EngineUnavailable: pycuda, the driver or the device is missing; says which.
    """
    cuda = importlib.import_module("vdag.engines.gpu.cuda")  # which imports this module
    try:
        device: Device = cuda.open_device(index)
    except EngineUnavailable:  # an ImportError too
        raise
    except ModuleNotFoundError as err:
        raise EngineUnavailable(
            f"{err.name} is not installed: pip install '.[cuda]' in the checkout"
        ) from err
    except ImportError as err:  # it is, and finds no libcuda.so.1
        raise EngineUnavailable(f"pycuda finds no CUDA driver: {err}") from err
    return device
