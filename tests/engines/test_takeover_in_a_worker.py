"""A worker process that is to use TensorRT and has no engine yet, under load.

The engine is built by the real builder of TensorRT for RTX, in its process. What runs it is the
stand-in, which no machine without a GPU can do without.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import gpu_kit
import numpy as np
import pytest
from worker_kit import Desk, found

from vdag import _native as native
from vdag import tasks
from vdag.child import STOPPED
from vdag.tasks import TaskOptions
from vdag.transport import messages

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel here")

FACES = Path(__file__).parents[2] / "docs" / "faces.jpg"
OPTIONS = TaskOptions(model_id=2, engine="stand-in", device="cuda")
#: Batches that TensorRT is to have served before the worker is stopped, and frames of each.
SERVED, SIZE = 20, 2
#: Beyond what a build takes on a machine that does other things too.
BUILT_MS = 240_000

TASKS = """
import ctypes, sys
from pathlib import Path

sys.path.insert(0, {kit!r})
import gpu_kit
import vdag
from vdag import engines
from vdag.engines.tensorrt import TensorRTEngine
from vdag.engines.tensorrt.cache import EngineCache
from vdag.tasks.faces import FaceDetection

HERE = Path(__file__).parent


class StandIn(TensorRTEngine):
    def __init__(self, spec):
        library = ctypes.CDLL({library!r})
        platform = gpu_kit.HostPlatform(library, fallback_on_device={on_device})
        open_now = platform.open

        def open_then(spec, data):
            (HERE / "gate").read_bytes()
            return open_now(spec, data)

        platform.open = open_then
        super().__init__(spec, platform=platform, cache=EngineCache(HERE / "engines"))


engines.register("stand-in", __name__ + ":StandIn")


class Watched(FaceDetection):
    max_batch = 32  # until its model is loaded
    signature = vdag.Signature(
        frozenset({{"image"}}), FaceDetection.signature.outputs | {{"serving", "problem"}}
    )

    def begin(self, batch):
        return super().begin(batch).then(self._noted)

    def _noted(self, found):
        status = self._model._engine.status()
        return [
            {{**each, "serving": status.serving, "problem": status.problem}} for each in found
        ]


vdag.register("watched", Watched)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return gpu_kit.compile_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Parts of a picture with people in it, all of one size and each with other faces."""
    whole = native.jpeg.decode(FACES.read_bytes())
    height, width = whole.shape[0] // 2, whole.shape[1] // 2
    corners = [(y, x) for y in (0, height // 2, height) for x in (0, width // 2, width)]
    return [np.ascontiguousarray(whole[y : y + height, x : x + width]) for y, x in corners]


@pytest.fixture(params=["onnx on the device", "onnx on the CPU"])
def desk(
    request: pytest.FixtureRequest, tmp_path: Path, library: ctypes.CDLL, pictures: list[np.ndarray]
) -> Iterator[Desk]:
    text = TASKS.format(
        kit=str(Path(gpu_kit.__file__).parent),
        library=library._name,
        on_device=request.param == "onnx on the device",
    )
    (tmp_path / "tasks.py").write_text(text, encoding="utf-8")
    os.mkfifo(tmp_path / "gate")
    tmp_path.chmod(0o700)
    desk = Desk(tmp_path, slot_nbytes=pictures[0].nbytes)
    desk.inbox.rcvtimeo = BUILT_MS
    yield desk
    desk.close()


def expected_of(pictures: list[np.ndarray]) -> list[np.ndarray]:
    cpu = tasks.load("face_detection", TaskOptions(model_id=2, device="cpu"))
    found_ = cpu.process([{"image": picture} for picture in pictures])
    cpu.close()
    assert sum(len(each["bbox"]) for each in found_)
    return [each["bbox"] for each in found_]


@pytest.mark.slow
def test_a_cold_worker_serves_at_once_and_the_swap_loses_and_reorders_nothing(
    desk: Desk, pictures: list[np.ndarray]
):
    expected = expected_of(pictures)
    child = desk.start("watched", options=OPTIONS, max_batch=SIZE)
    desk.greet(child, credit=SIZE)
    gate = threading.Thread(target=lambda: (desk.folder / "gate").open("wb").close())
    serving: list[str] = []
    given, credit, served = 0, SIZE + 1, 0
    waiting: deque[list[int]] = deque()
    while served < SERVED or waiting:
        while served < SERVED and credit >= SIZE:
            chosen = [(given + index) % len(pictures) for index in range(SIZE)]
            parts = [desk.picture(n, pictures[at], "watched") for n, at in enumerate(chosen)]
            desk.send(messages.Batch(given, parts))
            waiting.append(chosen)
            given, credit = given + 1, credit - SIZE
        message = desk.take()
        credit += message.credit
        if not isinstance(message, messages.Done):
            continue
        assert message.batch == given - len(waiting)
        for frame, at in zip(message.frames, waiting.popleft(), strict=True):
            outputs = found(frame)["watched"]
            np.testing.assert_allclose(outputs["bbox"], expected[at], atol=0.5)
            assert outputs["problem"] == ""
            serving.append(outputs["serving"])
        served += serving[-1] == "tensorrt"
        if not gate.ident and len(serving) >= 10 * SIZE:
            # Until here nothing that was built can have been opened.
            assert set(serving) == {"onnx"}
            gate.start()
    gate.join(BUILT_MS / 1000)
    assert len(serving) == given * SIZE
    assert serving == sorted(serving)  # "onnx", and from some frame on "tensorrt"
    assert desk.arena.stats().leases == 0
    desk.send(messages.Stop())
    desk.end(child, STOPPED)
