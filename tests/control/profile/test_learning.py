from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.profile import Cost, Profile
from vdag.control.profile.costs import BatchPoint
from vdag.control.profile.learning import MAX_CORRECTIONS, MAX_NODES, MAX_TASKS, Experience
from vdag.control.scheduling.events import NodeInfo
from vdag.sampling import RESOLUTIONS

NODE = NodeInfo("10.0.0.2:5001", "10.0.0.2")
OTHER = NodeInfo("10.0.0.3:5001", "10.0.0.3")
TASK = "face_detection"
NAMES = list(RESOLUTIONS)


def profile_of(**tasks: float) -> Profile:
    """A profile where each task costs so much at 360p, and three times that at 1080p."""
    profile = Profile()
    for task, seconds in (tasks or {TASK: 0.1}).items():
        profile.put_cost(task, 0, "360p", Cost(seconds, 1.2 * seconds, samples=100))
        profile.put_cost(task, 0, "1080p", Cost(3 * seconds, 3.6 * seconds, samples=100))
    return profile


def observe(
    profile: Profile,
    seconds: float,
    *,
    resolution: str = "360p",
    windows: int = 1,
    task: str = TASK,
) -> None:
    for _ in range(windows):
        assert profile.observe(task, 0, resolution, NODE, seconds, 1.2 * seconds, 20)


def seconds(
    profile: Profile, resolution: str = "360p", node: NodeInfo = NODE, task: str = TASK
) -> float:
    found = profile.cost(task, 0, resolution, node)
    assert found is not None
    return found.compute_s


def test_a_prediction_comes_to_what_is_observed():
    profile = profile_of()
    observe(profile, 0.25, windows=10)
    assert seconds(profile) == pytest.approx(0.25, rel=0.01)


def test_the_first_window_says_most_already():
    profile = profile_of()
    observe(profile, 0.2)
    assert seconds(profile) == pytest.approx(0.2, rel=0.15)


def test_a_node_slow_at_one_resolution_is_predicted_slow_at_others():
    profile = profile_of()
    observe(profile, 0.2, windows=10)
    assert seconds(profile, "1080p") == pytest.approx(0.6, rel=0.1)
    assert seconds(profile, "720p", OTHER) == pytest.approx(seconds(profile_of(), "720p"))


def test_a_node_that_recovers_is_predicted_fast_again_at_all_resolutions():
    profile = profile_of()
    observe(profile, 0.2, windows=10)
    observe(profile, 0.3, windows=10, resolution="1080p")
    assert seconds(profile, "1080p") == pytest.approx(0.3, rel=0.02)
    assert seconds(profile) == pytest.approx(0.1, rel=0.15)


def test_what_the_profile_has_wrong_about_a_resolution_is_learned_for_it_alone():
    profile = profile_of()
    for _ in range(400):
        observe(profile, 0.1)
        observe(profile, 0.45, resolution="1080p")
    # Before each look the other resolution was seen, so the fast factor is of that one.
    assert seconds(profile) == pytest.approx(0.1, rel=0.1)
    observe(profile, 0.1, windows=3)
    assert seconds(profile, "1080p") == pytest.approx(0.45, rel=0.1)


def test_a_node_slow_at_one_task_is_predicted_slow_at_others():
    profile = profile_of(face_detection=0.1, car_detection=0.2)
    observe(profile, 0.3, windows=10)
    assert seconds(profile, task="car_detection") == pytest.approx(0.6, rel=0.1)
    assert profile.slowdown(NODE, "car_detection") == pytest.approx(3.0, rel=0.1)


def test_a_told_load_holds_for_tasks_that_were_not_seen():
    profile = profile_of(face_detection=0.1, car_detection=0.2)
    observe(profile, 0.1, windows=5)
    assert profile.observe_load(NODE, 2.0)
    assert seconds(profile, task="car_detection") == pytest.approx(0.4)
    assert seconds(profile) == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("slowdown", [math.nan, -1.0, 0.0, math.inf, 1e9, "2", None, True])
def test_a_load_that_is_none_is_refused(slowdown):
    profile = profile_of()
    assert not profile.observe_load(NODE, slowdown)
    assert seconds(profile) == 0.1


def test_one_mad_window_moves_a_settled_prediction_by_less_than_four_times():
    profile = profile_of()
    observe(profile, 0.1, windows=20)
    assert profile.observe(TASK, 0, "360p", NODE, 500.0, 500.0, 1)
    assert seconds(profile) < 0.11
    assert profile.observe(TASK, 0, "360p", NODE, 500.0, 500.0, 1_000_000)
    assert seconds(profile) < 0.45


def test_the_percentile_follows_what_is_observed():
    profile = profile_of()
    for _ in range(20):
        assert profile.observe(TASK, 0, "360p", NODE, 0.1, 0.3, 20)
    found = profile.cost(TASK, 0, "360p", NODE)
    assert found is not None
    assert found.compute_p95_s == pytest.approx(0.3, rel=0.02)


def test_the_objects_of_a_scene_are_not_taken_for_the_slowness_of_a_node():
    profile = Profile()
    profile.put_cost(TASK, 0, "360p", Cost(0.01, 0.02, 0.004, samples=50, obj_n=5.0))
    for _ in range(10):
        assert profile.observe(TASK, 0, "360p", NODE, 0.09, 0.1, 20, obj_n=20)
    assert profile.slowdown(NODE, TASK) == pytest.approx(1.0, rel=0.01)
    found = profile.cost(TASK, 0, "360p", NODE)
    assert found is not None
    assert found.per_object_s == pytest.approx(0.004, rel=0.01)


def test_without_a_number_of_objects_it_is_that_of_the_profile():
    profile = Profile()
    profile.put_cost(TASK, 0, "360p", Cost(0.01, 0.02, 0.004, samples=50, obj_n=5.0))
    for _ in range(10):
        assert profile.observe(TASK, 0, "360p", NODE, 0.06, 0.07, 20)
    assert profile.slowdown(NODE, TASK) == pytest.approx(2.0, rel=0.05)


def test_a_task_that_nobody_has_measured_is_learned_from_its_first_window():
    profile = Profile()
    assert profile.observe("brightness", 0, "720p", NODE, 0.02, 0.03, 10)
    assert seconds(profile, "720p", task="brightness") == pytest.approx(0.02)
    assert seconds(profile, "720p", OTHER, "brightness") == pytest.approx(0.02)


BATCHED = Cost(0.01, 0.02, samples=50, batches=(BatchPoint(4, 0.016), BatchPoint(16, 0.04)))


def batched(**values: Cost) -> Profile:
    profile = Profile()
    for task, cost in (values or {TASK: BATCHED}).items():
        profile.put_cost(task, 0, "360p", cost)
    return profile


def test_frames_that_were_worked_on_together_do_not_make_a_node_slow():
    profile = batched()
    for _ in range(10):
        assert profile.observe(TASK, 0, "360p", NODE, 0.016, 0.02, 20, batch=4)
        assert profile.observe(TASK, 0, "360p", NODE, 0.04, 0.05, 20, batch=16)
    assert profile.slowdown(NODE, TASK) == pytest.approx(1.0, rel=1e-6)
    for _ in range(20):
        assert profile.observe(TASK, 0, "360p", NODE, 0.08, 0.1, 20, batch=16)
    found = profile.cost(TASK, 0, "360p", NODE)
    assert found is not None
    assert found.compute_s == pytest.approx(0.02, rel=0.05)
    assert found.busy_s == pytest.approx(0.005, rel=0.05)


def test_a_node_that_makes_batches_is_slow_where_nothing_was_measured_of_them():
    profile = batched(**{TASK: Cost(0.01, 0.02, samples=50)})
    for _ in range(20):
        assert profile.observe(TASK, 0, "360p", NODE, 0.04, 0.05, 20, batch=4)
    found = profile.cost(TASK, 0, "360p", NODE)
    assert found is not None
    assert not found.batches
    assert found.busy_s == found.compute_s == pytest.approx(0.04, rel=0.05)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1e9, None, "4", True])
def test_a_batch_that_is_none_is_refused(value):
    assert not profile_of().observe(TASK, 0, "360p", NODE, 0.1, 0.1, 20, batch=value)


def test_a_batch_of_which_nothing_is_said_is_one():
    profile = batched()
    assert profile.observe(TASK, 0, "360p", NODE, 0.01, 0.02, 20, batch=0)
    assert profile.slowdown(NODE, TASK) == pytest.approx(1.0)


def test_what_a_node_taught_can_be_forgotten():
    profile = profile_of()
    observe(profile, 0.5, windows=5)
    profile.forget(NODE.node_addr)
    assert seconds(profile) == 0.1


WRONG = [math.nan, math.inf, -math.inf, -0.1, 0.0, 1e-9, 1e9, None, "0.1", True, [0.1]]


@pytest.mark.parametrize("value", WRONG)
def test_a_mean_that_is_none_is_refused(value):
    profile = profile_of()
    assert not profile.observe(TASK, 0, "360p", NODE, value, 0.1, 20)
    assert seconds(profile) == 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1e9, None, "0.1", True])
def test_a_percentile_that_is_none_is_refused(value):
    assert not profile_of().observe(TASK, 0, "360p", NODE, 0.1, value, 20)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -5, 1e9, None, "20", True])
def test_a_number_of_frames_that_is_none_is_refused(value):
    assert not profile_of().observe(TASK, 0, "360p", NODE, 0.1, 0.1, value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1e9, "3", True])
def test_a_number_of_objects_that_is_none_is_refused(value):
    assert not profile_of().observe(TASK, 0, "360p", NODE, 0.1, 0.1, 20, obj_n=value)


@pytest.mark.parametrize("task", ["", "x" * 1000])
def test_a_task_without_a_usable_name_is_refused(task: str):
    assert not profile_of().observe(task, 0, "360p", NODE, 0.1, 0.1, 20)


def test_a_node_cannot_make_us_keep_more_than_so_much():
    profile = profile_of()
    for number in range(2 * MAX_TASKS):
        taken = profile.observe(f"task_{number}", 0, "360p", NODE, 0.1, 0.1, 20)
        assert taken == (number < MAX_TASKS)
    for number in range(2 * MAX_CORRECTIONS):
        profile.observe("task_0", 0, f"{number + 100}x100", NODE, 0.1, 0.1, 20)
    (node,) = [each for each in json.loads(profile.to_bytes())["nodes"] if each["task"] == "task_0"]
    assert len(node["corrections"]) == MAX_CORRECTIONS
    assert [pixels // 100 for _, pixels, _ in node["corrections"]][-1] == 2 * MAX_CORRECTIONS + 99


def test_of_too_many_nodes_the_one_silent_for_longest_is_forgotten():
    experience = Experience()
    for number in range(MAX_NODES):
        experience.tell(f"node-{number}", 2.0)
    experience.tell("node-0", 2.0)
    experience.tell("another", 2.0)
    assert len(experience) == MAX_NODES
    assert experience.log_factor("node-0") is not None
    assert experience.log_factor("node-1") is None


ANYTHING = st.one_of(
    st.floats(),
    st.floats(1e-6, 600.0),
    st.integers(-10, 10**9),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
)
REPORTS = st.lists(
    st.tuples(
        st.sampled_from([TASK, "car_detection", "brightness"]),
        st.integers(0, 3),
        st.sampled_from(NAMES),
        st.sampled_from([NODE, OTHER]),
        ANYTHING,
        ANYTHING,
        ANYTHING,
        ANYTHING,
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(REPORTS)
def test_after_any_reports_every_cost_is_finite_positive_and_within_bounds(reports):
    profile = profile_of(face_detection=0.1, car_detection=0.05)
    for task, model_id, resolution, node, mean_s, p95_s, frames, obj_n in reports:
        profile.observe(task, model_id, resolution, node, mean_s, p95_s, frames, obj_n=obj_n)
    for task in (TASK, "car_detection", "brightness"):
        for resolution in NAMES:
            found = profile.cost(task, 0, resolution, NODE)
            if found is not None:
                assert 1e-6 <= found.compute_s <= 600.0
                assert found.compute_s <= found.compute_p95_s <= 600.0
                assert 0.0 <= found.per_object_s <= 600.0


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 10.0), st.lists(st.integers(10, 200), min_size=60, max_size=60))
def test_whatever_the_windows_are_the_same_observation_is_come_to_without_swinging(
    ratio: float, windows: list[int]
):
    profile = profile_of()
    before = abs(math.log(ratio))
    for frames in windows:
        assert profile.observe(TASK, 0, "360p", NODE, 0.1 * ratio, 0.1 * ratio, frames)
        now = abs(math.log(seconds(profile) / (0.1 * ratio)))
        assert now <= before + 1e-9
        before = now
    assert before < 0.1
