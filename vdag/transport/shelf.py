"""The frames inside an exchange: their bytes, their pixels' leases, and who was lent what.

Theory of operation
-------------------
A frame on the shelf is a `Held`: the sections of its descriptor, and a `View`, the exchange's own
lease on its slot. The view is what keeps the pixels while the frame waits, works and is retried;
whatever happens to workers, it ends when the frame leaves.

A worker gets a lease of its own (`lend`). It is in flight until the worker acquires it, and if the
worker dies it depends on that moment who takes the lease back: the arena's `reap`, if it was
acquired, otherwise we. Nothing tells the two apart, and leases in flight on one slot are all
alike. So they are made by a second attachment, the outlet, which makes no others; and as long as
another worker may still acquire one on the same slot, which happens when a frame's
branches travel as several descriptors, the question is put off until none may (`take_back`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from vdag._native import header as native_header
from vdag.errors import FrameFormatError, StaleFrame
from vdag.transport.codec import Head, Hop

if TYPE_CHECKING:
    from vdag._native.header import Header
    from vdag._native.ring import Arena, View

__all__ = ["Held", "Shelf", "without_pixels"]

_HEADER_NBYTES = native_header.HEADER_NBYTES
#: Kinds that a worker reads without a decoder.
_KINDS = frozenset({native_header.KIND_NONE, native_header.KIND_INLINE, native_header.KIND_SLOT})
_NAMES = native_header.KINDS


class Held(msgspec.Struct, eq=False):
    """One frame inside the exchange.

    Attributes:
        header: as it was received, later with the hop moved on.
        job: the job it belongs to.
        route: every hop.
        route_part: the route as bytes.
        context: what the tasks have found, packed.
        payload: pixels of the kind inline, else empty.
        view: the exchange's lease on the slot of the kind slot, else None.
        arrived_ns: when it came to its present task.
        loan: slot and generation of the lease that a worker was lent and may hold.
    """

    header: Header
    job: str
    route: tuple[Hop, ...]
    route_part: bytes
    context: bytes
    payload: bytes
    view: View | None
    arrived_ns: int
    loan: tuple[int, int] | None = None

    @property
    def here(self) -> Hop:
        """The hop the frame is at."""
        return self.route[self.header.hop]

    @property
    def is_last(self) -> bool:
        """Whether only the way home is left."""
        return self.header.hop == len(self.route) - 1

    @property
    def nbytes(self) -> int:
        """Memory the frame holds."""
        return self.header.payload_nbytes + len(self.context) + len(self.route_part)

    def part(self) -> bytes:
        """Return the descriptor; its lease is the exchange's own and not for others."""
        return self._part(self.header)

    def part_for(self, generation: int) -> bytes:
        """Return the descriptor with another lease on the same slot."""
        return self._part(self.header.replace(generation=generation))

    def part_without_pixels(self) -> bytes:
        """Return the descriptor as it goes home."""
        header = native_header.pack(without_pixels(self.header))
        return b"".join((header, self.route_part, self.context))

    def pixels(self) -> NDArray[np.generic] | None:
        """Return the payload as a read-only array; None without one. Drop it before the view."""
        source = self.payload if self.view is None else self.view
        if not self.header.dtype:
            return None
        dtype = np.dtype(native_header.DTYPES[self.header.dtype]).newbyteorder("<")
        return np.frombuffer(cast("memoryview[int]", source), dtype).reshape(self.header.shape)

    def advance(self, context: bytes) -> None:
        """Go on to the next hop with a new context.

        Raises:
            FrameFormatError: the context is too long; nothing has changed.
        """
        self.header = self.header.replace(hop=self.header.hop + 1, context_nbytes=len(context))
        self.context = context

    def release(self) -> None:
        """Give the pixels up."""
        if self.view is not None:
            self.view.release()
            self.view = None

    def _part(self, header: Header) -> bytes:
        return b"".join((native_header.pack(header), self.route_part, self.context, self.payload))


def without_pixels(header: Header) -> Header:
    """Return the header of a frame that leaves its pixels behind."""
    return header.replace(
        kind=native_header.KIND_NONE,
        dtype=0,
        shape=(),
        payload_nbytes=0,
        arena=0,
        slot=0,
        generation=0,
        offset=0,
    )


class Shelf:
    """Takes frames in and lends their pixels to workers; one thread at a time.

    Args:
        arena: of this node; the caller closes it after the shelf.
        outlet: another attachment to it, for the leases of workers only; the shelf closes it.
    """

    def __init__(self, arena: Arena, outlet: Arena) -> None:
        self._arena = arena
        self._outlet = outlet
        self._lent: dict[tuple[int, int], int] = {}
        self._doubtful: set[tuple[int, int]] = set()

    @property
    def lent(self) -> int:
        """Leases that workers may hold."""
        return sum(self._lent.values())

    def take(self, head: Head, part: bytes, now_ns: int) -> Held:
        """Put a frame on the shelf; its lease is the exchange's from now on.

        Raises:
            StaleFrame: its slot is another arena's, was reused, or is not as long as it says.
            FrameFormatError: there is no such slot, or workers do not read this kind of payload.
        """
        header = head.header
        if header.kind not in _KINDS:
            raise FrameFormatError(f"workers read no payload of kind {_NAMES[header.kind]}")
        view = self._acquire(header) if header.kind == native_header.KIND_SLOT else None
        start = _HEADER_NBYTES + header.route_nbytes
        end = start + header.context_nbytes
        return Held(
            header,
            head.job,
            head.route,
            part[_HEADER_NBYTES:start],
            part[start:end],
            part[end:],
            view,
            now_ns,
        )

    def lend(self, held: Held) -> bytes:
        """Return the descriptor for a worker, with a lease of its own.

        Raises:
            TransportError: the slot has as many leases as it can.
        """
        if held.view is None:
            return held.part()
        lease = self._outlet.share(held.view.slot, held.view.generation)
        held.loan = (lease.slot, lease.generation)
        self._lent[held.loan] = self._lent.get(held.loan, 0) + 1
        return held.part_for(lease.generation)

    def returned(self, held: Held) -> None:
        """The worker has worked on the frame: it has acquired its lease, and releases it."""
        self._settle(held)

    def take_back(self, held: Held) -> None:
        """The worker has refused the frame, or is gone and reaped: its lease may be in flight."""
        if held.loan is not None:
            self._doubtful.add(held.loan)
            self._settle(held)

    def close(self) -> None:
        """Take back every lease that is in flight to a worker."""
        self._outlet.close()

    def _acquire(self, header: Header) -> View:
        if header.arena != self._arena.arena_id:
            raise StaleFrame(f"slot {header.slot} is in arena {header.arena:016x}, not in this one")
        view = self._arena.acquire(header.slot, header.generation)
        if view.nbytes != header.payload_nbytes:
            raise StaleFrame(
                f"slot {header.slot} holds {view.nbytes} bytes, not {header.payload_nbytes}"
            )
        return view

    def _settle(self, held: Held) -> None:
        """End a loan; after the last one on a slot, leases still in flight are nobody's."""
        loan, held.loan = held.loan, None
        if loan is None:
            return
        left = self._lent.pop(loan) - 1
        if left:
            self._lent[loan] = left
        elif self._doubtful and loan in self._doubtful:
            self._doubtful.remove(loan)
            while self._outlet.drop(*loan):
                pass
