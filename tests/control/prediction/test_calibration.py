"""What reports teach predictions, and what of them is believed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from policy_kit import CLOUD, EDGE, HOST, MBIT, TASKS, Around, Plant, candidate, plan_of, question

from vdag.control.prediction import (
    Calibration,
    Candidate,
    Measured,
    Outlook,
    calibrate,
    predict,
    predict_on,
)
from vdag.control.scheduling.surroundings import TaskLoad
from vdag.plan import Plan


def test_a_link_that_others_fill_is_not_taken_for_a_thin_one():
    around = Around(links={HOST: {CLOUD: 20 * MBIT}})
    around.change(sent={HOST: TaskLoad(2, 8 * MBIT)})
    asked, each = question(around), candidate(at=CLOUD, fps=5.0, resolution="720p")
    for ratio in (1.0, 1.3):
        slow = Calibration(at_s=asked.now_s)
        slow.learn_link(HOST, CLOUD, 20 * MBIT, ratio, 1e9)
        truth = predict_on(each, Outlook(asked, slow))
        ways_s = truth.tasks[TASKS[0]].transfer_s + truth.home_s
        parts = {
            "transfer_delay": {TASKS[0]: ways_s / 2, TASKS[1]: truth.tasks[TASKS[1]].transfer_s},
            "process_delay": {task: told.compute_s for task, told in truth.tasks.items()},
        }
        runtime = {"delay": truth.delay_s, "frames": 50, "fps": 5.0, "plan_result": parts}
        outlook = Outlook(replace(asked, runtime_info=runtime))
        known = calibrate(each, outlook)
        assert known.link_ratio(HOST, CLOUD, 20 * MBIT) == pytest.approx(ratio, rel=0.06)


def test_reports_teach_what_work_waits_and_ways_take():
    plant = Plant(learns=False, links={HOST: {CLOUD: 100 * MBIT}})
    plant.speed = {CLOUD: 2.0}
    plant.links = {(HOST, CLOUD): 50 * MBIT}
    asked = question(plant.around)
    each = candidate(at=CLOUD, resolution="720p", fps=10.0)
    plan = Plan.from_documents(
        TASKS, each.conf_document(), {t: {"node_addr": CLOUD} for t in TASKS}, number=1
    )
    known = Calibration()
    for _ in range(3):
        runtime = plant.report(plan, TASKS)
        outlook = Outlook(replace(asked, runtime_info=runtime, previous=plan, measured=1), known)
        known = calibrate(each, outlook)
    seen, predicted = outlook.measured, predict_on(each, outlook)
    assert predict(each, asked).delay_s < 0.8 * seen.delay_s
    assert predicted.delay_s == pytest.approx(seen.delay_s, rel=0.1)
    assert predicted.delay_p95_s == pytest.approx(seen.delay_p95_s, rel=0.15)
    # It holds for other plans through the same places, as far as they are alike.
    other = candidate(at=CLOUD, resolution="1080p", fps=5.0)
    truth = plant.report(plan_of(asked, Answering(other)), TASKS)
    assert predict_on(other, outlook).delay_s == pytest.approx(truth["delay"], rel=0.15)
    assert Calibration.read(known.to_document()).to_document() == known.to_document()


class Answering:
    """What a policy would have answered to ask for a candidate."""

    def __init__(self, each: Candidate) -> None:
        self.video_conf = each.conf_document()
        self.flow_mapping = {task: {"node_addr": addr} for task, addr in each.nodes.items()}
        self.resource_limit = None


def test_what_is_not_in_use_is_believed_less_and_less():
    known = Calibration(at_s=100.0)
    known.learn_compute("face_detection", EDGE, 4.0, 50)
    known.learn_excess(HOST, EDGE, 0.1, 50)
    assert known.compute_ratio("face_detection", EDGE) == pytest.approx(4.0)
    known.fade(160.0)
    assert known.compute_ratio("face_detection", EDGE) == pytest.approx(2.0)
    assert known.excess_s(HOST, EDGE) == pytest.approx(0.05)
    known.fade(1e9)
    assert known.compute == {}


def test_a_link_that_was_measured_anew_has_nothing_left_of_what_was_learned():
    known = Calibration()
    known.learn_link(HOST, CLOUD, 100 * MBIT, 8.0, 50)
    assert known.link_ratio(HOST, CLOUD, 100 * MBIT) == pytest.approx(8.0)
    # It carries 12.5 Mbit/s, whatever is reported, unless that is something else altogether.
    assert known.link_ratio(HOST, CLOUD, 50 * MBIT) == pytest.approx(4.0)
    assert known.link_ratio(HOST, CLOUD, 5 * MBIT) == 1.0
    assert known.link_ratio(HOST, CLOUD, 400 * MBIT) == 1.0
    # Nor is another link of that sender faster, as far as is known.
    assert known.link_ratio(HOST, EDGE, 25 * MBIT) == pytest.approx(2.0)
    known.learn_link(HOST, CLOUD, 5 * MBIT, 1.2, 5)
    assert known.link_ratio(HOST, CLOUD, 5 * MBIT) == pytest.approx(1.2)


@pytest.mark.parametrize("ratio", [0.0, 1e-12, 1e12, math.inf])
def test_no_report_counts_for_more_than_the_bounds(ratio):
    known = Calibration()
    known.learn_compute("face_detection", HOST, ratio, 1e9)
    known.learn_queue("face_detection", HOST, ratio, 1e9)
    known.learn_link(HOST, CLOUD, MBIT, ratio, 1e9)
    known.learn_spread(ratio, 1e9)
    known.learn_excess(HOST, CLOUD, ratio, 1e9)
    assert 1 / 8 - 1e-9 <= known.compute_ratio("face_detection", HOST) <= 8 + 1e-9
    assert 1 / 16 - 1e-9 <= known.link_ratio(HOST, CLOUD, MBIT) <= 16 + 1e-9
    assert 1 / 3 - 1e-9 <= known.spread_ratio <= 3 + 1e-9
    assert abs(known.excess_s(HOST, CLOUD)) <= 0.5


@pytest.mark.parametrize(
    "document",
    [None, 7, [], {"compute": 1}, {"compute": {"a@b": "x"}, "link": {"a>b": math.nan}},
     {"spread": math.inf, "at_s": 10**400, "hop": {1: 10**400}}],
)  # fmt: skip
def test_a_calibration_that_makes_no_sense_is_none(document):
    read = Calibration.read(document)
    assert read.to_document() == Calibration().to_document()


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (None, Measured()),
        ({"delay": math.nan, "delay_p95": -1, "obj_n": "many", "frames": True}, Measured()),
        ({"delay": 10**400, "obj_size": math.inf, "plan_result": [1]}, Measured()),
        ({"delay": 0.2, "delay_p95": 0.1}, Measured(0.2, 0.2, 0.2, 10.0)),
        ({"delay": 0.2, "frames": 3, "plan_result": {"process_delay": {"a": 0.1, 2: 1, "b": "x"}}},
         Measured(0.2, 0.2, 0.2, 3.0, compute_s={"a": 0.1})),
        ({"delay": 0.2, "frames": 3, "plan_result": {"batch": {
            "a": 2.5, "b": 0, "c": 1e4, "d": math.nan, "e": "4", "f": -3, "g": True}}},
         Measured(0.2, 0.2, 0.2, 3.0, batch={"a": 2.5, "b": 1.0, "c": 256.0})),
    ],
)  # fmt: skip
def test_of_a_runtime_only_what_can_be_believed_is_read(runtime, expected):
    assert Measured.read(runtime) == expected
