"""Frames and the node's shared memory, as the job that reads them sees it.

A frame gets its slot before it is decoded, if its source takes memory to decode into (`allocate` of
`SingleFrameGenerator`), else its pixels are copied into one. While it waits the slot is on loan;
`Parcel.commit` makes it readable and gives each reader a lease.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vdag.errors import ConfigError, SourceError
from vdag.frame import Frame, Lease, UInt8Image

if TYPE_CHECKING:
    from vdag._native.ring import Arena, Loan, SlotRef

__all__ = ["Parcel", "SharedFrame", "SlotLoan", "Slots"]

#: Longest wait for a slot after which the job's end is looked for.
SLICE_S = 0.1


class SharedFrame(Frame):
    """A frame whose pixels are in a slot, read only; `detach` copies them out of it."""

    __slots__ = ("__weakref__",)

    def detach(self) -> None:
        """Move the pixels into memory of their own, and give the slot back.

        Whoever still holds the old array keeps the slot until the array is gone: an arena never
        reuses memory that somebody looks at.
        """
        if self.lease is not None:
            self.pixels = self.pixels.copy()
            self.release()


class SlotLoan:
    """The lease of a frame that was decoded into a slot nobody else can read yet.

    Attributes:
        loan: the slot, or None when there was none to be had: then the frame is in memory that the
            next one will be decoded into, and cannot be sent.
    """

    __slots__ = ("loan",)

    def __init__(self, loan: Loan | None) -> None:
        self.loan = loan

    def release(self) -> None:
        """Give the slot back unread."""
        if self.loan is not None:
            self.loan.abandon()


@dataclass(slots=True)
class Parcel:
    """A frame with its slot, to be sent once.

    Attributes:
        frame: what the result will carry.
        loan: the slot that holds its pixels.
    """

    frame: Frame
    loan: Loan
    _reference: SlotRef | None = field(default=None, init=False)

    def commit(self, arena: Arena, readers: int) -> SlotRef:
        """Make the slot readable for `readers`; each is to be sent the reference returned.

        A frame that was decoded into the slot keeps a lease of its own on it.
        """
        if not isinstance(self.frame, SharedFrame):
            self._reference = self.loan.commit(readers=readers)
            return self._reference
        shape = self.frame.pixels.shape
        self._reference = self.loan.commit(readers=readers + 1)
        view = arena.acquire(self._reference.slot, self._reference.generation)
        self.frame.pixels = _array(view, shape)
        self.frame.lease = view
        return self._reference

    def release(self) -> None:
        """Give up the frame, and whatever of its slot nobody else answers for yet."""
        self.loan.abandon()
        self.frame.release()
        # Descriptors that were never taken in: without their leases they are stale, and harmless.
        while self._reference is not None and self._reference.drop():
            pass


class Slots:
    """Where a job's frames get their slots; used by the thread that reads the source.

    Args:
        arena: the node's.
        wait_s: how long to wait for a slot, in all.
        is_closing: whether to give up waiting now.
    """

    def __init__(self, arena: Arena, *, wait_s: float, is_closing: Callable[[], bool]) -> None:
        self._arena = arena
        self._wait_s = wait_s
        self._is_closing = is_closing
        self._held: weakref.WeakValueDictionary[int, SharedFrame] = weakref.WeakValueDictionary()
        self._scratch: UInt8Image = np.empty(0, np.uint8)

    def allocate(self, width: int, height: int) -> tuple[UInt8Image, Lease]:
        """Return memory for a picture and its lease, as a source's `allocate`.

        Returns:
            uint8 `(height, width, 3)` over a slot; when there is none, over memory that is used
            again for the next such picture, with a `SlotLoan` that says so.

        Raises:
            SourceError: no slot is large enough for such a picture.
        """
        shape = (height, width, 3)
        loan = self._loan(shape)
        if loan is None:
            if self._scratch.shape != shape:
                self._scratch = np.empty(shape, np.uint8)
            return self._scratch, SlotLoan(None)
        return _array(loan, shape), SlotLoan(loan)

    def take_in(self, frame: Frame) -> Parcel | None:
        """Return the frame with its slot, or None when there was none: then it is released.

        Raises:
            SourceError: no slot is large enough for it.
        """
        lease = frame.lease
        if not isinstance(lease, SlotLoan):
            return self._copy_in(frame)
        if lease.loan is None:
            return None
        shared = SharedFrame(
            frame.pixels,
            stream=frame.stream,
            seq=frame.seq,
            cam_frame_id=frame.cam_frame_id,
            capture_ns=frame.capture_ns,
            pts_s=frame.pts_s,
            pixel_format=frame.pixel_format,
            fps=frame.fps,
        )
        return Parcel(shared, lease.loan)

    def hand_over(self, frame: Frame) -> None:
        """Remember that the caller has the frame; if slots run out, it is copied out of its own."""
        if isinstance(frame, SharedFrame):
            self._held[frame.seq] = frame

    def _copy_in(self, frame: Frame) -> Parcel | None:
        try:
            loan = self._loan(frame.pixels.shape)
        except BaseException:
            frame.release()
            raise
        if loan is None:
            frame.release()
            return None
        np.copyto(_array(loan, frame.pixels.shape), frame.pixels)
        return Parcel(frame, loan)

    def _loan(self, shape: tuple[int, ...]) -> Loan | None:
        """Wait for a slot, after taking back those of frames that the caller has."""
        nbytes = math.prod(shape)
        deadline_s = time.monotonic() + self._wait_s
        wait_s = 0.0
        while (loan := self._try(nbytes, shape, wait_s)) is None:
            if self._reclaim():
                continue
            wait_s = min(deadline_s - time.monotonic(), SLICE_S)
            if wait_s <= 0 or self._is_closing():
                return None
        return loan

    def _try(self, nbytes: int, shape: tuple[int, ...], wait_s: float) -> Loan | None:
        try:
            return self._arena.loan(nbytes, wait_s)
        except ConfigError as err:
            size = "x".join(map(str, reversed(shape[:2])))
            raise SourceError(f"frame of {size} does not fit the shared memory: {err}") from err

    def _reclaim(self) -> bool:
        """Copy the oldest frame that the caller has out of its slot, if there is one."""
        for frame in list(self._held.values()):
            self._held.pop(frame.seq, None)
            if frame.lease is not None:
                frame.detach()
                return True
        return False


def _array(memory: Any, shape: tuple[int, ...]) -> UInt8Image:
    return np.frombuffer(memory, np.uint8).reshape(shape)
