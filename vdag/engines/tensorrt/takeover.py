"""`Takeover`: from an order to an engine that serves: built, loaded, warmed up, compared.

One thread does it, beside the calls that ONNX Runtime serves. It touches the engine that it works
for in two places: it asks the trusted side for outputs, and it hands over the new engine.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.engines.base import Engine
from vdag.engines.comparison import disagreement
from vdag.engines.tensorrt.builder import BuildOrder
from vdag.engines.tensorrt.builds import Limits, run_build
from vdag.engines.tensorrt.cache import EngineCache
from vdag.engines.zoo.card import Agreement
from vdag.errors import EngineBuildError, EngineError, VdagError

__all__ = ["Status", "Takeover"]

logger = logging.getLogger(__name__)

#: Batches that the comparison is made on, and what all of them may take.
SAMPLES = 4
SAMPLES_NBYTES = 64 << 20
#: Progress is logged in steps of this part.
LOGGED_PART = 0.25

Arrays = Mapping[str, NDArray[Any]]


@dataclass(slots=True, frozen=True)
class Status:
    """How far a takeover is.

    Attributes:
        serving: `onnx` or `tensorrt`.
        progress: part of the build that is done, 0 to 1.
        phase: what is being done.
        problem: why TensorRT does not serve; empty while it may.
    """

    serving: str = "onnx"
    progress: float = 0.0
    phase: str = ""
    problem: str = ""


class Takeover:
    """Has an engine built and installed, once, in a thread of its own.

    Args:
        order: what to build.
        agreement: how far it may be off.
        open_engine: loads what was built.
        trusted: gives the outputs that it is compared with.
        install: is given the engine when it may serve; it then belongs to the callee.
        cache: of built engines.
        limits: of a build.
    """

    def __init__(
        self,
        order: BuildOrder,
        agreement: Agreement,
        *,
        open_engine: Callable[[bytes], Engine],
        trusted: Callable[[Arrays], dict[str, NDArray[Any]]],
        install: Callable[[Engine], None],
        cache: EngineCache,
        limits: Limits,
    ) -> None:
        self._order, self._agreement = order, agreement
        self._open_engine, self._trusted, self._install = open_engine, trusted, install
        self._cache, self._limits = cache, limits
        self._lock = threading.Lock()
        self._status = Status()
        self._samples: list[Arrays] = []
        self._expected: list[Mapping[str, tuple[int, ...]]] = []
        self._stop = threading.Event()
        self.settled = threading.Event()
        name = f"tensorrt-{order.label}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def status(self) -> Status:
        """Say how far it is."""
        return self._status

    def sample(self, inputs: Arrays) -> None:
        """Keep a copy of inputs that were served, to compare on, if more are wanted."""
        if self.settled.is_set() or not self._is_covered(inputs):
            return
        with self._lock:
            held = sum(array.nbytes for kept in self._samples for array in kept.values())
            if len(self._samples) == SAMPLES:
                return
            if held + sum(array.nbytes for array in inputs.values()) > SAMPLES_NBYTES:
                return
            self._samples.append({name: array.copy() for name, array in inputs.items()})

    def expect(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Take note of input shapes that the new engine shall be warmed up with."""
        with self._lock:
            self._expected.append(dict(shapes))

    def fail(self, problem: str) -> None:
        """Say why TensorRT does not serve, or not any more."""
        logger.warning("%s stays with onnxruntime: %s", self._order.label, problem)
        self._tell(serving="onnx", problem=problem)

    @property
    def wants_samples(self) -> bool:
        """Whether `sample` would still keep something."""
        return not self.settled.is_set() and len(self._samples) < SAMPLES

    def stop(self) -> None:
        """Have it end soon, a running build too."""
        self._stop.set()

    def close(self) -> None:
        """End it, and wait for that."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._take_over()
        except VdagError as err:
            if not self._stop.is_set():
                self.fail(str(err))
        except Exception as err:  # a fault of a library here must not pass for one of a frame
            logger.exception("%s: the takeover failed", self._order.label)
            self.fail(f"{type(err).__name__}: {err}")
        finally:
            with self._lock:
                self._samples.clear()
            self.settled.set()

    def _take_over(self) -> None:
        data = self._built()
        self._tell(phase="loading", progress=1.0)
        engine = self._open_engine(data)
        try:
            self._tell(phase="warming up")
            self._warm_up(engine)
            self._tell(phase="comparing")
            self._compare(engine)
            if self._stop.is_set():
                raise EngineError("the engine was closed")
            self._install(engine)
        except BaseException:
            engine.close()
            raise
        self._tell(serving="tensorrt", phase="serving")
        logger.info("%s is served by %s", self._order.label, " ".join(self._order.library))

    def _built(self) -> bytes:
        data = self._cache.load(self._order)
        if data is None:
            run_build(
                self._order,
                self._cache,
                limits=self._limits,
                progress=self._progress,
                stop=self._stop,
            )
            data = self._cache.load(self._order)
        if data is None:
            raise EngineBuildError("what was built is not in the cache any more")
        return data

    def _progress(self, part: float, phase: str) -> None:
        before = self._status.progress
        if int(part / LOGGED_PART) > int(before / LOGGED_PART):
            logger.info("%s: %.0f %% built", self._order.label, 100 * part)
        self._tell(progress=part, phase=phase)

    def _warm_up(self, engine: Engine) -> None:
        with self._lock:
            expected = list(self._expected)
            sampled = [{n: a.shape for n, a in kept.items()} for kept in self._samples]
        for shapes in [*expected, *sampled]:
            if self._covers(shapes):
                engine.warm_up([shapes])

    def _compare(self, engine: Engine) -> None:
        with self._lock:
            samples = list(self._samples)
        for inputs in samples or [self._noise(engine)]:
            problem = disagreement(self._trusted(inputs), engine.infer(inputs), self._agreement)
            if problem:
                raise EngineError(f"tensorrt and onnxruntime differ: {problem}")

    def _noise(self, engine: Engine) -> Arrays:
        """Return inputs for a model that has not been asked yet."""
        first = self._order.profiles[0] if self._order.profiles else ()
        usual = {item.name: item.usual for item in first}
        random = np.random.default_rng(0)
        noise = {}
        for spec in engine.inputs:
            shape = usual.get(spec.name, tuple(axis or 1 for axis in spec.shape))
            noise[spec.name] = random.uniform(0, 1, shape).astype(spec.dtype)
        return noise

    def _is_covered(self, inputs: Arrays) -> bool:
        return self._covers({name: array.shape for name, array in inputs.items()})

    def _covers(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        return not self._order.profiles or any(
            all(item.covers(shapes.get(item.name, ())) for item in ranges)
            for ranges in self._order.profiles
        )

    def _tell(self, **changes: Any) -> None:
        with self._lock:
            self._status = replace(self._status, **changes)
