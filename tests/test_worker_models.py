"""Models of a task in a real worker: which one a frame wants is on its route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from worker_kit import Desk, found

from vdag import open_source
from vdag.child import STOPPED
from vdag.tasks import TaskOptions, load
from vdag.tasks.variants import variants
from vdag.transport import messages

TASK = "face_detection"
OWN = TaskOptions(model_id=1)

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def picture(clips: Path) -> Picture:
    with open_source(clips / "carphone_pristine.mp4") as source:
        return next(iter(source)).pixels.copy()


@pytest.fixture
def desk(tmp_path: Path, picture: Picture) -> Iterator[Desk]:
    tmp_path.chmod(0o700)
    desk = Desk(tmp_path, slot_nbytes=picture.nbytes)
    models = variants(TASK, OWN, (0, 1, 2))
    child = desk.start(TASK, modules=(), options=OWN, models=models)
    assert isinstance(desk.take(), messages.Hello)
    assert isinstance(desk.take(), messages.Ready)
    yield desk
    desk.send(messages.Stop())
    desk.end(child, STOPPED)
    assert desk.arena.stats().leases == 0
    desk.close()


def work(desk: Desk, picture: Picture, *models: int | None) -> list[dict[str, Any]]:
    """Give a worker one batch, the picture once for each model; return the contexts."""
    parts = [desk.picture(seq, picture, TASK, model) for seq, model in enumerate(models)]
    desk.send(messages.Batch(1, parts))
    done = desk.take()
    while isinstance(done, messages.Ready):
        done = desk.take()
    assert isinstance(done, messages.Done)
    return [
        {"error": answer.error} if isinstance(answer, messages.Failure) else found(answer)
        for answer in done.frames
    ]


def alone(picture: Picture, model: int) -> dict[str, Any]:
    """What a model finds by itself."""
    task = load(TASK, TaskOptions(model_id=model))
    try:
        (outputs,) = task.process([{"image": picture}])
    finally:
        task.close()
    return outputs


def test_two_models_in_one_batch_give_each_frame_what_its_own_model_finds(desk, picture):
    centerface, blazeface = alone(picture, 0), alone(picture, 2)
    assert len(centerface["bbox"]) == len(blazeface["bbox"]) == 1
    assert np.abs(centerface["bbox"] - blazeface["bbox"]).max() > 1.0
    for _ in range(2):  # the second time both are loaded
        wanted = [2, 0, 0, None, 2, 7]
        *contexts, refused = work(desk, picture, *wanted)
        assert refused == {"error": "ConfigError: face_detection has no model 7 here, only 0, 1, 2"}
        for model, context in zip(wanted, contexts, strict=False):
            expected = alone(picture, 1 if model is None else model)
            for name in ("bbox", "prob", "landmarks"):
                np.testing.assert_allclose(context[TASK][name], expected[name], atol=1e-3)
