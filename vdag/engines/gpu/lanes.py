"""Batches in flight on a GPU.

A batch goes through its lane in order: copies to the device, the kernel that prepares pictures, the
model, copies back. Lanes do not wait for each other, so the copies of one batch run beside the
model of another: with two lanes, a caller who begins a batch before it takes the result of the one
before keeps both engines of the GPU busy.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from vdag._native import Placement
from vdag.engines.gpu.device import Device, Event, Stream
from vdag.engines.gpu.lane import Compute, Lane, Times
from vdag.engines.gpu.outputs import OutputPool
from vdag.engines.gpu.pages import LockedPages
from vdag.engines.gpu.pictures import Picture, Preparation
from vdag.errors import EngineError

__all__ = ["Lanes", "Pending"]

#: A caller that waits longer for a lane holds them all itself, or the GPU hangs.
LANE_TIMEOUT_S = 60.0


class Pending:
    """A batch that has begun.

    Whoever began it takes its result, once; until then the lane is taken, and the arrays that went
    in must stay as they are.

    Attributes:
        placements: where pictures landed, if it is a batch of pictures.
        times: when its parts were done; None before the result is taken, or if no times are.
    """

    def __init__(
        self,
        lanes: Lanes,
        lane: Lane,
        held: object,
        outputs: dict[str, NDArray[Any]],
        placements: Sequence[Placement] = (),
    ) -> None:
        self._lanes, self._lane, self._held = lanes, lane, held
        self._outputs: dict[str, NDArray[Any]] | None = outputs
        self.placements = list(placements)
        self.times: Times | None = None

    def result(self) -> dict[str, NDArray[Any]]:
        """Wait for the batch and return its outputs, which the caller owns.

        Raises:
            EngineError: the device failed, or the result was taken before.
        """
        outputs, self._outputs = self._outputs, None
        if outputs is None:
            raise EngineError("the result of this batch was taken before")
        try:
            self.times = self._lanes.finish(self._lane)
        finally:
            self._held = None
        return outputs


class Lanes:
    """The lanes of an engine; any thread may begin a batch.

    Args:
        device: all lanes are on it.
        computes: makes the model of a lane for its stream.
        count: of the lanes; two overlap copies and compute.
        timed: take the `Times` of every batch.

    Raises:
        EngineError: a lane cannot be made; nothing is left of the others.
    """

    def __init__(
        self,
        device: Device,
        computes: Callable[[Stream], Compute],
        *,
        count: int = 2,
        timed: bool = False,
    ) -> None:
        self.device = device
        self.pages = LockedPages(device)
        self._outputs = OutputPool(device)
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._queue: deque[object] = deque()
        self._is_open = True
        with device.active():
            epoch = device.event(timed=True) if timed else None
            if epoch is not None:
                first = device.stream()
                epoch.record(first)
                first.synchronize()
            try:
                for _ in range(count):
                    self._lanes.append(self._lane(computes, epoch))
            except BaseException:
                self._close()
                raise
        self._idle = list(self._lanes)

    @property
    def count(self) -> int:
        """How many batches may be in flight."""
        return len(self._lanes)

    @property
    def compute(self) -> Compute:
        """The model of the first lane, for what they have in common."""
        return self._lanes[0].compute

    def begin_arrays(self, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Begin a batch of arrays, checked by the caller, when a lane is free.

        Raises:
            EngineError: no lane became free, or the model cannot run on them.
        """
        with self._taken() as lane:
            outputs = lane.begin_arrays(inputs)
        return Pending(self, lane, dict(inputs), outputs)

    def begin_pictures(self, pictures: Sequence[Picture], preparation: Preparation) -> Pending:
        """Begin a batch of pictures of any sizes, when a lane is free.

        Raises:
            ImageError: one is no such picture.
            EngineError: no lane became free, or the model cannot run on them.
        """
        with self._taken() as lane:
            outputs, placements = lane.begin_pictures(pictures, preparation)
        return Pending(self, lane, list(pictures), outputs, placements)

    def finish(self, lane: Lane) -> Times | None:
        """Wait for a lane's batch and free the lane; `Pending` calls it, once."""
        try:
            with self.device.active():
                lane.wait()
                return lane.times()
        except Exception as err:  # the binding's own class, which only `cuda` may know
            raise EngineError(
                f"cuda:{self.device.index} failed: {' '.join(str(err).split())}"
            ) from err
        finally:
            self._release(lane)

    def close(self) -> None:
        """Wait for the lanes, and free them and the locked pages."""
        with self._free:
            self._is_open = False
            self._free.notify_all()
            self._free.wait_for(lambda: len(self._idle) == len(self._lanes), timeout=LANE_TIMEOUT_S)
            self._idle = []
        with self.device.active():
            self._close()
        self.pages.close()

    def _close(self) -> None:
        while self._lanes:
            self._lanes.pop().close()
        self._outputs.close()

    def _lane(self, computes: Callable[[Stream], Compute], epoch: Event | None) -> Lane:
        stream = self.device.stream()
        return Lane(
            self.device,
            stream,
            computes(stream),
            outputs=self._outputs,
            pages=self.pages,
            epoch=epoch,
        )

    @contextlib.contextmanager
    def _taken(self) -> Iterator[Lane]:
        """Take a free lane for a batch; it is free again only if the batch did not begin."""
        with self._free:
            lane = self._wait_for_lane()
        try:
            with self.device.active():
                yield lane
        except BaseException:
            with contextlib.suppress(Exception), self.device.active():
                lane.abandon()
            self._release(lane)
            raise

    def _wait_for_lane(self) -> Lane:
        """Take a free lane; the lock is held. Whoever came first is first: none waits for ever."""
        me = object()
        self._queue.append(me)
        try:
            self._free.wait_for(
                lambda: (self._idle and self._queue[0] is me) or not self._is_open,
                timeout=LANE_TIMEOUT_S,
            )
            if not self._is_open:
                raise EngineError("the lanes are closed")
            if not self._idle or self._queue[0] is not me:
                raise EngineError(
                    f"no lane became free within {LANE_TIMEOUT_S:g} s: results are not taken"
                )
            return self._idle.pop()
        finally:
            self._queue.remove(me)
            self._free.notify_all()

    def _release(self, lane: Lane) -> None:
        with self._free:
            self._idle.append(lane)
            self._free.notify_all()
