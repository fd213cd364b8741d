"""`TensorRTEngine`: serves from the first frame on, and becomes TensorRT when that is ready.

Without a built engine it serves with ONNX Runtime at once, on CUDA if that can be, else on the CPU.
Meanwhile a thread has the engine built in another process, loads it, warms it up, and compares what
it says with what ONNX Runtime says of frames that have been served, or of noise before any has.
Then it takes over between two batches. If anything of that fails, ONNX Runtime goes on serving, and
`status` says why; so it does if TensorRT fails later, with the very batch that it failed on. Sizes
that no profile covers are ONNX Runtime's in any case; batches that are only too long are cut.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag._native import Placement
from vdag.engines.base import Engine, EngineSpec, EngineStats, InputBuffers, TensorSpec
from vdag.engines.gpu.engine import LaneEngine, in_turn, is_planar
from vdag.engines.gpu.lanes import Pending
from vdag.engines.gpu.pictures import Preparation
from vdag.engines.tensorrt.builder import BuildOrder
from vdag.engines.tensorrt.builds import DEFAULT_LIMITS, Limits
from vdag.engines.tensorrt.cache import EngineCache
from vdag.engines.tensorrt.platform import Platform, RealPlatform
from vdag.engines.tensorrt.profiles import card_beside, order_for
from vdag.engines.tensorrt.takeover import Status, Takeover
from vdag.engines.zoo.card import Agreement
from vdag.errors import EngineError

__all__ = ["TensorRTEngine"]

Arrays = dict[str, NDArray[Any]]


class _Seat:
    """An engine and how many calls are inside of it."""

    __slots__ = ("engine", "is_tensorrt", "users")

    def __init__(self, engine: Engine, *, is_tensorrt: bool = False) -> None:
        self.engine = engine
        self.is_tensorrt = is_tensorrt
        self.users = 0


class TensorRTEngine:
    """A model in TensorRT, or in ONNX Runtime until then.

    Args:
        spec: what to load; `device` is `cuda:N`, or `auto` or `cuda` for the first GPU.
        platform: what of it is TensorRT and the GPU; the real ones if None.
        cache: of built engines; the user's if None.
        limits: of a build.

    Raises:
        EngineUnavailable: TensorRT, pycuda or the device is missing.
        ModelError: the file is missing, broken, or not a model of ONNX Runtime.
        ConfigError: a shape of the model is dynamic, and no card says what it may be.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        platform: Platform | None = None,
        cache: EngineCache | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._spec, self._platform = spec, platform or RealPlatform(spec)
        self.name, self.device = spec.label, self._platform.device
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._spare: _Seat | None = _Seat(self._platform.fallback(spec))
        self._main: _Seat | None = None
        self._failed: _Seat | None = None
        self.inputs: tuple[TensorSpec, ...] = self._spare.engine.inputs
        self.outputs: tuple[TensorSpec, ...] = self._spare.engine.outputs
        self._stats = EngineStats()
        self._closed = False
        try:
            order, agreement = self._order()
            self._profiles = order.profiles
            self._buffers = InputBuffers(
                self.inputs, max_shapes=spec.max_shapes, allocate=self._platform.allocate
            )
            self._takeover = Takeover(
                order,
                agreement,
                open_engine=lambda data: self._platform.open(spec, data),
                trusted=self._infer_spare,
                install=self._install,
                cache=cache or EngineCache(),
                limits=limits,
            )
        except BaseException:
            self._spare.engine.close()
            raise

    @staticmethod
    def probe() -> tuple[str, tuple[str, ...]]:
        """Return TensorRT's version and `cuda`; see `EngineClass.probe`."""
        found = RealPlatform(EngineSpec(Path(), "tensorrt"))
        return found.library[1], ("cuda",)

    @property
    def takes_pictures(self) -> bool:
        """Whether its only input is a planar tensor, whoever serves."""
        return len(self.inputs) == 1 and is_planar(self.inputs[0])

    def status(self) -> Status:
        """Say who serves, how far TensorRT is, and what is in its way."""
        return self._takeover.status()

    def settle(self, timeout_s: float) -> bool:
        """Wait until TensorRT has taken over or has failed to; say whether that was in time."""
        return self._takeover.settled.wait(timeout_s)

    def buffer(self, name: str, shape: Sequence[int]) -> NDArray[Any]:
        """Return the engine's own array for an input; see `Engine.buffer`."""
        with self._lock:
            self._refuse_closed()
            return self._buffers.get(name, shape)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run the model once; see `Engine.infer`."""
        start_ns = time.perf_counter_ns()
        outputs = self._infer(inputs)
        self._count(_length(self.inputs, inputs), start_ns)
        return outputs

    def infer_pictures(
        self, pictures: Sequence[NDArray[np.uint8]], preparation: Preparation
    ) -> tuple[Arrays, list[Placement]]:
        """Prepare pictures, on the GPU if it serves them, and run; see `PictureEngine`."""
        start_ns = time.perf_counter_ns()
        width, height = preparation.size
        shape = (len(pictures), 3, height, width)
        found = self._try_pictures(pictures, preparation, shape)
        if found is None or self._takeover.wants_samples:
            tensor = np.empty(shape, self.inputs[0].dtype)
            placements = native.preprocess.fill_batch(
                pictures, tensor, preparation.norm, mode=preparation.mode
            )
            if found is None:
                found = self._infer({preparation.name: tensor}), placements
            else:
                self._takeover.sample({preparation.name: tensor})
        self._count(len(pictures), start_ns)
        return found

    def warm_up(self, shapes: Iterable[Mapping[str, Sequence[int]]]) -> None:
        """Run once for each set of input shapes, now and when TensorRT is there."""
        for wanted in shapes:
            self._takeover.expect({name: tuple(shape) for name, shape in wanted.items()})
            self._infer({name: self.buffer(name, shape) for name, shape in wanted.items()})

    def stats(self) -> EngineStats:
        """Return what the engine has done so far, whoever served."""
        return self._stats

    def close(self) -> None:
        """End a build, and give everything back, after running calls."""
        with self._lock:
            if self._closed:
                return
            self._takeover.stop()
            self._closed = True
        self._takeover.close()
        with self._left:
            self._left.wait_for(lambda: not any(seat.users for seat in self._seats()))
            seats, self._main, self._spare = self._seats(), None, None
            self._buffers.clear()
        for seat in seats:
            seat.engine.close()

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _order(self) -> tuple[BuildOrder, Agreement]:
        card = card_beside(self._spec.model)
        order = order_for(
            self._spec.model,
            self.inputs,
            label=self.name,
            library=self._platform.library,
            target=self._platform.target,
        )
        return order, Agreement() if card is None else card.agreement

    def _infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        shapes = {name: getattr(array, "shape", ()) for name, array in inputs.items()}
        with self._seated(shapes) as seat:
            if not seat.is_tensorrt:
                outputs = seat.engine.infer(inputs)
                self._takeover.sample(inputs)
                return outputs
            try:
                return self._ordered(_run(seat.engine, inputs, self._piece(shapes)))
            except EngineError as err:
                self._demote(seat, err)
        # TensorRT failed on this batch: it is not lost, and the next ones do not try again.
        return self._infer(inputs)

    def _try_pictures(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        preparation: Preparation,
        shape: tuple[int, ...],
    ) -> tuple[Arrays, list[Placement]] | None:
        """Run pictures where the GPU prepares them; None if it does not, or failed to."""
        shapes = {preparation.name: shape}
        with self._seated(shapes) as seat:
            if not isinstance(seat.engine, LaneEngine):
                return None
            piece = self._piece(shapes) if seat.is_tensorrt else len(pictures)
            try:
                outputs, placements = _run_pictures(seat.engine, pictures, preparation, piece)
            except EngineError as err:
                if not seat.is_tensorrt:
                    raise
                self._demote(seat, err)
                return None
            return self._ordered(outputs), placements

    def _infer_spare(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run on ONNX Runtime, for the comparison."""
        with self._seated(None) as seat:
            return seat.engine.infer(inputs)

    def _ordered(self, outputs: Arrays) -> Arrays:
        """Return outputs in the model's order, which TensorRT need not keep."""
        return {spec.name: outputs[spec.name] for spec in self.outputs}

    @contextlib.contextmanager
    def _seated(self, shapes: Mapping[str, tuple[int, ...]] | None) -> Iterator[_Seat]:
        """Hold the engine that serves such shapes; None asks for ONNX Runtime."""
        with self._lock:
            self._refuse_closed()
            seat = self._main
            if seat is None or shapes is None or not self._piece(shapes):
                if self._spare is None:
                    self._spare = _Seat(self._platform.fallback(self._spec))
                seat = self._spare
            seat.users += 1
        try:
            yield seat
        finally:
            with self._left:
                seat.users -= 1
                self._left.notify_all()

    def _piece(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return the longest batch of such shapes that a profile covers; 0 if none does."""
        longest = 0
        for ranges in self._profiles:
            (item,) = ranges  # profiles come from cards, which know one input
            shape = shapes.get(item.name, ())
            length = min(shape[0], item.most[0]) if shape else 0
            if length and item.covers((length, *shape[1:])):
                longest = max(longest, length)
        return longest if self._profiles else max(1, *(s[0] for s in shapes.values() if s), 1)

    def _install(self, engine: Engine) -> None:
        """Take TensorRT in between two batches, and let ONNX Runtime go after its last one."""
        with self._left:
            self._main = _Seat(engine, is_tensorrt=True)
            old, self._spare = self._spare, None
            if old is not None:
                self._left.wait_for(lambda: not old.users)
        if old is not None:
            old.engine.close()

    def _demote(self, seat: _Seat, err: EngineError) -> None:
        """Have ONNX Runtime serve again."""
        with self._lock:
            if self._closed or self._main is not seat:
                return  # others were inside of it too
            # Some may still be: it is closed with the whole.
            self._failed, self._main = seat, None
        self._takeover.fail(f"it failed while it served: {err}")

    def _seats(self) -> list[_Seat]:
        seats = (self._main, self._spare, self._failed)
        return [seat for seat in seats if seat is not None]

    def _count(self, items: int, start_ns: int) -> None:
        elapsed_ns = time.perf_counter_ns() - start_ns
        with self._lock:
            self._stats = self._stats.plus(items, elapsed_ns)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EngineError(f"{self.name} is closed")


def _length(specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]) -> int:
    if not specs or not specs[0].shape:
        return 1
    return int(inputs[specs[0].name].shape[0])


def _run(engine: Engine, inputs: Mapping[str, NDArray[Any]], piece: int) -> Arrays:
    """Run a batch in pieces of at most so many, as many at once as the engine has lanes."""
    length = max((len(array) for array in inputs.values() if array.ndim), default=1)
    if length <= piece or not isinstance(engine, LaneEngine):
        return engine.infer(inputs)
    starts = range(0, length, piece)
    cut = [{name: a[start : start + piece] for name, a in inputs.items()} for start in starts]
    return _joined([pending.outputs for pending in in_turn(engine, engine.begin, cut)])


def _run_pictures(
    engine: LaneEngine,
    pictures: Sequence[NDArray[np.uint8]],
    preparation: Preparation,
    piece: int,
) -> tuple[Arrays, list[Placement]]:
    """Likewise for pictures."""
    if len(pictures) <= piece:
        return engine.infer_pictures(pictures, preparation)
    cut = [pictures[start : start + piece] for start in range(0, len(pictures), piece)]

    def begin(part: Sequence[NDArray[np.uint8]]) -> Pending:
        return engine.begin_pictures(part, preparation)

    done = list(in_turn(engine, begin, cut))
    placements = [placement for pending in done for placement in pending.placements]
    return _joined([pending.outputs for pending in done]), placements


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
