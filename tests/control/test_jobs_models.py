"""The model that a plan names: real workers, a real exchange, and a job that changes it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from vdag import open_source
from vdag.config import VideoConfig
from vdag.control.jobs import JobManager
from vdag.control.jobs.run import Site
from vdag.control.scheduling.events import QueryState
from vdag.errors import PlanError
from vdag.graph import Graph
from vdag.plan import Constraint, Placement, Plan, VideoConf
from vdag.tasks import TaskOptions, load
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

TASK = "face_detection"
TIMEOUT_S = 60.0
UID = "GLOBAL_ID_1"
MODELS = (0, 2)
FRAMES = 120


class Desk:
    """Whom jobs report to."""

    def __init__(self) -> None:
        self.results: queue.Queue[dict[str, Any]] = queue.Queue()
        self.states: list[tuple[int, str]] = []

    def report_result(self, job_uid: str, number: int, document: bytes) -> None:
        self.results.put(msgspec.json.decode(document))

    def report_state(self, job_uid: str, state: int, reason: str) -> None:
        self.states.append((state, reason))

    def frame(self) -> dict[str, Any]:
        return self.results.get(timeout=TIMEOUT_S)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def jobs(tmp_path: Path, carphone: Path, desk: Desk) -> Iterator[JobManager]:
    tmp_path.chmod(0o700)
    with ExitStack() as stack:
        exchange = stack.enter_context(Exchange(tmp_path, classes=[(176 * 144 * 3, 32)]))
        pool = stack.enter_context(WorkerPool(exchange))
        exchange.open_task(TASK, policy="fifo")
        pool.add(TASK, TaskOptions())
        pool.wait_ready(TASK, TIMEOUT_S)
        videos = {0: VideoConfig(str(carphone), pace="asap", loop=True)}
        site = Site(exchange, None, "127.0.0.1")
        yield stack.enter_context(
            JobManager(site, videos, offered=lambda: {TASK: MODELS}, reporter=desk)
        )


def plan(number: int, model: int) -> Plan:
    return Plan(number, VideoConf("native", 1000), {TASK: Placement("127.0.0.1", "host", model)})


@pytest.fixture(scope="module")
def expected(clips: Path) -> dict[int, list[Any]]:
    """What each model finds in the frames of the clip."""
    with open_source(clips / "carphone_pristine.mp4") as source:
        batch = [{"image": frame.pixels.copy()} for frame in source]
    found = {}
    for model in MODELS:
        task = load(TASK, TaskOptions(model_id=model))
        found[model] = [outputs["bbox"] for outputs in task.process(batch)]
        task.close()
    return found


def test_a_plan_with_another_model_takes_effect_between_two_frames_and_loses_none(
    jobs, desk, expected
):
    jobs.submit(UID, 0, Graph.chain(TASK), Constraint())
    seen: list[dict[str, Any]] = []
    models = {1: 0, 2: 2, 3: 0, 4: 2}
    for number, model in models.items():
        jobs.update_plan(UID, plan(number, model))
        while not seen or seen[-1]["plan"] < number:
            seen.append(desk.frame())
        seen.extend(desk.frame() for _ in range(5))
    jobs.stop(UID, "enough")
    assert [frame["n_loop"] for frame in seen] == list(range(1, len(seen) + 1))
    assert [frame["plan"] for frame in seen] == sorted(frame["plan"] for frame in seen)
    for frame in seen:
        model = models[frame["plan"]]
        assert frame["ext_plan"]["flow_mapping"][TASK]["model_id"] == model
        assert frame["proc_resource_info"]["model_id"] == model
        assert frame["ext_runtime"]["proc_resource_info"][TASK]["model_id"] == model
        boxes, others = (
            expected[each][int(frame["frame_id"]) % FRAMES] for each in (model, 2 - model)
        )
        np.testing.assert_allclose(frame["bbox"], boxes, atol=0.1)
        assert np.abs(np.array(frame["bbox"]) - others).max() > 0.5
    assert jobs.infos() == ()
    assert not [reason for state, reason in desk.states if state == QueryState.FAILED]


def test_a_model_that_this_node_has_not_is_refused(jobs):
    jobs.submit(UID, 0, Graph.chain(TASK), Constraint())
    text = r"^flow_mapping.face_detection.model_id is 1, this node has only 0, 2$"
    with pytest.raises(PlanError, match=text):
        jobs.update_plan(UID, plan(1, 1))
