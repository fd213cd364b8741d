from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.profile import ANY, Cost, Profile
from vdag.control.profile.costs import BatchPoint, CostTable, blend, pixels_of
from vdag.control.scheduling.events import NodeInfo, ServiceInfo
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS

EDGE = NodeInfo("10.0.0.2:5001", "10.0.0.2")
CLOUD = NodeInfo("10.0.0.9:5001", "10.0.0.9", role="cloud")
TASK = "face_detection"
NAMES = list(RESOLUTIONS)


def cost(seconds: float, **values: float) -> Cost:
    return Cost(seconds, 1.5 * seconds, samples=100, **values)


def profile_of(*cells: tuple[str, str, float], task: str = TASK, model_id: int = 0) -> Profile:
    """A profile with (resolution, place, seconds)."""
    profile = Profile()
    for resolution, place, seconds in cells:
        profile.put_cost(task, model_id, resolution, cost(seconds), place)
    return profile


def seconds(profile: Profile, resolution: str, node: NodeInfo = EDGE, task: str = TASK) -> float:
    found = profile.cost(task, 0, resolution, node)
    assert found is not None
    return found.compute_s


def test_nothing_is_known_of_an_unknown_task():
    assert profile_of(("360p", ANY, 0.1)).cost("brightness", 0, "360p", EDGE) is None


def test_what_was_measured_is_returned_as_it_is():
    measured = Cost(0.1, 0.2, 0.003, 1 << 20, 512, 90, 4.0, 0.09, 0.3)
    profile = Profile()
    profile.put_cost(TASK, 1, "720p", measured, "edge")
    assert profile.cost(TASK, 1, "720p", EDGE) == measured


def test_objects_add_to_the_mean_and_to_the_percentile():
    found = Cost(0.1, 0.2, 0.01, obj_n=3.0)
    assert found.mean_s(5) == pytest.approx(0.15)
    assert found.p95_s(5) == pytest.approx(0.25)
    assert found.mean_s() == pytest.approx(0.13)


def test_the_node_comes_before_its_role_and_that_before_anywhere():
    profile = profile_of(
        ("360p", ANY, 0.1), ("360p", "edge", 0.2), ("360p", "cloud", 0.05),
        ("360p", EDGE.node_addr, 0.3),
    )  # fmt: skip
    other = NodeInfo("10.0.0.3:5001", "10.0.0.3")
    assert seconds(profile, "360p") == pytest.approx(0.3)
    assert seconds(profile, "360p", other) == pytest.approx(0.2)
    assert seconds(profile, "360p", CLOUD) == pytest.approx(0.05)


def test_a_host_counts_by_its_machine():
    host = NodeInfo("10.0.0.4:5001", "10.0.0.4", role="host")
    assert seconds(profile_of(("360p", "edge", 0.2), ("360p", ANY, 0.1)), "360p", host) == 0.2


def test_an_address_without_a_port_stands_for_all_nodes_at_it():
    assert seconds(profile_of(("360p", "10.0.0.2", 0.4), ("360p", ANY, 0.1)), "360p") == 0.4


def test_another_role_is_better_than_nothing():
    assert seconds(profile_of(("360p", "cloud", 0.05)), "360p", EDGE) == pytest.approx(0.05)


def test_of_a_model_that_was_not_measured_the_nearest_stands_in():
    profile = profile_of(("360p", ANY, 0.1))
    profile.put_cost(TASK, 2, "360p", cost(0.02))
    found = [profile.cost(TASK, model_id, "360p", EDGE) for model_id in (0, 1, 2, 3)]
    assert [each and each.compute_s for each in found] == [0.1, 0.1, 0.02, 0.02]


def test_a_missing_resolution_lies_between_its_neighbours_by_its_pixels():
    profile = profile_of(("360p", ANY, 0.1), ("720p", ANY, 0.3))
    share = (pixels_of("540p") - pixels_of("360p")) / (pixels_of("720p") - pixels_of("360p"))
    assert seconds(profile, "540p") == pytest.approx(0.1 + 0.2 * share)
    assert seconds(profile, "640x360") == seconds(profile, "640x360")


def test_beyond_what_was_measured_it_goes_on_as_the_last_two_do():
    profile = profile_of(("480p", ANY, 0.1), ("720p", ANY, 0.1))
    assert seconds(profile, "1080p") == pytest.approx(0.1)
    assert seconds(profile, "360p") == pytest.approx(0.1)


def test_of_a_single_resolution_part_of_the_cost_grows_with_the_pixels():
    profile = profile_of(("480p", ANY, 0.1))
    ratio = pixels_of("1080p") / pixels_of("480p")
    assert seconds(profile, "1080p") == pytest.approx(0.1 * (0.25 + 0.75 * ratio))
    assert 0.025 < seconds(profile, "360p") < 0.1


def test_beyond_what_a_node_measured_it_grows_as_it_does_elsewhere():
    profile = profile_of(("360p", ANY, 0.1), ("1080p", ANY, 0.5), ("360p", EDGE.node_addr, 0.2))
    assert seconds(profile, "1080p") == pytest.approx(1.0)


def test_a_node_slow_at_one_task_is_taken_to_be_slow_at_others():
    profile = profile_of(("360p", ANY, 0.1), ("360p", EDGE.node_addr, 0.3))
    profile.put_cost("car_detection", 0, "360p", cost(0.2))
    assert seconds(profile, "360p", task="car_detection") == pytest.approx(0.6)
    assert seconds(profile, "360p", CLOUD, "car_detection") == pytest.approx(0.2)


def granting(share: float, cores: int, **values: object) -> NodeInfo:
    services = {TASK: ServiceInfo(cpu_util_limit=share)}
    resources = {"cpu_ratio": [0.0] * cores}
    return NodeInfo("10.0.0.5:1", "10.0.0.5", services=services, resources=resources)


@pytest.mark.parametrize(
    ("share", "cores", "factor"), [(0.125, 4, 2.0), (0.5, 4, 1.0), (1.0, 1, 1.0), (0.25, 0, 1.0)]
)
def test_a_node_that_grants_less_than_a_core_is_slower(share: float, cores: int, factor: float):
    profile = profile_of(("360p", ANY, 0.1))
    assert seconds(profile, "360p", granting(share, cores)) == pytest.approx(0.1 * factor)


def test_a_node_that_comes_to_grant_less_is_predicted_anew():
    profile = profile_of(("360p", ANY, 0.1))
    assert seconds(profile, "360p", granting(1.0, 4)) == pytest.approx(0.1)
    assert seconds(profile, "360p", granting(0.125, 4)) == pytest.approx(0.2)


def test_a_node_that_turns_into_a_server_is_predicted_anew():
    profile = profile_of(("360p", "edge", 0.2), ("360p", "cloud", 0.05))
    assert seconds(profile, "360p", EDGE) == 0.2
    again = NodeInfo(EDGE.node_addr, EDGE.ip, role="cloud")
    assert seconds(profile, "360p", again) == 0.05


def test_what_is_put_later_is_seen_at_once():
    profile = profile_of(("360p", ANY, 0.1))
    assert seconds(profile, "360p") == 0.1
    profile.put_cost(TASK, 0, "360p", cost(0.4))
    assert seconds(profile, "360p") == 0.4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"compute_s": math.nan}, "compute_s nan is not between 1e-06 and 600"),
        ({"compute_s": 0.0}, "compute_s 0 is not between 1e-06 and 600"),
        ({"compute_p95_s": math.inf}, "compute_p95_s inf is not between 1e-06 and 600"),
        ({"per_object_s": -1.0}, "per_object_s -1 is not between 0 and 600"),
        ({"mem_nbytes": -1}, "mem_nbytes -1 is not between 0 and 1.09951e+12"),
        ({"samples": 2_000_000}, "samples 2e+06 is not between 0 and 1e+06"),
        ({"batches": (BatchPoint(0, 0.1),)}, "batch 0 of a batch is not between 1 and 256"),
        ({"batches": (BatchPoint(257, 0.1),)}, "batch 257 of a batch is not between 1 and 256"),
        (
            {"batches": (BatchPoint(2, math.nan),)},
            "seconds nan of a batch is not between 1e-06 and 600",
        ),
        (
            {"batches": (BatchPoint(2, 0.1, 0, -1),)},
            "device_nbytes -1 of a batch is not between 0 and 1.09951e+12",
        ),
        (
            {"batches": (BatchPoint(4, 0.1), BatchPoint(4, 0.2))},
            "batch 4 does not exceed 4 before it",
        ),
        (
            {"batches": tuple(BatchPoint(n, 0.1) for n in range(1, 34))},
            "33 batches exceed 32",
        ),
    ],
)
def test_a_cost_out_of_bounds_is_refused_and_changes_nothing(values, message: str):
    profile = Profile()
    wrong = Cost(**({"compute_s": 0.1, "compute_p95_s": 0.2} | values))
    with pytest.raises(ConfigError, match=f"^cost of {TASK}: {message}$".replace("+", r"\+")):
        profile.put_cost(TASK, 0, "360p", wrong)
    assert list(profile.costs()) == []


def test_an_unknown_resolution_is_refused():
    with pytest.raises(ConfigError, match=r"^resolution '5p' is unknown, expected 360p, "):
        profile_of(("360p", ANY, 0.1)).cost(TASK, 0, "5p", EDGE)


MEASURED = st.dictionaries(
    st.sampled_from(NAMES), st.floats(1e-6, 600.0), min_size=1, max_size=len(NAMES)
)


@given(MEASURED, st.integers(1, 1 << 28))
def test_every_prediction_is_finite_and_within_bounds(measured: dict[str, float], pixels: int):
    table = CostTable()
    for name, value in measured.items():
        table.put(name, Cost(value, value, value / 10, obj_n=2.0))
    found = table.predict(pixels)
    assert 1e-6 <= found.compute_s <= 600.0
    assert 1e-6 <= found.compute_p95_s <= 600.0
    assert 0.0 <= found.per_object_s <= 600.0


@given(MEASURED)
def test_a_prediction_goes_through_all_that_was_measured(measured: dict[str, float]):
    table = CostTable()
    for name, value in measured.items():
        table.put(name, Cost(value, value))
    for name, value in measured.items():
        assert table.predict(pixels_of(name)).compute_s == value


def test_what_a_node_implies_is_found_once_and_anew_when_a_cost_comes():
    profile = profile_of(("360p", "edge", 0.1), ("720p", "edge", 0.3), ("360p", EDGE.ip, 0.2))
    profile.put_cost("car_detection", 0, "360p", cost(0.5), "edge")

    def car_s() -> float:
        return seconds(profile, "360p", task="car_detection")

    assert car_s() == pytest.approx(1.0)  # twice as slow, as at faces
    profile.put_cost(TASK, 0, "360p", cost(0.4), EDGE.ip)
    assert car_s() == pytest.approx(2.0)


def test_a_cost_is_what_was_measured_before_times_what_the_node_has_taught():
    profile = profile_of(("360p", "edge", 0.1), ("720p", "edge", 0.3))
    before = profile.version
    assert profile.observe(TASK, 0, "360p", EDGE, 0.2, 0.3, 50)
    assert profile.version == before, "what is learned changes no measured cost"
    for name in ("360p", "480p", "720p"):
        prior, learned = profile.prior(TASK, 0, name, EDGE), profile.learned(TASK, EDGE)
        assert prior is not None
        assert learned.applied(prior, 0, pixels_of(name)) == profile.cost(TASK, 0, name, EDGE)
    assert profile.prior(TASK, 0, "360p", EDGE).compute_s == 0.1
    assert profile.place(EDGE) == profile.place(NodeInfo("10.0.0.7:5001", "10.0.0.7"))
    profile.put_cost(TASK, 0, "360p", cost(0.4), EDGE.ip)
    assert profile.version > before
    assert profile.place(EDGE) == (EDGE.node_addr, EDGE.ip, "edge", ANY)


#: A frame alone takes 10 ms, four 16 ms, sixteen 40 ms; with two at work, one after the other 8 ms.
BATCHED = Cost(
    0.008, 0.009, 0.001, samples=50, obj_n=2.0,
    batches=(BatchPoint(1, 0.008), BatchPoint(4, 0.016, 100, 1000), BatchPoint(16, 0.040)),
)  # fmt: skip


def test_a_frame_takes_less_of_a_worker_in_the_best_batch_than_it_waits():
    assert BATCHED.mean_s() == pytest.approx(0.010)
    assert BATCHED.busy_share == pytest.approx(0.25)
    assert BATCHED.busy_s == pytest.approx(0.002)
    alone = Cost(0.01, 0.02)
    assert (alone.busy_share, alone.busy_s) == (1.0, 0.01)
    slower = Cost(0.01, 0.02, batches=(BatchPoint(4, 0.1),))
    assert slower.busy_s == 0.01, "a worker that is full has batches of one, too"


@pytest.mark.parametrize(
    ("batch", "stretch"), [(0, 1), (1, 1), (2.5, 1.3), (4, 1.6), (10, 2.8), (16, 4), (32, 8)]
)
def test_a_batch_takes_what_those_of_like_size_were_measured_to_take(batch, stretch):
    assert BATCHED.stretch(batch) == pytest.approx(stretch)
    assert Cost(0.01, 0.02).stretch(batch) == 1, "what a batch took counts as a frame's own"


def test_what_was_measured_in_any_batch_says_what_a_frame_takes_in_the_best():
    assert BATCHED.busy_at(0.010) == pytest.approx(0.0025)
    assert BATCHED.busy_at(0.016, 4) == pytest.approx(0.0025)
    assert BATCHED.busy_at(0.080, 16) == pytest.approx(0.005), "it is twice as slow as it was"
    assert Cost(0.01, 0.02).busy_at(0.06, 4) == 0.06, "nobody has measured what batches save"


def test_on_a_machine_that_is_slower_batches_are_as_much():
    slow = BATCHED.scaled(3.0)
    assert slow.busy_share == pytest.approx(BATCHED.busy_share)
    assert slow.batches[1] == BatchPoint(4, pytest.approx(0.048), 100, 1000)


def test_between_two_costs_batches_are_those_that_both_know_or_those_of_one():
    other = Cost(0.020, 0.02, samples=50, batches=(BatchPoint(4, 0.080, 300, 3000),))
    middle = blend(BATCHED, other, 0.5)
    # Four take 1.6 times one of here, 4 times one of there; 2.8 times one of those between.
    assert middle.batches == (BatchPoint(4, pytest.approx(2.8 * middle.mean_s()), 200, 2000),)
    alone = blend(Cost(0.020, 0.02), BATCHED, 0.5)
    assert alone.stretch(16) == pytest.approx(4)
    assert [point.batch for point in alone.batches] == [1, 4, 16]
    merged = BATCHED.merged(Cost(0.030, 0.03, samples=50))
    assert merged.busy_share == pytest.approx(0.25)
