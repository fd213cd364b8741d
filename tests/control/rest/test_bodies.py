"""Bodies of `/execute_task`, of any service."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag import _native as native
from vdag.control.rest.bodies import read_reply, write_request
from vdag.errors import FrameFormatError, GraphError, ImageError, VdagError
from vdag.graph import Graph
from vdag.tasks import signatures
from vdag.transport import context as wire_context

GRAPH = Graph.chain("face_detection", "face_alignment").check(signatures())
IMAGE = np.full((6, 8, 3), 100, np.uint8)


def reply(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_request_has_the_inputs_of_the_task():
    found = {"bbox": np.ones((1, 4), np.float32), "prob": np.array([0.5], np.float32)}
    crops = [IMAGE, IMAGE]
    context = {"face_detection": {**found, "faces": crops}}
    body = json.loads(write_request(GRAPH, "face_alignment", {"image": IMAGE, "seq": 0}, context))
    assert (body["bbox"], body["prob"]) == ([[1.0] * 4], [0.5])
    pixels = native.jpeg.decode(native.literal.decode(body["faces"][1], max_nbytes=10_000))
    assert pixels.shape == (6, 8, 3)
    assert "landmarks" not in body  # which services of other makes do not find


def test_a_frame_without_what_the_task_needs_is_not_sent():
    text = r"^input bbox of face_alignment: the frame has no face_detection.bbox$"
    with pytest.raises(GraphError, match=text):
        write_request(GRAPH, "face_alignment", {"image": IMAGE, "seq": 0}, {"face_detection": {}})


def test_what_is_no_picture_is_not_sent():
    with pytest.raises(ImageError, match=r"^picture is a ndarray, not pixels of 8 bits$"):
        write_request(GRAPH, "face_detection", {"image": IMAGE.astype(np.float32)}, {})


def test_a_reply_of_each_version_becomes_what_workers_find():
    found = read_reply(
        reply(
            bbox=[[0.5, 1.5, 20, 20.25]], prob=[0.98], head_pose=[[1, 2, 3]], faces=["b''"],
            result=[[1, 2, 3, 4, 0.5, 2]], count_result={"up": 1}, gender_result=["f"],
            proc_resource_info={"pid": 12, "compute_latency": 0.25}, task_conf={}, status=0,
        ),
        (),
    )  # fmt: skip
    outputs = found.outputs
    assert outputs.keys() == {
        "bbox", "prob", "head_pose", "result", "count_result", "gender_result",
    }  # fmt: skip
    for name, shape in (
        ("bbox", (1, 4)),
        ("prob", (1,)),
        ("head_pose", (1, 3)),
        ("result", (1, 6)),
    ):
        assert (outputs[name].dtype, outputs[name].shape) == (np.float32, shape)
    assert (found.pid, found.compute_ns) == (12, 250_000_000)


def test_nothing_found_is_arrays_of_no_rows():
    outputs = read_reply(reply(bbox=[], prob=[], faces=[]), ("faces",)).outputs
    assert (outputs["bbox"].shape, outputs["prob"].shape, outputs["faces"]) == ((0, 4), (0,), [])


def test_numbers_by_kind_of_the_first_version_are_counts():
    outputs = read_reply(reply(result={"truck": 2, "car": 6}), ()).outputs
    assert outputs == {"count_result": {"truck": 2, "car": 6}}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", r"^reply is no JSON object: "),
        (b"null", r"^reply is no JSON object: "),
        (b"{}", r"^the service answers: nothing$"),
        (reply(status=1, error="unregistered services"), "^the service answers: unregistered"),
        (reply(status=0, msg="later"), r"^the service answers: later$"),
        (reply(bbox=[[1, 2]]), r"^reply.bbox has shape \(1, 2\), expected rows of 4$"),
        (reply(bbox=[[1, 2, 3, 4], [1]]), r"^reply.bbox is no list of numbers$"),
        (reply(prob=[[0.5]]), r"^reply.prob has shape \(1, 1\), expected numbers$"),
        (reply(prob=[None]), r"^reply.prob has a number that is none$"),
        (reply(prob=[1e300]), r"^reply.prob has a number that is none$"),
        (reply(bbox={}), r"^reply.bbox is a dict, expected a list$"),
        (reply(count_result=[1]), r"^reply.count_result is a list, expected an object$"),
        (reply(count_result={"up": True}), r"^reply.count_result.up is no number$"),
        (reply(more=[{"a": 1 << 64}]), r"^reply.more has an integer of more than 64 bits$"),
    ],
)
def test_what_is_no_reply_is_refused(body, text):
    with pytest.raises(FrameFormatError, match=text):
        read_reply(body, ())


@pytest.mark.parametrize("faces", ["b''", [3], {"a": 1}, ["b'abc'"], ["x"] * 257])
def test_pictures_that_are_none_are_refused_where_they_are_wanted(faces):
    assert read_reply(reply(faces=faces, bbox=[]), ()).outputs.keys() == {"bbox"}
    with pytest.raises(ImageError):
        read_reply(reply(faces=faces, bbox=[]), ("faces",))


@pytest.mark.parametrize(
    "info",
    [None, 3, {}, {"pid": "x", "compute_latency": "y"}, {"pid": True, "compute_latency": True},
     {"pid": -1, "compute_latency": -1}, {"pid": 1 << 40, "compute_latency": 1e9}],
)  # fmt: skip
def test_remarks_that_make_no_sense_are_left_out(info):
    found = read_reply(reply(bbox=[], proc_resource_info=info), ())
    assert (found.pid, found.compute_ns) == (0, 0)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(
    ["bbox", "prob", "faces", "image", "result", "count_result", "head_pose", "error", "msg",
     "proc_resource_info", "more"]
)  # fmt: skip


@given(st.dictionaries(names, values, max_size=5) | values, st.sets(st.just("faces")))
def test_whatever_a_service_answers_can_travel_or_is_refused(answer, taken):
    body = msgspec.json.encode(answer)
    try:
        found = read_reply(body, taken)
    except VdagError:
        return
    wire_context.unpack(memoryview(b"".join(wire_context.pack({"t": found.outputs}))))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_reply_or_refused(body):
    try:
        read_reply(body, ("faces",))
    except VdagError:
        return
