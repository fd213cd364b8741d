"""Models of a task in a real worker: which one a frame wants is on its route."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from vdag import open_source
from vdag._native import header as native_header
from vdag._native.ring import Arena
from vdag.child import STOPPED, Child, WorkerSettings
from vdag.tasks import TaskOptions, load
from vdag.tasks.variants import variants
from vdag.transport import codec, messages

TASK = "face_detection"
TIMEOUT_MS = 30_000
OWN = TaskOptions(model_id=1)

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def picture(clips: Path) -> Picture:
    with open_source(clips / "carphone_pristine.mp4") as source:
        return next(iter(source)).pixels.copy()


@pytest.fixture
def arena(picture: Picture) -> Iterator[Arena]:
    with Arena.create("models", [(picture.nbytes, 16)]) as arena:
        yield arena
        assert arena.stats().leases == 0


class Desk:
    """The test in the place of a worker's exchange."""

    def __init__(self, folder: Path, arena: Arena) -> None:
        self._arena, self._context = arena, zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.rcvtimeo = TIMEOUT_MS
        self._inbox.bind(f"ipc://{folder}/exchange")
        self._outlet = self._context.socket(zmq.PUSH)
        self._outlet.connect(f"ipc://{folder}/worker")
        settings = WorkerSettings(
            worker="w",
            task=TASK,
            token="secret",
            exchange=f"ipc://{folder}/exchange",
            address=f"ipc://{folder}/worker",
            arena=arena.name,
            parent=os.getpid(),
            options=OWN,
            models=variants(TASK, OWN, (0, 1, 2)),
        )
        self._child = Child(settings)
        assert isinstance(self._take(), messages.Hello)
        assert isinstance(self._take(), messages.Ready)

    def work(self, picture: Picture, *models: int | None) -> list[dict[str, Any]]:
        """Give a worker one batch, the picture once for each model; return the contexts."""
        parts = [self._part(picture, seq, model) for seq, model in enumerate(models)]
        self._outlet.send(messages.encode(messages.Batch(1, parts)))
        done = self._take()
        while isinstance(done, messages.Ready):
            done = self._take()
        assert isinstance(done, messages.Done)
        return [_read(answer) for answer in done.frames]

    def close(self) -> None:
        self._outlet.send(messages.encode(messages.Stop()))
        assert select.select([self._child.exit_fd], [], [], TIMEOUT_MS / 1000)[0]
        ending = self._child.reap()
        self._inbox.close(linger=0)
        self._outlet.close(linger=0)
        self._context.term()
        assert ending.status == STOPPED, ending

    def _take(self) -> messages.Message:
        return messages.decode(self._inbox.recv())

    def _part(self, picture: Picture, seq: int, model: int | None) -> bytes:
        reference = self._arena.put(picture)
        assert reference is not None
        header = native_header.Header(
            kind=native_header.KIND_SLOT,
            dtype=native_header.DTYPES.index("uint8"),
            shape=picture.shape,
            payload_nbytes=picture.nbytes,
            slot=reference.slot,
            generation=reference.generation,
            arena=reference.arena_id,
            seq=seq,
        )
        route = (codec.Hop(TASK, "ipc:///x", model), codec.Hop("home", "ipc:///x"))
        return bytes(codec.encode(codec.Descriptor(header, "job", "camera", route))[0])


def _read(answer: messages.Found | messages.Failure) -> dict[str, Any]:
    if isinstance(answer, messages.Failure):
        return {"error": answer.error}
    header = native_header.Header(context_nbytes=len(answer.context), route_nbytes=8)
    empty = b"\4\0\0\0\x93\xa0\xa0\x90"
    part = native_header.pack(header) + empty + answer.context
    return dict(codec.decode([part]).context)


@pytest.fixture
def desk(tmp_path: Path, arena: Arena) -> Iterator[Desk]:
    tmp_path.chmod(0o700)
    desk = Desk(tmp_path, arena)
    yield desk
    desk.close()


def alone(picture: Picture, model: int) -> dict[str, Any]:
    """What a model finds by itself."""
    task = load(TASK, TaskOptions(model_id=model))
    try:
        (found,) = task.process([{"image": picture}])
    finally:
        task.close()
    return found


def test_two_models_in_one_batch_give_each_frame_what_its_own_model_finds(desk, picture):
    centerface, blazeface = alone(picture, 0), alone(picture, 2)
    assert len(centerface["bbox"]) == len(blazeface["bbox"]) == 1
    assert np.abs(centerface["bbox"] - blazeface["bbox"]).max() > 1.0
    for _ in range(2):  # the second time both are loaded
        wanted = [2, 0, 0, None, 2, 7]
        *found, refused = desk.work(picture, *wanted)
        assert refused == {"error": "ConfigError: face_detection has no model 7 here, only 0, 1, 2"}
        for model, context in zip(wanted, found, strict=False):
            expected = alone(picture, 1 if model is None else model)
            for name in ("bbox", "prob", "landmarks"):
                np.testing.assert_allclose(context[TASK][name], expected[name], atol=1e-3)
