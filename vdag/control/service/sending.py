"""`Sender`: pieces of work as descriptors, with their pictures decoded into shared memory.

To the exchange a service is a job without a graph: each piece of work is a frame with a route of
its own, `~request -> task -> home`, whose context already has the inputs that are no pixels, as if
a task called `~request` had found them.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from vdag._native import header as native_header
from vdag.control.service.schemas import Work
from vdag.errors import (
    ChannelClosed,
    ConfigError,
    FrameFormatError,
    PayloadTooLarge,
    Saturated,
)
from vdag.frame import UInt8Image
from vdag.job.mailbox import home_address
from vdag.transport import codec, inside, messages
from vdag.transport.codec import Descriptor, Hop
from vdag.transport.messages import Join, Leave

if TYPE_CHECKING:
    from vdag._native.ring import SlotRef
    from vdag.control.service.images import Picture
    from vdag.transport.exchange import Exchange

__all__ = ["Sender", "Sent"]

#: What the first hop is called, which the frame has behind it; no task, as tasks are identifiers.
REQUEST, HOME = "~request", "~home"
_UINT8 = native_header.DTYPES.index("uint8")


class Sent(NamedTuple):
    """A piece of work that is on its way.

    Attributes:
        reference: the lease of its slot: dropped when the answer is not waited for any more, in
            case nobody has taken it in. None if it needs no slot.
    """

    reference: SlotRef | None


class Sender:
    """The service as a job of its exchange; any number of threads may `send`.

    Args:
        exchange: open, of this process; open until this is closed.
        arrive: takes what comes home, in any thread, even before `send` has returned.

    Attributes:
        stream: number of the stream that its frames are of.

    Raises:
        ChannelClosed: the exchange is not open in this process.
    """

    def __init__(self, exchange: Exchange, arrive: inside.Take) -> None:
        self._address, self._arena = exchange.address, exchange.arena
        self._job = f"service-{secrets.token_hex(4)}"
        self.stream = secrets.randbits(63)
        self._home = home_address(exchange.address, self._job)
        self._routes: dict[tuple[str, int | None], tuple[Hop, ...]] = {}
        take = inside.find(exchange.address)
        if take is None:
            raise ChannelClosed(f"exchange {exchange.address} is not open in this process")
        self._take = take
        inside.register(self._home, arrive)
        take(messages.encode(Join(self._job, self._home)))

    def send(self, work: Work, seq: int, *, deadline_ns: int) -> Sent | None:
        """Decode the pictures of a piece of work and hand it to the exchange.

        Args:
            work: what to do.
            seq: its number, for the answer.
            deadline_ns: when its answer is worth nothing.

        Returns:
            None if no slot is free now; then nothing has been decoded.

        Raises:
            Saturated: the exchange does not read, or the dead-line has passed.
            ImageError: a picture is broken.
            PayloadTooLarge: it does not fit the shared memory, or a message.
        """
        if deadline_ns <= time.monotonic_ns():
            raise Saturated(f"{work.task}: the dead-line has passed before the work began")
        shape = _slot_shape(work)
        reference = None
        if shape and (reference := self._store(work.pictures, shape)) is None:
            return None
        try:
            fields = dict(work.fields)
            if work.faces is not None:
                fields["faces"] = _decoded(work.faces)
            if work.pictures and not shape:
                fields["clip"] = _decoded(work.pictures)
            header = native_header.Header(
                stream=self.stream,
                seq=seq,
                capture_ns=time.monotonic_ns(),
                deadline_ns=deadline_ns,
                hop=1,
            )
            if reference is not None:
                header = _with_slot(header, shape, reference)
            if not self._take(self._encode(work, header, fields)):
                raise Saturated("the exchange has too many messages to read")
        except BaseException:
            if reference is not None:
                reference.drop()
            raise
        return Sent(reference)

    def close(self) -> None:
        """Leave the exchange; nobody sends any more."""
        self._take(messages.encode(Leave(self._job)))
        inside.forget(self._home)

    def _store(self, pictures: Sequence[Picture], shape: tuple[int, ...]) -> SlotRef | None:
        try:
            loan = self._arena.loan(math.prod(shape))
        except ConfigError as err:
            raise PayloadTooLarge(
                f"{len(pictures)} pictures of {shape[-2]} x {shape[-3]} do not fit: {err}"
            ) from err
        if loan is None:
            return None
        with loan:
            pixels = np.frombuffer(cast("memoryview[int]", loan), np.uint8)
            for picture, out in zip(pictures, pixels.reshape(-1, *shape[-3:]), strict=True):
                picture.write(out)
            return loan.commit(readers=1)

    def _encode(self, work: Work, header: native_header.Header, fields: dict[str, Any]) -> bytes:
        context = {REQUEST: fields} if fields else {}
        route = self._route(work.task, work.model)
        descriptor = Descriptor(header, self._job, "", route, context)
        try:
            return bytes(codec.encode(descriptor)[0])
        except FrameFormatError as err:
            raise PayloadTooLarge(f"what goes with the pictures is too large: {err}") from err

    def _route(self, task: str, model: int | None) -> tuple[Hop, ...]:
        route = self._routes.get((task, model))
        if route is None:
            here, home = self._address, self._home
            route = (Hop(REQUEST, here), Hop(task, here, model), Hop(HOME, home))
            self._routes[task, model] = route
        return route


def _slot_shape(work: Work) -> tuple[int, ...]:
    """Return the shape of the pixels in the slot, none if there are none.

    The pictures of a clip share a slot if they are of one size; else they travel in the context.
    """
    if not work.pictures:
        return ()
    first = work.pictures[0]
    shape = (first.height, first.width, 3)
    if not work.is_clip:
        return shape
    if any((picture.height, picture.width) != shape[:2] for picture in work.pictures):
        return ()
    return (len(work.pictures), *shape)


def _with_slot(
    header: native_header.Header, shape: tuple[int, ...], reference: SlotRef
) -> native_header.Header:
    return header.replace(
        kind=native_header.KIND_SLOT,
        dtype=_UINT8,
        shape=shape,
        payload_nbytes=reference.nbytes,
        arena=reference.arena_id,
        slot=reference.slot,
        generation=reference.generation,
        offset=reference.offset,
    )


def _decoded(pictures: Sequence[Picture]) -> list[UInt8Image]:
    found = []
    for picture in pictures:
        pixels = np.empty((picture.height, picture.width, 3), np.uint8)
        picture.write(pixels)
        found.append(pixels)
    return found
