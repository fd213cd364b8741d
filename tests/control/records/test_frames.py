"""Frame objects of all makes, as they are kept."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.control.records import FrameResult, read_frame
from vdag.errors import ConfigError, PayloadTooLarge

KEYS = {"count_result", "frame_id", "n_loop", "delay", "ext_plan", "ext_runtime"}
PLAN = {"video_conf": {"fps": 30}, "flow_mapping": {}}


def kept(item: object, **more: object) -> dict[str, object]:
    found = read_frame(item, **more)
    document: dict[str, object] = msgspec.json.decode(found.document)
    assert document.keys() >= KEYS
    return document


@pytest.mark.parametrize(
    ("item", "counts"),
    [
        ({"count_result": {"up": 1, "total": 2}}, {"up": 1, "total": 2}),
        ({"bbox": [[1, 2, 3, 4]] * 3}, {"total": 3}),
        ({"result": [], "n_loop": 3}, {"total": 0}),
        ({"n_loop": 2, "total": 4, "up": 3, "delay": 0.1, "obj_n": 9}, {"total": 4, "up": 3}),
        ({"count_result": None, "is_late": True}, {}),
        (7, {"total": 7}),
        (None, {}),
        ({}, {}),
    ],
)
def test_every_result_has_counts(item, counts):
    assert kept(item)["count_result"] == counts


def test_a_plan_beside_stands_in_for_one_that_is_missing():
    assert kept({"n_loop": 1}, plan=PLAN)["ext_plan"] == PLAN
    assert kept({"ext_plan": {"video_conf": {}}}, plan=PLAN)["ext_plan"] == {"video_conf": {}}
    assert kept({})["ext_plan"] == {"video_conf": None, "flow_mapping": None}
    assert read_frame({}).plan is None
    assert read_frame({}, plan=PLAN).plan == PLAN


def test_numbers_are_read_whichever_way_they_are_written():
    found = read_frame({"n_loop": 3.0, "frame_id": 25, "delay": 0})
    assert (found.n_loop, found.frame_id) == (3, 25)
    assert type(found.n_loop) is int


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("text", "a result is a str, expected an object or a number"),
        (True, "a result is a bool, expected an object or a number"),
        ([1], "a result is a list, expected an object or a number"),
        ({"n_loop": 1.5}, "n_loop is '1.5', expected 0 to 8796093022208"),
        ({"n_loop": True}, "n_loop is 'True', expected 0 to 8796093022208"),
        ({"n_loop": 1 << 60}, "n_loop is '1152921504606846976', expected 0 to 8796093022208"),
        ({"frame_id": "3"}, "frame_id is '3', expected a number"),
        ({"delay": float("nan")}, "delay is 'nan', expected a number"),
        ({"ext_runtime": 3}, "ext_runtime is a int, expected an object"),
    ],
)
def test_what_is_no_result_is_refused(item, error):
    with pytest.raises(ConfigError) as caught:
        read_frame(item)
    assert str(caught.value) == error


def test_what_is_too_large_loses_what_is_not_needed_and_is_refused_if_that_is_too_large():
    assert kept({"n_loop": 1, "blob": "x" * 300_000})["is_shortened"] is True
    with pytest.raises(PayloadTooLarge, match=r"^result of \d+ bytes exceeds 262144$"):
        read_frame({"count_result": {"x": "y" * 300_000}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=5)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3),
    max_leaves=8,
)  # fmt: skip
NAMES = st.sampled_from([*sorted(KEYS), "bbox", "faces", "total", "result"])


@given(st.one_of(JSON, st.dictionaries(NAMES, JSON, max_size=5)))
def test_anything_is_a_result_of_that_shape_or_refused(item):
    try:
        found = read_frame(item)
    except (ConfigError, PayloadTooLarge):
        return
    assert isinstance(found, FrameResult)
    document = msgspec.json.decode(found.document)
    assert document.keys() >= KEYS
    assert isinstance(document["count_result"], dict)
    again = read_frame(document)
    assert msgspec.json.decode(again.document) == document
