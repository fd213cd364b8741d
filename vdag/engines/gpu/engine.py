"""`LaneEngine`: an engine on a GPU, whose batches go through lanes.

Besides what every engine does, it takes pictures: their bytes go over the bus as they are, and the
GPU makes the tensor. And it can begin a batch before the result of the one before is taken.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vdag._native import Placement
from vdag.engines.base import EngineStats, InputBuffers, TensorSpec
from vdag.engines.begun import Begun
from vdag.engines.gpu.device import Device
from vdag.engines.gpu.lanes import Lanes, Pending
from vdag.engines.gpu.pictures import KERNELS, Picture, Preparation
from vdag.errors import ConfigError, EngineError

__all__ = [
    "Finished",
    "FromPictures",
    "LaneEngine",
    "PictureEngine",
    "in_turn",
    "is_planar",
    "page_locked",
]


Part = TypeVar("Part")
#: Outputs by name, and where each picture landed.
FromPictures = tuple[dict[str, NDArray[Any]], list[Placement]]


class PictureEngine(Protocol):
    """An engine that makes its input tensor itself; tasks ask whether theirs is one."""

    @property
    def takes_pictures(self) -> bool:
        """Whether it can do so now: pictures for its only input, which is planar."""

    def infer_pictures(
        self, pictures: Sequence[NDArray[np.uint8]], preparation: Preparation
    ) -> FromPictures:
        """Prepare pictures and run the model on them.

        Args:
            pictures: uint8 `(H, W, 3)` BGR of any sizes, not kept after the call.
            preparation: how they become the input, as by `preprocess.fill_batch`.

        Returns:
            The outputs, as `Engine.infer`, and where each picture landed.

        Raises:
            ImageError: one is no such picture.
            ConfigError: the model has no such input, or its shape does not fit.
            EngineError: the model failed, or the engine is closed.
        """

    def submit_pictures(
        self, pictures: Sequence[NDArray[np.uint8]], preparation: Preparation
    ) -> Begun[FromPictures]:
        """Begin what `infer_pictures` does; the pictures stay as they are until it is finished.

        Two may have begun before the result of the first is taken.

        Raises:
            Exception: as `infer_pictures` raises; what fails later, `result` raises.
        """

    def lock_pages(self, address: int, nbytes: int) -> bool:
        """Page-lock memory that pictures will lie in, so that they need no copy on the host.

        Args:
            address: of its first byte, at a page's begin.
            nbytes: its length; mapped until the engine is closed, or `unlock_pages`.

        Returns:
            Whether it is locked; if not, all works as before.

        Raises:
            ConfigError: it is not whole pages, or overlaps what is locked.
        """

    def unlock_pages(self, address: int) -> None:
        """Undo it, before that memory goes; nothing happens if it was not locked."""


@dataclass(slots=True, frozen=True)
class Finished:
    """A batch that is done.

    Attributes:
        outputs: by name; the caller owns them.
        placements: where pictures landed, if it was one of pictures.
    """

    outputs: dict[str, NDArray[Any]]
    placements: list[Placement]


class LaneEngine:
    """Runs batches in lanes; `vdag.engines.Engine` says who owns which array.

    `infer` may be called by several threads: as many calls as there are lanes run at once.

    Args:
        name: for stats, errors and logs.
        lanes: the engine closes them.
        max_shapes: see `EngineSpec`.
    """

    def __init__(self, name: str, lanes: Lanes, *, max_shapes: int = 8) -> None:
        self.name = name
        self.device = f"cuda:{lanes.device.index}"
        self.inputs: tuple[TensorSpec, ...] = lanes.compute.inputs
        self.outputs: tuple[TensorSpec, ...] = lanes.compute.outputs
        self.lanes = lanes
        self._buffers = InputBuffers(
            self.inputs,
            max_shapes=max_shapes,
            allocate=lambda *args: page_locked(lanes.device, *args),
        )
        self._stats = EngineStats()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def takes_pictures(self) -> bool:
        """Whether its only input is a planar tensor that the kernel fills."""
        return len(self.inputs) == 1 and is_planar(self.inputs[0])

    def buffer(self, name: str, shape: Sequence[int]) -> NDArray[Any]:
        """Return the engine's own page-locked array for an input; see `Engine.buffer`."""
        with self._lock, self.lanes.device.active():
            self._refuse_closed()
            return self._buffers.get(name, shape)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once; see `Engine.infer`."""
        start_ns = time.perf_counter_ns()
        outputs = self.begin(inputs).result()
        self._count(_items(self.inputs, inputs), start_ns)
        return outputs

    def infer_pictures(self, pictures: Sequence[Picture], preparation: Preparation) -> FromPictures:
        """Prepare pictures and run the model on them; see `PictureEngine`."""
        return self.submit_pictures(pictures, preparation).result()

    def submit_pictures(
        self, pictures: Sequence[Picture], preparation: Preparation
    ) -> Begun[FromPictures]:
        """Begin what `infer_pictures` does; see `PictureEngine`."""
        start_ns, count = time.perf_counter_ns(), len(pictures)
        pending = self.begin_pictures(pictures, preparation)

        def finish() -> FromPictures:
            outputs = pending.result()
            self._count(count, start_ns)
            return outputs, pending.placements

        return Begun(finish)

    def begin(self, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Begin what `infer` does; the caller takes the result, and keeps the arrays till then.

        A caller that begins more batches than there are lanes, and takes no result, waits for
        itself, and gets an `EngineError` in the end.
        """
        self._refuse_closed()
        if set(inputs) != {spec.name for spec in self.inputs}:
            self._refuse_names(inputs)
        for spec in self.inputs:
            spec.check(inputs[spec.name])
        return self.lanes.begin_arrays(inputs)

    def begin_pictures(self, pictures: Sequence[Picture], preparation: Preparation) -> Pending:
        """Begin what `infer_pictures` does; likewise."""
        self._refuse_closed()
        if not self.takes_pictures:
            raise ConfigError(f"{self.name} has no single planar input to prepare pictures for")
        if preparation.name != self.inputs[0].name:
            raise ConfigError(
                f"{self.name} has no input {preparation.name!r}; it takes {self.inputs[0].name}"
            )
        width, height = preparation.size
        self.inputs[0].check_shape((len(pictures), 3, height, width))
        return self.lanes.begin_pictures(pictures, preparation)

    def warm_up(self, shapes: Iterable[Mapping[str, Sequence[int]]]) -> None:
        """Run once in every lane for each set of input shapes; see `Engine.warm_up`."""
        for wanted in shapes:
            inputs = {name: self.buffer(name, shape) for name, shape in wanted.items()}
            # All at once: lanes are taken in no order that anyone should rely on.
            for pending in [self.begin(inputs) for _ in range(self.lanes.count)]:
                pending.result()

    def lock_pages(self, address: int, nbytes: int) -> bool:
        """Page-lock shared memory that pictures will lie in; see `PictureEngine`."""
        with self._lock:
            return self.lanes.pages.lock(address, nbytes)

    def unlock_pages(self, address: int) -> None:
        """Undo it, before that memory goes."""
        with self._lock:
            self.lanes.pages.unlock(address)

    def stats(self) -> EngineStats:
        """Return what the engine has done so far; calls of several threads overlap in it."""
        return self._stats

    def close(self) -> None:
        """Give the model and its memory back; outputs handed out stay valid."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.lanes.close()
        self._buffers.clear()

    def __enter__(self) -> LaneEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _count(self, items: int, start_ns: int) -> None:
        elapsed_ns = time.perf_counter_ns() - start_ns
        with self._lock:
            self._stats = self._stats.plus(items, elapsed_ns)

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


def in_turn(
    engine: LaneEngine, begin: Callable[[Part], Pending], parts: Iterable[Part]
) -> Iterator[Finished]:
    """Begin parts so that all lanes are busy, and yield them finished, in order.

    When this ends early, what has begun is waited for.
    """
    waiting: deque[Pending] = deque()
    try:
        for part in parts:
            waiting.append(begin(part))
            if len(waiting) == engine.lanes.count:
                pending = waiting.popleft()
                yield Finished(pending.result(), pending.placements)
        while waiting:
            pending = waiting.popleft()
            yield Finished(pending.result(), pending.placements)
    finally:
        for pending in waiting:
            with contextlib.suppress(EngineError):
                pending.result()


def page_locked(device: Device, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros in C order in page-locked memory; the device is active."""
    nbytes = int(np.prod(shape)) * dtype.itemsize
    array: NDArray[Any] = device.page_locked(nbytes).view(dtype).reshape(shape)
    array.fill(0)
    return array


def is_planar(spec: TensorSpec) -> bool:
    """Say whether an input is a tensor that pictures can be prepared for."""
    return len(spec.shape) == 4 and spec.shape[1] in (3, None) and spec.dtype.name in KERNELS


def _items(specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]) -> int:
    if not specs or not specs[0].shape:
        return 1
    return int(inputs[specs[0].name].shape[0])
