"""What a task does before its first frame."""

from __future__ import annotations

import numpy as np
import pytest

from vdag import tasks
from vdag.tasks import TaskOptions


@pytest.fixture
def faces():
    task = tasks.load("face_detection", TaskOptions(model_id=2, device="cpu"))
    yield task
    task.close()


def test_a_task_with_a_model_runs_it_and_finds_the_same_afterwards(faces):
    images = [{"image": np.full((90, 160, 3), 60, np.uint8)} for _ in range(2)]
    before = faces.process(images)
    tasks.warm_up(faces, 2)
    assert faces._model._engine.stats().calls == 1  # warming up is not counted
    after = faces.process(images)
    assert [len(found["bbox"]) for found in before] == [len(found["bbox"]) for found in after]


def test_a_model_is_warmed_up_by_one_picture(faces, monkeypatch):
    shapes = []
    monkeypatch.setattr(faces._model._engine, "warm_up", shapes.extend)
    tasks.warm_up(faces, 4)
    counts = [shape[0] for batch in shapes for shape in batch.values()]
    assert counts == [1]


def test_a_task_without_a_model_has_nothing_to_do():
    class Plain:
        signature = None
        max_batch = 1

    tasks.warm_up(Plain(), 8)
