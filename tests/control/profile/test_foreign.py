from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.profile import AccuracyPoint, Cost, FrameSize, Profile
from vdag.control.profile.costs import BatchPoint
from vdag.control.profile.foreign import read_foreign, table
from vdag.control.scheduling.events import NodeInfo
from vdag.errors import ConfigError

EDGE = NodeInfo("10.0.0.2:5001", "10.0.0.2")
CLOUD = NodeInfo("10.0.0.9:5001", "10.0.0.9", role="cloud")
LINES = """\
360p\tedge\t0.117
480p\tedge\t0.162
720p\tedge\t0.382
1080p\tedge\t1.157
360p\tcloud\t0.022
480p\tcloud\t0.040
720p\tcloud\t0.069
1080p\tcloud\t0.141
"""
KEY = (
    "reso={} fps={} encoder=JPEG face_detection_ip={} "
    "face_detection_cpu_util_limit={} face_detection_mem_util_limit=0.014 "
)


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def seconds(profile: Profile, task: str, resolution: str, node: NodeInfo) -> float:
    cost = profile.cost(task, 0, resolution, node)
    assert cost is not None
    return cost.compute_s


def test_a_table_has_seconds_per_frame_by_resolution_and_role(tmp_path: Path):
    profile = read_foreign(written(tmp_path, "face_detection.pf", LINES))
    assert seconds(profile, "face_detection", "720p", EDGE) == 0.382
    assert seconds(profile, "face_detection", "1080p", CLOUD) == 0.141
    assert 0.162 < seconds(profile, "face_detection", "540p", EDGE) < 0.382


def test_the_table_with_the_misspelt_name_is_that_of_face_alignment(tmp_path: Path):
    profile = read_foreign(written(tmp_path, "face_aligment.pf", "360p\tedge\t0.190\n"))
    assert seconds(profile, "face_alignment", "360p", EDGE) == 0.190


def test_a_table_holds_for_a_place_that_is_told(tmp_path: Path):
    path = written(tmp_path, "face_detection.pf", "360p\tedge\t0.117\n")
    assert {row.place for row in read_foreign(path, EDGE.node_addr).costs()} == {EDGE.node_addr}


def test_several_lines_of_one_cell_are_samples_of_it(tmp_path: Path):
    path = written(tmp_path, "t.pf", "360p edge 0.1\n\n360p host 0.3\n")
    (row,) = read_foreign(path).costs()
    assert (row.cost.compute_s, row.cost.compute_p95_s) == pytest.approx((0.2, 0.3))
    assert row.cost.samples == 2


def test_keys_have_seconds_by_resolution_and_address(tmp_path: Path):
    text = json.dumps({KEY.format("720p", 10, EDGE.ip, 1.0): 0.6868594719303979})
    profile = read_foreign(written(tmp_path, "face_detection.json", text))
    assert seconds(profile, "face_detection", "720p", EDGE) == 0.6868594719303979


def test_keys_may_have_lists_of_samples(tmp_path: Path):
    text = json.dumps({KEY.format("720p", 30, EDGE.ip, 1.0): [0.1, 0.2, 0.6]})
    (row,) = read_foreign(written(tmp_path, "kb.json", text)).costs()
    assert row.cost.compute_s == pytest.approx(0.3)
    assert (row.cost.compute_p50_s, row.cost.compute_p95_s, row.cost.samples) == (0.2, 0.6, 3)


def test_of_keys_that_grant_different_shares_the_largest_counts(tmp_path: Path):
    keys = {
        KEY.format("720p", 10, EDGE.ip, 0.15): 2.0,
        KEY.format("720p", 10, EDGE.ip, 0.95): 0.4,
        KEY.format("720p", 20, EDGE.ip, 0.95): 0.6,
        KEY.format("720p", 20, EDGE.ip, 0.5): 0.9,
    }
    (row,) = read_foreign(written(tmp_path, "kb.json", json.dumps(keys))).costs()
    assert row.cost.compute_s == pytest.approx(0.5)
    assert row.cost.samples == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "", "t.txt ends in neither .pf nor .json"),
        ("t.pf", "", "t.pf has nothing in it"),
        ("t.pf", "360p edge\n", "t.pf:1: expected resolution, edge or cloud, and seconds"),
        ("t.pf", "360p fog 1\n", "t.pf:1: expected resolution, edge or cloud, and seconds"),
        ("t.pf", "5p edge 1\n", "t.pf:1: resolution '5p' is unknown"),
        ("t.pf", "360p edge soon\n", "t.pf:1: 'soon' is no number"),
        ("t.pf", "360p edge nan\n", "t.pf:1: nan is not between 1e-06 and 600"),
        ("t.pf", "360p edge -1\n", "t.pf:1: -1 is not between 1e-06 and 600"),
        ("t.pf", "360p edge 1\n" * 10_001, "t.pf has 10001 lines, expected at most 10000"),
        ("t.json", "{", "t.json has no keys with seconds: Input data was truncated"),
        ("t.json", "{}", "t.json has nothing in it"),
        ("t.json", '{"x": 1}', "t.json: 'x' is no key: it names no resolution or not one task"),
        (
            "t.json",
            '{"reso=360p a_ip=1 b_ip=2 ": 1}',
            "t.json: 'reso=360p a_ip=1 b_ip=2 ' is no key: it names no resolution or not one task",
        ),
        (
            "t.json",
            '{"reso=360p a_ip=1": "__import__(1)"}',
            r"t.json has no keys with seconds: Expected `float \| array`, got `str` - "
            r"at `\$\[\.\.\.\]`",
        ),
        ("t.json", '{"reso=360p a_ip=1": []}', "t.json: 'reso=360p a_ip=1' has 0 samples"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(ConfigError, match=rf"^\S*{message}$"):
        read_foreign(written(tmp_path, name, text))


def test_what_is_no_text_is_told(tmp_path: Path):
    path = tmp_path / "t.pf"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^\S*t.pf is no text$"):
        read_foreign(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".pf", ".json"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data: bytes, suffix: str):
    path = tmp_path_factory.mktemp("any") / f"t{suffix}"
    path.write_bytes(data)
    try:
        profile = read_foreign(path)
    except ConfigError:
        return
    assert Profile.from_bytes(profile.to_bytes()).to_bytes() == profile.to_bytes()


def test_every_part_of_a_profile_can_be_exported_as_csv():
    profile = Profile()
    batches = (BatchPoint(4, 0.25, 8192, 1 << 30),)
    cost = Cost(0.1, 0.2, 0.01, 4096, 64, 9, 2.0, 0.09, 0.3, batches)
    profile.put_cost("t", 1, "360p", cost, "edge")
    profile.put_accuracy("t", 1, AccuracyPoint("360p", 12.5, 0.75, 9))
    profile.put_frame(FrameSize("360p", "JPEG", 20_000.0, 9))
    rows = {
        kind: list(csv.DictReader(io.StringIO(table(profile, kind))))
        for kind in ("costs", "batches", "accuracy", "frames")
    }
    assert rows["costs"] == [
        {
            "task": "t", "model_id": "1", "resolution": "360p", "place": "edge",
            "compute_s": "0.1", "compute_p50_s": "0.09", "compute_p95_s": "0.2",
            "compute_p99_s": "0.3", "per_object_s": "0.01", "obj_n": "2", "mem_nbytes": "4096",
            "out_nbytes": "64", "samples": "9",
        }
    ]  # fmt: skip
    assert rows["batches"] == [
        {
            "task": "t", "model_id": "1", "resolution": "360p", "place": "edge", "batch": "4",
            "seconds": "0.25", "mem_nbytes": "8192", "device_nbytes": str(1 << 30),
        }
    ]  # fmt: skip
    assert rows["accuracy"] == [
        {
            "task": "t", "model_id": "1", "resolution": "360p", "fps": "12.5", "accuracy": "0.75",
            "obj_size": "0", "obj_speed": "0", "cam_fps": "30", "samples": "9",
        }
    ]  # fmt: skip
    assert rows["frames"] == [
        {"resolution": "360p", "encoder": "JPEG", "nbytes": "20000", "samples": "9"}
    ]


def test_an_unknown_table_is_refused():
    with pytest.raises(
        ConfigError, match=r"^'x' is no table, expected one of costs, batches, accuracy, frames$"
    ):
        table(Profile(), "x")
