"""Batches in predictions: what they take of workers, how long they take, what they teach."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from policy_kit import HOST, TASKS, Around, node, question

from vdag.control.prediction import Candidate, Outlook, calibrate, predict, predict_on
from vdag.control.prediction.queueing import gather, wait_at
from vdag.control.profile.costs import BatchPoint


def candidate(fps: float, resolution: str = "480p") -> Candidate:
    models, nodes = dict.fromkeys(TASKS, 0), dict.fromkeys(TASKS, HOST)
    return Candidate(resolution, fps, "JPEG", models, nodes)


def waited_and_worked(rate: float, further: float, most: int, *, paced: bool) -> float:
    """Mean delay at a worker that takes what has come: 1 for a frame, `further` for each more."""
    chance, clock, total, came = Random(3), 0.0, 0.0, [0.0]
    while len(came) < 8_000:
        came.append(came[-1] + (1 / rate if paced else chance.expovariate(rate)))
    at = 0
    while at < len(came):
        clock = max(clock, came[at])
        batch = [each for each in came[at : at + most] if each <= clock]
        clock += 1 + further * (len(batch) - 1)
        total += sum(clock - each for each in batch)
        at += len(batch)
    return total / len(came)


@pytest.mark.parametrize("load", [0.1, 0.35, 0.65, 0.8])
@pytest.mark.parametrize(("further", "most"), [(0.1, 16), (0.3, 8), (0.5, 4), (0.7, 16)])
@pytest.mark.parametrize("paced", [True, False])
def test_frames_in_batches_are_hardly_later_than_is_predicted(load, further, most, paced):
    share = (1 + further * (most - 1)) / most
    own, others = (load, 0.0) if paced else (1e-9, load)
    wait_s, _, stretch = gather(1.0, 0.0, 1.0, own, others, share)
    took_s = waited_and_worked(load / share, further, most, paced=paced)
    assert wait_s + stretch > 0.88 * took_s
    assert wait_s + stretch < (2.0 if load < 0.7 else 3.2) * took_s


def test_batches_form_where_frames_come_faster_than_one_by_one():
    for load in (0.1, 0.39):
        assert gather(0.1, 1e-4, 1.0, load, 0.0, 0.4)[2] == 1.0
    assert gather(0.1, 1e-4, 1.0, 0.6, 0.0, 0.4)[2] == pytest.approx(1.5)
    assert gather(0.1, 1e-4, 2.0, 0.5, 0.7, 0.4)[2] == pytest.approx(1.5)
    args = (0.1, 1e-4, 2.0, 0.3, 0.7)
    assert gather(*args, 1.0) == (*wait_at(*args), 1.0)


def batching(share: float, batch: int = 4) -> Around:
    """The kit's nodes, whose workers take frames of a batch in a share of what they take alone."""
    around = Around()
    for row in [*around.profile.costs()]:
        point = BatchPoint(batch, share * batch * row.cost.mean_s())
        cost = replace(row.cost, batches=(point,))
        around.profile.put_cost(row.task, row.model_id, row.resolution, cost, row.place)
    return around


def test_workers_and_cores_are_counted_by_what_frames_of_batches_take():
    each = candidate(fps=5.0, resolution="1080p")
    plain = predict(each, question())
    shared = predict(each, question(batching(0.4)))
    assert shared.nodes == {HOST: pytest.approx(0.4 * plain.nodes[HOST])}
    for place, busy in plain.workers.items():
        assert shared.workers[place] == pytest.approx(0.4 * busy)
    # At a load that a worker can do one by one there are no batches.
    assert shared.delay_s == pytest.approx(plain.delay_s)
    assert predict(replace(each, fps=20.0), question(batching(0.4))).delay_s > 1.4 * plain.delay_s


@pytest.mark.parametrize(
    ("batch", "ratio"), [(4.0, 1.0), (2.5, 1.6 / 1.3), (None, 1.6), ("x", 1.6)]
)
def test_batches_do_not_make_a_node_look_slow(batch, ratio):
    each, task = candidate(fps=5.0), TASKS[0]
    around = batching(0.4)
    single_s = around.profile.cost(task, 0, "480p", node()).mean_s()
    parts = {"process_delay": {task: 1.6 * single_s}, "batch": {task: batch}}
    runtime = {"delay": 0.2, "frames": 50, "fps": 5.0, "plan_result": parts}
    known = calibrate(each, Outlook(question(around, runtime_info=runtime)))
    assert known.compute_ratio(task, HOST) == pytest.approx(ratio)


def test_what_larger_batches_take_than_the_load_explains_counts_as_a_wait():
    each, task = candidate(fps=5.0), TASKS[0]
    around = batching(0.4)
    took_s = 1.6 * around.profile.cost(task, 0, "480p", node()).mean_s()
    parts = {"process_delay": {task: took_s}, "queue_delay": {task: 0.0}, "batch": {task: 4}}
    runtime = {"delay": 0.2, "frames": 50, "fps": 5.0, "plan_result": parts}
    outlook = Outlook(question(around, runtime_info=runtime))
    outlook.calibration = calibrate(each, outlook)
    told = predict_on(each, outlook).tasks[task]
    assert told.queue_s + told.compute_s == pytest.approx(took_s)
