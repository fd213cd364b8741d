"""`onnx-cuda`, where there is a GPU: sizes and shapes that change give the same, and at once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.comparison import disagreement
from vdag.engines.gpu import onnx as onnx_module
from vdag.engines.gpu.lane import DeviceTensor
from vdag.engines.gpu.onnx import (
    RUNS_BETWEEN_WAITS,
    OnnxCompute,
    OnnxCudaEngine,
    _is_batched,
)
from vdag.errors import EngineUnavailable

CARD = zoo.card("centerface")
SETTLED_S = 120.0


class Counted(OnnxCompute):
    """Sessions, counted."""

    made = 0

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        Counted.made += 1


def open_engine() -> OnnxCudaEngine:
    try:
        return OnnxCudaEngine(EngineSpec(CARD.path, device="cuda:0"))
    except EngineUnavailable as err:
        pytest.skip(str(err))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnnxCudaEngine]:
    monkeypatch.setattr(onnx_module, "OnnxCompute", Counted)
    monkeypatch.setattr(Counted, "made", 0)
    with open_engine() as opened:
        yield opened


def tensor(count: int, height: int = 256, width: int = 320) -> np.ndarray:
    random = np.random.default_rng(height)
    whole = random.uniform(0, 255, (20, 3, height, width)).astype(np.float32)
    return whole[:count]


@pytest.mark.gpu
@pytest.mark.slow
def test_batches_give_what_their_items_give_one_by_one(engine: OnnxCudaEngine):
    alone = [engine.infer({"images": tensor(20)[n : n + 1]}) for n in range(20)]
    for _ in range(2):  # while sizes are prepared, and when they are ready
        for count in range(1, 21):
            found = engine.infer({"images": tensor(count)})
            wanted = {
                name: np.concatenate([each[name] for each in alone[:count]]) for name in found
            }
            assert not disagreement(wanted, found, CARD.agreement)
        assert engine.settle(SETTLED_S)


@pytest.mark.gpu
@pytest.mark.slow
def test_sizes_and_pictures_that_change_open_no_session_anew(engine: OnnxCudaEngine):
    for height in (256, 384):
        engine.infer({"images": tensor(16, height)})
        assert engine.settle(SETTLED_S)
    made = Counted.made
    assert made == 2 * 2 * 3  # lanes, pictures, sizes
    for count in (1, 16, 7, 3, 16, 2):
        for height in (256, 384, 256):
            begun = [engine.begin({"images": tensor(count, height)}) for _ in range(2)]
            for each in begun:
                each.result()
    assert engine.settle(SETTLED_S)
    assert Counted.made == made


@pytest.mark.gpu
@pytest.mark.slow
def test_pictures_of_more_sizes_than_there_is_room_for_let_sessions_go(engine: OnnxCudaEngine):
    for height in range(64, 64 + 32 * 10, 32):
        for count in (1, 5):
            found = engine.infer({"images": tensor(count, height)})
            assert len(found["heat"]) == count
    assert engine.settle(SETTLED_S)
    for height in (64, 96):
        engine.infer({"images": tensor(5, height)})


@pytest.mark.gpu
@pytest.mark.slow
def test_it_closes_while_it_prepares():
    for _ in range(3):
        with open_engine() as engine:
            engine.infer({"images": tensor(17)})  # and closes at once
        with open_engine() as engine:
            found = engine.infer({"images": tensor(1)})
            assert np.isfinite(found["heat"]).all()


class Library:
    """Stands in for ONNX Runtime on CUDA: a session that writes down its runs."""

    class RunOptions:
        def add_run_config_entry(self, *entry: str) -> None:
            self.entry = entry

    def __init__(self) -> None:
        self.waited: list[bool | str] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=["n", 4])]

    get_outputs = get_inputs

    def io_binding(self) -> Any:
        value = SimpleNamespace(shape=lambda: [1, 4], data_ptr=lambda: 256)
        ignored = lambda *args: None  # noqa: E731
        return SimpleNamespace(bind_input=ignored, bind_output=ignored, get_outputs=lambda: [value])

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self.waited.append(options is None)


def stream_of(library: Library) -> Any:
    return SimpleNamespace(handle=1, synchronize=lambda: library.waited.append("stream"))


def test_a_session_waits_now_and_then_and_once_before_it_ends(monkeypatch: pytest.MonkeyPatch):
    library = Library()
    monkeypatch.setattr(onnx_module, "open_cuda", lambda *args, **options: (library, ""))
    stream = stream_of(library)
    session = OnnxCompute(library, EngineSpec(CARD.path), 0, stream)
    item = DeviceTensor(session.inputs[0], (1, 4), 512)
    assert session.is_batched
    assert session.is_clean
    for _ in range(2 * RUNS_BETWEEN_WAITS + 1):
        session.enqueue([item], stream)
    every = [False] * (RUNS_BETWEEN_WAITS - 1) + [True]
    assert library.waited == [*every, *every, False]
    assert not session.is_clean
    session.enqueue([item], stream, waits=True)
    assert session.is_clean
    session.close()
    # Nothing more is run, but what that run has left to the stream is waited for.
    assert library.waited[-3:] == [False, True, "stream"]


def test_a_session_that_has_not_waited_does_so_when_it_is_closed(monkeypatch: pytest.MonkeyPatch):
    library = Library()
    monkeypatch.setattr(onnx_module, "open_cuda", lambda *args, **options: (library, ""))
    stream = stream_of(library)
    session = OnnxCompute(library, EngineSpec(CARD.path), 0, stream)
    session.enqueue([DeviceTensor(session.inputs[0], (1, 4), 512)], stream)
    session.close()
    session.close()
    assert library.waited == [False, True, "stream"]


@pytest.mark.parametrize("name", ["centerface", "nanodet", "facemesh", "helmet", "blazeface"])
def test_models_of_the_zoo_are_cut(name: str):
    session = onnxruntime.InferenceSession(
        str(zoo.card(name).path), providers=["CPUExecutionProvider"]
    )
    nodes = (*session.get_inputs(), *session.get_outputs())
    assert _is_batched([node.shape for node in nodes])


@pytest.mark.parametrize(
    "shapes",
    [
        [["batch", 3], ["found", 4]],
        [[None, 3], [None, 4]],
        [[1, 3], [1, 4]],
        [["batch", 3], []],
        [["batch", 3], [1, 4]],
    ],
)
def test_models_are_not_cut_whose_first_axis_may_be_something_else(shapes: list[list[object]]):
    assert not _is_batched(shapes)
    assert _is_batched([["batch", 3], ["batch"]])
