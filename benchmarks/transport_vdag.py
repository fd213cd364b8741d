"""vdag's own ways for frames: slots of an arena, and descriptors over PUSH and PULL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmq
from transport_course import ROTATION, TIMEOUT_MS, TIMEOUT_S, Contender, Place, frames, stamp

from vdag._native import header as native_header
from vdag._native.ring import Arena, SlotRef
from vdag.transport.channel import open_pull, open_push
from vdag.transport.codec import Envelope, Hop, decode_header

#: More than there are slots: it is these that hold a sender up.
MESSAGES = 4 * ROTATION
_UINT8 = native_header.DTYPES.index("uint8")


@contextmanager
def share_arena(place: Place) -> Iterator[str]:
    """Create the arena, in the place of the exchange that owns it on a node; its name."""
    with Arena.create("bench", [(place.nbytes, ROTATION)]) as arena:
        yield arena.name
        arena.check()


class LoanSender:
    """Writes into slots; a lease and a descriptor for every receiver."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._arena = Arena.attach(place.shared, writable=True)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = []
        for number in range(place.receivers):
            socket = open_push(place.address(number), context=self._context, depth=MESSAGES)
            socket.sndtimeo = TIMEOUT_MS
            self._sockets.append(socket)
        self._envelope = Envelope("bench", "camera", (Hop("look", place.address(0)),))

    def send(self, seq: int, now_ns: int) -> None:
        nbytes = self._place.nbytes
        loan = self._arena.loan(nbytes, TIMEOUT_S)
        assert loan is not None, "no slot is free"
        stamp(loan, nbytes, seq, now_ns)
        self._post(loan.commit(readers=self._place.receivers), seq, now_ns)

    def close(self) -> None:
        self._context.destroy(linger=0)
        self._arena.close()

    def _post(self, reference: SlotRef, seq: int, now_ns: int) -> None:
        header = native_header.Header(
            kind=native_header.KIND_SLOT,
            dtype=_UINT8,
            shape=self._place.shape,
            seq=seq,
            capture_ns=now_ns,
            payload_nbytes=reference.nbytes,
            arena=reference.arena_id,
            slot=reference.slot,
            generation=reference.generation,
            offset=reference.offset,
        )
        part = self._envelope.seal(header)
        for socket in self._sockets:
            socket.send(part)


class CopySender(LoanSender):
    """Copies frames, which are somewhere else first, into slots."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._frames = itertools.cycle(frames(place.shape))

    def send(self, seq: int, now_ns: int) -> None:
        frame = next(self._frames)
        stamp(frame.data.cast("B"), frame.nbytes, seq, now_ns)
        reference = self._arena.put(frame, self._place.receivers, TIMEOUT_S)
        assert reference is not None, "no slot is free"
        self._post(reference, seq, now_ns)


class SlotReceiver:
    """Looks at slots where they lie."""

    def __init__(self, place: Place, number: int) -> None:
        self._arena = Arena.attach(place.shared)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = open_pull(place.address(number), context=self._context, depth=MESSAGES)
        self._socket.rcvtimeo = TIMEOUT_MS

    def receive(self, look: Callable[[Any], None]) -> None:
        header = decode_header([self._socket.recv()])
        with self._arena.acquire(header.slot, header.generation) as view:
            look(view)

    def close(self) -> None:
        self._context.destroy(linger=0)
        self._arena.close()


LOAN = Contender("loan", "vdag, written into a slot", LoanSender, SlotReceiver, share=share_arena)
COPY = Contender("copy", "vdag, copied into a slot", CopySender, SlotReceiver, share=share_arena)
