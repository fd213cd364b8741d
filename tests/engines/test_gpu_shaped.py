"""Lanes with a session for each shape, on the stand-in for a GPU: which there are, and when.

The model is `y = 2x + 1` and `sum`, that of each row; its sessions are strict: each takes one
shape, and when it is closed unclean, its last inputs have to be there.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gpu_kit
import numpy as np
import pytest
from waiting_kit import until

from vdag import _native as native
from vdag.engines import measuring, zoo
from vdag.engines.base import EngineSpec, TensorSpec
from vdag.engines.gpu import preparing, shaped
from vdag.engines.gpu.lane import DeviceTensor
from vdag.engines.gpu.pictures import Preparation
from vdag.engines.gpu.shaped import ShapedEngine
from vdag.errors import ConfigError, EngineError

DEADLINE_S = 30.0
FLOAT = np.dtype(np.float32)
X, Y, SUM = (TensorSpec("x", FLOAT, (None, None)), TensorSpec("y", FLOAT, (None, None)),
             TensorSpec("sum", FLOAT, (None,)))  # fmt: skip
SHAPE = tuple[int, ...]


class Sessions:
    """Opens sessions; knows which there are, and holds or fails what is prepared."""

    def __init__(self, device: gpu_kit.HostDevice, *, is_batched: bool = True) -> None:
        self.device, self.is_batched = device, is_batched
        self.opened: list[HostSession] = []
        self.broken: set[SHAPE] = set()
        self.gate, self.reached = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, stream: gpu_kit.HostStream) -> HostSession:
        self.opened.append(HostSession(self, stream))
        return self.opened[-1]

    def shapes(self) -> Counter[SHAPE | None]:
        """Return the shapes of what was ever opened."""
        return Counter(session.shape for session in self.opened)

    def open_shapes(self) -> Counter[SHAPE | None]:
        return Counter(session.shape for session in self.opened if not session.is_closed)

    def runs(self) -> Counter[SHAPE | None]:
        """Return the runs of each shape that were no preparation."""
        return sum((Counter({each.shape: each.runs}) for each in self.opened), Counter())


class HostSession:
    def __init__(self, sessions: Sessions, stream: gpu_kit.HostStream) -> None:
        self._sessions, self._stream = sessions, stream
        self.inputs, self.outputs = (X,), (Y, SUM)
        self.is_batched = sessions.is_batched
        self.is_clean, self.is_closed = True, False
        self.shape: SHAPE | None = None
        self.runs = 0
        self._last = 0

    def enqueue(self, inputs: Any, stream: Any, *, waits: bool = False) -> list[DeviceTensor]:
        assert stream is self._stream
        assert not self.is_closed
        (item,) = inputs
        assert self.shape in (None, item.shape), "a session is good for one shape"
        if threading.current_thread().name.startswith("prepare"):
            self._sessions.reached.set()
            assert self._sessions.gate.wait(DEADLINE_S)
        self.shape, self._last = item.shape, item.address
        if item.shape in self._sessions.broken:
            raise EngineError("broken")
        x = gpu_kit.array_at(item)
        self.is_clean = waits
        self.runs += not waits
        found = (2 * x + 1, x.sum(1))
        return [
            DeviceTensor(spec, array.shape, array.ctypes.data, array)
            for spec, array in zip(self.outputs, found, strict=True)
        ]

    def close(self) -> None:
        if not self.is_closed and not self.is_clean:
            held = self._sessions.device.allocated.items()
            assert any(at <= self._last < at + max(n, 1) for at, n in held), "inputs are gone"
        self.is_closed = True


@pytest.fixture
def sessions(host) -> Sessions:
    return Sessions(host)


@pytest.fixture
def engine(host, sessions) -> Iterator[ShapedEngine]:
    with ShapedEngine("model", host, sessions) as opened:
        yield opened
        sessions.gate.set()
    assert host.allocated == {}
    assert not sessions.open_shapes().keys() - {None}


def rows(count: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(count * width).normal(size=(count, width)).astype(np.float32)


def check(engine: ShapedEngine, x: np.ndarray) -> None:
    found = engine.infer({"x": x})
    assert list(found) == ["y", "sum"]
    np.testing.assert_array_equal(found["y"], 2 * x + 1)
    np.testing.assert_allclose(found["sum"], x.sum(1), rtol=1e-5, atol=1e-5)


def settle(engine: ShapedEngine) -> None:
    assert engine.settle(DEADLINE_S)


def test_batches_of_all_sizes_are_right_while_sizes_are_prepared_and_after(engine):
    for _ in range(2):
        for count in range(1, 21):
            check(engine, rows(count))
        settle(engine)


def test_what_is_ready_serves_until_the_right_sizes_are(engine, sessions):
    sessions.gate.clear()
    check(engine, rows(7))
    assert sessions.runs() == {(1, 8): 7}
    sessions.gate.set()
    settle(engine)
    check(engine, rows(7))
    assert sessions.runs() == {(1, 8): 7 + 3, (4, 8): 1}


def test_what_one_lane_meets_is_prepared_for_all(engine, sessions):
    check(engine, rows(17))
    settle(engine)
    assert sessions.shapes() == {(1, 8): 2, (4, 8): 2, (16, 8): 2}


def test_other_pictures_have_sizes_up_to_the_largest_batch_prepared(engine, sessions):
    check(engine, rows(16))
    settle(engine)
    check(engine, rows(1, 12))
    settle(engine)
    assert {shape for shape in sessions.shapes() if shape[1] == 12} == {(1, 12), (4, 12), (16, 12)}


def test_sizes_and_pictures_that_change_back_and_forth_open_nothing_anew(engine, sessions):
    for _ in range(2):  # so that each lane has met both
        for width in (8, 12):
            check(engine, rows(16, width))
            settle(engine)
    opened = len(sessions.opened)
    for count in (1, 16, 3, 20, 4, 15, 1, 16):
        for width in (8, 12, 8):
            check(engine, rows(count, width))
    settle(engine)
    assert len(sessions.opened) == opened == 2 * 2 * 3


def test_warm_up_makes_what_it_is_told_at_once_and_the_rest_later(engine, sessions):
    sessions.gate.clear()
    engine.warm_up([{"x": (16, 8)}])
    assert {shape: n for shape, n in sessions.shapes().items() if shape} == {(16, 8): 2}
    assert sessions.runs() == {(16, 8): 2}
    sessions.gate.set()
    settle(engine)
    assert sessions.open_shapes() == {(1, 8): 2, (4, 8): 2, (16, 8): 2}


def test_warm_up_refuses_as_ever(engine):
    with pytest.raises(ConfigError, match="no input 'z'; the inputs are x"):
        engine.warm_up([{"z": (1, 8)}])
    with pytest.raises(ConfigError, match="model misses input x; it takes x"):
        engine.warm_up([{}])


def test_a_session_that_is_being_made_is_waited_for_and_not_made_twice(host, sessions):
    with ShapedEngine("model", host, sessions, lanes=1) as engine:
        engine.warm_up([{"x": (4, 8)}])
        settle(engine)
        sessions.gate.clear()
        sessions.reached.clear()
        engine.warm_up([{"x": (4, 12)}])
        assert sessions.reached.wait(DEADLINE_S)  # (1, 12), in the thread
        caller = threading.Thread(target=check, args=(engine, rows(1, 12)))
        caller.start()
        making = engine.lanes.compute._changed
        until(lambda: making._waiters)
        sessions.gate.set()
        caller.join(DEADLINE_S)
        assert not caller.is_alive()
        settle(engine)
        assert sessions.shapes()[1, 12] == 1


def test_the_longest_unused_goes_when_pictures_need_room(host, sessions):
    with ShapedEngine("model", host, sessions, lanes=1, max_shapes=2) as engine:
        for width in (4, 8, 12):
            check(engine, rows(1, width))
        assert sessions.open_shapes() == {(1, 8): 1, (1, 12): 1}
        check(engine, rows(1, 8))
        check(engine, rows(1, 4))
        assert sessions.open_shapes() == {(1, 8): 1, (1, 4): 1}
    assert host.allocated == {}


def test_what_is_in_use_does_not_go_for_what_is_prepared(host, sessions, monkeypatch):
    monkeypatch.setattr(shaped, "UNUSED_BATCHES", 12)
    with ShapedEngine("model", host, sessions, lanes=1, max_shapes=3) as engine:
        check(engine, rows(16))
        settle(engine)
        assert sessions.open_shapes() == {(1, 8): 1, (4, 8): 1, (16, 8): 1}
        check(engine, rows(1, 12))  # takes the place of one; its larger sizes have none
        for _ in range(4):
            check(engine, rows(5))
            check(engine, rows(5, 12))
            settle(engine)
        assert len(sessions.opened) <= 3 + 3
        for _ in range(20):
            check(engine, rows(5, 12))
            settle(engine)
        assert sessions.open_shapes()[4, 12] == 1
        assert sum(sessions.open_shapes().values()) <= 3


def test_a_size_that_cannot_be_prepared_is_said_once_and_not_asked_for_again(
    host, sessions, caplog
):
    sessions.broken = {(4, 8)}
    with ShapedEngine("model", host, sessions, lanes=1) as engine:
        for _ in range(3):
            check(engine, rows(7))
            settle(engine)
    assert sessions.shapes()[4, 8] == 1
    assert sessions.runs() == {(1, 8): 21}
    assert [record.getMessage() for record in caplog.records] == [
        "model: ((4, 8),) is not prepared: broken"
    ]


def test_a_first_piece_that_fails_is_told_to_the_caller_and_tried_again(engine, sessions):
    sessions.broken = {(1, 8)}
    for _ in range(3):
        with pytest.raises(EngineError, match="broken"):
            engine.infer({"x": rows(2)})
    sessions.broken.clear()
    check(engine, rows(2))


def test_a_model_whose_first_axis_is_no_batch_runs_whole(host):
    sessions = Sessions(host, is_batched=False)
    with ShapedEngine("model", host, sessions, lanes=1) as engine:
        for count in (7, 3, 7):
            check(engine, rows(count))
        settle(engine)
        assert sessions.shapes() == {(7, 8): 1, (3, 8): 1}


def test_rows_that_kernels_could_not_begin_at_are_not_cut(host, sessions):
    with ShapedEngine("model", host, sessions, lanes=1) as engine:
        check(engine, rows(7, 3))
        settle(engine)
        assert sessions.shapes() == {(7, 3): 1}


def test_pieces_that_do_not_fit_together_are_an_error(engine, monkeypatch):
    enqueue, calls = HostSession.enqueue, iter(range(100))

    def enqueue_wider(self: HostSession, inputs: Any, stream: Any, **options: Any) -> Any:
        y, sums = enqueue(self, inputs, stream, **options)
        other = DeviceTensor(Y, (1, 8 - next(calls) % 2), y.address, y.owner)
        return [other, sums]

    monkeypatch.setattr(HostSession, "enqueue", enqueue_wider)
    with pytest.raises(EngineError, match="pieces of output 'y' do not fit: "):
        engine.infer({"x": rows(2)})


def test_sessions_outlive_the_lane_memory_that_they_ran_on(host, sessions):
    with ShapedEngine("model", host, sessions, lanes=1) as engine:
        check(engine, rows(1, 8))
        check(engine, rows(1, 4096))  # the lane's memory is another from here on
    assert host.allocated == {}
    assert all(session.is_closed for session in sessions.opened if session.runs)


def test_what_is_measured_is_measured_with_its_sizes_prepared(
    host, monkeypatch: pytest.MonkeyPatch
):
    card = zoo.card("blazeface")
    gate, runs = threading.Event(), Counter[int]()

    class Blazeface(gpu_kit.HostCompute):
        is_batched = is_clean = True

        def enqueue(self, inputs: Any, stream: Any, *, waits: bool = False) -> Any:
            count = inputs[0].shape[0]
            assert count == 1 or not waits or gate.wait(DEADLINE_S)
            runs[count] += not waits
            return super().enqueue(inputs, stream)

    def settle() -> bool:
        gate.set()
        return preparing.settle(DEADLINE_S)

    def load(spec: EngineSpec) -> ShapedEngine:
        return ShapedEngine(spec.label, host, lambda stream: Blazeface(spec.model))

    monkeypatch.setattr(measuring.engines, "load", load)
    monkeypatch.setattr(measuring, "settle", settle)
    preparation = Preparation("images", (256, 256), native.Normalization(), "letterbox")
    picture = np.full((90, 120, 3), 77, np.uint8)
    spec = EngineSpec(card.path, device="cpu")
    (cost,) = measuring.measure(spec, preparation, picture, (5,), calls=3)
    assert cost.batch == 5
    # Two batches one by one before it, then two, three and three as 4 + 1.
    assert runs == {1: 2 * 5 + 8, 4: 8}


def test_an_engine_closes_while_it_prepares(host, sessions):
    engine = ShapedEngine("model", host, sessions)
    sessions.gate.clear()
    check(engine, rows(16))
    assert sessions.reached.wait(DEADLINE_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    sessions.gate.set()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert host.allocated == {}
    with pytest.raises(EngineError, match="model is closed"):
        engine.infer({"x": rows(1)})


def test_what_is_prepared_too_late_is_let_go(host, sessions, monkeypatch, caplog):
    engine = ShapedEngine("model", host, sessions, lanes=1)
    sessions.gate.clear()
    check(engine, rows(4))
    assert sessions.reached.wait(DEADLINE_S)
    preparer = engine._preparer
    close = preparer.close
    monkeypatch.setattr(preparer, "close", lambda: close(0.01))
    engine.close()
    assert "did not end within 0.01 s" in caplog.text
    sessions.gate.set()
    assert preparer.settle(DEADLINE_S)
    assert host.allocated == {}
    assert not engine.lanes._lanes
