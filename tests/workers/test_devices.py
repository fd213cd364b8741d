"""Workers of one task on several devices: words here, since no model is loaded."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
from pool_kit import FINE, TIMEOUT_S, Plant

from vdag.tasks import TaskOptions
from vdag.transport import codec

BOTH = TaskOptions(device="cuda:0,cuda:1")


def started(plant: Plant) -> Counter[str]:
    """Return on which device each of the workers is, or was, that has ever been started."""
    return Counter(path.read_text() for path in plant.folder.glob("*.place"))


@pytest.mark.parametrize("devices", ["cuda:0,cuda:1", "cuda:0, cuda:1"])
def test_workers_take_devices_in_turn(plant: Plant, devices: str):
    plant.serve("place", 3, options=TaskOptions(device=devices))
    assert started(plant) == {"cuda:0": 2, "cuda:1": 1}
    plant.serve("place", options=TaskOptions(device=devices))
    assert started(plant) == {"cuda:0": 2, "cuda:1": 2}


def test_a_worker_that_is_added_takes_the_device_that_another_has_left(plant: Plant):
    plant.serve("place", 2, options=BOTH)
    plant.pool.remove("place", 1)
    plant.serve("place", options=BOTH)
    assert started(plant) == {"cuda:0": 1, "cuda:1": 2}


def test_a_worker_that_died_is_started_again_on_its_device(plant: Plant):
    plant.serve("place", 2, options=BOTH)
    (victim,) = [path for path in plant.folder.glob("*.place") if path.read_text() == "cuda:1"]
    os.kill(int(victim.stem), signal.SIGKILL)
    plant.until(lambda plant: plant.counts("place").restarts == 1)
    plant.pool.wait_ready("place", TIMEOUT_S)
    assert started(plant) == {"cuda:0": 1, "cuda:1": 2}


def test_models_that_frames_ask_for_are_loaded_on_the_device_of_their_worker(plant: Plant):
    models = {number: replace(BOTH, model_id=number) for number in (0, 1)}
    plant.serve("place", 2, options=BOTH, models=models)
    plant.pool.remove("place", 1)
    plant.until(lambda plant: plant.counts("place").leaving == 0)
    plant.job.join()
    for model in (0, 1):
        plant.job.send(FINE, "place", model=model)
        found = plant.job.take()
        assert isinstance(found, codec.Descriptor)
        assert found.context["place"] == {"place": [model, "cuda:0"]}
