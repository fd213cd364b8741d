"""Which memory of this process is page-locked, so that a GPU copies it, or reads it, by itself."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from vdag.engines.gpu.device import Device

__all__ = ["LockedPages", "Registrations"]

logger = logging.getLogger(__name__)

PAGE_NBYTES = 4096


class Registrations:
    """Ranges that are registered with the driver: by the first who asks, until the last leaves.

    The driver takes a range once, and a process has several engines that read the same slots.

    Args:
        register: locks pages, by address and length.
        unregister: undoes it, by address.
    """

    def __init__(
        self, register: Callable[[int, int], None], unregister: Callable[[int], None]
    ) -> None:
        self._register, self._unregister = register, unregister
        self._lock = threading.Lock()
        self._users: dict[tuple[int, int], int] = {}
        self._refused: set[tuple[int, int]] = set()

    def add(self, address: int, nbytes: int) -> bool:
        """Lock a range, or count one more user of it.

        Returns:
            Whether it is locked. If the driver refuses, a warning says why, once for a range.
        """
        key = address, nbytes
        with self._lock:
            if key not in self._users:
                try:
                    self._register(address, nbytes)
                except EngineError as err:
                    level = logging.DEBUG if key in self._refused else logging.WARNING
                    logger.log(level, "shared memory is not page-locked: %s", err)
                    self._refused.add(key)
                    return False
            self._users[key] = self._users.get(key, 0) + 1
            return True

    def remove(self, address: int, nbytes: int) -> None:
        """Count one user less; the last one unlocks the range."""
        key = address, nbytes
        with self._lock:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._unregister(address)


class LockedPages:
    """Ranges of memory that a device has locked; one engine has one, under its lock.

    Args:
        device: that locks them.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._registered: dict[int, int] = {}

    def lock(self, address: int, nbytes: int) -> bool:
        """Lock memory that stays mapped until `unlock`; shared memory too, also read only.

        Args:
            address: of its first byte, at a page's begin.
            nbytes: its length.

        Returns:
            Whether it is locked. If the driver refuses, pictures there are copied once more.

        Raises:
            ConfigError: it begins within a page, is empty, or overlaps what is locked.
        """
        if address % PAGE_NBYTES or nbytes < 1:
            raise ConfigError(f"memory of {nbytes} bytes at {address:#x} is not whole pages")
        self._place(address, nbytes)
        with self._device.active():
            if not self._device.registrations.add(address, nbytes):
                return False
        self._insert(address, nbytes)
        self._registered[address] = nbytes
        return True

    def add(self, address: int, nbytes: int) -> None:
        """Take note of memory that is page-locked by itself, as `Device.page_locked` gives it.

        Raises:
            ConfigError: it overlaps what is locked.
        """
        self._place(address, nbytes)
        self._insert(address, nbytes)

    def unlock(self, address: int) -> None:
        """Undo `lock` before the memory goes; nothing happens if it did not lock."""
        if address not in self._starts:
            return
        at = self._starts.index(address)
        nbytes = self._registered.pop(address, None)
        if nbytes is not None:
            with self._device.active():
                self._device.registrations.remove(address, nbytes)
        del self._starts[at], self._ends[at]

    def hold(self, array: NDArray[np.uint8]) -> bool:
        """Say whether a C-contiguous array lies in locked memory as a whole."""
        if not self._starts or not array.flags.c_contiguous:
            return False
        address = array.ctypes.data
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address + array.nbytes <= self._ends[at]

    def close(self) -> None:
        """Unlock all."""
        for address in list(self._starts):
            self.unlock(address)

    def _place(self, address: int, nbytes: int) -> None:
        """Refuse a range that overlaps another."""
        at = bisect_right(self._starts, address)
        after = self._starts[at] if at < len(self._starts) else address + nbytes
        if (at and self._ends[at - 1] > address) or after < address + nbytes:
            raise ConfigError(f"memory of {nbytes} bytes at {address:#x} is locked already")

    def _insert(self, address: int, nbytes: int) -> None:
        at = bisect_right(self._starts, address)
        self._starts.insert(at, address)
        self._ends.insert(at, address + nbytes)
