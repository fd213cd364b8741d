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
from vdag.engines.begun import Begun
from vdag.engines.gpu.engine import FromPictures, LaneEngine, is_planar
from vdag.engines.gpu.lanes import LANE_TIMEOUT_S
from vdag.engines.gpu.pictures import Preparation
from vdag.engines.tensorrt.builder import BuildOrder
from vdag.engines.tensorrt.builds import DEFAULT_LIMITS, Limits
from vdag.engines.tensorrt.cache import EngineCache
from vdag.engines.tensorrt.pieces import Arrays, length_of, run, run_pictures
from vdag.engines.tensorrt.platform import Platform, RealPlatform
from vdag.engines.tensorrt.profiles import card_beside, order_for
from vdag.engines.tensorrt.takeover import Status, Takeover
from vdag.engines.zoo.card import Agreement
from vdag.errors import EngineError

__all__ = ["TensorRTEngine"]

Pictures = Sequence[NDArray[np.uint8]]


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
        self._locked: dict[int, int] = {}
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
        self._count(length_of(self.inputs, inputs), start_ns)
        return outputs

    def infer_pictures(self, pictures: Pictures, preparation: Preparation) -> FromPictures:
        """Prepare pictures, on the GPU if it serves them, and run; see `PictureEngine`."""
        return self.submit_pictures(pictures, preparation).result()

    def submit_pictures(self, pictures: Pictures, preparation: Preparation) -> Begun[FromPictures]:
        """Begin what `infer_pictures` does; see `PictureEngine`.

        The batch is of the engine that serves when it begins. TensorRT may take over before its
        result is taken; the results are then of two engines, and as many as the batches.
        """
        start_ns, count = time.perf_counter_ns(), len(pictures)
        begun = self._submit(pictures, preparation)

        def counted(found: FromPictures) -> FromPictures:
            self._count(count, start_ns)
            return found

        return begun.then(counted)

    def lock_pages(self, address: int, nbytes: int) -> bool:
        """Page-lock memory that pictures will lie in, for whoever serves; see `PictureEngine`."""
        with self._lock:
            self._refuse_closed()
            locked = [_lock(seat.engine, address, nbytes) for seat in self._seats()]
            self._locked[address] = nbytes
        return any(locked)

    def unlock_pages(self, address: int) -> None:
        """Undo it, before that memory goes."""
        with self._lock:
            if self._locked.pop(address, None) is None:
                return
            for seat in self._seats():
                if isinstance(seat.engine, LaneEngine):
                    seat.engine.unlock_pages(address)

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
            self._left.wait_for(
                lambda: not any(seat.users for seat in self._seats()), timeout=LANE_TIMEOUT_S
            )
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
                return self._ordered(run(seat.engine, inputs, self._piece(shapes)))
            except EngineError as err:
                self._demote(seat, err)
        # TensorRT failed on this batch: it is not lost, and the next ones do not try again.
        return self._infer(inputs)

    def _submit(self, pictures: Pictures, preparation: Preparation) -> Begun[FromPictures]:
        width, height = preparation.size
        shapes = {preparation.name: (len(pictures), 3, height, width)}
        with contextlib.ExitStack() as held:
            seat = held.enter_context(self._seated(shapes))
            if not isinstance(seat.engine, LaneEngine):
                return Begun.finished(self._infer_on_cpu(pictures, preparation))
            piece = self._piece(shapes) if seat.is_tensorrt else len(pictures)
            try:
                if len(pictures) > piece:
                    found = run_pictures(seat.engine, pictures, preparation, piece)
                    return Begun.finished(self._taken(found, pictures, preparation))
                begun = seat.engine.submit_pictures(pictures, preparation)
            except EngineError as err:
                return Begun.finished(self._again(seat, err, pictures, preparation))
            leave = held.pop_all()

        def finish() -> FromPictures:
            with leave:
                try:
                    found = begun.result()
                except EngineError as err:
                    return self._again(seat, err, pictures, preparation)
                return self._taken(found, pictures, preparation)

        return Begun(finish)

    def _again(
        self, seat: _Seat, err: EngineError, pictures: Pictures, preparation: Preparation
    ) -> FromPictures:
        """Have ONNX Runtime do what TensorRT has failed on."""
        if not seat.is_tensorrt:
            raise err
        self._demote(seat, err)
        return self._submit(pictures, preparation).result()

    def _taken(
        self, found: FromPictures, pictures: Pictures, preparation: Preparation
    ) -> FromPictures:
        """Return what a GPU has found, and keep what went in if a comparison wants it."""
        if self._takeover.wants_samples:
            self._takeover.sample({preparation.name: self._tensor(pictures, preparation)[0]})
        return self._ordered(found[0]), found[1]

    def _infer_on_cpu(self, pictures: Pictures, preparation: Preparation) -> FromPictures:
        tensor, placements = self._tensor(pictures, preparation)
        return self._infer({preparation.name: tensor}), placements

    def _tensor(
        self, pictures: Pictures, preparation: Preparation
    ) -> tuple[NDArray[Any], list[Placement]]:
        width, height = preparation.size
        tensor = np.empty((len(pictures), 3, height, width), self.inputs[0].dtype)
        return tensor, native.preprocess.fill_batch(
            pictures, tensor, preparation.norm, mode=preparation.mode
        )

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
                    self._spare = self._fitted(self._platform.fallback(self._spec))
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
            self._main = self._fitted(engine, is_tensorrt=True)
            old, self._spare = self._spare, None
            if old is not None:
                self._left.wait_for(lambda: not old.users, timeout=LANE_TIMEOUT_S)
        if old is not None:
            old.engine.close()

    def _fitted(self, engine: Engine, *, is_tensorrt: bool = False) -> _Seat:
        """Return a seat for an engine that reads pictures from where they lie; under the lock."""
        for address, nbytes in self._locked.items():
            _lock(engine, address, nbytes)
        return _Seat(engine, is_tensorrt=is_tensorrt)

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


def _lock(engine: Engine, address: int, nbytes: int) -> bool:
    """Have an engine read memory by itself, if it is on the GPU."""
    return isinstance(engine, LaneEngine) and engine.lock_pages(address, nbytes)
