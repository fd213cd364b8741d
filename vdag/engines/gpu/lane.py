"""A lane: a stream with the memory of one batch, and the model that runs on it.

What a model computes is behind `Compute`: ONNX Runtime and TensorRT differ there and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdag._native import Placement
from vdag.engines.base import TensorSpec
from vdag.engines.gpu.device import Device, DeviceMemory, Event, Stream
from vdag.engines.gpu.outputs import OutputPool
from vdag.engines.gpu.pages import LockedPages
from vdag.engines.gpu.pictures import (
    ITEM,
    DevicePicture,
    Launch,
    Picture,
    Preparation,
    place,
    room,
    size_of,
    spread,
)
from vdag.errors import EngineError

__all__ = ["Compute", "DeviceTensor", "Lane", "Times"]


@dataclass(slots=True, frozen=True)
class DeviceTensor:
    """A tensor in device memory.

    Attributes:
        spec: its name and dtype.
        shape: all axes known.
        address: of its first element.
        owner: keeps the memory while this is held.
    """

    spec: TensorSpec
    shape: tuple[int, ...]
    address: int
    owner: Any = None

    @property
    def nbytes(self) -> int:
        """Its length in memory."""
        return math.prod(self.shape) * self.spec.dtype.itemsize


class Compute(Protocol):
    """A model that one lane runs; one thread at a time.

    Attributes:
        inputs: in the model's order.
        outputs: likewise.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def enqueue(self, inputs: Sequence[DeviceTensor], stream: Stream) -> list[DeviceTensor]:
        """Give the work to the stream, without waiting for it.

        Args:
            inputs: in the model's order; they stay until the batch is done.
            stream: the lane's, always the same.

        Returns:
            The outputs in the model's order, there once the stream has come so far. They are good
            until the next call. A model that runs a batch in pieces gives each piece's outputs
            after those of the piece before.

        Raises:
            EngineError: the model cannot run on these.
        """

    def close(self) -> None:
        """Free what it has on the device, which is idle."""


@dataclass(slots=True, frozen=True)
class Times:
    """When parts of a batch were done, in milliseconds since the lanes were made.

    Attributes:
        begun: the stream took the batch up.
        uploaded: its pictures or arrays are on the device.
        prepared: its tensor is filled.
        computed: the model has run.
        downloaded: its outputs are on the host.
    """

    begun: float
    uploaded: float
    prepared: float
    computed: float
    downloaded: float


class Buffer:
    """Memory of one side that grows when a larger batch comes.

    Args:
        allocate: gives memory of a size; the old is dropped first.
    """

    def __init__(self, allocate: Callable[[int], Any], drop: Callable[[Any], None]) -> None:
        self._allocate, self._drop = allocate, drop
        self._memory: Any = None
        self._nbytes = 0

    def get(self, nbytes: int) -> Any:
        """Return memory of at least so many bytes; what an earlier call gave may be gone."""
        if self._memory is None or nbytes > self._nbytes:
            self.close()
            self._memory = self._allocate(nbytes)
            self._nbytes = nbytes
        return self._memory

    def close(self) -> None:
        """Free it."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._drop(memory)


class Lane:
    """A stream, the memory of a batch, and a model; one batch at a time.

    Args:
        device: is active in all calls.
        stream: the lane's.
        compute: its model; the lane closes it.
        outputs: where host memory for results comes from.
        pages: which memory the device reads by itself.
        epoch: what `Times` count from; None takes no times.
    """

    def __init__(
        self,
        device: Device,
        stream: Stream,
        compute: Compute,
        *,
        outputs: OutputPool,
        pages: LockedPages,
        epoch: Event | None,
    ) -> None:
        self._device, self._stream, self.compute = device, stream, compute
        self._outputs, self._pages, self._epoch = outputs, pages, epoch
        self._marks = [device.event(timed=True) for _ in range(5)] if epoch else []
        self._done = device.event()
        self._inputs = {spec.name: self._device_buffer() for spec in compute.inputs}
        self._pictures, self._items = self._device_buffer(), self._device_buffer()
        self._staging = Buffer(device.page_locked, _drop_array)
        self._item_staging = Buffer(device.page_locked, _drop_array)

    def begin_arrays(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Start a batch of whole arrays; return what its outputs will be in."""
        self._mark(0)
        tensors = []
        for spec in self.compute.inputs:
            array = np.require(inputs[spec.name], requirements=("C_CONTIGUOUS", "ALIGNED"))
            memory = self._inputs[spec.name].get(array.nbytes)
            self._device.upload(memory.address, array, self._stream)
            tensors.append(DeviceTensor(spec, array.shape, memory.address, array))
        self._mark(1)
        self._mark(2)
        return self._compute(tensors)

    def begin_pictures(
        self, pictures: Sequence[Picture], preparation: Preparation
    ) -> tuple[dict[str, NDArray[Any]], list[Placement]]:
        """Start a batch of pictures; return what its outputs will be in, and the placements."""
        (spec,) = self.compute.inputs
        self._mark(0)
        items, placements = self._items_of(pictures, preparation)
        self._bring(pictures, items)
        table = self._items.get(items.nbytes)
        self._device.upload(table.address, items.view(np.uint8), self._stream)
        self._mark(1)
        width, height = preparation.size
        shape = (len(pictures), 3, height, width)
        tensor = self._inputs[spec.name].get(math.prod(shape) * spec.dtype.itemsize)
        launch = Launch(table.address, tensor.address, len(pictures), spec.dtype.name, preparation)
        self._device.fill_pictures(launch, self._stream)
        self._mark(2)
        return self._compute([DeviceTensor(spec, shape, tensor.address)]), placements

    def wait(self) -> None:
        """Wait for the batch."""
        self._done.synchronize()

    def times(self) -> Times | None:
        """Return when the parts of the last batch were done, if they are taken."""
        if self._epoch is None:
            return None
        return Times(*(mark.time_since(self._epoch) for mark in self._marks))

    def abandon(self) -> None:
        """Wait for the part of a batch that has begun before it failed."""
        self._stream.synchronize()

    def close(self) -> None:
        """Wait for what runs, and free everything."""
        self._stream.synchronize()
        self.compute.close()
        for buffer in (*self._inputs.values(), self._pictures, self._items):
            buffer.close()
        self._staging.close()
        self._item_staging.close()

    def _compute(self, tensors: Sequence[DeviceTensor]) -> dict[str, NDArray[Any]]:
        results = self.compute.enqueue(tensors, self._stream)
        self._mark(3)
        found = {
            spec.name: self._download([each for each in results if each.spec.name == spec.name])
            for spec in self.compute.outputs
        }
        self._mark(4)
        self._done.record(self._stream)
        return found

    def _download(self, pieces: Sequence[DeviceTensor]) -> NDArray[Any]:
        """Copy one output to the host; its pieces are joined along their first axis."""
        first, *others = pieces
        if not others:
            array = self._outputs.get(first.shape, first.spec.dtype)
            if first.nbytes:
                self._device.download(array, first.address, self._stream)
            return array
        if any(each.shape[1:] != first.shape[1:] for each in others):
            shapes = ", ".join(str(each.shape) for each in pieces)
            raise EngineError(f"pieces of output {first.spec.name!r} do not fit: {shapes}")
        count = sum(each.shape[0] for each in pieces)
        array, begin = self._outputs.get((count, *first.shape[1:]), first.spec.dtype), 0
        for each in pieces:
            part = array[begin : begin + each.shape[0]]
            if each.nbytes:
                self._device.download(part, each.address, self._stream)
            begin += each.shape[0]
        return array

    def _items_of(
        self, pictures: Sequence[Picture], preparation: Preparation
    ) -> tuple[NDArray[Any], list[Placement]]:
        """Describe pictures for the kernel, in page-locked memory; addresses are still missing."""
        nbytes = len(pictures) * ITEM.itemsize
        items = self._item_staging.get(nbytes)[:nbytes].view(ITEM)
        placements = []
        for index, picture in enumerate(pictures):
            size = size_of(f"pictures[{index}]", picture)
            placements.append(place(items[index], *size, preparation))
        return items, placements

    def _bring(self, pictures: Sequence[Picture], items: NDArray[Any]) -> None:
        """Have all pictures where the kernel can read them, and say in `items` where."""
        on_host, theirs = [], []
        for picture, item in zip(pictures, items, strict=True):
            if not isinstance(picture, DevicePicture):
                on_host.append(picture)
                theirs.append(item)
                continue
            item["src"], item["stride"] = picture.address, picture.stride
            if picture.ready is not None:
                self._stream.wait_for_event(picture.ready)
        self._upload(on_host, theirs)

    def _upload(self, pictures: Sequence[NDArray[np.uint8]], items: Sequence[Any]) -> None:
        """Likewise for those on the host."""
        held = [self._pages.hold(picture) for picture in pictures]
        loose = [picture for picture, locked in zip(pictures, held, strict=True) if not locked]
        staging = self._staging.get(spread(loose)) if loose else None
        copied = () if self._device.integrated else pictures
        memory: DeviceMemory | None = self._pictures.get(spread(copied)) if copied else None
        staged = device = 0
        for picture, locked, item in zip(pictures, held, items, strict=True):
            item["stride"] = picture.shape[1] * 3
            if locked:
                ready = picture.reshape(-1)
            else:
                assert staging is not None, "there is a loose picture"
                ready = staging[staged : staged + picture.size]
                np.copyto(ready.reshape(picture.shape), picture)
                staged += room(picture)
            if self._device.integrated:
                item["src"] = self._device.mapped(ready.ctypes.data)
                continue
            assert memory is not None, "all pictures are copied"
            item["src"] = memory.address + device
            self._device.upload(memory.address + device, ready, self._stream)
            device += room(picture)

    def _mark(self, number: int) -> None:
        if self._epoch is not None:
            self._marks[number].record(self._stream)

    def _device_buffer(self) -> Buffer:
        return Buffer(self._device.allocate, _drop_memory)


def _drop_memory(memory: DeviceMemory) -> None:
    memory.close()


def _drop_array(array: NDArray[Any]) -> None:
    """Do nothing: page-locked memory goes with its last reference."""
