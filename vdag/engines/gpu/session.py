"""`Session`: a model that one lane runs with one shape, and what it runs on beside batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from vdag.engines.base import TensorSpec
from vdag.engines.gpu.device import Device, Stream
from vdag.engines.gpu.lane import DeviceTensor

__all__ = ["Session", "Shapes", "rows", "zeros"]

#: Of all inputs, in the model's order.
Shapes = tuple[tuple[int, ...], ...]

#: Zeros are copied to the device in parts of this size.
ZEROS_NBYTES = 1 << 20


class Session(Protocol):
    """A model on a lane's stream; as `Compute`, and used with one shape.

    Attributes:
        inputs: in the model's order.
        outputs: likewise.
        is_batched: the first axis of every input and output is the batch: what comes out for a
            part of the inputs is that part of the outputs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_batched: bool

    @property
    def is_clean(self) -> bool:
        """Whether it can be closed as it is; otherwise `close` reads its last inputs again."""

    def enqueue(
        self, inputs: Sequence[DeviceTensor], stream: Stream, *, waits: bool = False
    ) -> list[DeviceTensor]:
        """Give the work to the stream; see `Compute.enqueue`.

        Args:
            inputs: in the model's order.
            stream: the lane's.
            waits: for all work of the stream, and is clean then.
        """

    def close(self) -> None:
        """Free what it has on the device; may be called again."""


@contextlib.contextmanager
def zeros(
    device: Device, stream: Stream, specs: Sequence[TensorSpec], shapes: Shapes
) -> Iterator[list[DeviceTensor]]:
    """Lend inputs of zeros, in memory of their own that goes when the stream is done with it.

    Raises:
        EngineError: there is not enough memory.
    """
    source = np.zeros(ZEROS_NBYTES, np.uint8)
    inputs: list[DeviceTensor] = []
    try:
        for spec, shape in zip(specs, shapes, strict=True):
            nbytes = math.prod(shape) * spec.dtype.itemsize
            memory = device.allocate(nbytes)
            inputs.append(DeviceTensor(spec, shape, memory.address, memory))
            for begin in range(0, nbytes, ZEROS_NBYTES):
                part = source[: min(ZEROS_NBYTES, nbytes - begin)]
                device.upload(memory.address + begin, part, stream)
        yield inputs
    finally:
        with contextlib.suppress(Exception):  # of a device that has failed: others tell it
            stream.synchronize()
        for item in inputs:
            item.owner.close()


def rows(item: DeviceTensor, begin: int, count: int) -> DeviceTensor:
    """Return a part of a tensor along its first axis; it keeps the whole."""
    row = item.nbytes // item.shape[0]
    return replace(item, shape=(count, *item.shape[1:]), address=item.address + begin * row)
