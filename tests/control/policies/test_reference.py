"""The documents' own policies: what they did in the same situations, read off their system."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policy_kit import NEWER_CONSTRAINT, TASKS, ask, documents, in_force, question

from vdag.control.policies.ladders import RESOLUTIONS, Setup, full_rate_s
from vdag.control.policies.reference import cold_setup
from vdag.errors import PlanError
from vdag.plan import Constraint


@pytest.mark.parametrize(
    ("bound_s", "resolution", "fps", "cut", "single"),
    [
        (0.05, "480p", 10, 1, ("480p", 10)), (0.10, "480p", 20, 1, ("480p", 20)),
        (0.15, "480p", 30, 1, ("480p", 30)), (0.20, "480p", 30, 1, ("720p", 30)),
        (0.30, "480p", 30, 2, ("720p", 30)), (0.50, "720p", 30, 2, ("1080p", 30)),
        (0.80, "1080p", 30, 1, ("1080p", 30)), (2.0, "1080p", 30, 2, ("1080p", 30)),
    ],
)  # fmt: skip
def test_the_reference_starts_as_it_did(bound_s, resolution, fps, cut, single):
    found = cold_setup(TASKS, bound_s, 0.9)
    assert (RESOLUTIONS[found.resolution], found.fps, found.cut) == (resolution, fps, cut)
    alone = cold_setup(TASKS[:1], bound_s, 0.9)
    assert (RESOLUTIONS[alone.resolution], alone.fps) == single


STABLE = {"obj_stable": True}


@pytest.mark.parametrize(
    ("runtime", "accuracy", "expected"),
    [
        ({"delay": 0.1, **STABLE}, 0.9, "480p30HH x4, 480p20HH, 480p10HH, 480p5HH, 480p1HH x2"),
        ({"delay": 0.5, **STABLE}, 0.9,
         "480p30HH x4, 480p20HH, 480p10HH, 480p5HH, 480p1HH, 480p1HC, 480p1CC, 360p1CC x2"),
        ({"delay": 0.5, "obj_stable": False, "obj_size": 2000}, 0.9,
         "480p30HH x4, 360p30HH, 360p30HC, 360p30CC, 360p20CC, 360p10CC, 360p5CC, 360p1CC x2"),
        ({"delay": 0.5, "obj_stable": False, "obj_size": 200}, 0.9,
         "480p30HH x4, 480p30HC, 480p30CC, 480p20CC, 480p10CC, 480p5CC, 480p1CC, 360p1CC x2"),
        ({"delay": 0.1, **STABLE}, 0.95, "480p30HH x4, 720p30HH, 1080p30HH x3"),
        ({"delay": 0.1, "obj_stable": False}, 0.9, "480p30HH x9"),
    ],
)  # fmt: skip
def test_the_reference_goes_where_it_went(runtime, accuracy, expected):
    """Rounds of 3 s from 480p, 30 frames per second, all at the host."""
    asked = documents("10.0.0.1", "10.0.0.9", {"delay": 0.3, "accuracy": accuracy})
    answer = Setup(TASKS, 1, 4, 2).answer({"host": "10.0.0.1", "cloud": "10.0.0.9"}, "", None)
    answer = answer._replace(memory={"started_s": asked.now_s})
    seen = []
    for steps in expected.split(", "):
        shape, _, times = steps.partition(" x")
        for _ in range(int(times or 1)):
            asked = in_force(asked, answer, runtime_info=runtime)
            asked = replace(asked, now_s=asked.now_s + 1)
            answer = ask("reference", asked)
            seen.append((shape, shape_of(answer)))
    assert [found for _, found in seen] == [wanted for wanted, _ in seen]


def shape_of(answer) -> str:
    conf = answer.video_conf
    roles = "".join(each["node_role"][0].upper() for each in answer.flow_mapping.values())
    return f"{conf['resolution']}{conf['fps']}{roles}"


def test_the_reference_fails_as_it_did_where_a_delay_lacks():
    asked = documents("10.0.0.1", "10.0.0.9", NEWER_CONSTRAINT)
    again = in_force(asked, ask("reference", asked), runtime_info={"obj_n": 3})
    with pytest.raises(PlanError, match=r"^runtime_info has no delay$"):
        ask("reference", again)
    with pytest.raises(PlanError, match=r"^user_constraint lacks delay or accuracy$"):
        ask("reference", question(constraint=Constraint()))


def test_the_demo_starts_as_it_did_and_never_rests():
    asked = documents("10.0.0.1", "10.0.0.9", NEWER_CONSTRAINT)
    answer = ask("demo", asked)
    assert shape_of(answer) == "480p1HH"
    assert full_rate_s(Setup(TASKS, 1, 0, 2)) == pytest.approx(0.324)
    seen = []
    for delay_s in (0.5, 0.1, 0.5, 0.1):
        asked = in_force(asked, answer, last_plan_res={"delay": {"face_detection": delay_s}})
        answer = ask("demo", asked)
        seen.append(shape_of(answer))
    assert seen == ["360p1HH", "480p1HH", "360p1HH", "480p1HH"]
