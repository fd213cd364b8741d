from __future__ import annotations

import json
import re
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag import tasks
from vdag.control.service import schemas
from vdag.control.service.images import Bounds
from vdag.control.service.schemas import LimitProcess, LimitTask, RequestReader, read_json
from vdag.errors import ConfigError, ImageError

JSON, MSGPACK = "application/json", "application/msgpack"
TASKS = ("face_detection", "face_alignment", "car_detection", "helmet_detection")
READERS = {
    task: RequestReader(task, tasks.find(task).signature, Bounds(max_pictures=8)) for task in TASKS
}


def read(task, content, kind=JSON, **options):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return READERS[task].read(body, kind, **options)


def form(parts):
    """A body of multipart/form-data, and its type."""
    pieces = []
    for name, content in parts:
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'
        pieces += [head.encode(), content, b"\r\n"]
    return b"".join([*pieces, b"--XX--\r\n"]), "multipart/form-data; boundary=XX"


def test_fields_that_no_task_takes_are_skipped(literal):
    order = read("face_detection", {"image": literal, "other": [1, {"x": 2}], "bbox": "none"})
    (work,) = order.works
    assert (work.task, len(work.pictures), work.fields) == ("face_detection", 1, {})
    assert not order.is_list


def test_the_four_encodings_mean_the_same(literal, jpeg):
    boxes = [[1, 2, 3, 4.5]]
    bodies = [
        (json.dumps({"image": literal, "bbox": boxes}).encode(), JSON),
        (msgspec.msgpack.encode({"image": jpeg, "bbox": boxes}), MSGPACK),
        form([("image", jpeg), ("bbox", json.dumps(boxes).encode())]),
        form([("image", literal.encode()), ("bbox", json.dumps(boxes).encode())]),
    ]
    for body, kind in bodies:
        (work,) = READERS["face_alignment"].read(body, kind).works
        assert [(p.width, p.height) for p in work.pictures] == [(176, 144)]
        assert work.fields["bbox"].dtype == np.float32
        assert work.fields["bbox"].tolist() == boxes
    (work,) = READERS["face_detection"].read(jpeg, "image/jpeg").works
    assert work.pixels == 176 * 144


def test_a_body_without_a_type_is_json(literal):
    assert len(read("face_detection", {"image": literal}, "").works) == 1


def test_faces_go_with_their_boxes(literal):
    (work,) = read("face_alignment", {"faces": [literal], "bbox": [[1, 2, 3, 4]], "prob": []}).works
    assert (len(work.faces), work.pictures) == (1, ())
    assert work.fields["prob"].shape == (0,)
    with pytest.raises(ConfigError, match=r"^1 faces do not go with 2 boxes$"):
        read("face_alignment", {"faces": [literal], "bbox": [[1, 2, 3, 4]] * 2})


def test_of_a_picture_and_its_parts_the_picture_is_looked_at(literal):
    request = {"image": literal, "faces": [literal], "bbox": [[1, 2, 3, 4]]}
    (work,) = read("face_alignment", request).works
    assert (work.faces, len(work.pictures)) == (None, 1)


@pytest.mark.parametrize("field", ["clip", "image_list"])
def test_a_task_that_takes_clips_gets_a_list_as_one(field):
    (work,) = read("helmet_detection", {field: [[[1, 1], [1, 1]], [[2, 2], [2, 2]]]}).works
    assert (work.is_clip, len(work.pictures)) == (True, 2)


def test_a_list_is_worked_on_one_by_one(literal):
    order = read("face_detection", {"image_list": [literal] * 3}, is_list=True)
    assert (len(order.works), order.is_list) == (3, True)
    assert read("face_detection", {"image_list": [literal] * 3}).is_list
    assert read("face_detection", {"image_list": []}, is_list=True).works == []


def test_a_task_that_takes_boxes_gets_the_whole_of_each_picture_of_a_list(literal):
    order = read("face_alignment", {"image_list": [literal]}, is_list=True)
    assert order.works[0].fields["bbox"].tolist() == [[0, 0, 176, 144]]


def test_task_conf_is_kept(literal):
    conf = {"fps": 30, "resolution": {"w": 1, "h": 2}, "encoder": "JPEG"}
    assert read("face_detection", {"image": literal, "task_conf": conf}).conf == conf


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("face_detection", {}, "face_detection needs the field image"),
        ("face_detection", {"image": None}, "face_detection needs the field image"),
        ("face_alignment", {"faces": []}, "face_alignment needs the field bbox"),
        ("face_alignment", {"bbox": []}, "face_alignment needs one of the fields faces, image"),
        ("helmet_detection", {}, "helmet_detection needs one of the fields clip, image"),
        ("helmet_detection", {"clip": []}, "clip has no pictures"),
        ("face_detection", b"{", "body is malformed: input data was truncated"),
        ("face_detection", b"[]", "body is malformed: expected object, got array"),
        ("face_alignment", {"image": "x", "bbox": [[1, 2, 3]]},
         "field bbox: [0]: expected array of length 4"),
        ("face_alignment", {"image": "x", "bbox": [["1", 2, 3, 4]]},
         "field bbox: [0][0]: expected float, got str"),
        ("face_alignment", {"image": "x", "bbox": [[1e300, 2, 3, 4]]},
         "bbox has a number that is not finite"),
        ("face_detection", {"image": "x", "task_conf": 3},
         "field task_conf: expected object, got int"),
        ("face_detection", {"image": "x", "task_conf": {"a": "b" * 5000}},
         "field task_conf of 5009 bytes exceeds limit 4096"),
    ],
)  # fmt: skip
def test_a_request_without_meaning_says_why(task, content, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read(task, content)


def test_a_list_without_a_list_says_so(literal):
    with pytest.raises(ConfigError, match=r"^field image_list is missing$"):
        read("face_detection", {"image": literal}, is_list=True)


def test_a_broken_picture_is_named_by_its_field():
    with pytest.raises(ImageError, match=r"^field image: picture is an empty list$"):
        read("face_detection", {"image": []})


def test_infinite_numbers_of_messagepack_are_refused(jpeg):
    body = msgspec.msgpack.encode({"image": jpeg, "bbox": [[float("nan"), 1, 2, 3]]})
    with pytest.raises(ConfigError, match=r"^bbox has a number that is not finite$"):
        READERS["face_alignment"].read(body, MSGPACK)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", "multipart/form-data", "multipart body without a boundary of 1 to 70 characters"),
        (form([("image", b"x")])[0][:-4], "multipart/form-data; boundary=XX",
         "multipart body is not complete"),
        (form([("image", b"x")] * 40)[0], "multipart/form-data; boundary=XX",
         "multipart body has more than 11 parts"),
        (form([("", b"x")])[0], "multipart/form-data; boundary=XX",
         "part of a multipart body has no name"),
        (form([("image", b"x"), ("image", b"y")])[0], "multipart/form-data; boundary=XX",
         "field image is there 2 times"),
    ],
)  # fmt: skip
def test_a_form_without_meaning_says_why(body, kind, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        READERS["face_detection"].read(body, kind)


def test_a_part_with_an_endless_header_is_refused():
    body = b'--XX\r\nContent-Disposition: form-data; name="' + b"a" * 5000
    # By us, or by the parser: newer ones have a limit of their own.
    with pytest.raises(ConfigError, match=r"header"):
        READERS["face_detection"].read(body, "multipart/form-data; boundary=XX")


@given(st.binary(max_size=300), st.sampled_from([JSON, MSGPACK, form([])[1], "image/jpeg"]))
def test_whatever_body_comes_the_answer_is_an_order_or_an_error(body, kind):
    for reader in READERS.values():
        with suppress(ConfigError, ImageError):
            reader.read(body, kind)


def test_limits_are_read_by_the_names_of_documents_and_of_callers():
    order = read_json(b'{"task_name": "a", "cpu_util_limit": 1, "mem_limit": 0.4}', LimitTask)
    assert (order.cpu_util_limit, order.mem_limit, order.mem_util_limit) == (1.0, 0.4, None)
    order = read_json(b'{"task_name": "a", "pid": 7, "cpu_set_cpus": [0, 1]}', LimitProcess)
    assert (order.pid, order.cpu_set_cpus) == (7, [0, 1])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "body is malformed: object missing required field task_name"),
        (b'{"task_name": "a", "cpu_util_limit": 0}',
         "body is malformed: cpu_util_limit: expected float > 0.0"),
        (b'{"task_name": "a", "cpu_util_limit": "1"}',
         "body is malformed: cpu_util_limit: expected float | null, got str"),
        (b'{"task_name": ""}', "body is malformed: task_name: expected str of length >= 1"),
    ],
)  # fmt: skip
def test_limits_without_meaning_say_why(body, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read_json(body, LimitTask)


def test_a_large_order_is_refused():
    with pytest.raises(ConfigError, match=r"^field body of 2000000 bytes exceeds limit 1048576$"):
        read_json(bytes(2_000_000), schemas.AddWorker)
