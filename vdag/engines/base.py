"""What every engine is: a model that turns named arrays into named arrays.

`Engine` is the seam: tasks know it and nothing of the library behind it. The values around it are
here too: what to load (`EngineSpec`), what a tensor looks like (`TensorSpec`), what an engine has
done (`EngineStats`), and the input arrays that engines own (`InputBuffers`).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError

__all__ = [
    "ALIGNMENT",
    "MAX_BUFFER_NBYTES",
    "MAX_THREADS",
    "Engine",
    "EngineClass",
    "EngineInfo",
    "EngineSpec",
    "EngineStats",
    "InputBuffers",
    "TensorSpec",
    "aligned_zeros",
]

#: A cache line, and the width of an AVX-512 store; numpy itself promises 16 bytes only.
ALIGNMENT = 64

#: The most that one input buffer may take: a shape comes from a plan, and a plan may be wrong.
MAX_BUFFER_NBYTES = 1 << 31

#: The most threads that a spec may ask for.
MAX_THREADS = 256

_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


@dataclass(slots=True, frozen=True)
class TensorSpec:
    """Name, dtype and shape of one input or output of a model.

    Attributes:
        name: as the model calls it.
        dtype: numpy dtype of its elements, in native byte order.
        shape: length of every axis; None where the model takes any length.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise `ConfigError` unless an array of `shape` fits this tensor."""
        if len(shape) != len(self.shape) or any(
            length < 1 or (wanted is not None and length != wanted)
            for length, wanted in zip(shape, self.shape, strict=True)
        ):
            raise ConfigError(f"input {self.name!r} has shape {shape}, expected {self.layout()}")

    def check(self, array: object) -> None:
        """Raise `ConfigError` unless `array` is a numpy array that fits this tensor."""
        if not isinstance(array, np.ndarray):
            raise ConfigError(
                f"input {self.name!r} is a {type(array).__name__}, "
                f"expected a numpy array of {self.dtype} {self.layout()}"
            )
        if array.dtype != self.dtype:
            raise ConfigError(f"input {self.name!r} is {array.dtype}, expected {self.dtype}")
        self.check_shape(array.shape)

    def layout(self) -> str:
        """Return the shape for people, e.g. `(any, 3, any, any)`."""
        axes = ", ".join("any" if length is None else str(length) for length in self.shape)
        return f"({axes},)" if len(self.shape) == 1 else f"({axes})"


@dataclass(slots=True, frozen=True)
class EngineSpec:
    """Which model to load, with which engine, where.

    Attributes:
        model: path of the model file.
        engine: name of the engine, see `vdag.engines.available()`.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where the engine has it, else the CPU.
        threads: CPU threads that one inference may use.
        name: what stats, errors and logs call it; the model's file name without suffix if None.
        max_shapes: shapes per input for which the engine keeps a buffer; the longest unused goes.

    Raises:
        ConfigError: a field has no meaning. Whether the file exists is found when it is loaded.
    """

    model: Path
    engine: str = "onnx"
    _: KW_ONLY
    device: str = "auto"
    threads: int = 1
    name: str | None = None
    max_shapes: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Path(self.model))
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"device {self.device!r} is none of auto, cpu, cuda, cuda:N")
        if not 1 <= self.threads <= MAX_THREADS:
            raise ConfigError(f"threads {self.threads} is not within 1..{MAX_THREADS}")
        if self.max_shapes < 1:
            raise ConfigError(f"max_shapes {self.max_shapes} is below 1")

    @property
    def label(self) -> str:
        """What to call the engine: `name`, or the model's file name without its suffix."""
        return self.name or self.model.stem


@dataclass(slots=True, frozen=True)
class EngineStats:
    """What an engine has done since it was loaded; warm-up and failed calls are not in it.

    Attributes:
        calls: inferences that returned.
        items: sum of the batches: the length of the first input's first axis, 1 for a scalar.
        total_ns: time inside `infer`, waiting for another caller left out.
        max_ns: the longest of these calls.
    """

    calls: int = 0
    items: int = 0
    total_ns: int = 0
    max_ns: int = 0

    def plus(self, items: int, elapsed_ns: int) -> EngineStats:
        """Return the stats with one more call of `items` that took `elapsed_ns`."""
        return EngineStats(
            self.calls + 1,
            self.items + items,
            self.total_ns + elapsed_ns,
            max(self.max_ns, elapsed_ns),
        )


@dataclass(slots=True, frozen=True)
class EngineInfo:
    """Whether an engine can be used on this machine.

    Attributes:
        name: as in `EngineSpec.engine`.
        available: its library is there.
        version: of that library; None if it is not there.
        devices: what `EngineSpec.device` may say, best first; empty if it is not there. These
            are what the library was built for; whether a driver is there shows when loading.
        problem: what is missing and what to install; None if nothing is.
    """

    name: str
    available: bool
    version: str | None = None
    devices: tuple[str, ...] = ()
    problem: str | None = None


class Engine(Protocol):
    """A model loaded on a device.

    **Who owns what.** Inputs belong to the caller, except the arrays that `buffer` returns: they
    belong to the engine and are reused. Outputs are fresh arrays and belong to the caller: no
    later call writes into them, and they outlive the engine.

    **Threads.** `infer` may be called by several threads; the calls run one after another. The
    arrays of `buffer` are shared by all callers of an engine, so several threads pass arrays of
    their own.
    """

    @property
    def name(self) -> str:
        """What stats, errors and logs call this engine."""

    @property
    def device(self) -> str:
        """Where it runs, resolved: `cpu` or `cuda:N`, never `auto`."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, in its order; `infer` wants all of them."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, in its order; `infer` returns all of them."""

    def buffer(self, name: str, shape: Sequence[int]) -> NDArray[Any]:
        """Return the engine's own array for an input, to be filled by the caller.

        An input from here costs nothing to pass: it is bound to the model once. The same shape
        gives the same array again, with what it held last, as long as it is among the
        `max_shapes` last used of that input. An array that the engine has let go stays valid
        for whoever still holds it, and is then like any other array.

        Args:
            name: of the input.
            shape: length of every axis, all at least 1.

        Returns:
            C-contiguous, aligned to `ALIGNMENT` bytes, of the input's dtype; zeros when new.

        Raises:
            ConfigError: no such input, or the shape does not fit it or takes more than
                `MAX_BUFFER_NBYTES`.
            EngineError: the engine is closed.
        """

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once.

        Args:
            inputs: every input by name. Read only, and not kept after the call. An array that is
                not C-contiguous is copied first.

        Returns:
            Every output by name, in the model's order: fresh arrays that the caller owns.

        Raises:
            ConfigError: an input is missing or unknown, or its dtype or shape does not fit.
            EngineError: the model failed, or the engine is closed. The engine stays usable after
                a failure.
        """

    def warm_up(self, shapes: Iterable[Mapping[str, Sequence[int]]]) -> None:
        """Run once for each set of input shapes, so that no frame pays for the first call.

        Allocates the buffers of these shapes and runs on what they hold; the results are dropped
        and `stats` does not count them.

        Raises:
            ConfigError: as `buffer` and `infer` do.
            EngineError: likewise.
        """

    def stats(self) -> EngineStats:
        """Return what the engine has done so far; works after `close` too."""

    def close(self) -> None:
        """Give the model and its memory back, after a running `infer`; may be called again."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class EngineClass(Protocol):
    """What a registered `"module:Class"` has to be; its library is imported by these two only."""

    def __call__(self, spec: EngineSpec) -> Engine:
        """Load the model.

        Raises:
            EngineUnavailable: the library or the device is missing.
            ModelError: the file is missing, broken, or not a model of this engine.
        """

    def probe(self) -> tuple[str, tuple[str, ...]]:
        """Return the library's version and the devices it can use, best first.

        Raises:
            EngineUnavailable: the library is missing.
        """


class InputBuffers:
    """The input arrays that an engine owns: one for each shape, bounded, the longest unused goes.

    Not thread-safe: the engine calls it under its lock.

    Args:
        specs: of the inputs.
        max_shapes: arrays kept for each.
        allocate: makes zeros of a shape and dtype; `aligned_zeros` if None.
    """

    __slots__ = ("_allocate", "_arrays", "_max_shapes", "_specs")

    def __init__(
        self,
        specs: Iterable[TensorSpec],
        *,
        max_shapes: int,
        allocate: Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]] | None = None,
    ) -> None:
        self._allocate = allocate or aligned_zeros
        self._specs = {spec.name: spec for spec in specs}
        self._max_shapes = max_shapes
        self._arrays: dict[str, OrderedDict[tuple[int, ...], NDArray[Any]]] = {
            name: OrderedDict() for name in self._specs
        }

    def get(self, name: str, shape: Sequence[int]) -> NDArray[Any]:
        """Return the array for `shape`, made if it is not there; errors as `Engine.buffer`."""
        key = tuple(int(length) for length in shape)
        arrays = self._arrays.get(name)
        if arrays is None:
            raise ConfigError(f"no input {name!r}; the inputs are {', '.join(self._specs)}")
        array = arrays.get(key)
        if array is None:
            array = arrays[key] = self._make(self._specs[name], key)
            if len(arrays) > self._max_shapes:
                arrays.popitem(last=False)
        else:
            arrays.move_to_end(key)
        return array

    def owns(self, name: str, array: NDArray[Any]) -> bool:
        """Say whether `array` is one of the arrays kept for this input."""
        return self._arrays[name].get(array.shape) is array

    def clear(self) -> None:
        """Let all arrays go; those still held by callers stay valid."""
        for arrays in self._arrays.values():
            arrays.clear()

    def _make(self, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
        spec.check_shape(shape)
        nbytes = math.prod(shape) * spec.dtype.itemsize
        if nbytes > MAX_BUFFER_NBYTES:
            raise ConfigError(
                f"input {spec.name!r} of shape {shape} takes {nbytes} bytes, "
                f"which exceeds {MAX_BUFFER_NBYTES}"
            )
        return self._allocate(shape, spec.dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros in C order whose first byte is at a multiple of `ALIGNMENT`; caller owns them.

    The zeros are written, not promised: the kernel hands out the pages here and not while the
    first frame waits.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array: NDArray[Any] = raw[start : start + nbytes].view(dtype).reshape(shape)
    array.fill(0)
    return array
