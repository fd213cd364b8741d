"""Policies on nodes whose workers take batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policy_kit import HOST, Around, node, question

from vdag.control.policies import BUILT_IN
from vdag.control.profile.costs import BatchPoint
from vdag.control.scheduling.surroundings import NO_LOAD, TaskLoad
from vdag.plan import Constraint, VideoConf

TASK = "face_detection"


def bound_at(fps: float, share: float | None = None, load: TaskLoad = NO_LOAD) -> str | None:
    """What stands against a rate at a worker that takes batches; None for nothing."""
    around = Around(node(workers=1, cores=4), loads={HOST: {TASK: load}})
    for row in [*around.profile.costs()] if share else ():
        points = (BatchPoint(8, share * 8 * row.cost.mean_s()),)
        cost = replace(row.cost, batches=points)
        around.profile.put_cost(row.task, row.model_id, row.resolution, cost, row.place)
    constraint = Constraint((-1.0, 0.5), 0.5, VideoConf("1080p", fps))
    answer = BUILT_IN["predictive"].answer(question(around, tasks=(TASK,), constraint=constraint))
    assert answer.video_conf["fps"] == fps
    bound = answer.explanation["bound"]
    return bound and bound["what"]


@pytest.mark.parametrize(("fps", "load"), [(30.0, NO_LOAD), (15.0, TaskLoad(1, 0.4))])
def test_where_frames_are_worked_on_together_a_higher_rate_is_taken(fps, load):
    assert bound_at(fps, None, load) == "capacity"
    assert bound_at(fps, 0.4, load) is None


def test_batches_do_not_make_a_full_node_take_any_rate():
    assert bound_at(15.0, 0.4, TaskLoad(6, 0.4)) is None
    assert bound_at(15.0, 0.4, TaskLoad(6, 0.79)) == "capacity"
