from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.profile import (
    DEFAULT_PATH,
    AccuracyPoint,
    Cost,
    FrameSize,
    Profile,
    Scene,
)
from vdag.control.profile.costs import BatchPoint
from vdag.control.profile.document import MAX_NBYTES
from vdag.control.profile.files import write_atomically
from vdag.control.scheduling.events import NodeInfo
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS

NODE = NodeInfo("10.0.0.2:5001", "10.0.0.2")
TASKS = ("car_detection", "face_alignment", "face_detection", "helmet_detection")


@pytest.fixture
def profile() -> Profile:
    profile = Profile()
    profile.about = {"cpu": "a good one", "date": "2026-11-22"}
    batches = (BatchPoint(2, 0.15), BatchPoint(8, 0.4, 1 << 30, 1 << 31))
    measured = Cost(0.1, 0.2, 0.003, 1 << 20, 512, 90, 4.0, 0.09, 0.3, batches)
    profile.put_cost("face_detection", 1, "720p", measured, "edge")
    profile.put_cost("face_detection", 0, "360p", Cost(0.05, 0.07, samples=10))
    scene = Scene(2_000.0, 130.0, 25.0)
    profile.put_accuracy("face_detection", 1, AccuracyPoint("720p", 12.5, 0.875, 60, scene))
    profile.put_frame(FrameSize("720p", "JPEG", 60_000.0, 90))
    for _ in range(3):
        assert profile.observe("face_detection", 1, "720p", NODE, 0.4, 0.6, 20)
        assert profile.observe("face_detection", 0, "360p", NODE, 0.4, 0.6, 20, batch=4)
    return profile


def test_a_profile_is_the_same_after_it_was_written_and_read(profile: Profile):
    again = Profile.from_bytes(profile.to_bytes())
    assert again.to_bytes() == profile.to_bytes()
    assert sorted(again.costs()) == sorted(profile.costs())
    assert list(again.accuracies()) == list(profile.accuracies())
    assert list(again.frames()) == list(profile.frames())
    assert again.about == profile.about
    assert again.slowdown(NODE, "face_detection") == pytest.approx(
        profile.slowdown(NODE, "face_detection"), rel=1e-4
    )


def test_a_file_is_the_same_after_it_was_saved_and_loaded(profile: Profile, tmp_path: Path):
    path = tmp_path / "profile.json"
    profile.save(path)
    assert Profile.load(path).to_bytes() == profile.to_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["profile.json"]


def test_the_document_is_json_with_a_version(profile: Profile):
    document = json.loads(profile.to_bytes())
    assert document["format"] == "vdag-profile"
    assert document["version"] == 1
    assert {entry["task"] for entry in document["costs"]} == {"face_detection"}
    assert [entry.get("batches") for entry in document["costs"]] == [
        None,
        [
            {"batch": 2, "seconds": 0.15},
            {"batch": 8, "seconds": 0.4, "mem_nbytes": 1 << 30, "device_nbytes": 1 << 31},
        ],
    ]


def test_an_empty_profile_can_be_written_and_read():
    assert list(Profile.from_bytes(Profile().to_bytes()).costs()) == []


def document(**parts: object) -> bytes:
    return json.dumps({"format": "vdag-profile", "version": 1, **parts}).encode()


COST = {
    "task": "t", "model_id": 0, "resolution": "360p", "compute_s": 0.1, "compute_p95_s": 0.1,
}  # fmt: skip
POINT = {"task": "t", "model_id": 0, "resolution": "360p", "fps": 30, "accuracy": 0.5}
TAUGHT = {"node_addr": "a:1", "task": "t", "slowdown": 2.0, "frames": 20.0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "p.json is no profile: Input data was truncated"),
        (b"[]", "p.json is no profile: Expected `object`, got `array`"),
        (b"{}", "p.json is no profile: format is '', not 'vdag-profile'"),
        (document(version=2), "p.json is a profile of version 2, known are those up to 1"),
        (document(version=0), "p.json is a profile of version 0, known are those up to 1"),
        (
            document(costs=[COST | {"compute_s": "0.1"}]),
            r"p.json is no profile: Expected `float`, got `str` - at `\$.costs\[0\].compute_s`",
        ),
        (
            document(costs=[COST | {"komputes": 1}]),
            "p.json is no profile: Object contains unknown field `komputes` - "
            r"at `\$.costs\[0\]`",
        ),
        (
            document(costs=[COST | {"compute_s": -1}]),
            "p.json: cost of t: compute_s -1 is not between 1e-06 and 600",
        ),
        (
            document(costs=[COST | {"resolution": "5p"}]),
            "p.json: resolution '5p' is unknown, expected 360p, .*",
        ),
        (
            document(costs=[COST | {"model_id": 100}]),
            "p.json: cost of t: model_id 100 is not 0 to 99",
        ),
        (
            document(costs=[COST | {"task": ""}]),
            "p.json: name of a task has 0 characters, expected 1 to 256",
        ),
        (
            document(accuracy=[POINT | {"accuracy": 2}]),
            "p.json: accuracy of t: accuracy 2 is not between 0 and 1",
        ),
        (
            document(frames=[{"resolution": "360p", "encoder": "PNG", "nbytes": 1e4}]),
            "p.json: encoder 'PNG' is not one of JPEG, H264, raw",
        ),
        (
            document(nodes=[TAUGHT | {"slowdown": 0}]),
            "p.json: what node a:1 has taught is out of bounds",
        ),
        (
            document(nodes=[TAUGHT | {"corrections": [[0, 9, 1e9]]}]),
            "p.json: what node a:1 has taught is out of bounds",
        ),
        (
            document(costs=[COST | {"batches": [{"batch": 2, "seconds": 0}]}]),
            "p.json: cost of t: seconds 0 of a batch is not between 1e-06 and 600",
        ),
        (
            document(costs=[COST | {"batches": [{"batch": 2, "second": 1.0}]}]),
            "p.json is no profile: Object contains unknown field `second` - "
            r"at `\$.costs\[0\].batches\[0\]`",
        ),
        (document(about={"note": "x" * 5000}), "p.json: about exceeds 4096 bytes"),
    ],
)
def test_a_document_that_is_none_is_refused(data: bytes, message: str):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Profile.from_bytes(data, "p.json")


def test_a_document_too_large_is_refused_before_it_is_parsed():
    with pytest.raises(
        ConfigError, match=rf"^p has {MAX_NBYTES + 1} bytes, a profile has at most {MAX_NBYTES}$"
    ):
        Profile.from_bytes(b" " * (MAX_NBYTES + 1), "p")


def test_a_file_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^cannot read \S+/none: No such file or directory$"):
        Profile.load(tmp_path / "none")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^cannot write \S+/x/p.json: No such file"):
        Profile().save(tmp_path / "x" / "p.json")


def test_a_file_that_cannot_be_written_is_left_as_it_was(profile: Profile, tmp_path: Path):
    path = tmp_path / "profile.json"
    path.mkdir()  # nothing can be put in its place
    with pytest.raises(ConfigError, match=r"^cannot write \S+: Is a directory$"):
        profile.save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["profile.json"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_what_two_profiles_have_becomes_the_mean_by_samples():
    first, second = Profile(), Profile()
    first.put_cost("t", 0, "360p", Cost(0.1, 0.2, samples=30))
    second.put_cost("t", 0, "360p", Cost(0.2, 0.4, samples=10))
    second.put_cost("t", 0, "720p", Cost(0.5, 0.6, samples=10))
    first.put_accuracy("t", 0, AccuracyPoint("360p", 30, 0.6, 30))
    second.put_accuracy("t", 0, AccuracyPoint("360p", 30, 1.0, 10))
    first.put_frame(FrameSize("360p", "JPEG", 10_000.0, 30))
    second.put_frame(FrameSize("360p", "JPEG", 20_000.0, 10))
    first.merge(second)
    found = {row.resolution: row.cost for row in first.costs()}
    assert found["360p"].compute_s == pytest.approx(0.125)
    assert found["360p"].compute_p95_s == pytest.approx(0.25)
    assert found["360p"].samples == 40
    assert found["720p"].compute_s == 0.5
    assert first.accuracy("t", 0, "360p", 30) == pytest.approx(0.7)
    assert first.frame_nbytes("360p", "JPEG") == pytest.approx(12_500.0)


def test_what_nodes_have_taught_is_merged_and_then_goes_its_own_way(profile: Profile):
    merged = Profile()
    merged.merge(profile)
    taught = merged.slowdown(NODE, "face_detection")
    assert taught == profile.slowdown(NODE, "face_detection")
    for _ in range(5):
        assert profile.observe("face_detection", 1, "720p", NODE, 0.1, 0.1, 20)
    assert merged.slowdown(NODE, "face_detection") == taught


def test_the_profile_of_the_package_knows_all_tasks_and_models():
    known = Profile.default()
    assert known.about.keys() >= {"cpu", "cores", "date", "video"}
    for task in TASKS:
        costs = [known.cost(task, 0, resolution, NODE) for resolution in RESOLUTIONS]
        assert all(cost is not None and cost.mem_nbytes and cost.out_nbytes for cost in costs)
    measured = {(row.task, row.model_id) for row in known.costs()}
    assert measured == {
        *(("face_detection", model_id) for model_id in range(3)),
        *(("car_detection", model_id) for model_id in range(3)),
        ("face_alignment", 0),
        ("helmet_detection", 0),
    }
    assert {(size.resolution, size.encoder) for size in known.frames()} == {
        (resolution, encoder) for resolution in RESOLUTIONS for encoder in ("JPEG", "H264")
    }


def test_in_the_profile_of_the_package_smaller_models_take_less():
    known = Profile.default()
    for task in ("face_detection", "car_detection"):
        costs = [known.cost(task, model_id, "1080p", NODE) for model_id in range(3)]
        times = [cost.mean_s() for cost in costs if cost is not None]
        assert times == sorted(times, reverse=True)
        assert len(times) == 3


def test_the_profile_of_the_package_is_as_it_would_be_written():
    assert Profile.default().to_bytes() == DEFAULT_PATH.read_bytes()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.builds(lambda a, b, c, d: document(costs=a, accuracy=b, frames=c, nodes=d),
                  *[st.lists(JSON | st.builds(lambda extra, base=base: base | extra,
                                              st.dictionaries(st.sampled_from(list(base)), JSON)),
                             max_size=3) for base in (COST, POINT, {"nbytes": 1}, TAUGHT)]),
    )
)  # fmt: skip
def test_any_bytes_are_a_profile_or_are_refused(data: bytes):
    try:
        profile = Profile.from_bytes(data)
    except ConfigError:
        return
    assert Profile.from_bytes(profile.to_bytes()).to_bytes() == profile.to_bytes()
