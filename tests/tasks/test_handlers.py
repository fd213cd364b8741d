"""The documents' handlers at work on real pictures."""

from __future__ import annotations

from contextlib import closing

import cv2
import numpy as np
import pytest
from handler_kit import load, run

from vdag.control.service import replies
from vdag.control.service.execution import Answer
from vdag.control.service.schemas import Order, Work
from vdag.control.service.staff import ProcessState
from vdag.errors import ConfigError, ImageError


@pytest.mark.parametrize(("width", "height"), [(88, 72), (352, 288), (176, 10), (1, 1)])
def test_a_picture_is_resized_to_what_was_asked_for(face, width, height):
    image = run("resize", {"image": face}, width=width, height=height)["image"]
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert abs(float(image.mean()) - float(face.mean())) < 40


def test_a_picture_of_the_right_size_is_left_alone(face):
    assert run("resize", {"image": face}, width=176, height=144)["image"] is face


def test_a_jpeg_is_bytes_and_becomes_the_picture_again(face):
    jpeg = run("encode", {"image": face}, quality=95)["jpeg"]
    assert jpeg.dtype == np.uint8
    assert jpeg.ndim == 1
    assert bytes(jpeg[:2]) == b"\xff\xd8"
    worse = run("encode", {"image": face}, quality=0)["jpeg"]
    assert len(worse) < len(jpeg) < face.nbytes
    image = run("decode", {"jpeg": jpeg})["image"]
    assert image.shape == face.shape
    assert float(np.abs(image.astype(int) - face).mean()) < 3
    column = run("decode", {"jpeg": jpeg[:, None]})["image"]  # of OpenCV's older versions
    assert np.array_equal(column, image)


@pytest.mark.parametrize(
    "jpeg", [np.zeros(100, np.uint8), np.zeros(0, np.uint8), b"\xff\xd8", None]
)
def test_what_is_no_jpeg_is_refused(jpeg):
    with closing(load("decode")) as decode, pytest.raises(ImageError):
        decode.process([{"jpeg": jpeg}])


def test_a_face_is_found_with_its_place_and_its_crop(face):
    outputs = run("detect_faces", {"image": face}, thresh=0.5)
    (box,) = outputs["boxes"]
    assert box["label"] == "face"
    assert box["prob"] > 0.5
    assert 40 < box["x"] + box["w"] / 2 < 130
    assert 30 < box["h"] < 144
    (crop,) = outputs["crops"]
    assert np.array_equal(
        crop, face[box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]]
    )
    assert outputs["count_result"] == {"face": 1}


def test_what_is_too_small_or_too_unsure_is_no_face(face):
    for params in ({"min_size": 140}, {"thresh": 1.0}):
        outputs = run("detect_faces", {"image": face}, **params)
        assert (outputs["boxes"], outputs["crops"], outputs["count_result"]) == ([], [], {})


def test_without_crops_there_are_none(face):
    outputs = run("detect_faces", {"image": face}, with_crop=False)
    assert len(outputs["boxes"]) == 1
    assert outputs["crops"] == []
    box = outputs["boxes"][0]  # whoever has the picture still gets at them
    again = run("detect_faces", {"image": face, "boxes": [box], "crops": []})
    assert len(again["boxes"]) == 1


def test_a_face_is_cut_out_upright_if_asked_for(face):
    (crop,) = run("detect_faces", {"image": face}, dim=160)["crops"]
    assert crop.shape == (160, 160, 3)
    assert float(crop.std()) > 20


def test_objects_are_named_and_can_be_chosen(street):
    everything = run("detect_objects", {"image": street}, thresh=0.3)
    cars = run("detect_objects", {"image": street}, thresh=0.3, targets="car, bus")
    assert {"car", "person"} <= set(everything["count_result"])
    assert cars["count_result"] == {"car": everything["count_result"]["car"]}
    assert len(run("detect_objects", {"image": street})["boxes"]) < len(cars["boxes"])
    for box in everything["boxes"]:
        assert box["prob"] >= 0.3
        assert 0 <= box["x"] < box["x"] + box["w"] <= street.shape[1]
        assert 0 <= box["y"] < box["y"] + box["h"] <= street.shape[0]


def test_a_class_that_the_model_has_not_is_refused():
    message = (
        r"^detect_objects: targets has 'unicorn', which is none of the 80 classes of the model: "
    )
    with pytest.raises(ConfigError, match=message + "person, bicycle, "):
        load("detect_objects", targets="car,unicorn")


def test_the_largest_of_several_is_kept_alone(street):
    outputs = run("detect_objects", {"image": street}, thresh=0.4)
    assert len(outputs["boxes"]) > 1
    (best,) = run("detect_objects", {"image": street}, thresh=0.4, multiple=False)["boxes"]
    assert best["prob"] == max(box["prob"] for box in outputs["boxes"])


def test_of_nothing_the_largest_is_nothing():
    dark = np.zeros((120, 160, 3), np.uint8)
    outputs = run("detect_faces", {"image": dark}, multiple=False)
    assert outputs["boxes"] == []


def test_boxes_within_boxes_are_where_they_are_in_the_frame(face):
    canvas = np.full((300, 400, 3), 90, np.uint8)
    canvas[100:244, 200:376] = face
    man = {"label": "man", "prob": None, "x": 200, "y": 100, "w": 176, "h": 144}
    (alone,) = run("detect_faces", {"image": face})["boxes"]
    by_image = run("detect_faces", {"image": canvas, "boxes": [man]})
    by_crop = run("detect_faces", {"boxes": [man], "crops": [face]})
    assert by_image["boxes"] == by_crop["boxes"]
    (box,) = by_image["boxes"]
    assert (box["x"], box["y"], box["w"]) == (alone["x"] + 200, alone["y"] + 100, alone["w"])
    assert np.array_equal(by_image["crops"][0], by_crop["crops"][0])
    assert run("detect_faces", {"boxes": [], "crops": []})["boxes"] == []


def test_a_batch_is_one_frame_after_the_other(face, street):
    with closing(load("detect_faces")) as detect:
        found = detect.process([{"image": face}, {"image": street}, {"image": face}])
    assert found[0]["boxes"] == found[2]["boxes"]
    assert len(found) == 3


@pytest.mark.parametrize("task", ["detect_faces", "align"])
def test_boxes_whose_pixels_are_nowhere_are_refused(task):
    box = {"label": None, "prob": None, "x": 0, "y": 0, "w": 9, "h": 9}
    with closing(load(task)) as loaded:
        with pytest.raises(
            ValueError, match=r"the boxes have no crops, with_crop of the one before "
        ):
            loaded.process([{"boxes": [box]}])
        with pytest.raises(ValueError, match=r"needs the field image or the field boxes$"):
            loaded.process([{}])
        with pytest.raises(ValueError, match=r"^1 crops for 2 boxes$"):
            loaded.process([{"boxes": [box, box], "crops": [np.zeros((9, 9, 3), np.uint8)]}])


def test_a_head_that_is_turned_is_turned_back(face):
    height, width = face.shape[:2]
    (box,) = run("detect_faces", {"image": face})["boxes"]
    centre = (box["x"] + box["w"] / 2, box["y"] + box["h"] / 2)
    upright = run("align", {"image": face, "boxes": [box]}, dim=128)
    assert upright["boxes"] == [box]
    (wanted,) = upright["crops"]
    assert wanted.shape == (128, 128, 3)
    turn = cv2.getRotationMatrix2D(centre, -25, 1.0)  # clockwise
    tilted = cv2.warpAffine(face, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    (crop,) = run("align", {"image": tilted, "boxes": [box]}, dim=128)["crops"]
    centre_of = slice(32, 96), slice(32, 96)
    as_it_was = np.corrcoef(wanted[centre_of].ravel(), crop[centre_of].ravel())[0, 1]
    plain = cv2.resize(
        tilted[box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]], (64, 64)
    )
    untouched = cv2.resize(
        face[box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]], (64, 64)
    )
    assert as_it_was > 0.8
    assert as_it_was > np.corrcoef(plain.ravel(), untouched.ravel())[0, 1]


def test_what_is_no_face_is_cut_out_as_it_is():
    flat = np.full((60, 80, 3), 120, np.uint8)
    outputs = run("align", {"image": flat}, dim=32)
    assert outputs["boxes"] == [{"label": None, "prob": None, "x": 0, "y": 0, "w": 80, "h": 60}]
    assert np.all(outputs["crops"][0] == 120)


@pytest.mark.parametrize("task", ["draw_boxes", "draw_labeled_boxes"])
def test_boxes_are_drawn_into_a_picture_of_its_own(task, street):
    street = street.view()
    street.flags.writeable = False
    box = {"label": "car", "prob": 0.75, "x": 200, "y": 100, "w": 150, "h": 100}
    image = run(task, {"image": street, "boxes": [box]})["image"]
    assert image.shape == street.shape
    changed = np.any(image != street, axis=2)
    color = (0, 255, 255) if task == "draw_boxes" else (255, 0, 255)
    for column in (200, 349):
        assert np.abs(image[110:190, column].astype(int) - color).max() < 32
    assert changed[100:200, 200].all()
    assert not changed[110:190, 210:340].any()
    assert changed[70:98, 200:260].any() == (task == "draw_labeled_boxes")
    assert np.array_equal(run(task, {"image": street, "boxes": []})["image"], street)


def test_a_box_far_outside_is_drawn_nowhere(street):
    box = {"label": "x", "prob": None, "x": 10**12, "y": -(10**12), "w": 5, "h": 5}
    assert np.array_equal(run("draw_boxes", {"image": street, "boxes": [box]})["image"], street)


def test_a_jpeg_is_in_a_reply_as_it_is(face):
    outputs = run("encode", {"image": face})
    reply = replies.compose(
        Order([Work("encode")]),
        [Answer(outputs, 0, 1, 1)],
        [ProcessState(1)],
        all_latency_s=0.1,
        place=replies.Place("127.0.0.1", "edge"),
        form="binary",
    )
    assert reply["jpeg"] == outputs["jpeg"].tobytes()
