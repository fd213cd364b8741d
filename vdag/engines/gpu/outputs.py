"""Page-locked memory for results: callers own what they get, and its memory comes back.

Taking page-locked memory costs more than a batch, so blocks are kept: when the last array on a
block is gone, whoever held it, the block is free for the next result.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.engines.gpu.device import Device

__all__ = ["OutputPool"]

#: Blocks of one size that are kept free.
MAX_FREE = 8
#: Sizes are rounded up to this, so that batches of neighbouring sizes share blocks.
STEP_NBYTES = 64 * 1024


class _Block:
    """Owns page-locked memory while arrays lie on it: numpy keeps it as their base."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, memory: NDArray[Any]) -> None:
        self.__array_interface__ = memory.__array_interface__


class OutputPool:
    """Arrays in page-locked memory that is used again.

    Arrays may outlive the pool. Any thread may drop one.

    Args:
        device: that locks the memory; active in `get`.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        # Arrays die anywhere, also inside of `get` when the collector runs: only what is atomic
        # by itself may be done then, so there is no lock around the deques.
        self._free: dict[int, deque[NDArray[Any]]] = {}
        self._lock = threading.Lock()
        self._is_open = True

    def get(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array with any contents, C-contiguous, which the caller owns.

        Raises:
            EngineError: no page-locked memory is left.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        size = max(-(-nbytes // STEP_NBYTES), 1) * STEP_NBYTES
        with self._lock:
            free = self._free.setdefault(size, deque(maxlen=MAX_FREE))
        try:
            memory = free.pop()
        except IndexError:
            memory = self._device.page_locked(size)
        block = _Block(memory)
        weakref.finalize(block, self._take_back, size, memory).atexit = False
        array: NDArray[Any] = np.asarray(block)[:nbytes].view(dtype).reshape(shape)
        return array

    def close(self) -> None:
        """Keep no block any more; those in use go with their arrays."""
        with self._lock:
            self._is_open = False
            self._free.clear()

    def _take_back(self, size: int, memory: NDArray[Any]) -> None:
        free = self._free.get(size)
        if self._is_open and free is not None:
            free.append(memory)
