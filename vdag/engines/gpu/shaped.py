"""Sessions for one shape each: a lane has as many as it meets shapes.

A library may choose its kernels by the shape of the inputs, keep the last choice alone, and take
seconds to choose. A session that only ever sees one shape chooses once. So that there are few,
batches are cut into few sizes (`sizes`), whose pieces run one after the other. A size that is not
ready is prepared by a thread, on inputs of its own, while those that are ready serve in its place:
only the first piece of new pictures, of size 1, is waited for. What one lane meets is prepared for
all of them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vdag.engines.gpu.device import Device, Stream
from vdag.engines.gpu.engine import LaneEngine
from vdag.engines.gpu.lane import DeviceTensor
from vdag.engines.gpu.lanes import Lanes
from vdag.engines.gpu.preparing import Preparer
from vdag.engines.gpu.session import Session, Shapes, rows, zeros
from vdag.engines.gpu.sizes import cut, sizes_to
from vdag.errors import EngineError

__all__ = ["ShapedCompute", "ShapedEngine", "Siblings"]

_log = logging.getLogger(__name__)

#: Batches of a lane, none of which has used a session, before it may go for one that is prepared.
#: More shapes in turns than there is room for would be prepared for ever without that.
UNUSED_BATCHES = 256
#: What another thread makes is waited for that long.
MAKING_TIMEOUT_S = 60.0
#: Bytes that kernels may read at once: pieces begin at multiples of it.
PIECE_ALIGNMENT = 16


class ShapedEngine(LaneEngine):
    """An engine whose lanes have a session for each shape.

    Args:
        name: for stats, errors and logs.
        device: all lanes are on it.
        open_session: for a lane's stream; called by several threads.
        max_shapes: sessions of a lane, beyond which the longest unused goes.
        lanes: how many.
        timed: see `Lanes`.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        open_session: Callable[[Stream], Session],
        *,
        max_shapes: int = 8,
        lanes: int = 2,
        timed: bool = False,
    ) -> None:
        self._preparer = Preparer(name)
        self._siblings = Siblings()

        def compute(stream: Stream) -> ShapedCompute:
            made = ShapedCompute(
                name, device, stream, open_session,
                preparer=self._preparer, siblings=self._siblings, max_shapes=max_shapes,
            )  # fmt: skip
            self._siblings.members.append(made)
            return made

        super().__init__(
            name, Lanes(device, compute, count=lanes, timed=timed), max_shapes=max_shapes
        )

    def warm_up(self, shapes: Iterable[Mapping[str, Sequence[int]]]) -> None:
        """Prepare these shapes in every lane, and run them once; see `Engine.warm_up`."""
        for wanted in shapes:
            buffers = {name: self.buffer(name, shape) for name, shape in wanted.items()}
            if len(buffers) == len(self.inputs):  # what is missing is told below
                for member in self._siblings.members:
                    member.warm_up(tuple(buffers[spec.name].shape for spec in self.inputs))
            super().warm_up([wanted])

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is being prepared; say whether that came in time."""
        return self._preparer.settle(timeout_s)

    def close(self) -> None:
        """Give the model and its memory back, after what is being prepared."""
        self._preparer.close()
        super().close()


@dataclass(slots=True)
class _Ready:
    """A session that has run, and the number of the lane's batch that used it last."""

    session: Session
    used_at: int


class Siblings:
    """The lanes of an engine, which prepare what one of them has met.

    Attributes:
        members: one for each lane.
        largest: of the batches so far.
    """

    def __init__(self) -> None:
        self.members: list[ShapedCompute] = []
        self.largest = 1

    def prepare(self, shapes: Shapes) -> None:
        """Have all sizes of batches up to the largest prepared, the small ones first."""
        for size in sizes_to(self.largest):
            for member in self.members:
                member.ask(_of_size(shapes, size))


class ShapedCompute:
    """The sessions of a lane; see `Compute`.

    One thread at a time calls `enqueue` and `close`; it alone lets sessions go. Any may make one.

    Args:
        name: for errors and logs.
        device: is active in all calls but `ask`, `warm_up` and `prepare`.
        stream: the lane's.
        open_session: for that stream.
        preparer: makes what no batch waits for.
        siblings: this and the other lanes.
        max_shapes: sessions that are kept.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        stream: Stream,
        open_session: Callable[[Stream], Session],
        *,
        preparer: Preparer,
        siblings: Siblings,
        max_shapes: int,
    ) -> None:
        self._name, self._device, self._stream = name, device, stream
        self._open, self._preparer, self._siblings = open_session, preparer, siblings
        self._max_shapes = max_shapes
        first = open_session(stream)
        self.inputs, self.outputs = first.inputs, first.outputs
        self._is_batched = first.is_batched
        self._spare: Session | None = first
        self._changed = threading.Condition()
        self._ready: OrderedDict[Shapes, _Ready] = OrderedDict()
        self._making: set[Shapes] = set()
        self._asked: set[Shapes] = set()
        self._failed: set[Shapes] = set()
        self._batches = 0
        self._is_open = True

    def enqueue(self, inputs: Sequence[DeviceTensor], stream: Stream) -> list[DeviceTensor]:
        """Run a batch in pieces, each of which adds its outputs; see `Compute.enqueue`."""
        assert stream is self._stream, "sessions belong to one stream"
        self._batches += 1
        self._let_go(self._max_shapes)
        shapes = tuple(item.shape for item in inputs)
        if not self._is_cut(shapes):
            return self._session(shapes).enqueue(inputs, stream)
        count, begin = shapes[0][0], 0
        outputs: list[DeviceTensor] = []
        for size in self._pieces(shapes, count):
            part = [rows(item, begin, size) for item in inputs]
            outputs += self._session(_of_size(shapes, size)).enqueue(part, stream)
            begin += size
        self._look_ahead(shapes, count)
        return outputs

    def warm_up(self, shapes: Shapes) -> None:
        """Prepare what a batch of these shapes is cut into."""
        if not self._is_cut(shapes):
            self.prepare(shapes)
            return
        count = shapes[0][0]
        for size in sorted(set(cut(count, sizes_to(count)))):
            self.prepare(_of_size(shapes, size))

    def ask(self, shapes: Shapes) -> None:
        """Have a session prepared for these, if it is missing, can be made, and has room."""
        with self._changed:
            known = shapes in self._ready or shapes in self._making or shapes in self._asked
            if known or shapes in self._failed or not self._is_open or not self._has_room():
                return
            self._asked.add(shapes)
        if not self._preparer.ask(lambda: self._prepare_asked(shapes)):
            self._forget(shapes)

    def prepare(self, shapes: Shapes) -> None:
        """Make a session for these and run it once, unless there is one.

        Raises:
            EngineError: the model cannot run on these, or there is not enough memory.
        """
        if not self._claim(shapes):
            return
        session = None
        try:
            with self._device.active():
                session = self._made(shapes)
        finally:
            is_kept = self._put(shapes, session)
        if session is not None and not is_kept:
            with self._device.active():
                session.close()

    def close(self) -> None:
        """Free what it has on the device, which is idle."""
        with self._changed:
            self._is_open = False
            self._spare = None
        self._let_go(0)

    def _is_cut(self, shapes: Shapes) -> bool:
        """Whether batches of these may be run in pieces."""
        return (
            self._is_batched
            and len({shape[0] for shape in shapes}) == 1
            and all(
                math.prod(shape[1:]) * spec.dtype.itemsize % PIECE_ALIGNMENT == 0
                for spec, shape in zip(self.inputs, shapes, strict=True)
            )
        )

    def _pieces(self, shapes: Shapes, count: int) -> list[int]:
        """Cut a batch into sizes that are ready; size 1 is made if they do not come to it."""
        pieces = cut(count, self._sizes(shapes, count))
        if sum(pieces) < count:
            self._let_go(self._max_shapes - 1)
            self.prepare(_of_size(shapes, 1))
            pieces = cut(count, self._sizes(shapes, count))
        if sum(pieces) < count:
            raise EngineError(f"{self._name} has no session for {shapes}")
        return pieces

    def _sizes(self, shapes: Shapes, count: int) -> list[int]:
        with self._changed:
            return [size for size in sizes_to(count) if _of_size(shapes, size) in self._ready]

    def _look_ahead(self, shapes: Shapes, count: int) -> None:
        """Have all prepared that batches like this one may be cut into."""
        self._siblings.largest = max(self._siblings.largest, count)
        sizes = sizes_to(self._siblings.largest)
        with self._changed:
            missing = any(_of_size(shapes, size) not in self._ready for size in sizes)
        if missing:
            self._siblings.prepare(shapes)

    def _session(self, shapes: Shapes) -> Session:
        """Return the session for exactly these, made if it is not there; it counts as used."""
        for _ in range(2):
            with self._changed:
                ready = self._ready.get(shapes)
                if ready is not None:
                    ready.used_at = self._batches
                    self._ready.move_to_end(shapes)
                    return ready.session
            self._let_go(self._max_shapes - 1)
            self.prepare(shapes)
        raise EngineError(f"{self._name} has no session for {shapes}")

    def _has_room(self) -> bool:
        """Say whether one more may be asked for; the lock is held."""
        count = len(self._ready) + len(self._asked)
        if count != self._max_shapes or not self._ready:
            return count < self._max_shapes
        oldest = next(iter(self._ready.values()))
        return self._batches - oldest.used_at >= UNUSED_BATCHES

    def _prepare_asked(self, shapes: Shapes) -> None:
        """Prepare these in the preparer's thread; what fails is not asked for again."""
        try:
            self.prepare(shapes)
        except Exception as err:  # the binding's own class, too
            _log.warning("%s: %s is not prepared: %s", self._name, shapes, err)
            with self._changed:
                self._failed.add(shapes)
        finally:
            self._forget(shapes)

    def _forget(self, shapes: Shapes) -> None:
        with self._changed:
            self._asked.discard(shapes)

    def _claim(self, shapes: Shapes) -> bool:
        """Say whether the caller has to make a session for these; waits for who does already."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: shapes not in self._making, timeout=MAKING_TIMEOUT_S
            ):
                raise EngineError(
                    f"{self._name} has no session for {shapes} within {MAKING_TIMEOUT_S:g} s"
                )
            if shapes in self._ready or not self._is_open:
                return False
            self._making.add(shapes)
            return True

    def _made(self, shapes: Shapes) -> Session:
        with self._changed:
            spare, self._spare = self._spare, None
        session = spare or self._open(self._stream)
        with (
            zeros(self._device, self._stream, self.inputs, shapes) as inputs,
            contextlib.ExitStack() as failing,
        ):
            failing.callback(session.close)  # while its inputs are there
            session.enqueue(inputs, self._stream, waits=True)
            failing.pop_all()
        return session

    def _put(self, shapes: Shapes, session: Session | None) -> bool:
        """End what `_claim` began; say whether the session is kept: it may come too late."""
        with self._changed:
            self._making.discard(shapes)
            self._changed.notify_all()
            if session is None or not self._is_open:
                return False
            self._ready[shapes] = _Ready(session, self._batches)
            return True

    def _let_go(self, most: int) -> None:
        """Close the sessions that were longest unused, beyond so many; no batch is at work."""
        while True:
            with self._changed:
                if len(self._ready) <= max(most, 0):
                    return
                shapes, ready = self._ready.popitem(last=False)
            self._discard(shapes, ready.session)

    def _discard(self, shapes: Shapes, session: Session) -> None:
        # What it ran on last may be gone: the lane's memory is another since a larger batch came.
        with contextlib.suppress(EngineError):
            if not session.is_clean:
                with zeros(self._device, self._stream, self.inputs, shapes) as inputs:
                    with contextlib.suppress(EngineError):  # of a model that has failed before
                        session.enqueue(inputs, self._stream, waits=True)
                    session.close()
        session.close()


def _of_size(shapes: Shapes, size: int) -> Shapes:
    return tuple((size, *shape[1:]) for shape in shapes)
